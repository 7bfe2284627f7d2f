"""The record that every source makes and every later step uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import xxhash

from data_pipeline.files.inputs import InputFile, Inputs, local_copy
from data_pipeline.files.remote import Root

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
        pa.field("language_score", pa.float64()),
        pa.field("perplexity", pa.float64()),
        pa.field("reference_score", pa.float64()),
        pa.field("contamination", pa.string()),
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
    """Where in `source_file`, by the reader's own count (characters, lines, records, ids; its
    docstring says which); with `source_file` it names the document. None: the whole file."""
    url: str | None = None
    title: str | None = None
    language: str | None = None
    licence: str | None = None
    """SPDX licence expression where known."""
    timestamp: str | None = None
    """ISO 8601, as far as the source says."""
    language_score: float | None = None
    """Probability of `language`, where it was identified."""
    perplexity: float | None = None
    """Of an n-gram model of good text in this language."""
    reference_score: float | None = None
    """Probability of being a page that Wikipedia uses as a reference."""
    contamination: str | None = None
    """JSON object: evaluation set -> how much of it the text has; where documents are flagged."""

    def with_text(self, text: str) -> Document:
        return replace(self, text=text)

    def rejected(self, reason: str, detail: str | None = None) -> Rejected:
        """This document's place, with the reason for which it is dropped."""
        return Rejected(reason, self.source_file, self.offset, detail)

    def row(self, source: str) -> dict[str, str | int | float | None]:
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
            "language_score": self.language_score,
            "perplexity": self.perplexity,
            "reference_score": self.reference_score,
            "contamination": self.contamination,
        }


Stage = Literal["read", "edit", "filter", "compare"]
"""Where a document can be dropped."""


@dataclass(frozen=True)
class Rejected:
    """Something in an input file that is not a document, or not one that we keep."""

    reason: str
    """Short name under which it is counted."""
    source_file: str
    offset: int | None = None
    detail: str | None = None
    """What exactly was wrong, for the person who looks it up."""
    stage: Stage = "read"
    """Set by whoever runs readers, edits and filters."""


Edit = Callable[[Document], Document | Rejected]
"""Changes a document's text or says more about it; rejects what it cannot make sense of."""
Filter = Callable[[Document], str | None]
"""The reason to drop a document, or None to keep it."""


def whole_text(text: str) -> str:
    """The text itself: documents are the same where every character is."""
    return text


@dataclass(frozen=True)
class Source:
    """How one kind of raw data becomes documents.

    The functions are module-level functions, or `functools.partial` of one with plain values or
    other such functions, so that they can be sent to other processes and a change of any threshold
    or of the code can be noticed.
    """

    name: str
    inputs: Callable[[Root], Inputs]
    """The files under the source's root, to read and ignored."""
    read: Callable[[InputFile], Iterator[Document | Rejected]]
    """The documents of one file in order, streamed."""
    edits: tuple[Edit, ...] = ()
    """Applied in order."""
    filters: tuple[Filter, ...] = ()
    """Asked in order, after all edits."""
    paragraph_group_bytes: int | None = None
    """Where set, a paragraph that occurs several times in so many bytes of raw files stays once:
    texts lose the others before the edits (`paragraph_dedup`). None keeps them all."""
    same_text: Callable[[str], str] = whole_text
    """Documents for whose texts this is equal are duplicates."""
    same_url: Callable[[str], str] | None = None
    """Documents for whose addresses this is equal are the same page, where the corpus has a rule
    about that; None where addresses say nothing about it."""


def items_of(source: Source, file: InputFile) -> Iterator[Document | Rejected]:
    """What the source reads from a file, which is copied here first where it is behind a URL."""
    with local_copy(file) as here:
        yield from source.read(here)
