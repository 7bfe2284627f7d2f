"""Fingerprints: what changes them, and what does not. A change that is missed vouches for a wrong
result, one that is none makes days of work again."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from data_pipeline.build import fingerprint
from data_pipeline.build.fingerprint import (
    WITHOUT_EFFECT,
    code_behind,
    code_fingerprint,
    describe,
    functions_of,
    package_versions,
    source_fingerprint,
)
from data_pipeline.build.module_definitions import Reference, parse_module
from data_pipeline.build.reachable_code import ReachableCode, reachable_code
from data_pipeline.build.run_rules import run_rules
from data_pipeline.corpus import Deduplication
from data_pipeline.document import Document, Source
from data_pipeline.filters import heuristics as filters
from data_pipeline.sources import folder
from recipes.llama1_corpus import llama1_corpus

PACKAGE = Path(fingerprint.__file__).parents[1]
ROOT = PACKAGE.parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
PAPER = llama1_corpus(Path("raw"))
CORPUS = PAPER.with_rules(Deduplication(near_duplicates=0.8).rules(PAPER))
SOURCES = {source.name: source for source, _ in CORPUS.sources}


# -- this package ---------------------------------------------------------------------------------


def all_starts() -> list[Reference]:
    functions = [function for source in SOURCES.values() for function in functions_of(source)]
    functions += [rule.find for rule in CORPUS.rules]
    found = [f for function in (*functions, run_rules) for f in plain_functions(function)]
    return [Reference(f.__module__, (f.__qualname__,)) for f in found]


def plain_functions(value: object) -> list[Callable[..., object]]:
    if isinstance(value, partial):
        inner = (value.func, *value.args, *value.keywords.values())
        return [function for one in inner for function in plain_functions(one)]
    return [value] if callable(value) else []


def everything(package: Path, starts: list[Reference]) -> ReachableCode:
    return reachable_code(starts, {"data_pipeline": package}, without_effect=WITHOUT_EFFECT)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, which tests leave as they find it."""
    return shutil.copytree(PACKAGE, tmp_path_factory.mktemp("copy") / "data_pipeline")


class NewDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Expr(ast.Constant("Another text."))
        return node


@pytest.mark.parametrize("module", MODULES)
def test_no_comment_of_any_module_counts(copied: Path, module: str) -> None:
    """All comments removed, one added, all docstrings changed, everything in another form."""
    path = copied / module
    before = path.read_text()
    new = ast.unparse(NewDocstrings().visit(ast.parse(before)))
    path.write_text(f"# A comment.\n{new}\n")
    assert path.read_text() != before
    try:
        assert everything(copied, all_starts()) == everything(PACKAGE, all_starts())
    finally:
        path.write_text(before)


def test_every_source_may_become_a_package(copied: Path) -> None:
    """As `sources/c4/reader.py`, with a face; and another module moves below a package."""
    before = everything(PACKAGE, all_starts())
    names = [path.stem for path in (PACKAGE / "sources").glob("[a-z]*.py")]
    moved = copied.parent / "moved"
    shutil.copytree(copied, moved)
    (moved / "deep" / "deeper").mkdir(parents=True)
    (moved / "deep" / "deeper" / "__init__.py").write_text("from .templates import expand\n")
    (moved / "sources/wikipedia/templates.py").rename(moved / "deep" / "deeper" / "templates.py")
    for name in names:
        (moved / "sources" / name).mkdir()
        reader = (moved / "sources" / f"{name}.py").rename(moved / "sources" / name / "reader.py")
        public = parse_module("reader", reader.read_bytes(), is_package=False).definitions
        face = f"from data_pipeline.sources.{name}.reader import {', '.join(public)}\n"
        (moved / "sources" / name / "__init__.py").write_text(face)
    for path in moved.rglob("*.py"):
        new = path.read_text().replace(".sources.wikipedia.templates", ".deep.deeper.templates")
        path.write_text(new)
    of_source = re.compile(rf"(sources\.({'|'.join(names)}))$")
    starts = [
        Reference(of_source.sub(r"\1.reader", start.module), start.attributes)
        for start in all_starts()
    ]
    assert everything(moved, starts) == before


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_what_has_no_effect_exists(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_a_changed_executor_makes_nothing_again(copied: Path, name: str) -> None:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    path = copied.parent / Path(found.origin).relative_to(ROOT)
    before = path.read_text()
    path.write_text(f"{before}\nprint('changed')\n")
    try:
        assert everything(copied, all_starts()) == everything(PACKAGE, all_starts())
    finally:
        path.write_text(before)


def test_modules_are_imported_by_statements() -> None:
    """An import by a computed name could not be followed."""
    # That of FILE.py:FUNCTION is of a file outside of the package.
    for module in [name for name in MODULES if name != "commands/own_functions.py"]:
        assert not re.search(r"\b(import_module|__import__)\b", (PACKAGE / module).read_text())


def test_only_sources_that_reach_a_definition_are_concerned(copied: Path) -> None:
    path = copied / "sources/arxiv/macros.py"
    before = path.read_text()
    path.write_text(before.replace("    def define(", "    def define_(", 1))
    assert path.read_text() != before
    try:
        concerned = [
            name
            for name, source in SOURCES.items()
            for starts in [
                [
                    Reference(f.__module__, (f.__qualname__,))
                    for function in functions_of(source)
                    for f in plain_functions(function)
                ]
            ]
            if everything(copied, starts) != everything(PACKAGE, starts)
        ]
    finally:
        path.write_text(before)
    assert concerned == ["arxiv"]


def test_paragraphs_are_compared_by_code_that_counts() -> None:
    """`keep_masks` makes what the parts of this source are made from."""
    crawl = code_behind(functions_of(SOURCES["common_crawl"]))
    others = [code_behind(functions_of(s)) for n, s in SOURCES.items() if n != "common_crawl"]
    assert any("keep_masks" in line for line in crawl.lines)
    assert not any("keep_masks" in line for code in others for line in code.lines)


def test_versions_of_used_packages_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: source_fingerprint(source) for name, source in SOURCES.items()}
    real = metadata.version

    def version(name: str) -> str:
        return "0" if name == "lxml" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    after = {name: source_fingerprint(source) for name, source in SOURCES.items()}
    differing = [name for name in SOURCES if before[name] != after[name]]
    assert differing == ["wikipedia", "stack_exchange"]
    expected = {"pyarrow", "xxhash", "backports.zstd"}
    assert package_versions(code_behind([folder.read])).keys() == expected


