"""Parses LaTeX macro definitions: signature (parameters) and replacement text.

Every `read_*` function gets a text and the position after the defining command's name. It returns
the definition and the position after it, or None if there is no complete definition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_pipeline.sources.arxiv.tex_tokens import (
    NO_VALUE,
    Kind,
    Parameter,
    Signature,
    ends_with_word,
    read_argument,
    read_optional,
)

_NAME = re.compile(
    r"\s*(?:\*\s*)?(?:\{\s*\\([A-Za-z@]+|[^A-Za-z@\s])\s*\}|\\([A-Za-z@]+|[^A-Za-z@\s]))\s*"
)
_TARGET = re.compile(r"[ \t]*=?[ \t]?(?:\\([A-Za-z@]+|[\s\S])|([^\s{}]))")
# One alternative per first character, and nothing after the star: no backtracking.
_PARAMETER_TEXT = re.compile(r"(?:[^{}#\\]|\\[\s\S]|#[1-9])*")
_PARAMETER = re.compile(r"#([1-9])")
_SLOT = re.compile(r"#(#|[1-9])")
_SPACE = re.compile(r"\s*")
_ENVIRONMENT_NAME = re.compile(r"\s*(?:\*\s*)?\{([^{}\\]{1,100})\}\s*")
_DOCUMENT_PARAMETER = re.compile(r"\s*[+!]?([mos]|O\s*\{([^{}]*)\})")
_AMSTEX = re.compile(r"\\(?:input|documentstyle)\s*(?:\{\s*)?ams(?:tex|ppt)")
_AMSTEX_DEFINE = re.compile(r"\\(?:re)?define(?=\s*\\)")
_MANDATORY = Parameter(Kind.MANDATORY)

_MAX_PARAMETER_TEXT = 500


@dataclass(frozen=True)
class Macro:
    """Replacement text: `texts[0]`, argument `numbers[0]`, `texts[1]`, and so on."""

    signature: Signature
    texts: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    is_literal: bool = False
    """Not expanded any further."""

    def expansion(self, arguments: Sequence[str]) -> str:
        """The replacement text with its arguments substituted."""
        if not self.numbers:
            return self.texts[0]
        pieces = [self.texts[0]]
        last = pieces[0]
        for number, text in zip(self.numbers, self.texts[1:], strict=True):
            for piece in (arguments[number - 1], text):
                if piece:
                    if piece[0].isalpha() and ends_with_word(last):
                        pieces.append(" ")
                    pieces.append(piece)
                    last = piece
        return "".join(pieces)


Definition = tuple[str, Macro]
"""Name, without backslash, and macro."""
ReadDefinition = Callable[[str, int], tuple[Definition, int] | None]
"""Reads a definition after the name of its command."""


def literal(text: str) -> Macro:
    """A macro whose replacement is `text` verbatim, not expanded any further."""
    return Macro((), (text,), is_literal=True)


def macro(signature: Signature, body: str) -> Macro:
    """A macro from its parameters and the text between its braces. `##` becomes `#`."""
    num_arguments = sum(parameter.kind is not Kind.LITERAL for parameter in signature)
    texts, numbers, start, pending = [], [], 0, ""
    for slot in _SLOT.finditer(body):
        pending += body[start : slot.start()]
        start = slot.end()
        if slot[1] == "#":
            pending += "#"
        elif int(slot[1]) <= num_arguments:
            texts.append(pending)
            numbers.append(int(slot[1]))
            pending = ""
        else:
            pending += slot.group()
    texts.append(pending + body[start:])
    return Macro(signature, tuple(texts), tuple(numbers))


def with_tex_definitions(text: str) -> str:
    """An AMS-TeX paper with `\\def` in place of `\\define` and `\\redefine`; in LaTeX these are
    ordinary names."""
    return _AMSTEX_DEFINE.sub(r"\\def", text) if _AMSTEX.search(text) else text


def read_name(text: str, position: int) -> tuple[str, int] | None:
    """`\\name` or `{\\name}`, after a star, which is ignored."""
    match = _NAME.match(text, position)
    return None if match is None else (match[1] or match[2], match.end())


def read_newcommand(text: str, position: int) -> tuple[Definition, int] | None:
    """`{\\name}[number][default]{body}`, and the same without the first braces."""
    named = read_name(text, position)
    if named is None:
        return None
    counted = _read_count(text, named[1])
    if counted is None:
        return None
    signature, position = counted
    body = read_argument(text, _skip_space(text, position))
    return None if body is None else ((named[0], macro(signature, body[0])), body[1])


def _read_count(text: str, position: int) -> tuple[Signature, int] | None:
    """`[number][default]`, both optional."""
    count = read_optional(text, position)
    if count is None:
        return None
    number = 0
    if count[0] is not None:
        digits = count[0].strip()
        if len(digits) != 1 or not digits.isdecimal():
            return None
        number = int(digits)
    default = read_optional(text, count[1]) if number else (None, count[1])
    if default is None:
        return None
    signature = (_MANDATORY,) * number
    if default[0] is not None:
        signature = (Parameter(Kind.OPTIONAL, default[0]), *signature[1:])
    return signature, default[1]


def read_def(text: str, position: int) -> tuple[Definition, int] | None:
    """`\\name<parameter text>{body}`: TeX's primitive form, with any delimiters between
    parameters."""
    named = read_name(text, position)
    if named is None:
        return None
    pattern = _PARAMETER_TEXT.match(text, named[1], named[1] + _MAX_PARAMETER_TEXT)
    assert pattern is not None, "the pattern matches the empty text"
    end = pattern.end()
    if text[end : end + 1] == "#":  # `#{`: the last parameter ends at the brace
        end += 1
    body = read_argument(text, end) if text[end : end + 1] == "{" else None
    if body is None:
        return None
    first, *rest = _PARAMETER.split(pattern.group())
    signature: Signature = (Parameter(Kind.LITERAL, first.strip()),) if first.strip() else ()
    signature += tuple(
        Parameter(Kind.DELIMITED, delimiter) if delimiter else _MANDATORY
        for delimiter in rest[1::2]
    )
    return (named[0], macro(signature, body[0])), body[1]


def read_let(text: str, position: int) -> tuple[tuple[str, str], int] | None:
    """`\\name=\\other`: the two names, or the name and a character."""
    named = read_name(text, position)
    target = None if named is None else _TARGET.match(text, named[1])
    if named is None or target is None:
        return None
    return (named[0], "\\" + target[1] if target[1] else target[2]), target.end()


def read_operator(text: str, position: int) -> tuple[Definition, int] | None:
    """amsmath's `\\DeclareMathOperator`: `{\\name}{text}`, perhaps after a star (limits below)."""
    star = "*" if text[_skip_space(text, position) :][:1] == "*" else ""
    named = read_name(text, position)
    body = None if named is None else read_argument(text, _skip_space(text, named[1]))
    if named is None or body is None:
        return None
    return (named[0], macro((), f"\\operatorname{star}{{{body[0]}}}")), body[1]


