"""CommonCrawl and C4: throughput of reading and filtering, against bare libraries and datatrove.

    python -m benchmarks.data.source_common_crawl [--samples FOLDER] [--rehearse]

The contenders of a target take turns in every round, in one process on one core, timed by the
process's own CPU time; a ratio is the median over the rounds. Data is synthetic, except the
documents where FOLDER has `raw/c4`. `--rehearse` runs everything in a small size.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import random
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import fasttext
import numpy as np
from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding
from resiliparse.parse.html import HTMLTree

from benchmarks.data.raw_files import warc_record
from benchmarks.measuring.turns import Work, compare
from data_pipeline.document import Document, Rejected
from data_pipeline.filters import c4 as c4_rules
from data_pipeline.filters.language import identify_language, language_model
from data_pipeline.filters.ngram import Ints, write_arpa
from data_pipeline.filters.ngram_training import train_model
from data_pipeline.sources import c4
from data_pipeline.sources.common_crawl.html_page import read_page
from data_pipeline.sources.common_crawl.warc import Block, records

MAX_BLOCK_BYTES = 5 << 20
_SYLLABLES = [f"{a}{b}" for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "on", "er", "ur")]


def _vocabulary() -> list[str]:
    """Synthetic words, short ones first; with Zipf's law they compress like text, to a quarter."""
    rng = random.Random(7)
    words = {"".join(rng.choices(_SYLLABLES, k=rng.randrange(1, 5))) for _ in range(12_000)}
    return sorted(words, key=lambda word: (len(word), word))


