"""The summary table that a build prints: per source, documents read, kept, and dropped by
reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from data_pipeline.documents_folder import Manifest
from data_pipeline.filters.decontamination import IndexAccount

_HEADINGS = ("source", "files", "MB", "ignored", "read", "kept", "text MB")
_SET_HEADINGS = (
    "evaluation set",
    "items",
    "looked for",
    "too short",
    "no distinctive n-gram",
    "hits",
)


def table(
    manifests: Mapping[str, Manifest],
    left_out: Sequence[str],
    evaluations: IndexAccount | None = None,
) -> str:
    """One line per source, below it one per drop reason and per reason to ignore a file; one line
    per evaluation set with the documents that have items of it.
    """
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
    notes = ["- dropped, ~ files or folders not read; read = kept + dropped"]
    advice = {f"~ {why}: {words}" for m in manifests.values() for why, words in m.advice.items()}
    notes += sorted(advice)
    notes += [f"left out: {step}" for step in left_out]
    lines = [*_aligned(rows), "", *notes]
    if evaluations is not None:
        lines += ["", *_evaluation_lines(manifests, evaluations)]
    return "\n".join(lines)


def _evaluation_lines(manifests: Mapping[str, Manifest], evaluations: IndexAccount) -> list[str]:
    hits = _hits(manifests, evaluations)
    rows: list[tuple[str, ...]] = [_SET_HEADINGS]
    for name, account in evaluations.sets.items():
        numbers = (account.items, account.indexed, account.too_short, account.not_distinctive)
        rows.append((name, *(f"{n:,}" for n in (*numbers, hits[name]))))
    problems = [f"not read: {p.file}: {p.reason}" for p in evaluations.problems]
    note = "hits: documents, dropped or flagged, that have an item; one may have items of many sets"
    return [*_aligned(rows), "", note, *problems]


def _hits(manifests: Mapping[str, Manifest], evaluations: IndexAccount) -> dict[str, int]:
    """Documents per evaluation set, also of those that have none."""
    found = sum((Counter(m.contaminated) for m in manifests.values()), Counter[str]())
    return {name: found[name] for name in evaluations.sets}


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
