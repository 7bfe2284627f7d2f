"""The LLaMA-1 corpus (arXiv 2302.13971, section 2.1): its seven sources, with every threshold.

Beside each threshold stands where it comes from: the paper, or the reproduction that it was taken
from, since the paper gives few figures. `docs/data.md` has a card for every source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipeline.build.build_corpus import DISTINCT_TEXTS
from data_pipeline.corpus import Corpus
from data_pipeline.dedup.books import book_overlap
from data_pipeline.dedup.rule import Rule
from data_pipeline.document import Source
from data_pipeline.files.remote import Root
from data_pipeline.filters import heuristics as filters
from data_pipeline.sources import arxiv, books, github, stack_exchange, wikipedia
from data_pipeline.text.decoding import strip_trailing_whitespace
from recipes.llama import LLAMA1_EPOCHS, LLAMA1_SHARES, LLAMA1_TOKENS
from recipes.llama1_web import c4_from_crawl_source, c4_source, common_crawl_source


@dataclass(frozen=True)
class CrawlModels:
    """Quality-filter models for CommonCrawl. A filter without its model is skipped."""

    identify_language: bool = True
    """Identify languages, and keep English pages only; off: pages in every language."""
    language: Path | None = None
    """fastText model for language identification; by default lid.176.ftz of data_pipeline."""
    perplexity: Path | None = None
    """Folder with the n-gram LM of the perplexity filter, as written by `train-perplexity`."""
    reference: Path | None = None
    """fastText classifier of pages cited by Wikipedia, as written by `train-references`."""


@dataclass(frozen=True)
class C4Files:
    """Format of the folder c4/: by default C4 as published."""

    from_crawl: bool = False
    """Read CommonCrawl's text (WET files) in c4/, and apply C4's filters to it."""
    bad_words: Path | None = None
    """With --c4.from-crawl: word list, one a line; pages with any of the words are dropped. By
    default there is no such filter."""

    def __post_init__(self) -> None:
        if self.bad_words is not None and not self.from_crawl:
            raise ValueError(
                f"--c4.bad-words ({self.bad_words}) filters pages of the crawl, and C4 as "
                "published is already filtered; give --c4.from-crawl, or leave it out"
            )


NO_MODELS = CrawlModels()
C4_AS_PUBLISHED = C4Files()


def llama1_corpus(
    raw: Root, models: CrawlModels = NO_MODELS, c4_files: C4Files = C4_AS_PUBLISHED
) -> Corpus:
    """The sources under `raw`, the cleanest first: of equal texts the first source's is kept.

    The paper does not mention decontamination, so there is none here; it is an option of a build,
    for all sources.
    """
    sources = (
        wikipedia_source(),
        books_source(),
        arxiv_source(),
        stack_exchange_source(),
        github_source(),
        c4_from_crawl_source(language_model=models.language, bad_words=c4_files.bad_words)
        if c4_files.from_crawl
        else c4_source(),
        common_crawl_source(
            identify_language=models.identify_language,
            language_model=models.language,
            perplexity_models=None if models.perplexity is None else {"en": models.perplexity},
            reference_model=models.reference,
        ),
    )
    return Corpus(
        name="llama1",
        sources=tuple((source, raw / source.name) for source in sources),
        rules=(
            *DISTINCT_TEXTS,
            # "Removing books with more than 90 % content overlap" (paper).
            Rule(
                "book_overlap",
                partial(book_overlap, min_overlap=0.9),
                sources=frozenset({"books"}),
            ),
        ),
        left_out=tuple(_left_out(models, c4_files)),
        shares=LLAMA1_SHARES,
        epochs=LLAMA1_EPOCHS,
        token_budget=LLAMA1_TOKENS,
    )


def _left_out(models: CrawlModels, c4_files: C4Files) -> Iterator[str]:
    if models.perplexity is None:
        yield (
            "common_crawl: perplexity filter (no model; train it by build_dataset.sh "
            "train-perplexity, set it by --models.perplexity)"
        )
    if models.reference is None:
        yield (
            "common_crawl: reference classifier (no model; train it by build_dataset.sh "
            "train-references, set it by --models.reference)"
        )
    if not models.identify_language:
        yield "common_crawl: language identification (--models.no-identify-language)"
    if c4_files.from_crawl and c4_files.bad_words is None:
        yield "c4: bad-words filter (no list; set it by --c4.bad-words)"


# -- Wikipedia ------------------------------------------------------------------------------------

WIKIPEDIA_LANGUAGES = frozenset(
    {
        *("bg", "ca", "cs", "da", "de", "en", "es", "fr", "hr", "hu"),
        *("it", "nl", "pl", "pt", "ro", "ru", "sl", "sr", "sv", "uk"),
    }
)
"""LLaMA's 20 languages (paper, section 2.1)."""


