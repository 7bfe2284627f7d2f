"""Finds HTML elements with more attributes than a parser takes in good time."""

from __future__ import annotations

import re

MAX_ATTRIBUTES = 1_000
"""Attributes of one element. Pages have tens; libxml2 and lexbor compare each with all before it,
and take ten seconds for 40,000."""

# As the HTML Standard tokenizes (section 13.2.5): a name may begin with "=", and a quotation mark
# is one only where a value begins. Nothing follows the last part, so that nothing is read twice.
_ATTRIBUTE = (
    r"[\s/]*([^\s/>][^\s/>=]*)"
    r"(?:\s*=\s*(?:\"[^\"]*(?:\"|\Z)|'[^']*(?:'|\Z)|[^\s\"'>][^\s>]*)?)?"
)
_TAG = re.compile(rf"<[a-zA-Z]([^\s/>]{{0,99}}[\s/]|[^\s/>]{{100}})(?:{_ATTRIBUTE})*")
_ONE = re.compile(_ATTRIBUTE)
_SHORTEST = 2 * MAX_ATTRIBUTES
"""Characters of a tag with more attributes."""
_TAG_START = re.compile(r"<[a-zA-Z]")
_QUOTED_END = re.compile(r"=(?:\"[^\">]*>|'[^'>]*>|\s+(?:\"[^\">]*|'[^'>]*)>)")
"""A ">" within a value."""


def many_attributes(html: str) -> int | None:
    """The number of attributes of the first element that has more than `MAX_ATTRIBUTES`; None if
    there is none."""
    if len(html) < _SHORTEST or not _may_have_long_tag(html):
        return None
    for tag in _TAG.finditer(html):
        start, end = tag.span()
        if end - start >= _SHORTEST and (number := _number(html, tag.end(1), end)) > MAX_ATTRIBUTES:
            return number
    return None


def _may_have_long_tag(html: str) -> bool:
    """Whether a tag may have `_SHORTEST` characters: they stand before its first ">", unless that
    is within a value. Much faster than `_TAG`, and hardly any page has one."""
    parts = [part for part in html.split(">") if len(part) >= _SHORTEST]
    # Of each part, the beginnings that leave room for so many characters.
    if any(_TAG_START.search(part, 0, len(part) - _SHORTEST + 2) for part in parts):
        return True
    return _QUOTED_END.search(html) is not None


def _number(html: str, start: int, end: int) -> int:
    """Distinct names of the attributes between these positions: those of one name are one."""
    names: set[str] = set()
    while match := _ONE.match(html, start, end):
        names.add(match[1].lower())
        start = match.end()
    return len(names)
