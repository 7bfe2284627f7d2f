"""Provenance: maps a token of the store to its document, and the document to its raw file.

Beside every Arrow file of a store lies a Parquet file with the same rows: id, url, title, license,
timestamp, the raw file with the offset in it, and the text's size. Attribution, where a license
requires it, is by title and URL, which identify the page that names the authors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_pipeline.tokens.store import Split, TokenStore

TEXT_BYTES = "num_text_bytes"
COLUMNS = ("id", "url", "title", "language", "license", "timestamp", "source_file", "offset")
"""Columns taken over from the documents; `TEXT_BYTES` is added."""


@dataclass(frozen=True)
class Provenance:
    """Provenance of one document of a store."""

    source: str
    split: Split
    first: int
    """Position of the document's BOS in the token stream of its source and split."""
    id: str
    url: str | None
    title: str | None
    language: str | None
    license: str | None
    timestamp: str | None
    source_file: str | None
    offset: int | None
    num_text_bytes: int
    """In UTF-8."""


def document_at(store: TokenStore, source: str, split: Split, position: int) -> Provenance:
    """The document of the token at `position` of a source's stream; reads a single row.

    ValueError if there is no such token, or the store was built without provenance.
    """
    stream = store.stream(source, split)
    if not 0 <= position < stream.num_tokens:
        raise ValueError(
            f"position ({position}) is out of range: "
            f"the stream of {source}/{split} has {stream.num_tokens} tokens"
        )
    files = store.manifest.sources[source][split].provenance
    if not files:
        raise ValueError(f"{store.path} was built without provenance; rebuild it")
    place = stream.place(position)
    row = _row(store.path / files[place.file].path, place.row)
    return Provenance(source=source, split=split, first=place.first, **row)


def _row(path: Path, row: int) -> dict[str, Any]:
    with pq.ParquetFile(path) as parquet:
        for group in range(parquet.num_row_groups):
            num_rows = parquet.metadata.row_group(group).num_rows
            if row < num_rows:
                found: dict[str, Any] = parquet.read_row_group(group).slice(row, 1).to_pylist()[0]
                return found
            row -= num_rows
    raise AssertionError(f"{path} has no row {row}")
