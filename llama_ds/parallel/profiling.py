"""Names for what a profiler shows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch.autograd import _profiler_enabled  # type: ignore[attr-defined]
from torch.profiler import record_function


def named(name: str) -> AbstractContextManager[object]:
    """What runs inside appears under `name` in a torch.profiler trace; free without a profiler."""
    if _profiler_enabled():
        return record_function(name)
    return nullcontext()
