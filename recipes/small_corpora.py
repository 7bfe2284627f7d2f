"""Which text goes in: lists of sources with their thresholds."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_pipeline.build.build_corpus import DISTINCT_TEXTS
from data_pipeline.dedup.rule import Rule
from data_pipeline.document import Edit, Source
from data_pipeline.files.remote import Root
from data_pipeline.filters import heuristics as filters
from data_pipeline.sources import folder, github

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
    sources: tuple[tuple[Source, Root], ...]
    rules: tuple[Rule, ...] = DISTINCT_TEXTS
    """By which documents are compared, in this order."""
    left_out: tuple[str, ...] = ()
    """Steps of the paper that this build does without: "source: step (what would bring it in)"."""

    def only(self, names: Sequence[str]) -> Corpus:
        """The corpus with the sources of these names."""
        return replace(
            self,
            sources=tuple(s for s in self.sources if s[0].name in names),
            left_out=tuple(step for step in self.left_out if step.split(":")[0] in names),
        )

    def with_last_edit(self, edit: Edit) -> Corpus:
        """The corpus with one more edit, after all others of every source."""
        sources = [(replace(s, edits=(*s.edits, edit)), root) for s, root in self.sources]
        return replace(self, sources=tuple(sources))


def builtin_corpus(*, max_bytes: int = 24_000_000) -> Corpus:
    """Text that every Python installation has: Python files and documents of its standard library
    and of its installed packages, each up to half of `max_bytes`.
    """
    tree = partial(
        github.checkout_inputs,
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
        read=github.read_checkout,
        filters=CODE_FILTERS,
    )
    packages = Source(
        name="python_packages", inputs=tree, read=github.read_checkout, filters=CODE_FILTERS
    )
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
