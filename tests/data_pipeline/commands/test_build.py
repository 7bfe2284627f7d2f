"""The dataset job as people start it: account, inspection, training, refusals."""

from __future__ import annotations

import gzip
import os
import random
import re
import subprocess
from pathlib import Path

import fsspec
import pytest
from datasets import load_dataset
from fsspec.implementations.memory import MemoryFileSystem

from data_pipeline.documents_folder import Manifest, read_manifest
from data_pipeline.report.account import BuildAccount
from data_pipeline.tokens.store import TokenStore
from llama_ds.config import DataConfig
from llama_ds.data import TrainingData
from recipes.build_dataset import JOBS, run
from recipes.llama import LLAMA1_SHARES

ROOT = Path(__file__).resolve().parents[3]
PROSE = "The river rose slowly over the fields, and the people of the town watched it. "
WARC = (
    "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {url}\r\n"
    "WARC-Date: 2019-07-17T12:00:00Z\r\nContent-Type: text/plain\r\n"
    "Content-Length: {length}\r\n\r\n"
)
ARTICLE = (
    "<page><title>{title}</title><ns>0</ns><id>{number}</id><revision><id>1</id>"
    "<timestamp>2022-07-01T00:00:00Z</timestamp><text>{text}</text></revision></page>\n"
)


