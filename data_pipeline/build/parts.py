"""Parts: the crash-safe cache of a build, one folder per group of input files.

A part's folder is named by its fingerprint (files, thresholds, code). A build that resumes after a
kill, or after inputs or thresholds changed, reuses the parts that are still valid and builds the
others.

    documents-000.parquet …   columns of `document.SCHEMA`, in files of bounded size
    keys-000.npy …            deduplication keys of each document (`KEYS_DTYPE`)
    dropped.parquet           dropped documents and reasons
    examples.parquet          the beginnings of a few dropped texts per reason
    inputs.parquet            the part's input files
    sizes.json                size of each of these files
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.dedup.keys import KEYS_DTYPE, key_of
from data_pipeline.dedup.paragraphs import ParagraphKeeper
from data_pipeline.document import (
    SCHEMA,
    Document,
    Rejected,
    Source,
    content_id,
    read_items,
)
from data_pipeline.documents_folder import DROPPED_SCHEMA, EXAMPLES_SCHEMA, INPUTS_SCHEMA
from data_pipeline.files.atomic import atomic_directory
from data_pipeline.files.checksum import file_checksum
from data_pipeline.files.inputs import InputFile, local_copy
from data_pipeline.sampling import SmallestHashes

Row = dict[str, str | int | float | None]

# Row groups are bounded by `PartSizes.batch_bytes` for long documents, by rows for short ones.
_BATCH_ROWS = 1_000
# The report samples from these.
_EXAMPLES_PER_REASON = 3
_EXAMPLE_CHARACTERS = 2_000


@dataclass(frozen=True)
class PartSizes:
    """Sizes of parts and of the files in them."""

    input_bytes: int = 4 << 20
    """Bytes of input files, as stored, up to which consecutive files share a part. The bound is the
    same for all files, so a new file changes few parts."""
    shard_text_bytes: int = 512 << 20
    """Characters of text, one byte each in ASCII, after which a documents file is closed."""
    batch_bytes: int = 8 << 20
    """Characters of text, as above, after which a row group is written."""


PART_SIZES = PartSizes()


@dataclass(frozen=True)
class Part:
    """A group of input files, and the folder with their documents."""

    source: Source
    files: tuple[InputFile, ...]
    folder: Path
    mask: Path | None = None
    """Keep mask of the paragraphs (`repeated_paragraphs`); None: all are kept."""
    sizes: PartSizes = PART_SIZES

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def documents(self) -> list[Path]:
        return sorted(self.folder.glob("documents-*.parquet"))

    @property
    def dropped(self) -> Path:
        return self.folder / "dropped.parquet"

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs.parquet"

    @property
    def examples(self) -> Path:
        return self.folder / "examples.parquet"

    def is_whole(self) -> bool:
        """Whether the folder exists with every file in its size. Published documents are hard links
        to the same files, so damage to those is damage to these."""
        try:
            sizes = json.loads((self.folder / "sizes.json").read_bytes())
            return all((self.folder / n).stat().st_size == size for n, size in sizes.items())
        except (OSError, ValueError):
            return False


def groups(
    files: Sequence[InputFile], input_bytes: int = PART_SIZES.input_bytes
) -> Iterator[tuple[InputFile, ...]]:
    """Groups of consecutive files of up to `input_bytes`; a larger file is a group by itself."""
    group: list[InputFile] = []
    used = 0
    for file in files:
        if group and used + file.size > input_bytes:
            yield tuple(group)
            group, used = [], 0
        group.append(file)
        used += file.size
    if group:
        yield tuple(group)


def keys_beside(documents: Path) -> Path:
    """The file with the deduplication keys of a part's documents file."""
    return documents.with_name(documents.name.replace("documents-", "keys-")).with_suffix(".npy")


def build_part(part: Part) -> None:
    """Read, edit and filter the part's files."""
    with atomic_directory(part.folder) as folder:
        with (
            _Dropped(folder) as dropped,
            _Rows(folder / "inputs.parquet", INPUTS_SCHEMA) as inputs,
            contextlib.closing(_Documents(folder, part.source, part.sizes)) as documents,
        ):
            keeper = None if part.mask is None else ParagraphKeeper(part.mask)
            for listed in part.files:
                with local_copy(listed) as file:
                    num_read = num_dropped = num_text_bytes = 0
                    before = _since(keeper)
                    for item in read_items(part.source, file):
                        num_read += 1
                        num_text_bytes += _num_bytes(item)
                        remaining = item
                        if keeper is not None and isinstance(item, Document):
                            remaining = keeper.edited(item)
                        result = apply_edits_and_filters(part.source, remaining)
                        if isinstance(result, Document):
                            documents.add(result)
                        else:
                            num_dropped += 1
                            dropped.add(result, item)
                    inputs.add(
                        {
                            "source_file": file.source_file,
                            "bytes": file.size,
                            "xxh3_64": file_checksum(file.path),
                            "num_read": num_read,
                            "num_dropped": num_dropped,
                            "num_text_bytes": num_text_bytes,
                            **_since(keeper, before),
                        }
                    )
            if keeper is not None:
                keeper.check_finished()
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        (folder / "sizes.json").write_text(json.dumps(sizes))


