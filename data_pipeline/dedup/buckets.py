"""Hash buckets on disk: entries (64-bit key, 32-bit member) in sorted runs, and the pairs of
members that share a key (LSH bucket).

Keys keep all 64 bits: with 2**35 entries (21 bands of 1.6 billion documents) about 32 pairs of
different buckets collide by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from data_pipeline.text.word_ngrams import Hashes

Members = npt.NDArray[np.uint32]

BYTES_PER_ENTRY = 48
"""Peak memory per entry: the entry, joined with others, the sort order, and sorted."""
MEMBER_BITS = 32


class RunWriter:
    """Writes entries to a folder, sorted by key in runs of at most `max_entries`."""

    def __init__(self, folder: Path, max_entries: int) -> None:
        self._folder = folder
        self._max_entries = max_entries
        self._held: list[tuple[Hashes, Members]] = []
        self._num_held = self._num_runs = 0

    def add(self, keys: Hashes, members: Members) -> None:
        """Add entries: one member per key."""
        if self._num_held + len(keys) > self._max_entries:
            self._flush()
        self._held.append((keys, members))
        self._num_held += len(keys)

    def _flush(self) -> None:
        if self._held:
            keys, members = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
            self._held.clear()
            order = np.argsort(keys)
            np.save(self._folder / f"keys-{self._num_runs:04}.npy", keys[order])
            np.save(self._folder / f"members-{self._num_runs:04}.npy", members[order])
            self._num_runs += 1
        self._num_held = 0

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._flush()


def num_entries(folders: Sequence[Path]) -> int:
    """Number of entries in all runs of some folders."""
    return sum(len(keys) for folder in folders for keys, _ in _runs(folder))


def shared_keys(folders: Sequence[Path], low: int, high: int) -> Hashes:
    """Keys from `low` to below `high` that several entries in the folders' runs share: (running
    number of the key << 32 | member), sorted."""
    parts = [(np.empty(0, np.uint64), np.empty(0, np.uint32))]
    for folder in folders:
        for keys, members in _runs(folder):
            first = np.searchsorted(keys, np.uint64(low))
            # The end of the last range exceeds 64 bits.
            is_last = high == 1 << 64
            last = len(keys) if is_last else np.searchsorted(keys, np.uint64(high))
            parts.append((np.array(keys[first:last]), np.array(members[first:last])))
    keys, members = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    parts.clear()
    order = np.argsort(keys)
    keys = keys[order]
    is_new = np.ones(len(keys) + 1, np.bool_)
    is_new[1:-1] = keys[1:] != keys[:-1]
    is_shared = ~(is_new[:-1] & is_new[1:])
    numbers = np.cumsum(is_new[:-1][is_shared], dtype=np.uint64)
    return np.sort((numbers << np.uint64(MEMBER_BITS)) | members[order[is_shared]])


def _runs(folder: Path) -> list[tuple[Hashes, Members]]:
    """Keys and members of each run, memory-mapped."""
    return [
        (
            np.load(path, mmap_mode="r"),
            np.load(path.with_name(path.name.replace("keys", "members")), mmap_mode="r"),
        )
        for path in sorted(folder.glob("keys-*.npy"))
    ]


def pairs_in_groups(
    values: Hashes, member_bits: int, max_first: int
) -> Iterator[tuple[Hashes, Hashes]]:
    """(lower, higher) members of the pairs in each group of sorted values with equal high bits.

    The low `member_bits` of a value are its member. Each member is paired with at most `max_first`
    members: the lowest of its group that are below it.
    """
    if not len(values):
        return
    bits = np.uint64(member_bits)
    groups, members = values >> bits, values & ((np.uint64(1) << bits) - np.uint64(1))
    is_first = np.diff(groups, prepend=~groups[:1]) != 0
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))
    place = np.arange(len(values)) - first
    for distance in range(min(int(place.max()), max_first)):
        later = np.flatnonzero(place > distance)
        yield members[first[later] + distance], members[later]
