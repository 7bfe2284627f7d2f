"""Streams the records of very large XML dumps; a malformed record is skipped by itself.

MediaWiki exports and Stack Exchange tables are one long list of elements of one name. Inside a
record that name cannot follow a `<`, because text and attributes escape it, so that the bytes can
be split before each `<name` without parsing them. Each record is then parsed by itself: memory
holds one record, a syntax error ends one record, and entity declarations at the file's start
(XML bombs) never apply.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lxml import etree

from data_pipeline.files.compressed import DAMAGE
from data_pipeline.files.declared_encoding import declared_codec

_DECLARED = re.compile(rb"""^\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEAD_BYTES = 256
# Characters that XML 1.0 forbids, also as character references.
_REFERENCE = re.compile("&#(?:x0*([0-9a-f]{1,6})|0*([0-9]{1,7}));", re.IGNORECASE)
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Piece:
    """A record's bytes, in UTF-8, and whatever lies before the next record."""

    data: bytes
    too_large: bool = False
    """It exceeds the size limit; `data` is its beginning."""


def utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same text transcoded to UTF-8, without a byte-order mark.

    The byte-order mark decides the encoding, else the XML declaration if it can be true, else it is
    UTF-8. UTF-8 passes unchanged, invalid bytes included.
    """
    iterator = iter(chunks)
    head = b""
    for chunk in iterator:
        head += chunk
        if len(head) >= _HEAD_BYTES:
            break
    encoding, mark = _encoding(head)
    head = head[mark:]
    if encoding == "utf-8":
        yield head
        yield from iterator
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    yield decoder.decode(head).encode("utf-8", "replace")
    for chunk in iterator:
        yield decoder.decode(chunk).encode("utf-8", "replace")
    yield decoder.decode(b"", final=True).encode("utf-8", "replace")


def _encoding(head: bytes) -> tuple[str, int]:
    """Name of the encoding, and the length of the byte-order mark in bytes."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name, len(mark)
    for name in ("utf-16-le", "utf-16-be"):
        if head.startswith("<".encode(name)):
            return name, 0
    declared = _DECLARED.match(head)
    # A declaration that reads as ASCII is not in UTF-16, whatever it says.
    encoding = None if declared is None else declared_codec(declared[1].decode("ascii"))
    return encoding or "utf-8", 0


def pieces(chunks: Iterable[bytes], name: str, max_bytes: int) -> Iterator[Piece]:
    """First what precedes the first element `name` (perhaps nothing), then each such element with
    whatever follows it, up to the next one. At most about `max_bytes` are in memory.
    If reading the chunks fails, everything read so far is yielded before the error is raised.
    """
    tag = b"<" + name.encode("ascii")
    start = re.compile(re.escape(tag) + rb"(?=[\s/>])")
    begun = bytearray()
    searched = 0  # up to here `begun` holds no start of another element
    dropping = False
    failure: list[BaseException] = []
    for chunk in _until_damage(chunks, failure):
        begun += chunk
        position = 0
        while (found := start.search(begun, searched)) is not None:
            if not dropping:
                yield Piece(bytes(begun[position : found.start()]))
            dropping = False
            position, searched = found.span()
        del begun[:position]
        # A tag split across two chunks is found with the next chunk.
        searched = max(searched - position, len(begun) - len(tag))
        if len(begun) > max_bytes:
            if not dropping:
                yield Piece(bytes(begun[:max_bytes]), too_large=True)
            dropping = True
            del begun[: len(begun) - len(tag)]
            searched = 0
    if not dropping:
        yield Piece(bytes(begun))
    if failure:
        raise failure[0]


def _until_damage(chunks: Iterable[bytes], failure: list[BaseException]) -> Iterator[bytes]:
    """The chunks; an error from reading corrupt bytes is appended to `failure`."""
    try:
        yield from chunks
    except DAMAGE as error:
        failure.append(error)


class RecordError(ValueError):
    """A record that is not well-formed XML."""


def parse(data: bytes) -> Any:
    """Parse `data` as one element (an `lxml` element). RecordError if it is malformed.

    Bytes that are not UTF-8 and characters that XML forbids, also as references ("&#x1;"), are
    repaired (U+FFFD, left out) before a record is rejected.
    """
    try:
        return etree.fromstring(data, _parser())
    except etree.XMLSyntaxError as error:
        repaired = _repaired(data)
        if repaired == data:
            raise RecordError(str(error)) from error
    except ValueError as error:
        raise RecordError(str(error)) from error
    try:
        return etree.fromstring(repaired, _parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        raise RecordError(str(error)) from error


def _repaired(data: bytes) -> bytes:
    text = _REFERENCE.sub(_legal_reference, data.decode("utf-8", "replace"))
    return _ILLEGAL.sub("", text).encode()


def _legal_reference(match: re.Match[str]) -> str:
    """The reference unchanged, or nothing if it is to a character that XML forbids."""
    code = int(match[1], 16) if match[1] else int(match[2])
    is_legal = code <= 0x10FFFF and _ILLEGAL.match(chr(code)) is None
    return match[0] if is_legal else ""


def parse_head(data: bytes) -> Any | None:
    """The root element of a file's beginning, as far as it parses; None if there is none."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, recover=True, huge_tree=False
    )
    try:
        # A reference to a surrogate would parse, and raise where the text is read.
        return etree.fromstring(_repaired(data) if b"&#" in data else data, parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def _parser() -> etree.XMLParser:
    # huge_tree lifts libxml2's limit of 10 MB per text node; `pieces` has its own limit.
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True, remove_pis=True
    )
