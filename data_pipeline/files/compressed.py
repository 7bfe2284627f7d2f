"""Streaming decompression (.gz, .bz2, .xz, .zst) and line reading in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

COMPRESSIONS = frozenset({".gz", ".bz2", ".xz", ".zst"})
"""File name suffixes that `open_stream` decompresses."""

JSON_SUFFIXES = frozenset({".jsonl", ".json", ".ndjson"})
"""Suffixes of JSON lines files, before the suffix of a compression."""

DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
"""Exceptions raised while reading corrupt compressed files (bz2 and gzip: OSError, EOFError)."""

_CHUNK_BYTES = 1 << 16

Stream = gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile | io.BufferedReader


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
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


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
