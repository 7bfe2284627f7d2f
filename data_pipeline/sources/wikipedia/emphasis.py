"""Removes wikitext's emphasis, and finds the apostrophes among its marks by MediaWiki's rule.

The rule is that of `Parser::doQuotes`: it balances runs of apostrophes line by line. Two are
italic, three bold, five both; of four the first is an apostrophe, as are those beyond five. On a
line with an odd number of both italic and bold marks, one of three apostrophes was meant as an
apostrophe and two as italic: "dell'''anime'' moderna".
"""

from __future__ import annotations

import re

_RUN = re.compile(r"('{2,})")
_ITALIC, _BOLD, _BOTH = 2, 3, 5
_ONLY_EMPHASIS = 2 * _BOTH
"""A run this long opens and closes emphasis of nothing."""

SEPARATOR = "\x01"
"""Separates two runs of apostrophes, or a run from an apostrophe; removed with the emphasis."""


def without_emphasis(text: str) -> str:
    """`text` without the marks of bold and italic, and with the apostrophes among them."""
    if "''" in text:
        lines = text.split("\n")
        text = "\n".join(_line(line) if "''" in line else line for line in lines)
    return text.replace(SEPARATOR, "")


def _line(line: str) -> str:
    # Text and runs alternate; both ends are text.
    parts = _RUN.split(line)
    texts, marks = parts[::2], [len(run) for run in parts[1::2]]
    for index, length in enumerate(marks):
        if length == 4 or length > _BOTH:
            marks[index] = _BOLD if length == 4 else _BOTH
            left = length - _BOTH if length < _ONLY_EMPHASIS else length % _BOTH
            texts[index] += "'" if length == 4 else "'" * left
    num_both = marks.count(_BOTH)
    num_italic, num_bold = marks.count(_ITALIC) + num_both, marks.count(_BOLD) + num_both
    if num_italic % 2 and num_bold % 2:
        candidates = [index for index, length in enumerate(marks) if length == _BOLD]
        if candidates:
            texts[min(candidates, key=lambda index: _rank(texts[index]))] += "'"
    return "".join(texts)


def _rank(before: str) -> int:
    """How much the text before three apostrophes speaks for an apostrophe, the most first: a word
    of one letter, a longer one, a space."""
    if before.endswith(" "):
        return 2
    return 0 if before[-2:-1] == " " else 1
