"""The tar reader against Python's tarfile, and where it has to differ."""

import io
import tarfile
import time
import tracemalloc
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.files.tar_stream import (
    BLOCK_BYTES,
    DamagedTarError,
    MemberKind,
    is_tar,
    members,
)
from tests.support.nasty_arxiv import header_bomb, odd_archive, tar_of


def contents(data: bytes) -> list[tuple[str, bytes]]:
    """The files of an archive, read whole."""
    found = members(io.BytesIO(data))
    return [(m.name, s.readall()) for m, s in found if m.kind is MemberKind.FILE]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text("abé/.", min_size=1, max_size=250).filter(lambda n: not n.endswith("/")),
        st.binary(max_size=1500),
        max_size=4,
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_equal_to_tarfile(files: dict[str, bytes], form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            try:
                archive.addfile(info, io.BytesIO(data))
            except ValueError:  # ustar cannot write every name
                continue
    data = buffer.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(m.name, m.offset, archive.extractfile(m)) for m in archive if m.isreg()]
        whole = [(name, stream.read() if stream else b"") for name, _, stream in expected]
    assert contents(data) == whole
    offsets = [member.offset for member, _ in members(io.BytesIO(data))]
    assert offsets == [offset for _, offset, _ in expected]


def test_members_need_not_be_read() -> None:
    data = tar_of({"a": b"x" * 5_000, "b": b"y"})
    found = [(member.name, stream.read(3)) for member, stream in members(io.BytesIO(data))]
    assert found == [("a", b"xxx"), ("b", b"y")]


def test_links_and_devices_are_named_and_have_no_content() -> None:
    found = [(m.name, m.kind, s.readall()) for m, s in members(io.BytesIO(odd_archive()))]
    kinds = [kind for _, kind, _ in found]
    assert kinds[:7] == [MemberKind.OTHER] * 5 + [MemberKind.FOLDER, MemberKind.FILE]
    assert all(data == b"" for _, kind, data in found if kind is not MemberKind.FILE)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_header_bombs_are_refused_in_bounded_memory(kind: bytes) -> None:
    stream = io.BytesIO(header_bomb(kind, 30_000_000))
    tracemalloc.start()
    with pytest.raises(DamagedTarError, match="header of 30000000 bytes"):
        list(members(stream))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("size", ["9" * 5_000, "9" * 20, "-1", "+1", "1e3", "٣", "", " 1"])
def test_a_size_that_is_no_number_is_damage(size: str) -> None:
    record = f" size={size}\n".encode()
    length = len(record) + 4
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, length
    data = header.tobuf(tarfile.USTAR_FORMAT) + (b"%04d" % length + record).ljust(
        -(-length // BLOCK_BYTES) * BLOCK_BYTES, b"\0"
    )
    with pytest.raises(
        DamagedTarError, match=r"a pax header at byte 0 has the size '.{0,40}', no number$"
    ):
        list(members(io.BytesIO(data + tar_of({"a": b"x"}))))


def test_many_pax_records_are_read_once() -> None:
    """A header of the largest size, of the smallest records: each is cut out of the whole."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 20
    data = header.tobuf(tarfile.USTAR_FORMAT) + b"5 a=\n" * ((1 << 20) // 5)
    start = time.process_time()
    with pytest.raises(DamagedTarError):
        list(members(io.BytesIO(data.ljust(512 + (1 << 20), b"\0"))))
    # 0.2 s; where each record copied the rest, a minute.
    assert time.process_time() - start < 5


def test_many_members_take_no_memory() -> None:
    one = tar_of({"a": b""})[:BLOCK_BYTES]
    data = one * 1_500 + bytes(2 * BLOCK_BYTES)
    tracemalloc.start()
    assert sum(1 for _ in members(io.BytesIO(data))) == 1_500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000


def test_every_cut_is_noticed() -> None:
    data = tar_of({"a": b"x" * 700, "b": b"y" * 100})
    end = 512 + 1024 + 512 + 512
    for size in (0, 1, 511, 512, 600, 1535, 1536, 2048, end):
        with pytest.raises(DamagedTarError):
            contents(data[:size])
    assert len(contents(data[: end + BLOCK_BYTES])) == 2


def test_damage_gives_an_error_or_other_members_never_another_exception() -> None:
    rng = Random(0)
    data = tar_of({"a": b"x" * 700, "é" * 120: b"y"})
    outcomes = Counter[str]()
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            broken[rng.randrange(2_600)] = rng.randrange(256)
        try:
            found = contents(bytes(broken))
        except DamagedTarError:
            outcomes["damaged"] += 1
        else:
            outcomes["read"] += 1
            assert sum(len(content) for _, content in found) <= len(data)
    assert outcomes.keys() == {"damaged", "read"}


def test_is_tar() -> None:
    assert is_tar(tar_of({"a": b"x"}))
    assert not is_tar(tar_of({"a": b"x"})[:511])
    assert not is_tar(b"\\documentclass" * 100)
    assert not is_tar(bytes(600))
