"""An account as a build of the paper's seven sources makes it: shares and sizes like the paper's,
drop reasons like the rules', and texts that are hostile to a page."""

from __future__ import annotations

import dataclasses

from data_pipeline.report.account import (
    CLEAN,
    READ,
    BuildAccount,
    CostRow,
    DropAccount,
    DropExample,
    EvaluationAccount,
    FileAccount,
    KeptSample,
    MixtureRow,
    SourceAccount,
    StageAccount,
    TokenizerAccount,
)
from tests.support.sample_clusters import HOSTILE, sample_clusters

RULES = ("exact", "url", "book_overlap", "near_duplicate")

# name, files, raw bytes, documents read, text bytes read, drops (stage, reason, share of read),
# tokens, share, epochs (of the paper), languages, licenses, middle of the lengths in bits
_SOURCES = (
    (
        "common_crawl",
        (1_840, 412_000_000_000, 96_400_000, 301_000_000_000),
        (
            (CLEAN, "language", 0.418),
            (CLEAN, "perplexity", 0.121),
            (CLEAN, "not_a_reference", 0.137),
            (CLEAN, "empty", 0.021),
            ("exact", "exact", 0.031),
            ("near_duplicate", "near_duplicate", 0.044),
        ),
        (0.67, 1.10, 4.31),
        {"en": 1.0},
        {"": 1.0},
        12,
    ),
    (
        "c4",
        (1_024, 61_000_000_000, 21_700_000, 92_400_000_000),
        (
            (CLEAN, "few_sentences", 0.061),
            (CLEAN, "curly_bracket", 0.004),
            ("exact", "exact", 0.002),
            ("near_duplicate", "near_duplicate", 0.087),
        ),
        (0.15, 1.06, 4.4),
        {"en": 1.0},
        {"ODC-By-1.0": 1.0},
        11,
    ),
    (
        "github",
        (4_120, 48_300_000_000, 14_900_000, 61_200_000_000),
        (
            (CLEAN, "license", 0.302),
            (CLEAN, "generated", 0.083),
            (CLEAN, "line_length", 0.024),
            (CLEAN, "alphanumeric", 0.017),
            ("exact", "exact", 0.194),
            ("near_duplicate", "near_duplicate", 0.061),
        ),
        (0.045, 0.64, 2.9),
        {"": 1.0},
        {"MIT": 0.61, "Apache-2.0": 0.29, "BSD-3-Clause": 0.08, "BSD-2-Clause": 0.02},
        11,
    ),
    (
        "wikipedia",
        (20, 9_700_000_000, 8_120_000, 14_600_000_000),
        (
            (CLEAN, "redirect", 0.212),
            (CLEAN, "short", 0.038),
            ("exact", "exact", 0.0007),
            ("near_duplicate", "near_duplicate", 0.019),
        ),
        (0.045, 2.45, 4.05),
        {
            "en": 0.31,
            "de": 0.13,
            "fr": 0.12,
            "sv": 0.1,
            "nl": 0.09,
            "ru": 0.08,
            "es": 0.05,
            "it": 0.05,
            "pl": 0.04,
            "uk": 0.02,
            "ca": 0.01,
        },
        {"CC-BY-SA-4.0": 1.0},
        11,
    ),
    (
        "books",
        (61_300, 10_900_000_000, 61_300, 24_300_000_000),
        (
            (CLEAN, "language", 0.19),
            (CLEAN, "no_text", 0.006),
            ("book_overlap", "book_overlap", 0.041),
        ),
        (0.045, 2.23, 4.2),
        {"en": 1.0},
        {"LicenseRef-Public-Domain-US": 1.0},
        19,
    ),
    (
        "arxiv",
        (912, 31_000_000_000, 640_000, 38_900_000_000),
        (
            (CLEAN, "withdrawn", 0.009),
            (CLEAN, "pdf_only", 0.068),
            (CLEAN, "short", 0.012),
            ("exact", "exact", 0.0003),
        ),
        (0.025, 1.06, 2.9),
        {"en": 1.0},
        {"": 0.72, "CC-BY-4.0": 0.21, "CC0-1.0": 0.04, "CC-BY-SA-4.0": 0.03},
        16,
    ),
    (
        "stack_exchange",
        (28, 13_400_000_000, 11_900_000, 21_000_000_000),
        (
            (CLEAN, "no_answer", 0.143),
            (CLEAN, "low_score", 0.061),
            ("exact", "exact", 0.0002),
            ("near_duplicate", "near_duplicate", 0.002),
        ),
        (0.02, 1.03, 3.4),
        {"en": 0.97, "pt": 0.02, "ru": 0.01},
        {"CC-BY-SA-4.0": 1.0},
        11,
    ),
)
_ORIGINS = {
    "common_crawl": ("Common Crawl, WET and WARC files of five dumps", "Common Crawl terms of use"),
    "c4": ("allenai/c4, variant en", "ODC-By 1.0"),
    "github": ("BigQuery's public set of GitHub, files and licenses", "Each repository's license"),
    "wikipedia": ("Wikimedia dumps of 20 languages", "CC-BY-SA 4.0 and GFDL"),
    "books": ("Project Gutenberg's plain texts", "Public domain in the United States"),
    "arxiv": ("arXiv's bulk sources from S3", "Each paper's license"),
    "stack_exchange": ("Stack Exchange's data dump, the 28 largest sites", "CC-BY-SA 4.0"),
}


