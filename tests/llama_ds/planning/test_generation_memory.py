"""Memory of generation: the estimate against what a model and its cache hold, and the refusal."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from llama_ds.generate.__main__ import main
from llama_ds.model import LlamaForCausalLM
from llama_ds.planning.generation_memory import free_host_bytes, generation_memory, weight_shapes
from tests.support.pool_groups import pool_groups
from tests.support.prompted_models import config, write_model

GIB = 2**30


@torch.no_grad()
def held_bytes(folder: Path, length: int) -> tuple[int, int]:
    """(weights, cache) of this rank after a prompt of `length` tokens, in bf16."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    groups = pool_groups(tp_size=size, kv_replicas=size) if size > 1 else None
    how: dict[str, Any] = {} if groups is None else {"groups": groups, "sequence_parallel": False}
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **how)
    cache: Any = model(torch.ones(3, length, dtype=torch.int64), use_cache=True).past_key_values
    weights = sum(weight.nbytes for weight in model.parameters())
    return weights, sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def estimate(folder: Path, length: int, tp_size: int) -> tuple[int, int]:
    needed = generation_memory(
        weight_shapes(folder),
        config(),
        torch.bfloat16,
        num_positions=length,
        num_sequences=3,
        tp_size=tp_size,
    )
    assert needed.total == needed.weights + needed.cache + needed.activations
    return needed.weights, needed.cache


def test_weights_and_cache_are_what_a_model_holds(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    assert held_bytes(folder, 20) == estimate(folder, 20, 1)


@pytest.mark.dist
def test_they_are_what_a_rank_holds(gloo: Callable[..., list[Any]], tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    assert gloo(2, held_bytes, folder, 20) == [estimate(folder, 20, 2)] * 2


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path)
    # 8 TiB of weights, of which the disk holds the header alone.
    shape = [2**26, 2**15]
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}
    header = json.dumps({"lm_head.weight": entry}).encode()
    header += b" " * (-len(header) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4 * shape[0] * shape[1])
    capsys.readouterr()  # transformers' progress of saving
    assert main([str(folder), "--prompt", "a", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder} needs 8192.00 GiB on the CPU, where ")
    assert "use --dtype bf16, fewer --max-new-tokens, or several GPUs" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 8 * GIB), ("max", 8 * GIB), (str(5 * GIB), 3 * GIB)]
)
def test_free_memory_is_that_within_the_limit_of_the_container(
    tmp_path: Path, limit: str | None, expected: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 99 kB\nMemAvailable:   {8 * 2**20} kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{4 * GIB}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2 * GIB}\nfile 7\n")
    assert free_host_bytes(meminfo, tmp_path) == expected
    assert free_host_bytes(tmp_path / "none", tmp_path) is None
