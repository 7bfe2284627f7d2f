"""Reports invalid input in one line, from one process or from all ranks of a launch."""

from __future__ import annotations

import os
import sys
import time

from data_pipeline.commands.one_line_errors import error_line


def bad_input(error: Exception) -> int:
    """Print the error in one line, on rank 0; returns the exit code."""
    if os.environ.get("RANK", "0") == "0":
        print(error_line(error), file=sys.stderr, flush=True)
    else:
        # The launcher kills all ranks when one fails: give rank 0 time to print the error.
        time.sleep(5)
    return 2
