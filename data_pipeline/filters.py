"""Reasons to drop a document. Pure functions; every threshold is an argument.

A filter gets the document after all edits and gives the reason for which it is dropped, or None.
RedPajama v1 means its GitHub filters, which follow the paper's rule (LLaMA, section 2.1: "line
length or proportion of alphanumeric characters", without figures).
"""

from __future__ import annotations

import re

from data_pipeline.document import Document
from data_pipeline.licences import is_allowed

_GENERATED = re.compile(
    r"@generated|\bdo not edit\b|\bdo not modify\b|\bauto-?(?:matically )?generated\b"
    r"|\bgenerated (?:by|from) ",
    re.IGNORECASE,
)
_COMMENT_LINE = re.compile(r"^[ \t]*(?:#|//|/\*|\*|--|;|<!--|\"\"\"|''').*$", re.MULTILINE)


def too_short(document: Document, *, min_characters: int) -> str | None:
    """Fewer characters than this, surrounding white space not counted."""
    return "too_short" if len(document.text.strip()) < min_characters else None


def long_line(document: Document, *, max_characters: int) -> str | None:
    """A line longer than this: minified or data. RedPajama v1: 1,000."""
    longest = max(map(len, document.text.split("\n")))
    return "long_line" if longest > max_characters else None


def long_mean_line(document: Document, *, max_characters: float) -> str | None:
    """Lines longer than this on average (line ends not counted). RedPajama v1: 100."""
    num_newlines = document.text.count("\n")
    mean = (len(document.text) - num_newlines) / (num_newlines + 1)
    return "long_mean_line" if mean > max_characters else None


def few_alphanumerics(document: Document, *, min_share: float) -> str | None:
    """A smaller share of letters and digits among all characters. RedPajama v1: 0.25."""
    count = sum(map(str.isalnum, document.text))
    return "few_alphanumerics" if count < min_share * len(document.text) else None


def many_digits(document: Document, *, max_share: float) -> str | None:
    """A larger share of digits among letters and digits: tables of numbers in a source file."""
    num_digits = sum(map(str.isdigit, document.text))
    num_alphanumerics = sum(map(str.isalnum, document.text))
    return "many_digits" if num_digits > max_share * num_alphanumerics else None


def generated_code(document: Document, *, head_characters: int) -> str | None:
    """Says in a comment near its start that a program wrote it.

    The phrases are those by which GitHub's Linguist and code search know generated files.
    """
    comments = _COMMENT_LINE.findall(document.text[:head_characters])
    return "generated_code" if _GENERATED.search("\n".join(comments)) else None


def licence_not_allowed(document: Document, *, allowed: frozenset[str]) -> str | None:
    """Licence unknown or not among `allowed` (SPDX ids). LLaMA: Apache, BSD and MIT only."""
    return None if is_allowed(document.licence, allowed) else "licence_not_allowed"
