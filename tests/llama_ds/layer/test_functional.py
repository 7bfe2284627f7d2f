"""The layer's functions against their formulas and transformers' own."""
# transformers' classes carry no types.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama as stock

from llama_ds.layer.functional import (
    kept_positions,
    rms_norm,
    rms_norm_backward,
    rotary,
    rotary_backward,
    swiglu,
    swiglu_backward,
    swiglu_backward_with_product,
)

# Ours rounds less often than transformers', whose results are rounded after every operation.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7}

# Inputs, the function of them in plain operations, and our backward of the result's gradient.
Case = tuple[tuple[Tensor, ...], Callable[..., Tensor], Callable[[Tensor], tuple[Any, ...]]]


def _randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(found: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rms_norm_equals_transformers(dtype: torch.dtype) -> None:
    x, weight = _randn(2, 5, 16, dtype=dtype), _randn(16, dtype=dtype, seed=1)
    module = stock.LlamaRMSNorm(16, eps=1e-5).to(dtype)
    module.weight.data = weight
    assert_close(rms_norm(x, weight, 1e-5), module(x).detach())


def test_rms_norm_keeps_float64_precision() -> None:
    x, weight = _randn(3, 8, dtype=torch.float64), _randn(8, dtype=torch.float64, seed=1)
    expected = x / (x.pow(2).sum(-1, keepdim=True) / 8 + 1e-6).sqrt() * weight
    # Statistics in fp32 would be off by 1e-7.
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rotary_equals_transformers(dtype: torch.dtype) -> None:
    embedding = stock.LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=4))
    q, k = _randn(2, 4, 6, 8, dtype=dtype), _randn(2, 2, 6, 8, dtype=dtype, seed=1)
    cos, sin = embedding(q, position_ids=torch.arange(6).expand(2, -1))
    for x, expected in zip((q, k), stock.apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        assert_close(rotary(x.transpose(1, 2), cos, sin).transpose(1, 2), expected)


def test_rotary_scores_depend_on_distance_only() -> None:
    q, k = _randn(8, dtype=torch.float64), _randn(8, dtype=torch.float64, seed=1)
    angles = torch.arange(20, dtype=torch.float64)[:, None] * 10_000.0 ** (-torch.arange(4) / 4)
    cos, sin = angles.repeat(1, 2).cos()[None], angles.repeat(1, 2).sin()[None]
    q_SE, k_SE = (rotary(x.expand(1, 20, 1, 8), cos, sin).squeeze() for x in (q, k))
    scores = q_SE @ k_SE.T
    # Float64 rounding of sums of 8 products.
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], rtol=0, atol=1e-13)
    assert not torch.allclose(scores[0], scores[5]), "distance must matter"


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_swiglu_equals_transformers(dtype: torch.dtype) -> None:
    config = LlamaConfig(hidden_size=8, intermediate_size=24, num_attention_heads=2)
    mlp = stock.LlamaMLP(config).to(dtype).requires_grad_(False)
    x = _randn(3, 8, dtype=dtype)
    assert_close(mlp.down_proj(swiglu(mlp.gate_proj(x), mlp.up_proj(x))), mlp(x))


# -- backward -------------------------------------------------------------------------------------


def textbook_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return weight * (wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt()).to(x.dtype)


def _rms_norm_case(dtype: torch.dtype) -> Case:
    x, weight = _randn(2, 5, 16, dtype=dtype), _randn(16, dtype=dtype, seed=1)
    return (
        (x, weight),
        textbook_rms_norm,
        lambda dout: rms_norm_backward(dout, x, weight, 1e-2),
    )


def _rotary_case(dtype: torch.dtype) -> Case:
    # Halves of a table are equal in LLaMA; the backward function does not rely on it.
    cos, sin = _randn(2, 5, 8, dtype=dtype, seed=1), _randn(2, 5, 8, dtype=dtype, seed=2)
    return (
        (_randn(2, 5, 3, 8, dtype=dtype),),
        lambda x: x * cos.unsqueeze(2) + stock.rotate_half(x) * sin.unsqueeze(2),
        lambda dout: (rotary_backward(dout, cos, sin),),
    )


def _swiglu_case(dtype: torch.dtype) -> Case:
    gate, up = _randn(2, 5, 24, dtype=dtype), _randn(2, 5, 24, dtype=dtype, seed=1)
    return (
        (gate, up),
        lambda gate, up: F.silu(gate) * up,
        lambda dout: swiglu_backward(dout, gate, up),
    )


def test_the_product_comes_with_its_backward() -> None:
    gate, up, dout = (_randn(2, 5, 24, dtype=torch.bfloat16, seed=seed) for seed in range(3))
    dgate, dup, product = swiglu_backward_with_product(dout, gate, up)
    assert torch.equal(product, swiglu(gate, up))
    for got, wanted in zip((dgate, dup), swiglu_backward(dout, gate, up), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("make", [_rms_norm_case, _rotary_case, _swiglu_case])
@pytest.mark.parametrize(
    ("dtype", "rtol"),
    # A few roundings of each dtype's own precision; in bf16 autograd rounds more often than we do.
    [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)],
)
def test_backward_equals_autograd(
    make: Callable[[torch.dtype], Case], dtype: torch.dtype, rtol: float
) -> None:
    inputs, forward, backward = make(dtype)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = forward(*leaves)
    dout = _randn(*out.shape, dtype=dtype, seed=9)
    expected = torch.autograd.grad(out, leaves, dout)
    for gradient, wanted in zip(backward(dout), expected, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(
            gradient, wanted, rtol=rtol, atol=rtol * float(wanted.abs().mean())
        )


@pytest.mark.parametrize(
    ("logits_to_keep", "expected"),
    [
        (0, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (1, [[3], [7]]),
        (torch.tensor([0, 2]), [[0, 2], [4, 6]]),
        (torch.tensor([[0, 2], [1, 3]]), [[0, 2], [5, 7]]),
        (torch.tensor([[True, False, False, True], [False, True, False, False]]), [0, 3, 5]),
    ],
    ids=["all", "last", "index", "index_per_row", "mask"],
)
def test_kept_positions(logits_to_keep: int | Tensor, expected: list[object]) -> None:
    hidden = torch.arange(8.0).reshape(2, 4, 1)
    assert kept_positions(hidden, logits_to_keep).squeeze(-1).tolist() == expected
