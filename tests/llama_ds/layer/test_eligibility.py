"""Where the fused layer would be wrong, the layer's modules are called, and the log says why."""
# transformers' classes carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llama_ds import LlamaForCausalLM
from llama_ds.layer.options import LayerOptions
from llama_ds.model import DEFAULT_LAYER_OPTIONS
from tests.support.llama_pair import num_fused_layers

V = 50


def model(layer_options: LayerOptions = DEFAULT_LAYER_OPTIONS, **overrides: Any) -> Any:
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        **overrides,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config, layer_options=layer_options).train()


def num_fused(model: Any, **inputs: Any) -> int:
    """Fused layers in the graph of the loss."""
    ids = torch.arange(12).view(2, 6)
    if "input_ids" not in inputs and "inputs_embeds" not in inputs:
        inputs["input_ids"] = ids
    hidden = model.model(**inputs).last_hidden_state
    return num_fused_layers(hidden)


class Adapter(nn.Module):
    """A linear layer with something added, as LoRA's is."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Any:
        return self.base(x)


def with_adapter(model: Any) -> None:
    attention = model.model.layers[1].self_attn
    attention.v_proj = Adapter(attention.v_proj)


def with_subclass(model: Any) -> None:
    layer = model.model.layers[1]
    layer.mlp.__class__ = type("TiledMLP", (type(layer.mlp),), {})


def with_hook(model: Any) -> None:
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *arguments: None)


def with_backward_hook(model: Any) -> None:
    model.model.layers[0].self_attn.register_full_backward_hook(lambda *arguments: None)


def with_offloading(model: Any) -> None:
    """Accelerate puts a function of its own in the place of `forward`."""
    norm = model.model.layers[0].input_layernorm
    norm.forward = norm.forward


def with_checkpointing(model: Any) -> None:
    # transformers is renaming it: 5.17 has only the second, 5.23 warns of it.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(getattr(model, name) for name in names if hasattr(model, name))()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_adapter, r"self_attn\.v_proj: it was replaced by a Adapter"),
        (with_subclass, r"mlp: it was replaced by a TiledMLP"),
        (with_hook, r"mlp\.up_proj: it has hooks"),
        (with_backward_hook, r"self_attn: it has hooks"),
        (with_offloading, r"input_layernorm: its forward was replaced"),
        (with_checkpointing, r"gradient checkpointing is on; save_policy layer_input"),
    ],
)
def test_changed_modules_are_called(
    caplog: pytest.LogCaptureFixture, change: Callable[[Any], None], reason: str
) -> None:
    tiny = model()
    assert num_fused(tiny) == 2
    change(tiny)
    with caplog.at_level(logging.WARNING, logger="llama_ds.model"):
        assert num_fused(tiny) == 0
        assert num_fused(tiny) == 0
    records = [record for record in caplog.records if record.name.startswith("llama_ds")]
    (message,) = [record.getMessage() for record in records]
    assert message.startswith("decoder layers run unfused, without a save policy: ")
    assert re.search(reason, message)


@pytest.mark.parametrize(
    "overrides",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"attention_dropout": 0.1},
        {"attn_implementation": "eager"},
        {"output_attentions": True, "attn_implementation": "eager"},
    ],
    ids=str,
)
def test_configurations_that_the_fused_layer_does_not_know(overrides: dict[str, Any]) -> None:
    assert num_fused(model(**overrides)) == 0


def test_dropout_acts_in_training_only() -> None:
    assert num_fused(model(attention_dropout=0.1).eval(), use_cache=False) == 2


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1] * 6, [1] * 6], 2),
        ([[0] + [1] * 5, [1] * 6], 0),
        ([[1] * 6, [1] * 5 + [0]], 0),
    ],
)
def test_only_padding_needs_a_mask(mask: list[list[int]], expected: int) -> None:
    assert num_fused(model(), attention_mask=torch.tensor(mask)) == expected


def test_an_all_ones_mask_ends_the_search_for_documents() -> None:
    """As in transformers, so that the two layers agree."""
    tiny = model()
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]]).expand(2, -1)
    inputs: dict[str, Any] = {
        "input_ids": torch.arange(12).view(2, 6),
        "position_ids": positions,
        "attention_mask": torch.ones(2, 6, dtype=torch.long),
    }
    fused = tiny.model(**inputs).last_hidden_state
    plain = model(layer_options=LayerOptions(fused=False))
    # Equal but for the order of sums.
    torch.testing.assert_close(fused, plain.model(**inputs).last_hidden_state)


def test_a_cache_is_served_by_the_modules() -> None:
    tiny = model().eval()
    assert num_fused(tiny, use_cache=True) == 0
    assert num_fused(tiny, use_cache=False) == 2


def test_autocast_is_left_to_the_modules() -> None:
    tiny = model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert num_fused(tiny) == 0


def test_replaced_attention_is_called() -> None:
    """Other libraries put their sequence parallelism in the place of transformers' function."""
    calls = []

    def attend(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        return sdpa_attention_forward(*arguments, **keywords)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend
    try:
        assert num_fused(model()) == 0
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_attention_forward
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert len(calls) == 2
    assert num_fused(model()) == 2


def test_asking_for_hidden_states_does_not_unfuse() -> None:
    tiny = model()
    assert num_fused(tiny, output_hidden_states=True) == 2
    # transformers leaves hooks behind on the attention modules as well.
    assert tiny.model.layers[0].self_attn._forward_hooks
    assert num_fused(tiny) == 2


def test_attentions_are_asked_of_the_modules() -> None:
    assert num_fused(model(attn_implementation="eager"), output_attentions=True) == 0
    assert num_fused(model(), output_attentions=True) == 0


def test_unfused_by_choice_calls_the_modules_silently(caplog: pytest.LogCaptureFixture) -> None:
    assert num_fused(model(layer_options=LayerOptions(fused=False))) == 0
    assert not caplog.records


def test_generation_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    model().eval().generate(torch.arange(4)[None], max_new_tokens=3, do_sample=False)
    assert not [record for record in caplog.records if record.name.startswith("llama_ds")]
