"""The architecture in a Hugging Face folder's config.json, as a `ModelConfig`.

What a config.json can say and this program cannot train as transformers would is refused here, at
the start. Imports nothing heavy, like `config`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_ds.model_config import ModelConfig, require

CONFIG = "config.json"
_REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_OPTIONAL = (
    *("num_key_value_heads", "vocab_size", "max_position_embeddings", "rms_norm_eps"),
    *("initializer_range", "head_dim", "hidden_act", "tie_word_embeddings"),
    *("attention_bias", "mlp_bias"),
)
"""Missing or null, they are `ModelConfig`'s defaults, which are transformers' too."""
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
ROPE_BY_LENGTH = ("dynamic", "longrope")
"""Types whose frequencies follow from the longest position in a batch."""
_WITH_ORIGINAL_LENGTH = ("yarn", "longrope", "llama3")


def read_model_config(folder: Path) -> ModelConfig:
    """The architecture of the model in `folder`; ValueError where it cannot be trained here."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(
            f"train.init_from ({folder}) has no {CONFIG}; name a local folder that transformers' "
            "save_pretrained or llama-ds-checkpoint export has written"
        )
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"train.init_from: {path} is not JSON: {error}") from error
    require(isinstance(tree, dict), f"train.init_from: {path} is not a JSON object")
    return model_config_of(tree, path)


def model_config_of(tree: Mapping[str, Any], path: Path) -> ModelConfig:
    """As `read_model_config`, of the content of the file `path`, in the form of any version."""
    _require_trainable(tree, path)
    fields = {name: tree[name] for name in (*_REQUIRED, *_OPTIONAL) if tree.get(name) is not None}
    for name in _REQUIRED:
        require(name in fields, f"train.init_from: {path} has no {name}")
    fields.setdefault("num_key_value_heads", fields["num_attention_heads"])
    if fields.get("head_dim") == fields["hidden_size"] // fields["num_attention_heads"]:
        del fields["head_dim"]  # written out or not, it is the same
    length = fields.get("max_position_embeddings", ModelConfig.max_position_embeddings)
    theta, scaling = _rope(tree, length, path)
    return ModelConfig(**fields, rope_theta=theta, rope_scaling=scaling)


def require_followed(
    model: ModelConfig, given: ModelConfig, init_from: Path, *, may_grow: bool = False
) -> None:
    """ValueError that names the first field in which `model` is not what `init_from` has.

    With `may_grow` its vocabulary may be larger.
    """
    for field in dataclasses.fields(ModelConfig):
        found, value = getattr(given, field.name), getattr(model, field.name)
        if field.name == "head_dim":
            found, value = given.head_size, model.head_size
        if field.name == "vocab_size" and value > found:
            require(
                may_grow,
                f"train.init_from ({init_from}) has vocab_size {found}, but the recipe has "
                f"model.vocab_size {value}; leave model.vocab_size out, or set train.new_rows to "
                "mean for tokens that the model does not know",
            )
            continue
        require(
            found == value,
            f"train.init_from ({init_from}) has {field.name} {found}, but the recipe has "
            f"model.{field.name} {value}; leave model.{field.name} out",
        )


def _require_trainable(tree: Mapping[str, Any], path: Path) -> None:
    kind = tree.get("model_type")
    require(kind == "llama", f"train.init_from: {path} is of model_type {kind}, not llama")
    require(
        not tree.get("attention_dropout"),
        f"train.init_from: {path} has attention_dropout {tree.get('attention_dropout')}, which is "
        "not trained here: ranks would draw it differently in every layout; set it to 0.0",
    )
    require(
        tree.get("quantization_config") is None,
        f"train.init_from: {path} has a quantization_config; training needs the weights that were "
        "not quantized",
    )


def _rope(tree: Mapping[str, Any], length: int, path: Path) -> tuple[float, dict[str, Any]]:
    """Base and scaling, from `rope_parameters`, or older files' `rope_scaling` and `rope_theta`.

    As transformers 5 reads them: `rope_scaling` counts where both are there.
    """
    found = dict(tree.get("rope_scaling") or tree.get("rope_parameters") or {})
    theta = float(found.pop("rope_theta", None) or tree.get("rope_theta") or 10_000.0)
    legacy_kind = found.pop("type", "default")
    kind = found.pop("rope_type", legacy_kind)
    require(
        kind in ROPE_TYPES,
        f"train.init_from: {path} has rope scaling of type {kind}, which transformers' LLaMA does "
        f"not have; known are {', '.join(ROPE_TYPES)}",
    )
    partial = found.get("partial_rotary_factor", tree.get("partial_rotary_factor"))
    require(
        kind == "proportional" or partial in (None, 1, 1.0),
        f"train.init_from: {path} has partial_rotary_factor {partial}, which transformers' LLaMA "
        "cannot compute",
    )
    if kind == "proportional" and partial is not None:
        found["partial_rotary_factor"] = partial
    if kind in _WITH_ORIGINAL_LENGTH:
        original = tree.get("original_max_position_embeddings")
        if original is not None:
            found["original_max_position_embeddings"] = original
        found.setdefault("original_max_position_embeddings", length)
    return theta, {} if kind == "default" else {"rope_type": kind, **found}
