"""Pairs of documents that share a value, from sorted integers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_pipeline.text.word_ngrams import Hashes


def pairs_in_groups(
    values: Hashes, member_bits: int, max_first: int
) -> Iterator[tuple[Hashes, Hashes]]:
    """(lower, higher) members of pairs in each group of sorted values whose high bits are equal.

    The low `member_bits` of a value are its member. Each member is paired with the `max_first`
    lowest of its group that are below it.
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
