"""The plan's memory of a training step against the bytes that PyTorch's allocator has out.

    python -m benchmarks.model.memory [--out benchmarks/results]

Two processes with gloo build engines of a small model in every layout of `CELLS` and take two
optimizer steps. Of the second, the peak of live bytes is compared with `estimate_memory`: of the
whole, so that an error in one part shows. The allocator of a CPU neither rounds nor caches. Gloo
copies what it reduce-scatters, which NCCL does not: 4 bytes per parameter in the backward pass of
ZeRO-1 in bf16. At stages 2 and 3 a peak differs by a bucket from run to run.
"""

from __future__ import annotations

import argparse
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
from llama_ds.planning.memory import MemoryEstimate, estimate_memory
from llama_ds.save_policy import SavePolicyName

WORLD_SIZE = 2
CPU = torch.device("cpu")
MEASURED = "measured "
PHASES = ("forward", "backward", "update")
HEADER = ["layout", *(f"{phase}, MB" for phase in PHASES), "plan, MB", "error, %"]


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
        ),
        data=DataConfig(store=Path("unused")),
        parallel=ParallelConfig(tp=cell.tp, sp=cell.sp),
        zero=ZeroConfig(
            stage=cell.stage, reduce_bucket_elements=cell.bucket, param_persistence_elements=0
        ),
    )


def predicted(cell: Cell) -> MemoryEstimate:
    return estimate_memory(recipe_of(cell), WORLD_SIZE // (cell.tp * cell.sp))


def measure(cell: Cell, groups: ParallelGroups) -> dict[str, int]:
    """Peak of live bytes in each phase of the second step.

    One of `WORLD_SIZE` ranks, on an initialized process group.
    """
    from llama_ds.engine import build_engine, build_model, init_distributed, release_engine

    init_distributed(local_rank=0)
    recipe = recipe_of(cell)
    config = deepspeed_config(recipe, batch_plan(recipe, groups.dp_size), "cpu")
    config["optimizer"]["params"]["fused"] = True  # as on a GPU: no temporaries
    store: Any = SimpleNamespace(manifest=SimpleNamespace(bos_token_id=1, eos_token_id=2))
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build_model(recipe, groups, store, config, CPU)
        engine = build_engine(model, recipe, groups, config)
        _step(engine, recipe, cell, "")
        gc.collect()
        _step(engine, recipe, cell, MEASURED)
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
    held, peaks = 0, dict.fromkeys(PHASES, 0)
    for time, address, size in sorted(changes):
        if size > 0:
            live[address] = size
            held += size
        else:
            held -= live.pop(address, 0)
        for begin, end, name in phases:
            if begin <= time <= end:
                phase = name.removeprefix(MEASURED)
                peaks[phase] = max(peaks[phase], held)
    return peaks


def measure_cells(cells: list[Cell]) -> list[dict[str, int]]:
    """`measure` of each; the groups of a layout are built once."""
    groups: dict[tuple[int, int], ParallelGroups] = {}
    found = []
    for cell in cells:
        if (layout := (cell.tp, cell.sp)) not in groups:
            groups[layout] = ParallelGroups.build(tp_size=cell.tp, sp_size=cell.sp)
        found.append(measure(cell, groups[layout]))
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
    """(predicted - measured) / measured."""
    return predicted(cell).total / max(peaks.values()) - 1


def rows_of(found: list[dict[str, int]]) -> list[list[str]]:
    """A table's row for each cell, in MB."""
    return [
        [
            str(cell),
            *(f"{peaks[phase] / 1e6:.1f}" for phase in PHASES),
            f"{predicted(cell).total / 1e6:.1f}",
            f"{100 * error_of(cell, peaks):+.1f}",
        ]
        for cell, peaks in zip(CELLS, found, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, args=(folder,), nprocs=WORLD_SIZE)
        found = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
    errors = [abs(error_of(cell, peaks)) for cell, peaks in zip(CELLS, found, strict=True)]
    parts = [
        "# Memory of a training step: the plan against the allocator's live bytes",
        f"{hardware(CPU)}; {versions('torch', 'deepspeed')}; commit {commit()}; "
        f"{WORLD_SIZE} processes",
        f"Error of the plan: median {statistics.median(errors):.1%}, worst {max(errors):.1%}. "
        "Peaks are of the second step, by phase.",
        table(
            ["layout", *(f"{phase}, MB" for phase in PHASES), "plan, MB", "error, %"],
            rows_of(found),
        ),
    ]
    raw = [
        {"cell": str(cell), **vars(cell), "peaks": peaks, "predicted": predicted(cell).parts()}
        for cell, peaks in zip(CELLS, found, strict=True)
    ]
    print(write(result_stem(options.out, "memory", CPU), parts, raw))


if __name__ == "__main__":
    main()
