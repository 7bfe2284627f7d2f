"""Provenance lookup: token position to document."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.tokens.provenance import document_at
from data_pipeline.tokens.store import Split, TokenStore


@dataclass(frozen=True)
class FindDocument:
    """Look up the provenance of a token: its document's URL, license, raw file and offset."""

    store: Path
    """Token store."""
    source: str
    """Source in the store."""
    position: int
    """Token position in the source's token stream, from 0."""
    split: Split = "train"
    """Split of the source."""

    def run(self) -> str:
        """The document's record as JSON."""
        found = document_at(TokenStore.open(self.store), self.source, self.split, self.position)
        return json.dumps(asdict(found), indent=2, ensure_ascii=False)
