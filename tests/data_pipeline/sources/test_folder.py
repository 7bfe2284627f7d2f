"""A user's folder: kinds, cutting, damage; and the samples' books."""

import io
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.document import Document, Rejected
from data_pipeline.sources import folder
from tests.support.damage import gzipped

Item = Document | Rejected
WRONG_TEXT = "no_text_field1 text_not_string2 text_not_string3"


def read(path: Path, *, text_field: str = "text", max_document_bytes: int = 1000) -> list[Item]:
    (file,) = folder.inputs(path).files
    return list(folder.read(file, text_field=text_field, max_document_bytes=max_document_bytes))


def summary(items: list[Item]) -> list[tuple[str, int | None]]:
    return [(i.text if isinstance(i, Document) else i.reason, i.offset) for i in items]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def test_inputs(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "sub/a.JSONL", "c.json.gz", "d.md.zst", "e.parquet"):
        (tmp_path / name).touch()
    for name in ("photo.jpg", "archive.gz", ".hidden.txt", "README"):
        (tmp_path / name).touch()
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "nowhere.txt").symlink_to(tmp_path / "missing")
    (tmp_path / "self.txt").symlink_to("self.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    found = folder.inputs(tmp_path)
    names = ["b.txt", "c.json.gz", "d.md.zst", "e.parquet", "link.txt", "sub/a.JSONL"]
    assert [file.source_file for file in found.files] == names
    assert {item.source_file: item.reason for item in found.ignored} == {
        ".hidden.txt": "hidden",
        "README": "unknown_kind",
        "archive.gz": "unknown_kind",
        "nowhere.txt": "unreadable",
        "photo.jpg": "unknown_kind",
        "pipe.txt": "not_a_file",
        "self.txt": "unreadable",
        "sub/up/": "visited_folder",
    }


def test_odd_file_names(tmp_path: Path) -> None:
    for name in (b"new\nline.txt", "naïve ☃.txt".encode(), b"latin-\xe9.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("text")
    found = folder.inputs(tmp_path)
    names = ["latin-\\xe9.txt", "naïve ☃.txt", "new\nline.txt"]
    assert [file.source_file for file in found.files] == names
    items = [i for f in found.files for i in folder.read(f, text_field="", max_document_bytes=99)]
    assert [text for text, _ in summary(items)] == ["text"] * 3


def test_folders_deeper_than_python_s_stack_are_ignored(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a"] * 600)
    deep.mkdir(parents=True)
    (deep / "b.txt").touch()
    (tmp_path / "c.txt").touch()
    found = folder.inputs(tmp_path)
    assert [file.source_file for file in found.files] == ["c.txt"]
    assert [item.reason for item in found.ignored] == ["too_deep"]


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing does not exist"):
        folder.inputs(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "data", "result"),
    [
        ("a.txt", b"text\r\n", [("text\n", 0)]),
        ("a.txt", b"", [("empty", None)]),
        ("a.txt", "Un élève.\n".encode("latin-1"), [("Un élève.\n", 0)]),
        ("a.txt", "élève\n".encode("utf-16"), [("élève\n", 0)]),
        ("a.txt", b"a\0b", [("binary", None)]),
        ("a.txt.gz", gzipped(b"text"), [("text", 0)]),
        ("a.txt.gz", gzipped(b"text")[:-9], [("damaged", 0)]),
        ("a.txt.gz", b"no gzip", [("damaged", 0)]),
        ("a.txt.zst", zstd(b"text"), [("text", 0)]),
        ("a.txt.zst", zstd(b"one") + zstd(b"two"), [("onetwo", 0)]),
        ("a.txt.zst", b"no zstd", [("damaged", 0)]),
        ("a.jsonl", b"", [("empty", None)]),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "b"}', [("a", 1), ("b", 3)]),
        ("a.json", b'{"text": "a"}\n{"text": \n{"text": "c"}\n', "a1 bad_json2 c3"),
        ("a.jsonl", b'["a list"]\n"a string"\n', "bad_json1 bad_json2"),
        ("a.jsonl", b'{"body": "a"}\n{"text": 3}\n{"text": null}\n', WRONG_TEXT),
        ("a.jsonl", b'{"text": "\xff"}\n{"text": "ok"}', "bad_json1 ok2"),
        ("a.jsonl", b"[" * 100_000, "bad_json1"),
        ("a.jsonl", b'{"text": "\\ud800x\\u0000"}', [("x", 1)]),
        ("a.jsonl.gz", gzipped(b'{"text": "a"}\n'), [("a", 1)]),
        ("a.jsonl.gz", gzipped(b'{"text": "a"}\n')[:-4], [("a", 1), ("damaged", 1)]),
        ("a.jsonl.zst", zstd(b'{"text": "a"}\n'), [("a", 1)]),
        ("a.parquet", b"PAR1 damaged", [("damaged", 0)]),
        ("a.parquet", b"", [("damaged", 0)]),
    ],
)
def test_read(
    tmp_path: Path, name: str, data: bytes, result: list[tuple[str, int | None]] | str
) -> None:
    (tmp_path / name).write_bytes(data)
    found = summary(read(tmp_path))
    if isinstance(result, str):
        assert " ".join(f"{text}{offset}" for text, offset in found) == result
    else:
        assert found == result


def test_rejections_name_their_place_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": 1, "name": 2}\n{"text: 1}\n')
    (first, second) = read(tmp_path / "a.jsonl")
    assert isinstance(first, Rejected)
    assert first.detail == "line 1 has no field 'text'; it has: body, name"
    assert isinstance(second, Rejected)
    assert second.detail is not None
    assert second.detail.startswith("line 2: ")


