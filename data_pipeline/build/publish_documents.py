"""Publishes documents folders: hard-links or rewrites each part's files without removed documents.

A file whose documents are all kept is a hard link to the part's file; of other files the kept
documents are rewritten. Every removed document is a row of the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.build.document_counts import COUNTED_COLUMNS, DocumentCounts
from data_pipeline.build.kept_samples import Place, smallest_ids
from data_pipeline.build.parts import Part, keys_beside
from data_pipeline.build.removal_requests import REQUESTED, RemovalRequests
from data_pipeline.build.run_rules import CorpusDocuments
from data_pipeline.dedup.keys import Keys, hexadecimal
from data_pipeline.dedup.rule import REMOVAL_DTYPE, Removals
from data_pipeline.document import SCHEMA, Stage
from data_pipeline.documents_folder import DROPPED_SCHEMA, ShardFile
from data_pipeline.files.atomic import link_or_copy
from data_pipeline.files.checksum import file_checksum


@dataclass(frozen=True)
class PartRemovals:
    """Documents of a part that the rules remove, one entry per document, in order."""

    # Arrays, because there may be very many.
    rows: npt.NDArray[np.int64]
    """Index among the part's documents."""
    rules: npt.NDArray[np.int64]
    """Index into `rule_names`."""
    kept_ids: npt.NDArray[np.bytes_]
    kept_sources: npt.NDArray[np.int64]
    """Index into `source_names`."""
    similarities: npt.NDArray[np.float32]
    rule_names: tuple[str, ...]
    source_names: tuple[str, ...]


@dataclass(frozen=True)
class Publication:
    """Task: publish the kept documents of a part into `folder`."""

    part: Part
    index: int
    folder: Path
    removals: PartRemovals
    requests: RemovalRequests


@dataclass
class Published:
    """Published files and counts of a part, or the sum over several parts."""

    files: list[ShardFile] = field(default_factory=list)
    counts: DocumentCounts = field(default_factory=DocumentCounts)
    """Of kept documents; `contaminated` also of documents dropped for contamination."""
    drops: Counter[tuple[Stage, str]] = field(default_factory=Counter)
    """Dropped documents by (stage, reason) ..."""
    drop_bytes: Counter[tuple[Stage, str]] = field(default_factory=Counter)
    """... and the UTF-8 bytes of their texts."""
    samples: list[Place] = field(default_factory=list)
    """Kept documents among which the source's samples are."""

    def add_drops(self, rows: pa.Table) -> None:
        stages, reasons = rows.column("stage").to_pylist(), rows.column("reason").to_pylist()
        for key, size in zip(
            zip(stages, reasons, strict=True), rows.column("num_bytes").to_pylist(), strict=True
        ):
            self.drops[key] += 1
            self.drop_bytes[key] += size or 0
        is_hit = pc.equal(rows.column("reason"), "contaminated")
        self.counts.add_contaminated(rows.column("detail").filter(is_hit).to_pylist())

    def add_file(self, path: Path, keys: Keys) -> None:
        """A finished file, and the keys of its documents."""
        self.files.append(ShardFile(path.name, len(keys), path.stat().st_size, file_checksum(path)))
        columns = pq.read_table(path, columns=list(COUNTED_COLUMNS))
        self.counts.add_documents(columns, keys["num_bytes"])
        self.samples += smallest_ids(keys, path.name)

    def add(self, other: Published) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def ledger_name(index: int) -> str:
    return f"dropped-{index:05}.parquet"


