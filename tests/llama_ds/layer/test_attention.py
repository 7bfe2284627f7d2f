"""Attention kernels against PyTorch's own attention and its autograd, forward and backward."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from llama_ds.layer.attention import choose
from llama_ds.layer.attention_kernels import CPU, CUDNN, FLASH, MATH, Documents, Kernel

B, S, H, E = 2, 12, 4, 8
PACKED = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 0, 1, 2], list(range(12))])

# Roundings of each dtype, enlarged by sums over 12 keys. In bf16 weights are rounded to 8 bits.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}


def inputs(num_kv_heads: int, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """q, k, v and a gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, S, heads, E) for heads in (H, num_kv_heads, num_kv_heads, H)]
    return [torch.randn(s, generator=generator).to(device, dtype) for s in shapes]


def expected(q: Tensor, k: Tensor, v: Tensor, dout: Tensor, packed: bool) -> list[Tensor]:
    """Result and gradients in float64, with every hidden score masked by hand."""
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    q_BHSE, k_BHSE, v_BHSE = (
        x.repeat_interleave(H // x.shape[2], dim=2).transpose(1, 2) for x in leaves
    )
    seen = torch.ones(B, 1, S, S, dtype=torch.bool).tril()
    if packed:
        document = (PACKED == 0).cumsum(1)
        seen &= (document[:, :, None] == document[:, None, :]).unsqueeze(1)
    seen = seen.to(q.device)
    out = F.scaled_dot_product_attention(q_BHSE, k_BHSE, v_BHSE, attn_mask=seen).transpose(1, 2)
    return [out.detach(), *torch.autograd.grad(out, leaves, dout.double())]


def check(kernel: Kernel, dtype: torch.dtype, num_kv_heads: int, packed: bool, device: str) -> None:
    q, k, v, dout = inputs(num_kv_heads, dtype, device)
    documents = Documents.of(PACKED.to(device)) if packed else None
    out, lse = kernel.forward(q, k, v, documents)
    assert lse.numel() == B * S * H
    gradients = kernel.backward(dout, q, k, v, out, lse, documents)
    for got, wanted in zip((out, *gradients), expected(q, k, v, dout, packed), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(
            got.double(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel", [CPU, MATH], ids=lambda kernel: kernel.name)
def test_kernels_equal_masked_attention(
    kernel: Kernel, dtype: torch.dtype, num_kv_heads: int, packed: bool
) -> None:
    check(kernel, dtype, num_kv_heads, packed, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("name", ["flash", "cudnn", "xformers", "flash_attn", "math"])
def test_gpu_kernels_equal_masked_attention(name: Any, num_kv_heads: int, packed: bool) -> None:
    packages = {"xformers": "xformers", "flash_attn": "flash_attn_interface"}
    if name in packages:
        pytest.importorskip(packages[name])
    if name == "cudnn" and packed:
        pytest.skip("cuDNN cannot keep packed documents apart")
    q = inputs(num_kv_heads, torch.bfloat16, "cuda")[0]
    check(choose(name, q, packed=packed), torch.bfloat16, num_kv_heads, packed, "cuda")


def test_cpu_kernel_takes_any_memory_order() -> None:
    q, k, v, dout = inputs(4, torch.float64)
    wanted = CPU.backward(dout, q, k, v, *CPU.forward(q, k, v, None), None)
    q, k, v, dout = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v, dout))
    for got, expected in zip(
        CPU.backward(dout, q, k, v, *CPU.forward(q, k, v, None), None), wanted, strict=True
    ):
        # The same sums over the same numbers.
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize(
    ("kernel", "packed"),
    [(FLASH, False), (FLASH, True), (CUDNN, False)],
    ids=["flash", "flash-packed", "cudnn"],
)
def test_gpu_functions_of_pytorch_take_our_arguments(
    kernel: Kernel, packed: bool, num_kv_heads: int
) -> None:
    """Shapes and dtypes through PyTorch's own descriptions of the kernels: no GPU needed."""
    q, k, v, dout = inputs(num_kv_heads, torch.bfloat16)
    documents = Documents.of(PACKED) if packed else None
    if documents is not None:
        documents = Documents(documents.lengths, documents.cu_lengths.to("meta"))
    *qkv, dout = (x.to("meta") for x in (q, k, v, dout))
    out, lse = kernel.forward(*qkv, documents)
    gradients = kernel.backward(dout, *qkv, out, lse, documents)
    assert out.shape == q.shape
    for gradient, x in zip(gradients, (q, k, v), strict=True):
        assert (gradient.shape, gradient.dtype) == (x.shape, x.dtype)


# -- other packages -------------------------------------------------------------------------------


def xformers_double() -> Any:
    """xformers' functions of these names and parameters, computing with `MATH`."""

    class Mask:
        lengths: list[int] | None = None

    class BlockDiagonalCausalMask(Mask):
        @classmethod
        def from_seqlens(cls, q_seqlen: list[int]) -> BlockDiagonalCausalMask:
            mask = cls()
            mask.lengths = q_seqlen
            return mask

    def documents(mask: Mask) -> Documents | None:
        if mask.lengths is None:
            return None
        lengths = torch.tensor([0, *mask.lengths])
        return Documents(tuple(mask.lengths), lengths.cumsum(0).to(torch.int32))

    def memory_efficient_attention_forward_requires_grad(
        query: Tensor, key: Tensor, value: Tensor, attn_bias: Mask
    ) -> tuple[Tensor, Tensor]:
        assert key.shape == query.shape, "xformers' 4-dimensional tensors know no groups"
        return MATH.forward(query, key, value, documents(attn_bias))

    def memory_efficient_attention_backward(
        grad: Tensor,
        output: Tensor,
        lse: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_bias: Mask,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return MATH.backward(grad, query, key, value, output, lse, documents(attn_bias))

    ops: Any = types.ModuleType("xformers.ops")
    ops.LowerTriangularMask = Mask
    ops.fmha = types.SimpleNamespace(
        memory_efficient_attention_forward_requires_grad=(
            memory_efficient_attention_forward_requires_grad
        ),
        memory_efficient_attention_backward=memory_efficient_attention_backward,
        attn_bias=types.SimpleNamespace(BlockDiagonalCausalMask=BlockDiagonalCausalMask),
    )
    return ops


def flash_attn_double() -> Any:
    """FlashAttention-3's two functions, computing with `MATH`."""

    def unpacked(cu_seqlens: Tensor | None, *tensors: Tensor) -> list[Any]:
        if cu_seqlens is None:
            return [*tensors, None]
        lengths = tuple(cu_seqlens.diff().tolist())
        return [*(x.unsqueeze(0) for x in tensors), Documents(lengths, cu_seqlens)]

    def _flash_attn_forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None,
        softmax_scale: float,
        causal: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert causal
        assert softmax_scale == E**-0.5
        assert (cu_seqlens_q is None) == (max_seqlen_k is None)
        out, lse = MATH.forward(*unpacked(cu_seqlens_k, q, k, v))
        return out.view(q.shape), lse, torch.empty(0), torch.empty(0)

    def _flash_attn_backward(
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        softmax_lse: Tensor,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
        *,
        max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        softmax_scale: float,
        is_causal: bool,
    ) -> Tensor:
        assert is_causal
        *tensors, documents = unpacked(cu_seqlens_q, dout, q, k, v, out)
        gradients = MATH.backward(*tensors, softmax_lse, documents)
        for into, gradient in zip((dq, dk, dv), gradients, strict=True):
            into.copy_(gradient.view(into.shape))
        return torch.empty(0)

    interface: Any = types.ModuleType("flash_attn_interface")
    interface._flash_attn_forward = _flash_attn_forward
    interface._flash_attn_backward = _flash_attn_backward
    return interface


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("name", ["xformers", "flash_attn"])
def test_packages_are_called_as_they_define(
    monkeypatch: pytest.MonkeyPatch, name: str, num_kv_heads: int, packed: bool
) -> None:
    from importlib.machinery import ModuleSpec

    from llama_ds.layer import attention_packages

    if name == "xformers":
        parent = types.ModuleType("xformers")
        parent.__spec__ = ModuleSpec("xformers", None)
        monkeypatch.setitem(sys.modules, "xformers", parent)
        monkeypatch.setitem(sys.modules, "xformers.ops", xformers_double())
        kernel = attention_packages.xformers()
    else:
        double = flash_attn_double()
        double.__spec__ = ModuleSpec("flash_attn_interface", None)
        monkeypatch.setitem(sys.modules, "flash_attn_interface", double)
        kernel = attention_packages.flash_attn()
    check(kernel, torch.float64, num_kv_heads, packed, "cpu")


# -- choice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "dtype", "width", "name"),
    [
        ("cpu", torch.float32, 8, "cpu"),
        ("cpu", torch.bfloat16, 8, "cpu"),
        ("cuda", torch.bfloat16, 128, "flash"),
        ("cuda", torch.float32, 128, "math"),
        ("cuda", torch.bfloat16, 12, "math"),
        ("meta", torch.bfloat16, 128, "math"),
    ],
)
def test_auto_takes_a_kernel_that_fits(
    device: str, dtype: torch.dtype, width: int, name: str
) -> None:
    with FakeTensorMode():
        q = torch.empty(1, 4, 2, width, dtype=dtype, device=device)
        assert choose("auto", q, packed=True).name == name


@pytest.mark.parametrize(
    ("name", "device", "dtype", "packed", "message"),
    [
        ("cpu", "cuda", torch.bfloat16, False, r"cpu runs on cpu, but the model is on cuda"),
        ("flash", "cpu", torch.bfloat16, False, r"flash runs on cuda, but the model is on cpu"),
        ("flash", "cuda", torch.float32, False, r"flash needs bf16 .* has torch.float32 and 8"),
        ("cudnn", "cuda", torch.bfloat16, True, r"cudnn does not support document masking"),
        ("xformers", "cuda", torch.bfloat16, False, r"needs the package xformers, which is not"),
        ("flash_attn", "cuda", torch.bfloat16, False, r"needs the package flash_attn_3"),
    ],
)
def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    name: Any,
    device: str,
    dtype: torch.dtype,
    packed: bool,
    message: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with FakeTensorMode():
        q = torch.empty(1, 4, 2, 8, dtype=dtype, device=device)
    with pytest.raises(ValueError, match=message):
        choose(name, q, packed=packed)


def test_documents_begin_where_positions_restart() -> None:
    documents = Documents.of(PACKED)
    assert documents is not None
    assert documents.lengths == (5, 3, 1, 3, 12)
    assert documents.cu_lengths.tolist() == [0, 5, 8, 9, 12, 24]
    assert Documents.of(torch.arange(6).expand(3, -1)) is None
    # A slice of longer rows need not begin at 0.
    assert Documents.of(torch.arange(4, 10).unsqueeze(0)) is None
