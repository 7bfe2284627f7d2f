"""Books as files: encodings, several books in one file, what is no book, hostile files."""

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.document import Document, Rejected
from data_pipeline.sources import books
from data_pipeline.sources.books import gutenberg
from recipes.llama1_corpus import books_source
from tests.support.damage import gzipped
from tests.support.gutenberg_texts import STYLE_2000S
from tests.support.nasty_books import nasty_book, nasty_books

SOURCE = books_source()


def read_all(root: Path) -> list[Document | Rejected]:
    return [item for file in SOURCE.inputs(root).files for item in SOURCE.read(file)]


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", "ASCII"),
        ("utf-8-sig", "UTF-8"),
        ("latin-1", "ISO-8859-1"),
        ("cp1252", "no-such-encoding"),
        ("iso8859-2", "ISO-8859-2"),
        ("koi8-r", "KOI8-R"),
        ("utf-16", "UTF-16"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, declared: str) -> None:
    letters = {"iso8859-2": "žluť", "koi8-r": "дом в лесу " * 500}.get(encoding, "déjà")
    text = STYLE_2000S.replace("ASCII", declared).replace("dark", letters)
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    (item,) = read_all(tmp_path)
    assert isinstance(item, Document)
    assert letters in item.text


def test_a_wrong_declaration_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(
        STYLE_2000S.replace("dark", "d\u00e9j\u00e0").encode("latin-1")
    )
    (item,) = read_all(tmp_path)
    assert isinstance(item, Document)
    assert "déjà" in item.text


def test_several_books_in_a_file(tmp_path: Path) -> None:
    long_book = "word " * 2_000
    (tmp_path / "lines.txt").write_text(f"one {long_book}\n\ntwo {long_book}\n")
    (tmp_path / "paragraphs.txt").write_text(("word " * 300 + "\n") * 20)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({"text": "three\r\n", "title": "3", "license": "MIT", "url": 7}))
    pq.write_table(pa.table({"text": ["four", None]}), tmp_path / "table.parquet")
    found = [
        (item.source_file, item.offset, item.text.split()[0])
        if isinstance(item, Document)
        else (item.source_file, item.offset, item.reason)
        for item in read_all(tmp_path)
    ]
    assert found == [
        ("lines.txt", 1, "one"),
        ("lines.txt", 3, "two"),
        ("paragraphs.txt", None, "word"),
        ("rows.jsonl.gz", 1, "three"),
        ("table.parquet", 0, "four"),
        ("table.parquet", 1, "text_not_string"),
    ]
    (row,) = (item for item in read_all(tmp_path) if item.source_file == "rows.jsonl.gz")
    assert isinstance(row, Document)
    assert (row.text, row.title, row.license, row.url) == ("three\n", "3", "MIT", None)


@pytest.mark.parametrize(
    ("name", "content", "reasons"),
    [
        ("a.txt", b"a" * 101, ["too_large"]),
        ("a.txt", b"a\0b", ["binary"]),
        ("a.txt", b"\xe4" * 50, ["unknown_encoding"]),
        ("a.txt.gz", gzipped(b"a" * 90)[:15], ["damaged"]),
        (
            "a.txt",
            b"a" * 40 + b"\n" + b"b" * 120 + b"\n" + b"c" * 40,
            ["kept", "too_large", "kept"],
        ),
        ("a.jsonl", b'{"text": 1}\n{}\n[]', ["text_not_string", "no_text_field", "bad_json"]),
        ("a.jsonl", b'{"text": "%s"}\n{"text": "b"}' % (b"a" * 101), ["too_large", "kept"]),
        ("a.parquet", b"PAR1", ["damaged"]),
        ("a.jsonl", b"", ["empty"]),
    ],
)
def test_what_is_no_book_is_counted(
    tmp_path: Path, name: str, content: bytes, reasons: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    (file,) = books.inputs(tmp_path).files
    items = books.read(file, text_field="text", max_book_bytes=100, book_line_characters=30)
    found = [item.reason if isinstance(item, Rejected) else "kept" for item in items]
    assert found == reasons


def test_missing_and_ignored_files(tmp_path: Path) -> None:
    (tmp_path / "a.epub").write_bytes(b"")
    (tmp_path / "b.txt").write_text("b")
    found = SOURCE.inputs(tmp_path)
    assert [(item.source_file, item.reason) for item in found.ignored] == [("a.epub", "epub")]
    (tmp_path / "b.txt").unlink()
    (item,) = SOURCE.read(found.files[0])
    assert isinstance(item, Rejected)
    assert item.reason == "unreadable"


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_order_of_markers_is_survived(rng: random.Random) -> None:
    document = Document(nasty_book(rng).replace("\0", ""), "a.txt")
    edited = books.without_gutenberg(document, keep_copyrighted=True)
    assert isinstance(edited, Document)
    again = books.without_gutenberg(edited, keep_copyrighted=True)
    assert isinstance(again, Document)
    assert again.text == edited.text
    lines = document.text.split("\n")
    assert all(any(line.rstrip() in other for other in lines) for line in edited.text.split("\n"))


@pytest.mark.parametrize("seed", range(4))
def test_nasty_files_are_accounted_for(tmp_path: Path, seed: int) -> None:
    (edit,) = SOURCE.edits
    for name, content in nasty_books(random.Random(seed)):
        (tmp_path / name).write_bytes(content)
    found = SOURCE.inputs(tmp_path)
    assert [item.source_file for item in found.ignored] == ["book.epub"]
    for file in found.files:
        items = list(SOURCE.read(file))
        assert items, f"{file.source_file} is neither read nor rejected"
        for item in items:
            if isinstance(item, Document) and isinstance(edited := edit(item), Document):
                json.dumps(edited.row("books"), ensure_ascii=False).encode()


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["\n", " ", "*", " \n", "[Transcriber's Note", "Title: a\n  "])
def test_long_repetitions_take_no_long_time(piece: str) -> None:
    text = "*** START OF THE PROJECT GUTENBERG EBOOK A ***\n" + piece * 100_000
    assert len(gutenberg.book(text)) <= len(text)
    gutenberg.header(piece * 100_000)
    assert not gutenberg.is_gutenberg(piece * 100_000)
