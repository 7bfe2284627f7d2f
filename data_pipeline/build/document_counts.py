"""Counts of documents in a documents folder: by length, language, license and contamination."""

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

COUNTED_COLUMNS = ("language", "license", "contamination")
"""Columns of `document.SCHEMA`."""


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
