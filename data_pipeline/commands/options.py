"""What one says on the command line of every build, whatever its corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipeline.commands.executor_options import ExecutorOptions
from data_pipeline.corpus import Deduplication


@dataclass(frozen=True)
class Decontamination:
    """Documents that have items of evaluation sets. By default none are looked for, as in the
    paper."""

    sets: Path | None = None
    """Folder of evaluation sets as published (JSON lines, JSON, CSV, Parquet): documents that have
    their items are dropped."""
    words: int = 13
    """How many consecutive words a document and an item must share. GPT-3: 13."""
    passages: bool = False
    """Also look for passages that a set took from elsewhere, such as BoolQ's from Wikipedia."""
    flag_only: bool = False
    """Keep the documents, and say in their column `contamination` what they have."""


@dataclass(frozen=True)
class TokenizerOptions:
    """What the store is made with: a tokenizer that exists, or one that is trained here."""

    path: Path | None = None
    """A SentencePiece model such as LLaMA's tokenizer.model, or a folder with one; or a Hugging
    Face folder with tokenizer.json. By default one is trained on the documents, with the settings
    of LLaMA's, on a sample by the corpus's shares."""
    bos_token: str | None = None
    """Token that begins a document, where the Hugging Face folder does not say which."""
    eos_token: str | None = None
    """Token that ends a document, where the Hugging Face folder does not say which."""
    vocab_size: int = 32_000
    """Pieces of a tokenizer that is trained."""
    method: Literal["sample", "word_counts"] = "sample"
    """On a sample, or on the counts of all words of all documents."""
    sample_bytes: int = 1_000_000_000
    """Text that it is trained on at most; about 6 bytes of memory for each."""
    seed: int = 0
    """Chooses the sample."""


@dataclass(frozen=True)
class Inspection:
    """A look at a finished build, in place of building."""

    inspect: str | None = None
    """In place of building, show documents of this source that a finished build dropped."""
    reason: str | None = None
    """With --inspect: those dropped for this reason; by default for any."""
    edits: bool = False
    """With --inspect: what the edits did to documents that were kept, in place of dropped ones."""
    limit: int = 5
    """With --inspect: at most this many."""


@dataclass(frozen=True)
class BuildOptions:
    """How a corpus is built."""

    out: Path
    """Everything is written here; an earlier build in it is continued."""
    sources: tuple[str, ...] = ()
    """Build these only; by default all of the corpus."""
    deduplication: Deduplication = field(default_factory=Deduplication)
    undo: tuple[str, ...] = ()
    """Rules that are to remove nothing (duplicate, book_overlap, near_duplicate, same_url,
    repeated_paragraphs). What they found is kept; nothing runs again but repeated_paragraphs."""
    decontaminate: Decontamination = field(default_factory=Decontamination)
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    holdout: float = 0.001
    """Share of each source's documents that is kept out of training, chosen by document hash."""
    documents_only: bool = False
    """End with the clean documents: no tokenizer, no store."""
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)
    forget_old_parts: bool = False
    """Remove finished groups of input files, and what rules found, that this build does not use:
    they were made by other code, from other files or with other thresholds."""
    push_to_hub: str | None = None
    """Push the documents with their card to this repository of the Hugging Face hub, USER/NAME."""
    publish: str | None = None
    """Copy the finished documents, store, tokenizer and report to this URL (s3://, gs://, ...)."""
    public: bool = False
    """With --push-to-hub, for everybody to see."""
    memory_gib: Annotated[float, tyro.conf.arg(help="For comparing documents, all workers.")] = 4.0
    inspection: Annotated[Inspection, tyro.conf.arg(name="")] = field(default_factory=Inspection)

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gib * (1 << 30))
