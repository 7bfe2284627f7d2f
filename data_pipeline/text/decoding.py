"""Decodes bytes to clean Unicode text: encoding detection, line ends, control characters, NFC.

Of the controls U+0080 to U+009F nearly all in texts of the web are bytes that were decoded as
Latin-1: of Windows-1252, or of a character in UTF-8. The WHATWG Encoding Standard, section 4.2,
reads "latin1" as Windows-1252 for this reason.
"""

from __future__ import annotations

import codecs
import html
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_BOMS = (
    # UTF-32's little-endian mark begins with UTF-16's, so it is tested first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY_HEAD_BYTES = 8_000
_MAX_NON_ASCII_SHARE = 0.3
_MAX_CONTROL_SHARE = 0.02
_NON_ASCII = bytes(range(0x80, 0x100))
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\f\r"))
_NOT_IN_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_LINE_END = re.compile(r"\r\n?")
_LINE_END_SPACE = re.compile(r"[ \t](?<![ \t]{2})[ \t]*$", re.MULTILINE)
# C0 and C1 controls except tab and newline, lone surrogates, stray byte-order marks.
_REMOVED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff]")
# Vertical tab, form feed and separators end lines, as for `str.splitlines`.
_BREAKS = re.compile(r"[\x0b\x0c\x1c-\x1e]")
# For ASCII, `str.translate` is several times faster than a pattern.
_ASCII = {code: None if _REMOVED.match(chr(code)) else chr(code) for code in range(128)}
_ASCII |= {code: "\n" for code in range(128) if _BREAKS.match(chr(code))}
_C1 = re.compile(r"[\x80-\x9f]")
_FROM_CP1252 = {
    chr(byte): bytes([byte]).decode("cp1252")
    for byte in range(0x80, 0xA0)
    if not _NOT_IN_CP1252.match(bytes([byte]))
}
# UTF-8's bytes as Latin-1 characters, a C1 control among them. Of two bytes only those that begin
# with "Â" or "Ã": other capitals stand before a quotation mark of Windows-1252. Python finds a
# pattern with one set of first characters faster than alternatives that each have their own.
_FROM_UTF8 = re.compile(
    r"[\xc2-\xf4](?:(?<=[\xc2\xc3])[\x80-\x9f]"
    r"|(?<=[\xe0-\xef])(?:[\x80-\x9f][\x80-\xbf]|[\xa0-\xbf][\x80-\x9f])"
    r"|(?<=[\xf0-\xf4])[\x80-\xbf]{3})"
)


_HUGE_REFERENCE = re.compile(r"&#[0-9]{20}[0-9]*;?")


MAX_MARKS = 30
"""Combining marks on one character: no writing system needs more (Unicode Standard Annex 15,
section 13, stream-safe text)."""
_AFTER_LAST_MARK = 0x1F000
"""No character of a higher plane combines (Unicode 15)."""


