"""The fused layer's weights and activations, and its operations on sequence chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from llama_ds.parallel.collectives import Pending
from llama_ds.parallel.profiling import named
from llama_ds.parallel.tensor import SEQUENCE_DIM

T = TypeVar("T")


class LayerWeights(NamedTuple):
    """This rank's weight shards, [out, in] as in `nn.Linear`; also their gradients."""

    attn_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass
class Activations:
    """The layer's activations, by their names in `SavePolicy`; None: not computed (yet)."""

    x: Tensor
    attn_normed: Tensor | None = None
    attn_in: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    attn_out: Tensor | None = None
    lse: Tensor | None = None
    o_in: Tensor | None = None
    mid: Tensor | None = None
    mlp_normed: Tensor | None = None
    mlp_in: Tensor | None = None
    gate: Tensor | None = None
    up: Tensor | None = None
    product: Tensor | None = None

    def keep_only(self, names: tuple[str, ...]) -> None:
        for name in vars(self).keys() - set(names):
            setattr(self, name, None)


def weight_gradient(name: str, dout_BSO: Tensor, x_BSI: Tensor) -> Tensor:
    """[out, in], of `out = x @ weight.T`: summed over all positions."""
    with named(f"weight gradient: {name}"):
        return dout_BSO.flatten(0, 1).mT @ x_BSI.flatten(0, 1)


def add_matmul_(sum_BSI: Tensor, dout_BSO: Tensor, weight_OI: Tensor) -> None:
    """`sum += dout @ weight` in place: the matmul adds, so it is one pass less, rounded once."""
    sum_BSI.view(-1, sum_BSI.shape[-1]).addmm_(dout_BSO.flatten(0, 1), weight_OI)


def not_none(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "an activation that this step reads has not been computed"
    return tensor


def wait_and_concat(chunks: list[Pending]) -> Tensor:
    """[B, s, D], concatenated along the sequence once all chunks have arrived."""
    tensors = [chunk.wait() for chunk in chunks]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, SEQUENCE_DIM)


def pipelined(started: Iterable[T]) -> Iterator[T]:
    """The same items; issues the next one's collectives before yielding the current one.

    Making an item must start its collectives: iterating over `started` one item ahead then lets
    them run while the caller computes on the current item.
    """
    iterator = iter(started)
    current = next(iterator)
    for following in iterator:
        yield current
        current = following
    yield current
