# ruff: noqa: RUF001 - the table is one of characters that look like others
"""Text normalization for paragraph hashing (deduplication) and for language-model scoring.

Both follow the description in CCNet (Wenzek et al., arXiv 1911.00359).
"""

from __future__ import annotations

import re
import unicodedata

_ASCII_PUNCTUATION = {
    '"': "„“”«»「」《》",
    "'": "´‘’",
    ",": "，、",
    ".": "。．",
    ":": "∶：",
    ";": "；",
    "?": "？",
    "!": "！",
    "(": "（",
    ")": "）",
    "[": "【",
    "]": "】",
    "<": "〈",
    ">": "〉",
    "-": "–━►",
    " - ": "—",
    "~": "～",
    "...": "…",
    "%": "％",
}
"""ASCII replacements of typographic and East Asian punctuation, for scoring (as in CCNet)."""

_CONTROLS = bytes(sorted({*range(0x20), 0x7F}))
_ALL_CONTROLS = frozenset({*_CONTROLS, *range(0x80, 0xA0)})
_SPACES = b"\t\n\v\f\r"
_FOR_SCORING: dict[int, str | None] = {
    **dict.fromkeys(_ALL_CONTROLS),
    **dict.fromkeys(_SPACES, " "),
    **{ord(c): ascii_ for ascii_, chars in _ASCII_PUNCTUATION.items() for c in chars},
}
_FOR_HASHING: dict[int, None] = dict.fromkeys(
    code
    for code in range(0x20000)  # no punctuation lies in higher planes
    if code in _ALL_CONTROLS or unicodedata.category(chr(code))[0] == "P"
)
_DIGIT = re.compile(r"\d")

# The same for ASCII, on bytes: 10 times as fast.
_LOWER_ZEROS = bytes(
    ord("0") if chr(code).isdigit() and code < 0x80 else ord(bytes([code]).lower())
    for code in range(0x100)
)
_LOWER_ZEROS_SPACES = bytes(
    ord(" ") if code in _SPACES else mapped for code, mapped in enumerate(_LOWER_ZEROS)
)
_NOT_SCORED_ASCII = bytes(code for code in _CONTROLS if code not in _SPACES)
_NOT_HASHED_ASCII = bytes(code for code in range(0x80) if code in _FOR_HASHING)


def paragraph_key(paragraph: str) -> str:
    """The normalized form by which paragraphs are deduplicated: lower case, every digit "0", no
    accents, no punctuation of any script, no control characters, no surrounding whitespace.

    That is what CCNet's paper says (section 3.1: "lower-casing all characters, replacing numbers by
    a placeholder (i.e. 0) and removing all Unicode punctuation and accent marks"). Its code keeps
    accents and ASCII punctuation, and removes 34 characters of other scripts only; so it finds
    fewer paragraphs the same.
    """
    if paragraph.isascii():
        data = paragraph.encode().translate(_LOWER_ZEROS, _NOT_HASHED_ASCII)
        return data.decode("ascii").strip()
    text = _without_accents(paragraph.lower()).translate(_FOR_HASHING)
    return _DIGIT.sub("0", text).strip()


def ascii_keys(paragraphs: bytes) -> list[bytes]:
    """`paragraph_key` of every line of ASCII text."""
    data = paragraphs.translate(_LOWER_ZEROS, _NOT_HASHED_ASCII.replace(b"\n", b""))
    return list(map(bytes.strip, data.split(b"\n")))


def normalize_for_scoring(text: str) -> str:
    """The text normalized to one line for the n-gram LM: lower case, every digit "0", no accents,
    typographic and East Asian punctuation as ASCII, no control characters, whitespace as single
    spaces.

    CCNet's code joins the lines of a document with nothing between them, which merges two words;
    here a space separates them. It also turns a full-width digit one into a quotation mark.
    """
    if text.isascii():
        data = text.encode().translate(_LOWER_ZEROS_SPACES, _NOT_SCORED_ASCII)
        return b" ".join(data.split()).decode("ascii")
    text = _DIGIT.sub("0", _without_accents(text.lower()))
    return " ".join(text.translate(_FOR_SCORING).split())


def _without_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    if decomposed.isascii():
        return decomposed
    marks = {ord(c): None for c in set(decomposed) if unicodedata.category(c) == "Mn"}
    return unicodedata.normalize("NFC", decomposed.translate(marks))
