"""Removal on request from a finished dataset: what goes, what stays untouched, and kills."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk

from data_pipeline.build.build_corpus import NO_REQUESTS, build_corpus
from data_pipeline.build.parts import PartSizes
from data_pipeline.build.removal_requests import RemovalRequests
from data_pipeline.commands.remove import RemoveDocuments
from data_pipeline.document import Source, content_id
from data_pipeline.documents_folder import load_documents, read_manifest
from data_pipeline.executors.local import Processes
from data_pipeline.removal.dataset import REQUESTS, remove
from data_pipeline.sources import folder
from data_pipeline.tokens.encoder import Encoder
from data_pipeline.tokens.provenance import document_at
from data_pipeline.tokens.store import SPLITS, TokenStore
from data_pipeline.tokens.store_building import build_store
from data_pipeline.tokens.tokenizer_folder import load_encoder
from data_pipeline.tokens.tokenizer_training import TokenizerConfig, train_tokenizer
from tests.support.tokenizer_texts import corpus, prose

TEXT = Source(
    "text", folder.inputs, partial(folder.read, text_field="text", max_document_bytes=1 << 20)
)
OTHER = replace(TEXT, name="other")
NUM_FILES, ROWS_PER_FILE = 3, 8
TEXTS = {
    name: [f"{text} é漢 {name} {n}" for n, text in enumerate(prose()[: NUM_FILES * ROWS_PER_FILE])]
    for name in ("text", "other")
}
ID = content_id(TEXTS["text"][3])
URL = f"https://example.org/text/{ROWS_PER_FILE + 1}"
REQUESTED = RemovalRequests(frozenset({ID}), frozenset({URL}), frozenset({"GPL-3.0-only"}))
# The whole last file of `text` has this license, and one document of another file.
COPYLEFT = {*range(2 * ROWS_PER_FILE, 3 * ROWS_PER_FILE), 5}
GONE = {3, ROWS_PER_FILE + 1} | COPYLEFT


def row(name: str, number: int) -> dict[str, str]:
    license = "GPL-3.0-only" if name == "text" and number in COPYLEFT else "MIT"
    text = TEXTS[name][number]
    return {"text": text, "url": f"https://example.org/{name}/{number}", "license": license}


def build(out: Path, raw: Path, requests: RemovalRequests = NO_REQUESTS) -> None:
    sources = [(source, raw / source.name) for source in (TEXT, OTHER)]
    sizes = PartSizes(input_bytes=1)
    build_corpus(sources, out / "documents", requests=requests, part_sizes=sizes)
    folders = {name: out / "documents" / name for name in TEXTS}
    build_store(
        out / "store",
        folders,
        raw / "tokenizer",
        holdout_share=0.2,
        executor=Processes(1),
        shard_bytes=1,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw/ and out/: two sources, each of three parts with one file per split."""
    path = tmp_path_factory.mktemp("built")
    for name in TEXTS:
        (path / "raw" / name).mkdir(parents=True)
        for file in range(NUM_FILES):
            numbers = range(file * ROWS_PER_FILE, (file + 1) * ROWS_PER_FILE)
            lines = "".join(json.dumps(row(name, number)) + "\n" for number in numbers)
            (path / "raw" / name / f"{file}.jsonl").write_text(lines)
    config = TokenizerConfig(vocab_size=400)
    train_tokenizer(corpus(prose()), path / "raw" / "tokenizer", config)
    build(path / "out", path / "raw")
    return path


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    """A copy with the hard links of a build."""
    subprocess.run(["cp", "-a", f"{built}/.", tmp_path], check=True)
    return tmp_path / "out"


def texts(out: Path, name: str) -> list[str]:
    paths = [
        out / "documents" / name / file.path
        for file in read_manifest(out / "documents" / name).files
    ]
    return [text for path in paths for text in pq.read_table(path)["text"].to_pylist()]


def contents(out: Path) -> dict[str, bytes]:
    """All that a reader sees."""
    paths = [
        p
        for name in ("documents/text", "documents/other", "store")
        for p in (out / name).rglob("*")
    ]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(paths) if p.is_file()}