class NotTextError(ValueError):
    """The bytes are not text that can be decoded; `reason` is the drop reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def detect_encoding(chunks: Iterable[bytes]) -> str:
    """Python's name of the encoding of a text given as consecutive chunks, in constant memory.

    A byte-order mark decides; else UTF-8 if all of it is valid; else Windows-1252, which is
    Latin-1 with the printable characters that its texts really use (WHATWG Encoding Standard,
    section 4.2, reads "latin1" so), or Latin-1 if bytes occur that Windows-1252 leaves undefined.
    No statistical detection: detectors take short Western texts for Central European ones.

    NotTextError with reason "binary" (a NUL in the first 8,000 bytes, which is git's rule, or many
    control characters) or "unknown_encoding" (too many non-ASCII bytes for a Western text).
    """
    utf8 = codecs.getincrementaldecoder("utf-8")()
    is_utf8, fits_cp1252 = True, True
    num_bytes = num_non_ascii = num_controls = 0
    for chunk in chunks:
        if num_bytes == 0:
            for bom, encoding in _BOMS:
                if chunk.startswith(bom):
                    return encoding
            if b"\0" in chunk[:_BINARY_HEAD_BYTES]:
                raise NotTextError("binary", "NUL byte near its start")
        if is_utf8:
            try:
                utf8.decode(chunk)
            except UnicodeDecodeError:
                is_utf8 = False
        num_bytes += len(chunk)
        num_non_ascii += len(chunk) - len(chunk.translate(None, _NON_ASCII))
        num_controls += len(chunk) - len(chunk.translate(None, _CONTROLS))
        fits_cp1252 = fits_cp1252 and _NOT_IN_CP1252.search(chunk) is None
    if is_utf8 and not utf8.getstate()[0]:
        return "utf-8"
    if num_controls > _MAX_CONTROL_SHARE * num_bytes:
        raise NotTextError("binary", f"not UTF-8, and {num_controls} control characters")
    if num_non_ascii > _MAX_NON_ASCII_SHARE * num_bytes:
        share = num_non_ascii / num_bytes
        raise NotTextError("unknown_encoding", f"not UTF-8, and {share:.0%} non-ASCII bytes")
    return "cp1252" if fits_cp1252 else "latin-1"


def unescaped(markup: str) -> str:
    """`markup` with its character references replaced, as `html.unescape`, which raises at numbers
    of thousands of digits; those, which name no character, are U+FFFD.
    """
    return html.unescape(_HUGE_REFERENCE.sub("\ufffd", markup) if "&#" in markup else markup)


def decode(data: bytes) -> str:
    """The text of a whole file; NotTextError as `detect_encoding`.

    Bytes that are invalid under the byte-order mark's encoding (a truncated file) become U+FFFD.
    """
    return data.decode(detect_encoding([data] if data else []), errors="replace")


def clean(text: str) -> str:
    """Line ends as "\\n", also those of form feeds, no control characters except tab and newline,
    no lone surrogates, NFC, and at most `MAX_MARKS` combining marks on a character.

    The characters U+0080 to U+009F are decoded as the bytes that they were: "don\\x92t" is "don’t".
    """
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    if text.isascii():
        return text.translate(_ASCII)
    if _REMOVED.search(text):
        text = _BREAKS.sub("\n", text)
        if _C1.search(text):
            text = _FROM_UTF8.sub(_utf8_character, text)
            text = _C1.sub(lambda control: _FROM_CP1252.get(control[0], ""), text)
        text = _REMOVED.sub("", text)
    if unicodedata.is_normalized("NFC", text):
        return text
    # Python sorts a run of marks by insertion: n of them in the wrong order take n^2 steps.
    return unicodedata.normalize("NFC", _many_marks().sub(r"\1", text))


@lru_cache(maxsize=1)
def _many_marks() -> re.Pattern[str]:
    """More than `MAX_MARKS` marks in a row, of which the first `MAX_MARKS` are group 1."""
    codes = [code for code in range(0x300, _AFTER_LAST_MARK) if unicodedata.combining(chr(code))]
    ends = [i for i, code in enumerate(codes) if codes[i + 1 : i + 2] != [code + 1]]
    starts = [0, *(i + 1 for i in ends[:-1])]
    spans = "".join(f"{chr(codes[a])}-{chr(codes[b])}" for a, b in zip(starts, ends, strict=True))
    return re.compile(f"([{spans}]{{{MAX_MARKS}}})[{spans}]+")


def _utf8_character(match: re.Match[str]) -> str:
    """The character of UTF-8 whose bytes these are; unchanged if there is none."""
    try:
        return match[0].encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return match[0]


def strip_trailing_whitespace(text: str) -> str:
    """The text without trailing whitespace on lines and around it: a dedup key for equal texts."""
    return _LINE_END_SPACE.sub("", text).strip()


def word_set(words: str) -> frozenset[str]:
    """The words of a table in the source code, separated by whitespace."""
    return frozenset(words.split())


def name_set(names: str) -> frozenset[str]:
    """The names of a table in the source code, separated by commas; names may contain spaces."""
    return frozenset(name for part in names.split(",") if (name := " ".join(part.split())))
