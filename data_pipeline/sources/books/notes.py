"""Strips what transcribers added to a book: their notes, lists of errors, words about the file.

Notes stand under a heading or in brackets, in the languages of the paper; blurbs about the file in
angle brackets; what has no heading is a paragraph of its own near the beginning or the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_LONGEST_NOTE = 4_000
"""Maximum characters of a note within the book."""
_LONGEST_END_NOTE = 60_000
_END_SHARE = 0.85
"""From here on, a note goes up to the end."""
_LONGEST_PARAGRAPH = 1_500
_NUM_PARAGRAPHS = 8
_REACH = _NUM_PARAGRAPHS * _LONGEST_PARAGRAPH

_TRANSCRIBER = r"""(?:
      (?:original\ |e-?text\ )?transcriber(?:s?['\u2019]?s?['\u2019]?)[ \t]+(?:end[ -]?)?
        notes?(?![^\W_])
    | transcription\ notes?(?![^\W_])
    | (?:end)?notes?\ (?:by|from)\ the\ (?:e-?text\ )?(?:transcriber|proofreader|digitizer)s?\b
    | (?:e-?text\ )?(?:proofreader|producer|digitizer)(?:s?['\u2019]?s?['\u2019]?)\ notes?(?![^\W_])
    | (?:typographical|printer['\u2019]?s|typesetting|spelling)\ (?:errors|corrections|changes)
        \ (?:corrected|made)\ (?:by\ the\ |in\ (?:this|the)\ )(?:e-?text|transcriber|transcription)
    | (?:list\ of\ )?(?:corrections|changes|errata)\ (?:made\ )?(?:by\ the\ transcriber
        |(?:in|to)\ (?:this|the)\ (?:e-?text|e-?book|electronic\ (?:text|edition)))
    # German
    | (?:an|be)merkung(?:en)?\ (?:zur\ (?:transkription|digitalisierung|elektronischen\ ausgabe)
        |de[sr]\ (?:transkript|bearbeit|transkrib)\w{2,12})
    | (?:hinweise?|notiz(?:en)?)\ (?:zur\ transkription|de[sr]\ (?:transkript|transkrib)\w{2,12})
    | transkriptionsnoti\w{1,4}
    # French
    | notes?\ (?:sur\ la\ transcription|de\ (?:la\ )?transcription
        |d(?:u|es|e\ la)\ transcript(?:eur|rice)s?)\b
    # Spanish, Catalan, Portuguese, Italian, Romanian
    | not[ae]s?\ (?:d(?:el|els|a|as|e|o|os|i)\ )?(?:la\ )?
        (?:transcripto?r|transcritor|trascrittor|transcripci|transcriç|trascrizion)\w{0,4}\b
    | nota\ de\ editor:\ devido
    # Dutch
    | (?:opmerking|aantekening)(?:en)?\ van\ de\ (?:bewerker|transcri\w{3,8})s?\b
    # Swedish, Danish, Norwegian
    | (?:transkriberaren?s|transskribent(?:en)?s|transkribent(?:en)?s)\ (?:an|be)m[äæ]rkning\w{0,4}
    | (?:anm[äæ]rkning(?:ar|er)|bem[æe]rkninger|noter)\ (?:om|till?|fra)\ (?:den\ )?
        (?:transkri|transskri|elektronis)\w{1,12}
    # Polish, Czech, Hungarian, Russian
    | uwagi\ do\ wydania\ elektronicznego | (?:od|uwagi)\ transkrybenta
    | poznámk[ay]\ (?:k\ přepisu|přepisovatele) | megjegyzések\ a(?:z\ elektronikus|\ digit)\w{0,12}
    | примечани[ея]\ (?:к\ электронно\w{2,3}|переписчика)
    )"""
# Python finds a pattern that begins with a line end several times faster than one that begins with
# "^", and few lines have notes: these are searched for after a line end put before the book.
_NOTE = re.compile(
    # The lookahead has the first letters of all alternatives: most lines are done with it.
    rf"\n[ \t\[*_=~+|-]*(?=[a-ehlmnopstuп]){_TRANSCRIBER}",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_BRACKETED_NOTE = re.compile(
    rf"\[[ \t]*{_TRANSCRIBER}[^\[\]]{{0,{_LONGEST_NOTE}}}\][ \t]*", re.IGNORECASE | re.VERBOSE
)
_BLURB = re.compile(r"\n[ \t]*(?:<<?|\[)([^<>\[\]]{20,3000})(?:>>?|\])[ \t]*$", re.MULTILINE)
_ABOUT_FILE = re.compile(
    r"\b(?:electronic|machine[ -]readable)\s+(?:and\s+\S+\s+\S+\s+)?(?:version|edition|text|cop)"
    r"|\b(?:project\s+gutenberg|e-?text|e-?book)\b",
    re.IGNORECASE,
)
_RIGHTS = re.compile(r"copyright|permission|distribut|provided\s+by|courtesy", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,5}")
_WORK = re.compile(
    r"format|scann|typed|transcri|proof|prepared|e-?text|e-?book|electronic|edition|version"
    r"|correct|convert|html|digiti|\bocr\b|upload|posted|produced|errors?\b|hyphen",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"""[\W_]{0,6}(?:
      (?:this|the)\ (?:e-?|electronic\ )?(?:text|file|book|edition)\ (?:was|has\ been)[ ]
        (?:\w+\ ){0,3}(?:re-?)?(?:format|typed|scann|digiti|proof|convert)\w*\b
    | (?:a\ (?:few|number\ of)|all|apparent|minor|obvious|several|some|simple|the\ following)[ ]
        (?:\w+\ ){0,3}(?:typographical|typesetting|printer['\u2019]?s['\u2019]?|spelling
          |punctuation|typos?)\b[^.]{0,80}\b(?:corrected|fixed|repaired|regularized|normali[sz]ed)\b
    | offensichtliche\ (?:\w+\ ){0,3}(?:druck|satz|tipp|schreib)fehler\b
    | (?:les\ )?(?:quelques\ )?(?:erreurs|coquilles|fautes)\ [^.]{0,100}\bcorrig
    | (?:duidelijke|kennelijke)\ (?:druk|zet)fouten\b
    | se\ han\ corregido\ [^.]{0,60}\b(?:errores|erratas)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""Start of a paragraph about what was done to the text."""
_SECTION_BREAK = re.compile(r"\n[ \t]*\n[ \t]*\n(?:[ \t]*\n)*")
_PARAGRAPH_BREAK = re.compile(r"\n[ \t]*\n")
_BRACKET = re.compile(r"[\[\]]")
_BLANKS = re.compile(r"[ \t]*")
_SENTENCE = re.compile(r"[.:;]")
_LINE_END = " \t:.*_=~|]"
_LONGEST_REST = 40
_GAP = re.compile(r"(\n[ \t]*\n\s*)")
_SPACE = re.compile(r"\s*")


def without_notes(body: str) -> str:
    """The book without notes: in brackets, under a heading up to the next section or up to the end,
    and in paragraphs about the file among the first and last."""
    lines = _BLURB.sub(lambda blurb: "\n" if _is_about_file(blurb[1]) else blurb[0], f"\n{body}")
    lines = _BRACKETED_NOTE.sub("", lines)
    body = lines[1:]
    pieces: list[str] = []
    done = 0
    for note in _NOTE.finditer(lines):  # a line end's position here is its line's in the book
        if note.start() < done:
            continue
        pieces.append(body[done : note.start()])
        done = _note_end(body, note.start(), note.end() - 1)
    body = "".join([*pieces, body[done:]]).strip("\n")
    return _without_statements(body)


def _is_statement(paragraph: str) -> bool:
    """Whether a paragraph says what was done to the text: it begins so, or has an e-mail address
    beside words for such work."""
    if len(paragraph) > _LONGEST_PARAGRAPH:
        return False
    if _STATEMENT.match(paragraph.replace("\n", " ")):
        return True
    return "@" in paragraph and bool(_EMAIL.search(paragraph) and _WORK.search(paragraph))


def _is_about_file(text: str) -> bool:
    return bool(_ABOUT_FILE.search(text) and _RIGHTS.search(text))


def _note_end(body: str, start: int, after: int) -> int:
    """Where the note ends whose heading is from `start` to `after`."""
    bracket = body.find("[", start, after)
    if bracket >= 0 and (closed := _closing_bracket(body, bracket)) is not None:
        return closed
    if not _is_heading(body, after):
        return _sentences_end(body, start)
    left = len(body) - start
    if left <= _LONGEST_END_NOTE and start > _END_SHARE * len(body):
        return len(body)
    # The heading may itself be separated from the note by several blank lines.
    heading = body.find("\n", start)
    text_start = _SPACE.match(body, heading if heading >= 0 else len(body))
    assert text_start is not None, "the pattern matches the empty string"
    end = _SECTION_BREAK.search(body, text_start.end(), start + _LONGEST_NOTE)
    if end is not None:
        return end.end()
    paragraph = _PARAGRAPH_BREAK.search(body, text_start.end(), start + _LONGEST_NOTE)
    return paragraph.end() if paragraph else start


def _closing_bracket(body: str, start: int) -> int | None:
    """After the bracket that closes the one at `start`, and blanks; None where it is too far."""
    depth = 0
    for bracket in _BRACKET.finditer(body, start, start + _LONGEST_NOTE):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            blanks = _BLANKS.match(body, bracket.end())
            assert blanks is not None, "the pattern matches the empty string"
            return blanks.end()
    return None


def _is_heading(body: str, after: int) -> bool:
    """Whether the words before `after` are a heading, on a line with at most a few words more; else
    the note itself is behind them."""
    end = body.find("\n", after)
    rest = body[after : end if end >= 0 else len(body)]
    if not any(map(str.isalnum, rest)):
        return True
    is_alone = end < 0 or not body[end + 1 : body.find("\n", end + 1)].strip()
    # At the end of the line, a colon is a heading's, too.
    return is_alone and len(rest) <= _LONGEST_REST and not _SENTENCE.search(rest.rstrip(_LINE_END))


def _sentences_end(body: str, start: int) -> int:
    """Of a note that begins on the line of its heading: its paragraph, or its section if it has one
    of its own."""
    paragraph = _PARAGRAPH_BREAK.search(body, start)
    end = paragraph.end() if paragraph else len(body)
    if start > 0 and not body.endswith("\n\n\n", 0, start):
        return end
    section = _SECTION_BREAK.search(body, start, start + _LONGEST_PARAGRAPH)
    if section is not None:
        return section.end()
    is_last = len(body) - start <= _LONGEST_PARAGRAPH
    return len(body) if is_last else end


def _without_statements(body: str) -> str:
    """Drop statements among the first and the last paragraphs that are none."""
    parts = _split(body)
    paragraphs, gaps = parts[::2], [*parts[1::2], ""]
    indices = range(len(paragraphs))
    dropped = {*_statements(paragraphs, indices), *_statements(paragraphs, reversed(indices))}
    if not dropped:
        return body
    kept = [index for index in indices if index not in dropped]
    return "".join(paragraphs[index] + gaps[index] for index in kept).strip("\n")


def _split(body: str) -> list[str]:
    """Paragraphs and the gaps between them, of a long book in its first and last pages only."""
    first, last = _GAP.search(body, _REACH), _GAP.search(body, max(len(body) - _REACH, 0))
    if first is None or last is None or first.end() >= last.start():
        return _GAP.split(body)
    middle = [first[0], body[first.end() : last.start()], last[0]]
    return [*_GAP.split(body[: first.start()]), *middle, *_GAP.split(body[last.end() :])]


def _statements(paragraphs: list[str], order: Iterable[int]) -> Iterator[int]:
    num_others = 0
    for index in order:
        if _is_statement(paragraphs[index]):
            yield index
        elif (num_others := num_others + 1) == _NUM_PARAGRAPHS:
            return
