"""Rules that compare documents with one another: what they take, and what they give.

A rule finds the documents that go, each with the one that stays for it. It sees every document that
no earlier rule removed. Documents are numbers: their place among all rows of all files compared.
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

from data_pipeline.dedup.keys import PREFERENCE_FIELDS, Keys, preferred_first
from data_pipeline.executors.executor import Executor

REMOVAL_DTYPE = np.dtype([("removed", "<i8"), ("kept", "<i8"), ("similarity", "<f4")])
"""A document that goes, the one that stays for it, and how similar they are, from 0 to 1 (of what,
says the rule)."""
Removals = npt.NDArray[np.void]
"""Of `REMOVAL_DTYPE`, in the order of `removed`, each at most once."""


@dataclass(frozen=True)
class DocumentFile:
    """A Parquet file with (at least) the columns `id` and `text`."""

    path: Path
    num_rows: int
    keep: npt.NDArray[np.bool_] | None = None
    """Which rows are compared; None for all. The others count in the numbering all the same."""
    keys: Path | None = None
    """The documents' keys (`document_keys.KEYS_DTYPE`), a row for each."""
    source: int = 0
    """Place of the documents' source in the corpus; the first is preferred."""

    @staticmethod
    def whole(path: Path) -> DocumentFile:
        """All documents of a file."""
        return DocumentFile(path, pq.read_metadata(path).num_rows)

    def kept_rows(self) -> npt.NDArray[np.int64]:
        return np.arange(self.num_rows) if self.keep is None else np.flatnonzero(self.keep)


@dataclass(frozen=True)
class Comparison:
    """What a rule works on, and with what."""

    files: Sequence[DocumentFile]
    executor: Executor
    memory_budget: int
    """Bytes that each task of the rule may use, where it has a choice."""
    work_folder: Path
    """For temporary files. It exists, is empty, and is removed afterwards."""

    def bounds(self) -> list[int]:
        """The number of each file's first document, and the number of all."""
        return [0, *accumulate(file.num_rows for file in self.files)]

    def preference(self) -> npt.NDArray[np.int64]:
        """For every document a number, the lowest for the one that is preferred to all others
        (`document_keys` says how; where keys are missing, in reading order). About 100 bytes of
        memory per document while it is computed."""
        if any(file.keys is None for file in self.files):
            return np.arange(self.bounds()[-1])
        fields = list(PREFERENCE_FIELDS)
        keys: Keys = np.concatenate(
            [repack_fields(np.load(_keys(file))[fields]) for file in self.files]
        )
        counts = [file.num_rows for file in self.files]
        sources = np.repeat([file.source for file in self.files], counts)
        order = preferred_first(keys, sources)
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks


def _keys(file: DocumentFile) -> Path:
    assert file.keys is not None, f"{file.path} has no keys"
    return file.keys


@dataclass(frozen=True)
class Rule:
    """Removes documents that are too much like others.

    `find` is a module-level function, or a partial of one, as the functions of a `Source` are.
    """

    name: str
    """Short; the reason under which what it removes is counted, and its name for --undo."""
    find: Callable[[Comparison], Removals]
    sources: frozenset[str] | None = None
    """The sources whose documents are compared, with one another too; None: all."""
    within_source: bool = False
    """Compare documents of the same source only."""


def removals(found: Sequence[tuple[int, int, float]]) -> Removals:
    """(removed, kept, similarity) of each, as an array in the order of `removed`."""
    return np.sort(np.array(list(found), REMOVAL_DTYPE), order="removed")
