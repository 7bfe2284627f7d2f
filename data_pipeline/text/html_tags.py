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


def many_attributes(html: str) -> int | None:
    """The number of attributes of the first element that has more than `MAX_ATTRIBUTES`; None if
    there is none."""
    shortest = 2 * MAX_ATTRIBUTES
    if len(html) < shortest:
        return None
    for tag in _TAG.finditer(html):
        start, end = tag.span()
        if end - start >= shortest and (number := _number(html, tag.end(1), end)) > MAX_ATTRIBUTES:
            return number
    return None


def _number(html: str, start: int, end: int) -> int:
    """Distinct names of the attributes between these positions: those of one name are one."""
    names: set[str] = set()
    while match := _ONE.match(html, start, end):
        names.add(match[1].lower())
        start = match.end()
    return len(names)
