"""What only a GPU runs, traced without one: fake CUDA tensors against the operators' own schemas.

Shapes, dtypes, devices and arguments, no numbers. A PyTorch built for CPUs cannot run its autograd
engine on such tensors, so the layer's hand-written passes are called directly.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from llama_ds.layer import attention_packages
from llama_ds.layer.attention import choose
from llama_ds.layer.attention_kernels import Documents, Kernel
from llama_ds.layer.context import ForwardContext, LayerContext
from llama_ds.layer.elementwise import EAGER
from llama_ds.layer.fused import FusedLayer
from llama_ds.layer.options import LayerOptions
from llama_ds.layer.tensors import LayerWeights
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.parallel.tensor import TensorParallel
from llama_ds.save_policy import PRESETS
from tests.llama_ds.layer.test_elementwise import NAMES, arguments

B, S, H, E, F = 2, 24, 4, 16, 96
CUDA = torch.device("cuda", 0)


@pytest.fixture
def fake() -> Iterator[None]:
    with FakeTensorMode(), torch.no_grad():  # gradients are off inside the fused layer, too
        yield


def cuda(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=CUDA)


def require_like(found: Tensor, expected: Tensor) -> None:
    assert isinstance(found, Tensor)
    assert (found.shape, found.dtype, found.device) == (
        expected.shape,
        expected.dtype,
        expected.device,
    )


# -- attention ------------------------------------------------------------------------------------

# The two operators of FlashAttention-3 as its `hopper/flash_attn_interface.py` declares them.
FLASH_3 = (
    "_flash_attn_forward(Tensor q, Tensor k, Tensor v, Tensor? k_new=None, Tensor? v_new=None, "
    "Tensor? qv=None, Tensor? out_=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, "
    "Tensor? cu_seqlens_k_new=None, Tensor? seqused_q=None, Tensor? seqused_k=None, "
    "SymInt? max_seqlen_q=None, SymInt? max_seqlen_k=None, Tensor? page_table=None, "
    "Tensor? kv_batch_idx=None, Tensor? leftpad_k=None, Tensor? rotary_cos=None, "
    "Tensor? rotary_sin=None, Tensor? seqlens_rotary=None, Tensor? q_descale=None, "
    "Tensor? k_descale=None, Tensor? v_descale=None, float? softmax_scale=None, "
    "bool causal=False, SymInt window_size_left=-1, SymInt window_size_right=-1, "
    "SymInt attention_chunk=0, float softcap=0.0, bool rotary_interleaved=True, "
    "Tensor? scheduler_metadata=None, SymInt num_splits=1, bool? pack_gqa=None, "
    "SymInt sm_margin=0) -> (Tensor, Tensor, Tensor, Tensor)",
    "_flash_attn_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, "
    "Tensor softmax_lse, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, "
    "Tensor? sequed_q=None, Tensor? sequed_k=None, SymInt? max_seqlen_q=None, "
    "SymInt? max_seqlen_k=None, Tensor(a!)? dq=None, Tensor(b!)? dk=None, Tensor(c!)? dv=None, "
    "float? softmax_scale=None, bool is_causal=False, SymInt window_size_left=-1, "
    "SymInt window_size_right=-1, float softcap=0.0, bool deterministic=False, "
    "SymInt sm_margin=0) -> Tensor",
)


@pytest.fixture(scope="module")
def flash_3() -> Iterator[Any]:
    """FlashAttention-3's module with operators of its schemas, which know shapes only."""
    library = torch.library.Library("flash_3_of_tests", "DEF")
    for schema in FLASH_3:
        library.define(schema)

    def forward(q: Tensor, *others: Any, **options: Any) -> tuple[Tensor, ...]:
        *rows, heads, _ = q.shape
        shape = (heads, *rows) if len(rows) == 1 else (rows[0], heads, rows[1])
        empty = q.new_empty(0)
        return torch.empty_like(q), q.new_empty(shape, dtype=torch.float32), empty, empty

    def backward(dout: Tensor, *others: Any, **options: Any) -> Tensor:
        return dout.new_empty(0)

    library.impl("_flash_attn_forward", forward, "Meta")
    library.impl("_flash_attn_backward", backward, "Meta")
    module: Any = types.ModuleType("flash_attn_interface")
    module.__spec__ = ModuleSpec("flash_attn_interface", None)
    operators = torch.ops.flash_3_of_tests
    module._flash_attn_forward = operators._flash_attn_forward
    module._flash_attn_backward = operators._flash_attn_backward
    yield module
    library._destroy()


