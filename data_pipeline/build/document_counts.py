"""Counts of documents in a documents folder: by length, language, license, contamination, domain
and score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.documents_folder import Manifest
from data_pipeline.filters.decontamination import contaminated_sets

_PROBABILITIES = ("language_score", "reference_score")
COUNTED_COLUMNS = ("language", "license", "contamination", "url", "perplexity", *_PROBABILITIES)
"""Columns of `document.SCHEMA`."""
STEPS = 20
"""Into which probabilities are sorted."""
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?:www\.)?(?P<host>[^/?#:@]{1,253})"
_MAX_DOMAINS = 50
_MAX_COUNTED_DOMAINS = 20_000
"""Of a part at a time: a crawl has millions of hosts."""


@dataclass
class DocumentCounts:
    """Counts of kept documents, or of removed ones, to be subtracted."""

    num_documents: int = 0
    num_text_bytes: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Documents by the bits of their length in UTF-8 bytes: 10 stands for 512 to 1,023."""
    languages: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    """Documents by language and by license, "" where it is not known."""
    license_bytes: Counter[str] = field(default_factory=Counter)
    """UTF-8 bytes of these documents."""
    contaminated: Counter[str] = field(default_factory=Counter)
    """Documents by evaluation set."""
    domains: Counter[str] = field(default_factory=Counter)
    scores: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Documents by domain, and by column and step of a score (`Manifest`)."""

    @staticmethod
    def of(manifest: Manifest) -> DocumentCounts:
        return DocumentCounts(
            num_documents=manifest.num_kept,
            num_text_bytes=manifest.num_text_bytes,
            lengths=Counter({int(bits): count for bits, count in manifest.lengths.items()}),
            languages=Counter(manifest.languages),
            licenses=Counter(manifest.licenses),
            license_bytes=Counter(manifest.license_bytes),
            contaminated=Counter(manifest.contaminated),
            domains=Counter(manifest.domains),
            scores=Counter(
                {
                    (name, int(step)): count
                    for name, counts in manifest.scores.items()
                    for step, count in counts.items()
                }
            ),
        )

    def manifest_fields(self) -> dict[str, Any]:
        """The counts as fields of `Manifest`."""
        return {
            "num_kept": self.num_documents,
            "num_text_bytes": self.num_text_bytes,
            "lengths": {str(bits): count for bits, count in sorted(self.lengths.items())},
            "languages": dict(sorted(self.languages.items())),
            "licenses": dict(sorted(self.licenses.items())),
            "license_bytes": dict(sorted(self.license_bytes.items())),
            "contaminated": dict(sorted(self.contaminated.items())),
            "domains": dict(_most_frequent(self.domains, _MAX_DOMAINS)),
            "scores": {
                name: {str(s): n for (of, s), n in sorted(self.scores.items()) if of == name}
                for name in sorted({name for name, _ in self.scores})
            },
        }

    def add_documents(self, documents: pa.Table, num_bytes: npt.NDArray[np.integer[Any]]) -> None:
        """Count documents (columns `COUNTED_COLUMNS`), given each one's length in UTF-8 bytes."""
        self.num_documents += len(num_bytes)
        self.num_text_bytes += int(num_bytes.sum())
        bits, counts = np.unique(np.frexp(num_bytes)[1], return_counts=True)
        self.lengths.update(dict(zip(bits.tolist(), counts.tolist(), strict=True)))
        for name, counter in (("language", self.languages), ("license", self.licenses)):
            for value in pc.value_counts(documents.column(name)).to_pylist():
                counter[value["values"] or ""] += value["counts"]
        sizes = documents.select(["license"]).append_column("size", pa.array(num_bytes))
        for row in sizes.group_by("license").aggregate([("size", "sum")]).to_pylist():
            self.license_bytes[row["license"] or ""] += row["size_sum"]
        self.add_contaminated(documents.column("contamination").drop_null().to_pylist())
        self._add_domains(documents.column("url").drop_null())
        for name in (*_PROBABILITIES, "perplexity"):
            self._add_scores(name, documents.column(name).drop_null().to_numpy())

    def _add_domains(self, urls: pa.ChunkedArray) -> None:
        hosts = pc.struct_field(pc.extract_regex(urls, _HOST), 0).drop_null()
        for value in pc.value_counts(pc.ascii_lower(hosts)).to_pylist():
            self.domains[value["values"]] += value["counts"]
        if len(self.domains) > _MAX_COUNTED_DOMAINS:
            self.domains = Counter(dict(_most_frequent(self.domains, _MAX_COUNTED_DOMAINS // 2)))

    def _add_scores(self, name: str, scores: npt.NDArray[np.float64]) -> None:
        finite = scores[np.isfinite(scores)]
        if name in _PROBABILITIES:
            steps = np.clip(np.floor(finite * STEPS), 0, STEPS - 1)
        else:
            steps = np.frexp(np.maximum(np.floor(finite), 0))[1]
        for step, count in zip(*np.unique(steps, return_counts=True), strict=True):
            self.scores[name, int(step)] += int(count)

    def add_contaminated(self, hits: Iterable[str]) -> None:
        """Count contaminated documents per evaluation set, from their drop details."""
        for hit in hits:
            self.contaminated.update(contaminated_sets(hit))

    def __add__(self, other: DocumentCounts) -> DocumentCounts:
        theirs = vars(other)
        return DocumentCounts(**{name: own + theirs[name] for name, own in vars(self).items()})

    def __sub__(self, other: DocumentCounts) -> DocumentCounts:
        theirs = vars(other)
        return DocumentCounts(**{name: own - theirs[name] for name, own in vars(self).items()})


def _most_frequent(counts: Counter[str], number: int) -> list[tuple[str, int]]:
    """Most first, those with equal counts by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]
