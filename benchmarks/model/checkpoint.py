"""How long a checkpoint stops training, how long it takes to be on the disk, and to be loaded.

    python -m benchmarks.model.checkpoint [--out benchmarks/results] [--rehearse]

Two data-parallel processes on one CPU, which talk by gloo, hold models of growing size under
DeepSpeed ZeRO-1 in bf16, as a run does: fp32 master weights and two moments, half of them on each.
Every measurement is repeated in turns and the median is taken:

- synchronous: training waits until the checkpoint is published;
- asynchronous: training waits for the copy to the host, the rest is done by a thread;
- DeepSpeed's own `save_checkpoint`, which neither flushes its files to the disk nor checksums them;
- loading: reading all files once for their checksums, and filling an engine.

Nothing trains beside the thread here: on a GPU the two share little, on a CPU they share cores.

`--rehearse` runs everything in a small size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
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
from llama_ds.batch import batch_plan
from llama_ds.checkpoint.resuming import agreed_damage, load
from llama_ds.checkpoint.saving import CheckpointSaver, RunDescription
from llama_ds.checkpoint.verification import checkpoint_path, read_run
from llama_ds.config import CheckpointConfig, Recipe
from llama_ds.deepspeed_config import deepspeed_config
from llama_ds.hf_config import hf_config
from llama_ds.model import LlamaForCausalLM
from llama_ds.model_config import ModelConfig
from llama_ds.parallel.groups import ParallelGroups
from recipes.llama import llama_tiny

WORLD_SIZE = 2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """What is measured."""

    hidden_sizes: tuple[int, ...]
    num_rounds: int


@dataclass(frozen=True)
class Result:
    """Medians over the rounds, in seconds, of one model."""

    num_parameters: int
    synchronous_stall: float
    asynchronous_stall: float
    write: float
    """From the end of the stall to the published folder."""
    deepspeed_stall: float
    load: float
    bytes_on_disk: int


def size_of(*, rehearse: bool) -> Size:
    return Size((32, 64), 2) if rehearse else Size((256, 512, 1_024), 5)


def recipe_of(hidden_size: int) -> Recipe:
    """LLaMA's proportions: a head of 64, an MLP of 8/3."""
    recipe = llama_tiny()
    model = ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3 // 16 * 16,
        num_hidden_layers=4,
        num_attention_heads=max(1, hidden_size // 64),
        num_key_value_heads=max(1, hidden_size // 64),
        vocab_size=16_000 if hidden_size > 64 else 320,
        max_position_embeddings=256,
    )
    train = replace(recipe.train, dtype="bf16", micro_batch_size=1)
    return replace(recipe, model=model, train=train)


def measure(size: Size, folder: Path) -> list[Result]:
    """On every rank of a group of `WORLD_SIZE`; files go to `folder` and are removed."""
    from llama_ds.engine import init_distributed, release_engine

    init_distributed(local_rank=0)
    results = []
    with ParallelGroups.build() as groups:
        for hidden_size in size.hidden_sizes:
            engine, recipe = _engine(recipe_of(hidden_size), groups)
            results.append(_measure_one(engine, recipe, groups, folder, size.num_rounds))
            release_engine(engine)
    return results


def _engine(recipe: Recipe, groups: ParallelGroups) -> tuple[Any, Recipe]:
    from llama_ds.engine import build_engine

    torch.manual_seed(0)
    config = hf_config(recipe.model, bos_token_id=1, eos_token_id=2, dtype=torch.bfloat16)
    model = LlamaForCausalLM(config, groups).bfloat16()
    ds_config = deepspeed_config(recipe, batch_plan(recipe, groups.dp_size), "cpu")
    return build_engine(model, recipe, groups, ds_config), recipe


def _measure_one(
    engine: Any, recipe: Recipe, groups: ParallelGroups, folder: Path, num_rounds: int
) -> Result:
    run_dir, sharding = folder / "run", engine.module.tp.sharding
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    description = RunDescription({"benchmark": "checkpoint"}, {}, int, int, tokenizer)
    config = CheckpointConfig(keep_last=1)
    saver = CheckpointSaver(engine, run_dir, config, description, groups, sharding)
    times: dict[str, list[float]] = {name: [] for name in ("sync", "async", "write", "ds", "load")}

    def save_and_wait() -> None:
        saver.save(1)
        saver.settle()

    for _ in range(num_rounds):
        times["sync"].append(_seconds(save_and_wait))
        saver.save(2)
        saved = saver.settle()
        times["async"].append(_slowest(saved.stall_seconds))
        times["write"].append(_slowest(saved.write_seconds))
        path = checkpoint_path(run_dir, 2)

        def verify_and_load(path: Path = path) -> None:
            assert agreed_damage(path, None) is None
            load(engine, path, read_run(path), groups, sharding)

        times["load"].append(_seconds(verify_and_load))
        times["ds"].append(_seconds(lambda: engine.save_checkpoint(str(folder / "ds"), tag="1")))
    num_bytes = sum(entry["bytes"] for entry in read_run(path)["files"].values())
    saver.close()
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(run_dir)
        shutil.rmtree(folder / "ds")
    dist.barrier()
    median = {name: statistics.median(values) for name, values in times.items()}
    return Result(
        num_parameters=recipe.model.num_parameters,
        synchronous_stall=median["sync"],
        asynchronous_stall=median["async"],
        write=median["write"],
        deepspeed_stall=median["ds"],
        load=median["load"],
        bytes_on_disk=num_bytes,
    )


def _seconds(function: Callable[[], Any]) -> float:
    """Until the slowest rank is done."""
    dist.barrier()
    start = time.perf_counter()
    function()
    return _slowest(time.perf_counter() - start)


def _slowest(seconds: float) -> float:
    value = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return float(value)


def work(rank: int, folder: Path, size: Size) -> None:
    """One of the processes; the first writes what was measured."""
    # What a launcher sets, and DeepSpeed asks for.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE)}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE
    )
    torch.set_num_threads(1)
    results = measure(size, folder)
    if rank == 0:
        text = json.dumps([asdict(result) for result in results])
        (folder / "results.json").write_text(text, encoding="utf-8")
    dist.destroy_process_group()


