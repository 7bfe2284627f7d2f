"""The account of a build: per source, what was read, kept and dropped, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from data_pipeline.documents import Manifest

_HEADINGS = ("source", "files", "MB", "ignored", "read", "kept", "text MB")


def as_json(manifests: Mapping[str, Manifest], left_out: Sequence[str]) -> dict[str, Any]:
    """All numbers of the table, for programs; `left_out` names steps that the build did without."""
    sources = {name: asdict(manifest) for name, manifest in manifests.items()}
    for fields in sources.values():
        fields["num_files"] = len(fields.pop("files"))
    return {"left_out": list(left_out), "sources": sources}


def table(manifests: Mapping[str, Manifest], left_out: Sequence[str]) -> str:
    """One line per source, below it one per drop reason and per reason to ignore a file."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for name, manifest in manifests.items():
        rows.append(
            (
                name,
                f"{manifest.num_input_files:,}",
                f"{manifest.num_input_bytes / 1e6:,.1f}",
                f"{sum(manifest.ignored.values()):,}",
                f"{manifest.num_read:,}",
                f"{manifest.num_kept:,}",
                f"{manifest.num_text_bytes / 1e6:,.1f}",
            )
        )
        rows += [(f"  - {r}", "", "", "", f"{n:,}", "", "") for r, n in manifest.dropped.items()]
        rows += [(f"  ~ {r}", "", "", f"{n:,}", "", "", "") for r, n in manifest.ignored.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    notes = ["- dropped, ~ files or folders not read; read = kept + dropped"]
    notes += [f"left out: {step}" for step in left_out]
    return "\n".join([*lines, "", *notes])
