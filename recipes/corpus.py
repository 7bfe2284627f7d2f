"""Which text goes in: lists of sources with their thresholds."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_pipeline import code_files, filters
from data_pipeline.code_headers import without_notices
from data_pipeline.document import Source
<<<<<<< HEAD
from data_pipeline.sources import books, folder, github, github_rows
from data_pipeline.text import without_line_end_space
=======
from data_pipeline.sources import folder, github, stack_exchange, wikipedia
>>>>>>> a658981ac893d7ce43df7ca9fa29a0d3cb72f2b2

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


# Wikipedia

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
    )


# Stack Exchange

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
sites with the most questions in the dump of June 2021, as counted for the data set
flax-sentence-embeddings/stackexchange_xml."""


def stack_exchange_source(
    sites: tuple[str, ...] = STACK_EXCHANGE_SITES,
    max_sites: int | None = len(STACK_EXCHANGE_SITES),
    work_folder: Path | None = None,
) -> Source:
    """Questions with their answers, highest score first, of the 28 largest sites (paper, 2.1).

    Sites that are not listed are read while fewer than `max_sites` are there. `work_folder` gets
    temporary data of about a third of the largest `Posts.xml`.
    """
    return Source(
        name="stack_exchange",
        inputs=partial(stack_exchange.inputs, sites=sites, max_sites=max_sites),
        read=partial(
            stack_exchange.read,
            # Every post counts, as in the paper and RedPajama v1. EleutherAI's data set of 2020
            # takes answers from a score of 3.
            min_question_score=None,
            min_answer_score=None,
            min_answers=0,
            # Stack Exchange's limit on a post is 30,000 characters of Markdown.
            max_post_bytes=4 << 20,
            max_memory_bytes=64 << 20,
            work_folder=work_folder,
        ),
    )


@dataclass(frozen=True)
class Corpus:
    """Named raw text: each source with the folder (or file) that it reads."""

    name: str
    sources: tuple[tuple[Source, Path], ...]
    left_out: tuple[str, ...] = ()
    """Steps of the paper that this build does without, each with what would bring it in."""

    def only(self, names: Sequence[str]) -> Corpus:
        """The corpus with the sources of these names."""
        return replace(self, sources=tuple(s for s in self.sources if s[0].name in names))


def builtin_corpus(*, max_bytes: int = 24_000_000) -> Corpus:
    """Text that every Python installation has: Python files and documents of its standard library
    and of its installed packages, each up to half of `max_bytes`.
    """
    tree = partial(
        github.inputs,
        suffixes=frozenset({".py"}) | code_files.DOCUMENT_SUFFIXES,
        # Larger files are tables, mostly. GitHub's code search leaves out files above this.
        max_file_bytes=384 * 1024,
        skip_folders=code_files.NOT_OWN_FOLDERS | code_files.TEST_FOLDERS,
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


def github_source() -> Source:
    """The public GitHub data set of BigQuery, and checkouts (LLaMA, section 2.1)."""
    kinds = code_files.GITHUB_KINDS
    return Source(
        name="github",
        inputs=partial(
            github_rows.inputs,
            kinds=kinds,
            max_file_bytes=1 << 20,  # BigQuery's own bound on contents
            skip_folders=code_files.NOT_OWN_FOLDERS,
        ),
        read=partial(github_rows.read, kinds=kinds, skip_folders=code_files.NOT_OWN_FOLDERS),
        # "Boilerplate such as headers" (paper).
        edits=(without_notices,),
        filters=(
            # "Only projects under the Apache, BSD and MIT licences" (paper).
            partial(
                filters.licence_not_allowed,
                allowed=frozenset({"Apache-2.0", "MIT", "BSD", "BSD-2-Clause", "BSD-3-Clause"}),
            ),
            # Our own: the phrases of generated files; the paper has no such rule.
            partial(filters.generated_code, head_characters=1_000),
            # "Line length or proportion of alphanumeric characters" (paper, without figures; these
            # are RedPajama v1's, and docs/data/github.md says which of its rules is left out).
            partial(filters.long_line, max_characters=1_000),
            partial(filters.long_mean_line, max_characters=100.0),
            partial(filters.few_alphanumerics, min_share=0.25),
        ),
        # "Deduplicated at the file level, with exact matches" (paper). The header is off by then.
        same_text=without_line_end_space,
    )


def books_source() -> Source:
    """Project Gutenberg, and books that one has as text (LLaMA, section 2.1)."""
    return Source(
        name="books",
        inputs=books.inputs,
        read=partial(
            books.read,
            text_field="text",
            # The longest books of Project Gutenberg, its dictionaries, have below 30 MB.
            max_book_bytes=64 << 20,
            # Ten times a long paragraph, a tenth of a short story.
            book_line_characters=5_000,
        ),
        # "The Gutenberg Project, which contains books that are in the public domain" (paper).
        edits=(partial(books.without_gutenberg, keep_copyrighted=False),),
    )
