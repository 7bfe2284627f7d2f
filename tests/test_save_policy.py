"""Save policies: what they keep, and which contradict themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_recipe

from llama_ds.save_policy import PRESETS, SavePolicy


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
    assert " ".join(PRESETS[preset].kept()) == kept


def test_choices_change_a_preset() -> None:
    policy = SavePolicy.of("linear_outputs", attn_in="regather", up="recompute", product="keep")
    kept = "x attn_normed q k v attn_out lse mid gate product"
    assert " ".join(policy.kept()) == kept


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"gate": "regather"}, r"gate cannot be 'regather', only keep or recompute"),
        ({"mlp_in": "drop"}, r"mlp_in cannot be 'drop', only keep or regather or recompute"),
        ({"lse": "recompute"}, r"attn_out \(keep\) and lse \(recompute\) must be alike"),
        (
            {"attn_out": "recompute", "lse": "recompute", "o_in": "keep"},
            r"o_in \(keep\) without attn_out",
        ),
        ({"x": "recompute"}, r"save_tensors: x is none of attn_in, q, k, v"),
    ],
)
def test_contradictions_are_refused_by_the_recipe(choices: dict[str, str], message: str) -> None:
    overrides = {"train.save_policy": "linear_outputs", "train.save_tensors": choices}
    with pytest.raises(ValueError, match=message):
        tiny_recipe(Path("store"), Path("run"), **overrides)


def test_recipe_gives_the_policy() -> None:
    overrides = {"train.save_policy": "no_mlp", "train.save_tensors": {"up": "keep"}}
    recipe = tiny_recipe(Path("store"), Path("run"), **overrides)
    assert recipe.train.saved == SavePolicy.of("no_mlp", up="keep")


def test_cudnn_is_refused_with_document_masking() -> None:
    overrides = {"train.attention": "cudnn", "data.document_masking": True}
    with pytest.raises(ValueError, match="cudnn cannot keep packed documents apart"):
        tiny_recipe(Path("store"), Path("run"), **overrides)
