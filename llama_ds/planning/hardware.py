"""Hardware that a run is planned for: GPUs, links and clusters, each number with its source."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_ds.model_config import require

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

MAX_GPUS_PER_NODE = 1_024
CLUSTERS = {
    "a100-80gb": Cluster("a100-80gb", A100, nic_bandwidth=25e9),
    "h100-80gb": Cluster("h100-80gb", H100, nic_bandwidth=50e9),
    "h200-141gb": Cluster("h200-141gb", H200, nic_bandwidth=50e9),
}
"""Nodes as NVIDIA's DGX: a port of 200 Gbit/s per A100, of 400 Gbit/s per H100 and H200."""


def read_cluster(path: Path) -> Cluster:
    """A cluster from a JSON file; ValueError where it is not as follows.

    `{"gpu": "h100-80gb", "nic_gbit_per_second": 200, "gpus_per_node": 4}`: a GPU of `CLUSTERS` by
    the cluster's name, and any of `name`, `nic_gbit_per_second` (per GPU), `gpus_per_node`,
    `nvlink_gb_per_second` (bus bandwidth of collectives), `memory_gib`, `memory_gb_per_second`,
    `peak_tflops` (dense bf16), `watts` and `matmul_efficiency` in place of that cluster's.
    """
    found = _read_object(path)
    base = CLUSTERS.get(str(found.pop("gpu", "")))
    require(base is not None, f"{path}: gpu must be one of {', '.join(CLUSTERS)}")
    assert base is not None, "just checked"
    gpu, name = base.gpu, str(found.pop("name", path.stem))
    gpus_per_node = _number(found, "gpus_per_node", base.gpus_per_node, path)
    require(
        gpus_per_node == int(gpus_per_node) and gpus_per_node <= MAX_GPUS_PER_NODE,
        f"{path}: gpus_per_node ({gpus_per_node:g}) must be a whole number up to "
        f"{MAX_GPUS_PER_NODE}",
    )
    efficiency = _number(found, "matmul_efficiency", gpu.matmul_efficiency, path)
    require(
        efficiency <= 1,
        f"{path}: matmul_efficiency ({efficiency:g}) is a share of peak_tflops, up to 1",
    )
    peak = _number(found, "peak_tflops", gpu.peak_flops / 1e12, path) * 1e12
    memory_gib = _number(found, "memory_gib", gpu.memory_bytes / GIB, path)
    require(memory_gib < 1e6, f"{path}: memory_gib ({memory_gib:g}) is not of one GPU")
    cluster = Cluster(
        name=name,
        gpu=replace(
            gpu,
            peak_flops=peak,
            attention={
                name: replace(rate, limit=rate.limit * peak / gpu.peak_flops)
                for name, rate in gpu.attention.items()
            },
            memory_bandwidth=_number(
                found, "memory_gb_per_second", gpu.memory_bandwidth / 1e9, path
            )
            * 1e9,
            memory_bytes=int(memory_gib * GIB),
            nvlink_bandwidth=_number(
                found, "nvlink_gb_per_second", gpu.nvlink_bandwidth / 1e9, path
            )
            * 1e9,
            watts=_number(found, "watts", gpu.watts, path),
            matmul_efficiency=efficiency,
        ),
        nic_bandwidth=_number(found, "nic_gbit_per_second", base.nic_bandwidth * 8e-9, path) / 8e-9,
        gpus_per_node=int(gpus_per_node),
    )
    require(not found, f"{path}: unknown key {next(iter(found), '')}")
    return cluster


LARGE_MATMUL_SHARE = 0.86
"""In-step matmul efficiency over that of one large matmul alone: 0.743 over about 0.865 on an A100,
0.625 over about 0.73 on an H100."""
COPY_SHARE = 0.85
"""A large copy's bandwidth over the data sheet's."""


def calibrated(cluster: Cluster, path: Path) -> Cluster:
    """`cluster` with the ceilings that `benchmarks/gpu.sh` measured, from its JSON file.

    Large matmuls and copies are scaled to what a step reaches of them; attention is as measured.
    ValueError where the file has no ceilings.
    """
    found = _read_object(path)
    ceilings, gpu = found.get("ceilings"), cluster.gpu
    measured = ceilings if isinstance(ceilings, dict) else {}
    require(
        "matmul_tflops" in measured and "copy_gb_per_second" in measured,
        f"{path} has no ceilings with matmul_tflops and copy_gb_per_second: it must be a result of "
        "benchmarks/gpu.sh",
    )
    matmul = _number(measured, "matmul_tflops", None, path) * 1e12
    copy = _number(measured, "copy_gb_per_second", None, path) * 1e9
    require(
        matmul <= gpu.peak_flops,
        f"{path}: matmul_tflops ({matmul / 1e12:g}) is above the {gpu.peak_flops / 1e12:g} of "
        f"{gpu.name}; was it measured on another GPU?",
    )
    attention = dict(gpu.attention)
    for name, flops, length in _measured_attention(found, path):
        if name in attention:
            require(
                flops <= gpu.peak_flops,
                f"{path}: tflops of {name} ({flops / 1e12:g}) is above the peak of {gpu.name}",
            )
            before = attention[name]
            attention[name] = replace(before, limit=before.limit * flops / before.at(length))
    return replace(
        cluster,
        gpu=replace(
            gpu,
            matmul_efficiency=LARGE_MATMUL_SHARE * matmul / gpu.peak_flops,
            memory_bandwidth=copy / COPY_SHARE,
            attention=attention,
        ),
    )


def _measured_attention(found: dict[str, Any], path: Path) -> Iterator[tuple[str, float, int]]:
    """(kernel, FLOP/s, sequence length) of each that could be measured."""
    kernels = found.get("kernels") or []
    require(
        isinstance(kernels, list) and all(isinstance(kernel, dict) for kernel in kernels),
        f"{path}: kernels must be a list of objects",
    )
    for kernel in kernels:
        if kernel.get("tflops") and "sequence_length" in found:
            length = int(_number(dict(found), "sequence_length", None, path))
            flops = _number(dict(kernel), "tflops", None, path) * 1e12
            yield str(kernel.get("kernel")), flops, max(1, length)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    require(isinstance(found, dict), f"{path} must hold a JSON object")
    return dict(found)


def _number(found: dict[str, Any], key: str, default: float | None, path: Path) -> float:
    value = found.pop(key, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    shown = str(value)[:40]
    require(
        math.isfinite(number) and number > 0, f"{path}: {key} ({shown}) must be a positive number"
    )
    return number
