"""Streaming decompression (.gz, .bz2, .xz, .zst) and line reading in bounded memory.

Web archives in Zstandard may begin with their dictionary, in a frame of its own (IIPC's draft "Use
of Zstandard compression in WARC files", as Archive Team writes them).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from backports import zstd

COMPRESSIONS = frozenset({".gz", ".bz2", ".xz", ".zst"})
"""File name suffixes that `open_stream` decompresses."""

JSON_SUFFIXES = frozenset({".jsonl", ".json", ".ndjson"})
"""Suffixes of JSON lines files, before the suffix of a compression."""

DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, zstd.ZstdError)
"""Exceptions raised while reading corrupt compressed files (bz2 and gzip: OSError, EOFError)."""

_CHUNK_BYTES = 1 << 16
_DICTIONARY_FRAME = b"\x5d\x2a\x4d\x18"
_ZSTD_FRAME = b"\x28\xb5\x2f\xfd"
_MAX_DICTIONARY_BYTES = 16 << 20
"""Dictionaries have a few hundred kilobytes."""

Stream: TypeAlias = (
    "gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile | io.BufferedReader[Any] | zstd.ZstdFile"
)


def open_stream(path: Path) -> Stream:
    """A file's bytes, decompressed by its suffix; concatenated members are read as one stream.

    OSError if it cannot be opened; reading raises one of `DAMAGE` at corrupt bytes.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(path, "rb")
    if suffix == ".bz2":
        return bz2.BZ2File(path, "rb")
    if suffix == ".xz":
        return lzma.LZMAFile(path, "rb")
    if suffix == ".zst":
        dictionary = _zstd_dictionary(path)
        if dictionary is not None:
            return zstd.ZstdFile(path, zstd_dict=dictionary)
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _zstd_dictionary(path: Path) -> zstd.ZstdDict | None:
    """The dictionary that a file begins with; OSError for a corrupt one."""
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] != _DICTIONARY_FRAME or len(head) < 8:
            return None
        size = int.from_bytes(head[4:], "little")
        data = file.read(min(size, _MAX_DICTIONARY_BYTES + 1))
    try:
        if data.startswith(_ZSTD_FRAME):
            data = zstd.ZstdDecompressor().decompress(data, _MAX_DICTIONARY_BYTES + 1)
        if len(data) > _MAX_DICTIONARY_BYTES:
            raise OSError(f"a Zstandard dictionary of more than {_MAX_DICTIONARY_BYTES} bytes")
        return zstd.ZstdDict(data)
    except (ValueError, zstd.ZstdError) as error:
        raise OSError(f"the file's Zstandard dictionary is corrupt: {one_line(error)}") from error


def uncompressed_name(name: str) -> str:
    """`name` in lower case, without the suffix of its compression."""
    lower = name.lower()
    stem, dot, ending = lower.rpartition(".")
    return stem if dot + ending in COMPRESSIONS else lower


def chunks(stream: Stream) -> Iterator[bytes]:
    """The rest of a stream in chunks of at most 64 KiB.

    Each chunk is one step of decompression, so that everything before corrupt bytes is read.
    """
    while data := stream.read1(_CHUNK_BYTES):
        yield data


def lines(stream: Stream, max_bytes: int) -> Iterator[bytes | None]:
    """The lines of a stream, with their line ends; None in place of a line longer than `max_bytes`,
    of which little more than `max_bytes` is ever in memory.
    """
    begun: list[bytes] = []
    size = 0
    for chunk in chunks(stream):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield None if size + len(end) > max_bytes else b"".join((*begun, end, b"\n"))
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size > max_bytes:
            begun.clear()
    if size:
        yield None if size > max_bytes else b"".join(begun)


def one_line(error: BaseException) -> str:
    """An exception's message on one line, for a drop's detail."""
    return " ".join(str(error).split()) or type(error).__name__
