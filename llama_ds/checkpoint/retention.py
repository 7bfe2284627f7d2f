"""Which checkpoints are deleted once a newer one is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llama_ds.checkpoint.verification import Damage, step_of


def superseded(
    newest_first: Sequence[Path], keep_last: int, keep_every: int, damage: Damage
) -> list[Path]:
    """The checkpoints to delete: complete ones, of which `keep_last` newer ones are complete.

    A damaged one does not count, and is kept for whoever may want to repair it. Those of every
    `keep_every`-th step stay for good (0: none). `keep_last` 0 keeps all.
    """
    if keep_last == 0:
        return []
    # Reading a checkpoint takes time: nothing is read where there is nothing to delete.
    candidates = [path for path in newest_first if not keep_every or step_of(path) % keep_every]
    if len(newest_first) <= keep_last or not candidates:
        return []
    num_complete, deleted = 0, []
    for path in newest_first:
        is_permanent = bool(keep_every) and step_of(path) % keep_every == 0
        if num_complete < keep_last:
            num_complete += damage(path) is None
        elif not is_permanent and damage(path) is None:
            deleted.append(path)
    return deleted
