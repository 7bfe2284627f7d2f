"""The time that a run still takes, from the pace of its last steps."""

from __future__ import annotations

import pytest

from llama_ds.remaining_time import RemainingTime, duration


def test_the_pace_is_that_of_the_last_steps_without_the_first() -> None:
    now = 0.0
    remaining = RemainingTime(num_steps=1_000, clock=lambda: now)
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


def test_nothing_remains_at_the_end() -> None:
    remaining = RemainingTime(num_steps=2)
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
