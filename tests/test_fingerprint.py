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
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from data_pipeline import filters, fingerprint
from data_pipeline.compare import run_rules
from data_pipeline.document import Document, Source
from data_pipeline.fingerprint import (
    WITHOUT_EFFECT,
    code_behind,
    code_fingerprint,
    describe,
    functions_of,
    package_versions,
    source_fingerprint,
)
from data_pipeline.module_definitions import Reference, parse_module
from data_pipeline.reachable_code import ReachableCode, reachable_code
from data_pipeline.sources import folder
from recipes.llama1_corpus import CrawlModels, Deduplication, llama1_corpus

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "data_pipeline"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
CORPUS = llama1_corpus(Path("raw"), CrawlModels(), Deduplication(near_duplicates=0.8))
SOURCES = {source.name: source for source, _ in CORPUS.sources}


# -- a small package ------------------------------------------------------------------------------

SHOP = {
    "__init__": "",
    "main": """
        import re
        from shop import prices
        from shop.texts import clean
        from shop.tools import Basket

        LIMIT = 10
        UNUSED = 1

        def run(text):
            if len(text) > LIMIT:
                return prices.total(text)
            return Basket().add(clean(text))

        def late(text):
            from shop.tools import weigh
            return weigh(re.sub("a", "b", text))

        def other(text):
            return text
        """,
    "prices": """
        RATE = 0.2
        DISCOUNT = 0.5

        def total(text):
            return len(text) * RATE

        def discounted(text):
            return total(text) * DISCOUNT
        """,
    "texts/__init__": """
        from shop.texts.cleaning import clean
        from .words import words
        """,
    "texts/cleaning": """
        def clean(text):
            return strip(text)

        def strip(text):
            return text.strip()
        """,
    "texts/words": """
        def words(text):
            return text.split()
        """,
    "tools": """
        import numpy as np

        class Basket:
            def add(self, item):
                self.item = item
                return self

            def empty(self):
                self.item = None

        def weigh(item):
            return np.sum(item)
        """,
    "loops": "ROUNDS = 3\n",
}
SHOP = {name: textwrap.dedent(text) for name, text in SHOP.items()}
Files = Mapping[str, str]


def written(root: Path, files: Files, *, package: str = "shop") -> Path:
    shutil.rmtree(root / package, ignore_errors=True)
    for name, text in files.items():
        path = root / package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / package


def behind(
    root: Path, files: Files, start: str = "main.run", without: frozenset[str] = frozenset()
) -> ReachableCode:
    module, _, name = start.rpartition(".")
    place = written(root, files)
    starts = [Reference(f"shop.{module}", (name,))]
    return reachable_code(starts, {"shop": place}, without_effect=without)


def changed(module: str, old: str, new: str, files: Files = SHOP) -> dict[str, str]:
    assert old in files[module]
    return {**files, module: files[module].replace(old, new)}


