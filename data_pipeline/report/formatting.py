"""Formatting for the report: counts, sizes, percentages, invisible characters, text diffs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_COUNTS = ("", "k", "M", "B", "T")
_BYTES = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
# Would be invisible, end the page early or reverse the text around them: control characters,
# surrogates, bidirectional marks, and the byte-order mark.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_WORD = re.compile(r"\S+")


def count(number: float) -> str:
    """1234567 -> "1.23 M"; below ten thousand all digits."""
    return f"{number:,.0f}" if abs(number) < 10_000 else _scaled(number, _COUNTS)


def size(num_bytes: float) -> str:
    """1234567 -> "1.23 MB"."""
    return f"{num_bytes:.0f} B" if abs(num_bytes) < 1_000 else _scaled(num_bytes, _BYTES)


def percent(part: float, whole: float) -> str:
    """With enough digits to distinguish it from 0 and 100; "–" if the whole is 0."""
    if whole <= 0:
        return "–"
    value = 100 * part / whole
    if 0 < value < 0.05:
        return "<0.1 %"
    if 99.95 < value < 100:
        return ">99.9 %"
    return f"{value:.0f} %" if value in (0, 100) else f"{value:.1f} %"


def length_range(bits: int) -> str:
    """Range of lengths with `bits` bits: 10 -> "512 B to 1 KiB"."""
    first = 1 << max(0, bits - 1)
    return f"{_length(first)} to {_length(2 * first)}"


def probability_range(step: int) -> str:
    """Range of the probabilities in a step of 5 %: 19 -> "0.95 to 1"."""
    return f"{step * 0.05:.2f} to {(step + 1) * 0.05:.2f}"


def power_range(bits: int) -> str:
    """Range of the numbers whose whole part has `bits` bits: 10 -> "512 to 1,024"."""
    return f"{(1 << bits) >> 1:,} to {1 << bits:,}"


def _length(num_bytes: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.0f} {unit}"
    return f"{num_bytes:,} B"


def _scaled(number: float, units: Sequence[str]) -> str:
    power = 0
    while abs(number) >= 999.5 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f} {units[power]}"


def visible(text: str) -> str:
    """The text with visible symbols or code points in place of invisible characters."""
    return _UNSEEN.sub(_picture, text.replace("\r\n", "\n").replace("\r", "\n"))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else f"[U+{code:04X}]"


@dataclass(frozen=True)
class Run:
    """A span of a text; marked where the other texts differ."""

    text: str
    marked: bool


def differing(text: str, others: Sequence[str]) -> list[Run]:
    """The text as spans; words that some of the `others` do not have at that place are marked."""
    words = list(_WORD.finditer(text))
    own = [word[0] for word in words]
    marked = [False] * len(own)
    for other in others:
        matcher = difflib.SequenceMatcher(None, own, _WORD.findall(other), autojunk=False)
        equal = [False] * len(own)
        for start, _, length in matcher.get_matching_blocks():
            equal[start : start + length] = [True] * length
        marked = [was or not same for was, same in zip(marked, equal, strict=True)]
    runs: list[Run] = []
    end = first = 0
    while first < len(words):
        last = first
        while last + 1 < len(words) and marked[last + 1] == marked[first]:
            last += 1
        start = words[first].start()
        if start > end:
            runs.append(Run(text[end:start], False))
        end = words[last].end()
        runs.append(Run(text[start:end], marked[first]))
        first = last + 1
    return [*runs, Run(text[end:], False)] if end < len(text) else runs
