"""What a manifest counts: documents added, and taken away again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from data_pipeline.build.document_counts import COUNTED_COLUMNS, DocumentCounts
from data_pipeline.document import SCHEMA

Row = tuple[str | None, str | None, str | None, str | None, float | None, float | None, int]
ROWS: list[Row] = [
    # language, license, contamination, url, perplexity, language_score, bytes
    ("en", "MIT", None, "https://www.Example.org:80/a", 511.9, 0.97, 1),
    ("en", None, '{"mmlu": "x"}', "http://me@example.org?b", 512.0, 1.0, 1023),
    (None, "GPL-3.0-only", None, "no address", 0.5, None, 1024),
    ("it", "MIT", '{"mmlu": "x", "boolq": "y"}', "https://b.example/", float("inf"), 0.5, 3),
]


def counted(rows: list[Row]) -> DocumentCounts:
    names = ("language", "license", "contamination", "url", "perplexity", "language_score")
    found = [dict(zip(names, row, strict=False)) for row in rows]
    schema = pa.schema([SCHEMA.field(name) for name in COUNTED_COLUMNS])
    counts = DocumentCounts()
    table = pa.Table.from_pylist(found, schema)
    counts.add_documents(table, np.array([row[-1] for row in rows], np.int32))
    return counts


def test_counts() -> None:
    assert counted(ROWS).manifest_fields() == {
        "num_kept": 4,
        "num_text_bytes": 2051,
        "lengths": {"1": 1, "2": 1, "10": 1, "11": 1},
        "languages": {"": 1, "en": 2, "it": 1},
        "licenses": {"": 1, "GPL-3.0-only": 1, "MIT": 2},
        "license_bytes": {"": 1023, "GPL-3.0-only": 1024, "MIT": 4},
        "contaminated": {"boolq": 1, "mmlu": 2},
        "domains": {"example.org": 2, "b.example": 1},
        "scores": {"language_score": {"10": 1, "19": 2}, "perplexity": {"0": 1, "9": 1, "10": 1}},
    }


def test_lengths_are_in_the_order_of_numbers() -> None:
    assert list(counted(ROWS).manifest_fields()["lengths"]) == ["1", "2", "10", "11"]


def test_any_documents_can_be_taken_away() -> None:
    for split in range(1, len(ROWS)):
        first, rest = counted(ROWS[:split]), counted(ROWS[split:])
        assert first + rest == counted(ROWS)
        assert counted(ROWS) - first == rest
        assert (counted(ROWS) - rest).manifest_fields() == first.manifest_fields()
