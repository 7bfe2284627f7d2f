"""Tells whether an unknown template is part of the sentence around it, and which argument it shows.

Most unknown templates within a line are notes, which stand close to the word before them, or show
nothing. One that stands as a word of a sentence, after a space or an opening bracket, nearly always
shows its first argument, where that reads like text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_pipeline.sources.wikipedia.templates import first_text, split_arguments

_NOTE = re.compile(
    r"(?:s?fn|sfn|efn|refn?|rp?|note|nota|cite|cita|anchor|ancre|anker|flag|audio|coord|commons|see"
    r"|main|portal|webarchive|dead link|hidden|clear|tfd|legend|icon|link)\b.*"
)
_TEXT = re.compile(r"[\w(«“\"'][^\n=|]{0,300}")
_NOT_TEXT = re.compile(r"://|\.\w{2,4}$|[_<>{}\[\]#]|^\d+$")
_WORD = re.compile(r"[^\W\d_]{2}")
_ONE_WORD = re.compile(r"[^\W\d_]{4,}(?:['’-][^\W\d_]+)*")
_AFTER = re.compile(r"[,;]?[ \u00a0][a-zß-ÿа-я]")
"""A sentence that goes on, after a template at its beginning."""
_BEFORE = re.compile(r"[\w,;:)»”\"'–—-][ \u00a0]+[(«“\"'\[]?$|[\w ][(«“\"'’–—]$")


def sentence_part(parts: Sequence[str], before: str, after: str) -> str:
    """The argument that an unknown template shows as part of a sentence; "" if there is none.

    `parts` are its name and arguments, `before` and `after` what stands there on the page.
    """
    name = parts[0].replace("_", " ").strip().lower()
    if len(parts) == 1 or not _is_in_sentence(before, after) or _NOTE.fullmatch(name):
        return ""
    arguments = split_arguments(parts[1:])
    text = first_text(arguments)
    return text if _reads_like_text(text, len(arguments.positional) <= 1) else ""


def _is_in_sentence(before: str, after: str) -> bool:
    line = before.rpartition("\n")[2]
    if _WORD.search(line):
        return _BEFORE.search(line) is not None
    return _AFTER.match(after) is not None


def _reads_like_text(text: str, is_alone: bool) -> bool:
    """Several words, or one that is the only argument: beside others it is a code or a
    color, with a capital the key of a number."""
    if not _TEXT.fullmatch(text) or _NOT_TEXT.search(text):
        return False
    words = text.split()
    if len(words) == 1:
        return is_alone and text.islower() and _ONE_WORD.fullmatch(text) is not None
    return any(word.islower() for word in words)
