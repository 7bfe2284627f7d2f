"""Compares tokenizers on the same text: compression (bytes per token) and coverage (byte
fallback)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from data_pipeline.documents_folder import read_manifest
from data_pipeline.tokens.tokenizer_folder import NOT_NEEDED, load_encoder


@dataclass(frozen=True)
class Fit:
    """Compression and coverage of a tokenizer on the text of one source."""

    source: str
    tokenizer: str
    num_text_bytes: int
    num_tokens: int
    """Without BOS and EOS."""
    num_byte_tokens: int
    """Byte-fallback tokens (characters that are not in the vocabulary), line breaks excluded; of a
    tokenizer without byte fallback, unknown tokens."""

    @property
    def bytes_per_token(self) -> float:
        return self.num_text_bytes / max(1, self.num_tokens)

    @property
    def coverage(self) -> float:
        """Share of the text's bytes in characters that are in the vocabulary."""
        return 1 - self.num_byte_tokens / max(1, self.num_text_bytes)


def compare_tokenizers(
    documents: Mapping[str, Path], tokenizers: Mapping[str, Path], *, bytes_per_source: int
) -> list[Fit]:
    """Compare tokenizer folders, by name, on each documents folder, by source.

    Documents are sampled evenly over a source, up to `bytes_per_source` bytes.
    """
    encoders = {name: load_encoder(folder, NOT_NEEDED) for name, folder in tokenizers.items()}
    fits = []
    for source, folder in documents.items():
        texts = list(_sample(folder, bytes_per_source))
        num_bytes = sum(len(text.encode()) for text in texts)
        for name, encoder in encoders.items():
            encoded = encoder.encode(texts)
            num_tokens = len(encoded.tokens) - 2 * len(texts)
            fits.append(Fit(source, name, num_bytes, num_tokens, encoded.num_byte_tokens))
    return fits


def _sample(folder: Path, num_bytes: int) -> Iterator[str]:
    """Documents of every n-th row group, with n chosen to give about `num_bytes`."""
    manifest = read_manifest(folder)
    groups = [
        (folder / file.path, index)
        for file in manifest.files
        for index in range(pq.read_metadata(folder / file.path).num_row_groups)
    ]
    if not groups:
        return
    per_group = max(1, manifest.num_text_bytes // len(groups))
    wanted = max(1, min(len(groups), num_bytes // per_group))
    left = num_bytes
    for path, index in groups[:: max(1, len(groups) // wanted)]:
        with pq.ParquetFile(path) as parquet:
            for text in parquet.read_row_group(index, ["text"], use_threads=False)[0].to_pylist():
                if left <= 0:
                    return
                left -= len(text.encode())
                yield text


def table(fits: Sequence[Fit]) -> str:
    """A table with one line per source and tokenizer."""
    rows = [("source", "tokenizer", "MB", "bytes per token", "covered bytes")]
    for fit in fits:
        size, ratio = f"{fit.num_text_bytes / 1e6:.2f}", f"{fit.bytes_per_token:.3f}"
        rows.append((fit.source, fit.tokenizer, size, ratio, f"{fit.coverage:.3%}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [
                *map(str.ljust, row[:2], widths[:2]),
                *map(str.rjust, row[2:], widths[2:]),
            ]
        ).rstrip()
        for row in rows
    )
