"""Tensors in safetensors files: which tensor lies in which file, writing them, reading slices.

A file is written front to back, one tensor at a time, and its checksum is taken of the bytes as
they are written: neither the whole file nor its tensors are ever in memory together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from data_pipeline.files.checksum import new_digest
from llama_ds.checkpoint.kinds import KINDS, WEIGHT, index_path

SHARD_BYTES = 2 * 10**9
"""Most that a file holds, unless a single tensor is larger."""
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorFile:
    """One file of a checkpoint: its path in the folder, and the tensors in it, in order."""

    path: str
    kind: str
    shapes: dict[str, Shape]

    @property
    def num_bytes(self) -> int:
        """Of its tensors in fp32."""
        return sum(4 * math.prod(shape) for shape in self.shapes.values())


def plan_files(shapes: Mapping[str, Shape], shard_bytes: int = SHARD_BYTES) -> list[TensorFile]:
    """All files of a checkpoint of fp32 tensors; the same for every layout."""
    files = []
    shards = _shards(shapes, shard_bytes)
    for kind in KINDS:
        stem = "model" if kind == WEIGHT else f"optimizer/{kind}"
        for number, shard in enumerate(shards, start=1):
            path = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
            files.append(TensorFile(path, kind, shard))
    return files


def _shards(shapes: Mapping[str, Shape], shard_bytes: int) -> list[dict[str, Shape]]:
    shards: list[dict[str, Shape]] = [{}]
    size = 0
    for name, shape in shapes.items():
        nbytes = 4 * math.prod(shape)
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += nbytes
    return shards


def index_of(files: Sequence[TensorFile], dtype: torch.dtype) -> bytes:
    """The index of the files of one kind, stored in `dtype`, as transformers writes it."""
    total = sum(file.num_bytes for file in files) // 4 * dtype.itemsize
    weight_map = {name: Path(file.path).name for file in files for name in file.shapes}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return (json.dumps(index, indent=1) + "\n").encode()


class SafetensorsWriter:
    """A safetensors file whose tensors come one after another; `entry` describes it at the end.

    OSError where the disk is full. The caller flushes the file to the disk after it is closed.
    """

    def __init__(self, path: Path, shapes: Mapping[str, Shape], dtype: torch.dtype) -> None:
        self._awaited = list(shapes)
        self._dtype = dtype
        self._digest = new_digest()
        self._bytes = 0
        header = _header(shapes, dtype)
        self._file = path.open("wb")
        self._write(len(header).to_bytes(8, "little") + header)

    def add(self, name: str, tensor: Tensor) -> None:
        """The next tensor, in the order of the shapes given."""
        assert self._awaited[:1] == [name], f"{name} comes out of turn"
        assert tensor.dtype == self._dtype, f"{name} is {tensor.dtype}, not {self._dtype}"
        del self._awaited[0]
        self._write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def entry(self) -> dict[str, Any]:
        """Size and checksum of what was written."""
        assert not self._awaited, f"{len(self._awaited)} tensors were not written"
        return {"bytes": self._bytes, "xxh3_64": self._digest.hexdigest()}

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)


def _header(shapes: Mapping[str, Shape], dtype: torch.dtype) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes


# -- reading --------------------------------------------------------------------------------------


class TensorReader:
    """The tensors of one kind in a checkpoint folder.

    A file is opened for each read: what was read of a file counts as memory while it is open.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        index = json.loads((folder / index_path(kind)).read_text(encoding="utf-8"))
        parent = (folder / index_path(kind)).parent
        self._files = {name: parent / file for name, file in index["weight_map"].items()}

    @property
    def names(self) -> set[str]:
        return set(self._files)

    def shape(self, name: str) -> Shape:
        with self._slice(name) as entry:
            return tuple(entry.get_shape())

    def flat_range(self, name: str, index: tuple[slice, ...], start: int, length: int) -> Tensor:
        """Elements [start, start + length) of the flattened part of a tensor that `index` cuts out.

        Of a matrix, only the rows that the range touches are read.
        """
        with self._slice(name) as entry:
            rows = index[0]
            width = math.prod(part.stop - part.start for part in index[1:])
            first, last = start // width, -(-(start + length) // width)
            touched = (slice(rows.start + first, rows.start + last), *index[1:])
            values: Tensor = entry[touched]
            return values.reshape(-1).narrow(0, start - first * width, length)

    @contextmanager
    def _slice(self, name: str) -> Iterator[Any]:
        with safe_open(self._files[name], "pt") as file:
            yield file.get_slice(name)
