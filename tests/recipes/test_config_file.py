"""Recipes from files: a run's `recipe.json` gives the run's recipe, YAML gives some fields."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llama_ds.config import Recipe
from recipes.launch import RecipeFunction, parse
from recipes.llama import llama_7b, llama_13b, llama_33b, llama_65b, llama_tiny


def parsed(function: RecipeFunction, *arguments: str | Path) -> Recipe:
    return parse(function, [str(word) for word in arguments]).recipe


@pytest.mark.parametrize("function", [llama_tiny, llama_7b, llama_13b, llama_33b, llama_65b])
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--data.epochs", "books", "2", "web", "1.5", "--data.skip-steps", "3-4", "7"],
        ["--train.max-steps", "70", "--train.save-tensors", "attn_out", "offload"],
        ["--data.shares", "--train.skip-spikes", "--checkpoint.no-asynchronous"],
    ],
)
def test_the_recipe_of_a_run_is_its_recipe(
    tmp_path: Path, function: RecipeFunction, options: list[str]
) -> None:
    recipe = parsed(function, *options)
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({**json.loads(recipe.to_json()), "history": [{"step": 3}]}))
    # Every field is in the file, so it does not matter which recipe is asked.
    assert parsed(llama_7b, "--config", file) == recipe
    assert parsed(function, f"--config={file}", "--train.seed", "5") == replace(
        recipe, train=replace(recipe.train, seed=5)
    )


def test_a_rope_scaling_is_carried_too(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    recipe = parsed(llama_7b)
    scaled = replace(recipe, model=replace(recipe.model, rope_scaling=scaling))
    (tmp_path / "recipe.json").write_text(scaled.to_json())
    assert parsed(llama_13b, "--config", tmp_path / "recipe.json") == scaled


def test_yaml_gives_some_fields_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "cluster: h100-80gb\n"
        "optimizer: {peak_learning_rate: 1e-5}\n"
        "data:\n  shares: {books: 0.25, web: 0.75}\n"
        "train:\n  max-steps: 9\n  init_from: null\n"
    )
    found = parsed(llama_7b, "--train.max-steps", "10", "--config", file)
    expected = llama_7b("h100-80gb")
    assert found == replace(
        expected,
        optimizer=replace(expected.optimizer, peak_learning_rate=1e-5),
        data=replace(expected.data, shares={"books": 0.25, "web": 0.75}),
        train=replace(expected.train, max_steps=10),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {max_step: 3}", "unknown option --train.max-step; did you mean --train.max-steps"),
        ("train: {max_steps: many}", "--train.max-steps.*many"),
        ("train: {seed: -1}", r"train.seed \(-1\) must not be negative"),
        ("- 1", "must hold sections of a recipe"),
        ("a: [1", "is neither JSON nor YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        parsed(llama_7b, "--config", file)


def test_a_config_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--config needs a file"):
        parsed(llama_7b, "--config")
    with pytest.raises(FileNotFoundError):
        parsed(llama_7b, "--config", tmp_path / "none.json")


def test_the_mixture_is_given_in_one_way_in_every_recipe() -> None:
    words = ["--data.shares", "books", "1", "web", "2"]
    for function in (llama_tiny, llama_7b):
        assert parsed(function, *words).data.shares == {"books": 1.0, "web": 2.0}
    assert parsed(llama_7b).data.shares == llama_7b("a100-80gb").data.shares
