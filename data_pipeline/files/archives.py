"""The one wanted file of a .7z or .zip archive as a stream; nothing is extracted to disk."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from data_pipeline.files import seven_zip
from data_pipeline.files.compressed import Stream, one_line, open_stream
from data_pipeline.files.seven_zip import ArchiveDamage

ARCHIVES = (".7z", ".zip")
ZIP_ERRORS = (
    *(zipfile.BadZipFile, RuntimeError, ValueError, NotImplementedError),
    *(LookupError, ArithmeticError, struct.error),
)
"""What zipfile raises on invalid bytes; RuntimeError where it asks for a password."""
_MAX_NAMES = 5


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


@contextlib.contextmanager
def open_file(path: Path, is_wanted: Callable[[str], bool], what: str) -> Iterator[Stream]:
    """The bytes of an archive's only file whose name `is_wanted` accepts, else of `path` itself,
    decompressed by its suffix.

    ArchiveDamage, also where no file is `what` was wanted, or several are; reading raises it, too.
    """
    if not is_archive(path.name):
        with open_stream(path) as stream:
            yield stream
    elif path.name.lower().endswith(".7z"):
        name = _only(seven_zip.member_names(path), is_wanted, what)
        with seven_zip.open_member(path, name) as member:
            yield member
    else:
        with _opened_zip(path) as archive:
            names = [info.filename for info in archive.infolist() if not is_folder(info)]
            name = _only(names, is_wanted, what)
            with _damage_as_one_type():
                file = archive.open(name)
            with io.BufferedReader(_ZipMember(file), 1 << 16) as member:
                yield member


def is_folder(info: zipfile.ZipInfo) -> bool:
    """As `ZipInfo.is_dir`, which raises IndexError where the name is empty."""
    return info.filename.endswith("/")


def _only(names: list[str], is_wanted: Callable[[str], bool], what: str) -> str:
    wanted = [name for name in names if is_wanted(name)]
    if len(wanted) == 1:
        return wanted[0]
    shown = ", ".join(name[-100:] for name in (wanted or names)[:_MAX_NAMES])
    if wanted:
        raise ArchiveDamage(f"the archive has {len(wanted)} of {what} ({shown}): unpack it")
    raise ArchiveDamage(f"the archive has no {what}; it has {shown or 'no files'}")


def _opened_zip(path: Path) -> zipfile.ZipFile:
    path.open("rb").close()  # from here on, errors are damage
    with _damage_as_one_type():
        return zipfile.ZipFile(path)


@contextlib.contextmanager
def _damage_as_one_type() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # zipfile raises many types on invalid bytes, also for a password
        raise ArchiveDamage(f"not a readable zip archive: {one_line(error)}") from error


class _ZipMember(io.RawIOBase):
    """A member's bytes; ArchiveDamage where zipfile raises anything."""

    def __init__(self, member: IO[bytes]) -> None:
        self._member = member

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _damage_as_one_type():
            data = self._member.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._member.close()
        super().close()
