"""Steps of the data that are passed over: what follows a rewind from a loss spike.

Steps of the data are counted as in a run that passes over none, so that a range means the same rows
in every job, whatever other ranges there are. The trained steps take the others, in order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


@dataclass(frozen=True)
class SkippedData:
    """Ranges (first, last) of steps of the data, from 1, both inclusive, in order and apart."""

    ranges: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def parse(texts: Sequence[str]) -> SkippedData:
        """Of `A-B` or `A`, in any order; ValueError naming the field for anything else."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted(map(_range, texts)):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return SkippedData(tuple(merged))

    def data_step(self, step: int) -> int:
        """The step of the data that `step` trains on, both from 0."""
        for first, last in self.ranges:
            if step < first - 1:
                break
            step += last - first + 1
        return step

    def before(self, data_step: int) -> SkippedData:
        """What of the ranges lies before `data_step`, from 0."""
        return SkippedData(tuple((a, min(b, data_step)) for a, b in self.ranges if a <= data_step))

    def __str__(self) -> str:
        return " ".join(f"{a}-{b}" for a, b in self.ranges) or "none"


def _range(text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise ValueError(
            f"data.skip_steps ({text}) must be steps A-B with 1 <= A <= B, or one step"
        )
    return first, last
