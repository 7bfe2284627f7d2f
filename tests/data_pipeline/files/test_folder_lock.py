"""One job per folder, also where machines share it and a job was killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.files.folder_lock import FolderLock, Holder, process_start

LOCK_FILE = "run.lock"
ADVICE = "use another folder"
BEAT = 0.1


def open_lock(run_dir: Path, missed_heartbeats: int = 5) -> FolderLock:
    return FolderLock(
        run_dir / LOCK_FILE,
        ADVICE,
        heartbeat_seconds=BEAT,
        missed_heartbeats=missed_heartbeats,
    )


def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within a minute: other processes may keep a thread from its work."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(BEAT / 10)
    return condition()


def write_holder(run_dir: Path, **changes: Any) -> Holder:
    """The lock file that another job has written."""
    holder = replace(Holder.of_this_process(), **changes)
    run_dir.mkdir(exist_ok=True)
    (run_dir / LOCK_FILE).write_text(json.dumps(asdict(holder)))
    return holder


def ended_process() -> int:
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


def test_a_second_job_is_refused_by_name_and_the_next_is_not(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "a"
    with open_lock(run_dir):
        with pytest.raises(ValueError, match=rf"in use .*process {os.getpid()} on .*, for 0 s"):
            open_lock(run_dir).__enter__()
        assert (run_dir / LOCK_FILE).exists()  # the refused one has left it
    assert list(run_dir.iterdir()) == []
    with open_lock(run_dir):
        pass


def test_the_refusal_tells_how_long_the_folder_is_in_use(tmp_path: Path) -> None:
    write_holder(tmp_path, taken_at=time.time() - 7230)
    with pytest.raises(ValueError, match="for 2 h; wait for its end, stop it, or use another"):
        open_lock(tmp_path).__enter__()


@pytest.mark.parametrize("reused", [False, True])
def test_a_dead_process_of_this_machine_is_succeeded_at_once(tmp_path: Path, reused: bool) -> None:
    if reused:  # its number belongs to another process now
        write_holder(tmp_path, process_start=1)
    else:
        write_holder(tmp_path, pid=ended_process())
    start = time.monotonic()
    with FolderLock(tmp_path / LOCK_FILE, ADVICE):
        assert time.monotonic() - start < 5  # not after a minute without a heartbeat
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def kill_while_it_takes_over(run_dir: Path, removal: int) -> None:
    """Take the lock of a dead process, and be killed before a removal of a file."""
    left = removal

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name == "os.remove" and Path(arguments[0]).parent == run_dir:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    with FolderLock(run_dir / LOCK_FILE, ADVICE):
        pass


@pytest.mark.parametrize("removals", [(1,), (1, 1), (2,), (1, 2), (1, 3)])
def test_a_job_that_was_killed_while_it_took_over_is_succeeded_too(
    tmp_path: Path, removals: tuple[int, ...]
) -> None:
    write_holder(tmp_path, pid=ended_process())
    for removal in removals:
        job = multiprocessing.get_context("fork").Process(
            target=kill_while_it_takes_over, args=(tmp_path, removal)
        )
        job.start()
        job.join()
        assert job.exitcode == -signal.SIGKILL
        assert list(tmp_path.glob(".run.lock.*"))
    with FolderLock(tmp_path / LOCK_FILE, ADVICE):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b'{"host": "a'], ids=["foreign", "empty", "torn"])
def test_a_holder_without_heartbeat_is_succeeded_later(
    tmp_path: Path, content: bytes | None
) -> None:
    write_holder(tmp_path, machine="another")
    if content is not None:  # killed while it wrote its name
        (tmp_path / LOCK_FILE).write_bytes(content)
    start = time.monotonic()
    with open_lock(tmp_path):
        assert time.monotonic() - start >= 5 * BEAT
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_heartbeat_from_another_machine_is_respected_whatever_its_clock(tmp_path: Path) -> None:
    holder = write_holder(tmp_path, machine="another", host="node7")
    over = threading.Event()

    def beat() -> None:
        number = 0
        while not over.wait(BEAT):
            number += 1
            os.utime(tmp_path / LOCK_FILE, (number, number))  # a clock that is 50 years late

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ValueError, match=rf"process {holder.pid} on node7"):
            open_lock(tmp_path, missed_heartbeats=600).__enter__()
    finally:
        over.set()
        thread.join()


def test_the_holder_keeps_its_own_heartbeat(tmp_path: Path) -> None:
    with open_lock(tmp_path):
        before = (tmp_path / LOCK_FILE).stat().st_mtime_ns
        assert wait_until(lambda: (tmp_path / LOCK_FILE).stat().st_mtime_ns > before)


def is_lost(lock: FolderLock) -> bool:
    try:
        lock.check()
    except RuntimeError:
        return True
    return False


@pytest.mark.parametrize("taken", [True, False])
def test_a_job_whose_lock_was_taken_notices_and_leaves_it(tmp_path: Path, taken: bool) -> None:
    with open_lock(tmp_path) as lock:
        lock.check()
        if taken:
            write_holder(tmp_path, machine="another")
        else:
            (tmp_path / LOCK_FILE).unlink()
        assert wait_until(lambda: is_lost(lock))
        with pytest.raises(RuntimeError, match="no longer this job's"):
            lock.check()
    assert (tmp_path / LOCK_FILE).exists() == taken


def contend(run_dir: Path, barrier: Any, held: Any, refused: Any, num_others: int) -> None:
    """Take the lock if it is free, and keep it until all others were refused."""
    barrier.wait()
    try:
        with open_lock(run_dir):
            with held.get_lock():
                held.value += 1
            wait_until(lambda: refused.value >= num_others)
    except ValueError:
        with refused.get_lock():
            refused.value += 1


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_jobs_one_gets_the_folder(tmp_path: Path, stale: bool) -> None:
    if stale:
        write_holder(tmp_path, pid=ended_process())
    context = multiprocessing.get_context("fork")
    barrier, held, refused = context.Barrier(8), context.Value("i", 0), context.Value("i", 0)
    arguments = (tmp_path, barrier, held, refused, 7)
    processes = [context.Process(target=contend, args=arguments) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (held.value, refused.value) == (1, 7)
    assert list(tmp_path.iterdir()) == []


def test_processes_are_told_from_their_successors() -> None:
    own = process_start(os.getpid())
    later = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    later.start()
    assert later.pid is not None
    successor = process_start(later.pid)
    later.kill()
    later.join()
    assert own is not None
    assert successor is not None
    assert successor > own
    assert process_start(later.pid) is None
