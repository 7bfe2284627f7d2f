"""Which text goes in: lists of sources with their thresholds."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipeline import c4_rules, filters, language_id, perplexity, reference_classifier
from data_pipeline.document import Edit, Filter, Source
from data_pipeline.sources import c4, common_crawl, folder, github

PERMISSIVE = frozenset(
    {
        *("Apache-2.0", "MIT", "BSD", "BSD-2-Clause", "BSD-3-Clause"),
        *("0BSD", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT-0", "MIT-CMU", "PSF-2.0"),
        *("Unlicense", "Zlib"),
    }
)
"""Licences of the built-in corpus: LLaMA's three families (first line; paper, section 2.1), and
others that ask for no more than a notice. Every copyleft licence stays out, MPL-2.0 included."""

CODE_FILTERS = (
    # Shorter files are package markers and re-exports; our own figure.
    partial(filters.too_short, min_characters=200),
    partial(filters.generated_code, head_characters=1_000),
    # RedPajama v1, GitHub: longest line, mean line, letters and digits among all characters.
    partial(filters.long_line, max_characters=1_000),
    partial(filters.long_mean_line, max_characters=100.0),
    partial(filters.few_alphanumerics, min_share=0.25),
    # Tables of numbers and characters: above a tenth lie a few tables and no other file of the
    # standard library. Our own figure.
    partial(filters.many_digits, max_share=0.1),
    partial(filters.licence_not_allowed, allowed=PERMISSIVE),
)


@dataclass(frozen=True)
class Corpus:
    """Named raw text: each source with the folder (or file) that it reads."""

    name: str
    sources: tuple[tuple[Source, Path], ...]


def builtin_corpus(*, max_bytes: int = 24_000_000) -> Corpus:
    """Text that every Python installation has: Python files and documents of its standard library
    and of its installed packages, each up to half of `max_bytes`.
    """
    tree = partial(
        github.inputs,
        suffixes=frozenset({".py"}) | github.DOCUMENT_SUFFIXES,
        # Larger files are tables, mostly. GitHub's code search leaves out files above this.
        max_file_bytes=384 * 1024,
        skip_folders=github.NOT_OWN_FOLDERS | github.TEST_FOLDERS,
        licences=PERMISSIVE,
        max_total_bytes=max_bytes // 2,
    )
    library = Source(
        name="python_library",
        inputs=partial(tree, title=f"Python {platform.python_version()}", licence="PSF-2.0"),
        read=github.read,
        filters=CODE_FILTERS,
    )
    packages = Source(name="python_packages", inputs=tree, read=github.read, filters=CODE_FILTERS)
    return Corpus(
        name="builtin",
        sources=(
            (library, Path(sysconfig.get_path("stdlib"))),
            (packages, Path(sysconfig.get_path("purelib"))),
        ),
    )


def folder_corpus(
    path: Path, *, text_field: str = "text", max_document_bytes: int = 256 * 1024
) -> Corpus:
    """A user's own text, all of it that is not empty: plain text, JSON lines, Parquet.

    `text_field` names the text in JSON lines and Parquet. Larger plain-text files become several
    documents of at most `max_document_bytes`.
    """
    if max_document_bytes < 4:
        raise ValueError(f"max_document_bytes ({max_document_bytes}) must be at least 4")
    read = partial(folder.read, text_field=text_field, max_document_bytes=max_document_bytes)
    source = Source(name="folder", inputs=folder.inputs, read=read)
    return Corpus(name=path.name, sources=((source, path),))


# --- CommonCrawl and C4 -------------------------------------------------------------------------

# CommonCrawl cuts pages at 1 MiB, since March 2025 at 5 MiB; its WET records are smaller.
MAX_CRAWL_BLOCK_BYTES = (5 << 20) + (64 << 10)

# CCNet identifies languages on the whole text; see `identify_language`.
LANGUAGE_CHARACTERS = 1_000

PUBLISHED_CUTOFFS = {
    # Perplexities at the 30th and 60th percentile with CCNet's published models
    # (cc_net/data/cutoff.csv of facebookresearch/cc_net).
    **{"de": (370.0, 590.0), "en": (340.0, 520.0), "es": (180.0, 290.0), "fr": (180.0, 330.0)},
    **{"it": (220.0, 360.0), "nl": (430.0, 650.0), "pl": (160.0, 260.0), "ru": (210.0, 310.0)},
}


def common_crawl_source(
    *,
    languages: frozenset[str] = frozenset({"en"}),
    language_model: Path | None = None,
    perplexity_models: Mapping[str, Path] | None = None,
    reference_model: Path | None = None,
) -> Source:
    """English CommonCrawl (paper, section 2.1): CCNet's steps, then the classifier of references.

    `language_model`: fastText model that identifies languages; None takes the installed
    lid.176.ftz. `perplexity_models`: for each language the folder of its models
    (`perplexity.perplexity_model`); None leaves the perplexity filter out. `reference_model`: the
    classifier; None leaves it out.
    ValueError for a path that leads to no model, or languages without one.
    """
    model = language_id.language_model(language_model)
    edits: list[Edit] = [
        partial(language_id.identify_language, model=model, max_characters=LANGUAGE_CHARACTERS)
    ]
    chosen: list[Filter] = [
        # CCNet drops documents with fewer characters.
        partial(filters.too_short, min_characters=300),
        # The paper: non-English pages are removed. CCNet: a language below 0.5 is not sure.
        partial(language_id.uncertain_language, min_score=0.5),
        partial(language_id.other_language, languages=languages),
    ]
    if perplexity_models is not None:
        if missing := sorted(languages - set(perplexity_models)):
            raise ValueError(
                f"perplexity_models names no folder for {', '.join(missing)}; add it, or leave "
                "these languages out"
            )
        models = tuple(
            perplexity.perplexity_model(language, folder, published_cutoffs=PUBLISHED_CUTOFFS)
            for language, folder in sorted(perplexity_models.items())
        )
        edits.append(partial(perplexity.measure_perplexity, models=models))
        # The paper does not say which buckets; RedPajama v1 takes head and middle.
        keep = frozenset({"head", "middle"})
        chosen.append(partial(perplexity.outside_buckets, models=models, keep=keep))
    if reference_model is not None:
        classifier = reference_classifier.reference_model(reference_model)
        edits.append(
            partial(reference_classifier.score_reference, model=classifier, max_characters=10_000)
        )
        # RedPajama v1: 0.25, chosen there because it leaves about as much as the paper has.
        chosen.append(partial(reference_classifier.not_reference, min_score=0.25))
    return Source(
        name="common_crawl",
        inputs=common_crawl.inputs,
        read=partial(common_crawl.read, max_block_bytes=MAX_CRAWL_BLOCK_BYTES),
        edits=tuple(edits),
        filters=tuple(chosen),
    )


def c4_source(*, language: str = "en") -> Source:
    """C4 as published. The paper takes it as it is; its rules (punctuation, words, sentences) are
    asked again here, so that files that are not quite C4 are noticed.
    """
    return Source(
        name="c4",
        inputs=c4.inputs,
        read=partial(c4.read, language=language),
        filters=(
            c4_rules.no_end_mark,
            # C4 keeps lines of 5 words and pages of 3 sentences.
            partial(c4_rules.few_words, min_words=5),
            partial(c4_rules.few_sentences, min_sentences=3),
        ),
    )


def c4_from_crawl_source(
    *, language_model: Path | None = None, bad_words: Path | None = None
) -> Source:
    """C4's rules on CommonCrawl's text (WET files), for those who build it themselves. Of its rules
    only the last is left to deduplication: that a span of three sentences occurs once.

    `bad_words`: list of words of which a page may have none; None leaves that rule out.
    """
    model = language_id.language_model(language_model)
    chosen: list[Filter] = [
        c4_rules.placeholder_text,
        c4_rules.curly_bracket,
        partial(c4_rules.few_sentences, min_sentences=3),
        # C4: 0.99 by langdetect, whose scores are nearly all or nothing. By fastText 6 % of
        # published C4's documents have 0.99, and 98.9 % have CCNet's 0.5.
        partial(language_id.uncertain_language, min_score=0.5),
        partial(language_id.other_language, languages=frozenset({"en"})),
    ]
    if bad_words is not None:
        words = c4_rules.bad_words_list(bad_words)
        chosen.append(partial(c4_rules.bad_word, words=words))
    return Source(
        name="c4",
        inputs=common_crawl.inputs,
        read=partial(common_crawl.read, max_block_bytes=MAX_CRAWL_BLOCK_BYTES),
        edits=(
            partial(c4_rules.keep_good_lines, min_words=5, max_word_characters=1_000),
            partial(language_id.identify_language, model=model, max_characters=LANGUAGE_CHARACTERS),
        ),
        filters=tuple(chosen),
    )
