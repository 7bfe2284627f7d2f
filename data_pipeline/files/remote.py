"""Remote files (s3://, gs://, hf://, https://, memory://): listing and download through fsspec."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

# Keys under which stores list a version of a file's contents; else the time of its last change.
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "blob_id", "checksum")
_TIME_KEYS = ("LastModified", "last_modified", "updated", "mtime", "created")

_MAX_MESSAGE = 300


@dataclass(frozen=True)
class RemoteFile:
    name: str
    """Path below the folder that was listed, with slashes."""
    url: str
    size: int
    version: str
    """Changes when the contents do; empty where the store gives none."""


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind a URL, usable in place of a `Path`; or a single file."""

    url: str

    def __truediv__(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url

    def exists(self) -> bool:
        filesystem, path = open_url(self.url)
        with _one_line_errors(self.url):
            return bool(filesystem.exists(path))


Root = Path | RemoteFolder
"""Root folder of a source's raw files."""


def root_of(place: str) -> Root:
    """A path, or a URL; file:// is a path. ValueError for an unsupported URL scheme."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return Path(place)
    if scheme in ("file", "local"):
        return Path(rest)
    open_url(place)
    return RemoteFolder(place.rstrip("/"))


def open_url(url: str) -> tuple[Any, str]:
    """fsspec file system of a URL, and the path in it; ValueError if the scheme is unsupported."""
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # the store's package is missing; unknown scheme
        raise ValueError(f"{url} cannot be opened: {error}") from error
    return filesystem, path


def listing(folder: RemoteFolder) -> list[RemoteFile]:
    """All files below the folder, by name; the file itself, where the URL is a file's; empty, where
    nothing exists."""
    filesystem, root = open_url(folder.url)
    with _one_line_errors(folder.url):
        filesystem.invalidate_cache()
        found: dict[str, dict[str, Any]] = filesystem.find(root, detail=True)
    files = []
    for path, info in found.items():
        is_one_file = path.rstrip("/") == root.rstrip("/")
        name = path.rpartition("/")[2] if is_one_file else path.removeprefix(root).lstrip("/")
        if info["type"] == "file" and not name.endswith("/"):
            url = filesystem.unstrip_protocol(path)
            files.append(RemoteFile(name, url, int(info["size"] or 0), _version(info)))
    return sorted(files, key=lambda file: file.name)


@contextlib.contextmanager
def _one_line_errors(url: str) -> Iterator[None]:
    """ValueError in place of what a store's package raises without network or rights: pages of
    nested errors, of a type of its own."""
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).split())[:_MAX_MESSAGE] or type(error).__name__
        raise ValueError(f"{url} cannot be reached: {words}") from error


def _version(info: dict[str, Any]) -> str:
    values = [info[key] for key in (*_VERSION_KEYS, *_TIME_KEYS) if info.get(key) is not None]
    return str(values[0]) if values else ""


def download(url: str, target: Path, size: int) -> None:
    """Download a file; OSError on a size mismatch (it changed, or the connection broke off)."""
    filesystem, path = open_url(url)
    filesystem.get_file(path, str(target))
    found = target.stat().st_size
    if found != size:
        raise OSError(f"size mismatch for {url}: downloaded {found} of {size} bytes; retry")
