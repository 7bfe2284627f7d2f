"""Some of what the rules found, with the beginnings of the texts, for people to look at."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from data_pipeline.compare import CorpusDocuments
from data_pipeline.comparison import Removals
from data_pipeline.publish import write_atomic
from data_pipeline.removal_requests import RemovalRequests

SHOWN_CHARACTERS = 2_000
_CLUSTERS_PER_RULE = 8
_REMOVED_PER_CLUSTER = 4


@dataclass(frozen=True)
class ClusterMember:
    """A document of a cluster."""

    source: str
    id: str
    source_file: str | None
    offset: int | None
    url: str | None
    text: str
    """Its beginning."""
    text_bytes: int
    """Of the whole text in UTF-8."""
    similarity: float | None = None
    """To the document that stays; None for that one."""


@dataclass(frozen=True)
class DuplicateCluster:
    """A document that stays, and some of those that go for it."""

    rule: str
    kept: ClusterMember
    removed: tuple[ClusterMember, ...]
    num_removed: int
    """All that go for it."""


def sample_clusters(
    found: Mapping[str, Removals],
    kept_ids: Mapping[str, npt.NDArray[np.bytes_]],
    documents: CorpusDocuments,
    requests: RemovalRequests,
) -> list[DuplicateCluster]:
    """A few clusters of each rule: those whose kept documents have the smallest ids. Ids are
    hashes, so this is a random sample, and the same in every build. A cluster that would show a
    document whose removal is requested is passed over."""
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
) -> Iterator[DuplicateCluster]:
    for kept_id in np.unique(kept_ids):  # sorted
        own = removals[kept_ids == kept_id]
        kept = _member(documents, int(own["kept"][0]), None, requests)
        removed = [
            _member(documents, int(number), float(similarity), requests)
            for number, _, similarity in own[:_REMOVED_PER_CLUSTER].tolist()
        ]
        shown = tuple(member for member in removed if member is not None)
        if kept is not None and len(shown) == len(removed):
            yield DuplicateCluster(rule, kept, shown, num_removed=len(own))


def _member(
    documents: CorpusDocuments, number: int, similarity: float | None, requests: RemovalRequests
) -> ClusterMember | None:
    """The document; None where its removal is requested."""
    ((file, row),) = documents.places(np.array([number]))
    with pq.ParquetFile(file.path) as parquet:
        for group in range(parquet.num_row_groups):
            num_rows = parquet.metadata.row_group(group).num_rows
            if row < num_rows:
                columns = ["id", "source_file", "offset", "url", "text", "licence"]
                rows = parquet.read_row_group(group, columns, use_threads=False).slice(row, 1)
                break
            row -= num_rows
    if requests.rows(rows).any():
        return None
    (fields,) = rows.drop_columns(["licence"]).to_pylist()
    text = fields.pop("text")
    return ClusterMember(
        source=documents.sources[file.source],
        text=text[:SHOWN_CHARACTERS],
        text_bytes=len(text.encode("utf-8")),
        similarity=similarity,
        **fields,
    )


def save_clusters(path: Path, clusters: list[DuplicateCluster]) -> None:
    data = json.dumps([asdict(cluster) for cluster in clusters], ensure_ascii=False, indent=1)
    write_atomic(path, data.encode("utf-8"))


def load_clusters(path: Path) -> list[DuplicateCluster]:
    """What `save_clusters` wrote; none where there is no such file."""
    if not path.exists():
        return []
    return [
        DuplicateCluster(
            rule=fields["rule"],
            kept=ClusterMember(**fields["kept"]),
            removed=tuple(ClusterMember(**member) for member in fields["removed"]),
            num_removed=fields["num_removed"],
        )
        for fields in json.loads(path.read_bytes())
    ]
