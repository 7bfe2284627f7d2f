"""Profiles some steps of a run: torch's trace, and the memory history of the GPU.

profiles/steps_10-12/trace.json.gz     for https://ui.perfetto.dev
profiles/steps_10-12/memory.pickle     for https://pytorch.org/memory_viz; with CUDA
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from llama_ds.config import Recipe
from llama_ds.metrics import MetricsLog

_MEMORY_EVENTS = 100_000


class StepProfiler:
    """Profiles the steps of `metrics.profile_steps` on rank 0, the one with a log."""

    def __init__(self, recipe: Recipe, device: torch.device, log: MetricsLog | None) -> None:
        steps = recipe.metrics.profiled_steps if log is not None else None
        self._first, self._last = steps or (0, 0)
        self._folder = recipe.run_dir / "profiles" / f"steps_{self._first}-{self._last}"
        self._device = device
        self._log = log
        self._profile: Any = None

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """The body is `step`."""
        if self._profile is None and self._first <= step <= self._last:
            self._start()
        yield
        if step == self._last:
            self.close()

    def close(self) -> None:
        """Write what was profiled, also where the job ends before the last of the steps."""
        if self._profile is None:
            return
        self._profile.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        trace = self._folder / "trace.json.gz"
        self._profile.export_chrome_trace(str(trace))
        self._profile = None
        if self._device.type == "cuda":
            memory = self._folder / "memory.pickle"
            torch.cuda.memory._dump_snapshot(str(memory))
            torch.cuda.memory._record_memory_history(enabled=None)
            said = f"profile: {trace}, {memory}"
        else:
            said = f"profile: {trace}; a memory snapshot needs CUDA"
        assert self._log is not None, "only rank 0 profiles"
        self._log.say(said)

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=_MEMORY_EVENTS)
        self._profile = profile(activities=activities)
        self._profile.start()
