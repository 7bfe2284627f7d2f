"""Streaming readers of JSON lines and Parquet: rows, and rows as documents.

Malformed rows are rejected with their position.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.document import Document, Rejected
from data_pipeline.files.compressed import (
    DAMAGE,
    JSON_SUFFIXES,
    lines,
    one_line,
    open_stream,
    uncompressed_name,
)
from data_pipeline.files.inputs import InputFile
from data_pipeline.text.decoding import clean

KNOWN_FIELDS = {
    "url": "url",
    "title": "title",
    "language": "language",
    "license": "license",
    "licence": "license",
    "timestamp": "timestamp",
}
"""Field of a row -> field of `Document`; only strings are used."""

_NESTED = ("meta", "metadata")
"""Fields with fields of their own, as objects or as JSON: in rows of RedPajama and Dolma."""

MAX_LINE_BYTES = 64 << 20

_PARQUET_BATCH_ROWS = 64


@dataclass(frozen=True)
class Row:
    offset: int
    """Line number of a JSON lines file, from 1; row number of a Parquet file, from 0."""
    fields: dict[str, Any]


def is_json(path: Path) -> bool:
    """Whether a file has JSON lines, by its name."""
    return PurePosixPath(uncompressed_name(path.name)).suffix in JSON_SUFFIXES


def is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def field_names(file: InputFile, *, max_line_bytes: int) -> frozenset[str]:
    """The names of a file's columns, or of its first row's fields; empty where there is no such
    row. Never raises."""
    try:
        if is_parquet(file.path):
            return frozenset(pq.read_schema(file.path).names)
        with open_stream(file.path) as stream:
            for line in lines(stream, max_line_bytes):
                if line is None or line.strip():
                    fields = json.loads((line or b"").decode("utf-8-sig"))
                    return frozenset(fields) if isinstance(fields, dict) else frozenset()
    except (*DAMAGE, ValueError, RecursionError):
        pass
    return frozenset()


def nested_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The members of a row's field `meta` or `metadata`; empty where it has none."""
    found: Any = next((fields[name] for name in _NESTED if fields.get(name)), None)
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError):
            return {}
    return found if isinstance(found, dict) else {}


def read_rows(
    file: InputFile, *, text_field: str, is_wanted: Callable[[str], bool], max_line_bytes: int
) -> Iterator[Row | Rejected]:
    """The rows of a JSON lines or Parquet file that have a field `text_field`.

    Of Parquet, only that column and those accepted by `is_wanted` are read. Corrupt data ends a
    file's rows with a rejection. Never raises.
    """
    reader = _parquet_rows(file, text_field, is_wanted) if is_parquet(file.path) else None
    try:
        yield from reader or _json_rows(file, text_field, max_line_bytes)
    except (FileNotFoundError, PermissionError) as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))


def read_documents(
    file: InputFile, *, text_field: str, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[Document | Rejected]:
    """The rows of a file as documents, with the `KNOWN_FIELDS` that they, or their field `meta`,
    have. Never raises."""
    rows = read_rows(
        file,
        text_field=text_field,
        is_wanted={*KNOWN_FIELDS, *_NESTED}.__contains__,
        max_line_bytes=max_line_bytes,
    )
    for row in rows:
        yield _document(row, file, text_field) if isinstance(row, Row) else row


def _document(row: Row, file: InputFile, text_field: str) -> Document | Rejected:
    text = row.fields[text_field]
    if not isinstance(text, str):
        detail = f"'{text_field}' at {row.offset} is {type(text).__name__}, not text"
        return Rejected("text_not_string", file.source_file, row.offset, detail)
    fields = {**nested_fields(row.fields), **row.fields}
    known: dict[str, Any] = {
        ours: clean(fields[theirs])
        for theirs, ours in KNOWN_FIELDS.items()
        if isinstance(fields.get(theirs), str)
    }
    return Document(clean(text), file.source_file, row.offset, **known)


def _json_rows(file: InputFile, text_field: str, max_bytes: int) -> Iterator[Row | Rejected]:
    number, is_blank = 0, True
    try:
        with open_stream(file.path) as stream:
            for number, line in enumerate(lines(stream, max_bytes), start=1):
                if line is None:
                    is_blank = False
                    detail = f"line {number} is longer than {max_bytes} bytes"
                    yield Rejected("bad_json", file.source_file, number, detail)
                elif line.strip():
                    is_blank = False
                    yield _json_row(line, file, number, text_field)
        if is_blank:
            yield Rejected("empty", file.source_file)
    except (FileNotFoundError, PermissionError):
        raise
    except DAMAGE as error:
        detail = f"after line {number}: {one_line(error)}"
        yield Rejected("damaged", file.source_file, number, detail)


def _json_row(line: bytes, file: InputFile, number: int, text_field: str) -> Row | Rejected:
    try:
        fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, huge number
        detail = f"line {number}: {one_line(error)}"
        return Rejected("bad_json", file.source_file, number, detail)
    if not isinstance(fields, dict):
        detail = f"line {number} is not a JSON object; expected one {{...}} per line"
        return Rejected("bad_json", file.source_file, number, detail)
    if text_field not in fields:
        names = ", ".join(sorted(fields)[:10])
        detail = f"line {number} has no field '{text_field}'; it has: {names}"
        return Rejected("no_text_field", file.source_file, number, detail)
    return Row(number, fields)


def _parquet_rows(
    file: InputFile, text_field: str, is_wanted: Callable[[str], bool]
) -> Iterator[Row | Rejected]:
    number = 0
    try:
        with pq.ParquetFile(file.path) as parquet:
            names = parquet.schema_arrow.names
            if text_field not in names:
                detail = f"no column '{text_field}'; it has: {', '.join(names[:10])}"
                yield Rejected("no_text_field", file.source_file, detail=detail)
                return
            # Dates and times are of no use to a source, and those out of range, or of unknown
            # zones, raise.
            columns = [
                field.name
                for field in parquet.schema_arrow
                if field.name == text_field
                or (is_wanted(field.name) and not pa.types.is_temporal(field.type))
            ]
            batches = parquet.iter_batches(_PARQUET_BATCH_ROWS, columns=columns, use_threads=False)
            for batch in batches:
                for fields in batch.to_pylist():
                    yield Row(number, fields)
                    number += 1
            if number == 0:
                yield Rejected("empty", file.source_file)
    except (FileNotFoundError, PermissionError):
        raise
    # ValueError: Parquet does not check that its strings are UTF-8; the others: dates in lists.
    except (*DAMAGE, ValueError, OverflowError, LookupError) as error:
        detail = f"after row {number}: {one_line(error)}"
        yield Rejected("damaged", file.source_file, number, detail)
