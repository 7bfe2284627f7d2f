"""Ulysses sequence parallelism (arXiv 2309.14509): the ranks of an sp group shard each sequence.

Everything but attention is local to the shard. Attention needs all positions, but its heads are
independent: an all-to-all before it turns "all heads of my positions" into "all positions of my
heads", and another one after it reverses this.

Shapes in names: B sequences of the micro-batch, S sequence length, s = S / sp, H and K this rank's
query and key/value heads outside of attention, h = H / sp and k inside, E head dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_ds.parallel.collectives import (
    Group,
    Pending,
    all_gather_no_grad,
    all_to_all,
    own_shard,
    start_all_to_all,
)
from llama_ds.parallel.groups import ParallelGroups


@dataclass(frozen=True)
class SequenceParallel:
    """This rank in its sp group; the default is a single rank."""

    groups: ParallelGroups | None = None
    size: int = 1
    rank: int = 0

    @classmethod
    def of(cls, groups: ParallelGroups | None) -> SequenceParallel:
        return cls() if groups is None else cls(groups, groups.sp_size, groups.sp_rank)

    @property
    def group(self) -> Group:
        return None if self.groups is None else self.groups.sp_group

    def kv_repeats(self, num_kv_heads: int) -> int:
        """Repeats of each key/value head, so that the all-to-all divides them evenly."""
        return self.size // math.gcd(self.size, num_kv_heads)

    def queries_to_heads(self, q_BHsE: Tensor) -> Tensor:
        """[B, H, s, E] -> [B, h, S, E]."""
        return all_to_all(q_BHsE, 1, 2, self.group)

    def keys_to_heads(self, k_BKsE: Tensor) -> Tensor:
        """[B, K, s, E] -> [B, k, S, E]: the heads that this rank's queries attend to."""
        repeats = self.kv_repeats(k_BKsE.shape[1])
        if repeats > 1:
            k_BKsE = k_BKsE.repeat_interleave(repeats, dim=1)
        return all_to_all(k_BKsE, 1, 2, self.group)

    def to_sequence(self, out_BShE: Tensor) -> Tensor:
        """[B, S, h, E] -> [B, s, H, E]."""
        return all_to_all(out_BShE, 1, 2, self.group)

    # The same asynchronously, without autograd and with heads after the sequence, for the
    # hand-written backward pass.

    def start_to_heads(self, q_BsHE: Tensor, name: str) -> Pending:
        """[B, s, H, E] -> [B, S, h, E]."""
        return start_all_to_all(q_BsHE, 2, 1, self.group, name)

    def start_to_sequence(self, out_BShE: Tensor, name: str) -> Pending:
        """[B, S, h, E] -> [B, s, H, E]; the two are each other's inverse and backward."""
        return start_all_to_all(out_BShE, 1, 2, self.group, name)

    def whole(self, x_Bs: Tensor) -> Tensor:
        """All-gather of sequence shards: [B, S]; no gradient."""
        return all_gather_no_grad(x_Bs, 1, self.group)

    def shard(self, x_BS: Tensor) -> Tensor:
        """This rank's shard [B, s] of whole sequences; no gradient."""
        return own_shard(x_BS, 1, self.group).contiguous()

    def positions(self, s: int, device: torch.device) -> Tensor:
        """Position ids [s] of this rank's shard within the whole sequence."""
        return torch.arange(s, device=device) + self.rank * s
