"""Recipes as people start them, on the CPU, with a model that trains in a second."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "pretrain_tiny.sh"

SMALL = (
    *("--model.hidden-size", "32", "--model.intermediate-size", "96", "--model.vocab-size", "320"),
    *("--model.num-hidden-layers", "2", "--model.num-attention-heads", "4"),
    *("--model.num-key-value-heads", "4", "--train.sequence-length", "32"),
    *("--train.tokens-per-step", "256", "--train.micro-batch-size", "4", "--train.eval-rows", "4"),
    *("--metrics.peak-tflops", "1", "--metrics.no-tensorboard", "--train.log-every-steps", "1"),
)


def on_the_cpu(**environment: str) -> dict[str, str]:
    return {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", **environment}


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command from a foreign folder on the CPU, as a user's shell would."""
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
        env=on_the_cpu(**environment),
        check=False,
    )
