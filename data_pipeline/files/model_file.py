"""Model files that a corpus names: checked before a build starts, identified by their content."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.files.checksum import file_checksum


@dataclass(frozen=True)
class ModelFile:
    """A file that exists, and what is in it. Bound to an edit, it makes a build notice that another
    model lies at the same path; where the file lies makes no difference."""

    path: Path = field(repr=False)
    name: str
    xxh3_64: str


def model_file(
    path: Path, *, what: str, published: str, made_by: str, left_out_by: str
) -> ModelFile:
    """The file at `path`; ValueError if it is not there, which says what it is (`what`), where it
    is published, what makes one here, and how to do without.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is missing"
        raise ValueError(
            f"{path} {found}; it should be {what}. Published: {published}. Made here by: "
            f"{made_by}. Without it: {left_out_by}"
        )
    return ModelFile(path.resolve(), path.name, file_checksum(path))
