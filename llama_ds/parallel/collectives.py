"""Collectives: differentiable, without gradients, and asynchronous.

Differentiable functions are named after their forward; the docstring says what the backward does. A
group of one (`None`) makes every function the identity, so that callers need no special case. All
work on gloo and NCCL; backward collectives run on the same group as their forward.

The pairs are those of Megatron-LM (Shoeybi et al. 2019, figure 3; Korthikanti et al. 2022, figure
5): `copy_to_group`/`reduce_from_group` around a tensor-parallel block, or `all_gather`/
`reduce_scatter` along the sequence in their place.

A hand-written backward pass uses the `..._no_grad` functions, and their asynchronous versions,
`start_...`, which return a `Pending` result at once, to overlap communication with computation.
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
    """This rank within the group."""
    return 0 if group is None else dist.get_rank(group)


def copy_to_group(x: Tensor, group: Group) -> Tensor:
    """The identity; backward all-reduces the gradient over the group.

    For a replicated tensor from which every rank computes a different shard of the result.
    """
    if size_of(group) == 1:
        return x
    out: Tensor = _Copy.apply(x, group)  # type: ignore[no-untyped-call]
    return out


def reduce_from_group(x: Tensor, group: Group) -> Tensor:
    """All-reduce of `x` over the group; backward is the identity.

    For partial sums whose total is then replicated.
    """
    if size_of(group) == 1:
        return x
    out: Tensor = _Reduce.apply(x, group)  # type: ignore[no-untyped-call]
    return out


def all_gather(x: Tensor, dim: int, group: Group) -> Tensor:
    """All-gather of the ranks' shards along `dim`; backward reduce-scatters."""
    if size_of(group) == 1:
        return x
    out: Tensor = _AllGather.apply(x, dim, group)  # type: ignore[no-untyped-call]
    return out


def reduce_scatter(x: Tensor, dim: int, group: Group) -> Tensor:
    """Sum over the group, sharded along `dim`; backward all-gathers."""
    if size_of(group) == 1:
        return x
    out: Tensor = _ReduceScatter.apply(x, dim, group)  # type: ignore[no-untyped-call]
    return out


def scatter(x: Tensor, dim: int, group: Group) -> Tensor:
    """This rank's shard along `dim` of a replicated tensor; backward all-gathers."""
    if size_of(group) == 1:
        return x
    out: Tensor = _Scatter.apply(x, dim, group)  # type: ignore[no-untyped-call]
    return out


def gather(x: Tensor, dim: int, group: Group) -> Tensor:
    """All-gather along `dim`, for a result that is then replicated over the ranks.

    Backward takes this rank's shard: unlike in `all_gather`, every rank has the full gradient.
    """
    if size_of(group) == 1:
        return x
    out: Tensor = _Gather.apply(x, dim, group)  # type: ignore[no-untyped-call]
    return out


def all_to_all(x: Tensor, split_dim: int, join_dim: int, group: Group) -> Tensor:
    """Split `x` along `split_dim`, send chunk r to rank r, concatenate along `join_dim`.

    Backward is the inverse all-to-all.
    """
    if size_of(group) == 1:
        return x
    out: Tensor = _AllToAll.apply(x, split_dim, join_dim, group)  # type: ignore[no-untyped-call]
    return out


# -- plain collectives, without gradients ---------------------------------------------------------

# torch 2.13 deprecates the only names that earlier versions have.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Pending:
    """The future result of an asynchronous collective; `wait` returns it.

    On a GPU, waiting blocks the caller's compute stream, not the host. Until then the collective
    uses the memory of its tensors concurrently, so they stay referenced.
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
        """`arrange` makes the result from `received`; without `work` there is no wait."""
        self._tensor, self._work = received, work
        self._sent, self._arrange, self._name = sent, arrange, name

    def wait(self) -> Tensor:
        """The result; may be called repeatedly."""
        if self._work is not None:
            with named(f"wait: {self._name}"):
                self._work.wait()
            if self._arrange is not None:
                self._tensor = self._arrange(self._tensor)
            self._work = self._sent = self._arrange = None
        return self._tensor


def start_all_reduce(x: Tensor, group: Group, name: str = "sum") -> Pending:
    """Sum over the group; overwrites a contiguous `x`."""
    if size_of(group) == 1:
        return Pending(x)
    with named(f"start: {name}"):
        x = x.contiguous()
        return Pending(x, dist.all_reduce(x, group=group, async_op=True), name=name)


def start_all_gather(x: Tensor, dim: int, group: Group, name: str = "gather") -> Pending:
    """The ranks' shards concatenated along `dim`."""
    size = size_of(group)
    if size == 1:
        return Pending(x)
    with named(f"start: {name}"):
        source = x.movedim(dim, 0).contiguous()
        out = source.new_empty((size * source.shape[0], *source.shape[1:]))
        work = _all_gather(out, source, group=group, async_op=True)
    # One copy here saves one in every matmul that takes the result.
    arrange = _contiguous_at(dim)
    return Pending(out, work, sent=source, arrange=arrange, name=name)


