"""What the documents name is there: files, links, and the names of rules and options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CHANGELOG = ROOT / "CHANGELOG.md"  # tells of old paths, too
CARDS = sorted([*(ROOT / "docs" / "data").glob("*.md"), ROOT / "docs" / "data.md"])
FOLDERS = ("benchmarks", "data_pipeline", "recipes", "tests")
CODE = {path: path.read_text("utf-8") for f in FOLDERS for path in (ROOT / f).rglob("*.py")}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text("utf-8"))
    assert not [link for link in links if not (document.parent / link).exists()]


def anchors_of(document: Path) -> set[str]:
    """The anchors that a hosting platform gives to headings: lower case, words joined by dashes."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_to_headings_lead_to_one(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text("utf-8"))
    missing = [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in anchors_of(document.parent / target if target else document)
    ]
    assert not missing


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d != CHANGELOG], ids=name_of)
def test_paths_of_the_tree_exist(document: Path) -> None:
    """Paths as they are written in text and commands; NAME and <name> stand for a reader's own."""
    top = "llama_ds|data_pipeline|recipes|tests|benchmarks|docs"
    found = re.findall(rf"(?<![\w./-])((?:{top})/[\w./*{{<-]*)", document.read_text("utf-8"))
    paths = {path.rstrip(".") for path in found if not re.search(r"[*{<]|[A-Z]{3}", path)}
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]


@pytest.mark.parametrize("card", CARDS, ids=name_of)
def test_cards_name_what_exists(card: Path) -> None:
    quoted = re.findall(r"`([^`\n]+)`", card.read_text("utf-8"))
    names = {name for text in quoted if re.fullmatch(r"[a-z]+(_[a-z]+)+", name := text)}
    everything = set(re.findall(r"\w+", "\n".join(CODE.values())))
    assert not names - everything
    scripts = {
        script
        for text in quoted
        if "*" not in text
        for script in re.findall(r"(?:\w+/)*\w+\.(?:py|sh)\b", text)
        if not script.split(".")[0].isupper()  # FILE.py stands for a file of the reader's
    }
    files = [f"/{name_of(path)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
    assert not [s for s in scripts if not any(file.endswith(f"/{s}") for file in files)]
