"""Exact deduplication: of documents with the same text, one stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

ID_DTYPE = np.dtype("S32")
Ids = npt.NDArray[np.bytes_]
"""Content ids, 32 hexadecimal digits each."""


def as_ids(ids: Iterable[str]) -> Ids:
    return np.array(list(ids), dtype=ID_DTYPE)


def keep_first(parts: Sequence[Ids]) -> list[npt.NDArray[np.bool_]]:
    """For every part, which of its documents stay: the first of each id in reading order.

    With parts in the order of their input files, the copy that stays has the smallest
    (source_file, offset). Needs about 60 bytes of memory per document.
    """
    everything = np.concatenate([as_ids(()), *parts])
    _, first = np.unique(everything, return_index=True)
    keep = np.zeros(len(everything), dtype=bool)
    keep[first] = True
    ends = np.cumsum([len(ids) for ids in parts])
    return np.split(keep, ends[:-1]) if parts else []
