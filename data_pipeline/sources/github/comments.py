"""Parses the header comments of a source file, by the comment syntax of its language.

Only what precedes the first line of code is parsed, so that no language has to be parsed: blank
lines, comments, and lines that have to come first (`#!`, `//go:build`, `package x;`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Syntax:
    """Comment syntax of a language."""

    line: str | None = None
    """Pattern of the start of a line comment."""
    blocks: tuple[tuple[str, str], ...] = ()
    """(pattern of the start, end) of block comments."""
    indented: str | None = None
    """Pattern of the start of a comment that continues in further indented and blank lines."""


@dataclass(frozen=True)
class Line:
    text: str
    """The raw line, without its newline."""
    prose: str
    """Without comment markers and decoration; "" for a line of nothing else."""
    stub: str | None = None
    """What must be kept of it if its prose is removed while other lines are kept: the comment's
    opening or closing marker. None: nothing."""


@dataclass(frozen=True)
class Block:
    """Consecutive line comments, or one block comment: `text[start:end]`."""

    start: int
    end: int
    lines: tuple[Line, ...]


_C_BLOCK = (r"/\*", "*/")
_MARKUP_BLOCK = ("<!--", "-->")
_C = Syntax("//", (_C_BLOCK,))
_HASH = Syntax("#")
_DASH = Syntax("--", (_C_BLOCK,))
_SEMICOLON = Syntax(";")
_PERCENT = Syntax("%")
_MARKUP = Syntax(blocks=(_MARKUP_BLOCK,))
_PYTHON = Syntax("#", ((r'[rRuU]?"""', '"""'), (r"[rRuU]?'''", "'''")))
_ML = Syntax(blocks=((r"\(\*", "*)"),))
_UNKNOWN = Syntax(
    # Code may follow these marks, except after a blank.
    r"//|#(?=[\s#*-]|$)|--(?=[\s-]|$)|;;|%(?=[\s%]|$)",
    (_C_BLOCK, _MARKUP_BLOCK, (r"\(\*", "*)")),
)
_NONE = Syntax()

_BY_SUFFIX = {
    **dict.fromkeys(
        (
            *(".c", ".h", ".cc", ".cpp", ".cxx", ".c++", ".hh", ".hpp", ".hxx", ".inl", ".cu"),
            *(".cuh", ".mm", ".cs", ".java", ".kt", ".kts", ".scala", ".groovy", ".gradle"),
            *(".go", ".rs", ".swift", ".dart", ".hx", ".js", ".jsx", ".mjs", ".cjs", ".ts"),
            *(".tsx", ".scss", ".less", ".proto", ".glsl", ".sol", ".v", ".sv", ".zig", ".css"),
        ),
        _C,
    ),
    ".d": Syntax("//", (_C_BLOCK, (r"/\+", "+/"))),
    ".m": Syntax("//|%", (_C_BLOCK,)),  # Objective-C, and MATLAB
    ".php": Syntax("//|#", (_C_BLOCK,)),
    ".thrift": Syntax("//|#", (_C_BLOCK,)),
    **dict.fromkeys((".pas", ".pp", ".dpr"), Syntax("//", ((r"\(\*", "*)"), (r"\{(?!\$)", "}")))),
    **dict.fromkeys((".py", ".pyi", ".pyx", ".pxd", ".pxi"), _PYTHON),
    **dict.fromkeys(
        (
            *(".sh", ".bash", ".zsh", ".pl", ".pm", ".t", ".r", ".tcl", ".yaml", ".yml", ".toml"),
            *(".cfg", ".conf", ".mk", ".mak", ".ex", ".exs", ".cr", ".graphql", ".properties"),
            *(".dockerfile", ".awk", ".gd", ".bzl", ".star", ".am", "makefile", "dockerfile"),
            *("gemfile", "rakefile", "podfile", "vagrantfile", "build", "workspace", "justfile"),
        ),
        _HASH,
    ),
    ".rb": Syntax("#", ((r"=begin\b", "=end"),)),
    ".coffee": Syntax("#(?!##)", (("###", "###"),)),
    ".jl": Syntax("#(?!=)", (("#=", "=#"),)),
    ".nim": Syntax(r"#(?!\[)", ((r"#\[", "]#"),)),
    **dict.fromkeys((".cmake", "cmakelists.txt"), Syntax(r"#(?!\[\[)", ((r"#\[\[", "]]"),))),
    **dict.fromkeys((".ps1", ".psm1", ".psd1"), Syntax("#", (("<#", "#>"),))),
    **dict.fromkeys((".sql", ".adb", ".ads", ".vhd", ".vhdl"), _DASH),
    ".lua": Syntax(r"--(?!\[\[)", ((r"--\[\[", "]]"),)),
    **dict.fromkeys((".hs", ".elm", ".purs"), Syntax("--", ((r"\{-(?!#)", "-}"),))),
    **dict.fromkeys((".ml", ".mli"), _ML),
    **dict.fromkeys((".fs", ".fsi", ".fsx"), Syntax("//", _ML.blocks)),
    **dict.fromkeys((".lisp", ".el", ".clj", ".cljs", ".scm", ".rkt", ".asm", ".ahk"), _SEMICOLON),
    ".ini": Syntax("[;#]"),
    ".s": Syntax("[;#@]|//", (_C_BLOCK,)),
    **dict.fromkeys((".tex", ".sty", ".cls", ".bib", ".erl", ".hrl", ".matlab"), _PERCENT),
    ".pro": Syntax("%", (_C_BLOCK,)),
    **dict.fromkeys((".f90", ".f95", ".f03", ".f"), Syntax(r"!|[cC*](?=\s)")),
    **dict.fromkeys((".vb", ".vbs", ".bas"), Syntax("'|(?i:rem )")),
    **dict.fromkeys((".bat", ".cmd"), Syntax("::|@?(?i:rem )")),
    ".vim": Syntax('"'),
    **dict.fromkeys((".m4", ".ac"), Syntax("#|dnl")),
    **dict.fromkeys((".html", ".htm", ".xhtml", ".xml", ".xsl", ".md", ".markdown"), _MARKUP),
    **dict.fromkeys((".vue", ".svelte"), Syntax("//", (_MARKUP_BLOCK, _C_BLOCK))),
    # Two dots that are not a directive, target, footnote or substitution.
    ".rst": Syntax(indented=r"\.\.(?!\S)(?! *(?:[\w:-]+::|_|\[|\|))"),
    ".txt": _NONE,
}

_FIRST = re.compile(
    r"""
      \#!.*                                                       # interpreter; #![rust]
    | (?=(?P<mode>\W*?-\*-))(?P=mode)(?=(?P<rest>.*-\*-))(?P=rest)\W*  # without going back
    | \W{1,4}\s?(?:vim?|ex):.* | \#.*coding[:=].*   # editor, encoding
    | <\?(?:php|hh)?\s* | <\?xml.*\?>\s* | <!doctype[^>]*>\s* | <html[^>]*>\s*
    | //go:.* | //\s*\+build.* | \{-\#.*\#-\}\s*
    | ["']use\ [\w ]+["'];?\s* | @charset\ .*;\s* | @echo\ off\s* | package\ [\w.]+\s*(?:;\s*)?
    | \#\s*pragma\ once\s* | \#\s*ifndef\ \w+\s* | \#\s*define\ \w+\s*
    | (?:\#|//|--|/\*)\s*(?:
        (?:type|mypy|pylint|flake8|ruff|isort|pyright|cython|distutils|rubocop|shellcheck|syntax
        |frozen_string_literal|encoding|swift-tools-version|clang-format|yamllint)[^\S\ ]*[:=\ ].*
        | (?:eslint|jshint|jslint|tslint|globals?|prettier-ignore|@ts-\w+|@flow|@jsx|NOLINT)\b.*
      )
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Lines before or between comments that are required there and are not comments."""

_ORNAMENT = " \t*/#;%!|+-=~<>\"'{}\\_.:`"


def syntax_of(name: str) -> Syntax:
    """The comment syntax by file name; for unknown types, comments that are unambiguous in any."""
    lower = PurePosixPath(name.lower())
    return _BY_SUFFIX.get(lower.suffix) or _BY_SUFFIX.get(lower.name) or _UNKNOWN


def leading_blocks(text: str, syntax: Syntax) -> Iterator[Block]:
    """The comments before the first line of code, in order."""
    openers = [(re.compile(f"[ \t]*(?:{opener})"), closer) for opener, closer in syntax.blocks]
    comment = re.compile(f"[ \t]*(?:{syntax.line})") if syntax.line else None
    indented = re.compile(f"[ \t]*(?:{syntax.indented})") if syntax.indented else None
    start = 0
    while start < len(text):
        end = _line_end(text, start)
        line = text[start:end]
        if not line.strip() or _FIRST.fullmatch(line):
            start = end + 1
            continue
        block = _closed_block(text, start, openers)
        if block is None and comment is not None:
            block = _line_block(text, start, comment)
        if block is None and indented is not None:
            block = _indented_block(text, start, indented)
        if block is None:
            return
        yield block
        start = block.end


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _line_block(text: str, start: int, comment: re.Pattern[str]) -> Block | None:
    lines: list[Line] = []
    position = start
    while position < len(text) and (mark := comment.match(text, position)):
        end = _line_end(text, position)
        line = text[position:end]
        if _FIRST.fullmatch(line):
            break
        lines.append(Line(line, text[mark.end() : end].strip(_ORNAMENT)))
        position = end + 1
    return Block(start, min(position, len(text)), tuple(lines)) if lines else None


def _indented_block(text: str, start: int, opener: re.Pattern[str]) -> Block | None:
    if not (mark := opener.match(text, start)):
        return None
    end = _line_end(text, start)
    lines = [Line(text[start:end], text[mark.end() : end].strip(_ORNAMENT), mark[0])]
    indent = re.compile(rf"[ \t]{{{len(mark[0]) - len(mark[0].lstrip()) + 1},}}\S")
    position, last = end + 1, end + 1
    waiting: list[Line] = []
    while position < len(text):
        end = _line_end(text, position)
        line = text[position:end]
        waiting.append(Line(line, line.strip(_ORNAMENT)))
        position = end + 1
        if indent.match(line):
            lines += waiting
            waiting, last = [], position
        elif line.strip():
            break
    return Block(start, min(last, len(text)), tuple(lines))


def _closed_block(
    text: str, start: int, openers: list[tuple[re.Pattern[str], str]]
) -> Block | None:
    """The block comment that opens here and closes at the end of a line."""
    for opener, closer in openers:
        if not (mark := opener.match(text, start)):
            continue
        closed = text.find(closer, mark.end())
        end = _line_end(text, closed)
        if closed < 0 or text[closed + len(closer) : end].strip():
            return None
        texts = text[start:end].split("\n")
        prose = text[mark.end() : closed].split("\n")
        stubs: list[str | None] = [None] * len(texts)
        stubs[0] = text[start : mark.end()]
        if len(texts) > 1:
            last = texts[-1]
            stubs[-1] = last[: len(last) - len(last.lstrip())] + last[last.rindex(closer) :]
        lines = [
            Line(line, words.strip(_ORNAMENT), stub)
            for line, words, stub in zip(texts, prose, stubs, strict=True)
        ]
        return Block(start, min(end + 1, len(text)), tuple(lines))
    return None
