"""Collectives with gradients.

Each function names what it does forward; the docstring says what its backward does. A group of one
(`None`) makes every function the identity, so that callers need no special case. All of them work
on gloo and NCCL; backward collectives run on the same group as their forward.

The pairs are those of Megatron-LM (Shoeybi et al. 2019, figure 3; Korthikanti et al. 2022, figure
5): `copy_to_group`/`reduce_from_group` around a tensor-parallel block, or `all_gather`/
`reduce_scatter` along the sequence in their place.

For a backward pass written by hand there are the same without gradients, and each of those also as
`start_...`, which returns at once with a `Pending` result: one can compute until it arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llama_ds.parallel.profiling import named

Group = dist.ProcessGroup | None


def size_of(group: Group) -> int:
    """Ranks in the group."""
    return 1 if group is None else dist.get_world_size(group)


def rank_in(group: Group) -> int:
    """This rank's number in the group."""
    return 0 if group is None else dist.get_rank(group)


def copy_to_group(x: Tensor, group: Group) -> Tensor:
    """`x` unchanged; backward sums the gradient over the group.

    For a tensor that every rank holds whole and uses for a different part of the result.
    """
    if size_of(group) == 1:
        return x
    out: Tensor = _Copy.apply(x, group)  # type: ignore[no-untyped-call]
    return out


def reduce_from_group(x: Tensor, group: Group) -> Tensor:
    """Sum of `x` over the group; backward passes the gradient through.

    For partial results whose sum every rank then uses in the same way.
    """
    if size_of(group) == 1:
        return x
    out: Tensor = _Reduce.apply(x, group)  # type: ignore[no-untyped-call]
    return out


def all_gather(x: Tensor, dim: int, group: Group) -> Tensor:
    """The ranks' parts joined along `dim`; backward sums over ranks and keeps the own part."""
    if size_of(group) == 1:
        return x
    out: Tensor = _AllGather.apply(x, dim, group)  # type: ignore[no-untyped-call]
    return out


def reduce_scatter(x: Tensor, dim: int, group: Group) -> Tensor:
    """Sum over the group, of which each rank keeps its part along `dim`; backward gathers."""
    if size_of(group) == 1:
        return x
    out: Tensor = _ReduceScatter.apply(x, dim, group)  # type: ignore[no-untyped-call]
    return out


def scatter(x: Tensor, dim: int, group: Group) -> Tensor:
    """The own part along `dim` of a tensor that all ranks hold; backward gathers the parts."""
    if size_of(group) == 1:
        return x
    out: Tensor = _Scatter.apply(x, dim, group)  # type: ignore[no-untyped-call]
    return out


def gather(x: Tensor, dim: int, group: Group) -> Tensor:
    """The ranks' parts joined along `dim`, for a result that all ranks then use in the same way.

    Backward keeps the own part: unlike `all_gather`'s, every rank's gradient is the whole one.
    """
    if size_of(group) == 1:
        return x
    out: Tensor = _Gather.apply(x, dim, group)  # type: ignore[no-untyped-call]
    return out


def all_to_all(x: Tensor, split_dim: int, join_dim: int, group: Group) -> Tensor:
    """Cut `x` along `split_dim`, send part r to rank r, join what arrives along `join_dim`.

    Backward is the same exchange the other way round.
    """
    if size_of(group) == 1:
        return x
    out: Tensor = _AllToAll.apply(x, split_dim, join_dim, group)  # type: ignore[no-untyped-call]
    return out


# -- plain collectives, without gradients ---------------------------------------------------------

# torch 2.13 warns of the names that earlier versions know alone.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Pending:
    """A tensor that a collective is bringing; `wait` gives it.

    On a GPU, waiting holds up the stream that the caller computes on, and not the host. Until then
    the collective reads and writes memory beside the computation, so the tensors stay referenced.
    """

    def __init__(
        self,
        received: Tensor,
        work: dist.Work | None = None,
        *,
        sent: Tensor | None = None,
        arrange: Callable[[Tensor], Tensor] | None = None,
        name: str = "",
    ) -> None:
        """`arrange` makes the result of `received`. Without `work` there is nothing to wait for."""
        self._tensor, self._work = received, work
        self._sent, self._arrange, self._name = sent, arrange, name

    def wait(self) -> Tensor:
        """The result; any number of times."""
        if self._work is not None:
            with named(f"wait: {self._name}"):
                self._work.wait()
            if self._arrange is not None:
                self._tensor = self._arrange(self._tensor)
            self._work = self._sent = self._arrange = None
        return self._tensor


