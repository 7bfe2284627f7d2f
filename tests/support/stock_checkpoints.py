"""Small checkpoints of every kind that stock transformers has of LLaMA."""
# transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig
from transformers import LlamaForCausalLM as StockLlama

from llama_ds.config import Recipe
from llama_ds.stock_config import read_model_config
from tests.support.llama_pair import ROPE
from tests.support.tiny_run import VOCAB_SIZE, tiny_recipe


def rope(kind: str) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 5_000.0, **ROPE[kind]}}


KINDS: dict[str, dict[str, Any]] = {
    "mha": {"num_key_value_heads": 4},
    "gqa": {},
    "tied": {"tie_word_embeddings": True},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "head_dim": {"head_dim": 12},
    "gelu": {"hidden_act": "gelu"},
    "linear": rope("linear"),
    "dynamic": rope("dynamic"),
    "yarn": rope("yarn"),
    "longrope": rope("longrope"),
    "llama3": {**rope("llama3"), "tie_word_embeddings": True, "eos_token_id": [2, 5]},
    "odd_vocabulary": {"vocab_size": 321},
    "everything": {
        **rope("yarn"),
        "head_dim": 16,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "vocab_size": 323,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 3,
    },
}
"""Name -> what differs from a model of 2 layers with grouped-query attention."""


def write(folder: Path, **overrides: Any) -> Path:
    """A stock model, in several files, with random weights and biases of order 0.2."""
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 96}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"max_position_embeddings": 32, "initializer_range": 0.2}
    torch.manual_seed(4)
    model = StockLlama(LlamaConfig(**{**sizes, **heads, **more, **overrides}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(float("norm" in name), 0.2)
    model.save_pretrained(folder, max_shard_size="60KB")
    return folder


def recipe_from(folder: Path, store: Path, run_dir: Path, **overrides: Any) -> Recipe:
    """`tiny_recipe` with the model of a folder, as `--train.init-from` makes it."""
    model = asdict(read_model_config(folder))
    given = {"model": model, "train.init_from": folder}
    return tiny_recipe(store, run_dir, **{**given, **overrides})
