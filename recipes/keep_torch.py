"""Writes pip requirements that keep an installed torch: the first step of setup.sh.

    python recipes/keep_torch.py REPOSITORY ENVIRONMENT

An installed torch was chosen for the machine's driver and for other users of the environment. It is
never replaced: pip gets the requirements without torch, and torch's version as a constraint, so
that it reports a conflict where another package needs a different one. This runs before anything is
installed, hence on the standard library alone.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIREMENTS = "llama-ds-requirements.txt"
CONSTRAINTS = "llama-ds-constraints.txt"
# Built for one version of torch each, so that they stay as they are with it.
COMPANIONS = ("torchvision", "torchaudio", "triton")


def main(repository: Path, environment: Path) -> None:
    """Write pip's requirements and constraints into `environment`.

    ValueError where its torch is outside of the range that pyproject.toml states.
    """
    requirements = (repository / "requirements.txt").read_text("utf-8")
    kept = {name: found for name in ("torch", *COMPANIONS) if (found := installed(name))}
    if "torch" in kept:
        lowest, limit = torch_range((repository / "pyproject.toml").read_text("utf-8"))
        if not release(lowest) <= release(kept["torch"]) < release(limit):
            raise ValueError(
                f"{environment} has torch {kept['torch']}, and torch >= {lowest}, < {limit} is "
                "needed; a torch that is there is not replaced: install another one yourself, or "
                "deactivate this environment, and one of our own is made in .venv"
            )
        requirements = without_torch(requirements)
    constraints = "".join(f"{name}=={found}\n" for name, found in kept.items())
    (environment / REQUIREMENTS).write_text(requirements, "utf-8")
    (environment / CONSTRAINTS).write_text(constraints, "utf-8")


def installed(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def torch_range(pyproject: str) -> tuple[str, str]:
    """(lowest version, first version that is too new) of torch in pyproject.toml's text."""
    found = re.search(r'"torch>=([\d.]+),<([\d.]+)"', pyproject)
    assert found, 'pyproject.toml states no range of the form "torch>=A,<B"'
    return found[1], found[2]


def release(text: str) -> tuple[int, ...]:
    """Numbers of a version: (2, 11) of 2.11.0a0+cu130; vendors label their builds of it alpha."""
    numbers = [int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", text)[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def without_torch(requirements: str) -> str:
    """The requirements without the line of torch itself."""
    return re.sub(r"(?m)^torch(?![\w.-]).*\n", "", requirements)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except ValueError as error:
        sys.exit(f"error: {error}")
