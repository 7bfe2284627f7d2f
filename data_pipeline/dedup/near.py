"""Near-duplicate rule: MinHash LSH candidates, verified by the exact Jaccard index; one is kept.

The work is a shuffle through files, in tasks that any executor can run:

1. For every chunk of files, LSH band keys (`minhash.py`) with the document's rank, sorted.
2. For every range of band keys, pairs of ranks that agree in a band: candidate pairs.
3. For every chunk, the shingle sets of documents that have a candidate are written.
4. For every range of candidate pairs, the true Jaccard index of the sets.
5. Documents are taken in order of preference (tie-breaking). A document is removed if an earlier
   one that is kept has at least `min_similarity`; it is recorded as duplicate of the first such.

So every removed document is similar to a kept one: there is no transitive removal and no clustering
by connected components. The result is deterministic: it depends on the documents and their
preference alone, not on the memory budget, the executor or the chunking.

A task stays within the memory budget, copies included. In addition there is one batch of texts, and
in the process that schedules the tasks 100 bytes per document while the preference order is
computed, then 20, and 60 per removal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.dedup.buckets import (
    BYTES_PER_ENTRY,
    MEMBER_BITS,
    RunWriter,
    num_entries,
    pairs_in_groups,
    shared_keys,
)
from data_pipeline.dedup.minhash import (
    Bands,
    band_keys,
    choose_bands,
    jaccard,
    shingles,
    signatures,
)
from data_pipeline.dedup.rule import REMOVAL_DTYPE, Comparison, DocumentFile, Removals
from data_pipeline.files.atomic import atomic_directory
from data_pipeline.text.word_ngrams import Hashes, distinct

Places = npt.NDArray[np.int64]

CHUNK_BYTES = (4 << 20, 32 << 20)
"""Minimum and maximum chunk of Parquet: some 15 and 100 MB of text, one and several seconds."""
_MIN_BUDGET = 1 << 24
_MAX_DOCUMENTS = 1 << 32
_FEW_CHUNKS = 64
"""Up to this many chunks are small, so that every worker gets some."""
_BATCH_ROWS = 256
_MAX_FIRST = 32
"""In a bucket with more documents, each is compared with only this many of the preferred ones. A
pair of others is missed, unless they share another band with few documents."""
_PAIRS_AT_ONCE = 1 << 20
_COPIES = 4
"""Copies of the pairs while they are sorted: read, joined, sorted, and unique."""


def near_duplicates(
    comparison: Comparison,
    *,
    min_similarity: float,
    ngram_words: int = 5,
    chunk_bytes: tuple[int, int] = CHUNK_BYTES,
) -> Removals:
    """Rule: documents with a Jaccard index of at least `min_similarity` to a preferred one.

    The similarity of a removal is the exact Jaccard index of the word n-grams. 5-grams are the
    usual choice; SlimPajama used 13-grams and a similarity of 0.8. A task reads consecutive files
    of at least and at most `chunk_bytes` as stored, or one larger file. ValueError for a threshold,
    size or budget out of range, or more than 2**32 documents.
    """
    if not 0.1 <= min_similarity <= 1:
        raise ValueError(f"min_similarity ({min_similarity}) must be between 0.1 and 1")
    if ngram_words < 1:
        raise ValueError(f"ngram_words ({ngram_words}) must be at least 1")
    if comparison.memory_budget < _MIN_BUDGET:
        raise ValueError(
            f"memory_budget ({comparison.memory_budget}) must be at least {_MIN_BUDGET} bytes"
        )
    if comparison.bounds()[-1] > _MAX_DOCUMENTS:
        raise ValueError(f"more than {_MAX_DOCUMENTS} documents cannot be compared")
    work = _Work(
        folder=comparison.work_folder,
        bands=choose_bands(min_similarity),
        ngram_words=ngram_words,
        bits=max(1, (comparison.bounds()[-1] - 1).bit_length()),
        memory_budget=comparison.memory_budget,
    )
    np.save(work.ranks, comparison.preference())
    tasks = [_ChunkTask(work, chunk) for chunk in _chunks(comparison.files, chunk_bytes)]
    pairs = _candidates(tasks, work, comparison)
    _write_all_sets(tasks, pairs, work, comparison)
    verified = _verified(pairs, min_similarity, work, comparison)
    return _choose_removals(verified, np.argsort(np.load(work.ranks)))


@dataclass(frozen=True)
class _Chunk:
    """Consecutive files, and the number of the first document."""

    index: int
    files: tuple[DocumentFile, ...]
    first: int


@dataclass(frozen=True)
class _Work:
    """Parameters that all tasks share."""

    folder: Path
    bands: Bands
    ngram_words: int
    bits: int
    """Bits of a document's rank."""
    memory_budget: int

    @property
    def ranks(self) -> Path:
        """Every document's rank in the order of preference."""
        return self.folder / "ranks.npy"

    @property
    def index(self) -> Path:
        """Index of the shingle sets of documents that have a candidate."""
        return self.folder / "index.npy"

    @property
    def low(self) -> np.uint64:
        """Bit mask of a rank."""
        return (np.uint64(1) << np.uint64(self.bits)) - np.uint64(1)

    def of_chunk(self, what: str, chunk: _Chunk) -> Path:
        return self.folder / f"{what}-{chunk.index:06}"

    def ranges(self, num_bytes: int, num_bits: int) -> list[tuple[int, int]]:
        """Ranges of integers of `num_bits` bits, so many that each fits into memory, if all of them
        together take `num_bytes`."""
        return _split_range(num_bits, max(1, math.ceil(num_bytes / self.memory_budget)))


