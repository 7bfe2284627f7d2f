"""Fits the constants of the step-time model to published training speeds.

    python -m benchmarks.model.fit_step_time FILE.csv [--rounds 60]

Prints the constants of `planning/roofline.py` and the matmul efficiency of each GPU in the file
that minimize the sum over rows of sqrt(e^2 + 0.03^2), e the logarithm of predicted over published
speed: between squares, which outliers would decide, and absolute values. A row of which something
was guessed has weight 0.5, of which the layout was guessed 0.15. The search is coordinate descent
from the constants in force; check the result on rows that the file does not have
(`python -m llama_ds.planning.check`). The columns are in `planning/published.py`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from llama_ds.planning.check import compare
from llama_ds.planning.published import PublishedSpeed, read_published
from llama_ds.planning.roofline import CONSTANTS

FITTED = ("contention", "gather_copies", "separate", "scale")
ROUNDING = 0.03

Point = dict[str, float]
"""Constants by name, and matmul efficiencies by GPU."""


def weight(row: PublishedSpeed) -> float:
    """Of a row in the sum."""
    if "layout" in row.notes:
        return 0.15
    return 0.5 if any(word in row.notes for word in ("guessed", "partly", "assumed")) else 1.0


def log_error(row: PublishedSpeed, point: Point) -> float:
    """Logarithm of predicted over published speed, with the constants of `point`."""
    constants = replace(CONSTANTS, **{name: point[name] for name in FITTED})
    gpu = row.cluster.gpu
    gpu = replace(gpu, matmul_efficiency=point[gpu.name])
    changed = replace(row, cluster=replace(row.cluster, gpu=gpu))
    return math.log1p(compare(changed, constants).error)


def start(rows: Sequence[PublishedSpeed]) -> Point:
    """The constants in force."""
    point = {name: asdict(CONSTANTS)[name] for name in FITTED}
    return point | {row.cluster.gpu.name: row.cluster.gpu.matmul_efficiency for row in rows}


def descend(loss: Callable[[Point], float], point: Point, rounds: int) -> Point:
    """Coordinate descent with steps that shrink where neither direction improves."""
    best = loss(point)
    steps = dict.fromkeys(point, 0.2)
    for _ in range(rounds):
        for name in point:
            for factor in (1 + steps[name], 1 / (1 + steps[name])):
                candidate = point | {name: point[name] * factor}
                if (value := loss(candidate)) < best - 1e-6:
                    best, point = value, candidate
                    break
            else:
                steps[name] *= 0.6
        if max(steps.values()) < 0.002:
            break
    return point


def fit(rows: Sequence[PublishedSpeed], point: Point, rounds: int) -> Point:
    """The constants that fit `rows` best."""

    def loss(candidate: Point) -> float:
        return sum(weight(row) * math.hypot(log_error(row, candidate), ROUNDING) for row in rows)

    return descend(loss, point, rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 2, with one line, for a file that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args(arguments)
    try:
        rows = [r for r in read_published(options.file) if isinstance(r, PublishedSpeed)]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for name, value in fit(rows, start(rows), options.rounds).items():
        print(f"{name:<16} {value:.4g}")


if __name__ == "__main__":
    main()
