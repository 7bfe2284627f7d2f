"""Executor wrapper that measures CPU time and wall time per label."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from data_pipeline.executors.executor import Executor, Result, Task


@dataclass
class TimedExecutor:
    """Runs tasks with `executor`, and measures them; results are unchanged."""

    executor: Executor
    core_seconds: dict[str, float] = field(default_factory=dict)
    """CPU time of all tasks, per label: of the task's process, threads included."""
    wall_seconds: dict[str, float] = field(default_factory=dict)
    """Wall time per label, from the first task's start to the last one's end."""
    _seconds_here: float = 0.0
    """CPU time of tasks that ran in this process."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        sizes: Sequence[int],
        *,
        label: str,
    ) -> list[Result]:
        """As `Executor.map`."""
        start = time.perf_counter()
        timed = self.executor.map(partial(_timed, function), tasks, sizes, label=label)
        self._add(self.wall_seconds, label, time.perf_counter() - start)
        self._add(self.core_seconds, label, sum(seconds for _, seconds, _ in timed))
        self._seconds_here += sum(seconds for _, seconds, pid in timed if pid == os.getpid())
        return [result for result, _, _ in timed]

    @contextmanager
    def phase(self, label: str) -> Iterator[None]:
        """Measure this process in the block under `label`, without tasks that it runs."""
        start, wall, tasks = time.process_time(), time.perf_counter(), self._seconds_here
        yield
        own = time.process_time() - start - (self._seconds_here - tasks)
        self._add(self.core_seconds, label, own)
        self._add(self.wall_seconds, label, time.perf_counter() - wall)

    @staticmethod
    def _add(seconds: dict[str, float], label: str, more: float) -> None:
        seconds[label] = seconds.get(label, 0.0) + more


def _timed(function: Callable[[Task], Result], task: Task) -> tuple[Result, float, int]:
    """The result, its CPU time, and the id of the process that computed it."""
    start = time.process_time()
    result = function(task)
    return result, time.process_time() - start, os.getpid()
