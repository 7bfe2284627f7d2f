"""Inspects dropped documents and the effect of edits, by reading the raw files again.

A documents folder stores the provenance of every dropped document and not its text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.document import Document, Rejected, Source, Stage, items_of
from data_pipeline.documents_folder import read_manifest
from data_pipeline.files.inputs import InputFile
from data_pipeline.files.remote import Root


@dataclass(frozen=True)
class Drop:
    """One dropped document, as in the ledger."""

    reason: str
    source_file: str
    offset: int | None
    id: str | None
    detail: str | None
    stage: Stage
    num_bytes: int | None
    kept_source: str | None
    kept_id: str | None
    similarity: float | None

    @property
    def why(self) -> str:
        """The drop's detail; empty where there is none."""
        if self.kept_id is None:
            return self.detail or ""
        return f"{self.similarity:.3f} like {self.kept_source} {self.kept_id}"


@dataclass(frozen=True)
class Step:
    """Effect of one edit on a document's text."""

    edit: str
    before: str
    after: str


def drops(folder: Path, reason: str | None) -> Iterator[Drop]:
    """The dropped documents of a documents folder in order; all, or those with one drop reason.

    ValueError for a reason that the folder does not have.
    """
    manifest = read_manifest(folder)
    if reason is not None and reason not in manifest.dropped:
        names = ", ".join(manifest.dropped) or "nothing"
        raise ValueError(f"{folder} has no drop reason {reason}; it dropped: {names}")
    for path in sorted(folder.glob("dropped-*.parquet")):
        table = pq.read_table(path)
        if reason is not None:
            table = table.filter(pc.equal(table.column("reason"), reason))
        for row in table.to_pylist():
            yield Drop(**row)


def kept(folder: Path) -> Iterator[tuple[str, int | None]]:
    """(source_file, offset) of the documents that a folder holds, in order."""
    for file in read_manifest(folder).files:
        table = pq.read_table(folder / file.path, columns=["source_file", "offset"])
        yield from zip(
            table.column("source_file").to_pylist(), table.column("offset").to_pylist(), strict=True
        )


class RawDocuments:
    """Looks up the documents of a source's raw files by file and offset.

    A file is read from its start; lookups in reading order read every file once.
    """

    def __init__(self, source: Source, root: Root) -> None:
        self._source = source
        self._files = {file.source_file: file for file in source.inputs(root).files}
        self._open: tuple[str, Iterator[Document | Rejected]] | None = None

    def at(self, source_file: str, offset: int | None) -> Document | Rejected | None:
        """What the reader yields there now; None if the file is gone or nothing is there."""
        file = self._files.get(source_file)
        if file is None:
            return None
        if self._open is not None and self._open[0] == source_file:
            found = self._next(self._open[1], offset)
            if found is not None:
                return found
        return self._next(self._from_start(file), offset)

    def _from_start(self, file: InputFile) -> Iterator[Document | Rejected]:
        items = items_of(self._source, file)
        self._open = (file.source_file, items)
        return items

    @staticmethod
    def _next(
        items: Iterator[Document | Rejected], offset: int | None
    ) -> Document | Rejected | None:
        return next((item for item in items if item.offset == offset), None)


def steps(source: Source, document: Document) -> tuple[list[Step], str | None]:
    """The effect of each edit, and the drop reason if an edit or filter drops the document."""
    done: list[Step] = []
    for edit in source.edits:
        edited = edit(document)
        if isinstance(edited, Rejected):
            return done, edited.reason
        done.append(Step(_name(edit), document.text, edited.text))
        document = edited
    if not document.text.strip():
        return done, "empty"
    reasons = (why_dropped(document) for why_dropped in source.filters)
    return done, next((reason for reason in reasons if reason is not None), None)


def difference(step: Step, *, max_lines: int) -> str:
    """Diff of an edit: lines removed (-) and added (+)."""
    lines = list(
        difflib.unified_diff(
            step.before.splitlines(), step.after.splitlines(), n=1, lineterm="", fromfile="before"
        )
    )[2:]
    rest = len(lines) - max_lines
    shown = [line[:200] for line in lines[:max_lines]]
    return "\n".join(shown + ([f"... {rest} more lines"] if rest > 0 else []))


def _name(function: Any) -> str:
    plain = function.func if isinstance(function, partial) else function
    return str(plain.__name__)
