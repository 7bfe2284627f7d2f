"""Streaming tar reader: members one after another, from any stream, in bounded memory.

Python's tarfile reads extended headers and maps of sparse files of any size into memory, keeps a
record of every member, and takes a corrupt header for the end of the archive. Here nothing is kept,
headers are bounded, and corruption is an error. Nothing is ever written, no link is followed.
Formats: POSIX.1-2001 (pax and ustar) and GNU tar, as their manuals describe them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

BLOCK_BYTES = 512
_MAX_EXTENDED_HEADER_BYTES = 1 << 20
_MAX_SIZE_DIGITS = 19
"""POSIX.1-2001 sets no limit; files of 2^63 bytes and more do not exist."""
_CHUNK_BYTES = 1 << 16
_FILES, _FOLDERS = (b"0", b"\0", b"7"), (b"5", b"D")
_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", (b"x", b"X"), b"g"


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class DamagedTarError(OSError):
    """The bytes are not a tar archive, or the archive is truncated."""


class MemberKind(Enum):
    FILE = auto()
    FOLDER = auto()
    OTHER = auto()
    """A link, a device, a sparse file: never followed or read."""


@dataclass(frozen=True)
class Member:
    name: str
    kind: MemberKind
    size: int
    offset: int
    """Byte offset of its header in the archive."""


class MemberStream(io.RawIOBase):
    """A member's bytes. DamagedTarError if the archive is truncated within them."""

    def __init__(self, archive: Readable, size: int) -> None:
        self._archive = archive
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._archive.read(min(len(buffer), self.left))
        if not data and self.left and len(buffer):
            raise DamagedTarError(f"the archive ends {self.left} bytes before its last member")
        buffer[: len(data)] = data
        self.left -= len(data)
        return len(data)


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with `head` (at least a block of it) is a tar archive."""
    return len(head) >= BLOCK_BYTES and _checksum_holds(head[:BLOCK_BYTES])


def members(archive: Readable) -> Iterator[tuple[Member, MemberStream]]:
    """Each member with its bytes, which must be read before the next member is requested.

    DamagedTarError at a corrupt header, and where the archive ends without its closing block.
    """
    offset = 0
    name: str | None = None
    size: int | None = None
    start = 0
    while True:
        block = _read_exactly(archive, BLOCK_BYTES)
        if block.count(0) == BLOCK_BYTES:
            return
        if not _checksum_holds(block):
            raise DamagedTarError(f"no member header at byte {offset}")
        kind = block[156:157]
        length = _number(block[124:136])
        offset += BLOCK_BYTES
        if kind in (_GNU_NAME, _GNU_LINK, _PAX_GLOBAL, *_PAX):
            if length > _MAX_EXTENDED_HEADER_BYTES:
                raise DamagedTarError(f"a header of {length} bytes at byte {start}")
            data = _read_exactly(archive, _padded(length))[:length]
            if kind == _GNU_NAME:
                name = _text(data)
            elif kind in _PAX:
                records = _pax_records(data)
                name = records.get("path", name)
                size = _pax_size(records["size"], start) if "size" in records else size
            offset += _padded(length)
            continue
        length = length if size is None else size
        member = Member(name or _name(block), _kind(kind, name or _name(block)), length, start)
        has_data = member.kind is MemberKind.FILE or kind not in (b"1", b"2", *_FOLDERS)
        stream = MemberStream(archive, length if has_data else 0)
        total = _padded(stream.left)
        yield member, stream
        _skip(archive, stream.left + total - (length if has_data else 0))
        offset += total
        start, name, size = offset, None, None


def _kind(kind: bytes, name: str) -> MemberKind:
    if kind in _FOLDERS or (kind in _FILES and name.endswith("/")):
        return MemberKind.FOLDER
    return MemberKind.FILE if kind in _FILES else MemberKind.OTHER


def _checksum_holds(block: bytes) -> bool:
    """The sum of the header's bytes, with the checksum field itself as spaces."""
    try:
        stored = _number(block[148:156])
    except DamagedTarError:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    total = sum(rest)
    # Some old programs summed signed bytes.
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in rest)


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base-256 for larger numbers."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise DamagedTarError(f"{field!r} is not a number")
    return int(digits, 8)


def _name(block: bytes) -> str:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "backslashreplace")


def _pax_records(data: bytes) -> dict[str, str]:
    """`length key=value` lines."""
    records: dict[str, str] = {}
    start = 0
    while start < len(data):
        digits = data[start : start + 8].partition(b" ")[0]
        if not digits.isdigit() or len(digits) > 7 or not 0 < int(digits) <= len(data) - start:
            raise DamagedTarError("a pax header has inconsistent lengths")
        end = start + int(digits)
        key, _, value = data[start + len(digits) + 1 : end - 1].partition(b"=")
        records[_text(key)] = _text(value)
        start = end
    return records


def _pax_size(stated: str, start: int) -> int:
    if not (stated.isascii() and stated.isdigit() and len(stated) <= _MAX_SIZE_DIGITS):
        shown = stated[:40]
        raise DamagedTarError(f"a pax header at byte {start} has the size {shown!r}, no number")
    return int(stated)


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _read_exactly(archive: Readable, size: int) -> bytes:
    pieces: list[bytes] = []
    while size:
        data = archive.read(size)
        if not data:
            raise DamagedTarError("the archive ends in a header or without its closing block")
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)


def _skip(archive: Readable, size: int) -> None:
    while size:
        data = archive.read(min(size, _CHUNK_BYTES))
        if not data:
            raise DamagedTarError("the archive ends in the middle of a member")
        size -= len(data)
