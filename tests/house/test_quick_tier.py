"""`--quick` leaves out what its markers say, and what is left reaches every sub-package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.quick_tier import is_quick

ROOT = Path(__file__).resolve().parents[2]


def name_of(node: ast.expr) -> str:
    """`c` of an expression a.b.c or of a call of it; "" where it has no name."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def markers_in(nodes: list[ast.expr]) -> set[str]:
    """Names of the markers among decorators, or in the value of `pytestmark`."""
    return {name_of(node) for node in nodes if "pytest.mark." in ast.unparse(node)}


def quick_tests(source: str) -> Iterator[str]:
    """Names of the test functions that `--quick` runs."""
    tree = ast.parse(source)
    of_module: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            value = node.value
            of_module |= markers_in(value.elts if isinstance(value, ast.List) else [value])
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
            continue
        if is_quick(of_module | markers_in(node.decorator_list)):
            yield node.name


def test_quick_tests_are_told_by_their_markers() -> None:
    source = (
        "def test_a(): ...\n"
        "@pytest.mark.slow\ndef test_b(): ...\n"
        "@pytest.mark.parametrize('x', [1])\ndef test_c(x): ...\n"
        "@pytest.mark.dist\n@pytest.mark.parametrize('x', [1])\ndef test_d(x): ...\n"
    )
    assert list(quick_tests(source)) == ["test_a", "test_c"]
    assert list(quick_tests("pytestmark = pytest.mark.golden\n" + source)) == []
    assert list(quick_tests("pytestmark = [pytest.mark.gpu]\n" + source)) == []


# The tests of benchmarks lie in one folder.
SUB_PACKAGES = sorted(
    {
        str(path.parent.relative_to(ROOT))
        for package in ("llama_ds", "data_pipeline", "recipes")
        for path in (ROOT / package).rglob("*.py")
    }
    | {"benchmarks"}
)


@pytest.mark.parametrize("package", SUB_PACKAGES)
def test_quick_tests_reach_every_sub_package(package: str) -> None:
    files = (ROOT / "tests" / package).glob("test_*.py")
    quick = [name for file in files for name in quick_tests(file.read_text(encoding="utf-8"))]
    assert quick, f"tests/{package} has no test without one of the markers that --quick leaves out"
