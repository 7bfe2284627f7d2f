"""Executor wrapper that records workers' peak memory (importable by workers, unlike a script)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipeline.document import Source
from data_pipeline.executors.executor import Executor, Result, Task


def start_worker(make_source: Callable[[], Source]) -> None:
    """Import what the source's tasks need, and take long enough that every worker gets a call."""
    make_source()
    time.sleep(1)


def count_up(steps: int) -> int:
    """CPU-bound loop: no memory, no files."""
    total = 0
    for number in range(steps):
        total += number
    return total


@dataclass
class WatchedExecutor:
    """Runs tasks with `engine` and records memory; results are unchanged. Linux only."""

    engine: Executor
    peak_bytes: int = 0
    """Peak resident set of a worker process after any of its tasks."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        sizes: Sequence[int],
        *,
        label: str,
    ) -> list[Result]:
        """As `engine.map`."""
        pairs = self.engine.map(partial(_watched, function), tasks, sizes, label=label)
        self.peak_bytes = max([self.peak_bytes, *(peak for _, peak in pairs)])
        return [result for result, _ in pairs]


def _watched(function: Callable[[Task], Result], task: Task) -> tuple[Result, int]:
    result = function(task)
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return result, int(line.split()[1]) << 10
