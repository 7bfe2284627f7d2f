"""Batch sizes that change along a run: the arithmetic, and training against plain PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_ds.batch import BatchPlan, batch_plan
from llama_ds.batch_schedule import BatchSchedule
from llama_ds.config import Recipe
from llama_ds.metrics import read_metrics
from llama_ds.planning.dry_run import plan_text
from llama_ds.planning.hardware import CLUSTERS
from llama_ds.planning.prediction import predict_recipe
from llama_ds.skipped_data import SkippedData
from recipes.llama import llama_7b
from tests.support.nightly import at_night
from tests.support.reference import Reference
from tests.support.tiny_run import make_store, run_training, tiny_recipe

Gloo = Callable[..., list[Any]]

# -- arithmetic -----------------------------------------------------------------------------------

schedules = st.builds(
    BatchSchedule.of,
    st.integers(1, 9).map(lambda size: 10 * size),
    st.dictionaries(st.integers(2, 30).map(str), st.integers(1, 9).map(lambda size: 10 * size)),
)


@given(schedules, st.integers(1, 60))
def test_tokens_of_steps_add_up(schedule: BatchSchedule, num_steps: int) -> None:
    tokens = [schedule.tokens_at(step) for step in range(num_steps)]
    assert schedule.tokens_before(num_steps) == sum(tokens)
    phases = [size for count, size in schedule.phases(num_steps) for _ in range(count)]
    assert phases == tokens
    assert schedule.num_steps(sum(tokens)) == num_steps
    assert schedule.num_steps(sum(tokens) - 1) == num_steps - 1
    assert all(size % schedule.common_divisor == 0 for size in tokens)


@given(
    schedules,
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=4),
    st.integers(0, 30),
)
def test_a_resumed_plan_goes_on_where_it_was(
    schedule: BatchSchedule, ranges: list[tuple[int, int]], at: int
) -> None:
    """With ranges that are passed over, against a plan that lists the rows of each step."""
    skipped = SkippedData.parse([f"{first}-{first + more}" for first, more in ranges])
    whole = BatchPlan(1, 1, 10, 100, schedule, skipped)
    resumed = whole.resumed(at, whole.num_rows(at), whole.num_tokens(at), sequence_length=10)
    tokens = 0
    for step in range(40):
        size = schedule.tokens_at(skipped.data_step(step))
        first = schedule.tokens_before(skipped.data_step(step)) // 10
        tokens += size
        for plan in (whole, resumed) if step >= at else (whole,):
            assert plan.first_row(step) == first
            assert plan.num_rows(step + 1) == first + size // 10
            assert plan.num_tokens(step + 1) == tokens
            assert plan.grad_accum_steps(step) == size // 10
    assert resumed.num_rows(0) == 0  # the batch has followed the schedule all along


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"1": 512}, r"batch_schedule \(1=512\): 1 must be the number of a step, 2 or more"),
        ({"x": 512}, r"batch_schedule \(x=512\): x must be the number of a step"),
        ({"3": 0}, r"batch_schedule \(3=0\): 0 tokens must be positive"),
        ({"3": 512, "03": 256}, r"batch_schedule has step 3 twice"),
        ({"3": 500}, r"train.batch_schedule \(500\) must be a multiple of .* \(32\)"),
    ],
)
def test_what_is_no_schedule_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_recipe(Path("unused"), Path("unused"), **{"train.batch_schedule": changes})


def test_every_batch_must_divide_over_the_ranks() -> None:
    changes = {"train.batch_schedule": {"3": 10 * 32}}
    recipe = tiny_recipe(Path("unused"), Path("unused"), **changes)
    with pytest.raises(ValueError, match=r"10 sequences \(train.batch_schedule 320 / .* of 4 data"):
        batch_plan(recipe, dp_size=4)


# -- the plan -------------------------------------------------------------------------------------


def test_the_plan_counts_the_steps_of_each_size() -> None:
    plain = llama_7b()
    train = dataclasses.replace(plain.train, batch_schedule={"10001": 8 * 2**20})
    recipe = dataclasses.replace(plain, train=train)
    first = 10_000 * 4 * 2**20
    num_steps = 10_000 + (plain.train.train_tokens - first) // (8 * 2**20)
    assert recipe.train.num_steps == num_steps
    cluster = CLUSTERS["a100-80gb"]
    text = plan_text(recipe, 256, cluster, {})
    assert "10,000 steps: global batch 4,194,304 tokens" in text
    assert f"{num_steps - 10_000:,} steps: global batch 8,388,608 tokens" in text
    small, both = (predict_recipe(one, 256, cluster) for one in (plain, recipe))
    assert small is not None
    assert both is not None
    expected = 10_000 * small.seconds + (num_steps - 10_000) * both.seconds
    assert both.run_seconds == pytest.approx(expected)


# -- training -------------------------------------------------------------------------------------

CHANGES = {"3": 16 * 32, "5": 24 * 32, "6": 8 * 32}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def reference(store: Path) -> Reference:
    return Reference(tiny_recipe(store, Path("unused"), **{"train.batch_schedule": CHANGES}))


def column(recipe: Recipe, name: str) -> list[float]:
    return [record[name] for record in read_metrics(recipe.run_dir / "metrics.jsonl", "train")]


@pytest.mark.dist
@pytest.mark.parametrize(
    ("stage", "micro_batch_size"),
    [(0, 4), (1, 4), at_night(1, 2), (2, 4), at_night(2, 2), (3, 4), at_night(3, 2)],
)
def test_accumulation_that_changes_equals_plain_pytorch(
    gloo: Gloo,
    store: Path,
    tmp_path: Path,
    reference: Reference,
    stage: int,
    micro_batch_size: int,
) -> None:
    """One micro-batch per step, then two, three, and one again; cut in the middle."""
    overrides = {
        "zero.stage": stage,
        "train.micro_batch_size": micro_batch_size,
        "train.batch_schedule": CHANGES,
    }
    recipe = tiny_recipe(store, tmp_path / "run", **overrides)
    for last in (4, 6):
        job = tiny_recipe(store, tmp_path / "run", **overrides, **{"train.stop_after_step": last})
        assert gloo(2, run_training, job) == [(last, None)] * 2
    # As in test_train.py: fp32 sums in another order.
    assert column(recipe, "loss") == pytest.approx(reference.losses, rel=1e-6)
    assert column(recipe, "grad_norm") == pytest.approx(reference.grad_norms, rel=2e-6)
    assert column(recipe, "tokens") == [256, 512, 1024, 1536, 2304, 2560]
    run = tmp_path / "run" / "checkpoints" / "step_00000006" / "run.json"
    assert json.loads(run.read_text())["rows"] == 8 + 8 + 16 + 16 + 24 + 8
