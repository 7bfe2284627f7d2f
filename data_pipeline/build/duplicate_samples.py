"""Samples of duplicate clusters per rule, with the beginnings of the texts, for inspection."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pydantic

from data_pipeline.build.removal_requests import RemovalRequests
from data_pipeline.build.run_rules import CorpusDocuments
from data_pipeline.dedup.rule import Removals
from data_pipeline.files.atomic import write_atomic

MAX_SHOWN_TEXT = 2_000
"""Maximum characters of a document that are kept for display."""
_CLUSTERS_PER_RULE = 8
_REMOVED_PER_CLUSTER = 4


@dataclass(frozen=True)
class Member:
    """A document of a duplicate cluster."""

    source: str
    id: str
    source_file: str
    offset: int | None
    url: str | None
    text: str
    """Its beginning, at most `MAX_SHOWN_TEXT` characters."""
    text_bytes: int
    """Of the whole text."""
    similarity: float | None = None
    """Similarity to the kept member, by the rule's measure; None for that member itself."""


@dataclass(frozen=True)
class Cluster:
    """Documents that a rule found to be duplicates, or a sample where there are very many."""

    rule: str
    kept: Member
    removed: tuple[Member, ...]
    num_removed: int
    """All removed as duplicates of `kept`, including those not in `removed`."""


_FORM = pydantic.TypeAdapter(list[Cluster])


def sample_clusters(
    found: Mapping[str, Removals],
    kept_ids: Mapping[str, npt.NDArray[np.bytes_]],
    documents: CorpusDocuments,
    requests: RemovalRequests,
) -> list[Cluster]:
    """A few clusters of each rule: those whose kept documents have the smallest ids. Ids are
    hashes, so this is a random sample, and the same in every build. A cluster with a document under
    a removal request is skipped."""
    return [
        cluster
        for rule, removals in found.items()
        for cluster in itertools.islice(
            _clusters(rule, removals, kept_ids[rule], documents, requests), _CLUSTERS_PER_RULE
        )
    ]


def _clusters(
    rule: str,
    removals: Removals,
    kept_ids: npt.NDArray[np.bytes_],
    documents: CorpusDocuments,
    requests: RemovalRequests,
) -> Iterator[Cluster]:
    for kept_id in np.unique(kept_ids):  # sorted
        own = removals[kept_ids == kept_id]
        kept = _member(documents, int(own["kept"][0]), None, requests)
        removed = [
            _member(documents, int(number), float(similarity), requests)
            for number, _, similarity in own[:_REMOVED_PER_CLUSTER].tolist()
        ]
        shown = tuple(member for member in removed if member is not None)
        if kept is not None and len(shown) == len(removed):
            yield Cluster(rule, kept, shown, num_removed=len(own))


def _member(
    documents: CorpusDocuments, number: int, similarity: float | None, requests: RemovalRequests
) -> Member | None:
    """The document; None if there is a removal request for it."""
    ((file, row),) = documents.places(np.array([number]))
    with pq.ParquetFile(file.path) as parquet:
        for group in range(parquet.num_row_groups):
            num_rows = parquet.metadata.row_group(group).num_rows
            if row < num_rows:
                columns = ["id", "source_file", "offset", "url", "text", "license"]
                rows = parquet.read_row_group(group, columns, use_threads=False).slice(row, 1)
                break
            row -= num_rows
    if requests.rows(rows).any():
        return None
    (fields,) = rows.drop_columns(["license"]).to_pylist()
    text = fields.pop("text")
    return Member(
        source=documents.sources[file.source],
        text=text[:MAX_SHOWN_TEXT],
        text_bytes=len(text.encode("utf-8")),
        similarity=similarity,
        **fields,
    )


def save_clusters(path: Path, clusters: list[Cluster]) -> None:
    write_atomic(path, _FORM.dump_json(clusters, indent=1))


def load_clusters(path: Path) -> list[Cluster]:
    """What `save_clusters` wrote; empty if there is no such file."""
    return _FORM.validate_json(path.read_bytes()) if path.exists() else []
