"""Loss and gradient norm of every step, `steps.jsonl`, also where `metrics.jsonl` has one in ten.

A record is about 100 bytes. A resumed run reads its running window from it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from llama_ds.json_lines import finite_or_null, keep_records_up_to, to_line, whole_records

FILE = "steps.jsonl"


class StepLog:
    """Writes the record of each step; only rank 0 has one."""

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        path = run_dir / FILE
        keep_records_up_to(path, resume_step)
        self._file = path.open("a", encoding="utf-8")

    def add(self, step: int, values: dict[str, Any]) -> None:
        """`values` of `step`, counted from 1."""
        self._file.write(to_line({"kind": "step", "step": step, **finite_or_null(values)}))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def finite_steps(run_dir: Path, last_step: int, count: int) -> list[tuple[float, float]]:
    """(loss, gradient norm) of the finite ones among the last steps up to `last_step`, in order,
    at most `count`."""
    found = [
        (record["loss"], record["grad_norm"])
        for _, record in whole_records(run_dir / FILE)
        if record["step"] <= last_step
        and all(_is_finite(record.get(name)) for name in ("loss", "grad_norm"))
        and not record.get("not_finite")
    ]
    return found[-count:]


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
