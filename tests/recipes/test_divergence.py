"""A run that diverges, as people start it: exit code 3, and the checkpoint before it stays."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llama_ds.checkpoint.verification import damage_of
from tests.support.recipe_run import RECIPE, SMALL, run
from tests.support.tiny_run import make_store


@pytest.mark.dist
def test_a_diverged_run_ends_with_exit_code_3_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    options: list[str | Path] = [
        "--data.store",
        make_store(tmp_path),
        "--run-dir",
        tmp_path / "run",
        *SMALL,
    ]
    options += ["--checkpoint.every-steps", "1", "--checkpoint.keep-last", "1"]
    first = run(sys.executable, RECIPE, *options, "--train.stop-after-step", "2")
    assert first.returncode == 0, first.stderr[-3000:]
    (before,) = (tmp_path / "run/checkpoints").iterdir()

    second = run(sys.executable, RECIPE, *options, "--optimizer.peak-learning-rate", "1e30")
    assert second.returncode == 3
    (error,) = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
    assert "5 steps in a row were skipped" in error
    assert str(before) in error
    assert list((tmp_path / "run/checkpoints").iterdir()) == [before]
    assert damage_of(before) is None
