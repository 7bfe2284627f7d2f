"""CommonCrawl: which records become documents, and the reasons for all others; the samples."""

import gzip
import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.document import Document, Rejected
from data_pipeline.sources import common_crawl
from tests.support.nasty_common_crawl import (
    conversion,
    damaged_files,
    http,
    nasty_common_crawl,
    pack,
    record,
)

Item = Document | Rejected
LIMIT = 1 << 20
TEXT = "A river runs from the hills to the sea."
HTML = f"<html><title>River</title><article><p>{TEXT}</p></article>".encode()


def read(path: Path, data: bytes) -> list[Item]:
    path.write_bytes(data)
    (file,) = common_crawl.inputs(path).files
    return list(common_crawl.read(file, max_block_bytes=LIMIT))


def summary(items: list[Item]) -> str:
    names = [
        i.reason if isinstance(i, Rejected) else (i.url or "").rpartition("/")[2] for i in items
    ]
    return " ".join(names)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (record(http(HTML)), TEXT),
        (record(http(HTML, content_type="text/html;charset=utf-8")), TEXT),
        (record(http(HTML, content_type="application/xhtml+xml")), TEXT),
        (record(http(HTML, content_type="")), TEXT),
        (record(http(gzip.compress(HTML), extra="Content-Encoding: gzip\r\n")), TEXT),
        (record(HTML, kind="resource", content_type="text/html"), TEXT),
        (conversion(f"\n{TEXT}\r\nTwo.\n"), f"{TEXT}\nTwo."),
        (conversion(f"{TEXT} hy\u00adphen"), f"{TEXT} hyphen"),
        (record(http(HTML.replace(b"</p>", b" hy&shy;phen</p>"))), f"{TEXT} hyphen"),
        (record(http(HTML, content_type="text/plain")), "not_html"),
        (record(http(b"%PDF-1.5", content_type="application/pdf")), "not_html"),
        (record(http(b"\x89PNG", content_type="")), "not_html"),
        (record(http(HTML, status="404 Not Found")), "http_status"),
        (record(http(HTML, status="301 Moved")), "http_status"),
        (record(http(HTML, status="204")), "http_status"),
        # As CommonCrawl's archives of before August 2018 have it.
        (record(http(HTML, extra="Transfer-Encoding: chunked\r\n")), TEXT),
        (
            record(http(b"fff\r\n<p>", extra="Transfer-Encoding: chunked\r\n")),
            "bad_transfer_encoding",
        ),
        (
            record(http(b"\x1f\x8bxx", extra="Content-Encoding: gzip\r\n")),
            "bad_content_encoding",
        ),
        (record(http(b"<br>" * 6000 + b"<div>" * 9999)), "nested_too_deeply"),
        (record(http(b" " * (LIMIT + 1))), "too_large"),
        (conversion("x" * (LIMIT + 1)), "too_large"),
        (record(b"20190717 1.2.3.4", content_type="text/dns"), "not_http"),
        (record(b"GET / HTTP/1.1\r\n\r\n", kind="request"), "request_record"),
        (record(b"fetchTimeMs: 3", kind="metadata"), "metadata_record"),
        (record(b"software: x", kind="warcinfo"), "warcinfo_record"),
        (record(http(b""), kind="revisit"), "revisit_record"),
        (record(b"x", kind="continuation"), "continuation_record"),
        (record(b"x", kind="no-such-kind"), "unknown_record"),
        (record(b"wget arguments", kind="resource", content_type="text/plain"), "not_html"),
        (conversion("\ufffd").replace(b"\xef\xbf\xbd", b"\0\1\2"), "binary"),
    ],
)
def test_records(tmp_path: Path, data: bytes, expected: str) -> None:
    (item,) = read(tmp_path / "a.warc", data)
    assert (item.text if isinstance(item, Document) else item.reason) == expected


def test_what_is_known_of_a_page(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "CC-MAIN-1.warc.gz", pack(record(http(HTML), url="<http://e.org/x>")))
    assert item == Document(
        TEXT,
        "CC-MAIN-1.warc.gz",
        0,
        # WARC 1.0's grammar has angle brackets; Wget wrote them.
        url="http://e.org/x",
        title="River",
        timestamp="2019-07-17T12:15:59Z",
    )


