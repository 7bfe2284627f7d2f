"""Publishing: whole or not at all, whatever happens in between."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.files.atomic import atomic_directory, write_atomic


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
