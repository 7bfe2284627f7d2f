"""Streams one member of a .7z archive, without extracting to disk."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import py7zr
from py7zr.io import Py7zIO, WriterFactory


class ArchiveDamage(OSError):
    """The archive, or the member, is corrupt or truncated."""


@contextmanager
def open_member(path: Path, name: str) -> Iterator[io.BufferedReader]:
    """The bytes of the member `name`, decompressed by a thread as they are read.

    Members are found by exact name and never written to disk, so that path traversal and links have
    no effect. ArchiveDamage if there is no such member; reading returns what could be decompressed
    and then, at the end of the block, ArchiveDamage if that was not all.
    """
    errors: list[Exception] = []
    with _opened(path) as archive:
        if name not in _names(archive):
            raise ArchiveDamage(f"the archive has no member {name}")
        reading, writing = os.pipe()
        thread = threading.Thread(
            target=_unpack, args=(archive, name, writing, errors), daemon=True
        )
        thread.start()
        try:
            with os.fdopen(reading, "rb") as stream:
                yield stream
        finally:  # the reading end is closed: the thread's next write fails, and it ends
            thread.join()
    if errors:
        raise ArchiveDamage(_words(errors[0])) from errors[0]


def member_names(path: Path) -> list[str]:
    """The names of an archive's files. ArchiveDamage if it is none."""
    with _opened(path) as archive:
        return _names(archive)


def _names(archive: py7zr.SevenZipFile) -> list[str]:
    try:
        # Not `list`, which reads the times of all files, and raises at those out of range.
        return [file.filename for file in archive.files if not file.is_directory]
    except Exception as error:  # of attributes that contradict one another
        raise ArchiveDamage(f"not a 7z archive: {_words(error)}") from error


def _opened(path: Path) -> py7zr.SevenZipFile:
    try:
        return py7zr.SevenZipFile(path)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # py7zr raises many types on invalid bytes
        raise ArchiveDamage(f"not a 7z archive: {_words(error)}") from error


def _unpack(archive: py7zr.SevenZipFile, name: str, writing: int, errors: list[Exception]) -> None:
    try:
        with os.fdopen(writing, "wb", buffering=0) as sink:
            archive.extract(targets=[name], factory=_OneSink(sink))
    except BrokenPipeError:
        pass  # the reader has closed its end
    except Exception as error:  # raised again by the reader, in the caller's thread
        errors.append(error)


class _OneSink(WriterFactory):
    """Gives py7zr a single sink to write to."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink

    def create(self, filename: str) -> Py7zIO:
        return _Sink(self._sink)


class _Sink(Py7zIO):
    """The file interface that py7zr needs for writing."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._num_bytes = 0

    def write(self, s: bytes | bytearray) -> int:
        rest = memoryview(s)
        while rest:
            rest = rest[self._sink.write(rest) :]
        self._num_bytes += len(s)
        return len(s)

    def read(self, size: int | None = None) -> bytes:
        return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0

    def flush(self) -> None:
        pass

    def size(self) -> int:
        return self._num_bytes


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
