"""Texts that ask the most of a regular expression, made from the expression itself.

For each unbounded repetition: a text that leads to it, then the repeated piece n times, then what
ends no match; and the whole of it n times. An expression that backtracks or begins anew at every
place takes quadratic time on one of them.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any

_parser = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
_MANY = 1_000
"""A repetition of at least as many is taken for an unbounded one."""
_CANDIDATES = "a1 \t\n.-_*(\\\"'é\x00Z"


def texts(pattern: re.Pattern[Any], size: int) -> Iterator[str]:
    """Texts of about `size` characters against `pattern`."""
    flags = pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags
    tree = _parser.parse(pattern.pattern, flags)
    for lead, piece in dict.fromkeys(_repetitions(list(tree), flags)):
        many = max(1, size // max(1, len(piece)))
        for end in ("\x00", "x", "\n\x01"):
            yield lead + piece * many + end
        whole = lead + piece
        if whole:
            yield whole * (size // len(whole))
            yield (whole + " ") * (size // (len(whole) + 1))


def _repetitions(nodes: list[Any], flags: int) -> Iterator[tuple[str, str]]:
    """Each unbounded repetition: the text before it, and the text of its piece."""
    lead = ""
    for node in nodes:
        name, value = str(node[0]), node[1]
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            _, most, inner = value
            if int(most) >= _MANY:
                yield from ((lead, piece) for piece in _pieces(list(inner), flags))
            yield from ((lead + a, b) for a, b in _repetitions(list(inner), flags))
        elif name == "SUBPATTERN":
            yield from ((lead + a, b) for a, b in _repetitions(list(value[3]), flags))
        elif name == "BRANCH":
            for branch in value[1]:
                yield from ((lead + a, b) for a, b in _repetitions(list(branch), flags))
        elif name in ("ASSERT", "ASSERT_NOT"):
            yield from ((lead + a, b) for a, b in _repetitions(list(value[1]), flags))
        lead += _sample([node], flags)


def _pieces(nodes: list[Any], flags: int) -> Iterator[str]:
    """Texts that the repeated nodes match: of a class also blanks and line ends."""
    piece = _sample(nodes, flags)
    if piece:
        yield piece
    if len(nodes) == 1 and str(nodes[0][0]) in ("IN", "ANY", "NOT_LITERAL", "CATEGORY"):
        yield from (c for c in " \n." if c != piece and _is_in(c, nodes[0]))


def _sample(nodes: list[Any], flags: int) -> str:
    """A short text that these nodes match, as a rule."""
    pieces: list[str] = []
    for node in nodes:
        name, value = str(node[0]), node[1]
        if name == "LITERAL":
            pieces.append(chr(value))
        elif name in ("NOT_LITERAL", "ANY", "IN", "CATEGORY"):
            pieces.append(_character(node, flags))
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            pieces.append(_sample(list(value[2]), flags) * max(1, min(int(value[0]), 20)))
        elif name == "SUBPATTERN":
            pieces.append(_sample(list(value[3]), flags))
        elif name == "ATOMIC_GROUP":
            pieces.append(_sample(list(value), flags))
        elif name == "BRANCH":
            pieces.append(_sample(list(value[1][0]), flags))
    return "".join(pieces)


def _character(node: Any, flags: int) -> str:
    """A character of a class; of several the one that is least like a word."""
    name, value = str(node[0]), node[1]
    items = value if name == "IN" else [node]
    negated = name == "NOT_LITERAL" or (name == "IN" and str(items[0][0]) == "NEGATE")
    if not negated and name == "IN":
        for kind, what in items:
            if str(kind) == "LITERAL":
                return chr(what)
            if str(kind) == "RANGE":
                return chr(what[0])
    return next((c for c in _CANDIDATES if _is_in(c, node)), "a")


def _is_in(character: str, node: Any) -> bool:
    name, value = str(node[0]), node[1]
    if name == "ANY":
        return character != "\n"
    if name == "NOT_LITERAL":
        return bool(ord(character) != value)
    if name == "CATEGORY":
        return _in_category(character, str(value))
    found = False
    negated = False
    for kind, what in value:
        kind = str(kind)
        if kind == "NEGATE":
            negated = True
        elif kind == "LITERAL":
            found |= ord(character) == what
        elif kind == "RANGE":
            found |= what[0] <= ord(character) <= what[1]
        else:
            found |= _in_category(character, str(what))
    return found != negated


def _in_category(character: str, category: str) -> bool:
    letter = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[category.rpartition("_")[2]]
    return (re.match(letter, character) is not None) != ("NOT" in category)
