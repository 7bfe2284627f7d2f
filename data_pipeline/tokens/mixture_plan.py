"""Data mixture for a token budget: sampling share, tokens and epochs per source, first
repetition."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_pipeline.tokens.store import TokenStore

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class PlannedSource:
    """One source in a training run."""

    name: str
    num_tokens: int
    """Available for training."""
    share: float
    """Sampling share: fraction of the run's tokens."""
    seen_tokens: float
    """Tokens drawn in the run, repetitions included."""

    @property
    def epochs(self) -> float:
        return self.seen_tokens / self.num_tokens

    @property
    def runs_out_after(self) -> float:
        """Tokens of the run, of all sources, after which this source has completed one epoch."""
        return self.num_tokens / self.share


@dataclass(frozen=True)
class MixturePlan:
    """The mixture of a run of `num_tokens` tokens."""

    num_tokens: int
    sources: tuple[PlannedSource, ...]

    @property
    def first_to_run_out(self) -> PlannedSource:
        """The source that is repeated first, if the run is long enough."""
        return min(self.sources, key=lambda source: source.runs_out_after)

    @property
    def epochs(self) -> dict[str, float]:
        return {source.name: source.epochs for source in self.sources}


def available_tokens(store: TokenStore) -> dict[str, int]:
    """Tokens of each source's training split; sources without any are omitted."""
    counts = {
        source: splits["train"].num_tokens for source, splits in store.manifest.sources.items()
    }
    return {source: count for source, count in counts.items() if count > 0}


def plan_mixture(
    available: Mapping[str, int],
    num_tokens: int | None,
    *,
    shares: Mapping[str, float] | None = None,
    epochs: Mapping[str, float] | None = None,
    without: Collection[str] = (),
) -> MixturePlan:
    """The mixture of a run over sources with `available` tokens.

    `shares` are normalized. With a token budget `epochs` are relative weights; without one they
    determine the run's length. With neither, a source's share is its size. Sources in `without` are
    removed, and the others' shares are renormalized. ValueError for unknown sources.
    """
    if shares and epochs:
        raise ValueError("shares and epochs both set the sampling weights; give only one")
    for option, values in (("shares", shares or {}), ("epochs", epochs or {})):
        _check(option, values, available)
    if unknown := sorted(set(without) - set(available)):
        raise ValueError(f"without ({', '.join(unknown)}): {_known(available)}")
    if epochs:
        weights = {name: value * available[name] for name, value in epochs.items()}
    else:
        weights = {name: float(value) for name, value in (shares or available).items()}
    weights = {name: weight for name, weight in weights.items() if name not in without}
    total = sum(weights.values())
    if not weights:
        raise ValueError(f"without ({', '.join(sorted(without))}): no source is left to train on")
    if num_tokens is None:
        if not epochs:
            raise ValueError(
                "tokens: give the run's number of tokens, or epochs, which determine it"
            )
        num_tokens = round(total)
    if num_tokens < 1:
        raise ValueError(f"tokens ({num_tokens}) must be at least 1")
    sources = [
        PlannedSource(name, available[name], weight / total, num_tokens * weight / total)
        for name, weight in weights.items()
    ]
    return MixturePlan(num_tokens, tuple(sources))


def _check(option: str, values: Mapping[str, float], available: Mapping[str, int]) -> None:
    for name, value in values.items():
        if name not in available:
            raise ValueError(f"{option}: unknown source {name}; {_known(available)}")
        if not value > 0:
            raise ValueError(f"{option}: {name} ({value}) must be positive; omit it for none")


def _known(available: Mapping[str, int]) -> str:
    return f"the sources are {', '.join(sorted(available))}"


def drops(plan: MixturePlan) -> dict[str, MixturePlan]:
    """Ablations: the plan without each source in turn, of equal length, shares renormalized."""
    if len(plan.sources) < 2:
        return {}
    available = {source.name: source.num_tokens for source in plan.sources}
    shares = {source.name: source.share for source in plan.sources}
    return {
        name: plan_mixture(available, plan.num_tokens, shares=shares, without={name})
        for name in shares
    }


# -- text -----------------------------------------------------------------------------------------


def as_json(plan: MixturePlan) -> dict[str, Any]:
    """All numbers of the table, machine-readable."""
    sources = [
        {**asdict(source), "epochs": source.epochs, "runs_out_after": source.runs_out_after}
        for source in plan.sources
    ]
    first = plan.first_to_run_out.name
    return {"num_tokens": plan.num_tokens, "first_to_run_out": first, "sources": sources}


def parse_count(text: str) -> int:
    """Parse a token count: 1400000000000, 1.4T, 300B, 20M. ValueError for anything else."""
    match = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([KMBGT]?)", text.strip().upper())
    if match is None:
        raise ValueError(f"tokens ({text}) must be a number with K, M, B or T, such as 1.4T")
    number, suffix = match.groups()
    return round(float(number.replace("_", "").replace(",", "")) * _SUFFIXES[suffix])


def count_in_words(count: float) -> str:
    """Three to four digits and a suffix: 1.400T, 62.48B, 812."""
    for suffix in ("T", "B", "M", "K"):
        scaled = count / _SUFFIXES[suffix]
        if scaled >= 1:
            digits = 3 if scaled < 10 else 2 if scaled < 100 else 1
            return f"{scaled:.{digits}f}{suffix}"
    return f"{count:.0f}"


def as_text(plan: MixturePlan, before: MixturePlan | None = None) -> str:
    """The plan as a table with a summary; `before`: the plan without removed sources."""
    old = before.epochs if before is not None else {}
    header = ["source", "tokens", "share", "seen", "epochs", "repeats after"]
    rows = [header + (["epochs before"] if old else [])]
    for source in plan.sources:
        is_repeated = source.runs_out_after < plan.num_tokens
        row = [
            source.name,
            count_in_words(source.num_tokens),
            f"{source.share:.2%}",
            count_in_words(source.seen_tokens),
            f"{source.epochs:.2f}",
            count_in_words(source.runs_out_after) if is_repeated else "-",
        ]
        rows.append(row + ([f"{old[source.name]:.2f}"] if old else []))
    sentences = [_what_runs_out(plan)]
    if before is None:
        sentences += _effects_of_dropping(plan)
    return "\n".join([*_aligned(rows), "", *sentences])


def _what_runs_out(plan: MixturePlan) -> str:
    first = plan.first_to_run_out
    after = count_in_words(first.runs_out_after)
    length = count_in_words(plan.num_tokens)
    if first.runs_out_after < plan.num_tokens:
        return f"{first.name} runs out first, after {after} of {length} tokens, and is repeated."
    return f"No source runs out in {length} tokens; {first.name} would be the first, after {after}."


def _effects_of_dropping(plan: MixturePlan) -> list[str]:
    rows = [["without", "others' epochs", "runs out first", "after", "most often seen"]]
    for name, other in drops(plan).items():
        kept = sum(source.share for source in plan.sources if source.name != name)
        first = other.first_to_run_out
        most = max(other.sources, key=lambda source: source.epochs)
        runs_out = first.runs_out_after < other.num_tokens
        rows.append(
            [
                name,
                f"x {1 / kept:.3f}",
                first.name if runs_out else "-",
                count_in_words(first.runs_out_after) if runs_out else "-",
                f"{most.name}, {most.epochs:.2f} epochs",
            ]
        )
    return (
        ["", "If one is dropped, and the run is as long as before:", *_aligned(rows)]
        if rows[1:]
        else []
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
