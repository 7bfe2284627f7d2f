"""The shape of the tree: who may import whom, and how large files and functions may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("llama_ds", "data_pipeline", "recipes")

# A module of llama_ds imports only modules of a layer further down.
LAYERS = (
    {"train"},
    {"checkpoint", "engine", "auto_classes"},
    {"model", "data", "metrics"},
    {"fallback"},
    {"block", "loss", "weights"},
    {"fused_layer"},
    {"attention_half", "mlp_half"},
    {"layer_tensors"},
    {"tensor_parallel", "sequence_parallel"},
    {"parallel", "deepspeed_config", "memory", "traffic"},
    {"batch"},
    {"attention"},
    {"attention_packages"},
    {"elementwise", "offload"},
    {"config", "collectives", "attention_kernels"},
    {"model_config", "save_policy", "functional", "profiling", "recomputation"},
)
DEEPSPEED_USERS = {"llama_ds.engine", "llama_ds.checkpoint", "llama_ds.weights"}
VAGUE_NAMES = {"utils", "common", "base", "helpers", "misc"}
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


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


def layer_of(module: str) -> int | None:
    """Index of the layer of a module of llama_ds; None for the package itself."""
    parts = module.split(".")
    if parts[0] != "llama_ds" or len(parts) == 1:
        return None
    ranks = [index for index, names in enumerate(LAYERS) if parts[1] in names]
    assert ranks, f"{module} has no place in LAYERS: give it one in {Path(__file__).name}"
    return ranks[0]


def import_fault(module: str, imported: str) -> str | None:
    """The rule that `module` breaks by importing `imported`, or None."""
    package, target = module.split(".")[0], imported.split(".")[0]
    if target == "recipes" and package != "recipes":
        return "nothing imports recipes"
    if package == "data_pipeline" and target == "llama_ds":
        return "data_pipeline never imports llama_ds"
    if (
        package == "llama_ds"
        and target == "data_pipeline"
        and imported != "data_pipeline.tokens.store"
    ):
        return "llama_ds imports only data_pipeline.tokens.store"
    if target == "deepspeed" and package != "recipes" and module not in DEEPSPEED_USERS:
        return "deepspeed is imported by engine, checkpoint and weights only"
    own, other = layer_of(module), layer_of(imported)
    if own is not None and other is not None and other <= own:
        return "imports inside llama_ds go down only"
    return None


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
        ("llama_ds.data", "data_pipeline.files.atomic", False),
        ("llama_ds.data", "data_pipeline", False),
        ("data_pipeline.tokens.store", "llama_ds.config", False),
        ("llama_ds.config", "recipes.llama", False),
        ("recipes.launch", "llama_ds.train", True),
        ("llama_ds.checkpoint", "deepspeed.runtime", True),
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


def test_every_package_is_distributed() -> None:
    """setuptools takes the packages that pyproject.toml lists, and no others."""
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("packages = ")[1]
    packages = set(ast.literal_eval(listed[: listed.index("]") + 1]))
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in SOURCES.values()
        if path.name == "__init__.py"
    }
    assert packages == found
