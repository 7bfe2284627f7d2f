"""Malformed and hostile Stack Exchange dumps, generated for tests and fuzzing."""

from __future__ import annotations

import bz2
import gzip
import io
import random
from collections.abc import Iterator
from xml.sax.saxutils import quoteattr

import py7zr

from tests.support.archives import nasty_archives
from tests.support.damage import cut, noisy

_HTML = (
    *("<p>", "</p>", "<ul>", "<ol>", "<li>", "</li>", "</ul>", "<pre><code>", "</code></pre>"),
    *("<blockquote>", "</blockquote>", "<b>", "</b>", "<br>", "<!-- x", "-->", "&lt;", "&#0;"),
    *("<table>", "<tr>", "<td>", "<script>", "</script>", "<a href='x'>", "<", ">", "&", "\x00"),
    *("word ", "ж", "\ud800", "\n", " ", "<sup>2</sup>", "</div>", "</body>", "<img", "<h1>"),
)


def nasty_html(rng: random.Random, size: int = 300) -> str:
    """Tags at random, or one of them very deep."""
    if rng.random() < 0.1:
        return rng.choice(_HTML) * rng.randrange(4_000)
    return "".join(rng.choice(_HTML) for _ in range(rng.randrange(size)))


def row(**attributes: object) -> str:
    """A row of a table; `parent` and the like are written as Stack Exchange writes them."""
    named = " ".join(f"{name}={quoteattr(str(value))}" for name, value in attributes.items())
    return f"  <row {named} />\n"


def question(number: int, body: str = "<p>Body</p>", **more: object) -> str:
    given = {"CreationDate": "2020-01-01T00:00:00.000", "Score": 1, "Title": f"Title {number}"}
    return row(Id=number, PostTypeId=1, **{**given, "Body": body, **more})


def answer(number: int, parent: int, score: object, body: str | None = None, **more: object) -> str:
    given = {"ParentId": parent, "CreationDate": "2020-01-02T00:00:00.000", "Score": score}
    body = f"<p>Answer {number}</p>" if body is None else body
    return row(Id=number, PostTypeId=2, **{**given, "Body": body, **more})


def posts(*rows: str) -> str:
    """A whole table of posts."""
    return '<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "".join(rows) + "</posts>"


def archive(**members: bytes) -> bytes:
    """A .7z archive; two underscores in a name stand for a dot."""
    data = io.BytesIO()
    with py7zr.SevenZipFile(data, "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 0}]) as file:
        for name, content in members.items():
            file.writestr(content, name.replace("__", "."))
    return data.getvalue()


def nasty_stack_exchange(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Names and contents of tables and archives: whole, cut, damaged, hostile."""
    rows = [
        rng.choice(
            [
                question(number, nasty_html(rng)),
                answer(number, rng.randrange(1, 20), rng.randrange(-5, 200), nasty_html(rng)),
                answer(number, rng.randrange(1, 20), rng.choice(["", "x", "1e9", "9" * 30])),
                row(Id=number, PostTypeId=rng.randrange(9)),
                row(PostTypeId=1),
                "  <row />\n",
            ]
        )
        for number in range(1, rng.randrange(2, 30))
    ]
    text = "".join(c for c in posts(*rows) if c in "\t\n" or " " <= c < "\ud800" or c > "\udfff")
    whole = text.encode()
    changed = noisy(whole, rng)
    packed = bytearray(archive(Posts__xml=whole, Users__xml=b"<users/>"))
    yield "whole/Posts.xml", whole
    yield "marked/Posts.xml", b"\xef\xbb\xbf" + whole
    yield "cut/Posts.xml", cut(whole, rng)
    yield "noisy/Posts.xml", changed
    yield "packed/Posts.xml.bz2", bz2.compress(whole)[: rng.randrange(200)]
    yield "zipped/Posts.xml.gz", gzip.compress(changed)
    yield "utf16/Posts.xml", text.encode("utf-16")
    yield "empty/Posts.xml", b""
    yield "long/Posts.xml", b"<posts><row Id='1' Body='" + b"x" * 300_000
    yield "site.7z", bytes(packed)
    yield from nasty_archives(rng, "gis", {"gis/posts.xml": whole, "a/b": b""}, (".zip", ".7z"))
    yield "short.7z", cut(bytes(packed), rng)
    packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
    yield "flipped.7z", bytes(packed)
    yield "noise.7z", rng.randbytes(100)
    yield "other.7z", archive(Users__xml=b"<users/>")