@pytest.mark.parametrize(
    ("start", "module", "old", "new"),
    [
        pytest.param("main.run", "main", "LIMIT = 10", "LIMIT = 11", id="constant"),
        pytest.param("main.run", "main", "> LIMIT", ">= LIMIT", id="the function itself"),
        pytest.param("main.run", "prices", "RATE = 0.2", "RATE = 0.3", id="constant elsewhere"),
        pytest.param("main.run", "texts/cleaning", "text.strip()", "text", id="behind a face"),
        pytest.param(
            "main.run", "texts/__init__", "cleaning import clean", "words import words as clean",
            id="another one behind the same face",
        ),
        pytest.param("main.run", "tools", "item = None", "item = 0", id="method"),
        pytest.param("main.late", "tools", "np.sum", "np.max", id="function-level import"),
        pytest.param("main.late", "tools", "numpy as np", "math as np", id="another package"),
        pytest.param("main.run", "main", "import re", "print(LIMIT)", id="call of the module"),
        pytest.param("main.run", "__init__", "", "print('imported')", id="call of its package"),
        pytest.param(
            "main.run", "prices", "RATE = 0.2", "RATE = 0.2\nRATE += 0.1", id="another assignment"
        ),
        pytest.param(
            "main.run", "prices", "RATE = 0.2", "RATE = 0.2\nfor i in (1, 2): RATE += i", id="loop"
        ),
    ],
)  # fmt: skip
def test_a_change_of_what_is_reached_counts(
    tmp_path: Path, start: str, module: str, old: str, new: str
) -> None:
    assert behind(tmp_path, SHOP, start) != behind(tmp_path, changed(module, old, new), start)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        pytest.param("main", "return text\n", "return text[1:]\n", id="another function"),
        pytest.param("main", "UNUSED = 1", "UNUSED = 2", id="another constant"),
        pytest.param("prices", "DISCOUNT = 0.5", "DISCOUNT = 0.6", id="elsewhere"),
        pytest.param("texts/words", "split()", "split('a')", id="behind the same face"),
        pytest.param("tools", "np.sum", "np.max", id="imported by another function"),
        pytest.param("loops", "ROUNDS = 3", "print(1)", id="another module"),
        pytest.param("main", "LIMIT = 10", "LIMIT = 10  # pounds", id="comment"),
        pytest.param("main", "def run(text):", 'def run(text):\n    "Sell."', id="docstring"),
        pytest.param("tools", "class Basket:", 'class Basket:\n    """Its."""\n', id="of a class"),
        pytest.param("main", "LIMIT = 10", 'LIMIT = 10\n"""In pounds."""', id="of a constant"),
        pytest.param("prices", "RATE = 0.2", "RATE = (\n    0.20\n)", id="form"),
        pytest.param("texts/cleaning", "def clean", "import re\n\ndef clean", id="new import"),
        pytest.param(
            "main", "shop.texts import clean", "shop.texts.cleaning import clean",
            id="imported past the face",
        ),
        pytest.param("main", "from shop.texts import", "from .texts import", id="relative import"),
    ],
)  # fmt: skip
def test_nothing_else_counts(tmp_path: Path, module: str, old: str, new: str) -> None:
    assert behind(tmp_path, SHOP) == behind(tmp_path, changed(module, old, new))


def test_a_module_may_move_and_its_import_be_renamed(tmp_path: Path) -> None:
    before, late = behind(tmp_path, SHOP), behind(tmp_path, SHOP, "main.late")
    files = changed("main", "from shop import prices", "import shop.deep.costs as money")
    files = changed("main", "prices.total", "money.total", files)
    files = changed("main", "from shop.tools import Basket", "from shop.deep import Sack", files)
    files = changed("main", "Basket()", "Sack()", files)
    files = changed("main", "import weigh", "import weigh as mass", files)
    files = changed("main", "weigh(re", "mass(re", files)
    files["deep/__init__"] = "from shop.tools import Basket as Sack\n"
    files["deep/costs"] = files.pop("prices")
    files["selling"] = files.pop("main")
    assert behind(tmp_path, files, "selling.run") == before
    assert behind(tmp_path, files, "selling.late") == late


def test_two_definitions_that_change_places_count(tmp_path: Path) -> None:
    files = {
        "main": "from shop import a, b\ndef run(x):\n    return a.f(b.f(x))\n",
        "a": "def f(x):\n    return x + 1\n",
        "b": "def f(x):\n    return x * 2\n",
    }
    assert behind(tmp_path, files) != behind(tmp_path, {**files, "a": files["b"], "b": files["a"]})


