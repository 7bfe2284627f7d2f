"""What ZeRO sends is counted, and is what the committed table and the plan's formula say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.measuring.results import RESULTS
from benchmarks.model.zero_wire import CELLS, WORLD_SIZE, Cell, by_phase, count_cells, rows_of
from llama_ds.planning.traffic import zero_traffic
from tests.support.pool_groups import pool_groups

Gloo = Callable[..., list[Any]]
Found = dict[str, tuple[float, int]]
(TABLE,) = RESULTS.glob("zero_wire_cpu_*.json")


def count_all(cells: list[Cell]) -> list[Found]:
    return count_cells(cells, pool_groups())


@pytest.mark.nightly
@pytest.mark.dist
def test_every_cell_of_the_committed_table_is_counted_again(gloo: Gloo) -> None:
    committed = json.loads(TABLE.read_text(encoding="utf-8"))
    assert [entry["cell"] for entry in committed] == [str(cell) for cell in CELLS]
    report = TABLE.with_suffix(".md").read_text(encoding="utf-8")
    found, other = gloo(WORLD_SIZE, count_all, CELLS)
    assert found == other, "both ranks send the same"
    for cell, kinds, entry in zip(CELLS, found, committed, strict=True):
        assert {kind: tuple(sent) for kind, sent in entry["sent"].items()} == kinds, str(cell)
    for row in rows_of(found):
        assert " | ".join(row) in report


def is_ours(cell: Cell) -> bool:
    return not str(cell)


# The last bucket is reduced when autograd has ended: it counts as under the backward pass, to which
# it is small where a model is large.
@pytest.mark.parametrize("index", [i for i, cell in enumerate(CELLS) if is_ours(cell)])
def test_the_plan_counts_what_is_sent(index: int) -> None:
    cell = CELLS[index]
    found = by_phase(json.loads(TABLE.read_text(encoding="utf-8"))[index]["sent"])
    formula = zero_traffic(cell.stage, cell.dtype)
    count = cell.micro_batches
    assert found["forward"] == pytest.approx(count * formula.forward, abs=0.02)
    assert found["backward"] + found["after"] + found["step"] == pytest.approx(
        count * formula.backward + formula.step, abs=0.02
    )
    # Stages 2 and 3 reduce under the backward pass, 0 and 1 after the last one.
    assert (found["backward"] > found["after"]) == (cell.stage >= 2)