def sample_account() -> BuildAccount:
    sources = tuple(_source(*fields) for fields in _SOURCES)
    return BuildAccount(
        corpus="llama1",
        created="2026-11-25T08:00:00+00:00",
        sources=sources,
        left_out=(
            "common_crawl: the perplexity of languages without a model is not measured",
            "books: Books3 is not public and is left out",
        ),
        undone=("url",),
        examples=_examples(),
        samples=_samples(),
        clusters=sample_clusters(),
        evaluations=(
            EvaluationAccount("hellaswag", 10_042, 9_871, 312),
            EvaluationAccount("boolq", 3_270, 3_266, 41),
            EvaluationAccount("gsm8k", 1_319, 1_319, 0),
        ),
        tokenizer=TokenizerAccount(
            "SentencePiece BPE",
            32_000,
            "8f3c1b0d5a7e9246c8f3c1b0d5a7e92468f3c1b0d5a7e9246c8f3c1b0d5a7e92",
            "10 GB drawn by the mixture's shares",
            {row[0]: row[3][2] for row in _SOURCES},
        ),
        mixture=tuple(
            MixtureRow(
                source.name,
                source.num_documents,
                source.num_text_bytes,
                source.num_tokens or 0,
                row[3][0],
                row[3][0],
                row[3][1],
            )
            for source, row in zip(sources, _SOURCES, strict=True)
        ),
        token_budget=60_000_000_000,
        costs=(
            CostRow("read common_crawl", 214.0, 231.7, 1_900_000_000, 1_640_000_000),
            CostRow("read the others", 96.5, 88.2, 2_100_000_000, 1_980_000_000),
            CostRow("near duplicates", 10.4, 9.9, 6_000_000_000, 5_310_000_000, 40 * 10**9),
            CostRow("tokenize", 13.1, 13.4, 900_000_000, 870_000_000, 10**11, 97 * 10**9),
        ),
        versions={"llama-ds": "0.1.0", "python": "3.11.9", "pyarrow": "26.0.1", "lxml": "6.1.3"},
        fingerprints={"store": "4f1d9b30a6c2e875", "documents/books": "a1b2c3d4e5f60718"},
    )


def with_more_books() -> BuildAccount:
    """The sample account of a build that read 1,000 more books, in another language."""
    account = sample_account()
    (books,) = (source for source in account.sources if source.name == "books")
    read, *others = books.stages
    dropped = tuple(
        dataclasses.replace(drop, documents=drop.documents + 1_000 * (drop.reason == "language"))
        for drop in books.dropped
    )
    more = dataclasses.replace(
        books,
        stages=(dataclasses.replace(read, documents=read.documents + 1_000), *others),
        dropped=dropped,
    )
    return dataclasses.replace(
        account, sources=tuple(more if s.name == "books" else s for s in account.sources)
    )


