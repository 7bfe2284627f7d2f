"""The table of predicted against measured memory is of today's plan, and is measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.measuring.results import RESULTS
from benchmarks.model.memory import CELLS, WORLD_SIZE, Cell, measure_cells, predicted, rows_of

Gloo = Callable[..., list[Any]]
(TABLE,) = RESULTS.glob("memory_cpu_*.json")


def committed() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return entries


def test_the_committed_table_compares_with_todays_plan() -> None:
    assert [entry["cell"] for entry in committed()] == [str(cell) for cell in CELLS]
    for cell, entry in zip(CELLS, committed(), strict=True):
        assert predicted(cell).parts() == entry["predicted"], str(cell)
    report = TABLE.with_suffix(".md").read_text(encoding="utf-8")
    for row in rows_of([entry["peaks"] for entry in committed()]):
        assert " | ".join(row) in report


@pytest.mark.dist
@pytest.mark.slow
def test_peaks_are_measured_again(gloo: Gloo) -> None:
    # At stages 2 and 3 a peak differs by a bucket from run to run.
    cell = Cell(1)
    peaks, _ = (found[0] for found in gloo(WORLD_SIZE, measure_cells, [cell]))
    for phase, size in committed()[CELLS.index(cell)]["peaks"].items():
        assert peaks[phase] == pytest.approx(size, rel=0.01), phase
