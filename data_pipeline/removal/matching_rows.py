"""Finds and splits off the rows of Parquet files that match removal requests."""

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
    """Task: match requests against a file with the columns id, url and license."""

    path: Path
    requests: RemovalRequests


@dataclass(frozen=True)
class Found:
    rows: int
    """Number of matching rows ..."""
    by: RemovalRequests
    """... and the requests that they match."""


class Rows(NamedTuple):
    """Kept and removed rows of one row group."""

    kept: pa.Table
    removed: pa.Table
    is_removed: npt.NDArray[np.bool_]
    """Mask over all rows of the row group, in order."""


def look_for(search: Search) -> Found:
    """Count the rows of a file that match; reads three columns, a row group at a time."""
    rows, by = 0, RemovalRequests()
    for group in split_rows(search.path, search.requests, columns=search.requests.columns):
        if group.removed.num_rows:
            rows += group.removed.num_rows
            by |= search.requests.naming(group.removed)
    return Found(rows, by)


def split_rows(
    path: Path, requests: RemovalRequests, columns: list[str] | None = None
) -> Iterator[Rows]:
    """Kept and removed rows per row group, with these columns or all."""
    with pq.ParquetFile(path) as parquet:
        for index in range(parquet.num_row_groups):
            rows = parquet.read_row_group(index, columns=columns, use_threads=False)
            mask = requests.rows(rows)
            yield Rows(rows.filter(pa.array(~mask)), rows.filter(pa.array(mask)), mask)