def test_seven_sources_take_well_under_a_second_once_parsed() -> None:
    for source in SOURCES.values():
        source_fingerprint(source)
    start = time.perf_counter()
    for source in SOURCES.values():
        source_fingerprint(source)
    assert time.perf_counter() - start < 2


# -- functions and thresholds ---------------------------------------------------------------------


@dataclass(frozen=True)
class Threshold:
    smallest: int

    def is_met(self, document: Document) -> bool:
        return len(document.text) >= self.smallest


def short(document: Document, *, threshold: Threshold) -> str | None:
    return None if threshold.is_met(document) else "short"


def source(*chosen: Callable[[Document], str | None]) -> Source:
    read = partial(folder.read, text_field="text", max_document_bytes=1000)
    return Source("text", folder.inputs, read, filters=chosen)


def test_a_changed_threshold_counts() -> None:
    found = [
        source_fingerprint(source(chosen))
        for chosen in (
            partial(filters.too_short, min_characters=3),
            partial(filters.too_short, min_characters=4),
            partial(short, threshold=Threshold(3)),
            partial(short, threshold=Threshold(4)),
        )
    ]
    assert len(set(found)) == 4
    again = source_fingerprint(source(partial(filters.too_short, min_characters=3)))
    assert again == found[0]


def test_the_class_of_a_bound_value_counts() -> None:
    code = code_behind([partial(short, threshold=Threshold(3))])
    assert any("is_met" in line for line in code.lines)


def test_a_description_names_no_module() -> None:
    assert describe(partial(filters.too_short, min_characters=3)) == "too_short(min_characters=3)"
    for each in SOURCES.values():
        for function in functions_of(each):
            assert "data_pipeline" not in describe(function)


def test_a_function_from_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nowhere", ModuleType("nowhere"))
    monkeypatch.setattr(short, "__module__", "nowhere")
    with pytest.raises(ValueError, match="which is not read from a file"):
        code_fingerprint([], [short])


# -- builds ---------------------------------------------------------------------------------------

BUILD = """
import json, sys
from functools import partial
from pathlib import Path
from data_pipeline.filters import heuristics as filters
from data_pipeline.document import Source
from data_pipeline.build.build_corpus import build_corpus
from data_pipeline.sources import folder, github

root, out = Path(sys.argv[1]), Path(sys.argv[2])
read = partial(folder.read, text_field="text", max_document_bytes=1000)
code = partial(github.read, kinds={".py": "Python"}, max_file_bytes=1000, skip_folders=frozenset())
found = partial(
    github.inputs, kinds={".py": "Python"}, max_file_bytes=1000, skip_folders=frozenset()
)
sources = [
    (Source("text", folder.inputs, read, filters=(partial(filters.too_short, min_characters=3),)),
     root / "text"),
    (Source("code", found, code, filters=(partial(filters.long_line, max_characters=99),)),
     root / "code"),
]
build_corpus(sources, out)
"""


def test_builds_make_again_what_a_change_of_the_code_affects(tmp_path: Path) -> None:
    package = shutil.copytree(PACKAGE, tmp_path / "program" / "data_pipeline")
    for name in ("text/a.txt", "text/b.txt", "code/a.py"):
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"contents = '{name}'\n")
    made: set[tuple[Path, int]] = set()

    def made_by_build(*changes: tuple[str, str, str]) -> list[str]:
        """The sources of the parts, and the rules, that a build makes after some changes."""
        for module, old, new in changes:
            text = (package / module).read_text()
            assert old in text
            (package / module).write_text(text.replace(old, new, 1))
        command = [sys.executable, "-c", BUILD, str(tmp_path / "raw"), str(tmp_path / "out")]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "program")},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        out = tmp_path / "out"
        found = [*out.glob(".parts/*/*/*"), *out.glob(".rules/*-*")]
        now = {(path, path.stat().st_ino) for path in found}
        assert made <= now, "a finished result is gone"
        new_paths = sorted(path.relative_to(out).as_posix() for path, _ in now - made)
        made.update(now)
        return [re.split(r"[/-]", name)[1] for name in new_paths]

    assert made_by_build() == ["code", "text", "duplicate"]
    future = "import annotations\n"
    assert not made_by_build(
        ("build/parts.py", '"""Parts', '"""A part'),
        ("dedup/exact.py", future, f"{future}# A comment.\n"),
        ("executors/executor.py", future, f"{future}# A comment.\n"),
        ("executors/local.py", future, f"{future}\nPROCESSES = 2\n"),
    )
    module, old, new = "filters/heuristics.py", "< min_characters", "<= min_characters"
    assert made_by_build((module, old, new)) == ["text", "duplicate"]
    assert made_by_build((module, new, old)) == []
    manifest = json.loads((tmp_path / "out" / "text" / "manifest.json").read_text())
    assert "lxml" not in manifest["versions"]
    assert "pyarrow" in manifest["versions"]
