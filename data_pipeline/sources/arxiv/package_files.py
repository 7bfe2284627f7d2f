"""The files of an arXiv package that may contain text, from a tar or zip archive, in memory."""

from __future__ import annotations

import gzip
import io
import posixpath
import zipfile

from data_pipeline.files.archives import ZIP_ERRORS, is_folder
from data_pipeline.files.compressed import DAMAGE, one_line
from data_pipeline.files.tar_stream import MemberKind, Readable, members
from data_pipeline.sources.arxiv.project import TEX_SUFFIXES

_TEX_SUFFIXES = TEX_SUFFIXES | {".sty", ".cls"}
_NOT_TEXT = frozenset(
    {
        *(".pdf", ".ps", ".eps", ".epsf", ".epsi", ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif"),
        *(".tiff", ".svg", ".gz", ".zip", ".bz2", ".xz", ".tar", ".z", ".mp4", ".avi", ".mov"),
        *(".ttf", ".otf", ".pfb", ".tfm", ".dvi", ".xls", ".xlsx", ".doc", ".docx", ".ppt", ".npy"),
        *(".bib", ".bst", ".bbl", ".aux", ".log", ".out", ".fits", ".h5", ".ipynb", ".csv"),
        ".json5",
    }
)
"""Suffixes of files in a package without text of the paper: skipped."""
_MAX_ZIP_BYTES = 256 << 20
"""A zip archive is read from its end, so that it is held in memory. arXiv takes 50 MB."""


class UnusableError(Exception):
    """A package without a usable paper; `reason` is the drop reason."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def files_of_tar(stream: Readable, max_text_bytes: int) -> dict[str, bytes]:
    """The files by their paths. UnusableError without any; one of `DAMAGE`."""
    files = _PackageFiles(max_text_bytes)
    for member, data in members(stream):
        if member.kind is MemberKind.FILE:
            files.add(member.name, member.size, data)
    return files.found()


def files_of_zip(stream: io.BufferedReader, max_text_bytes: int) -> dict[str, bytes]:
    """As `files_of_tar`."""
    packed = stream.read(_MAX_ZIP_BYTES + 1)
    if len(packed) > _MAX_ZIP_BYTES:
        raise UnusableError("too_large", f"a zip archive of more than {_MAX_ZIP_BYTES} bytes")
    files = _PackageFiles(max_text_bytes)
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            for info in archive.infolist():
                if not is_folder(info):
                    with archive.open(info) as data:
                        files.add(info.filename, info.file_size, data)
    except (*DAMAGE, *ZIP_ERRORS) as error:
        raise UnusableError("damaged", f"zip archive: {one_line(error)}") from error
    return files.found()


class _PackageFiles:
    """Data tables have a limit of their own, so that there is always room for the paper itself."""

    def __init__(self, max_text_bytes: int) -> None:
        self._files: dict[str, bytes] = {}
        self._left = {True: max_text_bytes, False: max_text_bytes // 4}
        self._num_files = self._num_pdf = 0

    def add(self, name: str, size: int, stream: Readable) -> None:
        """A file of the package, if it may be text, lies inside, and there is room for it."""
        self._num_files += 1
        self._num_pdf += name.lower().endswith(".pdf")
        path = posixpath.normpath(name)
        if path.startswith(("/", "../")) or path in (".", ".."):
            return
        if path.lower().endswith(".gz") and _is_tex(path[: -len(".gz")]):
            path, size = path[: -len(".gz")], 0
            stream = gzip.GzipFile(fileobj=io.BufferedReader(_Raw(stream)))
        if posixpath.splitext(path)[1].lower() in _NOT_TEXT or size > self._left[_is_tex(path)]:
            return
        data = _up_to(stream, self._left[_is_tex(path)] + 1)
        if len(data) <= self._left[_is_tex(path)]:
            self._files[path] = data
            self._left[_is_tex(path)] -= len(data)

    def found(self) -> dict[str, bytes]:
        if not self._files:
            reason = "pdf_only" if self._num_pdf else "no_tex" if self._num_files else "empty"
            raise UnusableError(reason, f"{self._num_files} files, no text among them")
        return self._files


def _is_tex(path: str) -> bool:
    return posixpath.splitext(path)[1].lower() in _TEX_SUFFIXES


def _up_to(stream: Readable, size: int) -> bytes:
    pieces: list[bytes] = []
    while size and (data := stream.read(size)):
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)


class _Raw(io.RawIOBase):
    """What only reads, as a file."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
