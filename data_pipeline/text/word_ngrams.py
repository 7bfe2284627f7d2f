"""64-bit hashes of the words and word n-grams of a text, in numpy.

A word is a maximal run of letters and digits, in lower case: punctuation, markup signs and line
breaks do not count, so that two editions of a text compare by their words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_CHUNK_CHARACTERS = 1 << 20
_TOGETHER_CHARACTERS = 1 << 17
"""Short texts hashed together, sized to stay in the CPU cache."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BASE_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_NGRAM_BASE = np.uint64(0xD6E8FEB86659FD93)


def word_hashes(text: str) -> Hashes:
    """One 64-bit hash per word, in order; a word longer than 1 Mi characters counts as several.

    Needs about 60 MB besides the text and the result.
    """
    parts = [_chunk_hashes(chunk.lower())[0] for chunk in _chunks(text)]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def word_hashes_of_texts(texts: Sequence[str]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The word hashes of all texts, concatenated, and the number of words of each text.

    Equals `word_hashes` of each; hashing short texts together is many times as fast.
    """
    hashes: list[Hashes] = [np.empty(0, np.uint64)]
    counts = np.zeros(len(texts), np.int64)
    together: list[str] = []
    num_characters = 0

    def hash_together(end: int) -> None:
        nonlocal num_characters
        # A line break belongs to no word.
        found, starts = _chunk_hashes("\n".join(together))
        ends = np.cumsum([len(text) + 1 for text in together])
        upto = np.searchsorted(starts, ends)
        counts[end - len(together) : end] = np.diff(upto, prepend=0)
        hashes.append(found)
        together.clear()
        num_characters = 0

    for index, text in enumerate(texts):
        if together and num_characters + len(text) > _TOGETHER_CHARACTERS:
            hash_together(index)
        if len(text) > _TOGETHER_CHARACTERS:
            hashes.append(word_hashes(text))
            counts[index] = len(hashes[-1])
        else:
            together.append(text.lower())
            num_characters += len(text) + 1
    if together:
        hash_together(len(texts))
    return np.concatenate(hashes), counts


def ngram_hashes(words: Hashes, n: int) -> Hashes:
    """One hash per word n-gram, in order; none if there are fewer than `n` words."""
    if len(words) < n:
        return np.empty(0, np.uint64)
    count = len(words) - n + 1
    total = np.zeros(count, np.uint64)
    for i in range(n):
        total *= _NGRAM_BASE  # modulo 2**64
        total += words[i : i + count]
    return mix(total)


def ngram_hashes_at(words: Hashes, starts: npt.NDArray[np.int64], n: int) -> Hashes:
    """`ngram_hashes(words, n)[starts]`; every start must have `n` words from there on."""
    total = np.zeros(len(starts), np.uint64)
    for i in range(n):
        total *= _NGRAM_BASE
        total += words[starts + i]
    return mix(total)


def distinct(values: Hashes) -> Hashes:
    """Sorted unique values. Twenty times as fast as `np.unique`, which hashes."""
    values = np.sort(values)
    return values[np.flatnonzero(np.diff(values, prepend=~values[:1]))]


def _chunks(text: str) -> Iterator[str]:
    """Chunks of about 1 Mi characters, split at whitespace between words where there is any."""
    start = 0
    while len(text) - start > _CHUNK_CHARACTERS:
        end = start + _CHUNK_CHARACTERS
        cut = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
        end = cut + 1 if cut > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def _chunk_hashes(chunk: str) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes of the words of a lower-case text, and the offset of each.

    Polynomial rolling hash: a word of codes c_0..c_k at position p hashes to the sum of
    c_i * BASE^i, modulo 2**64: a difference of prefix sums of c_j * BASE^j, times BASE^-p.
    """
    codes: npt.NDArray[np.uint8] | npt.NDArray[np.uint32]
    if chunk.isascii():
        codes = np.frombuffer(chunk.encode("ascii"), np.uint8)
    else:
        codes = np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), np.uint32)
    if not len(codes):
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    is_word = np.zeros(len(codes) + 2, np.bool_)
    is_word[1:-1] = _alphanumeric().take(codes)
    edges = np.flatnonzero(is_word[1:] != is_word[:-1])
    starts, ends = edges[::2], edges[1::2]
    bits = len(codes).bit_length()
    powers = _powers(_BASE, bits)[: len(codes)]
    sums = np.zeros(len(codes) + 1, np.uint64)
    # One is added so that a word is not lost among leading zeros of a longer one.
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers, out=sums[1:])
    return mix((sums[ends] - sums[starts]) * _powers(_BASE_INVERSE, bits)[starts]), starts


def mix(values: Hashes) -> Hashes:
    """Avalanche bits (the finalizer of splitmix64; public domain, S. Vigna, 2015)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _powers(base: np.uint64, bits: int) -> Hashes:
    """base**0, base**1, ..., 2**bits of them. Computed once per worker: milliseconds for texts that
    are hashed together, a tenth of a second for the longest chunks."""
    powers = np.full(1 << bits, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers)


@cache
def _alphanumeric() -> npt.NDArray[np.bool_]:
    """Whether a code point is a letter or digit, as `str.isalnum` has it. Computed once per worker;
    by runs it takes a tenth of the time of one call per code point."""
    codes = np.arange(0x110000, dtype="<u4").tobytes()
    table = np.zeros(0x110000, np.bool_)
    for run in re.finditer(r"[^\W_]+", codes.decode("utf-32-le", "surrogatepass")):
        table[run.start() : run.end()] = True
    return table
