"""Lists a source's input files: each is either read, or ignored for a stated reason."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PosixPath, PurePosixPath
from typing import NamedTuple

from data_pipeline.files.remote import RemoteFolder, Root, download, listing

_MAX_DEPTH = 200
"""Folders within folders that are read; Python's stack ends below 500."""


@dataclass(frozen=True)
class InputFile:
    """One input file, and the metadata known before it is opened."""

    path: Path
    """Local path. For a file behind a URL only its name and folders are meaningful, until
    `local_copy` has downloaded it."""
    source_file: str
    """Path relative to the root, with slashes; valid Unicode whatever the file name's bytes."""
    size: int
    mtime_ns: int
    """0 for a file behind a URL."""
    title: str | None = None
    license: str | None = None
    url: str | None = None
    """URL to download it from; None for a local file."""
    version: str | None = None
    """For a file behind a URL: the store's ETag, checksum or time of last change."""


class LinkedFolder(PosixPath):
    """A folder of raw files whose symbolic links may lead out of it; so are the folders in it."""


@contextmanager
def local_copy(file: InputFile) -> Iterator[InputFile]:
    """The file, readable at its `path`; a downloaded copy is deleted when the block ends.

    The copy lies in a folder of `tempfile.gettempdir()` and keeps the file's own name and folders.
    OSError if the download fails, or a local file has changed by the end of the block since it was
    listed: its listing is what the results are named by.
    """
    if file.url is None:
        yield file
        info = file.path.stat()
        if (info.st_size, info.st_mtime_ns) != (file.size, file.mtime_ns):
            what = "changed while it was read; rerun the command when it is complete"
            raise OSError(errno.ESTALE, what, str(file.path))
        return
    with tempfile.TemporaryDirectory(prefix="llama-ds-") as folder:
        path = Path(folder, *PurePosixPath(file.source_file).parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        download(file.url, path, file.size)
        yield replace(file, path=path)


@dataclass(frozen=True)
class Ignored:
    """A file, or a whole folder, that is not read."""

    source_file: str
    reason: str
    advice: str | None = None
    """What can be done about it, where the file's format is known."""


class NotRead(NamedTuple):
    """Why a file of a known format is not read, and what to do about it."""

    reason: str
    advice: str


@dataclass(frozen=True)
class Inputs:
    """Everything under a root. `files` are in the order of `source_file`."""

    files: tuple[InputFile, ...]
    ignored: tuple[Ignored, ...]

    def without(self, why_ignored: Callable[[InputFile], str | NotRead | None]) -> Inputs:
        """Move the files for which `why_ignored` gives a reason to `ignored`."""
        kept, ignored = [], list(self.ignored)
        for file in self.files:
            match why_ignored(file):
                case None:
                    kept.append(file)
                case NotRead(reason, advice):
                    ignored.append(Ignored(file.source_file, reason, advice))
                case str(reason):
                    ignored.append(Ignored(file.source_file, reason))
        return Inputs(tuple(kept), tuple(ignored))


def walk(
    root: Root, *, follow_symlinks: bool, skip_folder: Callable[[str], bool] = lambda name: False
) -> Inputs:
    """All regular files under `root` (or `root` itself, if it is a file).

    Hidden names (a leading dot) and folders whose name `skip_folder` accepts are ignored. Links
    that are followed may not lead out of `root`, unless that is a `LinkedFolder`: whoever puts one
    there could publish any file of this machine. A folder that links make reachable twice is
    entered once, so that link loops end. ValueError if `root` does not exist.
    """
    if isinstance(root, RemoteFolder):
        return _walk_remote(root, skip_folder)
    if not root.exists():
        raise ValueError(f"corpus path {root} does not exist")
    if root.is_file():
        info = root.stat()
        return Inputs((InputFile(root, printable(root.name), info.st_size, info.st_mtime_ns),), ())
    if not root.is_dir():
        raise ValueError(f"corpus path {root} is neither a file nor a folder")
    bound = None if isinstance(root, LinkedFolder) else os.path.realpath(root)
    items = list(_Walk(follow_symlinks, bound, skip_folder).folder(root, ""))
    files = sorted((i for i in items if isinstance(i, InputFile)), key=lambda i: i.source_file)
    return Inputs(tuple(files), tuple(i for i in items if isinstance(i, Ignored)))


def _walk_remote(root: RemoteFolder, skip_folder: Callable[[str], bool]) -> Inputs:
    found = listing(root)
    if not found:
        raise ValueError(f"corpus path {root} does not exist, or has no files")
    files: list[InputFile] = []
    ignored: dict[str, Ignored] = {}
    for file in found:
        if (reason := _why_ignored(file.name, skip_folder)) is not None:
            ignored.setdefault(reason.source_file, reason)
        else:
            path = Path(file.name)
            files.append(
                InputFile(path, file.name, file.size, 0, url=file.url, version=file.version)
            )
    return Inputs(tuple(files), tuple(ignored.values()))


def _why_ignored(name: str, skip_folder: Callable[[str], bool]) -> Ignored | None:
    """The file, or the folder it is in, that `walk` ignores."""
    parts = name.split("/")
    for depth, part in enumerate(parts, start=1):
        if part.startswith("."):
            return Ignored("/".join(parts[:depth]), "hidden")
        if depth < len(parts) and skip_folder(part):
            return Ignored("/".join(parts[:depth]), "skipped_folder")
    return None


@dataclass
class _Walk:
    follow_symlinks: bool
    bound: str | None
    """Real path of the folder that links may not lead out of; None: anywhere."""
    skip_folder: Callable[[str], bool]
    visited: set[tuple[int, int]] = field(default_factory=set)

    def folder(self, folder: Path, prefix: str) -> Iterator[InputFile | Ignored]:
        """Everything in `folder`; `prefix` is its path under the root, with a slash at the end."""
        try:
            identity = folder.stat()
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            yield Ignored(printable(prefix), "unreadable")
            return
        if (identity.st_dev, identity.st_ino) in self.visited:
            yield Ignored(printable(prefix), "visited_folder")
            return
        if prefix.count("/") > _MAX_DEPTH:
            yield Ignored(_short(printable(prefix)), "too_deep")
            return
        self.visited.add((identity.st_dev, identity.st_ino))
        for entry in entries:
            yield from self.entry(entry, prefix + entry.name)

    def entry(self, entry: os.DirEntry[str], place: str) -> Iterator[InputFile | Ignored]:
        try:
            info = entry.stat(follow_symlinks=self.follow_symlinks)
        except OSError:  # a dangling or circular link, or a file that was just deleted
            yield Ignored(printable(place), "unreadable")
            return
        if entry.name.startswith("."):
            yield Ignored(printable(place), "hidden")
        elif self.follow_symlinks and entry.is_symlink() and self.leads_out(entry.path):
            yield Ignored(printable(place), "symlink_outside")
        elif stat.S_ISDIR(info.st_mode):
            if self.skip_folder(entry.name):
                yield Ignored(printable(place), "skipped_folder")
            else:
                yield from self.folder(Path(entry.path), f"{place}/")
        elif stat.S_ISREG(info.st_mode):
            yield InputFile(Path(entry.path), printable(place), info.st_size, info.st_mtime_ns)
        else:
            reason = "symlink" if stat.S_ISLNK(info.st_mode) else "not_a_file"
            yield Ignored(printable(place), reason)

    def leads_out(self, path: str) -> bool:
        if self.bound is None:
            return False
        return os.path.commonpath((self.bound, os.path.realpath(path))) != self.bound


def _short(place: str) -> str:
    return place if len(place) <= 200 else f"{place[:100]}...{place[-97:]}"


def printable(name: str) -> str:
    """File names are bytes; bytes that are not UTF-8 are kept as \\xNN."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
