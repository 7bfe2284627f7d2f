"""The layer's benchmark runs to its end in a small size, and what it says is consistent."""

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
        [sys.executable, "-m", "benchmarks.model.layer", "--rehearse", "--out", tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (raw,), (report,), (picture,) = (
        list(tmp_path.glob(f"layer_cpu_*.{ending}")) for ending in ("json", "md", "png")
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert report.read_text(encoding="utf-8") in ran.stdout
    results = json.loads(raw.read_text(encoding="utf-8"))
    for dtype, bound in (("float32", 0.55), ("bfloat16", 0.51)):
        kept = {r["contender"]: r for r in results if r["dtype"] == dtype}
        assert len(kept) == 7
        for result in kept.values():
            if result["predicted_bytes_per_token"] is not None:
                assert result["saved_bytes_per_token"] == result["predicted_bytes_per_token"]
            assert all(seconds > 0 for seconds in result["backward_seconds"])
        stock, fused = kept["stock sdpa"], kept["ours, linear_outputs"]
        share = fused["saved_bytes_per_token"] / stock["saved_bytes_per_token"]
        # What wide models approach: (6 d + 2 f) of (10 d + 4 f) at f = 8/3 d, and in bf16 less.
        assert share == pytest.approx(bound, abs=0.02)
        assert kept["ours, plain"]["saved_bytes_per_token"] == stock["saved_bytes_per_token"]
