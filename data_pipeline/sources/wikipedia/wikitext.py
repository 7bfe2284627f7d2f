"""Converts wikitext to plain text, in time and memory linear in its length.

    brackets     templates, tables, links and tags, innermost first, in one pass with a stack
    addresses    external links, language variants, magic words
    punctuation  remains of removed templates: "( ; )", " ,", doubled spaces
    layout       headings, lists, empty sections

mwparserfromhell parses the same constructs and more of them exactly, but takes quadratic time on
unclosed markup (7 s for 12 kB of "{{a|", in C, where nothing can interrupt it), and then leaves it
in the text. Here unclosed markup becomes text without its brackets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from data_pipeline.sources.wikipedia.emphasis import SEPARATOR, without_emphasis
from data_pipeline.sources.wikipedia.layout import lay_out
from data_pipeline.sources.wikipedia.names import (
    CATEGORY_NAMESPACES,
    FILE_NAMESPACES,
    PROJECT_PREFIXES,
    WIKIPEDIA_CODES,
)
from data_pipeline.sources.wikipedia.scripts import plain_scripts
from data_pipeline.sources.wikipedia.templates import render as render_template
from data_pipeline.sources.wikipedia.unknown_templates import sentence_part
from data_pipeline.text.decoding import unescaped, word_set

MAX_DEPTH = 100
"""Maximum nesting; MediaWiki's own limit on expansion ($wgMaxPPExpandDepth)."""

_MAX_PREFIXES = 10
"""Interwiki and namespace prefixes of one link that are removed: ":w:de:Name" has two."""
_LEFT_OUT = word_set(
    """
    ref references gallery timeline score imagemap graph mapframe maplink templatedata
    templatestyles indicator inputbox categorytree hiero includeonly section phonos chart rss
    style script
    """
)
"""Tags that are removed with their content."""
_VERBATIM = frozenset({"nowiki", "pre", "syntaxhighlight", "source"})
_FORMULAS = frozenset({"math", "chem", "ce"})
_ELEMENTS = _LEFT_OUT | _VERBATIM | _FORMULAS
"""Tags without wikitext inside."""
_FORMATTING = word_set(
    """
    abbr b bdi bdo big blockquote br caption center cite code data dd del dfn div dl dt em font h1
    h2 h3 h4 h5 h6 hr i img ins kbd li link mark meta noinclude nobr nowiki ol onlyinclude p poem
    pre q rb rp rt rtc ruby s samp small span strike strong sub sup table tbody td th thead time
    tr tt u ul var wbr noscript translate tvar languages a
    """
)
"""Tags that are removed while their content is kept. Others are not tags: "a <stdio.h> b"."""

_OPENING = (
    r"<!--|<(?P<slash>/?)(?P<tag>[A-Za-z][A-Za-z0-9]{0,20})(?P<attributes>[^<>]*)>"
    r"|\{\{+|\[\[|^[ \t:;*#]*\{\|"
)
_OUTSIDE = re.compile(_OPENING, re.MULTILINE)
_INSIDE = re.compile(_OPENING + r"|\}\}+|\]\]|^[ \t]*\|\}|\|", re.MULTILINE)
_LETTER = re.compile(r"(?:''(?:'(?!'))?|\[\[)*[^\W_]")
"""A letter behind marks of italics, bold and links. A run of apostrophes is read in one way only,
in twos and a last three: in several ways it would take exponential time."""
_EQUALS = re.compile(r"(?<![=\n])=(?!=|$)", re.MULTILINE)
"""An equals sign that is not part of a heading."""
_MAX_CONTEXT = 80
"""Characters before and after a template that say whether it is part of a sentence."""
_VERBATIM_MARK = re.compile(r"\x00(\d+)\x00")

_TEMPLATE, _PARAMETER, _LINK, _TABLE, _HTML_TABLE = "{{", "{{{", "[[", "{|", "<table>"


class WikitextError(ValueError):
    """Wikitext that cannot be converted within limits."""


def to_text(wikitext: str) -> str:
    """The text of a page. WikitextError if brackets are nested more than `MAX_DEPTH` deep.

    Dropped: references, tables, images, galleries, template notes and boxes, category and
    interlanguage links, URLs. Formulas are kept, as TeX between dollar signs; code is unchanged.
    """
    wikitext = wikitext.replace("\x00", "").replace(SEPARATOR, "")
    scanner = _Scanner(wikitext)
    text = _punctuation(_inline(scanner.text()))
    text = unescaped(lay_out(text)).replace("\u00a0", " ").replace("\u00ad", "")
    text = _VERBATIM_MARK.sub(lambda mark: scanner.verbatim[int(mark[1])], text)
    return _BLANK_LINES.sub("\n\n", _TRAILING_SPACE.sub("", text)).strip("\n")


