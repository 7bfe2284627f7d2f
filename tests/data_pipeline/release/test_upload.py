"""Copies of a finished dataset to a URL: whole, continued, renewed, and nothing else's."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from datasets import load_from_disk
from fsspec.implementations.memory import MemoryFileSystem

from data_pipeline.documents_folder import read_manifest
from data_pipeline.executors.local import Processes
from data_pipeline.release.upload import RECORD, publish_copy
from data_pipeline.tokens.store import TokenStore
from data_pipeline.tokens.store_building import build_store
from data_pipeline.tokens.tokenizer_training import TokenizerConfig, train_tokenizer
from tests.support.tokenizer_texts import corpus, prose
from tests.support.written_documents import text_rows, write_documents

URL = "memory://bucket/copy"
SOURCES = {"a": prose()[:20], "b": prose()[20:40]}


@pytest.fixture(autouse=True)
def bucket() -> Iterator[MemoryFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "t"
    train_tokenizer(corpus(prose()), path, TokenizerConfig(vocab_size=400))
    return path


def build(out: Path, tokenizer: Path, sources: dict[str, list[str]]) -> None:
    folders = {
        name: write_documents(out / "documents" / name, text_rows(texts), num_files=2)
        for name, texts in sources.items()
    }
    build_store(out / "store", folders, tokenizer, holdout_share=0.2, executor=Processes(1))


@pytest.fixture
def dataset(tmp_path: Path, tokenizer: Path) -> Path:
    out = tmp_path / "out"
    build(out, tokenizer, SOURCES)
    for name in ("report.html", "report.json", "documents/README.md", "removal_requests.json"):
        (out / name).write_text(name)
    (out / "documents" / ".parts").mkdir()
    (out / "documents" / ".parts" / "x").write_text("intermediate")
    (out / "documents" / "a" / "cache").mkdir()
    (out / "documents" / "a" / "cache" / "x.arrow").write_text("mapped")
    return out


def fetched(url: str, to: Path) -> Path:
    filesystem, root = fsspec.core.url_to_fs(url)
    for path in filesystem.find(root):
        target = to / path.removeprefix(root).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(filesystem.cat_file(path))
    return to


def check(copy: Path, dataset: Path) -> None:
    """The copy is the dataset, and opens."""
    hidden = ("removal_requests.json", ".shards", ".parts", "cache")
    expected = {
        path.relative_to(dataset): path.read_bytes()
        for path in dataset.rglob("*")
        if path.is_file() and not any(part in hidden for part in path.relative_to(dataset).parts)
    }
    found = {p.relative_to(copy): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    record = json.loads(found.pop(Path(RECORD)))
    assert found == expected
    assert {Path(name): entry["bytes"] for name, entry in record.items()} == {
        path: len(data) for path, data in expected.items()
    }
    TokenStore.open(copy / "store").verify()
    assert len(load_from_disk(copy / "store" / "a" / "train")) > 0
    for name in SOURCES:
        assert read_manifest(copy / "documents" / name).num_kept > 0


@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_copy_is_the_dataset(dataset: Path, tmp_path: Path, place: str) -> None:
    url = URL if place == "memory" else (tmp_path / "copy").as_uri()
    account = publish_copy(dataset, url)
    assert account.num_copied == account.num_files > 10
    check(fetched(url, tmp_path / "fetched"), dataset)
    again = publish_copy(dataset, url)
    assert (again.num_copied, again.num_removed) == (0, 0)


def test_an_interrupted_copy_continues(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: MemoryFileSystem
) -> None:
    put, lock, count = MemoryFileSystem.put_file, threading.Lock(), [0]
    names: list[str] = []
    limit = [0]

    def broken(self: MemoryFileSystem, source: str, target: str, **options: Any) -> None:
        with lock:
            count[0] += 1
            if count[0] > limit[0]:
                raise ConnectionError
        put(self, source, target, **options)
        names.append(target)

    monkeypatch.setattr(MemoryFileSystem, "put_file", broken)
    rounds = 0
    for _ in range(100):
        count[0], limit[0] = 0, 5
        with contextlib.suppress(ConnectionError):
            publish_copy(dataset, URL)
            break
        rounds += 1
        there = {path.removeprefix("/bucket/copy/") for path in bucket.find("/bucket/copy")}
        copy = fetched(URL, tmp_path / str(rounds))
        if "store/manifest.json" in there:
            TokenStore.open(copy / "store").verify()
        for name in SOURCES:
            if f"documents/{name}/manifest.json" in there:
                read_manifest(copy / "documents" / name)
    assert rounds >= 3
    assert len(names) == len(set(names)), "nothing is sent twice"
    check(fetched(URL, tmp_path / "whole"), dataset)


def test_a_changed_dataset_renews_its_copy(
    dataset: Path,
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bucket: MemoryFileSystem,
) -> None:
    publish_copy(dataset, URL)
    untouched = bucket.created("/bucket/copy/documents/b/documents-00000-000.parquet")
    (dataset / "report.json").write_text("REPORT.json")  # of the same size
    changed = [*SOURCES["a"][:10], "another text", *SOURCES["a"][11:]]
    build(dataset, tokenizer, {"a": changed, "b": SOURCES["b"]})
    (dataset / "documents" / "README.md").unlink()

    def cut(*arguments: object) -> None:
        raise OSError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", cut)
        with pytest.raises(OSError, match="the line is cut"):
            publish_copy(dataset, URL)
    # No manifest names files that are old, or gone.
    assert not bucket.exists("/bucket/copy/store/manifest.json")
    assert not bucket.exists("/bucket/copy/documents/a/manifest.json")
    assert bucket.exists("/bucket/copy/documents/b/manifest.json")
    account = publish_copy(dataset, URL)
    assert 0 < account.num_copied < account.num_files
    assert not bucket.exists("/bucket/copy/documents/README.md")
    assert bucket.created("/bucket/copy/documents/b/documents-00000-000.parquet") == untouched
    check(fetched(URL, tmp_path / "fetched"), dataset)


def test_what_is_not_copied(dataset: Path, tmp_path: Path, bucket: MemoryFileSystem) -> None:
    bucket.pipe_file("/bucket/copy/diary.txt", b"keep me")
    with pytest.raises(ValueError, match=r"holds something else \(diary.txt\)"):
        publish_copy(dataset, URL)
    assert bucket.cat_file("/bucket/copy/diary.txt") == b"keep me"
    with pytest.raises(ValueError, match="is not a finished dataset"):
        publish_copy(tmp_path / "nothing", "memory://bucket/other")
    next((dataset / "store").rglob("*.arrow")).unlink()
    with pytest.raises(ValueError, match="missing shard"):
        publish_copy(dataset, "memory://bucket/other")
    assert not bucket.exists("/bucket/other")
