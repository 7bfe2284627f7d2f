"""TeX tokenizer subset: control sequences, groups, macro arguments and verbatim text.

All functions take a text and a position and return the position after what they read. Where the
text is incomplete they return None, so that the caller may retry with more text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice

CONTROL_SEQUENCE = re.compile(r"\\([A-Za-z@]+|[\s\S])")
"""A control word or a control symbol. `@` counts as a letter, as it does inside style files."""

VERBATIM_ENVIRONMENTS = (
    *("verbatim", "Verbatim", "BVerbatim", "LVerbatim", "SaveVerbatim", "VerbatimOut", "alltt"),
    *("lstlisting", "minted", "filecontents", "verbatimtab", "boxedverbatim", "program"),
    *("Code", "CodeInput", "CodeOutput", "Sinput", "Soutput", "Scode", "pyverbatim", "tcblisting"),
)
"""Verbatim environments of LaTeX, fancyvrb, listings, minted, Sweave."""

_VERBATIM_DECLARATION = re.compile(
    r"\\(?:lstnewenvironment|DefineVerbatimEnvironment|(?:new|New|Declare)(?:tcb|TCB)[lL]isting)"
    r"\s*(?:\[[^\[\]]{0,200}\]\s*)?\{([A-Za-z]{1,50})\}"
)

_MAX_DECLARED = 100
"""Patterns have one alternative for each."""

INLINE_VERBATIM = (
    r"(?:verb\*?|(?:lstinline|mintinline)(?:\[[^\]\n]{0,200}\])?(?:\{[^{}\n]{0,50}\})?)"
    r"(?:(?P<delimiter>[^A-Za-z\s*{}\[\\])[^\n]{0,2000}?(?P=delimiter)|\{[^{}\n]{0,500}\})"
)
"""After a backslash: inline verbatim code."""

_VERBATIM_START = re.compile(
    r"\\(?:verb|lstinline|mintinline|lstnewenvironment|DefineVerbatim|(?:new|New|Declare)(?:tcb|TCB)"
    rf"|begin[ \t]*\{{(?:{'|'.join(VERBATIM_ENVIRONMENTS)}))"
)
_GROUP_TOKEN = re.compile(r"\\[\\{}]|[{}]")
_FLAT_GROUP = re.compile(r"\{([^{}\\]*)\}")
_BRACKET_TOKEN = re.compile(r"\\[\\{}\]]|[{}\]]")
_NOT_CONDITIONAL = re.compile(
    r"if(?:f$|thenelse|str|def(?!ined$)|undef|cs(?!name$)|bool|toggle|blank|num[a-z]|dim[a-z]|empty)"
)
_SPACES = re.compile(r"[ \t]*")
_BLANKS = re.compile(r"[ \t]*(?:\n[ \t]*)?")


def verbatim_environments(text: str) -> tuple[str, ...]:
    """The standard ones and those that this paper declares, up to `_MAX_DECLARED` of these."""
    declared = dict.fromkeys(_VERBATIM_DECLARATION.findall(text))
    return (*VERBATIM_ENVIRONMENTS, *sorted(islice(declared, _MAX_DECLARED)))


def tokens_outside_verbatim(token: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The matches of `token`, whose group `verbatim` is the name of an environment that begins.

    The content of such an environment is skipped, and so is the beginning of one without end.

    `token` has to match an escaped backslash, and an escaped per cent sign where it matches
    comments, so that what follows them is not taken for a command. Other control symbols it should
    not match: most of a paper's are of no concern, and each match costs a microsecond.
    """
    unclosed: set[str] = set()
    position: int | None = 0
    while position is not None:
        matches = token.finditer(text, position)
        position = None
        for match in matches:
            if match.lastgroup == "verbatim":
                name = match["verbatim"]
                end = -1 if name in unclosed else text.find(rf"\end{{{name}}}", match.end())
                if end < 0:
                    unclosed.add(name)
                    continue
                yield match
                position = end + len(rf"\end{{{name}}}")
                break
            yield match


def without_verbatim(text: str) -> str:
    r"""`text` with spaces in place of its verbatim text, inline or in an environment, so that what
    that only shows (`\verb|\end{document}|`) is not taken for a command. Positions stay."""
    if _VERBATIM_START.search(text) is None:
        return text
    names = "|".join(verbatim_environments(text))
    token = re.compile(
        rf"\\(?:begin[ \t]*\{{(?P<verbatim>(?:{names})\*?)\}}|(?P<inline>{INLINE_VERBATIM})|\\)"
    )
    pieces: list[str] = []
    done = 0
    for match in tokens_outside_verbatim(token, text):
        start, end = match.span()
        if name := match["verbatim"]:
            start, end = end, text.index(rf"\end{{{name}}}", end)
        elif match["inline"] is None:
            continue
        pieces += [text[done:start], " " * (end - start)]
        done = end
    return "".join((*pieces, text[done:]))


class Kind(Enum):
    """How a macro parses one of its parameters."""

    MANDATORY = auto()
    """A group, or one token."""
    OPTIONAL = auto()
    """In brackets; `text` is the default."""
    STAR = auto()
    """Whether a star follows."""
    DELIMITED = auto()
    """Delimited: everything before `text`."""
    LITERAL = auto()
    """Not a parameter: `text` has to follow."""


@dataclass(frozen=True)
class Parameter:
    kind: Kind
    text: str = ""


Signature = tuple[Parameter, ...]

TRUE, FALSE = r"\BooleanTrue", r"\BooleanFalse"
NO_VALUE = "-NoValue-"


