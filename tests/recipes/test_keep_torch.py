"""Setting up in an environment that has a torch: it stays, and everything else fits around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from recipes.keep_torch import release, torch_range, without_torch

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = (ROOT / "requirements.txt").read_text("utf-8")
# Stands in for pip: notes what it is called with.
PIP = "import os, sys\nopen(os.environ['CALLS'], 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "a clone"
    (folder / "recipes").mkdir(parents=True)
    for name in ("recipes/setup.sh", "recipes/keep_torch.py", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def environment(folder: Path, **packages: str) -> Path:
    """A virtual environment in which `packages` are installed in these versions, by name only."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name, version in packages.items():
        about = site / f"{name}-{version}.dist-info"
        about.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (about / "METADATA").write_text(text)
        (about / "INSTALLER").write_text("pip\n")
        (about / "RECORD").write_text("")
    return folder


def set_up(
    clone: Path, environment: Path | None
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """(what setup.sh did, the calls of pip), with `environment` active."""
    used = environment or clone / ".venv"
    (site,) = used.glob("lib/python*/site-packages")
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(PIP)
    calls = clone / "calls"
    variables = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    variables |= {"CALLS": str(calls)} | ({"VIRTUAL_ENV": str(used)} if environment else {})
    code = 'source "$0/recipes/setup.sh"; echo done'
    result = subprocess.run(
        ["bash", "-c", code, str(clone)], capture_output=True, text=True, check=False, env=variables
    )
    return result, calls.read_text().splitlines() if calls.exists() else []


def test_a_torch_that_is_there_is_kept(clone: Path, tmp_path: Path) -> None:
    versions = {"torch": "2.11.0+cu130", "torchvision": "0.26.0+cu130", "numpy": "2.0.0"}
    active = environment(tmp_path / "an env", **versions)
    result, calls = set_up(clone, active)
    assert result.returncode == 0, result.stderr
    requirements = active / "llama-ds-requirements.txt"
    constraints = active / "llama-ds-constraints.txt"
    assert len(calls) == 2
    assert calls[0].endswith(f"-r {requirements} -c {constraints}")
    assert constraints.read_text() == "torch==2.11.0+cu130\ntorchvision==0.26.0+cu130\n"
    gone = set(REQUIREMENTS.splitlines()) - set(requirements.read_text().splitlines())
    assert len(gone) == 1
    assert gone.pop().startswith("torch==")


def test_an_environment_without_torch_gets_the_pins(clone: Path, tmp_path: Path) -> None:
    active = environment(tmp_path / "an env")
    result, calls = set_up(clone, active)
    assert result.returncode == 0, result.stderr
    assert len(calls) == 2
    assert (active / "llama-ds-requirements.txt").read_text() == REQUIREMENTS
    assert (active / "llama-ds-constraints.txt").read_text() == ""


def test_our_own_environment_follows_the_pins(clone: Path) -> None:
    environment(clone / ".venv", torch="2.12.0")
    result, calls = set_up(clone, None)
    assert result.returncode == 0, result.stderr
    # The first call asks for the version of pip.
    assert calls[1].endswith(f"install --disable-pip-version-check -r {clone}/requirements.txt")


@pytest.mark.parametrize("version", ["2.4.0+cu121", "3.0.0"])
def test_a_torch_out_of_range_is_refused(clone: Path, tmp_path: Path, version: str) -> None:
    active = environment(tmp_path / "an env", torch=version)
    result, calls = set_up(clone, active)
    assert result.returncode == 2
    assert calls == []
    assert result.stdout == ""
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert f"{active} has torch {version}, and torch >= 2.11, < 3 is needed" in message
    assert not (active / "llama-ds-installed").exists()


def write_wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    about = f"{name}-{version}.dist-info"
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    text += f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{about}/METADATA", text)
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


@pytest.mark.parametrize(("bound", "installs"), [(">=2.0", True), (">=2.12", False)])
def test_pip_itself_keeps_it(clone: Path, tmp_path: Path, bound: str, installs: bool) -> None:
    """With a newer torch at hand and a package that may ask for it."""
    active = environment(tmp_path / "env", torch="2.11.0+cu130")
    (clone / "requirements.txt").write_text("torch==2.13.0\npeer==1.0\n")
    assert set_up(clone, active)[0].returncode == 0
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_wheel(wheels, "torch", "2.13.0")
    write_wheel(wheels, "peer", "1.0", requires=f"torch{bound}")
    (site,) = active.glob("lib/python*/site-packages")
    shutil.rmtree(site / "pip")  # the stand-in
    command = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "--python",
        str(active / "bin/python"),
        "install",
    ]
    command += ["--dry-run", "--no-index", "--find-links", str(wheels)]
    command += ["-r", str(active / "llama-ds-requirements.txt")]
    command += ["-c", str(active / "llama-ds-constraints.txt")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if installs:
        assert "Would install peer-1.0\n" in result.stdout, result.stdout + result.stderr
    else:
        assert result.returncode != 0
        assert "Would install" not in result.stdout
        assert "peer 1.0 depends on torch>=2.12" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.11.0+cu130", (2, 11)), ("2.11.0a0+abc", (2, 11)), ("2.9.1", (2, 9, 1)), ("3", (3,))],
)
def test_releases(text: str, numbers: tuple[int, ...]) -> None:
    assert release(text) == numbers


def test_only_torch_itself_is_left_out() -> None:
    text = "torchvision==0.28.0\ntorch==2.13.0  # why\ntorch-geometric==3.0\nnumpy==2.4.6\n"
    left = "torchvision==0.28.0\ntorch-geometric==3.0\nnumpy==2.4.6\n"
    assert without_torch(text) == left


def test_the_range_is_that_of_the_package() -> None:
    assert torch_range((ROOT / "pyproject.toml").read_text("utf-8")) == ("2.11", "3")
