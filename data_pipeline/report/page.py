"""Renders the build report as one self-contained HTML page (no network, no other files).

`page.html` is its Jinja template; style and script are inlined. All text from documents is escaped
by the template engine, and the page's Content-Security-Policy allows its own script only, so that a
document could not run a script even if it got past that.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from data_pipeline.build.document_counts import STEPS
from data_pipeline.build.duplicate_samples import Cluster, Member
from data_pipeline.files.atomic import write_atomic
from data_pipeline.report import formatting
from data_pipeline.report.account import (
    BuildAccount,
    DropAccount,
    DropExample,
    KeptSample,
    MixtureRow,
    SourceAccount,
    stage_of_drop,
)
from data_pipeline.report.difference import differences
from data_pipeline.report.flow import flows
from data_pipeline.report.formatting import Run

MAX_EXAMPLES = 4
"""Maximum shown per source and reason."""
MAX_CLUSTERS = 20
"""Maximum shown per rule."""
MAX_REMOVED = 4
"""Maximum shown beside the kept document of a cluster."""
MAX_NAMES = 8
"""Languages or licenses listed per source; the rest is summed."""
NUM_COLORS = 10


def write(account: BuildAccount, path: Path, *, before: BuildAccount | None = None) -> None:
    """Write the page to the file `path`, atomically."""
    write_atomic(path, render(account, before=before).encode("utf-8"))


def render(account: BuildAccount, *, before: BuildAccount | None = None) -> str:
    """The page as HTML; with a section on what differs from the build `before`."""
    folder = files("data_pipeline.report")
    script = folder.joinpath("page.js").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": formatting.count,
        "size": formatting.size,
        "visible": formatting.visible,
    }
    environment.globals["percent"] = formatting.percent
    template = environment.from_string(folder.joinpath("page.html").read_text("utf-8"))
    page = template.render(
        account=account,
        style=Markup(folder.joinpath("page.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        colors={source.name: i % NUM_COLORS for i, source in enumerate(account.sources)},
        totals=_totals(account),
        flows=flows(account),
        reasons=_reasons(account),
        clusters=_clusters(account.clusters),
        histograms=_histograms(account.sources),
        scores={s.name: _scores(s) for s in account.sources},
        samples=_by_source(account.samples),
        before=before,
        differences=[] if before is None else differences(before, account),
        languages={s.name: _parts(s.languages, "not known") for s in account.sources},
        licenses={s.name: _licenses(s) for s in account.sources},
        mixture=_mixture(account),
        states_shares=any(row.stated_share is not None for row in account.mixture),
        max_examples=MAX_EXAMPLES,
        max_clusters=MAX_CLUSTERS,
        num_colors=NUM_COLORS,
    )
    # A lone surrogate cannot be encoded; only an account that was not read from Parquet has any.
    return page.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class _Totals:
    input_files: int
    input_bytes: int
    read: int
    no_documents: int
    """Of these: records that are no documents, such as redirects."""
    read_bytes: int
    kept: int
    kept_bytes: int
    tokens: int | None
    ignored: int


def _totals(account: BuildAccount) -> _Totals:
    sources = account.sources
    tokens = [source.num_tokens for source in sources if source.num_tokens is not None]
    return _Totals(
        input_files=sum(source.num_input_files for source in sources),
        input_bytes=sum(source.num_input_bytes for source in sources),
        read=sum(source.stages[0].documents for source in sources),
        no_documents=sum(source.num_no_documents for source in sources),
        read_bytes=sum(source.stages[0].text_bytes for source in sources),
        kept=sum(source.num_documents for source in sources),
        kept_bytes=sum(source.num_text_bytes for source in sources),
        tokens=sum(tokens) if tokens else None,
        ignored=sum(sum(source.ignored.values()) for source in sources),
    )


# -- what was dropped -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _PerSource:
    source: str
    documents: int
    text_bytes: int
    share: float
    """Relative to the most frequent reason, in percent: the width of a bar."""
    log_share: float
    """The same where the width of the whole bar is by the logarithm of its number."""


@dataclass(frozen=True)
class _Reason:
    stage: str
    reason: str
    documents: int
    text_bytes: int
    no_documents: int
    per_source: tuple[_PerSource, ...]
    examples: tuple[DropExample, ...]


def _reasons(account: BuildAccount) -> list[_Reason]:
    """Sorted by number of documents, descending."""
    counts: dict[tuple[str, str], list[tuple[str, DropAccount]]] = {}
    for source in account.sources:
        for drop in source.dropped:
            counts.setdefault((drop.stage, drop.reason), []).append((source.name, drop))
    examples: dict[tuple[str, str], dict[str, list[DropExample]]] = {}
    for example in account.examples:
        key = (stage_of_drop(example.stage, example.reason), example.reason)
        examples.setdefault(key, {}).setdefault(example.source, []).append(example)
    most = max((sum(d.documents for _, d in drops) for drops in counts.values()), default=1)
    reasons = [
        _Reason(
            stage,
            reason,
            sum(drop.documents for _, drop in drops),
            sum(drop.text_bytes for _, drop in drops),
            sum(drop.no_documents for _, drop in drops),
            tuple(_per_source(drops, most)),
            tuple(
                example
                for some in examples.get((stage, reason), {}).values()
                for example in some[:MAX_EXAMPLES]
            ),
        )
        for (stage, reason), drops in counts.items()
    ]
    return sorted(reasons, key=lambda item: (-item.documents, item.stage, item.reason))


def _per_source(drops: Sequence[tuple[str, DropAccount]], most: int) -> Iterator[_PerSource]:
    """Most first. `most`: documents of the most frequent reason."""
    total = sum(drop.documents for _, drop in drops)
    width = 100 * math.log1p(total) / math.log1p(max(1, most))
    for name, drop in sorted(drops, key=lambda item: -item[1].documents):
        share, part = drop.documents / max(1, most), drop.documents / max(1, total)
        yield _PerSource(name, drop.documents, drop.text_bytes, 100 * share, width * part)


@dataclass(frozen=True)
class _ShownMember:
    member: Member
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class _ShownCluster:
    kept: _ShownMember
    removed: tuple[_ShownMember, ...]
    num_removed: int
    similarities: str
    is_equal: bool
    """No differences are marked."""


def _clusters(clusters: Sequence[Cluster]) -> dict[str, list[_ShownCluster]]:
    """Per rule, in the account's order."""
    shown: dict[str, list[_ShownCluster]] = {}
    for cluster in clusters:
        of_rule = shown.setdefault(cluster.rule, [])
        if len(of_rule) < MAX_CLUSTERS:
            of_rule.append(_shown_cluster(cluster))
    return shown