def skip_spaces(text: str, position: int) -> int:
    """After spaces, which TeX skips after a control word. Line ends are kept."""
    match = _SPACES.match(text, position)
    assert match is not None, "the pattern matches the empty text"
    return match.end()


def skip_blanks(text: str, position: int) -> int:
    """After spaces and at most one line end, which TeX reads as one space."""
    match = _BLANKS.match(text, position)
    assert match is not None, "the pattern matches the empty text"
    return match.end()


def group_end(text: str, start: int) -> int | None:
    """After the brace that closes the one at `start`; None if there is none."""
    depth = 0
    for match in _GROUP_TOKEN.finditer(text, start):
        brace = match.group()
        if brace == "{":
            depth += 1
        elif brace == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    return None


def closing_brace(text: str) -> int | None:
    """Position of the first brace that closes a group opened before `text`."""
    depth = 0
    for match in _GROUP_TOKEN.finditer(text):
        depth += (match.group() == "{") - (match.group() == "}")
        if depth < 0:
            return match.start()
    return None


def read_argument(text: str, position: int) -> tuple[str, int] | None:
    """A group without its braces, or one token. None where there is neither."""
    position = skip_blanks(text, position)
    if flat := _FLAT_GROUP.match(text, position):
        return flat[1], flat.end()
    first = text[position : position + 1]
    if first == "{":
        end = group_end(text, position)
        return None if end is None else (text[position + 1 : end - 1], end)
    if first == "\\":
        match = CONTROL_SEQUENCE.match(text, position)
        if match is None:
            return None
        is_word = match[1][-1].isalpha()
        return match.group(), skip_spaces(text, match.end()) if is_word else match.end()
    # A blank line ends the paragraph, and macro arguments do not cross it.
    return None if first in ("", "}", "\n") else (first, position + 1)


def read_optional(text: str, position: int) -> tuple[str | None, int] | None:
    """The content of brackets; if no bracket follows, None in its place and nothing is consumed.

    As in TeX the first `]` outside braces ends it.
    """
    start = skip_blanks(text, position)
    if text[start : start + 1] != "[":
        return None, position
    depth = 0
    for match in _BRACKET_TOKEN.finditer(text, start + 1):
        token = match.group()
        if token == "]" and depth == 0:
            return text[start + 1 : match.start()], match.end()
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            if depth < 0:
                return None
    return None


def read_delimited(text: str, position: int, delimiter: str) -> tuple[str, int] | None:
    """Text before the first `delimiter` outside braces, without braces around all of it."""
    is_word = delimiter[0] == "\\" and delimiter[-1].isalpha()
    pattern = re.escape(delimiter) + ("(?![A-Za-z])" if is_word else "")
    depth = 0
    for match in re.compile(rf"({pattern})|\\[\s\S]|[{{}}]").finditer(text, position):
        token = match.group()
        if match[1] is not None and depth == 0:
            argument, end = text[position : match.start()], match.end()
            if argument[:1] == "{" and group_end(argument, 0) == len(argument):
                argument = argument[1:-1]
            return argument, skip_spaces(text, end) if is_word else end
        depth += (token == "{") - (token == "}")
        if depth < 0:
            return None
    return None


def read_arguments(
    signature: Signature, text: str, position: int, *, is_all: bool
) -> tuple[list[str], int] | None:
    """The arguments of a macro whose name ends at `position`.

    `is_all`: nothing follows `text`; if False, None where the continuation might be an argument.
    """
    arguments: list[str] = []
    for kind, expected in [(parameter.kind, parameter.text) for parameter in signature]:
        if kind is Kind.MANDATORY:
            argument = read_argument(text, position)
            if argument is None:
                return None
            value, position = argument
            arguments.append(value)
            continue
        start = skip_blanks(text, position)
        if start == len(text) and not is_all:
            return None
        if kind is Kind.OPTIONAL:
            optional = read_optional(text, position)
            if optional is None:
                return None
            arguments.append(expected if optional[0] is None else optional[0])
            position = optional[1]
        elif kind is Kind.STAR:
            star = text[start : start + 1] == "*"
            arguments.append(TRUE if star else FALSE)
            position = start + 1 if star else position
        elif kind is Kind.LITERAL:
            start = start if text.startswith(expected, start) else position
            if not text.startswith(expected, start):
                return None
            position = start + len(expected)
        else:
            delimited = read_delimited(text, position, expected)
            if delimited is None:
                return None
            value, position = delimited
            arguments.append(value)
    return arguments, position


def read_branches(text: str) -> tuple[tuple[str, str], int] | None:
    """The two branches of a conditional, before and after \\else, up to its \\fi."""
    depth, otherwise = 0, None
    for match in CONTROL_SEQUENCE.finditer(text):
        name = match[1]
        if name == "fi" and depth == 0:
            first = text[: (otherwise or match).start()].lstrip(" \t")
            second = text[otherwise.end() : match.start()].lstrip(" \t") if otherwise else ""
            return (first, second), skip_spaces(text, match.end())
        if name == "fi":
            depth -= 1
        elif name == "else" and depth == 0:
            otherwise = match
        elif name.startswith("if") and not _NOT_CONDITIONAL.match(name):
            depth += 1
    return None


def ends_with_word(text: str) -> bool:
    """Whether `text` ends with a control word, so that a following letter would join it."""
    if not text or not text[-1].isascii() or not text[-1].isalpha():
        return False
    name = text[text.rfind("\\") + 1 :]
    return len(name) < len(text) and name.isascii() and name.isalpha()
