"""Derivatives that the hand-written backward passes have no rule for: the modules' or an error."""
# transformers' functions and classes carry few types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from llama_ds.layer.options import LayerOptions
from tests.support.llama_pair import GQA, pair, tokens

# fp32 sums in another order, and norms that are rounded at other places.
BOUND = 2e-5
NAME = "model.layers.0.input_layernorm.weight"
BATCH: dict[str, Any] = {"input_ids": tokens(), "labels": tokens(), "use_cache": False}


def forward_mode(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The derivative along a direction, by dual numbers."""
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(at, torch.linspace(0, 1, len(at)))
        tangent: Tensor = forward_ad.unpack_dual(loss(dual)).tangent
        return tangent


def reverse_mode(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    gradient: Tensor = torch.func.grad(loss)(at)
    return gradient


@pytest.mark.parametrize("derivative", [reverse_mode, forward_mode])
def test_function_transforms(
    derivative: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor],
) -> None:
    found = []
    for model in pair(**GQA):
        model.train()

        def loss(norm: Tensor, model: Any = model) -> Tensor:
            out: Any = torch.func.functional_call(model, {NAME: norm}, (), BATCH)
            return out.loss  # type: ignore[no-any-return]

        # PyTorch's kernels for attention have no forward mode.
        with sdpa_kernel(SDPBackend.MATH):
            found.append(derivative(loss, model.get_parameter(NAME).detach()).detach())
    got, want = found
    assert want.norm() > 0
    assert (got - want).abs().max() <= BOUND * want.abs().max()


def test_a_second_derivative_is_refused_and_has_its_options() -> None:
    ours, theirs = (model.train() for model in pair(**GQA))

    def second(model: Any, **options: Any) -> Tensor:
        weight = model.get_parameter(NAME)
        # PyTorch's kernels for attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            loss = model(**BATCH, **options).loss
            (first,) = torch.autograd.grad(loss, weight, create_graph=True)
            (found,) = torch.autograd.grad(first.square().sum(), weight)
        return cast(Tensor, found)

    with pytest.raises(RuntimeError, match="no second derivative"):
        second(ours)
    with pytest.raises(RuntimeError, match="no second derivative"):
        second(ours, skip_logits=False)
    ours.model.layer_options = LayerOptions(fused=False)
    got, want = second(ours, skip_logits=False), second(theirs)
    assert want.norm() > 0
    assert (got - want).abs().max() <= BOUND * want.abs().max()