@dataclass(slots=True)
class _Frame:
    """An open construct: its finished arguments, and the parts of the one being read."""

    kind: str
    arguments: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def finish_argument(self) -> None:
        self.arguments.append("".join(self.pieces))
        self.pieces = []


class _Scanner:
    """One pass over wikitext."""

    def __init__(self, wikitext: str) -> None:
        self._source = wikitext
        self._stack = [_Frame("")]
        self._open: dict[str, int] = dict.fromkeys(
            (_TEMPLATE, _PARAMETER, _LINK, _TABLE, _HTML_TABLE), 0
        )
        self._never_closed: set[str] = set()
        self.verbatim: list[str] = []
        """What replaces "\\0number\\0" in the text."""

    def text(self) -> str:
        source, position = self._source, 0
        while True:
            pattern = _INSIDE if len(self._stack) > 1 else _OUTSIDE
            token = pattern.search(source, position)
            if token is None:
                break
            if token.start() > position:
                self._stack[-1].pieces.append(source[position : token.start()])
            position = self._take(token)
        self._stack[-1].pieces.append(source[position:])
        while len(self._stack) > 1:
            self._give_up_top()
        return "".join(self._stack[0].pieces)

    def _take(self, token: re.Match[str]) -> int:
        """Handle a token; returns the position from which to continue."""
        mark = token[0]
        if token["tag"] is not None:
            end = self._take_tag(token)
            if self._source.startswith("'", end) or self._source[token.start() - 1] == "'":
                self._separate()
            return end
        if mark == "<!--":
            end = self._source.find("-->", token.end())
            # An unclosed comment hides the rest of the page in MediaWiki, too.
            return len(self._source) if end < 0 else end + 3
        if mark == "|":
            self._stack[-1].finish_argument()
        elif mark == "[[":
            self._push(_LINK)
        elif mark == "]]":
            self._close(_LINK, token.end())
        elif mark[0] == "}":
            self._take_closing_braces(token.start(), token.end())
        elif mark.endswith("{|"):
            self._push(_TABLE)
        elif mark.endswith("|}"):
            inner = self._innermost(_TEMPLATE, _PARAMETER, _TABLE)
            if inner != _TABLE and self._source.startswith("}", token.end()):
                # The end of a template whose last argument is empty.
                self._stack[-1].finish_argument()
                return token.end() - 1
            self._close(_TABLE, token.end())
        else:
            self._take_opening_braces(len(mark))
        return token.end()

    def _take_opening_braces(self, count: int) -> None:
        """ "{{{{{" opens a template, and a parameter in it."""
        while count >= 2:
            kind = _PARAMETER if count == 3 else _TEMPLATE
            self._push(kind)
            count -= len(kind)

    def _take_closing_braces(self, start: int, end: int) -> None:
        """Close open constructs, innermost first; braces that close nothing are dropped."""
        while end - start >= 2 and (kind := self._innermost(_TEMPLATE, _PARAMETER)) is not None:
            as_kind = kind if end - start >= len(kind) else _TEMPLATE
            start += len(kind)
            self._close(kind, min(start, end), as_kind)

    def _innermost(self, *kinds: str) -> str | None:
        """Which of these was opened last and is still open."""
        return next((f.kind for f in reversed(self._stack) if f.kind in kinds), None)

    def _take_tag(self, token: re.Match[str]) -> int:
        name = token["tag"].lower()
        closing = bool(token["slash"])
        empty = token["attributes"].endswith("/")
        if name == "table":
            if closing:
                self._close(_HTML_TABLE, token.end())
            elif not empty:
                self._push(_HTML_TABLE)
            return token.end()
        if not closing and not empty and name in _ELEMENTS:
            return self._take_element(name, token.end())
        if name in ("sup", "sub"):
            self._emit(f"</{name}>" if closing else f"<{name}>" * (not empty))
        elif name in ("br", "p", "div", "blockquote", "poem", "center", "li", "hr"):
            self._emit("\n")
        elif name not in _FORMATTING and name not in _ELEMENTS:
            self._emit("&lt;" + token[0][1:])
        return token.end()

    def _take_element(self, name: str, start: int) -> int:
        """A tag without wikitext inside. Of one that is never closed only the tag itself is
        removed."""
        if name in self._never_closed:
            return start
        end = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(self._source, start)
        if end is None:
            self._never_closed.add(name)
            return start
        inner = self._source[start : end.start()]
        if name in _VERBATIM:
            block = name != "nowiki" and "\n" in inner
            code = unescaped(inner) if name in ("nowiki", "pre") else inner
            self._keep(f"\n\n{code.strip(chr(10))}\n\n" if block else code)
        elif name in _FORMULAS:
            # TeX reads both alike with a space in them, and they cannot be taken for wikitext.
            self._keep(f"${' '.join(inner.split()).replace('{{', '{ {').replace('|}', '| }')}$")
        return end.end()

    def _keep(self, text: str) -> None:
        """Insert text that later rules must not change."""
        self._emit(f"\x00{len(self.verbatim)}\x00")
        self.verbatim.append(text)

    def _separate(self) -> None:
        """Keep apostrophes on both sides of a tag from being one run; <sup> and <sub> stay."""
        if self._stack[-1].pieces[-1:] and not self._stack[-1].pieces[-1].endswith(
            ("sup>", "sub>")
        ):
            self._emit(SEPARATOR)

    def _emit(self, text: str) -> None:
        # Pieces without text would be walked over again and again for the end of the text before.
        if text:
            self._stack[-1].pieces.append(text)

    def _push(self, kind: str) -> None:
        if len(self._stack) > MAX_DEPTH:
            raise WikitextError(f"brackets are nested more than {MAX_DEPTH} deep")
        self._stack.append(_Frame(kind))
        self._open[kind] += 1

    def _pop(self) -> _Frame:
        frame = self._stack.pop()
        self._open[frame.kind] -= 1
        frame.finish_argument()
        return frame

    def _close(self, kind: str, end: int, as_kind: str | None = None) -> None:
        """Close the innermost `kind`, at `end`; unclosed constructs within it become text."""
        if not self._open[kind]:
            return
        while self._stack[-1].kind != kind:
            self._give_up_top()
        arguments = self._pop().arguments
        as_kind = as_kind or kind
        if as_kind == _TEMPLATE:
            self._emit_part(self._template(arguments, end))
        elif as_kind == _PARAMETER:
            self._emit(arguments[1] if len(arguments) > 1 else "")
        elif as_kind == _LINK:
            self._emit_part(_link(arguments))

    def _emit_part(self, text: str) -> None:
        """Insert the text of a template or link, whose equals sign names no argument."""
        if "=" in text and self._open[_TEMPLATE]:
            text = _EQUALS.sub("&#61;", text)
        self._emit(text)

    def _template(self, arguments: list[str], end: int) -> str:
        """The text of a template that ends at `end`; letters around it stay apart."""
        shown = render_template(arguments)
        if shown:
            # After a whole number, a fraction is the rest of it.
            is_mixed = _PLAIN_FRACTION.match(shown) and self._before()[-1:].isdigit()
            return f" {shown}" if is_mixed else shown
        before = self._before()
        if shown is None:
            shown = sentence_part(arguments, before, self._source[end : end + _MAX_CONTEXT])
        if not shown and before.rstrip("'")[-1:].isalnum() and _LETTER.match(self._source, end):
            return " "
        return shown

    def _before(self) -> str:
        """The end of the text before the present place, in the innermost open construct."""
        before = ""
        for piece in reversed(self._stack[-1].pieces):
            before = piece[-_MAX_CONTEXT:] + before
            if len(before) >= _MAX_CONTEXT:
                break
        return before

    def _give_up_top(self) -> None:
        """The innermost construct is never closed: its content becomes text."""
        frame = self._pop()
        first, *others = frame.arguments
        if (frame.kind == _TEMPLATE and others) or (frame.kind == _LINK and _is_left_out(first)):
            # The name of a template or image is not text; what follows its line may be.
            text = "|".join(frame.arguments)
            self._emit("\n" + text.partition("\n")[2])
        else:
            self._emit("|".join(frame.arguments))


