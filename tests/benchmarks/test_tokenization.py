"""The benchmark of tokenization runs to its end in a small size."""

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
            *(sys.executable, "-m", "benchmarks.data.tokenization"),
            *("--rehearse", "--out", str(tmp_path)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (raw,), (report,) = (list(tmp_path.glob(f"tokenization_cpu_*.{e}")) for e in ("json", "md"))
    text = report.read_text(encoding="utf-8")
    assert text in ran.stdout
    results = json.loads(raw.read_text(encoding="utf-8"))
    (speed,) = results["speed"]
    contenders = {"ours", "SentencePiece", "tokenizers", "word table"}
    assert set(speed["megabytes_per_second"]) == contenders
    assert min(speed["megabytes_per_second"].values()) > 0
    assert speed["different_documents"] == dict.fromkeys(contenders, 0)
    assert speed["num_documents"] > 10
    assert 1 < speed["bytes_per_token"] < 8
    assert results["two_processes"][0] > 0
    assert [memory["megabytes"] for memory in results["memory"]] == [1, 2, 1, 2, 1]
    assert all(memory["peak_bytes"] > 10 << 20 for memory in results["memory"])
    assert "| documents whose ids are not SentencePiece's | 0 | 0 of " in text
