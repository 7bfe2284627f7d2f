"""Reads WARC records (ISO 28500), reporting corrupt places and resuming after them.

fastwarc parses; by itself it ends silently at a truncated file, and stops at the first bad record.
`records` checks that each record has its stated length and that the file ends with a record's end,
and after corrupt bytes resumes at the next place that looks like a record.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from data_pipeline.files.compressed import COMPRESSIONS, DAMAGE, Stream, one_line, open_stream

READ_TYPES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
"""Record types that can have a document; of all others only the type is reported."""

_GZIP_MAGIC = b"\x1f\x8b\x08"
_GZIP_START = re.compile(re.escape(_GZIP_MAGIC))
_RECORD_START = re.compile(rb"(?:^|(?<=\n))WARC/[01]\.\d{1,2}\r?\n")
_OVERLAP_BYTES = 16  # a record's first line is shorter
_LENGTH = re.compile(r"[0-9]{1,18}")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})", re.IGNORECASE)
_CHUNK_BYTES = 1 << 20
_PIECE_BYTES = 1 << 14  # a piece of a gzip bomb of this size has 16 MiB
_MAX_PEEK_BYTES = 16 << 20
_MAX_HEADER_BYTES = 64 << 10


@dataclass(frozen=True)
class Damage:
    """A corrupt place in the file."""

    reason: str
    """"damaged" (not a record) or "truncated" (a record ends before its length)."""
    offset: int
    """Byte offset of the record, or of the last record before the damage."""
    detail: str


class Block(NamedTuple):
    """A record with its block, read up to a size limit."""

    record: WarcRecord
    offset: int
    """Byte offset of the record: in the file, or in the decompressed stream of a file that is
    compressed as a whole and not record by record."""
    payload: bytes
    """The block without HTTP headers. Empty if the record is not of `READ_TYPES`."""
    is_too_large: bool
    """The block is larger than the limit and was not read."""


def records(path: Path, *, max_block_bytes: int) -> Iterator[Block | Damage]:
    """All records of a file in order, compressed record by record (.gz), as a whole, or not at all.

    Memory stays within a few times `max_block_bytes`. OSError if the file cannot be opened.
    """
    path.open("rb").close()  # from here on, errors are reported as damage
    by_record = _is_compressed_by_record(path)
    start: int | None = 0
    waiting: Damage | None = None
    while start is not None:
        damage: Damage | None = None
        last: int | None = None
        for item in _until_damage(path, start, by_record, max_block_bytes):
            if isinstance(item, Damage):
                damage = item
                break
            if waiting is not None:
                yield waiting
                waiting = None
            last = item.offset
            yield item
        if damage is None:
            break
        start = _next_record(path, damage.offset + 1, by_record)
        if damage.offset != last:
            yield damage
        elif not _is_only_longer(path, last, start, by_record):
            # Damage after a whole record may be the next record, which then reports it by itself.
            waiting = damage
    if waiting is not None:
        yield waiting


def _until_damage(
    path: Path, start: int, by_record: bool, max_block_bytes: int
) -> Iterator[Block | Damage]:
    last = start
    try:
        with _fastwarc(path, start, by_record) as found:
            for record in found:
                last = record.stream_pos
                yield _read_block(record, last, max_block_bytes)
    except DAMAGE as error:
        yield Damage("damaged", last, one_line(error))
        return
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # fastwarc's, of no importable type
            raise
        yield Damage("damaged", last, one_line(error))
        return
    if by_record and (cut := _unfinished_member(path, last)) is not None:
        yield Damage("truncated", cut, "the file ends inside this compressed record")


@contextmanager
def _fastwarc(path: Path, start: int, by_record: bool) -> Iterator[Iterable[WarcRecord]]:
    settings: dict[str, Any] = {
        "parse_http": False,
        "max_header_len": _MAX_HEADER_BYTES,
        "fsspec_args": False,
    }
    # fastwarc knows compressions by the suffix, in lower case.
    is_known = path.suffix.islower() and _is_utf8(str(path))
    if start == 0 and _is_left_to_fastwarc(path, by_record) and is_known:
        # From its start, fastwarc reads a file faster by itself than through a Python stream.
        yield ArchiveIterator(str(path), **settings)
    else:
        with _open(path, start, by_record) as stream:
            # fastwarc uses only these methods of a stream.
            yield ArchiveIterator(cast(BinaryIO, _Steps(stream, start)), **settings)


def _is_utf8(name: str) -> bool:
    """fastwarc panics at names of other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_left_to_fastwarc(path: Path, by_record: bool) -> bool:
    """Whether fastwarc opens the file itself; else it is decompressed here."""
    return by_record or path.suffix.lower() not in COMPRESSIONS


class _Steps:
    """A stream whose `read` returns the output of one decompression step, so that everything before
    corrupt bytes is read. It counts its bytes itself: pyarrow's streams have no position, at which
    fastwarc panics."""

    def __init__(self, stream: BinaryIO | Stream, start: int) -> None:
        self._stream = stream
        self._position = start

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read1(size)  # type: ignore[union-attr]  # every stream opened here has it
        self._position += len(data)
        return data


