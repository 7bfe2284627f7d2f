"""What runs the stages' tasks: processes of this machine, or a cluster.

A task is a value that can be sent to another process, its function a module-level function. What
it makes lies in files that are published whole (`files/atomic.py`), so that a task that is run
twice, or again after its worker was lost, does no harm. What is a task never depends on the number
of workers: every executor gives the same files, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerLost(RuntimeError):
    """A worker ended before its task did. What other tasks finished is kept."""


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
        """`function` of every task, in the order of the tasks; the first error is raised.

        `sizes` (bytes) drive the progress bar, which `label` names.
        """
        ...
