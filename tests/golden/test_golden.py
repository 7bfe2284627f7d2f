"""`llama_tiny` against its stored loss curve: a change that should not alter numbers does not.

`bash tests/run.sh tests/golden/test_golden.py --write-golden` writes the curve anew; that is a
commit of its own, which says why the numbers moved.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_ds.config import CheckpointConfig, DataConfig, MetricsConfig, Recipe
from llama_ds.metrics import read_metrics
from recipes.llama import llama_tiny
from tests.support.tiny_run import make_store, run_training

CURVE = Path(__file__).parent / "llama_tiny_cpu.txt"
NUM_STEPS = 50
COMPARED_STEPS = 25
"""By then the rate is past its peak, and weights, moments and data order have all acted."""


def golden_recipe(store: Path, run_dir: Path, last_step: int) -> Recipe:
    """The recipe as it is, but for a quarter of its batch and for made-up text."""
    recipe = llama_tiny()
    return dataclasses.replace(
        recipe,
        run_dir=run_dir,
        data=DataConfig(store=store),
        train=dataclasses.replace(
            recipe.train,
            tokens_per_step=512,
            micro_batch_size=1,
            max_steps=NUM_STEPS,
            stop_after_step=last_step,
            log_every_steps=1,
            eval_rows=0,
        ),
        checkpoint=CheckpointConfig(every_steps=NUM_STEPS),
        metrics=MetricsConfig(tensorboard=False, peak_tflops=1.0),
    )


@pytest.mark.golden
@pytest.mark.dist
def test_llama_tiny_follows_its_stored_curve(
    gloo: Callable[..., list[Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    writes = request.config.getoption("--write-golden")
    last_step = NUM_STEPS if writes else COMPARED_STEPS
    recipe = golden_recipe(make_store(tmp_path), tmp_path / "run", last_step)
    gloo(2, run_training, recipe)
    losses = [record["loss"] for record in read_metrics(recipe.run_dir / "metrics.jsonl", "train")]
    assert len(losses) == last_step
    if writes:
        write_curve(losses)
        pytest.skip(f"wrote {CURVE}")
    # Another CPU orders its fp32 sums otherwise; 50 steps of AdamW make of a first difference of
    # 1e-7 at most some 1e-4 here. A wrong step shows in the second digit.
    assert losses == pytest.approx(read_curve()[:last_step], rel=2e-3)


def read_curve() -> list[float]:
    lines = CURVE.read_text(encoding="utf-8").splitlines()
    return [float(line.split()[1]) for line in lines if not line.startswith("#")]


def write_curve(losses: list[float]) -> None:
    header = [
        "# llama_tiny on made-up text: step, training loss in fp32 on two processes",
        f"# torch {torch.__version__}, {platform.machine()}",
        "# written by: bash tests/run.sh tests/golden/test_golden.py --write-golden",
    ]
    lines = [f"{step} {loss!r}" for step, loss in enumerate(losses, start=1)]
    CURVE.parent.mkdir(exist_ok=True)
    CURVE.write_text("\n".join([*header, *lines]) + "\n", encoding="utf-8")
