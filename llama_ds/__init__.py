"""LLaMA-1 pre-training on DeepSpeed, with a model that keeps Hugging Face's contract."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_ds.auto_classes import register, unregister
    from llama_ds.model import LlamaForCausalLM, LlamaModel

__all__ = ["LlamaForCausalLM", "LlamaModel", "register", "unregister"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import llama_ds.config` reports a wrong option before torch is loaded.
    if name in __all__:
        module = "model" if name.startswith("Llama") else "auto_classes"
        return getattr(importlib.import_module(f"llama_ds.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
