"""WARC records: every damaged place is reported, and what follows it is read."""

import bz2
import lzma
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from data_pipeline.sources.common_crawl.warc import Block, Damage, records
from tests.support.nasty_common_crawl import conversion, damaged_files, http, pack, page, record

LIMIT = 1 << 20


def read(path: Path, data: bytes, limit: int = LIMIT) -> list[Block | Damage]:
    path.write_bytes(data)
    return list(records(path, max_block_bytes=limit))


def name(item: Block | Damage) -> str:
    if isinstance(item, Damage):
        return item.reason
    return (item.record.headers.get("WARC-Target-URI") or "").rpartition("/")[2]


@pytest.mark.parametrize(
    ("file_name", "data", "expected"),
    [case for case in damaged_files() if "empty" not in case[2]],
    ids=[file_name for file_name, _, expected in damaged_files() if "empty" not in expected],
)
def test_damage_is_reported_once_and_the_rest_is_read(
    tmp_path: Path, file_name: str, data: bytes, expected: str
) -> None:
    items = read(tmp_path / file_name, data)
    assert " ".join(map(name, items)) == expected
    offsets = [item.offset for item in items]
    assert offsets == sorted(offsets)
    assert all(item.detail for item in items if isinstance(item, Damage))


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_offsets_are_where_records_begin(tmp_path: Path, suffix: str) -> None:
    pages = [page(n) for n in range(3)]
    whole = b"".join(pages)
    data = {
        "": whole,
        ".gz": pack(*pages),
        ".bz2": bz2.compress(whole),
        ".xz": lzma.compress(whole),
        ".zst": pa.compress(whole, codec="zstd", asbytes=True),
    }[suffix]
    items = read(tmp_path / f"a.warc{suffix}", data)
    # Compressed as a whole, offsets count what is decompressed.
    raw = data if suffix == ".gz" else b"".join(pages)
    start = b"\x1f\x8b" if suffix == ".gz" else b"WARC/1.0"
    assert len({item.offset for item in items}) == 3
    assert all(raw[item.offset :].startswith(start) for item in items)


@pytest.mark.parametrize("suffix", [".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "half", "changed", "other", "empty"])
def test_damaged_files_that_are_compressed_as_a_whole(
    tmp_path: Path, suffix: str, damage: str
) -> None:
    whole = b"".join(page(n) for n in range(8))
    zstd = partial(pa.compress, codec="zstd", asbytes=True)
    compress: dict[str, Callable[[bytes], bytes]] = {
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": zstd,
    }
    data = compress[suffix](whole)
    middle = len(data) // 2
    damaged = {
        "cut": data[:-9],
        "half": data[:middle],
        "changed": data[:middle] + b"\xff" * middle,
        "other": b"<html>not found</html>",
        "empty": b"",
    }[damage]
    items = read(tmp_path / f"a.warc{suffix}", damaged)
    # Nothing at all is a whole file to zstd; the source counts it as empty.
    expected = 0 if (damage, suffix) == ("empty", ".zst") else 1
    assert sum(isinstance(item, Damage) for item in items) == expected


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("rest", "is_damage"),
    [
        *((b"x", False), (b"\n", False), (b"\r\n", False), (b"</html>", False), (b"\0", False)),
        *((b"x" * 200, True), (b"WARC/1.0\r\nWARC-Type: x", True)),
    ],
)
def test_a_record_that_is_longer_than_it_says(
    tmp_path: Path, packed: bool, rest: bytes, is_damage: bool
) -> None:
    """A few bytes more cost nothing, wherever the record stands; more than that may be a record."""
    longer = page(1).removesuffix(b"\r\n\r\n") + rest + b"\r\n\r\n"
    for pages in ([page(0), longer, page(2)], [page(0), page(2), longer]):
        data = pack(*pages) if packed else b"".join(pages)
        items = read(tmp_path / ("a.warc.gz" if packed else "a.warc"), data)
        assert sum(isinstance(item, Damage) for item in items) == is_damage
        assert {name(item) for item in items if isinstance(item, Block)} == {"0", "1", "2"}


def test_blocks_beyond_the_limit_are_passed_over(tmp_path: Path) -> None:
    large = record(http(b"x" * 5000), url="http://example.org/9")
    first, second, third = read(tmp_path / "a.warc.gz", pack(page(0), large, page(1)), limit=2000)
    assert isinstance(second, Block)
    assert second.is_too_large
    assert second.payload == b""
    assert (name(first), name(third)) == ("0", "1")


def test_only_documents_are_read(tmp_path: Path) -> None:
    request = record(b"GET / HTTP/1.1\r\n\r\n", kind="request")
    blocks = read(tmp_path / "a.warc", request + conversion("some text"))
    assert [b.payload for b in blocks if isinstance(b, Block)] == [b"", b"some text"]


def test_headers_of_http_are_not_payload(tmp_path: Path) -> None:
    (block,) = read(tmp_path / "a.warc", record(http(b"<p>x")))
    assert isinstance(block, Block)
    assert block.payload == b"<p>x"


def test_names_are_bytes(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.net"))
    folder.mkdir()
    whole = record(http(b"<p>x"))
    for name_of_file, data in (("a.warc", whole), ("a.warc.gz", pack(whole))):
        assert [type(block) for block in read(folder / name_of_file, data)] == [Block]


@pytest.mark.parametrize("length", ["9" * 20, "9" * 5_000, "\uff15", "+5", "5x", ""])
def test_a_length_that_is_no_number_is_damage(tmp_path: Path, length: str) -> None:
    (found,) = read(tmp_path / "a.warc", record(b"text of it", length=length))
    assert isinstance(found, Damage)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(records(tmp_path / "none.warc", max_block_bytes=LIMIT))
