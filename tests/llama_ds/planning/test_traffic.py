"""The formulas of what a layer sends, against the collectives that a layer calls."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.model.wire import sent_bytes
from llama_ds.hf_config import hf_config
from llama_ds.layer.options import LayerOptions
from llama_ds.model import LlamaForCausalLM
from llama_ds.model_config import ModelConfig
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel_config import ParallelConfig
from llama_ds.planning.traffic import layer_traffic
from llama_ds.save_policy import PRESETS, SavePolicy

ROWS, LENGTH = 2, 24
MODEL = ModelConfig(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=12,
    num_key_value_heads=12,
    vocab_size=96,
)
POLICIES: dict[str, SavePolicy] = {
    **{name: policy for name, policy in PRESETS.items()},
    "regather": SavePolicy(attn_in="regather", mlp_in="regather"),
    "no queries": SavePolicy(q="recompute", v="recompute", mid="recompute"),
}
LAYOUTS = [  # tp, sp, Megatron's sequence parallelism, key/value heads
    (1, 1, True, 12),
    (2, 1, True, 12),
    (2, 1, False, 12),
    (6, 1, True, 2),
    (6, 1, False, 3),
    (1, 3, True, 12),
    (1, 3, True, 2),
    (2, 3, True, 4),
    (2, 3, False, 12),
]


def counted(
    model: ModelConfig, parallel: ParallelConfig, policy: SavePolicy | None, dtype: torch.dtype
) -> tuple[Counter[str], Counter[str]]:
    """(forward, backward) of one rank of a fake process group, which has no second rank."""
    options = LayerOptions(fused=False) if policy is None else LayerOptions(save_policy=policy)
    world_size = parallel.tp * parallel.sp
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        groups = ParallelGroups.build(
            tp_size=parallel.tp,
            sp_size=parallel.sp,
            kv_replicas=max(1, parallel.tp // model.num_key_value_heads),
        )
        stack: Any = LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
            hf_config(model, bos_token_id=1, eos_token_id=2, dtype=dtype),
            dtype=dtype,
            groups=groups,
            sequence_parallel=parallel.sequence_parallel,
            layer_options=options,
        ).model
        shape = (ROWS, LENGTH // parallel.sp, model.hidden_size)
        inputs = torch.ones(shape, dtype=dtype, requires_grad=True)
        forward, output = sent_bytes(lambda: stack(inputs_embeds=inputs, use_cache=False)[0])
        backward, _ = sent_bytes(lambda: output.sum().backward())
        return forward, backward
    finally:
        dist.destroy_process_group()


def of_one_layer(
    parallel: ParallelConfig, kv_heads: int, policy: SavePolicy | None, dtype: torch.dtype
) -> tuple[Counter[str], Counter[str]]:
    """What a second layer adds."""
    one, two = (
        counted(
            dataclasses.replace(MODEL, num_key_value_heads=kv_heads, num_hidden_layers=layers),
            parallel,
            policy,
            dtype,
        )
        for layers in (1, 2)
    )
    return two[0] - one[0], two[1] - one[1]


# Every layout meets every other policy, and every policy every other layout.
CASES = [
    (*layout, policy)
    for i, layout in enumerate(LAYOUTS)
    for j, policy in enumerate(POLICIES)
    if (i + j) % 2 == 0
]


@pytest.mark.parametrize(("tp", "sp", "megatron", "kv_heads", "policy"), CASES)
def test_a_layer_sends_what_the_formula_says_to_the_byte(
    tp: int, sp: int, megatron: bool, kv_heads: int, policy: str
) -> None:
    parallel = ParallelConfig(tp, sp, sequence_parallel=megatron, replicate_kv_heads=True)
    dtype, width = (torch.bfloat16, 2) if sp == 1 else (torch.float32, 4)
    model = dataclasses.replace(MODEL, num_key_value_heads=kv_heads)
    predicted = layer_traffic(POLICIES[policy], model, parallel, ROWS * LENGTH, width)
    forward, backward = of_one_layer(parallel, kv_heads, POLICIES[policy], dtype)
    assert forward == predicted.forward
    assert backward == predicted.backward


@pytest.mark.parametrize(("tp", "sp", "megatron", "kv_heads"), LAYOUTS)
def test_the_modules_send_what_keep_all_does(
    tp: int, sp: int, megatron: bool, kv_heads: int
) -> None:
    parallel = ParallelConfig(tp, sp, sequence_parallel=megatron, replicate_kv_heads=True)
    model = dataclasses.replace(MODEL, num_key_value_heads=kv_heads)
    predicted = layer_traffic(PRESETS["keep_all"], model, parallel, ROWS * LENGTH, 4)
    forward, backward = of_one_layer(parallel, kv_heads, None, torch.float32)
    assert (forward, backward) == (predicted.forward, predicted.backward)


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather() -> None:
    """Megatron's sequence parallelism sends no more than plain tensor parallelism forward."""
    plain, megatron = (
        layer_traffic(
            PRESETS["keep_all"], MODEL, ParallelConfig(tp=4, sequence_parallel=is_on), 64, 2
        )
        for is_on in (False, True)
    )
    assert plain.forward.total() == megatron.forward.total()
    # Backward adds the gradients of two norms' weights.
    norms = 2 * 2 * 3 * MODEL.hidden_size * 2 // 4
    assert plain.backward.total() + norms == megatron.backward.total()
