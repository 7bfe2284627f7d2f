"""Interface of corpus-level deduplication rules.

A rule returns the documents to remove, each with the duplicate that is kept for it. It sees every
document that no earlier rule removed. Documents are numbered: by their index among all rows of all
files compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from numpy.lib.recfunctions import repack_fields

from data_pipeline.dedup.keys import PREFERENCE_FIELDS, Keys, preference_order
from data_pipeline.executors.executor import Executor

REMOVAL_DTYPE = np.dtype([("removed", "<i8"), ("kept", "<i8"), ("similarity", "<f4")])
"""A removed document, the duplicate that is kept, and their similarity, from 0 to 1 (the measure
depends on the rule)."""
Removals = npt.NDArray[np.void]
"""Array of `REMOVAL_DTYPE`, sorted by `removed`, without duplicates."""


@dataclass(frozen=True)
class DocumentFile:
    """A Parquet file with (at least) the columns `id` and `text`."""

    path: Path
    num_rows: int
    keep: npt.NDArray[np.bool_] | None = None
    """Which rows are compared; None for all. The others are numbered all the same."""
    keys: Path | None = None
    """The documents' deduplication keys (`keys.KEYS_DTYPE`), one row each."""
    source: int = 0
    """Index of the documents' source in the corpus; earlier sources are preferred."""

    @staticmethod
    def whole(path: Path) -> DocumentFile:
        """All documents of a file."""
        return DocumentFile(path, pq.read_metadata(path).num_rows)

    def kept_rows(self) -> npt.NDArray[np.int64]:
        return np.arange(self.num_rows) if self.keep is None else np.flatnonzero(self.keep)


@dataclass(frozen=True)
class Comparison:
    """Input of a rule: the documents, and the executor, memory and disk space it may use."""

    files: Sequence[DocumentFile]
    executor: Executor
    memory_budget: int
    """Bytes of memory that each task of the rule may use, where it can choose."""
    work_folder: Path
    """For temporary files. It exists, is empty, and is removed afterwards."""

    def bounds(self) -> list[int]:
        """The number of each file's first document, and the total number."""
        return [0, *accumulate(file.num_rows for file in self.files)]

    def preference(self) -> npt.NDArray[np.int64]:
        """Every document's rank in the order of preference (tie-breaking), 0 for the most preferred
        (`keys.preference_order`; reading order where keys are missing). Takes about 100 bytes of
        memory per document while it is computed."""
        if any(file.keys is None for file in self.files):
            return np.arange(self.bounds()[-1])
        fields = list(PREFERENCE_FIELDS)
        keys: Keys = np.concatenate(
            [repack_fields(np.load(_keys(file))[fields]) for file in self.files]
        )
        counts = [file.num_rows for file in self.files]
        sources = np.repeat([file.source for file in self.files], counts)
        order = preference_order(keys, sources)
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks


def _keys(file: DocumentFile) -> Path:
    assert file.keys is not None, f"{file.path} has no keys"
    return file.keys


@dataclass(frozen=True)
class Rule:
    """A deduplication rule: removes documents that duplicate others.

    `find` is a module-level function, or a partial of one, as the functions of a `Source` are.
    """

    name: str
    """Short; the drop reason of what it removes, and its name for --undo."""
    find: Callable[[Comparison], Removals]
    sources: frozenset[str] | None = None
    """The sources whose documents are compared, across and within sources; None: all."""
    within_source: bool = False
    """Compare documents of the same source only."""


def removals(found: Sequence[tuple[int, int, float]]) -> Removals:
    """Array of (removed, kept, similarity), sorted by `removed`."""
    return np.sort(np.array(list(found), REMOVAL_DTYPE), order="removed")