def inodes(folder: Path) -> dict[str, int]:
    return {
        p.relative_to(folder).as_posix(): p.stat().st_ino
        for p in folder.rglob("*.*")
        if p.is_file()
    }


def test_requested_documents_are_gone_from_documents(dataset: Path) -> None:
    load_documents(dataset / "documents" / "text")  # leaves a mapped copy in the folder
    before = read_manifest(dataset / "documents" / "text")
    files = inodes(dataset / "documents")
    intermediate = {
        p: p.read_bytes() for p in dataset.glob("documents/.parts/**/*.*") if p.is_file()
    }
    account = remove(dataset, REQUESTED)
    assert account.sources["text"].documents == account.sources["text"].store_documents == len(GONE)
    assert account.sources["text"].document_files == 3
    assert list(account.sources) == ["text"]
    assert not account.not_found
    stays = [n for n in range(NUM_FILES * ROWS_PER_FILE) if n not in GONE]
    assert texts(dataset, "text") == [TEXTS["text"][n] for n in stays]
    assert list(load_documents(dataset / "documents" / "text")["text"]) == texts(dataset, "text")
    after = inodes(dataset / "documents")
    assert {name for name in files if files[name] == after.get(name)} >= {
        name for name in files if name.startswith(("other/", ".parts/"))
    }, "only affected files are rewritten"
    assert intermediate == {path: path.read_bytes() for path in intermediate}

    manifest = read_manifest(dataset / "documents" / "text")
    assert manifest.num_read == manifest.num_kept + sum(manifest.dropped.values())
    assert manifest.dropped == {"requested": len(GONE)}
    sizes = [len(text.encode()) for text in texts(dataset, "text")]
    assert manifest.num_text_bytes == sum(sizes)
    assert manifest.lengths == {
        str(k): n for k, n in sorted(Counter(s.bit_length() for s in sizes).items())
    }
    assert manifest.licenses == {"MIT": len(stays)}
    assert manifest.fingerprint != before.fingerprint
    ledger = pq.read_table(sorted((dataset / "documents" / "text").glob("dropped-*"))).to_pylist()
    assert {line["id"] for line in ledger} == {content_id(TEXTS["text"][n]) for n in GONE}
    assert {(line["stage"], line["reason"]) for line in ledger} == {("compare", "requested")}
    assert sum(line["num_bytes"] for line in ledger) == manifest.drops[0].text_bytes


def test_requested_documents_are_gone_from_the_store(dataset: Path) -> None:
    before = TokenStore.open(dataset / "store")
    tokens = {
        (name, split): before.stream(name, split)
        .window(0, before.stream(name, split).num_tokens)
        .copy()
        for name in TEXTS
        for split in SPLITS
    }
    files = inodes(dataset / "store")
    shards = set((dataset / ".shards" / "store").iterdir())
    remove(dataset, REQUESTED)
    store = TokenStore.open(dataset / "store")
    store.verify()
    gone = {content_id(TEXTS["text"][n]) for n in GONE}
    found: list[str] = []
    by_id = {content_id(text): text for text in TEXTS["text"]}
    encoder = load_encoder(store.tokenizer_dir)
    for split in SPLITS:
        stream = store.stream("text", split)
        rows = load_from_disk(dataset / "store" / "text" / split)
        found += rows["id"]
        flat = np.concatenate(rows["input_ids"])
        np.testing.assert_array_equal(stream.window(0, stream.num_tokens), flat)
        for first in stream.window_starts(0, stream.num_tokens).tolist():
            assert document_at(store, "text", split, first).id in rows["id"]
        entry = store.manifest.sources["text"][split]
        counts = (
            entry.num_documents,
            entry.num_tokens,
            entry.num_byte_tokens,
            entry.num_text_bytes,
        )
        assert counts == recounted(encoder, [by_id[name] for name in rows["id"]])
        assert entry.num_byte_tokens > 0
        other = store.stream("other", split)
        np.testing.assert_array_equal(other.window(0, other.num_tokens), tokens["other", split])
    assert sorted(found) == sorted(content_id(text) for text in texts(dataset, "text"))
    assert not gone & set(found)
    after = inodes(dataset / "store")
    assert {
        n: i for n, i in files.items() if n.startswith(("other/", "tokenizer/"))
    }.items() <= after.items()
    left = set((dataset / ".shards" / "store").iterdir())
    assert len(shards - left) == 3, "the shards of which the files were made go"


