"""Command-line options of the dataset job."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipeline.commands.executor_options import ExecutorOptions
from data_pipeline.commands.extra_steps import ExtraSteps
from data_pipeline.corpus import Deduplication


@dataclass(frozen=True)
class Decontamination:
    """Decontamination: overlap of documents with evaluation sets. Off by default, as in the
    paper."""

    sets: Path | None = None
    """Folder of evaluation sets as published (JSON lines, JSON, CSV, Parquet): documents that
    contain their items are dropped."""
    words: int = 13
    """Length in words of the n-grams that a document and an item must share. GPT-3: 13."""
    passages: bool = False
    """Also match passages that a set quotes from other texts, such as BoolQ's from Wikipedia."""
    flag_only: bool = False
    """Keep contaminated documents, and record the overlap in their column `contamination`."""


@dataclass(frozen=True)
class TokenizerOptions:
    """Tokenizer of the store: an existing one, or one trained on the documents."""

    path: Path | None = None
    """Existing tokenizer: a SentencePiece model such as LLaMA's tokenizer.model, or a folder with
    one; or a Hugging Face folder with tokenizer.json. By default one is trained with LLaMA's
    settings, on a sample of the documents by the corpus's shares."""
    bos_token: str | None = None
    """BOS token, where the Hugging Face folder does not define it."""
    eos_token: str | None = None
    """EOS token, where the Hugging Face folder does not define it."""
    vocab_size: int = 32_000
    """Vocabulary size of a trained tokenizer."""
    method: Literal["sample", "word_counts"] = "sample"
    """Train on a sample of the documents, or on the word counts of all documents."""
    sample_bytes: int = 1_000_000_000
    """Maximum training text in bytes; training takes about 6 bytes of memory for each."""
    seed: int = 0
    """Seed of the sample."""


@dataclass(frozen=True)
class Inspection:
    """Inspect a finished build instead of building."""

    inspect: str | None = None
    """Show documents of this source that a finished build dropped, instead of building."""
    reason: str | None = None
    """With --inspect: only documents with this drop reason; by default any."""
    edits: bool = False
    """With --inspect: show the effect of edits on kept documents, instead of dropped documents."""
    limit: int = 5
    """With --inspect: maximum number of documents."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build."""

    out: Path
    """Output folder; an earlier build in it is resumed."""
    sources: tuple[str, ...] = ()
    """Build only these sources; by default all of the corpus."""
    follow_links: bool = False
    """Read files outside of a source's folder that symbolic links in it lead to. By default such
    links are ignored (`symlink_outside`)."""
    steps: ExtraSteps = field(default_factory=ExtraSteps)
    deduplication: Deduplication = field(default_factory=Deduplication)
    undo: tuple[str, ...] = ()
    """Deduplication rules to disable (duplicate, book_overlap, near_duplicate, same_url,
    repeated_paragraphs). Cached results are reused; only repeated_paragraphs rebuilds parts."""
    decontaminate: Decontamination = field(default_factory=Decontamination)
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    holdout: float = 0.001
    """Held-out share of each source's documents (validation split), chosen by document hash."""
    documents_only: bool = False
    """Build only the documents: no tokenizer, no token store."""
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)
    forget_old_parts: bool = False
    """Delete stale cache entries: parts and rule results of other code, files or thresholds, which
    this build does not use."""
    push_to_hub: str | None = None
    """Push the documents with their dataset card to this repository of the Hugging Face Hub,
    USER/NAME."""
    publish: str | None = None
    """Upload documents, store, tokenizer and report to this URL (s3://, gs://, ...)."""
    public: bool = False
    """With --push-to-hub: make the repository public."""
    memory_gib: Annotated[
        float, tyro.conf.arg(help="Memory budget of deduplication in GiB, all workers together.")
    ] = 4.0
    inspection: Annotated[Inspection, tyro.conf.arg(name="")] = field(default_factory=Inspection)

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gib * (1 << 30))