def start_summed(x: Tensor, group: Group, name: str = "sum") -> Pending:
    """Sum over the group; it takes the place of a contiguous `x`."""
    if size_of(group) == 1:
        return Pending(x)
    with named(f"start: {name}"):
        x = x.contiguous()
        return Pending(x, dist.all_reduce(x, group=group, async_op=True), name=name)


def start_gathered(x: Tensor, dim: int, group: Group, name: str = "gather") -> Pending:
    """The ranks' parts joined along `dim`."""
    size = size_of(group)
    if size == 1:
        return Pending(x)
    with named(f"start: {name}"):
        source = x.movedim(dim, 0).contiguous()
        out = source.new_empty((size * source.shape[0], *source.shape[1:]))
        work = _all_gather(out, source, group=group, async_op=True)
    # One copy here, in place of one by every matrix that the result enters.
    arrange = _contiguous_at(dim)
    return Pending(out, work, sent=source, arrange=arrange, name=name)


def start_reduce_scattered(
    x: Tensor, dim: int, group: Group, name: str = "reduce-scatter"
) -> Pending:
    """The own part along `dim` of the sum over the group."""
    size = size_of(group)
    if size == 1:
        return Pending(x)
    with named(f"start: {name}"):
        source = x.movedim(dim, 0).contiguous()
        _require_divisible(source.shape[0], size, dim)
        out = source.new_empty((source.shape[0] // size, *source.shape[1:]))
        work = _reduce_scatter(out, source, group=group, async_op=True)
    return Pending(out, work, sent=source, arrange=_contiguous_at(dim), name=name)


def start_exchanged(
    x: Tensor, split_dim: int, join_dim: int, group: Group, name: str = "exchange"
) -> Pending:
    """`x` cut along `split_dim` and sent to the ranks; what arrives is joined along `join_dim`."""
    size = size_of(group)
    if size == 1:
        return Pending(x)
    with named(f"start: {name}"):
        _require_divisible(x.shape[split_dim], size, split_dim)
        parts = torch.stack(x.chunk(size, split_dim))
        received = torch.empty_like(parts)
        work = dist.all_to_all_single(received, parts, group=group, async_op=True)

    def joined(parts: Tensor) -> Tensor:
        return torch.cat(parts.unbind(0), join_dim)

    return Pending(received, work, sent=parts, arrange=joined, name=name)


def gathered(x: Tensor, dim: int, group: Group) -> Tensor:
    """`start_gathered`, waited for."""
    return start_gathered(x, dim, group).wait()


def reduce_scattered(x: Tensor, dim: int, group: Group) -> Tensor:
    """`start_reduce_scattered`, waited for."""
    return start_reduce_scattered(x, dim, group).wait()


def exchanged(x: Tensor, split_dim: int, join_dim: int, group: Group) -> Tensor:
    """`start_exchanged`, waited for."""
    return start_exchanged(x, split_dim, join_dim, group).wait()


def own_part(x: Tensor, dim: int, group: Group) -> Tensor:
    """The own part along `dim` of a tensor that all ranks hold."""
    size = size_of(group)
    _require_divisible(x.shape[dim], size, dim)
    return x.chunk(size, dim)[rank_in(group)]


def _contiguous_at(dim: int) -> Callable[[Tensor], Tensor]:
    """Dimension 0 goes to `dim`, in memory as well."""
    return lambda x: x.movedim(0, dim).contiguous()


def _require_divisible(length: int, size: int, dim: int) -> None:
    assert length % size == 0, f"dim {dim} of length {length} does not divide over {size} ranks"


# -- forward and backward -------------------------------------------------------------------------


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
        dx = dout.contiguous().clone()
        dist.all_reduce(dx, group=ctx.group)
        return dx, None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        out = x.contiguous().clone()
        dist.all_reduce(out, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
        return dout, None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return gathered(x, dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        return reduce_scattered(dout, ctx.dim, ctx.group), None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return reduce_scattered(x, dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        return gathered(dout, ctx.dim, ctx.group), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return own_part(x, dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        return gathered(dout, ctx.dim, ctx.group), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return gathered(x, dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        return own_part(dout, ctx.dim, ctx.group), None, None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, split_dim: int, join_dim: int, group: Group) -> Tensor:
        ctx.split_dim, ctx.join_dim, ctx.group = split_dim, join_dim, group
        return exchanged(x, split_dim, join_dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None, None]:
        return exchanged(dout, ctx.join_dim, ctx.split_dim, ctx.group), None, None, None
