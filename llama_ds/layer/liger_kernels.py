"""Liger's Triton kernels (arXiv 2410.10989) with the signatures of `functional.py`.

Importing this module needs the package liger-kernel; `elementwise.liger` checks for it. The kernels
take contiguous tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from liger_kernel.ops import rms_norm as norm_ops
from liger_kernel.ops import rope as rope_ops
from liger_kernel.ops import swiglu as swiglu_ops
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out: Tensor = norm_ops.rms_norm_forward(x.contiguous(), weight, eps, 0.0, "llama", None)[0]
    return out


def rms_norm_backward(dout: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    # The forward kernel again, for its inverse RMS and launch settings.
    _, rows, inverse_rms, block_size, num_warps, mode = norm_ops.rms_norm_forward(
        x.contiguous(), weight, eps, 0.0, "llama", None
    )
    dx, dweight = norm_ops.rms_norm_backward(
        dout.contiguous(),
        rows,
        weight,
        inverse_rms,
        0.0,
        mode,
        block_size,
        num_warps,
        False,
        None,
    )
    return dx, dweight


def rotary(x_BSHE: Tensor, cos_BSE: Tensor, sin_BSE: Tensor) -> Tensor:
    return _rotate(rope_ops.rope_forward, x_BSHE, cos_BSE, sin_BSE)


def rotary_backward(dout_BSHE: Tensor, cos_BSE: Tensor, sin_BSE: Tensor) -> Tensor:
    return _rotate(rope_ops.rope_backward, dout_BSHE, cos_BSE, sin_BSE)


def _rotate(kernel: Callable[..., Any], x_BSHE: Tensor, *tables: Tensor) -> Tensor:
    # A kernel rotates queries and keys together, in place; here they come one at a time.
    others = x_BSHE.new_zeros(*x_BSHE.shape[:2], 1, x_BSHE.shape[3])
    copy = x_BSHE.clone(memory_format=torch.contiguous_format)
    out, *_ = kernel(copy.transpose(1, 2), others.transpose(1, 2), *tables)
    return cast(Tensor, out.transpose(1, 2))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    product: Tensor = swiglu_ops.swiglu_forward(gate.contiguous(), up.contiguous())[2]
    return product


def swiglu_backward(dout: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    # The kernel overwrites gate and up with their gradients; others may still need them.
    dgate, dup = (x.clone(memory_format=torch.contiguous_format) for x in (gate, up))
    width = dout.shape[-1]
    swiglu_ops.swiglu_backward(dgate.view(-1, width), dup.view(-1, width), dout.contiguous())
    return dgate, dup


def swiglu_backward_with_product(
    dout: Tensor, gate: Tensor, up: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return *swiglu_backward(dout, gate, up), swiglu(gate, up)
