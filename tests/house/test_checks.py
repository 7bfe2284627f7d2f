"""Every test checks something."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]

# Calls that fail a test: pytest's, unittest's mocks, and `assert_close` and its like.
CHECKS = frozenset({"raises", "warns", "fail"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def names_in(function: Function) -> set[str]:
    """Names of what it calls or passes on, such as a function for other processes."""
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}


def checks_itself(function: Function) -> bool:
    """Whether it has an assert or raise statement, or a call that fails the test."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in CHECKS or name.startswith("assert_"):
                return True
            # A command that must succeed: `subprocess.run(..., check=True)`.
            if any(k.arg == "check" and ast.unparse(k.value) == "True" for k in node.keywords):
                return True
    return False


def imported_files(tree: ast.AST) -> Iterator[str]:
    """Files below `tests/` that a file imports from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            yield str(node.module).removeprefix("tests.").replace(".", "/") + ".py"


def without_checks(sources: dict[str, str]) -> list[str]:
    """Test functions, as "file::name", that check nothing, neither themselves nor in a function of
    `tests/` that they name, directly or through others."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    visible = {name: {name, *imported_files(tree)} & sources.keys() for name, tree in trees.items()}
    functions = [
        (name, one, names_in(one)) for name, tree in trees.items() for one in functions_of(tree)
    ]
    checking = {(name, one.name) for name, one, _ in functions if checks_itself(one)}
    size = -1
    while size < len(checking):
        size = len(checking)
        checking |= {
            (name, one.name)
            for name, one, names in functions
            if any((file, other) in checking for file in visible[name] for other in names)
        }
    return [
        f"{name}::{one.name}"
        for name, one, _ in functions
        if one.name.startswith("test_") and (name, one.name) not in checking
    ]


def test_a_test_without_a_check_is_found() -> None:
    source = """
def helper(): assert True
def through(): helper()
def test_itself(): assert True
def test_helper(): through()
def test_raises():
    with pytest.raises(ValueError): f()
def test_close(): torch.testing.assert_close(a, b)
def test_nothing(): f()
def test_calls_nothing_that_checks():
    with suppress(ValueError): g()
"""
    imports = "from tests.a import helper\ndef test_imported(): helper()\n"
    elsewhere = "def test_of_no_helper(): helper()\n"
    found = without_checks({"a.py": source, "b.py": imports, "c.py": elsewhere})
    assert found.pop() == "c.py::test_of_no_helper"
    assert found == ["a.py::test_nothing", "a.py::test_calls_nothing_that_checks"]


def test_every_test_checks_something() -> None:
    files = sorted(TESTS.rglob("*.py"))
    sources = {str(path.relative_to(TESTS)): path.read_text(encoding="utf-8") for path in files}
    assert len(sources) > 100
    assert without_checks(sources) == []