def trace(kernel: Kernel, num_kv_heads: int, packed: bool) -> None:
    q, k, v = (cuda(B, S, heads, E) for heads in (H, num_kv_heads, num_kv_heads))
    gradients = [cuda(B, S, H, E)]
    if kernel.name != "flash":  # which copies it by a method that asks for the device
        gradients.append(cuda(B, H, S, E).transpose(1, 2))
    for dout in gradients:
        lengths = (S, 5, S - 5)
        cu_lengths = cuda(len(lengths) + 1, dtype=torch.int32)
        documents = Documents(lengths, cu_lengths) if packed else None
        out, lse = kernel.forward(q, k, v, documents)
        require_like(out, q)
        assert (lse.device, lse.dtype) == (CUDA, torch.float32)
        assert lse.numel() == B * S * H
        for found, x in zip(
            kernel.backward(dout, q, k, v, out, lse, documents), (q, k, v), strict=True
        ):
            require_like(found, x)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize(
    ("name", "packed"),
    [("auto", False), ("flash", True), ("cudnn", False), ("math", False)],
)
def test_pytorch_takes_what_its_kernels_are_given(
    fake: None, name: Any, packed: bool, num_kv_heads: int
) -> None:
    trace(choose(name, cuda(0, E), packed=packed), num_kv_heads, packed)


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_flash_attention_3_takes_what_it_is_given(
    monkeypatch: pytest.MonkeyPatch, flash_3: Any, fake: None, num_kv_heads: int, packed: bool
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn_interface", flash_3)
    trace(attention_packages.flash_attn(), num_kv_heads, packed)


# -- the layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["flash", "cudnn"])
@pytest.mark.parametrize(("policy", "mlp_tiles"), [*((name, 1) for name in PRESETS), ("no_mlp", 4)])
def test_the_fused_layer_runs_on_cuda_tensors(
    fake: None, attention: Any, policy: Any, mlp_tiles: int
) -> None:
    width = H * E
    shapes = [(width,), *[(width, width)] * 4, (width,), *[(F, width)] * 2, (width, F)]
    weights = LayerWeights(*(cuda(*shape) for shape in shapes))
    options = LayerOptions(save_policy=PRESETS[policy], attention=attention, mlp_tiles=mlp_tiles)
    kernel = choose(attention, cuda(0, E), packed=False)
    forward = ForwardContext(options, kernel, None, EAGER)
    context = LayerContext(forward, TensorParallel(), SequenceParallel(), E, 1e-5)
    x, table = cuda(B, S, width), cuda(B, S, E)

    class Node:
        """What autograd gives a function for its backward pass."""

        needs_input_grad = (True,)
        saved_tensors: tuple[Tensor, ...] = ()

        def save_for_backward(self, *tensors: Tensor) -> None:
            self.saved_tensors = tensors

    node = Node()
    require_like(FusedLayer.forward(node, x, table, table, context, *weights), x)
    gradients = FusedLayer.backward(node, cuda(B, S, width))
    for found, expected in zip((gradients[0], *gradients[4:]), (x, *weights), strict=True):
        assert found is not None
        require_like(found, expected)


# -- elementwise functions ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_compiled_functions_are_one_graph(name: str) -> None:
    """What comes before the device's compiler, on tensors without data and of no device."""
    given = [
        x.to("meta") if isinstance(x, Tensor) else x for x in arguments(torch.bfloat16, "cpu")[name]
    ]
    function = getattr(EAGER, name)
    with torch.no_grad():
        compiled: Any = torch.compile(function, backend="aot_eager", fullgraph=True)
        found, expected = compiled(*given), function(*given)
    if isinstance(found, Tensor):
        found, expected = (found,), (expected,)
    for got, wanted in zip(found, expected, strict=True):
        require_like(got, wanted)
