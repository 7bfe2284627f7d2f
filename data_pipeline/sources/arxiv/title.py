"""Extracts the title of a LaTeX paper, and converts short LaTeX to plain text."""

from __future__ import annotations

import re
import unicodedata
from itertools import islice

from data_pipeline.sources.arxiv.tex_tokens import group_end, read_argument, read_optional

_TITLE_COMMAND = re.compile(r"\\title\s*(?=[\[{])")
_TOKEN = re.compile(r"\\([A-Za-z@]+)\*?[ \t]*\n?|\\([^A-Za-z@])|\$[^$]*\$|[{}~]")
_MAX_TITLE = 5_000
_MAX_TITLES = 10

_DROPPED = frozenset(
    {
        *("thanks", "footnote", "footnotetext", "titlenote", "label", "vspace", "hspace", "color"),
        *("textcolor", "fontsize", "setcounter", "footnotemark", "thanksref", "tnoteref", "vskip"),
        *("includegraphics", "rule", "href", "cite", "phantom", "vphantom"),
    }
)
"""Commands whose (first) argument is not part of a title."""
_WORDS = {
    **{"LaTeX": "LaTeX", "TeX": "TeX", "ss": "ß", "o": "ø", "O": "Ø", "ae": "æ", "AE": "Æ"},
    **{"oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å", "l": "ł", "L": "Ł", "i": "i", "j": "j"},
    **{"newline": " ", "linebreak": " ", "break": " ", "quad": " ", "qquad": " ", "space": " "},
    **{
        "textendash": "\u2013",
        "textemdash": "—",
        "textquoteright": "\u2019",
        "ldots": "…",
        "dots": "…",
    },
    **{"textunderscore": "_", "textasciitilde": "~", "par": " ", "&": "&", "%": "%", "$": "$"},
    **{"#": "#", "_": "_", "{": "{", "}": "}", "\\": " ", ",": " ", ";": " ", " ": " "},
}
_ACCENTS = {
    # Accent command -> combining character.
    **{"'": "\u0301", "`": "\u0300", '"': "\u0308", "^": "\u0302", "~": "\u0303", "=": "\u0304"},
    **{".": "\u0307", "c": "\u0327", "v": "\u030c", "u": "\u0306", "H": "\u030b", "k": "\u0328"},
    **{"r": "\u030a", "b": "\u0331", "d": "\u0323"},
}


def title_of(text: str) -> str | None:
    r"""The plain text of the first non-empty `\title{…}`, None if there is none.

    Comments and macros must have been removed.
    """
    for command in islice(_TITLE_COMMAND.finditer(text), _MAX_TITLES):
        piece = text[command.end() : command.end() + _MAX_TITLE]
        optional = read_optional(piece, 0)
        start = 0 if optional is None else optional[1]
        start += len(piece[start:]) - len(piece[start:].lstrip())
        end = group_end(piece, start) if piece[start : start + 1] == "{" else None
        if end is not None and (title := plain_words(piece[start + 1 : end - 1])):
            return title
    return None


def plain_words(latex: str) -> str:
    """Short LaTeX as plain text: accents applied, commands and footnotes removed, math unchanged,
    whitespace as single spaces.
    """
    words: list[str] = []
    position = 0
    while token := _TOKEN.search(latex, position):
        words.append(latex[position : token.start()])
        position = token.end()
        name = token[1] or token[2]
        if name is None:
            bare = token.group()
            words.append(bare if bare[0] == "$" else " " if bare == "~" else "")
        elif name == "\\":
            position = (read_optional(latex, position) or (None, position))[1]
            words.append(" ")
        elif name in _ACCENTS and (letter := read_argument(latex, position)):
            base, position = letter
            base = base.removeprefix("\\")  # \i, the i without its dot
            words.append(unicodedata.normalize("NFC", base[:1] + _ACCENTS[name]) + base[1:])
        elif name in _DROPPED:
            position = (read_optional(latex, position) or (None, position))[1]
            position = (read_argument(latex, position) or ("", position))[1]
        else:
            words.append(_WORDS.get(name, ""))
    words.append(latex[position:])
    return " ".join("".join(words).split())
