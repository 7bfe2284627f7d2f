"""Members of .7z archives as streams."""

import os
import threading
from pathlib import Path

import py7zr
import pytest
from py7zr.helpers import ArchiveTimestamp

from data_pipeline.files.seven_zip import ArchiveDamage, member_names, open_member
from tests.support.nasty_stack_exchange import archive


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def read(path: Path) -> bytes:
    with open_member(path, "Posts.xml") as stream:
        return stream.read()


def test_a_member_is_streamed_and_no_other(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    path = write(tmp_path / "a.7z", archive(Other__xml=b"no" * 1000, Posts__xml=content, Z=b"z"))
    assert read(path) == content
    assert os.listdir(tmp_path) == ["a.7z"]


def test_reading_may_stop_early(tmp_path: Path) -> None:
    path = write(tmp_path / "a.7z", archive(Posts__xml=os.urandom(1_000_000)))
    before = threading.active_count()
    with open_member(path, "Posts.xml") as stream:
        assert len(stream.read(10)) == 10
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["../Posts.xml", "posts.xml", "/Posts.xml", "folder/Posts.xml"])
def test_only_the_exact_name_is_the_member(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.7z", archive(Posts__xml=b"x"))
    with pytest.raises(ArchiveDamage, match="no member"), open_member(path, name):
        pass


def test_times_out_of_range_are_of_no_concern(tmp_path: Path) -> None:
    path = tmp_path / "a.7z"
    with py7zr.SevenZipFile(path, "w") as archive:
        archive.writestr(b"x", "Posts.xml")
        archive.header.files_info.files[0]["lastwritetime"] = ArchiveTimestamp(2**64 - 1)
    assert member_names(path) == ["Posts.xml"]
    assert read(path) == b"x"


def test_damage(tmp_path: Path) -> None:
    whole = archive(Posts__xml=os.urandom(500_000))
    flipped = bytearray(whole)
    flipped[250_000] ^= 255
    for number, data in enumerate([b"", b"7z", whole[:1000], whole[:-1], bytes(flipped)]):
        path = write(tmp_path / f"{number}.7z", data)
        with pytest.raises(ArchiveDamage):
            read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.7z")
