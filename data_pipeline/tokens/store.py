"""The token store: tokenized documents as Hugging Face datasets, read as flat token streams.

    store/
      manifest.json              written last; names every file with its size and checksum
      tokenizer/                 the tokenizer of the ids
      <source>/<split>/          `datasets.load_from_disk` opens it; split is train or validation
        data-00000-of-00001.arrow   columns id (string), input_ids (list of uint16 or uint32)
        provenance-00000-of-00001.parquet   where each of its rows comes from (`provenance.py`)

A row is one document: BOS, its tokens, EOS. There is no packing on disk. `TokenStream` presents all
documents of one split, in row order, as one long array of tokens, and slices windows of any length
from it. Files are memory-mapped at first touch; finding a window is a binary search over files
and then over a file's record batches, so the cost does not grow with the store.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.files.checksum import file_checksum

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

TokenizerKind = Literal["sentencepiece", "huggingface"]
TOKENIZER_FILES: dict[TokenizerKind, str] = {
    "sentencepiece": "tokenizer.model",
    "huggingface": "tokenizer.json",
}
"""The file that defines a tokenizer's ids, by kind; `TokenizerIdentity.sha256` is its hash."""

FORMAT_VERSION = 3
_CURE = "copy it again, or rebuild the store"


@dataclass(frozen=True)
class ShardFile:
    """One Arrow file of a split; `path` is relative to the store."""

    path: str
    rows: int
    num_tokens: int
    bytes: int
    xxh3_64: str


@dataclass(frozen=True)
class ProvenanceFile:
    """The Parquet file with the provenance of each row of an Arrow file."""

    path: str
    bytes: int
    xxh3_64: str


@dataclass(frozen=True)
class SplitManifest:
    num_documents: int
    num_tokens: int
    """BOS and EOS of every document included."""
    num_text_bytes: int
    """UTF-8 bytes of the tokenized text."""
    num_byte_tokens: int
    """Byte-fallback tokens (characters that are not in the vocabulary), line breaks excluded."""
    bytes_per_token: float
    byte_token_share: float
    """These two without BOS and EOS; 0 where there are no tokens."""
    files: tuple[ShardFile, ...]
    provenance: tuple[ProvenanceFile, ...] = ()
    """One for each of `files`, in their order."""

    @staticmethod
    def of(
        files: tuple[ShardFile, ...],
        *,
        num_text_bytes: int,
        num_byte_tokens: int,
        provenance: tuple[ProvenanceFile, ...] = (),
    ) -> SplitManifest:
        """The manifest, with totals computed from the files."""
        num_documents = sum(file.rows for file in files)
        num_tokens = sum(file.num_tokens for file in files)
        # A document has a BOS and an EOS.
        of_text = num_tokens - 2 * num_documents
        return SplitManifest(
            num_documents=num_documents,
            num_tokens=num_tokens,
            num_text_bytes=num_text_bytes,
            num_byte_tokens=num_byte_tokens,
            bytes_per_token=round(num_text_bytes / of_text, 4) if of_text else 0.0,
            byte_token_share=round(num_byte_tokens / of_text, 6) if of_text else 0.0,
            files=files,
            provenance=provenance,
        )


@dataclass(frozen=True)
class StoreManifest:
    version: int
    tokenizer_kind: TokenizerKind
    tokenizer_sha256: str
    """Of tokenizer.model, or of tokenizer.json where `tokenizer_kind` is huggingface."""
    vocab_size: int
    bos_token_id: int
    eos_token_id: int
    dtype: Literal["uint16", "uint32"]
    holdout_share: float
    """A document is held out where its id, as an integer modulo 2**32, is below this share of
    2**32; a source with two documents or more always has one on each side."""
    fingerprint: str
    """Hash of all inputs of the store; equal fingerprints mean equal stores."""
    sources: Mapping[str, Mapping[Split, SplitManifest]]
    tokenizer_identity: str = ""
    """Hash of what the tokenizer does (`tokenizer_identity.py`); "" in stores of version 0.1."""
    licenses: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    """Documents of each source by license, "" where it is not known; removals since not counted."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> StoreManifest:
        tree = json.loads(text)
        sources = {
            source: {split: _split_from_dict(splits[split]) for split in SPLITS}
            for source, splits in tree.pop("sources").items()
        }
        return StoreManifest(**tree, sources=sources)


def _split_from_dict(tree: dict[str, Any]) -> SplitManifest:
    files = tuple(ShardFile(**file) for file in tree.pop("files"))
    provenance = tuple(ProvenanceFile(**file) for file in tree.pop("provenance"))
    return SplitManifest(**tree, files=files, provenance=provenance)


def describe_file(store: Path, path: Path) -> ShardFile:
    """The manifest's entry for the Arrow file `path`, which lies under `store`."""
    chunks = _map_chunks(path)
    return ShardFile(
        path=path.relative_to(store).as_posix(),
        rows=sum(len(chunk.starts) for chunk in chunks),
        num_tokens=sum(len(chunk.tokens) for chunk in chunks),
        bytes=path.stat().st_size,
        xxh3_64=file_checksum(path),
    )


