"""`--config FILE`: a recipe's fields from a file, JSON or YAML, as the options they stand for.

The `recipe.json` of a run is such a file. What it says comes before the command line, which wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NOT_OPTIONS = frozenset({"history", "model.rope_scaling"})
"""What `recipe.json` has beside the recipe, and a field that has no option."""


def expand_config(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """`arguments` with `--config FILE` replaced by the options in the file, before all others; and
    the file's `model.rope_scaling`."""
    rest, options = [], []
    rope_scaling: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            path = word.partition("=")[2] or next(words, "")
            if not path:
                raise ValueError("--config needs a file: a run's recipe.json, or YAML")
            tree = read(Path(path))
            options += options_of(tree)
            model = tree.get("model")
            found = model.get("rope_scaling") if isinstance(model, Mapping) else None
            rope_scaling |= found if isinstance(found, Mapping) else {}
        else:
            rest.append(word)
    return [*options, *rest], rope_scaling


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
        if f"{prefix}{name}" in NOT_OPTIONS:
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
