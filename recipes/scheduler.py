"""The ranks of a run that a scheduler starts itself: `srun` or `mpirun`, without a launcher.

Each task is one rank. They are told apart by the scheduler's own variables; torch and DeepSpeed
read RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_DEFAULT_PORT = 29500  # torchrun's
_FIRST_JOB_PORT, _JOB_PORTS = 20000, 12000  # below the ports that systems give out themselves


@dataclass(frozen=True)
class _Names:
    """How one scheduler names its variables; `starter` is the program that sets them."""

    starter: str
    rank: str
    world_size: str
    local_rank: str
    local_size: str


# mpirun's first: in a SLURM job it starts on top of one srun task per machine, or of none.
_OPEN_MPI = _Names(
    "mpirun",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
)
_MPICH = _Names("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_SLURM = _Names(
    "srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"
)


def rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK and the others for this task of a scheduler; {} where a launcher has set RANK already,
    and in a process that is alone.

    ValueError naming the variable to set, where the scheduler's do not tell.
    """
    names = _names_in(environment)
    if names is None:
        return {}
    rank, world_size = environment[names.rank], environment.get(names.world_size)
    if names is _SLURM:  # srun's own number, where the job has asked for another
        world_size = environment.get("SLURM_STEP_NUM_TASKS", world_size or "1")
    if world_size == "1":
        return {}
    if world_size is None:
        raise ValueError(
            f"{names.rank} is set and {names.world_size} is not; set RANK and WORLD_SIZE"
        )
    if names is _SLURM and "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment:
        raise ValueError(
            f"this job has {world_size} tasks, and this process is none of them; start it by srun, "
            "or ask for one task (--ntasks 1)"
        )
    local_rank = _given(environment, "LOCAL_RANK", names.local_rank, names)
    local_size = _leading_number(environment.get(names.local_size))
    one_machine = local_size == int(world_size) and names is not _SLURM
    return {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": str(_visible_device(int(local_rank), environment)),
        "MASTER_ADDR": _address(environment, names, one_machine),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(_port(environment)),
    } | ({} if local_size is None else {"LOCAL_WORLD_SIZE": str(local_size)})


def first_host(node_list: str) -> str:
    """The first host of SLURM's compact notation: `gpu[07-09,12]` -> `gpu07`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", node_list)
    if first is None:
        raise ValueError(f"no host can be read from the node list {node_list!r}; set MASTER_ADDR")
    return re.sub(r"\[([^\]]*)\]", lambda match: re.split("[-,]", match[1])[0], first[0])


def _names_in(environment: Mapping[str, str]) -> _Names | None:
    if "RANK" in environment:
        return None
    if _OPEN_MPI.rank in environment:
        return _OPEN_MPI
    # srun speaks PMI, too, and then sets the variables of both.
    if _MPICH.rank in environment and _MPICH.local_rank in environment:
        return _MPICH
    if _SLURM.rank in environment:
        return _SLURM
    return _MPICH if _MPICH.rank in environment else None


def _given(environment: Mapping[str, str], wanted: str, name: str, names: _Names) -> str:
    value = environment.get(wanted) or environment.get(name)
    if value is None:
        raise ValueError(f"{names.rank} is set and {name} is not; set {wanted} for every task")
    return value


def _address(environment: Mapping[str, str], names: _Names, one_machine: bool) -> str:
    if address := environment.get("MASTER_ADDR"):
        return address
    if one_machine:
        return "127.0.0.1"
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if node_list := environment.get(name):
            return first_host(node_list)
    raise ValueError(
        f"{names.starter} does not tell where rank 0 runs; set MASTER_ADDR to its host"
    )


def _port(environment: Mapping[str, str]) -> int:
    """The same for all tasks of a job, and another for the next job on these machines."""
    job, step = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_STEP_ID", "0")
    if not (job.isdecimal() and step.isdecimal()):
        return _DEFAULT_PORT
    return _FIRST_JOB_PORT + (int(job) + 101 * int(step)) % _JOB_PORTS


def _leading_number(text: str | None) -> int | None:
    """Of `8` or of SLURM's `8(x2),4`."""
    match = re.match(r"\d+", text or "")
    return None if match is None else int(match[0])


def _visible_device(local_rank: int, environment: Mapping[str, str]) -> int:
    """A task that sees some GPUs of its machine only (--gpus-per-task) counts those from 0."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return local_rank % len(visible.split(",")) if visible else local_rank
