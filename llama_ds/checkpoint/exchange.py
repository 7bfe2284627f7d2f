"""From every rank's ranges to full tensors at the rank that writes them.

At a save each rank copies the ranges that it holds to the host. The rest runs in a thread, over a
gloo group of its own: ranks send their copies to the writers of the files, which put full tensors
together one at a time. The device and its network take no part, and a rank needs host memory for
its own ranges and for one full tensor.

Where several ranks hold the same values (stage 0, weights that tensor parallelism does not divide),
each sends a share or only the first does, so that every element travels once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llama_ds.checkpoint.engine_state import EngineState, Part
from llama_ds.checkpoint.kinds import KINDS
from llama_ds.checkpoint.tensor_files import TensorFile
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.tensor import Sharding


class Snapshot:
    """The ranges that this rank contributes, in host memory; the buffer is made once."""

    def __init__(self, state: EngineState, sharding: Sharding, groups: ParallelGroups) -> None:
        self._state = state
        self.ranges = [
            _contribution(part, sharding, groups, shared=not state.is_partitioned)
            for part in state.parts
        ]
        total = len(KINDS) * sum(length for _, length in self.ranges)
        self._on_gpu = state.parts[0].master.is_cuda
        self._buffer = torch.empty(total, dtype=torch.float32, pin_memory=self._on_gpu)
        self._pieces: dict[tuple[str, str], Tensor] = {}
        end = 0
        for kind in KINDS:
            for part, (_, length) in zip(state.parts, self.ranges, strict=True):
                start, end = end, end + length
                self._pieces[part.name, kind] = self._buffer[start:end]

    def take(self) -> None:
        """Copy the state as it is now; training may go on when this returns."""
        self._state.make_moments()
        for part, (start, length) in zip(self._state.parts, self.ranges, strict=True):
            for kind in KINDS:
                if length:
                    values = self._state.view(part, kind).narrow(0, start - part.start, length)
                    self._pieces[part.name, kind].copy_(values, non_blocking=True)
        if self._on_gpu:
            torch.cuda.synchronize()

    def piece(self, name: str, kind: str) -> Tensor:
        """What was copied of a tensor, fp32 [length]."""
        return self._pieces[name, kind]


def _contribution(
    part: Part, sharding: Sharding, groups: ParallelGroups, *, shared: bool
) -> tuple[int, int]:
    """(start, length) of what a rank sends of a parameter, in the flattened tp part."""
    if not sharding.holds_first_copy(part.name, groups.tp_rank):
        return 0, 0
    if not shared:
        return part.start, part.length
    start = part.length * groups.replica_rank // groups.num_replicas
    return start, part.length * (groups.replica_rank + 1) // groups.num_replicas - start


class Exchange:
    """Sends and receives of one save after another, over a group of the CPU's backend."""

    def __init__(
        self,
        snapshot: Snapshot,
        parts: Sequence[Part],
        files: Sequence[TensorFile],
        sharding: Sharding,
        groups: ParallelGroups,
        group: dist.ProcessGroup,
    ) -> None:
        self._snapshot = snapshot
        self._files = files
        self._sharding = sharding
        self._tp_rank_of = [
            groups.layout.coordinates(rank)[2] for rank in range(dist.get_world_size())
        ]
        self._group = group
        own = torch.tensor(snapshot.ranges, dtype=torch.int64)
        tables = [torch.empty_like(own) for _ in self._tp_rank_of]
        dist.all_gather(tables, own, group=group)
        self._ranges = {
            part.name: [(int(table[row, 0]), int(table[row, 1])) for table in tables]
            for row, part in enumerate(parts)
        }
        """By parameter and rank: (start, length) of what the rank contributes."""
        pairs = itertools.product(KINDS, self._ranges)
        self._tags = {(name, kind): tag for tag, (kind, name) in enumerate(pairs)}

    def writer_of(self, file: TensorFile) -> int:
        """The rank that writes a file; neighboring files go to ranks far apart."""
        return self._files.index(file) * len(self._tp_rank_of) // len(self._files)

    def own_files(self) -> list[TensorFile]:
        return [file for file in self._files if self.writer_of(file) == dist.get_rank()]

    def start_sending(self) -> list[Any]:
        """Begin to send everything that other ranks write; each must be waited for."""
        sent = []
        for file in self._files:
            writer = self.writer_of(file)
            for name in file.shapes:
                piece = self._snapshot.piece(name, file.kind)
                if writer != dist.get_rank() and piece.numel():
                    tag = self._tags[name, file.kind]
                    sent.append(dist.isend(piece, writer, self._group, tag))
        return sent

    def receive(self, name: str, kind: str, shape: tuple[int, ...]) -> Tensor:
        """A full tensor of a file that this rank writes, fp32 on the host."""
        full = torch.empty(shape, dtype=torch.float32)
        for tp_rank in range(self._sharding.tp_size):
            if self._sharding.holds_first_copy(name, tp_rank):
                target = full[self._sharding.local_slice(name, shape, tp_rank)]
                # Rows of the full tensor are received in place, columns are not contiguous.
                in_place = target.is_contiguous()
                local = target if in_place else torch.empty(target.shape, dtype=torch.float32)
                self._receive_part(name, kind, tp_rank, local.view(-1))
                if not in_place:
                    target.copy_(local)
        return full

    def _receive_part(self, name: str, kind: str, tp_rank: int, local: Tensor) -> None:
        received, works = 0, []
        for rank, (start, length) in enumerate(self._ranges[name]):
            if not length or self._tp_rank_of[rank] != tp_rank:
                continue
            target = local.narrow(0, start, length)
            if rank == dist.get_rank():
                target.copy_(self._snapshot.piece(name, kind))
            else:
                works.append(dist.irecv(target, rank, self._group, self._tags[name, kind]))
            received += length
        for work in works:
            assert work is not None, "this rank is in the group"
            work.wait()
        assert received == local.numel(), (
            f"{name}: the ranks hold {received} of {local.numel()} elements"
        )
