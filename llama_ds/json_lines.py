"""Files of JSON lines that a crash may cut: one record per line, with its kind and its step."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.files.atomic import write_atomic


def to_line(record: dict[str, Any]) -> str:
    """One line of valid JSON, which has no NaN and no infinity: ValueError for those."""
    return json.dumps(record, allow_nan=False) + "\n"


def finite_or_null(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with null for NaN and infinities, and `not_finite` naming these where there are."""
    wrong = [
        name
        for name, value in values.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if not wrong:
        return values
    return {**values, **dict.fromkeys(wrong), "not_finite": wrong}


def whole_records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Lines and their records, up to the first that is truncated or corrupt."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                return
            is_whole = isinstance(record, dict) and {"kind", "step"} <= record.keys()
            if not is_whole or not line.endswith(b"\n"):
                return
            yield line, record


def keep_records_up_to(path: Path, step: int) -> None:
    """Drop the records after `step`, and what follows a line that was cut.

    All of them at step 0, where a run evaluates before its first step, again if it begins again.
    """
    if not path.exists():
        return
    records = whole_records(path) if step > 0 else iter(())
    kept = itertools.takewhile(lambda found: found[1]["step"] <= step, records)
    write_atomic(path, b"".join(line for line, _ in kept))


def cut_unfinished_line(path: Path) -> None:
    """Drop what a killed writer has left behind the last whole record."""
    if not path.exists():
        return
    kept = b"".join(line for line, _ in whole_records(path))
    if len(kept) < path.stat().st_size:
        write_atomic(path, kept)
