"""The benchmark of repeated paragraphs runs to its end in a small size."""

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
        [
            *(sys.executable, "-m", "benchmarks.data.paragraphs"),
            *("--rehearse", "--out", str(tmp_path)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (raw,), (report,) = (list(tmp_path.glob(f"paragraphs_cpu_*.{e}")) for e in ("json", "md"))
    assert report.read_text(encoding="utf-8") in ran.stdout
    results = json.loads(raw.read_text(encoding="utf-8"))
    # Up to four of a made page's 20 lines stand in others.
    for speed in results["speed"]:
        assert 0.01 < speed["removed_share"] < 0.2
        assert set(speed["megabytes_per_second"]) == {"ours", "plain Python"}
        assert min(speed["megabytes_per_second"].values()) > 0
    assert [result["what"] for result in results["memory"]] == ["hash texts"] * 2 + ["compare"] * 2
    assert all(result["peak_bytes"] > 10 << 20 for result in results["memory"])
