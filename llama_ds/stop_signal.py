"""SIGTERM, SIGINT and SIGUSR1 stop all ranks after the same step.

SIGUSR1 is what schedulers are asked to send some minutes before they end a job.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """While open, each of `STOPPING` requests a checkpoint and a stop after the current step."""

    def __init__(self, device: torch.device) -> None:
        self.number: int | None = None
        """The signal on which all ranks have agreed to stop."""
        self._received = 0
        self._device = device
        self._previous: dict[int, Any] = {}

    def agree(self, *, is_writing: bool) -> bool:
        """All-reduce the signal, which ranks may receive at different steps or not at all.

        Returns whether any rank is still writing a checkpoint, from the same all-reduce.
        """
        values = torch.tensor([self._received, is_writing], device=self._device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        number, any_is_writing = values.tolist()
        self.number = number or None
        return bool(any_is_writing)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def __enter__(self) -> StopSignal:
        for number in STOPPING:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