def _split_range(num_bits: int, count: int) -> list[tuple[int, int]]:
    ends = [(1 << num_bits) * i // count for i in range(count + 1)]
    return list(itertools.pairwise(ends))


def _chunks(files: Sequence[DocumentFile], chunk_bytes: tuple[int, int]) -> Iterator[_Chunk]:
    sizes = [file.path.stat().st_size for file in files]
    least, most = chunk_bytes
    limit = min(most, max(least, sum(sizes) // _FEW_CHUNKS))
    group: list[DocumentFile] = []
    index = first = number = used = 0
    for file, size in zip(files, sizes, strict=True):
        if group and used + size > limit:
            yield _Chunk(index, tuple(group), first)
            index, first, used, group = index + 1, number, 0, []
        group.append(file)
        used += size
        number += file.num_rows
    if group:
        yield _Chunk(index, tuple(group), first)


def _texts(
    chunk: _Chunk, wanted: npt.NDArray[np.bool_] | None = None
) -> Iterator[tuple[Places, list[str]]]:
    """Numbers and texts of the documents that are compared, in batches; only the wanted ones, where
    `wanted` has a flag for every document of the chunk."""
    start = 0
    for file in chunk.files:
        keep = np.zeros(file.num_rows, np.bool_)
        keep[file.kept_rows()] = True
        if wanted is not None:
            keep &= wanted[start : start + file.num_rows]
        with pq.ParquetFile(file.path) as parquet:
            row = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                if keep[row : row + rows].any():
                    for at, texts in _texts_of_group(parquet, group, keep[row : row + rows]):
                        yield at + (chunk.first + start + row), texts
                row += rows
        start += file.num_rows


def _texts_of_group(
    parquet: pq.ParquetFile, group: int, keep: npt.NDArray[np.bool_]
) -> Iterator[tuple[Places, list[str]]]:
    start = 0
    for batch in parquet.iter_batches(
        _BATCH_ROWS, row_groups=[group], columns=["text"], use_threads=False
    ):
        mask = keep[start : start + batch.num_rows]
        if mask.any():
            yield start + np.flatnonzero(mask), batch.column(0).filter(pa.array(mask)).to_pylist()
        start += batch.num_rows


# -- candidates -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ChunkTask:
    work: _Work
    chunk: _Chunk

    @property
    def num_bytes(self) -> int:
        return sum(file.path.stat().st_size for file in self.chunk.files)


@dataclass(frozen=True)
class _RangeTask:
    work: _Work
    index: int
    low: int
    high: int
    """Exclusive end of the range."""
    sources: tuple[Path, ...]
    """Files or folders of sorted values, of which those in the range are read."""


def _candidates(tasks: Sequence[_ChunkTask], work: _Work, comparison: Comparison) -> list[Path]:
    """Files of sorted (later rank, earlier rank) pairs, 2 x `bits` bits each. A pair may be in
    several files."""
    sizes = [task.num_bytes for task in tasks]
    comparison.executor.map(_write_band_keys, tasks, sizes, label="sign")
    folders = tuple(work.of_chunk("keys", task.chunk) for task in tasks)
    ranges = work.ranges(num_entries(folders) * BYTES_PER_ENTRY, 64)
    pair = [_RangeTask(work, index, *ends, folders) for index, ends in enumerate(ranges)]
    comparison.executor.map(_write_candidates, pair, [1] * len(pair), label="pair")
    found = (work.folder / f"pairs-{task.index:06}" for task in pair)
    return [path for folder in found for path in sorted(folder.glob("*.npy"))]


def _write_band_keys(task: _ChunkTask) -> None:
    """Write the LSH band keys and rank of every document."""
    work = task.work
    ranks = np.load(work.ranks, mmap_mode="r")
    num_hashes = work.bands.num_bands * work.bands.rows
    with (
        atomic_directory(work.of_chunk("keys", task.chunk)) as folder,
        RunWriter(folder, work.memory_budget // BYTES_PER_ENTRY) as runs,
    ):
        for numbers, texts in _texts(task.chunk):
            hashes, counts = shingles(texts, work.ngram_words)
            some = counts > 0
            if some.any():
                keys = band_keys(signatures(hashes, counts[some], num_hashes), work.bands)
                members = np.asarray(ranks[numbers[some]], np.uint32)
                runs.add(keys.ravel(), np.repeat(members, work.bands.num_bands))


def _write_candidates(task: _RangeTask) -> None:
    """Write the candidate pairs (documents in one bucket), flushed to a file when there are
    many."""
    work = task.work
    max_held = work.memory_budget // (8 * _COPIES)
    values = shared_keys(task.sources, task.low, task.high)
    with atomic_directory(work.folder / f"pairs-{task.index:06}") as folder:
        held: list[Hashes] = []
        num_held = num_files = 0
        for earlier, later in pairs_in_groups(values, MEMBER_BITS, _MAX_FIRST):
            held.append((later << np.uint64(work.bits)) | earlier)
            num_held += len(later)
            if num_held > max_held:
                np.save(folder / f"{num_files:04}.npy", distinct(np.concatenate(held)))
                held, num_held, num_files = [], 0, num_files + 1
        if held:
            np.save(folder / f"{num_files:04}.npy", distinct(np.concatenate(held)))


def _in_range(task: _RangeTask) -> Hashes:
    """The distinct pairs of a range in all files, sorted."""
    parts = [np.empty(0, np.uint64)]
    for path in task.sources:
        values = np.load(path, mmap_mode="r")
        # The end of the last range may exceed 64 bits.
        first, last = (
            len(values) if end == 1 << 64 else np.searchsorted(values, np.uint64(end))
            for end in (task.low, task.high)
        )
        parts.append(np.array(values[first:last]))
    return distinct(np.concatenate(parts))


def _num_values(path: Path) -> int:
    return len(np.load(path, mmap_mode="r"))


# -- verifying ------------------------------------------------------------------------------------


def _write_all_sets(
    tasks: Sequence[_ChunkTask], pairs: Sequence[Path], work: _Work, comparison: Comparison
) -> None:
    """Write the shingle sets of all documents that have a candidate."""
    by_rank = np.zeros(comparison.bounds()[-1], np.bool_)
    for path in pairs:
        values = np.load(path)
        by_rank[(values >> np.uint64(work.bits)).astype(np.int64)] = True
        by_rank[(values & work.low).astype(np.int64)] = True
    np.save(work.folder / "wanted.npy", by_rank[np.load(work.ranks)])
    comparison.executor.map(_write_sets, tasks, [t.num_bytes for t in tasks], label="shingle")
    _write_index(tasks, work)


def _write_sets(task: _ChunkTask) -> None:
    """`hashes.bin`: the sets, concatenated; `index.npy`: rank, chunk, start, size of each."""
    work, chunk = task.work, task.chunk
    num_rows = sum(file.num_rows for file in chunk.files)
    flags = np.load(work.folder / "wanted.npy", mmap_mode="r")
    wanted = np.array(flags[chunk.first : chunk.first + num_rows])
    ranks = np.load(work.ranks, mmap_mode="r")
    found_ranks: list[int] = []
    sizes: list[int] = []
    with atomic_directory(work.of_chunk("sets", chunk)) as folder:
        with (folder / "hashes.bin").open("wb") as out:
            for numbers, texts in _texts(chunk, wanted):
                hashes, counts = shingles(texts, work.ngram_words)
                ends = np.cumsum(counts)
                for number, end, count in zip(numbers, ends, counts, strict=True):
                    found = distinct(hashes[end - count : end])
                    out.write(found.tobytes())
                    found_ranks.append(int(ranks[number]))
                    sizes.append(len(found))
        starts = np.cumsum([0, *sizes])[:-1]
        chunks = np.full(len(sizes), chunk.index)
        columns = [np.array(found_ranks, np.int64), chunks, starts, np.array(sizes, np.int64)]
        np.save(folder / "index.npy", np.stack(columns))


def _write_index(tasks: Sequence[_ChunkTask], work: _Work) -> None:
    """The index of all chunks sorted by rank: one file, shared by all tasks."""
    folders = [work.of_chunk("sets", task.chunk) for task in tasks]
    parts = [np.empty((4, 0), np.int64), *(np.load(folder / "index.npy") for folder in folders)]
    index = np.concatenate(parts, axis=1)
    np.save(work.index, index[:, np.argsort(index[0])])


class _ShingleSets:
    """The shingle sets of all chunks by rank, memory-mapped."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._index = np.load(work.index, mmap_mode="r")
        self._hashes: dict[int, Hashes] = {}

    def places(self, ranks: Hashes) -> npt.NDArray[np.int64]:
        """Chunk, start and size of each, (3, ranks)."""
        found = np.searchsorted(self._index[0], ranks.astype(np.int64))
        return np.array(self._index[1:, found])

    def of(self, chunk: int, start: int, size: int) -> Hashes:
        if chunk not in self._hashes:
            path = self._work.folder / f"sets-{chunk:06}" / "hashes.bin"
            # As a plain array: slicing it takes a tenth of the time.
            self._hashes[chunk] = np.asarray(np.memmap(path, np.uint64, "r"))
        return self._hashes[chunk][start : start + size]


@dataclass(frozen=True)
class _Verify:
    range: _RangeTask
    min_similarity: float


def _verified(
    pairs: Sequence[Path], min_similarity: float, work: _Work, comparison: Comparison
) -> list[Path]:
    """Files of the pairs that are similar enough, sorted by the later rank."""
    # Small enough that all workers have tasks; their number depends on the pairs alone.
    num_pairs = sum(map(_num_values, pairs))
    needed = len(work.ranges(num_pairs * 8 * _COPIES, 2 * work.bits))
    count = max(needed, min(64, num_pairs >> 12))
    ranges = [
        _RangeTask(work, index, *ends, tuple(pairs))
        for index, ends in enumerate(_split_range(2 * work.bits, count))
    ]
    tasks = [_Verify(part, min_similarity) for part in ranges]
    comparison.executor.map(_verify, tasks, [1] * count, label="verify")
    return [work.folder / f"similar-{index:06}" for index in range(count)]


def _verify(task: _Verify) -> None:
    work = task.range.work
    values = _in_range(task.range)
    later, earlier = values >> np.uint64(work.bits), values & work.low
    sets = _ShingleSets(work)
    one, other = sets.places(later), sets.places(earlier)
    # The Jaccard index is at most the ratio of the sizes.
    few, many = np.minimum(one[2], other[2]), np.maximum(one[2], other[2])
    possible = np.flatnonzero(few >= task.min_similarity * many)
    found = np.zeros(len(values), np.float64)
    places = (side[:, possible].T.tolist() for side in (one, other))
    for i, a, b in zip(possible.tolist(), *places, strict=True):
        found[i] = jaccard(sets.of(*a), sets.of(*b))
    similar = found >= task.min_similarity
    with atomic_directory(work.folder / f"similar-{task.range.index:06}") as folder:
        np.save(folder / "later.npy", later[similar])
        np.save(folder / "earlier.npy", earlier[similar])
        np.save(folder / "similarity.npy", found[similar])


# -- choosing removals ----------------------------------------------------------------------------


def _choose_removals(verified: Sequence[Path], numbers: Places) -> Removals:
    """Removals among similar pairs; `numbers` of the documents by rank."""
    removed_ranks = bytearray(len(numbers))
    found = [np.empty(0, REMOVAL_DTYPE)]
    for folder in verified:
        columns = [np.load(folder / f"{name}.npy") for name in ("later", "earlier", "similarity")]
        for start in range(0, len(columns[0]), _PAIRS_AT_ONCE):
            some = [column[start : start + _PAIRS_AT_ONCE] for column in columns]
            found.append(_mark_removed(some[0], some[1], some[2], removed_ranks, numbers))
    return np.sort(np.concatenate(found), order="removed")


def _mark_removed(
    later: Hashes,
    earlier: Hashes,
    similarity: npt.NDArray[np.float64],
    removed_ranks: bytearray,
    numbers: Places,
) -> Removals:
    """Go through sorted pairs, and mark removed documents in `removed_ranks`."""
    chosen = []
    # All pairs of a document with earlier ones come before those in which it is the earlier one.
    for index, (one, other) in enumerate(zip(later.tolist(), earlier.tolist(), strict=True)):
        if not removed_ranks[one] and not removed_ranks[other]:
            removed_ranks[one] = True
            chosen.append(index)
    result = np.empty(len(chosen), REMOVAL_DTYPE)
    result["removed"] = numbers[later[chosen].astype(np.int64)]
    result["kept"] = numbers[earlier[chosen].astype(np.int64)]
    result["similarity"] = similarity[chosen]
    return result
