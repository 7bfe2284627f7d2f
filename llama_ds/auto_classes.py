"""Registration of this package's model with transformers' AutoModel classes."""

from __future__ import annotations

from typing import Any

from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

from llama_ds.model import LlamaForCausalLM, LlamaModel

_AUTO_CLASSES = ((AutoModel, LlamaModel), (AutoModelForCausalLM, LlamaForCausalLM))


def register() -> None:
    """Make AutoModel and AutoModelForCausalLM (so `pipeline` too) build these classes.

    It affects this process only. A checkpoint does not record which class wrote it.
    """
    for auto_class, model_class in _AUTO_CLASSES:
        auto_class.register(LlamaConfig, model_class, exist_ok=True)
        mapping: Any = auto_class._model_mapping
        # Up to 5.17 transformers silently ignores a registration for one of its own configurations.
        if mapping[LlamaConfig] is not model_class:
            mapping._extra_content[LlamaConfig] = model_class
        assert mapping[LlamaConfig] is model_class, f"{auto_class} does not know {model_class}"


def unregister() -> None:
    """Undo `register`: the AutoModel classes build transformers' own models again."""
    for auto_class, model_class in _AUTO_CLASSES:
        extra = auto_class._model_mapping._extra_content
        if extra.get(LlamaConfig) is model_class:
            del extra[LlamaConfig]