def removals_of_part(
    part: Part,
    documents: CorpusDocuments,
    found: Mapping[str, Removals],
    kept_ids: Mapping[str, npt.NDArray[np.bytes_]],
) -> PartRemovals:
    """The removals by each rule that concern one part; `kept_ids`: ids of the kept duplicates."""
    numbers = documents.numbers(part)
    chosen = [np.empty(0, REMOVAL_DTYPE)]
    ids = [np.empty(0, "S16")]
    for rule, removals in found.items():
        first, last = np.searchsorted(removals["removed"], (numbers.start, numbers.stop)).tolist()
        chosen.append(removals[first:last])
        ids.append(kept_ids[rule][first:last])
    joined = np.concatenate(chosen)
    rules = np.repeat(np.arange(len(found)), [len(of_rule) for of_rule in chosen[1:]])
    order = np.argsort(joined["removed"])
    return PartRemovals(
        rows=joined["removed"][order] - numbers.start,
        rules=rules[order],
        kept_ids=np.concatenate(ids)[order],
        kept_sources=documents.source_indices(joined["kept"][order]),
        similarities=joined["similarity"][order],
        rule_names=tuple(found),
        source_names=tuple(documents.sources),
    )


def publish_part(task: Publication) -> Published:
    """Write a part's kept documents and its ledger into the documents folder."""
    result = Published()
    start = 0
    path = task.folder / ledger_name(task.index)
    with pq.ParquetWriter(path, DROPPED_SCHEMA, compression="zstd") as ledger:

        def drop(rows: pa.Table) -> None:
            result.add_drops(rows)
            ledger.write_table(rows)

        with pq.ParquetFile(task.part.dropped) as earlier:
            for batch in earlier.iter_batches(use_threads=False):
                drop(pa.Table.from_batches([batch]))
        for number, documents in enumerate(task.part.documents):
            target = task.folder / f"documents-{task.index:05}-{number:03}.parquet"
            keys: Keys = np.load(keys_beside(documents))
            keep, removed = _split_file(documents, keys, task, start)
            start += len(keys)
            if removed:
                drop(pa.Table.from_pylist(removed, DROPPED_SCHEMA))
            if keep.any():
                _write_documents(documents, target, keep)
                result.add_file(target, keys[keep])
    # Arrow's pool keeps what was freed, and a worker that publishes many parts would grow.
    pa.default_memory_pool().release_unused()
    return result


def _split_file(
    documents: Path, keys: Keys, task: Publication, start: int
) -> tuple[npt.NDArray[np.bool_], list[dict[str, Any]]]:
    """Keep mask of a file's documents, and the ledger's rows for the removed ones. `start`: index
    of the first document in the part."""
    keep = np.ones(len(keys), np.bool_)
    removals = task.removals
    first, last = np.searchsorted(removals.rows, (start, start + len(keys))).tolist()
    places: pa.Table | None = None
    if last > first or task.requests:
        places = pq.read_table(
            documents, columns=["source_file", "offset", "id", "url", "license"], use_threads=False
        )
    removed: list[dict[str, Any]] = []

    def drop(row: int, **why: object) -> None:
        assert places is not None, "rows were read where any is removed"
        keep[row] = False
        place = {name: places.column(name)[row].as_py() for name in ("source_file", "offset", "id")}
        size = int(keys["num_bytes"][row])
        removed.append({**place, "stage": "compare", "num_bytes": size, **why})

    if task.requests:
        for row in np.flatnonzero(task.requests.rows(places)).tolist():
            drop(row, reason=REQUESTED)
    for i in range(first, last):
        row = int(removals.rows[i]) - start
        if keep[row]:
            drop(
                row,
                reason=removals.rule_names[removals.rules[i]],
                kept_id=hexadecimal(removals.kept_ids[i : i + 1])[0],
                kept_source=removals.source_names[removals.kept_sources[i]],
                similarity=float(removals.similarities[i]),
            )
    return keep, removed


def _write_documents(path: Path, target: Path, keep: npt.NDArray[np.bool_]) -> None:
    """Write the kept rows of `path`, row group by row group; a hard link where all are kept."""
    if keep.all():
        link_or_copy(path, target)
        return
    start = 0
    with (
        pq.ParquetFile(path) as parquet,
        pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer,
    ):
        for index in range(parquet.num_row_groups):
            rows = parquet.read_row_group(index, use_threads=False)
            kept = pa.array(keep[start : start + rows.num_rows])
            start += rows.num_rows
            if kept.true_count:
                writer.write_table(rows.filter(kept))
