"""Reads code trees: a checkout, the standard library, a folder of installed packages.

Every source file is one document with its license: that of the installed package whose RECORD
lists the file, else the one given for the whole tree, else that of the nearest license file in the
file's folder or above it (up to the root).
"""

from __future__ import annotations

import csv
import email
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import xxhash

from data_pipeline.document import Document, Rejected
from data_pipeline.files.inputs import Ignored, InputFile, Inputs, local_copy, walk
from data_pipeline.files.remote import Root
from data_pipeline.sources.github.code_files import (
    DOCUMENT_SUFFIXES,
    NOT_OWN_FOLDERS,
    is_license_file,
    suffix_of,
    why_not_code,
)
from data_pipeline.text.decoding import NotTextError, clean, decode
from data_pipeline.text.licenses import from_metadata, from_text, is_allowed

MAX_LICENSE_FILES = 20
"""License files of a folder that are read."""
_MAX_FOLDERS = 100
"""Folders above a file, from the outermost, in which its license is looked for."""


@dataclass(frozen=True)
class _Package:
    title: str
    """Name and version."""
    license: str | None


def inputs(
    root: Root,
    *,
    suffixes: frozenset[str],
    max_file_bytes: int,
    skip_folders: frozenset[str] = NOT_OWN_FOLDERS,
    title: str | None = None,
    license: str | None = None,
    max_total_bytes: int | None = None,
    licenses: frozenset[str] | None = None,
) -> Inputs:
    """The source files under `root`. Symbolic links are not followed: they point to files of the
    tree, which are found anyway, or outside it.

    `title` and `license` apply to files outside packages. With `licenses`, files under other
    licenses are ignored without being opened. With `max_total_bytes`, packages get equal shares of
    the budget, small ones whole; documents first, then files in an order that depends on their
    names alone.
    """

    def is_skipped(folder: str) -> bool:
        return folder.lower() in skip_folders or folder.endswith((".dist-info", ".egg-info"))

    tree = walk(root, follow_symlinks=False, skip_folder=is_skipped)
    folder_licenses = _folder_licenses(tree)
    packages = _packages(root, tree)

    def why_ignored(file: InputFile) -> str | None:
        if reason := why_not_code(file.source_file.rpartition("/")[2], suffixes):
            return reason
        return "too_large" if file.size > max_file_bytes else None

    def with_owner(file: InputFile) -> InputFile:
        if package := packages.get(file.source_file):
            return replace(file, title=package.title, license=package.license)
        nearest = nearest_license(file.source_file, folder_licenses)
        return replace(file, title=title, license=license or nearest)

    chosen = tree.without(why_ignored)
    chosen = replace(chosen, files=tuple(map(with_owner, chosen.files)))
    if licenses is not None:
        chosen = chosen.without(
            lambda file: None if is_allowed(file.license, licenses) else "license_not_allowed"
        )
    return chosen if max_total_bytes is None else _within_budget(chosen, max_total_bytes)


def read(file: InputFile) -> Iterator[Document | Rejected]:
    """The file as one document."""
    try:
        text = clean(decode(file.path.read_bytes()))
    except OSError as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))
    except NotTextError as error:
        yield Rejected(error.reason, file.source_file, detail=str(error))
    else:
        yield Document(text, file.source_file, title=file.title, license=file.license)


def _folder_licenses(tree: Inputs) -> dict[PurePosixPath, str | None]:
    """License per folder that has a license file (None if it is not recognized); several files are
    combined.
    """
    texts: dict[PurePosixPath, list[str]] = defaultdict(list)
    for file in tree.files:
        folder, _, name = file.source_file.rpartition("/")
        if is_license_file(name):
            found = texts[PurePosixPath(folder)]
            if len(found) < MAX_LICENSE_FILES:
                with local_copy(file) as here:
                    found.append(_read_text(here.path))
    return {folder: from_text("".join(found)) for folder, found in texts.items()}


def nearest_license(
    source_file: str, folder_licenses: dict[PurePosixPath, str | None]
) -> str | None:
    """Of the nearest folder with a license file, even if that license is not recognized."""
    # A name in an archive may have 500,000 folders.
    folder = PurePosixPath(*PurePosixPath(source_file).parts[:-1][:_MAX_FOLDERS])
    folders = (folder, *folder.parents)
    return next((folder_licenses[f] for f in folders if f in folder_licenses), None)


def _packages(root: Root, tree: Inputs) -> dict[str, _Package]:
    """As `_package_files`; ValueError where packages are behind a URL, which is not supported."""
    if isinstance(root, Path):
        return _package_files(root)
    for item in tree.ignored:
        if item.source_file.endswith(".dist-info"):
            raise ValueError(
                f"{root} has installed packages ({item.source_file}), whose licenses are read "
                "from a local disk only; copy the folder to this machine, and pass its path"
            )
    return {}


def _package_files(root: Path) -> dict[str, _Package]:
    """The installed package of every file that a `*.dist-info/RECORD` under `root` lists."""
    owners: dict[str, _Package] = {}
    for info in sorted(root.glob("*.dist-info")):
        record = _read_text(info / "RECORD")
        metadata = email.message_from_string(_read_text(info / "METADATA"))
        license = from_metadata(metadata, _own_license_text(info))
        package = _Package(f"{metadata.get('Name')} {metadata.get('Version')}", license)
        owners.update((row[0], package) for row in csv.reader(record.splitlines()) if row)
    return owners


def _own_license_text(info: Path) -> str:
    files = [*info.iterdir(), *(info / "licenses").glob("*")]
    named = sorted(path for path in files if is_license_file(path.name) and path.is_file())
    return _read_text(named[0]) if named else ""


def _read_text(path: Path) -> str:
    """Text of a file; the empty text if it is missing or unreadable."""
    try:
        return decode(path.read_bytes())
    except (OSError, NotTextError):
        return ""


def _within_budget(found: Inputs, max_total_bytes: int) -> Inputs:
    by_package: dict[str, list[InputFile]] = defaultdict(list)
    for file in found.files:
        by_package[file.title or ""].append(file)
    sizes = [sum(file.size for file in files) for files in by_package.values()]
    limit = _equal_limit(sizes, max_total_bytes)
    over = {f.source_file for files in by_package.values() for f in _beyond(files, limit)}
    return Inputs(
        tuple(file for file in found.files if file.source_file not in over),
        found.ignored + tuple(Ignored(name, "over_budget") for name in sorted(over)),
    )


def _equal_limit(sizes: Iterable[int], total: int) -> int:
    """The largest limit for which the sum of min(size, limit) is at most `total`."""
    left, waiting = total, sorted(sizes)
    while waiting and waiting[0] * len(waiting) <= left:
        left -= waiting.pop(0)
    return left // len(waiting) if waiting else total


def _beyond(files: list[InputFile], limit: int) -> Iterator[InputFile]:
    """The files of one package that exceed `limit` bytes."""

    def order(file: InputFile) -> tuple[bool, int]:
        is_code = suffix_of(file.source_file) not in DOCUMENT_SUFFIXES
        return is_code, xxhash.xxh3_64_intdigest(file.source_file.encode())

    used = 0
    for file in sorted(files, key=order):
        if used + file.size > limit:
            yield file
        else:
            used += file.size
