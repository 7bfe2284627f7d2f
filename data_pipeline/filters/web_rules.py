"""Gopher's and FineWeb's rules for web pages, as filters; the paper of LLaMA has neither.

Gopher: Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1, quality and repetition. FineWeb:
Penedo et al. 2024 (arXiv 2406.17557), section 3.6. Words are what whitespace separates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from data_pipeline.document import Document

_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_ELLIPSES, _BULLETS = ("...", "…"), ("•", "‣", "▪", "*", "-", "–")
_MAX_OF_MOST_FREQUENT = {2: 0.20, 3: 0.18, 4: 0.16}
_MAX_OF_DUPLICATES = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""N-gram length in words -> largest share of the characters of words; Gopher, table A1."""
_TERMINAL = (".", "!", "?", '"', "'", "”", "’")
_SHORT_LINE = 30


def gopher_quality(document: Document) -> str | None:
    """Gopher's quality rules; the reason names the one that is broken."""
    words, lines = document.text.split(), _lines(document.text)
    count = len(words)
    if not 50 <= count <= 100_000:
        return "gopher_word_count"
    if not 3 <= sum(map(len, words)) / count <= 10:
        return "gopher_word_length"
    symbols = document.text.count("#") + sum(map(document.text.count, _ELLIPSES))
    if symbols > 0.1 * count:
        return "gopher_symbols"
    if sum(line.lstrip().startswith(_BULLETS) for line in lines) > 0.9 * len(lines):
        return "gopher_bullets"
    if sum(line.rstrip().endswith(_ELLIPSES) for line in lines) > 0.3 * len(lines):
        return "gopher_ellipses"
    if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * count:
        return "gopher_alphabetic_words"
    if len(_STOP_WORDS & {word.lower() for word in words}) < 2:
        return "gopher_stop_words"
    return None


def gopher_repetition(document: Document) -> str | None:
    """Gopher's rules on repeated lines, paragraphs and word n-grams."""
    text = document.text
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    for what, parts in (("lines", _lines(text)), ("paragraphs", paragraphs)):
        duplicates = _duplicates(parts)
        if len(duplicates) > 0.3 * len(parts):
            return f"gopher_repeated_{what}"
        if sum(map(len, duplicates)) > 0.2 * sum(map(len, parts)):
            return f"gopher_repeated_{what}"
    words = text.split()
    lengths = [len(word) for word in words]
    total = sum(lengths)
    for n, share in _MAX_OF_MOST_FREQUENT.items():
        if _of_most_frequent(words, n) > share * total:
            return "gopher_frequent_words"
    for n, share in _MAX_OF_DUPLICATES.items():
        if _of_duplicates(words, lengths, n) > share * total:
            return "gopher_repeated_words"
    return None


def fineweb_quality(document: Document) -> str | None:
    """FineWeb's own rules: lines that end in punctuation, repeated lines, short lines."""
    lines = _lines(document.text)
    if sum(line.rstrip().endswith(_TERMINAL) for line in lines) <= 0.12 * len(lines):
        return "fineweb_line_ends"
    if sum(map(len, _duplicates(lines))) >= 0.1 * sum(map(len, lines)):
        return "fineweb_repeated_lines"
    if sum(len(line) < _SHORT_LINE for line in lines) >= 0.67 * len(lines):
        return "fineweb_short_lines"
    return None


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _duplicates(parts: Sequence[str]) -> list[str]:
    """Those that occurred before, each as often as it did so again."""
    seen: set[str] = set()
    found = []
    for part in map(str.strip, parts):
        if part in seen:
            found.append(part)
        seen.add(part)
    return found


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def _of_most_frequent(words: Sequence[str], n: int) -> int:
    """Characters of all occurrences of the most frequent n-gram; 0 where none occurs twice."""
    most = Counter(_ngrams(words, n)).most_common(1)
    if not most or most[0][1] < 2:
        return 0
    ngram, count = most[0]
    return count * sum(map(len, ngram))


def _of_duplicates(words: Sequence[str], lengths: Sequence[int], n: int) -> int:
    """Characters in n-grams that occur more than once; of overlapping ones each counts once."""
    ngrams = _ngrams(words, n)
    counts = Counter(ngrams)
    total = end = 0
    for start, ngram in enumerate(ngrams):
        if counts[ngram] > 1:
            total += sum(lengths[max(start, end) : start + n])
            end = start + n
    return total
