"""Paragraph-level deduplication as in CCNet, within groups of parts (arXiv 1911.00359, section
3.1).

1. As a part is read, `paragraph_hashes.write_paragraph_hashes` writes its paragraphs' hashes.
2. `keep_masks` compares the hashes of each group of parts and writes a keep mask, one bit per
   paragraph. Tasks are (group, bucket of hashes), then single parts.
3. As the part is read again, `ParagraphKeeper` removes the repeated paragraphs from its texts.

Comparing a group of P paragraphs takes 34 P bytes of memory, or less by buckets; its hashes take
8 P on disk. `benchmarks/data/paragraphs.py` finds 4,000 paragraphs per megabyte in C4 and 13,000 in
pages of WARC files: 0.14 to 0.44 bytes of memory per byte of text, so that 16 GiB compare 39 to
126 GB of text at once. CCNet compares groups of 50 of a dump's 1,600 shards, 3 %.

Tie-breaking: the first occurrence in reading order is kept: parts in the order given, texts in the
order read. So no text that is unique is lost. CCNet's code removes the first occurrence, too, where
it compares by files of hashes (its `mine`); that is `keep="none"` here. Boilerplate on every page
of a site is then gone altogether; so is an article of which the dump holds two copies.

A line with an empty key (blank, or punctuation alone) is not a paragraph: it is kept or removed
with the one before it in its text, at the start of a text with the one after it, and kept where the
text has no other lines. In CCNet's code blank lines are equal paragraphs, and all are removed.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.dedup.paragraph_hashes import (
    COUNTS,
    HASHES,
    NO_KEY,
    Counts,
    Hashes,
    paragraphs_of,
)
from data_pipeline.document import Document, Rejected
from data_pipeline.executors.executor import Executor
from data_pipeline.files.atomic import atomic_directory

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Keep = Literal["first", "none"]

BYTES_PER_PARAGRAPH = 34
"""Peak memory of comparing: hash, index, sort order and a copy of one of them, two flags."""
DUPLICATE_PARAGRAPHS = "duplicate_paragraphs"
"""Drop reason of a document of which no paragraph is kept."""

PARAGRAPHS_AT_ONCE = 1 << 20
"""Paragraphs whose hashes are selected, or whose masks are completed, at once: 8 MiB of hashes."""
# Small buckets sort faster and run in parallel; this many cost little to select.
_SMALL_BUCKET_BYTES = 128 << 20
_FREE_BUCKETS = 8


def num_paragraphs(folder: Path) -> int:
    """Number of paragraphs in a folder of `write_paragraph_hashes`."""
    return len(_hashes(folder))


# -- comparing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """Folders with hashes, in reading order, and the paths of the results."""

    folders: tuple[Path, ...]
    lengths: tuple[int, ...]
    num_buckets: int
    keep: Keep
    out: Path
    paragraphs_at_once: int

    @property
    def buckets(self) -> tuple[Path, ...]:
        return tuple(self.out / f"bucket-{number:05}" for number in range(self.num_buckets))

    @property
    def masks(self) -> list[Path]:
        return [self.out / f"mask-{place:05}" for place in range(len(self.folders))]

    @property
    def members(self) -> list[_Member]:
        starts = itertools.accumulate(self.lengths, initial=0)
        columns = zip(self.folders, starts, self.lengths, self.masks, strict=False)
        return [_Member(*column, self.buckets, self.paragraphs_at_once) for column in columns]


class _Bucket(NamedTuple):
    """A hash range of a group, to be compared."""

    group: _Group
    number: int


class _Member(NamedTuple):
    """One part's paragraphs, whose keep mask is to be written."""

    hashes: Path
    start: int
    """Index of its first paragraph in the group."""
    length: int
    mask: Path
    buckets: tuple[Path, ...]
    paragraphs_at_once: int


