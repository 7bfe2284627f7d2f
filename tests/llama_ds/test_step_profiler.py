"""Profiles of some steps of a run."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_ds.config import MetricsConfig, Recipe
from tests.support.tiny_run import make_store, run_training, tiny_recipe


@pytest.mark.dist
def test_the_trace_has_the_steps_that_were_asked_for(
    gloo: Callable[..., list[Any]], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "data")
    updates = {}
    for steps in ("2-3", "6-9"):  # of six
        recipe = tiny_recipe(store, tmp_path / "run" / steps, **{"metrics.profile_steps": steps})
        printed, _ = gloo(2, printed_by_training, recipe)
        folder = recipe.run_dir / "profiles" / f"steps_{steps}"
        assert [path.name for path in folder.iterdir()] == ["trace.json.gz"]
        events = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))["traceEvents"]
        names = [event["name"] for event in events]
        updates[steps] = names.count("Optimizer.step#AdamW.step")
        assert any(name.startswith("gloo:all_reduce") for name in names)
        assert any(name.startswith("autograd::engine") for name in names)
    assert updates["2-3"] == 2 * updates["6-9"] > 0
    line = f"profile: {folder / 'trace.json.gz'}; a memory snapshot needs CUDA"
    assert line in printed


def printed_by_training(recipe: Recipe) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_training(recipe)
    return printed.getvalue()


@pytest.mark.parametrize("steps", ["3-2", "0-4", "5", "a-b", "-1-2", "1-2-3"])
def test_steps_that_cannot_be_profiled_are_refused(steps: str) -> None:
    with pytest.raises(ValueError, match=r"metrics.profile_steps \(.*\) must be two steps A-B"):
        MetricsConfig(profile_steps=steps)
    assert MetricsConfig(profile_steps="7-7").profiled_steps == (7, 7)
    assert MetricsConfig().profiled_steps is None