def start_reduce_scatter(
    x: Tensor, dim: int, group: Group, name: str = "reduce-scatter"
) -> Pending:
    """This rank's shard along `dim` of the sum over the group."""
    size = size_of(group)
    if size == 1:
        return Pending(x)
    with named(f"start: {name}"):
        source = x.movedim(dim, 0).contiguous()
        _require_divisible(source.shape[0], size, dim)
        out = source.new_empty((source.shape[0] // size, *source.shape[1:]))
        work = _reduce_scatter(out, source, group=group, async_op=True)
    return Pending(out, work, sent=source, arrange=_contiguous_at(dim), name=name)


def start_all_to_all(
    x: Tensor, split_dim: int, join_dim: int, group: Group, name: str = "exchange"
) -> Pending:
    """`x` split along `split_dim` and sent; what is received, concatenated along `join_dim`."""
    size = size_of(group)
    if size == 1:
        return Pending(x)
    with named(f"start: {name}"):
        _require_divisible(x.shape[split_dim], size, split_dim)
        chunks = torch.stack(x.chunk(size, split_dim))
        received = torch.empty_like(chunks)
        work = dist.all_to_all_single(received, chunks, group=group, async_op=True)

    def concat(chunks: Tensor) -> Tensor:
        return torch.cat(chunks.unbind(0), join_dim)

    return Pending(received, work, sent=chunks, arrange=concat, name=name)


def all_gather_no_grad(x: Tensor, dim: int, group: Group) -> Tensor:
    """`start_all_gather`, waited for."""
    return start_all_gather(x, dim, group).wait()


def reduce_scatter_no_grad(x: Tensor, dim: int, group: Group) -> Tensor:
    """`start_reduce_scatter`, waited for."""
    return start_reduce_scatter(x, dim, group).wait()


def all_to_all_no_grad(x: Tensor, split_dim: int, join_dim: int, group: Group) -> Tensor:
    """`start_all_to_all`, waited for."""
    return start_all_to_all(x, split_dim, join_dim, group).wait()


def own_shard(x: Tensor, dim: int, group: Group) -> Tensor:
    """This rank's shard along `dim` of a replicated tensor."""
    size = size_of(group)
    _require_divisible(x.shape[dim], size, dim)
    return x.chunk(size, dim)[rank_in(group)]


def _contiguous_at(dim: int) -> Callable[[Tensor], Tensor]:
    """Moves dimension 0 to `dim`, in memory too."""
    return lambda x: x.movedim(0, dim).contiguous()


def _require_divisible(length: int, size: int, dim: int) -> None:
    assert length % size == 0, f"dim {dim} of length {length} is not divisible by {size} ranks"


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
        return all_gather_no_grad(x, dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        return reduce_scatter_no_grad(dout, ctx.dim, ctx.group), None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return reduce_scatter_no_grad(x, dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        return all_gather_no_grad(dout, ctx.dim, ctx.group), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return own_shard(x, dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        return all_gather_no_grad(dout, ctx.dim, ctx.group), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Group) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return all_gather_no_grad(x, dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        return own_shard(dout, ctx.dim, ctx.group), None, None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, split_dim: int, join_dim: int, group: Group) -> Tensor:
        ctx.split_dim, ctx.join_dim, ctx.group = split_dim, join_dim, group
        return all_to_all_no_grad(x, split_dim, join_dim, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None, None]:
        return all_to_all_no_grad(dout, ctx.join_dim, ctx.split_dim, ctx.group), None, None, None
