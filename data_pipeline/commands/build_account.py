"""The account of a build: what its report, its numbers and its card are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pyarrow.parquet as pq

from data_pipeline.build.build_corpus import CLUSTERS, RULES
from data_pipeline.build.costs import Deviation, StageCost
from data_pipeline.build.duplicate_samples import load_clusters
from data_pipeline.build.removal_requests import REQUESTED
from data_pipeline.commands.options import BuildDataset
from data_pipeline.documents_folder import Manifest
from data_pipeline.filters.decontamination import IndexAccount
from data_pipeline.report.account import (
    BuildAccount,
    CostRow,
    DropExample,
    EvaluationAccount,
    MixtureRow,
    SourceAccount,
    TokenizerAccount,
    source_account,
)
from data_pipeline.tokens.store import Split, SplitManifest, StoreManifest
from recipes.llama import LLAMA1_EPOCHS, LLAMA1_SHARES, LLAMA1_TOKENS
from recipes.small_corpora import Corpus

ORIGINS = {
    "wikipedia": ("dumps.wikimedia.org", "CC BY-SA 4.0 and GFDL"),
    "books": (
        "Project Gutenberg, and books that one has",
        "public domain in the USA; own books as told",
    ),
    "arxiv": ("arXiv's bulk access (s3://arxiv/src)", "each paper's own licence"),
    "stack_exchange": ("Stack Exchange's data dump", "CC BY-SA 2.5, 3.0 or 4.0 by date"),
    "github": ("BigQuery's public data set of GitHub, and checkouts", "each repository's licence"),
    "c4": ("allenai/c4 on the Hugging Face hub", "ODC-BY, and CommonCrawl's terms of use"),
    "common_crawl": ("commoncrawl.org", "CommonCrawl's terms of use"),
}
"""Where each source's raw files come from, and on which terms."""


def account_of(
    options: BuildDataset,
    corpus: Corpus,
    manifests: Mapping[str, Manifest],
    evaluations: IndexAccount | None,
    store: StoreManifest | None,
    predicted: Sequence[StageCost],
    deviations: Sequence[Deviation],
) -> BuildAccount:
    """Everything that is known about a finished build."""
    documents = options.out / "documents"
    versions = {k: v for m in manifests.values() for k, v in m.versions.items()}
    rules = [rule.name for rule in corpus.rules]
    if any(REQUESTED in manifest.dropped for manifest in manifests.values()):
        rules.append(REQUESTED)
    return BuildAccount(
        corpus=corpus.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        sources=tuple(
            _source(manifest, rules, None if store is None else store.sources.get(name))
            for name, manifest in manifests.items()
        ),
        left_out=corpus.left_out,
        undone=options.undo,
        requested_removals=sum(m.dropped.get(REQUESTED, 0) for m in manifests.values()),
        examples=tuple(e for name in manifests for e in _examples(documents / name, name)),
        clusters=tuple(load_clusters(documents / RULES / CLUSTERS)),
        evaluations=() if evaluations is None else tuple(_evaluations(manifests, evaluations)),
        tokenizer=None if store is None else _tokenizer(options, store),
        mixture=() if store is None else tuple(_mixture(store)),
        token_budget=None if store is None else LLAMA1_TOKENS,
        costs=tuple(_costs(predicted, deviations)),
        versions=dict(sorted(versions.items())),
        fingerprints={
            **{name: manifest.fingerprint for name, manifest in manifests.items()},
            **({} if store is None else {"store": store.fingerprint}),
        },
    )


def _source(
    manifest: Manifest, rules: Sequence[str], splits: Mapping[Split, SplitManifest] | None
) -> SourceAccount:
    origin, terms = ORIGINS.get(manifest.source, ("", ""))
    return source_account(
        manifest,
        rules,
        licence_bytes=manifest.licence_bytes,
        num_tokens=None if splits is None else sum(s.num_tokens for s in splits.values()),
        unknown_bytes=None if splits is None else sum(s.num_byte_tokens for s in splits.values()),
        origin=origin,
        terms=terms,
    )


def _examples(folder: Path, source: str) -> Iterator[DropExample]:
    for row in pq.read_table(folder / "examples.parquet").to_pylist():
        yield DropExample(source=source, **row)


def _evaluations(
    manifests: Mapping[str, Manifest], evaluations: IndexAccount
) -> Iterator[EvaluationAccount]:
    hits = sum((Counter(m.contaminated) for m in manifests.values()), Counter[str]())
    for name, found in evaluations.sets.items():
        yield EvaluationAccount(name, found.items, found.indexed, hits[name])


def _tokenizer(options: BuildDataset, store: StoreManifest) -> TokenizerAccount:
    chosen = options.tokenizer
    trained_on = (
        f"these documents, up to {chosen.sample_bytes:,} bytes by the paper's shares"
        if chosen.path is None
        else f"unknown text: {chosen.path.name} was given"
    )
    return TokenizerAccount(
        kind="SentencePiece BPE, byte fallback, digits split",
        vocab_size=store.vocab_size,
        sha256=store.tokenizer_sha256,
        trained_on=trained_on,
        bytes_per_token={n: splits["train"].bytes_per_token for n, splits in store.sources.items()},
    )


def _mixture(store: StoreManifest) -> Iterator[MixtureRow]:
    """The sources by the paper's shares, scaled to those that there are."""
    total = sum(LLAMA1_SHARES[name] for name in store.sources)
    for name, splits in store.sources.items():
        train = splits["train"]
        yield MixtureRow(
            source=name,
            documents=train.num_documents,
            text_bytes=train.num_text_bytes,
            tokens=train.num_tokens,
            share=LLAMA1_SHARES[name] / total,
            paper_share=LLAMA1_SHARES[name],
            paper_epochs=LLAMA1_EPOCHS[name],
        )


def _costs(predicted: Sequence[StageCost], deviations: Sequence[Deviation]) -> Iterator[CostRow]:
    for row in deviations:
        own = [cost for cost in predicted if cost.stage == row.stage]
        yield CostRow(
            stage=row.stage,
            predicted_core_hours=_hours(row.predicted_seconds),
            core_hours=_hours(row.measured_seconds),
            predicted_memory_bytes=max((cost.memory_bytes for cost in own), default=None),
            predicted_disk_bytes=sum(cost.disk_bytes for cost in own) if own else None,
        )


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600
