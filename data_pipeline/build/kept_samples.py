"""A few kept documents of a source, for the report: those with the smallest ids.

Ids are hashes of the texts, so that these are a uniform sample, whatever the order of the files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.dedup.keys import Keys
from data_pipeline.documents_folder import SAMPLES_SCHEMA

SAMPLES_PER_SOURCE = 6
_MAX_CHARACTERS = 2_000


class Place(NamedTuple):
    """A document of a documents folder; of two, the one with the smaller id comes first."""

    id: bytes
    file: str
    row: int


def smallest_ids(keys: Keys, file: str) -> list[Place]:
    """The places of the documents of a file with the smallest ids, given the keys of all."""
    heads = np.frombuffer(keys["id"].tobytes(), ">u8")[::2]
    number = min(SAMPLES_PER_SOURCE, len(heads))
    rows = np.argpartition(heads, number - 1)[:number] if number else heads
    return [Place(keys["id"][row], file, row) for row in map(int, rows)]


def samples(folder: Path, places: Iterable[Place]) -> pa.Table:
    """The sample among the places: its documents, with the beginnings of their texts."""
    chosen = sorted(places)[:SAMPLES_PER_SOURCE]
    tables = [_row(folder / place.file, place.row) for place in chosen]
    return pa.concat_tables([SAMPLES_SCHEMA.empty_table(), *tables])


def _row(path: Path, row: int) -> pa.Table:
    with pq.ParquetFile(path) as parquet:
        for index in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(index).num_rows
            if row < size:
                group = parquet.read_row_group(index, columns=SAMPLES_SCHEMA.names).slice(row, 1)
                text = pc.utf8_slice_codeunits(group.column("text"), 0, _MAX_CHARACTERS)
                group = group.set_column(group.column_names.index("text"), "text", text)
                return group.select(SAMPLES_SCHEMA.names).cast(SAMPLES_SCHEMA)
            row -= size
    raise AssertionError(f"{path} has no row {row}")
