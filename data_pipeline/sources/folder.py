"""A user's own folder, or single file, of plain text, JSON lines and Parquet.

Plain text and JSON lines may be compressed (.gz, .zst). Everything is streamed: memory does not
grow with the size of a file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.document import Document, Rejected
from data_pipeline.inputs import InputFile, Inputs, walk
from data_pipeline.rows import Row, is_json, is_parquet, read_rows
from data_pipeline.streams import DAMAGE, chunks, one_line, open_stream, uncompressed_name
from data_pipeline.text import NotTextError, clean, detect_encoding

TEXT_SUFFIXES = frozenset({".txt", ".text", ".md", ".markdown", ".rst", ".org", ".adoc", ".tex"})
_KNOWN_COLUMNS = {
    "url": "url",
    "title": "title",
    "language": "language",
    "licence": "licence",
    "license": "licence",
    "timestamp": "timestamp",
}
"""Field of a JSON line or Parquet row -> field of `Document`; only strings are taken over."""

_MAX_JSON_LINE_BYTES = 64 << 20


def inputs(root: Path) -> Inputs:
    """All files under `root` (or `root` itself) of a kind that `read` knows.

    Symbolic links are followed: people collect data sets with them.
    """
    tree = walk(root, follow_symlinks=True)
    return tree.without(lambda file: "unknown_kind" if _kind(file.path) == "unknown" else None)


def read(
    file: InputFile, *, text_field: str, max_document_bytes: int
) -> Iterator[Document | Rejected]:
    """The documents of one file; what cannot be read is rejected with its place.

    Plain text beyond `max_document_bytes` is cut into documents of at most that size: at blank
    lines, or at line ends where a paragraph is longer, or in very long lines. JSON lines and
    Parquet have their text in the field `text_field`.
    """
    try:
        if _kind(file.path) == "text":
            yield from _read_plain_text(file, max_document_bytes)
        else:
            yield from _read_rows(file, text_field)
    except NotTextError as error:
        yield Rejected(error.reason, file.source_file, detail=str(error))
    except (FileNotFoundError, PermissionError) as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))


def _kind(path: Path) -> str:
    if is_parquet(path) or is_json(path):
        return "rows"
    suffix = PurePosixPath(uncompressed_name(path.name)).suffix
    return "text" if suffix in TEXT_SUFFIXES else "unknown"


def _read_plain_text(file: InputFile, max_document_bytes: int) -> Iterator[Document | Rejected]:
    offset = 0
    try:
        with open_stream(file.path) as stream:
            encoding = detect_encoding(chunks(stream))
        with (
            open_stream(file.path) as stream,
            io.TextIOWrapper(stream, encoding, errors="replace") as decoded,
        ):
            for piece in cut_at_blank_lines(decoded, max_document_bytes):
                yield Document(clean(piece), file.source_file, offset)
                offset += len(piece)
        if offset == 0:
            yield Rejected("empty", file.source_file)
    except (FileNotFoundError, PermissionError):
        raise
    except DAMAGE as error:
        yield Rejected("damaged", file.source_file, offset, one_line(error))


def cut_at_blank_lines(lines: io.TextIOBase, max_bytes: int) -> Iterator[str]:
    """Cut a text stream into pieces of at most `max_bytes` UTF-8 bytes; joined, they are the text.

    Each piece ends with the last blank line that lets it fit, else with the last line end; lines
    longer than a quarter of a piece may be cut anywhere.
    """
    # A character has up to four bytes: a line read by this many characters always fits.
    max_characters = max(1, max_bytes // 4)
    paragraphs: list[str] = []
    size = 0
    tail: list[str] = []
    tail_size = 0
    at_line_start = True
    while line := lines.readline(max_characters):
        line_size = len(line.encode("utf-8", "surrogatepass"))
        if size + tail_size + line_size > max_bytes:
            if paragraphs:
                yield "".join(paragraphs)
                paragraphs, size = [], 0
            if tail_size + line_size > max_bytes:
                yield "".join(tail)
                tail, tail_size = [], 0
        tail.append(line)
        tail_size += line_size
        if at_line_start and not line.strip():
            paragraphs += tail
            size += tail_size
            tail, tail_size = [], 0
        at_line_start = line.endswith("\n")
    if rest := "".join(paragraphs + tail):
        yield rest


def _read_rows(file: InputFile, text_field: str) -> Iterator[Document | Rejected]:
    rows = read_rows(
        file,
        text_field=text_field,
        is_wanted=_KNOWN_COLUMNS.__contains__,
        max_line_bytes=_MAX_JSON_LINE_BYTES,
    )
    for row in rows:
        if isinstance(row, Row):
            yield _row_document(row.fields, file, row.offset, text_field)
        else:
            yield row


def _row_document(
    row: dict[str, Any], file: InputFile, offset: int, text_field: str
) -> Document | Rejected:
    text = row[text_field]
    if not isinstance(text, str):
        detail = f"'{text_field}' at {offset} is {type(text).__name__}, not text"
        return Rejected("text_not_string", file.source_file, offset, detail)
    known: dict[str, Any] = {
        ours: clean(row[theirs])
        for theirs, ours in _KNOWN_COLUMNS.items()
        if isinstance(row.get(theirs), str)
    }
    return Document(clean(text), file.source_file, offset, **known)
