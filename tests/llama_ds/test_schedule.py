"""The learning rate against formulas in float64, written out once more."""

from __future__ import annotations

import numpy as np
import pytest

from llama_ds.config import OptimizerConfig
from llama_ds.schedule import learning_rate

PEAK, LOW, WARMUP, STEPS, DECAY = 3e-4, 0.1, 7, 50, 12

decayed = np.linspace(0.0, 1.0, STEPS - WARMUP, dtype=np.float64)
EXPECTED = {
    "cosine": LOW + (1 - LOW) * (1 + np.cos(np.pi * decayed)) / 2,
    "linear": 1 - (1 - LOW) * decayed,
    "constant": np.ones(STEPS - WARMUP),
    "wsd": np.concatenate(
        [np.ones(STEPS - WARMUP - DECAY), 1 - (1 - LOW) * np.arange(1, DECAY + 1) / DECAY]
    ),
}


def config(schedule: str, **fields: float) -> OptimizerConfig:
    decay = {"decay_steps": DECAY} if schedule == "wsd" else {}
    return OptimizerConfig(
        **{  # type: ignore[arg-type]
            "peak_learning_rate": PEAK,
            "min_learning_rate_ratio": LOW,
            "warmup_steps": WARMUP,
            "schedule": schedule,
            **decay,
            **fields,
        }
    )


@pytest.mark.parametrize("schedule", EXPECTED)
def test_each_schedule_is_its_formula(schedule: str) -> None:
    rates = [learning_rate(step, config(schedule), STEPS) for step in range(STEPS)]
    warmup = np.arange(1, WARMUP + 1, dtype=np.float64) / WARMUP
    expected = PEAK * np.concatenate([warmup, EXPECTED[schedule]])
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_a_longer_wsd_run_has_the_same_rates_until_the_decay_of_the_shorter() -> None:
    shared = STEPS - DECAY
    for step in range(shared):
        assert learning_rate(step, config("wsd"), STEPS) == learning_rate(step, config("wsd"), 99)
    assert learning_rate(shared, config("wsd"), STEPS) < PEAK
    assert learning_rate(shared, config("wsd"), 99) == PEAK


def test_a_decay_longer_than_the_run_begins_behind_warmup() -> None:
    longer = config("wsd", decay_steps=1000)
    assert learning_rate(WARMUP, longer, STEPS) == PEAK
    assert learning_rate(STEPS - 1, longer, STEPS) == pytest.approx(PEAK * LOW, rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "wsd", "decay_steps": 0}, r"decay_steps \(0\) must be positive with"),
        ({"schedule": "cosine", "decay_steps": 5}, r"decay_steps \(5\) .*schedule is cosine"),
        ({"schedule": "step"}, r"schedule \(step\) must be one of cosine, linear, constant, wsd"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**{"schedule": "cosine", **fields})  # type: ignore[arg-type]
