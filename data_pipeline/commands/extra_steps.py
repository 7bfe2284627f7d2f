"""Steps of a build beside those of its corpus: options, and the corpus with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_pipeline.commands.own_functions import own_function
from data_pipeline.corpus import Corpus
from data_pipeline.document import Document, Edit, Filter, Source
from data_pipeline.filters import url_blocklist, web_rules
from data_pipeline.text import masking


@dataclass(frozen=True)
class ExtraSteps:
    """Steps that the corpus does not have. All are off by default, as in the paper; the report
    lists those that a build has."""

    blocked_urls: Path | None = None
    """Block list of domains and words, one per line: documents with such a URL are dropped
    (`blocked_url`). An entry with a dot is a domain with its subdomains."""
    mask_emails: tuple[str, ...] = ()
    """Sources in which e-mail addresses are replaced by email@example.org."""
    mask_ips: tuple[str, ...] = ()
    """Sources in which public IP addresses are replaced by 192.0.2.1 and 2001:db8::1."""
    gopher: tuple[str, ...] = ()
    """Sources with Gopher's rules on quality and repetition (Rae et al. 2021)."""
    fineweb: tuple[str, ...] = ()
    """Sources with FineWeb's own rules (Penedo et al. 2024)."""
    own: tuple[str, ...] = ()
    """Steps of your own, each FILE.py:FUNCTION: maps every Document to a Document or a Rejected
    (data_pipeline.document), after the source's own edits. A changed function rebuilds."""

    def added_to(self, corpus: Corpus) -> Corpus:
        """The corpus with these steps. ValueError for an unknown source, list or function."""
        for option in ("mask_emails", "mask_ips", "gopher", "fineweb"):
            for name in getattr(self, option):
                _check(corpus, name, f"--steps.{option.replace('_', '-')}")
        own = [own_function(place, "--steps.own") for place in self.own]
        names = {name: place.rpartition("/")[2] for name, place in zip(own, self.own, strict=True)}
        first: list[Edit] = []
        if self.blocked_urls is not None:
            blocked = url_blocklist.block_list(self.blocked_urls)
            first.append(partial(url_blocklist.drop_blocked, blocked=blocked))
        sources, added = [], []
        for source, root in corpus.sources:
            edits = self._masks(source.name)
            filters = self._filters(source.name)
            more = replace(
                source,
                edits=(*first, *source.edits, *own, *edits),
                filters=(*source.filters, *filters),
            )
            sources.append((more, root))
            steps = ["block list of URLs"] * bool(first) + [names[function] for function in own]
            added += [f"{source.name}: {step}" for step in (*steps, *self._words(source))]
        return replace(corpus, sources=tuple(sources), added=(*corpus.added, *added))

    def _masks(self, source: str) -> Sequence[Edit]:
        masks: Sequence[tuple[Collection[str], Callable[[str], str]]] = (
            (self.mask_emails, masking.without_emails),
            (self.mask_ips, masking.without_ip_addresses),
        )
        return [partial(masked, by=mask) for names, mask in masks if source in names]

    def _filters(self, source: str) -> Sequence[Filter]:
        rules: Sequence[tuple[Collection[str], Filter]] = (
            (self.gopher, web_rules.gopher_quality),
            (self.gopher, web_rules.gopher_repetition),
            (self.fineweb, web_rules.fineweb_quality),
        )
        return [rule for names, rule in rules if source in names]

    def _words(self, source: Source) -> Sequence[str]:
        options = (
            (self.mask_emails, "e-mail addresses are masked"),
            (self.mask_ips, "IP addresses are masked"),
            (self.gopher, "Gopher's rules"),
            (self.fineweb, "FineWeb's rules"),
        )
        return [words for names, words in options if source.name in names]


def masked(document: Document, *, by: Callable[[str], str]) -> Document:
    """Edit: the text as `by` returns it."""
    return document.with_text(by(document.text))


def _check(corpus: Corpus, name: str, option: str) -> None:
    try:
        corpus.source(name)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