@pytest.mark.parametrize(
    "main",
    [
        pytest.param("from shop import far\ndef run(x):\n    return use(far, x)\n", id="passed on"),
        pytest.param(
            "from shop import far\ndef run(x):\n    return getattr(far, x)(x)\n", id="getattr"
        ),
        pytest.param("from shop.far import *\ndef run(x):\n    return f(x)\n", id="star import"),
        pytest.param(
            "def run(x):\n    from shop.face import f\n    return f(x)\n", id="star in a face"
        ),
        pytest.param(
            "try:\n    from shop.far import f\nexcept ImportError:\n    from shop.face import f\n"
            "def run(x):\n    return f(x)\n",
            id="tried import",
        ),
        pytest.param(
            "import sys\nif sys.platform:\n    from shop import far\n"
            "def run(x):\n    return far.f(x)\n",
            id="import under a condition",
        ),
        pytest.param(
            "import shop.far\ndef f(x):\n    return shop.far.f(x)\n"
            "def run(x):\n    return globals()[x](x)\n",
            id="by the name as text",
        ),
        pytest.param(
            "from shop.far import f\ndef run(far):\n    return [f(f) for f in f(far)]\n",
            id="hidden by a name of the function",
        ),
        pytest.param(
            "from shop.far import f\nclass A:\n    f = 1\n    def g(self, x):\n"
            "        return f(x)\ndef run(x):\n    return A().g(x)\n",
            id="not hidden by a name of the class",
        ),
        pytest.param(
            "from shop.far import f\ndef run(x, f=f):\n    return f(x)\n", id="as a default"
        ),
        pytest.param(
            "from shop import far\ndef run(x, key=lambda far: far):\n    return far.f(x)\n",
            id="hidden in a lambda only",
        ),
        pytest.param(
            "from shop import far\nKINDS = []\ndef kind(f):\n    KINDS.append(f)\n    return f\n"
            "@kind\ndef first(x):\n    return far.f(x)\ndef run(x):\n    return KINDS[0](x)\n",
            id="registered by a decorator",
        ),
    ],
)  # fmt: skip
def test_no_change_is_missed_where_names_are_hard_to_follow(tmp_path: Path, main: str) -> None:
    files = {
        "main": main,
        "face": "from shop.far import *\n",
        "far": "def f(x):\n    return x\n",
    }
    assert behind(tmp_path, files) == behind(tmp_path, changed("far", "x\n", "x  # y\n", files))
    assert behind(tmp_path, files) != behind(tmp_path, changed("far", "n x", "n x + 1", files))


def test_a_name_of_the_function_is_not_the_modules(tmp_path: Path) -> None:
    files = {
        "main": "from shop import far\ndef run(far):\n    return [far.f(x) for x in far]\n",
        "far": "def f(x):\n    return x\n",
    }
    assert behind(tmp_path, files) == behind(tmp_path, changed("far", "n x", "n x + 1", files))


def test_what_has_no_effect_is_not_looked_into(tmp_path: Path) -> None:
    without = frozenset({"shop.prices", "shop.texts"})
    before = behind(tmp_path, SHOP, without=without)
    for module, old, new in (
        ("prices", "RATE = 0.2", "RATE = 0.3"),
        ("texts/cleaning", "text.strip()", "text"),
        ("texts/__init__", "from", "print(1)\nfrom"),
    ):
        assert behind(tmp_path, changed(module, old, new), without=without) == before
    assert behind(tmp_path, changed("main", "LIMIT = 10", "LIMIT = 1"), without=without) != before


