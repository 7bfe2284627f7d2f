"""External group-by: records grouped by key in bounded memory, spilling to disk.

Records stay in memory up to a limit; beyond it they are partitioned into temporary files by a hash
of their key, each of which is then grouped by itself, in the same way. The files are unlinked while
open, so that even a killed process leaves nothing behind.
"""

from __future__ import annotations

import marshal
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from data_pipeline.document import WorkFolderError

Record = tuple[int | str | None, ...]

_NUM_FILES = 64
_BLOCK_BYTES = 1 << 17
_MAX_LEVEL = 9
_LENGTHS = struct.Struct("<II")


@dataclass(frozen=True)
class Group:
    """All records of one key, in the order in which they were added."""

    key: int
    records: list[Record]
    num_left_out: int
    """Records that exceed the memory limit of a single group."""


class GroupedRecords:
    """A multimap from integers to records, written once and then read once.

    `max_bytes` bounds the records in memory, by an estimate of their size; Python objects need
    about as much again. It is also the maximum size of a group.
    """

    def __init__(self, max_bytes: int, folder: Path | None = None, level: int = 0) -> None:
        self._max_bytes = max_bytes
        self._folder = folder
        self._level = level
        self._groups: dict[int, list[Record]] = {}
        self._left_out: Counter[int] = Counter()
        self._num_bytes = 0
        self._files: list[_Spill] = []

    def add(self, key: int, record: Record) -> None:
        """WorkFolderError if the disk is full, or the folder does not exist."""
        if self._files:
            self._file_of(key).add(key, record)
            return
        if self._num_bytes + _size(record) > self._max_bytes:
            # Records of one key cannot be partitioned.
            if self._level == _MAX_LEVEL or self._groups.keys() <= {key}:
                self._left_out[key] += 1
                return
            self._spread()
            self.add(key, record)
            return
        self._groups.setdefault(key, []).append(record)
        self._num_bytes += _size(record)

    def _spread(self) -> None:
        self._files = [_Spill(self._folder) for _ in range(_NUM_FILES)]
        for key, records in self._groups.items():
            for record in records:
                self._file_of(key).add(key, record)
        self._groups.clear()

    def groups(self) -> Iterator[Group]:
        """The groups, in ascending order of keys if everything fitted into memory, else in an order
        that depends on the keys alone.
        """
        for key in sorted(self._groups.keys() | (() if self._files else self._left_out.keys())):
            yield Group(key, self._groups.pop(key, []), self._left_out[key])
        for file in self._files:
            part = GroupedRecords(self._max_bytes, self._folder, self._level + 1)
            for key, record in file.records():
                part.add(key, record)
            file.close()
            for key, count in self._left_out.items():
                if self._file_of(key) is file:
                    part._left_out[key] += count
            yield from part.groups()

    def close(self) -> None:
        """Free the disk space."""
        for file in self._files:
            file.close()

    def _file_of(self, key: int) -> _Spill:
        """Six bits of the mixed key, others at each level (multiplier: 2^64 / golden ratio)."""
        mixed = (key * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        return self._files[(mixed >> (58 - 6 * self._level)) & (_NUM_FILES - 1)]


class _Spill:
    """Records in an unlinked temporary file, in compressed blocks."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise self._no_room(error) from error
        self._block: list[tuple[int, Record]] = []
        self._num_bytes = 0

    def add(self, key: int, record: Record) -> None:
        self._block.append((key, record))
        self._num_bytes += _size(record)
        if self._num_bytes > _BLOCK_BYTES:
            self._write()

    def _write(self) -> None:
        # marshal, because only this process reads it: the fastest, and safe for own data.
        data = marshal.dumps(self._block)
        packed = pa.Codec("zstd", 1).compress(data, asbytes=True)
        try:
            self._file.write(_LENGTHS.pack(len(data), len(packed)) + packed)
            self._file.flush()
        except OSError as error:
            raise self._no_room(error) from error
        self._block, self._num_bytes = [], 0

    def _no_room(self, error: OSError) -> WorkFolderError:
        # Not an OSError: a reader would take it for a corrupt input file.
        folder = self._folder or tempfile.gettempdir()
        what = f"cannot write temporary data to {folder}: {error}; choose a work_folder"
        return WorkFolderError(what)

    def records(self) -> Iterator[tuple[int, Record]]:
        self._write()
        self._file.seek(0)
        while head := self._file.read(_LENGTHS.size):
            size, packed_size = _LENGTHS.unpack(head)
            packed = self._file.read(packed_size)
            yield from marshal.loads(pa.Codec("zstd", 1).decompress(packed, size, asbytes=True))

    def close(self) -> None:
        self._file.close()


def _size(record: Record) -> int:
    """Approximate size of a record in memory, in bytes."""
    return 64 + sum(len(value) for value in record if isinstance(value, str))
