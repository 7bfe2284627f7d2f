"""Decontamination: drops or flags documents that overlap with evaluation sets, by word n-grams.

The rule is GPT-3's (Brown et al., arXiv 2005.14165, appendix C): a document is contaminated if it
shares 13 consecutive words with an evaluation item; words are compared in lower case and without
punctuation. GPT-3 cuts out the overlap with 200 characters around it; here the whole document is
dropped, or kept and flagged. LLaMA's paper did neither.

Indexed n-grams of every item (`evaluation_items`):

- every n-gram of its strings concatenated in order, so that one may span the question and the
  answers; and of the strings that other items do not share, concatenated (without subjects,
  labels);
- each string of at least 8 and fewer than n words as a whole (a question alone, without the
  answers). 8 is GPT-3's smallest n. An item of fewer than 8 words is too short to be indexed.

Not indexed:

- n-grams of more than 10 items of a set, or of more than half of at least four: instructions and
  templates. (GPT-3: n-grams in more than 10 training documents.) Equal items are one item;
- n-grams with fewer than 2.5 letters per word: sequences of numbers and code idioms, which are in
  many texts that never saw the item;
- n-grams within passages that a set quotes from elsewhere (`PASSAGE_KEYS`), unless enabled: a
  Wikipedia article is not an item of BoolQ (GPT-3 names such passages as a cause of false
  positives);
- n-grams within strings without whitespace: URLs, file names.

Items without any indexed n-gram are counted by reason.

Lookup is by an entry's first 8 words (n if that is less): one bitmap lookup per word of a document
and few binary searches in a sorted array decide where full n-grams must be compared.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.document import Document, Rejected
from data_pipeline.files.atomic import write_atomic
from data_pipeline.files.model_file import ModelFile
from data_pipeline.filters.evaluation_sets import Item, ItemString, Problem, read_evaluations
from data_pipeline.text.word_ngrams import (
    Hashes,
    distinct,
    ngram_hashes,
    ngram_hashes_at,
    word_hashes,
)

MIN_WORDS = 8
MAX_SHARED_ITEMS = 10
MIN_LETTERS_PER_WORD = 2.5

_WORD = re.compile(r"[^\W_]+")
_MAX_WORD_CHARACTERS = 1_000
# At most one position in 8 of a document is a false positive of the bitmap.
_BITS_PER_ENTRY = 8
_MIN_BITS = 1 << 16


@dataclass(frozen=True)
class SetAccount:
    """Number of items of a set by outcome. items = indexed + too_short + not_distinctive."""

    items: int
    """Distinct ones."""
    indexed: int
    too_short: int
    not_distinctive: int
    """Without any n-gram that is distinctive of the item (see "Not indexed")."""


@dataclass(frozen=True)
class IndexAccount:
    words: int
    num_ngrams: int
    sets: dict[str, SetAccount]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Hit:
    """Overlap of a text with one evaluation set."""

    num_items: int
    """Items that share an n-gram with the text."""
    number: int
    """The item with the largest share of n-grams in the text: its record number in the file, from
    1."""
    found: int
    """That item's distinct n-grams found in the text ..."""
    num_ngrams: int
    """... of its total."""


# -- edits ----------------------------------------------------------------------------------------


def drop_contaminated(document: Document, *, index: ModelFile) -> Document | Rejected:
    """Edit: reject a contaminated document; the detail names the evaluation sets and items."""
    hits = _load(index).hits(document.text)
    return document.rejected("contaminated", format_hits(hits)) if hits else document


def flag_contaminated(document: Document, *, index: ModelFile) -> Document:
    """Edit: record in `contamination` the evaluation sets that a document overlaps with."""
    hits = _load(index).hits(document.text)
    return replace(document, contamination=format_hits(hits)) if hits else document


def contaminated_sets(described: str) -> list[str]:
    """The evaluation sets in a string written by `format_hits`."""
    return list(json.loads(described))


