"""Executor wrapper that measures CPU time, wall time and memory per label."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic

from data_pipeline.executors.executor import Executor, Result, Task


@dataclass
class TimedExecutor:
    """Runs tasks with `executor`, and measures them; results are unchanged."""

    executor: Executor
    core_seconds: dict[str, float] = field(default_factory=dict)
    """CPU time of all tasks, per label: of the task's process, threads included."""
    wall_seconds: dict[str, float] = field(default_factory=dict)
    """Wall time per label, from the first task's start to the last one's end."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """Most resident memory of a process during a task, per label; only where the system tells."""
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
        self._add(self.core_seconds, label, sum(task.seconds for task in timed))
        self._seconds_here += sum(task.seconds for task in timed if task.pid == os.getpid())
        peaks = [task.peak_bytes for task in timed if task.peak_bytes is not None]
        if peaks:
            self.peak_bytes[label] = max(*peaks, self.peak_bytes.get(label, 0))
        return [task.result for task in timed]

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


@dataclass(frozen=True)
class _Timed(Generic[Result]):
    result: Result
    seconds: float
    """CPU time."""
    peak_bytes: int | None
    pid: int
    """Of the process that computed it."""


def _timed(function: Callable[[Task], Result], task: Task) -> _Timed[Result]:
    _forget_peak()
    start = time.process_time()
    result = function(task)
    seconds = time.process_time() - start
    return _Timed(result, seconds, _peak(), os.getpid())


def _forget_peak() -> None:
    """Count the peak of this process's memory from here on (Linux, proc(5), clear_refs)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int | None:
    """Peak of this process's resident memory in bytes; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(ln.split()[1]) << 10 for ln in lines if ln.startswith("VmHWM")), None)
