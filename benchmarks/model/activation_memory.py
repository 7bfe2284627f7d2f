"""Activation memory: bytes saved for backward, and the peak of forward and backward."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def saved_bytes(module: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes of the distinct storages that autograd saves for backward, weights excluded.

    It does not see what a kernel hides from autograd, such as gradients computed in a forward pass
    and kept in `ctx`'s attributes; `peak_bytes` does.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()
    assert output is not None, "the result holds the graph until here"
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes of device memory that `run` allocates beyond what was allocated before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    # Every allocation, and with a negative number every release, of PyTorch's CPU allocator.
    changes = [event for event in events if event["name"] == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak
