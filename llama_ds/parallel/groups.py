"""Process groups of data, sequence and tensor parallelism, on the mesh of `layout.py`.

`ParallelGroups` is also what DeepSpeed calls an `mpu`: an object that it asks for groups, ranks and
sizes. DeepSpeed looks methods up by name, and one more or less changes what it does.

DeepSpeed is not told of sequence parallelism. To it the dp x sp ranks that hold the same weight
shards are data-parallel ranks, which is all that ZeRO needs: it shards states across them and
averages their gradients. Told of it, DeepSpeed 0.19 scales gradients by sp at stages 1 and 2 but
not at 3, and at 3 reduces over the dp ranks only, so that the gradients of sequence shards are
never summed. So `get_sequence_parallel_*`, `get_sequence_data_parallel_*` and
`initialize_sequence_parallel` must not exist here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.distributed as dist

from llama_ds.parallel.layout import Layout, Ranks, layout_of


@dataclass(frozen=True)
class ParallelGroups:
    """This rank's process groups and its rank in each; built once and passed on.

    The caller of `build` must close them, preferably by `with`: a group holds threads and
    connections (gloo) or device memory (NCCL) until it is closed and nothing references it. So a
    model asks for its groups here, each time, and keeps none. Groups can be built again after that.
    """

    layout: Layout
    dp_rank: int
    sp_rank: int
    tp_rank: int
    kv_replicas: int
    """Adjacent tp ranks that hold replicas of the same key and value heads."""
    _open: dict[str, dist.ProcessGroup] = field(repr=False, compare=False)
    """By name (dp, sp, tp, replica and, where heads are replicated, kv); empty once closed."""

    @classmethod
    def build(cls, *, tp_size: int = 1, sp_size: int = 1, kv_replicas: int = 1) -> ParallelGroups:
        """Groups over the initialized default process group; every rank must call it.

        ValueError where the world size is not a multiple of tp_size * sp_size, or tp_size of
        kv_replicas.
        """
        if tp_size % kv_replicas != 0:
            raise ValueError(
                f"tp_size ({tp_size}) must be a multiple of kv_replicas ({kv_replicas}), the "
                "ranks that hold replicas of the same key and value heads"
            )
        layout = layout_of(dist.get_world_size(), tp_size=tp_size, sp_size=sp_size)
        dp_rank, sp_rank, tp_rank = layout.coordinates(dist.get_rank())
        groups = {
            "dp": _own_group(layout.dp_groups()),
            "sp": _own_group(layout.sp_groups()),
            "tp": _own_group(layout.tp_groups()),
        }
        # The same ranks need no second group: each costs a communicator and its buffers.
        groups["replica"] = groups["dp"] if sp_size == 1 else _own_group(layout.replica_groups())
        if kv_replicas > 1:
            groups["kv"] = _own_group(layout.kv_groups(kv_replicas))
        return cls(layout, dp_rank, sp_rank, tp_rank, kv_replicas, groups)

    def close(self) -> None:
        """Destroy the groups after their last collective; every rank must call it; idempotent.

        Using a group afterwards is an error.
        """
        for group in dict.fromkeys(self._open.values()):
            # Destroying the default process group has destroyed these groups too.
            if dist.is_initialized():
                dist.destroy_process_group(group)
        self._open.clear()

    def abort(self) -> None:
        """Destroy the groups of a failed rank without waiting for pending collectives.

        Other ranks may never join these; with gloo, ranks that wait for this one get an error.
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
        assert self._open, f"the {name} group was used after ParallelGroups.close()"
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
        """Rank among those that hold the same weight shards."""
        return self.dp_rank * self.sp_size + self.sp_rank

    @property
    def num_replicas(self) -> int:
        """Ranks that hold the same weight shards, dp x sp."""
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

    torch requires every rank to create every group, in the same order, also those it is not in.
    """
    own: dist.ProcessGroup | None = None
    for ranks in groups:
        group = dist.new_group(list(ranks))
        if dist.get_rank() in ranks:
            own = group
    assert own is not None, f"rank {dist.get_rank()} is in none of the {len(groups)} groups"
    return own
