"""The checksum by which a file's contents are told from others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import xxhash

_BLOCK_BYTES = 4 << 20


class Digest(Protocol):
    """A checksum in the making."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def new_digest() -> Digest:
    """The digest of `file_checksum`, for who writes a file piece by piece."""
    digest: Digest = xxhash.xxh3_64()
    return digest


def bytes_checksum(data: bytes) -> str:
    """The checksum that a file of these bytes has."""
    digest = new_digest()
    digest.update(data)
    return digest.hexdigest()


def file_checksum(path: Path, after_block: Callable[[int], None] | None = None) -> str:
    """xxh3 of 64 bits over a file's bytes, as 16 hexadecimal digits.

    `after_block` is called with the size of every block that was read, of a few MiB; it may wait,
    and it may raise to end the reading.
    """
    digest = new_digest()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            if after_block is not None:
                after_block(len(block))
    return digest.hexdigest()
