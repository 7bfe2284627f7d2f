"""Trains the tokenizer, n-gram LM and cut-offs of one language for `perplexity`, on Wikipedia."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import sentencepiece

from data_pipeline.document import content_id
from data_pipeline.files.atomic import atomic_directory
from data_pipeline.filters.ngram import BEGIN, END, UNKNOWN, Ints, NGramModel, write_arpa
from data_pipeline.filters.ngram_training import train_model
from data_pipeline.filters.perplexity import numpy_scorer, perplexity
from data_pipeline.sampling import SmallestHashes, keyed_hash
from data_pipeline.text.normal_forms import normalize_for_scoring

_UNKNOWN_ID, _BEGIN_ID, _END_ID = 0, 1, 2
_MAX_LINE_CHARACTERS = 1_000  # SentencePiece skips lines of more than 4192 bytes


@dataclass(frozen=True)
class NGramConfig:
    """Training settings of one language's models; the first three numbers are CCNet's."""

    order: int = 5
    vocab_size: int = 65_536
    character_coverage: float = 0.9995
    tokenizer_bytes: int = 50_000_000
    """Training text of the tokenizer at most, in UTF-8 bytes of normalized text."""
    ngram_bytes: int = 50_000_000
    """Training text of the n-gram model at most; about 50 bytes of memory per byte."""
    cutoff_pages: int = 10_000
    """Crawled pages on which the cut-offs are measured, at most."""
    head_percentile: float = 30.0
    tail_percentile: float = 60.0
    """Percentiles of the pages' perplexities between head, middle and tail (CCNet)."""
    seed: int = 0
    """Seed for sampling documents where there are more than are used."""

    def __post_init__(self) -> None:
        for name in ("order", "vocab_size", "tokenizer_bytes", "ngram_bytes", "cutoff_pages"):
            if getattr(self, name) <= 0:
                raise ValueError(f"ngram.{name} ({getattr(self, name)}) must be positive")
        if not 0 <= self.head_percentile <= self.tail_percentile <= 100:
            raise ValueError(
                f"ngram.head_percentile ({self.head_percentile}) and ngram.tail_percentile "
                f"({self.tail_percentile}) must be in this order within 0 to 100"
            )


def train_ngram(
    documents: Iterable[str],
    pages: Iterable[str],
    out: Path,
    *,
    language: str,
    config: NGramConfig,
) -> None:
    """Train on clean `documents`, measure cut-offs on crawled `pages` of the same language, and
    publish the folder `out`, which `perplexity.perplexity_model` reads.

    Both are read once; the normalized documents are spooled to a temporary file beside `out`.
    Deterministic: equal documents and pages in any order give equal bytes. ValueError if there is
    no document or no page.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=out.parent) as spool:
        num_documents, num_bytes = _spool(documents, spool)
        if num_documents == 0:
            raise ValueError(f"there is no text to train the n-gram model for '{language}' on")
        tokenizer = _train_tokenizer(
            _sample(spool, config.tokenizer_bytes / num_bytes, config), config
        )
        processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
        ids = _token_ids(_sample(spool, config.ngram_bytes / num_bytes, config), processor)
    model = _train_counts(ids, processor, config)
    cutoffs = _measure_cutoffs(pages, model, processor, language, config)
    with atomic_directory(out) as folder:
        (folder / f"{language}.sp.model").write_bytes(tokenizer)
        with (folder / f"{language}.arpa").open("wb") as file:
            write_arpa(model, file)
        written = {**cutoffs, "config": asdict(config), "num_documents": num_documents}
        (folder / f"{language}.cutoffs.json").write_text(json.dumps(written, indent=2) + "\n")


def _spool(documents: Iterable[str], spool: BinaryIO) -> tuple[int, int]:
    """Write the documents as normalized lines; returns (documents, bytes)."""
    num_documents = 0
    for text in documents:
        if line := normalize_for_scoring(text):
            spool.write(line.encode() + b"\n")
            num_documents += 1
    return num_documents, spool.tell()


def _sample(spool: BinaryIO, share: float, config: NGramConfig) -> list[str]:
    """About `share` of the documents, sampled and ordered by a keyed hash."""
    spool.seek(0)
    chosen: dict[int, str] = {}
    for line in spool:
        text = line.decode().rstrip("\n")
        key = keyed_hash(text, config.seed)
        if key < share * 2**64:
            chosen[key] = text
    if not chosen:
        raise ValueError(
            "ngram.tokenizer_bytes and ngram.ngram_bytes leave no document to train on; raise them"
        )
    return [chosen[key] for key in sorted(chosen)]


def _train_tokenizer(documents: list[str], config: NGramConfig) -> bytes:
    """The bytes of a SentencePiece unigram model, as CCNet's."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_short_lines(documents),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            # A small text supports fewer pieces.
            hard_vocab_limit=False,
            character_coverage=config.character_coverage,
            unk_id=_UNKNOWN_ID,
            bos_id=_BEGIN_ID,
            eos_id=_END_ID,
            unk_piece=UNKNOWN,
            bos_piece=BEGIN,
            eos_piece=END,
            # With several threads floating-point sums differ from run to run.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"the tokenizer for the n-gram model cannot be trained: {error}"
        ) from error
    return model.getvalue()


def _short_lines(documents: list[str]) -> Iterator[str]:
    for text in documents:
        begin = 0
        while begin < len(text):
            end = begin + _MAX_LINE_CHARACTERS
            if end < len(text):
                end = max(text.rfind(" ", begin, end), begin) + 1 if " " in text[begin:end] else end
            yield text[begin:end]
            begin = end


def _token_ids(documents: list[str], processor: Any) -> Ints:
    parts = [
        np.array([_BEGIN_ID, *processor.encode(text), _END_ID], dtype=np.int32)
        for text in documents
    ]
    return np.concatenate(parts).astype(np.int64)


def _train_counts(ids: Ints, processor: Any, config: NGramConfig) -> NGramModel:
    words = [processor.id_to_piece(index) for index in range(processor.vocab_size())]
    return train_model(ids, words, order=config.order, begin=_BEGIN_ID, end=_END_ID)


def _measure_cutoffs(
    pages: Iterable[str], model: NGramModel, processor: Any, language: str, config: NGramConfig
) -> dict[str, float | int]:
    sample: SmallestHashes[str] = SmallestHashes(config.cutoff_pages, config.seed)
    for text in pages:
        sample.add(content_id(text), text)
    if not len(sample):
        raise ValueError(
            f"there is no crawled page in '{language}' on which to measure the perplexity cut-offs"
        )
    score = numpy_scorer(model)
    values = [perplexity(text, processor, score) for text in sample.items()]
    head, tail = np.percentile(values, [config.head_percentile, config.tail_percentile])
    return {"head_below": float(head), "tail_from": float(tail), "num_pages": len(values)}
