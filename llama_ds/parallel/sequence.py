"""Ulysses sequence parallelism (arXiv 2309.14509): a rank of an sp group has a slice of the rows.

Everything but attention works on the slice alone. Attention needs all positions, but its heads are
independent: an all-to-all turns "all heads of my positions" into "all positions of my heads" in
front of it, and another one turns its result back.

Shapes in names: B rows, S sequence, s = S / sp, H and K this rank's query and key/value heads
outside of attention, h = H / sp and k inside, E head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_ds.parallel.collectives import (
    Group,
    Pending,
    all_to_all,
    gathered,
    own_part,
    start_exchanged,
)
from llama_ds.parallel.groups import ParallelGroups


@dataclass(frozen=True)
class SequenceParallel:
    """This rank's place among the ranks that share rows; the default is a single rank."""

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
        """Copies of each key/value head that the exchange needs to give every rank as many."""
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

    # The same without autograd and with heads behind the sequence, for a backward pass written by
    # hand: begun here, and waited for by the caller.

    def start_to_heads(self, q_BsHE: Tensor, name: str) -> Pending:
        """[B, s, H, E] -> [B, S, h, E]."""
        return start_exchanged(q_BsHE, 2, 1, self.group, name)

    def start_to_sequence(self, out_BShE: Tensor, name: str) -> Pending:
        """[B, S, h, E] -> [B, s, H, E]; each of the two is the other's backward."""
        return start_exchanged(out_BShE, 1, 2, self.group, name)

    def whole(self, x_Bs: Tensor) -> Tensor:
        """The whole rows [B, S] of what is cut along the sequence; no gradient."""
        return gathered(x_Bs, 1, self.group)

    def cut(self, x_BS: Tensor) -> Tensor:
        """This rank's slice [B, s] of whole rows; no gradient."""
        return own_part(x_BS, 1, self.group).contiguous()

    def positions(self, s: int, device: torch.device) -> Tensor:
        """Position ids [s] of this rank's slice, in the whole row."""
        return torch.arange(s, device=device) + self.rank * s
