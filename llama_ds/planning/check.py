"""Predicted against published training speeds: python -m llama_ds.planning.check FILE.csv

Prints a line per row, and the median and 90th percentile of the relative errors. The columns are in
`published.py`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_ds.planning.published import PublishedSpeed, UnusableRow, read_published
from llama_ds.planning.roofline import CONSTANTS, Constants
from llama_ds.planning.step_time import predict


@dataclass(frozen=True)
class Comparison:
    """A published speed beside the prediction, in tokens/s per GPU."""

    row: PublishedSpeed
    predicted: float

    @property
    def error(self) -> float:
        """Relative to the published speed; positive where the prediction is too fast."""
        return self.predicted / self.row.tokens_per_second - 1


def compare(row: PublishedSpeed, constants: Constants = CONSTANTS) -> Comparison:
    """The prediction of `row`."""
    workload = row.workload
    seconds = predict(workload, row.cluster, constants).total
    tokens = workload.rows_per_step * workload.sequence_length
    return Comparison(row, tokens / seconds / workload.world_size)


def percentile(values: Sequence[float], share: float) -> float:
    """Between the two nearest of the sorted values, linearly; ValueError where there are none."""
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def report(path: Path) -> str:
    """The table of a file; ValueError where the file cannot be read or no row can be predicted."""
    lines = [f"{'row':<26} {'published':>10} {'predicted':>10} {'error':>8}  tokens/s per GPU"]
    comparisons: list[Comparison] = []
    for row in read_published(path):
        if isinstance(row, UnusableRow):
            lines.append(f"{row.name:<26} not predicted: {row.missing}")
            continue
        result = compare(row)
        comparisons.append(result)
        lines.append(
            f"{row.name:<26} {row.tokens_per_second:>10,.1f} {result.predicted:>10,.1f} "
            f"{result.error:>+8.1%}  {row.notes}".rstrip()
        )
    if not comparisons:
        raise ValueError(f"no row of {path} can be predicted:\n" + "\n".join(lines[1:]))
    errors = [abs(result.error) for result in comparisons]
    lines.append(
        f"{len(errors)} rows: median error {statistics.median(errors):.1%}, "
        f"90th percentile {percentile(errors, 0.9):.1%}, largest {max(errors):.1%}"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 2, with one line, for a file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m llama_ds.planning.check", description=__doc__)
    parser.add_argument("file", type=Path, help="CSV file of published training speeds")
    try:
        sys.stdout.write(f"{report(parser.parse_args(arguments).file)}\n")
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
