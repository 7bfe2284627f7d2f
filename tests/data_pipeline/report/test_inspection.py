"""Looking up dropped documents in the raw files, and the account of a build."""

from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest

from data_pipeline.build.build_corpus import build_documents
from data_pipeline.document import Document, Rejected, Source
from data_pipeline.documents_folder import DROPPED_SCHEMA
from data_pipeline.filters import heuristics as filters
from data_pipeline.report import table as report
from data_pipeline.report.inspection import Drop, RawDocuments, difference, drops, kept, steps
from data_pipeline.sources import folder


def without_b(document: Document) -> Document | Rejected:
    if document.text == "b":
        return document.rejected("only_b", "nothing else")
    return document.with_text(document.text.replace("b", ""))


def shout(document: Document) -> Document:
    return document.with_text(document.text.upper())


SOURCE = Source(
    name="text",
    inputs=folder.inputs,
    read=partial(folder.read, text_field="text", max_document_bytes=1000),
    edits=(without_b, shout),
    filters=(partial(filters.too_short, min_characters=3),),
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    root.mkdir()
    lines = ['{"text": "abc abc"}', '{"text": "b"}', "{", '{"text": "ab"}', '{"text": "abc abc"}']
    (root / "a.jsonl").write_text("\n".join(lines))
    (root / "c.txt").write_text("b")
    return root


def test_drops_are_found_again_in_the_raw_files(raw: Path, tmp_path: Path) -> None:
    build_documents(SOURCE, raw, tmp_path / "out")
    found = list(drops(tmp_path / "out", None))
    assert [(drop.reason, drop.source_file, drop.offset) for drop in found] == [
        ("only_b", "a.jsonl", 2),
        ("bad_json", "a.jsonl", 3),
        ("too_short", "a.jsonl", 4),
        ("only_b", "c.txt", 0),
        ("duplicate", "a.jsonl", 5),
    ]
    raw_documents = RawDocuments(SOURCE, raw)
    texts = []
    for drop in found:
        item = raw_documents.at(drop.source_file, drop.offset)
        texts.append(item.text if isinstance(item, Document) else item)
    assert texts[0] == "b"
    assert isinstance(texts[1], Rejected)
    assert texts[2:] == ["ab", "b", "abc abc"]
    assert [drop.source_file for drop in drops(tmp_path / "out", "only_b")] == ["a.jsonl", "c.txt"]
    assert list(kept(tmp_path / "out")) == [("a.jsonl", 1)]
    with pytest.raises(ValueError, match="no drop reason long; it dropped: bad_json, duplicate"):
        next(drops(tmp_path / "out", "long"))


def test_a_place_that_has_gone_is_none(raw: Path) -> None:
    raw_documents = RawDocuments(SOURCE, raw)
    assert raw_documents.at("gone.txt", 0) is None
    assert raw_documents.at("a.jsonl", 99) is None
    last, first = raw_documents.at("a.jsonl", 5), raw_documents.at("a.jsonl", 1)
    assert isinstance(last, Document)
    assert isinstance(first, Document)
    assert (last.text, first.text, first.offset) == ("abc abc", "abc abc", 1)


@pytest.mark.parametrize(
    ("text", "edits", "reason"),
    [
        ("abc abc", [("without_b", "ac ac"), ("shout", "AC AC")], None),
        ("b", [], "only_b"),
        ("ab", [("without_b", "a"), ("shout", "A")], "too_short"),
        ("bb", [("without_b", ""), ("shout", "")], "empty"),
    ],
)
def test_steps_say_what_each_edit_did(
    text: str, edits: list[tuple[str, str]], reason: str | None
) -> None:
    done, found = steps(SOURCE, Document(text, "a.txt"))
    assert [(step.edit, step.after) for step in done] == edits
    assert found == reason


def test_a_difference_shows_changed_lines() -> None:
    text = "one\ntwo\nthree\nfour\nb five\n"
    (step, *_), _ = steps(replace(SOURCE, filters=()), Document(text, "a.txt"))
    assert difference(step, max_lines=10) == "@@ -4,2 +4,2 @@\n four\n-b five\n+ five"
    assert difference(step, max_lines=2) == "@@ -4,2 +4,2 @@\n four\n... 2 more lines"


def test_the_table_adds_up(raw: Path, tmp_path: Path) -> None:
    (raw / "x.bin").write_bytes(b"")
    manifest = build_documents(SOURCE, raw, tmp_path / "out")
    text = report.table({"text": manifest}, ["a step"])
    assert [line.split() for line in text.splitlines()][:6] == [
        ["source", "files", "MB", "ignored", "read", "kept", "text", "MB"],
        ["text", "2", "0.0", "1", "6", "1", "0.0"],
        ["-", "bad_json", "1"],
        ["-", "duplicate", "1"],
        ["-", "only_b", "2"],
        ["-", "too_short", "1"],
    ]
    assert "left out: a step" in text


def test_a_drop_has_the_columns_of_its_table() -> None:
    assert [field.name for field in fields(Drop)] == DROPPED_SCHEMA.names
