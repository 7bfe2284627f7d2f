"""Causal attention as pairs of forward and backward functions, on PyTorch's own kernels.

A forward function returns the output and `lse`, the log-sum-exp of every query's scores; its
backward function needs only these beside q, k and v. No kernel but `math` materializes the scores
or computes masked ones. Packed documents do not attend to each other (document masking).

Shapes in names: B sequences of the micro-batch, S sequence length, H query heads, K key/value
heads, E head dim, T = B S. The shape of `lse` depends on the kernel; it has one number per query
and head.

The PyTorch functions used here are those under `scaled_dot_product_attention`. They are not
documented; `tests/llama_ds/layer/test_attention.py` pins them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from llama_ds.layer.functional import repeat_heads, repeat_heads_backward

aten = torch.ops.aten


@dataclass(frozen=True)
class Documents:
    """Boundaries of documents packed into sequences; a sequence starts a document."""

    lengths: tuple[int, ...]
    """Tokens of each document, in order over all sequences."""
    cu_lengths: Tensor
    """[documents + 1] int32, cumulative lengths: their first tokens, and T."""

    @classmethod
    def of(cls, position_ids_BS: Tensor) -> Documents | None:
        """A document starts where a position is not the previous one plus one, as in transformers.

        None where each sequence is one document. Synchronizes with the GPU.
        """
        is_first = torch.ones_like(position_ids_BS, dtype=torch.bool)
        is_first[:, 1:] = position_ids_BS.diff(dim=1) != 1
        if int(is_first.sum()) == len(position_ids_BS):
            return None
        starts = is_first.flatten().nonzero().flatten()
        ends = starts.new_full((1,), is_first.numel())
        cu_lengths = torch.cat((starts, ends)).to(torch.int32)
        return cls(tuple(cu_lengths.diff().tolist()), cu_lengths)


class Kernel(NamedTuple):
    """`forward(q_BSHE, k_BSKE, v_BSKE, documents)` -> (out_BSHE, lse).

    `backward(dout_BSHE, q, k, v, out, lse, documents)` -> (dq, dk, dv). Scores are divided by
    sqrt(E).
    """

    name: str
    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


# -- packed documents ------------------------------------------------------------------------------


def _split(x_BSHE: Tensor, documents: Documents) -> list[Tensor]:
    """Each document as a sequence of its own, [1, its length, H, E]."""
    return [x.unsqueeze(0) for x in x_BSHE.flatten(0, 1).split(documents.lengths)]


def _concat(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(parts, dim=1).view(like.shape)


# -- plain tensor operations: any device, any dtype -----------------------------------------------


def _math_scores(q_BHSE: Tensor, k_BHSE: Tensor, documents: Documents | None) -> Tensor:
    """Scores in the accumulation dtype, masked (-inf) for later keys and other documents."""
    rows, _, length, width = q_BHSE.shape
    dtype = torch.promote_types(q_BHSE.dtype, torch.float32)
    scores: Tensor = (q_BHSE.to(dtype) @ k_BHSE.to(dtype).mT) * width**-0.5
    masked = torch.ones(length, length, dtype=torch.bool, device=q_BHSE.device).triu(1)
    if documents is not None:
        numbers = torch.arange(len(documents.lengths), device=q_BHSE.device)
        lengths = documents.cu_lengths.diff()
        document_BS = numbers.repeat_interleave(lengths).view(rows, 1, length)
        masked = masked | (document_BS.unsqueeze(2) != document_BS.unsqueeze(3))
    scores.masked_fill_(masked, float("-inf"))
    return scores


def _math_forward(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents | None
) -> tuple[Tensor, Tensor]:
    k, v = repeat_heads(k, q.shape[2]).transpose(1, 2), repeat_heads(v, q.shape[2]).transpose(1, 2)
    scores = _math_scores(q.transpose(1, 2), k, documents)
    lse = scores.logsumexp(-1)
    out_BHSE = (scores - lse.unsqueeze(-1)).exp() @ v.to(scores.dtype)
    return out_BHSE.transpose(1, 2).to(q.dtype), lse


def _math_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    documents: Documents | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """With p the softmax: dv = p^T dout, dscores = p (dout v^T - sum(dout out)), then dq and dk.

    The sum is the gradient of the softmax's normalizer (arXiv 2205.14135, appendix B.2).
    """
    num_heads, num_kv_heads, dtype = q.shape[2], k.shape[2], lse.dtype
    shared_k, shared_v = repeat_heads(k, num_heads).transpose(1, 2), repeat_heads(v, num_heads)
    p = (_math_scores(q.transpose(1, 2), shared_k, documents) - lse.unsqueeze(-1)).exp()
    dout_BHSE = dout.transpose(1, 2).to(dtype)
    dv = p.mT @ dout_BHSE
    dp = dout_BHSE @ shared_v.transpose(1, 2).to(dtype).mT
    normalizer = (dout_BHSE * out.transpose(1, 2).to(dtype)).sum(-1, keepdim=True)
    dscores = p * (dp - normalizer) * q.shape[-1] ** -0.5
    dq, dk = dscores @ shared_k.to(dtype), dscores.mT @ q.transpose(1, 2).to(dtype)
    return (
        dq.transpose(1, 2).to(q.dtype),
        repeat_heads_backward(dk.transpose(1, 2), num_kv_heads).to(k.dtype),
        repeat_heads_backward(dv.transpose(1, 2), num_kv_heads).to(v.dtype),
    )


# -- PyTorch's kernel for the CPU: [B, H, S, E] in any memory order -------------------------------


def _cpu_forward(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents | None
) -> tuple[Tensor, Tensor]:
    if documents is not None:
        split = (_split(x, documents) for x in (q, k, v))
        parts = [_cpu_forward(q, k, v, None) for q, k, v in zip(*split, strict=True)]
        return _concat([out for out, _ in parts], q), torch.cat([lse for _, lse in parts], dim=2)
    k, v = repeat_heads(k, q.shape[2]), repeat_heads(v, q.shape[2])
    out_BHSE, lse = aten._scaled_dot_product_flash_attention_for_cpu(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 0.0, True
    )
    return out_BHSE.transpose(1, 2), lse


def _cpu_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    documents: Documents | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if documents is not None:
        split = [_split(x, documents) for x in (dout, q, k, v, out)]
        lses = lse.split(documents.lengths, dim=2)
        parts = [
            _cpu_backward(dout, q, k, v, out, lse, None)
            for dout, q, k, v, out, lse in zip(*split, lses, strict=True)
        ]
        dq, dk, dv = (list(gradients) for gradients in zip(*parts, strict=True))
        return _concat(dq, q), _concat(dk, k), _concat(dv, v)
    dq, dk, dv = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        dout.transpose(1, 2),
        q.transpose(1, 2),
        repeat_heads(k, q.shape[2]).transpose(1, 2),
        repeat_heads(v, q.shape[2]).transpose(1, 2),
        out.transpose(1, 2),
        lse,
        0.0,
        True,
    )
    dk, dv = dk.transpose(1, 2), dv.transpose(1, 2)
    num_kv_heads = k.shape[2]
    return (
        dq.transpose(1, 2),
        repeat_heads_backward(dk, num_kv_heads),
        repeat_heads_backward(dv, num_kv_heads),
    )


# -- FlashAttention-2 inside PyTorch: [B, S, H, E], or packed [T, H, E]; supports GQA -------------


def packed(documents: Documents | None, *tensors: Tensor) -> list[Tensor]:
    return list(tensors) if documents is None else [x.flatten(0, 1) for x in tensors]


def extent(q_BSHE: Tensor, documents: Documents | None) -> tuple[Tensor | None, int]:
    """(cumulative lengths, longest), as varlen kernels take them."""
    if documents is None:
        return None, q_BSHE.shape[1]
    return documents.cu_lengths, max(documents.lengths)


def _flash_forward(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents | None
) -> tuple[Tensor, Tensor]:
    cu, longest = extent(q, documents)
    out, lse, *_ = aten._flash_attention_forward(
        *packed(documents, q, k, v), cu, cu, longest, longest, 0.0, True, False
    )
    return out.view(q.shape), lse


def _flash_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    documents: Documents | None,
) -> tuple[Tensor, Tensor, Tensor]:
    cu, longest = extent(q, documents)
    # RNG state, read for dropout only.
    seed = torch.empty(2, dtype=torch.uint64, device=q.device)
    offset = torch.empty((), dtype=torch.uint64, device=q.device)
    tensors = packed(documents, dout.contiguous(), q, k, v, out)
    dq, dk, dv = aten._flash_attention_backward(
        *tensors, lse, cu, cu, longest, longest, 0.0, True, seed, offset
    )
    return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape)


# -- cuDNN inside PyTorch: [B, H, S, E] in any memory order ---------------------------------------


def _cudnn_forward(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents | None
) -> tuple[Tensor, Tensor]:
    assert documents is None, "choose() rejects packed documents for cuDNN"
    k, v = repeat_heads(k, q.shape[2]), repeat_heads(v, q.shape[2])
    out_BHSE, lse, *_ = aten._scaled_dot_product_cudnn_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), None, True, 0.0, True, False
    )
    return out_BHSE.transpose(1, 2), lse


def _cudnn_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    documents: Documents | None,
) -> tuple[Tensor, Tensor, Tensor]:
    length, num_kv_heads = q.shape[1], k.shape[2]
    # RNG state, read for dropout only.
    seed, offset = (torch.empty((), dtype=torch.int64, device=q.device) for _ in range(2))
    dq, dk, dv = aten._scaled_dot_product_cudnn_attention_backward(
        dout.transpose(1, 2),
        q.transpose(1, 2),
        repeat_heads(k, q.shape[2]).transpose(1, 2),
        repeat_heads(v, q.shape[2]).transpose(1, 2),
        out.transpose(1, 2),
        lse,
        seed,
        offset,
        None,
        None,
        None,
        length,
        length,
        0.0,
        True,
    )
    return (
        dq.transpose(1, 2),
        repeat_heads_backward(dk.transpose(1, 2), num_kv_heads),
        repeat_heads_backward(dv.transpose(1, 2), num_kv_heads),
    )


MATH = Kernel("math", _math_forward, _math_backward)
CPU = Kernel("cpu", _cpu_forward, _cpu_backward)
FLASH = Kernel("flash", _flash_forward, _flash_backward)
CUDNN = Kernel("cudnn", _cudnn_forward, _cudnn_backward)
