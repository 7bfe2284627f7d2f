"""The decoder layer: attention and MLP, each behind a norm, under tensor and sequence parallelism.

It exists twice, with equal results. The modules below are the plain layer: autograd finds the
backward pass, and saves what it likes. `FusedLayer`, at the end, is the whole layer as one function
whose backward pass is written by hand and saves what the `SavePolicy` says; training runs on it
wherever it may stand in for the modules (`fallback.py`).

Outside the blocks activations are [B, s, D], inside [B, S, heads or features of this rank]; see
`tensor_parallel.py` and `sequence_parallel.py` for what is sent where. For a single rank both are
the identity.

Shapes in names: B rows, S sequence, D hidden, H heads, K kv heads, E head dim, F intermediate.
Lower case is a rank's part: s of the sequence outside the blocks (S / tp with Megatron's sequence
parallelism), h, k, f of what tensor parallelism divides. Under Ulysses S is itself a slice, and
attention sees T = S * sp positions of g = h / sp heads and j key/value heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from llama_ds.attention_kernels import Documents, Kernel
from llama_ds.collectives import summed
from llama_ds.functional import (
    repeat_heads,
    repeat_heads_backward,
    rms_norm,
    rms_norm_backward,
    rotary,
    rotary_backward,
    swiglu,
    swiglu_backward,
)
from llama_ds.save_policy import SavePolicy
from llama_ds.sequence_parallel import SequenceParallel
from llama_ds.tensor_parallel import (
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
        weight = self.tp.replicated(self.weight)
        return rms_norm(hidden_states, weight, self.variance_epsilon)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class LlamaMLP(nn.Module):
    def __init__(self, config: LlamaConfig, tp: TensorParallel) -> None:
        super().__init__()
        hidden, intermediate, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = ColumnParallelLinear(hidden, intermediate, bias, tp)
        self.up_proj = ColumnParallelLinear(hidden, intermediate, bias, tp)
        self.down_proj = RowParallelLinear(intermediate, hidden, bias, tp)
        self.tp = tp
        # LLaMA's own activation has a function of its own, which a fused backward can replace.
        self.act_fn = None if config.hidden_act == "silu" else ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.tp.enter(hidden_states)
        gate, up = self.gate_proj(hidden_states), self.up_proj(hidden_states)
        product = swiglu(gate, up) if self.act_fn is None else self.act_fn(gate) * up
        return cast(Tensor, self.down_proj(product))


class LlamaAttention(nn.Module):
    """Causal self-attention; the scores are computed by transformers' chosen attention back end."""

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
        # Read from this module by the attention back ends.
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
        q_BHSE = rotary(q_BHSE, *position_embeddings)
        k_BKSE = rotary(k_BKSE, *position_embeddings)
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
        self.self_attn = LlamaAttention(config, layer_idx, tp, sp)
        self.mlp = LlamaMLP(config, tp)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps, tp)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps, tp)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        fused: FusedOptions | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """[B, s, D] -> [B, s, D]; with `fused` by the function below, whose options these are."""
        if fused is not None:
            out: Tensor = FusedLayer.apply(  # type: ignore[no-untyped-call]
                hidden_states, *position_embeddings, self._fixed(fused), *self._weights()
            )
            return out
        attended, _ = self.self_attn(
            self.input_layernorm(hidden_states), position_embeddings=position_embeddings, **kwargs
        )
        hidden_states = hidden_states + attended
        normed = self.post_attention_layernorm(hidden_states)
        return hidden_states + cast(Tensor, self.mlp(normed))

    def _fixed(self, fused: FusedOptions) -> Fixed:
        attention, norm = self.self_attn, self.input_layernorm
        return Fixed(fused, attention.tp, attention.sp, attention.head_dim, norm.variance_epsilon)

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


# -- the layer as one function --------------------------------------------------------------------


class LayerWeights(NamedTuple):
    """This rank's weights, [out, in] as in `nn.Linear`; also their gradients."""

    attn_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class FusedOptions:
    """What all layers of one forward pass share."""

    policy: SavePolicy
    attention: Kernel
    documents: Documents | None
    """Of whole rows, where several lie in a row."""


@dataclass(frozen=True)
class Fixed:
    """All that the function needs beside tensors."""

    options: FusedOptions
    tp: TensorParallel
    sp: SequenceParallel
    head_dim: int
    eps: float


@dataclass
class Activations:
    """The layer's tensors, each by the name that a `SavePolicy` gives it; None: not computed."""

    x: Tensor
    attn_normed: Tensor | None = None
    attn_in: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    attn_out: Tensor | None = None
    lse: Tensor | None = None
    o_in: Tensor | None = None
    mid: Tensor | None = None
    mlp_normed: Tensor | None = None
    mlp_in: Tensor | None = None
    gate: Tensor | None = None
    up: Tensor | None = None
    product: Tensor | None = None

    def only(self, names: tuple[str, ...]) -> Activations:
        """The tensors of these names."""
        return Activations(**{name: getattr(self, name) for name in names})


