"""Documents as rows: a text field, and other fields that say where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from data_pipeline.document import Document, Rejected
from data_pipeline.inputs import InputFile
from data_pipeline.streams import DAMAGE, lines, one_line, open_stream
from data_pipeline.text import clean

JSON_SUFFIXES = frozenset({".jsonl", ".json", ".ndjson"})
KNOWN_COLUMNS = {
    "url": "url",
    "title": "title",
    "language": "language",
    "licence": "licence",
    "license": "licence",
    "timestamp": "timestamp",
}
"""Field of a JSON line or Parquet row -> field of `Document`; only strings are taken over."""

_MAX_LINE_BYTES = 64 << 20


def read_json_lines(file: InputFile, *, text_field: str) -> Iterator[Document | Rejected]:
    """The documents of a file of JSON lines; `offset` is the line, from 1. FileNotFoundError and
    PermissionError if it cannot be opened.
    """
    number = 0
    try:
        with open_stream(file.path) as stream:
            for number, line in enumerate(lines(stream, _MAX_LINE_BYTES), start=1):
                if line is None:
                    detail = f"line {number} is longer than {_MAX_LINE_BYTES} bytes"
                    yield Rejected("bad_json", file.source_file, number, detail)
                elif line.strip():
                    yield _json_document(line, file, number, text_field)
        if number == 0:
            yield Rejected("empty", file.source_file)
    except (FileNotFoundError, PermissionError):
        raise
    except DAMAGE as error:
        detail = f"after line {number}: {one_line(error)}"
        yield Rejected("damaged", file.source_file, number, detail)


def _json_document(
    line: bytes, file: InputFile, number: int, text_field: str
) -> Document | Rejected:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, huge number
        detail = f"line {number}: {one_line(error)}"
        return Rejected("bad_json", file.source_file, number, detail)
    if not isinstance(row, dict):
        detail = f"line {number} holds no object; expected one {{...}} per line"
        return Rejected("bad_json", file.source_file, number, detail)
    if text_field not in row:
        names = ", ".join(sorted(row)[:10])
        detail = f"line {number} has no field '{text_field}'; it has: {names}"
        return Rejected("no_text_field", file.source_file, number, detail)
    return row_document(row, file, number, text_field)


def row_document(
    row: dict[str, Any], file: InputFile, offset: int, text_field: str
) -> Document | Rejected:
    """A row with its text in `text_field` and what we know of the other fields."""
    text = row[text_field]
    if not isinstance(text, str):
        detail = f"'{text_field}' at {offset} is {type(text).__name__}, not text"
        return Rejected("text_not_string", file.source_file, offset, detail)
    known: dict[str, Any] = {
        ours: clean(row[theirs])
        for theirs, ours in KNOWN_COLUMNS.items()
        if isinstance(row.get(theirs), str)
    }
    return Document(clean(text), file.source_file, offset, **known)
