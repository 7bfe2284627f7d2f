"""config.json of every version, read without transformers as transformers reads it; refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from llama_ds.hf_config import carried_config, hf_config
from llama_ds.model_config import ModelConfig
from llama_ds.stock_config import read_model_config, require_followed
from tests.support.llama_pair import ROPE
from tests.support.stock_checkpoints import KINDS

SIZES: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def written(folder: Path, **fields: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**SIZES, **fields}))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same(tmp_path: Path, kind: str) -> None:
    written(tmp_path, **KINDS[kind])
    model = read_model_config(tmp_path)
    # It compares all fields with what transformers finds.
    given = carried_config(tmp_path, model, torch.float32)
    made = hf_config(model, bos_token_id=1, eos_token_id=2, dtype=torch.float32)
    aside = {"dtype", "pad_token_id", "eos_token_id"}
    found, expected = made.to_dict(), given.to_dict()
    assert {name for name in found if found[name] != expected[name]} <= aside


@pytest.mark.parametrize("kind", ROPE)
def test_rope_scaling_in_the_form_of_every_version(tmp_path: Path, kind: str) -> None:
    inner = {"rope_type": kind, **ROPE[kind]}
    forms: list[dict[str, Any]] = [
        {"rope_parameters": {**inner, "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": None if kind == "default" else inner},
        {"rope_theta": 5e5, "rope_scaling": {"type": kind, **ROPE[kind]}},
        {"rope_theta": 5e5, "rope_scaling": inner, "rope_parameters": {**inner, "rope_theta": 1.0}},
    ]
    models = [read_model_config(written(tmp_path, **form)) for form in forms[:3]]
    assert models[0] == models[1] == models[2]
    assert models[0].rope_theta == 5e5
    assert (models[0].rope_scaling == {}) == (kind == "default")
    for form in forms:
        model = read_model_config(written(tmp_path, **form))
        stock = carried_config(tmp_path, model, torch.float32).to_dict()
        assert stock["rope_parameters"]["rope_theta"] == 5e5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mistral"}, "model_type mistral, not llama"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"attention_dropout": 0.1}, "has attention_dropout 0.1, which is not trained here"),
        ({"quantization_config": {"bits": 4}}, "has a quantization_config"),
        ({"rope_scaling": {"rope_type": "su"}}, "rope scaling of type su"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple"),
        ({"head_dim": 7}, r"head_dim \(7, by default .* must be even"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_model_config(written(tmp_path, **fields))


def test_a_folder_without_a_valid_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json; name a local folder"):
        read_model_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        read_model_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"is not a JSON object"):
        read_model_config(tmp_path)


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    model = read_model_config(written(tmp_path, hidden_act="shrug"))
    with pytest.raises(ValueError, match="has hidden_act shrug, which transformers"):
        carried_config(tmp_path, model, torch.float32)


def test_every_field_of_another_value_is_named(tmp_path: Path) -> None:
    given = read_model_config(written(tmp_path))
    require_followed(given, given, tmp_path)
    # Written out, it is the same.
    require_followed(dataclasses.replace(given, head_dim=8), given, tmp_path)
    others: dict[str, Any] = {
        "hidden_size": 64,
        "head_dim": 12,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "tie_word_embeddings": True,
        "hidden_act": "gelu",
    }
    for field in dataclasses.fields(ModelConfig):
        value = getattr(given, field.name)
        other = others.get(field.name, None if isinstance(value, str) else value)
        if field.name not in others:
            other = not value if isinstance(value, bool) else value * 2
        model = dataclasses.replace(given)
        object.__setattr__(model, field.name, other)
        with pytest.raises(ValueError, match=rf"has {field.name} "):
            require_followed(model, given, tmp_path)


def test_transformers_defaults_are_ours() -> None:
    """What a config.json leaves out is filled in by `ModelConfig`."""
    stock = LlamaConfig()
    for field in dataclasses.fields(ModelConfig):
        if field.default is not dataclasses.MISSING and field.name not in (
            "head_dim",
            "rope_theta",
        ):
            assert getattr(stock, field.name) == field.default, field.name
    assert stock.rope_parameters == {"rope_type": "default", "rope_theta": ModelConfig.rope_theta}
