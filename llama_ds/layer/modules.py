"""The decoder layer as modules: pre-norm attention and MLP, under tensor and sequence parallelism.

The layer exists twice, with equal results. These modules are the plain layer, whose backward pass
and saved activations are autograd's. `FusedLayer` of `layer/fused.py` is the whole layer as one
function with a hand-written backward pass, which saves what the `SavePolicy` says; training runs on
it wherever it can replace the modules (`layer/eligibility.py`).

Outside the blocks activations are [B, s, D], inside [B, S, heads or features of this rank]; see
`parallel/tensor.py` and `parallel/sequence.py` for the collectives. For a single rank both are the
identity.

Shapes in names: B sequences of the micro-batch, S sequence length, s a rank's shard of it outside
the blocks, D hidden, H heads, K kv heads, E head dim.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from llama_ds.layer.context import ForwardContext, LayerContext
from llama_ds.layer.functional import accumulation_dtype
from llama_ds.layer.fused import FusedLayer
from llama_ds.layer.tensors import LayerWeights
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.parallel.tensor import (
    ColumnParallelLinear,
    KeyValueLinear,
    RowParallelLinear,
    TensorParallel,
)


class LlamaRMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float, tp: TensorParallel) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps
        self.tp = tp

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = hidden_states.to(accumulation_dtype(hidden_states.dtype))
        normalized = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.tp.replicated(self.weight) * normalized.to(hidden_states.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class LlamaMLP(nn.Module):
    def __init__(self, config: LlamaConfig, tp: TensorParallel) -> None:
        super().__init__()
        hidden, intermediate, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        # As in transformers, for whoever asks a model for its sizes.
        self.config, self.hidden_size, self.intermediate_size = config, hidden, intermediate
        self.gate_proj = ColumnParallelLinear(hidden, intermediate, bias, tp)
        self.up_proj = ColumnParallelLinear(hidden, intermediate, bias, tp)
        self.down_proj = RowParallelLinear(intermediate, hidden, bias, tp)
        self.tp = tp
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.tp.enter(hidden_states)
        gate, up = self.gate_proj(hidden_states), self.up_proj(hidden_states)
        return cast(Tensor, self.down_proj(self.act_fn(gate) * up))


class LlamaAttention(nn.Module):
    """Causal self-attention, on the attention backend that transformers is configured for."""

    def __init__(
        self, config: LlamaConfig, layer_idx: int, tp: TensorParallel, sp: SequenceParallel
    ) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.tp = tp
        self.sp = sp
        self.head_dim: int = config.head_dim or config.hidden_size // config.num_attention_heads
        num_key_value_heads = config.num_key_value_heads or config.num_attention_heads
        num_local_heads = config.num_attention_heads // tp.size
        num_local_kv_heads = max(1, num_key_value_heads // tp.size)
        # Read from this module by the attention backends.
        self.num_key_value_groups = num_local_heads // (
            num_local_kv_heads * sp.kv_repeats(num_local_kv_heads)
        )
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        query_size = config.num_attention_heads * self.head_dim
        key_size = num_key_value_heads * self.head_dim
        hidden, bias = config.hidden_size, config.attention_bias
        self.q_proj = ColumnParallelLinear(hidden, query_size, bias, tp)
        self.k_proj = KeyValueLinear(hidden, key_size, bias, tp)
        self.v_proj = KeyValueLinear(hidden, key_size, bias, tp)
        self.o_proj = RowParallelLinear(query_size, hidden, bias, tp)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        hidden_states = self.tp.enter(hidden_states)
        rows_and_sequence = hidden_states.shape[:-1]
        # -1 heads: under tensor parallelism a projection gives this rank's heads only.
        heads_last = (*rows_and_sequence, -1, self.head_dim)
        q_BHSE = self.q_proj(hidden_states).view(heads_last).transpose(1, 2)
        k_BKSE = self.k_proj(hidden_states).view(heads_last).transpose(1, 2)
        v_BKSE = self.v_proj(hidden_states).view(heads_last).transpose(1, 2)
        q_BHSE, k_BKSE = apply_rotary_pos_emb(q_BHSE, k_BKSE, *position_embeddings)
        q_BHSE = self.sp.queries_to_heads(q_BHSE)
        k_BKSE, v_BKSE = self.sp.keys_to_heads(k_BKSE), self.sp.keys_to_heads(v_BKSE)
        if past_key_values is not None:
            k_BKSE, v_BKSE = past_key_values.update(k_BKSE, v_BKSE, self.layer_idx)

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        out_BSHE, scores = attend(
            self,
            q_BHSE,
            k_BKSE,
            v_BKSE,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        out_BSHE = self.sp.to_sequence(out_BSHE)
        return self.o_proj(out_BSHE.reshape(*rows_and_sequence, -1).contiguous()), scores


class LlamaDecoderLayer(GradientCheckpointingLayer):
    def __init__(
        self,
        config: LlamaConfig,
        layer_idx: int,
        tp: TensorParallel,
        sp: SequenceParallel,
    ) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.self_attn = LlamaAttention(config, layer_idx, tp, sp)
        self.mlp = LlamaMLP(config, tp)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps, tp)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps, tp)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        fused: ForwardContext | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """[B, s, D] -> [B, s, D]; by `FusedLayer` where its context `fused` is given."""
        if fused is not None:
            out: Tensor = FusedLayer.apply(  # type: ignore[no-untyped-call]
                hidden_states, *position_embeddings, self._context(fused), *self._weights()
            )
            return out
        # By the keywords that transformers' layer uses, for hooks that read them.
        attended, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            position_embeddings=position_embeddings,
            **kwargs,
        )
        hidden_states = hidden_states + attended
        normed = self.post_attention_layernorm(hidden_states)
        return hidden_states + cast(Tensor, self.mlp(normed))

    def _context(self, forward: ForwardContext) -> LayerContext:
        attention, eps = self.self_attn, self.input_layernorm.variance_epsilon
        return LayerContext(forward, attention.tp, attention.sp, attention.head_dim, eps)

    def _weights(self) -> LayerWeights:
        attention, mlp = self.self_attn, self.mlp
        return LayerWeights(
            attn_norm=self.input_layernorm.weight,
            q=attention.q_proj.weight,
            k=attention.k_proj.weight,
            v=attention.v_proj.weight,
            o=attention.o_proj.weight,
            mlp_norm=self.post_attention_layernorm.weight,
            gate=mlp.gate_proj.weight,
            up=mlp.up_proj.weight,
            down=mlp.down_proj.weight,
        )
