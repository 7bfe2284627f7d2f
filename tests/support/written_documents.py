"""Writes documents folders for tests from rows, without a source or raw files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.document import SCHEMA, content_id
from data_pipeline.documents_folder import MANIFEST_VERSION, Manifest, ShardFile
from data_pipeline.files.checksum import file_checksum


def write_documents(folder: Path, rows: Sequence[Mapping[str, Any]], num_files: int = 1) -> Path:
    """A documents folder of these rows; what they leave out is made up or empty."""
    folder.mkdir(parents=True, exist_ok=True)
    full = [
        {"id": content_id(row["text"]), "source": folder.name, "source_file": "raw.txt", **row}
        for row in rows
    ]
    files = []
    for index in range(num_files if full else 0):
        path = folder / f"documents-{index:05}-000.parquet"
        part = full[index * len(full) // num_files : (index + 1) * len(full) // num_files]
        pq.write_table(pa.Table.from_pylist(part, SCHEMA), path, row_group_size=50)
        files.append(ShardFile(path.name, len(part), path.stat().st_size, file_checksum(path)))
    size = sum(len(row["text"].encode()) for row in full)
    manifest = Manifest(
        version=MANIFEST_VERSION,
        source=folder.name,
        fingerprint="",
        versions={},
        num_input_files=1,
        num_input_bytes=size,
        num_read=len(full),
        num_read_bytes=size,
        num_paragraphs_removed=0,
        num_paragraph_characters_removed=0,
        num_kept=len(full),
        drops=(),
        contaminated={},
        ignored={},
        advice={},
        num_text_bytes=size,
        lengths={},
        languages={},
        licenses={},
        license_bytes={},
        domains={},
        scores={},
        files=tuple(files),
    )
    (folder / "manifest.json").write_bytes(manifest.to_json())
    return folder


def text_rows(texts: Sequence[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]
