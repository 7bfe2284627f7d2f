"""Inspects dropped documents and edits of a built dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from data_pipeline.corpus import Corpus
from data_pipeline.document import Document, Rejected, Source
from data_pipeline.files.remote import Root
from data_pipeline.report.inspection import RawDocuments, difference, drops, kept, steps

SHOWN_LINES = 40


def show(
    corpus: Corpus, out: Path, name: str, *, reason: str | None, edits: bool, limit: int
) -> None:
    """Print dropped documents of the source `name` (for one reason), or with `edits` the changes to
    kept ones."""
    try:
        source, root = corpus.source(name)
    except ValueError as error:
        raise ValueError(f"--inspect: {error}") from error
    folder = out / "documents" / name
    found = _edits(source, root, folder) if edits else _dropped(source, root, folder, reason)
    for text in islice(found, limit):
        print(text, end="\n\n")


def _dropped(source: Source, root: Root, folder: Path, reason: str | None) -> Iterator[str]:
    """Dropped documents with the beginning of their text after the last edit."""
    raw_documents = RawDocuments(source, root)
    for drop in drops(folder, reason):
        place = drop.source_file if drop.offset is None else f"{drop.source_file}:{drop.offset}"
        heading = f"== {drop.reason}  {place}" + (f"  ({drop.why})" if drop.why else "")
        item = raw_documents.at(drop.source_file, drop.offset)
        if item is None:
            yield f"{heading}\n(no longer among the raw files)"
        elif isinstance(item, Rejected):
            yield heading
        else:
            done, _ = steps(source, item)
            yield f"{heading}\n{_about(item)}{_beginning(done[-1].after if done else item.text)}"


def _edits(source: Source, root: Root, folder: Path) -> Iterator[str]:
    """Kept documents with what each edit changed."""
    raw_documents = RawDocuments(source, root)
    for source_file, offset in kept(folder):
        item = raw_documents.at(source_file, offset)
        if not isinstance(item, Document):
            continue
        done, _ = steps(source, item)
        parts = [f"== {source_file}" + ("" if offset is None else f":{offset}"), _about(item)]
        for step in done:
            changed = step.before != step.after
            parts.append(f"-- {step.edit}" + ("" if changed else ": nothing changed"))
            if changed:
                parts.append(difference(step, max_lines=SHOWN_LINES))
        yield "\n".join(part for part in parts if part)


def _about(document: Document) -> str:
    known = (document.title, document.url, document.language, document.license)
    line = "  ".join(value for value in known if value)
    return f"{line}\n" if line else ""


def _beginning(text: str) -> str:
    lines: Sequence[str] = text.splitlines()
    rest = len(lines) - SHOWN_LINES
    shown = [f"    {line[:200]}" for line in lines[:SHOWN_LINES]]
    return "\n".join(shown + ([f"    ... {rest} more lines"] if rest > 0 else []))