def recounted(encoder: Encoder, texts: list[str]) -> tuple[int, int, int, int]:
    """What a split's manifest says of documents with these texts."""
    encoded = encoder.encode(texts)
    size = sum(len(text.encode()) for text in texts)
    return len(texts), len(encoded.tokens), encoded.num_byte_tokens, size


def test_later_builds_leave_them_out_and_make_the_same_files(dataset: Path) -> None:
    remove(dataset, REQUESTED)
    removed = {n: b for n, b in contents(dataset).items() if "documents-" in n}
    assert RemovalRequests.load(dataset / REQUESTS) == REQUESTED
    build(dataset, dataset.parent / "raw", RemovalRequests.load(dataset / REQUESTS))
    assert {n: b for n, b in contents(dataset).items() if "documents-" in n} == removed
    assert read_manifest(dataset / "documents" / "text").dropped == {"requested": len(GONE)}
    # Without the file of requests they come back: no half-removed folder is taken for a build's.
    build(dataset, dataset.parent / "raw")
    assert texts(dataset, "text") == TEXTS["text"]
    assert TokenStore.open(dataset / "store").manifest.sources["text"]["train"].num_documents > 10


def test_every_count_is_that_of_a_build_without_these_documents(dataset: Path) -> None:
    """Also by license: those of another file have it, and one of it has gone before."""
    remove(dataset, RemovalRequests(ids=frozenset({content_id(TEXTS["text"][5])})))
    partly = read_manifest(dataset / "documents" / "text")
    assert partly.license_bytes["GPL-3.0-only"] == sum(
        len(TEXTS["text"][n].encode()) for n in COPYLEFT - {5}
    )
    remove(dataset, REQUESTED)
    removed = read_manifest(dataset / "documents" / "text")
    assert removed.license_bytes == {"MIT": removed.num_text_bytes}
    build(dataset, dataset.parent / "raw", RemovalRequests.load(dataset / REQUESTS))
    assert removed != read_manifest(dataset / "documents" / "text")
    built = replace(read_manifest(dataset / "documents" / "text"), fingerprint=removed.fingerprint)
    assert removed == built


def test_requested_documents_are_gone_from_the_samples(dataset: Path) -> None:
    def ids() -> list[str]:
        found = pq.read_table(dataset / "documents" / "text" / "samples.parquet")
        return [str(id) for id in found.column("id").to_pylist()]

    first, *others = ids()
    assert [first, *others] == sorted(map(content_id, TEXTS["text"]))[: 1 + len(others)]
    remove(dataset, RemovalRequests(ids=frozenset({first})))
    assert ids() == others


def test_requests_add_up_and_a_dry_run_changes_nothing(dataset: Path) -> None:
    before, files = contents(dataset), inodes(dataset)
    nowhere = RemovalRequests(urls=frozenset({"https://example.org/nowhere"}))
    account = remove(dataset, REQUESTED | nowhere, dry_run=True)
    assert account.sources["text"].documents == len(GONE)
    assert account.not_found == nowhere
    assert (contents(dataset), inodes(dataset)) == (before, files)
    remove(dataset, RemovalRequests(ids=frozenset({ID})))
    remove(dataset, RemovalRequests(urls=frozenset({URL})))
    stays = [text for n, text in enumerate(TEXTS["text"]) if n not in {3, ROWS_PER_FILE + 1}]
    assert texts(dataset, "text") == stays
    assert RemovalRequests.load(dataset / REQUESTS) == RemovalRequests(
        frozenset({ID}), frozenset({URL})
    )
    before, files = contents(dataset), inodes(dataset / "store")
    assert not remove(dataset, RemovalRequests(ids=frozenset({ID}))).sources
    assert (contents(dataset), inodes(dataset / "store")) == (before, files)


