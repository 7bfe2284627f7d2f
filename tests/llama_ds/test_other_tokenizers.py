"""Stores made with somebody's tokenizer.json: trained on, exported, and told from one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_pipeline.commands import build_text
from data_pipeline.tokens.store import TokenStore
from llama_ds.checkpoint.export import export
from llama_ds.config import Recipe
from tests.support.huggingface_tokenizers import KINDS, write
from tests.support.nightly import at_night
from tests.support.tiny_run import run_training, tiny_recipe
from tests.support.tokenizer_texts import HOSTILE, prose

Gloo = Callable[..., list[Any]]


def training_error(recipe: Recipe) -> str:
    try:
        run_training(recipe)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.dist
@pytest.mark.parametrize("kind", ["byte_level_bpe", at_night("unigram")])
def test_a_model_trains_and_is_exported_with_the_same_ids(
    gloo: Gloo, tmp_path: Path, kind: str
) -> None:
    given, out = write(KINDS[kind](), tmp_path / "given"), tmp_path / "out"
    (tmp_path / "raw").mkdir()
    for number, text in enumerate(prose()):
        (tmp_path / "raw" / f"{number}.txt").write_text(text)
    options = ["--raw", str(tmp_path / "raw"), "--out", str(out), "--holdout", "0.1"]
    arguments = [*options, "--tokenizer.path", str(given)]
    assert build_text.run(arguments, prog="llama-ds-build") == 0
    vocab_size = TokenStore.open(out / "store").manifest.vocab_size

    def recipe(run: str, **overrides: Any) -> Recipe:
        own = {"data.shares": {}, "model.vocab_size": vocab_size, "train.max_steps": 2}
        return tiny_recipe(out / "store", tmp_path / run, **own | overrides)

    small = recipe("small", **{"model.vocab_size": vocab_size - 1})
    (error,) = gloo(1, training_error, small)
    assert f"({vocab_size}); set --model.vocab-size {vocab_size}" in error
    assert gloo(1, run_training, recipe("run")) == [(2, None)]
    export(tmp_path / "run", tmp_path / "model")
    auto: Any = AutoTokenizer.from_pretrained(tmp_path / "model", split_special_tokens=True)
    of_store: Any = AutoTokenizer.from_pretrained(out / "store" / "tokenizer")
    of_store.split_special_tokens = True
    for text in [*HOSTILE, *prose()]:
        ids = auto(text, add_special_tokens=False)["input_ids"]
        assert ids == of_store(text, add_special_tokens=False)["input_ids"]
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.vocab_size == vocab_size
    assert model.config.bos_token_id == auto.bos_token_id
    assert model.config.eos_token_id == auto.eos_token_id

    again = {"train.init_from": tmp_path / "model"}
    assert gloo(1, run_training, recipe("again", **again)) == [(2, None)]
    file = tmp_path / "model" / "tokenizer.json"
    tree = json.loads(file.read_text())
    # Written otherwise, it is the same tokenizer.
    file.write_text(json.dumps(dict(reversed(tree.items())), indent=3))
    assert gloo(1, run_training, recipe("same", **again)) == [(2, None)]
    file.write_text(json.dumps({**tree, "normalizer": {"type": "Lowercase"}}))
    (error,) = gloo(1, training_error, recipe("other", **again))
    assert "was tokenized with another tokenizer" in error
