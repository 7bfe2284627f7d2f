"""There is one way to publish a file or folder, and it flushes what it publishes to the disk."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ATOMIC = ROOT / "data_pipeline" / "files" / "atomic.py"
SOURCES = [
    path
    for package in ("llama_ds", "data_pipeline", "recipes")
    for path in sorted((ROOT / package).rglob("*.py"))
]
FUNCTIONS = {"os": {"rename", "renames", "replace"}, "shutil": {"move"}}


def renamings(tree: ast.Module) -> Iterator[int]:
    """Lines that rename a file: functions of os and shutil, however imported, and methods of Path.

    str.replace, dataclasses.replace and datetime.replace take two arguments or keywords, a rename
    method one argument by position.
    """
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in FUNCTIONS.get(node.module or "", ())
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in imported:
            yield node.lineno
        elif isinstance(called, ast.Attribute):
            owner = called.value.id if isinstance(called.value, ast.Name) else ""
            if owner in FUNCTIONS:
                if called.attr in FUNCTIONS[owner]:
                    yield node.lineno
            elif called.attr == "rename" or (
                called.attr == "replace" and len(node.args) == 1 and not node.keywords
            ):
                yield node.lineno


@pytest.mark.parametrize(
    ("line", "is_renaming"),
    [
        ("import os; os.rename(a, b)", True),
        ("from os import replace; replace(a, b)", True),
        ("from shutil import move as put; put(a, b)", True),
        ("import shutil; shutil.move(a, b)", True),
        ("partial.rename(final)", True),
        ("(folder / 'a').replace(folder / 'b')", True),
        ("'text'.replace('a', 'b')", False),
        ("from dataclasses import replace; replace(value, field=1)", False),
        ("import dataclasses; dataclasses.replace(value, field=1)", False),
        ("import shutil; shutil.copyfile(a, b)", False),
    ],
)
def test_a_renaming_is_recognised(line: str, is_renaming: bool) -> None:
    assert bool(list(renamings(ast.parse(line)))) == is_renaming


def test_only_one_module_renames() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in renamings(ast.parse(path.read_text(encoding="utf-8")))
        if path != ATOMIC
    }
    assert not found, f"publish with {ATOMIC.relative_to(ROOT)}"


def test_whatever_is_renamed_was_flushed() -> None:
    """Every function of the module that renames something new calls one that flushes, before and
    (the folder that holds the name) after it."""
    tree = ast.parse(ATOMIC.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    publishing = {
        function.name: [
            name.id if isinstance(name := call.func, ast.Name) else getattr(name, "attr", "")
            for call in sorted(
                (node for node in ast.walk(function) if isinstance(node, ast.Call)),
                key=lambda node: (node.lineno, node.col_offset),
            )
        ]
        for function in functions
        if any(renamings(ast.Module(function.body, [])))
    }
    # This one only gives back its name to what was published before.
    del publishing["clean_up_after_killed_writers"]
    # And this one takes a name away.
    del publishing["remove_directory"]
    assert publishing.keys() == {"write_atomic", "_publish", "move_directory"}
    for calls in publishing.values():
        renames = [at for at, name in enumerate(calls) if name in ("rename", "replace")]
        flushes = [at for at, name in enumerate(calls) if name == "_fsync"]
        assert flushes[0] < renames[0]
        assert flushes[-1] > renames[-1]


def test_one_module_knows_how_a_file_is_checksummed() -> None:
    """Streaming digests are for files; `fingerprint` and `run_rules` feed theirs with values."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if "xxhash.xxh3_64()" in path.read_text(encoding="utf-8")
    }
    assert found == {"data_pipeline/files/checksum.py"}
