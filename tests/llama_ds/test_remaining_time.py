"""The time that a run still takes, from the pace of its last steps."""

from __future__ import annotations

import pytest

from llama_ds.batch_schedule import BatchSchedule
from llama_ds.remaining_time import RemainingTime, duration


def test_the_pace_is_that_of_the_last_steps_without_the_first() -> None:
    now = 0.0
    remaining = RemainingTime(1_000, lambda step: 64 * step, clock=lambda: now)
    seen = []
    # Resumed after step 10: the first step takes 500 s, 150 take 2 s, 100 take 4 s.
    for step, seconds in enumerate([500.0] + 150 * [2.0] + 100 * [4.0], start=11):
        now += seconds
        remaining.step_ended(step)
        seen.append(remaining.seconds)
    assert seen[0] is None
    assert seen[1] == pytest.approx((1_000 - 12) * 2)
    assert seen[150] == pytest.approx((1_000 - 161) * 2)
    assert seen[200] == pytest.approx((1_000 - 211) * 3)  # half of the window is slow
    assert seen[250] == pytest.approx((1_000 - 261) * 4)


def test_a_batch_that_will_grow_is_counted_in_tokens() -> None:
    now = 0.0
    batches = BatchSchedule.of(1_000, {"101": 4_000})
    remaining = RemainingTime(150, batches.tokens_before, clock=lambda: now)
    seen = []
    # A token takes 1 ms in either batch.
    for step in range(1, 151):
        now += batches.tokens_at(step - 1) / 1_000
        remaining.step_ended(step)
        seen.append(remaining.seconds)
    assert seen[10] == pytest.approx(89 * 1 + 50 * 4)
    assert seen[120] == pytest.approx(29 * 4)
    assert seen[-1] == 0


def test_nothing_remains_at_the_end() -> None:
    remaining = RemainingTime(2, lambda step: 64 * step)
    remaining.step_ended(1)
    remaining.step_ended(2)
    assert remaining.seconds == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h"),
        (40_000, "11 h 6 min"),
        (90_000, "1 d 1 h"),
        (8_640_000, "100 d"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text