def keep_masks(
    groups: Sequence[Sequence[Path]],
    out: Path,
    *,
    executor: Executor,
    memory_budget: int,
    keep: Keep = "first",
    paragraphs_at_once: int = PARAGRAPHS_AT_ONCE,
) -> list[list[Path]]:
    """For every folder of hashes of every group, write a folder in `out` for `ParagraphKeeper`.

    A task takes at most `memory_budget` bytes: the hashes of a group that needs more are compared
    in buckets, of which each task selects its own from all of the group's files. Reading and
    selecting costs some 5 ns per paragraph and bucket, comparing 100, so that up to tens of buckets
    this is cheaper than writing the hashes once more, sorted by bucket. Only the copies of one very
    frequent paragraph, which fall into one bucket, can exceed the budget. A task reads the hashes
    of `paragraphs_at_once`, or of one longer text, at a time. The masks depend neither on these
    sizes nor on the executor. Once they are written, the folders with hashes are not needed any
    more.
    """
    if memory_budget < 1:
        raise ValueError(f"memory_budget ({memory_budget}) must be at least 1 byte")
    planned = [
        _planned(tuple(folders), out / f"group-{index:05}", memory_budget, keep, paragraphs_at_once)
        for index, folders in enumerate(groups)
    ]
    buckets = [_Bucket(group, i) for group in planned for i in range(group.num_buckets)]
    sizes = [sum(b.group.lengths) * 8 // b.group.num_buckets for b in buckets]
    executor.map(_find_repeated, buckets, sizes, label="compare paragraphs")
    members = [member for group in planned for member in group.members]
    sizes = [member.length * 8 for member in members]
    executor.map(_write_mask, members, sizes, label="mark paragraphs")
    for group in planned:
        for folder in group.buckets:
            shutil.rmtree(folder)
    return [group.masks for group in planned]


def _planned(
    folders: tuple[Path, ...], out: Path, memory_budget: int, keep: Keep, paragraphs_at_once: int
) -> _Group:
    lengths = tuple(map(num_paragraphs, folders))
    needed = sum(lengths) * BYTES_PER_PARAGRAPH
    free = min(_FREE_BUCKETS, math.ceil(needed / _SMALL_BUCKET_BYTES))
    num_buckets = max(1, free, math.ceil(needed / memory_budget))
    return _Group(folders, lengths, num_buckets, keep, out, paragraphs_at_once)


def _find_repeated(task: _Bucket) -> None:
    """Write the sorted indexes of the group's paragraphs to remove."""
    repeated = _repeated(task)
    with atomic_directory(task.group.buckets[task.number]) as folder:
        np.save(folder / "repeated.npy", repeated)


def _repeated(task: _Bucket) -> Places:
    """Sorted indexes of the bucket's paragraphs to remove."""
    hashes, places = _bucket_of(task)
    if len(hashes) == 0:
        return places
    # Not a stable sort, which takes twice as long: the first of a run is determined below.
    order = np.argsort(hashes)
    hashes = hashes[order]
    begins = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=begins[1:])
    places = places[order]
    del order, hashes  # each is 8 bytes per paragraph
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=len(places))
    if task.group.keep == "none":
        return np.sort(places[np.repeat(lengths > 1, lengths)])
    first = np.minimum.reduceat(places, starts)
    del starts
    return np.sort(places[places != np.repeat(first, lengths)])


def _bucket_of(task: _Bucket) -> tuple[Hashes, Places]:
    """Hashes of the group's paragraphs that fall into the bucket, and their indexes."""
    group, at_once = task.group, task.group.paragraphs_at_once
    hashes, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    offsets = itertools.accumulate(group.lengths, initial=0)
    for folder, offset in zip(group.folders, offsets, strict=False):
        everything = _hashes(folder)
        for start in range(0, len(everything), at_once):
            chunk = np.asarray(everything[start : start + at_once])
            mine = chunk != NO_KEY
            if group.num_buckets > 1:
                # The upper half of the hash, as a fraction of 1, times the number of buckets.
                upper = chunk >> np.uint64(32)
                mine &= upper * np.uint64(group.num_buckets) >> np.uint64(32) == task.number
            chosen = np.flatnonzero(mine)
            hashes.append(chunk[chosen])
            places.append(chosen + (offset + start))
    return np.concatenate(hashes), np.concatenate(places)


def _write_mask(member: _Member) -> None:
    keep = np.ones(member.length, bool)
    for bucket in member.buckets:
        places = np.load(bucket / "repeated.npy", mmap_mode="r")
        first, last = np.searchsorted(places, (member.start, member.start + member.length))
        keep[places[first:last] - member.start] = False
    hashes, counts = _hashes(member.hashes), _counts(member.hashes)
    for begin, end, some_counts in _whole_texts(counts, member.paragraphs_at_once):
        _follow(keep[begin:end], hashes[begin:end] == NO_KEY, some_counts)
    with atomic_directory(member.mask) as folder:
        np.save(folder / "keep.npy", np.packbits(keep))
        np.save(folder / COUNTS, counts)


