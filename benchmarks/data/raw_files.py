"""Generates large synthetic raw files of each source: a few documents repeated, of any size.

A size is that before compression, rounded up to a document or a compressed chunk.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SENTENCE = "The river rose slowly over the fields, and the people of the town watched it rise. "
PARAGRAPH = SENTENCE * 4
_PIECE_BYTES = 1 << 20  # compressed once and then repeated


@dataclass(frozen=True)
class RawFile:
    """One raw file of a source, with a name that the source recognizes."""

    source: str
    path: str
    """Path under the source's folder."""
    write: Callable[[Path, int], None]
    """Generates the file with about this many bytes."""


def warc_record(kind: str, content_type: str, url: str, block: bytes) -> bytes:
    """A WARC record, compressed by itself as CommonCrawl's are."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Date: 2019-07-17T12:15:59Z\r\nWARC-Record-ID: <urn:uuid:{kind}{url}>\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0)


def write_warc(path: Path, num_bytes: int) -> None:
    """Pages of some 14 kB."""
    body = "".join(f"<h2>Part {i}</h2><p>{PARAGRAPH}</p>" for i in range(40))
    html = f"<html><head><title>A page</title></head><body><main>{body}</main></body></html>"
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    page = f"{head}{html}".encode()
    kind = "application/http; msgtype=response"
    record = warc_record("response", kind, "http://example.org/page", page)
    _write(path, itertools.repeat(record, 1 + num_bytes // len(page)))


def write_wet(path: Path, num_bytes: int) -> None:
    """Texts of some 13 kB."""
    text = ("A page\n" + f"{PARAGRAPH}\n" * 40).encode()
    record = warc_record("conversion", "text/plain", "http://example.org/page", text)
    _write(path, itertools.repeat(record, 1 + num_bytes // len(text)))


def write_c4(path: Path, num_bytes: int) -> None:
    row = {
        "text": f"{PARAGRAPH}\n" * 8,
        "url": "http://a.org/",
        "timestamp": "2019-04-25T12:57:54Z",
    }
    _write(path, _repeated(gzip.compress, _json_line(row), num_bytes))


def write_github(path: Path, num_bytes: int) -> None:
    """Rows as BigQuery exports them, each with a license notice to strip."""
    notice = "# Copyright 2020 The Authors\n# SPDX-License-Identifier: MIT\n\n"
    body = "".join(f"def add_{i}(first, second):\n    return first + {i}\n\n\n" for i in range(80))
    row = {"repo_name": "a/b", "path": "src/f.py", "license": "mit", "content": notice + body}
    _write(path, _repeated(gzip.compress, _json_line(row), num_bytes))


def write_wikipedia(path: Path, num_bytes: int) -> None:
    """A multistream dump."""
    items = f"* {SENTENCE}\n" * 40
    text = f"'''River''' is a [[stream]] {{{{convert|5|km}}}}. {PARAGRAPH}\n\n== Course ==\n{items}"
    page = (
        "<page><title>River</title><ns>0</ns><id>7</id><revision><id>8</id>"
        "<timestamp>2022-07-01T00:00:00Z</timestamp><model>wikitext</model>"
        f"<text>{text}</text></revision></page>\n"
    ).encode()
    begin = bz2.compress(b'<mediawiki xml:lang="en">\n')
    pages = _repeated(bz2.compress, page, num_bytes)
    _write(path, itertools.chain([begin], pages, [bz2.compress(b"</mediawiki>\n")]))


def write_posts(path: Path, num_bytes: int) -> None:
    """Questions, and answers that come when the file is twice as long as at their question."""
    body = (
        f"&lt;p&gt;{PARAGRAPH}&lt;/p&gt;&#xA;&lt;pre&gt;&lt;code&gt;x = 1&lt;/code&gt;&lt;/pre&gt;"
    )

    def rows() -> Iterator[bytes]:
        yield b'<?xml version="1.0" encoding="utf-8"?>\n<posts>\n'
        written = 0
        for number in itertools.count(1):
            # Every third row is a question: 1, 4, 7, ...
            if number % 3 == 1:
                kind = f'PostTypeId="1" Title="Why {number}?"'
            else:
                kind = f'PostTypeId="2" ParentId="{number // 6 * 3 + 1}"'
            row = (
                f'  <row Id="{number}" {kind} CreationDate="2015-01-01T00:00:00.000" '
                f'Score="{number % 9}" Body="{body}" />\n'
            ).encode()
            yield row
            written += len(row)
            if written >= num_bytes:
                break
        yield b"</posts>\n"

    _write(path, rows())


def write_arxiv(path: Path, num_bytes: int) -> None:
    """A bulk file of papers of 80 kB."""
    lines = f"{PARAGRAPH} Let $x \\in \\R$. % a comment\n\n" * 220
    paper = (
        "\\documentclass{article}\n\\newcommand{\\R}{\\mathbb{R}}\n\\begin{document}\n"
        f"\\section{{One}}\n{lines}\\end{{document}}\n"
    ).encode()
    package = gzip.compress(paper, mtime=0)
    with tarfile.open(path, "w") as archive:
        for number in range(1 + num_bytes // len(paper)):
            member = tarfile.TarInfo(f"2001/2001.{number:05}.gz")
            member.size = len(package)
            archive.addfile(member, io.BytesIO(package))


RAW_FILES = {
    "warc": RawFile("common_crawl", "a.warc.gz", write_warc),
    "wet": RawFile("common_crawl", "a.warc.wet.gz", write_wet),
    "c4": RawFile("c4", "c4-train.00000-of-01024.json.gz", write_c4),
    "github": RawFile("github", "contents.jsonl.gz", write_github),
    "wikipedia": RawFile(
        "wikipedia", "enwiki-20220701-pages-articles-multistream.xml.bz2", write_wikipedia
    ),
    "stack_exchange": RawFile("stack_exchange", "math.stackexchange.com/Posts.xml", write_posts),
    "arxiv": RawFile("arxiv", "arXiv_src_2001_001.tar", write_arxiv),
}
"""Each format that is read as a stream, by its short name."""


def _json_line(row: dict[str, str]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _repeated(pack: Callable[[bytes], bytes], item: bytes, num_bytes: int) -> Iterator[bytes]:
    """One compressed chunk repeated: every reader supports concatenated streams."""
    piece = item * max(1, min(_PIECE_BYTES, num_bytes) // len(item))
    return itertools.repeat(pack(piece), 1 + num_bytes // len(piece))


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(pieces)
