"""Inline expansion of user-defined LaTeX macros, in TeX's order of execution.

Definitions take effect where they stand, are removed, and hold until the next one of the name or,
where they replace one, until the group of braces ends. Conditionals that need execution are not
evaluated: conditionals on numbers or tokens are kept, and definitions in both branches count.
Evaluated are \\iftrue, \\iffalse, switches made by \\newif, and tests of the next character
(\\@ifnextchar, \\@ifstar, xparse).

Expansion terminates for every input. A recursive macro is kept unexpanded, and so is one without
its arguments; a text that macros would blow up raises `MacroExplosionError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from data_pipeline.sources.arxiv.computed_names import (
    LOOKAHEAD,
    defining_command,
    read_computed,
    read_defined,
    read_named,
)
from data_pipeline.sources.arxiv.definitions import (
    DEFINERS,
    Macro,
    ReadDefinition,
    literal,
    read_def,
    read_environment,
    read_let,
    read_name,
    with_tex_definitions,
)
from data_pipeline.sources.arxiv.expansion_input import ALL_WINDOWS, Input, MacroExplosionError
from data_pipeline.sources.arxiv.tex_tokens import (
    CONTROL_SEQUENCE,
    INLINE_VERBATIM,
    NO_VALUE,
    TRUE,
    Kind,
    Parameter,
    Signature,
    ends_with_word,
    read_arguments,
    read_branches,
    verbatim_environments,
)

KEPT = frozenset(
    {
        *("part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph"),
        *("title", "author", "date", "maketitle", "abstract", "appendix", "bibliography"),
        *("bibliographystyle", "begin", "end", "item", "label", "caption", "footnote", "par"),
        *("documentclass", "documentstyle", "usepackage", "input", "include", "url", "href"),
        *("bibitem", "thebibliography", "endthebibliography", "document", "enddocument"),
        *("\\", "{", "}", "%", "#", "&", "$", "_", " ", "\n"),
    }
)
"""LaTeX's own structural commands. Papers redefine them for layout; their name carries more meaning
than that, so they are kept."""

_KEPT_ENVIRONMENTS = frozenset(
    {
        *("document", "abstract", "thebibliography", "references", "figure", "table", "equation"),
        *("proof", "comment"),
    }
)

_MAX_SELF_NESTING = 40
_MAX_RECURSIVE_NAMES = 25
_MAX_PASSES = 20
_MAX_INDENT = 200

_AFTER_PREFIX = frozenset({"def", "gdef", "edef", "xdef", "let", "long", "global", "newcommand"})
_DEFINING = re.compile(
    r"\\(?:(?:new|renew|provide)(?:command|robustcmd|environment|if)|(?:New|Renew|Provide|Declare)"
    r"(?:DocumentCommand|RobustCommand|MathOperator|PairedDelimiter)|[egx]?def|let|long|global|outer"
    r"|protected|iftrue|iffalse|xspace|(?:kernel)?@ifnextchar|@ifstar"
    r"|If(?:Boolean|NoValue|Value)(?:TF|T|F))(?![A-Za-z])"
)
"""Commands with an effect even where nothing is defined."""
_ENVIRONMENT = re.compile(r"\s*\{([^{}\\]{1,100})\}")
_VERBATIM = re.compile(INLINE_VERBATIM)
_TWO: Signature = (Parameter(Kind.MANDATORY),) * 2
_THREE: Signature = (Parameter(Kind.MANDATORY),) * 3
_REST_OF_LINE = re.compile(r"[ \t]*\n")
_NO_SPACE_BEFORE = re.compile(
    # xspace's own list, whitespace, and what attaches to a word in formulas and options.
    r"\Z|[{}.!,?:;/'~)\-\]&^_\s]|\\(?:[ /]|(?:footnote|footnotemark|space|[be]group)(?![A-Za-z]))"
)


class _RecursionError(Exception):
    """A macro is recursive."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def expand_macros(text: str, *, max_growth: int) -> str:
    """`text` without its definitions, their uses expanded. Comments must have been removed.

    MacroExplosionError where expansions write more than `max_growth` times the text and 250,000
    characters, or nest without end through many names.
    """
    text = with_tex_definitions(text)
    for _ in range(_MAX_PASSES):
        text, before = _expanded(text, max_growth), text
        # An expansion may assemble a definition from parts that were none.
        if text == before or not _DEFINING.search(text):
            return text
    raise MacroExplosionError(f"definitions make definitions, more than {_MAX_PASSES} times")


