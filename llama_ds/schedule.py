"""The learning rate as a function of the step alone: linear warmup, then one of four schedules."""

from __future__ import annotations

import math

from llama_ds.config import OptimizerConfig


def learning_rate(step: int, optimizer: OptimizerConfig, num_steps: int) -> float:
    """Learning rate of `step`, from 0, in a run of `num_steps`."""
    return optimizer.peak_learning_rate * learning_rate_scale(step, optimizer, num_steps)


def learning_rate_scale(step: int, optimizer: OptimizerConfig, num_steps: int) -> float:
    """Fraction of the peak learning rate at `step`, from 0.

    The first step has 1/warmup_steps of the peak, not zero. The last step of the run has the
    minimum (paper, section 2.3: the final learning rate is 10 % of the peak), but for `constant`.

    - cosine: half a cosine from the end of warmup to the last step.
    - linear: a straight line over the same steps.
    - constant: the peak, to the end.
    - wsd (warmup, stable, decay; arXiv 2404.06395): the peak, and in the last `decay_steps` steps a
      straight line.
    """
    if step < optimizer.warmup_steps:
        return (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return 1.0
    first = optimizer.warmup_steps
    if optimizer.schedule == "wsd":
        # The last step at the peak; the first of the decay is already below it.
        first = max(first, num_steps - 1 - optimizer.decay_steps)
    progress = min(1.0, max(0, step - first) / max(1, num_steps - 1 - first))
    low = optimizer.min_learning_rate_ratio
    if optimizer.schedule == "cosine":
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
    return low + (1 - low) * (1 - progress)
