"""Perplexity under an n-gram LM of high-quality text (CCNet's quality filter).

CCNet (Wenzek et al., arXiv 1911.00359, section 3.3): a 5-gram Kneser-Ney model on SentencePiece
tokens of Wikipedia scores every page, and the pages of a language are divided by perplexity into
head, middle and tail.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import sentencepiece

from data_pipeline.document import Document
from data_pipeline.files.model_file import ModelFile, model_file
from data_pipeline.filters.ngram import NGramModel, read_arpa
from data_pipeline.text.normal_forms import normalize_for_scoring

_PUBLISHED = "https://dl.fbaipublicfiles.com/cc_net/lm ({language}.arpa.bin, {language}.sp.model)"
_MADE_BY = "`build_dataset.sh train-perplexity`, from Wikipedia's text in this language"
_NGRAM_SUFFIXES = (".arpa", ".arpa.gz", ".arpa.bin")


@dataclass(frozen=True)
class PerplexityModel:
    """The models of one language, and the cut-offs of its perplexity buckets."""

    language: str
    tokenizer: ModelFile
    ngram: ModelFile
    head_below: float
    """Perplexities below are "head"."""
    tail_from: float
    """Perplexities from here on are "tail"; between is "middle"."""

    def bucket(self, perplexity: float) -> str:
        if perplexity < self.head_below:
            return "head"
        return "middle" if perplexity < self.tail_from else "tail"


def perplexity_model(
    language: str, folder: Path, *, published_cutoffs: Mapping[str, tuple[float, float]]
) -> PerplexityModel:
    """The files `<language>.sp.model`, `<language>.arpa[.gz|.bin]` and, for a model trained here,
    `<language>.cutoffs.json` in `folder`; without the latter, the published models' cut-offs apply.
    ValueError where something is missing, or the model is in KenLM's binary format and KenLM is
    not installed.
    """
    where = {
        "published": _PUBLISHED.format(language=language),
        "made_by": _MADE_BY,
        "left_out_by": "leave --models.perplexity out",
    }
    tokenizer = folder / f"{language}.sp.model"
    candidates = [folder / f"{language}{suffix}" for suffix in _NGRAM_SUFFIXES]
    ngram = next((path for path in candidates if path.is_file()), candidates[0])
    files = (
        model_file(tokenizer, what=f"the SentencePiece model for '{language}'", **where),
        model_file(ngram, what=f"the n-gram model for '{language}'", **where),
    )
    if ngram.suffix == ".bin" and not has_kenlm():
        raise ValueError(
            f"{ngram} is in KenLM's binary format, which only the package kenlm reads (pip install "
            "kenlm; it needs a compiler); models in ARPA format are read without it"
        )
    head_below, tail_from = _cutoffs(
        folder / f"{language}.cutoffs.json", language, published_cutoffs
    )
    return PerplexityModel(language, *files, head_below, tail_from)


def _cutoffs(
    path: Path, language: str, published: Mapping[str, tuple[float, float]]
) -> tuple[float, float]:
    if path.is_file():
        found = json.loads(path.read_bytes())
        return float(found["head_below"]), float(found["tail_from"])
    if language not in published:
        raise ValueError(
            f"{path} is missing, and no cut-offs of a published model are known for '{language}' "
            f"(only for {', '.join(sorted(published))}); it should hold "
            '{"head_below": number, "tail_from": number}'
        )
    return published[language]


def measure_perplexity(document: Document, *, models: tuple[PerplexityModel, ...]) -> Document:
    """Edit: perplexity under the model of the document's language; none without such a model."""
    for model in models:
        if model.language == document.language:
            value = perplexity(
                document.text, load_tokenizer(model.tokenizer), _load_scorer(model.ngram)
            )
            return replace(document, perplexity=value)
    return document


def outside_buckets(
    document: Document, *, models: tuple[PerplexityModel, ...], keep: frozenset[str]
) -> str | None:
    """Filter: the perplexity bucket is not among `keep`; reason "perplexity_tail" for "tail".
    Documents without a perplexity are kept."""
    if document.perplexity is None:
        return None
    bucket = next(m.bucket(document.perplexity) for m in models if m.language == document.language)
    return None if bucket in keep else f"perplexity_{bucket}"


Scorer = Callable[[Sequence[str]], float]
"""log10 of the probability of a sentence's tokens and </s>."""


def perplexity(text: str, tokenizer: Any, score: Scorer) -> float:
    """Perplexity per token, </s> included, rounded to one decimal, as CCNet. The whole text is one
    sentence."""
    tokens: list[str] = tokenizer.encode(normalize_for_scoring(text), out_type=str)
    return round(float(10.0 ** (-score(tokens) / (len(tokens) + 1))), 1)


def has_kenlm() -> bool:
    return importlib.util.find_spec("kenlm") is not None


def kenlm_scorer(path: Path) -> Scorer:
    """Scores with KenLM."""
    import kenlm

    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    model = kenlm.Model(str(path), config)

    def score(tokens: Sequence[str]) -> float:
        return float(model.score(" ".join(tokens)))

    return score


def numpy_scorer(model: NGramModel) -> Scorer:
    """Scores in numpy; equal to KenLM up to its single precision."""
    return model.score


@lru_cache(maxsize=32)
def load_tokenizer(file: ModelFile) -> Any:
    """The SentencePiece model, loaded once per process."""
    return sentencepiece.SentencePieceProcessor(model_file=str(file.path))


@lru_cache(maxsize=32)
def _load_scorer(file: ModelFile) -> Scorer:
    """The n-gram model, loaded once per process, by KenLM where that is installed."""
    return kenlm_scorer(file.path) if has_kenlm() else numpy_scorer(read_arpa(file.path))
