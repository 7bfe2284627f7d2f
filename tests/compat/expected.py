"""What stock transformers, as pinned, made of the export: each program is compared with that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Expected:
    prompt: str
    ids: list[int]
    logits: list[list[float]]
    """(tokens of the prompt, vocabulary)."""
    greedy: list[int]
    """Prompt and the tokens that follow it."""
    text: str


def read_expected(out: Path) -> list[Expected]:
    return [Expected(**record) for record in json.loads((out / "expected.json").read_text())]


def held(what: str) -> None:
    """One line of the report."""
    print(f"- {what}", flush=True)
