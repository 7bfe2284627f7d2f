"""Finding a source's input files: every file is either read, or ignored for a reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InputFile:
    """One file to read, and what is known about it before it is opened."""

    path: Path
    source_file: str
    """Path relative to the root, with slashes, valid Unicode whatever the file is called."""
    size: int
    mtime_ns: int
    title: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Ignored:
    """A file, or a folder with all that is in it, that is not read."""

    source_file: str
    reason: str


@dataclass(frozen=True)
class Inputs:
    """All there is under a root. `files` are in the order of `source_file`."""

    files: tuple[InputFile, ...]
    ignored: tuple[Ignored, ...]

    def without(self, why_ignored: Callable[[InputFile], str | None]) -> Inputs:
        """Move the files for which `why_ignored` gives a reason to `ignored`."""
        reasons = [why_ignored(file) for file in self.files]
        pairs = list(zip(self.files, reasons, strict=True))
        kept = tuple(file for file, reason in pairs if reason is None)
        ignored = tuple(Ignored(f.source_file, reason) for f, reason in pairs if reason is not None)
        return Inputs(kept, self.ignored + ignored)


def walk(
    root: Path, *, follow_symlinks: bool, skip_folder: Callable[[str], bool] = lambda name: False
) -> Inputs:
    """All regular files under `root` (or `root` itself, if it is a file).

    Hidden names (a leading dot) and folders whose name `skip_folder` accepts are ignored. A folder
    that symbolic links make reachable twice is entered once, so that loops end. ValueError if
    `root` does not exist.
    """
    if not root.exists():
        raise ValueError(f"corpus path {root} does not exist")
    if root.is_file():
        info = root.stat()
        return Inputs((InputFile(root, _printable(root.name), info.st_size, info.st_mtime_ns),), ())
    if not root.is_dir():
        raise ValueError(f"corpus path {root} is neither a file nor a folder")
    items = list(_walk_folder(root, "", follow_symlinks, skip_folder, set()))
    files = sorted((i for i in items if isinstance(i, InputFile)), key=lambda i: i.source_file)
    return Inputs(tuple(files), tuple(i for i in items if isinstance(i, Ignored)))


def _walk_folder(
    folder: Path,
    prefix: str,
    follow_symlinks: bool,
    skip_folder: Callable[[str], bool],
    visited: set[tuple[int, int]],
) -> Iterator[InputFile | Ignored]:
    """Everything in `folder`; `prefix` is its place under the root, with a slash at the end."""
    try:
        identity = folder.stat()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        yield Ignored(_printable(prefix), "unreadable")
        return
    if (identity.st_dev, identity.st_ino) in visited:
        yield Ignored(_printable(prefix), "visited_folder")
        return
    visited.add((identity.st_dev, identity.st_ino))
    for entry in entries:
        place = prefix + entry.name
        try:
            info = entry.stat(follow_symlinks=follow_symlinks)
        except OSError:  # a link to nowhere or to itself, or a file that has just gone
            yield Ignored(_printable(place), "unreadable")
            continue
        if entry.name.startswith("."):
            yield Ignored(_printable(place), "hidden")
        elif stat.S_ISDIR(info.st_mode):
            if skip_folder(entry.name):
                yield Ignored(_printable(place), "skipped_folder")
            else:
                yield from _walk_folder(
                    Path(entry.path), f"{place}/", follow_symlinks, skip_folder, visited
                )
        elif stat.S_ISREG(info.st_mode):
            yield InputFile(Path(entry.path), _printable(place), info.st_size, info.st_mtime_ns)
        else:
            reason = "symlink" if stat.S_ISLNK(info.st_mode) else "not_a_file"
            yield Ignored(_printable(place), reason)


def _printable(name: str) -> str:
    """File names are bytes; those that are not UTF-8 keep their odd bytes as \\xNN."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
