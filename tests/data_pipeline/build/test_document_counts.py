"""What a manifest counts: documents added, and taken away again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from data_pipeline.build.document_counts import DocumentCounts

ROWS = [
    # language, license, contamination, bytes
    ("en", "MIT", None, 1),
    ("en", None, '{"mmlu": "x"}', 1023),
    (None, "GPL-3.0-only", None, 1024),
    ("it", "MIT", '{"mmlu": "x", "boolq": "y"}', 3),
]


def counted(rows: list[tuple[str | None, str | None, str | None, int]]) -> DocumentCounts:
    names = ("language", "license", "contamination")
    columns = zip(*(row[:3] for row in rows), strict=True)
    table = pa.table(
        {name: pa.array(c, pa.string()) for name, c in zip(names, columns, strict=True)}
    )
    counts = DocumentCounts()
    counts.add_documents(table, np.array([row[3] for row in rows], np.int32))
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
    }


def test_lengths_are_in_the_order_of_numbers() -> None:
    assert list(counted(ROWS).manifest_fields()["lengths"]) == ["1", "2", "10", "11"]


def test_any_documents_can_be_taken_away() -> None:
    for split in range(1, len(ROWS)):
        first, rest = counted(ROWS[:split]), counted(ROWS[split:])
        assert first + rest == counted(ROWS)
        assert counted(ROWS) - first == rest
        assert (counted(ROWS) - rest).manifest_fields() == first.manifest_fields()
