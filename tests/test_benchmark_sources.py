"""The benchmarks of the sources run to their end in a small size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_reader_memory_measures_and_keeps_what_it_has(tmp_path: Path) -> None:
    for name in ("arxiv", "stack_exchange"):
        ran = run("reader_memory.py", "--rehearse", "--formats", name, "--out", str(tmp_path))
        assert ran.returncode == 0, ran.stderr
    (raw,), (report,) = (list(tmp_path.glob(f"reader_memory_cpu_*.{e}")) for e in ("json", "md"))
    assert report.read_text(encoding="utf-8") in ran.stdout
    results = json.loads(raw.read_text(encoding="utf-8"))
    # The second run knows the first one's result.
    assert [result["format"] for result in results] == ["stack_exchange", "arxiv"]
    for result in results:
        assert result["num_bytes"] == 300_000
        assert result["num_kept"] == result["num_read"] > 0
        assert result["peak_bytes"] > result["idle_bytes"] > 10 << 20
    # Every third row of about 512 bytes is a question.
    assert 180 < results[0]["num_read"] < 220