def _read_block(record: WarcRecord, offset: int, max_block_bytes: int) -> Block | Damage:
    length = record.content_length
    # fastwarc takes what is no number, or a huge one, for 0 or for the beginning of a number.
    if _LENGTH.fullmatch((record.headers.get("Content-Length") or "").strip()) is None:
        return Damage("damaged", offset, "the record's header has no valid Content-Length")
    if record.record_type & READ_TYPES and length <= max_block_bytes:
        if record.is_http:
            record.parse_http()
            length = record.content_length
        payload = record.reader.read()
        size = len(payload)
    else:
        size, payload = record.consume(), b""
    if size < length:
        return Damage("truncated", offset, f"the record has {size} of {length} bytes")
    return Block(record, offset, payload, length > max_block_bytes)


def _open(path: Path, start: int, by_record: bool) -> BinaryIO | Stream:
    """The file from byte `start` on, decompressed here if it is compressed as a whole."""
    if _is_left_to_fastwarc(path, by_record):
        file = path.open("rb")
        file.seek(start)
        return file
    stream = open_stream(path)
    while start > 0 and (skipped := stream.read(min(start, _CHUNK_BYTES))):
        start -= len(skipped)
    return stream


def _is_compressed_by_record(path: Path) -> bool:
    """Whether the file is gzip with a member for each record, as the standard recommends."""
    if path.suffix.lower() != ".gz":
        return False
    head = _first_member(path, _MAX_HEADER_BYTES)
    header, blank_line, _ = head.partition(b"\r\n\r\n")
    length = _CONTENT_LENGTH.search(header)
    if not blank_line or length is None:
        return True
    end = len(header) + len(blank_line) + int(length.group(1))
    if end > _MAX_PEEK_BYTES:
        return True
    return not _first_member(path, end + _OVERLAP_BYTES)[end:].strip(b"\r\n")


def _first_member(path: Path, max_bytes: int) -> bytes:
    """The decompressed beginning of the file's first gzip member; shorter if it is corrupt."""
    data = b""
    decoder = zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        while len(data) < max_bytes and not decoder.eof and (piece := file.read(_PIECE_BYTES)):
            try:
                data += decoder.decompress(piece)
            except zlib.error:
                break
    return data[:max_bytes]


def _unfinished_member(path: Path, start: int) -> int | None:
    """Byte offset of the gzip member, from `start` on, in which the file ends or is corrupt."""
    with path.open("rb") as file:
        file.seek(start)
        decoder, begin, size = zlib.decompressobj(wbits=31), start, 0
        data = file.read(_CHUNK_BYTES)
        while data:
            pending = data
            try:
                while pending and not decoder.eof:
                    decoder.decompress(pending, _CHUNK_BYTES)
                    pending = decoder.unconsumed_tail
            except zlib.error:
                return begin
            rest = decoder.unused_data
            size += len(data) - len(rest)
            if decoder.eof:
                decoder, begin, size = zlib.decompressobj(wbits=31), begin + size, 0
                data = rest or file.read(_CHUNK_BYTES)
            else:
                data = file.read(_CHUNK_BYTES)
    return begin if size else None


def _next_record(path: Path, start: int, by_record: bool) -> int | None:
    """Byte offset of the first place from `start` on that looks like a record, or None."""
    position, window = start, b""
    try:
        with _open(path, start, by_record) as stream:
            while data := stream.read(_CHUNK_BYTES):
                window += data
                for match in (_GZIP_START if by_record else _RECORD_START).finditer(window):
                    if not by_record or _holds_record(path, position + match.start()):
                        return position + match.start()
                position += max(len(window) - _OVERLAP_BYTES, 0)
                window = window[-_OVERLAP_BYTES:]
    except DAMAGE:  # also before `start`, in a file that is compressed as a whole
        pass
    return None


def _is_only_longer(path: Path, start: int, end: int | None, by_record: bool) -> bool:
    """Whether there is one record from byte `start` to `end` (None: the end of the file), a few
    bytes longer than it states: what was left out of its length is not worth a record."""
    size = _MAX_PEEK_BYTES + 1 if end is None else end - start
    if size > _MAX_PEEK_BYTES and end is not None:
        return False
    try:
        with _open(path, start, by_record) as stream:
            data = stream.read(size)
        if by_record:
            decoder = zlib.decompressobj(wbits=31)
            data = decoder.decompress(data, _MAX_PEEK_BYTES)
            if not decoder.eof or decoder.unused_data:
                return False
    except DAMAGE:
        return False
    header, _, block = data.partition(b"\r\n\r\n")
    length = _CONTENT_LENGTH.search(header)
    if length is None or len(data) > _MAX_PEEK_BYTES:
        return False
    rest = block[int(length[1]) :]
    return rest.endswith(b"\n") and len(rest.strip(b"\r\n")) < _OVERLAP_BYTES


def _holds_record(path: Path, offset: int) -> bool:
    """Whether a gzip member at `offset` starts with a WARC record."""
    with path.open("rb") as file:
        file.seek(offset)
        try:
            head = zlib.decompressobj(wbits=31).decompress(file.read(4096), _OVERLAP_BYTES)
        except zlib.error:
            return False
    return _RECORD_START.match(head) is not None