def _expanded(text: str, max_growth: int) -> str:
    recursive: set[str] = set()
    while len(recursive) <= _MAX_RECURSIVE_NAMES:
        try:
            return _Expander(text, recursive, max_growth).run()
        except _RecursionError as error:
            recursive.add(error.name)
    raise MacroExplosionError(f"more than {_MAX_RECURSIVE_NAMES} macros are recursive")


_Handler = Callable[[str], bool]
"""Handles a command whose name has just been read; False if it is to be kept unchanged."""


class _Expander(Input):
    """One pass over one text."""

    def __init__(self, text: str, recursive: set[str], max_growth: int) -> None:
        super().__init__(text, max_growth)
        self.recursive = recursive
        self.is_global = False
        """Whether the next definition is global (outlives its group)."""
        self.out: list[str] = []
        self.verbatim = frozenset(verbatim_environments(text))
        self.environments: dict[str, tuple[Macro, Macro]] = {}
        self.unclosed: set[str] = set()
        self.table: dict[str, Macro | _Handler] = dict(self.handlers())
        self.kept = KEPT | self.table.keys()

    def handlers(self) -> dict[str, _Handler]:
        handlers: dict[str, _Handler] = {
            **{n: partial(self.define, read, keep) for n, (read, keep) in DEFINERS.items()},
            "expandafter": self.define_computed,
            "@namedef": partial(self.define, partial(read_named, read_def), False),
            "csname": self.computed,
            "@nameuse": self.named,
            **dict.fromkeys(("long", "global", "protected", "outer"), self.prefix),
            "let": self.let,
            **dict.fromkeys(("newenvironment", "renewenvironment"), self.define_environment),
            "newif": self.new_switch,
            **{f"if{value}": partial(self.conditional, value) for value in ("true", "false")},
            "begin": self.begin,
            "end": self.end,
            **dict.fromkeys(("verb", "lstinline", "mintinline"), self.inline_verbatim),
            "xspace": self.xspace,
            **dict.fromkeys(("@ifnextchar", "kernel@ifnextchar"), self.if_next_character),
            "@ifstar": self.if_star,
        }
        for name, value in (("IfBoolean", TRUE), ("IfNoValue", NO_VALUE)):
            for branches in ("TF", "T", "F"):
                handlers[name + branches] = partial(self.if_equal, value, branches, True)
        for branches in ("TF", "T", "F"):
            handlers["IfValue" + branches] = partial(self.if_equal, NO_VALUE, branches, False)
        return handlers

    def run(self) -> str:
        table, frames = self.table, self.frames
        while frames:
            frame = frames[-1]
            text, start = frame.text, frame.position
            for match in CONTROL_SEQUENCE.finditer(text, start):
                name = match[1]
                entry = table.get(name)
                end = match.end()
                if entry is None:
                    # Outside style files `@` is not a letter: \eg@home is \eg.
                    at = name.find("@", 1)
                    if at < 0 or (entry := table.get(name[:at])) is None:
                        continue
                    end -= len(name) - at
                    name = name[:at]
                if match.start() > start:
                    self.emit(text[start : match.start()])
                frame.position = end
                done = self.expand(name, entry) if isinstance(entry, Macro) else entry(name)
                if not done:
                    self.emit("\\" + name)
                break
            else:
                if start < len(text):
                    self.emit(text[start:])
                self.pop()
        return "".join(self.out)

    # Reading and writing

    def emit(self, text: str) -> None:
        if text and text[0].isalpha() and self.out and ends_with_word(self.out[-1]):
            self.out.append(" ")
        if text:
            self.out.append(text)

    # Uses

    def expand(self, name: str, macro: Macro) -> bool:
        if name in self.recursive:
            return False
        chain = self.frames[-1].chain
        if chain and chain.depth >= _MAX_SELF_NESTING <= chain.count(name):
            raise _RecursionError(name)
        if macro.signature and name[-1].isalpha():
            self.skip_spaces()
        arguments = self.take(partial(_arguments, macro.signature)) if macro.signature else []
        if arguments is None:
            return False
        body = macro.expansion(arguments)
        if not macro.signature and name[-1].isalpha():
            self.after_bare_name(body)
        if macro.is_literal:
            self.emit(body)
        elif body:
            self.push(body, name)
        return True

    def after_bare_name(self, body: str) -> None:
        """Skip what only terminates the name: spaces, or `{}` (unless the body might take it)."""
        frame = self.frames[-1]
        ends = body.endswith(r"\xspace") or not ends_with_word(body)
        if frame.text.startswith("{}", frame.position) and ends and not body.endswith(("^", "_")):
            frame.position += 2
        else:
            self.skip_spaces()

    # Definitions

    def define(
        self,
        read: ReadDefinition,
        only_new: bool,
        command: str,
    ) -> bool:
        definition = self.take(lambda text, _: read(text, 0))
        if definition is None:
            return False
        name, macro = definition
        self.after_definition()
        self.assign(name, self.table.get(name, macro) if only_new else macro, command)
        return True

    def define_computed(self, command: str) -> bool:
        """`\\expandafter` before the definition of a computed name; elsewhere it is kept."""
        defining = defining_command(self.ahead(LOOKAHEAD)[0])
        if defining is None or defining not in DEFINERS:
            return False
        read, keep = DEFINERS[defining]
        return self.define(partial(read_defined, read), keep, defining)

    def computed(self, command: str) -> bool:
        """`\\csname`: kept where its name is no macro of the paper."""
        found = read_computed(self.ahead(LOOKAHEAD)[0].lstrip(" "))
        if found is None or found[0] not in self.table.keys() | KEPT:
            return False
        self.take(lambda text, _: ((), text.index("\\endcsname") + len("\\endcsname")))
        self.push(f"\\{found[0]}")
        return True

    def named(self, command: str) -> bool:
        """`\\@nameuse{NAME}`."""
        found = self.take(partial(_arguments, _TWO[:1]))
        if found is not None:
            self.push(rf"\csname {found[0]}\endcsname")
        return found is not None

    def assign(self, name: str, meaning: Macro | _Handler | None, command: str) -> None:
        """Define `name` up to the end of the current group of braces."""
        before = self.table.get(name)
        is_global = self.is_global or command in ("gdef", "xdef")
        self.is_global = False
        if name in self.kept:
            return
        if isinstance(before, Macro) and not is_global:
            self.at_group_end(partial(self.table.__setitem__, name, before))
        if meaning is None:
            self.table.pop(name, None)
        else:
            self.table[name] = meaning

    def after_definition(self) -> None:
        """Remove the line of a definition that had a line to itself."""
        frame = self.frames[-1]
        if not self.out or self.out[-1][-_MAX_INDENT:].rstrip(" \t")[-1:] in ("", "\n"):
            if match := _REST_OF_LINE.match(frame.text, frame.position):
                frame.position = match.end()
        elif frame.text[frame.position : frame.position + 1] == "\n" and self.out[-1][-1] == " ":
            self.out[-1] = self.out[-1].rstrip(" ")

    def prefix(self, command: str) -> bool:
        """\\long and similar prefixes are removed with the definition that follows them."""
        text, _ = self.ahead(40)
        match = CONTROL_SEQUENCE.match(text, len(text) - len(text.lstrip()))
        if match is None or match[1] not in _AFTER_PREFIX:
            return False
        self.is_global |= command == "global"
        return True

    def let(self, command: str) -> bool:
        names = self.take(lambda text, _: read_let(text, 0))
        if names is None:
            return False
        name, target = names
        self.after_definition()
        meaning = self.table.get(target[1:]) if target[0] == "\\" else None
        if meaning is None and target not in (r"\relax", r"\undefined", r"\@undefined"):
            meaning = literal(target)
        self.assign(name, meaning, command)
        return True

    def define_environment(self, command: str) -> bool:
        definition = self.take(lambda text, _: read_environment(text, 0))
        if definition is None:
            return False
        name, begin, end = definition
        # An environment that is only renewed is LaTeX's own, and keeps its name.
        if command == "newenvironment" and name not in _KEPT_ENVIRONMENTS | self.verbatim:
            self.environments[name] = (begin, end)
        self.after_definition()
        return True

    def new_switch(self, command: str) -> bool:
        named = self.take(lambda text, _: read_name(text, 0))
        if named is None or not named.startswith("if") or named in self.kept:
            return named is not None
        switch = named[2:]
        self.set_switch(switch, "false", "")
        for value in ("true", "false"):
            self.table[switch + value] = partial(self.set_switch, switch, value)
        self.after_definition()
        return True

    def set_switch(self, switch: str, value: str, command: str) -> bool:
        self.table["if" + switch] = partial(self.conditional, value)
        if command:
            self.after_definition()
        return True

    # Decisions

    def conditional(self, value: str, command: str) -> bool:
        """Continue with the branch taken, for \\iftrue, \\iffalse and switches."""
        branches = self.take(lambda text, _: read_branches(text), ALL_WINDOWS)
        if branches is None:
            return False
        self.push(branches[0] if value == "true" else branches[1])
        return True

    def if_next_character(self, command: str) -> bool:
        """`\\@ifnextchar` character {then}{else}; a space is not a character."""
        parts = self.take(partial(_arguments, _THREE))
        if parts is None:
            return False
        expected, then, otherwise = parts
        expected = {r"\bgroup": "{", r"\egroup": "}"}.get(expected, expected)
        text, _ = self.ahead(200)
        self.push(then if text.lstrip(" \t\n")[: len(expected)] == expected else otherwise)
        return True

    def if_star(self, command: str) -> bool:
        parts = self.take(partial(_arguments, _TWO))
        if parts is None:
            return False
        has_star = self.ahead(1)[0] == "*"
        if has_star:
            self.advance(1)
        self.push(parts[0] if has_star else parts[1])
        return True

    def if_equal(self, expected: str, branches: str, equal: bool, command: str) -> bool:
        """xparse's tests of an argument, with one branch or both."""
        parts = self.take(partial(_arguments, _THREE if branches == "TF" else _TWO))
        if parts is None:
            return False
        holds = (parts[0] == expected) == equal
        texts = {"T" if branches == "T" else "F": parts[1]} if len(branches) == 1 else {}
        texts = texts or {"T": parts[1], "F": parts[2]}
        self.push(texts.get("T" if holds else "F", ""))
        return True

    def xspace(self, command: str) -> bool:
        if not _NO_SPACE_BEFORE.match(self.ahead(20)[0]):
            self.emit(" ")
        return True

    # What is not LaTeX text, and environments

    def begin(self, command: str) -> bool:
        frame = self.frames[-1]
        match = _ENVIRONMENT.match(frame.text, frame.position)
        if match is None:
            return False
        name = match[1]
        if name.rstrip("*") in self.verbatim and name not in self.unclosed:
            end = frame.text.find(f"\\end{{{name}}}", match.end())
            if end < 0:
                self.unclosed.add(name)
                return False
            self.emit("\\begin" + frame.text[frame.position : end])
            frame.position = end
            return True
        if name not in self.environments:
            return False
        before, frame.position = frame.position, match.end()
        if self.expand(name, self.environments[name][0]):
            return True
        frame.position = before
        return False

    def end(self, command: str) -> bool:
        frame = self.frames[-1]
        match = _ENVIRONMENT.match(frame.text, frame.position)
        if match is None or match[1] not in self.environments:
            return False
        frame.position = match.end()
        self.push(self.environments[match[1]][1].texts[0], match[1])
        return True

    def inline_verbatim(self, command: str) -> bool:
        frame = self.frames[-1]
        match = _VERBATIM.match(frame.text, frame.position - len(command))
        if match is None:
            return False
        self.emit("\\" + match.group())
        frame.position = match.end()
        return True


def _arguments(signature: Signature, text: str, is_all: bool) -> tuple[list[str], int] | None:
    return read_arguments(signature, text, 0, is_all=is_all)
