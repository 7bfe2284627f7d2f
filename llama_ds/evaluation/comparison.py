"""Two results of one task, sample by sample: their difference, paired, and what flipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llama_ds.evaluation.outcomes import Outcome, mean_and_error
from llama_ds.evaluation.paper_tasks import all_tasks
from llama_ds.evaluation.table import row_name

Key = tuple[str, int, str]
"""Of a sample: its subject, its number there, and the hash of its prompt."""


@dataclass(frozen=True)
class Pairing:
    """A row of the table in both results, over the samples that both have."""

    name: str
    n: int
    ours: float
    """Percent, as all that follows."""
    theirs: float
    difference: float
    standard_error: float | None
    """Of the difference: smaller than the two results' own, as both were asked the same."""
    won: list[Key]
    """Samples on which ours is better."""
    lost: list[Key]
    num_unpaired: int
    """Samples that one of them has alone."""


def compare(ours: Mapping[str, Outcome], theirs: Mapping[str, Outcome]) -> list[Pairing]:
    """Every row of the tasks that both have; ValueError where they have none in common."""
    tasks = all_tasks()
    found = []
    for name in (name for name in ours if name in theirs):
        own, other = _by_key(ours[name]), _by_key(theirs[name])
        for row in tasks[ours[name].task].rows:
            title = row_name(tasks[ours[name].task], row, ours[name].shots)
            pairing = _paired(title, own, other, row.metric, dict(row.where))
            found += [] if pairing is None else [pairing]
    if not found:
        raise ValueError(
            f"the results have no sample in common: tasks {', '.join(ours)} against "
            f"{', '.join(theirs)}; evaluate both with the same --tasks, --data and --shots"
        )
    return found


def _by_key(outcome: Outcome) -> dict[Key, dict[str, object]]:
    return {(one["subject"], one["id"], one["prompt_hash"]): one for one in outcome.samples}


def _paired(
    title: str,
    own: Mapping[Key, dict[str, object]],
    other: Mapping[Key, dict[str, object]],
    metric: str,
    where: dict[str, str],
) -> Pairing | None:
    def values(samples: Mapping[Key, dict[str, object]]) -> dict[Key, float]:
        found = {}
        for key, one in samples.items():
            metrics, parts = one["metrics"], one["where"]
            assert isinstance(metrics, dict)
            assert isinstance(parts, dict)
            if metric in metrics and parts.items() >= where.items():
                found[key] = metrics[metric]
        return found

    first, second = values(own), values(other)
    both = [key for key in first if key in second]
    if not both:
        return None
    differences = [first[key] - second[key] for key in both]
    mean, error = mean_and_error(differences)
    return Pairing(
        title,
        len(both),
        100 * mean_and_error([first[key] for key in both])[0],
        100 * mean_and_error([second[key] for key in both])[0],
        100 * mean,
        None if error is None else 100 * error,
        [key for key in both if first[key] > second[key]],
        [key for key in both if first[key] < second[key]],
        len(first) + len(second) - 2 * len(both),
    )


def markdown(pairings: list[Pairing], against: str) -> str:
    """As a table, then the samples that flipped."""
    head = f"| | ours | {against} | difference | ± s.e. | won | lost | n |"
    lines = [f"# Against {against}", "", head, "| --- |" + " ---: |" * 7]
    for one in pairings:
        error = "–" if one.standard_error is None else f"{one.standard_error:.1f}"
        lines.append(
            f"| {one.name} | {one.ours:.1f} | {one.theirs:.1f} | {one.difference:+.1f} | {error} | "
            f"{len(one.won)} | {len(one.lost)} | {one.n} |"
        )
    flipped = any(one.won or one.lost for one in pairings)
    said = "Samples that flipped, by their number in `samples/`:" if flipped else "None flipped."
    lines += ["", said, ""]
    for one in pairings:
        if one.won or one.lost:
            lines.append(f"- {one.name}: won {_numbers(one.won)}; lost {_numbers(one.lost)}")
        if one.num_unpaired:
            lines.append(f"- {one.name}: {one.num_unpaired} samples are in one of the two alone")
    return "\n".join(lines) + "\n"


def _numbers(keys: list[Key]) -> str:
    return ", ".join(f"{subject} {number}" for subject, number, _ in keys) or "none"
