"""Parts: what one group of input files becomes, published as a folder of its own.

A part's folder is named after all that decides about it (files, thresholds, code), so a build that
was killed, or whose inputs or thresholds changed in part, finds the parts that are still right and
makes the others.

    documents-000.parquet …   columns of `document.SCHEMA`; a new file when one is large
    dropped.parquet           what was dropped, and why
    inputs.parquet            the part's input files
    keys.npy                  for every document, the hash of what makes it the same as another
    sizes.json                the size of each of these files
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.dedup import ID_DTYPE, Ids
from data_pipeline.document import SCHEMA, Document, Rejected, Source, content_id, whole_text
from data_pipeline.documents import DROPPED_SCHEMA, INPUTS_SCHEMA, checksum
from data_pipeline.inputs import InputFile
from data_pipeline.publish import atomic_directory

Row = dict[str, str | int | float | None]

# A batch of long documents fits easily into memory, one of short ones is worth the overhead.
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 1_000
_SHARD_TEXT_BYTES = 512 << 20
# Small files share a part. The bound depends on nothing else, so a new file moves few others.
_PART_INPUT_BYTES = 4 << 20


@dataclass(frozen=True)
class Part:
    """A group of input files, and the folder that holds what becomes of them."""

    source: Source
    files: tuple[InputFile, ...]
    folder: Path

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
    def keys(self) -> Path:
        return self.folder / "keys.npy"

    def is_whole(self) -> bool:
        """Whether the folder is there with every file in its size. The published documents are the
        same files under a second name, so whoever damages those damages these."""
        try:
            sizes = json.loads((self.folder / "sizes.json").read_bytes())
            return all((self.folder / n).stat().st_size == size for n, size in sizes.items())
        except (OSError, ValueError):
            return False


def groups(files: Sequence[InputFile]) -> Iterator[tuple[InputFile, ...]]:
    """Consecutive files, together up to a few megabytes; larger ones alone."""
    group: list[InputFile] = []
    used = 0
    for file in files:
        if group and used + file.size > _PART_INPUT_BYTES:
            yield tuple(group)
            group, used = [], 0
        group.append(file)
        used += file.size
    if group:
        yield tuple(group)


def build_part(part: Part) -> None:
    """Read, edit and filter the part's files."""
    with atomic_directory(part.folder) as folder:
        with (
            _Rows(folder / "dropped.parquet", DROPPED_SCHEMA) as dropped,
            _Rows(folder / "inputs.parquet", INPUTS_SCHEMA) as inputs,
            contextlib.closing(_Documents(folder, part.source)) as documents,
        ):
            for file in part.files:
                num_read = num_dropped = 0
                for item in part.source.read(file):
                    result = processed(part.source, item)
                    num_read += 1
                    if isinstance(result, Document):
                        documents.add(result)
                    else:
                        num_dropped += 1
                        text_id = content_id(item.text) if isinstance(item, Document) else None
                        dropped.add({**asdict(result), "id": text_id})
                inputs.add(
                    {
                        "source_file": file.source_file,
                        "bytes": file.size,
                        "xxh3_64": checksum(file.path),
                        "num_read": num_read,
                        "num_dropped": num_dropped,
                    }
                )
        np.save(folder / "keys.npy", documents.keys())
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        (folder / "sizes.json").write_text(json.dumps(sizes))


def processed(source: Source, item: Document | Rejected) -> Document | Rejected:
    """What the source's edits and filters make of what its reader found."""
    if isinstance(item, Rejected):
        return item
    for edit in source.edits:
        edited = edit(item)
        if isinstance(edited, Rejected):
            return edited
        item = edited
    if not item.text.strip():
        return item.rejected("empty")
    for why_dropped in source.filters:
        if (reason := why_dropped(item)) is not None:
            return item.rejected(reason)
    return item


class _Rows:
    """A Parquet file that is written row by row, in row groups of bounded size."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._batch: list[Row] = []
        self._size = 0

    def add(self, row: Row, num_bytes: int = 0) -> None:
        self._batch.append(row)
        self._size += num_bytes
        if self._size >= _BATCH_BYTES or len(self._batch) == _BATCH_ROWS:
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


class _Documents:
    """The documents of a part: files of bounded size, and the documents' keys."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._keys = bytearray()  # a site's tens of millions as strings would take gigabytes
        self._folder = folder
        self._source = source
        self._rows: _Rows | None = None
        self._num_files = self._size = 0

    def add(self, document: Document) -> None:
        row = document.row(self._source.name)
        is_whole = self._source.same_text is whole_text
        same = row["id"] if is_whole else content_id(self._source.same_text(document.text))
        self._keys += str(same).encode()
        if self._rows is None:
            path = self._folder / f"documents-{self._num_files:03}.parquet"
            self._rows = _Rows(path, SCHEMA)
            self._num_files += 1
        self._rows.add(row, len(document.text))
        self._size += len(document.text)
        if self._size >= _SHARD_TEXT_BYTES:
            self.close()

    def keys(self) -> Ids:
        """For every document added, the hash of what makes it the same as another."""
        return np.frombuffer(self._keys, dtype=ID_DTYPE)

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
        self._rows, self._size = None, 0
