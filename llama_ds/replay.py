"""A run repeated bit for bit from its events: `events.jsonl` has all that was decided on the way.

What crashes and rewinds have undone is left out; what is left is a chain of segments, each trained
by jobs of one recipe on one number of ranks. A step that was skipped because of a NaN is skipped
again, also where the NaN, of a GPU's fault for instance, does not come again.

Ranks, packages and machines have to be those of the run: a sum in another order differs in its last
bits.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_ds.checkpoint.verification import all_checkpoints, step_of
from llama_ds.config import from_dict
from llama_ds.run_events import FILE, read_events
from llama_ds.train import TrainResult, train

_NOT_OF_THE_NUMBERS = {"name", "run_dir", "checkpoint", "metrics"}
_NOT_OF_THE_STEPS = {"stop_after_step", "rewind_to", "allow_change", "log_every_steps"}


@dataclass(frozen=True)
class Segment:
    """Steps that jobs of one recipe have trained."""

    first_step: int
    """Steps done before it."""
    last_step: int
    recipe: dict[str, Any]
    world_size: int
    deepspeed_json: dict[str, Any]
    versions: dict[str, str]
    withheld: frozenset[int]
    """Its steps that were not finite."""

    def __str__(self) -> str:
        skipped = "" if not self.withheld else f", {len(self.withheld)} of them skipped"
        ranks = "1 rank" if self.world_size == 1 else f"{self.world_size} ranks"
        return f"steps {self.first_step + 1}-{self.last_step} on {ranks}{skipped}"


def segments(events: Iterable[dict[str, Any]]) -> list[Segment]:
    """The chain that leads to the last state that was saved; ValueError where there is none."""
    chain: list[Segment] = []
    withheld: set[int] = set()
    saved = 0
    for event in events:
        kind, step = event["kind"], event["step"]
        if kind in ("start", "resume"):
            withheld = {number for number in withheld if number <= step}
            chain = [*_up_to(step, chain), _begun(event)]
            saved = step
        elif kind == "skipped" and not event["is_finite"]:
            withheld.add(step)
        elif kind == "checkpoint":
            saved = step
    chain = _up_to(saved, _merged(chain))
    if not chain:
        raise ValueError(
            f"{FILE} tells of no checkpoint that a job has saved, so there is nothing to repeat"
        )
    return [
        dataclasses.replace(
            segment,
            withheld=frozenset(
                step for step in withheld if segment.first_step < step <= segment.last_step
            ),
        )
        for segment in chain
    ]


def replay(
    run_dir: Path, out: Path, local_rank: int, world_size: int, store: Path | None = None
) -> list[Segment]:
    """Train the segments of `run_dir` again in the run folder `out`; every rank calls this.

    `store` is where its token store lies now, if it was moved. A replay that was interrupted goes
    on. Ends before a segment that needs another number of ranks than `world_size`, and returns what
    is left: nothing at the end. ValueError where a job stops early.
    """
    left = segments(read_events(run_dir))
    done = max(map(step_of, all_checkpoints(out)), default=0)
    while left and left[0].last_step <= done:
        left.pop(0)
    while left and left[0].world_size == world_size:
        result = _train_segment(left[0], out, local_rank, store)
        if result.step != left[0].last_step:
            raise ValueError(f"{out}: the replay of {left[0]} has ended at step {result.step}")
        left.pop(0)
    return left


def _train_segment(segment: Segment, out: Path, local_rank: int, store: Path | None) -> TrainResult:
    recipe = from_dict(segment.recipe)
    steps = dataclasses.replace(recipe.train, stop_after_step=segment.last_step, rewind_to=None)
    saving = dataclasses.replace(recipe.checkpoint, keep_last=2)
    data = dataclasses.replace(recipe.data, store=store or recipe.data.store)
    recipe = dataclasses.replace(recipe, run_dir=out, train=steps, checkpoint=saving, data=data)
    return train(recipe, local_rank, segment.deepspeed_json, segment.withheld)


def _begun(event: dict[str, Any]) -> Segment:
    return Segment(
        first_step=event["step"],
        last_step=sys.maxsize,  # until another job, or the last checkpoint, says where it ends
        recipe=event["recipe"],
        world_size=event["world_size"],
        deepspeed_json=event["deepspeed_json"],
        versions=event["versions"],
        withheld=frozenset(),
    )


def _up_to(step: int, chain: list[Segment]) -> list[Segment]:
    """What of a chain leads to the state after `step` steps."""
    return [
        dataclasses.replace(segment, last_step=min(segment.last_step, step))
        for segment in chain
        if segment.first_step < step
    ]


def _merged(chain: list[Segment]) -> list[Segment]:
    """Segments whose jobs differ in nothing that a number depends on, as one."""
    merged: list[Segment] = []
    for segment in chain:
        if merged and _numbers_of(merged[-1]) == _numbers_of(segment):
            merged[-1] = dataclasses.replace(merged[-1], last_step=segment.last_step)
        else:
            merged.append(segment)
    return merged


def _numbers_of(segment: Segment) -> Any:
    recipe: dict[str, Any] = {
        name: value for name, value in segment.recipe.items() if name not in _NOT_OF_THE_NUMBERS
    }
    recipe["train"] = {
        name: value for name, value in recipe["train"].items() if name not in _NOT_OF_THE_STEPS
    }
    return recipe, segment.world_size, segment.deepspeed_json
