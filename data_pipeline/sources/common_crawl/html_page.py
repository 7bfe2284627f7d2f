"""HTTP body of a web page -> title and main content: charset detection, then HTML extraction.

resiliparse parses the HTML and extracts the main content (article text without boilerplate: menus,
footers and advertisements).
"""

from __future__ import annotations

import codecs
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from operator import sub

from backports import zstd
from fastwarc.stream_io import BrotliReader
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from data_pipeline.files.compressed import one_line
from data_pipeline.text.html_tags import many_attributes

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# HTML Standard, section 13.2.3.2: a declaration is valid within the first 1024 bytes.
_META_BYTES = 1024
_META_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*(?:[\"']\s*)?([\w:.-]{2,40})", re.IGNORECASE
)
_MEDIA_TYPE = re.compile(r"[^\s;,\"']+")
_SKIP_LINK = re.compile(
    r"[ \t]*(?:[•*-][ \t]+)?(?:(?:jump|skip|go)(?: directly)? to:? "
    r"(?:the )?(?:main |primary |secondary |site |page |sidebar )?"
    r"(?:content|navigation|nav|menu|search|sidebar|footer|header|body|top|article|text)s?"
    r"(?:, ?search)?(?: area| section| bar)?|toggle (?:the )?(?:main )?(?:navigation|menu|search)"
    r"|back to (?:the )?top(?: of (?:the )?page)?"
    r"|(?:direkt |zum |zur |weiter )+(?:haupt)?(?:inhalt|navigation|suche)"
    r"(?: (?:springen|wechseln))?"
    r"|(?:aller|passer|accéder) (?:directement )?(?:au|à la) (?:contenu|navigation|menu|recherche)"
    r"(?: principale?)?|(?:saltar|ir|pasar) al? (?:contenido|la navegación|menú)(?: principal)?"
    r"|(?:vai|salta|passa) al? (?:contenuto|navigazione|menu)(?: principale)?"
    r"|(?:ir|pular|saltar) para o (?:conteúdo|menu)(?: principal)?"
    r"|(?:ga )?(?:direct )?naar (?:de )?(?:hoofd)?(?:inhoud|navigatie)|перейти к (?:основному )?"
    r"(?:содержанию|содержимому|навигации))[ \t.»]*",
    re.IGNORECASE,
)
"""A line that is a link to another place of the page: for keyboards and screen readers, never
text, but beside or within what the extraction takes for main content."""
_LONGEST_SKIP_LINK = 60
_LOOKS_LIKE_HTML = re.compile(
    rb"\s*(?:<!--[^>]{0,500}-->\s*)?<(?:!doctype html|html|head|body)\b", re.IGNORECASE
)
_XML_ENCODING = re.compile(rb"\s*<\?xml[^>]{0,100}encoding\s*=\s*[\"']([\w:.-]{2,40})")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # not ESC, which ISO-2022 has
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")

# Encodings that browsers decode as a superset (WHATWG Encoding Standard, section 4.2).
_LARGER_CODEC = {"euc_kr": "cp949", "shift_jis": "cp932", "gbk": "gb18030", "gb2312": "gb18030"}

# A server applies one or two; each may be a bomb as large as the limit.
_MAX_CODINGS = 4

# Above this share of invalid characters the encoding is considered unknown.
_MAX_UNDECODABLE_SHARE = 0.01
# Extraction time is quadratic in depth: 20,000 nested <div> take 12 seconds, 500 none.
_MAX_DEPTH = 500
_MANY_TAGS = 4_000
_ANY_TAG = re.compile(r"<(/?[a-zA-Z][\w:-]{0,30})")
# HTML Standard, section 13.2.4.3: what is not closed is opened again in the next paragraph, so that
# n such elements in n paragraphs are n^2: 3 GB from a page of 71 kB.
_REOPENED = (
    *("b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"),
)
_MAX_REOPENED = 500
_NEVER_NESTED = (
    *("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param"),
    *("source", "track", "wbr", "p", "li", "dt", "dd", "td", "th", "tr", "path"),
)


class PageError(ValueError):
    """The page cannot be read; `reason` is the drop reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Page:
    title: str | None
    text: str


def is_html(content_type: str | None, body: bytes) -> bool:
    """By the Content-Type header, or by the first bytes where there is none.

    Of a header sent twice, which is joined by a comma, the first type counts.
    """
    if content_type and (types := _MEDIA_TYPE.search(content_type)):
        return types[0].lower() in HTML_TYPES
    return _LOOKS_LIKE_HTML.match(body) is not None


def read_page(body: bytes, charset: str | None) -> Page:
    """Title and main content of an HTML page; `charset` is the HTTP header's.

    PageError: "bad_encoding", "nested_too_deeply", "many_attributes".
    """
    html = decode_html(body, charset)
    if html.count("<") > _MANY_TAGS:
        _require_shallow(html)
    if (number := many_attributes(html)) is not None:
        raise PageError("many_attributes", f"an element has {number} attributes")
    tree = HTMLTree.parse(html)
    title = " ".join((tree.title or "").split())
    lines = extract_plain_text(tree, main_content=True).split("\n")
    kept = [
        line for line in lines if len(line) > _LONGEST_SKIP_LINK or not _SKIP_LINK.fullmatch(line)
    ]
    return Page(title or None, "\n".join(kept))


def decode_html(body: bytes, charset: str | None) -> str:
    """Decode HTML: by byte-order mark, as UTF-8 if that is valid, by HTTP header, by the page's own
    declaration, or by detection; the first in which all bytes are valid is used.

    UTF-8 is tried before declared encodings, because declarations are often wrong, and text of
    another encoding with bytes above 127 is hardly ever valid UTF-8. If none is valid, the encoding
    with the fewest invalid bytes, which become U+FFFD; PageError "bad_encoding" if they are many.
    """
    names: dict[str, None] = {}
    for name in _encodings(body, charset):
        if name in names:
            continue
        names[name] = None
        try:
            return body.decode(name).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
    text = min((body.decode(name, "replace") for name in names), key=_num_undecodable)
    if (num_bad := _num_undecodable(text)) > _MAX_UNDECODABLE_SHARE * len(text):
        detail = f"{num_bad} of {len(text)} characters are invalid in each of: {', '.join(names)}"
        raise PageError("bad_encoding", detail)
    return text


def _encodings(body: bytes, charset: str | None) -> Iterator[str]:
    """Python's names of the candidate encodings, the most likely first; the last ones take time."""
    yield from (name for bom, name in _BOMS if body.startswith(bom))
    # ISO-2022 and UTF-16 are valid UTF-8, too.
    if b"\x1b$" not in body and b"\0" not in body:
        yield "utf-8"
    head = body[:_META_BYTES]
    matches = (_META_CHARSET.search(head), _XML_ENCODING.match(head))
    labels = [charset, *(match.group(1).decode("ascii", "replace") for match in matches if match)]
    for label in filter(None, labels):
        name = map_encoding_to_html5(label, fallback_utf8=False)
        if name:
            yield _LARGER_CODEC.get(name, name)
    detected = detect_encoding(body)
    if detected:
        yield _LARGER_CODEC.get(detected, detected)
    yield "utf-8"


def _num_undecodable(text: str) -> int:
    return text.count("\ufffd")


def _require_shallow(html: str) -> None:
    """PageError "nested_too_deeply" where extraction would take quadratic time."""
    tags: list[str] = _ANY_TAG.findall(html)
    opened: Counter[str] = Counter()
    closed: Counter[str] = Counter()
    steps: dict[str, int] = {}
    for tag, count in Counter(tags).items():
        name, is_end = tag.lstrip("/").lower(), tag[0] == "/"
        (closed if is_end else opened)[name] += count
        steps[tag] = 0 if name in _NEVER_NESTED else -1 if is_end else 1
    unclosed = sum((opened - closed)[name] for name in _REOPENED)
    if unclosed > _MAX_REOPENED:
        detail = f"{unclosed} formatting elements are never closed"
        raise PageError("nested_too_deeply", detail)
    depth = _depth([steps[tag] for tag in tags])
    # End tags that close nothing make the depth seem smaller, each by one.
    if depth <= _MAX_DEPTH < depth + (closed - opened).total():
        depth = _depth_by_name(html)
    if depth > _MAX_DEPTH:
        raise PageError("nested_too_deeply", f"elements are nested {depth} deep")


def _depth(steps: list[int]) -> int:
    """Approximate nesting depth: the maximum of opened minus closed elements at any place, of which
    there are never fewer than none."""
    levels = list(accumulate(steps))
    lowest = islice(accumulate(levels, min, initial=0), 1, None)
    return max(map(sub, levels, lowest), default=0)


def _depth_by_name(html: str) -> int:
    """As `_depth`, but an end tag closes an element of its name only; slower."""
    depth = deepest = 0
    is_open: Counter[str] = Counter()
    for match in _ANY_TAG.finditer(html):
        name = match[1].lower()
        if name.lstrip("/") in _NEVER_NESTED:
            continue
        if name[0] != "/":
            is_open[name] += 1
            depth += 1
            deepest = max(depth, deepest)
        elif is_open[name[1:]]:
            is_open[name[1:]] -= 1
            depth -= 1
    return deepest


def decode_body(body: bytes, transfer: str | None, content: str | None, max_bytes: int) -> bytes:
    """Undo HTTP's Transfer-Encoding and Content-Encoding, up to `max_bytes`.

    Some archives keep these headers but store the decoded body (CommonCrawl until August 2018);
    then the body is used as it is: if it does not start with a chunk, or is text that cannot be
    decompressed. PageError: "bad_transfer_encoding", "bad_content_encoding",
    "too_large".
    """
    if transfer and "chunked" in transfer.lower() and _CHUNK_SIZE.match(body):
        body = _join_chunks(body)
    codings = (content or "").lower().split(",")
    if len(codings) > _MAX_CODINGS:
        detail = f"{len(codings)} codings, one around another"
        raise PageError("bad_content_encoding", detail)
    for coding in reversed(codings):
        body = _decompress(body, coding.strip(), max_bytes)
    return body


def _join_chunks(body: bytes) -> bytes:
    parts: list[bytes] = []
    position = 0
    while match := _CHUNK_SIZE.match(body, position):
        size = int(match.group(1), 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[match.end() : match.end() + size])
        if len(parts[-1]) < size:
            break
        position = _after_line_end(body, match.end() + size)
    raise PageError("bad_transfer_encoding", f"no chunk of its stated size at byte {position}")


def _after_line_end(body: bytes, position: int) -> int:
    if body.startswith(b"\r\n", position):
        return position + 2
    return position + body.startswith(b"\n", position)


def _decompress(body: bytes, coding: str, max_bytes: int) -> bytes:
    try:
        if coding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
            decoded = _inflate(body, 31, max_bytes)
        elif coding == "deflate" and not _LOOKS_LIKE_HTML.match(body):
            # Servers send both the standard's format (zlib) and raw deflate.
            decoded = _inflate(body, 15 if body[:1] == b"\x78" else -15, max_bytes)
        elif coding == "br" and not _LOOKS_LIKE_HTML.match(body):
            decoded = BrotliReader(io.BytesIO(body)).read(max_bytes + 1)
        elif coding == "zstd" and body.startswith(_ZSTD_MAGIC):
            decoded = zstd.ZstdFile(io.BytesIO(body)).read(max_bytes + 1)
        else:
            return body
    except (zlib.error, EOFError, OSError, zstd.ZstdError) as error:
        if _CONTROL.search(body[:_META_BYTES]) is None:
            return body
        raise PageError("bad_content_encoding", f"{coding}: {one_line(error)}") from error
    if len(decoded) > max_bytes:
        raise PageError("too_large", f"more than {max_bytes} bytes after decoding {coding}")
    return decoded


def _inflate(body: bytes, wbits: int, max_bytes: int) -> bytes:
    decoder = zlib.decompressobj(wbits)
    decoded = decoder.decompress(body, max_bytes + 1)
    if not decoder.eof and len(decoded) <= max_bytes:
        raise EOFError("the compressed body is truncated")
    return decoded
