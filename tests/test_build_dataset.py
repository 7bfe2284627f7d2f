"""The dataset job as people start it: account, inspection, training, refusals."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from recipes.build_dataset import run

ROOT = Path(__file__).resolve().parents[1]
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
    return run(["--raw", str(raw), "--out", str(out), *sources, "--jobs", "1", *more])


def numbers(out: Path) -> dict[str, dict[str, int | dict[str, int]]]:
    report = json.loads((out / "report.json").read_text())
    sources: dict[str, dict[str, int | dict[str, int]]] = report["sources"]
    return sources


def test_build_train_and_build_again(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert build(raw, out, "--models.no-identify-language") == 0
    shown = capsys.readouterr()
    assert numbers(out)["common_crawl"]["dropped"] == {"too_short": 1}
    assert numbers(out)["wikipedia"]["num_kept"] == numbers(out)["common_crawl"]["num_kept"] == 40
    assert "- too_short" in shown.out
    for step in ("n-gram perplexity", "Wikipedia's references", "language identification"):
        assert f"left out: common_crawl: {step}" in shown.out.replace("classifier of ", "")

    train = ["--out", str(out), "--raw", str(raw), "--classifier.epoch", "50"]
    assert run(["train-references", *train, "--classifier.lr", "1.0"]) == 0
    assert "trained on 20 cited and 20 random of 40 pages (20 URLs are cited)" in (
        capsys.readouterr().out
    )
    model = out / "models" / "references.bin"
    assert build(raw, out, "--models.no-identify-language", "--models.reference", str(model)) == 0
    after = numbers(out)["common_crawl"]
    assert after["num_read"] == 41
    assert "classifier" not in capsys.readouterr().out
    if after["num_kept"]:
        with pytest.raises(ValueError, match="was filtered by reference score; train on a build"):
            run(["train-references", *train])


def test_perplexity_is_trained_on_articles_and_cut_on_pages(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert build(raw, out) == 0
    settings = ["--ngram.vocab-size", "120", "--ngram.order", "3"]
    assert run(["train-perplexity", "--out", str(out), *settings]) == 0
    assert build(raw, out, "--models.perplexity", str(out / "models" / "perplexity")) == 0
    dropped = numbers(out)["common_crawl"]["dropped"]
    assert isinstance(dropped, dict)
    # The tail is what lies above the 60th percentile of these very pages.
    assert dropped["perplexity_tail"] == pytest.approx(16, abs=1)
    assert run(["--raw", str(raw), "--out", str(out), "--inspect", "common_crawl"]) == 0
    shown = capsys.readouterr().out
    assert "== perplexity_tail  a.warc.wet.gz:" in shown
    assert "http://e.org/" in shown


def test_inspection_shows_what_edits_did(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(raw, tmp_path / "out", "--models.no-identify-language")
    common = ["--raw", str(raw), "--out", str(tmp_path / "out")]
    run([*common, "--inspect", "wikipedia", "--edits", "--limit", "1"])
    shown = capsys.readouterr().out
    assert "-- to_text\n" in shown
    assert "\n-'''Article 0''' is about" in shown
    assert "\n+Article 0 is about" in shown
    run([*common, "--inspect", "common_crawl", "--reason", "too_short"])
    assert "http://e.org/short\n    Too short." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sources", "wiki"], "--sources: wiki is none of wikipedia, books, arxiv"),
        ([], "has no folder books, arxiv, stack_exchange, github, c4; put the files there"),
        (["--inspect", "nothing"], "--inspect: nothing is none of wikipedia"),
        (["--models.reference", "gone.bin"], "gone.bin.*train-references.*--models.reference out"),
        (["--models.language", "gone.bin"], "gone.bin.*fasttext.cc.*no-identify-language"),
        (["--models.perplexity", "gone"], "gone/en.*train-perplexity.*leave --models.perplexity"),
        (["--corpus", "llama2"], "llama2"),
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
        assert build(raw, tmp_path / "out") == 1
        assert "no document was kept of: wikipedia" in capsys.readouterr().err
        sources = numbers(tmp_path / "out")
        assert (sources["wikipedia"]["num_kept"], sources["common_crawl"]["num_kept"]) == (0, 40)
    (raw / "wikipedia" / "b.xml").write_text("no dump either")
    assert build(raw, tmp_path / "out") == 1


def test_the_samples_are_accounted_for(samples: Path, tmp_path: Path) -> None:
    """The command of the README, on real files of all seven sources, some of them damaged."""
    out = tmp_path / "out"
    command = ["bash", str(ROOT / "recipes" / "build_dataset.sh"), "--corpus", "llama1"]
    done = subprocess.run(
        [*command, "--raw", str(samples / "raw"), "--out", str(out)],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    sources = numbers(out)
    assert list(sources) == [
        *("wikipedia", "books", "arxiv", "stack_exchange", "github", "c4", "common_crawl")
    ]
    for name, counts in sources.items():
        kept, read, dropped = counts["num_kept"], counts["num_read"], counts["dropped"]
        assert isinstance(kept, int)
        assert isinstance(dropped, dict)
        assert kept > 0, name
        assert read == kept + sum(dropped.values()), name
        assert all(reason in done.stdout for reason in dropped)
    damage = sources["common_crawl"]["dropped"]
    assert isinstance(damage, dict)
    assert damage["truncated"] == 1
