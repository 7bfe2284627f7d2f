"""The account of a build: what every number and example of its report is taken from.

`report_page` draws it, report.json is `to_json`, the dataset card quotes it. Counts of bytes are
UTF-8 bytes of texts unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pydantic

from data_pipeline.build.duplicate_samples import Cluster
from data_pipeline.documents_folder import Manifest

ACCOUNT_VERSION = 1
READ, CLEAN = "read", "clean"
"""The stages before the rules of comparison: everything that the reader found; what is left of it
after the reader's own objections, the edits and the filters."""


def stage_of_drop(stage: str, reason: str) -> str:
    """The account's stage of a line of the ledger: `CLEAN`, or the name of the rule."""
    if stage == "compare":
        return reason
    return CLEAN if stage in ("read", "edit", "filter") else stage


@dataclass(frozen=True)
class StageAccount:
    """What is left of a source after a stage."""

    name: str
    documents: int
    text_bytes: int


@dataclass(frozen=True)
class DropAccount:
    """What a source lost at a stage for a reason."""

    stage: str
    """Name of a `StageAccount`: the one after which these documents are missing."""
    reason: str
    documents: int
    text_bytes: int


@dataclass(frozen=True)
class SourceAccount:
    """One source from its raw files to its tokens."""

    name: str
    num_input_files: int
    num_input_bytes: int
    """Of the raw files, as they lie on disk."""
    stages: tuple[StageAccount, ...]
    """In order; the first is what was read, the last what is kept."""
    dropped: tuple[DropAccount, ...]
    ignored: dict[str, int]
    """Files or folders that were not read, per reason."""
    lengths: dict[str, int]
    """Kept documents by the bits of their length: "10" stands for 512 to 1,023 bytes."""
    languages: dict[str, int]
    """Kept documents per language, "" where it is not known."""
    licences: dict[str, int]
    """Kept documents per licence, "" where it is not known."""
    licence_bytes: dict[str, int]
    """Their text bytes; empty where these were not counted."""
    num_tokens: int | None = None
    """In the token store, all splits; None before there is one."""
    unknown_bytes: int | None = None
    """Bytes of its text for which the tokenizer has only a byte token."""
    paragraphs_removed: int = 0
    """Repeated ones, taken out of the texts as they were read."""
    origin: str = ""
    """Where the raw files come from, in words."""
    terms: str = ""
    """Licence or terms of the source as a whole, in words."""

    @property
    def num_documents(self) -> int:
        """Documents that are kept."""
        return self.stages[-1].documents

    @property
    def num_text_bytes(self) -> int:
        return self.stages[-1].text_bytes


@dataclass(frozen=True)
class DropExample:
    """A document that was dropped, to look at."""

    source: str
    stage: str
    """As the ledger has it, "read", "edit", "filter" or "compare"; or as the account has it."""
    reason: str
    source_file: str
    offset: int | None
    id: str | None
    detail: str | None
    text: str
    """Its beginning, at most a few thousand characters; empty where there was no text."""


@dataclass(frozen=True)
class EvaluationAccount:
    """One evaluation set that documents were compared with."""

    name: str
    items: int
    looked_for: int
    hits: int
    """Documents, dropped or flagged, that have an item of it."""


@dataclass(frozen=True)
class TokenizerAccount:
    """The tokenizer that the store was made with."""

    kind: str
    vocab_size: int
    sha256: str
    trained_on: str
    """In words: which texts, how many bytes."""
    bytes_per_token: dict[str, float]
    """Per source, of this tokenizer."""
    reference_name: str | None = None
    """A published tokenizer that the same texts were given to."""
    reference_bytes_per_token: dict[str, float] | None = None


@dataclass(frozen=True)
class MixtureRow:
    """One source in the mixture of a training run."""

    source: str
    documents: int
    text_bytes: int
    tokens: int
    share: float
    """Of the run's tokens that come from this source, between 0 and 1."""
    paper_share: float | None = None
    paper_epochs: float | None = None


@dataclass(frozen=True)
class CostRow:
    """What a stage was thought to cost, and what it did."""

    stage: str
    predicted_core_hours: float | None
    core_hours: float | None
    predicted_memory_bytes: int | None = None
    """Of one process at its peak."""
    memory_bytes: int | None = None
    predicted_disk_bytes: int | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True)
class BuildAccount:
    """A build. Every source has the same stages in the same order."""

    corpus: str
    created: str
    """ISO 8601."""
    sources: tuple[SourceAccount, ...]
    left_out: tuple[str, ...] = ()
    """Steps that the build did without, each as a sentence."""
    undone: tuple[str, ...] = ()
    """Rules whose removals were undone."""
    requested_removals: int = 0
    """Documents removed because somebody asked for it."""
    examples: tuple[DropExample, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    evaluations: tuple[EvaluationAccount, ...] = ()
    tokenizer: TokenizerAccount | None = None
    mixture: tuple[MixtureRow, ...] = ()
    token_budget: int | None = None
    """Tokens of the training run that the mixture is for."""
    costs: tuple[CostRow, ...] = ()
    versions: dict[str, str] | None = None
    """Of the packages and programs that had a part in the result."""
    fingerprints: dict[str, str] | None = None
    """Of sources, store and tokenizer: equal where the result is equal."""
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
        """What `to_json` made; ValueError for anything else."""
        account = _FORM.validate_json(data)
        if account.version != ACCOUNT_VERSION:
            raise ValueError(
                f"the account has version {account.version}, and this program reads version "
                f"{ACCOUNT_VERSION}; build the report again"
            )
        return account


_FORM = pydantic.TypeAdapter(BuildAccount)


def source_account(
    manifest: Manifest,
    rules: Sequence[str],
    *,
    licence_bytes: dict[str, int] | None = None,
    num_tokens: int | None = None,
    unknown_bytes: int | None = None,
    origin: str = "",
    terms: str = "",
) -> SourceAccount:
    """The account of a documents folder; `rules` names the corpus's rules of comparison in order.

    Bytes that edits took out of documents that were kept go missing between "read" and "clean".
    """
    compared = {drop.reason: drop for drop in manifest.drops if drop.stage == "compare"}
    unknown = sorted(set(compared) - set(rules))
    assert not unknown, f"{manifest.source} has removals by {unknown}, which are none of {rules}"
    cleaned: dict[str, tuple[int, int]] = {}
    for drop in manifest.drops:
        if drop.stage != "compare":
            sums = cleaned.get(drop.reason, (0, 0))
            cleaned[drop.reason] = sums[0] + drop.documents, sums[1] + drop.text_bytes
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
        licences=manifest.licences,
        licence_bytes=licence_bytes or {},
        num_tokens=num_tokens,
        unknown_bytes=unknown_bytes,
        paragraphs_removed=manifest.num_paragraphs_removed,
        origin=origin,
        terms=terms,
    )
