"""On-disk format of a documents folder: a source's documents after cleaning and deduplication.

    manifest.json                   counts, versions, and the files with their checksums
    documents-00000-000.parquet …   columns of `document.SCHEMA`
    dropped-00000.parquet …         the ledger: dropped documents and reasons (`DROPPED_SCHEMA`)
    examples.parquet                the beginnings of some dropped texts (`EXAMPLES_SCHEMA`)
    samples.parquet                 the beginnings of some kept texts (`SAMPLES_SCHEMA`)
    inputs.parquet                  the files that were read (`INPUTS_SCHEMA`)
    ignored.parquet                 files under the root that were not read, and why

The first number is that of the part, a group of input files; the documents of a large part are
split into several files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from data_pipeline.document import Stage

MANIFEST_VERSION = 6
DROPPED_SCHEMA = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64()),
        pa.field("kept_source", pa.string()),
        pa.field("kept_id", pa.string()),
        pa.field("similarity", pa.float32()),
    ]
)
"""The ledger: one row per dropped document. `stage` (`document.Stage`) and drop `reason`, which is
the name of a deduplication rule at the stage "compare"; then also the duplicate that was kept, and
their similarity. `id` and `num_bytes` are those of the text: the raw text, where it was dropped
before deduplication; null where there was no text."""
EXAMPLES_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("stage", "reason", "source_file")),
        pa.field("offset", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("id", "detail", "text")),
    ]
)
"""The beginnings of a few dropped texts, before edits."""
SAMPLES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "text", "url", "title", "language", "license")),
        ("source_file", pa.string()),
        ("offset", pa.int64()),
    ]
)
INPUTS_SCHEMA = pa.schema(
    [
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("xxh3_64", pa.string(), nullable=False),
        pa.field("num_read", pa.int64(), nullable=False),
        pa.field("num_dropped", pa.int64(), nullable=False),
        pa.field("num_text_bytes", pa.int64(), nullable=False),
        pa.field("num_paragraphs_removed", pa.int64(), nullable=False),
        pa.field("num_paragraph_characters_removed", pa.int64(), nullable=False),
    ]
)
"""Documents read, kept and rejected per input file, before deduplication."""
IGNORED_SCHEMA = pa.schema([(name, pa.string()) for name in ("source_file", "reason", "advice")])


@dataclass(frozen=True)
class ShardFile:
    path: str
    rows: int
    bytes: int
    xxh3_64: str


@dataclass(frozen=True)
class DropCount:
    """Number of documents dropped at a stage for a reason."""

    stage: Stage
    reason: str
    documents: int
    text_bytes: int
    """UTF-8 bytes of their texts (`DROPPED_SCHEMA` says at which stage)."""


@dataclass(frozen=True)
class Manifest:
    """Contents of a documents folder. num_read = num_kept + all of `drops`."""

    version: int
    source: str
    fingerprint: str
    versions: dict[str, str]
    """Of this package, Python, and the packages that affect the result."""
    num_input_files: int
    num_input_bytes: int
    num_read: int
    num_kept: int
    num_read_bytes: int
    """UTF-8 bytes of the texts before edits."""
    num_paragraphs_removed: int
    """Repeated paragraphs removed from the texts that were read ..."""
    num_paragraph_characters_removed: int
    """... and their characters."""
    drops: tuple[DropCount, ...]
    contaminated: dict[str, int]
    """Contaminated documents, dropped or flagged, per evaluation set."""
    ignored: dict[str, int]
    """Files (or whole folders) that were not read, per reason."""
    advice: dict[str, str]
    """Of some of these reasons: what can be done about it."""
    num_text_bytes: int
    """UTF-8 bytes of the kept texts."""
    lengths: dict[str, int]
    """Kept documents by the bits of their length in UTF-8 bytes: "10" stands for 512 to 1,023."""
    languages: dict[str, int]
    """Kept documents by language, "" where it is not known."""
    licenses: dict[str, int]
    """Kept documents by license, "" where it is not known."""
    license_bytes: dict[str, int]
    """UTF-8 bytes of these documents."""
    domains: dict[str, int]
    """Kept documents by the host of their URL, without "www.": the most frequent ones, counted
    from below where there are very many hosts."""
    scores: dict[str, dict[str, int]]
    """Kept documents by each score that they have: probabilities in steps of 5 % ("19" is 0.95 and
    more), perplexities by the bits of their whole part."""
    files: tuple[ShardFile, ...]

    @property
    def dropped(self) -> dict[str, int]:
        """Documents per drop reason, sorted by reason."""
        counts: Counter[str] = Counter()
        for drop in self.drops:
            counts[drop.reason] += drop.documents
        return dict(sorted(counts.items()))

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a documents folder; ValueError if a file is missing or has the wrong size."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a documents folder: manifest.json is missing")
    fields = json.loads(path.read_bytes())
    if fields.get("version") != MANIFEST_VERSION:
        raise ValueError(
            f"{path} has version {fields.get('version')}, but this version reads only "
            f"{MANIFEST_VERSION}; delete {folder} to rebuild it"
        )
    files = tuple(ShardFile(**file) for file in fields.pop("files"))
    drops = tuple(DropCount(**drop) for drop in fields.pop("drops"))
    for file in files:
        shard = folder / file.path
        size = shard.stat().st_size if shard.is_file() else None
        if size != file.bytes:
            found = "is missing" if size is None else f"is truncated to {size} bytes"
            raise ValueError(
                f"{shard} {found}, expected {file.bytes} bytes; delete {folder} to rebuild it"
            )
    return Manifest(**fields, drops=drops, files=files)


def finished_manifest(folder: Path) -> Manifest | None:
    """As `read_manifest`; None if there is no complete folder."""
    try:
        return read_manifest(folder)
    except (ValueError, TypeError, KeyError):  # missing, damaged, or another version
        return None


def load_documents(folder: Path) -> Dataset:
    """The documents of a finished folder as a memory-mapped dataset, in order.

    The memory-mapped copy lies in the folder itself (`cache/`) and is deleted with it.
    """
    manifest = read_manifest(folder)
    paths = [str(folder / file.path) for file in manifest.files]
    return Dataset.from_parquet(paths, cache_dir=str(folder / "cache"))


def format_counts(counts: Mapping[str, int]) -> str:
    """Counts per reason, for messages: "3 binary, 12 too_short"; "0" without any."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "0"
