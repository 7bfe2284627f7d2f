"""Removes documents from a published documents folder.

A new folder replaces the old one: unaffected files are hard-linked, affected ones rewritten without
the removed rows. Published files are never modified in place, because parts are hard links to them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.build.document_counts import DocumentCounts
from data_pipeline.build.fingerprint import files_fingerprint
from data_pipeline.build.publish_documents import ledger_name
from data_pipeline.build.removal_requests import REQUESTED, RemovalRequests
from data_pipeline.documents_folder import (
    DROPPED_SCHEMA,
    DropCount,
    Manifest,
    ShardFile,
    read_manifest,
)
from data_pipeline.executors.executor import Executor
from data_pipeline.files.atomic import atomic_directory, link_or_copy
from data_pipeline.files.checksum import file_checksum
from data_pipeline.removal.matching_rows import split_rows

SAMPLES = "samples.parquet"


@dataclass(frozen=True)
class _Part:
    """Affected files of one part, its ledger, and the folder to rewrite them to."""

    ledger: Path
    documents: tuple[Path, ...]
    to: Path
    requests: RemovalRequests


@dataclass
class _Removed:
    """Removed documents and rewritten files of a part, or the sum over several parts."""

    counts: DocumentCounts = field(default_factory=DocumentCounts)
    files: dict[str, ShardFile | None] = field(default_factory=dict)
    """Name -> the rewritten file; None where all its documents are removed."""

    def add(self, other: _Removed) -> None:
        self.counts += other.counts
        self.files |= other.files


def remove_documents(
    folder: Path, requests: RemovalRequests, affected: Collection[str], *, executor: Executor
) -> Manifest:
    """Publish the documents folder without the requested documents, which are in files `affected`.

    The manifest's fingerprint changes to one of no build, so that the next build publishes again.
    """
    manifest = read_manifest(folder)
    with atomic_directory(folder) as new:
        parts = list(_parts(folder, new, requests, affected))
        rewritten = {path.name for part in parts for path in (part.ledger, *part.documents)}
        for path in sorted(folder.iterdir()):
            # A folder is the cache of `load_documents`, recreated on demand.
            if path.is_file() and path.name not in rewritten | {"manifest.json", SAMPLES}:
                link_or_copy(path, new / path.name)
        if (folder / SAMPLES).exists():
            samples = pq.read_table(folder / SAMPLES)
            kept = samples.filter(pa.array(~requests.rows(samples)))
            pq.write_table(kept, new / SAMPLES, compression="zstd")
        removed = _Removed()
        sizes = [sum(path.stat().st_size for path in part.documents) for part in parts]
        for part in executor.map(_rewrite, parts, sizes, label=f"remove from {folder.name}"):
            removed.add(part)
        changed = _without(manifest, removed, requests)
        (new / "manifest.json").write_bytes(changed.to_json())
    return changed


def _parts(
    folder: Path, to: Path, requests: RemovalRequests, affected: Collection[str]
) -> Iterator[_Part]:
    for index, names in groupby(sorted(affected), key=lambda name: int(name.split("-")[1])):
        paths = tuple(folder / name for name in names)
        yield _Part(folder / ledger_name(index), paths, to, requests)


def _rewrite(part: _Part) -> _Removed:
    """Write the part's kept documents, and its ledger with the removed ones appended."""
    result = _Removed()
    with pq.ParquetWriter(part.to / part.ledger.name, DROPPED_SCHEMA, compression="zstd") as ledger:
        with pq.ParquetFile(part.ledger) as earlier:
            for batch in earlier.iter_batches(use_threads=False):
                ledger.write_batch(batch)
        for path in part.documents:
            target = part.to / path.name
            writer: pq.ParquetWriter | None = None
            for kept, removed, _ in split_rows(path, part.requests):
                if removed.num_rows:
                    sizes = pc.binary_length(removed.column("text")).to_numpy()
                    result.counts.add_documents(removed, sizes)
                    ledger.write_table(_ledger_rows(removed))
                if kept.num_rows:
                    if writer is None:
                        writer = pq.ParquetWriter(target, kept.schema, compression="zstd")
                    writer.write_table(kept)
            result.files[path.name] = None
            if writer is not None:
                writer.close()
                num_rows = pq.read_metadata(target).num_rows
                size = target.stat().st_size
                result.files[path.name] = ShardFile(
                    path.name, num_rows, size, file_checksum(target)
                )
    return result


def _ledger_rows(removed: pa.Table) -> pa.Table:
    columns = {name: removed.column(name) for name in ("id", "source_file", "offset")}
    columns["num_bytes"] = pc.binary_length(removed.column("text")).cast(pa.int64())
    columns["reason"] = pa.array([REQUESTED] * removed.num_rows)
    columns["stage"] = pa.array(["compare"] * removed.num_rows)
    nothing = pa.nulls(removed.num_rows)
    return pa.table(
        [columns.get(field.name, nothing).cast(field.type) for field in DROPPED_SCHEMA],
        schema=DROPPED_SCHEMA,
    )


def _without(manifest: Manifest, removed: _Removed, requests: RemovalRequests) -> Manifest:
    unchanged = {file.path: file for file in manifest.files}
    files = [(unchanged | removed.files)[file.path] for file in manifest.files]
    kept = tuple(file for file in files if file is not None)
    counts = DocumentCounts.of(manifest) - removed.counts
    assert sum(file.rows for file in kept) == counts.num_documents, (
        f"{manifest.source}: {manifest.num_kept} documents less {removed.counts.num_documents} are "
        "not those that were written"
    )
    return replace(
        manifest,
        fingerprint=files_fingerprint((), [manifest.fingerprint, *requests.lines()]),
        drops=_with_requested(manifest.drops, removed.counts),
        files=kept,
        **counts.manifest_fields(),
    )


def _with_requested(drops: Sequence[DropCount], removed: DocumentCounts) -> tuple[DropCount, ...]:
    counts = {(drop.stage, drop.reason): drop for drop in drops}
    before = counts.get(("compare", REQUESTED), DropCount("compare", REQUESTED, 0, 0))
    counts["compare", REQUESTED] = replace(
        before,
        documents=before.documents + removed.num_documents,
        text_bytes=before.text_bytes + removed.num_text_bytes,
    )
    return tuple(drop for _, drop in sorted(counts.items()))
