"""Reads GitHub code from exports of BigQuery's `github_repos`, from other data sets of rows, and
from checkouts beside them.

A row is one file of a repository, from the join of the tables `contents`, `files` and `licenses`,
exported as JSON lines or Parquet:
    repo_name, path, content, license      required (the last may be missing)
    binary, mode, symlink_target, ref      used where they exist
`row_forms` has the names of these fields in other data sets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from urllib.parse import quote

from data_pipeline.document import Document, Rejected
from data_pipeline.files.inputs import InputFile, Inputs, walk
from data_pipeline.files.remote import Root
from data_pipeline.sources.github import archived_checkouts, checkouts, row_forms
from data_pipeline.sources.github.code_files import is_license_file, why_not_code
from data_pipeline.sources.github.row_forms import words_of
from data_pipeline.sources.rows import Row, field_names, is_json, is_parquet, read_rows
from data_pipeline.text.decoding import clean
from data_pipeline.text.licenses import from_name, from_text

_MAX_LINE_BYTES = 16 << 20
"""BigQuery stores contents below 1 MiB; JSON escaping takes at most six times as much."""

_SYMLINK_MODE = "40960"  # 0o120000, git's mode of a symbolic link


def inputs(
    root: Root, *, kinds: frozenset[str], max_file_bytes: int, skip_folders: frozenset[str]
) -> Inputs:
    """Files of rows, archives of checkouts, and the source files of checkouts.

    JSON lines and Parquet are rows, except in a checkout, where they are the project's data: in a
    folder that has a license file, or below one. Directly under `root` they always are rows, except
    for a plain `.json` beside a license file. Archives likewise.
    """
    found = checkouts.inputs(
        root, suffixes=kinds, max_file_bytes=max_file_bytes, skip_folders=skip_folders
    )
    tree = walk(root, follow_symlinks=False, skip_folder=lambda name: name.lower() in skip_folders)
    licensed = {
        PurePosixPath(file.source_file).parent
        for file in tree.files
        if is_license_file(PurePosixPath(file.source_file).name) and not _is_rows_kind(file)
    }
    rows = {file.source_file: file for file in tree.files if _has_rows(file, licensed)}
    files = sorted([*found.files, *rows.values()], key=lambda file: file.source_file)
    ignored = tuple(item for item in found.ignored if item.source_file not in rows)
    return Inputs(tuple(files), ignored)


def read(
    file: InputFile, *, kinds: frozenset[str], max_file_bytes: int, skip_folders: frozenset[str]
) -> Iterator[Document | Rejected]:
    """Stream the documents of a file of rows (offset: line from 1, or Parquet row from 0) or of an
    archive (offset: the member's, in bytes), or a source file as one document.

    License of a row: its field; where that is empty, as recognized in the license files at the top
    level of the same repository, if their rows are in the same file.
    """
    if archived_checkouts.is_archive(file.path.name):
        yield from archived_checkouts.read(
            file, kinds=kinds, max_file_bytes=max_file_bytes, skip_folders=skip_folders
        )
        return
    if not _is_rows_kind(file):
        yield from checkouts.read(file)
        return
    names = field_names(file, max_line_bytes=_MAX_LINE_BYTES)
    if (why := row_forms.why_not_read(names)) is not None:
        yield row_forms.rejected(why, file)
        return
    text_field = row_forms.text_field(names)
    licenses: dict[str, str] | None = None
    for row in _rows(file, text_field):
        if isinstance(row, Rejected):
            yield row
            continue
        item = _document(row, text_field, file, kinds, skip_folders)
        if isinstance(item, Document) and item.license is None and item.title is not None:
            if licenses is None:
                licenses = _repository_licenses(file, text_field)
            item = replace(item, license=licenses.get(words_of(row, "repo_name")))
        yield item


def _is_rows_kind(file: InputFile) -> bool:
    return is_json(file.path) or is_parquet(file.path)


def _has_rows(file: InputFile, licensed: set[PurePosixPath]) -> bool:
    """Whether it is a file of rows or an archive, and no project's data."""
    if not _is_rows_kind(file) and not archived_checkouts.is_archive(file.path.name):
        return False
    place = PurePosixPath(file.source_file)
    is_at_top = len(place.parts) == 1
    is_in_checkout = any(folder in licensed for folder in place.parents)
    if place.suffix.lower() == ".json":
        return is_at_top and not is_in_checkout
    return is_at_top or not is_in_checkout


def _rows(file: InputFile, text_field: str) -> Iterator[Row | Rejected]:
    for row in read_rows(
        file,
        text_field=text_field,
        is_wanted=row_forms.COLUMNS.__contains__,
        max_line_bytes=_MAX_LINE_BYTES,
    ):
        yield row_forms.flat(row) if isinstance(row, Row) else row


def _document(
    row: Row,
    text_field: str,
    file: InputFile,
    kinds: frozenset[str],
    skip_folders: frozenset[str],
) -> Document | Rejected:
    path = PurePosixPath(words_of(row, "path").lstrip("/"))
    repository = words_of(row, "repo_name")
    if not path.name:
        detail = f"no field path or sample_path; it has: {', '.join(sorted(row.fields)[:10])}"
        return Rejected("no_path", file.source_file, row.offset, detail)
    reason = _why_no_code(row, path, kinds, skip_folders)
    content = row.fields[text_field]
    if reason is None and content is None:
        reason = "no_content"
    elif reason is None and not isinstance(content, str):
        reason = "text_not_string"
    elif reason is None and "\0" in content[:8_000]:
        reason = "binary"
    if reason is not None:
        return Rejected(reason, file.source_file, row.offset, f"{repository}/{path}".lstrip("/"))
    ref = words_of(row, "ref").removeprefix("refs/heads/") or "HEAD"
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
    if words_of(row, "binary").lower() == "true":
        return "binary"
    if words_of(row, "symlink_target") or words_of(row, "mode") == _SYMLINK_MODE:
        return "symlink"
    if any(folder.lower() in skip_folders for folder in path.parts[:-1]):
        return "skipped_folder"
    return why_not_code(path.name, kinds)


def _license(row: Row) -> str | None:
    """License of the row's field; a list of licenses is joined with AND."""
    stated = row_forms.value_of(row, "license")
    names = stated if isinstance(stated, list) else [stated]
    if not all(isinstance(name, str) for name in names):
        return None
    licenses = {from_name(name) or f"LicenseRef-{'-'.join(name.split())}" for name in names}
    return clean(" AND ".join(sorted(licenses - {"LicenseRef-"}))) or None


def _repository_licenses(file: InputFile, text_field: str) -> dict[str, str]:
    """License per repository, from top-level license files among the rows of `file`."""
    texts: dict[str, list[str]] = defaultdict(list)
    for row in _rows(file, text_field):
        if isinstance(row, Row) and is_license_file(words_of(row, "path")):
            content = row.fields[text_field]
            texts[words_of(row, "repo_name")].append(content if isinstance(content, str) else "")
    named = {repository: from_text("".join(found)) for repository, found in texts.items()}
    return {repository: license for repository, license in named.items() if license is not None}
