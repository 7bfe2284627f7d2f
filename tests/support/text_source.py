"""A plain-text source for tests: raw files, and checksums of the build's outputs."""

import hashlib
from functools import partial
from pathlib import Path

from data_pipeline.document import Document, Source
from data_pipeline.filters import heuristics as filters
from data_pipeline.sources import folder


def trim(document: Document) -> Document:
    return document.with_text(document.text.strip())


TEXT = Source(
    name="text",
    inputs=folder.inputs,
    read=partial(folder.read, text_field="text", max_document_bytes=1000),
    edits=(trim,),
    filters=(partial(filters.too_short, min_characters=3),),
)


def many_files(root: Path, *, num_bytes: int = 12 << 20) -> Path:
    """Enough for several groups, with duplicates within groups and across them."""
    root.mkdir()
    for i in range(40):
        block = f"Paragraph {i % 30} of many: " + "word " * 20 + "\n\n"
        (root / f"{i:02}.txt").write_text(block * (num_bytes // 40 // len(block)))
    return root


def checksums(root: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.glob("*.*"))}
