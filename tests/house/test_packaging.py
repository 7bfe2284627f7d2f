"""What `pip install .` gives: the wheel's files, what it asks for, and a model class that needs no
more than that."""

from __future__ import annotations

import ast
import email
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("llama_ds", "data_pipeline")
# Imported where somebody asks for them by name, and refused with a line where they are missing.
OPTIONAL = {"kenlm", "liger_kernel", "wandb"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without the network, from a copy, because setuptools reuses what it finds in build/."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "recipes", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_string(archive.read(name).decode())


@pytest.fixture(scope="module")
def required(metadata: email.message.Message) -> dict[str, list[Requirement]]:
    """Requirements of every extra, and of the package itself under ""."""
    found: dict[str, list[Requirement]] = {"": []}
    found |= {extra: [] for extra in metadata.get_all("Provides-Extra", [])}
    for line in metadata.get_all("Requires-Dist", []):
        extra = re.search(r'extra == "(\w+)"', line)
        found[extra[1] if extra else ""].append(Requirement(line))
    return found


def pins() -> list[Requirement]:
    """The lines of requirements.txt; a package has two where Python 3.10 needs an older one."""
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]


def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licenses = {name for name in archive.namelist() if ".dist-info/licenses/" in name}
    files = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == files
    for kind in (".html", ".css", ".js", ".ftz", ".ftz.license", ".yaml", ".json"):
        assert any(name.endswith(kind) for name in names), kind
    assert {Path(name).name for name in licenses} == {"LICENSE", "lid.176.ftz.license"}


def test_it_asks_for_four_packages(
    metadata: email.message.Message, required: dict[str, list[Requirement]]
) -> None:
    assert [r.name for r in required[""]] == ["torch", "transformers", "safetensors", "numpy"]
    assert set(required) == {"", "train", "data", "ray", "eval", "dev"}
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-SA-3.0"


def test_pins_lie_in_the_ranges(required: dict[str, list[Requirement]]) -> None:
    """Every range has a pin in requirements.txt, every pin a range, and it lies inside."""
    ranges: dict[str, list[Requirement]] = {}
    for requirements in required.values():
        for requirement in requirements:
            ranges.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    pinned = {canonicalize_name(pin.name) for pin in pins()}
    assert pinned == set(ranges)
    for pin in pins():
        ((operator, version),) = ((s.operator, s.version) for s in pin.specifier)
        assert operator == "=="
        for requirement in ranges[canonicalize_name(pin.name)]:
            assert requirement.specifier.contains(version), (str(pin), str(requirement))
            assert ">=" in str(requirement.specifier), str(requirement)
            assert "==" not in str(requirement.specifier), str(requirement)


def _third_party(package: str) -> Iterator[tuple[str, str]]:
    """(file, top-level module) of every import of another project's package, at any depth."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for top in {name.partition(".")[0] for name in names}:
                if top not in {*sys.stdlib_module_names, *PACKAGES}:
                    yield str(path.relative_to(ROOT)), top


@pytest.mark.parametrize(
    ("package", "extras"), [("llama_ds", ("train", "eval")), ("data_pipeline", ("data", "ray"))]
)
def test_every_import_is_asked_for(
    package: str, extras: tuple[str, ...], required: dict[str, list[Requirement]]
) -> None:
    asked = {canonicalize_name(r.name) for extra in ("", *extras) for r in required[extra]}
    projects = packages_distributions()
    missing = {
        (file, module)
        for file, module in _third_party(package)
        if module not in OPTIONAL
        and not asked & {canonicalize_name(name) for name in projects.get(module, ())}
    }
    assert not missing


# Python that sees what the package's own requirements bring, and no other installed package.
ALONE = """
import importlib.metadata, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

allowed, new = set(), ["torch", "transformers", "safetensors", "numpy"]
while new:
    allowed.add(name := canonicalize_name(new.pop()))
    try:
        lines = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        continue
    for requirement in map(Requirement, lines):
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and canonicalize_name(requirement.name) not in allowed:
            new.append(requirement.name)
hidden = {
    module
    for module, projects in importlib.metadata.packages_distributions().items()
    if not allowed & set(map(canonicalize_name, projects))
} - {"llama_ds", "data_pipeline"}
assert {"deepspeed", "xxhash", "pyarrow", "tyro", "datasets", "sentencepiece"} <= hidden

class Visible(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

# Also without the finders of editable installs, which would find this clone.
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Visible]
"""

USE = """
import copy, json, torch, llama_ds
from llama_ds import LlamaForCausalLM
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM as Stock

torch.manual_seed(0)
sizes = dict(vocab_size=97, hidden_size=32, intermediate_size=88, num_hidden_layers=2)
stock = Stock(LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.2))
stock.save_pretrained("stock")
ours = LlamaForCausalLM.from_pretrained("stock")
ours.save_pretrained("ours")
again = Stock.from_pretrained("ours")
ids = torch.randint(3, 97, (2, 24))
result = {"file": llama_ds.__file__}
with torch.no_grad():
    want = stock.eval()(ids).logits
    result["logits"] = [(m.eval()(ids).logits - want).abs().max().item() for m in (ours, again)]
written = [m.generate(ids[:, :6], max_new_tokens=8, do_sample=False) for m in (stock, ours)]
result["generated"] = written[0].shape[1], torch.equal(*written)
steps = []
for model in (stock, ours):
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    steps.append(losses)
result["losses"] = steps
result["hidden"] = sorted({name.partition(".")[0] for name in sys.modules} & hidden)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    _pip("install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


def _run_alone(installed: Path, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{ALONE}\n{code}"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_model_class_needs_only_what_the_package_asks_for(
    installed: Path, tmp_path: Path
) -> None:
    result = _run_alone(installed, USE, tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert Path(found["file"]).is_relative_to(installed)
    assert found["hidden"] == []
    # As in tests/llama_ds/test_model.py: the same operations in the same order.
    assert max(found["logits"]) <= 1e-6
    assert found["generated"] == [14, True]
    stock, ours = found["losses"]
    assert stock[2] < stock[0] - 0.1
    assert ours == pytest.approx(stock, abs=1e-5)  # Adam's first steps amplify a last bit


def test_generate_needs_only_what_the_package_asks_for(installed: Path, tmp_path: Path) -> None:
    code = """
from llama_ds.generate.__main__ import main
sys.argv = ["llama-ds-generate", "missing", "--prompt", "def"]
sys.exit(main())
"""
    result = _run_alone(installed, code, tmp_path)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert "missing" in line
    assert (installed / "bin" / "llama-ds-generate").exists()


@pytest.mark.parametrize(
    ("command", "module", "arguments", "extra"),
    [
        ("llama-ds-checkpoint", "llama_ds.checkpoint.__main__", "['verify', 'run']", "train"),
        ("llama-ds-build", "data_pipeline.commands.console", "", "data"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(
    installed: Path, tmp_path: Path, command: str, module: str, arguments: str, extra: str
) -> None:
    code = f"from {module} import main; sys.exit(main({arguments}))"
    result = _run_alone(installed, code, tmp_path)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.endswith(f"is not installed; pip install 'llama-ds[{extra}]'")
    assert (installed / "bin" / command).exists()
