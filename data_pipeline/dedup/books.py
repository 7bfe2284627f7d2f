"""Book-level deduplication: of two books with more than 90 % content overlap, one is removed.

LLaMA, section 2.1: "deduplication at the book level, removing books with more than 90 % content
overlap". The overlap of two books is the containment of the smaller: the share of its distinct word
5-grams that the larger has, too. A book inside an omnibus therefore overlaps with it fully, and it
is the book that is removed: of a pair, the one with more distinct 5-grams is kept; tie-break: the
one that comes first in reading order.

1. One pass over all books samples their distinct 13-grams by hash, with one sampling rate for all.
   Books that share enough samples are candidate pairs.
2. Every candidate pair is verified by its true overlap, from the largest book to the smallest: a
   book is removed if a book that is kept overlaps with it by more.

At an overlap of 90 % in 5-grams at least 74 % of the 13-grams are shared if single words differ
(each breaks five of the ones and thirteen of the others), and more if differences are adjacent. A
pair is a candidate from 25 % of the samples on.

Memory is bounded whatever the number of books: 8 bytes per sample, at most `max_samples` of them
(the rate halves whenever there would be more) and as much again while they are sorted, 24 bytes per
pair of books with a common sample, 0.3 kB per book, and one row group of text. Estimate for 200,000
books of 500 kB (100 GB, 18 billion 13-grams): with 2^25 samples the rate ends at 1/1024; 18 million
samples are kept, 88 of a book of 90,000 words; 0.27 + 0.14 GB for them and 0.06 GB for the books.
Of an average book that overlaps by 90 %, 65 samples are expected to be shared and 22 are needed. A
pamphlet of 5,000 words has five, needs one or two, and is missed about once in thirty.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from data_pipeline.dedup.buckets import pairs_in_groups
from data_pipeline.dedup.rule import Comparison, DocumentFile, Removals, removals
from data_pipeline.text.word_ngrams import Hashes, distinct, ngram_hashes, word_hashes

OVERLAP_WORDS = 5
CANDIDATE_WORDS = 13

_MIN_CANDIDATE_SHARE = 0.25
_BOOK_BITS = 24
_BOOK_MASK = np.uint64((1 << _BOOK_BITS) - 1)
_SPREAD = np.uint64(0xC2B2AE3D27D4EB4F)
_SLICE = 1 << 22
_MAX_GROUP = 32
"""Where more books share one sample, each is paired with only this many of the largest."""
_CACHED_BOOKS = 64


@dataclass(frozen=True)
class _Book:
    number: int
    """Index among all documents of all files."""
    path: Path
    row_group: int
    row: int
    """Within its row group."""
    num_ngrams: int
    """Distinct word 5-grams."""


@dataclass
class _Samples:
    """(40 bits of a 13-gram's hash, 24 bits of its book) in 64 bits each; unsorted."""

    values: npt.NDArray[np.uint64]
    used: int = 0
    halvings: int = 0

    def add(self, hashes: Hashes, book: int) -> None:
        """Sample the distinct hashes of a book."""
        packed = (hashes << np.uint64(_BOOK_BITS)) | np.uint64(book)
        packed = distinct(packed[self._is_sampled(packed)])
        while self.used + len(packed) > len(self.values):
            self.halvings += 1
            old = self.values[: self.used]
            kept = old[self._is_sampled(old)]
            self.values[: len(kept)] = kept
            self.used = len(kept)
            packed = packed[self._is_sampled(packed)]
        self.values[self.used : self.used + len(packed)] = packed
        self.used += len(packed)

    def _is_sampled(self, packed: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Decided by the hash alone, so that the same 13-grams are sampled of every book."""
        spread = (packed >> np.uint64(_BOOK_BITS)) * _SPREAD
        return spread <= np.uint64((1 << 64) - 1 >> self.halvings)


def book_overlap(comparison: Comparison, *, min_overlap: float) -> Removals:
    """Rule: of two books that overlap by more than `min_overlap` one is removed."""
    size = sum(file.path.stat().st_size for file in comparison.files)
    find = partial(find_overlapping_books, min_overlap=min_overlap)
    # One task: every book may overlap with every other.
    return comparison.executor.map(find, [comparison.files], [size], label="book_overlap")[0]


def find_overlapping_books(
    files: Sequence[DocumentFile], *, min_overlap: float, max_samples: int = 1 << 25
) -> Removals:
    """The books to remove; the similarity of a removal is the overlap, in (min_overlap, 1].

    Deterministic: the result depends on the books and their order alone. ValueError if there are
    more than 2^24 books.
    """
    if not 0.5 <= min_overlap < 1:
        raise ValueError(f"min_overlap ({min_overlap}) must be at least 0.5 and below 1")
    books, samples = _read(files, max_samples)
    pairs = _candidates(samples, books)
    overlaps = _Overlaps(books)
    removed: dict[int, tuple[int, float]] = {}
    # Pairs are sorted by the smaller book, from the largest such book to the smallest.
    for small, large in pairs:
        if large in removed:
            continue
        overlap = overlaps.of(small, large)
        if overlap > min_overlap and overlap > removed.get(small, (0, 0.0))[1]:
            removed[small] = large, overlap
    return removals(
        [
            (books[small].number, books[large].number, overlap)
            for small, (large, overlap) in removed.items()
        ]
    )


def _read(files: Sequence[DocumentFile], max_samples: int) -> tuple[list[_Book], _Samples]:
    books: list[_Book] = []
    samples = _Samples(np.empty(max_samples, np.uint64))
    first = 0
    for file in files:
        kept = set(file.kept_rows().tolist())
        for row, row_group, row_in_group, text in _texts(file, kept):
            words = word_hashes(text)
            num_ngrams = len(distinct(ngram_hashes(words, OVERLAP_WORDS)))
            samples.add(ngram_hashes(words, CANDIDATE_WORDS), len(books))
            books.append(_Book(first + row, file.path, row_group, row_in_group, num_ngrams))
            if len(books) > int(_BOOK_MASK):
                raise ValueError(f"more than {int(_BOOK_MASK)} books cannot be compared")
        first += file.num_rows
    return books, samples


def _texts(file: DocumentFile, kept: set[int]) -> Iterator[tuple[int, int, int, str]]:
    """Row, row group, row in that group, and text of the documents that are compared."""
    row = 0
    with pq.ParquetFile(file.path) as parquet:
        for row_group in range(parquet.num_row_groups):
            text = parquet.read_row_group(row_group, columns=["text"], use_threads=False)["text"]
            for index in range(len(text)):
                if row + index in kept:
                    yield row + index, row_group, index, text[index].as_py()
            row += len(text)


def _candidates(samples: _Samples, books: Sequence[_Book]) -> list[tuple[int, int]]:
    """(smaller, larger) of every pair that shares enough samples, the largest pairs first."""
    order = sorted(range(len(books)), key=lambda index: (-books[index].num_ngrams, index))
    rank = np.empty(len(books), np.uint64)
    rank[order] = np.arange(len(books), dtype=np.uint64)
    values = samples.values[: samples.used]
    num_samples = np.zeros(len(books), np.int64)
    for start in range(0, len(values), _SLICE):
        part = values[start : start + _SLICE]
        book = (part & _BOOK_MASK).astype(np.int64)
        num_samples += np.bincount(book, minlength=len(books))
        # With ranks in place of books, those of one 13-gram are sorted by size.
        part[:] = (part & ~_BOOK_MASK) | rank[book]
    values.sort()
    pairs, shared = _shared(values)
    large, small = pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF)
    needed = np.maximum(1, _MIN_CANDIDATE_SHARE * num_samples[order][small.astype(np.int64)])
    found = np.stack([small, large])[:, shared >= needed].astype(np.int64)
    found = found[:, np.lexsort((found[1], found[0]))]
    return [(order[small], order[large]) for small, large in found.T.tolist()]


def _shared(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """(larger << 32 | smaller) of every pair of ranks with a common sample; how many they share."""
    pairs, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
    start = 0
    while start < len(values):
        # A slice ends where the 13-gram changes.
        last = values[min(start + _SLICE, len(values)) - 1] | _BOOK_MASK
        end = int(np.searchsorted(values, last, "right"))
        groups = pairs_in_groups(values[start:end], _BOOK_BITS, _MAX_GROUP)
        both = np.concatenate(
            [pairs, *((large << np.uint64(32)) | small for large, small in groups)]
        )
        weights = np.concatenate([counts, np.ones(len(both) - len(pairs), np.int64)])
        order = np.argsort(both)
        both, weights = both[order], weights[order]
        begins = np.flatnonzero(np.diff(both, prepend=~both[:1]))
        pairs = both[begins]
        counts = np.add.reduceat(weights, begins) if len(begins) else counts
        start = end
    return pairs, counts


class _Overlaps:
    """True overlaps of pairs of books, whose texts are read again."""

    def __init__(self, books: Sequence[_Book]) -> None:
        self._books = books
        self._known: OrderedDict[int, Hashes] = OrderedDict()

    def of(self, small: int, large: int) -> float:
        """Share of the distinct 5-grams of `small` that `large` has."""
        few, many = self._ngrams(small), self._ngrams(large)
        places = np.minimum(np.searchsorted(many, few), len(many) - 1)
        return float(np.mean(many[places] == few))

    def _ngrams(self, index: int) -> Hashes:
        """Sorted distinct 5-grams of a book."""
        if index not in self._known:
            book = self._books[index]
            with pq.ParquetFile(book.path) as parquet:
                group = parquet.read_row_group(book.row_group, columns=["text"], use_threads=False)
            text = group["text"][book.row].as_py()
            self._known[index] = distinct(ngram_hashes(word_hashes(text), OVERLAP_WORDS))
            if len(self._known) > _CACHED_BOOKS:
                self._known.popitem(last=False)
        self._known.move_to_end(index)
        return self._known[index]
