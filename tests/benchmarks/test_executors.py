"""The benchmark of engines runs to its end in a small size."""

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
            *(sys.executable, "-m", "benchmarks.data.executors"),
            *("--rehearse", "--out", str(tmp_path)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (raw,), (report,) = (list(tmp_path.glob(f"executors_cpu_*.{e}")) for e in ("json", "md"))
    assert report.read_text(encoding="utf-8") in ran.stdout
    results = json.loads(raw.read_text(encoding="utf-8"))
    once = ["1 process", "2 processes", "Ray, 2 workers"]
    assert [build["engine"] for build in results["builds"]] == [*once, "2 processes"]
    assert len({build["num_documents"] for build in results["builds"][:3]}) == 1
    for build in results["builds"]:
        assert min(build["num_documents"], build["seconds"]) > 0
        assert min(build["worker_peak_bytes"], build["leader_peak_bytes"]) > 10 << 20
    assert set(results["times_as_fast"]) == set(once[1:])
