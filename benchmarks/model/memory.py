"""The plan's memory of a training step against the bytes that PyTorch's allocator has out.

    python -m benchmarks.model.memory [--out benchmarks/results] [--measured RESULT.json]

Two processes with gloo build engines of a small model in every layout of `CELLS`, with DeepSpeed's
configuration for a GPU, and take optimizer steps. From the second on, the peak of live bytes is
compared with `estimate_memory`, in each phase: of the whole, so that an error in one part shows.
The allocator of a CPU neither rounds nor caches. What a CPU and gloo copy and a GPU does not is
added to the plan (`predicted_on_cpu`). With `--measured` the bytes of an earlier run are compared
with today's plan.

A rank whose partition comes last in the model holds its gradients for most of the backward pass, so
the larger peak of the two ranks counts. The profiler does not see what a thread of gloo frees,
which is now and then the last reference to a bucket, so a peak can be too high: a block counts as
free when its address is allocated again, and of `MEASURED_STEPS` steps the lowest peak counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measuring.results import (
    RESULTS,
    commit,
    hardware,
    result_stem,
    table,
    versions,
    write,
)
from llama_ds.batch import batch_plan
from llama_ds.config import DataConfig, Dtype, OptimizerConfig, Recipe, TrainConfig
from llama_ds.deepspeed_config import deepspeed_config
from llama_ds.model_config import ModelConfig
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel_config import ParallelConfig, ZeroConfig
from llama_ds.planning.activation_memory import activation_memory, loss_memory
from llama_ds.planning.memory import MemoryEstimate, add_up, estimate_memory
from llama_ds.planning.state_memory import StepStates, rank_parameters, step_states
from llama_ds.save_policy import SavePolicyName

WORLD_SIZE = 2
CPU = torch.device("cpu")
MEASURED = "measured "
MEASURED_STEPS = 3
PHASES = ("forward", "backward", "update")
HEADER = ["layout", *(f"{phase}, MB: measured, plan" for phase in PHASES), "error, %"]


@dataclass(frozen=True)
class Cell:
    """A layout to measure on `WORLD_SIZE` ranks."""

    stage: int
    dtype: Dtype = "bf16"
    micro_batches: int = 1
    tp: int = 1
    sp: int = 1
    policy: SavePolicyName = "linear_outputs"
    bucket: int = 1_000_000

    def __str__(self) -> str:
        layout = f"ZeRO-{self.stage} {self.dtype} tp {self.tp} sp {self.sp}"
        return f"{layout} x{self.micro_batches} {self.policy} bucket {self.bucket:,}"


CELLS = [
    *(
        Cell(stage, dtype, count)
        for stage in range(4)
        for dtype in ("bf16", "fp32")
        for count in (1, 2)
    ),
    *(Cell(1, policy=policy) for policy in ("keep_all", "layer_input")),
    Cell(3, policy="layer_input"),
    *(Cell(stage, tp=2) for stage in (1, 2, 3)),
    Cell(1, "fp32", tp=2),
    *(Cell(stage, "bf16", sp=2) for stage in (1, 2, 3)),
    *(Cell(stage, bucket=8_000_000) for stage in (1, 2, 3)),
    *(Cell(stage, "fp32", bucket=8_000_000) for stage in (1, 3)),
]


def recipe_of(cell: Cell) -> Recipe:
    """A model of 4.2 M parameters."""
    rows = WORLD_SIZE // (cell.tp * cell.sp) * cell.micro_batches
    return Recipe(
        name="memory",
        run_dir=Path("unused"),
        model=ModelConfig(256, 704, 4, 4, 4, vocab_size=2_048, max_position_embeddings=256),
        optimizer=OptimizerConfig(peak_learning_rate=1e-3),
        train=TrainConfig(
            sequence_length=256,
            tokens_per_step=256 * rows,
            max_steps=2,
            micro_batch_size=1,
            dtype=cell.dtype,
            save_policy=cell.policy,
            loss_chunk_tokens=64,
            elementwise="eager",  # what "auto" is on a CPU
        ),
        data=DataConfig(store=Path("unused")),
        parallel=ParallelConfig(tp=cell.tp, sp=cell.sp),
        zero=ZeroConfig(
            stage=cell.stage, reduce_bucket_elements=cell.bucket, param_persistence_elements=0
        ),
    )


def predicted(cell: Cell) -> MemoryEstimate:
    return estimate_memory(recipe_of(cell), WORLD_SIZE // (cell.tp * cell.sp))


def predicted_on_cpu(cell: Cell) -> dict[str, int]:
    """The plan's bytes in each of `PHASES`, with what only a CPU and gloo add.

    - Gloo copies what it reduce-scatters (`ProcessGroupGloo::_reduce_scatter_base`): the fp32
      gradients of ZeRO-1 in bf16, and ZeRO-3's interleaved bucket. It also all-gathers the updated
      weights into a copy, at stages 1 and 2; by then all but ZeRO-1's gradients in bf16 are free.
    - To add a tensor to one of another dtype, a CPU converts it first (`TensorIterator`): a chunk's
      term of the head's gradient in bf16.
    """
    recipe, dp_size = recipe_of(cell), WORLD_SIZE // (cell.tp * cell.sp)
    states, loss = step_states(recipe, dp_size), loss_memory(recipe)
    num_parameters, replicas = rank_parameters(recipe), dp_size * cell.sp
    width = 2 if cell.dtype == "bf16" else 4
    if replicas > 1 and cell.stage == 1 and cell.dtype == "bf16":
        states = _with_copies(states, reduction=num_parameters * 4, update=num_parameters * 2)
    elif replicas > 1 and cell.stage in (1, 2):
        freed = states.update.gradients
        states = _with_copies(states, update=max(0, num_parameters * width - freed))
    elif cell.stage == 3:
        bucket = states.reduced_in_backward.buffers - states.first_backward.buffers
        states = _with_copies(states, reduced_in_backward=bucket, reduction=bucket)
    if cell.dtype == "bf16":
        head = recipe.model.vocab_size // cell.tp * recipe.model.hidden_size
        loss = dataclasses.replace(loss, forward=loss.forward + head * 4)
    plan = add_up(states, activation_memory(recipe), loss)
    return {
        "forward": max(plan.forward.total, plan.loss.total),
        "backward": max(plan.backward.total, plan.reduction.total),
        "update": plan.update.total,
    }


def _with_copies(states: StepStates, **copies: int) -> StepStates:
    """`states` with more bytes in the buffers of some moments."""
    moments = {
        name: dataclasses.replace(moment, buffers=moment.buffers + copies[name])
        for name, moment in vars(states).items()
        if name in copies
    }
    return dataclasses.replace(states, **moments)


def measure(cell: Cell, groups: ParallelGroups) -> dict[str, int]:
    """Peak of live bytes in each phase of a step.

    One of `WORLD_SIZE` ranks, on an initialized process group.
    """
    from llama_ds.engine import build_engine, build_model, init_distributed, release_engine

    init_distributed(local_rank=0)
    recipe = recipe_of(cell)
    # For a GPU: Adam without temporaries, and gradients reduced during the backward pass.
    config = deepspeed_config(recipe, batch_plan(recipe, groups.dp_size), "cuda")
    store: Any = SimpleNamespace(manifest=SimpleNamespace(bos_token_id=1, eos_token_id=2))
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build_model(recipe, groups, store, config, CPU)
        engine = build_engine(model, recipe, groups, config)
        _step(engine, recipe, cell, "")
        gc.collect()
        for number in range(MEASURED_STEPS):
            _step(engine, recipe, cell, f"{MEASURED}{number} ")
    release_engine(engine)
    return _peaks(profiler.profiler.kineto_results.experimental_event_tree())


def _step(engine: Any, recipe: Recipe, cell: Cell, name: str) -> None:
    length = recipe.train.sequence_length // cell.sp
    for _ in range(cell.micro_batches):
        tokens = torch.zeros((1, length), dtype=torch.long)
        with record_function(f"{name}forward"):
            loss = engine(
                input_ids=tokens,
                shift_labels=tokens,
                position_ids=torch.arange(length).unsqueeze(0),
                num_items_in_batch=float(recipe.train.sequence_length),
                use_cache=False,
            ).loss
        with record_function(f"{name}backward"):
            engine.backward(loss)
        del loss
        with record_function(f"{name}update"):
            engine.step()


def _peaks(events: list[Any]) -> dict[str, int]:
    """Peak of live bytes in each phase of the measured step, of what was allocated since the first
    event: tensors of an earlier engine are released at any time, and do not count."""
    roots = list(events)
    phases, changes = [], []
    while roots:
        event = roots.pop()
        roots += event.children
        if event.name.startswith(MEASURED):
            phases.append((event.start_time_ns, event.end_time_ns, event.name))
        elif event.name == "[memory]":
            fields = event.extra_fields
            changes.append((event.start_time_ns, fields.ptr, fields.alloc_size))
    live: dict[int, int] = {}
    held = 0
    peaks: dict[str, int] = {}
    for time, address, size in sorted(changes):
        held -= live.pop(address, 0)
        if size > 0:
            live[address] = size
            held += size
        for begin, end, name in phases:
            if begin <= time <= end:
                peaks[name] = max(peaks.get(name, 0), held)
    return {
        phase: min(
            max(size for name, size in peaks.items() if name == f"{MEASURED}{number} {phase}")
            for number in range(MEASURED_STEPS)
        )
        for phase in PHASES
    }


def measure_cells(cells: list[Cell]) -> list[dict[str, int]]:
    """`measure` of each on the rank that needs most; the groups of a layout are built once."""
    groups: dict[tuple[int, int], ParallelGroups] = {}
    found = []
    for cell in cells:
        if (layout := (cell.tp, cell.sp)) not in groups:
            groups[layout] = ParallelGroups.build(tp_size=cell.tp, sp_size=cell.sp)
        ranks: list[Any] = [None] * WORLD_SIZE
        dist.all_gather_object(ranks, measure(cell, groups[layout]))
        found.append({phase: max(peaks[phase] for peaks in ranks) for phase in PHASES})
    for each in groups.values():
        each.close()
    return found


def _worker(rank: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE)}
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE
    )
    found = measure_cells(CELLS)
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def error_of(cell: Cell, peaks: dict[str, int]) -> float:
    """(predicted - measured) / measured, of the largest phase."""
    return max(predicted_on_cpu(cell).values()) / max(peaks.values()) - 1


def rows_of(found: list[dict[str, int]]) -> list[list[str]]:
    """A table's row for each cell, in MB."""
    rows = []
    for cell, peaks in zip(CELLS, found, strict=True):
        plan = predicted_on_cpu(cell)
        sizes = (f"{peaks[phase] / 1e6:.1f}, {plan[phase] / 1e6:.1f}" for phase in PHASES)
        rows.append([str(cell), *sizes, f"{100 * error_of(cell, peaks):+.1f}"])
    return rows


