"""Keys of `--deepspeed-json` that change memory: counted, or named."""

from __future__ import annotations

from typing import Any

import pytest

from llama_ds.batch import batch_plan
from llama_ds.deepspeed_config import deepspeed_config, merge_overrides
from llama_ds.planning.deepspeed_options import offload_of, uncounted_keys
from llama_ds.planning.state_memory import Offload
from recipes.llama import llama_7b

CPU = {"device": "cpu", "pin_memory": True}


def generated() -> dict[str, Any]:
    recipe = llama_7b()
    return deepspeed_config(recipe, batch_plan(recipe, 256), "cuda")


def uncounted(overrides: dict[str, Any]) -> list[str]:
    return uncounted_keys(merge_overrides(generated(), overrides), generated())


def zero(**keys: Any) -> dict[str, Any]:
    return {"zero_optimization": keys}


@pytest.mark.parametrize(
    ("overrides", "stage", "expected"),
    [
        ({}, 3, Offload()),
        (zero(offload_optimizer=CPU), 2, Offload(optimizer=True)),
        (zero(offload_optimizer=CPU), 0, Offload()),
        (zero(offload_optimizer={"device": "none"}), 2, Offload()),
        (zero(offload_param=CPU), 3, Offload(weights=True)),
        (zero(offload_param=CPU), 2, Offload()),
        (zero(offload_param=CPU, offload_optimizer=CPU), 3, Offload(True, True)),
    ],
)
def test_states_on_the_host(overrides: dict[str, Any], stage: int, expected: Offload) -> None:
    assert offload_of(overrides, stage) == expected


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        zero(offload_optimizer=CPU),
        zero(offload_optimizer={"device": "none"}),
        zero(zero_quantized_weights=False, stage=llama_7b().zero.stage),
        {"wall_clock_breakdown": True, "steps_per_print": 10},
    ],
    ids=str,
)
def test_what_changes_no_memory_or_is_counted_is_not_named(overrides: dict[str, Any]) -> None:
    assert uncounted(overrides) == []


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (zero(overlap_comm=False), ["zero_optimization.overlap_comm"]),
        (zero(zenflow={"topk_ratio": 0.1}), ["zero_optimization.zenflow.topk_ratio"]),
        (zero(mics_shard_size=8), ["zero_optimization.mics_shard_size"]),
        (
            zero(offload_optimizer={"device": "cpu", "ratio": 0.5}),
            ["zero_optimization.offload_optimizer.ratio"],
        ),
        (
            zero(offload_optimizer={"device": "nvme", "nvme_path": "/disk"}),
            ["zero_optimization.offload_optimizer"],
        ),
        ({"bf16": {"immediate_grad_update": False}}, ["bf16.immediate_grad_update"]),
        ({"communication_data_type": "bf16"}, ["communication_data_type"]),
        ({"torch_autocast": {"enabled": True}}, ["torch_autocast"]),
    ],
)
def test_what_is_not_counted_is_named(overrides: dict[str, Any], names: list[str]) -> None:
    assert uncounted(overrides) == names
