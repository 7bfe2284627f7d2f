"""The forms of rows in which code of GitHub is published: what their fields are called, and which
of them have no code, or no license, at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipeline.document import Rejected
from data_pipeline.files.inputs import InputFile, NotRead
from data_pipeline.sources.rows import Row, nested_fields
from data_pipeline.text.decoding import clean

FIELDS: Mapping[str, tuple[str, ...]] = {
    # The names of: the export of BigQuery; its sample_contents; The Stack and starcoderdata.
    "path": ("path", "sample_path", "max_stars_repo_path"),
    "repo_name": ("repo_name", "sample_repo_name", "max_stars_repo_name"),
    "ref": ("ref", "sample_ref", "max_stars_repo_head_hexsha", "revision_id"),
    "mode": ("mode", "sample_mode"),
    "symlink_target": ("symlink_target", "sample_symlink_target"),
    "binary": ("binary",),
    "license": (
        *("license", "licence", "licenses", "max_stars_repo_licenses", "detected_licenses"),
    ),
}
"""What a row says of its file -> the names of the field that has it, in order of preference.
The last names of `ref` and `license` are those of The Stack v2."""

COLUMNS = frozenset(name for names in FIELDS.values() for name in names) | {"meta"}

_JOINED = (
    "export the join of the tables contents, files and licenses, or delete this table: the rows "
    "that have content are read without it"
)
_TABLES = (
    (
        frozenset({"blob_id", "content_id"}),
        NotRead(
            "stack_v2_ids",
            "The Stack v2 has ids in place of code: download each blob_id from "
            "s3://softwareheritage/content, and add it as the column content",
        ),
    ),
    (
        frozenset({"repo_name", "ref", "path", "id"}),
        NotRead("files_table", f"BigQuery's table of paths has no code: {_JOINED}"),
    ),
    (
        frozenset({"repo_name", "license"}),
        NotRead("licenses_table", f"BigQuery's table of licenses has no code: {_JOINED}"),
    ),
    (
        frozenset({"repo_name", "language"}),
        NotRead("languages_table", f"BigQuery's table of languages has no code: {_JOINED}"),
    ),
    (
        frozenset({"commit", "tree"}),
        NotRead("commits_table", f"BigQuery's table of commits has no code: {_JOINED}"),
    ),
)
"""Fields of rows without code -> why they are not read; the first that fits."""
_CONTENTS = NotRead(
    "contents_table",
    f"BigQuery's table of contents has neither paths nor licenses: {_JOINED}",
)
_NO_LICENSE = NotRead(
    "no_license_field",
    "starcoderdata states no license of a file, and only Apache, BSD and MIT are kept; The Stack, "
    "of which it was made, has them",
)


def text_field(names: frozenset[str]) -> str:
    """The field with the code, by the names of a row's fields: `code` in github-code, `text` in
    RedPajama."""
    if "content" not in names:
        if "code" in names and names & set(FIELDS["path"]):
            return "code"
        if {"text", "meta"} <= names:
            return "text"
    return "content"


def why_not_read(names: frozenset[str]) -> NotRead | None:
    """Why rows with these fields have no code that could be used; None where they may."""
    if text_field(names) not in names:
        return next((why for fields, why in _TABLES if fields <= names), None)
    if {"id", "content"} <= names and not names & {*FIELDS["path"], "meta"}:
        return _CONTENTS
    if "max_stars_repo_name" in names and not names & set(FIELDS["license"]):
        return _NO_LICENSE
    return None


def rejected(why: NotRead, file: InputFile) -> Rejected:
    """A whole file as rejected."""
    return Rejected(why.reason, file.source_file, detail=why.advice)


def flat(row: Row) -> Row:
    """The row with the members of its field `meta` as fields, in which RedPajama has them."""
    if "meta" not in row.fields:
        return row
    return Row(row.offset, {**nested_fields(row.fields), **row.fields})


def value_of(row: Row, field: str) -> Any:
    """What a row has for a key of `FIELDS`; None where it has nothing."""
    found = (row.fields[name] for name in FIELDS[field] if row.fields.get(name))
    return next(found, None)


def words_of(row: Row, field: str) -> str:
    """The same as text; "" where it is missing or has members."""
    value = value_of(row, field)
    return clean(str(value)) if isinstance(value, (str, int)) else ""
