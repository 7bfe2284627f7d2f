"""Runs that start from stock checkpoints: what goes in comes out, and trains as it does there."""
# transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from llama_ds.checkpoint.export import export
from llama_ds.config import Recipe
from tests.support.stock_checkpoints import KINDS, recipe_from, write
from tests.support.tiny_run import VOCAB_SIZE, make_store, run_training

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("stock")

    def of(kind: str) -> Path:
        return folder / kind if (folder / kind).exists() else write(folder / kind, **KINDS[kind])

    return of


# -- what goes in comes out -----------------------------------------------------------------------

LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": {},
    "tp2": {"parallel.tp": 2},
    "zero3": {"zero.stage": 3},
    "sp2": {"parallel.sp": 2},
}


def train_at_rate_0(recipe: Recipe) -> int:
    """A step that changes nothing; options refuse such a rate."""
    object.__setattr__(recipe.optimizer, "peak_learning_rate", 0.0)
    return run_training(recipe)[0]


def logits(folder: Path) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(model).__module__ == "transformers.models.llama.modeling_llama"
    ids = torch.arange(2 * 32).view(2, 32) * 5 % VOCAB_SIZE
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found


def config_of(folder: Path) -> dict[str, Any]:
    return {**LlamaConfig.from_pretrained(folder).to_dict(), "dtype": None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_out_as_it_went_in(
    gloo: Gloo, store: Path, stock: Callable[[str], Path], tmp_path: Path, kind: str, layout: str
) -> None:
    steps = {"train.max_steps": 1, "train.eval_rows": 0, "optimizer.warmup_steps": 0}
    recipe = recipe_from(stock(kind), store, tmp_path / "run", **steps, **LAYOUTS[layout])
    assert gloo(2, train_at_rate_0, recipe) == [1, 1]
    export(recipe.run_dir, tmp_path / "model")
    assert torch.equal(logits(tmp_path / "model"), logits(stock(kind)))
    assert config_of(tmp_path / "model") == config_of(stock(kind))
    generation = "generation_config.json"
    found, given = (
        json.loads((f / generation).read_text()) for f in (tmp_path / "model", stock(kind))
    )
    assert found == given
