"""Seconds of single operations on a GPU: matmuls, attention, elementwise functions, collectives.

Each is the longer of its arithmetic and its memory traffic (the roofline model), with constants
that are the same for all models. `benchmarks/model/fit_step_time.py` fits those that no data sheet
has to published training speeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama_ds.planning.hardware import Cluster

TILE_ROWS, TILE_COLUMNS = 128, 256
"""Output tile of cuBLAS's large bf16 kernels."""


@dataclass(frozen=True)
class Constants:
    """One set for all GPUs, models and layouts.

    `contention`, `gather_copies`, `separate` and `scale` are fitted together with each GPU's
    `matmul_efficiency`; the rest was set beforehand, from microbenchmarks that others published.
    """

    half_depth: float = 157.0
    """Inner dimension K at which a matmul reaches half of its rate: K / (K + half_depth)."""
    memory_efficiency: float = 0.75
    """Share of the memory bandwidth that kernels reach."""
    matmul_latency: float = 6e-6
    """Seconds of a kernel before and after its arithmetic."""
    collective_latency: float = 8e-6
    """Seconds of a collective within a node before bytes flow."""
    hop_latency: float = 6e-6
    """Seconds per node of a ring over nodes."""
    network_efficiency: float = 0.79
    """Share of the NIC's bandwidth that collectives reach."""
    contention: float = 0.061
    """Share of communication hidden under computation that comes back as slower computation."""
    gather_copies: float = 2.38
    """Passes over memory around an all-gather or reduce-scatter of sharded weights, into and out of
    its buffers: each reads and writes what is sent."""
    separate: float = 1.67
    """Memory traffic of elementwise functions that are not one kernel each, relative to such."""
    scale: float = 0.0086
    """Slowdown per doubling of the GPUs beyond one node: stragglers and jitter."""
    optimizer_latency: float = 3e-3
    """Seconds of an optimizer step beyond its memory traffic."""


CONSTANTS = Constants()


@dataclass(frozen=True)
class Roofline:
    """Durations in seconds on one rank of `cluster`."""

    cluster: Cluster
    constants: Constants = CONSTANTS

    def matmul(self, m: int, n: int, k: int) -> float:
        """[m, k] x [k, n] in bf16."""
        gpu, constants = self.cluster.gpu, self.constants
        tiles = math.ceil(m / TILE_ROWS) * math.ceil(n / TILE_COLUMNS)
        waves = tiles / gpu.num_sms
        # The last wave is rarely full; half of the loss is hidden by other kernels and tile sizes.
        wave = (1 + waves / math.ceil(waves)) / 2
        rate = gpu.matmul_efficiency * gpu.peak_flops * wave * k / (k + constants.half_depth)
        memory = self.memory(2 * (m * k + k * n + m * n))
        return max(2 * m * n * k / rate, memory) + constants.matmul_latency

    def memory(self, size: float) -> float:
        """Reading and writing `size` bytes in all."""
        return size / (self.cluster.gpu.memory_bandwidth * self.constants.memory_efficiency)

    def elementwise(self, size: float, *, fused: bool) -> float:
        """Functions that read and write `size` bytes where each is one kernel (`fused`)."""
        return self.memory(size) * (1.0 if fused else self.constants.separate)

    def collective(self, sent: float, ranks: int, ranks_per_node: int, calls: int = 1) -> float:
        """`calls` collectives of a group of `ranks`, of which a rank sends `sent` bytes in all.

        A ring enters each node once: the ranks of the group on a node share their NICs.
        """
        if ranks == 1:
            return 0.0
        gpu, constants = self.cluster.gpu, self.constants
        here = min(ranks, ranks_per_node)
        bandwidth, latency = gpu.nvlink_bandwidth, constants.collective_latency
        if ranks > here:
            network = self.cluster.nic_bandwidth * constants.network_efficiency * here
            bandwidth = min(bandwidth, network)
            latency += constants.hop_latency * math.ceil(ranks / here)
        return sent / bandwidth + calls * latency

    def exposed(self, communication: float, computation: float) -> float:
        """What communication adds to the computation that it runs under."""
        hidden = min(communication, computation)
        return communication - hidden + self.constants.contention * hidden
