"""Writes superscripts and subscripts as plain text: "mc^2", "2^(n+1)", "x_i", but "1st", "H2O".

Superscripts are powers where they look like formulas: numbers, sums, variables. Those of words are
ordinals and abbreviations ("XIXe", "Mme"), which are read without a mark, as are subscripts but for
indices that are variables or sums.
"""

from __future__ import annotations

import re

from data_pipeline.sources.wikipedia.emphasis import SEPARATOR
from data_pipeline.text.decoding import unescaped

_SCRIPT = re.compile(r"<(su[bp])>([^<>\n]{0,80})</\1>")
_FRACTION = re.compile(r"<sup>(\d{1,5})</sup>[/\u2044]<sub>(\d{1,5})</sub>")
_ENTITY = re.compile(r"&#?\w{1,8};")
_TAG = re.compile(r"</?su[bp]>")
_QUOTES = re.compile(r"'{2,}")
_MAX_NESTING = 4

_NO_BRACKETS = re.compile(r"[-+−–]?(?:\d{1,9}|\d{1,9}[.,]\d{1,9}|[^\W\d_])|\d{1,4}[-+−–]")
"""What needs no brackets: a number, a letter, the charge of an ion."""
_BRACKETED = re.compile(r"\([^()]*\)")
_ORDINAL = re.compile(r"\d+\W?(?:st|nd|rd|th|er?|re|[èe]me|[ao]|º|ª)", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{4}")
_FORMULA = re.compile(r"[\w\s−–+*/×·.,()^=|!\u2217⋅∞\u2032-]+")
_OPERATION = re.compile(r"[\w)][−–+*/×·^=⋅-]+[\w(]|^[-−–+](?=\w)|∞")
_GREEK = re.compile(r"[\u03b1-\u03c9\u0391-\u03a9]")
_VARIABLES = frozenset("nkxyzijpqNKMX")
"""Letters that as superscripts of a number or of a letter are powers, and no ordinals (1o, 1a, 2d),
units (5h, 30m, 2s) or abbreviations (Mr, Me)."""
_EMPHASIS = f"'{SEPARATOR}"
_BASES = frozenset(")]}|>″\u2032²")


def plain_scripts(text: str) -> str:
    """`text` without the tags <sup> and <sub>, which are in lower case and without attributes."""
    if "<su" not in text:
        return text
    if "</sub>" in text:
        text = _FRACTION.sub(_fraction, text)
    for _ in range(_MAX_NESTING):
        text, count = _SCRIPT.subn(_plain, text)
        if not count:
            break
    return _TAG.sub("", text)


def _fraction(match: re.Match[str]) -> str:
    is_mixed = match.string[match.start() - 1 : match.start()].isdigit()
    return f"{' ' if is_mixed else ''}{match[1]}/{match[2]}"


def _plain(match: re.Match[str]) -> str:
    text, start, inner = match.string, match.start(), match[2]
    end = start
    while end > 0 and start - end < 8 and text[end - 1] in _EMPHASIS:
        end -= 1
    if text[end:start] == "'":
        return inner
    base, before = text[end - 1 : end], text[end - 2 : end - 1]
    if base == ";" and (entity := _ENTITY.fullmatch(text, text.rfind("&", end - 10, end), end)):
        base, before = unescaped(entity[0]), ""
    marks = _QUOTES.findall(inner)
    script = unescaped(_QUOTES.sub("", inner)).strip()
    if not script or not (base.isalnum() or base in _BASES):
        return inner
    is_marked = bool(marks) or end < start
    is_single = base.isdigit() or not before.isalnum()
    if match[1] == "sup":
        mark = "^" if _is_power(script, bool(marks), is_marked, is_single) else ""
    else:
        # The base of a numeral system, or an index beside an exponent.
        is_apart = script.isdigit() and (base.isdigit() or text.endswith("</sup>", 0, end))
        mark = "_" if is_apart or _is_index(script, bool(marks)) else ""
    if not mark:
        # "log<sub>2</sub>3" has no number 23.
        is_glued = script[-1].isdigit() and text[match.end() : match.end() + 1].isdigit()
        return f"{inner} " if is_glued and match[1] == "sub" else inner
    # The marks of emphasis stay balanced.
    rest = "".join(marks) if len(marks) % 2 else ""
    if not _NO_BRACKETS.fullmatch(script) and not _BRACKETED.fullmatch(script):
        script = f"({script})"
    return f"{mark}{script}{rest}"


def _is_power(script: str, is_italic: bool, is_marked: bool, is_single: bool) -> bool:
    """`is_marked`: the script or its base is emphasized, as variables are; `is_single`: the base is
    a number or one letter."""
    if not any(character.isalnum() or character == "∞" for character in script):
        return False
    if len(script) == 1 and script.isalpha():
        is_variable = script in _VARIABLES and (is_single or is_marked)
        return (
            is_italic
            or is_variable
            or _GREEK.match(script) is not None
            or (is_marked and is_single and script.isupper())
        )
    if not _FORMULA.fullmatch(script) or _ORDINAL.fullmatch(script) or _WORD.search(script):
        return False
    return (
        is_italic
        or script[:1].isdigit()
        or _OPERATION.search(script) is not None
        or _GREEK.search(script) is not None
    )


def _is_index(script: str, is_italic: bool) -> bool:
    if not _FORMULA.fullmatch(script) or _WORD.search(script):
        return False
    is_operation = _OPERATION.search(script) is not None and script[:1].isalnum()
    return (is_italic and any(map(str.isalpha, script))) or is_operation
