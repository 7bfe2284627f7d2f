"""How long a run will still take, from the pace of its last steps."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable

_WINDOW_STEPS = 100


class RemainingTime:
    """Pace is tokens in wall-clock time: evaluations, checkpoints and waiting for data included.

    The first step of a job is not, which compiles kernels and warms up. Tokens, not steps, so that
    the time is right before the batch grows, too.
    """

    def __init__(
        self,
        num_steps: int,
        tokens_after: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tokens_after(step)`: tokens trained on by the end of `step` steps."""
        self._num_steps = num_steps
        self._tokens_after = tokens_after
        self._clock = clock
        self._ends: deque[tuple[int, float]] = deque(maxlen=_WINDOW_STEPS + 1)

    def step_ended(self, step: int) -> None:
        """`step` is counted from 1."""
        self._ends.append((step, self._clock()))

    @property
    def seconds(self) -> float | None:
        """From now to the end of the run; None before the second step of the job has ended."""
        if len(self._ends) < 2:
            return None
        (first, start), (last, end) = self._ends[0], self._ends[-1]
        tokens = self._tokens_after
        pace = (end - start) / (tokens(last) - tokens(first))
        return (tokens(self._num_steps) - tokens(last)) * pace


def duration(seconds: float) -> str:
    """Two units at most: `3 d 4 h`, `12 min 5 s`."""
    whole = round(seconds)
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    for (name, length), (next_name, next_length) in itertools.pairwise(units):
        if whole >= length:
            rest = whole % length // next_length
            return f"{whole // length} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{whole} s"
