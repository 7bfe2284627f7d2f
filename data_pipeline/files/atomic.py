"""Atomic, crash-safe publication: a file or folder appears under its name complete, or not at all.

Data is written to a temporary path beside the target, flushed (fsync), then renamed. On any error
(a full disk raises its OSError) the temporary copy is removed and the target keeps its old content;
only the last step, flushing the target's new name, fails with the new content in place. A killed
process leaves a temporary copy under a hidden name, which the next writer of the same target
removes. One process writes a target at a time; a folder that several processes fill is begun and
published by one of them (`begin_directory`, `publish_directory`).

Published files have the permissions of the umask, whatever wrote them: several libraries create
temporary files that only their owner can read.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = ".partial_"
_OLD = ".old"


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` as the file `path`, replacing an older one."""
    _remove_temporary_copies(path)
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
def atomic_directory(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes the folder `path` when the block succeeds.

    Missing parents are created. ValueError if `path` exists and is not a folder, or is one and
    `replace` is false.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"{path} is a file, and a folder is to be written there; choose another path"
        )
    if not replace:
        check_absent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clean_up_after_killed_writers(path)
    temporary = _temporary_name(path)
    temporary.mkdir()
    permissions = _permissions(temporary)  # now: copying a folder into it may change them
    try:
        yield temporary
        for current, _, names in os.walk(temporary):
            for name in names:
                _finish_file(Path(current, name), permissions)
        _publish(temporary, path, permissions)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


# -- folders that several processes fill ----------------------------------------------------------


def unfinished_directory(path: Path) -> Path:
    """The temporary folder that becomes `path`; the same name in every process."""
    return path.with_name(f"{_UNFINISHED}{path.name}")


def begin_directory(path: Path) -> Path:
    """Create `unfinished_directory(path)`, empty, and missing parents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clean_up_after_killed_writers(path)
    unfinished = unfinished_directory(path)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    return unfinished


def finish_file(file: Path, folder: Path) -> None:
    """Flush `file` and set its permissions to the umask's; `folder` is the unfinished folder that
    contains it."""
    _finish_file(file, _permissions(folder))


def publish_directory(unfinished: Path, path: Path) -> None:
    """Rename a folder, whose files are all finished, to `path`, and replace the folder there."""
    _publish(unfinished, path, _permissions(unfinished))


def _publish(unfinished: Path, path: Path, permissions: int) -> None:
    for current, _, _ in os.walk(unfinished, topdown=False):
        _set_permissions(Path(current), permissions)
        _fsync(Path(current))
    old = _old_version(path)
    try:
        if path.exists():
            # A folder cannot be renamed over a non-empty one. After a kill between these two lines
            # the next writer moves the old version back.
            path.rename(old)
        unfinished.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Remove a published folder. It is renamed first, so that an interrupted removal leaves an
    unfinished folder, not a damaged published one."""
    unfinished = unfinished_directory(path)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    path.rename(unfinished)
    _fsync(path.parent)
    shutil.rmtree(unfinished)


def move_directory(path: Path, target: Path) -> None:
    """Move a published folder to `target`, which must not exist, on the same file system; missing
    parents are created."""
    check_absent(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _fsync(path)
    path.rename(target)
    _fsync(target.parent)
    _fsync(path.parent)


# -- clean-up after killed writers ----------------------------------------------------------------


def clean_up_after_killed_writers(path: Path) -> None:
    """Remove temporary copies of `path` by dead processes of this machine, and restore the old
    version of a folder that was being replaced. Copies by other machines are left alone."""
    _remove_temporary_copies(path)
    old = _old_version(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)


def clean_up_replaced_directories(parent: Path) -> None:
    """`clean_up_after_killed_writers` of every folder in `parent` that was being replaced."""
    for old in parent.glob(f".*{_OLD}"):
        clean_up_after_killed_writers(old.with_name(old.name[1 : -len(_OLD)]))


def remove_unfinished_directories(parent: Path) -> None:
    """Remove every folder in `parent` that was begun (`begin_directory`) and not published; for
    callers that know that no process is writing one."""
    for unfinished in parent.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(unfinished)


# -- targets --------------------------------------------------------------------------------------


def link_or_copy(path: Path, target: Path) -> None:
    """Hard link to `path`, or a copy where the file system has no hard links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def check_absent(path: Path) -> None:
    """ValueError if `path` exists."""
    if path.exists():
        raise ValueError(f"{path} exists already; name a new folder, or remove it")


def check_replaceable(out: Path, marker: str, what: str) -> None:
    """ValueError if `out` is a non-empty folder of another kind, which publishing would replace."""
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise ValueError(f"{out} exists and is not {what}; choose another path")


# -- names, permissions, flushing -----------------------------------------------------------------


def _old_version(path: Path) -> Path:
    return path.with_name(f".{path.name}{_OLD}")


def _temporary_name(path: Path) -> Path:
    return path.with_name(f"{_temporary_prefix(path)}{os.getpid()}")


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}.tmp-{socket.gethostname()}-"


def _remove_temporary_copies(path: Path) -> None:
    """Remove temporary copies of `path` by processes of this machine that are dead."""
    prefix = _temporary_prefix(path)
    for leftover in path.parent.iterdir():
        pid = leftover.name.removeprefix(prefix)
        if leftover.name.startswith(prefix) and pid.isdigit() and not _is_alive(int(pid)):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # a reused process id: this process has not begun to write
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _permissions(folder: Path) -> int:
    """Permissions of a new folder under the umask. Read from a folder, because `os.umask` can only
    be read by setting it, for all threads."""
    return folder.stat().st_mode & 0o777


def _finish_file(file: Path, permissions: int) -> None:
    _set_permissions(file, permissions & 0o666)
    _fsync(file)


def _set_permissions(path: Path, permissions: int) -> None:
    info = path.stat()
    mode = stat.S_IMODE(info.st_mode)
    # A hard link to another user's file keeps its permissions.
    if mode & 0o777 != permissions and info.st_uid == os.geteuid():
        path.chmod(mode & ~0o777 | permissions)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
