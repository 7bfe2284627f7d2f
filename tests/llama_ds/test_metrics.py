"""Where the records of a run go."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llama_ds.config import Recipe
from llama_ds.held_out_loss import SourceLoss, held_out_record
from llama_ds.metrics import MetricsLog
from tests.support.tiny_run import tiny_recipe

WEB = SourceLoss("web", 3, loss_sum=300.0, num_targets=100.0, num_bytes=400.0)
BOOKS = SourceLoss("books", 1, loss_sum=80.0, num_targets=20.0, num_bytes=50.0)


def recipe_in(run_dir: Path, **metrics: Any) -> Recipe:
    run_dir.mkdir(exist_ok=True)
    recipe = tiny_recipe(Path("unused"), run_dir)
    return dataclasses.replace(recipe, metrics=dataclasses.replace(recipe.metrics, **metrics))


# -- held-out loss --------------------------------------------------------------------------------


def tokens_after(step: int) -> int:
    return 64 * step


def test_held_out_loss_is_told_by_source_per_token_and_per_byte() -> None:
    record = held_out_record([WEB, BOOKS])
    assert record["loss"] == pytest.approx(380 / 120)
    assert record["bits_per_byte"] == pytest.approx(380 / math.log(2) / 450)
    assert record["rows"] == 4
    assert record["sources"] == {
        "web": {"loss": 3.0, "bits_per_byte": pytest.approx(0.75 / math.log(2)), "rows": 3},
        "books": {"loss": 4.0, "bits_per_byte": pytest.approx(1.6 / math.log(2)), "rows": 1},
    }


def test_names_in_tensorboard_and_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    log = MetricsLog(
        recipe_in(tmp_path, tensorboard=True), resume_step=0, tokens_after=tokens_after
    )
    spoilt = dataclasses.replace(BOOKS, loss_sum=math.inf)
    log.log("eval", 5, held_out_record([WEB, spoilt]))
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == [
        *("eval/books/rows", "eval/rows"),
        *("eval/web/bits_per_byte", "eval/web/loss", "eval/web/rows"),
    ]
    (scalar,) = events.Scalars("eval/web/loss")
    assert (scalar.step, scalar.value) == (5, 3.0)
    record = json.loads(log.path.read_text())  # which would not be JSON with Infinity
    assert record["not_finite"] == ["loss", "bits_per_byte"]
    assert record["sources"]["books"]["not_finite"] == ["loss", "bits_per_byte"]


# -- the terminal ---------------------------------------------------------------------------------


def test_there_is_no_bar_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MetricsLog(recipe_in(tmp_path), resume_step=0, tokens_after=tokens_after)
    for step in range(1, 7):
        log.advance(step)
    log.say("a line")
    log.close()
    captured = capsys.readouterr()
    assert captured.out == "a line\n"
    assert captured.err == ""


# -- Weights & Biases -----------------------------------------------------------------------------


def test_a_run_folder_is_one_run_of_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is not among the requirements: what it would be called with."""
    calls: list[dict[str, Any]] = []
    module = types.ModuleType("wandb")
    run = types.SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)

    def init(**arguments: Any) -> types.SimpleNamespace:
        calls.append(arguments)
        return run

    monkeypatch.setattr(module, "init", init, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for folder in ("a/run", "a/run", "b/run"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        MetricsLog(
            recipe_in(tmp_path / folder, wandb=True), resume_step=0, tokens_after=tokens_after
        ).close()
    first, again, other = (call["id"] for call in calls)
    assert first == again
    assert first != other
    assert len(first) == 16
    assert {call["resume"] for call in calls} == {"allow"}
