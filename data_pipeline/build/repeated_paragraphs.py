"""Finds repeated paragraphs within groups of input files, before the parts are built.

Consecutive groups of input files, up to a total size in bytes, are deduplicated together
(`dedup/paragraphs.py`). Their files are read once for the paragraph hashes and once more for the
documents.

    <parts>/marked/<fingerprint of the group>/hashes/00000   of each part, until deduplicated
                                              group-00000/mask-00000   of each part: its keep mask
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipeline.build.parts import Part
from data_pipeline.dedup.paragraph_hashes import write_paragraph_hashes
from data_pipeline.dedup.paragraphs import keep_masks
from data_pipeline.document import Document, items_of
from data_pipeline.executors.executor import Executor
from data_pipeline.files.atomic import atomic_directory
from data_pipeline.files.inputs import InputFile

Files = tuple[InputFile, ...]


def paragraph_groups(groups: Sequence[Files], max_bytes: int | None) -> Iterator[list[Files]]:
    """Consecutive groups of files whose paragraphs are deduplicated together; None: one group,
    without deduplication.

    The grouping depends on names and sizes only.
    """
    together: list[Files] = []
    used = 0
    for files in groups:
        size = sum(file.size for file in files)
        if together and max_bytes is not None and used + size > max_bytes:
            yield together
            together, used = [], 0
        together.append(files)
        used += size
    if together:
        yield together


def mask_folder(group: Path, index: int) -> Path:
    """Folder of the keep mask that `mark_repeated` writes for a part of a group."""
    return group / "group-00000" / f"mask-{index:05}"


def marks_of(part: Part) -> Path | None:
    """Folder of the hashes and masks of the part's group, not needed once its parts are built. None
    where paragraphs are not deduplicated."""
    return None if part.mask is None else part.mask.parent.parent


def groups_to_mark(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Groups of parts that still need keep masks: a part is missing and not all masks are
    written."""
    for mask, members in itertools.groupby(parts, key=lambda part: part.mask and part.mask.parent):
        group = list(members)
        if mask is None or all(part.is_whole() for part in group):
            continue
        if not all(part.mask is not None and part.mask.exists() for part in group):
            yield group


def write_hashes(part: Part) -> None:
    """Write the hashes of a part's paragraphs, unless they exist."""
    folder = _hashes(part)
    if folder.exists():
        return
    with atomic_directory(folder) as temporary:
        items = (item for file in part.files for item in items_of(part.source, file))
        write_paragraph_hashes(
            (item.text for item in items if isinstance(item, Document)), temporary
        )


def mark_repeated(group: Sequence[Part], executor: Executor, memory_budget: int) -> None:
    """Compare the parts' hashes, and write each part's keep mask."""
    folders = [_hashes(part) for part in group]
    out = folders[0].parent.parent
    keep_masks([folders], out, executor=executor, memory_budget=memory_budget)
    shutil.rmtree(out / "hashes")


def _hashes(part: Part) -> Path:
    assert part.mask is not None, f"{part.folder} is without paragraph deduplication"
    return part.mask.parent.parent / "hashes" / part.mask.name.removeprefix("mask-")
