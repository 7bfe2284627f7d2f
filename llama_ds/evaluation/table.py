"""The table: ours beside the paper's four sizes, their difference, n and the standard error."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from llama_ds.evaluation.outcomes import Outcome, mean_and_error
from llama_ds.evaluation.paper_tasks import PaperTask, TableRow, all_tasks

SIZES = ("7B", "13B", "33B", "65B")
PARAMETERS = dict(zip(SIZES, (6.7e9, 13.0e9, 32.5e9, 65.2e9), strict=True))
"""The paper's table 2."""
CHOICE_METRICS = ("acc", "acc_norm", "acc_answer")


@dataclass(frozen=True)
class Line:
    """A row of the table; numbers are percents, but for the scores of an API."""

    name: str
    task: str
    metric: str
    table: int | None
    """The paper's."""
    ours: float | None
    paper: tuple[float | None, ...]
    """By size, smallest first."""
    difference: float | None
    """From the size that is compared with."""
    n: int
    standard_error: float | None
    is_within_noise: bool | None
    """Whether the difference is below two standard errors, about 95 in 100."""
    note: str


def nearest_size(num_parameters: int) -> str:
    """The paper's size that a model of so many parameters is compared with, by ratio."""
    return min(SIZES, key=lambda size: abs(_log_ratio(num_parameters, PARAMETERS[size])))


def _log_ratio(one: float, other: float) -> float:
    return max(one, other) / max(1.0, min(one, other))


def paper_results() -> dict[str, dict[str, Any]]:
    """By row of the table: the paper's table and its values by size."""
    text = files("llama_ds.evaluation").joinpath("paper_results.json").read_text("utf-8")
    rows: dict[str, dict[str, Any]] = json.loads(text)["rows"]
    return rows


def lines(outcomes: Sequence[Outcome], size: str) -> list[Line]:
    """Every row of the tasks, in the order of the paper's tables, beside the paper's `size`."""
    tasks, paper = all_tasks(), paper_results()
    order = list(tasks)
    found = []
    for outcome in sorted(outcomes, key=lambda one: (order.index(one.task), one.shots)):
        task = tasks[outcome.task]
        found += [_line(task, row, outcome, paper, size) for row in task.rows]
    return found


def row_name(task: PaperTask, row: TableRow, shots: int) -> str:
    return f"{row.name} {shots}-shot" if len(task.shots) > 1 else row.name


def values_of(row: TableRow, outcome: Outcome) -> list[float]:
    """The row's metric of each of its samples; none where it was not judged."""
    chosen = [one for one in outcome.samples if one["where"].items() >= dict(row.where).items()]
    return [one["metrics"][row.metric] for one in chosen if row.metric in one["metrics"]]


def _line(
    task: PaperTask,
    row: TableRow,
    outcome: Outcome,
    paper: Mapping[str, dict[str, Any]],
    size: str,
) -> Line:
    name = row_name(task, row, outcome.shots)
    published = paper.get(name, {"table": None, "values": [None] * len(SIZES)})
    values = values_of(row, outcome)
    ours = error = difference = is_noise = None
    if values:
        scale = 1.0 if row.metric == "toxicity" else 100.0
        mean, spread = mean_and_error(values)
        ours, error = scale * mean, None if spread is None else scale * spread
        theirs = published["values"][SIZES.index(size)]
        if theirs is not None:
            difference = ours - theirs
            expected = _expected_error(theirs, scale, len(values))
            is_noise = abs(difference) <= 2 * max(error or 0.0, expected)
    return Line(
        name,
        outcome.task,
        row.metric,
        published["table"],
        ours,
        tuple(published["values"]),
        difference,
        len(values),
        error,
        is_noise,
        "; ".join(_notes(outcome)),
    )


def _expected_error(theirs: float, scale: float, n: int) -> float:
    """Of a share that is the paper's: a few samples that are all right or wrong show no spread."""
    share = min(1.0, theirs / scale)
    return scale * math.sqrt(share * (1 - share) / n)


def _notes(outcome: Outcome) -> list[str]:
    notes = list(outcome.notes)
    ends: Counter[str] = Counter()
    for sample in outcome.samples:
        ends.update({name: int(count) for name, count in sample.get("programs", {}).items()})
    if ends:
        notes.append(", ".join(f"{name} {count}" for name, count in ends.most_common()))
    if outcome.truncated:
        notes.append(f"{outcome.truncated} of {outcome.requests} contexts truncated")
    if outcome.left_out:
        told = ", ".join(f"{reason} ({count})" for reason, count in outcome.left_out.items())
        notes.append(f"{sum(outcome.left_out.values())} rows left out: {told}")
    return notes


def as_json(table: Sequence[Line]) -> list[dict[str, Any]]:
    return [asdict(line) for line in table]


def markdown(table: Sequence[Line], size: str, title: str, not_run: Mapping[str, str]) -> str:
    """The table as Markdown, with notes and what was not run below it."""
    head = ["", "ours", *SIZES, f"ours - {size}", "n", "± s.e."]
    cells = [head, ["---", *["---:"] * (len(head) - 1)]]
    notes: list[str] = []
    for line in table:
        mark = ""
        if line.note:
            if line.note not in notes:
                notes.append(line.note)
            mark = f" [{notes.index(line.note) + 1}]"
        cells.append([line.name + mark, *numbers(line)])
    body = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    below = [f"{index}. {note}" for index, note in enumerate(notes, 1)]
    below += [f"- not run: {name}: {reason}" for name, reason in not_run.items()]
    about = (
        "Percent. 7B to 65B are the paper's (arXiv 2302.13971, tables 3 to 9 and 11 to 14); a "
        "difference in brackets is below two standard errors."
    )
    return "\n\n".join([f"# {title}", about, body, *(["\n".join(below)] if below else [])]) + "\n"


def numbers(line: Line) -> list[str]:
    """The cells of a row behind its name."""
    form = "{:.3f}" if line.metric == "toxicity" else "{:.1f}"

    def shown(value: float | None) -> str:
        return "–" if value is None else form.format(value)

    difference = "–"
    if line.difference is not None:
        sign = "+" if line.difference >= 0 else "−"
        difference = sign + form.format(abs(line.difference))
        difference = f"({difference})" if line.is_within_noise else difference
    paper = [shown(value) for value in line.paper]
    return [shown(line.ours), *paper, difference, str(line.n), shown(line.standard_error)]
