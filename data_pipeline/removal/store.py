"""Removes documents from a token store.

A new store replaces the old one: unaffected files are hard-linked, affected ones rewritten without
the removed rows. Published files are never modified in place: cached shards are hard links to them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from data_pipeline.build.fingerprint import files_fingerprint
from data_pipeline.build.removal_requests import RemovalRequests
from data_pipeline.executors.executor import Executor
from data_pipeline.files.atomic import atomic_directory, link_or_copy
from data_pipeline.files.checksum import file_checksum
from data_pipeline.removal.matching_rows import split_rows
from data_pipeline.tokens.provenance import TEXT_BYTES
from data_pipeline.tokens.store import (
    SPLITS,
    ProvenanceFile,
    ShardFile,
    Split,
    SplitManifest,
    StoreManifest,
    TokenStore,
    describe_file,
    describe_provenance,
)
from data_pipeline.tokens.store_building import write_dataset_files
from data_pipeline.tokens.tokenizer_folder import load_encoder


@dataclass(frozen=True)
class StoreFile:
    """An Arrow file of a store, and the Parquet file with its rows' provenance."""

    source: str
    split: Split
    tokens: ShardFile
    provenance: ProvenanceFile


@dataclass(frozen=True)
class _Task:
    file: StoreFile
    store: Path
    to: Path
    """The new store."""
    requests: RemovalRequests


@dataclass(frozen=True)
class _Rewritten:
    tokens: ShardFile | None
    provenance: ProvenanceFile | None
    """The rewritten files; None where all documents are removed."""
    num_text_bytes: int
    num_byte_tokens: int
    """Of the removed documents."""


def store_files(store: TokenStore) -> list[StoreFile]:
    """All files of a store; ValueError where it was built without provenance."""
    found = []
    for source, splits in store.manifest.sources.items():
        for split, manifest in splits.items():
            if len(manifest.provenance) != len(manifest.files):
                raise ValueError(f"{store.path} was built without provenance; rebuild it")
            for tokens, provenance in zip(manifest.files, manifest.provenance, strict=True):
                found.append(StoreFile(source, split, tokens, provenance))
    return found


def remove_from_store(
    store: TokenStore,
    requests: RemovalRequests,
    affected: Mapping[str, StoreFile],
    *,
    executor: Executor,
) -> StoreManifest:
    """Publish the store without the requested documents; `affected`: Arrow files with any of them.

    The manifest's fingerprint changes to one of no build. The cached shards of these files are
    deleted, too: they hold the documents, and the next build would not reuse them.
    """
    _delete_shards(store.path.parent / ".shards" / store.path.name, affected)
    with atomic_directory(store.path) as new:
        changed = {"manifest.json"}
        for file in affected.values():
            folder = f"{file.source}/{file.split}"
            changed |= {file.tokens.path, file.provenance.path}
            changed |= {f"{folder}/state.json", f"{folder}/dataset_info.json"}
        _link_others(store.path, new, without=changed)
        tasks = [_Task(file, store.path, new, requests) for file in affected.values()]
        sizes = [file.tokens.bytes for file in affected.values()]
        results = executor.map(_rewrite, tasks, sizes, label="remove from the store")
        rewritten = dict(zip(affected, results, strict=True))
        sources = {
            source: {
                split: _split(new / source / split, splits[split], rewritten) for split in SPLITS
            }
            for source, splits in store.manifest.sources.items()
        }
        manifest = replace(
            store.manifest,
            fingerprint=files_fingerprint((), [store.manifest.fingerprint, *requests.lines()]),
            sources=sources,
        )
        (new / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _delete_shards(folder: Path, affected: Mapping[str, StoreFile]) -> None:
    """Delete the cached shards of the affected files, found by size and checksum."""
    sizes = {file.tokens.bytes for file in affected.values()}
    checksums = {file.tokens.xxh3_64 for file in affected.values()}
    for path in sorted(folder.glob("*/*.arrow")):
        if path.exists() and path.stat().st_size in sizes and file_checksum(path) in checksums:
            shutil.rmtree(path.parent)


def _link_others(store: Path, new: Path, *, without: set[str]) -> None:
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store)
        if path.is_file() and name.as_posix() not in without:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, new / name)


def _rewrite(task: _Task) -> _Rewritten:
    encoder = load_encoder(task.store / "tokenizer")
    tokens, places = task.file.tokens.path, task.file.provenance.path
    (task.to / tokens).parent.mkdir(parents=True, exist_ok=True)
    keep, num_text_bytes = _write_places(task.store / places, task.to / places, task.requests)
    num_byte_tokens = start = 0
    with ExitStack() as files:
        source = files.enter_context(pa.memory_map(str(task.store / tokens)))
        reader = files.enter_context(pa.ipc.open_stream(source))
        writer: pa.ipc.RecordBatchStreamWriter | None = None
        for batch in reader:
            kept = keep[start : start + batch.num_rows]
            start += batch.num_rows
            for ids in batch.filter(pa.array(~kept)).column("input_ids"):
                num_byte_tokens += encoder.num_byte_tokens(ids.values.to_numpy())
            if kept.any():
                if writer is None:
                    target = str(task.to / tokens)
                    writer = files.enter_context(pa.ipc.new_stream(target, reader.schema))
                writer.write_batch(batch.filter(pa.array(kept)))
    assert start == len(keep), f"{tokens} has {start} rows, {places} has {len(keep)}"
    if writer is None:
        return _Rewritten(None, None, num_text_bytes, num_byte_tokens)
    return _Rewritten(
        describe_file(task.to, task.to / tokens),
        describe_provenance(task.to, task.to / places),
        num_text_bytes,
        num_byte_tokens,
    )


def _write_places(
    path: Path, target: Path, requests: RemovalRequests
) -> tuple[npt.NDArray[np.bool_], int]:
    """Write the kept rows of a provenance file, if any; return the keep mask, and the text bytes of
    the removed documents."""
    keep = []
    num_text_bytes = 0
    writer: pq.ParquetWriter | None = None
    for rows in split_rows(path, requests):
        keep.append(~rows.is_removed)
        num_text_bytes += pc.sum(rows.removed.column(TEXT_BYTES)).as_py() or 0
        if rows.kept.num_rows:
            if writer is None:
                writer = pq.ParquetWriter(target, rows.kept.schema, compression="zstd")
            writer.write_table(rows.kept)
    if writer is not None:
        writer.close()
    return np.concatenate(keep), num_text_bytes


def _split(
    folder: Path, before: SplitManifest, rewritten: Mapping[str, _Rewritten]
) -> SplitManifest:
    """The split's new manifest; writes the metadata files that `datasets` needs."""
    found = [rewritten.get(file.path) for file in before.files]
    if all(one is None for one in found):
        return before
    files, provenance = [], []
    for tokens, places, one in zip(before.files, before.provenance, found, strict=True):
        now = (tokens, places) if one is None else (one.tokens, one.provenance)
        if now[0] is not None and now[1] is not None:
            files.append(now[0])
            provenance.append(now[1])
    if files:
        write_dataset_files(folder, [Path(file.path).name for file in files])
    else:
        shutil.rmtree(folder, ignore_errors=True)
    changed = [one for one in found if one is not None]
    return SplitManifest.of(
        tuple(files),
        num_text_bytes=before.num_text_bytes - sum(one.num_text_bytes for one in changed),
        num_byte_tokens=before.num_byte_tokens - sum(one.num_byte_tokens for one in changed),
        provenance=tuple(provenance),
    )