def read_paired_delimiter(text: str, position: int) -> tuple[Definition, int] | None:
    """mathtools' `\\DeclarePairedDelimiter`: starred, it uses \\left and \\right; an option gives a
    size."""
    named = read_name(text, position)
    left = None if named is None else read_argument(text, named[1])
    right = None if left is None else read_argument(text, left[1])
    if named is None or left is None or right is None:
        return None
    first, last = left[0], right[0]
    body = (
        rf"\IfBooleanTF#1{{\left{first} #3 \right{last}}}"
        rf"{{\IfNoValueTF{{#2}}{{{first} #3 {last}}}{{#2{first} #3 #2{last}}}}}"
    )
    signature = (Parameter(Kind.STAR), Parameter(Kind.OPTIONAL, NO_VALUE), _MANDATORY)
    return (named[0], macro(signature, body)), right[1]


def read_document_command(text: str, position: int) -> tuple[Definition, int] | None:
    """xparse: `{\\name}{parameters}{body}` for argument types m, o, O{default} and s."""
    named = read_name(text, position)
    kinds = None if named is None else read_argument(text, named[1])
    body = None if kinds is None else read_argument(text, _skip_space(text, kinds[1]))
    if named is None or kinds is None or body is None:
        return None
    signature: Signature = ()
    start = 0
    while parameter := _DOCUMENT_PARAMETER.match(kinds[0], start):
        start = parameter.end()
        kind = parameter[1][0]
        if kind == "m":
            signature += (_MANDATORY,)
        elif kind == "s":
            signature += (Parameter(Kind.STAR),)
        else:
            signature += (Parameter(Kind.OPTIONAL, NO_VALUE if kind == "o" else parameter[2]),)
    if kinds[0][start:].strip():
        return None
    return (named[0], macro(signature, body[0])), body[1]


def read_environment(text: str, position: int) -> tuple[tuple[str, Macro, Macro], int] | None:
    """`{name}[number][default]{begin}{end}`: the name, and the macros of `\\begin` and `\\end`."""
    named = _ENVIRONMENT_NAME.match(text, position)
    counted = None if named is None else _read_count(text, named.end())
    if named is None or counted is None:
        return None
    signature, position = counted
    begin = read_argument(text, _skip_space(text, position))
    end = None if begin is None else read_argument(text, _skip_space(text, begin[1]))
    if begin is None or end is None:
        return None
    return (named[1], macro(signature, begin[0]), macro((), end[0])), end[1]


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None, "the pattern matches the empty text"
    return match.end()


DEFINERS: dict[str, tuple[ReadDefinition, bool]] = {
    **dict.fromkeys(
        ("newcommand", "renewcommand", "DeclareRobustCommand", "newrobustcmd", "renewrobustcmd"),
        (read_newcommand, False),
    ),
    **dict.fromkeys(("providecommand", "providerobustcmd"), (read_newcommand, True)),
    **dict.fromkeys(("def", "gdef", "edef", "xdef"), (read_def, False)),
    **dict.fromkeys(
        ("NewDocumentCommand", "RenewDocumentCommand", "DeclareDocumentCommand"),
        (read_document_command, False),
    ),
    "ProvideDocumentCommand": (read_document_command, True),
    "DeclareMathOperator": (read_operator, False),
    "DeclarePairedDelimiter": (read_paired_delimiter, False),
}
"""Defining command -> its reader, and whether it leaves alone what is defined already."""
