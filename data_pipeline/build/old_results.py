"""What other code, thresholds or files left in the folders of a build.

It stays until somebody removes it: a part of a large corpus takes days to make, and whoever goes
back to what the corpus was before finds it again.
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
    """Parts; and marks of repeated paragraphs, of groups whose parts are not all made."""
    rules: tuple[Path, ...] = ()
    """What rules found."""

    def keep(self) -> None:
        """Do nothing about them."""

    def forget(self) -> None:
        """Remove them."""
        for folder in (*self.parts, *self.rules):
            shutil.rmtree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()


def num_bytes(folders: Iterable[Path]) -> int:
    """Of all files in them."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files)


def tidied(
    sources: Sequence[Sequence[Part]], rules: Sequence[RuleFolder], rules_folder: Path
) -> OldResults:
    """The results in the folders of a finished build that are not its own.

    What killed processes left is removed, and so are the build's own marks of repeated paragraphs:
    they are in its parts.
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
    """The folders in it; unfinished ones, whose names are hidden, are removed."""
    for inner in _folders(folder):
        if inner.name.startswith("."):
            shutil.rmtree(inner)
        else:
            yield inner


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.exists() else []
