"""What the rules that compare documents take and give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

REMOVAL_DTYPE = np.dtype([("removed", "<i8"), ("kept", "<i8"), ("similarity", "<f4")])
"""A document that goes, the one that stays for it, and how similar they are, from 0 to 1 (of what,
says whoever found it)."""
Removals = npt.NDArray[np.void]
"""Of `REMOVAL_DTYPE`, in the order of `removed`, each at most once. Documents are numbers: their
place among all rows of all files that were compared."""


@dataclass(frozen=True)
class DocumentFile:
    """A Parquet file with (at least) the columns `id` and `text`."""

    path: Path
    num_rows: int
    keep: npt.NDArray[np.bool_] | None = None
    """Which rows are compared; None for all. The others count in the numbering all the same."""


def removals(found: list[tuple[int, int, float]]) -> Removals:
    """(removed, kept, similarity) of each, as an array in the order of `removed`."""
    return np.sort(np.array(found, REMOVAL_DTYPE), order="removed")
