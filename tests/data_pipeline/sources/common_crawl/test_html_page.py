"""Web pages: encodings, HTTP's codings, main content, hostile HTML within bounds."""

import io
import zlib

import pytest
from fastwarc.stream_io import BrotliWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.sources.common_crawl.html_page import (
    PageError,
    decode_body,
    decode_html,
    is_html,
    read_page,
)
from tests.support.damage import gzipped
from tests.support.nasty_common_crawl import PAGE, hostile_pages

HTML = b"<html><p>Text of the page.</p></html>"
LIMIT = 1 << 20
RIVER = "\u0440\u0435\u043a\u0430 \u0442\u0435\u0447\u0451\u0442 \u043a \u043c\u043e\u0440\u044e"
KAWA = "\u5ddd\u306f\u6d41\u308c\u308b"


def brotli(data: bytes) -> bytes:
    sink = io.BytesIO()
    writer = BrotliWriter(sink)
    writer.write(data)
    writer.close()
    return sink.getvalue()


@pytest.mark.parametrize(
    ("head", "text", "encoding", "header"),
    [
        ("", "plain", "ascii", None),
        ("", "caf\u00e9", "utf-8", None),
        # Valid UTF-8 is UTF-8, whatever is declared.
        ("", "caf\u00e9", "utf-8", "latin-1"),
        ("<meta charset=latin1>", "caf\u00e9", "utf-8", None),
        ("", "\ufeffcaf\u00e9", "utf-8", "latin-1"),
        ("", "caf\u00e9", "latin-1", "ISO-8859-1"),
        # Latin-1 as browsers read it: Windows-1252.
        ("", "\u201cquoted\u201d", "cp1252", "latin1"),
        ("<meta charset='windows-1251'>", RIVER, "cp1251", None),
        ('<meta http-equiv=x content="text/html; charset=KOI8-R">', RIVER, "koi8-r", None),
        ('<?xml version="1.0" encoding="euc-jp"?>', KAWA, "euc-jp", None),
        ("", KAWA, "shift_jis", "x-sjis"),
        ("", KAWA, "iso-2022-jp", "ISO-2022-JP"),
        ("", "\ud55c\uad6d", "cp949", "euc-kr"),
        ("", "\ufeff" + RIVER, "utf-16-le", None),
        # The header goes before the page.
        ("<meta charset=windows-1251>", "caf\u00e9", "latin-1", "iso-8859-1"),
        # No declaration, or a wrong one: told by its bytes.
        ("", RIVER, "cp1251", None),
        ("", "d\u00e9j\u00e0 vu, no\u00ebl", "latin-1", "utf-8"),
        ("", "caf\u00e9", "utf-8", "no-such-charset"),
    ],
)
def test_encodings(head: str, text: str, encoding: str, header: str | None) -> None:
    body = text.encode(encoding)
    mark = 2 if encoding.startswith("utf-16") else 0
    body = body[:mark] + head.encode(encoding) + body[mark:]
    assert decode_html(body, header) == head + text.removeprefix("\ufeff")


def test_one_bad_byte_costs_one_character() -> None:
    body = (
        "\u0440\u0435\u043a\u0430 ".encode() * 100 + b"\xff" + "\u043c\u043e\u0440\u0435".encode()
    )
    text = decode_html(body, "utf-8")
    assert text.count("\ufffd") == 1
    assert text.startswith("\u0440\u0435\u043a\u0430")


def test_bytes_of_no_encoding_are_refused() -> None:
    with pytest.raises(PageError) as error:
        decode_html(b"\x1b$\xff\xfe\x81" * 100, "iso-2022-jp")
    assert error.value.reason == "bad_encoding"


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/html", b"", True),
        ("Text/HTML; charset=utf-8", b"", True),
        ("application/xhtml+xml", b"", True),
        ("text/html,text/html", b"", True),
        ("text/html, text/html; charset=utf-8", b"", True),
        (" , text/html", b"", True),
        ("text/plain,text/html", b"<html>", False),
        (" ; ", b"<html>", True),
        ("text/plain", b"<html>", False),
        ("application/pdf", b"%PDF", False),
        (None, b"\n<!DOCTYPE html>", True),
        (None, b"<!-- saved --><html>", True),
        (None, b"%PDF", False),
        ("", b"<HTML lang=en>", True),
    ],
)
def test_is_html(content_type: str | None, body: bytes, expected: bool) -> None:
    assert is_html(content_type, body) is expected


