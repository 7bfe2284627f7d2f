"""The decoder layer as one function with its backward pass written by hand.

`docs/layer.md` draws its ten steps: `attention_half.py` has 1 to 6, `mlp_half.py` 7 to 10. A half
computes what `Activations` lacks, in the forward pass everything, in the backward pass what was not
kept, so that no formula stands twice.

Every collective is begun before something that does not depend on it and waited for afterwards. In
the backward pass that is the gradient of a weight, which nobody is waiting for.

Shapes in names: B rows, S sequence, D hidden, H heads, K kv heads, E head dim, F intermediate.
Lower case is a rank's part: s of the sequence outside the blocks (S / tp with Megatron's sequence
parallelism), h, k, f of what tensor parallelism divides. Under Ulysses S is itself a slice, and
attention sees T = S * sp positions of g = h / sp heads and j key/value heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llama_ds.layer.attention_half import attention_half, attention_half_backward
from llama_ds.layer.mlp_half import mlp_half, mlp_half_backward
from llama_ds.layer.tensors import Activations, Fixed, LayerWeights


class FusedLayer(torch.autograd.Function):
    """`LlamaDecoderLayer` as a function of its input and weights."""

    @staticmethod
    def forward(
        ctx: Any, x_BsD: Tensor, cos_BSE: Tensor, sin_BSE: Tensor, fixed: Fixed, *weights: Tensor
    ) -> Tensor:
        w, kept = LayerWeights(*weights), fixed.options.policy.kept()
        needed = kept + fixed.offloaded
        a = Activations(x=x_BsD)
        a.mid = attention_half(a, w, (cos_BSE, sin_BSE), fixed, needed)
        a.drop_all_but(("x", "mid", *needed))
        out_BsD = mlp_half(a, w, fixed, needed)

        ctx.fixed, ctx.kept, ctx.host = fixed, kept, None
        ctx.save_for_backward(cos_BSE, sin_BSE, *weights, *(getattr(a, name) for name in kept))
        if fixed.options.offload is not None and any(ctx.needs_input_grad):
            tensors = {name: getattr(a, name) for name in fixed.offloaded}
            ctx.host = fixed.options.offload.begin(tensors)
        return out_BsD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BsD: Tensor) -> tuple[Tensor | None, ...]:
        fixed: Fixed = ctx.fixed
        num_weights = len(LayerWeights._fields)
        cos_BSE, sin_BSE, *tensors = ctx.saved_tensors
        tables = (cos_BSE, sin_BSE)
        w = LayerWeights(*tensors[:num_weights])
        from_host = {} if ctx.host is None else ctx.host.take()
        a = Activations(**dict(zip(ctx.kept, tensors[num_weights:], strict=True)), **from_host)
        if a.mid is None:
            attention_half(a, w, tables, fixed, kept=("attn_in",))
        dmid_BsD, do_out, mlp = mlp_half_backward(dout_BsD, a, w, fixed)
        dx_BsD, attention = attention_half_backward(dmid_BsD, do_out, a, w, tables, fixed)
        # Sums of weight gradients over ranks have had all this time.
        dweights = {name: pending.wait() for name, pending in {**attention, **mlp}.items()}
        return dx_BsD, None, None, None, *LayerWeights(**dweights)
