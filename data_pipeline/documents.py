"""The format of a documents folder: what a source's raw files have become.

    manifest.json                   counts, versions, and the files with their checksums
    documents-00000-000.parquet …   columns of `document.SCHEMA`
    dropped-00000.parquet …         what was dropped, and why (`DROPPED_SCHEMA`)
    inputs.parquet                  the files that were read (`INPUTS_SCHEMA`)
    ignored.parquet                 files under the root that were not read, and why

The first number is that of the part, a group of input files; a large part has several files of
documents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import xxhash
from datasets import Dataset

MANIFEST_VERSION = 3
DROPPED_SCHEMA = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""`id` is that of the text as it was when it was dropped; none where there was no text."""
INPUTS_SCHEMA = pa.schema(
    [
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("xxh3_64", pa.string(), nullable=False),
        pa.field("num_read", pa.int64(), nullable=False),
        pa.field("num_dropped", pa.int64(), nullable=False),
    ]
)
"""Documents (and what was none) per input file, before documents are compared with one another."""
IGNORED_SCHEMA = pa.schema([("source_file", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class ShardFile:
    path: str
    rows: int
    bytes: int
    xxh3_64: str


@dataclass(frozen=True)
class Manifest:
    """What a documents folder holds. num_read = num_kept + all of `dropped`."""

    version: int
    source: str
    fingerprint: str
    versions: dict[str, str]
    """Of this package, of Python, and of the packages that had a part in the result."""
    num_input_files: int
    num_input_bytes: int
    num_read: int
    num_kept: int
    dropped: dict[str, int]
    """Documents per drop reason."""
    contaminated: dict[str, int]
    """Documents, dropped or flagged, that have items of an evaluation set; per set."""
    ignored: dict[str, int]
    """Files (or whole folders) that were not read, per reason."""
    num_text_bytes: int
    """UTF-8 bytes of the kept texts."""
    files: tuple[ShardFile, ...]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a documents folder; ValueError if a file is missing or not of its size."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no documents folder: it has no manifest.json")
    fields = json.loads(path.read_bytes())
    if fields.get("version") != MANIFEST_VERSION:
        raise ValueError(
            f"{path} has version {fields.get('version')}, and this program reads version "
            f"{MANIFEST_VERSION}; delete {folder} to have it built again"
        )
    files = tuple(ShardFile(**file) for file in fields.pop("files"))
    for file in files:
        shard = folder / file.path
        size = shard.stat().st_size if shard.is_file() else None
        if size != file.bytes:
            found = "is missing" if size is None else f"is truncated to {size} bytes"
            raise ValueError(
                f"{shard} {found} and should have {file.bytes} bytes; "
                f"delete {folder} to have it built again"
            )
    return Manifest(**fields, files=files)


def finished_manifest(folder: Path) -> Manifest | None:
    """As `read_manifest`; None where there is nothing, or nothing whole."""
    try:
        return read_manifest(folder)
    except (ValueError, TypeError, KeyError):  # not there, damaged, or of another version
        return None


def load_documents(folder: Path) -> Dataset:
    """The documents of a finished folder, memory-mapped, in order.

    The mapped copy lies in the folder itself (`cache/`) and goes with it.
    """
    manifest = read_manifest(folder)
    paths = [str(folder / file.path) for file in manifest.files]
    return Dataset.from_parquet(paths, cache_dir=str(folder / "cache"))


def checksum(path: Path) -> str:
    """xxh3 of 64 bits over a file, as 16 hexadecimal digits."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def described(counts: Mapping[str, int]) -> str:
    """Counts per reason in words."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "0"
