"""Applies removal (take-down) requests to a built dataset: its documents and its token store.

Only files with a requested document are rewritten; each folder is replaced atomically
(`atomic_directory`), so that readers see the old or the new version. Requests are persisted first:
an interrupted removal is completed by the next one, and every later build applies them, too.

The documents remain in the raw files, which are the user's, and in the parts in `documents/.parts`,
which rule results refer to by row number. Report and card are updated by the next build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.build.removal_requests import RemovalRequests
from data_pipeline.documents_folder import read_manifest
from data_pipeline.executors.executor import Executor
from data_pipeline.executors.local import Processes
from data_pipeline.files.atomic import clean_up_replaced_directories
from data_pipeline.removal.documents import remove_documents
from data_pipeline.removal.matching_rows import Found, Search, look_for
from data_pipeline.removal.store import StoreFile, remove_from_store, store_files
from data_pipeline.tokens.store import TokenStore

REQUESTS = "removal_requests.json"
"""File in a dataset's folder with all removal requests so far."""
_ONE_PROCESS = Processes(1)


@dataclass(frozen=True)
class SourceRemovals:
    """Removed documents and rewritten files of one source, in documents folder and token store."""

    documents: int = 0
    document_files: int = 0
    store_documents: int = 0
    store_files: int = 0


@dataclass(frozen=True)
class RemovalAccount:
    """Removed documents; with `dry_run`, those that would be removed."""

    sources: dict[str, SourceRemovals]
    """Sources with requested documents."""
    not_found: RemovalRequests
    """Requests that match no document; perhaps it was removed before."""

    def __str__(self) -> str:
        lines = [
            f"{name}: {found.documents:,} documents in {found.document_files:,} files; "
            f"in the store {found.store_documents:,} in {found.store_files:,} files"
            for name, found in self.sources.items()
        ]
        lines += [f"not found: {line}" for line in self.not_found.lines()]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Places:
    """Files with requested documents."""

    documents: dict[Path, dict[str, Found]]
    """Documents folder -> file -> matches."""
    store: dict[str, tuple[StoreFile, Found]]
    """Arrow file -> the file, and its matches."""


def remove(
    out: Path,
    requests: RemovalRequests,
    *,
    executor: Executor = _ONE_PROCESS,
    dry_run: bool = False,
) -> RemovalAccount:
    """Remove requested documents from the dataset `out`: `requests`, and those in
    `out/removal_requests.json`.

    With `dry_run` nothing is changed. ValueError where there is no dataset, where it is damaged,
    and where its token store would become empty.
    """
    everything = RemovalRequests.load(out / REQUESTS) | requests
    if not dry_run:
        # A removal or build may have been killed while replacing one of these.
        clean_up_replaced_directories(out / "documents")
        clean_up_replaced_directories(out)
    folders = _documents_folders(out)
    store = TokenStore.open(out / "store") if (out / "store").is_dir() else None
    if not folders and store is None:
        raise ValueError(f"{out} holds no dataset: neither documents nor a token store")
    places = _look(folders, store, everything, executor)
    if store is not None:
        _check_not_empty(store, places)
    if not dry_run:
        everything.save(out / REQUESTS)
        for folder, files in places.documents.items():
            remove_documents(folder, everything, files, executor=executor)
        if store is not None and places.store:
            affected = {name: file for name, (file, _) in places.store.items()}
            remove_from_store(store, everything, affected, executor=executor)
    return _account(places, requests)


def _documents_folders(out: Path) -> list[Path]:
    folders = sorted((out / "documents").glob("[!.]*/manifest.json"))
    return [path.parent for path in folders]


def _look(
    folders: Sequence[Path],
    store: TokenStore | None,
    requests: RemovalRequests,
    executor: Executor,
) -> _Places:
    documents = [(folder, file) for folder in folders for file in read_manifest(folder).files]
    tokens = [] if store is None else store_files(store)
    paths = [folder / file.path for folder, file in documents]
    if store is not None:
        paths += [store.path / file.provenance.path for file in tokens]
    sizes = [file.bytes for _, file in documents] + [file.provenance.bytes for file in tokens]
    searches = [Search(path, requests) for path in paths]
    found = executor.map(look_for, searches, sizes, label="look for requested documents")
    places = _Places({}, {})
    for (folder, file), one in zip(documents, found, strict=False):
        if one.rows:
            places.documents.setdefault(folder, {})[file.path] = one
    for shard, one in zip(tokens, found[len(documents) :], strict=True):
        if one.rows:
            places.store[shard.tokens.path] = (shard, one)
    return places


def _check_not_empty(store: TokenStore, places: _Places) -> None:
    splits = [split for splits in store.manifest.sources.values() for split in splits.values()]
    if sum(found.rows for _, found in places.store.values()) == sum(
        split.num_documents for split in splits
    ):
        raise ValueError(
            f"the requests match every document of {store.path}; delete the folder itself, or "
            "request less"
        )


def _account(places: _Places, requests: RemovalRequests) -> RemovalAccount:
    sources: dict[str, SourceRemovals] = {}
    not_found = requests
    for folder, files in places.documents.items():
        rows = sum(found.rows for found in files.values())
        sources[folder.name] = SourceRemovals(documents=rows, document_files=len(files))
        for found in files.values():
            not_found -= found.by
    for shard, found in places.store.values():
        not_found -= found.by
        before = sources.get(shard.source, SourceRemovals())
        sources[shard.source] = SourceRemovals(
            before.documents,
            before.document_files,
            before.store_documents + found.rows,
            before.store_files + 1,
        )
    return RemovalAccount(sources, not_found)
