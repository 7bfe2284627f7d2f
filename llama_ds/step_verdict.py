"""What a step's loss and gradient norm say about it, before anything is updated.

Not finite: the step is skipped whole. A spike, further above the mean of a running window than a
number of standard deviations: the step is marked, and skipped by choice. Only values above the mean
count, since a loss that falls is what training is for.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist

from llama_ds.config import TrainConfig


@dataclass(frozen=True)
class Verdict:
    """The same on every rank."""

    is_finite: bool
    """Whether loss and gradient norm are finite, on every rank."""
    is_spike: bool
    is_skipped: bool
    """Whether weights, moments and Adam's number of updates stay as they were."""
    reasons: tuple[str, ...]
    """What is unusual, as this rank sees it; empty for a plain step."""


class SpikeDetector:
    """Mean and standard deviation of loss and gradient norm over the last steps.

    All finite values count, those of spikes and of skipped steps too: a level that stays is soon
    the usual one. Judges from half a window on.
    """

    def __init__(self, window: int, deviations: float) -> None:
        self._deviations = deviations
        self._least = max(2, window // 2)
        self._past: dict[str, deque[float]] = {
            "loss": deque(maxlen=window),
            "gradient norm": deque(maxlen=window),
        }

    def add(self, loss: float, grad_norm: float) -> None:
        """Take a finite step into the window."""
        self._past["loss"].append(loss)
        self._past["gradient norm"].append(grad_norm)

    def spikes(self, loss: float, grad_norm: float) -> list[str]:
        """A sentence for each of the two that is a spike; does not change the window."""
        found = []
        for name, value in (("loss", loss), ("gradient norm", grad_norm)):
            past = self._past[name]
            if len(past) < self._least:
                continue
            mean, deviation = statistics.fmean(past), statistics.pstdev(past)
            if value > mean + self._deviations * deviation:
                times = (value - mean) / deviation if deviation else math.inf
                found.append(
                    f"{name} {value:.4g} is {times:.1f} standard deviations above the mean of the "
                    f"last {len(past)} steps ({mean:.4g} +- {deviation:.2g})"
                )
        return found


class StepJudge:
    """Gives the verdict on one step after another; every rank has one and asks it together."""

    def __init__(
        self,
        train: TrainConfig,
        device: torch.device,
        num_skipped: int = 0,
        first_step: int = 0,
        withheld: frozenset[int] = frozenset(),
    ) -> None:
        """`withheld` are steps, counted from 1, to treat as not finite: those that were not in the
        run that is repeated."""
        self._detector = SpikeDetector(train.spike_window, train.spike_deviations)
        self._skip_spikes = train.skip_spikes
        self._device = device
        self._step = first_step
        self._withheld = withheld
        self.num_skipped = num_skipped
        """Skipped steps of the whole run."""
        self.skipped_in_a_row = 0

    def remember(self, loss: float, grad_norm: float) -> None:
        """Take a finite step of an earlier job into the window."""
        self._detector.add(loss, grad_norm)

    def judge(self, loss: float, grad_norm: float) -> Verdict:
        """The verdict on the next step, agreed by all ranks. Collective."""
        self._step += 1
        reasons = ["it was not finite before"] if self._step in self._withheld else []
        for name, value in (("loss", loss), ("gradient norm", grad_norm)):
            if not math.isfinite(value):
                reasons.append(f"{name} is not finite")
        is_finite = not reasons
        if is_finite:
            reasons = self._detector.spikes(loss, grad_norm)
        flags = torch.tensor([not is_finite, bool(reasons)], device=self._device).int()
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        any_not_finite, any_reason = (bool(flag) for flag in flags.tolist())
        is_spike = any_reason and not any_not_finite
        is_skipped = any_not_finite or (is_spike and self._skip_spikes)
        if any_reason and not reasons:
            reasons = ["another rank finds it so"]
        if not any_not_finite:
            self._detector.add(loss, grad_norm)
        self.num_skipped += is_skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_skipped else 0
        return Verdict(not any_not_finite, is_spike, is_skipped, tuple(reasons))