def format_hits(hits: dict[str, Hit]) -> str:
    """JSON object from evaluation sets to descriptions; `contaminated_sets` parses it."""
    texts = {
        name: f"{hit.found} of {hit.num_ngrams} n-grams of item {hit.number}"
        + (f", {hit.num_items} items in all" if hit.num_items > 1 else "")
        for name, hit in hits.items()
    }
    return json.dumps(texts, ensure_ascii=False)


@lru_cache(maxsize=2)
def _load(index: ModelFile) -> EvaluationIndex:
    """The index, read once per process."""
    return EvaluationIndex.load(index.path)


# -- the index ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationIndex:
    """Index of the n-grams of evaluation items. 20 bytes for each, and 1 or 2 for the bitmap."""

    words: int
    names: tuple[str, ...]
    """Of the evaluation sets."""
    lengths: tuple[int, ...]
    """Distinct lengths of the entries, in words."""
    hashes: Hashes
    """Of the entries; sorted, with duplicates where several items share one."""
    items: npt.NDArray[np.int32]
    """Row in `item_rows` of each hash's item."""
    item_rows: npt.NDArray[np.int32]
    """Per item: set, record number, distinct n-grams. (num_items, 3)"""
    prefixes: Hashes
    """Hashes of the entries' first words; sorted, distinct."""
    bits: npt.NDArray[np.uint8]
    """Bitmap: bit h modulo its size is set if h is among `prefixes`."""

    def hits(self, text: str) -> dict[str, Hit]:
        """The evaluation sets that `text` overlaps with, in the order of `names`."""
        found = self._found(word_hashes(text))
        if not len(found):
            return {}
        starts = np.searchsorted(self.hashes, found, "left")
        ends = np.searchsorted(self.hashes, found, "right")
        items = np.concatenate([self.items[a:b] for a, b in zip(starts, ends, strict=True)])
        by_set: dict[int, list[Hit]] = {}
        for item, count in zip(*np.unique(items, return_counts=True), strict=True):
            set_index, number, num_ngrams = self.item_rows[item].tolist()
            by_set.setdefault(set_index, []).append(Hit(1, number, int(count), num_ngrams))
        return {self.names[index]: _largest(hits) for index, hits in sorted(by_set.items())}

    def _found(self, words: Hashes) -> Hashes:
        """The distinct entries that occur in a text."""
        prefix = ngram_hashes(words, _prefix_words(self.words))
        mask = np.uint64(8 * len(self.bits) - 1)
        places = prefix & mask
        is_set = (self.bits[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)) & 1
        maybe = np.flatnonzero(is_set)
        starts = maybe[_are_in(self.prefixes, prefix[maybe])]
        found = []
        for length in self.lengths if len(starts) else ():
            fitting = starts[: np.searchsorted(starts, len(words) - length, "right")]
            hashes = ngram_hashes_at(words, fitting, length)
            found.append(hashes[_are_in(self.hashes, hashes)])
        return distinct(np.concatenate([np.empty(0, np.uint64), *found]))

    def save(self, path: Path) -> None:
        """Write one file; equal indexes give equal bytes."""
        about = json.dumps({"words": self.words, "names": self.names, "lengths": self.lengths})
        data = io.BytesIO()
        np.savez(
            data,
            about=np.frombuffer(about.encode(), np.uint8),
            hashes=self.hashes,
            items=self.items,
            item_rows=self.item_rows,
            prefixes=self.prefixes,
            bits=self.bits,
        )
        write_atomic(path, data.getvalue())

    @staticmethod
    def load(path: Path) -> EvaluationIndex:
        with np.load(path) as arrays:
            about = json.loads(arrays["about"].tobytes())
            return EvaluationIndex(
                words=about["words"],
                names=tuple(about["names"]),
                lengths=tuple(about["lengths"]),
                hashes=arrays["hashes"],
                items=arrays["items"],
                item_rows=arrays["item_rows"],
                prefixes=arrays["prefixes"],
                bits=arrays["bits"],
            )


