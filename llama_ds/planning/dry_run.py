"""Dry run: a recipe with its batch, process groups, memory, speed and DeepSpeed JSON, as text.

Needs no GPU, no data and no weights. The process groups are built on torch's fake process group,
which has any number of ranks in one process and sends nothing.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from llama_ds.batch import BatchPlan, batch_plan
from llama_ds.config import Recipe
from llama_ds.deepspeed_config import deepspeed_config
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.layout import Layout, layout_of
from llama_ds.planning.deepspeed_options import offload_of, uncounted_keys
from llama_ds.planning.hardware import GIB, Cluster
from llama_ds.planning.memory import (
    USABLE_SHARE,
    MemoryEstimate,
    checkpoint_host_bytes,
    estimate_memory,
    host_bytes,
)
from llama_ds.planning.speed_report import speed_lines
from llama_ds.planning.state_memory import Offload, offloaded_state_bytes


def plan_text(
    recipe: Recipe,
    world_size: int,
    cluster: Cluster,
    deepspeed_json: dict[str, Any],
    *,
    price_per_gpu_hour: float | None = None,
    paper_tokens_per_second: int | None = None,
) -> str:
    """The plan of `world_size` ranks; the paper's tokens/s per GPU are printed beside its speed.

    ValueError for a batch that does not divide, or where device memory does not suffice.
    """
    tp, sp = recipe.parallel.tp, recipe.parallel.sp
    layout = layout_of(world_size, tp_size=tp, sp_size=sp)
    batch = batch_plan(recipe, layout.dp_size)
    offload = offload_of(deepspeed_json, recipe.zero.stage)
    memory = estimate_memory(recipe, layout.dp_size, offload)
    check_memory(memory, recipe, cluster)
    sections = {
        "Parameters": _parameter_lines(recipe),
        "Batch": _batch_lines(batch),
        "Parallel groups": check_groups(world_size, tp_size=tp, sp_size=sp),
        f"Memory per GPU ({cluster.gpu.name}), estimated": [
            *_memory_lines(memory, cluster),
            *_host_memory_lines(recipe, batch.dp_size, offload),
            *_uncounted_lines(deepspeed_json, deepspeed_config(recipe, batch, "cuda"), offload),
        ],
        f"Speed on {world_size:,} GPUs ({cluster.name}), predicted, not measured": speed_lines(
            recipe,
            world_size,
            cluster,
            price_per_gpu_hour=price_per_gpu_hour,
            paper_tokens_per_second=paper_tokens_per_second,
        ),
    }
    lines = _recipe_lines(recipe)
    for title, section in sections.items():
        lines += ["", title, *(f"  {line}" for line in section)]
    return "\n".join([*lines, "", "DeepSpeed JSON", json.dumps(deepspeed_json, indent=2)])


def check_memory(memory: MemoryEstimate, recipe: Recipe, cluster: Cluster) -> None:
    """ValueError where the estimate exceeds what it may take of the device's memory."""
    available = cluster.gpu.memory_bytes
    if memory.total > USABLE_SHARE * available:
        largest = max(memory.parts(), key=lambda part: memory.parts()[part])
        raise ValueError(
            f"{recipe.name} needs about {memory.total / GIB:.1f} GiB per GPU, more than "
            f"{USABLE_SHARE:.0%} of the {available / GIB:.0f} GiB of {cluster.gpu.name} (the rest "
            f"is for fragments and NCCL's buffers); most of it is {largest} "
            f"({memory.parts()[largest] / GIB:.1f} GiB): {', or '.join(_ways_to_save(recipe))}"
        )


