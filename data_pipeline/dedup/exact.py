"""Exact deduplication rules: of documents with the same text, or the same URL, one is kept.

Documents are grouped by 128-bit hashes (`keys.py`), and the preferred one of each group is kept.
Where the keys exceed the memory budget they are first partitioned into files by their leading
bits, so that every group is in one file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.dedup.keys import KEYS_DTYPE, preference_order
from data_pipeline.dedup.rule import REMOVAL_DTYPE, Comparison, DocumentFile, Removals
from data_pipeline.files.atomic import atomic_directory

_ROW_DTYPE = np.dtype([("number", "<i8"), ("source", "<i4"), ("keys", KEYS_DTYPE)])
# A row, its copy while groups are joined, and sorting.
_BYTES_PER_DOCUMENT = 3 * _ROW_DTYPE.itemsize
DOCUMENTS_PER_TASK = 1 << 20
"""Most documents whose keys one task sorts into files."""
_MAX_BUCKETS = 1 << 12


def same_text(comparison: Comparison, *, documents_per_task: int = DOCUMENTS_PER_TASK) -> Removals:
    """Rule: documents whose texts have equal keys, by their source's `same_text`.

    Where the keys of all documents exceed the memory budget, a task sorts those of files with up to
    `documents_per_task` together into buckets.
    """
    return _same(comparison, "text", documents_per_task)


def same_url(comparison: Comparison, *, documents_per_task: int = DOCUMENTS_PER_TASK) -> Removals:
    """Rule: documents whose URLs have equal keys, by their source's `same_url`; else as
    `same_text`."""
    return _same(comparison, "url", documents_per_task)


def _same(comparison: Comparison, field: str, documents_per_task: int) -> Removals:
    files, bounds = comparison.files, comparison.bounds()
    num_buckets = math.ceil(bounds[-1] * _BYTES_PER_DOCUMENT / comparison.memory_budget)
    if num_buckets <= 1:
        whole = _Scatter(0, tuple(files), 0, comparison.work_folder, field=field)
        return comparison.executor.map(_compare, [whole], [bounds[-1]], label=f"same {field}")[0]
    num_buckets = min(num_buckets, _MAX_BUCKETS)
    folder = comparison.work_folder
    scatter = [
        replace(task, num_buckets=num_buckets, field=field)
        for task in _scatter_tasks(comparison, documents_per_task)
    ]
    sizes = [sum(file.num_rows for file in task.files) for task in scatter]
    comparison.executor.map(_scatter, scatter, sizes, label=f"sort by {field}")
    gather = [_Gather(folder, bucket, len(scatter), field) for bucket in range(num_buckets)]
    found = comparison.executor.map(_gather, gather, [1] * num_buckets, label=f"same {field}")
    return np.sort(np.concatenate(found), order="removed")


@dataclass(frozen=True)
class _Scatter:
    index: int
    files: tuple[DocumentFile, ...]
    first: int
    """Number of the first document."""
    folder: Path
    num_buckets: int = 1
    field: str = "text"


@dataclass(frozen=True)
class _Gather:
    folder: Path
    bucket: int
    num_parts: int
    field: str


def _scatter_tasks(
    comparison: Comparison, documents_per_task: int = DOCUMENTS_PER_TASK
) -> list[_Scatter]:
    """Consecutive files, together up to `documents_per_task`, or as many as fit the memory
    budget."""
    most = min(documents_per_task, comparison.memory_budget // _BYTES_PER_DOCUMENT)
    tasks: list[_Scatter] = []
    group: list[DocumentFile] = []
    first = number = 0
    for file in comparison.files:
        if group and number + file.num_rows - first > most:
            tasks.append(_Scatter(len(tasks), tuple(group), first, comparison.work_folder))
            group, first = [], number
        group.append(file)
        number += file.num_rows
    tasks.append(_Scatter(len(tasks), tuple(group), first, comparison.work_folder))
    return tasks


def _compare(task: _Scatter) -> Removals:
    """Where all keys fit into memory."""
    return _removals(_joined(task), task.field)


def _joined(task: _Scatter) -> npt.NDArray[np.void]:
    start = task.first
    rows = [np.empty(0, _ROW_DTYPE)]
    for file in task.files:
        rows.append(_rows(file, start))
        start += file.num_rows
    return np.concatenate(rows)


def _scatter(task: _Scatter) -> None:
    """Write the task's rows, one file per bucket."""
    joined = _joined(task)
    leading = np.frombuffer(joined["keys"][task.field].tobytes(), ">u2").reshape(-1, 8)[:, 0]
    buckets = (leading.astype(np.int64) * task.num_buckets) >> 16
    order = np.argsort(buckets, kind="stable")
    ends = np.cumsum(np.bincount(buckets, minlength=task.num_buckets))
    with atomic_directory(task.folder / f"{task.index:06}") as folder:
        for bucket, part in enumerate(np.split(joined[order], ends[:-1])):
            np.save(folder / f"{bucket:04}.npy", part)


def _gather(task: _Gather) -> Removals:
    names = (f"{index:06}/{task.bucket:04}.npy" for index in range(task.num_parts))
    return _removals(np.concatenate([np.load(task.folder / name) for name in names]), task.field)


def _rows(file: DocumentFile, start: int) -> npt.NDArray[np.void]:
    """`_ROW_DTYPE` of the documents of a file that are compared."""
    assert file.keys is not None, f"{file.path} has no keys"
    kept = file.kept_rows()
    rows = np.empty(len(kept), _ROW_DTYPE)
    rows["number"] = kept + start
    rows["source"] = file.source
    rows["keys"] = np.load(file.keys)[kept]
    return rows


def _removals(rows: npt.NDArray[np.void], field: str) -> Removals:
    rows = rows[rows["keys"][field] != b""]
    preferred = rows[preference_order(rows["keys"], rows["source"])]
    # Stable sort: the preferred one comes first in its group.
    grouped = preferred[np.argsort(preferred["keys"][field], kind="stable")]
    key = grouped["keys"][field]
    is_first = np.ones(len(key), np.bool_)
    is_first[1:] = key[1:] != key[:-1]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(key)), 0))
    result = np.empty(int((~is_first).sum()), REMOVAL_DTYPE)
    result["removed"] = grouped["number"][~is_first]
    result["kept"] = grouped["number"][first][~is_first]
    result["similarity"] = 1
    return np.sort(result, order="removed")
