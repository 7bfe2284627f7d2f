"""Memory that generating text takes, before the weights are loaded, and what a device has free.

Per rank, where tensor parallelism shards the matrices and the key/value heads. Counted are the
weights, the key/value cache at its full length, and the widest activations of the prompt's forward
pass with the logits of one position; the allocator's rounding and the CUDA context are not.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from llama_ds.parallel.tensor import Sharding
from llama_ds.weights import INDEX, WEIGHTS

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class GenerationMemory:
    """Bytes on the device of one rank."""

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a Hugging Face folder, from the headers of its safetensors files.

    Files are not mapped, since one that is larger than the memory cannot be. ValueError where there
    are none, or one is damaged.
    """
    files = [WEIGHTS]
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    elif not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; pass a folder that transformers' "
            "save_pretrained has written"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for name in files:
        entries = _header(folder / name)
        shapes |= {key: tuple(entry["shape"]) for key, entry in entries.items() if "shape" in entry}
    return shapes


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: eight bytes with its length, then JSON."""
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) == 8 and length <= path.stat().st_size:
            with contextlib.suppress(ValueError, RecursionError):
                header: Any = json.loads(file.read(length))
                if isinstance(header, dict):
                    return header
    raise ValueError(f"{path} is not a safetensors file, or is damaged; copy it again")


def generation_memory(
    shapes: dict[str, tuple[int, ...]],
    config: Any,
    dtype: torch.dtype,
    *,
    num_positions: int,
    num_sequences: int = 1,
    tp_size: int = 1,
) -> GenerationMemory:
    """Memory of a rank for `num_sequences` (beams) of `num_positions`, prompt and continuation.

    `config` is the transformers configuration of the model, `shapes` are those of its weights.
    """
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    elements = sum(map(prod, shapes.values()))
    if tp_size > 1:
        sharding = Sharding(tp_size, kv_heads)
        elements = sum(
            prod(shape) // (1 if sharding.dim(name) is None else tp_size // sharding.replicas(name))
            for name, shape in shapes.items()
        )
    tokens = num_positions * num_sequences
    cache = 2 * config.num_hidden_layers * max(1, kv_heads // tp_size) * head_dim * tokens
    # Residual stream, its norm, and of the MLP the gate, the up projection and their product.
    width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    wide = tokens * (3 * config.hidden_size + 3 * width // tp_size)
    # Logits are compared in fp32, as a copy; sampling sorts them, as another.
    logits = 3 * 4 * num_sequences * config.vocab_size
    return GenerationMemory(
        weights=elements * dtype.itemsize,
        cache=cache * dtype.itemsize,
        activations=wide * dtype.itemsize + logits,
    )


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU, or of this machine within its container's limit; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_bytes(MEMINFO, CGROUP)


def free_host_bytes(meminfo: Path, cgroup: Path) -> int | None:
    """What Linux says can be allocated without swapping, within the limit of cgroup v2."""
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    if "MemAvailable" not in lines:
        return None
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        # Pages of files that were read count as used, and are given up when memory is short.
        statistics = (cgroup / "memory.stat").read_text().splitlines()
        cached = sum(int(one.split()[1]) for one in statistics if one.startswith("inactive_file "))
        free = min(free, int(limit.read_text()) - int(used.read_text()) + cached)
    return max(0, free)
