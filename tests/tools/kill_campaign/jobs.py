"""Training jobs to be killed: a launcher that holds the ranks, forked from a server.

The server has imported torch, DeepSpeed and llama_ds once, so that a job costs half a second. The
launcher does what DeepSpeed's does: it ends the ranks when one has failed. The ranks watch it with
the product's own rule (`recipes/process_tree.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import psutil

from data_pipeline.files.folder_lock import process_start
from llama_ds.config import Recipe
from recipes.process_tree import GRACE_SECONDS, TOP_VARIABLE, end_with_launchers
from tests.support.checkpoints import CHANGES
from tests.support.fork_server import start_fork_server

Victims = Literal["rank", "all ranks", "launcher"]
Moment = Literal["any time", "in a save", "at a change"]

JOB_SECONDS = 300
# Ranks save a checkpoint and end when their launcher has gone, or kill themselves.
END_SECONDS = GRACE_SECONDS + 10
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True)
class Aim:
    """Which processes of a job are killed, and when."""

    victims: Victims
    moment: Moment
    seconds: float
    """Any time: since the ranks were started. In a save: since its partial folder appeared."""
    count: int
    """In a save: which one of the job. At a change: before which change to the disk of `rank`."""
    rank: int
    """The victim, where it is one; and whose changes are counted."""

    def __str__(self) -> str:
        return f"{self.victims}, {self.moment} ({self.seconds:.3f} s, {self.count}, {self.rank})"


@dataclass(frozen=True)
class Ended:
    """How a job has ended."""

    fired: bool
    """Whether the aim's moment came."""
    exit_code: int | None
    """Of the launcher."""
    seconds_to_end: float
    """From the launcher's end to that of its last rank."""
    left: tuple[int, ...]
    """Processes that had to be killed at last."""


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """While open, processes whose parent was killed become children of this one, to be counted."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


# -- in the campaign's process --------------------------------------------------------------------


def run_job(recipe: Recipe, num_ranks: int, log: Path, aim: Aim | None) -> Ended:
    """Run a job to its end, or kill it as `aim` says; its output is added to `log`."""
    start_fork_server()
    context = get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    meeting, fired = log.with_name("meeting"), log.with_name("fired")
    for file in (meeting, fired):
        file.unlink(missing_ok=True)
    others = descendants()
    launcher = context.Process(
        target=_launch, args=(recipe, num_ranks, meeting, log, aim, fired, theirs)
    )
    launcher.start()
    theirs.close()
    assert launcher.pid is not None
    try:
        ranks = ours.recv()
    except EOFError:  # killed before it could tell
        ranks = []
    if aim is not None and _moment_came(aim, recipe.run_dir, launcher.sentinel):
        fired.touch()
        _kill(aim, launcher.pid, ranks)
    launcher.join(JOB_SECONDS)
    ended = time.monotonic()
    _wait_for(ranks)
    seconds = time.monotonic() - ended
    left = wait_for_end(others)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    launcher.join(10)
    _reap(ranks)
    return Ended(fired.exists(), launcher.exitcode, seconds, tuple(left))


def _moment_came(aim: Aim, run_dir: Path, sentinel: int) -> bool:
    """Wait for the aim's moment; False where the job ended before, or a rank waits for it."""
    if aim.moment == "at a change":
        return False
    if aim.moment == "in a save":
        folder = run_dir / "checkpoints"
        seen: set[str] = set()
        while len(seen) < aim.count:
            if connection.wait([sentinel], timeout=0.005):
                return False
            seen |= {path.name for path in folder.glob(".partial_*")}
    return not connection.wait([sentinel], timeout=aim.seconds)


def _kill(aim: Aim, launcher: int, ranks: Sequence[int]) -> None:
    victims = {"rank": ranks[aim.rank : aim.rank + 1], "all ranks": ranks, "launcher": [launcher]}
    for pid in victims[aim.victims]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants() -> set[int]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                _reap([process.pid])
            else:
                found.add(process.pid)
    return found


def _wait_for(ranks: Sequence[int]) -> None:
    """Wait for ranks to end, which are children of this process once their launcher has gone."""
    deadline = time.monotonic() + END_SECONDS
    while any(process_start(rank) is not None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.02)
    _reap(ranks)


def wait_for_end(others: set[int], seconds: float = END_SECONDS) -> list[int]:
    """Processes of the job that have not ended in time."""
    deadline = time.monotonic() + seconds
    while True:
        left = sorted(descendants() - others)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def _reap(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


# -- in the job's processes -----------------------------------------------------------------------


def _launch(
    recipe: Recipe,
    num_ranks: int,
    meeting: Path,
    log: Path,
    aim: Aim | None,
    fired: Path,
    pipe: connection.Connection,
) -> None:
    gc.freeze()  # the server's objects: a collection would copy their memory into each rank
    redirect_output(log)
    os.environ |= {TOP_VARIABLE: str(os.getpid()), "WORLD_SIZE": str(num_ranks)}
    context = get_context("fork")
    ranks = [
        context.Process(target=_train, args=(recipe, rank, num_ranks, meeting, aim, fired))
        for rank in range(num_ranks)
    ]
    for rank in ranks:
        rank.start()
    pipe.send([rank.pid for rank in ranks])
    waiting = {rank.sentinel: rank for rank in ranks}
    while waiting:
        for sentinel in connection.wait(list(waiting)):
            ended = waiting.pop(sentinel)  # type: ignore[arg-type]
            ended.join()
            if ended.exitcode != 0:
                _end(ranks)
    sys.exit(max(abs(rank.exitcode or 0) for rank in ranks))


def _end(ranks: Sequence[BaseProcess]) -> None:
    """SIGTERM to all ranks; SIGKILL to those that do not end of it."""
    for rank in ranks:
        rank.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for rank in ranks:
        rank.join(max(0.0, deadline - time.monotonic()))
        rank.kill()
        rank.join()


def redirect_output(log: Path) -> None:
    with log.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())


def _train(
    recipe: Recipe, rank: int, num_ranks: int, meeting: Path, aim: Aim | None, fired: Path
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    end_with_launchers(os.environ)
    import torch
    import torch.distributed as dist

    from llama_ds.train import train

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=num_ranks
    )
    if aim is not None and aim.moment == "at a change" and aim.rank == rank:
        _kill_at_a_change(aim, recipe.run_dir, fired)
    result = train(recipe, local_rank=rank)
    if result.signal_number is not None:
        sys.exit(128 + result.signal_number)
    sys.exit(0 if result.divergence is None else 3)


def _kill_at_a_change(aim: Aim, run_dir: Path, fired: Path) -> None:
    """From now on, count this process's changes to files of the run, and kill before one."""
    launcher, left = os.getppid(), aim.count

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name not in CHANGES or not str(arguments[0]).startswith(str(run_dir)):
            return
        if name == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        left -= 1
        if left == 0:
            fired.touch()
            ranks = [rank.pid for rank in psutil.Process(launcher).children()]
            victims = {"rank": [os.getpid()], "all ranks": ranks, "launcher": [launcher]}
            for pid in victims[aim.victims]:
                os.kill(pid, signal.SIGKILL)

    sys.addaudithook(watch)
