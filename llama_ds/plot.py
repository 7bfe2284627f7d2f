"""Curves of runs over their tokens, as the paper's figures 1 and 2, and the energy of each.

    python -m llama_ds.plot RUN... [--out FOLDER]

Writes loss_over_tokens.png (training loss, a line for each run) and, for runs with
train.evaluate_every_steps, tasks_over_tokens.png (a panel for each task). Prints GPU-hours, kWh and
CO2 of each run. Exit codes: 0, all is well; 2, bad input.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.files.atomic import write_atomic
from llama_ds.energy import energy_of
from llama_ds.metrics import name_of_run, read_metrics

LOSSES, TASKS = "loss_over_tokens.png", "tasks_over_tokens.png"
SMOOTHED_SHARE = 0.01
"""Of a run's records, over which the loss is averaged: the paper's curve is smooth too."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m llama_ds.plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, help="folder; the first run's by default")
    options = parser.parse_args(arguments)
    try:
        for path in plot(options.runs, options.out or options.runs[0]):
            _say(str(path))
        for run in options.runs:
            _say(f"{run}: {energy_of(run) or 'no step was timed'}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def plot(runs: Sequence[Path], out: Path) -> list[Path]:
    """Draw the figures that the runs have records for; ValueError where a run has none."""
    for run in runs:
        if not (run / "metrics.jsonl").is_file():
            raise ValueError(f"{run} has no metrics.jsonl; name the folder of a run")
    out.mkdir(parents=True, exist_ok=True)
    names = _names(runs)
    written = [_losses(runs, names, out / LOSSES)]
    asked = {run: list(read_metrics(run / "metrics.jsonl", "task")) for run in runs}
    if any(asked.values()):
        written.append(_tasks(asked, names, out / TASKS))
    return written


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    """The recipes' names, with the folder where two runs have one name."""
    names = {run: name_of_run(run) for run in runs}
    several = [name for name in names.values() if list(names.values()).count(name) > 1]
    return {run: f"{name} ({run})" if name in several else name for run, name in names.items()}


def _losses(runs: Sequence[Path], names: dict[Path, str], path: Path) -> Path:
    figure, axes = _figure(1, 1)
    for run in runs:
        records = list(read_metrics(run / "metrics.jsonl", "train"))
        losses = [math.nan if one["loss"] is None else one["loss"] for one in records]
        axes[0].plot([one["tokens"] for one in records], smoothed(losses), lw=1, label=names[run])
    axes[0].set_ylabel("training loss (nats per token)")
    return _finish(figure, axes, path)


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value averaged with those just before it; one that is no number is left out."""
    window = max(1, round(SMOOTHED_SHARE * len(values)))
    found = []
    for end in range(1, len(values) + 1):
        known = [one for one in values[max(0, end - window) : end] if math.isfinite(one)]
        found.append(sum(known) / len(known) if known else math.nan)
    return found


def _tasks(asked: dict[Path, list[dict[str, Any]]], names: dict[Path, str], path: Path) -> Path:
    tasks = list(
        dict.fromkeys(task for found in asked.values() for one in found for task in one["accuracy"])
    )
    columns = min(3, len(tasks))
    figure, axes = _figure(-(-len(tasks) // columns), columns)
    for task, panel in zip(tasks, axes, strict=False):
        for run, found in asked.items():
            having = [one for one in found if task in one["accuracy"]]
            tokens = [one["tokens"] for one in having]
            values = [one["accuracy"][task] for one in having]
            errors = [one["standard_error"][task] for one in having]
            panel.errorbar(tokens, values, errors, marker="o", ms=3, lw=1, label=names[run])
        panel.set_title(task)
        panel.set_ylabel("percent")
    for panel in axes[len(tasks) :]:
        panel.set_visible(False)
    return _finish(figure, axes[: len(tasks)], path)


def _figure(rows: int, columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 4 * columns), max(4.0, 3 * rows)), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _finish(figure: Any, axes: Sequence[Any], path: Path) -> Path:
    for panel in axes:
        panel.set_xlabel("tokens")
        panel.grid(alpha=0.3)
    axes[0].legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_atomic(path, image.getvalue())
    return path


def _say(line: str) -> None:
    print(line)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
