"""Language identification with fastText's linear classifier (lid.176), as in CCNet.

Joulin et al., "Bag of Tricks for Efficient Text Classification" (arXiv 1607.01759); CCNet: Wenzek
et al., "CCNet: Extracting High Quality Monolingual Datasets from Web Crawl Data" (arXiv
1911.00359).
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import fasttext

from data_pipeline.document import Document
from data_pipeline.files.model_file import ModelFile, model_file

_CAPITAL = re.compile(r"[A-ZÀ-ÖØ-ÞΑ-ΩЀ-Я]")
_SAMPLE_CHARACTERS = 128
"""So many tell whether a text is in capitals."""
_LABEL = "__label__"
_PUBLISHED = "https://fasttext.cc/docs/en/language-identification.html (lid.176.bin, lid.176.ftz)"
_SHIPPED = Path(__file__).with_name("lid.176.ftz")
"""Beside this file, with its license, CC BY-SA 3.0."""


def language_model(path: Path | None) -> ModelFile:
    """The model at `path`, or lid.176.ftz, which comes with this package.

    ValueError if there is none at `path`.
    """
    return model_file(
        path or _SHIPPED,
        what="a fastText model for language identification",
        published=_PUBLISHED,
        made_by="no command; with no path given, lid.176.ftz of the package data_pipeline is used",
        left_out_by="--models.no-identify-language keeps pages of every language",
    )


def identify_language(document: Document, *, model: ModelFile, max_characters: int) -> Document:
    """Edit: the most probable language of the text's first `max_characters`, and its probability.

    CCNet's code reads the whole text. The first 1,000 characters give the same language for 699 of
    700 documents of C4, three times as fast. Texts in capitals are read in lower case, which the
    model was trained on.
    """
    text = document.text[:max_characters].replace("\n", " ")
    sample = text[:: 1 + len(text) // _SAMPLE_CHARACTERS]
    if len(_CAPITAL.findall(sample)) > len(sample) / 2:
        text = text.lower()
    labels, scores = _load(model).predict(text)
    if not labels:
        return replace(document, language=None, language_score=0.0)
    # fastText's probabilities exceed 1 in the sixth digit.
    score = min(float(scores[0]), 1.0)
    return replace(document, language=labels[0].removeprefix(_LABEL), language_score=score)


def uncertain_language(document: Document, *, min_score: float) -> str | None:
    """Filter: the probability of the language is below `min_score`. CCNet: 0.5."""
    return "uncertain_language" if (document.language_score or 0.0) < min_score else None


def other_language(document: Document, *, languages: frozenset[str]) -> str | None:
    """Filter: the language is not among `languages` (ISO 639-1 where there is a code)."""
    return None if document.language in languages else "other_language"


@lru_cache(maxsize=2)
def _load(model: ModelFile) -> Any:
    """The model, loaded once per process."""
    return fasttext.load_model(str(model.path))
