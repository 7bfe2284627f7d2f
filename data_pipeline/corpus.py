"""A corpus: the value that a recipe's function returns, and that the dataset job is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from data_pipeline.build.build_corpus import DISTINCT_TEXTS
from data_pipeline.dedup.exact import same_url
from data_pipeline.dedup.near import near_duplicates
from data_pipeline.dedup.rule import Rule
from data_pipeline.document import Edit, Source
from data_pipeline.files.remote import Root
from data_pipeline.sources import folder


@dataclass(frozen=True)
class Corpus:
    """Which raw text goes in, by which rules, and what a training run is to take of it.

    ValueError where shares or epochs do not go with the sources.
    """

    name: str
    sources: tuple[tuple[Source, Root], ...]
    """Each with the folder (or file) that it reads. Of equal texts the first source's stays."""
    rules: tuple[Rule, ...] = DISTINCT_TEXTS
    """By which documents are compared, in this order."""
    left_out: tuple[str, ...] = ()
    """Steps that this build does without: "source: step (what would bring it in)"."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of each source in a run's tokens; empty: by the sources' sizes."""
    epochs: Mapping[str, float] = field(default_factory=dict)
    """How often each source is seen in `token_budget` tokens, where somebody says so."""
    token_budget: int | None = None
    """Tokens of the run that shares and epochs are meant for."""

    def __post_init__(self) -> None:
        names = {source.name for source, _ in self.sources}
        for what, values in (("shares", self.shares), ("epochs", self.epochs)):
            if values and (missing := sorted(names - set(values))):
                raise ValueError(f"corpus {self.name}: {what} say nothing of {', '.join(missing)}")
            if wrong := sorted(name for name, value in values.items() if not value > 0):
                raise ValueError(f"corpus {self.name}: {what} of {', '.join(wrong)} must be > 0")

    def source(self, name: str) -> tuple[Source, Root]:
        """The source of this name with its root; ValueError where there is none."""
        for source, root in self.sources:
            if source.name == name:
                return source, root
        names = ", ".join(source.name for source, _ in self.sources)
        raise ValueError(f"{name} is none of {names}")

    def only(self, names: Sequence[str]) -> Corpus:
        """The corpus with the sources of these names; their shares and epochs stay as they are."""
        return replace(
            self,
            sources=tuple(s for s in self.sources if s[0].name in names),
            left_out=tuple(step for step in self.left_out if step.split(":")[0] in names),
        )

    def shares_of(self, names: Sequence[str]) -> dict[str, float] | None:
        """The shares of these sources, not scaled; None where the corpus states none."""
        return {name: self.shares[name] for name in names} if self.shares else None

    def with_last_edit(self, edit: Edit) -> Corpus:
        """The corpus with one more edit, after all others of every source."""
        sources = [(replace(s, edits=(*s.edits, edit)), root) for s, root in self.sources]
        return replace(self, sources=tuple(sources))

    def with_rules(self, rules: Sequence[Rule]) -> Corpus:
        """The corpus with more rules after its own."""
        return replace(self, rules=(*self.rules, *rules))


CorpusFunction = Callable[[Root], Corpus]
"""A corpus of the raw files under a folder or URL. It reads none of them."""


@dataclass(frozen=True)
class Deduplication:
    """What goes besides what a corpus's own rules remove."""

    near_duplicates: float | None = None
    """Remove documents that share this part of their word n-grams with another one, of whatever
    source. SlimPajama took 0.8."""
    ngram_words: int = 13
    """Words of these n-grams. SlimPajama: 13."""
    same_url: bool = False
    """Of pages with the same address, in whatever crawl, keep one: of the sources whose addresses
    name pages."""

    def rules(self, corpus: Corpus) -> tuple[Rule, ...]:
        """ValueError for a rule that has no source of the corpus to work on."""
        found = []
        if self.same_url:
            pages = frozenset(s.name for s, _ in corpus.sources if s.same_url is not None)
            if not pages:
                raise ValueError(
                    f"deduplication.same_url: no source of the corpus {corpus.name} says when two "
                    "addresses are the same page; leave it out"
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
    """A user's own text, all of it that is not empty: plain text, JSON lines, Parquet.

    `text_field` names the text in JSON lines and Parquet. Larger plain-text files become several
    documents of at most `max_document_bytes`.
    """
    if max_document_bytes < 4:
        raise ValueError(f"max_document_bytes ({max_document_bytes}) must be at least 4")
    read = partial(folder.read, text_field=text_field, max_document_bytes=max_document_bytes)
    source = Source(name="text", inputs=folder.inputs, read=read)
    name = str(root).rstrip("/").rpartition("/")[2]
    return Corpus(name=name or "text", sources=((source, root),))
