"""Tensor parallelism: each rank of a tp group holds a part of every large matrix.

A block (attention, MLP, output head) is entered by a column-parallel matrix, whose output features
are divided, and left by a row-parallel one, whose input features are. Between the two nothing is
sent (Megatron-LM, arXiv 1909.08053, section 3). With `sequence_parallel` the activations outside
the blocks are divided along the sequence over the same ranks (arXiv 2205.05198, section 4.2.2):

                     enter                                  leave
    plain            nothing; backward all-reduces          all-reduce; backward nothing
    sequence par.    all-gather; backward reduce-scatters   reduce-scatter; backward all-gathers

The layers keep Hugging Face's names, and a rank's parameter is a part of the full one: `Sharding`
says which, for initial weights, loading and saving alike.

Shapes in names: B rows, S sequence, s = S / tp with sequence_parallel (else S), D hidden, V
vocabulary, v = V / tp.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_ds.parallel.collectives import (
    Group,
    Pending,
    all_gather,
    copy_to_group,
    gather,
    reduce_from_group,
    reduce_scatter,
    scatter,
    start_gathered,
    start_reduce_scattered,
    start_summed,
)
from llama_ds.parallel.groups import ParallelGroups

SEQUENCE_DIM = 1

# The module that a parameter belongs to -> the dimension of its weight that is divided.
_COLUMN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head", "embed_tokens")
_ROW = ("o_proj", "down_proj")
_KEY_VALUE = ("k_proj", "v_proj")


@dataclass(frozen=True)
class Sharding:
    """Which part of each full weight a tp rank holds; the only place that knows.

    Key and value heads that are fewer than the ranks are held by several ranks each, adjacent ones.
    """

    tp_size: int
    num_key_value_heads: int

    def dim(self, name: str) -> int | None:
        """Dimension along which the parameter `name` is divided; None where all ranks hold all."""
        module, kind = name.split(".")[-2:]
        if module in _COLUMN:
            return 0
        return 1 if module in _ROW and kind == "weight" else None

    def replicas(self, name: str) -> int:
        """Ranks that hold the same part."""
        if self.dim(name) is None:
            return self.tp_size
        is_kv = name.split(".")[-2] in _KEY_VALUE
        return max(1, self.tp_size // self.num_key_value_heads) if is_kv else 1

    def local_slice(self, name: str, shape: tuple[int, ...], tp_rank: int) -> tuple[slice, ...]:
        """Index of rank `tp_rank`'s part in the full parameter of `shape`."""
        index = [slice(0, length) for length in shape]
        dim = self.dim(name)
        if dim is not None:
            replicas = self.replicas(name)
            parts = self.tp_size // replicas
            assert shape[dim] % parts == 0, (
                f"{name}: dim {dim} of length {shape[dim]} does not divide into {parts} parts"
            )
            length = shape[dim] // parts
            start = tp_rank // replicas * length
            index[dim] = slice(start, start + length)
        return tuple(index)

    def shard(self, name: str, full: Tensor, tp_rank: int) -> Tensor:
        """Rank `tp_rank`'s part of a full parameter, as a view."""
        return full[self.local_slice(name, tuple(full.shape), tp_rank)]

    def unshard(self, name: str, parts: list[Tensor]) -> Tensor:
        """The full parameter from all ranks' parts, in rank order."""
        dim = self.dim(name)
        return parts[0] if dim is None else torch.cat(parts[:: self.replicas(name)], dim)


