"""Trains quality-filter models for CommonCrawl (perplexity, reference classifier).

Both are trained on a dataset that was built without them, in the order of CCNet and LLaMA:

    build_dataset.sh                     Wikipedia articles, and unfiltered crawled pages
    build_dataset.sh train-perplexity    n-gram LM of English, from the articles
    build_dataset.sh train-references    classifier of pages that Wikipedia cites, from both
    build_dataset.sh --models.perplexity ... --models.reference ...     filtered crawled pages
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from data_pipeline.corpus import Corpus, CorpusFunction
from data_pipeline.document import Document, items_of
from data_pipeline.documents_folder import read_manifest
from data_pipeline.files.remote import root_of
from data_pipeline.filters.perplexity_training import NGramConfig, train_ngram
from data_pipeline.filters.reference_classifier import ClassifierConfig, train_reference_classifier
from data_pipeline.filters.reference_urls import collect_reference_urls


@dataclass(frozen=True)
class TrainPerplexity:
    """Train the n-gram LM of the perplexity filter on the English Wikipedia of a built dataset."""

    out: Path
    """Dataset with documents/wikipedia, and documents/common_crawl built without such a model."""
    to: Path | None = None
    """Output folder; by default OUT/models/perplexity."""
    ngram: NGramConfig = field(default_factory=NGramConfig)

    def run(self) -> str:
        """Train; returns the next step."""
        to = self.to or self.out / "models" / "perplexity"
        pages = _pages(self.out, judged_by="perplexity")
        train_ngram(
            _english(self.out / "documents" / "wikipedia"),
            (page.text for page in pages if page.language == "en"),
            to,
            language="en",
            config=self.ngram,
        )
        return f"wrote {to}; build again with --models.perplexity {to}"


@dataclass(frozen=True)
class TrainReferences:
    """Train the reference classifier (pages cited by Wikipedia or not) on crawled pages of a built
    dataset."""

    raw: str
    """Folder or URL with wikipedia/, whose English dumps give the cited URLs."""
    out: Path
    """Dataset with documents/common_crawl, built without such a classifier."""
    to: Path | None = None
    """Output file; by default OUT/models/references.bin."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)

    def run(self, corpus: CorpusFunction) -> str:
        """Train; returns the training statistics and the next step. `corpus` has Wikipedia's
        dumps."""
        to = self.to or self.out / "models" / "references.bin"
        pages = _pages(self.out, judged_by="reference_score")
        references = collect_reference_urls(_english_wikitexts(corpus(root_of(self.raw))))
        counts = train_reference_classifier(references, pages, to, config=self.classifier)
        return (
            f"wrote {to}, trained on {counts['num_references']:,} cited and "
            f"{counts['num_random']:,} random of {counts['num_pages']:,} pages "
            f"({len(references):,} URLs are cited); build again with --models.reference {to}"
        )


def _english(folder: Path) -> Iterator[str]:
    for document in _documents(folder):
        if document.language == "en":
            yield document.text


def _english_wikitexts(corpus: Corpus) -> Iterator[str]:
    source, root = corpus.source("wikipedia")
    for file in source.inputs(root).files:
        for item in items_of(source, file):
            if isinstance(item, Document):
                if item.language != "en":
                    break  # a dump has one language
                yield item.text


def _pages(out: Path, *, judged_by: str) -> Iterator[Document]:
    """Crawled pages; ValueError if they were filtered by the model that is to be trained."""
    pages = _documents(out / "documents" / "common_crawl")
    first = next(pages)  # a documents folder has at least one
    if getattr(first, judged_by) is not None:
        raise ValueError(
            f"{out}/documents/common_crawl was filtered by {judged_by.replace('_', ' ')}; train on "
            "a build without that model, else the pages that it dropped are missing"
        )
    return itertools.chain([first], pages)


def _documents(folder: Path) -> Iterator[Document]:
    """The documents of a documents folder in order; ValueError for an invalid folder."""
    for file in read_manifest(folder).files:
        with pq.ParquetFile(folder / file.path) as parquet:
            for batch in parquet.iter_batches(1_000, use_threads=False):
                for row in batch.drop_columns(["id", "source"]).to_pylist():
                    yield Document(**row)
