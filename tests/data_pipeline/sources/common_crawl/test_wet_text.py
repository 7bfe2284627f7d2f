"""The plain form of WET files."""

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources.common_crawl.wet_text import TextRecord, text_records

HEAD = "WARC/1.0\nWARC-Type: conversion\nWARC-Target-URI: http://e.org/{}\n\n"


def read(text: str, limit: int = 1000) -> list[TextRecord]:
    stream = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(text.encode())))
    return list(text_records(stream, max_block_bytes=limit))


@pytest.mark.parametrize(
    ("text", "bodies"),
    [
        ("", []),
        (HEAD.format(1) + "one\ntwo\n", [b"one\ntwo\n"]),
        (HEAD.format(1) + "one\n\n" + HEAD.format(2) + "two", [b"one\n\n", b"two"]),
        (HEAD.format(1), [b""]),
        # Lengths are not those of this form, so they do not count.
        (HEAD.format(1).replace("\n\n", "\nContent-Length: 1\n\n") + "one\n", [b"one\n"]),
        # Text about WARC files is no record.
        (HEAD.format(1) + "WARC/1.0\nis a format\n", [b"WARC/1.0\nis a format\n"]),
        (HEAD.format(1) + "WARC/1.0", [b"WARC/1.0"]),
        ("no record\n" + HEAD.format(1) + "one", [b"no record\n", b"one"]),
        ((HEAD.format(1) + "one\r\n").replace("\n", "\r\n"), [b"one\r\r\n"]),
    ],
)
def test_bodies(text: str, bodies: list[bytes]) -> None:
    assert [record.content for record in read(text)] == bodies


def test_headers_and_offsets() -> None:
    first, second = read(HEAD.format(1) + "one\n" + HEAD.format(2) + "two\n")
    assert first.headers == {"warc-type": "conversion", "warc-target-uri": "http://e.org/1"}
    assert (first.offset, second.offset) == (0, len(HEAD.format(1)) + 4)


def test_large_bodies_are_counted_not_kept() -> None:
    (record,) = read(HEAD.format(1) + "line\n" * 1000, limit=100)
    assert record.size == 5000
    assert len(record.content) <= 100


@given(st.text(st.sampled_from("ab:\n\r"), max_size=60))
def test_nothing_is_lost(text: str) -> None:
    (record,) = read(HEAD.format(1) + text)
    assert record.content.decode() == text