def _ways_to_save(recipe: Recipe) -> list[str]:
    ways = []
    if recipe.train.micro_batch_size > 1:
        ways.append(f"lower train.micro-batch-size (now {recipe.train.micro_batch_size})")
    if recipe.train.save_policy != "layer_input":
        ways.append(f"set train.save-policy to layer_input (now {recipe.train.save_policy})")
    if recipe.zero.stage < 3:
        ways.append(f"raise zero.stage (now {recipe.zero.stage})")
    if recipe.parallel.tp < 8:
        ways.append(f"raise parallel.tp (now {recipe.parallel.tp})")
    return ways or ["use more GPUs, across which ZeRO shards the states"]


# -- process groups -------------------------------------------------------------------------------


def check_groups(world_size: int, *, tp_size: int = 1, sp_size: int = 1) -> list[str]:
    """Build a cluster's process groups on a fake backend; the lines say what was checked.

    Every list of groups must have every rank once. Then the groups are built as a few ranks would,
    the corners of the mesh, and must have the ranks that the lists say.
    """
    layout = layout_of(world_size, tp_size=tp_size, sp_size=sp_size)
    lists = {
        "dp": layout.dp_groups(),
        "sp": layout.sp_groups(),
        "tp": layout.tp_groups(),
    }
    for name, groups in lists.items():
        ranks = sorted(rank for group in groups for rank in group)
        assert ranks == list(range(world_size)), f"{name} groups do not partition the ranks"
    corners = _corners(layout)
    for rank in corners:
        _check_as_rank(rank, layout)
    return [
        f"dp {layout.dp_size} x sp {layout.sp_size} x tp {layout.tp_size} = {world_size} ranks",
        *(f"{name} groups: {len(groups)} of {len(groups[0])}" for name, groups in lists.items()),
        "checked: each kind holds every rank once; as built on a fake process group by rank "
        + ", ".join(map(str, corners)),
    ]


def _corners(layout: Layout) -> list[int]:
    return sorted(
        {
            layout.rank(dp_rank, sp_rank, tp_rank)
            for dp_rank in (0, layout.dp_size - 1)
            for sp_rank in (0, layout.sp_size - 1)
            for tp_rank in (0, layout.tp_size - 1)
        }
    )


def _check_as_rank(rank: int, layout: Layout) -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world_size)
    try:
        groups = ParallelGroups.build(tp_size=layout.tp_size, sp_size=layout.sp_size)
        for name, group, own_rank, lists in (
            ("dp", groups.dp_group, groups.dp_rank, layout.dp_groups()),
            ("sp", groups.sp_group, groups.sp_rank, layout.sp_groups()),
            ("tp", groups.tp_group, groups.tp_rank, layout.tp_groups()),
        ):
            members = tuple(dist.get_process_group_ranks(group))
            assert members in lists, f"rank {rank}: {name} group {members} is not in the layout"
            assert members[own_rank] == rank, (
                f"rank {rank} is not number {own_rank} of its {name} group {members}"
            )
    finally:
        dist.destroy_process_group()


# -- sections of the text -------------------------------------------------------------------------


def _recipe_lines(recipe: Recipe) -> list[str]:
    """One paragraph per section, with fields as on the command line."""
    lines = [f"Recipe {recipe.name}, run folder {recipe.run_dir}"]
    for section in dataclasses.fields(recipe):
        value = getattr(recipe, section.name)
        if not dataclasses.is_dataclass(value):
            continue
        words = []
        for field in dataclasses.fields(value):
            words += _words(field.name, getattr(value, field.name))
        lines += _wrapped(section.name, words)
    return lines


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}.{key} {entry}" for key, entry in value.items()]
    if isinstance(value, int) and not isinstance(value, bool):
        return [f"{name} {value:,}"]
    return [f"{name} {value}"]


def _wrapped(title: str, words: list[str], width: int = 100) -> list[str]:
    lines, line = [], f"  {title:<11}"
    for index, word in enumerate(words):
        piece = word + ("," if index < len(words) - 1 else "")
        if len(line) + 1 + len(piece) > width and line.strip():
            lines.append(line)
            line = " " * 13
        line += f" {piece}"
    return [*lines, line]


