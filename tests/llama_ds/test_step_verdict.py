"""Steps that are not finite or spikes: skipped at every ZeRO stage alike, counted, and an end."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from llama_ds.checkpoint.export import export
from llama_ds.config import Recipe
from llama_ds.json_lines import finite_or_null, to_line
from llama_ds.metrics import plot_losses, read_metrics
from llama_ds.step_log import FILE, finite_steps
from llama_ds.step_verdict import SpikeDetector
from tests.support.nightly import at_night
from tests.support.reference import Reference
from tests.support.tiny_run import make_store, run_training, run_with_nan, tiny_recipe

Gloo = Callable[..., list[Any]]


# -- the window -----------------------------------------------------------------------------------


def filled(losses: list[float], window: int = 8, deviations: float = 2.0) -> SpikeDetector:
    detector = SpikeDetector(window, deviations)
    for loss in losses:
        detector.add(loss, 1.0 + loss / 100)
    return detector


def test_a_spike_lies_above_the_mean_by_so_many_standard_deviations() -> None:
    detector = filled([1.0, 3.0] * 4)  # mean 2, standard deviation 1
    assert detector.spikes(3.9, 1.0) == []
    assert detector.spikes(-100.0, 0.0) == []  # a loss that falls is no spike
    message = "loss 4.1 is 2.1 standard deviations above the mean of the last 8 steps (2 +- 1)"
    assert detector.spikes(4.1, 1.0) == [message]
    (of_norm,) = detector.spikes(2.0, 9.0)
    assert of_norm.startswith("gradient norm 9 is")


def test_half_a_window_is_needed_and_no_more_than_a_window_is_kept() -> None:
    assert filled([1.0, 3.0, 1.0]).spikes(1e9, 1e9) == []
    assert len(filled([1.0, 3.0, 1.0, 3.0]).spikes(1e9, 1e9)) == 2
    assert filled([1e6] * 8 + [1.0, 3.0] * 4).spikes(4.1, 1.0)  # the old level is forgotten


def test_equal_steps_have_no_deviation() -> None:
    detector = filled([2.0] * 8)
    assert detector.spikes(2.0, 1.02) == []
    assert "inf standard deviations" in detector.spikes(2.1, 1.0)[0]


# -- records --------------------------------------------------------------------------------------


def test_records_are_json_that_has_no_nan() -> None:
    values = finite_or_null({"loss": math.nan, "grad_norm": math.inf, "rows": [1, 2], "x": 1.5})
    assert json.loads(to_line(values)) == {
        "loss": None,
        "grad_norm": None,
        "rows": [1, 2],
        "x": 1.5,
        "not_finite": ["loss", "grad_norm"],
    }
    assert finite_or_null({"loss": 1.0}) == {"loss": 1.0}
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_line({"loss": math.nan})


def test_the_window_is_read_again_from_the_steps(tmp_path: Path) -> None:
    lines = [
        to_line({"kind": "step", "step": step, **finite_or_null({"loss": loss, "grad_norm": 1.0})})
        for step, loss in enumerate([5.0, math.nan, 4.0, 3.0, 2.0], start=1)
    ]
    (tmp_path / FILE).write_text("".join(lines) + '{"kind": "st')
    assert finite_steps(tmp_path, 4, 8) == [(5.0, 1.0), (4.0, 1.0), (3.0, 1.0)]
    assert finite_steps(tmp_path, 5, 2) == [(3.0, 1.0), (2.0, 1.0)]
    assert finite_steps(tmp_path / "none", 5, 2) == []


# -- training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def reference(store: Path) -> Reference:
    """Plain PyTorch, whose third step makes no update."""
    return Reference(tiny_recipe(store, Path("unused")), skipped={2})


def steps(recipe: Recipe) -> list[dict[str, Any]]:
    return list(read_metrics(recipe.run_dir / FILE, "step"))


def with_nan(
    gloo: Gloo, store: Path, run_dir: Path, where: str, **overrides: Any
) -> list[dict[str, Any]]:
    """Records of a run of two ranks of which the second has a NaN in the third step."""
    recipe = tiny_recipe(store, run_dir, **overrides)
    assert gloo(2, run_with_nan, recipe, 3, 1, where) == [(6, None)] * 2
    found = steps(recipe)
    assert [record["step"] for record in found] == [1, 2, 3, 4, 5, 6]
    assert [record.get("skipped", False) for record in found] == [False] * 2 + [True] + [False] * 3
    skipped = found.pop(2)
    assert skipped["grad_norm"] is None
    assert ("loss" in skipped["not_finite"]) == (where == "loss")
    assert skipped["rows"] == [16, 23]
    (metric,) = [r for r in read_metrics(run_dir / "metrics.jsonl", "train") if r["step"] == 3]
    assert metric["skipped"]
    assert metric["skipped_steps"] == 1
    plot_losses(run_dir)
    return found


@pytest.mark.dist
@pytest.mark.parametrize(
    ("stage", "where"),
    [
        (1, "gradient"),
        (3, "loss"),
        *(
            at_night(stage, where)
            for stage, where in itertools.product(range(4), ("loss", "gradient"))
            if (stage, where) not in ((1, "gradient"), (3, "loss"))
        ),
    ],
)
def test_a_nan_on_one_rank_skips_that_step_at_every_stage(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Reference, stage: int, where: str
) -> None:
    overrides = {"zero.stage": stage}
    found = with_nan(gloo, store, tmp_path / "run", where, **overrides)
    losses, norms = (
        [v for i, v in enumerate(values) if i != 2]
        for values in (
            reference.losses,
            reference.grad_norms,
        )
    )
    assert [record["loss"] for record in found] == pytest.approx(losses, rel=1e-6)
    assert [record["grad_norm"] for record in found] == pytest.approx(norms, rel=2e-6)
    export(tmp_path / "run", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for name, expected in reference.model.state_dict().items():
        assert (model.state_dict()[name] - expected).abs().max() < 2e-5, name


@pytest.mark.dist
@pytest.mark.parametrize(
    ("layout", "where"),
    [
        at_night({"parallel.tp": 2, "zero.stage": 1}, "gradient"),
        ({"parallel.tp": 2, "parallel.sequence_parallel": True, "zero.stage": 3}, "loss"),
        ({"parallel.sp": 2, "zero.stage": 2}, "loss"),
        at_night({"parallel.sp": 2, "zero.stage": 3}, "gradient"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_a_nan_on_one_rank_skips_that_step_in_every_layout(
    gloo: Gloo,
    store: Path,
    tmp_path: Path,
    reference: Reference,
    layout: dict[str, Any],
    where: str,
) -> None:
    """The ranks of tp hold parts of one loss, those of sp parts of one sequence."""
    recipe = tiny_recipe(store, tmp_path / "run", **layout)
    assert gloo(2, run_with_nan, recipe, 3, 1, where) == [(6, None)] * 2
    found = steps(recipe)
    assert [r["step"] for r in found if r.get("skipped")] == [3]
    others = [index for index in range(6) if index != 2]
    for name, values in (("loss", reference.losses), ("grad_norm", reference.grad_norms)):
        # As in the parallel matrix: sums in another order, in fp32.
        expected = pytest.approx([values[i] for i in others], rel=3e-6)
        assert [found[i][name] for i in others] == expected


@pytest.mark.dist
@pytest.mark.parametrize("stage", [at_night(0), 1, at_night(2), at_night(3)])
def test_a_nan_skips_that_step_in_bf16(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Reference, stage: int
) -> None:
    overrides = {"zero.stage": stage, "train.dtype": "bf16"}
    found = with_nan(gloo, store, tmp_path / "run", "loss", **overrides)
    losses = [loss for i, loss in enumerate(reference.losses) if i != 2]
    assert [record["loss"] for record in found] == pytest.approx(losses, abs=2e-2)
    export(tmp_path / "run", tmp_path / "model", dtype="fp32")
    assert reference.update_missed_by(tmp_path / "model") < 0.1


@pytest.mark.dist
@pytest.mark.parametrize(
    ("stage", "dtype"), [at_night(0, "fp32"), (1, "bf16"), at_night(3, "fp32")]
)
def test_a_spike_is_marked_and_by_choice_skipped(
    gloo: Gloo, store: Path, tmp_path: Path, stage: int, dtype: str
) -> None:
    # Every loss below the first is no spike; a norm above the mean is one.
    watch: dict[str, Any] = {
        "train.spike_window": 4,
        "train.spike_deviations": 1e-6,
        "zero.stage": stage,
    }
    watch |= {"train.dtype": dtype}
    marked = tiny_recipe(store, tmp_path / "marked", **watch)
    plain = tiny_recipe(store, tmp_path / "plain", **{"zero.stage": stage, "train.dtype": dtype})
    for recipe in (marked, plain):
        gloo(2, run_training, recipe)
    assert [r["loss"] for r in steps(marked)] == [r["loss"] for r in steps(plain)]
    first = next(r["step"] for r in steps(marked) if r.get("spike"))
    assert first > 2
    assert not any(r["skipped"] for r in steps(marked) if r.get("spike"))
    assert not any(r.get("spike") for r in steps(plain))

    skipping = tiny_recipe(store, tmp_path / "skipping", **watch, **{"train.skip_spikes": True})
    assert gloo(2, run_with_nan, skipping, 99, 0, "loss") == [(6, None)] * 2
    found = steps(skipping)
    assert next(r["step"] for r in found if r.get("skipped")) == first
    # The step itself is what it was, and the next one sees other weights.
    assert [r["loss"] for r in found[:first]] == [r["loss"] for r in steps(plain)[:first]]
    if first < 6:
        assert found[first]["loss"] != steps(plain)[first]["loss"]
    # A job that ends in between has the same window afterwards.
    parts = tmp_path / "parts"
    for stop in (first, None):
        overrides = {**watch, "train.skip_spikes": True, "train.stop_after_step": stop}
        gloo(2, run_training, tiny_recipe(store, parts, **overrides))
    assert [r["loss"] for r in steps(tiny_recipe(store, parts))] == [r["loss"] for r in found]


@pytest.mark.dist
@pytest.mark.parametrize("stage", [at_night(0), 1])
def test_a_run_that_diverges_ends_and_keeps_its_last_good_checkpoint(
    gloo: Gloo, store: Path, tmp_path: Path, stage: int
) -> None:
    overrides: dict[str, Any] = {
        "zero.stage": stage,
        "checkpoint.every_steps": 1,
        "checkpoint.keep_last": 1,
    }
    good = tiny_recipe(store, tmp_path / "run", **overrides, **{"train.stop_after_step": 2})
    gloo(2, run_training, good)
    (before,) = (tmp_path / "run" / "checkpoints").iterdir()
    stamp = before.stat().st_mtime_ns
    overrides |= {"optimizer.peak_learning_rate": 1e30, "train.max_steps": 12}
    recipe = tiny_recipe(store, tmp_path / "run", **overrides, **{"train.max_skipped_steps": 3})
    (step, reason), again = gloo(2, run_with_nan, recipe, 99, 0, "loss")
    assert again == (step, reason)
    assert step == 6  # the third step spoils the weights, the next three are skipped
    assert reason is not None
    assert "3 steps in a row were skipped (steps 4-6, rows 24-47)" in reason
    assert f"the newest checkpoint is {before}" in reason
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == [before]
    assert before.stat().st_mtime_ns == stamp
    # With the old rate the run goes on from there as if nothing had been.
    overrides |= {"optimizer.peak_learning_rate": 1e-2, "train.max_steps": 6}
    assert (
        gloo(2, run_training, tiny_recipe(store, tmp_path / "run", **overrides)) == [(6, None)] * 2
    )
    expected = Reference(good).losses
    assert [r["loss"] for r in steps(good)] == pytest.approx(expected, rel=1e-6)