@pytest.mark.parametrize(
    ("body", "transfer", "content", "expected"),
    [
        (HTML, None, None, HTML),
        (b"4\r\n<p>x\r\n3;name=value\r\n</p\r\n1\r\n>\r\n0\r\n\r\n", "chunked", None, b"<p>x</p>"),
        (b"4\n<p>x\n0\n", "Chunked", None, b"<p>x"),
        (b"fff\r\n<p>x", "chunked", None, "bad_transfer_encoding"),
        (b"4\r\n<p>x\r\n", "chunked", None, "bad_transfer_encoding"),
        (gzipped(HTML), None, "gzip", HTML),
        # The archive has undone it, and kept the header.
        (HTML, None, "gzip", HTML),
        (HTML, None, "deflate", HTML),
        (HTML, None, "br", HTML),
        (HTML, None, "no-such-coding", HTML),
        (HTML, "chunked", None, HTML),
        (gzipped(HTML), "chunked", "gzip", HTML),
        (b"<?xml version='1.0'?>" + HTML, None, "deflate", b"<?xml version='1.0'?>" + HTML),
        (b"<script>1</script>" + HTML, "chunked", "br", b"<script>1</script>" + HTML),
        (zlib.compress(HTML), None, "deflate", HTML),
        (zlib.compress(HTML)[2:-4], None, "deflate", HTML),
        (brotli(HTML), None, "br", HTML),
        (gzipped(zlib.compress(HTML)), None, "deflate, gzip", HTML),
        (gzipped(HTML)[:20] + b"\xff" * 20, None, "gzip", "bad_content_encoding"),
        (b"\xff\xfe\x00", None, "br", "bad_content_encoding"),
        (gzipped(bytes(LIMIT + 1)), None, "gzip", "too_large"),
        (brotli(bytes(LIMIT + 1)), None, "br", "too_large"),
    ],
)
def test_bodies(body: bytes, transfer: str | None, content: str | None, expected: object) -> None:
    assert undone(body, transfer, content) == expected


def test_main_content_and_title() -> None:
    page = read_page(PAGE.format(n="2\n").encode(), None)
    assert page.title == "Page 2"
    assert "four old towns" in page.text
    assert "Home" not in page.text
    assert "<" not in page.text


@pytest.mark.parametrize(
    "link",
    [
        *("Jump to navigation", "Jump to: navigation, search", "Skip to main content"),
        *("Skip to content", "skip to the search", "Toggle navigation", "Back to top"),
        *("Zum Inhalt springen", "Direkt zum Inhalt", "Aller au contenu principal"),
        *("Saltar al contenido", "Vai al contenuto", "Ir para o conteúdo"),
        *("Ga naar de inhoud", "Перейти к содержанию"),
    ],
)
def test_links_within_the_page_are_no_text(link: str) -> None:
    story = "The river runs from the hills to the sea, past four old towns. " * 5
    body = f"<body><main><a href='#a'>{link}</a><p>{story}</p><p>{link} is what it said.</p>"
    text = read_page(body.encode(), None).text
    assert text.count(link) == 1
    assert f"{link} is what it said." in text
    assert story.strip() in text


def outcome(body: bytes, charset: str | None = None) -> str:
    try:
        read_page(body, charset).text.encode()
    except PageError as error:
        return error.reason
    return "page"


@pytest.mark.parametrize(
    ("name", "body"), list(hostile_pages()), ids=[name for name, _ in hostile_pages()]
)
def test_hostile_pages_come_to_an_end(name: str, body: bytes) -> None:
    """Without the bound on depth the first two take minutes to hours; all are done in a second."""
    is_html(None, body)
    assert outcome(body) == (
        "nested_too_deeply" if name.startswith(("deep", "opt", "unclosed_t")) else "page"
    )


@pytest.mark.parametrize("depth", [400, 600])
def test_depth(depth: int) -> None:
    # Pages with few tags are not looked at so closely: they cannot be deep enough to matter.
    body = (b"<br>" * 6000) + b"<div>" * depth + b"x" + b"</div>" * depth
    if depth > 500:
        with pytest.raises(PageError, match="600 deep"):
            read_page(body, None)
    else:
        read_page(body, None)


@pytest.mark.parametrize(
    "piece", ["<p><i a={}>x</z>", "<p><font size={}>x", "<div></z>x", "<div></z></y>{}"]
)
def test_end_tags_that_close_nothing_hide_no_depth(piece: str) -> None:
    body = "".join(piece.format(number) for number in range(4_000)).encode()
    with pytest.raises(PageError) as caught:
        read_page(body, None)
    assert caught.value.reason == "nested_too_deeply"


@given(st.binary(max_size=200), st.sampled_from(["utf-8", "utf-16", "euc-kr", "x", "\0", None]))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_page_or_refused(body: bytes, charset: str | None) -> None:
    assert outcome(body, charset) in ("page", "bad_encoding")


def undone(body: bytes, transfer: str | None, content: str | None) -> bytes | str:
    try:
        return decode_body(body, transfer, content, LIMIT)
    except PageError as error:
        return error.reason


@given(st.binary(max_size=100), st.sampled_from(["chunked", None]), st.sampled_from(["gzip", "br"]))
@settings(max_examples=60, deadline=None)
def test_any_body_is_decoded_or_refused(body: bytes, transfer: str | None, content: str) -> None:
    result = undone(body, transfer, content)
    refusals = ("bad_transfer_encoding", "bad_content_encoding", "too_large")
    assert isinstance(result, bytes) or result in refusals


def test_elements_of_thousands_of_attributes_are_refused() -> None:
    """lexbor compares each with all before it."""
    attributes = " ".join(f"a{i}='x'" for i in range(2_000))
    with pytest.raises(PageError, match="2000 attributes") as caught:
        read_page(f"<html><body {attributes}><p>text</p></body></html>".encode(), None)
    assert caught.value.reason == "many_attributes"
