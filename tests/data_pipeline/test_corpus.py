"""Corpora: what they state of their sources, more rules, and a user's own text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_pipeline.build.build_corpus import build_corpus
from data_pipeline.corpus import Corpus, Deduplication, text_corpus
from data_pipeline.documents_folder import load_documents
from data_pipeline.executors.local import Processes
from recipes.llama1_corpus import llama1_corpus


def test_what_is_stated_goes_with_the_sources(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path)
    assert corpus.shares_of(["text"]) is None
    with pytest.raises(ValueError, match="corpus a: shares are missing for text"):
        Corpus("a", corpus.sources, shares={"code": 1.0})
    with pytest.raises(ValueError, match="corpus a: epochs of text must be > 0"):
        Corpus("a", corpus.sources, epochs={"text": 0.0})
    llama = llama1_corpus(tmp_path)
    some = llama.only(["books", "c4"])
    assert [source.name for source, _ in some.sources] == ["books", "c4"]
    assert some.shares_of(["c4", "books"]) == {"c4": 0.15, "books": 0.045}
    assert some.source("c4")[1] == tmp_path / "c4"
    with pytest.raises(ValueError, match="unknown source wikipedia; the corpus has books, c4"):
        some.source("wikipedia")
    assert all(source.origin and source.terms for source, _ in llama.sources)


def test_equal_addresses_are_a_rule_where_addresses_name_pages(tmp_path: Path) -> None:
    (rule,) = Deduplication(same_url=True).rules(llama1_corpus(tmp_path))
    assert rule.sources == frozenset({"c4", "common_crawl"})
    with pytest.raises(ValueError, match=r"deduplication.same_url: no source .* identify pages"):
        Deduplication(same_url=True).rules(text_corpus(tmp_path))
    near, own = (
        Deduplication(near_duplicates=0.7).rules(text_corpus(tmp_path)),
        text_corpus(tmp_path),
    )
    assert [rule.name for rule in own.with_rules(near).rules] == ["duplicate", "near_duplicate"]


def test_text_corpus_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body": "one"}\n{"body": "two"}\n')
    corpus = text_corpus(path, text_field="body")
    manifests = build_corpus(corpus.sources, tmp_path / "out")
    assert manifests["text"].num_kept == 2
    with pytest.raises(ValueError, match="max_document_bytes"):
        text_corpus(path, max_document_bytes=3)


def test_samples_books_as_a_corpus(tmp_path: Path) -> None:
    samples = os.environ.get("LLAMA_DS_SAMPLES")
    if samples is None:
        pytest.skip("LLAMA_DS_SAMPLES is not set: no sample books")
    corpus = text_corpus(Path(samples, "raw", "books"))
    manifest = build_corpus(corpus.sources, tmp_path, executor=Processes(2))["text"]
    # 47 books, cut into pieces of 256 KiB; nothing in them is damaged.
    assert manifest.num_kept > 100
    assert set(manifest.dropped) <= {"duplicate"}
    texts = load_documents(tmp_path / "text")["text"]
    assert max(len(text.encode()) for text in texts) <= 256 * 1024
