"""Eligibility for the fused layer: whether it can replace the layer's modules, and why not.

The fused layer reads weights and calls none of the modules that own them. Whatever acts on a module
call (adapters, hooks, offloading, quantized or distributed weights) would be ignored, and what the
fused layer does not implement (biases, dropout, a cache, a mask) would give wrong results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llama_ds.layer.modules import LlamaAttention, LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm
from llama_ds.parallel.tensor import ColumnParallelLinear, KeyValueLinear, RowParallelLinear

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# transformers installs these permanently; they act only with output_attentions.
_INACTIVE_HOOKS = "transformers.utils.output_capturing"


def reason_not_fusable(
    layers: Sequence[nn.Module], config: LlamaConfig, hidden_states: Tensor, *, training: bool
) -> str | None:
    """Why the modules must be called on `hidden_states`; None where the fused layer can run.

    Mask, cache and requested outputs are checked by the model.
    """
    reason = _in_config(config, training) or _in_execution(layers, hidden_states.device)
    if reason is not None:
        return reason
    for layer in layers:
        if type(layer) is not LlamaDecoderLayer:
            return f"a {type(layer).__name__} is one of the layers"
        for name, expected in _PARTS.items():
            reason = _in_module(layer.get_submodule(name), expected, hidden_states.dtype)
            if reason is not None:
                return f"{name}: {reason}"
    return None


def _in_config(config: LlamaConfig, training: bool) -> str | None:
    if config._attn_implementation != "sdpa":
        return f"attn_implementation is {config._attn_implementation}"
    if ALL_ATTENTION_FUNCTIONS.get("sdpa") is not sdpa_attention_forward:
        return "the attention function sdpa was replaced"
    if config.attention_dropout and training:
        return "attention_dropout is set"
    if config.hidden_act != "silu":
        return f"hidden_act is {config.hidden_act}"
    return None


def _in_execution(layers: Sequence[nn.Module], device: torch.device) -> str | None:
    if torch.compiler.is_compiling():
        return "torch.compile is tracing the modules"
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return "autocast chooses dtypes module by module"
    if any(getattr(layer, "gradient_checkpointing", False) and layer.training for layer in layers):
        return "gradient checkpointing is on; save_policy layer_input is its equivalent"
    return None


_PARTS: dict[str, type[nn.Module]] = {
    "self_attn": LlamaAttention,
    "self_attn.q_proj": ColumnParallelLinear,
    "self_attn.k_proj": KeyValueLinear,
    "self_attn.v_proj": KeyValueLinear,
    "self_attn.o_proj": RowParallelLinear,
    "mlp": LlamaMLP,
    "mlp.gate_proj": ColumnParallelLinear,
    "mlp.up_proj": ColumnParallelLinear,
    "mlp.down_proj": RowParallelLinear,
    "input_layernorm": LlamaRMSNorm,
    "post_attention_layernorm": LlamaRMSNorm,
}


def _in_module(module: nn.Module, expected: type[nn.Module], dtype: torch.dtype) -> str | None:
    if type(module) is not expected:
        return f"it was replaced by a {type(module).__name__}"
    if "forward" in vars(module):
        return "its forward was replaced"
    if any(_is_active(hook) for hooks in _HOOKS for hook in getattr(module, hooks).values()):
        return "it has hooks"
    if getattr(module, "bias", None) is not None:
        return "it has a bias"
    weight = getattr(module, "weight", None)
    if weight is None:
        return None
    if isinstance(weight, DTensor):
        return "its weight is a DTensor"
    if weight.is_meta:
        return "its weight is on the meta device"
    return None if weight.dtype == dtype else f"its weight is {weight.dtype}, its input {dtype}"


def _is_active(hook: Any) -> bool:
    return getattr(hook, "__module__", None) != _INACTIVE_HOOKS
