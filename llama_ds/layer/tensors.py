"""What the fused layer works on: its weights, its options, and the tensors between its steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from llama_ds.layer.attention_kernels import Documents, Kernel
from llama_ds.layer.elementwise import EAGER, Elementwise
from llama_ds.layer.offload import Offload
from llama_ds.parallel.collectives import Pending, start_summed
from llama_ds.parallel.profiling import named
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.parallel.tensor import SEQUENCE_DIM, TensorParallel
from llama_ds.save_policy import SavePolicy

T = TypeVar("T")


class LayerWeights(NamedTuple):
    """This rank's weights, [out, in] as in `nn.Linear`; also their gradients."""

    attn_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class FusedOptions:
    """What all layers of one forward pass share."""

    policy: SavePolicy
    attention: Kernel
    documents: Documents | None
    """Of whole rows, where several lie in a row."""
    elementwise: Elementwise = EAGER
    offload: Offload | None = None
    """Of this forward pass; None where the policy offloads nothing or nothing need be kept."""
    overlap: bool = False
    """Compute while tensors are sent; False: every collective is waited for where it begins."""
    overlap_chunks: int = 2
    """With `overlap`, parts of the sequence that the forward pass sends one after another."""
    mlp_tiles: int = 1
    """Parts of the sequence that the MLP works on one after another."""


@dataclass(frozen=True)
class Fixed:
    """All that the function needs beside tensors.

    Its methods begin a collective and return what is pending; `name` is for profiles.
    """

    options: FusedOptions
    tp: TensorParallel
    sp: SequenceParallel
    head_dim: int
    eps: float

    @property
    def elementwise(self) -> Elementwise:
        return self.options.elementwise

    @property
    def offloaded(self) -> tuple[str, ...]:
        """The tensors that go to the host."""
        names = () if self.options.offload is None else self.options.policy.offloaded()
        # Without Ulysses `o_in` is `attn_out` itself, and comes back with it.
        return tuple(name for name in names if name != "o_in" or self.sp.size > 1)

    @property
    def num_chunks(self) -> int:
        """Chunks in which the forward pass sends what tensor parallelism brings together."""
        return self.options.overlap_chunks if self.options.overlap and self.tp.size > 1 else 1

    def gather(self, x_BsD: Tensor, name: str) -> Pending:
        """[B, s, D] -> [B, S, D]."""
        return self._begun(self.tp.start_gathered(x_BsD, name))

    def sum(self, partial_BSD: Tensor, name: str) -> Pending:
        """[B, S, D], of which each rank has one term, -> [B, s, D]."""
        return self._begun(self.tp.start_summed(partial_BSD, name))

    def sum_replicated(self, dnorm_D: Tensor, name: str) -> Pending:
        """Gradient of a norm's weight, which all ranks hold."""
        return self._begun(self.tp.start_summed_replicated(dnorm_D, name))

    def sum_key_value(self, dweight: Tensor, name: str) -> Pending:
        """Gradient of key or value heads, over the ranks that hold the same ones."""
        return self._begun(start_summed(dweight, self.tp.kv_group, name))

    def to_heads(self, x_BShE: Tensor, name: str) -> Pending:
        """All heads of this rank's positions -> all positions of fewer heads, [B, T, g, E]."""
        return self._begun(self.sp.start_to_heads(x_BShE, name))

    def to_sequence(self, x_BTgE: Tensor, name: str) -> Pending:
        """The way back, [B, S, h, E]."""
        return self._begun(self.sp.start_to_sequence(x_BTgE, name))

    def _begun(self, pending: Pending) -> Pending:
        if not self.options.overlap:
            pending.wait()
        return pending


@dataclass
class Activations:
    """The layer's tensors, each by the name that a `SavePolicy` gives it; None: not computed."""

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

    def drop_all_but(self, names: tuple[str, ...]) -> None:
        for name in vars(self).keys() - set(names):
            setattr(self, name, None)


def weight_gradient(name: str, dout_BSO: Tensor, x_BSI: Tensor) -> Tensor:
    """[out, in], of `out = x @ weight.T`: summed over all positions."""
    with named(f"weight gradient: {name}"):
        return dout_BSO.flatten(0, 1).mT @ x_BSI.flatten(0, 1)


def present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "a half of the layer has left out a tensor"
    return tensor


def arrived(parts: list[Pending]) -> Tensor:
    """[B, s, D] of ranges of the sequence, once all are there."""
    tensors = [part.wait() for part in parts]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, SEQUENCE_DIM)


def one_ahead(started: Iterable[T]) -> Iterator[T]:
    """The same items, each handed on when the next one has been made, that is, begun."""
    iterator = iter(started)
    current = next(iterator)
    for following in iterator:
        yield current
        current = following
    yield current
