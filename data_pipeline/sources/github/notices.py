"""Strips boilerplate: copyright and license notices in the header comments of source files.

LLaMA, section 2.1: "we removed boilerplate, such as headers, with regular expressions". Notices
are searched for in the comments before the first line of code only, paragraph by paragraph: other
paragraphs of a comment are kept, and so is every line that is not a comment.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from data_pipeline.document import Document
from data_pipeline.sources.github.comments import Block, Line, leading_blocks, syntax_of
from data_pipeline.text.licenses import from_header

_PHRASES = (
    *("spdx-license-identifier", "licensed under", "licenced under", "licensed to the"),
    *("contributor license agreement", "license, version", "licence, version", "license version"),
    *("under the terms of", "under the license", "see the license", "see license", "see copying"),
    *("see the copyright file", "to change this license header", "to change this template"),
    *("license that can be found", "is governed by", "mit license", "mit licence"),
    *("apache license", "bsd license", "bsd-style license", "mit-style license"),
    *("mit style license", "isc license", "public license", "public licence", "software license"),
    *("license agreement", "3-clause", "2-clause", "/licenses/", "license.txt", "license.md"),
    *("license file in the root", "license file that was distributed", "@license", "@licence"),
    *("unless required by applicable", "you may not use this file", "you may obtain a copy"),
    *("permission is hereby granted", "permission to use, copy", "redistribution and use in"),
    *("redistributions of source", "redistributions in binary", "redistribute it and/or"),
    *("may be redistributed", "neither the name of", "nor the names of its"),
    *("endorse or promote products", "the name of the author may not"),
    *("all advertising materials", "software is provided", '"as is"', "``as is''", "'as is'"),
    *("'as-is'", '"as-is"', "without warranty", "without any warranty"),
    *("warranties or conditions", "express or implied", "no warranty", "merchantability"),
    *("in no event shall", "liable for any", "is free software"),
    *("you should have received a copy", "to the following restrictions"),
    *("must not be misrepresented", "altered source versions", "notice may not be removed"),
    *("above copyright notice", "this copyright notice", "for conditions of distribution"),
    *("in the public domain", "to the public domain", "into the public domain"),
    *("is released under", "is distributed under", "are distributed under"),
    *("unauthorized copying", "proprietary and confidential", "confidential and proprietary"),
    *("creative commons",),
)
"""Phrases (lower case) that mark a paragraph as a license notice."""

_COPYRIGHT = re.compile(
    r"^(?:@|\\)?(?:(?:Portions?|Parts?|Some parts)\W+(?:are )?)?"
    r"(?:[Cc]opyright|COPYRIGHT)(?:ed)?\W*(?:\([Cc]\)|©|\d|[A-Z]|by\b|holder|$)"
    r"|[Cc]opyright\W+(?:\([Cc]\)|©|\d{4}|by [A-Z])|\([Cc]\)\W*\d{4}|^\([Cc]\) [A-Z]|©|&copy;"
    r"|(?i:all rights reserved)|^SPDX-FileCopyrightText"
)
"""A copyright line."""

_LICENSE_FIELD = re.compile(r"@?licen[sc]e\s*[:=]\s*\S", re.IGNORECASE)

_GENERATED = re.compile(r"\bgenerated\b|\bdo not (?:edit|modify)\b", re.IGNORECASE)
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)*")


def remove_notices(text: str, name: str) -> tuple[str, str]:
    """Returns (text without copyright and license notices in its header, the notices' prose).

    `name` is the file name, which determines the comment syntax. What is kept is unchanged except
    for blank lines beside a removed comment. Idempotent.
    """
    notices: list[str] = []
    while (shorter := _remove_once(text, name, notices)) != text:
        text = shorter
    return text, "\n".join(notices)


def without_notices(document: Document) -> Document:
    """Edit: strip the notices, and combine the license that they name with the project's.

    A file of a permissive project that says it is under the GPL is not permissive.
    """
    text, notices = remove_notices(document.text, file_name(document))
    license = document.license
    named = from_header(notices) if notices else None
    if license is not None and named is not None:
        known = set(license.split())
        if " OR " not in named:
            new = [part for part in named.split(" AND ") if part not in known]
            license = " AND ".join([license, *new])
        elif not any(part.strip("()") in known for part in named.split(" OR ")):
            license = f"{license} AND ({named.strip('()')})"
    return replace(document, text=text, license=license)


def file_name(document: Document) -> str:
    """File name of the document's source file."""
    path = unquote(urlsplit(document.url).path) if document.url else document.source_file
    return PurePosixPath(path).name


def _remove_once(text: str, name: str, notices: list[str]) -> str:
    before = ""
    done = 0
    for block in leading_blocks(text, syntax_of(name)):
        said = [line.prose for line, is_notice in _marked(block) if is_notice]
        if not said:
            continue
        notices += said
        before += text[done : block.start]
        done = block.end
        if kept := _kept_lines(block):
            before += "\n".join(kept) + ("\n" if text[done - 1] == "\n" else "")
        elif not before or before.isspace() or before.endswith("\n\n"):
            before = "" if before.isspace() else before
            done = _BLANK_LINES.match(text, done).end()  # type: ignore[union-attr]  # matches ""
    return before + text[done:]


def _kept_lines(block: Block) -> list[str]:
    """What is kept of a comment; nothing if no word is left."""
    marked = _marked(block)
    if not any(line.prose and not is_notice for line, is_notice in marked):
        return []
    kept: list[Line] = []
    is_after_gap = False
    for line, is_notice in marked:
        if is_notice and line.stub is None:
            is_after_gap = True
            continue
        is_blank = is_after_gap and not line.prose
        if is_blank and line.stub is None and (not kept or (kept[-1].stub and not kept[-1].prose)):
            continue  # at the comment's new beginning
        # Of the blank lines around the gap one is kept, of decoration and a blank the decoration.
        if is_blank and kept and not kept[-1].prose and not kept[-1].stub:
            line = max(kept.pop(), line, key=lambda blank: (bool(blank.stub), len(blank.text)))
        kept.append(Line(line.stub, "", line.stub) if is_notice and line.stub is not None else line)
        is_after_gap = is_notice
    return [line.text for line in kept]


def _marked(block: Block) -> list[tuple[Line, bool]]:
    """Each line of a comment, and whether it belongs to a notice."""
    marked: list[tuple[Line, bool]] = []
    paragraph: list[Line] = []
    for line in [*block.lines, Line("", "")]:
        if line.prose:
            paragraph.append(line)
            continue
        first, last = _notice([line.prose for line in paragraph])
        marked += [
            # "Generated by" lines are kept for the filter of generated code, which runs later.
            (line, first <= i < last and not _GENERATED.search(line.prose))
            for i, line in enumerate(paragraph)
        ]
        marked.append((line, False))
        paragraph = []
    return marked[:-1]


def _notice(lines: list[str]) -> tuple[int, int]:
    """Range of the lines of one paragraph that are a notice; empty if none are."""
    paragraph = " ".join(lines).lower()
    copyright_lines = [i for i, line in enumerate(lines) if _COPYRIGHT.search(line)]
    speaks = any(phrase in paragraph for phrase in _PHRASES)
    if not speaks:
        fields = [i for i, line in enumerate(lines) if _LICENSE_FIELD.match(line)]
        told = sorted(copyright_lines + fields)
        # Names and dates may be removed with it, other content of the paragraph may not.
        return (told[0], told[-1] + 1) if told else (0, 0)
    first = next((i for i, line in enumerate(lines) if _speaks(line)), 0)
    if copyright_lines and copyright_lines[0] <= first:
        return copyright_lines[0], len(lines)
    # A sentence that mentions the license is removed from its beginning.
    while first > 0 and not lines[first - 1].endswith((".", ":", "!", "?")):
        first -= 1
    return first, len(lines)


def _speaks(line: str) -> bool:
    lower = line.lower()
    return any(phrase in lower for phrase in _PHRASES)