# -- reporting ------------------------------------------------------------------------------------


def report(size: Size, results: list[Result], code: str) -> list[str]:
    """The Markdown result's paragraphs."""
    rows = [
        [
            f"{r.num_parameters:,}",
            f"{r.asynchronous_stall:.3f}",
            f"{r.write:.3f}",
            f"{r.synchronous_stall:.3f}",
            f"{r.deepspeed_stall:.3f}",
            f"{r.load:.3f}",
            f"{r.bytes_on_disk / 1e6:,.1f}",
            f"{r.bytes_on_disk / r.num_parameters:.2f}",
        ]
        for r in results
    ]
    header = ["parameters", "stall, asynchronous", "written in", "stall, synchronous"]
    header += ["DeepSpeed's own", "verify and load", "MB on disk", "bytes per parameter"]
    return [
        "# Checkpoints: stall, writing, loading",
        f"ZeRO-1, bf16, {WORLD_SIZE} processes, gloo, one thread each, {hardware(CPU)}; seconds, "
        f"medians of {size.num_rounds} rounds. {versions('torch', 'deepspeed', 'safetensors')}, "
        f"commit {code}. Command: `python -m benchmarks.model.checkpoint`.",
        table(header, rows),
        "A checkpoint has 12 bytes per parameter, the fp32 master weight and two moments, and "
        "small files. Asynchronous, training waits for the copy to the host only; the rest is "
        "written, flushed and checksummed meanwhile. DeepSpeed's own files have the bf16 weights "
        "too, and are neither flushed nor checksummed. Nothing trained beside the writing thread.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="stall, write and load time of checkpoints")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    arguments = parser.parse_args()
    size, code = size_of(rehearse=arguments.rehearse), commit()
    with tempfile.TemporaryDirectory() as name:
        spawn(work, (Path(name), size), nprocs=WORLD_SIZE)
        raw = json.loads((Path(name) / "results.json").read_text(encoding="utf-8"))
    results = [Result(**result) for result in raw]
    stem = result_stem(arguments.out, "checkpoint", CPU)
    print(write(stem, report(size, results, code), raw))


if __name__ == "__main__":
    main()
