"""One writer per folder: a lock file that names its holder and is kept fresh by a heartbeat.

It works on file systems that machines share, where `flock` may be missing or local: it needs that
a file can be created by one process only (`O_EXCL`) and that others see its modification time. A
second job looks whether that time still moves, and compares no clocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    machine: str
    """Differs between machines, reboots and containers that have one host name: there, process
    numbers mean other processes."""
    pid: int
    process_start: int
    """In clock ticks since the machine's start: a number may be given to a later process."""
    taken_at: float
    """Seconds since 1970, by the holder's clock."""
    token: str
    """Differs between any two times that a lock is taken."""

    @staticmethod
    def of_this_process() -> Holder:
        start = process_start(os.getpid())
        assert start is not None, "/proc does not list this process"
        return Holder(
            socket.gethostname(), _machine(), os.getpid(), start, time.time(), uuid.uuid4().hex
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, for {_age(time.time() - self.taken_at)}"


class FolderLock:
    """While open, no other job can open the lock `path`, which lies in the folder that it is for.

    Opening raises ValueError, which ends with `advice`, where a job holds it that is alive. A
    holder on this machine is dead when its process is; one elsewhere when its heartbeat stands
    still for `missed_heartbeats` times, which opening waits for.
    """

    def __init__(
        self,
        path: Path,
        advice: str,
        *,
        heartbeat_seconds: float = 10.0,
        missed_heartbeats: int = 6,
    ) -> None:
        self._path = path
        self._advice = advice
        self._heartbeat_seconds = heartbeat_seconds
        self._patience_seconds = heartbeat_seconds * missed_heartbeats
        self._content = b""
        self._lost = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="folder lock", daemon=True)

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._content = json.dumps(asdict(Holder.of_this_process())).encode()
        while not self._create():
            self._take_from_the_dead(self._path)
        for marker in self._path.parent.glob(f".{self._path.name}.*"):
            marker.unlink(missing_ok=True)  # of jobs that were killed while they took over
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # what is left is found dead by the next job
            if self._path.read_bytes() == self._content:
                self._path.unlink()

    def check(self) -> None:
        """RuntimeError where another job has taken the folder, as after a suspension of this one,
        or where the lock was removed."""
        if self._lost:
            raise RuntimeError(
                f"{self._path} is no longer this job's: another job may write to this folder"
            )

    # -- taking -----------------------------------------------------------------------------------

    def _create(self) -> bool:
        return _create_alone(self._path, self._content)

    def _take_from_the_dead(self, path: Path) -> None:
        """Remove a file of a dead holder; ValueError where it is alive."""
        seen = _look(path)
        if seen is None:  # it was released just now
            return
        content, _ = seen
        holder = _parse(content)
        if holder is not None and holder.machine == _machine():
            if process_start(holder.pid) == holder.process_start:
                raise ValueError(self._refusal(holder))
        elif (alive := self._heartbeat_of(path, seen)) is not None:
            raise ValueError(self._refusal(alive))
        # Of several jobs that see the same dead holder one may remove its file, and none a file
        # that was taken since. The marker's name is that of this one dead holder. Its own holder
        # may be killed, too: then it is such a file itself.
        dead = hashlib.sha256(path.name.encode() + content).hexdigest()[:16]
        marker = path.with_name(f".{self._path.name}.{dead}")
        while not _create_alone(marker, self._content):
            self._take_from_the_dead(marker)
        try:
            seen = _look(path)
            if seen is not None and seen[0] == content:
                path.unlink()
        finally:
            marker.unlink(missing_ok=True)  # the lock's next holder may have removed it

    def _refusal(self, holder: Holder) -> str:
        return (
            f"{self._path.parent} is in use by another job: {holder}; wait for its end, stop it, "
            f"or {self._advice}"
        )

    def _heartbeat_of(self, path: Path, seen: tuple[bytes, int]) -> Holder | None:
        """Who keeps a file fresh; None where nobody does any more."""
        deadline = time.monotonic() + self._patience_seconds
        while time.monotonic() < deadline:
            time.sleep(self._heartbeat_seconds / 10)
            now = _look(path)
            if now is None:
                return None
            holder = _parse(now[0])
            if now != seen and holder is not None:
                return holder
        return None

    # -- keeping ----------------------------------------------------------------------------------

    def _beat(self) -> None:
        while not self._closing.wait(self._heartbeat_seconds):
            try:
                seen = _look(self._path)
                if seen is None or seen[0] != self._content:
                    self._lost = True
                    return
                os.utime(self._path)
            except OSError:
                pass  # a file system that fails for a while; the next heartbeat says whose it is


def process_start(pid: int) -> int | None:
    """When the process began, in clock ticks since the machine's start; None where it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, which may hold spaces.
    fields = stat.rpartition(")")[2].split()
    state, start = fields[0], int(fields[19])
    return None if state in "ZX" else start


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _look(path: Path) -> tuple[bytes, int] | None:
    """A file's content and modification time; None where there is none."""
    try:
        # A file that is opened is asked for anew on NFS; one that is looked up may be cached.
        with path.open("rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _create_alone(path: Path, content: bytes) -> bool:
    """Whether this process created the file; False where it existed."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return True


def _parse(content: bytes) -> Holder | None:
    """None for a lock whose holder is not written yet, or was killed before it was."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _age(seconds: float) -> str:
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
