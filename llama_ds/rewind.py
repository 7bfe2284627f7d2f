"""Going back to an earlier checkpoint, as after a loss spike: once, not at every restart.

What came after the checkpoint is not deleted: it is moved to `RUN/rewound/`, with the records of
its steps. Then the run resumes from its newest checkpoint, as always.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_pipeline.files.atomic import move_directory, write_atomic
from llama_ds.checkpoint.resuming import agreed_damage
from llama_ds.checkpoint.verification import all_checkpoints, checkpoint_path, step_of
from llama_ds.config import Recipe
from llama_ds.run_events import RunEvents, read_events

FOLDER = "rewound"
_RECORDS = ("steps.jsonl", "metrics.jsonl")


def rewind(recipe: Recipe) -> str | None:
    """Do what `train.rewind_to` asks for, unless an earlier job of this request has; a line on it.

    Every rank must call it. ValueError where there is no complete checkpoint of that step.
    """
    step, run_dir = recipe.train.rewind_to, recipe.run_dir
    if step is None:
        return None
    request = request_of(recipe)
    # Rank 0 alone looks: the others could see its changes while they look.
    is_done: list[Any] = [None]
    if dist.get_rank() == 0:
        is_done = [_last_request(run_dir) == request]
    dist.broadcast_object_list(is_done, src=0)
    if is_done[0]:
        return None
    _require_checkpoint(run_dir, step)
    line: list[Any] = [None]
    if dist.get_rank() == 0:
        line = [_set_aside(run_dir, step, request)]
    dist.broadcast_object_list(line, src=0)
    return str(line[0])


def request_of(recipe: Recipe) -> dict[str, Any]:
    """What tells one rewind from the next: where to, and what is to be done otherwise there."""
    request = {
        "rewind_to": recipe.train.rewind_to,
        "skip_steps": list(recipe.data.skip_steps),
        "optimizer": dataclasses.asdict(recipe.optimizer),
    }
    same_as_read: dict[str, Any] = json.loads(json.dumps(request))
    return same_as_read


def _last_request(run_dir: Path) -> dict[str, Any] | None:
    rewinds = [event for event in read_events(run_dir) if event["kind"] == "rewind"]
    return rewinds[-1]["request"] if rewinds else None


def _require_checkpoint(run_dir: Path, step: int) -> None:
    found = all_checkpoints(run_dir)
    steps = ", ".join(str(step_of(path)) for path in reversed(found)) or "none"
    if not found or (step and checkpoint_path(run_dir, step) not in found):
        raise ValueError(
            f"train.rewind_to ({step}) must be the step of a checkpoint, or 0, and {run_dir} has "
            f"{steps}; --checkpoint.keep-every keeps some for good"
        )
    damage = agreed_damage(checkpoint_path(run_dir, step), group=None) if step else None
    if damage is not None:
        raise ValueError(
            f"train.rewind_to ({step}): that checkpoint is damaged ({damage}); choose another of "
            f"{steps}"
        )


def _set_aside(run_dir: Path, step: int, request: dict[str, Any]) -> str:
    """The checkpoints after `step` go to a folder of their own, oldest last: what is left after a
    kill is still a run that resumes, and the next job goes on here."""
    newer = [path for path in all_checkpoints(run_dir) if step_of(path) > step]
    newest = max(map(step_of, newer), default=step)
    number = sum(1 for event in read_events(run_dir) if event["kind"] == "rewind") + 1
    target = run_dir / FOLDER / f"{number:03d}_to_step_{step:08d}"
    for name in _RECORDS:  # of which a resume drops what comes after its step
        if (run_dir / name).is_file() and not (target / name).exists():
            target.mkdir(parents=True, exist_ok=True)
            write_atomic(target / name, (run_dir / name).read_bytes())
    for path in newer:
        move_directory(path, target / "checkpoints" / path.name)
    events = RunEvents(run_dir)
    moved = str(target.relative_to(run_dir))
    events.add("rewind", step, newest=newest, set_aside=moved, request=request)
    events.close()
    return (
        f"rewound to step {step}: {len(newer)} later checkpoints (up to step {newest}) are in "
        f"{target}, to be deleted when nobody needs them"
    )
