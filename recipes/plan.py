"""What a dry run prints, and refuses: the recipe and all that follows from it for a cluster.

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
from llama_ds.parallel.groups import Layout, ParallelGroups, layout_of
from llama_ds.planning.memory import MemoryEstimate, estimate_memory, host_bytes
from recipes.llama import Cluster

GIB = 2**30

# What torch reports as the device's total, rounded down: less than the name says, because the
# driver and error correction keep a part.
DEVICE_BYTES: dict[Cluster, int] = {
    "a100-80gb": 79 * GIB,
    "h100-80gb": 79 * GIB,
    "h200-141gb": 139 * GIB,
}

# Tokens per second per A100-80GB. 65B: stated in the paper (section 2.4). The others follow from
# its GPU-hours (table 15) and training tokens.
PAPER_TOKENS_PER_SECOND = {
    "llama_7b": 3_370,
    "llama_13b": 2_055,
    "llama_33b": 733,
    "llama_65b": 380,
}


def print_plan(
    recipe: Recipe, world_size: int, cluster: Cluster, deepspeed_json: dict[str, Any]
) -> None:
    """The dry run; ValueError for a batch that does not divide or memory that does not suffice."""
    # Everything is worked out before the first line, so that a refusal is the only output.
    tp, sp = recipe.parallel.tp, recipe.parallel.sp
    layout = layout_of(world_size, tp_size=tp, sp_size=sp)
    batch = batch_plan(recipe, layout.dp_size)
    memory = estimate_memory(recipe, layout.dp_size)
    check_memory(memory, recipe, cluster)
    groups = check_groups(world_size, tp_size=tp, sp_size=sp)

    _print_recipe(recipe)
    _section("Parameters")
    _print_parameters(recipe)
    _section("Batch")
    _print_batch(recipe, batch, world_size)
    _section("Parallel groups")
    for line in groups:
        print(f"  {line}")
    _section(f"Memory per GPU ({cluster}), estimated")
    _print_memory(memory, cluster)
    _print_host_memory(host_bytes(recipe))
    _section("DeepSpeed JSON")
    print(json.dumps(deepspeed_json, indent=2))


def check_memory(memory: MemoryEstimate, recipe: Recipe, cluster: Cluster) -> None:
    """ValueError where the estimate exceeds the device's memory."""
    available = DEVICE_BYTES[cluster]
    if memory.total > available:
        largest = max(memory.parts(), key=lambda part: memory.parts()[part])
        raise ValueError(
            f"{recipe.name} needs about {memory.total / GIB:.1f} GiB per GPU, more than the "
            f"{available / GIB:.0f} GiB of {cluster}; most of it is {largest} "
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
    return ways or ["take more GPUs, among which ZeRO divides the states"]


# -- process groups -------------------------------------------------------------------------------


def check_groups(world_size: int, *, tp_size: int = 1, sp_size: int = 1) -> list[str]:
    """Build a cluster's groups on a fake process group; the lines say what was checked.

    Every list of groups must hold every rank once. Then the groups are built for real as a few
    ranks would, the corners of the grid, and must hold the ranks that the lists say.
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


# -- printing -------------------------------------------------------------------------------------


def _section(title: str) -> None:
    print(f"\n{title}")


def _print_recipe(recipe: Recipe) -> None:
    """One paragraph per group of fields, as they are named on the command line."""
    print(f"Recipe {recipe.name}, run folder {recipe.run_dir}")
    for section in dataclasses.fields(recipe):
        value = getattr(recipe, section.name)
        if not dataclasses.is_dataclass(value):
            continue
        words = []
        for field in dataclasses.fields(value):
            words += _words(field.name, getattr(value, field.name))
        _print_wrapped(section.name, words)


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}.{key} {entry}" for key, entry in value.items()]
    if isinstance(value, int) and not isinstance(value, bool):
        return [f"{name} {value:,}"]
    return [f"{name} {value}"]


def _print_wrapped(title: str, words: list[str], width: int = 100) -> None:
    line = f"  {title:<11}"
    for index, word in enumerate(words):
        piece = word + ("," if index < len(words) - 1 else "")
        if len(line) + 1 + len(piece) > width and line.strip():
            print(line)
            line = " " * 13
        line += f" {piece}"
    print(line)


def _print_parameters(recipe: Recipe) -> None:
    model = recipe.model
    embedding = model.vocab_size * model.hidden_size
    print(f"  {model.num_parameters:,} ({paper_count(model.num_parameters)})")
    print(
        f"  {model.num_hidden_layers} layers of {model.num_layer_parameters:,}, embedding and "
        f"output head of {embedding:,} each, final norm {model.hidden_size:,}"
    )


def paper_count(num_parameters: int) -> str:
    """The count as the paper's table 2 writes it: cut, not rounded, to one decimal (65.2 B)."""
    for unit, size in (("B", 10**9), ("M", 10**6)):
        if num_parameters >= size:
            tenths = num_parameters * 10 // size
            return f"{tenths // 10}.{tenths % 10} {unit}"
    return f"{num_parameters:,}"


def _print_batch(recipe: Recipe, batch: BatchPlan, world_size: int) -> None:
    rows_per_rank = batch.micro_batch_size * batch.grad_accum_steps
    tokens = batch.tokens_per_step * batch.num_steps
    print(
        f"  {batch.tokens_per_step:,} tokens per step = {batch.rows_per_step:,} rows of "
        f"{batch.sequence_length:,} tokens"
    )
    print(
        f"  rows per rank {rows_per_rank} = micro-batch {batch.micro_batch_size} x accumulation "
        f"steps {batch.grad_accum_steps}, on {batch.dp_size:,} data-parallel ranks"
    )
    print(f"  {batch.num_steps:,} steps = {tokens:,} tokens ({tokens / 1e12:.3f} T)")
    rate = PAPER_TOKENS_PER_SECOND.get(recipe.name)
    if rate is not None:
        days = tokens / (rate * world_size) / 86_400
        print(
            f"  {days:.1f} days if every GPU trained the paper's {rate:,} tokens/s (on A100-80GB; "
            "not a measurement of this program)"
        )


def _print_host_memory(offloaded: int) -> None:
    if offloaded:
        print(f"  {'host, activations':<22} {offloaded / GIB:8.2f} GiB of pinned memory per GPU")


def _print_memory(memory: MemoryEstimate, cluster: Cluster) -> None:
    for name, size in memory.parts().items():
        print(f"  {name:<22} {size / GIB:8.2f} GiB")
    share = memory.total / DEVICE_BYTES[cluster]
    print(
        f"  {'total':<22} {memory.total / GIB:8.2f} GiB of {DEVICE_BYTES[cluster] / GIB:.0f} GiB "
        f"({share:.0%}); fragments and NCCL's own buffers come on top"
    )