class FusedLayer(torch.autograd.Function):
    """The decoder layer with its backward pass; `LlamaDecoderLayer` in ten steps.

    Forward and backward share `_attention_half` and `_mlp_half`, which compute what `Activations`
    lacks: in the forward pass everything, in the backward pass what was not kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BsD: Tensor, cos_BSE: Tensor, sin_BSE: Tensor, fixed: Fixed, *weights: Tensor
    ) -> Tensor:
        w, kept = LayerWeights(*weights), fixed.options.policy.kept()
        a = Activations(x=x_BsD)
        mid_BsD = _attention_half(a, w, cos_BSE, sin_BSE, fixed)
        a = Activations(**{**vars(a.only(kept)), "mid": mid_BsD})
        product_BSf = _mlp_half(a, w, fixed)
        # 10. Down projection, summed over the ranks, onto the residual stream.
        out_BsD = mid_BsD + fixed.tp.summed(F.linear(product_BSf, w.down))

        ctx.fixed, ctx.kept = fixed, kept
        saved = a.only(kept)
        ctx.save_for_backward(cos_BSE, sin_BSE, *weights, *(getattr(saved, name) for name in kept))
        return out_BsD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BsD: Tensor) -> tuple[Tensor | None, ...]:
        fixed: Fixed = ctx.fixed
        num_weights = len(LayerWeights._fields)
        cos_BSE, sin_BSE, *tensors = ctx.saved_tensors
        w = LayerWeights(*tensors[:num_weights])
        a = Activations(**dict(zip(ctx.kept, tensors[num_weights:], strict=True)))
        if a.mid is None:
            _attention_half(a, w, cos_BSE, sin_BSE, fixed)
        dmid_BsD, mlp = _mlp_half_backward(dout_BsD, a, w, fixed)
        a.mlp_normed = a.mlp_in = a.gate = a.up = a.product = None
        dx_BsD, attn = _attention_half_backward(dmid_BsD, a, w, cos_BSE, sin_BSE, fixed)
        return dx_BsD, None, None, None, *LayerWeights(**attn, **mlp)


def _attention_half(
    a: Activations, w: LayerWeights, cos_BSE: Tensor, sin_BSE: Tensor, fixed: Fixed
) -> Tensor:
    """Fill in what `a` lacks up to `mid`, which is returned."""
    tp, sp, options = fixed.tp, fixed.sp, fixed.options

    def rotated(x_BSHE: Tensor) -> Tensor:
        return rotary(x_BSHE.transpose(1, 2), cos_BSE, sin_BSE).transpose(1, 2)

    # 1. Norm; the ranks' parts of the sequence come together.
    if a.attn_in is None:
        if a.attn_normed is None:
            a.attn_normed = rms_norm(a.x, w.attn_norm, fixed.eps)
        a.attn_in = tp.gathered(a.attn_normed)
    # 2. Queries, keys and values of this rank's heads, rotated; 3. all positions of fewer heads.
    heads_last = (*a.attn_in.shape[:-1], -1, fixed.head_dim)
    num_kv_heads = w.k.shape[0] // fixed.head_dim
    # The exchange gives every rank as many heads.
    num_exchanged = num_kv_heads * sp.kv_repeats(num_kv_heads)
    if a.q is None:
        q_BShE = rotated(F.linear(a.attn_in, w.q).view(heads_last))
        a.q = sp.exchanged_to_heads(q_BShE)
    if a.k is None:
        k_BSkE = rotated(F.linear(a.attn_in, w.k).view(heads_last))
        a.k = sp.exchanged_to_heads(repeat_heads(k_BSkE, num_exchanged))
    if a.v is None:
        v_BSkE = F.linear(a.attn_in, w.v).view(heads_last)
        a.v = sp.exchanged_to_heads(repeat_heads(v_BSkE, num_exchanged))
    # 4. Attention.
    if a.attn_out is None:
        a.attn_out, a.lse = options.attention.forward(a.q, a.k, a.v, options.documents)
    # 5. All heads of this rank's positions again.
    if a.o_in is None:
        a.o_in = sp.exchanged_to_sequence(a.attn_out).flatten(2)
    # 6. Output projection, summed over the ranks, onto the residual stream.
    if a.mid is None:
        a.mid = a.x + tp.summed(F.linear(a.o_in, w.o))
    return a.mid


def _attention_half_backward(
    dmid_BsD: Tensor,
    a: Activations,
    w: LayerWeights,
    cos_BSE: Tensor,
    sin_BSE: Tensor,
    fixed: Fixed,
) -> tuple[Tensor, dict[str, Tensor]]:
    """dx, and the gradients of attention's weights by name."""
    tp, sp, options = fixed.tp, fixed.sp, fixed.options
    _attention_half(a, w, cos_BSE, sin_BSE, fixed)
    q, k, v, attn_out = _present(a.q), _present(a.k), _present(a.v), _present(a.attn_out)
    attn_in_BSD = _present(a.attn_in)

    def rotated_back(dx_BSHE: Tensor) -> Tensor:
        return rotary_backward(dx_BSHE.transpose(1, 2), cos_BSE, sin_BSE).transpose(1, 2)

    # 6. The residual stream passes dmid on; the projection sees the gradient of every position.
    do_out_BSD = tp.gathered(dmid_BsD)
    do_in_BSd = do_out_BSD @ w.o
    do = _weight_gradient(do_out_BSD, _present(a.o_in))
    # 5.
    dattn_out_BTgE = sp.exchanged_to_heads(do_in_BSd.unflatten(2, (-1, fixed.head_dim)))
    # 4.
    dq_BTgE, dk_BTjE, dv_BTjE = options.attention.backward(
        dattn_out_BTgE, q, k, v, attn_out, _present(a.lse), options.documents
    )
    # 3. and 2.
    num_kv_heads = w.k.shape[0] // fixed.head_dim
    dq_BSh = rotated_back(sp.exchanged_to_sequence(dq_BTgE)).flatten(2)
    dk_BSkE = repeat_heads_backward(sp.exchanged_to_sequence(dk_BTjE), num_kv_heads)
    dk_BSk = rotated_back(dk_BSkE).flatten(2)
    dv_BSk = repeat_heads_backward(sp.exchanged_to_sequence(dv_BTjE), num_kv_heads).flatten(2)
    dattn_in_BSD = dq_BSh @ w.q + dk_BSk @ w.k + dv_BSk @ w.v
    # 1.
    dnormed_BsD = tp.summed(dattn_in_BSD)
    dx_BsD, dnorm = rms_norm_backward(dnormed_BsD, a.x, w.attn_norm, fixed.eps)
    return dmid_BsD + dx_BsD, {
        "attn_norm": tp.summed_replicated(dnorm),
        "q": _weight_gradient(dq_BSh, attn_in_BSD),
        # Ranks that hold the same key/value heads share their gradient.
        "k": summed(_weight_gradient(dk_BSk, attn_in_BSD), tp.kv_group),
        "v": summed(_weight_gradient(dv_BSk, attn_in_BSD), tp.kv_group),
        "o": do,
    }


