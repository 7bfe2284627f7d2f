"""Process groups: every rank's numbers against a reshaped array of ranks, fake and real groups."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from llama_ds.config import Recipe
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.layout import Layout, layout_of
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.parallel.tensor import TensorParallel
from llama_ds.planning.dry_run import check_groups
from tests.support.tiny_run import make_store, run_training, tiny_recipe

# (world size, tp, sp)
LAYOUTS = [
    (1, 1, 1),
    (2, 1, 1),
    (2, 2, 1),
    (2, 1, 2),
    (4, 2, 2),
    (8, 2, 2),
    (12, 2, 3),
    (16, 4, 1),
    (24, 1, 4),
    (64, 8, 4),
]


def expected_groups(world_size: int, tp: int, sp: int) -> dict[str, np.ndarray[Any, Any]]:
    """Rows are groups: the ranks as an array dp x sp x tp, with the group's axis moved last."""
    mesh = np.arange(world_size).reshape(-1, sp, tp)
    dp = mesh.shape[0]
    return {
        "tp": mesh.reshape(-1, tp),
        "sp": mesh.transpose(0, 2, 1).reshape(-1, sp),
        "dp": mesh.transpose(1, 2, 0).reshape(-1, dp),
        "replica": mesh.transpose(2, 0, 1).reshape(-1, dp * sp),
    }


def listed_groups(layout: Layout) -> dict[str, list[tuple[int, ...]]]:
    return {
        "tp": layout.tp_groups(),
        "sp": layout.sp_groups(),
        "dp": layout.dp_groups(),
        "replica": layout.replica_groups(),
    }


@pytest.mark.parametrize(("world_size", "tp", "sp"), LAYOUTS)
def test_group_lists_match_a_mesh(world_size: int, tp: int, sp: int) -> None:
    layout = layout_of(world_size, tp_size=tp, sp_size=sp)
    expected = expected_groups(world_size, tp, sp)
    for name, groups in listed_groups(layout).items():
        assert np.array_equal(np.array(groups), expected[name]), name


@pytest.mark.parametrize(("world_size", "tp", "sp"), LAYOUTS)
def test_groups_partition_the_world(world_size: int, tp: int, sp: int) -> None:
    layout = layout_of(world_size, tp_size=tp, sp_size=sp)
    for name, groups in listed_groups(layout).items():
        ranks = [rank for group in groups for rank in group]
        assert sorted(ranks) == list(range(world_size)), name


@pytest.mark.parametrize(("world_size", "tp", "sp"), LAYOUTS)
def test_coordinates_are_the_inverse_of_rank(world_size: int, tp: int, sp: int) -> None:
    layout = layout_of(world_size, tp_size=tp, sp_size=sp)
    assert [layout.rank(*layout.coordinates(rank)) for rank in range(world_size)] == list(
        range(world_size)
    )


@pytest.mark.parametrize(
    ("world_size", "tp", "sp", "numbers"),
    [(10, 4, 1, ["10", "4"]), (8, 1, 3, ["8", "3"]), (2048, 8, 3, ["2048", "8", "3", "24"])],
)
def test_world_size_must_divide(world_size: int, tp: int, sp: int, numbers: list[str]) -> None:
    with pytest.raises(ValueError, match="must be a multiple") as error:
        layout_of(world_size, tp_size=tp, sp_size=sp)
    assert all(number in str(error.value) for number in numbers)
    assert layout_of(6, tp_size=2, sp_size=1).dp_size == 3


