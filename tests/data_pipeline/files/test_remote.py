"""Raw files behind URLs: found, copied, read and built as those of this machine."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from data_pipeline.build.build_corpus import build_corpus
from data_pipeline.build.old_results import OldResults
from data_pipeline.build.parts import PartSizes
from data_pipeline.document import Document, Rejected, Source
from data_pipeline.documents_folder import read_manifest
from data_pipeline.executors.local import Processes
from data_pipeline.files.inputs import InputFile, Inputs, local_copy, walk
from data_pipeline.files.remote import RemoteFolder, Root, root_of
from data_pipeline.report.inspection import RawDocuments
from data_pipeline.sources import folder, github
from recipes.llama1_corpus import CrawlModels, llama1_corpus

read_text = partial(folder.read, text_field="text", max_document_bytes=1 << 20)
URL = "memory://bucket/raw"
FILES = {
    "a.txt": b"first\n",
    "deep/er/b.md": b"second\n",
    "deep/c.txt.gz": gzip.compress(b"third\n"),
    "deep/d.jsonl": b'{"text": "fourth"}\n{"text": "fifth"}\n',
    "image.png": b"\x89PNG",
    ".hidden/x.txt": b"unseen",
    ".hidden/y.txt": b"unseen",
    "skipped/z.txt": b"z",
}


@pytest.fixture(autouse=True)
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    """The process's one memory:// file system, empty before and after."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def local(tmp_path: Path, bucket: fsspec.AbstractFileSystem) -> Path:
    """The files on disk and in the bucket."""
    root = tmp_path / "raw"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        bucket.pipe_file(f"{URL}/{name}", data)
    return root


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are put."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def listed(inputs: Inputs) -> object:
    return [(f.source_file, f.size) for f in inputs.files], {
        tuple(vars(i).values()) for i in inputs.ignored
    }


def test_a_url_is_walked_like_a_folder(local: Path) -> None:
    def skip(name: str) -> bool:
        return name == "skipped"

    remote = walk(RemoteFolder(URL), follow_symlinks=True, skip_folder=skip)
    assert listed(remote) == listed(walk(local, follow_symlinks=True, skip_folder=skip))
    (one,) = walk(RemoteFolder(f"{URL}/deep/d.jsonl"), follow_symlinks=True).files
    assert (one.source_file, one.path.name) == ("d.jsonl", "d.jsonl")
    with pytest.raises(ValueError, match="does not exist"):
        walk(RemoteFolder("memory://nowhere"), follow_symlinks=True)


def test_roots(tmp_path: Path) -> None:
    assert root_of("some/folder") == Path("some/folder")
    assert root_of(tmp_path.as_uri()) == tmp_path
    root = root_of("memory://bucket/raw/")
    assert isinstance(root, RemoteFolder)
    assert str(root / "c4") == "memory://bucket/raw/c4"
    assert not root.exists()
    for place in ("nonsense://bucket", "abfs://bucket/raw"):  # no such kind; package not installed
        with pytest.raises(ValueError, match=f"{place} cannot be opened"):
            root_of(place)


def test_a_copy_lies_here_while_it_is_read(local: Path, scratch: Path) -> None:
    file = walk(RemoteFolder(URL), follow_symlinks=True).files[1]
    with local_copy(file) as here:
        assert here.path.read_bytes() == FILES["deep/c.txt.gz"]
        assert here.path.parts[-2:] == ("deep", "c.txt.gz")
        assert here.path.is_relative_to(scratch)
    assert not any(scratch.iterdir())
    with (
        pytest.raises(OSError, match="downloaded 26 of 99 bytes"),
        local_copy(replace(file, size=99)),
    ):
        pass
    assert not any(scratch.iterdir())
    on_disk = walk(local, follow_symlinks=True).files[0]
    with local_copy(on_disk) as same:
        assert same is on_disk