def _mlp_half(a: Activations, w: LayerWeights, fixed: Fixed) -> Tensor:
    """Fill in what `a` lacks from `mid` up to `product`, which is returned."""
    # 7. Norm; the ranks' parts of the sequence come together.
    if a.mlp_in is None:
        if a.mlp_normed is None:
            a.mlp_normed = rms_norm(_present(a.mid), w.mlp_norm, fixed.eps)
        a.mlp_in = fixed.tp.gathered(a.mlp_normed)
    # 8. The two wide projections.
    if a.gate is None:
        a.gate = F.linear(a.mlp_in, w.gate)
    if a.up is None:
        a.up = F.linear(a.mlp_in, w.up)
    # 9. SwiGLU.
    if a.product is None:
        a.product = swiglu(a.gate, a.up)
    return a.product


def _mlp_half_backward(
    dout_BsD: Tensor, a: Activations, w: LayerWeights, fixed: Fixed
) -> tuple[Tensor, dict[str, Tensor]]:
    """dmid, and the gradients of the MLP's weights by name."""
    tp = fixed.tp
    _mlp_half(a, w, fixed)
    mid_BsD, mlp_in_BSD, gate_BSf, up_BSf = map(_present, (a.mid, a.mlp_in, a.gate, a.up))
    # 10. The residual stream passes dout on; the projection sees the gradient of every position.
    ddown_out_BSD = tp.gathered(dout_BsD)
    dproduct_BSf = ddown_out_BSD @ w.down
    ddown = _weight_gradient(ddown_out_BSD, _present(a.product))
    # 9.
    dgate_BSf, dup_BSf = swiglu_backward(dproduct_BSf, gate_BSf, up_BSf)
    # 8.
    dmlp_in_BSD = dgate_BSf @ w.gate + dup_BSf @ w.up
    # 7.
    dnormed_BsD = tp.summed(dmlp_in_BSD)
    dmid_BsD, dnorm = rms_norm_backward(dnormed_BsD, mid_BsD, w.mlp_norm, fixed.eps)
    return dout_BsD + dmid_BsD, {
        "mlp_norm": tp.summed_replicated(dnorm),
        "gate": _weight_gradient(dgate_BSf, mlp_in_BSD),
        "up": _weight_gradient(dup_BSf, mlp_in_BSD),
        "down": ddown,
    }


def _weight_gradient(dout_BSO: Tensor, x_BSI: Tensor) -> Tensor:
    """[out, in], of `out = x @ weight.T`: summed over all positions."""
    return dout_BSO.flatten(0, 1).mT @ x_BSI.flatten(0, 1)


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "a half of the layer has left out a tensor"
    return tensor
