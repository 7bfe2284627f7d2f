"""Document, Rejected and Source: the record that every source yields and every later step uses."""

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
        pa.field("license", pa.string()),
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
    """One text and its provenance. Two documents are the same if their texts are."""

    text: str
    source_file: str
    """Input file, relative to the source's root."""
    offset: int | None = None
    """Position in `source_file`, in the reader's unit (characters, lines, records, ids; its
    docstring says which); with `source_file` it identifies the document. None: the whole file."""
    url: str | None = None
    title: str | None = None
    language: str | None = None
    license: str | None = None
    """SPDX license expression where known."""
    timestamp: str | None = None
    """ISO 8601, with the precision that the source gives."""
    language_score: float | None = None
    """Probability of `language`, where it was identified."""
    perplexity: float | None = None
    """Under an n-gram LM of high-quality text in this language."""
    reference_score: float | None = None
    """Probability of being a page that Wikipedia cites as a reference."""
    contamination: str | None = None
    """JSON object: evaluation set -> overlap with the text; set where documents are flagged."""

    def with_text(self, text: str) -> Document:
        return replace(self, text=text)

    def rejected(self, reason: str, detail: str | None = None) -> Rejected:
        """This document's provenance, with the drop reason."""
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
            "license": self.license,
            "timestamp": self.timestamp,
            "source_file": self.source_file,
            "offset": self.offset,
            "language_score": self.language_score,
            "perplexity": self.perplexity,
            "reference_score": self.reference_score,
            "contamination": self.contamination,
        }


MAX_DETAIL_CHARACTERS = 1_000
"""Longest `Rejected.detail`: a key of a JSON object may have megabytes."""

Stage = Literal["read", "edit", "filter", "compare"]
"""Stage at which a document can be dropped."""


@dataclass(frozen=True)
class Rejected:
    """Something in an input file that is not a document, or a document that is dropped."""

    reason: str
    """Drop reason: a short name under which it is counted."""
    source_file: str
    offset: int | None = None
    detail: str | None = None
    """What exactly was wrong, for whoever inspects the drop. It may quote the input: cut at
    `MAX_DETAIL_CHARACTERS`, and what UTF-8 cannot encode is escaped."""
    stage: Stage = "read"
    """Set by the caller of readers, edits and filters."""

    def __post_init__(self) -> None:
        if self.detail is not None:
            detail = self.detail[:MAX_DETAIL_CHARACTERS]
            shown = detail.encode("utf-8", "backslashreplace").decode("utf-8")
            object.__setattr__(self, "detail", shown)


Edit = Callable[[Document], Document | Rejected]
"""Maps a document: changes its text or adds metadata; may reject it."""
Filter = Callable[[Document], str | None]
"""Returns the drop reason, or None to keep the document."""


class WorkFolderError(ValueError):
    """A reader has no room for its temporary files: a fault of this machine, not of the input."""


def whole_text(text: str) -> str:
    """The text itself as deduplication key: exact equality of every character."""
    return text


@dataclass(frozen=True)
class Source:
    """How one kind of raw data becomes documents.

    The functions must be module-level functions, or `functools.partial` of one with plain values
    or other such functions, so that they can be pickled for other processes, and so that a changed
    threshold or changed code changes the fingerprint.
    """

    name: str
    inputs: Callable[[Root], Inputs]
    """Lists the files under the source's root: those to read and those ignored."""
    read: Callable[[InputFile], Iterator[Document | Rejected]]
    """Streams the documents of one file, in order."""
    edits: tuple[Edit, ...] = ()
    """Applied in order."""
    filters: tuple[Filter, ...] = ()
    """Evaluated in order, after all edits; the first drop reason counts."""
    paragraph_group_bytes: int | None = None
    """Where set, repeated paragraphs within groups of input files of this many bytes are removed,
    except the first occurrence, before the edits (`dedup/paragraphs.py`). None: no removal."""
    same_text: Callable[[str], str] = whole_text
    """Exact-deduplication key of a text: documents with equal keys are duplicates."""
    same_url: Callable[[str], str] | None = None
    """Deduplication key of a URL: documents with equal keys are the same page, where the corpus has
    the rule `same_url`; None where URLs do not identify pages."""
    origin: str = ""
    """Where the raw files come from, for report and dataset card ..."""
    terms: str = ""
    """... and their terms of use or license."""


_READER_FAULTS = (
    *(ValueError, LookupError, ArithmeticError, TypeError, AttributeError, AssertionError),
    RecursionError,
)
"""What code raises at input that it was not written for. Not faults of the machine (OSError,
MemoryError, ImportError): their loss would be kept as a result."""


def read_items(source: Source, file: InputFile) -> Iterator[Document | Rejected]:
    """What the source reads from a local file.

    Readers do not raise. Where one does, it is a fault of ours, and costs the rest of this file and
    not the build: counted under `reader_failed`, with the error as detail.
    """
    try:
        yield from source.read(file)
    except WorkFolderError:
        raise
    except _READER_FAULTS as error:
        detail = f"{type(error).__name__}: {error}"
        yield Rejected("reader_failed", file.source_file, detail=" ".join(detail.split()))


def items_of(source: Source, file: InputFile) -> Iterator[Document | Rejected]:
    """What the source reads from a file, which is downloaded first if it is behind a URL."""
    with local_copy(file) as here:
        yield from read_items(source, here)
