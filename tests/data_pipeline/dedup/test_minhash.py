"""The parts of MinHash: shingles, signatures, bands, pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup.buckets import pairs_in_groups
from data_pipeline.dedup.minhash import band_keys, choose_bands, jaccard, shingles, signatures
from data_pipeline.text import word_ngrams
from data_pipeline.text.word_ngrams import ngram_hashes, word_hashes, word_hashes_of_texts


@given(st.lists(st.text("ab1 .\nÀß\u03a3\u0130漢", max_size=30), max_size=8), st.integers(1, 3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_texts_are_hashed_together_as_each_alone(texts: list[str], n: int) -> None:
    words, counts = word_hashes_of_texts(texts)
    alone = [word_hashes(text) for text in texts]
    assert counts.tolist() == [len(hashes) for hashes in alone]
    assert words.tolist() == [value for hashes in alone for value in hashes.tolist()]
    found, num_shingles = shingles(texts, n)
    assert num_shingles.tolist() == [
        max(len(hashes) - n + 1, min(len(hashes), 1)) for hashes in alone
    ]
    start = 0
    for hashes, count in zip(alone, num_shingles.tolist(), strict=True):
        if len(hashes) >= n:
            assert np.array_equal(found[start : start + count], ngram_hashes(hashes, n))
        start += count


def test_long_texts_among_short_ones() -> None:
    long = "word " * 60_000
    words, counts = word_hashes_of_texts(["a b", long, "c", "", long, "d e f"])
    assert counts.tolist() == [2, 60_000, 1, 0, 60_000, 3]
    assert words[60_002] == word_hashes("c")[0]


@pytest.mark.parametrize("min_similarity", [0.4, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands(min_similarity: float) -> None:
    bands = choose_bands(min_similarity)
    assert bands.num_bands * bands.rows <= 128
    assert bands.miss_probability(min_similarity) <= 0.002
    assert bands.miss_probability(0) == 1


def test_no_bands_are_enough() -> None:
    with pytest.raises(ValueError, match="num_hashes"):
        choose_bands(0.1, num_hashes=8)


def test_signatures_agree_as_often_as_sets() -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 1 << 64, 150, np.uint64)
    values = signatures(np.concatenate([pool[:100], pool[50:]]), np.array([100, 100]), 4096)
    # Similarity 50/150; a share of 4096 has a standard deviation of 0.0074: five of them.
    assert np.mean(values[0] == values[1]) == pytest.approx(1 / 3, abs=0.037)
    keys = band_keys(values, choose_bands(0.8))
    assert len(np.unique(keys)) > keys.shape[1]  # each band has keys of its own


def test_blocks_of_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.random.default_rng(1).integers(0, 1 << 64, 100, np.uint64)
    counts = np.array([1, 30, 2, 60, 7])
    whole = signatures(hashes, counts, 16)
    monkeypatch.setattr("data_pipeline.dedup.minhash._BLOCK_SHINGLES", 8)
    assert np.array_equal(signatures(hashes, counts, 16), whole)


def test_pairs_in_groups() -> None:
    values = np.array([0x10, 0x13, 0x15, 0x24, 0x30, 0x31], np.uint64)

    def pairs(max_first: int) -> list[tuple[int, int]]:
        found = pairs_in_groups(values, 4, max_first)
        return [pair for low, high in found for pair in zip(low, high, strict=True)]

    assert pairs(1) == [(0, 3), (0, 5), (0, 1)]
    assert pairs(9) == [(0, 3), (0, 5), (0, 1), (3, 5)]


def test_jaccard() -> None:
    one, other = np.arange(8, 20, dtype=np.uint64), np.arange(20, dtype=np.uint64)
    assert jaccard(one, other) == jaccard(other, one) == 12 / 20
    assert jaccard(np.array([9], np.uint64), np.array([1, 2], np.uint64)) == 0


def test_a_word_is_what_python_takes_for_letters_and_digits() -> None:
    table = word_ngrams._alphanumeric()
    assert np.flatnonzero(table).tolist() == [
        code for code in range(0x110000) if chr(code).isalnum()
    ]
