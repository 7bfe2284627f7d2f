"""Some of what the rules found, with the beginnings of the texts, for people to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from data_pipeline.compare import CorpusDocuments
from data_pipeline.comparison import Removals
from data_pipeline.publish import write_atomic

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
) -> list[DuplicateCluster]:
    """A few clusters of each rule: those whose kept documents have the smallest ids. Ids are
    hashes, so this is a random sample, and the same in every build."""
    clusters = []
    for rule, removals in found.items():
        # NumPy's unique sorts.
        for kept_id in np.unique(kept_ids[rule])[:_CLUSTERS_PER_RULE]:
            own = removals[kept_ids[rule] == kept_id]
            chosen = own[:_REMOVED_PER_CLUSTER]
            clusters.append(
                DuplicateCluster(
                    rule=rule,
                    kept=_member(documents, int(own["kept"][0]), None),
                    removed=tuple(
                        _member(documents, int(number), float(similarity))
                        for number, _, similarity in chosen.tolist()
                    ),
                    num_removed=len(own),
                )
            )
    return clusters


def _member(documents: CorpusDocuments, number: int, similarity: float | None) -> ClusterMember:
    ((file, row),) = documents.places(np.array([number]))
    with pq.ParquetFile(file.path) as parquet:
        for group in range(parquet.num_row_groups):
            num_rows = parquet.metadata.row_group(group).num_rows
            if row < num_rows:
                columns = ["id", "source_file", "offset", "url", "text"]
                rows = parquet.read_row_group(group, columns, use_threads=False).slice(row, 1)
                (fields,) = rows.to_pylist()
                break
            row -= num_rows
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
