"""Strips comments, front matter and bibliography from LaTeX, as the LLaMA paper does.

Pure functions from text to text. The result is still LaTeX source. Each function is
idempotent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from data_pipeline.sources.arxiv.tex_tokens import (
    INLINE_VERBATIM,
    ends_with_word,
    tokens_outside_verbatim,
    verbatim_environments,
    without_verbatim,
)

_MAX_PASSES = 10
_NOT_BLANK = re.compile(r"[ \t]*(?=[^ \t\n])")

_SECTIONS = r"part|chapter|section|subsection|subsubsection|paragraph|subparagraph"
_HEADING = re.compile(rf"\\(?:{_SECTIONS})(?:\s*\*)?\s*[\[{{]")
_PLAIN_HEADING = re.compile(
    # harvmac's, plain TeX's and AMS-TeX's, besides LaTeX's that other formats adopted.
    rf"{_HEADING.pattern}|\\newsec\s*\{{|\\(?:beginsection|head|heading|specialhead)(?![A-Za-z])"
)
_BEGIN_DOCUMENT = re.compile(r"\\begin\s*\{document\}")
_END = re.compile(r"\\end\s*\{document\}")
_PLAIN_END = re.compile(
    rf"{_END.pattern}|\\(?:bye|enddocument)(?![A-Za-z])|\\end[ \t]*$", re.MULTILINE
)
_FRONT_END = re.compile(
    r"\\end\s*\{(?:abstract|frontmatter|titlepage|keywords?|keyword|opening)\}"
    r"|\\(?:maketitle|endabstract|endtopmatter|abstractend|titlepageend)(?![A-Za-z])"
)
_MAX_TITLE = 200
_CLOSING_TITLE = re.compile(
    r"\W*(?:\\\w+\s*(?:\{\s*)?)?(?:acknowledge?ments?\b|references\b|bibliography\b"
    r"|literature cited\b"
    r"|(?:data|code|materials?) (?:and \w+ )?availability\b|author contributions\b|funding\b"
    r"|supplement|supporting information\b|appendi|conflicts? of interest\b|declarations?\b)",
    re.IGNORECASE,
)
_APPENDIX = re.compile(r"\\appendix(?![A-Za-z])|\\begin\s*\{appendi(?:x|ces)\}")
_REFERENCES_TITLE = re.compile(
    r"\W*(?:\\\w+\s*(?:\{\s*)?)?(?:references(?:\s+and\s+notes)?|bibliography|literature cited"
    r"|works cited|literature)\s*[}\]\n]",
    re.IGNORECASE,
)

_LISTS = ("thebibliography", "chapthebibliography", "references", "bibdiv", "mcbibliography")
_BIBLIOGRAPHY_BEGIN = re.compile(r"\\begin\s*\{(" + "|".join(_LISTS) + r")\*?\}")
_BIBLIOGRAPHY_COMMAND = re.compile(
    r"\\(?:bibliography|bibliographystyle|nobibliography|addbibresource|nocite|bibliographyunit)"
    r"\s*(?:\[[^\[\]]{0,200}\]\s*)?\{[^{}]{0,2000}\}"
    r"|\\printbibliography(?:\s*\[[^\[\]]{0,500}\])?"
    r"|\\(?:listrefs|refout)(?![A-Za-z])"
    r"|\\(?:input|include)\s*\{[^{}\n]{1,200}\.bbl\}|\\input\s+\S{1,200}\.bbl\b"
)
_AMS_REFERENCES = re.compile(r"\\Refs(?![A-Za-z])")
_AMS_REFERENCES_END = re.compile(r"\\endRefs(?![A-Za-z])")

_BLANK_LINES = re.compile(r"\n{3,}")
_HIDING = re.compile(
    r"^[^%\n]*?\\(exclude|include)(?:comment|version)\s*\{([A-Za-z]{1,50})\}", re.MULTILINE
)
_MAX_HIDDEN = 100


def without_comments(text: str) -> str:
    r"""`text` without `%` comments and `comment` environments.

    `\%` is a percent sign, and after `\\` (a line break) a comment begins; verbatim text and URLs
    are unchanged. A line with nothing but a comment is removed altogether. Where `%` was the last
    thing on a line, or followed an opening brace, the lines are joined as TeX joins them; after
    other comments the line end is kept.
    """
    for _ in range(_MAX_PASSES):
        # Joined lines may close a `\verb` and so expose a comment after it.
        text, before = _without_comments_seen(text), text
        if text == before:
            break
    return text


def _hidden_environments(text: str) -> frozenset[str]:
    r"""Names of the environments whose content is not shown: `comment`, and those that
    `\excludecomment` and `\excludeversion` declare, unless a later line includes them."""
    hidden = {"comment"}
    if "cludecomment" not in text and "cludeversion" not in text:
        return frozenset(hidden)
    for match in _HIDING.finditer(text):
        (hidden.add if match[1] == "exclude" else hidden.discard)(match[2])
    return frozenset(sorted(hidden)[:_MAX_HIDDEN])


def _comment_token(text: str, hidden: frozenset[str]) -> re.Pattern[str]:
    """Pattern of tokens that may be, or contain, a percent sign in `text`."""
    names = "|".join(map(re.escape, (*verbatim_environments(text), *sorted(hidden))))
    return re.compile(
        r"\\(?:begin[ \t]*(?:%[^\n]*\n[ \t]*)?"
        rf"\{{(?P<verbatim>(?:{names})\*?)\}}|{INLINE_VERBATIM}"
        # In a URL `%` is a character.
        r"|(?:url|path|nolinkurl|href)[ \t]*\{[^{}\n]{0,2000}\}"
        r"|[\\%])|%[^\n]*"
    )


def _without_comments_seen(text: str) -> str:
    out: list[str] = []
    start = 0
    hidden = _hidden_environments(text)
    for match in tokens_outside_verbatim(_comment_token(text, hidden), text):
        at = match.start()
        if text[at] == "%":
            piece, start = _around_comment(text, start, match)
            _append(out, piece)
        elif match.lastgroup == "verbatim" and match["verbatim"].rstrip("*") in hidden:
            end = rf"\end{{{match['verbatim']}}}"
            # Keep a line end in its place, so that the texts around it do not merge into a word.
            _append(out, text[start:at] + "\n")
            start = text.index(end, match.end()) + len(end)
    _append(out, text[start:])
    return "".join(out)


def _around_comment(text: str, start: int, match: re.Match[str]) -> tuple[str, int]:
    """What is kept of the text from `start` to a comment, and where the text continues after it."""
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
    if piece and piece[0].isalpha() and out and ends_with_word(out[-1]):
        out.append(" ")  # else the two would form another control word
    if piece:
        out.append(piece)


def without_front_matter_and_bibliography(text: str, *, max_front_share: float) -> str:
    r"""The paper from its first section heading on, without bibliography and what follows its end.

    A heading is any of LaTeX's seven, starred or not; in a text without a document environment also
    one of plain TeX or AMS-TeX. Where there is none, or the first one is closing matter
    (acknowledgements, appendix), or more than `max_front_share` of the paper precedes it (letters),
    the text begins after the abstract and the title block; without these, at the beginning of the
    document. Appendices are kept.
    """
    commands = without_verbatim(text)  # of the same length, and all that is searched
    begin = _BEGIN_DOCUMENT.search(commands)
    start = 0 if begin is None else begin.end()
    is_plain = begin is None and _HEADING.search(commands) is None
    heading, last = (_PLAIN_HEADING, _PLAIN_END) if is_plain else (_HEADING, _END)
    end = last.search(commands, start)
    inside = slice(start, None if end is None else end.start())
    body, commands = text[inside], commands[inside]
    spans = sorted(_bibliography_spans(commands, heading))
    body, commands = ("".join(_outside(part, spans)) for part in (body, commands))
    return body[_first_section(commands, heading, max_front_share) :]


def _first_section(body: str, heading: re.Pattern[str], max_front_share: float) -> int:
    """Position where the paper begins."""
    first = heading.search(body)
    front = _front_end(body, first.start() if first else None)
    if first is None:
        return front
    closes = _CLOSING_TITLE.match(body, first.end(), first.end() + _MAX_TITLE) is not None
    closes = closes or _APPENDIX.search(body, 0, first.start()) is not None
    is_late = first.start() - front > max_front_share * (len(body) - front)
    return front if closes or is_late else first.start()


def _front_end(body: str, end: int | None) -> int:
    """After the last thing before `end` that ends the abstract or the title block. Without an end,
    each has to be in the first half of what follows the one before.
    """
    front = 0
    while True:
        limit = front + (len(body) - front) // 2 if end is None else end
        found = [match.end() for match in _FRONT_END.finditer(body, front) if match.start() < limit]
        if not found:
            return front
        front = found[-1]


def _outside(body: str, spans: list[tuple[int, int]]) -> Iterator[str]:
    """The parts of `body` outside all of the sorted spans."""
    position = 0
    for start, end in spans:
        if end > position:
            yield body[position : max(start, position)]
            position = end
    yield body[position:]


def _bibliography_spans(body: str, heading: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Spans of the bibliography, by its environments, its commands and its heading."""
    headings = [match.span() for match in heading.finditer(body)]
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
        named = _REFERENCES_TITLE.match(body, title, title + _MAX_TITLE)
        if named is not None and body[named.end() - 1] in "}]\n":
            before_appendix = appendix is not None and start < appendix.start() < end
            yield start, appendix.start() if appendix and before_appendix else end


def with_tidy_lines(text: str) -> str:
    """Strip trailing whitespace, collapse empty lines, and strip empty lines at both ends."""
    lines = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", lines).strip("\n")
