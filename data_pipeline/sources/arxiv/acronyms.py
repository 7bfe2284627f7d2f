r"""Expands the acronyms of the packages glossaries, acronym and acro: `\gls{llm}`, `\ac{llm}`.

A paper that uses them has keys in its text, and the words in definitions before it. As in print,
the first use gives the long form with the short one in parentheses, and later ones the short form.
Commands whose key is not defined are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import merge

from data_pipeline.sources.arxiv.expansion_input import MacroExplosionError
from data_pipeline.sources.arxiv.tex_tokens import (
    group_end,
    read_argument,
    read_optional,
    skip_blanks,
    without_verbatim,
)

_MAX_FORM = 300
"""Maximum characters of a form: longer ones are texts of a glossary."""

_DEFINITION = re.compile(
    r"\\(newacronym|newabbreviation|newglossaryentry|longnewglossaryentry|provideglossaryentry"
    r"|DeclareAcronym|acrodef|newacro|acro)\*?(?![A-Za-z@])"
)
_ACRONYM_PACKAGE = re.compile(
    r"\{[^{}\n]{0,500}\bacronym\b[^{}\n]{0,500}\}|\\(?:acrodef|newacro)\b"
)
_OWN_MACRO = re.compile(r"\\(?:(?:re)?newcommand\*?|def|providecommand\*?)\s*(?:\{\s*)?\\acro\b")
_PRINTED, _SHORT, _LONG, _FULL, _NONE = "printed", "short", "long", "full", "none"


def _uses() -> Mapping[str, tuple[str, bool, bool]]:
    """Command -> (form, plural, capital)."""
    forms: dict[str, tuple[str, bool]] = {
        **{"gls": (_PRINTED, False), "glspl": (_PRINTED, True)},
        **{"ac": (_PRINTED, False), "acp": (_PRINTED, True)},
        **{"acs": (_SHORT, False), "acsp": (_SHORT, True), "acsu": (_SHORT, False)},
        **{"acl": (_LONG, False), "aclp": (_LONG, True), "aclu": (_LONG, False)},
        **{"acf": (_FULL, False), "acfp": (_FULL, True), "acfi": (_FULL, False)},
        **{"acresetall": (_NONE, False), "glsresetall": (_NONE, False)},
        **{"glsfirst": (_FULL, False), "glsdesc": (_LONG, False)},
    }
    for prefix in ("acr", "glsentry", "glsxtr"):
        forms |= {f"{prefix}short": (_SHORT, False), f"{prefix}shortpl": (_SHORT, True)}
        forms |= {f"{prefix}long": (_LONG, False), f"{prefix}longpl": (_LONG, True)}
        forms |= {f"{prefix}full": (_FULL, False), f"{prefix}fullpl": (_FULL, True)}
    for name in ("glstext", "glsname", "glsentrytext", "glsentryname", "glssymbol"):
        forms[name] = (_SHORT, False)
    forms |= {"glsplural": (_SHORT, True), "glsentryplural": (_SHORT, True)}
    uses = {name: (form, plural, False) for name, (form, plural) in forms.items()}
    uses |= {f"{n[0].upper()}{n[1:]}": (f, p, True) for n, (f, p) in forms.items()}
    return uses | {"GLS": (_PRINTED, False, True), "iac": (_PRINTED, False, False)}


_USES = _uses()
_USE = re.compile(
    rf"\\({'|'.join(sorted(_USES, key=len, reverse=True))})(?![A-Za-z@])(\*?)"
    r"(?:[ \t]*\[[^\[\]\n]{0,100}\])?[ \t]*"
    r"(?:\{([^{}\\\n]{1,100})\}(?:\[([^\[\]\n]{0,100})\])?)?"
)


@dataclass
class _Entry:
    """The forms of an acronym. Without a long one it is a word of a glossary."""

    short: str
    long: str = ""
    short_plural: str = ""
    long_plural: str = ""
    is_used: bool = False

    def form(self, kind: str, plural: bool) -> str:
        short = (self.short_plural or f"{self.short}s") if plural else self.short
        long = (self.long_plural or f"{self.long}s") if plural and self.long else self.long
        if kind == _PRINTED:
            kind = _SHORT if self.is_used else _FULL
            self.is_used = True
        if kind == _SHORT or not long:
            return short
        return long if kind == _LONG else f"{long} ({short})"


def expand_acronyms(text: str, *, max_growth: int) -> str:
    """`text` without the definitions of acronyms, their uses expanded. Comments must have been
    removed. MacroExplosionError where that writes more than `expand_macros` may.
    """
    if _DEFINITION.search(text) is None:
        return text
    commands = without_verbatim(text)
    found = list(_definitions(text, commands))
    entries = {key: entry for _, _, key, entry, _ in found}
    if not entries:
        return text
    limit = 250_000 + max_growth * len(text)
    pieces: list[str] = []
    start = written = 0
    removed = [(begin, end, shown) for begin, end, _, _, shown in found]
    for begin, end, piece in merge(removed, _expansions(commands, entries)):
        if begin < start:  # a use within a definition
            continue
        pieces += [text[start:begin], piece]
        start, written = end, written + len(piece)
        if written > limit:
            raise MacroExplosionError(f"acronyms write more than {limit} characters")
    return "".join((*pieces, text[start:]))


_Piece = tuple[int, int, str]
"""What replaces a span of the text."""


def _expansions(commands: str, entries: Mapping[str, _Entry]) -> Iterator[_Piece]:
    """What replaces each use."""
    for match in _USE.finditer(commands):
        form, plural, capital = _USES[match[1]]
        if form == _NONE:
            for known in entries.values():
                known.is_used = False
            yield *match.span(), ""
        entry = entries.get((match[3] or "").strip())
        if entry is None or form == _NONE:
            continue
        shown = entry.form(form, plural) + (match[4] or "")
        yield *match.span(), shown[:1].upper() + shown[1:] if capital else shown


def _definitions(text: str, commands: str) -> Iterator[tuple[int, int, str, _Entry, str]]:
    """Each definition: its span with the rest of its line, its key, and what stays in its place."""
    has_list = _ACRONYM_PACKAGE.search(text) is not None and _OWN_MACRO.search(text) is None
    done = 0
    for match in _DEFINITION.finditer(commands):
        command = match[1]
        if match.start() < done or (command == "acro" and not has_list):
            continue
        read = _READERS.get(command, _read_keys)
        found = read(text, match.end())
        if found is None:
            continue
        key, entry, done = found
        shown = f"\\item[{entry.short}] {entry.long}" if command == "acro" else ""
        if not shown and commands[done : done + 1] == "\n":
            done += 1
        yield match.start(), done, key, entry, shown


def _read_acronym(text: str, position: int) -> tuple[str, _Entry, int] | None:
    r"""`\newacronym[options]{key}{short}{long}`."""
    optional = read_optional(text, position)
    if optional is None:
        return None
    position = optional[1]
    values: list[str] = []
    for _ in range(3):
        value = _group(text, position)
        if value is None:
            return None
        position = value[1]
        values.append(value[0].strip())
    key, short, long = values
    if len(short) > _MAX_FORM or len(long) > _MAX_FORM:
        return None
    options = _key_values(optional[0] or "")
    entry = _Entry(short, long, options.get("shortplural", ""), options.get("longplural", ""))
    return key, entry, position


def _read_acro(text: str, position: int) -> tuple[str, _Entry, int] | None:
    r"""`\acro{key}[short]{long}`."""
    key = _group(text, position)
    short = None if key is None else read_optional(text, key[1])
    long = None if short is None else _group(text, short[1])
    if key is None or short is None or long is None:
        return None
    shown = key[0].strip() if short[0] is None else short[0].strip()
    if max(len(shown), len(long[0])) > _MAX_FORM:
        return None
    return key[0].strip(), _Entry(shown, long[0].strip()), long[1]


def _read_keys(text: str, position: int) -> tuple[str, _Entry, int] | None:
    r"""`\newglossaryentry{key}{name=...}`, `\DeclareAcronym{key}{short=..., long=...}`."""
    key = _group(text, position)
    body = None if key is None else _group(text, key[1])
    if key is None or body is None:
        return None
    values = _key_values(body[0])
    short = values.get("short") or values.get("text") or values.get("name") or ""
    long = values.get("long", "")
    if not short or max(len(short), len(long)) > _MAX_FORM:
        return None
    plural = _plural(values, "short", short) or values.get("plural", "")
    return key[0].strip(), _Entry(short, long, plural, _plural(values, "long", long)), body[1]


def _plural(values: Mapping[str, str], form: str, singular: str) -> str:
    """acro gives a whole plural ("short-plural-form") or its ending ("short-plural")."""
    whole = values.get(f"{form}-plural-form") or values.get(f"{form}plural")
    ending = values.get(f"{form}-plural")
    return (whole or (singular + ending if ending else ""))[: 2 * _MAX_FORM]


_READERS = {
    **dict.fromkeys(("newacronym", "newabbreviation"), _read_acronym),
    **dict.fromkeys(("acro", "acrodef", "newacro"), _read_acro),
}


def _group(text: str, position: int) -> tuple[str, int] | None:
    """A group without its braces, within a length that a definition has."""
    start = skip_blanks(text, position)
    piece = text[start : start + 20 * _MAX_FORM]
    if piece[:1] != "{" or (end := group_end(piece, 0)) is None:
        return None
    return piece[1 : end - 1], start + end


def _key_values(text: str) -> dict[str, str]:
    """`key = value` or `key = {value}`, separated by commas."""
    values: dict[str, str] = {}
    position = 0
    while match := _KEY.match(text, position):
        position = match.end()
        if text[position : position + 1] == "{" and (value := read_argument(text, position)):
            values[match[1].strip().lower()] = value[0].strip()
            position = value[1]
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            values[match[1].strip().lower()] = text[position:end].strip()
            position = end
    return values


_KEY = re.compile(r"[\s,]*([A-Za-z][A-Za-z -]{0,40})=[ \t\n]*")
