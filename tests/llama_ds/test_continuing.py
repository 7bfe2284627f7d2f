"""Runs that start from stock checkpoints: what goes in comes out, and trains as it does there."""
# transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
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


def tiered() -> Iterator[Any]:
    """Every kind in one of the layouts, in turn; in the others at night."""
    for number, kind in enumerate(KINDS):
        for other, layout in enumerate(LAYOUTS):
            at_night = other != number % len(LAYOUTS)
            marks = [pytest.mark.nightly] if at_night else []
            yield pytest.param(kind, layout, id=f"{kind}-{layout}", marks=marks)


@pytest.mark.parametrize(("kind", "layout"), list(tiered()))
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


# -- more tokens ----------------------------------------------------------------------------------


def embeddings(folder: Path) -> tuple[Tensor, Tensor]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return model.model.embed_tokens.weight.detach(), model.lm_head.weight.detach()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_new_rows_are_the_mean_of_the_old_ones(
    gloo: Gloo, store: Path, tmp_path: Path, layout: str
) -> None:
    given = write(tmp_path / "given", vocab_size=VOCAB_SIZE - 3)
    steps = {"train.max_steps": 1, "train.eval_rows": 0, "optimizer.warmup_steps": 0}
    grown = {"train.new_rows": "mean", **steps, **LAYOUTS[layout]}
    recipe = recipe_from(
        given, store, tmp_path / "run", **grown, **{"model.vocab_size": VOCAB_SIZE}
    )
    gloo(2, train_at_rate_0, recipe)
    export(recipe.run_dir, tmp_path / "model")
    assert config_of(tmp_path / "model") == {**config_of(given), "vocab_size": VOCAB_SIZE}
    for old, new in zip(embeddings(given), embeddings(tmp_path / "model"), strict=True):
        assert torch.equal(new[:-3], old)
        assert torch.equal(new[-3:], old.double().mean(0).float().expand(3, -1))


def test_more_rows_have_to_be_asked_for(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "given", vocab_size=VOCAB_SIZE - 3)
    recipe = recipe_from(given, store, tmp_path / "run", **{"model.vocab_size": VOCAB_SIZE})
    (error,) = gloo(1, training_error, recipe)
    assert "has vocab_size 317, but the recipe has model.vocab_size 320" in error
    assert "set train.new_rows to mean" in error


def test_a_store_with_other_tokens_is_not_one_with_more(
    gloo: Gloo, store: Path, tmp_path: Path
) -> None:
    given = write(tmp_path / "given", vocab_size=VOCAB_SIZE - 3)
    tree = json.loads((store / "tokenizer" / "tokenizer.json").read_text())
    vocabulary = tree["model"]["vocab"]
    own = {piece: number for piece, number in vocabulary.items() if number < VOCAB_SIZE - 3}
    pieces = {number: piece for piece, number in own.items()}
    merges = [m for m in tree["model"]["merges"] if "".join(m) in own]
    tree["model"] |= {"vocab": own, "merges": merges}
    (given / "tokenizer.json").write_text(json.dumps(tree))
    steps = {"train.max_steps": 1, "train.eval_rows": 0, "model.vocab_size": VOCAB_SIZE}
    grown = {**steps, "train.new_rows": "mean"}
    recipe = recipe_from(given, store, tmp_path / "run", **grown)
    assert gloo(1, training_error, recipe) == [""]
    one, other = pieces[300], pieces[301]
    tree["model"]["vocab"] = {**own, one: 301, other: 300}
    (given / "tokenizer.json").write_text(json.dumps(tree))
    (error,) = gloo(1, training_error, dataclasses.replace(recipe, run_dir=tmp_path / "second"))
    assert f"has {one!r} as token 300, that of train.init_from" in error


def training_error(recipe: Recipe) -> str:
    try:
        run_training(recipe)
    except ValueError as error:
        return str(error)
    return ""


def test_a_head_that_is_not_the_embedding_is_not_tied(
    gloo: Gloo, store: Path, stock: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(stock("gqa"), tmp_path / "given")
    file = tmp_path / "given" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tie_word_embeddings": True}))
    recipe = recipe_from(tmp_path / "given", store, tmp_path / "run")
    for error in gloo(2, training_error, recipe):
        assert "lm_head.weight is not model.embed_tokens.weight" in error
