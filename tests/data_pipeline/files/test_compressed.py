"""Compressed streams: lines in bounded memory, and everything before a damaged place."""

import bz2
import gzip
import io
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.files.compressed import DAMAGE, lines, open_stream, uncompressed_name

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    "": bytes,
}


@pytest.mark.parametrize("suffix", PACK)
def test_members_follow_one_another(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](b"one\ntw") + PACK[suffix](b"o\n\nlast"))
    with open_stream(path) as stream:
        assert list(lines(stream, 100)) == [b"one\n", b"two\n", b"\n", b"last"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_what_is_before_a_cut_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    # Two members: the second is cut, the first is whole in every format.
    path.write_bytes(PACK[suffix](b"x\n" * 1000) + PACK[suffix](b"y\n" * 1000)[:-15])
    found: list[bytes | None] = []
    with open_stream(path) as stream, pytest.raises(DAMAGE):
        found.extend(line for line in lines(stream, 10))
    with open_stream(path) as stream:
        iterator = lines(stream, 10)
        assert [next(iterator) for _ in range(1000)] == [b"x\n"] * 1000


@given(st.binary(max_size=300), st.integers(1, 20))
def test_lines_are_those_of_split(data: bytes, max_bytes: int) -> None:
    found = list(lines(io.BufferedReader(io.BytesIO(data)), max_bytes))
    whole = data.split(b"\n")
    expected = [line + b"\n" for line in whole[:-1]] + ([whole[-1]] if whole[-1] else [])
    assert len(found) == len(expected)
    for line, own in zip(found, expected, strict=True):
        assert line == (own if len(own.rstrip(b"\n")) <= max_bytes else None)


def test_a_long_line_stays_out_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"a" * (64 << 20) + b"\nend\n"))
    tracemalloc.start()
    with open_stream(path) as stream:
        assert list(lines(stream, 1 << 20)) == [None, b"end\n"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20  # the limit, pieces of 64 KiB and zlib's window; the line has 64 MiB


@pytest.mark.parametrize(
    ("name", "expected"),
    [("A.XML.BZ2", "a.xml"), ("a.json.gz", "a.json"), ("gz", "gz"), ("a.tar", "a.tar")],
)
def test_uncompressed_name(name: str, expected: str) -> None:
    assert uncompressed_name(name) == expected
