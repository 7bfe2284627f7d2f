"""One-line error messages for users. Imports nothing heavy, so that errors are reported at once."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Iterator


def error_line(error: Exception) -> str:
    """One-line message for invalid input or a failing disk."""
    hint = ""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = "; no partial output is left: free space and rerun the command to resume"
    return f"error: {error}{hint}"


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Raises tyro's errors, which it prints in a box before it exits, as one-line ValueError."""
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
