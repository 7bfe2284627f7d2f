"""The benchmark of eligibility runs to its end in a small size, and its times are in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.nightly
@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.model.eligibility", "--rehearse", "--out", tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (raw,), (text,) = (list(tmp_path.glob(f"eligibility_cpu_*.{e}")) for e in ("json", "md"))
    assert text.read_text(encoding="utf-8") in ran.stdout
    (result,) = json.loads(raw.read_text(encoding="utf-8"))
    assert result["num_layers"] == 2
    columns = [times for name, times in result.items() if name.endswith("_seconds")]
    assert len(columns) == 4
    for times in columns:
        assert len(times) == 2
        assert all(seconds > 0 for seconds in times)