def _are_in(known: Hashes, values: Hashes) -> npt.NDArray[np.bool_]:
    """Which values are in `known`, which is sorted and not empty."""
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.equal(known[at], values)


def _largest(hits: Sequence[Hit]) -> Hit:
    best = max(hits, key=lambda hit: (hit.found / hit.num_ngrams, hit.found))
    return replace(best, num_items=len(hits))


def _prefix_words(words: int) -> int:
    return min(words, MIN_WORDS)


# -- building the index ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entries:
    """n-grams of one item: their hashes, the hashes of their first words, their lengths in
    words."""

    hashes: Hashes
    prefixes: Hashes
    lengths: npt.NDArray[np.int32]

    def only(self, keep: npt.NDArray[Any]) -> _Entries:
        return _Entries(self.hashes[keep], self.prefixes[keep], self.lengths[keep])


def build_index(
    folder: Path, *, words: int, passages: bool = False
) -> tuple[EvaluationIndex, IndexAccount]:
    """Index all evaluation files under `folder`; also returns counts per set.

    `words`: n. `passages`: also index n-grams within passages. ValueError if there is nothing to
    index.
    """
    if not 5 <= words <= 50:
        raise ValueError(
            f"words ({words}) must be from 5 (shorter n-grams are in every long text) to 50"
        )
    problems: list[Problem] = []
    accounts: dict[str, SetAccount] = {}
    rows: list[tuple[int, int, int]] = []
    entries: list[_Entries] = []
    for file in read_evaluations(folder):
        problems += file.problems
        if not file.items:
            continue
        kept, accounts[file.name] = _set_entries(file.items, words, passages)
        set_index = len(accounts) - 1
        rows += [(set_index, number, len(found.hashes)) for number, found in kept]
        entries += [found for _, found in kept]
    if not entries:
        why = "; ".join(f"{p.file}: {p.reason}" for p in problems[:5]) or "no files"
        why = why if not accounts else "all items are too short"
        raise ValueError(f"{folder} has no evaluation items to index ({why})")
    sizes = [len(found.hashes) for found in entries]
    hashes = np.concatenate([found.hashes for found in entries])
    prefixes = np.concatenate([found.prefixes for found in entries])
    lengths = np.unique(np.concatenate([found.lengths for found in entries]))
    items = np.repeat(np.arange(len(entries), dtype=np.int32), sizes)
    order = np.argsort(hashes, kind="stable")
    index = EvaluationIndex(
        words=words,
        names=tuple(accounts),
        lengths=tuple(lengths.tolist()),
        hashes=hashes[order],
        items=items[order],
        item_rows=np.array(rows, np.int32),
        prefixes=distinct(prefixes),
        bits=_bits(distinct(prefixes)),
    )
    return index, IndexAccount(words, len(distinct(hashes)), accounts, tuple(problems))


