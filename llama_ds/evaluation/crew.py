"""The ranks of an evaluation: rank 0 hands out batches of the tasks, and all compute."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from llama_ds.parallel.groups import ParallelGroups

# Rank 0 may run programs for hours between two batches.
PATIENCE = datetime.timedelta(days=7)

Compute = Callable[[str, Any], Any]
"""(kind of request, batch) -> its answers."""


@dataclass(frozen=True)
class Crew:
    """This process among those that evaluate; teams of ranks share a model, and batches."""

    team: int = 0
    num_teams: int = 1
    is_leader: bool = True
    speaks: bool = True
    """Whether its answers count; those of the others of its team are the same."""
    lockstep: bool = False
    """Whether every rank must compute in every round, as ZeRO-3 gathers weights together."""
    group: dist.ProcessGroup | None = None

    def answer(self, kind: str, batches: list[Any], compute: Compute) -> list[Any]:
        """The answers of up to `num_teams` batches; the leader calls this, the rest `follow`.

        RuntimeError with the first rank's own words where one has failed.
        """
        assert len(batches) <= self.num_teams, f"{len(batches)} batches for {self.num_teams} teams"
        if self.group is None:
            return [compute(kind, batches[0])]
        dist.broadcast_object_list([(kind, batches)], src=0, group=self.group)
        said = self._round(kind, batches, compute)
        by_team: dict[int, Any] = {}
        for team, answers, fault in said:
            if fault:
                raise RuntimeError(fault)
            if answers is not None:
                by_team[team] = answers
        return [by_team[team] for team in range(len(batches))]

    def follow(self, compute: Compute) -> None:
        """Compute batches until the leader has no more."""
        while True:
            message: list[Any] = [None]
            dist.broadcast_object_list(message, src=0, group=self.group)
            if message[0] is None:
                return
            kind, batches = message[0]
            self._round(kind, batches, compute)

    def release(self) -> None:
        """End `follow` on the other ranks."""
        if self.group is not None:
            dist.broadcast_object_list([None], src=0, group=self.group)

    def _round(self, kind: str, batches: list[Any], compute: Compute) -> list[Any]:
        answers = fault = None
        has_one = self.team < len(batches)
        if has_one or self.lockstep:
            try:
                answers = compute(kind, batches[self.team if has_one else 0])
            except Exception as error:  # said by the leader, in place of a hang
                fault = f"rank {dist.get_rank()}: {type(error).__name__}: {error}"
        said = (self.team, answers if has_one and self.speaks else None, fault)
        everything: list[Any] | None = [None] * dist.get_world_size() if self.is_leader else None
        dist.gather_object(said, everything, dst=0, group=self.group)
        return everything or []


@contextlib.contextmanager
def open_crew(groups: ParallelGroups | None, *, lockstep: bool = False) -> Iterator[Crew]:
    """The crew of all ranks, of which those of a tp and sp group are a team. Collective."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield Crew()
        return
    rank, size = dist.get_rank(), dist.get_world_size()
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    team, num_teams, speaks = rank, size, True
    if groups is not None:
        team, num_teams = groups.dp_rank, groups.dp_size
        speaks = groups.tp_rank == 0 and groups.sp_rank == 0
    try:
        yield Crew(team, num_teams, rank == 0, speaks, lockstep, group)
    finally:
        dist.destroy_process_group(group)
