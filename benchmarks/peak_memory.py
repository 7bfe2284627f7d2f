"""Largest memory of a call, measured in a process of its own."""

from __future__ import annotations

import resource
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from typing import Any


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What `function(*arguments)` gives, and the largest resident set of the process that ran it.

    The process imports `function`'s module, which is part of what is measured.
    """
    context = get_context("spawn")
    queue: SimpleQueue[Any] = context.SimpleQueue()
    process = context.Process(target=_run, args=(queue, function, arguments))
    process.start()
    process.join()
    if process.exitcode or queue.empty():
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}")
    result, peak = queue.get()
    return result, peak


def _run(queue: SimpleQueue[Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    result = function(*arguments)
    # Linux counts in KiB.
    queue.put((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10))