def crawled(pages: dict[str, str]) -> bytes:
    records = []
    for url, text in pages.items():
        body = text.encode()
        records.append(WARC.format(url=url, length=len(body)).encode() + body + b"\r\n\r\n")
    return gzip.compress(b"".join(records))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two sources: articles that cite half of the crawled pages, and the pages."""
    pages, articles = {}, []
    for number in range(40):
        # The higher its number, the less a page is like the others.
        words = " ".join(random.Random(number).choices(PROSE.split(), k=20 + 2 * number))
        pages[f"http://e.org/{number}"] = f"Page {number}. {PROSE * 3} {words} and the end of it."
        cited = f"&lt;ref&gt;http://e.org/{number}&lt;/ref&gt;" if number % 2 else ""
        text = f"'''Article {number}''' is about {words}.{cited} {PROSE * 4}"
        articles.append(ARTICLE.format(title=f"A{number}", number=number, text=text))
    pages["http://e.org/short"] = "Too short."
    root = tmp_path / "raw"
    (root / "common_crawl").mkdir(parents=True)
    (root / "common_crawl" / "a.warc.wet.gz").write_bytes(crawled(pages))
    (root / "wikipedia").mkdir()
    dump = "<mediawiki>" + "".join(articles) + "</mediawiki>"
    (root / "wikipedia" / "enwiki-20220701-pages-articles.xml").write_text(dump)
    return root


def build(raw: Path, out: Path, *more: str) -> int:
    sources = ("--sources", "wikipedia", "common_crawl")
    return run(["--raw", str(raw), "--out", str(out), *sources, *more])


def build_documents(raw: Path, out: Path, *more: str) -> int:
    return build(raw, out, "--documents-only", *more)


@pytest.mark.parametrize(
    ("option", "place", "message"),
    [
        ("--push-to-hub", "corpus", "must have the form USER/NAME"),
        ("--push-to-hub", "somebody/corpus", "somebody/corpus"),
        ("--publish", "no-such-store://bucket/corpus", "cannot be opened"),
        ("--publish", "memory://taken", "holds something else"),
    ],
)
def test_a_place_that_takes_no_result_is_refused_before_the_build(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    place: str,
    message: str,
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    fsspec.filesystem("memory").pipe_file("/taken/notes.txt", b"mine")
    with pytest.raises(ValueError, match=message):
        build_documents(raw, tmp_path / "out", option, place)
    assert not (tmp_path / "out" / "documents").exists()


def manifests(out: Path) -> dict[str, Manifest]:
    """Of every source, in the order of the report."""
    account = BuildAccount.from_json((out / "report.json").read_bytes())
    assert "<html" in (out / "report.html").read_text()[:200]
    return {
        source.name: read_manifest(out / "documents" / source.name) for source in account.sources
    }


def test_build_train_and_build_again(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert build_documents(raw, out, "--models.no-identify-language") == 0
    shown = capsys.readouterr()
    built = manifests(out)
    assert built["common_crawl"].dropped == {"too_short": 1}
    assert built["wikipedia"].num_kept == built["common_crawl"].num_kept == 40
    assert "- too_short" in shown.out
    for step in ("perplexity filter", "reference classifier", "language identification"):
        assert f"left out: common_crawl: {step}" in shown.out

    train = ["--out", str(out), "--raw", str(raw), "--classifier.epoch", "50"]
    assert run(["train-references", *train, "--classifier.lr", "1.0"]) == 0
    assert "trained on 20 cited and 20 random of 40 pages (20 URLs are cited)" in (
        capsys.readouterr().out
    )
    model = out / "models" / "references.bin"
    options = ("--models.no-identify-language", "--models.reference", str(model))
    assert build_documents(raw, out, *options) == 0
    after = manifests(out)["common_crawl"]
    assert after.num_read == 41
    assert "classifier" not in capsys.readouterr().out
    if after.num_kept:
        with pytest.raises(ValueError, match="was filtered by reference score; train on a build"):
            run(["train-references", *train])


def test_perplexity_is_trained_on_articles_and_cut_on_pages(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert build_documents(raw, out) == 0
    settings = ["--ngram.vocab-size", "120", "--ngram.order", "3"]
    assert run(["train-perplexity", "--out", str(out), *settings]) == 0
    model = str(out / "models" / "perplexity")
    assert build_documents(raw, out, "--models.perplexity", model) == 0
    dropped = manifests(out)["common_crawl"].dropped
    # The tail is what lies above the 60th percentile of these very pages.
    assert dropped["perplexity_tail"] == pytest.approx(16, abs=1)
    assert run(["--raw", str(raw), "--out", str(out), "--inspect", "common_crawl"]) == 0
    shown = capsys.readouterr().out
    assert "== perplexity_tail  a.warc.wet.gz:" in shown
    assert "http://e.org/" in shown


def test_inspection_shows_what_edits_did(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_documents(raw, tmp_path / "out", "--models.no-identify-language")
    common = ["--raw", str(raw), "--out", str(tmp_path / "out")]
    run([*common, "--inspect", "wikipedia", "--edits", "--limit", "1"])
    shown = capsys.readouterr().out
    assert "-- to_text\n" in shown
    assert "\n-'''Article 0''' is about" in shown
    assert "\n+Article 0 is about" in shown
    run([*common, "--inspect", "common_crawl", "--reason", "too_short"])
    assert "http://e.org/short\n    Too short." in capsys.readouterr().out


def test_rules_beyond_the_paper_and_undone(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, near = tmp_path / "out", ("--deduplication.near-duplicates", "0.75")
    assert build_documents(raw, out, *near, "--deduplication.ngram-words", "5") == 0
    built = manifests(out)
    removed = sum(m.dropped.get("near_duplicate", 0) for m in built.values())
    assert removed > 0
    account = BuildAccount.from_json((out / "report.json").read_bytes())
    (cluster, *_) = [c for c in account.clusters if c.rule == "near_duplicate"]
    assert all((member.similarity or 0) >= 0.75 for member in cluster.removed)
    undo = ("--undo", "near_duplicate")
    assert build_documents(raw, out, *near, "--deduplication.ngram-words", "5", *undo) == 0
    undone = manifests(out)
    assert sum(m.num_kept for m in undone.values()) == sum(m.num_kept for m in built.values()) + (
        removed
    )
    with pytest.raises(ValueError, match="nonsense is not a rule of this corpus"):
        build_documents(raw, out, "--undo", "nonsense")


@pytest.mark.slow
def test_old_parts_are_named_until_they_are_forgotten(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert build_documents(raw, out) == 0
    assert "old part" not in capsys.readouterr().out
    (page, *_) = out.glob("documents/.parts/common_crawl/*/*")
    assert build_documents(raw, out, "--models.no-identify-language") == 0
    shown = capsys.readouterr().out
    assert re.search(rf"\n1 old part, [\d.]+ kB, in {out}/documents/.parts; --forget-old", shown)
    assert re.search(r"\n2 old rule results, [\d.]+ k?B, in .*/.rules; --forget-old-parts r", shown)
    assert page.exists()
    assert build_documents(raw, out, "--models.no-identify-language", "--forget-old-parts") == 0
    assert "old part" not in capsys.readouterr().out
    assert not page.exists()
    assert len(list(out.glob("documents/.rules/*-*"))) == 2


@pytest.mark.slow
def test_every_executor_makes_the_same_store(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # as recipes/setup.sh does
    options = ("--tokenizer.vocab-size", "300", "--deduplication.near-duplicates", "0.8")
    for out, executor in (("local", "local"), ("ray", "ray")):
        assert build(raw, tmp_path / out, *options, "--executor", executor, "--jobs", "2") == 0
    files = [
        {
            path.relative_to(tmp_path / out).as_posix(): path.read_bytes()
            for folder in ("documents", "store", "tokenizer")
            for path in sorted((tmp_path / out / folder).rglob("*"))
            if path.is_file() and not {"README.md", ".parts"}.intersection(path.parts)
        }
        for out in ("local", "ray")
    ]
    assert files[0] == files[1]
    assert len(files[0]) > 25
    with pytest.raises(ValueError, match="--ray-address needs --executor ray"):
        build(raw, tmp_path / "local", "--ray-address", "auto")


def test_c4_may_be_built_from_the_crawl(raw: Path, tmp_path: Path) -> None:
    (raw / "common_crawl").rename(raw / "c4")
    (tmp_path / "words.txt").write_text("page 7\n")
    arguments = ["--raw", str(raw), "--sources", "c4", "--documents-only", "--c4.from-crawl"]
    assert run([*arguments, "--out", str(tmp_path / "all")]) == 0
    words = ["--c4.bad-words", str(tmp_path / "words.txt")]
    assert run([*arguments, *words, "--out", str(tmp_path / "clean")]) == 0
    every, clean = (
        read_manifest(tmp_path / name / "documents" / "c4") for name in ("all", "clean")
    )
    assert every.dropped == {"no_good_line": 1}
    assert clean.dropped == {"bad_word": 1, "no_good_line": 1}
    assert (every.num_kept, clean.num_kept) == (40, 39)


def test_help_names_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    shown = capsys.readouterr().out
    assert all(job in shown for job in JOBS)


def test_a_model_trains_on_the_store_by_the_papers_shares(raw: Path, tmp_path: Path) -> None:
    assert build(raw, tmp_path / "out", "--tokenizer.vocab-size", "300", "--holdout", "0.1") == 0
    store = TokenStore.open(tmp_path / "out" / "store")
    shares = {name: LLAMA1_SHARES[name] for name in store.sources}
    data = DataConfig(store=store.path, shares=shares, block_rows=1_000)
    quotas = TrainingData(store, data, 64, seed=0).mixture.quotas
    assert quotas == {"wikipedia": 63, "common_crawl": 937}  # 0.045 to 0.67


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sources", "wiki"], "--sources: unknown source wiki; the corpus has wikipedia, books"),
        (
            [],
            "--raw: there is no .*/raw/books, .*/raw/arxiv, .*/raw/c4; put the files there, or",
        ),
        (["--inspect", "nothing"], "--inspect: unknown source nothing; the corpus has wikipedia"),
        (["--models.reference", "gone.bin"], "gone.bin.*train-references.*--models.reference out"),
        (["--models.language", "gone.bin"], "gone.bin.*fasttext.cc.*no-identify-language"),
        (["--models.perplexity", "gone"], "gone/en.*train-perplexity.*leave --models.perplexity"),
        (["--corpus", "llama2"], "llama2"),
        (["--c4.bad-words", "list.txt"], "bad-words.*list.txt.*give --c4.from-crawl"),
        (["--c4.from-crawl", "--c4.bad-words", "list.txt"], "list.txt is missing"),
    ],
)
def test_refusals(raw: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        run(["--raw", str(raw), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_source_of_which_nothing_is_kept_does_not_stop_the_others(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "wikipedia" / "enwiki-20220701-pages-articles.xml").write_text("no dump")
    for _ in range(2):
        assert build_documents(raw, tmp_path / "out") == 1
        assert "no document was kept of: wikipedia" in capsys.readouterr().err
        built = manifests(tmp_path / "out")
        assert (built["wikipedia"].num_kept, built["common_crawl"].num_kept) == (0, 40)
    (raw / "wikipedia" / "b.xml").write_text("no dump either")
    assert build(raw, tmp_path / "out", "--tokenizer.vocab-size", "300") == 1
    assert TokenStore.open(tmp_path / "out" / "store").sources == ("common_crawl",)


@pytest.mark.slow
def test_the_samples_are_accounted_for(samples: Path, tmp_path: Path) -> None:
    """The command of the README, on real files of all seven sources, some of them damaged."""
    out = tmp_path / "out"
    command = ["bash", str(ROOT / "recipes" / "build_dataset.sh")]
    done = subprocess.run(
        [*command, "--raw", str(samples / "raw"), "--out", str(out)],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    built = manifests(out)
    assert list(built) == [
        *("wikipedia", "books", "arxiv", "stack_exchange", "github", "c4", "common_crawl")
    ]
    for name, manifest in built.items():
        assert manifest.num_kept > 0, name
        assert manifest.num_read == manifest.num_kept + sum(manifest.dropped.values()), name
        assert all(reason in done.stdout for reason in manifest.dropped)
    assert built["common_crawl"].dropped["truncated"] == 1
    assert built["books"].dropped["book_overlap"] == 12
    assert built["books"].dropped["duplicate"] == 1

    store = TokenStore.open(out / "store")
    store.verify()
    assert store.sources == tuple(built)
    assert store.manifest.vocab_size == 32_000
    wikipedia = load_dataset(str(out / "documents"), "wikipedia", cache_dir=str(tmp_path))["train"]
    assert len(wikipedia) == built["wikipedia"].num_kept
    for name, splits in store.manifest.sources.items():
        assert sum(s.num_documents for s in splits.values()) == built[name].num_kept
        assert 2 < splits["train"].bytes_per_token < 5, name
        assert splits["train"].byte_token_share < 0.05, name


def test_files_behind_links_are_read_where_that_is_asked_for(raw: Path, tmp_path: Path) -> None:
    away = tmp_path / "away.warc.wet.gz"
    away.write_bytes(crawled({"http://e.org/away": f"Another page. {PROSE * 3}"}))
    (raw / "common_crawl" / "b.warc.wet.gz").symlink_to(away)
    out = tmp_path / "out"
    assert build_documents(raw, out) == 0
    refused = read_manifest(out / "documents" / "common_crawl")
    assert refused.ignored == {"symlink_outside": 1}
    assert build_documents(raw, out, "--follow-links") == 0
    followed = read_manifest(out / "documents" / "common_crawl")
    assert followed.ignored == {}
    assert followed.num_read == refused.num_read + 1
