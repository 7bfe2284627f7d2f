"""Collectives with gradients, against the same mathematics on one process.

A function of the ranks' inputs is the sum, over ranks, of a fixed weighting of each rank's output.
Its gradient by every input is known from the full tensors; each collective's backward must give it.
"""
# PyTorch's `backward` carries no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from llama_ds.parallel import collectives
from llama_ds.parallel.collectives import Group

Gloo = Callable[..., list[Any]]

SHAPE = (2, 4, 8)


def inputs(size: int) -> list[Tensor]:
    """What each rank holds; float64, so that any order of summing agrees."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(size)]


def weighting(shape: torch.Size, rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# name -> (the collective, all ranks' outputs from all ranks' inputs)
Full = Callable[[list[Tensor]], list[Tensor]]
CASES: dict[str, tuple[Callable[[Tensor, Group], Tensor], Full]] = {
    "copy": (collectives.copy_to_group, lambda xs: [sum_of_rank_zero(xs)] * len(xs)),
    "all_gather": (
        lambda x, group: collectives.all_gather(x, 1, group),
        lambda xs: [torch.cat(xs, 1)] * len(xs),
    ),
    "reduce_scatter": (
        lambda x, group: collectives.reduce_scatter(x, 2, group),
        lambda xs: list(torch.stack(xs).sum(0).chunk(len(xs), 2)),
    ),
    "all_to_all": (
        lambda x, group: collectives.all_to_all(x, 1, 2, group),
        lambda xs: [
            torch.cat([x.chunk(len(xs), 1)[rank] for x in xs], 2) for rank in range(len(xs))
        ],
    ),
}


def sum_of_rank_zero(xs: list[Tensor]) -> Tensor:
    return xs[0]


def one_rank(name: str) -> tuple[Tensor, Tensor]:
    """(output, gradient of the sum over all ranks by the own input)."""
    rank, size = dist.get_rank(), dist.get_world_size()
    # Of `copy`, all ranks hold the same input.
    x = inputs(size)[0 if name == "copy" else rank].requires_grad_()
    out = CASES[name][0](x, dist.group.WORLD)
    (out * weighting(out.shape, rank)).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.dist
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward(gloo: Gloo, name: str, size: int) -> None:
    xs = [x.requires_grad_() for x in inputs(size)]
    outputs = CASES[name][1](xs)
    total = torch.stack(
        [(out * weighting(out.shape, rank)).sum() for rank, out in enumerate(outputs)]
    ).sum()
    gradients = torch.autograd.grad(total, xs, allow_unused=True)
    for rank, (out, gradient) in enumerate(gloo(size, one_rank, name)):
        expected = gradients[0 if name == "copy" else rank]
        # Float64 rounding of sums of at most 4 terms.
        torch.testing.assert_close(out, outputs[rank].detach(), rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=1e-14)


def shared_result(name: str) -> tuple[Tensor, Tensor]:
    """Around a result that all ranks use in the same way: each has the whole gradient."""
    rank, size = dist.get_rank(), dist.get_world_size()
    xs = inputs(size)
    x = (xs[0] if name == "scatter" else xs[rank]).requires_grad_()
    group = dist.group.WORLD
    if name == "reduce":
        out = collectives.reduce_from_group(x, group)
    elif name == "gather":
        out = collectives.gather(x, 1, group)
    else:  # scatter alone gives each rank another part; together they are the whole
        out = collectives.gather(collectives.scatter(x, 1, group), 1, group)
    (out * weighting(out.shape, 0)).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.dist
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", ["reduce", "gather", "scatter"])
def test_results_that_all_ranks_share(gloo: Gloo, name: str, size: int) -> None:
    xs = [x.requires_grad_() for x in inputs(size)]
    full = {"reduce": lambda: torch.stack(xs).sum(0), "gather": lambda: torch.cat(xs, 1)}
    out = full.get(name, lambda: xs[0] * 1)()
    gradients = torch.autograd.grad((out * weighting(out.shape, 0)).sum(), xs, allow_unused=True)
    for rank, (got, gradient) in enumerate(gloo(size, shared_result, name)):
        expected = gradients[0 if name == "scatter" else rank]
        # Float64 rounding of sums of at most 4 terms.
        torch.testing.assert_close(got, out.detach(), rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=1e-14)


def test_no_group_is_the_identity() -> None:
    x = torch.ones(3, requires_grad=True)
    assert collectives.size_of(None) == 1
    assert collectives.rank_in(None) == 0
    for out in (
        collectives.copy_to_group(x, None),
        collectives.reduce_from_group(x, None),
        collectives.all_gather(x, 0, None),
        collectives.reduce_scatter(x, 0, None),
        collectives.scatter(x, 0, None),
        collectives.gather(x, 0, None),
        collectives.all_to_all(x, 0, 0, None),
        collectives.all_gather_no_grad(x, 0, None),
        collectives.reduce_scatter_no_grad(x, 0, None),
        collectives.all_to_all_no_grad(x, 0, 0, None),
    ):
        assert out is x


def uneven() -> str:
    try:
        collectives.scatter(torch.ones(3), 0, dist.group.WORLD)
    except AssertionError as error:
        return str(error)
    return "no error"


@pytest.mark.dist
def test_what_does_not_divide_is_an_error(gloo: Gloo) -> None:
    assert gloo(2, uneven) == ["dim 0 of length 3 is not divisible by 2 ranks"] * 2
