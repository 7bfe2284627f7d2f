"""transformers' configuration of a recipe's model: a new one, or that of `train.init_from`."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import LlamaConfig
from transformers.activations import ACT2FN

from llama_ds.model_config import ModelConfig
from llama_ds.stock_config import CONFIG, model_config_of, require_followed


def hf_config(
    model: ModelConfig, *, bos_token_id: int, eos_token_id: int, dtype: torch.dtype
) -> LlamaConfig:
    """The Hugging Face configuration of a recipe's model."""
    return LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_key_value_heads,
        head_dim=model.head_size,
        max_position_embeddings=model.max_position_embeddings,
        rms_norm_eps=model.rms_norm_eps,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": model.rope_theta,
            **copy.deepcopy(model.rope_scaling),
        },
        initializer_range=model.initializer_range,
        use_cache=True,
        hidden_act=model.hidden_act,
        tie_word_embeddings=model.tie_word_embeddings,
        attention_bias=model.attention_bias,
        mlp_bias=model.mlp_bias,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        dtype=dtype,
    )


def carried_config(
    folder: Path, model: ModelConfig, dtype: torch.dtype, *, may_grow: bool = False
) -> LlamaConfig:
    """The configuration in `folder`, with nothing changed but the dtype; with `may_grow`, and the
    size of the vocabulary.

    ValueError where it is not that of `model`, or has an activation that transformers lacks.
    """
    config = LlamaConfig.from_pretrained(folder, dtype=dtype)
    # Read once more, by transformers: both readers must find the same.
    given = model_config_of(config.to_dict(), folder / CONFIG)
    require_followed(model, given, folder, may_grow=may_grow)
    config.vocab_size = model.vocab_size
    if config.hidden_act not in ACT2FN:
        raise ValueError(
            f"train.init_from ({folder}) has hidden_act {config.hidden_act}, which transformers "
            "does not have"
        )
    return config
