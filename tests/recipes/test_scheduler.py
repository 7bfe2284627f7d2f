"""The tasks of srun and mpirun as ranks of one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llama_ds.metrics import read_metrics
from recipes.scheduler import first_host, rank_variables
from tests.support.recipe_run import RECIPE, ROOT, SMALL, on_the_cpu, run
from tests.support.tiny_run import make_store

TASK = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1"}
STEP = {
    **TASK,
    "SLURM_JOB_ID": "40007",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (STEP, "9 16 1 gpu07 24007 8"),
        (STEP | {"SLURM_STEP_ID": "1"}, "9 16 1 gpu07 24108 8"),
        (STEP | {"CUDA_VISIBLE_DEVICES": "0"}, "9 16 0 gpu07 24007 8"),  # --gpus-per-task 1
        (STEP | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, "9 16 1 gpu07 24007 8"),
        (STEP | {"MASTER_ADDR": "ib0", "MASTER_PORT": "7"}, "9 16 1 ib0 7 8"),
        (STEP | {"SLURM_NTASKS": "32"}, "9 16 1 gpu07 24007 8"),  # srun -n less than the job's
        (STEP | {"PMI_RANK": "9", "PMI_SIZE": "16"}, "9 16 1 gpu07 24007 8"),  # srun --mpi=pmi2
        (TASK | {"MASTER_ADDR": "a"}, "9 16 1 a 29500 None"),
        (OPEN_MPI | {"MASTER_ADDR": "a"}, "3 4 1 a 29500 2"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "3 4 1 127.0.0.1 29500 4"),
        # mpirun in the batch script of a job, which has SLURM's variables of task 0.
        (
            OPEN_MPI | {"SLURM_PROCID": "0", "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n1,n2"},
            "3 4 1 n1 20005 2",
        ),
        (HYDRA, "1 2 1 127.0.0.1 29500 2"),
    ],
)
def test_variables_of_a_task(environment: dict[str, str], expected: str) -> None:
    found = rank_variables(environment)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE")
    assert " ".join(str(found.get(name)) for name in names) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {},
        STEP | {"RANK": "0"},  # torchrun, started by srun once per machine
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "5"},  # a batch script
        {"SLURM_PROCID": "0", "SLURM_JOB_ID": "5"},  # one that asked for nodes, not for tasks
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_a_process_that_is_alone_or_launched_is_left_as_it_is(environment: dict[str, str]) -> None:
    assert rank_variables(environment) == {}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (OPEN_MPI, "mpirun does not tell where rank 0 runs; set MASTER_ADDR"),
        (TASK, "srun does not tell where rank 0 runs; set MASTER_ADDR"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "MPI_LOCALRANKID is not; set LOCAL_RANK"),
        ({"PMI_RANK": "1", "MPI_LOCALRANKID": "1"}, "PMI_SIZE is not; set RANK and WORLD_SIZE"),
        (TASK | {"SLURM_JOB_ID": "5"}, "16 tasks, and this process is none of them; start it by"),
    ],
)
def test_what_the_scheduler_does_not_tell_is_asked_for(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rank_variables(environment)


@pytest.mark.parametrize(
    ("node_list", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[07-09,12]", "gpu07"),
        ("gpu[3,7-9],cpu1", "gpu3"),
        ("rack[1-2]n[03-04]-ib,x", "rack1n03-ib"),
    ],
)
def test_first_host_of_a_node_list(node_list: str, host: str) -> None:
    assert first_host(node_list) == host


def test_an_unreadable_node_list_is_an_error() -> None:
    with pytest.raises(ValueError, match="set MASTER_ADDR"):
        first_host(",")


# -- in earnest -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


# In place of srun: two tasks on this machine, which end with the largest of their exit codes.
SRUN = """#!/bin/bash
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2
export SLURM_STEP_NODELIST=127.0.0.1
while [[ "$1" == --* ]]; do shift; done
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks[task]=$!
done
largest=0
for task in 0 1; do
  wait "${tasks[task]}"; code=$?
  [ "$code" -le "$largest" ] || largest=$code
done
exit "$largest"
"""
# In place of scontrol: says what it was asked.
SCONTROL = '#!/bin/bash\necho "scontrol $*"\n'


def run_job(
    folder: Path, *words: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The batch script as SLURM starts it, where SLURM's programs are those above."""
    folder.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["bash", str(ROOT / "recipes" / "slurm.sbatch"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env=on_the_cpu(
            PATH=f"{folder}:{os.environ['PATH']}",
            SLURM_JOB_ID="4711",
            SLURM_SUBMIT_DIR=str(ROOT),
            SLURM_PROCID="0",
            SLURM_NTASKS="2",
        ),
        cwd=folder,
        check=False,
    )


@pytest.mark.dist
def test_the_tasks_of_a_slurm_job_train_as_one(store: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words: list[str | Path] = [
        *SMALL,
        "--data.store",
        store,
        "--run-dir",
        run_dir,
        "--train.max-steps",
        "3",
    ]
    result = run_job(tmp_path / "bin", RECIPE, *words)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 x cpu" in result.stdout
    assert len(list(read_metrics(run_dir / "metrics.jsonl", "train"))) == 3
    assert "scontrol" not in result.stdout


@pytest.mark.parametrize(
    ("code", "is_requeued"),
    [(0, False), (1, False), (2, False), (4, False), (138, True), (143, True)],
)
def test_a_job_is_requeued_where_it_was_stopped(
    tmp_path: Path, code: int, is_requeued: bool
) -> None:
    (tmp_path / "recipe.sh").write_text(f"exit {code}\n")
    result = run_job(tmp_path / "bin", tmp_path / "recipe.sh")
    assert result.returncode == code
    assert ("scontrol requeue 4711" in result.stdout) == is_requeued


def test_a_wrong_option_of_a_task_is_said_by_rank_0(tmp_path: Path) -> None:
    result = run(sys.executable, RECIPE, "--nonsense", **STEP | {"SLURM_PROCID": "0"})
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown option --nonsense")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", [["bash", RECIPE], [sys.executable, RECIPE]])
def test_a_batch_script_that_forgets_srun_is_refused(
    tmp_path: Path, command: list[str | Path]
) -> None:
    """What SLURM sets in a batch script of two tasks: SLURM_PROCID, without RANK."""
    environment = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "4711"}
    result = run(*command, "--run-dir", tmp_path / "run", **environment)
    assert result.returncode == 2
    assert result.stderr == (
        "error: this job has 2 tasks, and this process is none of them; start it by srun, or ask "
        "for one task (--ntasks 1)\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
@pytest.mark.dist
def test_the_processes_of_mpirun_train_as_one(store: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = [*SMALL, "--data.store", store, "--run-dir", run_dir, "--train.max-steps", "2"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, RECIPE, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As Open MPI sets them on one machine.
            env=on_the_cpu(
                OMPI_COMM_WORLD_RANK=rank,
                OMPI_COMM_WORLD_SIZE="2",
                OMPI_COMM_WORLD_LOCAL_RANK=rank,
                OMPI_COMM_WORLD_LOCAL_SIZE="2",
                MASTER_PORT=port,
            ),
        )
        for rank in ("0", "1")
    ]
    (said, errors), (nothing, other_errors) = (one.communicate(timeout=300) for one in processes)
    assert [one.returncode for one in processes] == [0, 0], errors[-3000:] + other_errors[-3000:]
    assert "2 x cpu" in said
    assert nothing == ""
    assert len(list(read_metrics(run_dir / "metrics.jsonl", "train"))) == 2
