"""Malformed and hostile WARC, WET and C4 files, generated for tests and fuzzing."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator

from backports import zstd

from tests.support.archives import zstd_with_dictionary
from tests.support.damage import mutated

PAGE = (
    "<html><head><title>Page {n}</title></head><body><nav><a href=/>Home</a></nav><article>"
    "<p>The {n}th page tells of a river that runs from the hills to the sea, past four old towns "
    "and a mill.</p></article></body></html>"
)


def record(
    block: bytes,
    *,
    kind: str = "response",
    url: str = "http://example.org/",
    content_type: str = "application/http; msgtype=response",
    length: int | str | None = None,
    extra: str = "",
) -> bytes:
    """One WARC record; `length` is what its header says, if not the block's length."""
    stated = len(block) if length is None else length
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Date: 2019-07-17T12:15:59Z\r\nWARC-Record-ID: <urn:uuid:{url}>\r\n{extra}"
        f"Content-Type: {content_type}\r\nContent-Length: {stated}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def http(
    body: bytes, *, status: str = "200 OK", content_type: str = "text/html", extra: str = ""
) -> bytes:
    """An HTTP response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{extra}\r\n"
    return head.encode() + body


def page(number: int) -> bytes:
    """A record with a small good page, whose URL ends in its number."""
    return record(http(PAGE.format(n=number).encode()), url=f"http://example.org/{number}")


def pack(*records: bytes) -> bytes:
    """Compressed record by record."""
    return b"".join(gzip.compress(r, mtime=0) for r in records)


def conversion(text: str, *, url: str = "http://example.org/", extra: str = "") -> bytes:
    """A WET record."""
    return record(text.encode(), kind="conversion", url=url, content_type="text/plain", extra=extra)


def damaged_files() -> Iterator[tuple[str, bytes, str]]:
    """(name, content, what must come of it): URLs' numbers of the pages, and reasons, in order."""
    pages = [page(n) for n in range(5)]
    members = [pack(p) for p in pages]
    whole, third = b"".join(members), bytearray(members[2])
    third[len(third) // 2] ^= 0xFF
    flipped = b"".join(members[:2]) + bytes(third) + b"".join(members[3:])
    begin, rest = b"".join(members[:2]), b"".join(members[2:])
    short = pack(record(http(PAGE.encode()), url="http://example.org/9", length=90))
    long = pack(record(http(PAGE.encode()), url="http://example.org/9", length=99_999))
    no_length = pack(pages[2].replace(b"Content-Length", b"X-Length"))
    yield "whole.warc.gz", whole, "0 1 2 3 4"
    yield "cut_in_block.warc.gz", whole[:-40], "0 1 2 3 truncated"
    yield "cut_in_checksum.warc.gz", whole[:-4], "0 1 2 3 4 truncated"
    yield "cut_in_member_header.warc.gz", begin + members[2][:5], "0 1 truncated"
    yield "cut_in_record_header.warc.gz", begin + members[2][:60], "0 1 truncated"
    yield "flipped_byte.warc.gz", flipped, "0 1 damaged 3 4"
    yield "garbage_between.warc.gz", begin + b"garbage! " * 9 + rest, "0 1 damaged 2 3 4"
    yield "garbage_after.warc.gz", whole + b"garbage! " * 9, "0 1 2 3 4 damaged"
    yield "zeros_after.warc.gz", whole + bytes(512), "0 1 2 3 4 damaged"
    yield (
        "no_record_between.warc.gz",
        begin + gzip.compress(b"no record\r\n") + rest,
        ("0 1 damaged 2 3 4"),
    )
    yield "short_length.warc.gz", begin + short + rest, "0 1 9 damaged 2 3 4"
    yield "long_length.warc.gz", begin + long + rest, "0 1 truncated 2 3 4"
    yield "no_length.warc.gz", begin + no_length + rest, "0 1 damaged 2 3 4"
    yield (
        "negative_length.warc.gz",
        begin + pack(record(b"x", length=-5)) + rest,
        ("0 1 damaged 2 3 4"),
    )
    yield (
        "endless_header.warc.gz",
        begin + pack(record(b"x", extra="X: " + "y" * 99_999)) + rest,
        ("0 1 damaged 2 3 4"),
    )
    yield from _damaged_plain_files(pages)


def _damaged_plain_files(pages: list[bytes]) -> Iterator[tuple[str, bytes, str]]:
    """Records that are no gzip members of their own, and files that hold no record."""
    yield "one_member.warc.gz", gzip.compress(b"".join(pages)), "0 1 2 3 4"
    yield "one_member_cut.warc.gz", gzip.compress(b"".join(pages), 0)[:-60], "0 1 2 3 damaged"
    yield "plain.warc", b"".join(pages), "0 1 2 3 4"
    yield "plain_cut.warc", b"".join(pages)[:-100], "0 1 2 3 truncated"
    yield (
        "plain_garbage.warc",
        b"".join(pages[:2]) + b"garbage\n" * 9 + b"".join(pages[2:]),
        ("0 1 damaged 2 3 4"),
    )
    yield (
        "plain_long_length.warc",
        (
            b"".join(pages[:2])
            + record(http(b"<p>x"), url="http://example.org/9", length=300)
            + b"".join(pages[2:])
        ),
        "0 1 9 damaged 2 3 4",
    )
    yield "empty.warc", b"", "empty"
    yield "empty.warc.gz", b"", "empty"
    yield "web_page.warc.gz", b"<html>Not found</html>", "damaged"
    yield "web_page.warc", b"<html>Not found</html>", "damaged"
    yield "noise.warc.gz", random.Random(0).randbytes(5_000), "damaged"
    yield "noise.warc", random.Random(0).randbytes(5_000), "damaged"


def hostile_pages() -> Iterator[tuple[str, bytes]]:
    """Bodies that take a careless reader seconds, gigabytes or its stack."""
    yield "deep_div", b"<div>" * 100_000 + b"x"
    yield "deep_closed_div", b"<div>" * 20_000 + b"x" + b"</div>" * 20_000
    yield "deep_inline", b"<b><i>" * 100_000 + b"x"
    yield "deep_tables", b"<table><tr><td>" * 30_000 + b"x"
    yield "options", b"<select>" + b"<option>x" * 100_000
    yield "attributes", b"<p " + b"a=b " * 200_000 + b">x"
    yield "unclosed_tag", b"<a " * 200_000
    yield "unclosed_comment", b"<!-- " * 200_000
    yield "entities", b"&amp;" * 200_000
    yield "one_line", b"word " * 200_000
    yield "meta", b"<meta " * 200_000 + b"charset=utf-8>"
    yield "zeros", bytes(1_000_000)


def nasty_common_crawl(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """(file name, content) without end: good and hostile records, mutated."""
    bodies = [body[:50_000] for _, body in hostile_pages()]
    charsets = ["utf-8", "latin-1", "shift_jis", "utf-16", "x-unknown", "\udcff"]
    codings = ["", "Transfer-Encoding: chunked\r\n", "Content-Encoding: gzip\r\n"]
    codings += ["Content-Encoding: zstd\r\n"]
    codings += ["Content-Encoding: br\r\n", "Content-Encoding: deflate, gzip\r\n"]
    while True:
        records: list[bytes] = []
        for number in range(rng.randrange(6)):
            charset = rng.choice(charsets).encode("utf-8", "replace").decode()
            body = rng.choice(
                [
                    *bodies,
                    _tag_soup(rng),
                    PAGE.encode(),
                    gzip.compress(PAGE.encode()),
                    mutated(zstd.compress(PAGE.encode()), rng),
                    b"5\r\nabcde",
                ]
            )
            block = http(
                body,
                status=rng.choice(["200 OK", "404", "", "200", "-1 x"]),
                content_type=f"text/html; charset={charset}",
                extra=rng.choice(codings),
            )
            kind = rng.choice(["response", "response", "conversion", "request", "resource", "?"])
            records.append(record(block, kind=kind, url=f"http://example.org/{number}"))
        name, data = rng.choice(
            [
                ("nasty.warc.gz", pack(*records)),
                ("nasty.warc", b"".join(records)),
                ("nasty.warc.wet.gz", gzip.compress(b"".join(records))),
                (
                    "nasty.warc.zst",
                    zstd_with_dictionary(b"".join(records), packed=True),
                ),
                ("nasty.warc.txt", b"".join(records).replace(b"\r\n", b"\n")),
            ]
        )
        yield name, mutated(data, rng)


def _tag_soup(rng: random.Random) -> bytes:
    """A page of tags in no order, opened and closed as it comes."""
    tags = "div p table tr td script style svg template select a ul title textarea article nav pre"
    pieces = [f"{b}{tag}>" for tag in tags.split() for b in ("<", "</", "<x class=nav id=y><")]
    pieces += ["text ", "&amp;&#0;&#xD800;&nbsp", "<!--", "-->", "<![CDATA[", "]]>", "<?x", '"']
    return "".join(rng.choices(pieces, k=rng.randrange(300))).encode()


def nasty_c4(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """(file name, content) without end: C4's lines with odd values, mutated."""
    good = "The river rose over the fields. It fell again in June.\nNobody saw it go that time.\n"
    values = [good, "A line of text that ends well.", 3, None, [], {}, "\ud800", "x" * 100_000, ""]
    while True:
        rows = [
            {"text": rng.choice(values), "url": rng.choice(values), "timestamp": rng.choice(values)}
            for _ in range(rng.randrange(9))
        ]
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        yield "c4-train.00000-of-01024.json", mutated(data, rng)
        yield "c4-train.00001-of-01024.json.gz", mutated(gzip.compress(data), rng)
