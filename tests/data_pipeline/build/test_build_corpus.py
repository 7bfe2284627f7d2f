"""Building documents folders: counts, duplicates, reuse, equality over processes, bad input."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import xxhash

from data_pipeline.build.build_corpus import (
    DISTINCT_TEXTS,
    BuildError,
    build_corpus,
    build_documents,
)
from data_pipeline.build.fingerprint import describe
from data_pipeline.build.parts import PartSizes
from data_pipeline.dedup.rule import Comparison, Removals, Rule, removals
from data_pipeline.document import (
    SCHEMA,
    Document,
    Rejected,
    Source,
    WorkFolderError,
    content_id,
)
from data_pipeline.documents_folder import load_documents, read_manifest
from data_pipeline.executors.local import Processes
from data_pipeline.files.inputs import InputFile
from data_pipeline.filters import heuristics as filters
from data_pipeline.sources import folder
from tests.support.text_source import TEXT, checksums, many_files

ONE_FILE_PARTS = PartSizes(input_bytes=1)


def upper(document: Document) -> Document:
    return document.with_text(document.text.upper())


def disk_full(document: Document) -> Document:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    root.mkdir()
    (root / "a.txt").write_text("first text\n")
    (root / "b.txt").write_text("  \n ")
    (root / "c.txt").write_text("second")
    (root / "copy.md").write_text("first text")
    (root / "damaged.jsonl.gz").write_bytes(b"no gzip")
    (root / "e.jsonl").write_text('{"text": "third"}\n{"text": \n{"text": "second"}\n')
    (root / "f.bin").write_bytes(b"\0\0")
    (root / "short.txt").write_text("no")
    (root / "zeros.txt").write_bytes(b"\0\0")
    return root


def test_every_document_is_accounted_for(raw: Path, tmp_path: Path) -> None:
    manifest = build_documents(TEXT, raw, tmp_path / "out")
    assert manifest.dropped == {
        "bad_json": 1,
        "binary": 1,
        "damaged": 1,
        "duplicate": 2,
        "empty": 1,
        "too_short": 1,
    }
    assert (manifest.num_read, manifest.num_kept) == (10, 3)
    assert manifest.num_read == manifest.num_kept + sum(manifest.dropped.values())
    assert manifest.ignored == {"unknown_kind": 1}
    assert manifest.num_text_bytes == len("first text" + "second" + "third")
    assert manifest == read_manifest(tmp_path / "out")

    dropped = pq.read_table(tmp_path / "out" / "dropped-00000.parquet").to_pylist()
    places = {(row["reason"], row["source_file"], row["offset"]) for row in dropped}
    assert ("duplicate", "copy.md", 0) in places
    assert ("duplicate", "e.jsonl", 3) in places
    assert ("bad_json", "e.jsonl", 2) in places
    assert {r["id"] for r in dropped if r["source_file"] == "copy.md"} == {content_id("first text")}
    ignored = pq.read_table(tmp_path / "out" / "ignored.parquet").to_pylist()
    assert ignored == [{"source_file": "f.bin", "reason": "unknown_kind", "advice": None}]


def test_documents_load(raw: Path, tmp_path: Path) -> None:
    build_documents(TEXT, raw, tmp_path / "out")
    dataset = load_documents(tmp_path / "out")
    assert dataset["text"][:] == ["first text", "second", "third"]
    assert dataset["id"][:] == [content_id(text) for text in dataset["text"]]
    assert dataset["source_file"][:] == ["a.txt", "c.txt", "e.jsonl"]
    assert dataset["offset"][:] == [0, 0, 1]
    assert all(len(file["filename"]) > 0 for file in dataset.cache_files)
    assert all(Path(f["filename"]).is_relative_to(tmp_path / "out") for f in dataset.cache_files)


def test_same_bytes_for_any_number_of_processes(tmp_path: Path) -> None:
    root = many_files(tmp_path / "raw")
    results = []
    for jobs in (1, 2, 3):
        manifest = build_documents(TEXT, root, tmp_path / f"out{jobs}", executor=Processes(jobs))
        assert len(manifest.files) > 2
        assert manifest.dropped["duplicate"] > 0
        results.append(checksums(tmp_path / f"out{jobs}"))
    assert results[0] == results[1] == results[2]
    assert len(set(load_documents(tmp_path / "out1")["id"])) == manifest.num_kept


def test_a_text_stays_in_the_first_source_that_has_it(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("second")
    (tmp_path / "other" / "y.txt").write_text("only here")
    sources = [(TEXT, raw), (replace(TEXT, name="other"), tmp_path / "other")]
    manifests = build_corpus(sources, tmp_path / "out")
    assert manifests["text"].num_kept == 3
    assert manifests["other"].dropped == {"duplicate": 1}
    assert load_documents(tmp_path / "out" / "other")["text"][:] == ["only here"]
    manifests = build_corpus(sources[::-1], tmp_path / "reverse")
    assert manifests["other"].num_kept == 2
    assert manifests["text"].dropped["duplicate"] == 3
    with pytest.raises(ValueError, match="must differ"):
        build_corpus([(TEXT, raw), (TEXT, raw)], tmp_path / "out")


def test_finished_folder_is_reused(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build_documents(TEXT, raw, out)
    time_of = (out / "manifest.json").stat().st_mtime_ns
    assert build_documents(TEXT, raw, out, executor=Processes(2)) == first
    assert (out / "manifest.json").stat().st_mtime_ns == time_of


def change_threshold(raw: Path, out: Path) -> Source:
    return replace(TEXT, filters=(partial(filters.too_short, min_characters=4),))


def change_edits(raw: Path, out: Path) -> Source:
    return replace(TEXT, edits=(upper,))


def change_reader(raw: Path, out: Path) -> Source:
    return replace(TEXT, read=partial(folder.read, text_field="body", max_document_bytes=1000))


def change_input(raw: Path, out: Path) -> Source:
    (raw / "a.txt").write_text("other text\n")
    return TEXT


def add_input(raw: Path, out: Path) -> Source:
    (raw / "new.txt").write_text("new text\n")
    return TEXT


def damage_shard(raw: Path, out: Path) -> Source:
    shard = out / "documents-00000-000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    return TEXT


def damage_manifest(raw: Path, out: Path) -> Source:
    (out / "manifest.json").write_text('{"version": 1, "files"')
    return TEXT


def remove_shard(raw: Path, out: Path) -> Source:
    (out / "documents-00000-000.parquet").unlink()
    return TEXT


@pytest.mark.parametrize(
    "change",
    [
        change_threshold,
        change_edits,
        change_reader,
        change_input,
        add_input,
        damage_shard,
        damage_manifest,
        remove_shard,
    ],
)
def test_anything_else_is_rebuilt(
    raw: Path, tmp_path: Path, change: Callable[[Path, Path], Source]
) -> None:
    out = tmp_path / "out"
    build_documents(TEXT, raw, out)
    (out / "mark").touch()
    build_documents(change(raw, out), raw, out)
    assert not (out / "mark").exists()
    read_manifest(out)


def test_truncated_shard_is_named(raw: Path, tmp_path: Path) -> None:
    build_documents(TEXT, raw, tmp_path / "out")
    damage_shard(raw, tmp_path / "out")
    with pytest.raises(ValueError, match=r"documents-00000-000.parquet is truncated to \d+ bytes"):
        load_documents(tmp_path / "out")
    with pytest.raises(ValueError, match=r"is not a documents folder: manifest\.json is missing"):
        load_documents(tmp_path / "missing")
    fields = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({**fields, "version": 99}))
    with pytest.raises(ValueError, match="has version 99, but this version reads only 6"):
        read_manifest(tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has nothing that source 'text' reads: 0 ignored"),
        ({"a.bin": "x"}, "1 unknown_kind ignored"),
        ({"a.txt": " \n"}, r"no document of .* was kept: 1 empty \(first: a.txt: empty\)"),
        ({"a.jsonl": '{"b": 1}'}, r"1 no_text_field \(first: a.jsonl: line 1 has no field 'text'"),
    ],
)
def test_nothing_to_read_is_one_clear_line(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    for name, text in files.items():
        (root / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        build_documents(TEXT, root, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_refused_arguments(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"jobs \(0\)"):
        build_documents(TEXT, raw, tmp_path / "out", executor=Processes(0))
    with pytest.raises(ValueError, match="lies inside the corpus"):
        build_documents(TEXT, raw, raw / "out")
    for function in (lambda text: text, str.strip):
        with pytest.raises(ValueError, match="module-level"):
            describe(function)


@pytest.mark.parametrize("jobs", [1, 2])
def test_full_disk_leaves_nothing(tmp_path: Path, jobs: int) -> None:
    root = many_files(tmp_path / "raw")
    with pytest.raises(OSError, match="No space left") as caught:
        build_documents(
            replace(TEXT, edits=(disk_full,)), root, tmp_path / "out", executor=Processes(jobs)
        )
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "out").exists()
    # Hidden: the folder of a process that the error of another one has not reached yet.
    assert not list(tmp_path.glob(".parts/out/*/[!.]*"))


def test_long_documents_are_written_in_small_batches(tmp_path: Path) -> None:
    raw, sizes = many_files(tmp_path / "raw", num_bytes=1 << 20), PartSizes(batch_bytes=10_000)
    build_documents(TEXT, raw, tmp_path / "out", part_sizes=sizes)
    parquet = pq.ParquetFile(tmp_path / "out" / "documents-00000-000.parquet")
    assert parquet.num_row_groups > 10


def fail_on_second(document: Document) -> Document:
    if document.text == "second":
        raise KeyError("no such thing")
    return document


def test_a_failing_function_is_named_and_costs_its_part_only(raw: Path, tmp_path: Path) -> None:
    failing = replace(TEXT, edits=(fail_on_second,))
    with pytest.raises(BuildError, match=r"failed on 2 of 8 groups.*The first is c.txt") as caught:
        build_documents(failing, raw, tmp_path / "out", part_sizes=ONE_FILE_PARTS)
    assert "KeyError: 'no such thing'" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".parts/out/*/*/sizes.json"))) == 6


def test_only_what_a_change_affects_is_made_again(raw: Path, tmp_path: Path) -> None:
    build_documents(TEXT, raw, tmp_path / "out", part_sizes=ONE_FILE_PARTS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".parts/out/*/*")}
    (raw / "a.txt").write_text("another first text")
    (raw / "short.txt").unlink()
    build_documents(TEXT, raw, tmp_path / "out", part_sizes=ONE_FILE_PARTS)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".parts/out/*/*")}
    assert len(before) == 8
    assert len(set(after) - set(before)) == 1
    assert after | before == after


def one_letter(text: str) -> str:
    return text[:1]


def test_a_source_says_which_texts_are_the_same(raw: Path, tmp_path: Path) -> None:
    manifest = build_documents(replace(TEXT, same_text=one_letter), raw, tmp_path / "out")
    (raw / "z.txt").write_text("feature")
    build_documents(replace(TEXT, same_text=one_letter), raw, tmp_path / "out")
    assert manifest.num_kept == 3
    assert load_documents(tmp_path / "out")["text"][:] == ["first text", "second", "third"]


def all_but_the_first(comparison: Comparison) -> Removals:
    pairs = zip(comparison.files, comparison.bounds(), strict=False)
    numbers = [int(row) + first for file, first in pairs for row in file.kept_rows()]
    return removals([(other, numbers[0], 0.5) for other in numbers[1:]])


ONE_STAYS = (*DISTINCT_TEXTS, Rule("one_stays", all_but_the_first))


@pytest.mark.parametrize("part_bytes", [1, 1000])
def test_a_rule_removes_with_the_one_that_stays(raw: Path, tmp_path: Path, part_bytes: int) -> None:
    sizes = PartSizes(input_bytes=part_bytes)
    plain = build_documents(TEXT, raw, tmp_path / "out", part_sizes=sizes)
    manifest = build_documents(TEXT, raw, tmp_path / "out", rules=ONE_STAYS, part_sizes=sizes)
    assert manifest.dropped == {**plain.dropped, "one_stays": 2}
    assert (manifest.num_read, manifest.num_kept) == (plain.num_read, 1)
    assert manifest.num_text_bytes == len("first text")
    assert manifest == read_manifest(tmp_path / "out")
    assert load_documents(tmp_path / "out")["text"][:] == ["first text"]
    rows = [
        row for p in (tmp_path / "out").glob("dropped-*") for row in pq.read_table(p).to_pylist()
    ]
    assert len(rows) == sum(manifest.dropped.values())
    (second,) = [r for r in rows if r["id"] == content_id("second") and r["reason"] == "one_stays"]
    assert second["stage"] == "compare"
    assert (second["kept_source"], second["kept_id"]) == ("text", content_id("first text"))
    assert (second["similarity"], second["num_bytes"]) == (0.5, len("second"))


def test_a_large_part_has_several_files(raw: Path, tmp_path: Path) -> None:
    build_documents(TEXT, raw, tmp_path / "out")  # a part of other sizes is not reused
    sizes = PartSizes(shard_text_bytes=12)
    manifest = build_documents(TEXT, raw, tmp_path / "out", part_sizes=sizes)
    assert [file.path for file in manifest.files] == [
        "documents-00000-000.parquet",
        "documents-00000-001.parquet",
    ]
    assert load_documents(tmp_path / "out")["text"][:] == ["first text", "second", "third"]


def test_every_input_file_is_listed(raw: Path, tmp_path: Path) -> None:
    manifest = build_documents(TEXT, raw, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "inputs.parquet").to_pylist()
    assert [row["source_file"] for row in rows] == sorted(
        path.name for path in raw.iterdir() if path.name != "f.bin"
    )
    assert sum(row["num_read"] for row in rows) == manifest.num_read
    duplicates = manifest.dropped["duplicate"]
    assert sum(row["num_dropped"] for row in rows) + duplicates == sum(manifest.dropped.values())
    assert rows[0] == {
        "source_file": "a.txt",
        "bytes": 11,
        "xxh3_64": xxhash.xxh3_64_hexdigest(b"first text\n"),
        "num_read": 1,
        "num_dropped": 0,
        "num_text_bytes": 11,
        "num_paragraphs_removed": 0,
        "num_paragraph_characters_removed": 0,
    }


def test_document_row_is_the_schema() -> None:
    row = Document("é", "a.txt").row("books")
    assert list(row) == SCHEMA.names
    # xxhash of the two bytes C3 A9; a change would orphan every stored document.
    assert row["id"] == content_id("é")
    assert len(str(row["id"])) == 32


def fail_on_c(file: InputFile) -> Iterator[Document | Rejected]:
    yield from TEXT.read(file)
    if file.source_file == "c.txt":
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a fault of ours\nin two lines")


def no_room(file: InputFile) -> Iterator[Document | Rejected]:
    yield from ()
    raise WorkFolderError("no room")


def test_a_failing_reader_costs_the_rest_of_its_file_and_not_the_build(
    raw: Path, tmp_path: Path
) -> None:
    manifest = build_documents(replace(TEXT, read=fail_on_c), raw, tmp_path / "out")
    whole = build_documents(TEXT, raw, tmp_path / "whole")
    assert manifest.num_kept == whole.num_kept
    assert manifest.dropped == {**whole.dropped, "reader_failed": 1}
    ledger = pq.read_table(next((tmp_path / "out").glob("dropped-*.parquet"))).to_pylist()
    (row,) = [row for row in ledger if row["reason"] == "reader_failed"]
    assert row["source_file"] == "c.txt"
    assert row["detail"].startswith("UnicodeDecodeError: ")
    assert "\n" not in row["detail"]


def test_a_fault_of_the_machine_is_no_drop(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no room"):
        build_documents(replace(TEXT, read=no_room), raw, tmp_path / "out")
