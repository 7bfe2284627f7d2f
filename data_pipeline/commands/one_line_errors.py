"""Errors in one line. Imports nothing heavy, so that a wrong option is reported at once."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Iterator


def error_line(error: Exception) -> str:
    """What was wrong with the input, in one line."""
    hint = ""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = "; nothing half-written is left: free space and run the same command again"
    return f"error: {error}{hint}"


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """tyro draws a box around an error and ends the process; ValueError with its words instead."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as exit_request:
        if not exit_request.code:  # --help
            raise
        message: list[str] = []
        for line in box.getvalue().splitlines()[1:]:
            words = line.strip("│╭╰╮╯ ")
            if words.startswith("──") or not words:
                break
            message.append(words)
        raise ValueError(" ".join(message)) from None