def _source(
    name: str,
    sizes: tuple[int, int, int, int],
    drops: tuple[tuple[str, str, float], ...],
    mixture: tuple[float, float, float],
    languages: dict[str, float],
    licenses: dict[str, float],
    middle: int,
) -> SourceAccount:
    num_files, raw_bytes, documents, text_bytes = sizes
    dropped = tuple(
        DropAccount(
            stage,
            reason,
            int(documents * share),
            int(text_bytes * share * 0.8),
            int(documents * share) if reason == "redirect" else 0,
        )
        for stage, reason, share in drops
    )
    stages = [StageAccount(READ, documents, text_bytes)]
    for stage in (CLEAN, *RULES):
        # Edits take a part of the texts that are kept.
        text_bytes = int(text_bytes * 0.93) if stage == CLEAN else text_bytes
        for drop in dropped:
            if drop.stage == stage:
                documents, text_bytes = documents - drop.documents, text_bytes - drop.text_bytes
        stages.append(StageAccount(stage, documents, text_bytes))
    weights = {bits: 2.0 ** -abs(1.1 * (bits - middle)) for bits in range(6, 25)}
    origin, terms = _ORIGINS[name]
    return SourceAccount(
        name=name,
        num_input_files=num_files,
        num_input_bytes=raw_bytes,
        stages=tuple(stages),
        dropped=dropped,
        ignored={"not a file of this source": 3} if name == "github" else {},
        lengths={
            str(bits): count
            for bits, weight in weights.items()
            if (count := int(documents * weight / sum(weights.values())))
        },
        languages={key: int(documents * share) for key, share in languages.items()},
        licenses={key: int(documents * share) for key, share in licenses.items()},
        license_bytes={key: int(text_bytes * share) for key, share in licenses.items()},
        num_tokens=int(text_bytes / mixture[2]),
        unknown_bytes=int(text_bytes * 0.0004),
        origin=origin,
        terms=terms,
        advice={"not a file of this source": "put it elsewhere"} if name == "github" else {},
        domains={"=1+1.example": 12_000, "river.example": 9_000} if name == "c4" else {},
        scores={"perplexity": {"7": 10, "9": 40}, "language_score": {"12": 5, "19": 90}}
        if name == "common_crawl"
        else {},
        files=tuple(
            FileAccount(f"{name}-{n:03}.gz", 10**9 // n, 1_000 * n, 90 * n, 10**8)
            for n in (1, 2, 12)
        ),
    )


def _samples() -> tuple[KeptSample, ...]:
    heron = "A heron stands in the shallow water."
    return (
        KeptSample("wikipedia", "aa11", heron, "https://en.wikipedia.org/wiki/Heron", "Heron", "en",
                   "CC-BY-SA-4.0", "enwiki.xml.bz2", 17),
        KeptSample("c4", "bb22", HOSTILE, None, None, None, None, "c4.json.gz", 2),
    )  # fmt: skip


def _examples() -> tuple[DropExample, ...]:
    return (*_crawl_examples(), *_other_examples())


def _crawl_examples() -> tuple[DropExample, ...]:
    crawl = "CC-MAIN-2019-30/wet/00017.warc.wet.gz"
    return (
        DropExample(
            "common_crawl",
            CLEAN,
            "language",
            crawl,
            4_711,
            "0c9d5b7e62f14c318ad0ffb1c2a97d10",
            "de 0.981",
            "Herzlich willkommen auf unserer Seite! Hier finden Sie alles über Wanderwege im "
            "Schwarzwald, Gasthöfe und das Wetter der nächsten Tage.",
        ),
        DropExample(
            "common_crawl",
            CLEAN,
            "language",
            crawl,
            5_120,
            "f00d5b7e62f14c318ad0ffb1c2a97d11",
            "ar 0.997",
            "مرحبا بكم في موقعنا. ستجدون هنا أخبار المدينة وأحوال الطقس لهذا الأسبوع.",
        ),
        DropExample(
            "common_crawl",
            CLEAN,
            "perplexity",
            crawl,
            812,
            "77aa5b7e62f14c318ad0ffb1c2a97d12",
            "perplexity 2,310 is above 1,024",
            "Home | Shop | Cart (0) | Login\nHome | Shop | Cart (0) | Login\nSort by: price name "
            "date\nShowing 1-24 of 1,092 results\n" * 3,
        ),
    )


def _other_examples() -> tuple[DropExample, ...]:
    return (
        DropExample(
            "github",
            CLEAN,
            "license",
            "contents-000000000311.json.gz",
            90_211,
            "13375b7e62f14c318ad0ffb1c2a97d13",
            "GPL-3.0-only is none of the licenses that are kept",
            "def main():\n    for row in rows():\n        print(row)\n",
        ),
        DropExample(
            "github",
            CLEAN,
            "generated",
            "contents-000000000007.json.gz",
            12,
            "beef5b7e62f14c318ad0ffb1c2a97d14",
            "line 1 says so",
            HOSTILE,
        ),
        DropExample(
            "arxiv",
            CLEAN,
            "pdf_only",
            "src/arXiv_src_1907_031.tar",
            44,
            None,
            "1907.04112.pdf",
            "",
        ),
        DropExample(
            "wikipedia",
            CLEAN,
            "redirect",
            "nlwiki-20220801-pages-articles.xml.bz2",
            3_301,
            None,
            "to Amsterdam",
            "",
        ),
    )
