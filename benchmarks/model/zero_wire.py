"""What ZeRO sends: bytes per parameter and step at every stage, counted at PyTorch's collectives.

    python -m benchmarks.model.zero_wire [--out benchmarks/results]

Two processes with gloo take optimizer steps of a small model with this project's DeepSpeed
configuration, and with options that DeepSpeed has beside it. Counted are bytes that a rank sends by
the lower bound of each collective, divided by parameters and by (N - 1) / N, so that the numbers
hold for N ranks: an all-gather in bf16 is 2, a reduce-scatter in fp32 4, an all-reduce in fp32 8.
Each is counted where it happens: in the forward pass, under the backward pass (autograd is
running), after it, or in the optimizer step. `zero_traffic` in `planning/traffic.py` has
the same numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.measuring.results import (
    RESULTS,
    commit,
    hardware,
    result_stem,
    table,
    versions,
    write,
)
from benchmarks.model.wire import Calls
from llama_ds.batch import batch_plan
from llama_ds.config import DataConfig, Dtype, OptimizerConfig, Recipe, TrainConfig
from llama_ds.deepspeed_config import deepspeed_config, merge_overrides
from llama_ds.model_config import ModelConfig
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel_config import ZeroConfig

WORLD_SIZE = 2
CPU = torch.device("cpu")
PHASES = ("forward", "backward", "after", "step")
# As on models that are larger than what ZeRO-3 keeps gathered by default.
LARGE_MODEL = {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}


@dataclass(frozen=True)
class Cell:
    """A configuration to count."""

    stage: int
    dtype: Dtype = "bf16"
    micro_batches: int = 1
    zero: dict[str, Any] = field(default_factory=dict)
    """Keys of DeepSpeed's `zero_optimization` in place of this project's."""
    communication: str = "fp32"
    only_deepspeed: bool = False
    """Without `llama_ds/gradient_reduction.py`."""

    def __str__(self) -> str:
        options = [f"{key} {json.dumps(value)}" for key, value in self.zero.items()]
        if self.communication != "fp32":
            options.append(f"communication_data_type {self.communication}")
        if self.only_deepspeed:
            options.append("DeepSpeed's own reduction")
        return ", ".join(options)


CELLS = [
    *(Cell(stage, dtype, 2) for stage in range(4) for dtype in ("bf16", "fp32")),
    Cell(1, micro_batches=2, only_deepspeed=True),
    Cell(1, "fp32", 2, {"use_multi_rank_bucket_allreduce": True}),
    Cell(2, "bf16", 2, {"use_multi_rank_bucket_allreduce": True}),
    Cell(2, "bf16", 2, {"reduce_scatter": False}),
    Cell(2, "bf16", 2, communication="bf16"),
    Cell(2, "bf16", 2, {"overlap_comm": True}),
    Cell(3, "bf16", 2, communication="bf16"),
    Cell(3, "bf16", 2, {"reduce_scatter": False}),
    Cell(3, "bf16", 2, {"overlap_comm": True}),
]


def recipe_of(cell: Cell) -> Recipe:
    """A model of 0.17 M parameters, whose sizes all divide by two ranks."""
    rows = WORLD_SIZE * cell.micro_batches
    return Recipe(
        name="zero_wire",
        run_dir=Path("unused"),
        model=ModelConfig(64, 192, 2, 4, 4, vocab_size=512, max_position_embeddings=32),
        optimizer=OptimizerConfig(peak_learning_rate=1e-3),
        train=TrainConfig(
            sequence_length=32,
            tokens_per_step=32 * rows,
            max_steps=2,
            micro_batch_size=1,
            dtype=cell.dtype,
        ),
        data=DataConfig(store=Path("unused")),
        zero=ZeroConfig(
            stage=cell.stage, reduce_bucket_elements=40_000, param_persistence_elements=0
        ),
    )


def count(cell: Cell, groups: ParallelGroups) -> dict[str, tuple[float, int]]:
    """Collective, dtype and phase -> (bytes per parameter, calls) of the second step of `cell`.

    One of `WORLD_SIZE` ranks, on an initialized process group.
    """
    from llama_ds.engine import build_engine, build_model, init_distributed, release_engine

    init_distributed(local_rank=0)
    recipe = recipe_of(cell)
    config = deepspeed_config(recipe, batch_plan(recipe, WORLD_SIZE), "cpu")
    keys = cell.zero | (LARGE_MODEL if cell.stage == 3 else {})
    config = merge_overrides(
        config, {"zero_optimization": keys, "communication_data_type": cell.communication}
    )
    store: Any = SimpleNamespace(manifest=SimpleNamespace(bos_token_id=1, eos_token_id=2))
    model = build_model(recipe, groups, store, config, CPU)
    engine = build_engine(model, recipe, groups, config)
    if cell.only_deepspeed:
        del engine.optimizer.reduce_gradients
        engine.optimizer.mpu = groups
    try:
        _step(engine, recipe, cell)
        counting = Calls(lambda: "backward" if in_autograd() else phase[0])
        phase = ["forward"]
        with counting:
            _step(engine, recipe, cell, phase)
    finally:
        release_engine(engine)
    scale = recipe.model.num_parameters * (WORLD_SIZE - 1) / WORLD_SIZE
    found = {}
    for kind, size in counting.sent.items():
        if (per_parameter := round(size / scale, 2)) > 0:  # not the norm's and other single numbers
            key = f"{kind.collective} {kind.dtype} {kind.phase}"
            found[key] = (per_parameter, counting.calls[kind])
    return found


def in_autograd() -> bool:
    """Whether a backward pass is running in this thread."""
    return bool(torch._C._current_graph_task_id() != -1)


def _step(engine: Any, recipe: Recipe, cell: Cell, phase: list[str] | None = None) -> None:
    phase = [""] if phase is None else phase
    generator = torch.Generator().manual_seed(dist.get_rank())
    length, vocabulary = recipe.train.sequence_length, recipe.model.vocab_size
    for _ in range(cell.micro_batches):
        tokens = torch.randint(vocabulary, (1, length), generator=generator)
        phase[0] = "forward"
        loss = engine(input_ids=tokens, labels=tokens, use_cache=False).loss
        phase[0] = "after"
        engine.backward(loss)
        phase[0] = "step"
        engine.step()


def by_phase(found: dict[str, tuple[float, int]]) -> dict[str, float]:
    """Bytes per parameter and step in each phase."""
    totals: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for kind, (size, _) in found.items():
        totals[kind.split()[-1]] += size
    return {phase: round(totals[phase], 2) for phase in PHASES}


def count_cells(cells: list[Cell], groups: ParallelGroups) -> list[dict[str, tuple[float, int]]]:
    """`count` of each."""
    return [count(cell, groups) for cell in cells]


def _worker(rank: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE)}
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE
    )
    with ParallelGroups.build() as groups:
        found = count_cells(CELLS, groups)
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def rows_of(found: list[dict[str, tuple[float, int]]]) -> list[list[str]]:
    """A table's row for each cell."""
    rows = []
    for cell, kinds in zip(CELLS, found, strict=True):
        totals = by_phase(kinds)
        calls = ", ".join(f"{kind}: {size:g} in {n}" for kind, (size, n) in sorted(kinds.items()))
        row = [str(cell.stage), cell.dtype, str(cell.micro_batches), str(cell)]
        rows.append([*row, *(f"{totals[phase]:g}" for phase in PHASES), calls])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, args=(folder,), nprocs=WORLD_SIZE)
        found = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
    header = ["stage", "dtype", "micro-batches", "options", *PHASES, "collectives"]
    parts = [
        "# What ZeRO sends: bytes per parameter and step",
        f"{hardware(CPU)}; {versions('torch', 'deepspeed')}; commit {commit()}; "
        f"{WORLD_SIZE} processes",
        table(header, rows_of(found)),
    ]
    raw = [
        {"cell": str(cell), **vars(cell), "sent": f} for cell, f in zip(CELLS, found, strict=True)
    ]
    print(write(result_stem(options.out, "zero_wire", CPU), parts, raw))


if __name__ == "__main__":
    main()
