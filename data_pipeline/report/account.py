"""Build statistics: documents, bytes, drop reasons and costs per stage, for report and dataset
card.

`report_page` renders it, report.json is `to_json`, the dataset card quotes it. Byte counts are
UTF-8 bytes of texts unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pydantic

from data_pipeline.build.duplicate_samples import Cluster
from data_pipeline.documents_folder import Manifest

ACCOUNT_VERSION = 3
READ, CLEAN = "read", "clean"
"""The stages before the deduplication rules: everything the reader found; what is kept after
reader, edits and filters."""


def stage_of_drop(stage: str, reason: str) -> str:
    """The account's stage of a row of the ledger: `CLEAN`, or the name of the deduplication
    rule."""
    if stage == "compare":
        return reason
    return CLEAN if stage in ("read", "edit", "filter") else stage


@dataclass(frozen=True)
class StageAccount:
    """Documents of a source that are left after a stage."""

    name: str
    documents: int
    text_bytes: int


@dataclass(frozen=True)
class DropAccount:
    """Documents of a source dropped at a stage for a reason."""

    stage: str
    """Name of a `StageAccount`: the first one without these documents."""
    reason: str
    documents: int
    text_bytes: int
    no_documents: int = 0
    """How many of them were no documents at all, for the reader of the source: redirects and other
    namespaces, a crawl's requests, damaged records."""


@dataclass(frozen=True)
class FileAccount:
    """One input file."""

    name: str
    num_bytes: int
    read: int
    dropped: int
    """Before deduplication."""
    text_bytes: int
    """Of what was read."""


@dataclass(frozen=True)
class SourceAccount:
    """Statistics of one source from raw files to tokens."""

    name: str
    num_input_files: int
    num_input_bytes: int
    """Of the raw files on disk (compressed or not)."""
    stages: tuple[StageAccount, ...]
    """In order; the first is what was read, the last what is kept."""
    dropped: tuple[DropAccount, ...]
    ignored: dict[str, int]
    """Files or folders that were not read, per reason."""
    lengths: dict[str, int]
    """Histogram of kept documents by bit length of their size: "10" is 512 to 1,023 bytes."""
    languages: dict[str, int]
    """Kept documents per language, "" where unknown."""
    licenses: dict[str, int]
    """Kept documents per license, "" where unknown."""
    license_bytes: dict[str, int]
    """Their text bytes; empty where not counted."""
    num_tokens: int | None = None
    """In the token store, all splits; None before tokenization."""
    unknown_bytes: int | None = None
    """Bytes of its text that the tokenizer encodes by byte fallback."""
    paragraphs_removed: int = 0
    """Repeated paragraphs removed from the texts."""
    origin: str = ""
    """Origin of the raw files, as prose."""
    terms: str = ""
    """License or terms of the source as a whole, as prose."""
    advice: dict[str, str] = field(default_factory=dict)
    """What can be done about files that were not read, for some reasons of `ignored`."""
    domains: dict[str, int] = field(default_factory=dict)
    """The most frequent hosts of kept documents."""
    scores: dict[str, dict[str, int]] = field(default_factory=dict)
    """Histograms of kept documents by score (`documents_folder.Manifest`)."""
    files: tuple[FileAccount, ...] = ()
    """The largest input files."""

    @property
    def num_no_documents(self) -> int:
        """What the reader found that is no document."""
        return sum(drop.no_documents for drop in self.dropped)

    @property
    def num_documents(self) -> int:
        """Kept documents."""
        return self.stages[-1].documents

    @property
    def num_text_bytes(self) -> int:
        return self.stages[-1].text_bytes


@dataclass(frozen=True)
class DropExample:
    """A sample of a dropped document, for inspection."""

    source: str
    stage: str
    """A stage of the ledger ("read", "edit", "filter" or "compare"), or of the account."""
    reason: str
    source_file: str
    offset: int | None
    id: str | None
    detail: str | None
    text: str
    """Its beginning, at most a few thousand characters; empty where there was no text."""


@dataclass(frozen=True)
class KeptSample:
    """The beginning of a kept document."""

    source: str
    id: str
    text: str
    url: str | None
    title: str | None
    language: str | None
    license: str | None
    source_file: str
    offset: int | None


@dataclass(frozen=True)
class EvaluationAccount:
    """Decontamination result of one evaluation set."""

    name: str
    items: int
    looked_for: int
    hits: int
    """Contaminated documents, dropped or flagged."""


@dataclass(frozen=True)
class TokenizerAccount:
    """The tokenizer of the token store."""

    kind: str
    vocab_size: int
    sha256: str
    trained_on: str
    """As prose: which texts, how many bytes."""
    bytes_per_token: dict[str, float]
    """Per source, of this tokenizer."""


@dataclass(frozen=True)
class MixtureRow:
    """One source in the data mixture of a training run."""

    source: str
    documents: int
    text_bytes: int
    tokens: int
    share: float
    """Sampling share: fraction of the run's tokens, between 0 and 1."""
    stated_share: float | None = None
    """As the corpus has them, for all its sources and its whole token budget."""
    stated_epochs: float | None = None


