"""The difference between two builds: which numbers of their accounts differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.report.account import BuildAccount, SourceAccount


@dataclass(frozen=True)
class Difference:
    """A number that is not the same in two builds."""

    source: str
    what: str
    """"kept documents", or "dropped: REASON"."""
    before: int
    after: int

    @property
    def change(self) -> int:
        return self.after - self.before


def differences(before: BuildAccount, after: BuildAccount) -> list[Difference]:
    """All numbers of documents, bytes and tokens that differ, source by source; a source that only
    one build has counts as empty in the other."""
    own = {source.name: dict(_numbers(source)) for source in after.sources}
    other = {source.name: dict(_numbers(source)) for source in before.sources}
    found = []
    for name in dict.fromkeys([*own, *other]):
        mine, theirs = own.get(name, {}), other.get(name, {})
        for what in dict.fromkeys([*mine, *theirs]):
            found.append(Difference(name, what, theirs.get(what, 0), mine.get(what, 0)))
    return [row for row in found if row.change]


def as_text(rows: list[Difference]) -> str:
    """One line per number, as a table; or that there is none."""
    if not rows:
        return "the two builds have the same numbers"
    table = [("source", "", "before", "after", "change")]
    table += [
        (row.source, row.what, f"{row.before:,}", f"{row.after:,}", f"{row.change:+,}")
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}  {e:>{widths[4]}}"
        for a, b, c, d, e in table
    )


def _numbers(source: SourceAccount) -> Iterator[tuple[str, int]]:
    yield "input files", source.num_input_files
    yield "input bytes", source.num_input_bytes
    yield "read", source.stages[0].documents
    for drop in source.dropped:
        yield f"dropped: {drop.reason}", drop.documents
    yield "kept documents", source.num_documents
    yield "kept text bytes", source.num_text_bytes
    if source.num_tokens is not None:
        yield "tokens", source.num_tokens
