"""C4's heuristic filters and line cleaning for web text.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(JMLR 21, 2020), section 2.2; where the paper is ambiguous, as TensorFlow Datasets' `c4` implements
it (line endings, word length, citation marks), noted at each rule. Its last rule, deduplication of
three-sentence spans, needs all documents and is not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path

from data_pipeline.document import Document, Rejected
from data_pipeline.files.model_file import ModelFile, model_file

TERMINAL_PUNCTUATION = (".", "!", "?", '"')
"""The paper's "terminal punctuation mark (i.e. a period, exclamation mark, question mark, or end
quotation mark)"."""

_ELLIPSIS = "..."
_CITATION_MARK = re.compile(r"\[(?:\d{1,4}|edit|citation needed)\]")
_POLICIES = re.compile(
    r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
)
# Marks, perhaps a quotation mark or bracket, then whitespace or the end. Of a run of marks only the
# last is tried, else a text of n dots takes n^2 steps.
_SENTENCE_END = re.compile(r"[.!?](?![.!?])[\"'\u201d\u2019)\]]{0,2}(?=\s|$)")


def keep_good_lines(
    document: Document, *, min_words: int, max_word_characters: int
) -> Document | Rejected:
    """Edit: keep lines that end in terminal punctuation and have at least `min_words`, without
    citation marks; lines about JavaScript or policies are removed. Rejects with "no_good_line" if
    none is left.

    Lines that end in an ellipsis, and lines with a word longer than `max_word_characters`, are
    removed, too (TensorFlow Datasets: 1,000).
    """
    text = document.text
    if "[" in text:
        text = _CITATION_MARK.sub("", text)
    stripped = map(str.strip, text.split("\n"))
    lines = [line for line in stripped if _ends_in_terminal_punctuation(line)]
    kept = [line for line in lines if _is_good(line, min_words, max_word_characters)]
    if not kept:
        return document.rejected("no_good_line")
    return document.with_text("\n".join(kept))


def _ends_in_terminal_punctuation(line: str) -> bool:
    return line.endswith(TERMINAL_PUNCTUATION) and not line.endswith(_ELLIPSIS)


def _is_good(line: str, min_words: int, max_word_characters: int) -> bool:
    words = line.split()
    if len(words) < min_words:
        return False
    if len(line) > max_word_characters and max(map(len, words)) > max_word_characters:
        return False
    lower = line.lower()
    return "javascript" not in lower and _POLICIES.search(lower) is None


def placeholder_text(document: Document) -> str | None:
    """Filter: contains "lorem ipsum", in any case."""
    return "placeholder_text" if "lorem ipsum" in document.text.lower() else None


def curly_bracket(document: Document) -> str | None:
    """Filter: contains "{", which is common in programming languages and rare in prose."""
    return "curly_bracket" if "{" in document.text else None


def few_sentences(document: Document, *, min_sentences: int) -> str | None:
    """Filter: fewer than `min_sentences` sentences. C4: 3.

    A sentence ends at a mark before whitespace; TensorFlow Datasets uses NLTK's punkt model, which
    knows abbreviations and therefore counts slightly fewer.
    """
    found = islice(_SENTENCE_END.finditer(document.text), min_sentences)
    return "few_sentences" if sum(1 for _ in found) < min_sentences else None


def few_words(document: Document, *, min_words: int) -> str | None:
    """Filter: fewer than `min_words` words, separated by whitespace."""
    # Splitting stops as soon as there are enough.
    found = len(document.text.split(None, min_words)[:min_words])
    return "few_words" if found < min_words else None


def no_end_mark(document: Document) -> str | None:
    """Filter: no line ends in terminal punctuation."""
    lines = document.text.split("\n")
    return (
        None
        if any(line.rstrip().endswith(TERMINAL_PUNCTUATION) for line in lines)
        else "no_end_mark"
    )


def bad_words_list(path: Path) -> ModelFile:
    """The word list at `path`, one word or phrase per line; ValueError if it is missing."""
    return model_file(
        path,
        what="a list of words that C4 excludes, one per line",
        published="https://github.com/LDNOOBW/List-of-Dirty-Naughty-Obscene-and-Otherwise-Bad-Words",
        made_by="hand",
        left_out_by="bad_words=None",
    )


def bad_word(document: Document, *, words: ModelFile) -> str | None:
    """Filter: contains a word or phrase of the list, as whole words, in any case."""
    return "bad_word" if _pattern(words).search(document.text.lower()) else None


@lru_cache(maxsize=4)
def _pattern(words: ModelFile) -> re.Pattern[str]:
    return any_of(words.path.read_text(encoding="utf-8").splitlines())


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Matches each of these words or phrases at word boundaries (no adjacent letter or digit);
    blank lines and comments ("#") are ignored. Without words it matches nothing."""
    chosen = sorted({word.strip().lower() for word in words} - {""}, key=lambda w: (-len(w), w))
    chosen = [word for word in chosen if not word.startswith("#")]
    if not chosen:
        return re.compile(r"(?!)")
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, chosen))})(?!\w)")
