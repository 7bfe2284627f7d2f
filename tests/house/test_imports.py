"""The shape of the tree: who may import whom, and how large files and functions may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("llama_ds", "data_pipeline", "recipes")

# Modules and sub-packages, from the top floor down: each imports what lies below its own floor.
FLOORS = {
    "llama_ds": (
        {"replay", "generate", "plot"},
        {"train"},
        {"job"},
        {"rewind"},
        {"step", "step_log", "step_profiler", "run_events", "hang_watch"},
        {"evaluation"},
        {"loaded_model"},
        {"engine", "checkpoint", "auto_classes"},
        {"energy"},
        {
            "model",
            "data",
            "metrics",
            "store_verification",
            "tokenizer_check",
            "stop_signal",
            "run_lock",
            "torchrun_ranks",
        },
        {"loss", "held_out_loss", "planning", "pretrained_model", "gradient_reduction"},
        {"layer", "deepspeed_config", "weights", "hf_config"},
        {"parallel"},
        {"batch", "resume_contract", "schedule", "step_verdict", "json_lines"},
        {"remaining_time"},
        {"config"},
        {"parallel_config", "stock_config", "batch_schedule"},
        {"model_config", "save_policy", "skipped_data"},
    ),
    "data_pipeline": (
        {"commands"},
        {"release"},
        {"report", "removal", "corpus"},
        {"build", "tokens"},
        {"sources", "filters", "dedup", "documents_folder"},
        {"document"},
        {"text", "files", "executors", "sampling"},
    ),
}
# What llama_ds takes from data_pipeline: the format of the token store, how files are published,
# checksummed and locked, how tokenizers are told apart, and who is logged in to the hub.
SHARED = {
    "data_pipeline.tokens.store",
    "data_pipeline.tokens.tokenizer_identity",
    "data_pipeline.files.atomic",
    "data_pipeline.files.checksum",
    "data_pipeline.files.folder_lock",
    "data_pipeline.release.hub_login",
}
DEEPSPEED_USERS = {"llama_ds.engine", "llama_ds.weights"}
VAGUE_NAMES = {"utils", "common", "base", "helpers", "misc"}
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))


def imported_modules(module: str, path: Path) -> Iterator[str]:
    """Every module that `path` imports, at any depth, with relative imports resolved."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*origin, *([node.module] if node.module else [])])
            # `from llama_ds import checkpoint` imports a module, `from x import name` a name of x.
            submodules = [f"{base}.{alias.name}" for alias in node.names]
            found = [name for name in submodules if name in SOURCES]
            yield from found
            if len(found) < len(submodules):
                yield base


def floor_of(module: str) -> int | None:
    """Index of the floor of a module of the two libraries; None for the packages themselves."""
    package, *parts = module.split(".")
    if package not in FLOORS or not parts:
        return None
    found = [index for index, names in enumerate(FLOORS[package]) if parts[0] in names]
    assert found, f"{module} has no place in FLOORS: give it one in {Path(__file__).name}"
    return found[0]


def place_of(module: str) -> str:
    """The module or sub-package directly below a package that `module` belongs to."""
    return ".".join(module.split(".")[:2])


def import_fault(module: str, imported: str) -> str | None:
    """The rule that `module` breaks by importing `imported`, or None."""
    package, target = module.split(".")[0], imported.split(".")[0]
    if target == "recipes" and package != "recipes":
        return "nothing imports recipes"
    if package == "data_pipeline" and target == "llama_ds":
        return "data_pipeline never imports llama_ds"
    if package == "llama_ds" and target == "data_pipeline" and imported not in SHARED:
        return f"llama_ds imports only {', '.join(sorted(SHARED))}"
    if target == "deepspeed" and package != "recipes" and module not in DEEPSPEED_USERS:
        return f"deepspeed is imported by {', '.join(sorted(DEEPSPEED_USERS))} only"
    if package == target and place_of(module) != place_of(imported):
        own, other = floor_of(module), floor_of(imported)
        if own is not None and other is not None and other <= own:
            return f"imports inside {package} go down only"
    return source_fault(module, imported)