def _bits(prefixes: Hashes) -> npt.NDArray[np.uint8]:
    num_bits = _MIN_BITS
    while num_bits < _BITS_PER_ENTRY * len(prefixes):
        num_bits *= 2
    bits = np.zeros(num_bits // 8, np.uint8)
    places = prefixes & np.uint64(num_bits - 1)
    values = np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
    np.bitwise_or.at(bits, (places >> np.uint64(3)).astype(np.int64), values)
    return bits


def _set_entries(
    items: Sequence[Item], words: int, passages: bool
) -> tuple[list[tuple[int, _Entries]], SetAccount]:
    """(record number, entries) of the items of a set that have any."""
    # Of equal items the first is kept.
    different = {tuple(s.text for s in item.strings): item for item in reversed(items)}
    chosen = sorted(different.values(), key=lambda item: item.number)
    uses = Counter(text for item in chosen for text in {s.text for s in item.strings})
    shared = {text for text, count in uses.items() if _is_common(count, len(chosen))}
    found = [_item_entries(item, words, passages, shared) for item in chosen]
    hashes = np.concatenate([entries.hashes for entries in found])
    values, counts = np.unique(hashes, return_counts=True)
    common = values[[_is_common(count, len(chosen)) for count in counts.tolist()]]
    telling = [entries.only(~np.isin(entries.hashes, common)) for entries in found]
    kept = [
        (item.number, entries)
        for item, entries in zip(chosen, telling, strict=True)
        if len(entries.hashes)
    ]
    too_short = sum(_is_too_short(item, words) for item in chosen)
    not_distinctive = len(chosen) - len(kept) - too_short
    return kept, SetAccount(len(chosen), len(kept), too_short, not_distinctive)


def _is_common(num_with: int, num_items: int) -> bool:
    """Whether an n-gram of `num_with` of a set's `num_items` items is a template."""
    return num_with > MAX_SHARED_ITEMS or (num_items >= 4 and 2 * num_with > num_items)


def _is_too_short(item: Item, words: int) -> bool:
    return sum(len(_words_of(s.text)) for s in item.strings) < _prefix_words(words)


def _item_entries(item: Item, words: int, passages: bool, shared: set[str]) -> _Entries:
    """The distinct n-grams of an item to index, before excluding those that many items share."""
    parts = [list(_sequence_entries(item.strings, words, passages))]
    own = [string for string in item.strings if string.text not in shared]
    if len(own) < len(item.strings):
        parts.append(list(_sequence_entries(own, words, passages)))
    for string in item.strings:
        if len(_words_of(string.text)) < words:
            parts.append(list(_sequence_entries([string], words, passages)))
    found = [entries for part in parts for entries in part]
    hashes = np.concatenate([np.empty(0, np.uint64), *(e.hashes for e in found)])
    prefixes = np.concatenate([np.empty(0, np.uint64), *(e.prefixes for e in found)])
    lengths = np.concatenate([np.empty(0, np.int32), *(e.lengths for e in found)])
    _, first = np.unique(hashes, return_index=True)
    return _Entries(hashes[first], prefixes[first], lengths[first])


def _sequence_entries(
    strings: Sequence[ItemString], words: int, passages: bool
) -> Iterator[_Entries]:
    """The distinctive n-grams of concatenated strings; the whole, if it is shorter than n."""
    spelled: list[tuple[str, bool]] = []
    for string in strings:
        found = _words_of(string.text)
        is_name = len(found) > 1 and len(string.text.split()) == 1
        is_foreign = is_name or (string.is_passage and not passages)
        spelled += [(word, is_foreign) for word in found]
    if len(spelled) < _prefix_words(words):
        return
    length = min(words, len(spelled))
    hashed = word_hashes(" ".join(word for word, _ in spelled))
    assert len(hashed) == len(spelled), f"{len(spelled)} words have {len(hashed)} hashes"
    letters = _window_sums([sum(map(str.isalpha, word)) for word, _ in spelled], length)
    foreign = _window_sums([is_foreign for _, is_foreign in spelled], length)
    places = np.flatnonzero((letters >= MIN_LETTERS_PER_WORD * length) & (foreign < length))
    yield _Entries(
        ngram_hashes(hashed, length)[places],
        ngram_hashes(hashed, _prefix_words(words))[places],
        np.full(len(places), length, np.int32),
    )


def _window_sums(values: Sequence[int], length: int) -> npt.NDArray[np.int64]:
    sums: npt.NDArray[np.int64] = np.cumsum(np.array([0, *values], np.int64))
    return np.subtract(sums[length:], sums[:-length])


def _words_of(text: str) -> list[str]:
    """Split into words like `word_hashes`, except for words longer than any that are indexed."""
    return [word for word in _WORD.findall(text.lower()) if len(word) <= _MAX_WORD_CHARACTERS]
