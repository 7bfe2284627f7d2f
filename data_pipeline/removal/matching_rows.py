"""The rows of Parquet files that removal requests name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.build.removal_requests import RemovalRequests


@dataclass(frozen=True)
class Search:
    """A file with the columns id, url and license, and what is looked for in it."""

    path: Path
    requests: RemovalRequests


@dataclass(frozen=True)
class Found:
    rows: int
    """How many of the file's rows are named ..."""
    by: RemovalRequests
    """... and by which of the requests."""


class Rows(NamedTuple):
    """One row group's rows that stay, and those that go."""

    stay: pa.Table
    go: pa.Table
    is_gone: npt.NDArray[np.bool_]
    """Of all rows of the row group in order."""


def look_for(search: Search) -> Found:
    """What there is of the requests in a file; reads three columns, a row group at a time."""
    rows, by = 0, RemovalRequests()
    for group in split_rows(search.path, search.requests, columns=search.requests.columns):
        if group.go.num_rows:
            rows += group.go.num_rows
            by |= search.requests.naming(group.go)
    return Found(rows, by)


def split_rows(
    path: Path, requests: RemovalRequests, columns: list[str] | None = None
) -> Iterator[Rows]:
    """Row group by row group, with these columns or all."""
    with pq.ParquetFile(path) as parquet:
        for index in range(parquet.num_row_groups):
            rows = parquet.read_row_group(index, columns=columns, use_threads=False)
            gone = requests.rows(rows)
            yield Rows(rows.filter(pa.array(~gone)), rows.filter(pa.array(gone)), gone)
