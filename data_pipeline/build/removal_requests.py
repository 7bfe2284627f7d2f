"""Removal (take-down) requests: by id, URL or license."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.files.atomic import write_atomic

REQUESTED = "requested"
"""Drop reason of these documents."""


@dataclass(frozen=True)
class RemovalRequests:
    """Documents to remove: those that match any of the ids, URLs or licenses."""

    ids: frozenset[str] = frozenset()
    """Content ids."""
    urls: frozenset[str] = frozenset()
    licenses: frozenset[str] = frozenset()
    """SPDX expressions, as the documents have them."""

    def __bool__(self) -> bool:
        return bool(self.ids or self.urls or self.licenses)

    @property
    def columns(self) -> list[str]:
        """Columns that requests are matched against."""
        return ["id", "url", "license"]

    def rows(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Mask of the rows of a table with `columns` that are to be removed."""
        removed = np.zeros(table.num_rows, np.bool_)
        for column, values in zip(self.columns, (self.ids, self.urls, self.licenses), strict=True):
            if values:
                found = pc.is_in(table.column(column), pa.array(sorted(values), pa.string()))
                removed |= found.to_numpy(zero_copy_only=False)
        return removed

    def naming(self, table: pa.Table) -> RemovalRequests:
        """The requests that match a row of a table with `columns`."""
        found = []
        for column, values in zip(self.columns, (self.ids, self.urls, self.licenses), strict=True):
            found.append(values.intersection(table.column(column).to_pylist() if values else ()))
        return RemovalRequests(*found)

    def __or__(self, other: RemovalRequests) -> RemovalRequests:
        return RemovalRequests(
            self.ids | other.ids, self.urls | other.urls, self.licenses | other.licenses
        )

    def __sub__(self, other: RemovalRequests) -> RemovalRequests:
        return RemovalRequests(
            self.ids - other.ids, self.urls - other.urls, self.licenses - other.licenses
        )

    def lines(self) -> list[str]:
        """All requests, sorted, one a line."""
        return [f"{n} {v}" for n in ("ids", "urls", "licenses") for v in sorted(getattr(self, n))]

    def save(self, path: Path) -> None:
        fields = {name: sorted(getattr(self, name)) for name in ("ids", "urls", "licenses")}
        write_atomic(path, json.dumps(fields, indent=1).encode() + b"\n")

    @staticmethod
    def load(path: Path) -> RemovalRequests:
        """What `save` wrote; nothing where there is no such file. ValueError for another file."""
        if not path.exists():
            return RemovalRequests()
        try:
            fields: dict[str, object] = json.loads(path.read_bytes())
            return RemovalRequests(**{name: _texts(value) for name, value in fields.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a valid removal request file: {error}") from error


def _texts(values: object) -> frozenset[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} is not a list of strings")
    return frozenset(values)
