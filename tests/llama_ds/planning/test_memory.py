"""The memory estimate: parameters, what layers keep of a real model, phases that add up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig
from transformers import LlamaForCausalLM as StockLlama

from llama_ds.config import Recipe
from llama_ds.hf_config import hf_config
from llama_ds.layer.options import LayerOptions
from llama_ds.model import LlamaForCausalLM
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel_config import ActivationCheckpointingConfig, ParallelConfig
from llama_ds.planning.activation_memory import (
    activation_bytes,
    activation_memory,
    offloaded_bytes,
)
from llama_ds.planning.memory import estimate_memory, host_bytes
from llama_ds.planning.state_memory import rank_parameters
from llama_ds.save_policy import PRESETS
from recipes.llama import llama_7b, llama_13b, llama_33b, llama_65b, llama_tiny

RecipeFunction = Callable[[], Recipe]


@pytest.mark.parametrize(
    ("recipe_function", "num_parameters"),
    [
        (llama_tiny, 1_328_256),
        (llama_7b, 6_738_415_616),
        (llama_13b, 13_015_864_320),
        (llama_33b, 32_528_943_616),
        (llama_65b, 65_285_660_672),
    ],
)
def test_parameter_counts_are_a_real_models(
    recipe_function: RecipeFunction, num_parameters: int
) -> None:
    model = recipe_function().model
    config = LlamaConfig(
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_key_value_heads,
        vocab_size=model.vocab_size,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        stock = StockLlama(config)
    assert sum(parameter.numel() for parameter in stock.parameters()) == num_parameters
    assert model.num_parameters == num_parameters


def saved_bytes(recipe: Recipe) -> tuple[int, int]:
    """Bytes that the trunk's forward pass leaves for its backward pass, on device and host.

    On the device, of distinct tensors that autograd keeps. On one rank of a fake process group,
    whose collectives send nothing but give the right shapes.
    """
    parallel = recipe.parallel
    world_size = parallel.tp * parallel.sp
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        replicas = max(1, parallel.tp // recipe.model.num_key_value_heads)
        groups = ParallelGroups.build(
            tp_size=parallel.tp, sp_size=parallel.sp, kv_replicas=replicas
        )
        return saved_bytes_of_rank(recipe, groups)
    finally:
        dist.destroy_process_group()


def saved_bytes_of_rank(recipe: Recipe, groups: ParallelGroups) -> tuple[int, int]:
    dtype = torch.bfloat16 if recipe.train.dtype == "bf16" else torch.float32
    config = hf_config(recipe.model, bos_token_id=1, eos_token_id=2, dtype=dtype)
    model = LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
        config,
        dtype=dtype,
        groups=groups,
        sequence_parallel=recipe.parallel.sequence_parallel,
        layer_options=LayerOptions(save_policy=recipe.train.resolved_save_policy),
    )
    assert sum(p.numel() for p in model.parameters()) == rank_parameters(recipe)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    shape = (recipe.train.micro_batch_size, recipe.train.sequence_length // recipe.parallel.sp)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.model(torch.zeros(shape, dtype=torch.long), use_cache=False)
    on_device = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    if not recipe.model.is_fusable:
        return on_device, 0
    offload = context_of_last_layer(output.last_hidden_state).offload
    return on_device, 0 if offload is None else offload.host_bytes()


def context_of_last_layer(hidden_states: torch.Tensor) -> Any:
    nodes: list[Any] = [hidden_states.grad_fn]
    while not hasattr(nodes[0], "context"):
        nodes = [next_node for node in nodes for next_node, _ in node.next_functions if next_node]
        nodes.sort(key=lambda node: not hasattr(node, "context"))
    return nodes[0].context.forward


def small_recipe(dtype: Any, num_key_value_heads: int, save_policy: Any) -> Recipe:
    recipe = llama_tiny()
    save_tensors: dict[str, Any] = {}
    if save_policy == "regather":
        save_policy, save_tensors = "keep_all", {"attn_in": "regather", "mlp_in": "regather"}
    if save_policy == "offload":
        names = ("x", "attn_in", "q", "k", "attn_out", "lse", "o_in", "up")
        save_policy, save_tensors = "keep_all", dict.fromkeys(names, "offload")
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(
            recipe.model,
            hidden_size=288,
            intermediate_size=768,
            num_hidden_layers=8,
            num_attention_heads=6,
            num_key_value_heads=num_key_value_heads,
            vocab_size=4_096,
        ),
        train=dataclasses.replace(
            recipe.train,
            dtype=dtype,
            save_policy=save_policy,
            save_tensors=save_tensors,
            micro_batch_size=2,
        ),
    )


POLICIES = [*PRESETS, "regather", "offload"]
LAYOUTS = [  # tp, sp, sequence_parallel, num_key_value_heads
    (1, 1, True, 6),
    (1, 1, True, 2),
    (2, 1, True, 6),
    (2, 1, False, 6),
    (6, 1, True, 2),
    (1, 3, True, 6),
    (1, 3, True, 2),
    (2, 3, True, 2),
]


def laid_out(recipe: Recipe, tp: int, sp: int, sequence_parallel: bool, num_layers: int) -> Recipe:
    parallel = ParallelConfig(
        tp=tp, sp=sp, sequence_parallel=sequence_parallel, replicate_kv_heads=True
    )
    train = dataclasses.replace(recipe.train, sequence_length=192, tokens_per_step=1536)
    model = dataclasses.replace(recipe.model, vocab_size=4_098, num_hidden_layers=num_layers)
    return dataclasses.replace(recipe, model=model, train=train, parallel=parallel)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("tp", "sp", "sequence_parallel", "num_key_value_heads"), LAYOUTS)
def test_layer_keeps_what_is_predicted_to_the_byte(
    policy: Any,
    dtype: Any,
    tp: int,
    sp: int,
    sequence_parallel: bool,
    num_key_value_heads: int,
) -> None:
    recipe = small_recipe(dtype, num_key_value_heads, policy)
    two, three = (laid_out(recipe, tp, sp, sequence_parallel, count) for count in (2, 3))
    tokens = two.train.micro_batch_size * two.train.sequence_length
    layer = (
        two.train.resolved_save_policy,
        two.model,
        two.parallel,
        tokens,
        2 if dtype == "bf16" else 4,
    )
    (device_3, host_3), (device_2, host_2) = saved_bytes(three), saved_bytes(two)
    # What is not a layer's, rotary tables and the final norm, is in both.
    assert device_3 - device_2 == activation_bytes(*layer)
    assert host_3 - host_2 == offloaded_bytes(*layer)
    assert host_2 == host_bytes(two)
    assert (host_2 > 0) == (policy == "offload")


OTHER_MODELS: list[dict[str, Any]] = [
    {"tie_word_embeddings": True},
    {"head_dim": 20},
    {"attention_bias": True},
    {"mlp_bias": True, "tie_word_embeddings": True},
    {"hidden_act": "gelu", "head_dim": 20, "attention_bias": True},
]


@pytest.mark.parametrize(
    ("dtype", "tp", "sp", "sequence_parallel", "num_key_value_heads"),
    [("fp32", 1, 1, True, 2), ("bf16", 2, 1, False, 6), ("bf16", 2, 3, True, 2)],
)
@pytest.mark.parametrize("fields", OTHER_MODELS, ids=str)
def test_layers_that_llama_1_lacks_keep_what_is_predicted(
    dtype: Any,
    tp: int,
    sp: int,
    sequence_parallel: bool,
    num_key_value_heads: int,
    fields: dict[str, Any],
) -> None:
    recipe = small_recipe(dtype, num_key_value_heads, "linear_outputs")
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **fields))
    two, three = (laid_out(recipe, tp, sp, sequence_parallel, count) for count in (2, 3))
    tokens, width = 2 * two.train.sequence_length, 2 if dtype == "bf16" else 4
    predicted = activation_bytes(
        two.train.resolved_save_policy, two.model, two.parallel, tokens, width
    )
    # Of the modules, the inverse roots of the norms' means are not counted.
    missing = 0 if two.model.is_fusable else 2 * 4 * tokens
    found = saved_bytes(three)[0] - saved_bytes(two)[0]
    assert predicted <= found <= predicted + missing, (predicted, found)


@pytest.mark.parametrize("fields", OTHER_MODELS, ids=str)
def test_parameters_and_flops_of_what_llama_1_lacks(fields: dict[str, Any]) -> None:
    model = dataclasses.replace(llama_tiny().model, num_key_value_heads=2, **fields)
    config = hf_config(model, bos_token_id=1, eos_token_id=2, dtype=torch.float32)
    with torch.device("meta"):
        stock = StockLlama(config)
        assert sum(parameter.numel() for parameter in stock.parameters()) == model.num_parameters
        with FlopCounterMode(display=False) as counter:
            stock(torch.zeros(1, 64, dtype=torch.long)).logits.sum().backward()
    # torch counts attention by the same rule, without the causal half.
    counted = counter.get_total_flops()
    assert 64 * model.flops_per_token(64, causal=False) == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 32), (64, 8)])
def test_linear_outputs_is_the_formula(heads: int, kv_heads: int) -> None:
    """4 d + 2 k + 2 f elements per token, and 4 bytes per head."""
    d, f, k = 4_096, 11_008, 4_096 // heads * kv_heads
    model = dataclasses.replace(
        llama_7b().model, num_attention_heads=heads, num_key_value_heads=kv_heads
    )
    kept = activation_bytes(PRESETS["linear_outputs"], model, ParallelConfig(), 100, 2)
    assert kept == 100 * ((4 * d + 2 * k + 2 * f) * 2 + 4 * heads)


def test_parallel_ranks_divide_what_linear_outputs_keeps() -> None:
    model, policy = llama_7b().model, PRESETS["linear_outputs"]
    whole = activation_bytes(policy, model, ParallelConfig(), 4_096, 2)
    for parallel in (ParallelConfig(tp=8), ParallelConfig(sp=8), ParallelConfig(tp=2, sp=4)):
        assert activation_bytes(policy, model, parallel, 4_096, 2) * 8 == whole


@pytest.mark.parametrize("policy", PRESETS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_estimate_is_what_the_model_keeps(dtype: Any, policy: Any) -> None:
    recipe = small_recipe(dtype, 6, policy)
    memory = activation_memory(recipe)
    expected = memory.kept() + memory.final_norm
    # The rotary tables, token ids and the final norm's inverse roots are 4 % of what so narrow a
    # model keeps under layer_input, and vanish in a wide one.
    assert saved_bytes(recipe)[0] == pytest.approx(expected, rel=0.05)


def test_a_running_layer_has_what_the_policy_drops_and_gradients() -> None:
    recipe = small_recipe("bf16", 6, "no_mlp")
    tiled = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, mlp_tiles=8))
    d, f = recipe.model.hidden_size, recipe.model.intermediate_size
    both_ends, tokens, width = 2 * d, 2 * 256, 2
    # mlp_in, gate, up and product; the gradients of mlp_in, gate and up.
    mlp = 2 * d + 5 * f
    # attn_in; the gradients of attn_in, q, k, v and attn_out.
    attention = 6 * d
    assert activation_memory(recipe).backward_layer == tokens * width * (both_ends + mlp)
    assert mlp / 8 < attention
    assert activation_memory(tiled).backward_layer == tokens * width * (both_ends + attention)


def test_the_total_is_the_largest_phase_and_its_parts() -> None:
    estimate = estimate_memory(llama_13b(), 512)
    phases = estimate.phases()
    assert list(phases) == ["forward", "loss", "backward", "gradient reduction", "update"]
    assert estimate.total == max(phase.total for phase in phases.values())
    assert phases[estimate.binding_phase].parts() == estimate.parts()
    assert sum(estimate.parts().values()) == estimate.total
    for phase in phases.values():
        assert sum(dataclasses.asdict(phase).values()) == phase.total
        assert set(phase.parts().values()) == set(dataclasses.asdict(phase).values())


@pytest.mark.parametrize("phase", ["gradient reduction", "update"])
def test_the_last_phases_have_no_activations(phase: str) -> None:
    assert estimate_memory(llama_7b(), 256).phases()[phase].activations == 0


@pytest.mark.parametrize(
    ("settings", "inputs"),
    [
        ({}, 1.0),
        ({"partition_activations": True}, 1 / 2),
        ({"partition_activations": True, "contiguous_memory_optimization": True}, 1 / 2),
        ({"partition_activations": True, "cpu_checkpointing": True}, 0.0),
    ],
)
def test_checkpoints_leave_their_inputs(settings: dict[str, Any], inputs: float) -> None:
    """Two groups of layers: half of what the layers keep, and two inputs as they are held."""
    parallel = ParallelConfig(tp=2, sequence_parallel=False)
    recipe = dataclasses.replace(small_recipe("bf16", 6, "linear_outputs"), parallel=parallel)
    section = ActivationCheckpointingConfig(number_checkpoints=2, **settings)
    grouped = dataclasses.replace(recipe, activation_checkpointing=section)
    model, tokens = recipe.model, recipe.train.micro_batch_size * recipe.train.sequence_length
    kept = activation_bytes(recipe.train.resolved_save_policy, model, parallel, tokens, 2)
    freed = model.num_hidden_layers // 2 * kept
    added = 2 * tokens * model.hidden_size * 2 * inputs
    before, after = (activation_memory(each).kept() for each in (recipe, grouped))
    assert after == before - freed + added
