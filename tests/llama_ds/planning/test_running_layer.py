"""The estimate of a running layer's and norm's activations against what PyTorch allocates."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from benchmarks.model.activation_memory import peak_bytes
from llama_ds.config import Recipe
from llama_ds.hf_config import hf_config
from llama_ds.layer.options import LayerOptions
from llama_ds.model import LlamaForCausalLM
from llama_ds.planning.activation_memory import activation_memory, element_width
from recipes.llama import llama_tiny
from tests.support.nightly import at_night


def small_recipe(dtype: Any, policy: Any) -> Recipe:
    """With many tokens for its width, so that activations outweigh the weights' gradients."""
    recipe = llama_tiny()
    model = dataclasses.replace(
        recipe.model, hidden_size=64, intermediate_size=176, num_hidden_layers=2, vocab_size=32
    )
    train = dataclasses.replace(
        recipe.train,
        dtype=dtype,
        save_policy=policy,
        micro_batch_size=2,
        elementwise="eager",
    )
    return dataclasses.replace(recipe, model=model, train=train)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "policy"),
    [
        ("bf16", "linear_outputs"),
        ("fp32", "no_mlp"),
        at_night("bf16", "keep_all"),
        at_night("bf16", "no_mlp"),
        at_night("bf16", "layer_input"),
        at_night("fp32", "keep_all"),
        at_night("fp32", "linear_outputs"),
        at_night("fp32", "layer_input"),
    ],
)
def test_the_trunks_peak_is_estimated(dtype: Any, policy: Any) -> None:
    recipe = small_recipe(dtype, policy)
    torch_dtype = torch.bfloat16 if dtype == "bf16" else torch.float32
    model = LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
        hf_config(recipe.model, bos_token_id=1, eos_token_id=2, dtype=torch_dtype),
        dtype=torch_dtype,
        layer_options=LayerOptions(save_policy=recipe.train.resolved_save_policy),
    ).model
    shape = (recipe.train.micro_batch_size, recipe.train.sequence_length)
    gradient = torch.ones((*shape, recipe.model.hidden_size), dtype=torch_dtype)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        hidden = model(torch.zeros(shape, dtype=torch.long), use_cache=False).last_hidden_state
        hidden.backward(gradient)

    step()
    model.zero_grad(set_to_none=True)
    memory, width = activation_memory(recipe), element_width(recipe)
    layer = memory.backward_layer + recipe.model.num_layer_parameters * width
    norm = memory.final_norm + memory.final_norm_backward
    estimate = memory.kept() + max(layer, norm)
    assert estimate == pytest.approx(peak_bytes(step, torch.device("cpu")), rel=0.08)
