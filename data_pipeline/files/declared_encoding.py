"""The encoding that a text file declares in its own first lines, as far as that can be true."""

from __future__ import annotations

import codecs

_ASCII_SAMPLE = bytes(set(range(0x20, 0x7F)) - {0x5C}) + b"\\n \\u0041 +AGE- \n<a.b-c>"
"""Every printable character, and what escape sequences and UTF-7 look like."""
_ASCII_TEXT = _ASCII_SAMPLE.decode("ascii")


def declared_codec(label: str) -> str | None:
    """Python's name of an encoding that a text declares in its own ASCII letters; None if it cannot
    be that: unknown, no character encoding (hex, zip), or one in which these letters are others
    (UTF-16, EBCDIC, punycode).
    """
    try:
        name = codecs.lookup(label).name
        if codecs.getincrementaldecoder(name)("replace").decode(_ASCII_SAMPLE) != _ASCII_TEXT:
            return None
    except (LookupError, ValueError, TypeError, AssertionError, ImportError):
        return None
    return name
