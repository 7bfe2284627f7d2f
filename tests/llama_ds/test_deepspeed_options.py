"""DeepSpeed's own options for the optimizer, by `--deepspeed-json`: what trains right with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_ds.config import Recipe
from llama_ds.metrics import read_metrics
from llama_ds.step_log import FILE
from tests.support.nightly import at_night
from tests.support.reference import Reference
from tests.support.tiny_run import make_store, tiny_recipe

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]

BF16_MOMENTS = {"bf16": {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}}
OFFLOADED = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def reference(store: Path) -> Reference:
    return Reference(tiny_recipe(store, Path("unused")))


def train(recipe: Recipe, overrides: dict[str, Any]) -> int:
    from llama_ds import train as module

    return module.train(recipe, 0, overrides).step


def losses(recipe: Recipe) -> list[float]:
    return [record["loss"] for record in read_metrics(recipe.run_dir / FILE, "step")]


@pytest.mark.parametrize(
    ("stage", "dtype", "overrides", "bound"),
    [
        # 8 bits of mantissa, as in the tests of bf16 with fp32 moments.
        at_night(2, "bf16", BF16_MOMENTS, 2e-2),
        (3, "bf16", BF16_MOMENTS, 2e-2),
        at_night(2, "fp32", OFFLOADED, 6e-6),  # 1e-6 of a loss near 6
        (3, "fp32", OFFLOADED, 6e-6),
        (1, "bf16", OFFLOADED, 2e-2),  # not by DeepSpeed's `BF16_Optimizer`, as without offload
    ],
    ids=[
        *("bf16-moments-zero2", "bf16-moments-zero3"),
        *("offload-zero2", "offload-zero3", "offload-zero1-bf16"),
    ],
)
def test_it_trains_as_plain_pytorch_and_resumes_to_the_bit(
    gloo: Gloo,
    store: Path,
    tmp_path: Path,
    reference: Reference,
    stage: int,
    dtype: str,
    overrides: dict[str, Any],
    bound: float,
) -> None:
    options: dict[str, Any] = {"zero.stage": stage, "train.dtype": dtype}
    straight = tiny_recipe(store, tmp_path / "straight", **options)
    assert gloo(2, train, straight, overrides) == [6, 6]
    assert losses(straight) == pytest.approx(reference.losses, abs=bound)

    parts = tmp_path / "parts"
    gloo(2, train, tiny_recipe(store, parts, **options, **{"train.stop_after_step": 3}), overrides)
    resumed = tiny_recipe(store, parts, **options)
    gloo(2, train, resumed, overrides)
    assert losses(resumed) == losses(straight)