@dataclass(frozen=True)
class TensorParallel:
    """This rank's place among the ranks that share one copy of the weights.

    The default is a single rank, for which every method is the identity.
    """

    groups: ParallelGroups | None = None
    size: int = 1
    rank: int = 0
    sequence_parallel: bool = False
    sharding: Sharding = Sharding(1, 1)

    @classmethod
    def of(
        cls, groups: ParallelGroups | None, *, sequence_parallel: bool, num_key_value_heads: int
    ) -> TensorParallel:
        """ValueError where key/value heads are fewer than tp and the groups do not replicate."""
        if groups is None:
            return cls()
        sharding = Sharding(groups.tp_size, num_key_value_heads)
        replicas = sharding.replicas("k_proj.weight")
        if replicas != groups.kv_replicas:
            raise ValueError(
                f"{num_key_value_heads} key/value heads on tp_size {groups.tp_size} ranks make "
                f"{replicas} replicas of each, the groups are built for kv_replicas "
                f"{groups.kv_replicas}"
            )
        return cls(
            groups=groups,
            size=groups.tp_size,
            rank=groups.tp_rank,
            sequence_parallel=sequence_parallel and groups.tp_size > 1,
            sharding=sharding,
        )

    @property
    def group(self) -> Group:
        return None if self.groups is None else self.groups.tp_group

    @property
    def kv_group(self) -> Group:
        """Ranks that hold the same key and value heads."""
        return None if self.groups is None else self.groups.kv_group

    def enter(self, x_BsD: Tensor) -> Tensor:
        """[B, s, D] -> [B, S, D] in front of column-parallel matrices."""
        if self.sequence_parallel:
            return all_gather(x_BsD, SEQUENCE_DIM, self.group)
        return copy_to_group(x_BsD, self.group)

    def leave(self, partial_BSD: Tensor) -> Tensor:
        """[B, S, D], of which each rank has one term, -> their sum, [B, s, D]."""
        if self.sequence_parallel:
            return reduce_scatter(partial_BSD, SEQUENCE_DIM, self.group)
        return reduce_from_group(partial_BSD, self.group)

    # The same without autograd, for a backward pass written by hand: begun here, and waited for by
    # the caller.

    def start_gathered(self, x_BsD: Tensor, name: str) -> Pending:
        """Forward of `enter`, and backward of `leave`."""
        if self.sequence_parallel:
            return start_gathered(x_BsD, SEQUENCE_DIM, self.group, name)
        return Pending(x_BsD)

    def start_summed(self, partial_BSD: Tensor, name: str) -> Pending:
        """Forward of `leave`, and backward of `enter`; it may overwrite what it is given."""
        if self.sequence_parallel:
            return start_reduce_scattered(partial_BSD, SEQUENCE_DIM, self.group, name)
        return start_summed(partial_BSD, self.group, name)

    def start_summed_replicated(self, dweight: Tensor, name: str) -> Pending:
        """Backward of `replicated`; it may overwrite what it is given."""
        group = self.group if self.sequence_parallel else None
        return start_summed(dweight, group, name)

    # A chunk of [B, S, features]: the same range of every rank's part of the sequence.

    def chunks(self, x_BSF: Tensor, num_chunks: int) -> list[Tensor]:
        """[B, S, F] in chunks, such that each of them, when summed, leaves a range of [B, s, F]."""
        if num_chunks == 1:
            return [x_BSF]
        x_BTsF = x_BSF.unflatten(SEQUENCE_DIM, (self._num_parts, -1))
        return [chunk.flatten(1, 2) for chunk in x_BTsF.chunk(num_chunks, SEQUENCE_DIM + 1)]

    def joined(self, chunks: list[Tensor]) -> Tensor:
        """[B, S, F] of `chunks`, or of what was made of gathered ranges of [B, s, D]."""
        if len(chunks) == 1:
            return chunks[0]
        parts = [chunk.unflatten(SEQUENCE_DIM, (self._num_parts, -1)) for chunk in chunks]
        return torch.cat(parts, SEQUENCE_DIM + 1).flatten(1, 2)

    def outside(self, x_BSD: Tensor) -> Tensor:
        """[B, S, D] that all ranks hold -> the part [B, s, D] to work on outside the blocks."""
        return scatter(x_BSD, SEQUENCE_DIM, self.group) if self.sequence_parallel else x_BSD

    def sequence_length(self, s: int) -> int:
        """S of activations whose length outside the blocks is `s`."""
        return s * self._num_parts

    @property
    def _num_parts(self) -> int:
        """Parts into which the sequence is divided outside the blocks."""
        return self.size if self.sequence_parallel else 1

    def replicated(self, weight: Tensor) -> Tensor:
        """A weight that all ranks hold and use outside the blocks.

        With sequence_parallel each rank uses it on its part of the sequence, so that the gradient
        is a sum over the ranks; without, every rank finds the whole gradient.
        """
        return copy_to_group(weight, self.group) if self.sequence_parallel else weight