def test_packages_are_those_that_reached_definitions_use(tmp_path: Path) -> None:
    assert behind(tmp_path, SHOP).packages == frozenset()
    assert behind(tmp_path, SHOP, "main.late").packages == {"re", "numpy"}


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
    """As `sources/arxiv/reader.py`, with a face; and another module moves below a package."""
    before = everything(PACKAGE, all_starts())
    names = [path.stem for path in (PACKAGE / "sources").glob("[a-z]*.py")]
    moved = copied.parent / "moved"
    shutil.copytree(copied, moved)
    (moved / "deep" / "deeper").mkdir(parents=True)
    (moved / "deep" / "deeper" / "__init__.py").write_text("from .templates import expand\n")
    (moved / "wikitext_templates.py").rename(moved / "deep" / "deeper" / "templates.py")
    for name in names:
        (moved / "sources" / name).mkdir()
        reader = (moved / "sources" / f"{name}.py").rename(moved / "sources" / name / "reader.py")
        public = parse_module("reader", reader.read_bytes(), is_package=False).definitions
        face = f"from data_pipeline.sources.{name}.reader import {', '.join(public)}\n"
        (moved / "sources" / name / "__init__.py").write_text(face)
    for path in moved.rglob("*.py"):
        new = path.read_text().replace(".wikitext_templates", ".deep.deeper.templates")
        path.write_text(new)
    starts = [
        Reference(re.sub(r"(sources\.\w+)$", r"\1.reader", start.module), start.attributes)
        for start in all_starts()
    ]
    assert everything(moved, starts) == before


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_what_has_no_effect_exists(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_a_changed_executor_makes_nothing_again(copied: Path, name: str) -> None:
    path = copied.parent.joinpath(*name.split(".")).with_suffix(".py")
    before = path.read_text()
    path.write_text(f"{before}\nprint('changed')\n")
    try:
        assert everything(copied, all_starts()) == everything(PACKAGE, all_starts())
    finally:
        path.write_text(before)


def test_modules_are_imported_by_statements() -> None:
    """An import by a computed name could not be followed."""
    for module in MODULES:
        assert not re.search(r"\b(import_module|__import__)\b", (PACKAGE / module).read_text())


def test_only_sources_that_reach_a_definition_are_concerned(copied: Path) -> None:
    path = copied / "latex_macros.py"
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
    real = importlib.metadata.version

    def version(name: str) -> str:
        return "0" if name == "lxml" else real(name)

    monkeypatch.setattr(fingerprint.importlib.metadata, "version", version)
    after = {name: source_fingerprint(source) for name, source in SOURCES.items()}
    differing = [name for name in SOURCES if before[name] != after[name]]
    assert differing == ["wikipedia", "stack_exchange"]
    assert package_versions(code_behind([folder.read])).keys() == {"pyarrow", "xxhash"}


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
    function = partial(filters.too_short, min_characters=3)
    assert describe(function) == "too_short(min_characters=3)"
    for each in SOURCES.values():
        for function in functions_of(each):
            assert "data_pipeline" not in describe(function)


def test_a_function_from_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules[__name__], "__file__")
    with pytest.raises(ValueError, match="which is not read from a file"):
        code_fingerprint([], [short])


# -- builds ---------------------------------------------------------------------------------------

BUILD = """
import json, sys
from functools import partial
from pathlib import Path
from data_pipeline import filters
from data_pipeline.document import Source
from data_pipeline.pipeline import build_corpus
from data_pipeline.sources import folder, github_rows

root, out = Path(sys.argv[1]), Path(sys.argv[2])
read = partial(folder.read, text_field="text", max_document_bytes=1000)
code = partial(github_rows.read, kinds={".py": "Python"}, skip_folders=frozenset())
found = partial(
    github_rows.inputs, kinds={".py": "Python"}, max_file_bytes=1000, skip_folders=frozenset()
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
    comments = [("engine.py", '"""', '# A comment.\n"""'), ("parts.py", '"""Parts', '"""A part')]
    comments.append(("exact_duplicates.py", "import numpy", "# A comment.\nimport numpy"))
    executor = ("workers.py", "import annotations\n", "import annotations\n\nPROCESSES = 2\n")
    assert made_by_build(*comments, executor) == []
    module, old, new = "filters.py", "< min_characters", "<= min_characters"
    assert made_by_build((module, old, new)) == ["text", "duplicate"]
    assert made_by_build((module, new, old)) == []
    manifest = json.loads((tmp_path / "out" / "text" / "manifest.json").read_text())
    assert "lxml" not in manifest["versions"]
    assert "pyarrow" in manifest["versions"]