def wikipedia_source(languages: frozenset[str] = WIKIPEDIA_LANGUAGES) -> Source:
    """Articles of Wikipedia's dumps, markup removed (paper, section 2.1)."""
    return Source(
        name="wikipedia",
        inputs=partial(wikipedia.inputs, languages=languages),
        # MediaWiki stores no page above 2 MiB ($wgMaxArticleSize); the rest is XML around it.
        read=partial(wikipedia.read, languages=languages, max_page_bytes=16 << 20),
        edits=(wikipedia.drop_disambiguation, wikipedia.to_text),
        # Neither the paper nor RedPajama v1 drops short articles.
        origin="dumps.wikimedia.org",
        terms="CC BY-SA 4.0 and GFDL",
    )


# -- books ----------------------------------------------------------------------------------------


def books_source() -> Source:
    """Project Gutenberg, and the user's own books as text (LLaMA, section 2.1)."""
    return Source(
        name="books",
        inputs=books.inputs,
        read=partial(
            books.read,
            text_field="text",
            # The longest books of Project Gutenberg, its dictionaries, have below 30 MB.
            max_book_bytes=64 << 20,
            # Ten times a long paragraph, a tenth of a short story: a book per line.
            book_line_characters=5_000,
        ),
        # "The Gutenberg Project, which contains books that are in the public domain" (paper).
        edits=(partial(books.without_gutenberg, keep_copyrighted=False),),
        origin="Project Gutenberg, and the user's own books",
        terms="public domain in the USA; own books as declared",
    )


# -- arXiv ----------------------------------------------------------------------------------------


def arxiv_source() -> Source:
    """arXiv's LaTeX sources (paper, section 2.1): everything before the first section, the
    bibliography and comments removed, user-defined macros expanded inline.
    """
    return Source(
        name="arxiv",
        inputs=arxiv.inputs,
        read=partial(
            arxiv.read,
            # The archive takes submissions of up to 50 MB; figures pack by far less than 20 times.
            max_package_bytes=1 << 30,
            # Our own threshold: no paper has this much text; tables of data that it includes may.
            max_text_bytes=16 << 20,
        ),
        edits=(
            arxiv.without_comments,
            # Our own threshold: sample papers expand to at most 1.1 times their text.
            partial(arxiv.with_macros_expanded, max_growth=10),
            arxiv.with_title,
            # Our own threshold: letters without headings but for one at the end keep their text.
            partial(arxiv.without_front_matter_and_bibliography, max_front_share=0.5),
            arxiv.with_tidy_lines,
        ),
        filters=(
            # Our own threshold: empty templates and notes of withdrawal that nothing else marks.
            partial(filters.too_short, min_characters=500),
        ),
        origin="arXiv's bulk access (s3://arxiv/src)",
        terms="each paper's own license",
    )


# -- Stack Exchange -------------------------------------------------------------------------------

