"""The mesh of ranks, dp x sp x tp, as arithmetic; needs no process group and no torch.

tp is innermost, so that the ranks that communicate the most are on the same node:

    rank = (dp_rank * sp_size + sp_rank) * tp_size + tp_rank
"""

from __future__ import annotations

from dataclasses import dataclass

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Sizes of the mesh, and rank arithmetic."""

    dp_size: int
    sp_size: int
    tp_size: int

    @property
    def world_size(self) -> int:
        return self.dp_size * self.sp_size * self.tp_size

    def rank(self, dp_rank: int, sp_rank: int, tp_rank: int) -> int:
        """Global rank of mesh coordinates."""
        return (dp_rank * self.sp_size + sp_rank) * self.tp_size + tp_rank

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """(dp_rank, sp_rank, tp_rank) of a global rank."""
        rank, tp_rank = divmod(rank, self.tp_size)
        dp_rank, sp_rank = divmod(rank, self.sp_size)
        return dp_rank, sp_rank, tp_rank

    def tp_groups(self) -> list[Ranks]:
        """Ranks that shard one replica of the weights; they train on the same sequences."""
        return [
            tuple(self.rank(dp, sp, tp) for tp in range(self.tp_size))
            for dp in range(self.dp_size)
            for sp in range(self.sp_size)
        ]

    def sp_groups(self) -> list[Ranks]:
        """Ranks that hold shards of the same sequences, and the same weight shards."""
        return [
            tuple(self.rank(dp, sp, tp) for sp in range(self.sp_size))
            for dp in range(self.dp_size)
            for tp in range(self.tp_size)
        ]

    def dp_groups(self) -> list[Ranks]:
        """Ranks that train on different sequences and differ in nothing else."""
        return [
            tuple(self.rank(dp, sp, tp) for dp in range(self.dp_size))
            for sp in range(self.sp_size)
            for tp in range(self.tp_size)
        ]

    def replica_groups(self) -> list[Ranks]:
        """Ranks that hold the same weight shards, dp x sp: gradients are averaged over these."""
        return [
            tuple(self.rank(dp, sp, tp) for dp in range(self.dp_size) for sp in range(self.sp_size))
            for tp in range(self.tp_size)
        ]

    def kv_groups(self, replicas: int) -> list[Ranks]:
        """Adjacent ranks of a tp group, `replicas` at a time, which hold the same kv heads."""
        return [
            ranks[first : first + replicas]
            for ranks in self.tp_groups()
            for first in range(0, self.tp_size, replicas)
        ]


def layout_of(world_size: int, *, tp_size: int, sp_size: int) -> Layout:
    """The mesh of `world_size` ranks; ValueError where tp and sp do not divide it."""
    sizes = (("world size", world_size), ("parallel.tp", tp_size), ("parallel.sp", sp_size))
    for name, size in sizes:
        if size < 1:
            raise ValueError(f"{name} ({size}) must be positive")
    if world_size % (tp_size * sp_size) != 0:
        raise ValueError(
            f"world size ({world_size}) must be a multiple of parallel.tp ({tp_size}) x "
            f"parallel.sp ({sp_size}) = {tp_size * sp_size}; change the number of processes, "
            "parallel.tp or parallel.sp"
        )
    return Layout(world_size // (tp_size * sp_size), sp_size, tp_size)
