"""Which rank works with which: the process groups of data, sequence and tensor parallelism.

The ranks form a grid dp x sp x tp with tp innermost, so that the ranks that exchange the most sit
on the same machine:

    rank = (dp_rank * sp_size + sp_rank) * tp_size + tp_rank

`ParallelGroups` is also what DeepSpeed calls an `mpu`: an object that it asks for groups, ranks and
sizes. DeepSpeed looks methods up by name, and one more or less changes what it does.

DeepSpeed is not told of sequence parallelism. To it the dp x sp ranks that hold the same part of
the weights are data-parallel ranks, which is all that ZeRO needs to know: it partitions over them
and averages their gradients. Told of it, DeepSpeed 0.19 scales gradients by sp at stages 1 and 2
but not at 3, and at 3 reduces over the dp ranks alone, so that the gradients of the slices never
meet. So `get_sequence_parallel_*`, `get_sequence_data_parallel_*` and
`initialize_sequence_parallel` must not exist here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.distributed as dist

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Sizes of the grid, and its arithmetic; needs no process group."""

    dp_size: int
    sp_size: int
    tp_size: int

    @property
    def world_size(self) -> int:
        return self.dp_size * self.sp_size * self.tp_size

    def rank(self, dp_rank: int, sp_rank: int, tp_rank: int) -> int:
        """Global rank at a place of the grid."""
        return (dp_rank * self.sp_size + sp_rank) * self.tp_size + tp_rank

    def place(self, rank: int) -> tuple[int, int, int]:
        """(dp_rank, sp_rank, tp_rank) of a global rank."""
        row, tp_rank = divmod(rank, self.tp_size)
        dp_rank, sp_rank = divmod(row, self.sp_size)
        return dp_rank, sp_rank, tp_rank

    def tp_groups(self) -> list[Ranks]:
        """Ranks that share one copy of the weights: they work on the same rows."""
        return [
            tuple(self.rank(dp, sp, tp) for tp in range(self.tp_size))
            for dp in range(self.dp_size)
            for sp in range(self.sp_size)
        ]

    def sp_groups(self) -> list[Ranks]:
        """Ranks that work on slices of the same rows with the same part of the weights."""
        return [
            tuple(self.rank(dp, sp, tp) for sp in range(self.sp_size))
            for dp in range(self.dp_size)
            for tp in range(self.tp_size)
        ]

    def dp_groups(self) -> list[Ranks]:
        """Ranks that work on different rows and are alike in everything else."""
        return [
            tuple(self.rank(dp, sp, tp) for dp in range(self.dp_size))
            for sp in range(self.sp_size)
            for tp in range(self.tp_size)
        ]

    def replica_groups(self) -> list[Ranks]:
        """Ranks that hold the same part of the weights, dp x sp: gradients meet here."""
        return [
            tuple(self.rank(dp, sp, tp) for dp in range(self.dp_size) for sp in range(self.sp_size))
            for tp in range(self.tp_size)
        ]

    def kv_groups(self, replicas: int) -> list[Ranks]:
        """Adjacent ranks of a tp group, `replicas` at a time: they hold the same kv heads."""
        return [
            ranks[first : first + replicas]
            for ranks in self.tp_groups()
            for first in range(0, self.tp_size, replicas)
        ]


