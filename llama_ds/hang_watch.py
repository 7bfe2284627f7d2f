"""A step that hangs ends the job, after every rank has written where it stands.

A rank that waits for ever says nothing: its main thread is inside a collective or a system call. So
a thread of each rank looks for its heartbeats. Where they stop, it writes the stacks of all threads
and the collectives that were called last to `RUN/hangs/TIME/`, TIME being the start of the job, and
ends the process. The other ranks see the folder, and write theirs.

    hangs/20260131T120000Z/rank_0.txt               stacks of all Python threads
    hangs/20260131T120000Z/rank_0.collectives.json  torch's flight record: the last 2,000 of them
    hangs/20260131T120000Z/nccl_trace_rank_0        with NCCL: the same, for `torchfrtrace`

A thread of Python needs the interpreter's lock. Where a call from C never gives it back, NCCL's own
timeout ends the process by SIGABRT, and its stacks go to stderr.
"""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch._C import _distributed_c10d as c10d

from llama_ds.checkpoint.verification import all_checkpoints

EXIT_CODE = 4
CHECKPOINT_PATIENCE = 10
"""A checkpoint that is waited for has so many timeouts: a slow disk is no hang."""

_POLL_SECONDS = 5.0
_WRITE_SECONDS = 30.0
_OTHERS_SECONDS = 30.0
"""For the ranks that have not seen the folder yet. Launchers kill them 30 seconds after the first
has ended."""


class HangWatch:
    """While open, ends the process with `EXIT_CODE` where no heartbeat comes for `seconds`.

    Every forward pass is a heartbeat, so the limit is for one micro-batch and what follows it, in
    training and evaluation; `begin` is another. 0 seconds switch it off. All ranks open it at once.

    Time in which the whole process was stopped (Ctrl-Z, a debugger, a suspended job) does not
    count: the thread counts its own wake-ups, not the clock.
    """

    def __init__(self, engine: nn.Module, run_dir: Path, seconds: float) -> None:
        self._engine = engine
        self._run_dir = run_dir
        self._seconds = seconds
        self._poll_seconds = min(_POLL_SECONDS, seconds / 5)
        self._doing, self._patience, self._beats = "the first step", 1, 0
        self._closing, self._called = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            # Two, because the disk may be what hangs.
            for work, name in ((self._watch, "hang watch"), (self._listen, "hangs of others"))
        ]
        self._stack = contextlib.ExitStack()
        self.folder = run_dir / "hangs"
        """Of this job, once open; it exists as soon as a rank hangs."""

    def begin(self, doing: str, patience: int = 1) -> None:
        """A heartbeat, and what is done from now on; its limit is `patience` times the usual."""
        self._doing, self._patience = doing, patience
        self._beats += 1

    def _beat(self, *_: Any) -> None:
        self._beats += 1

    def __enter__(self) -> HangWatch:
        if not self._seconds:
            return self
        now = datetime.datetime.now(datetime.timezone.utc)
        start: list[Any] = [now.strftime("%Y%m%dT%H%M%SZ")]
        dist.broadcast_object_list(start, src=0)
        self.folder = self._run_dir / "hangs" / start[0]
        self._stack.callback(self._engine.register_forward_pre_hook(self._beat).remove)
        if not faulthandler.is_enabled():
            faulthandler.enable()
            self._stack.callback(faulthandler.disable)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._stack.close()

    # -- in the threads ---------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closing.wait(self._poll_seconds):
            if self.folder.exists():
                self._called.set()
                return

    def _watch(self) -> None:
        idle, seen = 0.0, self._beats
        while not self._called.is_set() and idle < self._seconds * self._patience:
            if self._closing.wait(self._poll_seconds):
                return
            idle = idle + self._poll_seconds if self._beats == seen else 0.0
            seen = self._beats
        writer = threading.Thread(target=self._write, name="stacks", daemon=True)
        writer.start()
        writer.join(_WRITE_SECONDS)
        if writer.is_alive():
            sys.stderr.write(f"error: {self._doing} hangs, and so does {self._run_dir}\n")
            sys.stderr.flush()
            faulthandler.dump_traceback(all_threads=True)
        time.sleep(min(_OTHERS_SECONDS, self._seconds))
        # Not sys.exit, which ends this thread only.
        os._exit(EXIT_CODE)

    def _write(self) -> None:
        rank = dist.get_rank()
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(parents=True)
            # Of all ranks, the first says it.
            sys.stderr.write(f"{self._message()}\n")
            sys.stderr.flush()
        with (self.folder / f"rank_{rank}.txt").open("w", encoding="utf-8") as file:
            file.write(f"rank {rank} on {os.uname().nodename}, {self._doing}\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        for name, content in _flight_records(rank).items():
            (self.folder / name).write_bytes(content)

    def _message(self) -> str:
        found = all_checkpoints(self._run_dir)
        newest = f"continues from {found[0]}" if found else "begins again: there is no checkpoint"
        return (
            f"error: {self._doing} has stood still for {self._seconds * self._patience:g} s "
            f"(train.hang_timeout_seconds); {self.folder} has the stacks of every rank that could "
            "still write them: one that is missing, or stands elsewhere than the others, is the "
            f"cause; the same command {newest}"
        )


def _flight_records(rank: int) -> dict[str, bytes]:
    """Content by file name. torch offers its flight record by these names alone."""
    if hasattr(c10d, "_dump_nccl_trace") and dist.get_backend() == "nccl":
        return {
            f"rank_{rank}.collectives.json": c10d._dump_nccl_trace_json(),  # type: ignore[attr-defined]
            f"nccl_trace_rank_{rank}": c10d._dump_nccl_trace(),
        }
    return {f"rank_{rank}.collectives.json": c10d._dump_fr_trace_json()}  # type: ignore[attr-defined]
