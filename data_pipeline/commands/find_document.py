"""From a token of a store back to its document."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.tokens.provenance import document_at
from data_pipeline.tokens.store import Split, TokenStore


@dataclass(frozen=True)
class FindDocument:
    """Where the document of a token comes from: address, license, raw file and place."""

    store: Path
    """Token store."""
    source: str
    """One of its sources."""
    position: int
    """Token of that source's stream, from 0."""
    split: Split = "train"
    """Which of its streams."""

    def run(self) -> str:
        """The document's record as JSON."""
        found = document_at(TokenStore.open(self.store), self.source, self.split, self.position)
        return json.dumps(asdict(found), indent=2, ensure_ascii=False)
