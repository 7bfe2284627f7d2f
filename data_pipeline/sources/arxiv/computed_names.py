r"""Commands whose name is computed: `\csname NAME\endcsname`, and their definitions.

Such a name may have characters that no written command has (`\csname result-7\endcsname`): files of
results that a program wrote use them for numbers. Here it becomes a name of letters, so that its
definition and its uses are those of any other macro.
"""

from __future__ import annotations

import re

from data_pipeline.sources.arxiv.definitions import Definition, ReadDefinition
from data_pipeline.sources.arxiv.tex_tokens import read_argument

_NAME = r"(?:[^\\{}\n%]{1,100})"
_COMPUTED = re.compile(rf"({_NAME})\\endcsname(?![A-Za-z@])")
_DEFINED = re.compile(
    r"\s*\\(?P<command>[A-Za-z@]+)\*?\s*(?:\\expandafter\s*)?(?:\{\s*)?"
    rf"\\csname(?![A-Za-z@])\s*(?P<name>{_NAME})\\endcsname(?![A-Za-z@])(?:\s*\}})?"
)
LOOKAHEAD = 400
"""Characters within which a computed name ends."""


def letters_only(name: str) -> str:
    """The name itself, or one of letters and "@" that stands for it alone."""
    if name.isascii() and name.isalpha():
        return name
    digits = "".join(f"{ord(character):06x}" for character in name)
    return "@" + "".join(chr(ord("a") + int(digit, 16)) for digit in digits)


def read_computed(text: str) -> tuple[str, int] | None:
    r"""The name after `\csname`, and the position after its `\endcsname`."""
    match = _COMPUTED.match(text)
    return None if match is None else (letters_only(match[1].strip()), match.end())


def defining_command(text: str) -> str | None:
    r"""The command that defines a computed name after `\expandafter`."""
    match = _DEFINED.match(text)
    return None if match is None else match["command"]


def read_defined(read: ReadDefinition, text: str, position: int) -> tuple[Definition, int] | None:
    r"""What `read` reads after the defining command, which is read here with its computed name."""
    match = _DEFINED.match(text, position)
    if match is None:
        return None
    name = rf"{{\{letters_only(match['name'].strip())}}}"
    found = read(name + text[match.end() :], 0)
    return None if found is None else (found[0], found[1] - len(name) + match.end())


def read_named(read: ReadDefinition, text: str, position: int) -> tuple[Definition, int] | None:
    r"""`\@namedef{NAME}`: as `read` of `\def\NAME`."""
    named = read_argument(text, position)
    if named is None or "\\" in named[0] or not named[0].strip():
        return None
    name = rf"{{\{letters_only(named[0].strip())}}}"
    found = read(name + text[named[1] :], 0)
    return None if found is None else (found[0], found[1] - len(name) + named[1])
