"""Checksums of files and bytes (xxh3, 64 bits)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import xxhash

_BLOCK_BYTES = 4 << 20


class Digest(Protocol):
    """Incremental checksum."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def new_digest() -> Digest:
    """An incremental `file_checksum`, for files that are written in pieces."""
    digest: Digest = xxhash.xxh3_64()
    return digest


def bytes_checksum(data: bytes) -> str:
    """`file_checksum` of a file with these bytes."""
    digest = new_digest()
    digest.update(data)
    return digest.hexdigest()


def file_checksum(path: Path, after_block: Callable[[int], None] | None = None) -> str:
    """xxh3 of 64 bits over a file's bytes, as 16 hexadecimal digits.

    `after_block` is called with the size of every block (a few MiB) that was read; it may block to
    throttle reading, and raise to stop it.
    """
    digest = new_digest()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            if after_block is not None:
                after_block(len(block))
    return digest.hexdigest()
