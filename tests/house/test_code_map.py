"""docs/architecture.md shows the tree as it is: no file missing, none too many."""

from __future__ import annotations

import re

import pytest

from tests.tools.code_map import DOCUMENT, ROOT, code_map, parts_of


def test_the_map_is_the_tree() -> None:
    _, found, _ = parts_of(DOCUMENT.read_text(encoding="utf-8"))
    assert found == code_map(), "run python -m tests.tools.code_map --write"


def test_every_module_is_on_the_map() -> None:
    shown = {
        f"{folder}/{file}"
        for folder, rows in re.findall(r"### `(\S+)/`\n(.*?)(?=###|\Z)", code_map(), re.S)
        for file in re.findall(r"^\| `(\S+)` \|", rows, re.M)
    }
    packages = ("recipes", "llama_ds", "data_pipeline", "benchmarks")
    modules = {str(p.relative_to(ROOT)) for name in packages for p in (ROOT / name).rglob("*.py")}
    assert {name for name in modules if not name.endswith("__init__.py")} <= shown


def test_the_drawn_house_names_folders_that_exist() -> None:
    """And every sub-package is drawn."""
    before, _, _ = parts_of(DOCUMENT.read_text(encoding="utf-8"))
    drawing = before[before.index("## The house") :].split("```")[1]
    drawn: set[str] = set()
    top = ""
    for indent, name in re.findall(r"^( *)(\w+(?:/|\.py)) ", drawing, re.M):
        top = top if indent else name
        drawn.add(f"{top}{name}" if indent else name)
    missing = [name for name in drawn if not (ROOT / name).exists()]
    assert not missing
    packages = {
        f"{package}/{path.parent.name}/"
        for package in ("llama_ds", "data_pipeline")
        for path in (ROOT / package).glob("*/__init__.py")
    }
    assert packages <= drawn


def test_a_document_without_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match="must have the lines"):
        parts_of("no map here")