@dataclass(frozen=True)
class CostRow:
    """Predicted and measured cost of a stage."""

    stage: str
    predicted_core_hours: float | None
    core_hours: float | None
    predicted_memory_bytes: int | None = None
    """Peak of one process."""
    memory_bytes: int | None = None
    predicted_disk_bytes: int | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True)
class BuildAccount:
    """Statistics of a build. Every source has the same stages in the same order."""

    corpus: str
    created: str
    """ISO 8601."""
    sources: tuple[SourceAccount, ...]
    left_out: tuple[str, ...] = ()
    """Optional steps that were skipped, each as a sentence."""
    added: tuple[str, ...] = ()
    """Steps in addition to the corpus's own, likewise."""
    undone: tuple[str, ...] = ()
    """Deduplication rules whose removals were undone."""
    requested_removals: int = 0
    """Documents removed by removal requests."""
    examples: tuple[DropExample, ...] = ()
    samples: tuple[KeptSample, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    evaluations: tuple[EvaluationAccount, ...] = ()
    tokenizer: TokenizerAccount | None = None
    mixture: tuple[MixtureRow, ...] = ()
    token_budget: int | None = None
    """Tokens of the training run that the mixture is for."""
    costs: tuple[CostRow, ...] = ()
    versions: dict[str, str] | None = None
    """Of the packages and programs that affect the result."""
    fingerprints: dict[str, str] | None = None
    """Of sources, store and tokenizer: equal fingerprints mean equal results."""
    version: int = ACCOUNT_VERSION

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        assert len(set(names)) == len(names), f"source names {names} must differ"
        orders = {tuple(stage.name for stage in source.stages) for source in self.sources}
        assert len(orders) <= 1, f"the sources have different stages: {sorted(orders)}"
        for source in self.sources:
            for before, after in zip(source.stages, source.stages[1:], strict=False):
                lost = sum(drop.documents for drop in source.dropped if drop.stage == after.name)
                assert before.documents - after.documents == lost, (
                    f"{source.name}: {before.documents} documents after {before.name}, "
                    f"{after.documents} after {after.name}, but {lost} dropped there"
                )

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.sources[0].stages) if self.sources else ()

    def to_json(self) -> bytes:
        return _FORM.dump_json(self, indent=1) + b"\n"

    @staticmethod
    def from_json(data: bytes) -> BuildAccount:
        """Parse the output of `to_json`; ValueError for anything else."""
        account = _FORM.validate_json(data)
        if account.version != ACCOUNT_VERSION:
            raise ValueError(
                f"the account has version {account.version}, but this version reads only "
                f"{ACCOUNT_VERSION}; rebuild the report"
            )
        return account


_FORM = pydantic.TypeAdapter(BuildAccount)


def source_account(
    manifest: Manifest,
    rules: Sequence[str],
    *,
    license_bytes: dict[str, int] | None = None,
    num_tokens: int | None = None,
    unknown_bytes: int | None = None,
    origin: str = "",
    terms: str = "",
    files: tuple[FileAccount, ...] = (),
) -> SourceAccount:
    """Statistics of a documents folder; `rules` names the corpus's deduplication rules in order.

    Bytes that edits removed from kept documents are part of the loss between "read" and "clean".
    """
    compared = {drop.reason: drop for drop in manifest.drops if drop.stage == "compare"}
    unknown = sorted(set(compared) - set(rules))
    assert not unknown, f"{manifest.source} has removals by {unknown}, which are none of {rules}"
    cleaned: dict[str, tuple[int, int, int]] = {}
    for drop in manifest.drops:
        if drop.stage != "compare":
            sums = cleaned.get(drop.reason, (0, 0, 0))
            no_documents = drop.documents if drop.stage == "read" else 0
            more = (drop.documents, drop.text_bytes, no_documents)
            cleaned[drop.reason] = (sums[0] + more[0], sums[1] + more[1], sums[2] + more[2])
    dropped = [DropAccount(CLEAN, reason, *sums) for reason, sums in cleaned.items()]
    documents, text_bytes = manifest.num_kept, manifest.num_text_bytes
    stages = []
    for rule in reversed(rules):
        stages.append(StageAccount(rule, documents, text_bytes))
        if rule in compared:
            drop = compared[rule]
            documents += drop.documents
            text_bytes += drop.text_bytes
            dropped.append(DropAccount(rule, rule, drop.documents, drop.text_bytes))
    stages.append(StageAccount(CLEAN, documents, text_bytes))
    stages.append(StageAccount(READ, manifest.num_read, manifest.num_read_bytes))
    return SourceAccount(
        name=manifest.source,
        num_input_files=manifest.num_input_files,
        num_input_bytes=manifest.num_input_bytes,
        stages=tuple(reversed(stages)),
        dropped=tuple(dropped),
        ignored=manifest.ignored,
        lengths=manifest.lengths,
        languages=manifest.languages,
        licenses=manifest.licenses,
        license_bytes=license_bytes or {},
        num_tokens=num_tokens,
        unknown_bytes=unknown_bytes,
        paragraphs_removed=manifest.num_paragraphs_removed,
        origin=origin,
        terms=terms,
        advice=manifest.advice,
        domains=manifest.domains,
        scores=manifest.scores,
        files=files,
    )