def _parameter_lines(recipe: Recipe) -> list[str]:
    model = recipe.model
    embedding = f"{model.vocab_size * model.hidden_size:,}"
    ends = f"embedding and output head of {embedding} each"
    if model.tie_word_embeddings:
        ends = f"embedding and output head tied, {embedding}"
    return [
        f"{model.num_parameters:,} ({paper_count(model.num_parameters)})",
        f"{model.num_hidden_layers} layers of {model.num_layer_parameters:,}, {ends}, final norm "
        f"{model.hidden_size:,}",
    ]


def paper_count(num_parameters: int) -> str:
    """The count as in the paper's table 2: truncated, not rounded, to one decimal (65.2 B)."""
    for unit, size in (("B", 10**9), ("M", 10**6)):
        if num_parameters >= size:
            tenths = num_parameters * 10 // size
            return f"{tenths // 10}.{tenths % 10} {unit}"
    return f"{num_parameters:,}"


def _batch_lines(batch: BatchPlan) -> list[str]:
    lines, tokens = [], batch.batches.tokens_before(batch.num_steps)
    for num_steps, size in batch.batches.phases(batch.num_steps):
        rows = size // batch.sequence_length
        passes = rows // batch.dp_size // batch.micro_batch_size
        during = "" if len(batch.batches.sizes) == 1 else f"{num_steps:,} steps: "
        lines += [
            f"{during}global batch {size:,} tokens = {rows:,} sequences of "
            f"{batch.sequence_length:,} tokens",
            f"sequences per rank {rows // batch.dp_size} = micro-batch {batch.micro_batch_size} x "
            f"accumulation steps {passes}, on {batch.dp_size:,} data-parallel ranks",
        ]
    return [
        *lines,
        f"{batch.num_steps:,} steps = {tokens:,} tokens ({tokens / 1e12:.3f} T)",
    ]


def _memory_lines(memory: MemoryEstimate, cluster: Cluster) -> list[str]:
    """The parts of the phase that needs most, and the totals of all."""
    available = cluster.gpu.memory_bytes
    totals = (f"{name} {phase.total / GIB:.2f}" for name, phase in memory.phases().items())
    return [
        *(f"{name:<22} {size / GIB:8.2f} GiB" for name, size in memory.parts().items()),
        f"{'total':<22} {memory.total / GIB:8.2f} GiB of {available / GIB:.0f} GiB "
        f"({memory.total / available:.0%}); fragmentation and NCCL's buffers come on top",
        f"largest in the phase {memory.binding_phase}; by phase, GiB: {', '.join(totals)}",
    ]


def _uncounted_lines(
    deepspeed_json: dict[str, Any], generated: dict[str, Any], offload: Offload
) -> list[str]:
    """Keys of `--deepspeed-json` that change memory or speed, and that no estimate knows."""
    lines = []
    if names := uncounted_keys(deepspeed_json, generated):
        lines.append(f"not counted, in memory and speed: {', '.join(names)}")
    moved = {"offload_optimizer": offload.optimizer, "offload_param": offload.weights}
    if names := [f"zero_optimization.{name}" for name, is_moved in moved.items() if is_moved]:
        lines.append(f"not counted, in speed: {', '.join(names)}")
    return lines


def _host_memory_lines(recipe: Recipe, dp_size: int, offload: Offload) -> list[str]:
    checkpoint = checkpoint_host_bytes(recipe, dp_size)
    lines = [f"{'host, checkpoint':<22} {checkpoint / GIB:8.2f} GiB of host memory per GPU"]
    if offloaded := host_bytes(recipe):
        lines += [f"{'host, activations':<22} {offloaded / GIB:8.2f} GiB of pinned memory per GPU"]
    if states := offloaded_state_bytes(recipe, dp_size, offload):
        lines += [f"{'host, offloaded states':<22} {states / GIB:8.2f} GiB of host memory per GPU"]
    return lines
