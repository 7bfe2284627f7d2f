"""Worker process for measurements: a crash, hang or leak ends one measurement and not the run.

A kernel may corrupt the CUDA context, a compiler may run for minutes, a DeepSpeed engine may never
free its memory: the worker is then killed or replaced, and its results so far are kept.
"""

from __future__ import annotations

import contextlib
import gc
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.measuring.results import device_of_choice
from benchmarks.model.steppers import Stepper, stepping

Record = dict[str, Any]
GRACE_SECONDS = 5.0
"""A task ends itself at its deadline; after this long it is killed."""
HELD_BYTES = 2**30
"""A worker that holds more GPU memory than this between tasks is replaced."""


@dataclass(frozen=True)
class Bench:
    """The context passed to a task."""

    device: torch.device
    make_stepper: Callable[..., Stepper]
    deadline: float
    """By `time.monotonic`: a task skips what it cannot start before."""
    emit: Callable[[Record], None]
    """Reports a result, which is kept from then on."""

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


Task = Callable[..., None]
"""`task(bench, **arguments)`, a module-level function."""


@dataclass(frozen=True)
class Outcome:
    records: list[Record]
    ended: str
    """Why the task did not finish; empty if it did."""


class Worker:
    """The parent's side; a process is started on demand."""

    def __init__(self, *, deepspeed: bool) -> None:
        self.deepspeed = deepspeed
        self._process: Any = None
        self._pipe: Any = None
        self._is_busy = False

    def run(self, task: Task, seconds: float, arguments: dict[str, Any]) -> Outcome:
        """Run `task` for about `seconds` at most."""
        end = time.monotonic() + seconds
        self._start()
        self._pipe.send((task, seconds, arguments))
        self._is_busy = True
        records: list[Record] = []
        while self._pipe.poll(max(0.0, end + GRACE_SECONDS - time.monotonic())):
            try:
                kind, content = self._pipe.recv()
            except EOFError:
                self.close()
                return Outcome(records, "its process died")
            if kind == "record":
                records.append(content)
                continue
            self._is_busy = False
            if kind == "failed":
                self.close()
                return Outcome(records, content)
            if content > HELD_BYTES:
                self.close()
            return Outcome(records, "")
        self.close()
        return Outcome(records, f"stopped after {seconds:.0f} s")

    def close(self) -> None:
        """End the process: if idle, it exits when its pipe is closed."""
        if self._process is not None:
            self._pipe.close()
            self._process.join(0 if self._is_busy else GRACE_SECONDS)
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def _start(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.deepspeed), daemon=True)
        self._process.start()
        theirs.close()


def _serve(pipe: Connection, deepspeed: bool) -> None:
    device = device_of_choice()
    if device.type == "cpu":
        torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        makers: list[Callable[..., Stepper]] = []

        def make_stepper(*arguments: Any) -> Stepper:
            # Imported only for training: importing DeepSpeed takes time.
            if not makers:
                makers.append(stack.enter_context(stepping(device, deepspeed=deepspeed)))
            return makers[0](*arguments)

        while True:
            try:
                task, seconds, arguments = pipe.recv()
            except EOFError:
                return
            deadline = time.monotonic() + seconds
            bench = Bench(device, make_stepper, deadline, lambda r: pipe.send(("record", r)))
            try:
                task(bench, **arguments)
            except Exception as error:
                traceback.print_exc()
                message = " ".join(str(error).split())[:300]
                pipe.send(("failed", f"{type(error).__name__}: {message}"))
                return
            pipe.send(("done", _bytes_held(device)))


def _bytes_held(device: torch.device) -> int:
    torch.compiler.reset()
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)
