"""Executor interface: maps a function over tasks, in local processes or on a cluster.

Tasks are picklable values, their function is a module-level function. Outputs are files that are
published atomically (`files/atomic.py`), so tasks are idempotent and can be retried after their
worker was lost. The split into tasks never depends on the number of workers: every executor gives
the same files, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerLost(RuntimeError):
    """A worker died before its task was done. Results of finished tasks are kept."""


class Executor(Protocol):
    """Runs a function over tasks."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        sizes: Sequence[int],
        *,
        label: str,
    ) -> list[Result]:
        """Results of `function` for every task, in task order; the first error is raised.

        `sizes` (bytes) drive the progress bar, which `label` names.
        """
        ...
