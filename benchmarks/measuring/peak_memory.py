"""Peak memory (resident set) of a call, measured in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """Result of `function(*arguments)`, and the peak resident set of the process that ran it, in
    bytes.

    The process imports `function`'s module, which is part of what is measured. Linux only.
    """
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(writer, function, arguments))
    process.start()
    writer.close()
    try:
        # Read before waiting for the process: a pipe's buffer is small, and it ends when all is
        # read.
        result, peak = reader.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}") from None
    process.join()
    return result, peak


def _run(writer: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    result = function(*arguments)
    # Not getrusage: its maximum includes the process before exec.
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    writer.send((result, int(line.split()[1]) << 10))
