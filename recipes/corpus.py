"""Which text goes in: lists of sources with their thresholds."""

from __future__ import annotations

import platform
import sysconfig
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipeline import filters
from data_pipeline.document import Source
from data_pipeline.sources import arxiv, folder, github

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


def arxiv_source() -> Source:
    """The archive's LaTeX sources (paper, section 2.1): everything before the first section, the
    bibliography and comments removed, definitions and macros of the authors expanded in line.
    """
    return Source(
        name="arxiv",
        inputs=arxiv.inputs,
        read=partial(
            arxiv.read,
            # The archive takes submissions of up to 50 MB; figures pack by far less than 20 times.
            max_package_bytes=1 << 30,
            # Our own figure: no paper has this much text; tables of data that it includes may.
            max_text_bytes=16 << 20,
        ),
        edits=(
            arxiv.without_comments,
            # Our own figure: sample papers expand to at most 1.1 times their text.
            partial(arxiv.with_macros_expanded, max_growth=10),
            arxiv.with_title,
            # Our own figure: letters without headings but for one at the end keep their text.
            partial(arxiv.without_front_matter_and_bibliography, max_front_share=0.5),
            arxiv.with_tidy_lines,
        ),
        filters=(
            # Our own figure: empty templates and notes of withdrawal that nothing else marks.
            partial(filters.too_short, min_characters=500),
        ),
    )
