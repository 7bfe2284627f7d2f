"""Exact set-similarity join: all pairs of texts with a given Jaccard index of word n-grams.

A prefix-filtering join (Bayardo, Ma, Srikant, "Scaling Up All Pairs Similarity Search", 2007; Xiao
et al., "Efficient Similarity Joins for Near Duplicate Detection", 2008), without hashes or
estimates. With the rarest n-grams first, two sets of Jaccard index t or more share one of the first
|x| - t |x| + 1 of the larger set and the first |y| - 2t/(1+t) |y| + 1 of the smaller. Such pairs
are verified in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.data.near_duplicate_texts import WORD

Ints = npt.NDArray[np.int64]

_PAIRS_AT_ONCE = 1 << 22
_EPSILON = 1e-9  # a threshold such as 0.7 is not a binary fraction


@dataclass(frozen=True)
class Similar:
    """Distinct pairs, in ascending order."""

    first: Ints
    second: Ints
    """Larger than `first`."""
    similarity: npt.NDArray[np.float64]

    def at_least(self, similarity: float) -> Similar:
        chosen = self.similarity >= similarity - _EPSILON
        return Similar(self.first[chosen], self.second[chosen], self.similarity[chosen])

    def within(self, num_texts: int) -> Similar:
        """The pairs among the first `num_texts` texts."""
        chosen = self.second < num_texts
        return Similar(self.first[chosen], self.second[chosen], self.similarity[chosen])


class NgramSets:
    """The set of word n-grams of each text, as ids: the rarer an n-gram, the smaller its id.
    Every text needs n words."""

    def __init__(self, texts: Sequence[str], n: int) -> None:
        ngrams, counts = _ngrams(texts, n)
        documents = np.repeat(np.arange(len(texts)), counts)
        frequency = np.bincount(ngrams)
        rank = np.empty(len(frequency), np.int64)
        rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
        pairs = _distinct(documents * len(frequency) + rank[ngrams])
        self.members = pairs % len(frequency)
        self.sizes = np.bincount(pairs // len(frequency), minlength=len(texts))
        self.starts = np.cumsum(self.sizes) - self.sizes
        found_in = np.bincount(self.members, minlength=len(frequency))
        self.is_shared = found_in > 1
        """For each n-gram, whether several texts have it."""

    def of(self, text: int) -> Ints:
        return self.members[self.starts[text] : self.starts[text] + self.sizes[text]]

    def similarity(self, one: int, other: int) -> float:
        """Jaccard index of two sets."""
        a, b = self.of(one), self.of(other)
        common = len(np.intersect1d(a, b, assume_unique=True))
        return common / (len(a) + len(b) - common)

    def similar_pairs(self, min_similarity: float) -> Similar:
        """All pairs of texts with at least this Jaccard index."""
        parts = [np.empty(0, np.int64)]
        parts += [_distinct(some) for some in self._candidates(min_similarity)]
        pairs = _distinct(np.concatenate(parts))
        first, second = np.divmod(pairs, len(self.sizes))
        both = zip(first.tolist(), second.tolist(), strict=True)
        similarity = np.array([self.similarity(*pair) for pair in both], np.float64)
        return Similar(first, second, similarity).at_least(min_similarity)

    def _prefixes(self, share: float) -> tuple[Ints, Ints, Ints]:
        """Member, text and position of the first size - share * size + 1 members of each set,
        except for members of no other set."""
        lengths = self.sizes - np.ceil(share * self.sizes - _EPSILON).astype(np.int64) + 1
        texts = np.repeat(np.arange(len(self.sizes)), self.sizes)
        places = np.arange(len(self.members)) - self.starts[texts]
        chosen = np.flatnonzero((places < lengths[texts]) & self.is_shared[self.members])
        return self.members[chosen], texts[chosen], places[chosen]

    def _candidates(self, t: float) -> Iterator[Ints]:
        """Candidate pairs, encoded as first text x number of texts + second."""
        factor = int(self.sizes.max(initial=0)) + 1
        member, small, small_place = self._prefixes(2 * t / (1 + t))
        keys = member * factor + self.sizes[small]
        order = np.argsort(keys)
        keys, small, small_place = keys[order], small[order], small_place[order]
        member, large, large_place = self._prefixes(t)
        size = self.sizes[large]
        low = np.searchsorted(keys, member * factor + np.ceil(t * size - _EPSILON).astype(np.int64))
        counts = np.searchsorted(keys, member * factor + size, "right") - low
        for part in _slices(counts):
            place = np.repeat(np.arange(part.start, part.stop), counts[part])
            before = np.cumsum(counts[part]) - counts[part]
            other = np.arange(len(place)) - np.repeat(before - low[part], counts[part])
            one, two = large[place], small[other]
            # If this is the first shared member, the intersection is at most what remains.
            rest = np.minimum(
                size[place] - large_place[place], self.sizes[two] - small_place[other]
            )
            needed = t / (1 + t) * (size[place] + self.sizes[two]) - _EPSILON
            chosen = (rest >= needed) & (one != two)
            one, two = one[chosen], two[chosen]
            yield np.minimum(one, two) * len(self.sizes) + np.maximum(one, two)


def _slices(counts: Ints) -> Iterator[slice]:
    """Consecutive slices in which the counts sum to a bounded number."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, "right")))
        yield slice(start, stop)
        start = stop


def _ngrams(texts: Sequence[str], n: int) -> tuple[Ints, Ints]:
    """An id for each n-gram, and the number of n-grams of each text: equal n-grams have equal
    ids."""
    vocabulary: dict[str, int] = {}
    words: list[int] = []
    counts = []
    for text in texts:
        found = WORD.findall(text.lower())
        assert len(found) >= n, "every text needs as many words as an n-gram has"
        words += [vocabulary.setdefault(word, len(vocabulary)) for word in found]
        counts.append(len(found))
    ids = np.array(words, np.int64)
    numbers = ids
    for length in range(2, n + 1):
        # Ids of the shorter n-grams, each combined with the next word.
        following = ids[length - 1 :]
        _, numbers = np.unique(
            numbers[: len(following)] * len(vocabulary) + following, return_inverse=True
        )
    ends = np.cumsum(counts)
    starts = np.arange(len(ids)) - np.repeat(ends - counts, counts)
    whole = starts <= np.repeat(np.array(counts) - n, counts)
    return numbers[whole[: len(numbers)]], np.array(counts) - (n - 1)


def _distinct(values: Ints) -> Ints:
    values = np.sort(values)
    return values[np.flatnonzero(np.diff(values, prepend=-1))]
