"""Corpus configuration: sources, deduplication rules, mixture and token budget of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from data_pipeline.build.build_corpus import DISTINCT_TEXTS
from data_pipeline.dedup.exact import same_url
from data_pipeline.dedup.near import near_duplicates
from data_pipeline.dedup.rule import Rule
from data_pipeline.document import Edit, Source
from data_pipeline.files.inputs import LinkedFolder
from data_pipeline.files.remote import Root
from data_pipeline.sources import folder


@dataclass(frozen=True)
class Corpus:
    """Sources and rules of a dataset, and the mixture for training. Recipes return it.

    ValueError where shares or epochs do not match the sources.
    """

    name: str
    sources: tuple[tuple[Source, Root], ...]
    """Each with the folder (or file) that it reads, in priority order: of equal texts the first
    source's is kept."""
    rules: tuple[Rule, ...] = DISTINCT_TEXTS
    """Deduplication rules, in order."""
    left_out: tuple[str, ...] = ()
    """Skipped steps: "source: step (how to enable it)"."""
    added: tuple[str, ...] = ()
    """Steps that a build has in addition: "source: step"."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Sampling share of each source in a run's tokens; empty: by the sources' sizes."""
    epochs: Mapping[str, float] = field(default_factory=dict)
    """Epochs of each source in `token_budget` tokens, where stated."""
    token_budget: int | None = None
    """Tokens of the training run that shares and epochs refer to."""

    def __post_init__(self) -> None:
        names = {source.name for source, _ in self.sources}
        for what, values in (("shares", self.shares), ("epochs", self.epochs)):
            if values and (missing := sorted(names - set(values))):
                raise ValueError(f"corpus {self.name}: {what} are missing for {', '.join(missing)}")
            if wrong := sorted(name for name, value in values.items() if not value > 0):
                raise ValueError(f"corpus {self.name}: {what} of {', '.join(wrong)} must be > 0")

    def source(self, name: str) -> tuple[Source, Root]:
        """The source of this name with its root; ValueError where there is none."""
        for source, root in self.sources:
            if source.name == name:
                return source, root
        names = ", ".join(source.name for source, _ in self.sources)
        raise ValueError(f"unknown source {name}; the corpus has {names}")

    def only(self, names: Sequence[str]) -> Corpus:
        """The corpus with these sources only; shares and epochs are unchanged."""
        return replace(
            self,
            sources=tuple(s for s in self.sources if s[0].name in names),
            left_out=tuple(step for step in self.left_out if step.split(":")[0] in names),
            added=tuple(step for step in self.added if step.split(":")[0] in names),
        )

    def shares_of(self, names: Sequence[str]) -> dict[str, float] | None:
        """The shares of these sources, not normalized; None where the corpus states none."""
        return {name: self.shares[name] for name in names} if self.shares else None

    def with_last_edit(self, edit: Edit) -> Corpus:
        """The corpus with `edit` appended to every source's edits."""
        sources = [(replace(s, edits=(*s.edits, edit)), root) for s, root in self.sources]
        return replace(self, sources=tuple(sources))

    def with_rules(self, rules: Sequence[Rule]) -> Corpus:
        """The corpus with these rules appended."""
        return replace(self, rules=(*self.rules, *rules))

    def with_links_followed(self) -> Corpus:
        """The corpus with what symbolic links in its local folders lead to, wherever that is."""
        sources = (
            (source, LinkedFolder(root) if isinstance(root, Path) else root)
            for source, root in self.sources
        )
        return replace(self, sources=tuple(sources))


CorpusFunction = Callable[[Root], Corpus]
"""Returns the corpus of the raw files under a folder or URL, without reading them."""


@dataclass(frozen=True)
class Deduplication:
    """Deduplication in addition to the corpus's own rules."""

    near_duplicates: float | None = None
    """Remove near-duplicates: documents whose word n-grams have at least this Jaccard index with
    those of another document, across all sources. SlimPajama: 0.8."""
    ngram_words: int = 13
    """Words per n-gram of --deduplication.near-duplicates. SlimPajama: 13."""
    same_url: bool = False
    """Keep one page per URL, across crawls; for sources whose URLs identify pages."""

    def rules(self, corpus: Corpus) -> tuple[Rule, ...]:
        """The rules; ValueError for one that applies to no source of the corpus."""
        found = []
        if self.same_url:
            pages = frozenset(s.name for s, _ in corpus.sources if s.same_url is not None)
            if not pages:
                raise ValueError(
                    f"deduplication.same_url: no source of the corpus {corpus.name} has URLs that "
                    "identify pages (Source.same_url); leave it out"
                )
            found.append(Rule("same_url", same_url, sources=pages))
        if self.near_duplicates is not None:
            find = partial(
                near_duplicates,
                min_similarity=self.near_duplicates,
                ngram_words=self.ngram_words,
            )
            found.append(Rule("near_duplicate", find))
        return tuple(found)


MAX_DOCUMENT_BYTES = 256 * 1024


def text_corpus(
    root: Root, *, text_field: str = "text", max_document_bytes: int = MAX_DOCUMENT_BYTES
) -> Corpus:
    """Corpus of a user's own text: plain text, JSON lines, Parquet; only empty texts are dropped.

    `text_field`: field or column of JSON lines and Parquet with the text. Larger plain-text files
    are split into documents of at most `max_document_bytes`.
    """
    if max_document_bytes < 4:
        raise ValueError(f"max_document_bytes ({max_document_bytes}) must be at least 4")
    read = partial(folder.read, text_field=text_field, max_document_bytes=max_document_bytes)
    source = Source(name="text", inputs=folder.inputs, read=read)
    name = str(root).rstrip("/").rpartition("/")[2]
    return Corpus(name=name or "text", sources=((source, root),))
