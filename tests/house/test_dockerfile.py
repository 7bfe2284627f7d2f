"""The images are made by recipes/setup.sh, with equal steps for both, and do not run as root."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
INSTRUCTIONS = [re.sub(r" +", " ", line) for line in LINES if line and not line.startswith("#")]
STARTS = [i for i, line in enumerate(INSTRUCTIONS) if line.startswith("FROM ")]
TARGETS = {
    INSTRUCTIONS[start].split(" AS ")[1]: INSTRUCTIONS[start + 1 : end]
    for start, end in zip(STARTS, [*STARTS[1:], len(INSTRUCTIONS)], strict=True)
}


def test_both_targets_take_the_same_steps() -> None:
    assert set(TARGETS) == {"cpu", "cuda"}
    assert TARGETS["cpu"] == TARGETS["cuda"]


@pytest.mark.parametrize("target", TARGETS)
def test_packages_come_from_setup_alone_and_not_as_root(target: str) -> None:
    steps = TARGETS[target]
    installs = [step for step in steps if "setup.sh" in step]
    assert installs == ["RUN PIP_NO_CACHE_DIR=1 bash recipes/setup.sh"]
    assert not [step for step in steps if re.search(r"\bpip3? |\bconda |\buv ", step)]
    (user,) = (step for step in steps if step.startswith("USER "))
    assert user != "USER root"
    assert steps.index(user) < steps.index(installs[0])


def test_the_images_leave_out_what_git_leaves_out() -> None:
    """An environment of this machine, or its runs, would be copied into the image."""
    ignored = {
        line.strip("/").removeprefix("**/")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    }
    folders = {
        line.strip("/")
        for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()
        if line.endswith("/") and line != "fuzz_failures/"
    }
    assert folders <= ignored | {""}
