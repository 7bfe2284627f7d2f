"""Regular expressions of the readers and filters take linear time on texts made against them."""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.text import licenses
from tests.support.pumped_patterns import texts

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("sources", "text", "files", "filters")
SMALL, LARGE = 500, 8_000
MANY_SECONDS = 0.3

# Not linear, or not to be searched for in long texts, each with the reason why that is no danger.
BOUNDED = {
    "data_pipeline.filters.heuristics._GENERATED": "head_characters of a file, 1,000",
    "data_pipeline.sources.wikipedia.templates._NUMBER": "_MAX_NUMBER_CHARACTERS, 40",
}
ANCHORED = ("match", "fullmatch")
METHODS = (*ANCHORED, "search", "sub", "subn", "split", "finditer", "findall")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for place in PLACES:
        for path in sorted((ROOT / "data_pipeline" / place).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def used_by(tree: ast.Module) -> dict[str, set[str]]:
    """Pattern's name -> the methods that a module calls on it; "search" where it is passed on."""
    found: dict[str, set[str]] = {}
    called: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            called.add(id(node.value))
            if node.attr in METHODS:
                found.setdefault(node.value.id, set()).add(node.attr)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in called:
            found.setdefault(node.id, set()).add("search")
    return found


def patterns() -> Iterator[tuple[str, re.Pattern[Any], str]]:
    for name, tree in modules():
        uses = used_by(tree)
        for key, value in sorted(vars(importlib.import_module(name)).items()):
            if isinstance(value, re.Pattern):
                kinds = uses.get(key, {"search"})
                method = "fullmatch" if kinds == {"fullmatch"} else "match"
                yield f"{name}.{key}", value, method if kinds <= set(ANCHORED) else "search"


def license_patterns() -> Iterator[tuple[str, re.Pattern[Any], str]]:
    for table in ("_NAMES", "_PHRASES", "_HEADER_NAMES"):
        for name, pattern in vars(licenses)[table].items():
            yield f"licenses.{table}.{name}", re.compile(pattern), "search"


PATTERNS = {name: (pattern, method) for name, pattern, method in (*patterns(), *license_patterns())}


def seconds(pattern: re.Pattern[Any], method: str, text: str) -> float:
    """CPU time over the whole text."""
    subject: Any = text.encode("utf-8") if isinstance(pattern.pattern, bytes) else text
    start = time.process_time()
    if method == "search":
        for _ in pattern.finditer(subject):
            pass
    else:
        getattr(pattern, method)(subject)
    return time.process_time() - start


def worst(pattern: re.Pattern[Any], method: str) -> str | None:
    """A text on which the pattern takes more than linear time, as far as it is known to; or None.

    Doubled until `LARGE` characters, on which a linear pattern takes a millisecond and a quadratic
    one 0.03 s or more; a text that takes `MANY_SECONDS` before that is not doubled again.
    """
    sizes = [SMALL << i for i in range((LARGE // SMALL).bit_length())]
    for number, of_sizes in enumerate(zip(*(texts(pattern, s) for s in sizes), strict=True)):
        times: list[float] = []
        for text in of_sizes:
            times.append(seconds(pattern, method, text))
            if times[-1] > MANY_SECONDS:
                return f"text {number}, {text[:60]!r}..., takes {times[-1]:.2f} s"
        if times[-1] > 0.01:  # then the shorter one has not been too fast to be timed
            large, small = (
                min(seconds(pattern, method, text) for _ in range(3))
                for text in (of_sizes[-1], of_sizes[-3])
            )
            # Four times the text: four times the time, or sixteen times.
            if large > 8 * small:
                return f"text {number}, {of_sizes[0][:60]!r}...: {small:.4f} s, then {large:.4f} s"
    return None


@pytest.mark.timeout(60)  # An exponential one never ends.
@pytest.mark.parametrize("name", sorted(PATTERNS.keys() - BOUNDED.keys()))
def test_time_is_linear(name: str) -> None:
    assert worst(*PATTERNS[name]) is None


def test_exceptions_exist() -> None:
    assert BOUNDED.keys() <= PATTERNS.keys()
    assert len(PATTERNS) > 100


@pytest.mark.parametrize("bad", [r"[.!?]+x", r"a\s*,?\s*b", r"^\W*by", r"(?:a|b)*\*.*c"])
def test_a_bad_one_is_found(bad: str) -> None:
    assert worst(re.compile(bad, re.MULTILINE), "search") is not None