def describe_provenance(store: Path, path: Path) -> ProvenanceFile:
    """The manifest's entry for the Parquet file `path`, which lies under `store`."""
    return ProvenanceFile(
        path.relative_to(store).as_posix(), path.stat().st_size, file_checksum(path)
    )


class _Chunk(NamedTuple):
    """One record batch, as views into the memory-mapped file."""

    tokens: npt.NDArray[np.unsignedinteger[Any]]
    starts: npt.NDArray[np.signedinteger[Any]]
    """Start of each document in `tokens`."""


def _numpy_view(array: pa.Array) -> Any:
    # Arrow's `to_numpy` would import pandas: a third of a second in every process.
    return np.from_dlpack(array)


def _map_chunks(path: Path) -> list[_Chunk]:
    # The mapping outlives the closed file as long as an array refers to it, so that a store of
    # thousands of files does not use up the process's file descriptors.
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        column = reader.read_all().column("input_ids")
    chunks = []
    for array in column.chunks:
        offsets = _numpy_view(array.offsets)
        tokens = _numpy_view(array.values)[offsets[0] : offsets[-1]]
        # Subtracting copies, and offsets start at zero in every file that `datasets` writes.
        starts = offsets[:-1] - offsets[0] if offsets[0] else offsets[:-1]
        chunks.append(_Chunk(tokens, starts))
    return chunks


class _Shard:
    """An opened file: its record batches, and the first token of each."""

    def __init__(self, path: Path, entry: ShardFile) -> None:
        try:
            self.chunks = _map_chunks(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"damaged shard: {path} cannot be read ({error}); {_CURE}") from error
        self.bounds = [0, *accumulate(len(chunk.tokens) for chunk in self.chunks)]
        if self.bounds[-1] != entry.num_tokens:
            raise ValueError(
                f"damaged shard: {path} holds {self.bounds[-1]} tokens, the manifest says "
                f"{entry.num_tokens}; {_CURE}"
            )


class DocumentPlace(NamedTuple):
    """Location of a document in a split."""

    file: int
    """Index of the split's file."""
    row: int
    first: int
    """Position of its BOS in the stream."""


