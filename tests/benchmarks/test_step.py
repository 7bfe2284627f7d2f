"""The step's benchmark runs to its end in a small size, and what it says is consistent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ["plain", "keep_all", "linear_outputs", "no_mlp", "layer_input"]


def rehearse(folder: Path, *options: str) -> tuple[str, list[dict[str, Any]]]:
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.model.step",
            "--rehearse",
            "--out",
            str(folder),
            *options,
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (raw,), (report,) = (list(folder.glob(f"step_cpu_*.{ending}")) for ending in ("json", "md"))
    text = report.read_text(encoding="utf-8")
    assert text in ran.stdout
    return text, json.loads(raw.read_text(encoding="utf-8"))


@pytest.mark.nightly
@pytest.mark.slow
def test_rehearsal_with_and_without_deepspeed(tmp_path: Path) -> None:
    text, results = rehearse(tmp_path / "with")
    other_text, others = rehearse(tmp_path / "without", "--without-deepspeed")
    assert "Through DeepSpeed at ZeRO-1" in text
    assert "without DeepSpeed: as asked for" in other_text
    # fp32 sums in another order; bf16 rounds each activation to 8 bits.
    tolerances = {"fp32": 1e-5, "bf16": 2e-3}
    for dtype, tolerance in tolerances.items():
        chosen = {r["contender"]: r for r in results if r["dtype"] == dtype}
        assert list(chosen) == [
            "stock sdpa",
            "stock + checkpointing",
            *(f"ours, {name}" for name in OURS),
        ]
        stock = chosen["stock sdpa"]
        assert stock["losses"][-1] < stock["losses"][0], "three steps on the same tokens learn"
        for result in chosen.values():
            # The same weights, tokens and arithmetic: engines that disturb each other would differ.
            assert result["losses"] == pytest.approx(stock["losses"], rel=tolerance)
            assert len(result["step_seconds"]) == 2
            assert result["peak_bytes"] > result["saved_bytes"] > 0
        kept = [chosen[f"ours, {name}"]["saved_bytes"] for name in OURS[1:]]
        assert kept == sorted(kept, reverse=True)
    for result, other in zip(results, others, strict=True):
        assert other["losses"] == pytest.approx(result["losses"], rel=tolerances[result["dtype"]])
