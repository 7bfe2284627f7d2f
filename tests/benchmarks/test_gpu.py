"""The GPU's benchmark runs to its end on a CPU in a tiny size; what has no time is given up.

DeepSpeed is hidden from it, as on a machine that has none: the tests of the step's benchmark run
through it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = [
    "# LLaMA's training steps on one GPU",
    "## Ceilings",
    "## Attention kernels in bf16",
    "## The fused layer in bf16",
    "## LLaMA-7B",
    "## LLaMA-13B",
    "## Targets",
    "## Given up",
]


def rehearse(folder: Path, budget_seconds: int) -> tuple[str, dict[str, Any]]:
    hidden = folder / "hidden"
    hidden.mkdir(parents=True)
    (hidden / "deepspeed.py").write_text("raise ImportError('hidden by a test')\n")
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(hidden),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--rehearse", "--out", str(folder)]
    ran = subprocess.run(
        [*command, "--budget-seconds", str(budget_seconds)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (raw,), (report,) = (
        list(folder.glob(f"rehearsal_cpu_*.{ending}")) for ending in ("json", "md")
    )
    text = report.read_text(encoding="utf-8")
    assert text in ran.stdout
    assert [line for line in text.splitlines() if line.startswith("#")] == SECTIONS
    assert "without DeepSpeed (deepspeed cannot be imported (hidden by a test))" in text
    return text, json.loads(raw.read_text(encoding="utf-8"))


@pytest.mark.nightly
@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    text, found = rehearse(tmp_path, budget_seconds=3_600)
    assert found["notes"] == []
    assert found["ceilings"]["matmul_tflops"] > 0
    assert found["ceilings"]["copy_gb_per_second"] > 0
    kernels = {record["kernel"]: record for record in found["kernels"]}
    assert set(kernels) == {"math", "cpu", "flash", "cudnn", "xformers", "flash_attn"}
    assert all("runs on cuda" in kernels[name]["unavailable"] for name in ("flash", "cudnn"))
    assert all(kernels[name]["is_right"] for name in ("math", "cpu"))
    assert len(found["layer"]) == 5
    assert all(record["is_right"] for record in found["layer"])

    whole, deep = found["runs"]["LLaMA-7B"], found["runs"]["LLaMA-13B"]
    assert whole["stock + Liger"]["missing"] == "liger_kernel is not installed"
    measured = {name: run for name, run in whole.items() if not run["missing"]}
    assert len(measured) == 4
    for runs in (measured, deep):
        for run in runs.values():
            assert len(run["step_seconds"]) == 4
            # The same weights, tokens and optimizer; bf16 rounds activations to 8 bits.
            assert run["losses"] == pytest.approx(runs["stock sdpa"]["losses"], rel=2e-3)
    parts = {"forward", "loss head", "backward", "optimizer"}
    assert set(whole["ours, linear_outputs"]["parts"]) == parts
    assert found["depths"]["LLaMA-7B"]["layers"] == 2
    assert found["half_runs"]["LLaMA-13B"]["step_seconds"]
    assert "tokens/s (extrapolated)" in text
    assert "extrapolated, not measured" in text.split("## LLaMA-13B")[1]
    assert "extrapolated" not in text.split("## LLaMA-7B")[1].split("## LLaMA-13B")[0]


@pytest.mark.nightly
@pytest.mark.slow
def test_what_there_is_no_time_for_is_given_up(tmp_path: Path) -> None:
    text, found = rehearse(tmp_path, budget_seconds=1)
    assert all(run["step_seconds"] == [] for run in found["runs"]["LLaMA-7B"].values())
    given_up = text.split("## Given up")[1]
    assert "fused layer, fused against plain: not run, the time for it was used up" in given_up
    assert "7B ours, search of ours, linear_outputs, 2 layers: not run" in given_up
    assert "| LLaMA-7B, tokens/s on an H200 | at least 12,700, aim 13,850 | not measured |" in text


def do_nothing(bench: Any) -> None:
    pass


def report_and_hang(bench: Any) -> None:
    bench.emit({"kept": 1})
    time.sleep(600)


def report_and_die(bench: Any) -> None:
    bench.emit({"kept": 2})
    os._exit(1)


@pytest.mark.nightly
@pytest.mark.slow
def test_what_a_lost_process_had_reported_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_worker = importlib.import_module("benchmarks.gpu.gpu_worker")
    worker = gpu_worker.Worker(deepspeed=False)
    monkeypatch.setattr(gpu_worker, "GRACE_SECONDS", 1.0)
    # The start of a process takes long on a busy machine.
    assert worker.run(do_nothing, 120.0, {}).ended == ""
    hung = worker.run(report_and_hang, 1.0, {})
    assert (hung.records, hung.ended) == ([{"kept": 1}], "stopped after 1 s")
    died = worker.run(report_and_die, 120.0, {})
    assert (died.records, died.ended) == ([{"kept": 2}], "its process died")
    worker.close()


@pytest.mark.parametrize(
    ("memory_bytes", "state_bytes", "layers"),
    [
        # 18 x 6.74e9 bytes of state and 14e9 of stock's activations, of 140e9 planned with.
        (150.7e9, 18, 32),
        # 79e9 bytes less 6e9 for embedding and head, over 4.0e9 a layer.
        (84.9e9, 18, 18),
        # 140e9 bytes less 7e9, over 4.8e9.
        (150.7e9, 22, 26),
    ],
)
def test_depth_that_fits(
    monkeypatch: pytest.MonkeyPatch, memory_bytes: float, state_bytes: int, layers: int
) -> None:
    gpu = importlib.import_module("benchmarks.gpu.gpu")
    recipe = gpu.full_scale().recipes["LLaMA-7B"]
    assert gpu.fitting_layers(recipe, int(memory_bytes), state_bytes) == layers
