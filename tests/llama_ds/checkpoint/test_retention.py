"""Which checkpoints go, and that a whole one never goes for the sake of a damaged one."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_ds.checkpoint.retention import superseded


def paths(steps: range) -> list[Path]:
    return [Path(f"step_{step:08d}") for step in reversed(steps)]


def deleted(steps: range, keep_last: int, keep_every: int, damaged: set[int]) -> set[int]:
    def damage(path: Path) -> str | None:
        return "damaged" if int(path.name[5:]) in damaged else None

    gone = superseded(paths(steps), keep_last, keep_every, damage)
    return {int(path.name[5:]) for path in gone}


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "damaged", "expected"),
    [
        (0, 0, set(), set()),
        (0, 2, set(), set()),
        (1, 0, set(), {1, 2, 3, 4, 5}),
        (2, 0, set(), {1, 2, 3, 4}),
        (9, 0, set(), set()),
        (2, 3, set(), {1, 2, 4}),
        (2, 1, set(), set()),
        (2, 0, {6}, {1, 2, 3}),
        (2, 0, {5, 6}, {1, 2}),
        (2, 0, {2, 3}, {1, 4}),
        (2, 0, {1, 2, 3, 4, 5, 6}, set()),
    ],
)
def test_examples(keep_last: int, keep_every: int, damaged: set[int], expected: set[int]) -> None:
    assert deleted(range(1, 7), keep_last, keep_every, damaged) == expected


@given(st.integers(0, 8), st.integers(0, 5), st.integers(0, 4), st.sets(st.integers(1, 8)))
def test_as_many_whole_ones_are_left_as_were_asked_for(
    count: int, keep_last: int, keep_every: int, damaged: set[int]
) -> None:
    steps = range(1, count + 1)
    gone = deleted(steps, keep_last, keep_every, damaged)
    assert not gone & damaged
    whole = [step for step in steps if step not in damaged]
    newest = set(whole[-keep_last:]) if keep_last else set(whole)
    permanent = {step for step in whole if keep_every and step % keep_every == 0}
    assert set(whole) - gone == newest | permanent


def test_nothing_is_read_where_nothing_can_go() -> None:
    def damage(path: Path) -> str | None:
        raise AssertionError(f"{path} was read")

    for count, keep_last in itertools.product(range(4), (0, 3)):
        assert superseded(paths(range(1, count + 1)), keep_last, 0, damage) == []
    assert superseded(paths(range(1, 6)), 1, 1, damage) == []
