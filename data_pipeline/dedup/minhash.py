"""MinHash LSH: word-n-gram shingles, MinHash signatures, and LSH bands that give candidate pairs.

The similarity of two documents is the Jaccard index of their sets of word n-grams (a word is a run
of letters and digits in lower case, `word_ngrams.py`). A document of fewer than n words has one
shingle, all of its words.

A signature of b x r values is split into b bands of r rows. Documents that agree in a whole band
are a candidate pair; a pair of similarity s is missed with probability (1 - s^r)^b (Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipeline.text.word_ngrams import Hashes, mix, ngram_hashes, word_hashes_of_texts

_BLOCK_SHINGLES = 1 << 15
"""Hashed together, sized to stay in the CPU cache."""
_SHORT = np.uint64(0x5851F42D4C957F2D)


@dataclass(frozen=True)
class Bands:
    """How a signature is split into LSH bands."""

    num_bands: int
    rows: int
    """Hash values per band."""

    def miss_probability(self, similarity: float) -> float:
        """Probability that a pair of this similarity is not a candidate."""
        return float((1 - similarity**self.rows) ** self.num_bands)


def choose_bands(min_similarity: float, *, num_hashes: int = 128, max_miss: float = 0.002) -> Bands:
    """The most rows per band with which at most `max_miss` of the pairs at `min_similarity` are
    missed, and as many bands as `num_hashes` allows. ValueError if no such number exists.
    """
    for rows in range(num_hashes, 0, -1):
        bands = Bands(num_hashes // rows, rows)
        if bands.miss_probability(min_similarity) <= max_miss:
            return bands
    raise ValueError(
        f"min_similarity ({min_similarity}) is missed with a probability above max_miss "
        f"({max_miss}) by any bands of {num_hashes} hashes; raise num_hashes"
    )


def shingles(texts: Sequence[str], ngram_words: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """One hash per word n-gram of all texts, concatenated, and the number of shingles of each
    text."""
    words, num_words = word_hashes_of_texts(texts)
    counts = np.maximum(num_words - (ngram_words - 1), np.minimum(num_words, 1))
    ends = np.cumsum(num_words)
    # An n-gram at every word, including those that reach into the next text; then these are
    # dropped.
    padded = np.concatenate([words, np.zeros(ngram_words - 1, np.uint64)])
    all_ngrams = ngram_hashes(padded, ngram_words)
    firsts = ends - num_words
    inside = np.arange(len(words)) - np.repeat(firsts, num_words) < np.repeat(counts, num_words)
    for index in np.flatnonzero((num_words > 0) & (num_words < ngram_words)):
        short = words[firsts[index] : ends[index]]
        all_ngrams[firsts[index]] = ngram_hashes(short, len(short))[0] ^ _SHORT
    return all_ngrams[inside], counts


def signatures(
    hashes: Hashes, counts: npt.NDArray[np.int64], num_hashes: int
) -> npt.NDArray[np.uint32]:
    """MinHash values, (texts, num_hashes): the minimum over a text's shingles of a * h + b modulo
    2**32, for odd a. Every text has at least one shingle.
    """
    factors = mix(np.arange(1, num_hashes + 1, dtype=np.uint64))
    odd, offsets = (
        factors.astype(np.uint32) | np.uint32(1),
        (factors >> np.uint64(32)).astype(np.uint32),
    )
    values = (hashes >> np.uint64(32)).astype(np.uint32)
    result = np.empty((num_hashes, len(counts)), np.uint32)
    ends = np.cumsum(counts)
    begins = ends - counts
    first = 0
    while first < len(counts):
        last = int(np.searchsorted(ends, begins[first] + _BLOCK_SHINGLES, "right"))
        last = max(last, first + 1)
        block = values[begins[first] : ends[last - 1]]
        at = begins[first:last] - begins[first]
        work = np.empty_like(block)
        for index in range(num_hashes):
            np.multiply(block, odd[index], out=work)
            work += offsets[index]
            result[index, first:last] = np.minimum.reduceat(work, at)
        first = last
    return result.T


def band_keys(values: npt.NDArray[np.uint32], bands: Bands) -> Hashes:
    """One hash per text and LSH band, (texts, bands)."""
    used = values[:, : bands.num_bands * bands.rows]
    parts = used.reshape(len(values), bands.num_bands, bands.rows).astype(np.uint64)
    keys = np.broadcast_to(np.arange(bands.num_bands, dtype=np.uint64), parts.shape[:2])
    for row in range(bands.rows):
        keys = mix(keys ^ parts[:, :, row] << np.uint64(16))
    return keys


def jaccard(one: Hashes, other: Hashes) -> float:
    """Jaccard index of two sets of sorted unique hashes; neither is empty."""
    few, many = (one, other) if len(one) <= len(other) else (other, one)
    places = np.searchsorted(many, few)
    # What lies beyond the end is larger than the last one, and not equal to it.
    common = int(np.count_nonzero(many.take(places, mode="clip") == few))
    return common / (len(few) + len(many) - common)