def _shown_cluster(cluster: Cluster) -> _ShownCluster:
    members = cluster.removed[:MAX_REMOVED]
    text = formatting.visible(cluster.kept.text)
    texts = [formatting.visible(member.text) for member in members]
    kept = _ShownMember(cluster.kept, tuple(formatting.differing(text, texts)))
    removed = tuple(
        _ShownMember(member, tuple(formatting.differing(other, [text])))
        for member, other in zip(members, texts, strict=True)
    )
    known = sorted({f"{m.similarity:.2f}" for m in members if m.similarity is not None})
    ends = known if len(known) < 2 else [known[0], known[-1]]
    is_equal = not any(run.marked for shown in (kept, *removed) for run in shown.runs)
    return _ShownCluster(kept, removed, cluster.num_removed, " to ".join(ends), is_equal)


# -- what is kept ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bar:
    name: str
    value: int
    percent: float
    """Of the highest bar, or of the total."""


def _histograms(sources: Sequence[SourceAccount]) -> dict[str, list[_Bar]]:
    """Documents per length bucket; the same buckets for every source."""
    bits = [int(bucket) for source in sources for bucket in source.lengths]
    if not bits:
        return {}
    result = {}
    for source in sources:
        highest = max(source.lengths.values(), default=1)
        values = [source.lengths.get(str(bucket), 0) for bucket in range(min(bits), max(bits) + 1)]
        result[source.name] = [
            _Bar(formatting.length_range(bucket), value, 100 * value / highest)
            for bucket, value in enumerate(values, min(bits))
        ]
    return result


_SCORES = {
    "language_score": "Probability of the language",
    "reference_score": "Probability of a page that Wikipedia cites",
    "perplexity": "Perplexity",
}


def _scores(source: SourceAccount) -> dict[str, list[_Bar]]:
    """Documents per range of each score that the source has, by the score's title."""
    shown = {}
    for name, title in _SCORES.items():
        counts = {int(step): count for step, count in source.scores.get(name, {}).items()}
        if not counts:
            continue
        is_probability = name != "perplexity"
        steps = range(STEPS) if is_probability else range(min(counts), max(counts) + 1)
        of_step = formatting.probability_range if is_probability else formatting.power_range
        highest = max(counts.values())
        shown[title] = [
            _Bar(of_step(step), counts.get(step, 0), 100 * counts.get(step, 0) / highest)
            for step in steps
        ]
    return shown


def _by_source(samples: Iterable[KeptSample]) -> dict[str, list[KeptSample]]:
    found: dict[str, list[KeptSample]] = {}
    for sample in samples:
        found.setdefault(sample.source, []).append(sample)
    return found


def _parts(counts: Mapping[str, int], unknown: str) -> list[_Bar]:
    """The most frequent names with their shares; the rest is summed."""
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    bars = [
        _Bar(name or unknown, value, 100 * value / total) for name, value in ordered[:MAX_NAMES]
    ]
    rest = sum(value for _, value in ordered[MAX_NAMES:])
    if rest:
        bars.append(_Bar(f"{len(ordered) - MAX_NAMES} more", rest, 100 * rest / total))
    return bars


@dataclass(frozen=True)
class _License:
    name: str
    documents: int
    text_bytes: int | None


def _licenses(source: SourceAccount) -> list[_License]:
    """Sorted by number of documents; all of them, because each may impose obligations."""
    return [
        _License(name or "not stated per document", documents, source.license_bytes.get(name))
        for name, documents in sorted(source.licenses.items(), key=lambda i: (-i[1], i[0]))
    ]


@dataclass(frozen=True)
class _Mixed:
    row: MixtureRow
    bytes_per_token: float
    epochs: float | None
    """At the run's token budget."""
    repeats_after: float | None
    """Tokens of the whole run after which this source has completed one epoch."""
    is_first: bool
    """Whether it is the first source to be repeated."""


def _mixture(account: BuildAccount) -> list[_Mixed]:
    rows = account.mixture
    ends = [row.tokens / row.share for row in rows if row.share > 0]
    return [
        _Mixed(
            row,
            row.text_bytes / max(1, row.tokens),
            _epochs(row, account.token_budget),
            end,
            end is not None and end == min(ends),
        )
        for row, end in zip(rows, _ends(rows), strict=True)
    ]


def _ends(rows: Iterable[MixtureRow]) -> list[float | None]:
    return [row.tokens / row.share if row.share > 0 else None for row in rows]


def _epochs(row: MixtureRow, budget: int | None) -> float | None:
    return None if budget is None or row.tokens == 0 else budget * row.share / row.tokens
