"""Configuration files of an exported model, as older transformers and other programs need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_ds.model_config import ModelConfig

LARGEST_LENGTH = 10**9
"""transformers writes 10^30 where a tokenizer knows no length."""


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the rotary embedding in both forms.

    transformers 5 reads `rope_parameters`; older versions, and programs that convert checkpoints,
    read `rope_theta` and `rope_scaling`.
    """
    scaling = dict(config.get("rope_parameters") or {})
    theta = scaling.pop("rope_theta", ModelConfig.rope_theta)
    has_scaling = scaling.get("rope_type", "default") != "default"
    return {**config, "rope_theta": theta, "rope_scaling": scaling if has_scaling else None}


def complete_tokenizer_config(
    settings: Mapping[str, Any], max_position_embeddings: int
) -> dict[str, Any]:
    """tokenizer_config.json with what batches of texts need; what is there already stays.

    - `model_input_names`: without token types, which `generate` refuses.
    - `model_max_length`: the model's.
    - `pad_token`: the unknown token, which text does not become where bytes are the fallback; where
      there is none, EOS. Padding is masked, so the choice changes no result.
    """
    complete = dict(settings)
    complete.setdefault("model_input_names", ["input_ids", "attention_mask"])
    if not 0 < complete.get("model_max_length", LARGEST_LENGTH) < LARGEST_LENGTH:
        complete["model_max_length"] = max_position_embeddings
    for name in ("unk_token", "eos_token"):
        if not complete.get("pad_token") and complete.get(name):
            complete["pad_token"] = complete[name]
    return complete