@pytest.mark.parametrize(("world_size", "tp", "sp"), [(0, 1, 1), (-4, 1, 1), (4, 0, 1), (4, 1, -1)])
def test_sizes_must_be_positive(world_size: int, tp: int, sp: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        layout_of(world_size, tp_size=tp, sp_size=sp)


def build_as_rank(rank: int, world_size: int, tp: int, sp: int) -> dict[str, tuple[int, list[int]]]:
    """Name of the group -> (own rank in it, its members), as torch and DeepSpeed see them."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        with ParallelGroups.build(tp_size=tp, sp_size=sp) as groups:
            return describe(groups)
    finally:
        dist.destroy_process_group()


def describe(groups: ParallelGroups) -> dict[str, tuple[int, list[int]]]:
    def members(group: dist.ProcessGroup) -> list[int]:
        return list(dist.get_process_group_ranks(group))

    sizes = {
        "tp": (groups.get_model_parallel_world_size(), groups.get_model_parallel_group()),
        "sp": (groups.sp_size, groups.sp_group),
        "dp": (groups.dp_size, groups.dp_group),
        "replica": (groups.get_data_parallel_world_size(), groups.get_data_parallel_group()),
    }
    assert {name: len(members(group)) for name, (_, group) in sizes.items()} == {
        name: size for name, (size, _) in sizes.items()
    }
    return {
        "tp": (groups.get_tensor_model_parallel_rank(), members(groups.tp_group)),
        "sp": (groups.sp_rank, members(groups.sp_group)),
        "dp": (groups.dp_rank, members(groups.dp_group)),
        "replica": (groups.get_data_parallel_rank(), members(groups.replica_group)),
    }


@pytest.mark.parametrize(("world_size", "tp", "sp"), LAYOUTS)
def test_every_rank_builds_its_own_groups(world_size: int, tp: int, sp: int) -> None:
    expected = expected_groups(world_size, tp, sp)
    for rank in range(world_size):
        for name, (own_rank, members) in build_as_rank(rank, world_size, tp, sp).items():
            row = expected[name][(expected[name] == rank).any(axis=1)][0]
            assert members == row.tolist(), (rank, name)
            assert members[own_rank] == rank, (rank, name)


@pytest.mark.parametrize(("tp", "sp"), [(1, 1), (8, 1), (8, 4)])
def test_a_large_cluster_is_checked_quickly(tp: int, sp: int) -> None:
    start = time.perf_counter()
    lines = check_groups(2048, tp_size=tp, sp_size=sp)
    # 0.1 to 0.2 s measured; the bound is what a dry run may take, on a machine that is busy.
    assert time.perf_counter() - start < 2.0
    assert lines[0] == f"dp {2048 // (tp * sp)} x sp {sp} x tp {tp} = 2048 ranks"
    assert not dist.is_initialized()


def test_deepspeed_finds_the_methods_it_must_and_no_other() -> None:
    # DeepSpeed 0.19 looks for these by name; told of sequence parallelism it scales gradients by
    # ZeRO stage, and may drop the tensor-parallel group.
    for name in (
        "initialize_sequence_parallel",
        "get_sequence_parallel_world_size",
        "get_sequence_parallel_group",
        "get_sequence_data_parallel_world_size",
        "get_sequence_data_parallel_group",
    ):
        assert not hasattr(ParallelGroups, name)
    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=8)
    try:
        groups = ParallelGroups.build(tp_size=2, sp_size=2)
        # ZeRO reduces gradients over this group, and they must meet across sequence slices.
        assert dist.get_process_group_ranks(groups.get_data_parallel_group()) == [1, 3, 5, 7]
        assert groups.get_data_parallel_world_size() == 4
        assert groups.get_data_parallel_rank() == 2
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("rank", "replicas", "members"), [(5, 2, [4, 5]), (6, 2, [6, 7]), (6, 4, [4, 5, 6, 7])]
)
def test_ranks_that_hold_the_same_heads_are_adjacent(
    rank: int, replicas: int, members: list[int]
) -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=8)
    try:
        assert ParallelGroups.build(tp_size=4).kv_group is None
        kv_group = ParallelGroups.build(tp_size=4, kv_replicas=replicas).kv_group
        assert kv_group is not None
        assert dist.get_process_group_ranks(kv_group) == members
        with pytest.raises(ValueError, match=r"tp_size \(4\) must be .* of kv_replicas \(3\)"):
            ParallelGroups.build(tp_size=4, kv_replicas=3)
    finally:
        dist.destroy_process_group()


def sums_over_groups(tp: int, sp: int) -> dict[str, float]:
    """Sum of the ranks in each of this rank's groups, by an all-reduce in that group."""
    sums = {}
    with ParallelGroups.build(tp_size=tp, sp_size=sp) as groups:
        for name in ("tp", "sp", "dp", "replica"):
            total = torch.tensor(float(dist.get_rank()))
            dist.all_reduce(total, group=getattr(groups, f"{name}_group"))
            sums[name] = float(total)
    return sums


@pytest.mark.dist
@pytest.mark.parametrize(("tp", "sp"), [(1, 1), (2, 1), (1, 2)])
def test_groups_communicate(gloo: Callable[..., list[Any]], tp: int, sp: int) -> None:
    expected = expected_groups(2, tp, sp)
    for rank, sums in enumerate(gloo(2, sums_over_groups, tp, sp)):
        for name, total in sums.items():
            row = expected[name][(expected[name] == rank).any(axis=1)][0]
            assert total == row.sum(), (rank, name)


# -- closing --------------------------------------------------------------------------------------


def num_threads() -> int:
    """Threads of this process, those of gloo included."""
    return len(os.listdir("/proc/self/task"))


def threads_around_layouts() -> list[tuple[int, int, int]]:
    """(threads before, while open and used by a model, once closed) of several layouts in turn."""
    counts = []
    for tp, sp in ((1, 1), (2, 1), (2, 2), (4, 1), (2, 1)):
        before = num_threads()
        with ParallelGroups.build(tp_size=tp, sp_size=sp) as groups:
            tensor_parallel = TensorParallel.of(
                groups, sequence_parallel=True, num_key_value_heads=4
            )
            total = torch.ones(1, 4, 1)
            for summed in (
                tensor_parallel.start_all_gather(total, "gather").wait(),
                SequenceParallel.of(groups).whole(total[..., 0]),
            ):
                assert summed.numel() == 4 * (sp if summed.dim() == 2 else tp)
            dist.all_reduce(total, group=groups.replica_group)
            during = num_threads()
        # What was built on the groups is still there.
        assert tensor_parallel.size == tp
        counts.append((before, during, settled_threads(before)))
    return counts


def settled_threads(expected: int) -> int:
    """Threads, once there are no more than expected, or after the seconds that one takes to end on
    a machine that is busy."""
    deadline = time.monotonic() + 5
    while num_threads() > expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return num_threads()


@pytest.mark.dist
def test_closed_groups_leave_no_thread(gloo: Callable[..., list[Any]]) -> None:
    for counts in gloo(4, threads_around_layouts):
        assert len({before for before, _, _ in counts}) == 1
        for before, during, after in counts:
            assert during > before
            assert after == before


def errors_after_close() -> list[str]:
    groups = ParallelGroups.build(tp_size=2)
    groups.close()
    groups.close()
    errors = []
    for name in ("dp_group", "tp_group", "get_data_parallel_group"):
        try:
            value = getattr(groups, name)
            errors.append(str(value()))
        except AssertionError as error:
            errors.append(str(error))
    return errors


@pytest.mark.dist
def test_a_closed_group_is_refused(gloo: Callable[..., list[Any]]) -> None:
    for errors in gloo(2, errors_after_close):
        for name, error in zip(("dp", "tp", "replica"), errors, strict=True):
            assert error == f"the {name} group was used after ParallelGroups.close()"


def one_rank_fails() -> tuple[str, float]:
    """(the own error, the sum over a group built afterwards)."""
    message = "no error"
    try:
        with ParallelGroups.build(tp_size=2) as groups:
            if dist.get_rank() == 0:
                raise ValueError("a bad value")
            dist.all_reduce(torch.ones(1), group=groups.tp_group)
    except (ValueError, RuntimeError) as error:
        message = str(error)
    with ParallelGroups.build(tp_size=2) as groups:
        total = torch.ones(1)
        dist.all_reduce(total, group=groups.tp_group)
    return message, float(total)


@pytest.mark.dist
def test_an_error_on_one_rank_reaches_those_that_wait_for_it(
    gloo: Callable[..., list[Any]],
) -> None:
    (first, first_sum), (second, second_sum) = gloo(2, one_rank_fails)
    assert first == "a bad value"
    assert "by peer" in second  # closed or reset
    assert first_sum == second_sum == 2.0


def threads_around_training(recipes: list[Recipe]) -> list[int]:
    """Threads before the first training run, and after each; a run may be one that fails."""
    counts = [num_threads()]
    for recipe in recipes:
        with contextlib.suppress(ValueError):
            run_training(recipe)
        gc.collect()
        counts.append(num_threads())
    return counts


@pytest.mark.dist
def test_training_leaves_no_thread(
    gloo: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    store = make_store(tmp_path_factory.mktemp("store"))

    def recipe(name: str, **overrides: Any) -> Recipe:
        return tiny_recipe(store, tmp_path / name, **{"train.max_steps": 1, **overrides})

    recipes = [
        # Libraries start threads of their own once.
        recipe("warm", **{"zero.stage": 1}),
        recipe("tp", **{"zero.stage": 1, "parallel.tp": 2}),
        recipe("sp", **{"zero.stage": 0, "parallel.sp": 2}),
        # Of other weights than the checkpoint it would resume from: refused once all is built.
        recipe("tp", **{"zero.stage": 1, "parallel.tp": 2, "train.seed": 9}),
        recipe("partitioned", **{"zero.stage": 3, "parallel.tp": 2}),
    ]
    for counts in gloo(4, threads_around_training, recipes):
        assert counts[1] == counts[2] == counts[3] == counts[4], counts
        # DeepSpeed keeps results of the group that ZeRO-3 gathers over, and they its three threads.
        assert counts[5] <= counts[4] + 3, counts
