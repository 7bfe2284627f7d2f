"""Converts the HTML of a forum post to text: paragraphs, lists, quotations and code blocks.

The HTML is generated from Markdown, so there are few elements, and no page around them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lxml import etree

from data_pipeline.text.decoding import word_set
from data_pipeline.text.html_tags import many_attributes

_PARAGRAPHS = word_set("p pre ul ol dl blockquote h1 h2 h3 h4 h5 h6 table div hr section")
"""Blank lines around them."""
_LINES = word_set("li tr br dt dd thead tbody caption")
"""A line of their own."""
_LEFT_OUT = word_set("script style head title iframe object noscript template")
_MAX_INDENTS = 32
"""Maximum levels of lists and quotations that are indented; bounds the output of deep nesting."""
_POWER = re.compile(r"[-+−]?\d{1,4}|[a-z]")


class PostError(ValueError):
    """HTML that cannot be parsed within limits: libxml2's, nesting of 2,048 elements, and ours, on
    attributes. `reason` is the drop reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def to_text(markup: str) -> str:
    """The text of a post. No tags remain, except those that the post itself shows as text.

    PostError if it is nested too deeply, or an element has too many attributes.
    """
    if "<" not in markup and "&" not in markup:
        return markup.strip()
    if (number := many_attributes(markup)) is not None:
        raise PostError("many_attributes", f"an element has {number} attributes")
    parser = etree.HTMLParser(no_network=True, remove_pis=True, recover=True, huge_tree=True)
    try:
        root = etree.fromstring(f"<div>{markup}</div>", parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise PostError("too_deeply_nested", str(error)) from error
    limit = etree.ErrorTypes.ERR_RESOURCE_LIMIT
    if root is None or any(error.type == limit for error in parser.error_log):
        raise PostError("too_deeply_nested", "elements are nested too deeply")
    writer = _Writer()
    writer.write(root)
    return writer.text()


@dataclass
class _Indent:
    """Prefix of the lines of a list item or quotation: of its first line, and of the rest."""

    first: str
    rest: str
    begun: bool = False


class _Writer:
    """Writes text from an element tree, without recursion: posts may be nested arbitrarily deep."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._words: list[str] = []
        self._has_words = False
        """Whether one of them is more than whitespace."""
        self._indents: list[_Indent] = []
        self._counters: list[int | None] = []
        self._blank_due = False
        self._in_code = 0
        self._left_out = 0

    def text(self) -> str:
        self._end_line()
        return "\n".join(self._lines).strip("\n")

    def write(self, root: etree._Element) -> None:
        for event, element in etree.iterwalk(root, events=("start", "end", "comment")):
            if event == "start":
                self._start(element)
                self._add(element.text)
                continue
            if event == "end":
                self._end(element)
            self._add(element.tail)

    def _start(self, element: etree._Element) -> None:
        tag = str(element.tag)
        if tag in _LEFT_OUT:
            self._left_out += 1
        if tag in _PARAGRAPHS or tag in _LINES:
            self._end_line()
            self._blank_due |= tag in _PARAGRAPHS and not self._at_start_of_item()
        if tag in ("ul", "ol"):
            self._counters.append(_number(element.get("start")) if tag == "ol" else None)
        elif tag == "li":
            marker = self._marker()
            self._indents.append(_Indent(marker, " " * len(marker)))
        elif tag == "blockquote":
            self._indents.append(_Indent("> ", "> "))
        elif tag == "pre":
            self._in_code += 1
        elif tag in ("td", "th") and self._has_words:
            self._words.append(" | ")
        elif tag == "sup" and self._is_power(element):
            self._words.append("^")

    def _end(self, element: etree._Element) -> None:
        tag = str(element.tag)
        if tag in _LEFT_OUT:
            self._left_out -= 1
        if tag == "pre":
            self._end_code()
            self._in_code -= 1
        elif (tag in _PARAGRAPHS or tag in _LINES) and tag != "br":
            self._end_line()
        self._blank_due |= tag in _PARAGRAPHS
        if tag in ("ul", "ol"):
            self._counters.pop()
        elif tag in ("li", "blockquote"):
            self._indents.pop()

    def _add(self, text: str | None) -> None:
        if text and not self._left_out:
            self._words.append(text)
            self._has_words = self._has_words or not text.isspace()

    def _marker(self) -> str:
        if not self._counters or (number := self._counters[-1]) is None:
            return "- "
        self._counters[-1] = number + 1
        return f"{number}. "

    def _at_start_of_item(self) -> bool:
        """Whether the innermost list item or quotation is still empty."""
        return bool(self._indents) and not self._indents[-1].begun

    def _is_power(self, element: etree._Element) -> bool:
        """Whether a superscript is an exponent: x², not a note's mark."""
        before = "".join(self._words[-1:])[-1:]
        return before.isalnum() and _POWER.fullmatch(element.text or "") is not None

    def _end_line(self) -> None:
        if not self._words:
            return
        if self._in_code:
            self._words.append("\n")
            return
        line = " ".join(self._take().split())
        if line:
            self._put(line)

    def _take(self) -> str:
        words, self._words, self._has_words = "".join(self._words), [], False
        return words

    def _end_code(self) -> None:
        """Code keeps its lines and spaces, except for blank lines around it."""
        for line in self._take().strip("\n").split("\n"):
            self._put(line.rstrip())

    def _shown(self) -> list[_Indent]:
        return self._indents[:_MAX_INDENTS]

    def _put(self, line: str) -> None:
        if self._blank_due and self._lines:
            self._lines.append("".join(i.rest for i in self._shown() if i.begun).rstrip())
        self._blank_due = False
        prefix = ""
        for indent in self._shown():
            prefix += indent.rest if indent.begun else indent.first
            indent.begun = True
        self._lines.append((prefix + line).rstrip())


def _number(text: str | None) -> int:
    return (
        int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 6 else 1
    )
