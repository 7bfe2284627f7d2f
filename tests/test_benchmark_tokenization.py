"""The benchmark of encoding runs to its end in a small size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_rehearsal(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "tokenization.py")),
            *("--rehearse", "--out", str(tmp_path)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (raw,) = tmp_path.glob("tokenization_cpu_*.json")
    (speed,) = json.loads(raw.read_text())["speeds"]
    assert speed["num_tokens"] > 50_000
    assert set(speed["megabytes_per_second"]) == {"ours", "SentencePiece", "tokenizers"}
    assert "| 2 jobs against 1 |" in ran.stdout
