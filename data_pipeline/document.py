"""The record that every source makes and every later step uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import xxhash

from data_pipeline.inputs import InputFile, Inputs

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("title", pa.string()),
        pa.field("language", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("timestamp", pa.string()),
        pa.field("source_file", pa.string()),
        pa.field("offset", pa.int64()),
    ]
)
"""Columns of a documents folder."""


def content_id(text: str) -> str:
    """Identity of a text: xxh3 of 128 bits over its UTF-8 bytes, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8"))


@dataclass(frozen=True)
class Document:
    """One text and where it comes from. Two documents are the same if their texts are."""

    text: str
    source_file: str
    """Input file, relative to the source's root."""
    offset: int | None = None
    """Where in `source_file`: character for plain text, line (from 1) for JSON lines, row (from 0)
    for Parquet; None if the document is the whole file."""
    url: str | None = None
    title: str | None = None
    language: str | None = None
    licence: str | None = None
    """SPDX licence expression where known."""
    timestamp: str | None = None

    def row(self, source: str) -> dict[str, str | int | None]:
        """The document as one row of `SCHEMA`."""
        return {
            "id": content_id(self.text),
            "text": self.text,
            "source": source,
            "url": self.url,
            "title": self.title,
            "language": self.language,
            "licence": self.licence,
            "timestamp": self.timestamp,
            "source_file": self.source_file,
            "offset": self.offset,
        }


@dataclass(frozen=True)
class Rejected:
    """Something in an input file that is not a document, or not one that we keep."""

    reason: str
    """Short name under which it is counted."""
    source_file: str
    offset: int | None = None
    detail: str | None = None
    """What exactly was wrong, for the person who looks it up."""


@dataclass(frozen=True)
class Source:
    """How one kind of raw data becomes documents.

    The functions are module-level functions, or `functools.partial` of one with plain values, so
    that they can be sent to other processes and a change of any threshold can be noticed.
    """

    name: str
    inputs: Callable[[Path], Inputs]
    """The files under the source's root, to read and ignored."""
    read: Callable[[InputFile], Iterator[Document | Rejected]]
    """The documents of one file in order, streamed."""
    edits: tuple[Callable[[str], str], ...] = ()
    """Changes of the text, applied in order."""
    filters: tuple[Callable[[Document], str | None], ...] = ()
    """Asked in order, after all edits: the reason to drop a document, or None to keep it."""
