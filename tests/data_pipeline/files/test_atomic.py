"""Publishing: whole or not at all, whatever happens in between."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.files.atomic import (
    atomic_directory,
    begin_directory,
    clean_up_replaced_directories,
    remove_unfinished_directories,
    write_atomic,
)


def fail_halfway(path: Path, error: BaseException) -> None:
    with atomic_directory(path) as folder:
        (folder / "half").touch()
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_write_atomic_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_directory_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    for text in ("first", "second"):
        with atomic_directory(path) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / text).write_text(text)
            assert not path.exists() or names(path / "sub") == ["first"]
        assert names(path / "sub") == [text]
        assert names(path.parent) == ["folder"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_directory_is_left_alone_on_failure(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "folder"
    with atomic_directory(path) as folder:
        (folder / "old").touch()
    with pytest.raises(type(error)):
        fail_halfway(path, error)
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    finished = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    host = socket.gethostname()
    dead = tmp_path / f".folder.tmp-{host}-{int(finished.stdout)}"
    alive = tmp_path / f".folder.tmp-{host}-{os.getppid()}"
    elsewhere = tmp_path / f".folder.tmp-another{host}-1"
    for leftover in (dead, alive, elsewhere):
        leftover.mkdir()
        (leftover / "half").touch()
    with atomic_directory(path):
        pass
    assert not dead.exists()
    assert alive.exists()
    assert elsewhere.exists()


def test_killed_between_the_two_renames(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (tmp_path / ".folder.old").mkdir()
    (tmp_path / ".folder.old" / "old").touch()
    with pytest.raises(KeyboardInterrupt):
        fail_halfway(path, KeyboardInterrupt())
    assert names(path) == ["old"]


def test_refuses_to_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"), atomic_directory(tmp_path / "file"):
        pytest.fail("the block must not run")


# -- killed, and out of disk, at every step -------------------------------------------------------

# Counts the calls of everything that changes what lies on the disk, and ends the process, or fails,
# at the chosen one. What is written by the block itself counts too.
DRIVER = """
import os, signal, sys, shutil, pathlib
from data_pipeline.files import atomic

target, at, how = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
calls = 0

def counted(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == at:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")
        return function(*arguments, **options)
    return call

names = ["fsync", "rename", "replace", "chmod"]
if how == "kill":  # pathlib and shutil pass over some failures of these
    names += ["mkdir", "unlink", "rmdir"]
for name in names:
    setattr(os, name, counted(getattr(os, name)))
pathlib.Path.write_bytes = counted(pathlib.Path.write_bytes)
WRITE
print(calls)
"""
WRITE_FILE = "atomic.write_atomic(target, b'new' * 9)"
WRITE_FOLDER = """
with atomic.atomic_directory(target) as folder:
    (folder / "sub").mkdir()
    (folder / "sub" / "a").write_bytes(b"new")
    (folder / "b").write_bytes(b"new")
"""
SHARED_FOLDER = """
folder = atomic.begin_directory(target)
(folder / "sub").mkdir()
for name in ("sub/a", "b"):
    (folder / name).write_bytes(b"new")
    atomic.finish_file(folder / name, folder)
atomic.publish_directory(folder, target)
"""


def drive(write: str, target: Path, at: int, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DRIVER.replace("WRITE", write), str(target), str(at), how]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def contents(target: Path) -> dict[str, bytes]:
    if target.is_file():
        return {"": target.read_bytes()}
    files = (path for path in target.rglob("*") if path.is_file())
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("has_old", [True, False])
@pytest.mark.parametrize("write", [WRITE_FILE, WRITE_FOLDER, SHARED_FOLDER])
@pytest.mark.parametrize("how", ["kill", "fail"])
def test_old_or_new_whatever_step_is_the_last(
    tmp_path: Path, write: str, how: str, has_old: bool
) -> None:
    def start(name: str) -> Path:
        target = tmp_path / name / "target"
        target.parent.mkdir()
        if has_old:
            assert drive(write.replace("new", "old"), target, 0, how).returncode == 0
        return target

    target = start("whole")
    old = contents(target)
    num_steps = int(drive(write, target, 0, how).stdout)
    new = contents(target)
    assert new != old
    assert num_steps >= 4
    for step in range(1, num_steps + 1):
        target = start(str(step))
        code = drive(write, target, step, how).returncode
        assert code == (-signal.SIGKILL if how == "kill" else 1)
        if not target.exists() and write != WRITE_FILE:
            # Between the two renames; the next writer or reader of the folder's parent mends it.
            clean_up_replaced_directories(target.parent)
        assert contents(target) in (old, new)
        if how == "fail" and write != SHARED_FOLDER:  # there the caller removes the folder
            # If flushing the renamed entry itself fails, the replaced folder is kept beside it.
            assert set(names(target.parent)) <= {"target"} or contents(target) == new
        assert drive(write, target, 0, how).returncode == 0
        assert contents(target) == new
        assert names(target.parent) == ["target"]


# -- permissions ----------------------------------------------------------------------------------

PRIVATE = """
import os, pathlib, shutil, sys, tempfile
from data_pipeline.files import atomic

here, umask = pathlib.Path(sys.argv[1]), int(sys.argv[2], 8)
given = here / "given"
given.mkdir()
(given / "tool").write_bytes(b"x")
(given / "tool").chmod(0o500)
given.chmod(0o500)
os.umask(umask)
with atomic.atomic_directory(here / "folder") as folder:
    os.close(tempfile.mkstemp(dir=folder)[0])  # 0600, as safetensors makes its files
    pathlib.Path(tempfile.mkdtemp(dir=folder), "inside").touch()
    shutil.copytree(given, folder / "copied")
    (folder / "plain").touch()
with atomic.atomic_directory(here / "copy") as folder:
    shutil.copytree(given, folder, dirs_exist_ok=True)
shared = atomic.begin_directory(here / "shared")
handle, name = tempfile.mkstemp(dir=shared)
os.close(handle)
atomic.finish_file(pathlib.Path(name), shared)
atomic.publish_directory(shared, here / "shared")
atomic.write_atomic(here / "file", b"x")
given.chmod(0o700)
shutil.rmtree(given)
"""


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_the_umask(tmp_path: Path, umask: int) -> None:
    subprocess.run([sys.executable, "-c", PRIVATE, str(tmp_path), f"{umask:o}"], check=True)
    found = list(tmp_path.rglob("*"))
    assert len(found) == 12
    for path in found:
        full = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == full & ~umask, path


def test_a_folder_keeps_its_set_group_id(tmp_path: Path) -> None:
    """Where a group shares a folder, what is made in it belongs to the group."""
    with atomic_directory(tmp_path / "folder") as folder:
        inside = folder / "inside"
        inside.mkdir()
        inside.chmod(0o2700)
    mode = stat.S_IMODE((tmp_path / "folder" / "inside").stat().st_mode)
    assert mode == 0o2000 | stat.S_IMODE((tmp_path / "folder").stat().st_mode)


def test_refuses_to_replace_where_told_so(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(ValueError, match="exists already"),
        atomic_directory(tmp_path / "folder", replace=False),
    ):
        pytest.fail("the block must not run")


def test_unfinished_folders_are_removed_on_demand(tmp_path: Path) -> None:
    (begin_directory(tmp_path / "a") / "file").touch()
    (begin_directory(tmp_path / "b") / "file").touch()
    remove_unfinished_directories(tmp_path)
    assert names(tmp_path) == []
