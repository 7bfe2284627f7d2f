"""Malformed and hostile book files, generated at random."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator

from tests.support.archives import nasty_archives

_LINES = (
    *("The Project Gutenberg EBook of A Book, by Nobody", "Title: A Book", "Author:", "Language: "),
    *("Release Date: May 99, 20000 [EBook #9999999999]", "Character set encoding: no-such-thing"),
    *("*** START OF THIS PROJECT GUTENBERG EBOOK A BOOK ***", "*** START OF THE PROJECT GUTENBERG"),
    *("***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***", "*END*THE SMALL PRINT!"),
    *("*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***", "End of Project Gutenberg's A Book"),
    *("Produced by Nobody", "[Transcriber's Note: none", "[Transcriber's Note: none]", "]"),
    *("Transcriber's Notes:", "", "", " ", "It was a dark night.", "*" * 3_000, " " * 3_000),
    *("Title:" + " a\n  b" * 500, "\ud800", "\0", "漢字", "\x0c", "CHAPTER I", "\r"),
)


def nasty_book(rng: random.Random) -> str:
    """Marker lines of every style, in any order and number."""
    return "\n".join(rng.choice(_LINES) for _ in range(rng.randrange(80)))


def nasty_books(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of plain texts, books on lines and rows; good, damaged, odd."""
    for index in range(6):
        text = nasty_book(rng)
        encoding = rng.choice(["utf-8", "utf-16", "latin-1", "cp1252", "utf-32", "koi8-r", "cp437"])
        yield f"{index}.txt", text.encode(encoding, "replace")
    yield "surrogates.txt", nasty_book(rng).encode("utf-8", "surrogatepass")
    yield "random.txt", rng.randbytes(5_000)
    yield "empty.txt", b""
    lines = [" ".join(nasty_book(rng).split()) * 200 for _ in range(4)]
    data = "\n".join(lines).encode("utf-8", "replace")
    yield "lines.txt", data
    yield "lines.txt.gz", gzip.compress(data)[: rng.randrange(200)]
    yield "lines.utf16.txt", "\n".join(lines).encode("utf-16", "replace")
    rows = [{"text": rng.choice([nasty_book(rng), None, 3, []]), "title": rng.choice(["a", 1])}]
    yield "rows.jsonl", b"\n".join([*(json.dumps(row).encode() for row in rows), b"[]", b"\xfe"])
    yield "rows.parquet", rng.randbytes(100)
    yield "book.epub", rng.randbytes(100)
    book = nasty_book(rng).encode("utf-8", "replace")
    yield "1342.txt.utf-8", book
    yield from nasty_archives(rng, "1342-0", {"1342-0.txt": book, "a.png": b"x"}, (".zip",))
