"""Activations in the host's memory between the forward and the backward pass.

A layer's tensors are copied out under the next layer's forward pass, and copied back under the
backward pass of the layer above it. Both copies run on a stream of their own, between the device
and pinned memory, which PyTorch keeps for the next step. The order of things on the device:

    compute   forward 0 | forward 1     | forward 2 ... backward 2 | backward 1    | backward 0
    copies              | 0 to the host | 1 ...                    | 0 to the device

So two layers' tensors are on the device at a time. Those of the last layer never leave it: its
backward pass comes next. On a CPU a copy is a copy, made where it is begun.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class HostTensors:
    """One layer's tensors, by name; made by `Offload.begin`."""

    device: torch.device
    stream: torch.cuda.Stream | None
    below: HostTensors | None
    """Those of the layer whose backward pass comes next."""
    on_device: dict[str, Tensor]
    """Filled while tensors have not left yet, and while they are awaited back."""
    on_host: dict[str, Tensor]
    copied: torch.cuda.Event | None = None
    """The end of the copy that was begun last."""

    def wait(self) -> None:
        """Computing goes on when the copy has ended."""
        if self.copied is not None:
            torch.cuda.current_stream(self.device).wait_event(self.copied)
            self.copied = None

    def send(self) -> None:
        """Begin the copy to the host."""
        pinned = self.stream is not None
        for name, tensor in self.on_device.items():
            self.on_host[name] = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
        self._copy(self.on_device, self.on_host)

    def leave(self) -> None:
        """Free the device's memory, once the copy to the host has ended."""
        self.wait()
        self.on_device = {}

    def fetch(self) -> None:
        """Begin the copy back, unless the tensors are there or on their way."""
        if not self.on_device:
            for name, tensor in self.on_host.items():
                self.on_device[name] = torch.empty_like(tensor, device=self.device)
                if self.stream is not None:
                    # Whoever drops the graph before this layer's backward pass waits for nothing.
                    self.on_device[name].record_stream(self.stream)
            self._copy(self.on_host, self.on_device)

    def take(self) -> dict[str, Tensor]:
        """The tensors on the device; the layer below's begin to come.

        Host memory is given back, unless the graph is kept for another backward pass.
        """
        self.fetch()
        self.wait()
        taken, self.on_device = self.on_device, {}
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            self.on_host = {}
        if self.below is not None:
            self.below.fetch()
        return taken

    def _copy(self, source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
        if self.stream is None:
            for name, tensor in source.items():
                target[name].copy_(tensor)
            return
        # The source has been computed, and whatever the target's memory held has been used.
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for name, tensor in source.items():
                target[name].copy_(tensor, non_blocking=True)
            self.copied = self.stream.record_event()


class Offload:
    """The host tensors of one forward pass."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._last: HostTensors | None = None

    def begin(self, tensors: dict[str, Tensor]) -> HostTensors:
        """Begin to move a layer's tensors; the layers come in the order of the forward pass."""
        if self._last is not None:
            self._last.leave()
        # Detached: a tensor that knew the graph would keep it, and the graph keeps this.
        detached = {name: tensor.detach() for name, tensor in tensors.items()}
        self._last = HostTensors(self.device, self.stream, self._last, detached, {})
        self._last.send()
        return self._last

    def host_bytes(self) -> int:
        """Host memory that all layers' tensors take."""
        total, layer = 0, self._last
        while layer is not None:
            total += sum(tensor.untyped_storage().nbytes() for tensor in layer.on_host.values())
            layer = layer.below
        return total
