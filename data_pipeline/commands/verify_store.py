"""Whether a token store still has the bytes that it was built with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.tokens.store import TokenStore


@dataclass(frozen=True)
class VerifyStore:
    """Read every file of a token store and compare its checksum with the manifest's."""

    store: Path
    """Token store."""
    num_threads: int = 4
    """Files that are read at the same time."""

    def run(self) -> str:
        """What was read. ValueError that names every damaged file."""
        if self.num_threads < 1:
            raise ValueError(f"--num-threads ({self.num_threads}) must be positive")
        store = TokenStore.open(self.store)
        store.verify(num_threads=self.num_threads)
        num_bytes = sum(file.bytes for file in store.files)
        return (
            f"{self.store} is as it was built: {len(store.files)} files, {num_bytes:,} bytes, and "
            "its tokenizer"
        )