def layout_of(world_size: int, *, tp_size: int, sp_size: int) -> Layout:
    """The grid over `world_size` ranks; ValueError where it does not divide."""
    for name, size in (("world size", world_size), ("tp_size", tp_size), ("sp_size", sp_size)):
        if size < 1:
            raise ValueError(f"{name} ({size}) must be positive")
    if world_size % (tp_size * sp_size) != 0:
        raise ValueError(
            f"world size {world_size} must be a multiple of tp_size {tp_size} x sp_size {sp_size} "
            f"= {tp_size * sp_size}; change the number of processes, tp_size or sp_size"
        )
    return Layout(world_size // (tp_size * sp_size), sp_size, tp_size)


@dataclass(frozen=True)
class ParallelGroups:
    """This rank's process groups and its place in each; built once, passed to whoever needs it.

    Whoever builds them closes them, best by `with`: a group holds threads and connections (gloo),
    or device memory (NCCL), until it is closed and nobody refers to it. So a model asks for its
    groups here, each time, and keeps none. After `close`, groups can be built anew.
    """

    layout: Layout
    dp_rank: int
    sp_rank: int
    tp_rank: int
    kv_replicas: int
    """Adjacent tp ranks that hold the same key and value heads."""
    _open: dict[str, dist.ProcessGroup] = field(repr=False, compare=False)
    """By name (dp, sp, tp, replica and, where heads are replicated, kv); empty once closed."""

    @classmethod
    def build(cls, *, tp_size: int = 1, sp_size: int = 1, kv_replicas: int = 1) -> ParallelGroups:
        """Groups over the initialised default process group; every rank must call it.

        ValueError where the world size is not a multiple of tp_size * sp_size, or tp_size of
        kv_replicas.
        """
        if tp_size % kv_replicas != 0:
            raise ValueError(
                f"tp_size {tp_size} must be a multiple of kv_replicas {kv_replicas}, the ranks "
                "that hold the same key and value heads"
            )
        layout = layout_of(dist.get_world_size(), tp_size=tp_size, sp_size=sp_size)
        dp_rank, sp_rank, tp_rank = layout.place(dist.get_rank())
        groups = {
            "dp": _own_group(layout.dp_groups()),
            "sp": _own_group(layout.sp_groups()),
            "tp": _own_group(layout.tp_groups()),
        }
        # The same ranks need no second group: each costs a communicator with its own buffers.
        groups["replica"] = groups["dp"] if sp_size == 1 else _own_group(layout.replica_groups())
        if kv_replicas > 1:
            groups["kv"] = _own_group(layout.kv_groups(kv_replicas))
        return cls(layout, dp_rank, sp_rank, tp_rank, kv_replicas, groups)

    def close(self) -> None:
        """Release the groups once their collectives are done; every rank calls it, in any number.

        A group that is asked for afterwards is an error.
        """
        for group in dict.fromkeys(self._open.values()):
            # The world's end, which a caller may have come to first, is also that of its groups.
            if dist.is_initialized():
                dist.destroy_process_group(group)
        self._open.clear()

    def abort(self) -> None:
        """Release the groups of a rank that failed, without waiting for collectives.

        The other ranks may never join those, and where they wait for this one, gloo tells them.
        """
        for group in self._open.values():
            group.abort()
        self.close()

    def __enter__(self) -> ParallelGroups:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def _group(self, name: str) -> dist.ProcessGroup:
        assert self._open, f"the {name} group was asked for after ParallelGroups.close()"
        return self._open[name]

    @property
    def dp_group(self) -> dist.ProcessGroup:
        return self._group("dp")

    @property
    def sp_group(self) -> dist.ProcessGroup:
        return self._group("sp")

    @property
    def tp_group(self) -> dist.ProcessGroup:
        return self._group("tp")

    @property
    def replica_group(self) -> dist.ProcessGroup:
        return self._group("replica")

    @property
    def kv_group(self) -> dist.ProcessGroup | None:
        """The tp ranks that hold the same key and value heads; None where each has its own."""
        return None if self.kv_replicas == 1 else self._group("kv")

    @property
    def dp_size(self) -> int:
        return self.layout.dp_size

    @property
    def sp_size(self) -> int:
        return self.layout.sp_size

    @property
    def tp_size(self) -> int:
        return self.layout.tp_size

    @property
    def replica_rank(self) -> int:
        """Number among the ranks that hold the same part of the weights."""
        return self.dp_rank * self.sp_size + self.sp_rank

    @property
    def num_replicas(self) -> int:
        """Ranks that hold the same part of the weights, dp x sp."""
        return self.dp_size * self.sp_size

    # -- DeepSpeed's names for the same; see the module's docstring ------------------------------

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self.tp_group

    def get_model_parallel_rank(self) -> int:
        return self.tp_rank

    def get_model_parallel_world_size(self) -> int:
        return self.tp_size

    def get_tensor_model_parallel_group(self) -> dist.ProcessGroup:
        return self.tp_group

    def get_tensor_model_parallel_rank(self) -> int:
        return self.tp_rank

    def get_tensor_model_parallel_world_size(self) -> int:
        return self.tp_size

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self.replica_group

    def get_data_parallel_rank(self) -> int:
        return self.replica_rank

    def get_data_parallel_world_size(self) -> int:
        return self.num_replicas


def _own_group(groups: Sequence[Ranks]) -> dist.ProcessGroup:
    """The group among `groups` that this rank belongs to.

    torch wants every rank to create every group, in the same order, also those it is not part of.
    """
    own: dist.ProcessGroup | None = None
    for ranks in groups:
        group = dist.new_group(list(ranks))
        if dist.get_rank() in ranks:
            own = group
    assert own is not None, f"rank {dist.get_rank()} is in none of the {len(groups)} groups"
    return own