def summary_of(found: list[dict[str, int]]) -> str:
    errors = [abs(error_of(cell, peaks)) for cell, peaks in zip(CELLS, found, strict=True)]
    return f"Error of the plan: median {statistics.median(errors):.1%}, worst {max(errors):.1%}."


def _measured_again() -> list[dict[str, int]]:
    os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, args=(folder,), nprocs=WORLD_SIZE)
        found: list[dict[str, int]] = json.loads(
            Path(folder, "found.json").read_text(encoding="utf-8")
        )
    return found


def _measured_before(path: Path) -> list[dict[str, int]]:
    """ValueError for a result of other layouts."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    if [entry["cell"] for entry in entries] != [str(cell) for cell in CELLS]:
        raise ValueError(f"--measured: {path} has other layouts than CELLS; measure again")
    return [entry["peaks"] for entry in entries]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measured", type=Path, help="JSON result whose bytes to compare with")
    options = parser.parse_args()
    found = _measured_before(options.measured) if options.measured else _measured_again()
    parts = [
        "# Memory of a training step: the plan against the allocator's live bytes",
        f"{hardware(CPU)}; {versions('torch', 'deepspeed')}; commit {commit()}; "
        f"{WORLD_SIZE} processes",
        f"{summary_of(found)} Of the largest phase; the plan with what a CPU and gloo add. Peaks "
        "are the lowest of three steps.",
        table(HEADER, rows_of(found)),
    ]
    raw = [
        {
            "cell": str(cell),
            **vars(cell),
            "peaks": peaks,
            "predicted": {name: phase.total for name, phase in predicted(cell).phases().items()},
            "predicted_on_cpu": predicted_on_cpu(cell),
        }
        for cell, peaks in zip(CELLS, found, strict=True)
    ]
    print(write(result_stem(options.out, "memory", CPU), parts, raw))


if __name__ == "__main__":
    main()