def read_and_count(file: InputFile, *, scratch: str) -> Iterator[Document | Rejected]:
    """As `read_text`; there is never more than one copy."""
    copies = [path for path in Path(scratch).rglob("*") if path.is_file()]
    assert copies == [file.path] or Path(scratch) not in file.path.parents
    yield from read_text(file)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_build_from_a_url(
    local: Path,
    tmp_path: Path,
    scratch: Path,
    bucket: fsspec.AbstractFileSystem,
    jobs: int,
) -> None:
    build = partial(build_corpus, part_sizes=PartSizes(input_bytes=1))
    read = partial(read_and_count, scratch=str(scratch)) if jobs == 1 else read_text
    source = Source("text", folder.inputs, read, paragraph_group_bytes=1 << 20)
    executor = Processes(jobs)
    tables, folders = [], []
    for name, root in (("local", local), ("remote", RemoteFolder(URL))):
        out = tmp_path / name
        manifest = build([(source, root)], out, executor=executor)["text"]
        tables.append([pq.read_table(out / "text" / file.path) for file in manifest.files])
        tables[-1].append(pq.read_table(out / "text" / "inputs.parquet"))
        folders.append(out)
    assert tables[0] == tables[1]
    assert not any(scratch.iterdir())

    def made() -> dict[str, int]:
        return {p.name: p.stat().st_ino for p in (folders[1] / ".parts" / "text").glob("*/*")}

    before = made()
    source = replace(source, paragraph_group_bytes=None)
    again = partial(build, executor=executor, found_old=OldResults.forget)
    again([(source, RemoteFolder(URL))], folders[1])
    plain = made()
    assert not before.keys() & plain.keys()
    bucket.pipe_file(f"{URL}/a.txt", b"FIRST\n")  # of the same size
    again([(source, RemoteFolder(URL))], folders[1])
    after = made()
    assert len(plain.items() - after.items()) == 1, "only the changed file's part is made again"
    assert (
        read_manifest(folders[1] / "text").num_kept == read_manifest(folders[0] / "text").num_kept
    )
    raw = RawDocuments(source, RemoteFolder(URL))
    found = raw.at("a.txt", 0)
    assert isinstance(found, Document)
    assert found.text.strip() == "FIRST"


def test_every_source_lists_a_url_as_a_folder(
    tmp_path: Path, bucket: fsspec.AbstractFileSystem
) -> None:
    names = {
        "wikipedia": ["enwiki/enwiki-20230101-pages-articles.xml.bz2", "enwiki/notes.txt"],
        "books": ["gutenberg/1.txt", "gutenberg/cover.jpg"],
        "arxiv": ["src/arXiv_src_2001_001.tar", "2001/2001.00001.gz", "readme.doc"],
        "stack_exchange": ["gis.stackexchange.com.7z", "math/Posts.xml", "math/Users.xml"],
        "github": ["rows.jsonl", "repo/LICENSE", "repo/main.py", "repo/data.json"],
        "c4": ["en/c4-train.00000-of-01024.json.gz", "multilingual/c4-de.tfrecord-00000.json.gz"],
        "common_crawl": ["CC-MAIN-1.warc.wet.gz", "CC-MAIN-1.warc.wat.gz"],
    }
    license = (Path(__file__).parents[3] / "LICENSE").read_bytes()
    for folder_name, files in names.items():
        for name in files:
            path = tmp_path / folder_name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(license)
            bucket.pipe_file(f"{URL}/{folder_name}/{name}", license)
    roots: tuple[Root, Root] = (tmp_path, RemoteFolder(URL))
    for kind, _ in llama1_corpus(tmp_path, CrawlModels()).sources:
        here, there = (kind.inputs(root / kind.name) for root in roots)
        assert listed(here) == listed(there), kind.name
        assert here.files, kind.name
        licenses = [file.license for file in there.files]
        assert licenses == [file.license for file in here.files]
        assert any(licenses) == (kind.name == "github")


def test_installed_packages_are_read_here_only(
    bucket: fsspec.AbstractFileSystem,
) -> None:
    for name in ("thing/a.py", "thing-1.0.dist-info/RECORD"):
        bucket.pipe_file(f"{URL}/{name}", b"x")
    with pytest.raises(ValueError, match=r"thing-1.0.dist-info.*local disk only"):
        github.checkout_inputs(RemoteFolder(URL), suffixes=frozenset({".py"}), max_file_bytes=1000)


def test_a_store_that_cannot_be_reached_is_one_line(
    bucket: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host:\n  a page of details")

    monkeypatch.setattr(type(bucket), "find", fail)
    with pytest.raises(ValueError, match="raw cannot be reached: no route to host: a page of") as e:
        walk(root_of(URL), follow_symlinks=False)
    assert "\n" not in str(e.value)
