"""Word counts of a whole corpus, for tokenizer training on all text in bounded memory.

SentencePiece's BPE trains on word counts: it splits every line before each run of blanks. Words
counted here the same way, given to it with their counts, train the same tokenizer as all text
would. A word is a run of blanks with what follows it; the dummy prefix that SentencePiece puts in
front of a line is part of the line's first word.

Map-reduce: each documents file is counted by a task and partitioned by a hash of the word, so that
all counts of a word meet in one task of the second stage. Above `max_words` the rarest are dropped.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_pipeline.documents_folder import read_manifest
from data_pipeline.executors.executor import Executor
from data_pipeline.files.atomic import atomic_directory

_WORD = re.compile(" +[^ ]*")
_SCHEMA = pa.schema([("word", pa.string()), ("count", pa.int64())])
_COUNTS_TOLD_APART = 1_000


@dataclass(frozen=True)
class CountSizes:
    """Sizes that bound a task's memory; they change no count."""

    max_held: int = 1 << 21
    """Words above which a task writes what it has counted: some 300 MB."""
    bytes_per_bucket: int = 8 << 30
    """Text whose words fit into a task's memory: C4 has a new word in every 300 bytes."""


COUNT_SIZES = CountSizes()


def count_words(
    documents: Mapping[str, Path],
    lines_of: Callable[[str], Iterator[str]],
    work: Path,
    *,
    max_words: int,
    executor: Executor,
    sizes: CountSizes = COUNT_SIZES,
) -> Iterator[tuple[str, int]]:
    """Words with their counts, of all documents folders; without the dummy prefix of each.

    `lines_of` (a module-level function) splits a text into lines; `work` is for temporary files.
    Above `max_words`, all words with the smallest counts are dropped until at most that many
    remain. `sizes` bound the memory of a task.
    """
    manifests = {source: read_manifest(folder) for source, folder in documents.items()}
    files = [documents[name] / file.path for name, m in manifests.items() for file in m.files]
    num_bytes = sum(manifest.num_text_bytes for manifest in manifests.values())
    num_buckets = math.ceil(num_bytes / sizes.bytes_per_bucket) or 1
    count = [
        _Count(path, i, lines_of, num_buckets, work, sizes.max_held) for i, path in enumerate(files)
    ]
    file_sizes = [path.stat().st_size for path in files]
    executor.map(_count_file, count, file_sizes, label="count words")
    add = [_Add(bucket, len(files), work) for bucket in range(num_buckets)]
    rare = sum(executor.map(_add_up, add, [1] * num_buckets, label="add words"), Counter[int]())
    min_count = _smallest_kept(rare, max_words)
    for task in add:
        with pq.ParquetFile(task.out / "words.parquet") as parquet:
            for batch in parquet.iter_batches(use_threads=False):
                for row in batch.to_pylist():
                    if row["count"] >= min_count:
                        yield row["word"], row["count"]


def words_of(line: str) -> list[str]:
    """The words of a line, each without its first blank; none of an empty line."""
    return [word[1:] for word in _WORD.findall(" " + line)] if line else []


@dataclass(frozen=True)
class _Count:
    path: Path
    index: int
    lines_of: Callable[[str], Iterator[str]]
    num_buckets: int
    work: Path
    max_held: int


@dataclass(frozen=True)
class _Add:
    bucket: int
    num_files: int
    work: Path

    @property
    def out(self) -> Path:
        return self.work / f"added-{self.bucket:05}"


def _count_file(task: _Count) -> None:
    """Write a Parquet file per bucket; a word may occur in it several times."""
    with atomic_directory(task.work / f"counted-{task.index:06}") as folder:
        writers = [
            pq.ParquetWriter(folder / f"{bucket:05}.parquet", _SCHEMA, compression="zstd")
            for bucket in range(task.num_buckets)
        ]
        counts = Counter[str]()
        with pq.ParquetFile(task.path) as parquet:
            for batch in parquet.iter_batches(64, columns=["text"], use_threads=False):
                for text in batch.column(0).to_pylist():
                    for line in task.lines_of(text):
                        counts.update(words_of(line))
                if len(counts) > task.max_held:
                    _write(counts, writers)
                    counts.clear()
        _write(counts, writers)
        for writer in writers:
            writer.close()


def _write(counts: Counter[str], writers: Sequence[pq.ParquetWriter]) -> None:
    buckets: list[list[tuple[str, int]]] = [[] for _ in writers]
    for word, count in sorted(counts.items()):
        buckets[xxhash.xxh3_64_intdigest(word.encode()) % len(writers)].append((word, count))
    for rows, writer in zip(buckets, writers, strict=True):
        words, numbers = [row[0] for row in rows], [row[1] for row in rows]
        writer.write_table(pa.table([pa.array(words, pa.string()), numbers], schema=_SCHEMA))


def _add_up(task: _Add) -> Counter[int]:
    """Sum the bucket's counts per word and write them; returns how many words have each count."""
    counts = Counter[str]()
    for index in range(task.num_files):
        path = task.work / f"counted-{index:06}" / f"{task.bucket:05}.parquet"
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(use_threads=False):
                words, numbers = (column.to_pylist() for column in batch.columns)
                for word, number in zip(words, numbers, strict=True):
                    counts[word] += number
    with atomic_directory(task.out) as folder:
        rows = sorted(counts.items())
        words, numbers = [row[0] for row in rows], [row[1] for row in rows]
        table = pa.table([pa.array(words, pa.string()), pa.array(numbers)], schema=_SCHEMA)
        pq.write_table(table, folder / "words.parquet", compression="zstd", row_group_size=1 << 18)
    return Counter(min(count, _COUNTS_TOLD_APART) for count in counts.values())


def _smallest_kept(rare: Counter[int], max_words: int) -> int:
    """The smallest count to keep so that at most `max_words` words remain; counts above
    `_COUNTS_TOLD_APART` are never dropped."""
    left = rare.total()
    for count in sorted(rare):
        if left <= max_words or count == _COUNTS_TOLD_APART:
            return count
        left -= rare[count]
    return 1
