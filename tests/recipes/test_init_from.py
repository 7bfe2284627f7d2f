"""`--train.init-from`: the recipe follows the model's config.json, and contradictions are said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from llama_ds.config import from_dict
from llama_ds.stock_config import read_model_config
from recipes.launch import parse
from recipes.llama import llama_tiny

CONFIG = {
    "model_type": "llama",
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_theta": 5e5,
    "rope_scaling": {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0, 2.0]},
}
SHORT = ["--train.sequence-length", "128"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.parametrize("form", ["--train.init-from {}", "--train.init_from={}"])
def test_the_recipe_follows_the_model(folder: Path, form: str) -> None:
    recipe = parse(llama_tiny, [*form.format(folder).split(), *SHORT]).recipe
    assert recipe.model == read_model_config(folder)
    assert recipe.model.rope_scaling["short_factor"] == [1.0, 2.0]
    assert recipe.train.init_from == folder
    assert recipe.optimizer == llama_tiny().optimizer
    assert from_dict(json.loads(recipe.to_json())) == recipe


def test_what_agrees_may_be_typed(folder: Path) -> None:
    words = ["--train.init-from", str(folder), *SHORT, "--model.hidden-size", "64"]
    assert parse(llama_tiny, [*words, "--model.head-dim", "12"]).recipe.model.hidden_size == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model.hidden-size 32", "has hidden_size 64, but the recipe has model.hidden_size 32;"),
        ("--model.head-dim 16", "has head_dim 12, but the recipe has model.head_dim 16; leave"),
        ("--model.no-tie-word-embeddings", "tie_word_embeddings True, .* False"),
        ("--model.rms-norm-eps 1e-6", "rms_norm_eps 1e-05, .* 1e-06"),
        ("--model.rope-scaling factor 2", "unknown option --model.rope-scaling"),
        ("--train.sequence-length 256", r"\(256\) must not exceed .* \(128\)"),
    ],
)
def test_a_contradiction_is_refused(folder: Path, words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(llama_tiny, ["--train.init-from", str(folder), *SHORT, *words.split()])


def test_without_a_model_nothing_is_followed(tmp_path: Path) -> None:
    assert parse(llama_tiny, ["--train.init-from", "None"]).recipe == llama_tiny()
    with pytest.raises(ValueError, match=r"init_from \(.*\) has no config.json"):
        parse(llama_tiny, ["--train.init-from", str(tmp_path)])


def test_other_options_are_checked_as_ever(folder: Path) -> None:
    recipe = dataclasses.replace(llama_tiny())
    # The recipe's own sequence is longer than the model's: not yet an error, --help must work.
    assert recipe.train.sequence_length > CONFIG["max_position_embeddings"]  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"sequence_length \(256\) must not exceed"):
        parse(llama_tiny, ["--train.init-from", str(folder)])
    with pytest.raises(ValueError, match=r"did you mean --train\.max-steps"):
        parse(llama_tiny, ["--train.init-from", str(folder), *SHORT, "--train.max-step", "1"])