def source_fault(module: str, imported: str) -> str | None:
    """A source imports no other; from outside only its face is imported."""
    where = "data_pipeline.sources."
    if not imported.startswith(where) or module.split(".")[0] not in PACKAGES:
        return None
    own = module[len(where) :].split(".")[0] if module.startswith(where) else None
    name, *inner = imported[len(where) :].split(".")
    if own is None:
        return f"import {where}{name}, the source's face" if inner else None
    rooms = {path.name for path in (ROOT / "data_pipeline" / "sources").iterdir() if path.is_dir()}
    return "a source imports no other source" if own != name and name in rooms else None


@pytest.mark.parametrize("module", SOURCES)
def test_imports_follow_the_rules(module: str) -> None:
    faults = {
        imported: fault
        for imported in imported_modules(module, SOURCES[module])
        if (fault := import_fault(module, imported))
    }
    assert not faults


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("llama_ds.train", "llama_ds.model", True),
        ("llama_ds.model", "llama_ds.train", False),
        ("llama_ds.model", "llama_ds.data", False),
        ("llama_ds.data", "data_pipeline.tokens.store", True),
        ("llama_ds.data", "data_pipeline.files.atomic", True),
        ("llama_ds.data", "data_pipeline", False),
        ("data_pipeline.tokens.store", "llama_ds.config", False),
        ("llama_ds.config", "recipes.llama", False),
        ("recipes.launch", "llama_ds.train", True),
        ("llama_ds.layer.fused", "llama_ds.model", False),
        ("llama_ds.layer.fused", "llama_ds.parallel.collectives", True),
        ("data_pipeline.filters.c4", "data_pipeline.dedup.near", False),
        ("data_pipeline.build.parts", "data_pipeline.executors.local", True),
        ("recipes.llama1_corpus", "data_pipeline.sources.arxiv", True),
        ("recipes.llama1_corpus", "data_pipeline.sources.arxiv.packages", False),
        ("data_pipeline.sources.arxiv.packages", "data_pipeline.sources.arxiv.macros", True),
        ("data_pipeline.sources.arxiv.packages", "data_pipeline.sources.books", False),
        ("data_pipeline.sources.arxiv.packages", "data_pipeline.sources.rows", True),
        ("llama_ds.engine", "deepspeed.runtime", True),
        ("llama_ds.model", "deepspeed", False),
    ],
)
def test_rules_catch_what_they_should(module: str, imported: str, allowed: bool) -> None:
    assert (import_fault(module, imported) is None) == allowed


def test_imports_are_found_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import llama_ds.model\n"
        "from llama_ds import config\n"
        "from . import data\n"
        "def f():\n    from .train import train\n"
    )
    found = set(imported_modules("llama_ds.module", path))
    assert found >= {"llama_ds.model", "llama_ds.config", "llama_ds.data", "llama_ds.train"}


@pytest.mark.parametrize("module", [name for name in SOURCES if not name.startswith("recipes")])
def test_environment_is_read_only_in_recipes(module: str) -> None:
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert not names & {"environ", "environb", "getenv", "putenv"}


@pytest.mark.parametrize(
    "path", [*SOURCES.values(), *TESTS, *BENCHMARKS], ids=lambda p: str(p.relative_to(ROOT))
)
def test_files_and_functions_stay_small_and_named(path: Path) -> None:
    assert path.stem not in VAGUE_NAMES, "a file is named after its one job"
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines: split the file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_no_module_imports_itself_through_others() -> None:
    """No cycle, counting every import, also those inside functions."""
    graph = {m: set(imported_modules(m, path)) & set(SOURCES) for m, path in SOURCES.items()}
    while leaves := {module for module, imported in graph.items() if not imported - {module}}:
        graph = {m: imported - leaves for m, imported in graph.items() if m not in leaves}
    assert not graph, f"these import one another in a circle: {sorted(graph)}"


def test_every_package_says_what_lives_there() -> None:
    """And setuptools distributes it, since it finds packages by their `__init__.py`."""
    for folder in {path.parent for path in SOURCES.values()}:
        init = folder / "__init__.py"
        assert init.exists(), f"{folder} has modules and no __init__.py"
        assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), init