def _namespace(target: str) -> tuple[str, str]:
    """Prefix of a link's target, in lower case, and the rest; the prefix may be empty."""
    prefix, colon, rest = target.partition(":")
    return (prefix.replace("_", " ").strip().lower(), rest.strip()) if colon else ("", target)


def _is_left_out(target: str) -> bool:
    """Whether a link to it shows an image, or nothing at its place."""
    prefix, _ = _namespace(target.strip())
    return prefix in FILE_NAMESPACES or prefix in CATEGORY_NAMESPACES or prefix in WIKIPEDIA_CODES


def _link(arguments: list[str]) -> str:
    """Displayed text of a link."""
    target = arguments[0].strip()
    if "://" in target:  # an external link with a bracket too many
        return target.partition(" ")[2]
    if _is_left_out(target):
        return ""
    if len(arguments) > 1 and (shown := "|".join(arguments[1:])).strip():
        return without_emphasis(shown)
    colon = target.startswith(":")
    target = target.lstrip(":").strip()
    prefix, rest = _namespace(target)
    if colon or prefix in PROJECT_PREFIXES:
        for _ in range(_MAX_PREFIXES):
            if prefix not in PROJECT_PREFIXES and not _is_left_out(target):
                break
            target = rest
            prefix, rest = _namespace(target)
    return target.removeprefix("#")


