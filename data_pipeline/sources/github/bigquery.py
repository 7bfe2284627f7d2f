"""Reads GitHub code from exports of BigQuery's `github_repos`, and plain checkouts beside them.

A row is one file of a repository, from the join of the tables `contents`, `files` and `licenses`,
exported as JSON lines or Parquet:
    repo_name, path, content, license      required (the last may be missing)
    binary, mode, symlink_target, ref      used where they exist
`sample_contents` calls the first two `sample_repo_name` and `sample_path`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from data_pipeline.document import Document, Rejected
from data_pipeline.files.inputs import InputFile, Inputs, walk
from data_pipeline.files.remote import Root
from data_pipeline.sources.github import checkouts
from data_pipeline.sources.github.code_files import is_license_file, why_not_code
from data_pipeline.sources.rows import Row, is_json, is_parquet, read_rows
from data_pipeline.text.decoding import clean
from data_pipeline.text.licenses import from_name, from_text

_MAX_LINE_BYTES = 16 << 20
"""BigQuery stores contents below 1 MiB; JSON escaping takes at most six times as much."""

_COLUMNS = frozenset(
    {
        *("repo_name", "sample_repo_name", "path", "sample_path", "license", "licence"),
        *("licenses", "binary", "mode", "sample_mode", "symlink_target"),
        *("sample_symlink_target", "ref", "sample_ref"),
    }
)
_SYMLINK_MODE = "40960"  # 0o120000, git's mode of a symbolic link


def inputs(
    root: Root, *, kinds: frozenset[str], max_file_bytes: int, skip_folders: frozenset[str]
) -> Inputs:
    """Files of rows, and the source files of checkouts.

    JSON lines and Parquet are rows, except in a checkout, where they are the project's data: in a
    folder that has a license file, or below one. Directly under `root` they always are rows, except
    for a plain `.json` beside a license file.
    """
    found = checkouts.inputs(
        root, suffixes=kinds, max_file_bytes=max_file_bytes, skip_folders=skip_folders
    )
    tree = walk(root, follow_symlinks=False, skip_folder=lambda name: name.lower() in skip_folders)
    licensed = {
        PurePosixPath(file.source_file).parent
        for file in tree.files
        if is_license_file(PurePosixPath(file.source_file).name)
    }
    rows = {file.source_file: file for file in tree.files if _has_rows(file, licensed)}
    files = sorted([*found.files, *rows.values()], key=lambda file: file.source_file)
    ignored = tuple(item for item in found.ignored if item.source_file not in rows)
    return Inputs(tuple(files), ignored)


def read(
    file: InputFile, *, kinds: frozenset[str], skip_folders: frozenset[str]
) -> Iterator[Document | Rejected]:
    """Stream the documents of a file of rows (offset: line from 1, or Parquet row from 0), or a
    source file as one document.

    License of a row: its field; where that is empty, as recognized in the license files at the top
    level of the same repository, if their rows are in the same file.
    """
    if not _is_rows_kind(file):
        yield from checkouts.read(file)
        return
    licenses: dict[str, str] | None = None
    for row in _rows(file):
        if isinstance(row, Rejected):
            yield row
            continue
        item = _document(row, file, kinds, skip_folders)
        if isinstance(item, Document) and item.license is None and item.title is not None:
            if licenses is None:
                licenses = _repository_licenses(file)
            item = replace(item, license=licenses.get(_field(row, "repo_name")))
        yield item


def _is_rows_kind(file: InputFile) -> bool:
    return is_json(file.path) or is_parquet(file.path)


def _has_rows(file: InputFile, licensed: set[PurePosixPath]) -> bool:
    if not _is_rows_kind(file):
        return False
    place = PurePosixPath(file.source_file)
    is_at_top = len(place.parts) == 1
    is_in_checkout = any(folder in licensed for folder in place.parents)
    if place.suffix.lower() == ".json":
        return is_at_top and not is_in_checkout
    return is_at_top or not is_in_checkout


def _rows(file: InputFile) -> Iterator[Row | Rejected]:
    return read_rows(
        file,
        text_field="content",
        is_wanted=_COLUMNS.__contains__,
        max_line_bytes=_MAX_LINE_BYTES,
    )


def _document(
    row: Row, file: InputFile, kinds: frozenset[str], skip_folders: frozenset[str]
) -> Document | Rejected:
    path, repository = PurePosixPath(_field(row, "path")), _field(row, "repo_name")
    if not path.name:
        detail = f"no field path or sample_path; it has: {', '.join(sorted(row.fields)[:10])}"
        return Rejected("no_path", file.source_file, row.offset, detail)
    reason = _why_no_code(row, path, kinds, skip_folders)
    content = row.fields["content"]
    if reason is None and content is None:
        reason = "no_content"
    elif reason is None and not isinstance(content, str):
        reason = "text_not_string"
    elif reason is None and "\0" in content[:8_000]:
        reason = "binary"
    if reason is not None:
        return Rejected(reason, file.source_file, row.offset, f"{repository}/{path}".lstrip("/"))
    ref = _field(row, "ref").removeprefix("refs/heads/") or "HEAD"
    place = quote(f"{repository}/blob/{ref}/{path}", safe="/@+,=~")
    return Document(
        text=clean(content),
        source_file=file.source_file,
        offset=row.offset,
        url=f"https://github.com/{place}" if repository else None,
        title=f"{repository}/{path}".lstrip("/"),
        license=_license(row),
    )


def _why_no_code(
    row: Row, path: PurePosixPath, kinds: frozenset[str], skip_folders: frozenset[str]
) -> str | None:
    if _field(row, "binary").lower() == "true":
        return "binary"
    if _field(row, "symlink_target") or _field(row, "mode") == _SYMLINK_MODE:
        return "symlink"
    if any(folder.lower() in skip_folders for folder in path.parts[:-1]):
        return "skipped_folder"
    return why_not_code(path.name, kinds)


def _field(row: Row, name: str) -> str:
    """A field as text, under either of its names; "" where it is missing or has members."""
    value = row.fields.get(name, row.fields.get(f"sample_{name}"))
    return clean(str(value)) if isinstance(value, (str, int)) else ""


def _license(row: Row) -> str | None:
    """License of the row's field; a list of licenses is joined with AND."""
    stated: Any = next(
        (row.fields[name] for name in ("license", "licence", "licenses") if row.fields.get(name)),
        None,
    )
    names = stated if isinstance(stated, list) else [stated]
    if not all(isinstance(name, str) for name in names):
        return None
    licenses = {from_name(name) or f"LicenseRef-{'-'.join(name.split())}" for name in names}
    return clean(" AND ".join(sorted(licenses - {"LicenseRef-"}))) or None


def _repository_licenses(file: InputFile) -> dict[str, str]:
    """License per repository, from top-level license files among the rows of `file`."""
    texts: dict[str, list[str]] = defaultdict(list)
    for row in _rows(file):
        if isinstance(row, Row) and is_license_file(_field(row, "path")):
            content = row.fields["content"]
            texts[_field(row, "repo_name")].append(content if isinstance(content, str) else "")
    named = {repository: from_text("".join(found)) for repository, found in texts.items()}
    return {repository: license for repository, license in named.items() if license is not None}