WORDS = _vocabulary()
WEIGHTS = list(itertools.accumulate(1 / rank for rank in range(1, len(WORDS) + 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=Path, help="folder with raw/c4")
    parser.add_argument("--rehearse", action="store_true", help="a small size, to see it run")
    options = parser.parse_args()
    num_pages, rounds = (40, 2) if options.rehearse else (1_500, 5)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "pages.warc.gz")
        archive.write_bytes(_made_archive(num_pages))
        documents = _documents(options.samples, num_pages)
        pages = _pages(archive)
        compare("WARC reading", warc_reading(archive), 3 * num_pages, rounds, unit="records")
        compare("HTML to text", html_to_text(pages), len(pages), rounds, unit="pages")
        work = language_id(documents)
        compare("language id", work, len(documents), rounds, unit="documents")
        size = sum(len(document.text.encode()) for document in documents) / 1e6
        compare("rules of C4", rule_filters(documents), size, rounds)
        ids, names = _sentences(num_pages * 50)
        training = ngram_training(Path(folder), ids, names)
        compare("n-gram training", training, len(ids) / 1e6, 2, unit="M tokens")


def warc_reading(archive: Path) -> dict[str, Work]:
    """Reading all records of an archive: target 0.9 of bare fastwarc."""

    def ours() -> None:
        for block in records(archive, max_block_bytes=MAX_BLOCK_BYTES):
            assert isinstance(block, Block), f"the archive is damaged: {block}"

    def bare() -> None:
        for record in ArchiveIterator(str(archive), parse_http=True, fsspec_args=False):
            record.reader.read()

    return {"ours": ours, "fastwarc": bare} | _warcio(archive)


def _warcio(archive: Path) -> dict[str, Work]:
    if importlib.util.find_spec("warcio") is None:
        return {}
    from warcio.archiveiterator import ArchiveIterator as WarcioIterator

    def warcio() -> None:
        with archive.open("rb") as file:
            for record in WarcioIterator(file):
                record.content_stream().read()

    return {"warcio": warcio}


def html_to_text(pages: list[bytes]) -> dict[str, Work]:
    """Main content of pages: target 0.9 of bare resiliparse, which decodes, parses and extracts."""

    def ours() -> None:
        for page in pages:
            read_page(page, "utf-8")

    def bare() -> None:
        for page in pages:
            tree = HTMLTree.parse_from_bytes(page, detect_encoding(page) or "utf-8")
            extract_plain_text(tree, main_content=True)

    return {"ours": ours, "resiliparse": bare}


def language_id(documents: list[Document]) -> dict[str, Work]:
    """Language identification: target is the throughput of fastText itself on 1,000 characters."""
    model = language_model(None)
    bare_model = fasttext.load_model(str(model.path))

    def ours() -> None:
        for document in documents:
            identify_language(document, model=model, max_characters=1_000)

    def bare() -> None:
        for document in documents:
            bare_model.predict(document.text[:1_000].replace("\n", " "))

    return {"ours": ours, "fastText": bare}


def rule_filters(documents: list[Document]) -> dict[str, Work]:
    """All of C4's filters, one document at a time: target 20 MB/s."""
    rules = (
        c4_rules.placeholder_text,
        c4_rules.curly_bracket,
        partial(c4_rules.few_sentences, min_sentences=3),
    )

    def ours() -> None:
        for document in documents:
            result = c4_rules.keep_good_lines(document, min_words=5, max_word_characters=1_000)
            if not isinstance(result, Rejected):
                any(rule(result) for rule in rules)

    return {"ours": ours} | _datatrove(documents)


def _datatrove(documents: list[Document]) -> dict[str, Work]:
    if not all(importlib.util.find_spec(name) for name in ("datatrove", "spacy")):
        return {}
    from datatrove.data import Document as Theirs
    from datatrove.pipeline.filters import C4QualityFilter

    rules = C4QualityFilter(filter_no_terminal_punct=True)

    def datatrove() -> None:
        for number, document in enumerate(documents):
            rules.filter(Theirs(text=document.text, id=str(number)))

    return {"datatrove": datatrove}


def ngram_training(folder: Path, ids: Ints, names: Sequence[str]) -> dict[str, Work]:
    """Training a 5-gram model: counting, smoothing and writing ARPA; target 0.6 M tokens/s."""

    def counted() -> None:
        train_model(ids, names, order=5, begin=1, end=2)

    def written() -> None:
        with (folder / "model.arpa").open("wb") as file:
            write_arpa(train_model(ids, names, order=5, begin=1, end=2), file)

    return {"counted, smoothed and written": written, "counted and smoothed": counted}


def _sentences(num_sentences: int) -> tuple[Ints, tuple[str, ...]]:
    """Token ids of synthetic sentences, and the tokens' names."""
    rng = np.random.default_rng(0)
    num_words = 20_000
    # Word frequencies follow Zipf's law, and half of all sentences consist of repeated phrases.
    frequencies = 1 / np.arange(1, num_words + 1)
    words = rng.choice(num_words, (num_sentences, 20), p=frequencies / frequencies.sum()) + 3
    words[::2] = words[rng.integers(0, num_sentences // 10, len(words[::2]))]
    ends = np.full((num_sentences, 1), 2)
    ids = np.hstack([np.full((num_sentences, 1), 1), words, ends]).ravel().astype(np.int64)
    return ids, ("<unk>", "<s>", "</s>", *(f"w{n}" for n in range(num_words)))


def _documents(samples: Path | None, num_pages: int) -> list[Document]:
    if samples is None:
        rng = random.Random(1)
        return [Document(_made_text(rng, 40), "made") for _ in range(num_pages)]
    files = c4.inputs(samples / "raw" / "c4").files
    rows = (item for file in files for item in c4.read(file, language="en"))
    return [row for row in rows if isinstance(row, Document)]


def _pages(archive: Path) -> list[bytes]:
    return [
        record.reader.read()
        for record in ArchiveIterator(
            str(archive), record_types=WarcRecordType.response, fsspec_args=False
        )
    ]


def _made_text(rng: random.Random, num_lines: int) -> str:
    lines = (
        rng.choices(WORDS, cum_weights=WEIGHTS, k=rng.randrange(3, 30)) for _ in range(num_lines)
    )
    ends = (". ", ".", "", "! ")
    return "\n".join(" ".join(line).capitalize() + rng.choice(ends) for line in lines)


def _made_archive(num_pages: int) -> bytes:
    """Requests, responses and metadata as in CommonCrawl, pages of some 12 kB."""
    rng = random.Random(0)
    parts: list[bytes] = []
    for number in range(num_pages):
        text = "".join(f"<p>{line}</p>\n" for line in _made_text(rng, 80).split("\n"))
        menu = "".join(f"<li><a href=/{n}>{rng.choice(WORDS)}</a></li>" for n in range(40))
        body = f"<html><head><title>{number}</title></head><body><nav><ul>{menu}</ul></nav>"
        body += f"<article><h1>{number}</h1>{text}</article></body></html>"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nX-N: {number}\r\n\r\n"
        url = f"http://example.org/{number}"
        parts.append(warc_record("request", "application/http", url, b"GET / HTTP/1.1\r\n\r\n"))
        parts.append(warc_record("response", "application/http", url, (head + body).encode()))
        parts.append(warc_record("metadata", "text/plain", url, b'{"ms": 7}'))
    return b"".join(parts)


if __name__ == "__main__":
    main()