_ADDRESS_IN_BRACKETS = re.compile(
    r"\[(?:https?:|ftps?:|mailto:|news:|irc:)?//([^\[\]\n]*)\]|\[mailto:([^\[\]\n]*)\]"
)
_ADDRESS = re.compile(r"(?<![\w/])(?:https?|ftp)://[^\s<>\[\]\"|{}\x00]+")
_PLAIN_FRACTION = re.compile(r"\d{1,4}/\d{1,4}(?!\d)")
_VARIANT = re.compile(r"-\{([^{}\n]*)\}-")
_VARIANT_NAME = re.compile(r"\s*(?:sr(?:-e[cl])?|sr-cyrl|sr-latn|zh(?:-\w+)?)\s*:")
_MAGIC_WORD = re.compile(
    # Those of every language, but not names of C, PHP and Perl.
    r"__(?!(?:FILE|LINE|DATE|TIME|FUNCTION|CLASS|DIR|METHOD|NAMESPACE|DATA|END|PACKAGE)__)"
    r"[^\W\d_a-z]{2,40}(?:_[^\W\d_a-z]{1,40}){0,4}__"
)
_STRAY = re.compile(r"\[\[|\]\]|\{\{+|\}\}+|</?ref[^<>\n]*>?")
_STRAY_ROW = re.compile(r"^[ \t]*\{?\|.*$", re.MULTILINE)


def _inline(text: str) -> str:
    """Inline markup, once brackets are resolved."""
    text = plain_scripts(text)
    if "[" in text:
        text = _ADDRESS_IN_BRACKETS.sub(_address_text, text)
    if "//" in text:
        text = _ADDRESS.sub("", text)
    if "-{" in text:
        text = _VARIANT.sub(_variant, text)
    if "__" in text:
        text = _MAGIC_WORD.sub("", text)
    text = _STRAY_ROW.sub("", _STRAY.sub("", text))
    return without_emphasis(text)


def _address_text(match: re.Match[str]) -> str:
    words = (match[1] or match[2] or "").split(None, 1)
    return words[1] if len(words) > 1 else ""


def _variant(match: re.Match[str]) -> str:
    """Text with a rule for conversion between scripts: the first script's spelling."""
    rule = match[1].rpartition("|")[2]
    first = rule.partition(";")[0]
    name = _VARIANT_NAME.match(first)
    return first[name.end() :].strip() if name else rule


# Every pattern starts where a run of its characters starts, so that none takes quadratic time. What
# stands before is looked at behind the first character: Python finds a set of characters faster.
_EMPTY_BRACKETS = re.compile(
    r"[(（\[«„](?:(?<=[(（])(?<!\w\()[ \t,;:.–—/-]*[)）]|(?<=\[)(?<!\w\[)[ \t,;:]*\]"
    r"|(?<=«)[ \t]*»|(?<=„)[ \t]*[“”])"
)
_BRACKET_START = re.compile(r"([(（])[ \t]*[,;:][ \t,;:]*")
_BRACKET_END = re.compile(r"[ \t,;:](?<![ \t,;:]{2})[ \t,;:]*(?=[)）])")
_AFTER_BRACKET = re.compile(r"([(（])[ \t]+")
_SPACE_BEFORE = re.compile(r"[ \t](?<=\S[ \t])[ \t]*(?=[,.](?:\s|$))")
_SEPARATORS = re.compile(r"[,;](?:[ \t]*[,;])+")
_SPACES = re.compile(r"[ \t](?<=\S[ \t])[ \t]+")
_SPACE_ENTITY = re.compile(r"&nbsp;|&#160;|&thinsp;|&ensp;|&emsp;|\u00a0")
_BLANK_LINES = re.compile(r"\n\n\n+")
_TRAILING_SPACE = re.compile(r"[ \t](?<![ \t]{2})[ \t]*$", re.MULTILINE)


def _punctuation(text: str) -> str:
    text = _SPACE_ENTITY.sub(" ", text)
    text = _SEPARATORS.sub(lambda match: ";" if ";" in match[0] else ",", text)
    for _ in range(2):  # nested brackets
        text = _EMPTY_BRACKETS.sub("", text)
    text = _BRACKET_START.sub(r"\1", text)
    text = _AFTER_BRACKET.sub(r"\1", text)
    text = _BRACKET_END.sub("", text)
    text = _SPACE_BEFORE.sub("", text)
    return _SPACES.sub(" ", text)
