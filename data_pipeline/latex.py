"""A LaTeX paper as the LLaMA paper wants it: no comments, no front matter, no bibliography.

Pure functions from text to text. The result stays LaTeX source. Each function finds nothing more to
do in its own result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from data_pipeline.latex_tokens import (
    INLINE_VERBATIM,
    VERBATIM_ENVIRONMENTS,
    group_end,
    joined,
    read_optional,
)

_VERBATIM_BEGIN = re.compile(
    r"\\begin[ \t]*(?:%[^\n]*\n[ \t]*)?\{("
    + "|".join((*VERBATIM_ENVIRONMENTS, "comment"))
    + r")(\*?)\}"
)
_COMMENT_TOKEN = re.compile(
    rf"(?P<begin>{_VERBATIM_BEGIN.pattern})"
    rf"|\\{INLINE_VERBATIM}"
    # In a web address `%` is a character.
    r"|\\(?:url|path|nolinkurl|href)[ \t]*\{[^{}\n]{0,2000}\}"
    r"|\\[\s\S]|(?P<comment>%[^\n]*)"
)
_NOT_BLANK = re.compile(r"[ \t]*(?=[^ \t\n])")

_SECTIONS = r"part|chapter|section|subsection|subsubsection|paragraph|subparagraph"
_HEADING = re.compile(
    rf"\\(?:{_SECTIONS})(?:\s*\*)?\s*[\[{{]"
    # Plain TeX: harvmac's, plain's own, AMS-TeX's.
    r"|\\newsec\s*\{|\\(?:beginsection|head|heading|specialhead)(?![A-Za-z])"
)
_TITLE_COMMAND = re.compile(r"\\(?:title|Plaintitle)\b\s*")
_BEGIN_DOCUMENT = re.compile(r"\\begin\s*\{document\}")
_END = re.compile(r"\\end\s*\{document\}|^[ \t]*\\(?:bye|end|enddocument)\s*$", re.MULTILINE)
_FRONT_END = re.compile(
    r"\\end\s*\{(?:abstract|frontmatter|titlepage|keywords?|keyword|opening)\}"
    r"|\\(?:maketitle|endabstract|endtopmatter|abstractend|titlepageend)(?![A-Za-z])"
)
_CLOSING_TITLE = re.compile(
    r"\W*(?:\\\w+\s*\{?)?\s*(?:acknowledge?ments?\b|references\b|bibliography\b|literature cited\b"
    r"|(?:data|code|materials?) (?:and \w+ )?availability\b|author contributions\b|funding\b"
    r"|supplement|supporting information\b|appendi|conflicts? of interest\b|declarations?\b)",
    re.IGNORECASE,
)
_APPENDIX = re.compile(r"\\appendix(?![A-Za-z])|\\begin\s*\{appendi(?:x|ces)\}")
_REFERENCES_TITLE = re.compile(
    r"\W*(?:\\\w+\s*\{?)?\s*(?:references(?:\s+and\s+notes)?|bibliography|literature cited"
    r"|works cited|literature)\W*",
    re.IGNORECASE,
)

_LISTS = ("thebibliography", "chapthebibliography", "references", "bibdiv", "biblist", "mcbibliography")
_BIBLIOGRAPHY_BEGIN = re.compile(r"\\begin\s*\{(" + "|".join(_LISTS) + r")\*?\}")
_BIBLIOGRAPHY_COMMAND = re.compile(
    r"\\(?:bibliography|bibliographystyle|nobibliography|addbibresource|nocite|bibliographyunit)"
    r"\s*(?:\[[^\[\]]{0,200}\])?\s*\{[^{}]{0,2000}\}"
    r"|\\printbibliography(?:\s*\[[^\[\]]{0,500}\])?"
    r"|\\(?:listrefs|refout)(?![A-Za-z])"
    r"|\\(?:input|include)\s*\{[^{}\n]{1,200}\.bbl\}|\\input\s+\S{1,200}\.bbl\b"
)
_AMS_REFERENCES = re.compile(r"\\Refs(?![A-Za-z])")
_AMS_REFERENCES_END = re.compile(r"\\endRefs(?![A-Za-z])")

_TRAILING_BLANKS = re.compile(r"(?<![ \t\n])[ \t]+(?=\n|\Z)|(?<=\n)[ \t]+(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{3,}")


def without_comments(text: str) -> str:
    r"""`text` without `%` comments and `comment` environments.

    `\%` is a percent sign, and after `\\` (a line break) a comment begins; verbatim text and web
    addresses keep theirs. A line that held nothing but a comment goes altogether. Where `%` was
    the last thing on a line, or followed an opening brace, the lines are joined as TeX joins them;
    after other comments the line end stays.
    """
    out: list[str] = []
    start = skip_to = 0
    unclosed: set[str] = set()
    for match in _COMMENT_TOKEN.finditer(text):
        if match.start() < skip_to or match.lastgroup not in ("begin", "comment"):
            continue
        if match.lastgroup == "comment":
            piece, start = _around_comment(text, start, match)
            _append(out, piece)
            skip_to = start
            continue
        name = match[2] + match[3]
        end = -1 if name in unclosed else text.find(f"\\end{{{name}}}", match.end())
        if end < 0:
            unclosed.add(name)
            continue
        skip_to = end + len(f"\\end{{{name}}}")
        if match[2] == "comment":
            # A line end in its place, so that the texts around it do not become a word.
            _append(out, text[start : match.start()] + "\n")
            start = skip_to
    _append(out, text[start:])
    return "".join(out)


def _around_comment(text: str, start: int, match: re.Match[str]) -> tuple[str, int]:
    """What stays of the text from `start` to a comment, and where the text goes on after it."""
    at, line_end = match.span()
    after = line_end + 1
    line_start = text.rfind("\n", 0, at) + 1
    following = _NOT_BLANK.match(text, after)
    if not text[max(start, line_start) : at].strip(" \t"):
        if start <= line_start:
            return text[start:line_start], after
        # The line before was joined to this one, and so will be the next.
        return "", min(after, len(text)) if following is None else following.end()
    before = text[start:at]
    is_bare = not match.group().strip("% \t")
    if following is not None and before[-1] not in " \t" and (is_bare or before[-1] == "{"):
        return before, following.end()
    return before.rstrip(" \t"), line_end


def _append(out: list[str], piece: str) -> None:
    if piece:
        out.append(joined(out[-1], piece)[len(out[-1]) :] if out else piece)


def title_of(text: str) -> str | None:
    r"""The words of `\title{…}`, None if there are none. Comments and macros should be gone."""
    for command in _TITLE_COMMAND.finditer(text):
        optional = read_optional(text, command.end())
        start = command.end() if optional is None else optional[1]
        while text[start : start + 1].isspace():
            start += 1
        end = group_end(text[: start + 5_000], start) if text[start : start + 1] == "{" else None
        if end is not None and (title := plain_words(text[start + 1 : end - 1])):
            return title
    return None


def plain_words(latex: str) -> str:
    """A short piece of LaTeX without commands and footnotes, mathematics as it is."""
    latex = re.sub(r"\\(?:thanks|footnote|footnotemark|titlenote)\s*(?:\[[^\]]{0,50}\])?\{[^{}]*\}", "", latex)
    latex = re.sub(r"\\\\\s*(?:\[[^\]]{0,50}\])?|\\(?:newline|linebreak|break)(?![A-Za-z])|~", " ", latex)
    pieces = re.split(r"(\$[^$]*\$)", latex)
    words = [
        piece
        if piece.startswith("$")
        else re.sub(r"\\([A-Za-z@]+)\*?\s*|\\([^A-Za-z])|[{}]", _visible, piece)
        for piece in pieces
    ]
    return " ".join("".join(words).split())


def _visible(match: re.Match[str]) -> str:
    names = {"LaTeX": "LaTeX ", "TeX": "TeX ", "ss": "ß", "o": "ø", "O": "Ø", "ae": "æ", "l": "ł"}
    if match[1] is not None:
        return names.get(match[1], "")
    return match[2] if match[2] and match[2] in "%&$#_{}" else " " if match[2] in ("," , " ", ";") else ""


def without_front_matter_and_bibliography(text: str, *, max_front_share: float) -> str:
    r"""The paper from its first section heading on, without bibliography and what follows its end.

    A heading is any of LaTeX's seven, starred or not, or plain TeX's and AMS-TeX's. Where there is
    none, or the first one only closes the paper (acknowledgements, appendix), or more than
    `max_front_share` of the paper lies before it (letters), the text begins after the abstract and
    the title block; without these, at the beginning of the document. Appendices stay.
    """
    begin = _BEGIN_DOCUMENT.search(text)
    start = 0 if begin is None else begin.end()
    end = _END.search(text, start)
    body = text[start : None if end is None else end.start()]
    return _without_bibliography(body[_first_section(body, max_front_share) :])


def _first_section(body: str, max_front_share: float) -> int:
    front = 0
    heading = _HEADING.search(body)
    for match in _FRONT_END.finditer(body, 0, len(body) // 2 + 1 if heading is None else heading.start()):
        front = match.end()
    if heading is None:
        return front
    closes = _CLOSING_TITLE.match(body, heading.end()) or _APPENDIX.search(body, 0, heading.start())
    before, whole = heading.start() - front, len(body) - front
    return front if closes or before > max_front_share * whole else heading.start()


def _without_bibliography(body: str) -> str:
    spans = sorted(_bibliography_spans(body))
    out, position = [], 0
    for start, end in spans:
        if end <= position:
            continue
        out.append(body[position : max(start, position)])
        position = end
    out.append(body[position:])
    return "".join(out)


def _bibliography_spans(body: str) -> Iterator[tuple[int, int]]:
    """Where the bibliography is, by its environments, its commands and its heading."""
    headings = [match.span() for match in _HEADING.finditer(body)]
    position = 0
    while match := _BIBLIOGRAPHY_BEGIN.search(body, position):
        end = body.find(f"\\end{{{match[1]}", match.end())
        close = body.find("}", end)
        position = len(body) if end < 0 or close < 0 else close + 1
        yield match.start(), position
    for match in _BIBLIOGRAPHY_COMMAND.finditer(body):
        yield match.span()
    if references := _AMS_REFERENCES.search(body):
        last = _AMS_REFERENCES_END.search(body, references.end())
        yield references.start(), len(body) if last is None else last.end()
    appendix = _APPENDIX.search(body)
    for (start, title), (end, _) in pairwise([*headings, (len(body), len(body))]):
        named = _REFERENCES_TITLE.match(body, title)
        if named is not None and named.end() > title and body[named.end() - 1] in "}]\n":
            before_appendix = appendix is not None and start < appendix.start() < end
            yield start, appendix.start() if appendix and before_appendix else end


def with_tidy_lines(text: str) -> str:
    """No blanks at line ends, at most one empty line in a row, none at either end."""
    return _BLANK_LINES.sub("\n\n", _TRAILING_BLANKS.sub("", text)).strip("\n")
