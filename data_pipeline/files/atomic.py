"""Publishing: a file or folder appears under its name whole, or not at all.

Everything is written beside the target, flushed to the disk, then renamed. Whatever fails on the
way (a full disk passes up as its OSError), the unfinished copy is removed and the target keeps its
old content. One process writes one target at a time.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` as the file `path`, replacing an older one."""
    temporary = _temporary_name(path)
    try:
        temporary.write_bytes(data)
        _fsync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes the folder `path` when the block ends well.

    Parents are made where missing. ValueError if `path` exists and is not a folder.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"{path} is a file, and a folder is to be written there; name another place"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    clean_up_after_killed_writers(path)
    old = _old_version(path)
    temporary = _temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        _fsync_tree(temporary)
        if path.exists():
            # A folder cannot be renamed over a full one; a kill between these two lines is
            # mended by the next writer, which moves the old version back.
            path.rename(old)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def clean_up_after_killed_writers(path: Path) -> None:
    """Remove what dead processes of this machine left of `atomic_directory(path)`, and bring back
    the old version of a folder that was just being replaced; another machine's are not ours to
    judge."""
    old = _old_version(path)
    prefix = _temporary_prefix(path)
    for leftover in path.parent.iterdir():
        pid = leftover.name.removeprefix(prefix)
        if not (leftover.name.startswith(prefix) and pid.isdigit() and leftover.is_dir()):
            continue
        if not _is_alive(int(pid)):
            shutil.rmtree(leftover)
    if old.exists():
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)


def link_or_copy(path: Path, target: Path) -> None:
    """The same file under a second name, where the file system can."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def check_replaceable(out: Path, marker: str, what: str) -> None:
    """Publishing replaces a folder; ValueError if it is one that holds something else."""
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise ValueError(f"{out} exists and is not {what}; name another place")


def _old_version(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _temporary_name(path: Path) -> Path:
    return path.with_name(f"{_temporary_prefix(path)}{os.getpid()}")


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}.tmp-{socket.gethostname()}-"


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # this process has not begun yet: the number was used before
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fsync_tree(folder: Path) -> None:
    for current, _, names in os.walk(folder):
        for name in names:
            _fsync(Path(current, name))
        _fsync(Path(current))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
