"""Labels in profiler traces."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch.autograd import _profiler_enabled  # type: ignore[attr-defined]
from torch.profiler import record_function


def named(name: str) -> AbstractContextManager[object]:
    """Labels the operations inside in a torch.profiler trace; no cost without a profiler."""
    if _profiler_enabled():
        return record_function(name)
    return nullcontext()
