"""Rules that compare documents: which of equals stays, across sources, undone, on request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.build import parts
from data_pipeline.build.build_corpus import (
    CLUSTERS,
    DISTINCT_TEXTS,
    NO_REQUESTS,
    RULES,
    build_corpus,
)
from data_pipeline.build.duplicate_samples import load_clusters
from data_pipeline.build.removal_requests import RemovalRequests
from data_pipeline.dedup import exact
from data_pipeline.dedup.exact import same_text, same_url
from data_pipeline.dedup.keys import KEYS_DTYPE, key_of
from data_pipeline.dedup.rule import Comparison, DocumentFile, Rule, removals
from data_pipeline.document import Document, Source, content_id
from data_pipeline.documents_folder import load_documents, read_manifest
from data_pipeline.executors.local import Processes
from data_pipeline.sources import folder

TEXT = Source(
    "text", folder.inputs, partial(folder.read, text_field="text", max_document_bytes=1000)
)


def lower_case(text: str) -> str:
    return text.lower()


PAGES = replace(TEXT, name="pages", same_url=lower_case)


# -- which of equals stays ------------------------------------------------------------------------


def compared(
    path: Path,
    documents: Sequence[tuple[int, Document]],
    *,
    memory_budget: int = 1 << 30,
    source: Source = TEXT,
    rule: Any = same_text,
) -> list[tuple[int, int]]:
    """(removed, kept) of documents, each with the place of its source; one file for each."""
    files = []
    for number, (place, document) in enumerate(documents):
        keys = path / f"{number}.npy"
        np.save(keys, np.array([key_of(document, source)], KEYS_DTYPE))
        files.append(DocumentFile(path / "unused", 1, keys=keys, source=place))
    work = path / "work"
    work.mkdir(exist_ok=True)
    found = rule(Comparison(files, Processes(1), memory_budget, work))
    assert (found["similarity"] == 1).all()
    return [(gone, kept) for gone, kept, _ in found.tolist()]


SAME = Document("a text", "f")


@pytest.mark.parametrize(
    ("documents", "kept"),
    [
        ([(0, SAME), (0, SAME)], 0),
        # The source that comes first, then quality, then time.
        ([(1, replace(SAME, perplexity=1.0)), (0, SAME)], 1),
        ([(0, SAME), (0, replace(SAME, perplexity=300.0))], 1),
        ([(0, replace(SAME, perplexity=300.0)), (0, replace(SAME, perplexity=20.0))], 1),
        ([(0, replace(SAME, reference_score=0.3)), (0, replace(SAME, reference_score=0.4))], 1),
        ([(0, SAME), (0, replace(SAME, timestamp="2020"))], 1),
        (
            [(0, replace(SAME, timestamp="2020-05-02")), (0, replace(SAME, timestamp="2019-12"))],
            1,
        ),
        (
            [
                (0, replace(SAME, timestamp="2019", perplexity=300.0)),
                (0, replace(SAME, timestamp="2020", perplexity=200.0)),
            ],
            1,
        ),
    ],
)
def test_the_preferred_document_stays(
    tmp_path: Path, documents: list[tuple[int, Document]], kept: int
) -> None:
    assert compared(tmp_path, documents) == [(1 - kept, kept)]


def test_equal_addresses(tmp_path: Path) -> None:
    urls = ["http://a/x", None, "HTTP://A/X", "http://a/y", None]
    documents = [(0, Document(f"text {n}", "f", url=url)) for n, url in enumerate(urls)]
    (pair,) = compared(tmp_path, documents, source=PAGES, rule=same_url)
    # Their texts differ; the one with the smaller id stays.
    assert set(pair) == {0, 2}
    assert pair[1] == min((0, 2), key=lambda n: content_id(f"text {n}"))
    assert compared(tmp_path, documents, source=TEXT, rule=same_url) == []


@given(letters=st.lists(st.sampled_from("abcdefgh"), max_size=40), budget=st.integers(300, 20_000))
@settings(deadline=None)
def test_buckets_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, letters: list[str], budget: int
) -> None:
    """Against a dictionary, whatever the memory allows."""
    path = tmp_path_factory.mktemp("keys")
    first: dict[str, int] = {}
    expected = []
    for number, letter in enumerate(letters):
        if letter in first:
            expected.append((number, first[letter]))
        first.setdefault(letter, number)
    documents = [(0, Document(letter, "f")) for letter in letters]
    assert compared(path, documents, memory_budget=budget) == expected


def test_buckets_for_many_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_DOCUMENTS_PER_TASK", 7)
    documents = [(0, Document(f"text {number % 60}", "f")) for number in range(100)]
    expected = [(number, number - 60) for number in range(60, 100)]
    assert compared(tmp_path, documents, memory_budget=4_000) == expected


def test_tasks_that_sort_keep_to_the_memory_budget(tmp_path: Path) -> None:
    files = [DocumentFile(tmp_path / "unused", 10) for _ in range(20)]
    a_document = exact._BYTES_PER_DOCUMENT
    for num_documents, num_tasks in ((5, 20), (35, 7), (1_000, 1)):
        budget = num_documents * a_document
        tasks = exact._scatter_tasks(Comparison(files, Processes(1), budget, tmp_path))
        assert len(tasks) == num_tasks
        assert sum(len(task.files) for task in tasks) == len(files)


# -- builds ---------------------------------------------------------------------------------------


def written(root: Path, *rows: dict[str, str]) -> Path:
    root.mkdir(exist_ok=True)
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def texts(out: Path, name: str) -> list[str]:
    return list(load_documents(out / name)["text"])


def ledger(out: Path, name: str) -> list[dict[str, Any]]:
    paths = sorted((out / name).glob("dropped-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def count_words(comparison: Comparison, *, calls: str) -> Any:
    """Removes documents of as many words as another has; notes that it was asked."""
    with open(calls, "a") as log:
        log.write("x")
    first: dict[int, int] = {}
    found = []
    start = 0
    for file in comparison.files:
        column = pq.read_table(file.path)["text"].to_pylist()
        for row in file.kept_rows().tolist():
            size = len(column[row].split())
            if size in first:
                found.append((start + row, first[size], 0.5))
            first.setdefault(size, start + row)
        start += file.num_rows
    return removals(found)


@pytest.fixture
def corpus(tmp_path: Path) -> list[tuple[Source, Path]]:
    first = written(tmp_path / "a", {"text": "one"}, {"text": "one two"}, {"text": "a b c"})
    second = written(tmp_path / "b", {"text": "one two"}, {"text": "new"}, {"text": "w x y z"})
    return [(TEXT, first), (replace(TEXT, name="other"), second)]


def test_a_rule_across_sources_is_undone_without_running_again(
    tmp_path: Path, corpus: list[tuple[Source, Path]]
) -> None:
    calls = tmp_path / "calls"
    rules = (*DISTINCT_TEXTS, Rule("same_length", partial(count_words, calls=str(calls))))
    out = tmp_path / "out"
    manifests = build_corpus(corpus, out, rules=rules)
    assert texts(out, "text") == ["one", "one two", "a b c"]
    assert texts(out, "other") == ["w x y z"]
    assert manifests["other"].dropped == {"duplicate": 1, "same_length": 1}
    by_reason = {row["reason"]: row for row in ledger(out, "other")}
    assert by_reason["duplicate"]["kept_id"] == content_id("one two")
    assert by_reason["duplicate"]["similarity"] == 1
    assert by_reason["same_length"]["kept_id"] == content_id("one")
    assert by_reason["same_length"]["kept_source"] == "text"

    build_corpus(corpus, out, rules=rules, undone=["same_length"])
    assert texts(out, "other") == ["new", "w x y z"]
    build_corpus(corpus, out, rules=rules, undone=["duplicate"])
    # What the other rule removed, it removed among distinct texts.
    assert texts(out, "other") == ["one two", "w x y z"]
    assert build_corpus(corpus, out, rules=rules) == manifests
    assert calls.read_text() == "x"
    with pytest.raises(ValueError, match=r"nonsense is not a rule of .* duplicate, same_length"):
        build_corpus(corpus, out, rules=rules, undone=["nonsense"])


def test_a_rule_may_be_for_some_sources_or_within_each(
    tmp_path: Path, corpus: list[tuple[Source, Path]]
) -> None:
    rule = Rule("same_length", partial(count_words, calls=str(tmp_path / "calls")))
    some = replace(rule, sources=frozenset({"other"}))
    written(tmp_path / "a", {"text": "one"}, {"text": "two"})
    for rules, expected in (
        ([some], (["one", "two"], ["one two", "new", "w x y z"])),
        ([replace(rule, within_source=True)], (["one"], ["one two", "new", "w x y z"])),
        ([rule], (["one"], ["one two", "w x y z"])),
    ):
        build_corpus(corpus, tmp_path / "out", rules=rules)
        assert tuple(texts(tmp_path / "out", name) for name in ("text", "other")) == expected


def test_what_is_requested_goes(tmp_path: Path, corpus: list[tuple[Source, Path]]) -> None:
    out = tmp_path / "out"
    requests = RemovalRequests(ids=frozenset({content_id("one"), content_id("new")}))
    manifests = build_corpus(corpus, out, requests=requests)
    assert texts(out, "text") == ["one two", "a b c"]
    assert manifests["other"].dropped == {"duplicate": 1, "requested": 1}
    untouched = (out / "text" / "documents-00000-000.parquet").stat().st_ino
    build_corpus(corpus, out)
    assert texts(out, "text") == ["one", "one two", "a b c"]
    assert (out / "text" / "documents-00000-000.parquet").stat().st_ino != untouched


def starts_with_b(document: Document) -> str | None:
    return "starts with b" if document.text.startswith("b") else None


def test_what_is_requested_is_not_shown(tmp_path: Path) -> None:
    rows = [{"text": text, "license": text[0]} for text in ("a1", "a1", "c1", "c1", "b1", "b2")]
    root, out = written(tmp_path / "raw", *rows), tmp_path / "out"
    source = replace(TEXT, filters=(starts_with_b,))

    def shown(requests: RemovalRequests) -> tuple[set[str], set[str]]:
        build_corpus([(source, root)], out, requests=requests)
        examples = pq.read_table(out / "text" / "examples.parquet")["text"].to_pylist()
        clusters = load_clusters(out / RULES / CLUSTERS)
        return {cluster.kept.text for cluster in clusters}, set(examples)

    assert shown(NO_REQUESTS) == ({"a1", "c1"}, {"b1", "b2"})
    assert shown(RemovalRequests(ids=frozenset({content_id("b1")}))) == ({"a1", "c1"}, {"b2"})
    assert shown(RemovalRequests(licenses=frozenset("a"))) == ({"c1"}, {"b1", "b2"})


def test_requests_by_address_and_license(tmp_path: Path) -> None:
    requests = RemovalRequests(urls=frozenset({"u"}), licenses=frozenset({"MIT"}))
    table = pa.table({"id": ["1", "2", "3"], "url": ["u", None, "v"], "license": [None, "MIT", ""]})
    assert requests.rows(table).tolist() == [True, True, False]
    requests.save(tmp_path / "requests.json")
    assert RemovalRequests.load(tmp_path / "requests.json") == requests
    assert not RemovalRequests.load(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text('{"names": []}')
    with pytest.raises(ValueError, match="not a valid removal request file"):
        RemovalRequests.load(tmp_path / "bad.json")


def test_results_are_the_same_for_any_number_of_processes(
    tmp_path: Path, corpus: list[tuple[Source, Path]]
) -> None:
    rules = (
        *DISTINCT_TEXTS,
        Rule("same_length", partial(count_words, calls=str(tmp_path / "calls"))),
    )
    for jobs in (1, 2):
        build_corpus(corpus, tmp_path / f"out{jobs}", rules=rules, executor=Processes(jobs))
    files = [
        {p.relative_to(out): p.read_bytes() for p in sorted(out.glob("*/*")) if p.is_file()}
        for out in (tmp_path / "out1", tmp_path / "out2")
    ]
    assert files[0] == files[1]
    assert len(files[0]) > 8


def test_repeated_paragraphs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_PART_INPUT_BYTES", 1)
    (tmp_path / "a").mkdir()
    pages = {
        "1.txt": "Home, Menu\nfirst page",
        "2.txt": "HOME menu\nsecond page",
        "3.txt": "home menu!",
        "4.txt": "third page\nHome Menu",
    }
    for name, text in pages.items():
        (tmp_path / "a" / name).write_text(text)
    size = sum(len(text) for text in pages.values())

    def built(max_bytes: int | None, jobs: int = 1, **options: Any) -> list[str]:
        source = replace(TEXT, paragraph_group_bytes=max_bytes)
        sources = [(source, tmp_path / "a")]
        build_corpus(sources, tmp_path / "out", executor=Processes(jobs), **options)
        assert not (tmp_path / "out" / ".parts" / "text" / "marked").exists()
        return texts(tmp_path / "out", "text")

    expected = ["Home, Menu\nfirst page", "second page", "third page"]
    assert built(size) == expected
    manifest = read_manifest(tmp_path / "out" / "text")
    assert manifest.num_paragraphs_removed == 3
    assert manifest.num_paragraph_characters_removed == 3 * len("home menu\n")
    assert manifest.dropped == {"duplicate_paragraphs": 1}
    assert built(size, jobs=2) == expected
    # Two files to a group.
    assert built(42) == ["Home, Menu\nfirst page", "second page", "home menu!", "third page"]
    assert built(None) == list(pages.values())
    assert built(size, undone=["repeated_paragraphs"]) == list(pages.values())
    assert built(size) == expected


def test_examples_of_what_was_dropped(tmp_path: Path) -> None:
    root = written(tmp_path / "a", *({"text": " " * n} for n in range(1, 30)), {"text": "kept"})
    build_corpus([(TEXT, root)], tmp_path / "out")
    examples = pq.read_table(tmp_path / "out" / "text" / "examples.parquet").to_pylist()
    assert {row["reason"] for row in examples} == {"empty"}
    assert 0 < len(examples) <= 8
    assert all(row["text"].isspace() and row["source_file"] == "rows.jsonl" for row in examples)
