"""Collects build statistics for report and dataset card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.build.build_corpus import CLUSTERS, RULES
from data_pipeline.build.costs import Deviation, StageCost
from data_pipeline.build.duplicate_samples import load_clusters
from data_pipeline.build.removal_requests import REQUESTED
from data_pipeline.corpus import Corpus
from data_pipeline.document import Source
from data_pipeline.documents_folder import Manifest
from data_pipeline.filters.decontamination import IndexAccount
from data_pipeline.report.account import (
    BuildAccount,
    CostRow,
    DropExample,
    EvaluationAccount,
    FileAccount,
    KeptSample,
    MixtureRow,
    SourceAccount,
    TokenizerAccount,
    source_account,
)
from data_pipeline.tokens.special_tokens import read_object
from data_pipeline.tokens.store import Split, SplitManifest, StoreManifest

MAX_FILES = 100
"""Input files per source in the report; `inputs.parquet` has all."""
_KINDS = {"sentencepiece": "SentencePiece", "huggingface": "Hugging Face tokenizers"}


@dataclass(frozen=True)
class TokenizerOrigin:
    """Origin of a store's tokenizer, for the report."""

    trained_on: str
    """Training text, in words."""
    special: str = ""
    """BOS and EOS and where they were found, for Hugging Face tokenizers."""

    @staticmethod
    def trained(sample_bytes: int) -> TokenizerOrigin:
        return TokenizerOrigin(
            f"these documents, up to {sample_bytes:,} bytes by the corpus's shares"
        )

    @staticmethod
    def given(folder: Path, path: Path) -> TokenizerOrigin:
        """Of the user's tokenizer `path`, converted into `folder`."""
        found = read_object(folder / "manifest.json")
        special = [
            f"{role.upper()} {found[f'{role}_token']} ({found[f'{role}_token_from']})"
            for role in ("bos", "eos")
            if f"{role}_token_from" in found
        ]
        return TokenizerOrigin(f"unknown text: {path.name} was given", ", ".join(special))


def account_of(
    corpus: Corpus,
    documents: Path,
    manifests: Mapping[str, Manifest],
    *,
    undone: tuple[str, ...],
    evaluations: IndexAccount | None,
    store: StoreManifest | None,
    tokenizer: TokenizerOrigin | None,
    predicted: Sequence[StageCost],
    deviations: Sequence[Deviation],
) -> BuildAccount:
    """Statistics of a finished build; `documents` contains its documents folders."""
    versions = {k: v for m in manifests.values() for k, v in m.versions.items()}
    rules = [rule.name for rule in corpus.rules]
    if any(REQUESTED in manifest.dropped for manifest in manifests.values()):
        rules.append(REQUESTED)
    return BuildAccount(
        corpus=corpus.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        sources=tuple(
            _source(
                corpus.source(name)[0],
                documents / name,
                manifest,
                rules,
                None if store is None else store.sources.get(name),
            )
            for name, manifest in manifests.items()
        ),
        left_out=corpus.left_out,
        added=corpus.added,
        undone=undone,
        requested_removals=sum(m.dropped.get(REQUESTED, 0) for m in manifests.values()),
        examples=tuple(e for name in manifests for e in _examples(documents / name, name)),
        samples=tuple(s for name in manifests for s in _samples(documents / name, name)),
        clusters=tuple(load_clusters(documents / RULES / CLUSTERS)),
        evaluations=() if evaluations is None else tuple(_evaluations(manifests, evaluations)),
        tokenizer=None if store is None or tokenizer is None else _tokenizer(tokenizer, store),
        mixture=() if store is None else tuple(_mixture(corpus, store)),
        token_budget=None if store is None else corpus.token_budget,
        costs=tuple(_costs(predicted, deviations)),
        versions=dict(sorted(versions.items())),
        fingerprints={
            **{name: manifest.fingerprint for name, manifest in manifests.items()},
            **({} if store is None else {"store": store.fingerprint}),
        },
    )


def _source(
    source: Source,
    folder: Path,
    manifest: Manifest,
    rules: Sequence[str],
    splits: Mapping[Split, SplitManifest] | None,
) -> SourceAccount:
    return source_account(
        manifest,
        rules,
        license_bytes=manifest.license_bytes,
        num_tokens=None if splits is None else sum(s.num_tokens for s in splits.values()),
        unknown_bytes=None if splits is None else sum(s.num_byte_tokens for s in splits.values()),
        origin=source.origin,
        terms=source.terms,
        files=tuple(_files(folder)),
    )


def _files(folder: Path) -> Iterator[FileAccount]:
    """The largest input files."""
    table = pq.read_table(folder / "inputs.parquet")
    order = pc.sort_indices(table, [("bytes", "descending"), ("source_file", "ascending")])
    for row in table.take(order[:MAX_FILES]).to_pylist():
        yield FileAccount(
            name=row["source_file"],
            num_bytes=row["bytes"],
            read=row["num_read"],
            dropped=row["num_dropped"],
            text_bytes=row["num_text_bytes"],
        )


def _samples(folder: Path, source: str) -> Iterator[KeptSample]:
    for row in pq.read_table(folder / "samples.parquet").to_pylist():
        yield KeptSample(source=source, **row)


def _examples(folder: Path, source: str) -> Iterator[DropExample]:
    for row in pq.read_table(folder / "examples.parquet").to_pylist():
        yield DropExample(source=source, **row)


def _evaluations(
    manifests: Mapping[str, Manifest], evaluations: IndexAccount
) -> Iterator[EvaluationAccount]:
    hits = sum((Counter(m.contaminated) for m in manifests.values()), Counter[str]())
    for name, found in evaluations.sets.items():
        yield EvaluationAccount(name, found.items, found.indexed, hits[name])


def _tokenizer(origin: TokenizerOrigin, store: StoreManifest) -> TokenizerAccount:
    kind = _KINDS[store.tokenizer_kind]
    return TokenizerAccount(
        kind=f"{kind}; {origin.special}" if origin.special else kind,
        vocab_size=store.vocab_size,
        sha256=store.tokenizer_sha256,
        trained_on=origin.trained_on,
        bytes_per_token={n: splits["train"].bytes_per_token for n, splits in store.sources.items()},
    )


def _mixture(corpus: Corpus, store: StoreManifest) -> Iterator[MixtureRow]:
    """The mixture by the corpus's shares, renormalized over the store's sources; else by tokens."""
    tokens = {name: splits["train"].num_tokens for name, splits in store.sources.items()}
    weights = corpus.shares_of(list(tokens)) or tokens
    total = sum(weights.values())
    for name, splits in store.sources.items():
        train = splits["train"]
        yield MixtureRow(
            source=name,
            documents=train.num_documents,
            text_bytes=train.num_text_bytes,
            tokens=train.num_tokens,
            share=weights[name] / total,
            stated_share=corpus.shares.get(name),
            stated_epochs=corpus.epochs.get(name),
        )


def _costs(predicted: Sequence[StageCost], deviations: Sequence[Deviation]) -> Iterator[CostRow]:
    for row in deviations:
        own = [cost for cost in predicted if cost.stage == row.stage]
        yield CostRow(
            stage=row.stage,
            predicted_core_hours=_hours(row.predicted_seconds),
            core_hours=_hours(row.measured_seconds),
            predicted_memory_bytes=max((cost.memory_bytes for cost in own), default=None),
            memory_bytes=row.peak_bytes,
            predicted_disk_bytes=sum(cost.disk_bytes for cost in own) if own else None,
            disk_bytes=row.disk_bytes,
        )


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600
