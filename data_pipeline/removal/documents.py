"""Removal of documents from a documents folder that is finished.

A new folder takes the old one's place: files that nobody asked to change under a second name, of
the others the rows that stay. Finished files are never written into, as parts have them too.
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


@dataclass(frozen=True)
class _Part:
    """Files of one part, its ledger, and the folder that they are written to anew."""

    ledger: Path
    documents: tuple[Path, ...]
    to: Path
    requests: RemovalRequests


@dataclass
class _Removed:
    """What of a part is removed; or, added up, of several."""

    counts: DocumentCounts = field(default_factory=DocumentCounts)
    files: dict[str, ShardFile | None] = field(default_factory=dict)
    """Old name -> the file as it is now; None where no document of it stays."""

    def add(self, other: _Removed) -> None:
        self.counts += other.counts
        self.files |= other.files


def remove_documents(
    folder: Path, requests: RemovalRequests, concerned: Collection[str], *, executor: Executor
) -> Manifest:
    """Publish the documents folder without the requested ones, which are in the files `concerned`.

    The manifest's fingerprint becomes that of no build, so that the next one publishes anew.
    """
    manifest = read_manifest(folder)
    with atomic_directory(folder) as new:
        parts = list(_parts(folder, new, requests, concerned))
        anew = {path.name for part in parts for path in (part.ledger, *part.documents)}
        for path in sorted(folder.iterdir()):
            # A folder is what `load_documents` mapped; it is made again when it is asked for.
            if path.is_file() and path.name not in anew | {"manifest.json"}:
                link_or_copy(path, new / path.name)
        removed = _Removed()
        sizes = [sum(path.stat().st_size for path in part.documents) for part in parts]
        for part in executor.map(_rewrite, parts, sizes, label=f"remove from {folder.name}"):
            removed.add(part)
        changed = _without(manifest, removed, requests)
        (new / "manifest.json").write_bytes(changed.to_json())
    return changed


def _parts(
    folder: Path, to: Path, requests: RemovalRequests, concerned: Collection[str]
) -> Iterator[_Part]:
    for index, names in groupby(sorted(concerned), key=lambda name: int(name.split("-")[1])):
        paths = tuple(folder / name for name in names)
        yield _Part(folder / ledger_name(index), paths, to, requests)


def _rewrite(part: _Part) -> _Removed:
    """Write the part's documents that stay, and its ledger with those that go."""
    result = _Removed()
    with pq.ParquetWriter(part.to / part.ledger.name, DROPPED_SCHEMA, compression="zstd") as ledger:
        with pq.ParquetFile(part.ledger) as earlier:
            for batch in earlier.iter_batches(use_threads=False):
                ledger.write_batch(batch)
        for path in part.documents:
            target = part.to / path.name
            writer: pq.ParquetWriter | None = None
            for stay, go, _ in split_rows(path, part.requests):
                if go.num_rows:
                    sizes = pc.binary_length(go.column("text")).to_numpy()
                    result.counts.add_documents(go, sizes)
                    ledger.write_table(_ledger_rows(go))
                if stay.num_rows:
                    if writer is None:
                        writer = pq.ParquetWriter(target, stay.schema, compression="zstd")
                    writer.write_table(stay)
            result.files[path.name] = None
            if writer is not None:
                writer.close()
                num_rows = pq.read_metadata(target).num_rows
                size = target.stat().st_size
                result.files[path.name] = ShardFile(
                    path.name, num_rows, size, file_checksum(target)
                )
    return result


def _ledger_rows(gone: pa.Table) -> pa.Table:
    columns = {name: gone.column(name) for name in ("id", "source_file", "offset")}
    columns["num_bytes"] = pc.binary_length(gone.column("text")).cast(pa.int64())
    columns["reason"] = pa.array([REQUESTED] * gone.num_rows)
    columns["stage"] = pa.array(["compare"] * gone.num_rows)
    nothing = pa.nulls(gone.num_rows)
    return pa.table(
        [columns.get(field.name, nothing).cast(field.type) for field in DROPPED_SCHEMA],
        schema=DROPPED_SCHEMA,
    )


def _without(manifest: Manifest, removed: _Removed, requests: RemovalRequests) -> Manifest:
    unchanged = {file.path: file for file in manifest.files}
    files = [(unchanged | removed.files)[file.path] for file in manifest.files]
    kept = tuple(file for file in files if file is not None)
    stays = DocumentCounts.of(manifest) - removed.counts
    assert sum(file.rows for file in kept) == stays.num_documents, (
        f"{manifest.source}: {manifest.num_kept} documents less {removed.counts.num_documents} are "
        "not those that were written"
    )
    return replace(
        manifest,
        fingerprint=files_fingerprint((), [manifest.fingerprint, *requests.lines()]),
        drops=_with_requested(manifest.drops, removed.counts),
        files=kept,
        **stays.manifest_fields(),
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
