"""Eligibility for the fused layer: whether it can replace the layer's modules, and why not.

The fused layer reads weights and calls none of the modules that own them. Whatever acts on a module
call (adapters, hooks, offloading, quantized or distributed weights) would be ignored, and what the
fused layer does not implement (biases, dropout, a cache, a mask) would give wrong results.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llama_ds.layer.deviation import DeviationFinder, deviation, has_active_hooks, is_transforming
from llama_ds.layer.modules import LlamaAttention, LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.parallel.tensor import (
    ColumnParallelLinear,
    KeyValueLinear,
    RowParallelLinear,
    TensorParallel,
)

_SILU = (nn.SiLU, type(ACT2FN["silu"]))
_FORWARDS = {
    module_class: module_class.forward
    for module_class in (
        LlamaDecoderLayer,
        LlamaAttention,
        LlamaMLP,
        LlamaRMSNorm,
        ColumnParallelLinear,
        KeyValueLinear,
        RowParallelLinear,
        *_SILU,
    )
}


class Eligibility:
    """Whether the fused layer computes what the modules of a model's decoder layers compute."""

    def __init__(self) -> None:
        self._finder = DeviationFinder()

    def reason_not_fusable(
        self,
        layers: Sequence[nn.Module],
        config: LlamaConfig,
        hidden_states: Tensor,
        tp: TensorParallel,
        sp: SequenceParallel,
    ) -> str | None:
        """Why the modules must be called on `hidden_states`; None where the fused layer can run.

        Mask, cache and requested outputs are checked by the model. The modules are compared with
        those of a layer built from `config`, again only when something on them has changed.
        """

        def built() -> nn.Module:
            with torch.device("meta"):
                return LlamaDecoderLayer(config, 0, tp, sp)

        return (
            _in_config(config)
            or _in_execution(layers, hidden_states.device)
            or self._finder.find(layers, built, _in_layer)
            or self._in_weights(layers, hidden_states.dtype)
        )

    def _in_weights(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> str | None:
        weights = self._finder.parameters()
        if not any(weight.dtype is not dtype or weight.is_meta for weight in weights):
            return None
        for layer in layers:
            # FSDP2 casts weights and input of a layer that it shards when the layer is called.
            if isinstance(layer, FSDPModule):
                continue
            for name, weight in layer.named_parameters():
                if weight.is_meta:
                    return f"{name} is on the meta device"
                if weight.dtype != dtype:
                    return f"{name} is {weight.dtype}, its input {dtype}"
        return None


def _in_config(config: LlamaConfig) -> str | None:
    if config._attn_implementation != "sdpa":
        return f"attn_implementation is {config._attn_implementation}"
    if ALL_ATTENTION_FUNCTIONS.get("sdpa") is not sdpa_attention_forward:
        return "the attention function sdpa was replaced"
    if config.attention_bias or config.mlp_bias:
        return "the projections have biases"
    return None


def _in_execution(layers: Sequence[nn.Module], device: torch.device) -> str | None:
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return "autocast chooses dtypes module by module"
    if is_transforming():
        return "torch.func or forward-mode differentiation is transforming the modules"
    if torch.nn.modules.module._has_any_global_hook():
        return "hooks are registered on the calls of all modules"
    if any(getattr(layer, "gradient_checkpointing", False) and layer.training for layer in layers):
        return "gradient checkpointing is on; save_policy layer_input is its equivalent"
    for module_class, forward in _FORWARDS.items():
        if module_class.forward is not forward:
            return f"the forward of {module_class.__name__} was replaced"
    return None


def _in_layer(layer: nn.Module, built: nn.Module) -> str | None:
    reason = deviation(layer, built)
    if reason is not None:
        return reason
    assert isinstance(layer, LlamaDecoderLayer), "its class has been compared"
    if not isinstance(layer.mlp.act_fn, _SILU):
        return f"mlp.act_fn is a {type(layer.mlp.act_fn).__name__}"
    if layer.self_attn.training and layer.self_attn.attention_dropout:
        return "attention_dropout is set"
    if has_active_hooks(layer, only_with_keywords=True):
        return "a hook on the layer's calls reads keyword arguments"
    return None
