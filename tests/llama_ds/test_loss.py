"""The chunked loss against `F.linear` and `F.cross_entropy` in float64, and what it costs."""
# PyTorch's `backward` and dispatch modes carry no types.
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.loss.loss_utils import fixed_cross_entropy

from llama_ds.loss import IGNORE_INDEX, chunked_cross_entropy

B, S, D, V = 3, 7, 16, 50
T = B * S


def _inputs(dtype: torch.dtype, ignored: tuple[int, ...] = (0, 5, 20)) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, S, D, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(V, (T,), generator=generator)
    labels[list(ignored)] = IGNORE_INDEX
    return hidden, weight, labels.reshape(B, S)


def _reference(
    hidden: Tensor, weight: Tensor, labels: Tensor, num_items: float, z_loss: float = 0.0
) -> Tensor:
    """Loss in float64 of the same numbers."""
    logits = F.linear(hidden.double(), weight.double()).reshape(T, V)
    total = F.cross_entropy(logits, labels.reshape(T), ignore_index=IGNORE_INDEX, reduction="sum")
    counted = labels.reshape(T) != IGNORE_INDEX
    return (total + z_loss * logits.logsumexp(-1)[counted].square().sum()) / num_items


# Relative bounds on a gradient's error, in its own largest value: float64 and fp32 rounding of sums
# of 50 terms; bf16 keeps 8 bits of the logits and of the gradients.
BOUNDS = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("chunk_tokens", [1, 4, T, 1000], ids="chunk{}".format)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("num_items", [None, 18, 40.0, torch.tensor(18)], ids=str)
@pytest.mark.parametrize("z_loss", [0.0, 0.1], ids="z{}".format)
def test_loss_and_gradients(
    dtype: torch.dtype, chunk_tokens: int, num_items: Tensor | float | None, z_loss: float
) -> None:
    hidden, weight, labels = _inputs(dtype)
    loss = chunked_cross_entropy(hidden, weight, labels, num_items, chunk_tokens, z_loss=z_loss)
    divisor = 18 if num_items is None else float(num_items)
    expected = _reference(hidden, weight, labels, divisor, z_loss)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert loss.shape == ()
    torch.testing.assert_close(loss.double(), expected, rtol=BOUNDS[dtype], atol=0)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    for got, want in zip(gradients, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        assert got.dtype == dtype
        error = (got.double() - want.double()).abs().max() / want.double().abs().max()
        assert error < BOUNDS[dtype]


def test_gradcheck() -> None:
    # Numerical derivatives need a forward pass per element.
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([6, IGNORE_INDEX, 0, 2, 2])

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return chunked_cross_entropy(hidden, weight, labels, 7.5, 2, z_loss=0.3)

    assert torch.autograd.gradcheck(loss, (hidden, weight))


@pytest.mark.parametrize("wanted", ["hidden", "weight"])
def test_one_gradient_alone(wanted: str) -> None:
    hidden, weight, labels = _inputs(torch.float64)
    tensors = {"hidden": hidden, "weight": weight}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name == wanted)
    chunked_cross_entropy(hidden, weight, labels, None, 4).backward()
    (expected,) = torch.autograd.grad(_reference(hidden, weight, labels, 18), tensors[wanted])
    for name, tensor in tensors.items():
        assert (tensor.grad is not None) == (name == wanted)
    # Float64 rounding.
    torch.testing.assert_close(tensors[wanted].grad, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("num_items", [None, 0, torch.tensor(0), 5], ids=str)
def test_no_label_counts(num_items: Any) -> None:
    hidden, weight, labels = _inputs(torch.float32, ignored=tuple(range(T)))
    loss = chunked_cross_entropy(hidden, weight, labels, num_items, 4)
    loss.backward()
    logits = F.linear(hidden.detach(), weight.detach()).reshape(T, V)
    expected = fixed_cross_entropy(logits, labels.reshape(T), num_items)
    assert expected.isnan() == (num_items != 5)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0, equal_nan=True)
    for tensor in (hidden, weight):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() == 0


def test_an_ignored_token_may_hold_anything() -> None:
    hidden, weight, labels = _inputs(torch.float32, ignored=(0,))
    expected = chunked_cross_entropy(hidden, weight, labels, None, 4)
    with torch.no_grad():
        hidden[0, 0] = float("inf")
    loss = chunked_cross_entropy(hidden, weight, labels, None, 4)
    assert torch.equal(loss, expected)
    (dhidden,) = torch.autograd.grad(loss, hidden)
    assert torch.isfinite(dhidden).all()


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    """Gradient accumulation: parts divided by the count of all give the gradient of all."""
    hidden, weight, labels = _inputs(torch.float64)
    (expected,) = torch.autograd.grad(_reference(hidden, weight, labels, 18), weight)
    for row in range(B):
        loss = chunked_cross_entropy(hidden[row], weight, labels[row], 18 / B, 4)
        (loss / B).backward()
    # Float64 rounding.
    torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-15)


def test_backward_twice_gives_the_same_gradient() -> None:
    hidden, weight, labels = _inputs(torch.float32)
    loss = chunked_cross_entropy(hidden, weight, labels, None, 4)
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class _Watch(TorchDispatchMode):
    """What matmuls there were, and the most elements that a result with V columns had."""

    def __init__(self) -> None:
        super().__init__()
        self.matmuls = self.largest_logits = 0
        self.matmul_dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(name in str(func) for name in ("aten.mm", "aten.addmm")):
            self.matmuls += 1
            self.matmul_dtypes.add(args[-1].dtype)
        is_matrix = isinstance(result, Tensor) and result.dim() == 2
        # D rows of V are the transposed head weight.
        if is_matrix and result.shape[1] == V and result.shape[0] != D:
            self.largest_logits = max(self.largest_logits, result.numel())
        return result


def test_autocast_computes_in_its_dtype() -> None:
    hidden, weight, labels = _inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16), _Watch() as watch:
        loss = chunked_cross_entropy(hidden, weight, labels, None, 4)
        logits = F.linear(hidden, weight).float()
    expected = F.cross_entropy(logits.reshape(T, V), labels.reshape(T))
    assert watch.matmul_dtypes == {torch.bfloat16}
    # The same bf16 logits; fp32 sums in another order.
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for got, want in zip(
        torch.autograd.grad(loss, (hidden, weight)),
        torch.autograd.grad(expected, (hidden, weight)),
        strict=True,
    ):
        assert got.dtype == torch.float32
        # bf16 keeps 8 bits.
        assert (got - want).abs().max() < 2e-2 * want.abs().max()


def test_only_one_chunk_of_logits_exists_and_none_is_made_again() -> None:
    hidden, weight, labels = _inputs(torch.float32)
    with _Watch() as forward:
        loss = chunked_cross_entropy(hidden, weight, labels, None, 4)
    assert forward.largest_logits == 4 * V
    assert forward.matmuls == 3 * 6  # logits and two gradients of each of 6 chunks
    with _Watch() as backward:
        loss.backward()
    assert backward.matmuls == 0
    assert backward.largest_logits == 0


def test_without_gradient_only_the_logits_are_computed() -> None:
    hidden, weight, labels = _inputs(torch.float32)
    with torch.no_grad(), _Watch() as watch:
        loss = chunked_cross_entropy(hidden, weight, labels, None, 4)
    assert watch.matmuls == 6
    assert not loss.requires_grad


def test_chunk_must_be_positive() -> None:
    hidden, weight, labels = _inputs(torch.float32)
    with pytest.raises(ValueError, match=r"loss_chunk_tokens \(0\) must be positive"):
        chunked_cross_entropy(hidden, weight, labels, None, 0)
