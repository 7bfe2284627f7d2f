"""Causal attention on kernels of optional packages: xformers, FlashAttention-3.

Signatures and shape names are those of `attention_kernels.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from llama_ds.layer.attention_kernels import Documents, Kernel, extent, packed
from llama_ds.layer.functional import repeat_heads, repeat_heads_backward


def _require(module: str, package: str, attention: str) -> Any:
    """The imported module; ValueError where it is not installed."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise ValueError(
            f"train.attention {attention} needs the package {package}, which is not installed; "
            "install it, or set train.attention to auto"
        )
    return importlib.import_module(module)


def xformers() -> Kernel:
    """xformers' memory-efficient attention (arXiv 2112.05682), which LLaMA was trained with."""
    ops = _require("xformers.ops", "xformers", "xformers")

    def mask(documents: Documents | None) -> Any:
        if documents is None:
            return ops.LowerTriangularMask()
        return ops.fmha.attn_bias.BlockDiagonalCausalMask.from_seqlens(list(documents.lengths))

    def as_one_sequence(documents: Documents | None, *tensors: Tensor) -> list[Tensor]:
        """xformers takes packed documents as one long sequence."""
        return [x.unsqueeze(0) if documents else x for x in packed(documents, *tensors)]

    def forward(
        q: Tensor, k: Tensor, v: Tensor, documents: Documents | None
    ) -> tuple[Tensor, Tensor]:
        qkv = as_one_sequence(
            documents, q, repeat_heads(k, q.shape[2]), repeat_heads(v, q.shape[2])
        )
        out, lse = ops.fmha.memory_efficient_attention_forward_requires_grad(
            *qkv, attn_bias=mask(documents)
        )
        return out.view(q.shape), lse

    def backward(
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        documents: Documents | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        shared_k, shared_v = repeat_heads(k, q.shape[2]), repeat_heads(v, q.shape[2])
        dout_, out_, *qkv = as_one_sequence(documents, dout, out, q, shared_k, shared_v)
        dq, dk, dv = ops.fmha.memory_efficient_attention_backward(
            dout_, out_, lse, *qkv, attn_bias=mask(documents)
        )
        return (
            dq.view(q.shape),
            repeat_heads_backward(dk.view(shared_k.shape), k.shape[2]),
            repeat_heads_backward(dv.view(shared_v.shape), v.shape[2]),
        )

    return Kernel("xformers", forward, backward)


def flash_attn() -> Kernel:
    """FlashAttention-3 for Hopper GPUs, from the package built in flash-attention's `hopper`."""
    interface = _require("flash_attn_interface", "flash_attn_3", "flash_attn")

    def lengths(q: Tensor, documents: Documents | None) -> dict[str, Any]:
        if documents is None:
            return {}
        cu_lengths, longest = extent(q, documents)
        return {
            "cu_seqlens_q": cu_lengths,
            "cu_seqlens_k": cu_lengths,
            "max_seqlen_q": longest,
            "max_seqlen_k": longest,
        }

    def forward(
        q: Tensor, k: Tensor, v: Tensor, documents: Documents | None
    ) -> tuple[Tensor, Tensor]:
        out, lse, *_ = interface._flash_attn_forward(
            *packed(documents, q, k, v),
            **lengths(q, documents),
            softmax_scale=q.shape[-1] ** -0.5,
            causal=True,
        )
        return out.view(q.shape), lse

    def backward(
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        documents: Documents | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tensors = packed(documents, dout, q, k, v, out)
        dq, dk, dv = (torch.empty_like(x) for x in tensors[1:4])
        interface._flash_attn_backward(
            *tensors,
            lse,
            **lengths(q, documents),
            dq=dq,
            dk=dk,
            dv=dv,
            softmax_scale=q.shape[-1] ** -0.5,
            is_causal=True,
        )
        return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape)

    return Kernel("flash_attn", forward, backward)
