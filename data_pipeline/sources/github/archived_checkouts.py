"""Reads checkouts in archives, as GitHub offers them for download: .tar, compressed or not, .zip.

Every source file is one document with the license of the nearest license file in its folder or
above it, as in a checkout on disk. Nothing is extracted; links are not followed. An archive is read
twice, because a license file may come after the files that it is for.
"""

from __future__ import annotations

import contextlib
import gzip
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipeline.document import Document, Rejected
from data_pipeline.files.archives import ZIP_ERRORS, is_folder
from data_pipeline.files.compressed import DAMAGE, Stream, one_line, open_stream, uncompressed_name
from data_pipeline.files.inputs import InputFile
from data_pipeline.files.tar_stream import MemberKind, Readable, members
from data_pipeline.sources.github.checkouts import MAX_LICENSE_FILES, nearest_license
from data_pipeline.sources.github.code_files import is_license_file, why_not_code
from data_pipeline.text.decoding import NotTextError, clean, decode
from data_pipeline.text.licenses import from_text

_ENDINGS = (".tar", ".tgz", ".zip")
_MAX_LICENSE_BYTES = 256 << 10
_MAX_LICENSES = 10_000


def is_archive(name: str) -> bool:
    return uncompressed_name(name).endswith(_ENDINGS)


class _File(NamedTuple):
    """A regular file in an archive; its bytes must be read before the next one is requested."""

    path: str
    size: int
    offset: int
    stream: Readable


def read(
    file: InputFile, *, kinds: frozenset[str], max_file_bytes: int, skip_folders: frozenset[str]
) -> Iterator[Document | Rejected]:
    """Stream the source files as documents, with a drop reason for every other file."""
    offset: int | None = None
    try:
        licenses = _licenses(file.path)
        for member in _files(file.path):
            offset = member.offset
            place = PurePosixPath(member.path)
            reason = why_not_code(place.name, kinds)
            if any(folder.lower() in skip_folders for folder in place.parts[:-1]):
                reason = "skipped_folder"
            elif reason is None and member.size > max_file_bytes:
                reason = "too_large"
            if reason is not None:
                yield Rejected(reason, file.source_file, offset, member.path)
            else:
                yield _document(member, file, nearest_license(member.path, licenses))
        if offset is None:
            yield Rejected("empty", file.source_file)
    except (FileNotFoundError, PermissionError) as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))
    except (*DAMAGE, *ZIP_ERRORS) as error:
        yield Rejected("damaged", file.source_file, offset, one_line(error))


def _document(member: _File, file: InputFile, license: str | None) -> Document | Rejected:
    try:
        text = clean(decode(_up_to(member.stream, member.size)))
    except NotTextError as error:
        return Rejected(error.reason, file.source_file, member.offset, f"{member.path}: {error}")
    return Document(text, file.source_file, member.offset, title=member.path, license=license)


def _files(path: Path) -> Iterator[_File]:
    """The regular files of an archive; one of `DAMAGE` and `ZIP_ERRORS`."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not is_folder(info):
                    with archive.open(info) as content:
                        yield _File(info.filename, info.file_size, info.header_offset, content)
        return
    with _opened_tar(path) as stream:
        for member, data in members(stream):
            if member.kind is MemberKind.FILE:
                yield _File(member.name, member.size, member.offset, data)


def _opened_tar(path: Path) -> Stream:
    return gzip.GzipFile(path, "rb") if path.name.lower().endswith(".tgz") else open_stream(path)


def _licenses(path: Path) -> dict[PurePosixPath, str | None]:
    """License per folder that has a license file (None if it is not recognized)."""
    texts: dict[PurePosixPath, list[str]] = defaultdict(list)
    try:
        for member in _files(path):
            place = PurePosixPath(member.path)
            if is_license_file(place.name) and len(texts) < _MAX_LICENSES:
                found = texts[place.parent]
                if len(found) < MAX_LICENSE_FILES:
                    with contextlib.suppress(NotTextError):
                        found.append(decode(_up_to(member.stream, _MAX_LICENSE_BYTES)))
    except (*DAMAGE, *ZIP_ERRORS):
        pass  # found again, and reported, when the files are read
    return {folder: from_text("".join(found)) for folder, found in texts.items()}


def _up_to(stream: Readable, size: int) -> bytes:
    pieces: list[bytes] = []
    while size and (data := stream.read(size)):
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)
