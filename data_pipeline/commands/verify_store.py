"""Verifies the checksums of a token store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.tokens.store import TokenStore


@dataclass(frozen=True)
class VerifyStore:
    """Verify the checksum of every file of a token store against its manifest."""

    store: Path
    """Token store."""
    num_threads: int = 4
    """Files to read in parallel."""

    def run(self) -> str:
        """A summary. ValueError that names every damaged file."""
        if self.num_threads < 1:
            raise ValueError(f"--num-threads ({self.num_threads}) must be positive")
        store = TokenStore.open(self.store)
        store.verify(num_threads=self.num_threads)
        num_bytes = sum(file.bytes for file in store.files)
        return (
            f"{self.store} is intact: {len(store.files)} files, {num_bytes:,} bytes, and its "
            "tokenizer"
        )
