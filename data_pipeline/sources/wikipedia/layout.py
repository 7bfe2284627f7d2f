"""Lays out a page's lines: headings, lists, empty sections, what is left of broken tables."""

from __future__ import annotations

import re

_MAX_INDENT = 8
_STRAY_BAR = re.compile(r"^(?:\{\||\|\}|\|(?![^\s|][^|\n]{0,80}\|)[ \t]*)+", re.MULTILINE)
"""What the layout leaves of tables; "|x|" is an absolute value."""
_LEADING_SEPARATOR = re.compile(r"\A[,;.:]+[ \t]+")
_RULER = re.compile(r"-{4,}[ \t]*")
_ONLY_PUNCTUATION = re.compile(r"[\s.,;:·•|*'\"()\[\]–—-]*")


def lay_out(text: str) -> str:
    """Headings between blank lines, lists with dashes and numbers, no empty sections."""
    lines: list[tuple[int, str]] = []
    counters: dict[str, int] = {}
    for line in text.split("\n"):
        if line[:1] in ("*", "#", ":", ";"):
            if item := _list_item(line, counters):
                lines.append((0, item))
            continue
        counters.clear()
        level, title = _heading(line)
        if level:
            if title:
                lines.append((level, title))
        elif _ONLY_PUNCTUATION.fullmatch(line) or _RULER.match(line):
            lines.append((0, ""))
        else:
            lines.append((0, line))
    text = "\n".join(
        f"\n{line}\n" if level else line for level, line in _without_empty_sections(lines)
    )
    return _STRAY_BAR.sub("", text)


def _heading(line: str) -> tuple[int, str]:
    """Level and title of a heading; level 0 for any other line."""
    line = line.strip()
    if not line.startswith("=") or not line.endswith("=") or len(line) < 3:
        return 0, ""
    opening = len(line) - len(line.lstrip("="))
    closing = len(line) - len(line.rstrip("="))
    level = min(opening, closing, 6)
    return level, line[level:-level].strip("= ")


def _list_item(line: str, counters: dict[str, int]) -> str:
    """A list item; empty without content. `counters` numbers the open ordered lists."""
    body = line.lstrip("*#:;")
    marker = line[: len(line) - len(body)]
    body = _LEADING_SEPARATOR.sub("", body.strip())
    for other in [key for key in counters if not marker.startswith(key)]:
        del counters[other]
    if _ONLY_PUNCTUATION.fullmatch(body):
        return ""
    if marker[-1] in ":;":
        return body
    if marker[-1] == "#":
        counters[marker] = counters.get(marker, 0) + 1
    indent = "  " * (sum(mark in "*#" for mark in marker[:_MAX_INDENT]) - 1)
    return f"{indent}{counters[marker]}. {body}" if marker[-1] == "#" else f"{indent}- {body}"


def _without_empty_sections(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Drop headings without content before the next heading of their level."""
    kept: list[tuple[int, str]] = []
    has_text = False
    next_level = 0
    for level, line in reversed(lines):
        if not level:
            has_text = has_text or bool(line.strip())
            kept.append((level, line))
        elif has_text or next_level > level:
            kept.append((level, line))
            has_text, next_level = False, level
    return kept[::-1]
