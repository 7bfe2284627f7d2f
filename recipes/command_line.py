"""Reports invalid input in one line, from one process or from all ranks of a launch."""

from __future__ import annotations

import dis
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from data_pipeline.commands.one_line_errors import error_line

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = tuple(str(_ROOT / name) + os.sep for name in ("llama_ds", "data_pipeline", "recipes"))


def bad_input(error: Exception) -> int:
    """Print the error in one line, on rank 0; returns the exit code.

    Raises `error` again where it is a bug of this program: its traceback is of use then.
    """
    if not _tells_of_input(error):
        raise error
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        print(error_line(error), file=sys.stderr, flush=True)
    else:
        # The launcher kills all ranks when one fails: give rank 0 time to print the error. A rank
        # that is still alive then has an error of its own.
        time.sleep(5)
        print(f"rank {rank}: {error_line(error)}", file=sys.stderr, flush=True)
    return 2


def _tells_of_input(error: Exception) -> bool:
    """OSError, and a ValueError that this project raises in so many words; others come from calls
    that were given a value they cannot take, which is ours to prevent."""
    if isinstance(error, OSError):
        return True
    traceback = error.__traceback__
    if traceback is None:
        return True
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    if not str(Path(code.co_filename).resolve()).startswith(_PACKAGES):
        return False
    names = {one.offset: one.opname for one in dis.get_instructions(code)}
    return names.get(traceback.tb_lasti) == "RAISE_VARARGS"  # a `raise` statement


def end_on_interrupt() -> None:
    """Until training handles it, Ctrl-C ends the process at once with one line and exit code 130.

    An exception would come up inside an import, as a page of traceback or as another error.
    """
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end_interrupted)


def _end_interrupted(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"interrupted before training began\n")
    os._exit(128 + number)
