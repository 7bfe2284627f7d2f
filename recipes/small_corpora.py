"""Small built-in corpora."""

from __future__ import annotations

import platform
import sysconfig
from functools import partial
from pathlib import Path

from data_pipeline.corpus import Corpus
from data_pipeline.document import Source
from data_pipeline.filters import heuristics as filters
from data_pipeline.sources import github

PERMISSIVE = frozenset(
    {
        *("Apache-2.0", "MIT", "BSD", "BSD-2-Clause", "BSD-3-Clause"),
        *("0BSD", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT-0", "MIT-CMU", "PSF-2.0"),
        *("Unlicense", "Zlib"),
    }
)
"""Licenses of the built-in corpus: LLaMA's three families (first line; paper, section 2.1), and
others that ask for no more than a notice. Every copyleft license stays out, MPL-2.0 included."""

CODE_FILTERS = (
    # Shorter files are package markers and re-exports; our own threshold.
    partial(filters.too_short, min_characters=200),
    partial(filters.generated_code, head_characters=1_000),
    # RedPajama v1, GitHub: longest line, mean line, letters and digits among all characters.
    partial(filters.long_line, max_characters=1_000),
    partial(filters.long_mean_line, max_characters=100.0),
    partial(filters.few_alphanumerics, min_share=0.25),
    # Tables of numbers and characters: above a tenth lie a few tables and no other file of the
    # standard library. Our own threshold.
    partial(filters.many_digits, max_share=0.1),
    partial(filters.license_not_allowed, allowed=PERMISSIVE),
)


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
        licenses=PERMISSIVE,
        max_total_bytes=max_bytes // 2,
    )
    library = Source(
        name="python_library",
        inputs=partial(tree, title=f"Python {platform.python_version()}", license="PSF-2.0"),
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
