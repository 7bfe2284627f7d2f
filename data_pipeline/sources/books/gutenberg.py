"""Project Gutenberg boilerplate: parses the header's metadata and strips header, footer and
credits.

Three styles are supported: those of the 1990s, whose "small print" ends with a line of its own;
those from 2001 on, with lines `*** START OF` and `*** END OF`, some with small print at their end;
and those of the 2020s, whose credits stand before the start. Some have none of these lines, as all
of Project Gutenberg of Australia. See also `_CREDIT` and `notes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from data_pipeline.files.declared_encoding import declared_codec
from data_pipeline.sources.books.notes import without_notes

PUBLIC_DOMAIN = "public domain in the USA"
COPYRIGHTED = "copyrighted, distributed under the Project Gutenberg License"

_HEAD_CHARACTERS = 30_000
"""A header ends within this; small print of the 1990s has 13,000 characters."""
_LAST_LINES = 12
"""Lines before the end line that are searched for "End of Project Gutenberg's ..."."""
_LONGEST_CREDIT = 10
"""Maximum lines of a paragraph of credits. A text without blank lines has one paragraph."""

_S = "(?:'s|\u2019s)"
_BOOK_OF = re.compile(
    rf"^[^\w\n]*(?:The )?Project Gutenberg(?:{_S}|,| E-?(?:Book|Text)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_AUSTRALIA = re.compile(
    r"^[^\w\n]*A Project Gutenberg of Australia e-?book\b", re.IGNORECASE | re.MULTILINE
)
_TITLE_LINE = re.compile(
    rf"^[^\w\n]*(?:The )?Project Gutenberg(?:{_S}(?: E-?text of)?| E-?(?:book|text) of) +"
    r"(?P<title>[^\s*][^\n*]{0,199}?)(?:,? by [^\n]*)?[^\w\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_START = re.compile(
    r"^[ \t]*\*{2,}[ \t]*START OF (?:TH(?:E|IS) )?PROJECT GUTENBERG[^*]{0,400}\*{0,3}[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_SMALL_PRINT = re.compile(r"START\W{1,4}THE SMALL PRINT", re.IGNORECASE)
_SMALL_PRINT_END = re.compile(
    r"^[^\n]*\*\W?END\W{1,3}THE SMALL PRINT[^\n]*$", re.IGNORECASE | re.MULTILINE
)
_END = re.compile(
    # After the line end of the line before, which Python finds faster than "^" in a whole book.
    r"\n[ \t]*\*{2,}[ \t]*END OF (?:TH(?:E|IS) )?PROJECT GUTENBERG",
    re.IGNORECASE,
)
_END_OF_BOOK = re.compile(
    r"""[^\w\n]{0,6}(?:
      (?:End|Ende|Fin|Fine|Einde|Fim)\ (?:of\ |de\ |du\ |di\ |van\ |do\ |dieses\ |del\ )?
        (?:the\ |this\ |la\ |el\ |l['\u2019])?(?:Proje[ck]?t|Progetto|Proyecto)\ Gutenberg
    | This\ site\ is\ full\ of\ FREE\ ebooks
    | This\ file\ should\ be\ named\ \S+\.(?:txt|zip)
    )""",
    re.IGNORECASE | re.VERBOSE,
)

_CREDIT = re.compile(
    r"""\W{0,4}(?:
      produced\ by
    | (?:this\ )?(?:e-?book|e-?text|electronic\ (?:text|edition|version)|file)\ (?:was\ )?
        (?:produced|prepared|transcribed|created|converted|scanned|proofed|typed|made|by)\b
    | (?:transcribed|scanned|typed|digiti[sz]ed|proofed|proofread|prepared|keyed)\b
        .{0,60}\b(?:by|from)\b
    | (?:html|text|updated?)\ version\ by | edition\ \d+\ was\ produced
    | (?:this|the)\ (?:file|e-?text|e-?book)\ (?:was|is|has\ been)\b
    | images?\ (?:generously\ )?(?:made\ available|provided) | credits?:?\ .{0,200}pgdp
    | note:\ .{0,60}(?:project\ gutenberg|images|html) | .{0,60}distributed\ proofread
    | .{0,100}first\ electronic\ edition | note\ from\ the\ original\ file
    | .{0,300}project\ gutenberg
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""Start of a paragraph or line of credits (who produced the file), before the book itself."""
_PARAGRAPH_BREAK = re.compile(r"\n[ \t]*\n")
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)*")

_FIELD = r"^[ \t]*{name}:[ \t]*(?P<value>\S[^\n]*(?:\n[ \t]{{2,}}\S[^\n]*)*)"
_HEADER_LINE = re.compile(
    r"\W{0,4}(?:(?:sub)?title|author|translator|illustrator|editor|contributor|release date"
    r"|posting date|language|character set encoding|credits|edition|e-?book no\.?"
    r"|(?:date )?(?:first|last|most recently) (?:posted|updated)): |copyright laws are changing\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\bE-?(?:book|text)\s{0,3}#\s{0,3}(\d{1,6})", re.IGNORECASE)
_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
_DATE = re.compile(
    rf"(?P<month>{'|'.join(_MONTHS)}),?\s+(?:(?P<day>\d{{1,2}}),?\s+)?(?P<year>\d{{4}})",
    re.IGNORECASE,
)
_LANGUAGES = {
    **{"afrikaans": "af", "bulgarian": "bg", "catalan": "ca", "chinese": "zh", "czech": "cs"},
    **{"danish": "da", "dutch": "nl", "english": "en", "esperanto": "eo", "finnish": "fi"},
    **{"french": "fr", "friesian": "fy", "galician": "gl", "german": "de", "greek": "el"},
    **{"hebrew": "he", "hungarian": "hu", "icelandic": "is", "irish": "ga", "italian": "it"},
    **{"japanese": "ja", "latin": "la", "norwegian": "no", "polish": "pl", "portuguese": "pt"},
    **{"romanian": "ro", "russian": "ru", "serbian": "sr", "slovenian": "sl", "spanish": "es"},
    **{"swedish": "sv", "tagalog": "tl", "ukrainian": "uk", "welsh": "cy", "yiddish": "yi"},
}
"""Project Gutenberg's name of a language -> ISO 639-1."""


@dataclass(frozen=True)
class Header:
    """Metadata of the header; None for what it does not state."""

    number: int | None
    title: str | None
    author: str | None
    language: str | None
    """ISO 639-1."""
    released: str | None
    """ISO 8601, with the precision stated."""
    license: str | None
    """`PUBLIC_DOMAIN`, `COPYRIGHTED`, or None if neither is stated."""


def is_gutenberg(text: str) -> bool:
    """Whether a text is a file of Project Gutenberg, rather than one that mentions it."""
    head = text[:_HEAD_CHARACTERS]
    if _START.search(head) or _SMALL_PRINT.search(head) or _AUSTRALIA.search(head[:2_000]):
        return True
    return _BOOK_OF.search(head[:2_000]) is not None and "gutenberg" in text[-40_000:].lower()


def header(text: str) -> Header:
    """Parse the metadata of the header."""
    head = text[: _start(text)] or text[:_HEAD_CHARACTERS]
    number = _NUMBER.search(head)
    lower = head.lower()
    if re.search(r"\bcopyrighted project gutenberg", lower):
        license: str | None = COPYRIGHTED
    elif _AUSTRALIA.search(head):
        license = None  # public domain in Australia, perhaps not in the USA
    elif "public domain" in lower or "for the use of anyone anywhere" in lower:
        license = PUBLIC_DOMAIN
    else:
        rest = text[-40_000:].lower()
        phrases = (
            "public domain in the us",
            "not protected by u.s. copyright",
            "public domain ebook",
        )
        is_stated = any(phrase in rest for phrase in phrases)
        license = PUBLIC_DOMAIN if is_stated else None
    return Header(
        number=int(number[1]) if number else None,
        title=_field(head, "Title") or _title_line(head),
        author=_field(head, "Author"),
        language=_LANGUAGES.get((_field(head, "Language") or "").lower()),
        released=_released(head),
        license=license,
    )


def declared_encoding(data: bytes) -> str | None:
    """Python's name of the encoding that the header declares; None if absent or unknown."""
    head = data[:_HEAD_CHARACTERS].decode("latin-1")
    declared = re.search(r"^Character set encoding:[ \t]*([\w.:-]+)", head, re.MULTILINE)
    return None if declared is None else declared_codec(declared[1])


def book(text: str) -> str:
    """The book without boilerplate: header, footer, credits and transcriber's notes.

    Between the first paragraphs and the last only notes with a heading or in brackets are searched
    for.
    """
    body = text[_start(text) :]
    body = _without_footer(body)
    body = _without_credits(body)
    return without_notes(body).strip("\n") + "\n"


def _start(text: str) -> int:
    """Position of the end of the header."""
    head = text[:_HEAD_CHARACTERS]
    start = 0
    if marker := _START.search(head):
        start = marker.end()
        head = text[: start + _HEAD_CHARACTERS // 2]
    if _SMALL_PRINT.search(head) and (end := _SMALL_PRINT_END.search(head, start)):
        is_footer = start > 0 and _END.search(head, start, end.start()) is not None
        start = start if is_footer else end.end()
    return start or _unmarked_start(head)


def _unmarked_start(head: str) -> int:
    """End of a header without an end marker: after its last paragraph of fields, of Project
    Gutenberg's words or of credits, before three paragraphs that are none of these."""
    rest, start, num_others = head.lstrip("\n"), 0, 0
    while num_others < 3:
        paragraph, _, after = _first_paragraph(rest)
        if not after:
            break
        first = paragraph.lstrip()
        is_header = _HEADER_LINE.match(first) or _CREDIT.match(first) or "Gutenberg" in paragraph
        start, num_others = (len(head) - len(after), 0) if is_header else (start, num_others + 1)
        rest = after
    return start


def _without_footer(body: str) -> str:
    if marker := _END.search(f"\n{body}"):
        body = body[: marker.start()]
        lines = body.split("\n")
        first = max(0, len(lines) - _LAST_LINES)
    else:
        # The end line of the 1990s stands alone; what follows is no longer than small print.
        lines = body.split("\n")
        first = max(0, len(lines) - 600)
    for index in range(first, len(lines)):
        if _END_OF_BOOK.match(lines[index]):
            return "\n".join(lines[:index]).rstrip("\n* ")
    return body.rstrip()


def _without_credits(body: str) -> str:
    """Strip paragraphs of credits among the first six."""
    kept: list[str] = []
    rest = body.lstrip("\n")
    for index in range(6):
        paragraph, gap, after = _first_paragraph(rest)
        if not paragraph:
            break
        lines = paragraph.split("\n")
        if _CREDIT.match(paragraph.lstrip()) and (index == 0 or not kept or _is_sure(paragraph)):
            if len(lines) > _LONGEST_CREDIT:
                # No blank lines: only the line itself is known to be a credit.
                return "".join(kept) + "\n".join(lines[1:]) + gap + after
        else:
            kept.append(paragraph + gap)
        rest = after
    return "".join(kept) + rest


def _is_sure(paragraph: str) -> bool:
    """Whether a paragraph is certainly one of credits, even after the title."""
    lower = paragraph.lower()
    return any(
        word in lower for word in ("electronic", "gutenberg", "proofread", "etext", "e-text")
    )


def _first_paragraph(text: str) -> tuple[str, str, str]:
    """(first paragraph, blank lines after it, the rest)."""
    end = _PARAGRAPH_BREAK.search(text)
    if end is None:
        return text, "", ""
    gap = _BLANK_LINES.match(text, end.start() + 1)
    assert gap is not None, "the pattern matches the empty string"
    return text[: end.start() + 1].rstrip("\n"), "\n" + gap[0], text[gap.end() :]


def _field(head: str, name: str) -> str | None:
    found = re.search(_FIELD.format(name=name), head, re.IGNORECASE | re.MULTILINE)
    return " ".join(found["value"].split()) if found else None


def _title_line(head: str) -> str | None:
    """Title from "The Project Gutenberg Etext of TITLE, by AUTHOR"."""
    found = _TITLE_LINE.search(head)
    return " ".join(found["title"].split()) if found else None


def _released(head: str) -> str | None:
    for name in ("Release Date", "First Posted", "Date First Posted", "Posting Date"):
        if stated := _field(head, name):
            return _date(stated)
    # The only date in headers of the 1990s: "August, 1993 [Etext #76]".
    found = re.search(r"^([^\n\[]{4,60})\[E-?text #\d+\]", head, re.IGNORECASE | re.MULTILINE)
    return _date(found[1]) if found else None


def _date(stated: str) -> str | None:
    if found := _DATE.search(stated):
        month = _MONTHS.index(found["month"].lower()) + 1
        day = int(found["day"] or 0)
        date = f"{found['year']}-{month:02}"
        return f"{date}-{day:02}" if 1 <= day <= 31 else date
    year = re.match(r"\s*(\d{4})\b", stated)
    return year[1] if year else None
