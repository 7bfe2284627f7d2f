"""The checksum by which a file's contents are told from others."""

from __future__ import annotations

from pathlib import Path

import xxhash

_BLOCK_BYTES = 4 << 20


def file_checksum(path: Path) -> str:
    """xxh3 of 64 bits over a file's bytes, as 16 hexadecimal digits."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
