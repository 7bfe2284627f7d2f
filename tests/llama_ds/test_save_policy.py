"""Save policies: what they keep, and which contradict themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_ds.save_policy import PRESETS, SavePolicy
from tests.support.tiny_run import tiny_recipe


@pytest.mark.parametrize(
    ("preset", "kept"),
    [
        ("keep_all", "x attn_in q k v attn_out lse o_in mid mlp_in gate up product"),
        ("linear_outputs", "x q k v attn_out lse mid gate up"),
        ("no_mlp", "x q k v attn_out lse mid"),
        ("layer_input", "x"),
    ],
)
def test_presets(preset: Any, kept: str) -> None:
    assert " ".join(PRESETS[preset].saved()) == kept


def test_choices_change_a_preset() -> None:
    policy = SavePolicy.of("linear_outputs", attn_in="regather", up="recompute", product="keep")
    kept = "x attn_normed q k v attn_out lse mid gate product"
    assert " ".join(policy.saved()) == kept


def test_offloaded_tensors_are_kept_elsewhere() -> None:
    policy = SavePolicy.of("linear_outputs", x="offload", mid="offload", attn_in="offload")
    assert " ".join(policy.saved()) == "q k v attn_out lse gate up"
    assert " ".join(policy.offloaded()) == "x attn_in mid"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"gate": "regather"}, r"gate \(regather\) must be keep or recompute or offload"),
        ({"mlp_in": "drop"}, r"mlp_in \(drop\) must be keep or regather or recompute or off"),
        ({"x": "recompute"}, r"x \(recompute\) must be keep or offload"),
        (
            {"lse": "recompute"},
            r"attn_out \(keep\) and lse \(recompute\) must both be recompute or neither",
        ),
        (
            {"attn_out": "recompute", "lse": "recompute", "o_in": "keep"},
            r"o_in \(keep\) must be recompute or the same as attn_out \(recompute\)",
        ),
        (
            {"o_in": "offload"},
            r"o_in \(offload\) must be recompute or the same as attn_out \(keep\)",
        ),
        (
            {"norm": "keep"},
            r"save_tensors: unknown activation norm; must be one of x, attn_in, q, k, v",
        ),
    ],
)
def test_contradictions_are_refused_by_the_recipe(choices: dict[str, str], message: str) -> None:
    overrides = {"train.save_policy": "linear_outputs", "train.save_tensors": choices}
    with pytest.raises(ValueError, match=message):
        tiny_recipe(Path("store"), Path("run"), **overrides)


def test_recipe_gives_the_policy() -> None:
    overrides = {"train.save_policy": "no_mlp", "train.save_tensors": {"up": "keep"}}
    recipe = tiny_recipe(Path("store"), Path("run"), **overrides)
    assert recipe.train.resolved_save_policy == SavePolicy.of("no_mlp", up="keep")


def test_cudnn_is_refused_with_document_masking() -> None:
    overrides = {"train.attention": "cudnn", "data.document_masking": True}
    with pytest.raises(ValueError, match="cudnn does not support document masking"):
        tiny_recipe(Path("store"), Path("run"), **overrides)
