"""The model of `--train.init-from`: the recipe follows the folder's config.json."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

from llama_ds import stock_config
from llama_ds.config import Recipe


def following(recipe: Recipe, arguments: list[str]) -> Recipe:
    """The recipe with the architecture of the folder that it or the command line starts from.

    It is not validated: options that come later may be needed for it to be valid.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--train.init-from", "--train.init_from", dest="folder", nargs="?")
    typed: str | None = early.parse_known_args(arguments)[0].folder
    folder = recipe.train.init_from if typed is None else Path(typed)
    if folder is None or typed == "None":
        return recipe
    followed = copy.copy(recipe)
    object.__setattr__(followed, "model", stock_config.read_model_config(folder))
    return followed


def require_followed(recipe: Recipe, followed: Recipe) -> None:
    """ValueError where an option contradicts the architecture that `following` has found."""
    train = recipe.train
    if train.init_from is not None:
        stock_config.require_followed(
            recipe.model, followed.model, train.init_from, may_grow=train.new_rows == "mean"
        )
