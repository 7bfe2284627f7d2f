"""Largest memory of a call, measured in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What `function(*arguments)` gives, and the largest resident set of the process that ran it.

    The process imports `function`'s module, which is part of what is measured. Linux only.
    """
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(writer, function, arguments))
    process.start()
    writer.close()
    try:
        # Before it is waited for: a pipe holds little, and the process ends when all is read.
        result, peak = reader.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}") from None
    process.join()
    return result, peak


def _run(writer: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    result = function(*arguments)
    # Not getrusage: its maximum includes that of the process before it was replaced by this one.
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    writer.send((result, int(line.split()[1]) << 10))
