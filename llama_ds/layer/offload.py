"""CPU offloading of activations between the forward and the backward pass.

A layer's activations are copied to the host during the next layer's forward pass, and prefetched
during the backward pass of the layer above it. Both copies run on a separate CUDA stream, between
the device and pinned memory, which PyTorch's allocator reuses in the next step. On the device:

    compute   forward 0 | forward 1     | forward 2 ... backward 2 | backward 1    | backward 0
    copies              | 0 to the host | 1 ...                    | 0 to the device

So two layers' activations are on the device at a time. Those of the last layer never leave it: its
backward pass comes next. On a CPU the copies are synchronous.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class HostTensors:
    """One layer's offloaded activations, by name; made by `Offload.begin`."""

    device: torch.device
    stream: torch.cuda.Stream | None
    below: HostTensors | None
    """The layer below, whose backward pass comes next."""
    on_device: dict[str, Tensor]
    """Filled until the copy to the host has ended, and again from the prefetch on."""
    on_host: dict[str, Tensor]
    copied: torch.cuda.Event | None = None
    """Recorded after the last copy."""

    def wait(self) -> None:
        """Make the compute stream wait for the last copy."""
        if self.copied is not None:
            torch.cuda.current_stream(self.device).wait_event(self.copied)
            self.copied = None

    def send(self) -> None:
        """Start the copy to the host."""
        pinned = self.stream is not None
        for name, tensor in self.on_device.items():
            self.on_host[name] = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
        self._copy(self.on_device, self.on_host)

    def free_on_device(self) -> None:
        """Free the device memory, once the copy to the host has ended."""
        self.wait()
        self.on_device = {}

    def fetch(self) -> None:
        """Start the copy back to the device (prefetch), unless it has been started already."""
        if not self.on_device:
            for name, tensor in self.on_host.items():
                self.on_device[name] = torch.empty_like(tensor, device=self.device)
                if self.stream is not None:
                    # Or the memory could be reused if the graph is dropped before the copy ends.
                    self.on_device[name].record_stream(self.stream)
            self._copy(self.on_host, self.on_device)

    def take(self) -> dict[str, Tensor]:
        """The tensors on the device; starts the prefetch of the layer below.

        Frees the host memory, unless the graph is retained for another backward pass.
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
        # The source must be computed, and the previous use of the target's memory ended.
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for name, tensor in source.items():
                target[name].copy_(tensor, non_blocking=True)
            self.copied = self.stream.record_event()


class Offload:
    """The offloaded activations of one forward pass."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._last: HostTensors | None = None

    def begin(self, tensors: dict[str, Tensor]) -> HostTensors:
        """Start to offload a layer's activations; called layer by layer in forward order."""
        if self._last is not None:
            self._last.free_on_device()
        # Detached, or graph and tensors would reference each other and never be freed.
        detached = {name: tensor.detach() for name, tensor in tensors.items()}
        self._last = HostTensors(self.device, self.stream, self._last, detached, {})
        self._last.send()
        return self._last

    def host_bytes(self) -> int:
        """Host memory of all layers' offloaded activations."""
        total, layer = 0, self._last
        while layer is not None:
            total += sum(tensor.untyped_storage().nbytes() for tensor in layer.on_host.values())
            layer = layer.below
        return total
