"""The web sources of the LLaMA-1 corpus, CommonCrawl and C4, with every threshold.

Beside each threshold stands where it comes from, as in `llama1_corpus.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipeline.document import Edit, Filter, Source
from data_pipeline.filters import c4 as c4_rules
from data_pipeline.filters import heuristics as filters
from data_pipeline.filters import language as language_id
from data_pipeline.filters import perplexity, reference_classifier
from data_pipeline.filters.reference_urls import url_key
from data_pipeline.sources import c4, common_crawl

# CommonCrawl cuts pages at 1 MiB, since March 2025 at 5 MiB; its WET records are smaller.
MAX_CRAWL_BLOCK_BYTES = (5 << 20) + (64 << 10)

# CCNet deduplicates the paragraphs of 50 of a dump's 1,600 shards together: this share of some 8 TB
# of WET files per dump.
PARAGRAPH_GROUP_BYTES = 250 * 10**9

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
    identify_language: bool = True,
    language_model: Path | None = None,
    perplexity_models: Mapping[str, Path] | None = None,
    reference_model: Path | None = None,
) -> Source:
    """English CommonCrawl (paper, section 2.1): CCNet's pipeline, then the reference classifier.

    `identify_language` False keeps every language. `language_model`: fastText model for language
    identification; None: lid.176.ftz of data_pipeline. `perplexity_models`: for each language the
    folder of its models (`perplexity.perplexity_model`); None skips the perplexity filter.
    `reference_model`: the reference classifier; None skips it.
    ValueError for a path without a model, or languages without one.
    """
    if perplexity_models is not None and not identify_language:
        raise ValueError(
            "models.perplexity needs the language of a page; set models.identify_language"
        )
    # CCNet drops documents with fewer characters.
    steps = [_Steps(filters=(partial(filters.too_short, min_characters=300),))]
    if identify_language:
        steps.append(_language_steps(language_model, languages))
    if perplexity_models is not None:
        steps.append(_perplexity_steps(perplexity_models, languages))
    if reference_model is not None:
        steps.append(_reference_steps(reference_model))
    return Source(
        name="common_crawl",
        inputs=common_crawl.inputs,
        read=partial(common_crawl.read, max_block_bytes=MAX_CRAWL_BLOCK_BYTES),
        paragraph_group_bytes=PARAGRAPH_GROUP_BYTES,
        same_url=url_key,
        edits=tuple(edit for step in steps for edit in step.edits),
        filters=tuple(chosen for step in steps for chosen in step.filters),
        origin="commoncrawl.org",
        terms="CommonCrawl's terms of use",
    )


@dataclass(frozen=True)
class _Steps:
    """Edits that score pages with a model, and the filters on these scores."""

    edits: tuple[Edit, ...] = ()
    filters: tuple[Filter, ...] = ()


def _language_steps(language_model: Path | None, languages: frozenset[str]) -> _Steps:
    identify = partial(
        language_id.identify_language,
        model=language_id.language_model(language_model),
        max_characters=LANGUAGE_CHARACTERS,
    )
    return _Steps(
        edits=(identify,),
        filters=(
            # The paper: non-English pages are removed. CCNet: below a score of 0.5 it is uncertain.
            partial(language_id.uncertain_language, min_score=0.5),
            partial(language_id.other_language, languages=languages),
        ),
    )


def _perplexity_steps(folders: Mapping[str, Path], languages: frozenset[str]) -> _Steps:
    if missing := sorted(languages - set(folders)):
        raise ValueError(
            f"perplexity_models has no folder for {', '.join(missing)}; add it, or leave these "
            "languages out"
        )
    models = tuple(
        perplexity.perplexity_model(language, folder, published_cutoffs=PUBLISHED_CUTOFFS)
        for language, folder in sorted(folders.items())
    )
    # The paper does not say which buckets; RedPajama v1 keeps head and middle.
    keep = frozenset({"head", "middle"})
    return _Steps(
        edits=(partial(perplexity.measure_perplexity, models=models),),
        filters=(partial(perplexity.outside_buckets, models=models, keep=keep),),
    )


def _reference_steps(reference_model: Path) -> _Steps:
    model = reference_classifier.reference_model(reference_model)
    return _Steps(
        edits=(partial(reference_classifier.score_reference, model=model, max_characters=10_000),),
        # RedPajama v1: 0.25, chosen there to keep about as much text as the paper.
        filters=(partial(reference_classifier.not_reference, min_score=0.25),),
    )


def c4_source(*, language: str = "en") -> Source:
    """C4 as published. The paper uses it unchanged; its filters (punctuation, words, sentences) are
    applied again here, to detect files that are not C4.
    """
    return Source(
        name="c4",
        inputs=partial(c4.inputs, language=language),
        read=partial(c4.read, language=language),
        same_url=url_key,
        filters=(
            c4_rules.no_end_mark,
            # C4 keeps lines of 5 words and pages of 3 sentences.
            partial(c4_rules.few_words, min_words=5),
            partial(c4_rules.few_sentences, min_sentences=3),
        ),
        origin="allenai/c4 on the Hugging Face Hub",
        terms="ODC-BY, and CommonCrawl's terms of use",
    )


def c4_from_crawl_source(
    *, language_model: Path | None = None, bad_words: Path | None = None
) -> Source:
    """C4's filters on CommonCrawl's text (WET files), to build C4 from the crawl. Its deduplication
    of three-sentence spans is not implemented; the corpus's deduplication rules apply instead.

    `bad_words`: word list; pages with any of the words are dropped. None skips that filter.
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
        origin="commoncrawl.org",
        terms="CommonCrawl's terms of use",
    )
