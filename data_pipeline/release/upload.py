"""Uploads a finished dataset to a URL: documents, token store, report and card.

    URL/checksums.json      every uploaded file with its size and xxh3; marks the URL as a copy
    URL/documents/...       as in the dataset, with its card; hidden intermediate results are
                            left out
    URL/store/...           `manifest.json` of a folder is uploaded after all files it lists

A folder with a manifest is always complete: before a file is replaced or removed, the manifests
above it are deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.documents_folder import read_manifest
from data_pipeline.executors.local import progress_bar
from data_pipeline.files.checksum import file_checksum
from data_pipeline.files.remote import RemoteFile, RemoteFolder, listing, open_url
from data_pipeline.tokens.store import TokenStore

RECORD = "checksums.json"
COPIED = ("documents", "store", "report.html", "report.json")
"""Parts of a dataset's folder that are uploaded, where they exist."""
_MANIFEST = "manifest.json"
_MAPPED = "cache"  # of `documents.load_documents`
# An object store has high latency and serves requests in parallel; more would share the bandwidth.
_CONNECTIONS = 8


@dataclass(frozen=True)
class CopiedFile:
    bytes: int
    xxh3_64: str


@dataclass(frozen=True)
class CopyAccount:
    url: str
    num_files: int
    num_copied: int
    num_bytes_copied: int
    num_removed: int
    """Files of an earlier upload that the dataset no longer has."""

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.num_files:,} files, {self.num_copied:,} of them copied now "
            f"({self.num_bytes_copied / 1e6:,.1f} MB), {self.num_removed:,} old ones removed"
        )


def publish_copy(folder: Path, url: str) -> CopyAccount:
    """Upload the dataset in `folder` to `url`; calling it again resumes an interrupted upload.

    A file that exists in its size, and was recorded with its checksum, is not uploaded again; one
    that the dataset no longer has is deleted. ValueError where `folder` is not a finished dataset,
    or the URL holds something else.
    """
    files = _files(folder)
    filesystem, root = open_url(url)
    found, recorded = _what_is_at(url)
    there = {name for name in found if _is_there(found[name], files.get(name), recorded.get(name))}
    stale, missing = found.keys() - there, files.keys() - there
    outdated = {name for name in _manifests_above(stale | missing) if name in found}
    for name in [*sorted(outdated), *sorted(stale - outdated)]:
        filesystem.rm_file(f"{root}/{name}")
    missing |= outdated & files.keys()
    _put_bytes(filesystem, f"{root}/{RECORD}", _as_json(files))
    _copy(filesystem, folder, root, {name: files[name].bytes for name in missing})
    return CopyAccount(
        url=url,
        num_files=len(files),
        num_copied=len(missing),
        num_bytes_copied=sum(files[name].bytes for name in missing),
        num_removed=len(found.keys() - files.keys()),
    )


def require_place(url: str) -> None:
    """ValueError where the URL cannot be opened, or holds something else; before hours of work."""
    _what_is_at(url)


# -- what there is --------------------------------------------------------------------------------


def _what_is_at(url: str) -> tuple[dict[str, RemoteFile], dict[str, CopiedFile]]:
    """The files of an earlier upload, and what was recorded of them; both by name."""
    filesystem, root = open_url(url)
    found = {file.name: file for file in listing(RemoteFolder(url)) if file.name != RECORD}
    recorded = _recorded(filesystem, f"{root}/{RECORD}")
    if recorded is None and found:
        raise ValueError(f"{url} holds something else ({min(found)}); choose an empty place")
    return found, recorded or {}


def _files(folder: Path) -> dict[str, CopiedFile]:
    """The files to upload; ValueError if a part is incomplete, or there is nothing."""
    known: dict[str, str] = {}
    for manifest in sorted(folder.glob(f"documents/[!.]*/{_MANIFEST}")):
        place = manifest.parent.relative_to(folder).as_posix()
        entries = read_manifest(manifest.parent).files
        known |= {f"{place}/{file.path}": file.xxh3_64 for file in entries}
    if (folder / "store").is_dir():
        for splits in TokenStore.open(folder / "store").manifest.sources.values():
            for split in splits.values():
                known |= {f"store/{file.path}": file.xxh3_64 for file in split.files}
                known |= {f"store/{file.path}": file.xxh3_64 for file in split.provenance}
    if not known:
        raise ValueError(f"{folder} is not a finished dataset: neither documents nor a token store")
    found = {}
    for name in COPIED:
        top = folder / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            place = path.relative_to(folder).as_posix()
            if path.is_file() and not _is_intermediate(place):
                digest = known.get(place) or file_checksum(path)
                found[place] = CopiedFile(path.stat().st_size, digest)
    return found


def _is_intermediate(place: str) -> bool:
    parts = PurePosixPath(place).parts
    return any(part.startswith(".") for part in parts) or _MAPPED in parts[:-1]


def _recorded(filesystem: Any, path: str) -> dict[str, CopiedFile] | None:
    """checksums.json of an earlier upload; None if there is none."""
    try:
        fields = json.loads(filesystem.cat_file(path))
        return {name: CopiedFile(**entry) for name, entry in fields.items()}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a valid record of an upload ({error}); choose an empty place"
        ) from error


def _is_there(found: RemoteFile, wanted: CopiedFile | None, recorded: CopiedFile | None) -> bool:
    """Files that differ from checksums.json are deleted before it is written, so a file that exists
    in the recorded size has the recorded contents."""
    return wanted is not None and wanted == recorded and found.size == wanted.bytes


def _manifests_above(names: Iterable[str]) -> set[str]:
    folders = {folder for name in names for folder in PurePosixPath(name).parents}
    return {(folder / _MANIFEST).as_posix() for folder in folders}


def _as_json(files: Mapping[str, CopiedFile]) -> bytes:
    return json.dumps({name: asdict(file) for name, file in sorted(files.items())}).encode()


# -- copying --------------------------------------------------------------------------------------


def _copy(filesystem: Any, folder: Path, root: str, sizes: Mapping[str, int]) -> None:
    """Upload in parallel; manifests after all other files, the deepest first."""

    def is_manifest(name: str) -> bool:
        return PurePosixPath(name).name == _MANIFEST

    def put(name: str) -> int:
        target = f"{root}/{name}"
        filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        filesystem.put_file(str(folder / name), target)
        filesystem.invalidate_cache(target)
        if (size := filesystem.size(target)) != sizes[name]:
            raise OSError(
                f"size mismatch for {target}: uploaded {size} of {sizes[name]} bytes; retry"
            )
        return sizes[name]

    names = sorted(sizes)
    with progress_bar(list(sizes.values()), "copy") as bar:
        with ThreadPoolExecutor(_CONNECTIONS) as executor:
            try:
                for size in executor.map(put, [name for name in names if not is_manifest(name)]):
                    bar.update(size)
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise
        for name in sorted(filter(is_manifest, names), key=lambda name: -name.count("/")):
            bar.update(put(name))


def _put_bytes(filesystem: Any, path: str, data: bytes) -> None:
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(path, data)
