"""The files that a hosting platform reads: workflows, templates, citation, changelog."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(p for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
PYPROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
VERSION = re.findall(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)[0]
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def strings(tree: Any) -> list[str]:
    """All strings of a YAML tree."""
    if isinstance(tree, dict):
        return [text for value in tree.values() for text in strings(value)]
    if isinstance(tree, list):
        return [text for value in tree for text in strings(value)]
    return [tree] if isinstance(tree, str) else []


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_name_scripts_that_exist(path: Path) -> None:
    words = " ".join(strings(load(path)["jobs"])).replace("$GITHUB_WORKSPACE/", "")
    scripts = re.findall(r"(?<![\w/.])(?:\.ci|tests|recipes|benchmarks)/[\w./-]+", words)
    assert scripts
    assert not [script for script in scripts if not (ROOT / script).exists()]


def test_workflows_run_the_pythons_that_the_package_names() -> None:
    assert PYTHONS
    assert f'requires-python = ">={PYTHONS[0]}' in PYPROJECT
    jobs = load(GITHUB / "workflows" / "ci.yml")["jobs"]
    for name in ("tests", "wheel"):
        assert jobs[name]["strategy"]["matrix"]["python"] == PYTHONS
    assert {
        step["with"]["python-version"]
        for job in jobs.values()
        for step in job["steps"]
        if "setup-python" in step.get("uses", "")
    } <= {*PYTHONS, "${{ matrix.python }}"}


@pytest.mark.parametrize("path", FORMS, ids=name_of)
def test_issue_forms_are_what_the_platform_takes(path: Path) -> None:
    form = load(path)
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in fields)
    named = re.findall(r"\b(?:docs/)?[\w-]+\.md\b", " ".join(strings(form)))
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_releases_have_one_version_and_date() -> None:
    """pyproject, citation and the newest release of the changelog; Unreleased stands above it."""
    citation = load(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[:2] == ["Unreleased", f"{VERSION} - {citation['date-released']}"]
    assert citation["version"] == VERSION
    # One file of data in the package has a license of its own.
    assert f'license = "{citation["license"]} AND CC-BY-SA-3.0"' in PYPROJECT