class TokenStream:
    """All documents of one source and split, end to end, as one array of token ids."""

    def __init__(self, store: Path, manifest: SplitManifest) -> None:
        self.num_tokens = manifest.num_tokens
        self.num_documents = manifest.num_documents
        self._store = store
        self._files = manifest.files
        self._bounds = [0, *accumulate(file.num_tokens for file in manifest.files)]
        self._opened: dict[int, _Shard] = {}

    def window(self, start: int, length: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Tokens start … start + length - 1: a read-only view where one record batch holds them."""
        pieces = [chunk.tokens[low:high] for chunk, low, high in self._spans(start, length)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def window_starts(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """Positions inside that window, ascending, at which a document begins."""
        pieces = []
        at = 0
        for chunk, low, high in self._spans(start, length):
            first, last = np.searchsorted(chunk.starts, (low, high))
            pieces.append(chunk.starts[first:last].astype(np.int64) + (at - low))
            at += high - low
        return np.concatenate(pieces)

    def place(self, position: int) -> DocumentPlace:
        """The document that the token at `position` belongs to."""
        assert 0 <= position < self.num_tokens, (
            f"position {position} lies outside the stream of {self.num_tokens} tokens"
        )
        index = bisect.bisect_right(self._bounds, position) - 1
        shard, base = self._shard(index), self._bounds[index]
        number = bisect.bisect_right(shard.bounds, position - base) - 1
        at = position - base - shard.bounds[number]
        row = int(np.searchsorted(shard.chunks[number].starts, at, "right")) - 1
        first = base + shard.bounds[number] + int(shard.chunks[number].starts[row])
        rows_before = sum(len(chunk.starts) for chunk in shard.chunks[:number])
        return DocumentPlace(index, rows_before + row, first)

    def _spans(self, start: int, length: int) -> Iterator[tuple[_Chunk, int, int]]:
        """The record batches that overlap the window, each with its part of the window."""
        end = start + length
        assert 0 <= start < end <= self.num_tokens, (
            f"window {start}:{end} lies outside the stream of {self.num_tokens} tokens"
        )
        index = bisect.bisect_right(self._bounds, start) - 1
        while start < end:
            shard = self._shard(index)
            base = self._bounds[index]
            file_end = min(end, self._bounds[index + 1])
            number = bisect.bisect_right(shard.bounds, start - base) - 1
            while start < file_end:
                chunk_base = base + shard.bounds[number]
                stop = min(file_end, base + shard.bounds[number + 1])
                if start < stop:
                    yield shard.chunks[number], start - chunk_base, stop - chunk_base
                start = stop
                number += 1
            index += 1

    def _shard(self, index: int) -> _Shard:
        shard = self._opened.get(index)
        if shard is None:
            entry = self._files[index]
            shard = self._opened[index] = _Shard(self._store / entry.path, entry)
        return shard


@dataclass(frozen=True)
class TokenStore:
    """An opened store. Opening checks every file's size, and reads no tokens."""

    path: Path
    manifest: StoreManifest

    @staticmethod
    def open(path: Path) -> TokenStore:
        """Open the store in folder `path`; ValueError where it is not a store, or incomplete."""
        manifest_file = path / "manifest.json"
        if not manifest_file.is_file():
            raise ValueError(
                f"data.store: {path} is not a token store (it has no manifest.json); "
                "build one with recipes/build_dataset.sh"
            )
        text = manifest_file.read_text(encoding="utf-8")
        try:
            version = json.loads(text)["version"]
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(
                f"data.store: {manifest_file} is not a valid manifest; {_CURE}"
            ) from error
        if version != FORMAT_VERSION:
            raise ValueError(
                f"data.store: {path} has format version {version}, this program reads version "
                f"{FORMAT_VERSION}; rebuild the store"
            )
        store = TokenStore(path, StoreManifest.from_json(text))
        for file in store.files:
            _check_size(path / file.path, file.bytes)
        return store

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self.manifest.sources)

    @property
    def tokenizer_dir(self) -> Path:
        return self.path / "tokenizer"

    def stream(self, source: str, split: Split) -> TokenStream:
        if source not in self.manifest.sources:
            raise ValueError(
                f"source {source} is not in the token store {self.path}, which holds "
                f"{', '.join(self.sources)}"
            )
        return TokenStream(self.path, self.manifest.sources[source][split])

    @property
    def shards(self) -> tuple[ShardFile, ...]:
        """The files with tokens, of all sources and splits."""
        splits = [split for splits in self.manifest.sources.values() for split in splits.values()]
        return tuple(file for split in splits for file in split.files)

    @property
    def files(self) -> tuple[ShardFile | ProvenanceFile, ...]:
        """All files that the manifest names."""
        splits = [split for splits in self.manifest.sources.values() for split in splits.values()]
        return (*self.shards, *(file for split in splits for file in split.provenance))

    def verify(self, *, num_threads: int = 1) -> None:
        """Verify the checksums of all files, `num_threads` at a time; ValueError that names every
        damaged file."""
        with ThreadPoolExecutor(num_threads) as pool:
            damage = [self.damage_of_tokenizer()]
            damage += pool.map(self.damage, self.files)
        if any(damage):
            raise ValueError("\n".join(filter(None, damage)))

    def damage(
        self, file: ShardFile | ProvenanceFile, after_block: Callable[[int], None] | None = None
    ) -> str:
        """Verify one file's checksum (`file_checksum`); a message, empty where it is intact."""
        path = self.path / file.path
        try:
            found = file_checksum(path, after_block)
        except OSError as error:
            return f"unreadable shard: {path} ({error.strerror}); {_CURE}"
        if found == file.xxh3_64:
            return ""
        return (
            f"damaged shard: {path} has checksum {found}, the manifest says {file.xxh3_64}; {_CURE}"
        )

    def damage_of_tokenizer(self) -> str:
        """Verify the store's tokenizer; a message, empty where it is intact."""
        path = self.tokenizer_dir / TOKENIZER_FILES[self.manifest.tokenizer_kind]
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            return f"unreadable tokenizer: {path} ({error.strerror}); {_CURE}"
        expected = self.manifest.tokenizer_sha256
        if found == expected:
            return ""
        return (
            f"damaged tokenizer: {path} has sha256 {found}, the manifest says {expected}; {_CURE}"
        )


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise ValueError(f"missing shard: {path} ({expected} bytes) does not exist; {_CURE}")
    found = path.stat().st_size
    if found != expected:
        raise ValueError(
            f"truncated shard: {path} has {found} bytes, the manifest says {expected}; {_CURE}"
        )
