"""What may change when a run is resumed: every field of the recipe is in one of three classes.

A job compares its recipe with that of the job which wrote the checkpoint. Changes that are allowed
are applied (nothing of the recipe is read from a checkpoint) and listed in the log's first line and
in `recipe.json`; the others are refused before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_ds.config import Recipe
from llama_ds.skipped_data import SkippedData

MUST_MATCH = frozenset({"model", "train.seed"})
"""Another value is another run. The token store belongs here too: by its content, not its path."""

BY_NAME = frozenset(
    {
        "data.shares",
        "data.epochs",
        "data.block_rows",
        "data.document_masking",
        "train.sequence_length",
        "train.tokens_per_step",
        "train.batch_schedule",
        "train.dtype",
    }
)
"""Changes the data's order, the batch or the numerics: only where `train.allow_change` names it."""

APPLIED = frozenset(
    {
        "name",
        "run_dir",
        "optimizer",
        "train.train_tokens",
        "train.max_steps",
        "train.stop_after_step",
        "train.micro_batch_size",
        "train.save_policy",
        "train.save_tensors",
        "train.mlp_tiles",
        "train.attention",
        "train.elementwise",
        "train.loss_chunk_tokens",
        "train.log_every_steps",
        "train.eval_every_steps",
        "train.eval_rows",
        "train.evaluate_every_steps",
        "train.evaluate_tasks",
        "train.evaluate_data",
        "train.evaluate_limit",
        "train.init_from",
        "train.new_rows",
        "train.max_skipped_steps",
        "train.spike_window",
        "train.spike_deviations",
        "train.skip_spikes",
        "train.rewind_to",
        "train.hang_timeout_seconds",
        "train.allow_change",
        "data.store",
        "data.verify",
        "data.skip_steps",
        "parallel",
        "zero",
        "activation_checkpointing",
        "checkpoint",
        "metrics",
    }
)
"""Changes freely. A section's name stands for all of its fields."""

TOKEN_STORE = "token store"
TOKENIZER = "tokenizer"
_NOT_SAID = frozenset(
    {"name", "run_dir", "train.stop_after_step", "train.allow_change", "train.rewind_to"}
)
"""Of the job, not of the run."""


@dataclass(frozen=True)
class Change:
    """A field that differs from the checkpoint's job."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field} {_text(self.old)} -> {_text(self.new)}"


def run_identity(recipe: Recipe, store_fingerprint: str, tokenizer: str) -> dict[str, Any]:
    """What a checkpoint says about its run: every field by its dotted name, the store's fingerprint
    and the identity of its tokenizer."""
    fields: dict[str, Any] = json.loads(recipe.to_json())
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if dataclasses.is_dataclass(getattr(recipe, name)):
            flat |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            flat[name] = value
    return flat | {TOKEN_STORE: store_fingerprint, TOKENIZER: tokenizer}


def class_of(field: str) -> frozenset[str]:
    """The class that a field (`section.field`) is in; KeyError where it is in none or in two."""
    section = field.partition(".")[0]
    found = [
        names for names in (MUST_MATCH, BY_NAME, APPLIED) if field in names or section in names
    ]
    if len(found) != 1:
        raise KeyError(f"{field} is in {len(found)} classes of the resume contract; give it one")
    return found[0]


def changes(where: str, saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[Change]:
    """The fields that differ, in the recipe's order; ValueError where one may not.

    `saved` and `current` are identities, `where` is the checkpoint for messages. A field that one
    of them does not have is not compared: a later version has more.
    """
    allowed = current.get("train.allow_change", [])
    for name in allowed:
        if name not in BY_NAME:
            raise ValueError(
                f"train.allow_change ({name}) must be one of {', '.join(sorted(BY_NAME))}; other "
                "fields may change without it, or not at all"
            )
    found = []
    for field, new in current.items():
        old = saved.get(field, new)
        if old == new:
            continue
        if field in (TOKEN_STORE, TOKENIZER) or class_of(field) is MUST_MATCH:
            hint = f"set {field} back to {old}, or use a new run_dir"
        elif class_of(field) is BY_NAME and field not in allowed:
            hint = f"set {field} back to {old}, add it to train.allow_change, or use a new run_dir"
        else:
            found.append(Change(field, old, new))
            continue
        raise ValueError(f"checkpoint {where} has {field} = {old}, but this run has {new}; {hint}")
    return [change for change in found if change.field not in _NOT_SAID]


def check_skipped_data(
    where: str, step: int, saved: Mapping[str, Any], current: Mapping[str, Any]
) -> None:
    """ValueError where `data.skip_steps` differs in what the `step` steps until the checkpoint have
    passed: data that was trained on cannot be skipped any more, without a rewind."""
    field = "data.skip_steps"
    before, now = (SkippedData.parse(identity.get(field, ())) for identity in (saved, current))
    passed = before.data_step(step - 1) + 1
    if before.before(passed) != now.before(passed):
        raise ValueError(
            f"checkpoint {where} has passed {passed} steps of the data, and skipped of these "
            f"{before.before(passed)}; {field} ({now}) says {now.before(passed)}. Keep the ranges "
            "that were skipped, and give --train.rewind-to with a step before those that are new"
        )


def describe(found: list[Change]) -> str:
    """One line for the log."""
    return "changed at resume: " + ("; ".join(map(str, found)) if found else "nothing")


def history_entry(step: int, found: list[Change]) -> dict[str, Any]:
    """For `recipe.json`: what changed, after which step and when (UTC)."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {
        "step": step,
        "time": now,
        "changes": {change.field: [change.old, change.new] for change in found},
    }


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
