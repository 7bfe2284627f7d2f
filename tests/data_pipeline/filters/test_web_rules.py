"""Gopher's and FineWeb's rules: one row per rule, with what just passes and what breaks it."""

from __future__ import annotations

import pytest

from data_pipeline.document import Document
from data_pipeline.filters import web_rules

STOP = "the tide and the heron"
WORDS = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(200)]
PAGE = f"{STOP} " + " ".join(WORDS[:100]) + "."
LINES = [f"A line of text, number {n}, which ends in a full stop." for n in range(20)]
VERSES = [" ".join(WORDS[6 * n : 6 * n + 6]) for n in range(30)]


def bullets(number: int) -> str:
    lines = [f"{'* ' * (n < number)}{PAGE[: 60 + n]} {WORDS[n]} {WORDS[-n]}" for n in range(20)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PAGE, None),
        (f"{STOP} " + " ".join(WORDS[:45]), None),
        (f"{STOP} " + " ".join(WORDS[:44]), "gopher_word_count"),
        ("a b " * 60, "gopher_word_length"),
        (" ".join(word * 3 for word in WORDS), "gopher_word_length"),
        (f"{PAGE} {'# ' * 6}" + "longerword " * 3, None),
        (f"{PAGE} {'#' * 12}", "gopher_symbols"),
        (f"{PAGE} {'...' * 12}", "gopher_symbols"),
        (bullets(18), None),
        (bullets(19), "gopher_bullets"),
        (PAGE + "\n" + "\n".join(f"{word} {word}…" for word in WORDS[:1]), "gopher_ellipses"),
        (f"{PAGE} " + "1234 " * 20, None),
        (f"{PAGE} " + "1234 " * 40, "gopher_alphabetic_words"),
        (" ".join(WORDS[:100]) + " the tide", "gopher_stop_words"),
        (" ".join(WORDS[:100]) + " The tide OF", None),
    ],
)
def test_gopher_quality(text: str, reason: str | None) -> None:
    assert web_rules.gopher_quality(Document(text, "file")) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PAGE, None),
        ("\n".join([*VERSES, VERSES[0]]), None),
        ("\n".join(VERSES[:12] + VERSES[:6]), "gopher_repeated_lines"),
        ("\n".join(["x" * 200, "x" * 200, *WORDS[:50]]), "gopher_repeated_lines"),
        ("\n\n".join([f"{a}\n{a}b\n{a}c" for a in WORDS[:4]] * 2), "gopher_repeated_lines"),
        (" ".join(f"blue heron {word}" for word in WORDS[:40]), "gopher_frequent_words"),
        (" ".join(WORDS[:100] + WORDS[:3]), None),
        (" ".join(WORDS[:100] + WORDS[:20]), "gopher_repeated_words"),
    ],
)
def test_gopher_repetition(text: str, reason: str | None) -> None:
    assert web_rules.gopher_repetition(Document(text, "file")) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(LINES), None),
        ("\n".join([f"{line[:-1]}" for line in LINES[:17]] + LINES[17:]), None),
        ("\n".join([f"{line[:-1]}" for line in LINES[:18]] + LINES[18:]), "fineweb_line_ends"),
        ("\n".join([*LINES, *LINES[:2]]), None),
        ("\n".join([*LINES, *LINES[:3]]), "fineweb_repeated_lines"),
        ("\n".join([*LINES, *(f"{word}." for word in WORDS[:39])]), None),
        ("\n".join([*LINES, *(f"{word}." for word in WORDS[:41])]), "fineweb_short_lines"),
    ],
)
def test_fineweb_quality(text: str, reason: str | None) -> None:
    assert web_rules.fineweb_quality(Document(text, "file")) == reason


def test_shares_of_repeated_words() -> None:
    """Worked out by hand: characters of words, overlaps once."""
    words = ["a", "bb", "a", "bb", "a", "c"]
    lengths = [1, 2, 1, 2, 1, 1]
    assert web_rules._of_most_frequent(words, 2) == 2 * 3
    assert web_rules._of_most_frequent(words[2:], 2) == 0
    # "a bb" at 0 and 2, "bb a" at 1 and 3: all of the first five words.
    assert web_rules._of_duplicates(words, lengths, 2) == 7


@pytest.mark.parametrize("text", ["", " \n\n ", "x", "\n", "x" * 100_000, "x\n" * 1_000])
def test_any_text_is_judged(text: str) -> None:
    document = Document(text, "file")
    assert str(web_rules.gopher_quality(document)).startswith("gopher_word")
    assert str(web_rules.gopher_repetition(document)).startswith(("None", "gopher_repeated"))
    assert str(web_rules.fineweb_quality(document)).startswith("fineweb_line_ends")