def test_a_source_may_lose_all_its_documents_but_not_the_store(dataset: Path) -> None:
    everything = frozenset(content_id(text) for name in TEXTS for text in TEXTS[name])
    with pytest.raises(ValueError, match="match every document"):
        remove(dataset, RemovalRequests(ids=everything))
    assert not (dataset / REQUESTS).exists()
    remove(dataset, RemovalRequests(ids=frozenset(map(content_id, TEXTS["other"]))))
    assert read_manifest(dataset / "documents" / "other").files == ()
    splits = TokenStore.open(dataset / "store").manifest.sources["other"]
    assert [splits[split].num_documents for split in SPLITS] == [0, 0]
    assert not list((dataset / "store").glob("other/*"))


CHANGES = frozenset({"open", "os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir"})


def killed_at(number: int, out: Path, events: frozenset[str]) -> bool:
    """Remove in a process that is killed before its `number`-th change of these kinds to the disk;
    False where it makes fewer."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def watch(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if name not in events:
                return
            if name == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                return
            count += 1
            if count > number:
                os._exit(9)

        try:
            sys.addaudithook(watch)
            remove(out, REQUESTED)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.slow
def test_a_removal_killed_anywhere_is_finished_by_the_next(built: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(built / "out", whole)
    before = contents(whole)
    remove(whole, REQUESTED)
    expected = contents(whole)
    states = set()

    def kill_and_repeat(number: int, events: frozenset[str]) -> bool:
        out = tmp_path / "killed"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(built / "out", out)
        killed = killed_at(number, out, events)
        found = contents(out)
        for name in ("documents/text", "documents/other", "store"):
            found_part, *versions = (
                {path: data for path, data in files.items() if path.startswith(name)}
                for files in (found, before, expected)
            )
            # Nothing: killed between the two renames; the next one brings it back.
            assert found_part in (*versions, {}), (number, name)
            states.add((name, [*versions, {}].index(found_part)))
        remove(out, REQUESTED)
        assert contents(out) == expected, number
        hidden = {path.name for folder in (out, out / "documents") for path in folder.glob(".*")}
        assert hidden == {".shards", ".parts", ".rules"}, number
        return killed

    # Every rename, for there one thing takes another's place; of the many other changes a few.
    for number in itertools.count():
        if not kill_and_repeat(number, frozenset({"os.rename"})):
            break
    for number in itertools.count(step=29):
        if not kill_and_repeat(number, CHANGES):
            break
    assert number > 30
    assert {("documents/text", n) for n in range(3)} | {("store", n) for n in range(3)} <= states


def test_command(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "asked.json").write_text(json.dumps({"urls": [URL]}))
    job = RemoveDocuments(
        dataset, ids=(ID, "f" * 32), requests=tmp_path / "asked.json", dry_run=True
    )
    said = job.run()
    assert "text: 2 documents in 2 files; in the store 2 in" in said
    assert f"not found: ids {'f' * 32}" in said
    assert "nothing was changed" in said
    assert "later builds honor them" in replace(job, dry_run=False).run()
    assert len(texts(dataset, "text")) == len(TEXTS["text"]) - 2
    with pytest.raises(ValueError, match="no file"):
        replace(job, requests=tmp_path / "none.json").run()
    (tmp_path / "asked.json").write_text('{"ids": "abc"}')
    with pytest.raises(ValueError, match="not a valid removal request file"):
        job.run()
    with pytest.raises(ValueError, match="nothing is requested"):
        RemoveDocuments(tmp_path).run()
    with pytest.raises(ValueError, match="holds no dataset"):
        RemoveDocuments(tmp_path, ids=(ID,)).run()
