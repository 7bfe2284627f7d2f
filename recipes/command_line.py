"""How the programs of this folder say that their input was wrong, on one process or on many."""

from __future__ import annotations

import os
import sys
import time

from data_pipeline.commands.one_line_errors import error_line


def bad_input(error: Exception) -> int:
    """Say in one line what was wrong with the input; the exit code for it."""
    if os.environ.get("RANK", "0") == "0":
        print(error_line(error), file=sys.stderr, flush=True)
    else:
        # The launcher ends every rank when one fails: leave rank 0 the time to say why.
        time.sleep(5)
    return 2
