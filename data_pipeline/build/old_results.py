"""Stale cache entries of a build: parts and rule results of other code, thresholds or files.

They are kept until removed, and reused when a change is reverted: the parts of a large corpus take
days to build.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.build.parts import Part
from data_pipeline.build.repeated_paragraphs import marks_of
from data_pipeline.build.run_rules import RuleFolder


@dataclass(frozen=True)
class OldResults:
    """Folders of results that a build did not use."""

    parts: tuple[Path, ...] = ()
    """Parts; and masks of repeated paragraphs of unfinished groups."""
    rules: tuple[Path, ...] = ()
    """Results of rules."""

    def keep(self) -> None:
        """Keep them on disk."""

    def forget(self) -> None:
        """Delete them."""
        for folder in (*self.parts, *self.rules):
            shutil.rmtree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()


def num_bytes(folders: Iterable[Path]) -> int:
    """Total size of all files in the folders."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files)


def clean_up(
    sources: Sequence[Sequence[Part]], rules: Sequence[RuleFolder], rules_folder: Path
) -> OldResults:
    """Delete temporary files of a finished build; return the results that it did not use.

    Temporary are what killed processes left, and the build's own masks of repeated paragraphs,
    which its parts no longer need.
    """
    old_parts: list[Path] = []
    for parts in sources:
        for marks in {marks_of(part) for part in parts}:
            if marks is not None:
                shutil.rmtree(marks, ignore_errors=True)
        used = {part.folder.name for part in parts}
        root = parts[0].folder.parent.parent
        for half in _folders(root):
            old_parts += [folder for folder in _whole(half) if folder.name not in used]
            if not any(half.iterdir()):
                half.rmdir()
    used = {step.folder.name for step in rules}
    old_rules = [folder for folder in _whole(rules_folder) if folder.name not in used]
    return OldResults(tuple(old_parts), tuple(old_rules))


def _whole(folder: Path) -> Iterator[Path]:
    """The complete folders in it; unfinished ones, whose names are hidden, are deleted."""
    for inner in _folders(folder):
        if inner.name.startswith("."):
            shutil.rmtree(inner)
        else:
            yield inner


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.exists() else []
