"""A step of 65B's first layer on 2,048 ranks, seen by single ranks of a fake process group.

Tensors are fake too: they have shapes and no data, so that a micro-batch of 65B takes seconds. The
step goes as far as the reduced gradients; the update would read numbers.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.model.wire import Calls
from llama_ds.batch import batch_plan
from llama_ds.config import Recipe
from llama_ds.deepspeed_config import deepspeed_config
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.planning.state_memory import rank_parameters
from llama_ds.planning.traffic import layer_traffic, zero_traffic
from recipes.llama import intended_world_size, llama_65b
from tests.support.fork_server import start_fork_server

WORLD_SIZE, TP, REPLICAS = 2_048, 8, 256
# The first and last ranks along tp and along the replicas. ZeRO-1's reduction is our own.
STEPS = [(0, 3), (TP - 1, 3), (WORLD_SIZE - TP, 3), (WORLD_SIZE - 1, 3), (WORLD_SIZE - 1, 1)]

LAYER = "model.layers.0."
SHAPES = {
    "model.embed_tokens.weight": (4_000, 8_192),
    **{f"{LAYER}self_attn.{name}_proj.weight": (1_024, 8_192) for name in "qkv"},
    f"{LAYER}self_attn.o_proj.weight": (8_192, 1_024),
    f"{LAYER}mlp.gate_proj.weight": (2_752, 8_192),
    f"{LAYER}mlp.up_proj.weight": (2_752, 8_192),
    f"{LAYER}mlp.down_proj.weight": (8_192, 2_752),
    f"{LAYER}input_layernorm.weight": (8_192,),
    f"{LAYER}post_attention_layernorm.weight": (8_192,),
    "model.norm.weight": (8_192,),
    "lm_head.weight": (4_000, 8_192),
}


class Seen(NamedTuple):
    """What a rank sends in a step up to the update, and what it holds then."""

    tp: dict[str, Counter[str]]
    """Bytes by collective in its tp group, in the "forward" and in the "backward" pass."""
    replicas: dict[str, Counter[str]]
    """The same among the ranks that hold the same weight shards."""
    shapes: dict[str, tuple[int, ...]]
    """Of each weight on the tp rank."""
    weights: int
    """Elements of weights that it holds between steps."""
    gradients: int
    """Elements of reduced gradients, in fp32."""


def first_layer(stage: int) -> Recipe:
    """65B as its recipe places it, with one layer, at a ZeRO stage."""
    recipe = llama_65b()
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, num_hidden_layers=1),
        zero=dataclasses.replace(recipe.zero, stage=stage),
    )


def step_as(rank: int, stage: int) -> Seen:
    """One rank's forward and backward pass and reduction; in a process that has no groups."""
    from deepspeed.runtime.zero import partitioned_param_coordinator

    from llama_ds.engine import build_engine, build_model, init_distributed, release_engine

    # ZeRO-3 asks rank 0 whether it calls the same modules; a fake rank 0 does not answer.
    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda numbers: None
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(WORLD_SIZE)}
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=WORLD_SIZE)
    recipe, fake = first_layer(stage), FakeTensorMode()
    fake.cache_enabled = False  # ZeRO-3 makes thousands of views, each with an offset of its own
    config = deepspeed_config(recipe, batch_plan(recipe, REPLICAS), "cpu")
    store: Any = SimpleNamespace(manifest=SimpleNamespace(bos_token_id=1, eos_token_id=2))
    try:
        with ParallelGroups.build(tp_size=TP) as groups, fake:
            model: Any = build_model(recipe, groups, store, config, init_distributed(local_rank=0))
            shapes = {
                name: tuple(getattr(weight, "ds_shape", weight.shape))
                for name, weight in model.named_parameters()
            }
            model._apply = lambda *_: model  # it is where it should be, and fakes cannot be moved
            engine = build_engine(model, recipe, groups, config)
            calls = run(engine, recipe)
            seen = Seen(
                of_group(calls, TP),
                of_group(calls, REPLICAS),
                shapes,
                sum(getattr(weight, "ds_tensor", weight).numel() for weight in model.parameters()),
                sum(gradient.numel() for gradient in reduced_gradients(engine, stage)),
            )
            release_engine(engine)
            return seen
    finally:
        dist.destroy_process_group()


def run(engine: Any, recipe: Recipe) -> Calls:
    """A micro-batch, forward and backward."""
    phase = "forward"
    calls = Calls(lambda: phase)
    tokens = torch.zeros(
        (recipe.train.micro_batch_size, recipe.train.sequence_length), dtype=torch.long
    )
    inputs = {"input_ids": tokens, "shift_labels": tokens, "num_items_in_batch": 1.0}
    with calls:
        loss = engine(**inputs, use_cache=False).loss
        phase = "backward"
        engine.backward(loss)
    assert engine.is_gradient_accumulation_boundary()
    return calls


def reduced_gradients(engine: Any, stage: int) -> list[torch.Tensor]:
    if stage == 1:
        gradients: list[torch.Tensor] = engine.optimizer.fp32_groups_gradient_flat_partition
    else:
        gradients = [engine.optimizer.grad_partitions_flat_buffer]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    return gradients


def of_group(calls: Calls, ranks: int) -> dict[str, Counter[str]]:
    """Bytes by phase and collective in groups of that many ranks."""
    sent: dict[str, Counter[str]] = {"forward": Counter(), "backward": Counter()}
    for kind, size in calls.sent.items():
        if kind.ranks == ranks:
            sent[kind.phase][kind.collective] += size
    return sent


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """A process of its own, whose default process group may be a fake one."""
    start_fork_server()
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "stage"), STEPS)
def test_corner_ranks_send_and_hold_what_is_predicted(
    process: ProcessPoolExecutor, rank: int, stage: int
) -> None:
    seen = process.submit(step_as, rank, stage).result()
    recipe = first_layer(stage)
    model, train, num_parameters = recipe.model, recipe.train, rank_parameters(recipe)
    tokens, hidden = train.micro_batch_size * train.sequence_length, model.hidden_size

    # The layer, and around it: the embedding's output is reduce-scattered, the head's input
    # all-gathered, and backward the other way round; two numbers per token are exchanged in the
    # loss, and the gradient of the final norm is summed.
    part = (TP - 1) * tokens * hidden * 2 // TP
    around = Counter(all_gather=part, reduce_scatter=part)
    loss = Counter(all_gather=(TP - 1) * tokens * 2 * 4)
    norm = Counter(all_reduce=2 * (TP - 1) * hidden * 2 // TP)
    layer = layer_traffic(train.resolved_save_policy, model, recipe.parallel, tokens, 2)
    assert seen.tp["forward"] == layer.forward + around + loss
    assert seen.tp["backward"] == layer.backward + around + norm

    traffic = zero_traffic(stage, "bf16")
    of_update = 0 if stage == 3 else 2  # updated weights are all-gathered
    scale = num_parameters * (REPLICAS - 1) / REPLICAS
    assert seen.replicas["forward"].total() == scale * traffic.forward
    assert seen.replicas["backward"].total() == scale * (
        traffic.backward + traffic.step - of_update
    )
    assert seen.replicas["backward"]["reduce_scatter"] == scale * 4

    assert seen.gradients == num_parameters // REPLICAS
    assert seen.weights == (num_parameters // REPLICAS if stage == 3 else num_parameters)
    assert seen.shapes == SHAPES


def test_the_recipe_places_65b_so() -> None:
    assert llama_65b().parallel.tp == TP
    assert llama_65b().zero.stage == 3
    assert intended_world_size(llama_65b(), "a100-80gb") == WORLD_SIZE == TP * REPLICAS
