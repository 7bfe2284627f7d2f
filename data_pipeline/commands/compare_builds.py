"""Compares two builds by the numbers of their reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.report import page
from data_pipeline.report.account import BuildAccount
from data_pipeline.report.difference import as_text, differences

PAGE = "difference.html"


@dataclass(frozen=True)
class CompareBuilds:
    """Compare a build with an earlier one: print what differs, and write the report of the build
    with a section of that, OUT/difference.html."""

    out: Path
    """Folder of the build."""
    before: Path
    """Folder of the earlier build, or its report.json."""

    def run(self) -> str:
        before, after = _account(self.before), _account(self.out)
        path = (self.out if self.out.is_dir() else self.out.parent) / PAGE
        page.write(after, path, before=before)
        return f"{as_text(differences(before, after))}\n\npage: {path}"


def _account(place: Path) -> BuildAccount:
    path = place / "report.json" if place.is_dir() else place
    if not path.is_file():
        raise ValueError(f"{path} is missing: it is the account that every build writes")
    try:
        return BuildAccount.from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not the account of a build: {error}") from error