def _whole_texts(counts: Counts, at_once: int) -> Iterator[tuple[int, int, Counts]]:
    """Batches of whole texts, of up to `at_once` paragraphs or of one text: first paragraph, end,
    and their counts."""
    begin = 0
    ends = np.cumsum(counts, dtype=np.int64)
    first = 0
    while first < len(counts):
        last = max(first + 1, int(np.searchsorted(ends, begin + at_once, side="right")))
        yield begin, int(ends[last - 1]), counts[first:last]
        begin, first = int(ends[last - 1]), last


def _follow(keep: Mask, has_no_key: Mask, counts: Counts) -> None:
    """Give lines without a key the mask of the paragraph before them (or else after them)."""
    if not has_no_key.any():
        return
    place = np.arange(len(keep))
    ends = np.repeat(np.cumsum(counts, dtype=np.int64), counts)
    starts = ends - np.repeat(counts, counts)
    before = np.maximum.accumulate(np.where(has_no_key, -1, place))
    after = np.minimum.accumulate(np.where(has_no_key, len(keep), place)[::-1])[::-1]
    leader = np.where(before >= starts, before, after)
    has_leader = leader < ends
    keep[has_leader] = keep[leader[has_leader]]


def _hashes(folder: Path) -> Hashes:
    hashes: Hashes = np.load(folder / HASHES, mmap_mode="r")
    return hashes


def _counts(folder: Path) -> Counts:
    counts: Counts = np.load(folder / COUNTS)
    return counts


# -- removing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remaining:
    """What is kept of a text."""

    text: str
    num_paragraphs: int
    """Of the whole text."""
    num_removed: int
    removed_characters: int
    removed_share: float
    """Of the text's characters."""


class ParagraphKeeper:
    """Removes the repeated paragraphs from texts, in the order in which they were hashed."""

    def __init__(self, mask: Path) -> None:
        """`mask`: a folder that `keep_masks` wrote."""
        self._counts = _counts(mask)
        self._bits = np.load(mask / "keep.npy", mmap_mode="r")
        self._text = self._paragraph = 0
        self.num_removed = 0
        """Paragraphs removed so far."""
        self.removed_characters = 0
        """Characters removed so far; a newline is removed with each paragraph."""

    def remaining(self, text: str) -> Remaining:
        """What is kept of the next text; the empty text if nothing."""
        paragraphs = paragraphs_of(text)
        assert self._text < len(self._counts), "more texts are read than were hashed"
        assert len(paragraphs) == self._counts[self._text], (
            f"text {self._text} has {len(paragraphs)} paragraphs, and had "
            f"{self._counts[self._text]} when it was hashed"
        )
        keep = self._next_bits(len(paragraphs))
        self._text += 1
        num_removed = keep.count(0)
        kept = "\n".join(itertools.compress(paragraphs, keep)) if num_removed else text
        removed = len(text) - len(kept)
        self.num_removed += num_removed
        self.removed_characters += removed
        share = removed / len(text) if text else 0.0
        return Remaining(kept, len(paragraphs), num_removed, removed, share)

    def edited(self, document: Document) -> Document | Rejected:
        """The next document without its repeated paragraphs; rejected if none is kept."""
        remaining = self.remaining(document.text)
        if remaining.num_removed == 0:
            return document
        if remaining.num_removed == remaining.num_paragraphs:
            return document.rejected(
                DUPLICATE_PARAGRAPHS, f"all {remaining.num_paragraphs} paragraphs"
            )
        return document.with_text(remaining.text)

    def check_finished(self) -> None:
        """To be called after the last text: checks that all that were hashed have been read
        again."""
        assert self._text == len(self._counts), (
            f"{self._text} texts are read, and {len(self._counts)} were hashed"
        )

    def _next_bits(self, count: int) -> list[int]:
        start, end = self._paragraph, self._paragraph + count
        self._paragraph = end
        first = start // 8
        bits = np.unpackbits(self._bits[first : -(-end // 8)])
        keep: list[int] = bits[start - 8 * first : end - 8 * first].tolist()
        return keep
