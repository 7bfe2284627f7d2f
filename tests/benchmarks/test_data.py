"""The benchmark of the whole dataset job, rehearsed with its fastest script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.nightly
@pytest.mark.slow
def test_targets_are_put_together(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.data.summary",
        "--rehearse",
        "--scripts",
        "paragraphs",
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = tmp_path.glob("data_cpu_*.md")
    text = result.read_text()
    assert "## paragraphs.py" in text
    assert "| texts | target | measured | reached |" in text
    assert "made, French" in text
    assert "MiB" not in text, "only tables of targets are taken"