def test_text_is_clean(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "a.warc.wet", conversion("cafe\u0301\x07 \r\nx\u0085\x81y"))
    assert isinstance(item, Document)
    assert item.text == "caf\u00e9 \nx\u2026y"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CC-MAIN-20190717-00000.warc.gz", None),
        ("CC-MAIN-20190717-00000.warc.wet.gz", None),
        ("a.WARC", None),
        ("a.wet", None),
        ("a.warc.txt", None),
        ("a.warc.bz2", None),
        ("CC-MAIN-20190717-00000.warc.wat.gz", "wat"),
        ("warc.paths.gz", "paths_list"),
        ("cdx-00000.gz", "crawl_index"),
        ("robots.txt", "unknown_kind"),
    ],
)
def test_inputs(tmp_path: Path, name: str, reason: str | None) -> None:
    (tmp_path / name).touch()
    found = common_crawl.inputs(tmp_path)
    assert [file.source_file for file in found.files] == ([] if reason else [name])
    assert [item.reason for item in found.ignored] == ([reason] if reason else [])


@pytest.mark.parametrize("case", list(damaged_files()), ids=lambda case: str(case[0]))
def test_damaged_files(tmp_path: Path, case: tuple[str, bytes, str]) -> None:
    name, data, expected = case
    items = read(tmp_path / name, data)
    assert summary(items) == expected
    reasons = [item for item in items if isinstance(item, Rejected)]
    assert all(
        item.offset is not None and item.detail for item in reasons if "empty" not in expected
    )


@pytest.mark.parametrize("name", ["a.warc.txt", "a.warc.wet", "a.warc.wet.gz"])
def test_plain_text_form(tmp_path: Path, name: str) -> None:
    records = conversion("One.\n\nMore.", url="http://e.org/1") + record(b"x", kind="warcinfo")
    data = b"junk\n" * name.endswith("txt") + (records + conversion(TEXT)).replace(b"\r\n", b"\n")
    items = read(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    items = items[1:] if name.endswith("txt") else items
    first, second, third = items
    assert isinstance(first, Document)
    assert (first.text, first.url) == ("One.\n\nMore.", "http://e.org/1")
    assert isinstance(second, Rejected)
    assert second.reason == "warcinfo_record"
    assert isinstance(third, Document)
    assert third.text == TEXT


def test_a_reason_does_not_quote_the_record(tmp_path: Path) -> None:
    text = conversion("x").decode().replace("conversion", "made up: yes")
    (item,) = read(tmp_path / "a.warc.txt", text.encode())
    assert isinstance(item, Rejected)
    assert (item.reason, item.detail) == ("unknown_record", "made up: yes")


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.warc").touch()
    (file,) = common_crawl.inputs(tmp_path).files
    file.path.unlink()
    (item,) = common_crawl.read(file, max_block_bytes=LIMIT)
    assert isinstance(item, Rejected)
    assert item.reason == "unreadable"


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_whatever_a_file_holds_it_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    name, data = next(nasty_common_crawl(random.Random(seed)))
    items = read(tmp_path_factory.mktemp("nasty") / name, data)
    assert items
    for item in items:
        assert item.source_file == name
        if isinstance(item, Document):
            assert item.offset is not None
            item.text.encode()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Resident memory, as most of it is not Python's: 40 MB of records in a file of 0.1 MB."""
    import resource

    body = b"<article><p>" + b"word " * 80_000
    path = tmp_path / "a.warc.gz"
    path.write_bytes(pack(record(http(body))) * 3)
    (file,) = common_crawl.inputs(path).files
    assert sum(1 for _ in common_crawl.read(file, max_block_bytes=LIMIT)) == 3
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path.write_bytes(pack(record(http(body))) * 100)
    assert sum(1 for _ in common_crawl.read(file, max_block_bytes=LIMIT)) == 100
    # KiB; a hundred pages held together would take 40 MB and more.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_samples(samples: Path) -> None:
    found = common_crawl.inputs(samples / "raw" / "common_crawl")
    read_file = partial(common_crawl.read, max_block_bytes=5 << 20)
    items = {file.source_file: list(read_file(file)) for file in found.files}
    counts = {
        name: Counter("page" if isinstance(i, Document) else i.reason for i in some)
        for name, some in items.items()
    }
    assert all(counts.values())
    assert counts["damaged/resiliparse-clipped.warc.gz"] == {"truncated": 1}
    bad = "damaged/warcio-example-wget-bad-target-uri.warc.gz"
    assert counts[bad]["page"] == 1
    assert all(i.url == "http://example.com/" for i in items[bad] if isinstance(i, Document))
    assert counts["cc_net/sample.warc.txt"] == {"page": 3, "warcinfo_record": 1}
    wet = "whirlwind/whirlwind.warc.wet"
    assert items[wet][1].offset == 635
    pages = [i for some in items.values() for i in some if isinstance(i, Document)]
    # No tags are left; "<" itself may be text.
    assert sum("</div>" in i.text or "<script" in i.text for i in pages) == 0
    assert sum("\ufffd" in i.text for i in pages) <= len(pages) * 0.02
    assert {i.reason for i in found.ignored} == {"wat"}
