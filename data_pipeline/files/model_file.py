"""Model files that a corpus uses: checked before a build starts, identified by their checksum."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.files.checksum import file_checksum


@dataclass(frozen=True)
class ModelFile:
    """An existing file and the checksum of its content. Bound to an edit, it invalidates a build's
    cache when the model at the path changes; the path itself does not count."""

    path: Path = field(repr=False)
    name: str
    xxh3_64: str


def model_file(
    path: Path, *, what: str, published: str, made_by: str, left_out_by: str
) -> ModelFile:
    """The file at `path`. ValueError if it is missing, stating what it is (`what`), where it is
    published, which command makes one, and how to do without.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is missing"
        raise ValueError(
            f"{path} {found}; it should be {what}. Published: {published}. To make one: "
            f"{made_by}. To do without: {left_out_by}"
        )
    return ModelFile(path.resolve(), path.name, file_checksum(path))
