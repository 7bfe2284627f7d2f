"""`--config FILE`: a recipe's fields from a file, JSON or YAML, as the options they stand for.

The `recipe.json` of a run is such a file. What it says comes before the command line, which wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NOT_OPTIONS = frozenset({"history"})
"""What `recipe.json` has beside the recipe."""


def expand_config(arguments: Sequence[str]) -> list[str]:
    """`arguments` with `--config FILE` replaced by the options in the file, before all others."""
    rest, options = [], []
    words = iter(arguments)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            path = word.partition("=")[2] or next(words, "")
            if not path:
                raise ValueError("--config needs a file: a run's recipe.json, or YAML")
            options += options_of(read(Path(path)))
        else:
            rest.append(word)
    return [*options, *rest]


def read(path: Path) -> Mapping[str, Any]:
    """The mapping in a JSON or YAML file; ValueError naming it where there is none."""
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} is neither JSON nor YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(
            f"--config {path} must hold sections of a recipe, such as train: and data:"
        )
    return tree


def options_of(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Command-line words for the fields of a tree, in its order."""
    words: list[str] = []
    for name, value in tree.items():
        if not prefix and name in NOT_OPTIONS:
            continue
        option = str(name).replace("_", "-")
        if isinstance(value, Mapping) and not prefix:
            words += options_of(value, f"{option}.")
        elif isinstance(value, bool):
            words.append(f"--{prefix}{option}" if value else f"--{prefix}no-{option}")
        elif isinstance(value, Mapping):
            words += [f"--{prefix}{option}", *(str(v) for pair in value.items() for v in pair)]
        elif isinstance(value, list):
            words += [f"--{prefix}{option}", *map(str, value)]
        else:
            words.append(f"--{prefix}{option}={value}")  # a value may begin with a minus
    return words
