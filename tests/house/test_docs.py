"""What the documents name is there: files, links, and the names of rules and options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CARDS = sorted([*(ROOT / "docs" / "data").glob("*.md"), ROOT / "docs" / "data.md"])
FOLDERS = ("benchmarks", "data_pipeline", "recipes", "tests")
CODE = {path: path.read_text("utf-8") for f in FOLDERS for path in (ROOT / f).rglob("*.py")}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text("utf-8"))
    assert not [link for link in links if not (document.parent / link).exists()]


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
    }
    files = [f"/{name_of(path)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
    assert not [s for s in scripts if not any(file.endswith(f"/{s}") for file in files)]
