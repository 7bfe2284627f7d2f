"""Tensor parallelism: the ranks of a tp group shard every large matrix.

A block (attention, MLP, output head) starts with a column-parallel matrix, sharded along its output
features, and ends with a row-parallel one, sharded along its input features; in between there is no
communication (Megatron-LM, arXiv 1909.08053, section 3). With `sequence_parallel` the activations
outside the blocks are sharded along the sequence over the same ranks (arXiv 2205.05198, section
4.2.2):

                     enter                                  leave
    plain            nothing; backward all-reduces          all-reduce; backward nothing
    sequence par.    all-gather; backward reduce-scatters   reduce-scatter; backward all-gathers

The layers keep Hugging Face's names, and a rank's parameter is a shard of the full one: `Sharding`
defines which, for initialization, loading and saving alike.

Shapes in names: B sequences of the micro-batch, S sequence length, s = S / tp with
sequence_parallel (else S), D hidden, V vocabulary, v = V / tp.
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
    start_all_gather,
    start_all_reduce,
    start_reduce_scatter,
)
from llama_ds.parallel.groups import ParallelGroups

SEQUENCE_DIM = 1

# Modules by the dimension along which their weight is sharded: 0 (columns), 1 (rows).
_COLUMN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head", "embed_tokens")
_ROW = ("o_proj", "down_proj")
_KEY_VALUE = ("k_proj", "v_proj")
_VOCABULARY = ("lm_head", "embed_tokens")


@dataclass(frozen=True)
class Sharding:
    """Which shard of each full weight a tp rank holds; the only definition.

    Where there are fewer key/value heads than ranks, adjacent ranks hold replicas of a head. Where
    the vocabulary does not divide, ranks' shards differ by a row; all parameters have as many rows
    as the largest, and the last row of the others is padding: it is zero, no token or logit has it,
    and no full weight.
    """

    tp_size: int
    num_key_value_heads: int
    vocab_size: int | None = None
    """Needed where it does not divide by tp_size."""

    def dim(self, name: str) -> int | None:
        """Dimension along which the parameter `name` is sharded; None where it is replicated."""
        module, kind = name.split(".")[-2:]
        if module in _COLUMN:
            return 0
        return 1 if module in _ROW and kind == "weight" else None

    def replicas(self, name: str) -> int:
        """Ranks that hold the same shard."""
        if self.dim(name) is None:
            return self.tp_size
        is_kv = name.split(".")[-2] in _KEY_VALUE
        return max(1, self.tp_size // self.num_key_value_heads) if is_kv else 1

    def local_slice(self, name: str, shape: tuple[int, ...], tp_rank: int) -> tuple[slice, ...]:
        """Index of rank `tp_rank`'s shard in the full parameter of `shape`."""
        index = [slice(0, length) for length in shape]
        dim = self.dim(name)
        if dim is not None:
            replicas = self.replicas(name)
            num_shards = self.tp_size // replicas
            assert shape[dim] % num_shards == 0 or is_vocabulary(name), (
                f"{name}: dim {dim} of length {shape[dim]} must divide into {num_shards} shards"
            )
            own = _part(shape[dim], num_shards, tp_rank // replicas)
            index[dim] = slice(own.start, own.stop)
        return tuple(index)

    def vocabulary_range(self, tp_rank: int, num_rows: int) -> range:
        """Tokens of a rank's shard, of whose parameter the first rows are theirs."""
        vocab_size = num_rows * self.tp_size if self.vocab_size is None else self.vocab_size
        return _part(vocab_size, self.tp_size, tp_rank)

    def full_shape(self, name: str, local_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the full parameter, of which a rank's part has `local_shape`."""
        shape = list(local_shape)
        if self.vocab_size is not None and is_vocabulary(name):
            return (self.vocab_size, *shape[1:])
        dim = self.dim(name)
        if dim is not None:
            shape[dim] *= self.tp_size // self.replicas(name)
        return tuple(shape)

    def holds_first_copy(self, name: str, tp_rank: int) -> bool:
        """Whether no rank of a lower number holds the same part."""
        return tp_rank % self.replicas(name) == 0

    def shard(self, name: str, full: Tensor, tp_rank: int) -> Tensor:
        """Rank `tp_rank`'s shard of a full parameter, as a view."""
        return full[self.local_slice(name, tuple(full.shape), tp_rank)]

    def unshard(self, name: str, shards: list[Tensor]) -> Tensor:
        """The full parameter from all ranks' shards, in rank order."""
        dim = self.dim(name)
        if dim is None:
            return shards[0]
        if is_vocabulary(name):
            shards = [
                shard[: len(self.vocabulary_range(rank, len(shard)))]
                for rank, shard in enumerate(shards)
            ]
        return torch.cat(shards[:: self.replicas(name)], dim)


def is_vocabulary(name: str) -> bool:
    """Whether a parameter has a row for each token."""
    return name.split(".")[-2] in _VOCABULARY


def _part(length: int, num_parts: int, number: int) -> range:
    """Part `number` of `length` in parts that differ by at most one."""
    return range(length * number // num_parts, length * (number + 1) // num_parts)


@dataclass(frozen=True)
class TensorParallel:
    """This rank in its tp group; the default is a single rank, where all methods are identities."""

    groups: ParallelGroups | None = None
    size: int = 1
    rank: int = 0
    sequence_parallel: bool = False
    sharding: Sharding = Sharding(1, 1)

    @classmethod
    def of(
        cls,
        groups: ParallelGroups | None,
        *,
        sequence_parallel: bool,
        num_key_value_heads: int,
        vocab_size: int | None = None,
    ) -> TensorParallel:
        """ValueError where the groups' kv_replicas do not fit tp and the key/value heads."""
        if groups is None:
            return cls()
        sharding = Sharding(groups.tp_size, num_key_value_heads, vocab_size)
        replicas = sharding.replicas("k_proj.weight")
        if replicas != groups.kv_replicas:
            raise ValueError(
                f"kv_replicas ({groups.kv_replicas}) must be {replicas} for {num_key_value_heads} "
                f"key/value heads on {groups.tp_size} tp ranks; pass it to ParallelGroups.build"
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
        """[B, s, D] -> [B, S, D], before column-parallel matrices."""
        if self.sequence_parallel:
            return all_gather(x_BsD, SEQUENCE_DIM, self.group)
        return copy_to_group(x_BsD, self.group)

    def leave(self, partial_BSD: Tensor) -> Tensor:
        """Partial sums [B, S, D] of the ranks -> their total, [B, s, D]."""
        if self.sequence_parallel:
            return reduce_scatter(partial_BSD, SEQUENCE_DIM, self.group)
        return reduce_from_group(partial_BSD, self.group)

    # The same asynchronously and without autograd, for the hand-written backward pass.

    def start_all_gather(self, x_BsD: Tensor, name: str) -> Pending:
        """Forward of `enter`, and backward of `leave`."""
        if self.sequence_parallel:
            return start_all_gather(x_BsD, SEQUENCE_DIM, self.group, name)
        return Pending(x_BsD)

    def start_reduce(self, partial_BSD: Tensor, name: str) -> Pending:
        """Forward of `leave`, and backward of `enter`; may overwrite its argument."""
        if self.sequence_parallel:
            return start_reduce_scatter(partial_BSD, SEQUENCE_DIM, self.group, name)
        return start_all_reduce(partial_BSD, self.group, name)

    def start_reduce_replicated(self, dweight: Tensor, name: str) -> Pending:
        """Backward of `replicated`; may overwrite its argument."""
        group = self.group if self.sequence_parallel else None
        return start_all_reduce(dweight, group, name)

    # A chunk of [B, S, features]: the same range of every rank's sequence shard.

    def chunks(self, x_BSF: Tensor, num_chunks: int) -> list[Tensor]:
        """[B, S, F] in chunks, each of which reduce-scatters to a range of [B, s, F]."""
        if num_chunks == 1:
            return [x_BSF]
        x_BTsF = x_BSF.unflatten(SEQUENCE_DIM, (self._num_sequence_shards, -1))
        return [chunk.flatten(1, 2) for chunk in x_BTsF.chunk(num_chunks, SEQUENCE_DIM + 1)]

    def concat_chunks(self, chunks: list[Tensor]) -> Tensor:
        """Inverse of `chunks`; also for what was computed from all-gathered ranges of [B, s, D]."""
        if len(chunks) == 1:
            return chunks[0]
        shards = [
            chunk.unflatten(SEQUENCE_DIM, (self._num_sequence_shards, -1)) for chunk in chunks
        ]
        return torch.cat(shards, SEQUENCE_DIM + 1).flatten(1, 2)

    def outside(self, x_BSD: Tensor) -> Tensor:
        """Replicated [B, S, D] -> this rank's shard [B, s, D] outside the blocks."""
        return scatter(x_BSD, SEQUENCE_DIM, self.group) if self.sequence_parallel else x_BSD

    def sequence_length(self, s: int) -> int:
        """S of activations whose shard outside the blocks has length `s`."""
        return s * self._num_sequence_shards

    @property
    def _num_sequence_shards(self) -> int:
        """Shards of the sequence outside the blocks."""
        return self.size if self.sequence_parallel else 1

    def replicated(self, weight: Tensor) -> Tensor:
        """A replicated weight for use outside the blocks.

        With sequence_parallel each rank applies it to its sequence shard, and the gradient is
        all-reduced; without, every rank computes the full gradient.
        """
        return copy_to_group(weight, self.group) if self.sequence_parallel else weight


SINGLE_RANK = TensorParallel()


def _mark(parameter: Tensor, is_counted: bool = True) -> None:
    """Mark a parameter as sharded over tp, for DeepSpeed.

    Its gradient norm counts a marked parameter on every rank, others on tp rank 0 only.
    """
    parameter.tensor_model_parallel = is_counted  # type: ignore[attr-defined]


class ColumnParallelLinear(nn.Linear):
    """A linear layer sharded along its output features, like its bias."""

    def __init__(self, in_features: int, out_features: int, bias: bool, tp: TensorParallel) -> None:
        super().__init__(in_features, out_features // tp.size, bias=bias)
        if tp.size > 1:
            for parameter in self.parameters():
                _mark(parameter)


class KeyValueLinear(nn.Linear):
    """The projection to this rank's key or value heads; gradients of replicas are all-reduced."""

    def __init__(self, in_features: int, out_features: int, bias: bool, tp: TensorParallel) -> None:
        replicas = tp.sharding.replicas("k_proj.weight")
        super().__init__(in_features, out_features * replicas // tp.size, bias=bias)
        self.tp = tp
        if tp.size > 1:
            for parameter in self.parameters():
                _mark(parameter, is_counted=tp.rank % replicas == 0)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., this rank's heads * head dim]."""
        group = self.tp.kv_group
        bias = None if self.bias is None else copy_to_group(self.bias, group)
        return F.linear(input, copy_to_group(self.weight, group), bias)


class RowParallelLinear(nn.Linear):
    """A linear layer sharded along its input features; the ranks' partial sums are reduced.

    The bias is replicated, and added once, to the total.
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
    """An embedding sharded along the vocabulary: ranks look up their own rows, and reduce."""

    def __init__(
        self, vocab_size: int, hidden_size: int, padding_idx: int | None, tp: TensorParallel
    ) -> None:
        own = _part(vocab_size, tp.size, tp.rank)
        if padding_idx is not None:
            padding_idx = padding_idx - own.start if padding_idx in own else None
        super().__init__(padded_rows(vocab_size, tp), hidden_size, padding_idx)
        self.own = own
        self.tp = tp
        if tp.size > 1:
            _mark(self.weight)
            mark_padding(self.weight, len(own))

    def forward(self, input: Tensor) -> Tensor:
        """Token ids [B, S] -> [B, s, D]."""
        if self.tp.size == 1:
            return super().forward(input)
        row = input - self.own.start
        is_elsewhere = (row < 0) | (row >= len(self.own))
        found = super().forward(row.masked_fill(is_elsewhere, 0))
        return self.tp.leave(found.masked_fill(is_elsewhere.unsqueeze(-1), 0.0))


def padded_rows(vocab_size: int, tp: TensorParallel) -> int:
    """Rows of a rank's parameter."""
    return -(-vocab_size // tp.size)


def mark_padding(parameter: Tensor, num_rows: int) -> None:
    """Mark the rows behind the first `num_rows` as padding, for checkpoints."""
    parameter.num_padding_rows = len(parameter) - num_rows  # type: ignore[attr-defined]


def padded_to(parameter: Tensor, shard: Tensor) -> Tensor:
    """A shard of a full weight, with zeros for the rows that pad its parameter."""
    missing = parameter.shape[0] - shard.shape[0]
    return F.pad(shard, (0, 0, 0, missing)) if missing else shard


def gather_vocabulary(logits_BSv: Tensor, tp: TensorParallel) -> Tensor:
    """All-gather of the vocabulary: logits [B, S, V], for generation."""
    rows = logits_BSv.shape[-1]
    logits_BSV = gather(logits_BSv, -1, tp.group)
    sizes = [len(tp.sharding.vocabulary_range(rank, rows)) for rank in range(tp.size)]
    if sum(sizes) == tp.size * rows:
        return logits_BSV
    shards = logits_BSV.split(rows, dim=-1)
    return torch.cat([x[..., :size] for x, size in zip(shards, sizes, strict=True)], dim=-1)