def _since(
    keeper: ParagraphKeeper | None, before: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Columns of `INPUTS_SCHEMA`: what `keeper` has removed since `before`."""
    columns = {"num_paragraphs_removed": 0, "num_paragraph_characters_removed": 0}
    if keeper is not None:
        columns["num_paragraphs_removed"] = keeper.num_removed
        columns["num_paragraph_characters_removed"] = keeper.removed_characters
    return {name: value - (before[name] if before else 0) for name, value in columns.items()}


def apply_edits_and_filters(source: Source, item: Document | Rejected) -> Document | Rejected:
    """Apply the source's edits and filters to an item of its reader."""
    if isinstance(item, Rejected):
        return item
    for edit in source.edits:
        edited = edit(item)
        if isinstance(edited, Rejected):
            return replace(edited, stage="edit")
        item = edited
    if not item.text.strip():
        return replace(item.rejected("empty"), stage="edit")
    for why_dropped in source.filters:
        if (reason := why_dropped(item)) is not None:
            return replace(item.rejected(reason), stage="filter")
    return item


def _num_bytes(item: Document | Rejected) -> int:
    return len(item.text.encode("utf-8")) if isinstance(item, Document) else 0


class _Rows:
    """Writes a Parquet file row by row, in row groups of bounded size."""

    def __init__(
        self, path: Path, schema: pa.Schema, batch_bytes: int = PART_SIZES.batch_bytes
    ) -> None:
        self._schema = schema
        self._batch_bytes = batch_bytes
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._batch: list[Row] = []
        self._size = 0

    def add(self, row: Row, num_bytes: int = 0) -> None:
        self._batch.append(row)
        self._size += num_bytes
        if self._size >= self._batch_bytes or len(self._batch) == _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._batch, self._schema))
        self._batch, self._size = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Dropped:
    """Writes a part's dropped documents with their reasons, and a few example texts per reason."""

    def __init__(self, folder: Path) -> None:
        self._rows = _Rows(folder / "dropped.parquet", DROPPED_SCHEMA)
        self._examples: dict[str, SmallestHashes[Row]] = {}
        self._path = folder / "examples.parquet"

    def add(self, rejected: Rejected, item: Document | Rejected) -> None:
        """`item` is the document as read; examples show its text before edits."""
        text_id = content_id(item.text) if isinstance(item, Document) else None
        place = {"source_file": rejected.source_file, "offset": rejected.offset, "id": text_id}
        why = {"reason": rejected.reason, "detail": rejected.detail, "stage": rejected.stage}
        self._rows.add({**place, **why, "num_bytes": _num_bytes(item)})
        examples = self._examples.setdefault(
            rejected.reason, SmallestHashes(_EXAMPLES_PER_REASON, seed=0)
        )
        identity = f"{rejected.source_file}:{rejected.offset}"
        if examples.wants(identity):
            text = item.text[:_EXAMPLE_CHARACTERS] if isinstance(item, Document) else ""
            examples.add(identity, {**place, **why, "text": text})

    def __enter__(self) -> _Dropped:
        return self

    def __exit__(self, *exception: object) -> None:
        self._rows.close()
        rows = [row for _, found in sorted(self._examples.items()) for row in found.items()]
        pq.write_table(pa.Table.from_pylist(rows, EXAMPLES_SCHEMA), self._path, compression="zstd")


class _Documents:
    """Writes a part's documents and their keys, in files of bounded size."""

    def __init__(self, folder: Path, source: Source, sizes: PartSizes) -> None:
        self._keys = bytearray()  # a site's tens of millions as objects would take gigabytes
        self._folder = folder
        self._source = source
        self._sizes = sizes
        self._rows: _Rows | None = None
        self._path = folder
        self._num_files = self._size = 0

    def add(self, document: Document) -> None:
        self._keys += key_of(document, self._source).tobytes()
        if self._rows is None:
            self._path = self._folder / f"documents-{self._num_files:03}.parquet"
            self._rows = _Rows(self._path, SCHEMA, self._sizes.batch_bytes)
            self._num_files += 1
        self._rows.add(document.row(self._source.name), len(document.text))
        self._size += len(document.text)
        if self._size >= self._sizes.shard_text_bytes:
            self.close()

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
            np.save(keys_beside(self._path), np.frombuffer(self._keys, dtype=KEYS_DTYPE))
        self._keys = bytearray()
        self._rows, self._size = None, 0