def test_truncated_zstd_is_damage(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": os.urandom(50).hex()}) + "\n" for _ in range(5000))
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(lines.encode())[:-100_000])
    items = summary(read(tmp_path))
    assert items[-1][0] == "damaged"
    assert len(items) > 100


def test_json_metadata_is_taken_over(tmp_path: Path) -> None:
    row = {"content": "t", "url": "u", "license": "MIT", "timestamp": "2019", "title": 5}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    (item,) = read(tmp_path, text_field="content")
    assert item == Document("t", "a.jsonl", 1, url="u", license="MIT", timestamp="2019")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None, "c"] * 100, "url": ["u"] * 300}), path)
    items = read(path)
    assert summary(items)[:3] == [("a", 0), ("text_not_string", 1), ("c", 2)]
    assert summary(items)[-1] == ("c", 299)
    assert items[0] == Document("a", "a.parquet", 0, url="u")
    (missing,) = read(path, text_field="body")
    assert isinstance(missing, Rejected)
    assert (missing.reason, missing.detail) == (
        "no_text_field",
        "no column 'body'; it has: text, url",
    )


def test_dates_out_of_range_cost_no_rows(tmp_path: Path) -> None:
    columns = {
        "text": ["a", "b"],
        "url": pa.array([2**62, 1], pa.timestamp("us")),
        "title": pa.array([1, 2], pa.timestamp("us", "Foo/Bar")),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert summary(read(tmp_path / "a.parquet")) == [("a", 0), ("b", 1)]


def test_parquet_damaged_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [os.urandom(500).hex() for _ in range(1000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=100, use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = b"\xff" * 3000
    path.write_bytes(data)
    items = summary(read(path))
    assert items[-1][0] == "damaged"
    assert [text for text, _ in items[:-1]] == texts[: len(items) - 1]
    assert len(items) > 300


@given(st.text(st.sampled_from("ab\n ☃"), max_size=400), st.integers(min_value=4, max_value=60))
def test_cutting_loses_nothing_and_keeps_to_the_size(text: str, max_bytes: int) -> None:
    pieces = list(folder.cut_at_blank_lines(io.StringIO(text), max_bytes))
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= max_bytes for piece in pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("one\n\ntwo\n\nthree\n\nfour\n", ["one\n\ntwo\n\nthree\n\n", "four\n"]),
        ("one\n\nt\n1234\n5678\nabcd\nxyz\n", ["one\n\n", "t\n1234\n5678\nabcd\n", "xyz\n"]),
        # A line of a quarter of a piece is read apart from its line end, which is no blank line.
        ("one\n\n12345\nabcde\nxyz\n\n", ["one\n\n", "12345\nabcde\nxyz\n\n"]),
        ("0123456789" * 3, ["0123456789" * 2, "0123456789"]),
    ],
)
def test_where_text_is_cut(text: str, pieces: list[str]) -> None:
    assert list(folder.cut_at_blank_lines(io.StringIO(text), 20)) == pieces


def test_offsets_are_places_in_the_text(tmp_path: Path) -> None:
    text = "".join(f"Paragraph ñ {i}.\n\n" for i in range(200))
    (tmp_path / "a.txt").write_text(text)
    items = read(tmp_path, max_document_bytes=300)
    assert len(items) > 10
    for item in items:
        assert isinstance(item, Document)
        assert item.offset is not None
        assert text[item.offset :].startswith(item.text)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """20 MB on one line, and as 20,000 lines."""
    for separator in (b"", b"\n"):
        (tmp_path / "a.txt").write_bytes((b"x" * 999 + separator) * 20_000)
        (file,) = folder.inputs(tmp_path).files
        tracemalloc.start()
        size = 0
        for item in folder.read(file, text_field="", max_document_bytes=100_000):
            assert isinstance(item, Document)
            size += len(item.text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size >= 999 * 20_000
        # Detection holds a piece of 1 MiB three times over; the file is 20 times that.
        assert peak < 6 << 20


def test_samples_books() -> None:
    samples = os.environ.get("LLAMA_DS_SAMPLES")
    if samples is None:
        pytest.skip("LLAMA_DS_SAMPLES is not set: no sample books")
    found = folder.inputs(Path(samples, "raw", "books"))
    assert len(found.files) == 47
    for file in found.files[:5]:
        items = list(folder.read(file, text_field="text", max_document_bytes=1 << 18))
        assert all(isinstance(item, Document) for item in items)
        assert len(items) >= file.size / (1 << 18)