STACK_EXCHANGE_SITES = (
    *("stackoverflow.com", "math.stackexchange.com", "superuser.com", "askubuntu.com"),
    *("serverfault.com", "tex.stackexchange.com", "unix.stackexchange.com"),
    *("stats.stackexchange.com", "physics.stackexchange.com", "electronics.stackexchange.com"),
    *("gis.stackexchange.com", "mathoverflow.net", "apple.stackexchange.com"),
    *("english.stackexchange.com", "salesforce.stackexchange.com", "wordpress.stackexchange.com"),
    *("magento.stackexchange.com", "sharepoint.stackexchange.com", "gaming.stackexchange.com"),
    *("meta.stackexchange.com", "ell.stackexchange.com", "dba.stackexchange.com"),
    *("blender.stackexchange.com", "drupal.stackexchange.com", "mathematica.stackexchange.com"),
    *("scifi.stackexchange.com", "diy.stackexchange.com", "security.stackexchange.com"),
)
"""The 28 largest sites in English. The paper gives the number and not the names; these are the
sites with the most questions in the dump of June 2021, as counted for the dataset
flax-sentence-embeddings/stackexchange_xml."""


def stack_exchange_source(
    sites: tuple[str, ...] = STACK_EXCHANGE_SITES,
    max_sites: int | None = len(STACK_EXCHANGE_SITES),
    work_folder: Path | None = None,
) -> Source:
    """Questions with their answers, highest score first, of the 28 largest sites (paper, 2.1).

    Sites that are not listed are read while there are fewer than `max_sites`. `work_folder`: for
    temporary files of about a third of the largest `Posts.xml`.
    """
    return Source(
        name="stack_exchange",
        inputs=partial(stack_exchange.inputs, sites=sites, max_sites=max_sites),
        read=partial(
            stack_exchange.read,
            # Every post is kept, as in the paper and RedPajama v1. EleutherAI's dataset of 2020
            # keeps answers with a score of at least 3.
            min_question_score=None,
            min_answer_score=None,
            min_answers=0,
            # Stack Exchange's limit on a post is 30,000 characters of Markdown.
            max_post_bytes=4 << 20,
            max_memory_bytes=64 << 20,
            work_folder=work_folder,
        ),
        origin="Stack Exchange's data dump",
        terms="CC BY-SA 2.5, 3.0 or 4.0 by date",
    )


# -- GitHub ---------------------------------------------------------------------------------------


def github_source() -> Source:
    """The public GitHub dataset of BigQuery, and checkouts (LLaMA, section 2.1)."""
    kinds = github.GITHUB_KINDS
    return Source(
        name="github",
        inputs=partial(
            github.inputs,
            kinds=kinds,
            max_file_bytes=1 << 20,  # BigQuery's own bound on contents
            skip_folders=github.NOT_OWN_FOLDERS,
        ),
        read=partial(
            github.read,
            kinds=kinds,
            max_file_bytes=1 << 20,
            skip_folders=github.NOT_OWN_FOLDERS,
        ),
        # "Boilerplate such as headers" (paper).
        edits=(github.without_notices,),
        filters=(
            # "Only projects under the Apache, BSD and MIT licenses" (paper).
            partial(
                filters.license_not_allowed,
                allowed=frozenset({"Apache-2.0", "MIT", "BSD", "BSD-2-Clause", "BSD-3-Clause"}),
            ),
            # Our own: the phrases of generated files; the paper has no such rule.
            partial(filters.generated_code, head_characters=1_000),
            # "Line length or proportion of alphanumeric characters" (paper, without thresholds;
            # these are RedPajama v1's; docs/data/github.md says which of its filters is left out).
            partial(filters.long_line, max_characters=1_000),
            partial(filters.long_mean_line, max_characters=100.0),
            partial(filters.few_alphanumerics, min_share=0.25),
        ),
        # "Deduplicated at the file level, with exact matches" (paper); without header comments.
        same_text=strip_trailing_whitespace,
        origin="BigQuery's public dataset of GitHub, and checkouts",
        terms="each repository's license",
    )
