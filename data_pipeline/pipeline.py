"""From a source's raw files to a folder of clean, distinct documents.

The input files are cut into groups, in the order of their names. Each group becomes one part
(documents that pass the filters, and a list of what was dropped), by whichever process is free;
then exact duplicates are removed over all parts. How files are grouped depends on the files alone,
so that the result is the same, byte for byte, for any number of processes.

A documents folder:
    manifest.json           counts, and the files with their checksums
    documents-00000.parquet …   columns of `document.SCHEMA`
    dropped-00000.parquet …     what was dropped, and why (`DROPPED_SCHEMA`)
    ignored.parquet         files under the root that were not read, and why
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from datasets import Dataset

from data_pipeline.dedup import as_ids, keep_first
from data_pipeline.document import SCHEMA, Document, Rejected, Source, content_id
from data_pipeline.fingerprint import source_fingerprint
from data_pipeline.inputs import InputFile, Inputs
from data_pipeline.publish import atomic_directory
from data_pipeline.workers import in_processes

MANIFEST_VERSION = 1
DROPPED_SCHEMA = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
_IGNORED_SCHEMA = pa.schema([("source_file", pa.string()), ("reason", pa.string())])

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 1_000
_MIN_GROUP_BYTES = 1 << 20
_MAX_GROUP_BYTES = 256 << 20
_NUM_GROUPS = 32

Row = dict[str, str | int | float | None]


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
    num_read: int
    num_kept: int
    dropped: dict[str, int]
    """Documents per drop reason."""
    ignored: dict[str, int]
    """Files (or whole folders) that were not read, per reason."""
    num_text_bytes: int
    """UTF-8 bytes of the kept texts."""
    files: tuple[ShardFile, ...]


@dataclass(frozen=True)
class _Group:
    """Input files that become one part."""

    index: int
    files: tuple[InputFile, ...]
    source: Source
    folder: Path

    @property
    def documents(self) -> Path:
        return self.folder / f"documents-{self.index:05}.parquet"

    @property
    def dropped(self) -> Path:
        return self.folder / f"dropped-{self.index:05}.parquet"


@dataclass(frozen=True)
class _Part:
    """A finished part; without a shard if none of its documents stayed."""

    shard: ShardFile | None
    num_text_bytes: int
    dropped: Counter[str]


def build_corpus(
    sources: Sequence[tuple[Source, Path]], out: Path, *, jobs: int
) -> dict[str, Manifest]:
    """Build each (source, root) into `out/<source name>`; a text stays in the first that has it."""
    names = [source.name for source, _ in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"source names {names} must differ from one another")
    manifests: dict[str, Manifest] = {}
    for source, root in sources:
        earlier = [out / name for name in manifests]
        manifests[source.name] = build_documents(
            source, root, out / source.name, jobs=jobs, earlier=earlier
        )
    return manifests


def build_documents(
    source: Source, root: Path, out: Path, *, jobs: int, earlier: Sequence[Path] = ()
) -> Manifest:
    """Read everything under `root` and publish the folder `out`, with `jobs` processes.

    Documents that the folders `earlier` hold are dropped as duplicates. A finished `out` that was
    made from the same files by the same code and thresholds is left as it is. ValueError if
    nothing is there to read or nothing is kept.
    """
    if jobs < 1:
        raise ValueError(f"jobs ({jobs}) must be at least 1")
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"the output {out} lies inside the corpus {root}, which would then read itself; "
            "put it elsewhere"
        )
    found = source.inputs(root)
    if not found.files:
        counts = _counts(Counter(item.reason for item in found.ignored))
        raise ValueError(f"{root} has nothing that source '{source.name}' reads: {counts} ignored")
    fingerprint = source_fingerprint(
        source, found, [str(MANIFEST_VERSION), *(read_manifest(f).fingerprint for f in earlier)]
    )
    if (finished := _finished(out)) is not None and finished.fingerprint == fingerprint:
        return finished
    with atomic_directory(out) as folder:
        groups = _group(found, source, folder)
        sizes = [sum(file.size for file in group.files) for group in groups]
        in_processes(_build_part, groups, sizes, jobs=jobs, label=f"read {source.name}")
        tasks = _duplicates(groups, earlier)
        label = f"deduplicate {source.name}"
        manifest = _summary(
            in_processes(_finish_part, tasks, sizes, jobs=jobs, label=label),
            found,
            source,
            fingerprint,
        )
        if manifest.num_kept == 0:
            raise ValueError(f"no document of {root} was kept: {_why_nothing(manifest, groups)}")
        ignored = pa.Table.from_pylist([asdict(item) for item in found.ignored], _IGNORED_SCHEMA)
        pq.write_table(ignored, folder / "ignored.parquet", compression="zstd")
        data = json.dumps(asdict(manifest), indent=2).encode()
        (folder / "manifest.json").write_bytes(data)
    return manifest


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


def load_documents(folder: Path) -> Dataset:
    """The documents of a finished folder, memory-mapped, in order.

    The mapped copy lies in the folder itself (`cache/`) and goes with it.
    """
    manifest = read_manifest(folder)
    paths = [str(folder / file.path) for file in manifest.files]
    return Dataset.from_parquet(paths, cache_dir=str(folder / "cache"))


def _finished(out: Path) -> Manifest | None:
    try:
        return read_manifest(out)
    except (ValueError, TypeError, KeyError):  # not there, damaged, or of another version
        return None


def _group(found: Inputs, source: Source, folder: Path) -> list[_Group]:
    """Consecutive files, about `_NUM_GROUPS` groups within the bounds on a group's size."""
    total = sum(file.size for file in found.files)
    limit = min(max(total // _NUM_GROUPS, _MIN_GROUP_BYTES), _MAX_GROUP_BYTES)
    groups: list[list[InputFile]] = [[]]
    used = 0
    for file in found.files:
        if groups[-1] and used + file.size > limit:
            groups.append([])
            used = 0
        groups[-1].append(file)
        used += file.size
    return [_Group(i, tuple(files), source, folder) for i, files in enumerate(groups)]


def _build_part(group: _Group) -> None:
    """Read, edit and filter the documents of one group."""
    dropped: list[Row] = []
    with pq.ParquetWriter(group.documents, SCHEMA, compression="zstd") as writer:
        for batch in _batches(_kept_rows(group, dropped)):
            writer.write_batch(batch)
    pq.write_table(pa.Table.from_pylist(dropped, DROPPED_SCHEMA), group.dropped, compression="zstd")


def _kept_rows(group: _Group, dropped: list[Row]) -> Iterator[Row]:
    for file in group.files:
        for item in group.source.read(file):
            result = _process(group.source, item)
            if isinstance(result, Document):
                yield result.row(group.source.name)
            else:
                text_id = content_id(item.text) if isinstance(item, Document) else None
                dropped.append({**asdict(result), "id": text_id})


def _process(source: Source, item: Document | Rejected) -> Document | Rejected:
    if isinstance(item, Rejected):
        return item
    for edit in source.edits:
        item = edit(item)
        if isinstance(item, Rejected):
            return item
    if not item.text.strip():
        return item.rejected("empty")
    for why_dropped in source.filters:
        if (reason := why_dropped(item)) is not None:
            return item.rejected(reason)
    return item


def _batches(rows: Iterator[Row]) -> Iterator[pa.RecordBatch]:
    """Rows as record batches, small enough that one fits easily into memory."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(str(row["text"]))
        if size >= _BATCH_BYTES or len(batch) == _BATCH_ROWS:
            yield pa.RecordBatch.from_pylist(batch, SCHEMA)
            batch, size = [], 0
    if batch:
        yield pa.RecordBatch.from_pylist(batch, SCHEMA)


def _duplicates(
    groups: Sequence[_Group], earlier: Sequence[Path]
) -> list[tuple[_Group, npt.NDArray[np.bool_]]]:
    """Each group with the mask of its documents that stay."""
    parts = [as_ids(_column(group.documents, "id")) for group in groups]
    known = [
        as_ids(_column(folder / file.path, "id"))
        for folder in earlier
        for file in read_manifest(folder).files
    ]
    return list(zip(groups, keep_first(parts, known), strict=True))


def _column(path: Path, name: str) -> list[str]:
    column: list[str] = pq.read_table(path, columns=[name]).column(name).to_pylist()
    return column


def _finish_part(task: tuple[_Group, npt.NDArray[np.bool_]]) -> _Part:
    """Move a part's duplicates to its dropped documents, and count what it holds then."""
    group, keep = task
    if not keep.all():
        _move_duplicates(group, keep)
    num_text_bytes = num_rows = 0
    with pq.ParquetFile(group.documents) as parquet:
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=["text"], use_threads=False):
            num_rows += batch.num_rows
            num_text_bytes += pc.sum(pc.binary_length(batch.column(0))).as_py()
    dropped = Counter(_column(group.dropped, "reason"))
    if num_rows == 0:
        group.documents.unlink()
        return _Part(None, 0, dropped)
    size = group.documents.stat().st_size
    shard = ShardFile(group.documents.name, num_rows, size, _checksum(group.documents))
    return _Part(shard, num_text_bytes, dropped)


def _move_duplicates(group: _Group, keep: npt.NDArray[np.bool_]) -> None:
    rewritten = group.documents.with_suffix(".rewritten")
    dropped = [pq.read_table(group.dropped)]
    start = 0
    with (
        pq.ParquetFile(group.documents) as parquet,
        pq.ParquetWriter(rewritten, SCHEMA, compression="zstd") as writer,
    ):
        for index in range(parquet.num_row_groups):
            rows = parquet.read_row_group(index, use_threads=False)
            mask = pa.array(keep[start : start + rows.num_rows])
            start += rows.num_rows
            if mask.true_count:
                writer.write_table(rows.filter(mask))
            gone = rows.filter(pc.invert(mask)).select(["source_file", "offset", "id"])
            reasons = {"reason": "duplicate", "detail": None}
            dropped.append(
                pa.Table.from_pylist(
                    [{**row, **reasons} for row in gone.to_pylist()], DROPPED_SCHEMA
                )
            )
    rewritten.replace(group.documents)
    pq.write_table(pa.concat_tables(dropped), group.dropped, compression="zstd")


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(_BATCH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _summary(parts: Sequence[_Part], found: Inputs, source: Source, fingerprint: str) -> Manifest:
    dropped = sum((part.dropped for part in parts), Counter[str]())
    files = tuple(part.shard for part in parts if part.shard is not None)
    num_kept = sum(file.rows for file in files)
    return Manifest(
        version=MANIFEST_VERSION,
        source=source.name,
        fingerprint=fingerprint,
        num_read=num_kept + dropped.total(),
        num_kept=num_kept,
        dropped=dict(sorted(dropped.items())),
        ignored=dict(sorted(Counter(item.reason for item in found.ignored).items())),
        num_text_bytes=sum(part.num_text_bytes for part in parts),
        files=files,
    )


def _why_nothing(manifest: Manifest, groups: Sequence[_Group]) -> str:
    """Counts per reason, and the first thing that was dropped."""
    first = next(row for g in groups for row in pq.read_table(g.dropped).slice(0, 1).to_pylist())
    detail = f"{first['source_file']}: {first['detail'] or first['reason']}"
    return f"{_counts(manifest.dropped)} (first: {detail})"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "0"
