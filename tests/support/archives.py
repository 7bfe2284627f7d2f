"""Archives made of names and contents, whole and damaged."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from random import Random

import py7zr
from backports import zstd

from tests.support.damage import mutated


def seven_zip(members: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with py7zr.SevenZipFile(data, "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 0}]) as file:
        for name, content in members.items():
            file.writestr(content, name)
    return data.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


def tar(mode: str, members: Mapping[str, bytes]) -> bytes:
    """`mode`: "", "gz", "bz2" or "xz"."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{mode}") as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def zstd_with_dictionary(data: bytes, *, packed: bool) -> bytes:
    """As Archive Team's files: the dictionary in a frame that readers without it skip, and the data
    twice in frames that need it."""
    dictionary = _dictionary()
    content = dictionary.dict_content
    content = zstd.compress(content) if packed else content
    head = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    return head + zstd.compress(data, zstd_dict=dictionary) * 2


@cache
def _dictionary() -> zstd.ZstdDict:
    samples = [f"WARC/1.0 record {number} of a file".encode() for number in range(200)]
    return zstd.train_dict(samples, 2_000)


def nasty_archives(
    rng: Random, stem: str, members: Mapping[str, bytes], endings: tuple[str, ...]
) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of the members in an archive of each kind; whole or damaged anywhere."""
    for ending in endings:
        match ending:
            case ".7z":
                data = seven_zip(members)
            case ".zip":
                data = zipped(members)
            case _:
                data = tar(ending.removeprefix(".tar").removeprefix("."), members)
        yield stem + ending, mutated(data, rng)