SINGLE_RANK = TensorParallel()


def _mark(parameter: Tensor, is_counted: bool = True) -> None:
    """Tell DeepSpeed that ranks hold different values here.

    A gradient norm counts a marked parameter on every rank and any other on tp rank 0 only.
    """
    parameter.tensor_model_parallel = is_counted  # type: ignore[attr-defined]


class ColumnParallelLinear(nn.Linear):
    """This rank's output features of a linear layer; bias divided likewise."""

    def __init__(self, in_features: int, out_features: int, bias: bool, tp: TensorParallel) -> None:
        super().__init__(in_features, out_features // tp.size, bias=bias)
        if tp.size > 1:
            for parameter in self.parameters():
                _mark(parameter)


class KeyValueLinear(nn.Linear):
    """This rank's key or value heads; where ranks hold the same ones, they share the gradient."""

    def __init__(self, in_features: int, out_features: int, bias: bool, tp: TensorParallel) -> None:
        replicas = tp.sharding.replicas("k_proj.weight")
        super().__init__(in_features, out_features * replicas // tp.size, bias=bias)
        self.tp = tp
        if tp.size > 1:
            for parameter in self.parameters():
                _mark(parameter, is_counted=tp.rank % replicas == 0)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., this rank's heads * head width]."""
        group = self.tp.kv_group
        bias = None if self.bias is None else copy_to_group(self.bias, group)
        return F.linear(input, copy_to_group(self.weight, group), bias)


class RowParallelLinear(nn.Linear):
    """This rank's input features of a linear layer; the ranks' results are summed on leaving.

    Every rank holds the whole bias, which is added once, to the sum.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, tp: TensorParallel) -> None:
        super().__init__(in_features // tp.size, out_features, bias=bias)
        self.tp = tp
        if tp.size > 1:
            _mark(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """[B, S, this rank's in_features] -> [B, s, out_features]."""
        if self.tp.size == 1:
            return super().forward(input)
        out = self.tp.leave(F.linear(input, self.weight))
        return out if self.bias is None else out + self.tp.replicated(self.bias)


class VocabParallelEmbedding(nn.Embedding):
    """This rank's rows of the embedding: ranks look up what they have, and sum."""

    def __init__(
        self, vocab_size: int, hidden_size: int, padding_idx: int | None, tp: TensorParallel
    ) -> None:
        rows = vocab_size // tp.size
        first_row = tp.rank * rows
        if padding_idx is not None:
            padding_idx -= first_row
            padding_idx = padding_idx if 0 <= padding_idx < rows else None
        super().__init__(rows, hidden_size, padding_idx)
        self.first_row = first_row
        self.tp = tp
        if tp.size > 1:
            _mark(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Token ids [B, S] -> [B, s, D]."""
        if self.tp.size == 1:
            return super().forward(input)
        row = input - self.first_row
        is_elsewhere = (row < 0) | (row >= self.num_embeddings)
        found = super().forward(row.masked_fill(is_elsewhere, 0))
        return self.tp.leave(found.masked_fill(is_elsewhere.unsqueeze(-1), 0.0))


def gather_vocabulary(logits_BSv: Tensor, tp: TensorParallel) -> Tensor:
    """All logits [B, S, V], for generation and evaluation of single positions."""
    return gather(logits_BSv, -1, tp.group)
