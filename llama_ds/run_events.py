"""What happened to a run besides its steps, `events.jsonl`: enough to repeat it (`replay.py`).

Records are only added. A record says after which step it was written, so what a crash or a rewind
has undone is known from the next start: it resumes at an earlier step.

| kind | when, and with what |
|---|---|
| start, resume | a job begins: recipe, number of ranks, DeepSpeed keys given, versions, changes |
| rewind | back to `step`, before the resume: which step there was, what asked for it, where the
  checkpoints after it are |
| skipped, spike | the step was skipped, or marked: rows, steps of the data, reasons |
| checkpoint | the state after `step` was published |
| end | a job ends: finished, stopped, or gave up |
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_ds.json_lines import cut_unfinished_line, to_line, whole_records

FILE = "events.jsonl"


class RunEvents:
    """Adds to the events of a run; only rank 0 has one."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / FILE
        cut_unfinished_line(path)
        self._file = path.open("a", encoding="utf-8")

    def add(self, kind: str, step: int, **values: Any) -> None:
        """An event after `step` steps; it is on the disk when this returns."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self._file.write(to_line({"kind": kind, "step": step, "time": now, **values}))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_events(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The events of a run in order, up to a line that a crash has cut; none where it has none."""
    return (record for _, record in whole_records(run_dir / FILE))
