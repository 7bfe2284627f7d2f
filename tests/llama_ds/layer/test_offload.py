"""Offloaded activations: the same bits, and where they are at which time."""
# transformers' classes carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from llama_ds import LlamaForCausalLM
from llama_ds.layer.offload import Offload
from llama_ds.layer.options import LayerOptions
from llama_ds.save_policy import PRESETS, SavePolicy

POLICY = SavePolicy.of("linear_outputs", x="offload", gate="offload", attn_out="offload")
CPU = torch.device("cpu")


def model_of(num_layers: int, device: torch.device = CPU) -> Any:
    torch.manual_seed(0)
    sizes = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
    )
    model: Any = LlamaForCausalLM(sizes)
    return model.to(device).train()


def gradients(model: Any, policy: SavePolicy) -> list[Tensor]:
    model.model.layer_options = LayerOptions(save_policy=policy)
    model.zero_grad()
    ids = torch.arange(32, device=model.device).view(2, 16)
    model(input_ids=ids, labels=ids).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_gradients_are_bit_equal() -> None:
    model = model_of(3)
    kept, offloaded = gradients(model, PRESETS["linear_outputs"]), gradients(model, POLICY)
    assert all(torch.equal(a, b) for a, b in zip(kept, offloaded, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_gradients_are_bit_equal_and_memory_is_pinned() -> None:
    model = model_of(4, torch.device("cuda"))
    kept, offloaded = gradients(model, PRESETS["linear_outputs"]), gradients(model, POLICY)
    assert all(torch.equal(a, b) for a, b in zip(kept, offloaded, strict=True))
    tensors = Offload(torch.device("cuda")).begin({"x": torch.ones(4, device="cuda")})
    assert tensors.on_host["x"].is_pinned()


class Double(torch.autograd.Function):
    """A layer that takes its input from the host."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offload: Offload, layers: list[Any]) -> Tensor:
        ctx.host = offload.begin({"x": x})
        layers.append(ctx.host)
        ctx.layers = layers
        return 2 * x

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        taken = ctx.host.take()
        assert taken.keys() == {"x"}
        ctx.host.seen = [bool(layer.on_device) for layer in ctx.layers]
        return 2 * dout, None, None


def run(layers: list[Any], x: Tensor) -> Tensor:
    offload, out = Offload(CPU), x
    for _ in range(3):
        out = Double.apply(out, offload, layers)
    assert offload.host_bytes() == 3 * 4 * x.numel()
    return out


def test_two_layers_are_on_the_device_at_a_time() -> None:
    layers: list[Any] = []
    out = run(layers, torch.ones(5, requires_grad=True))
    # The last layer's tensors do not leave.
    assert [bool(layer.on_device) for layer in layers] == [False, False, True]
    out.sum().backward()
    # While a layer's backward pass runs, it has taken its own, and those below come.
    assert [layer.seen for layer in layers] == [
        [False, False, False],
        [True, False, False],
        [False, True, False],
    ]
    # Without retain_graph the host's memory is given back.
    assert not any(layer.on_host for layer in layers)


def test_a_kept_graph_keeps_the_host_tensors() -> None:
    layers: list[Any] = []
    x = torch.ones(5, requires_grad=True)
    out = run(layers, x).sum()
    first = torch.autograd.grad(out, x, retain_graph=True)
    assert all(layer.on_host for layer in layers)
    assert torch.equal(*first, *torch.autograd.grad(out, x))
    assert not any(layer.on_host for layer in layers)


def test_a_dropped_graph_leaves_nothing_behind() -> None:
    gc.disable()  # reference counts alone must do it: nobody collects while a GPU fills
    try:
        layers: list[Any] = []
        run(layers, torch.ones(5, requires_grad=True))
        tensors = [weakref.ref(tensor) for layer in layers for tensor in layer.on_host.values()]
        assert len(tensors) == 3
        del layers
        assert not any(tensor() is not None for tensor in tensors)
    finally:
        gc.enable()


def test_nothing_is_offloaded_without_gradients() -> None:
    model = model_of(1)
    model.model.layer_options = LayerOptions(save_policy=POLICY)
    with torch.no_grad():
        fused = model.model._fused_context(torch.ones(1, 4, 32), None, None, False, {})
    assert fused is not None
    assert fused.offload is None
