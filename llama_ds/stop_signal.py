"""SIGTERM and SIGINT stop all ranks after the same step."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist


class StopSignal:
    """While open, SIGTERM and SIGINT request a checkpoint and a stop after the current step."""

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
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
