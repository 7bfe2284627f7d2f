"""Hardware that a run is planned for: GPUs, links and clusters, each number with its source."""

from __future__ import annotations

from dataclasses import dataclass, replace

GIB = 2**30


@dataclass(frozen=True)
class AttentionRate:
    """FLOP/s of an attention kernel on causal sequences: `limit * S / (S + half_length)`.

    Forward and backward pass together, counting the half of the scores that a causal mask needs.
    """

    limit: float
    half_length: float
    """Sequence length at which half of `limit` is reached."""

    def at(self, sequence_length: int) -> float:
        return self.limit * sequence_length / (sequence_length + self.half_length)


@dataclass(frozen=True)
class Gpu:
    """One GPU. `matmul_efficiency` is fitted (`step_time.py`), the rest is published."""

    name: str
    peak_flops: float
    """Dense bf16, of the data sheet."""
    memory_bandwidth: float
    """Bytes/s, of the data sheet."""
    memory_bytes: int
    """What torch reports as total memory, rounded down: less than the name says, because the driver
    and error correction reserve a part."""
    num_sms: int
    """Streaming multiprocessors, over which the tiles of a matmul are spread."""
    nvlink_bandwidth: float
    """Bytes/s that a rank sends in NCCL's collectives within a node (bus bandwidth)."""
    watts: float
    """Thermal design power."""
    matmul_efficiency: float
    """Share of the peak that a large matmul reaches within a training step."""
    attention: dict[str, AttentionRate]
    """Kernel ("flash", "cudnn") -> its rate."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind in nodes that a network connects."""

    name: str
    gpu: Gpu
    nic_bandwidth: float
    """Bytes/s between nodes per GPU, of the data sheet: 25e9 for one 200 Gbit/s port per GPU."""
    gpus_per_node: int = 8


# FlashAttention-2's figures of forward and backward on an A100, causal, head dim 128 (arXiv
# 2307.08691, figure 4): 150 TFLOP/s at 2k to 190 at 16k. On an H100 260 to 330 (figure 7).
# cuDNN and FlashAttention-3 on an H100 (arXiv 2407.08608, figures 5 and 6): about 500 at 8k.
_FLASH_A100 = AttentionRate(200e12, 600)
_FLASH_H100 = AttentionRate(345e12, 650)
_CUDNN_H100 = AttentionRate(580e12, 1_400)

# Peak, memory bandwidth, power: NVIDIA's data sheets (A100 80GB SXM, H100 SXM, H200 SXM).
# NVLink: 600 and 900 GB/s both ways by the data sheets; nccl-tests reach bus bandwidths of about
# 235 and 370 GB/s for large messages.
A100 = Gpu(
    name="A100-80GB",
    peak_flops=312e12,
    memory_bandwidth=2_039e9,
    memory_bytes=79 * GIB,
    num_sms=108,
    nvlink_bandwidth=235e9,
    watts=400,
    matmul_efficiency=0.743,
    attention={"flash": _FLASH_A100, "cudnn": _FLASH_A100},
)
H100 = Gpu(
    name="H100-80GB",
    peak_flops=989.5e12,
    memory_bandwidth=3_350e9,
    memory_bytes=79 * GIB,
    num_sms=132,
    nvlink_bandwidth=370e9,
    watts=700,
    matmul_efficiency=0.625,
    attention={"flash": _FLASH_H100, "cudnn": _CUDNN_H100},
)
H200 = replace(H100, name="H200-141GB", memory_bandwidth=4_800e9, memory_bytes=139 * GIB)

CLUSTERS = {
    "a100-80gb": Cluster("a100-80gb", A100, nic_bandwidth=25e9),
    "h100-80gb": Cluster("h100-80gb", H100, nic_bandwidth=50e9),
    "h200-141gb": Cluster("h200-141gb", H200, nic_bandwidth=50e9),
}
"""Nodes as NVIDIA's DGX: a port of 200 Gbit/s per A100, of 400 Gbit/s per H100 and H200."""
