"""Peak memory of a build's worker on one large file of each streaming format.

    python -m benchmarks.data.reader_memory [--bytes 2147483648] [--formats warc wet ...]
        [--rehearse]

Each file is synthetic, a few documents repeated, and becomes a part of a build in a process of its
own: read, edited, filtered and written. The peak resident set of that process is measured, beside
that of a process that has only prepared the sources ("idle"). Every result is printed and written
as soon as it is available; results of other formats with the same size and code are kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.data.raw_files import RAW_FILES
from benchmarks.measuring.peak_memory import peak_bytes
from data_pipeline.build.parts import Part, build_part
from recipes.llama1_corpus import CrawlModels, llama1_corpus

# `report` is imported where it is used: it brings PyTorch, which would be measured with the rest.

TARGET_BYTES = 1 << 30


@dataclass(frozen=True)
class Result:
    format: str
    commit: str
    num_bytes: int
    """Approximate size of the file before compression."""
    file_bytes: int
    num_read: int
    num_kept: int
    seconds: float
    """CPU time of the worker."""
    idle_bytes: int
    """Peak resident set of a process that only prepares the sources (`prepare`)."""
    peak_bytes: int


def measure(name: str, num_bytes: int, commit: str, idle: int) -> Result:
    """Generate the file, build it in a fresh process, delete it."""
    raw_file = RAW_FILES[name]
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder, "raw"), Path(folder, "out")
        path = raw / raw_file.source / raw_file.path
        path.parent.mkdir(parents=True)
        raw_file.write(path, num_bytes)
        (num_read, num_kept, seconds), peak = peak_bytes(build, raw_file.source, raw, out)
        size = path.stat().st_size
    return Result(name, commit, num_bytes, size, num_read, num_kept, seconds, idle, peak)


def build(source_name: str, raw: Path, out: Path) -> tuple[int, int, float]:
    """(documents read, documents kept, CPU seconds)."""
    corpus = llama1_corpus(raw, CrawlModels())
    ((source, root),) = (pair for pair in corpus.sources if pair[0].name == source_name)
    part = Part(source, source.inputs(root).files, out)
    start = time.process_time()
    build_part(part)
    seconds = time.process_time() - start
    (row,) = pq.read_table(part.inputs, columns=["num_read", "num_dropped"]).to_pylist()
    return row["num_read"], row["num_read"] - row["num_dropped"], seconds


def prepare() -> None:
    """What every worker loads before it opens a file: libraries, and the language model."""
    llama1_corpus(Path(), CrawlModels())


# -- report ---------------------------------------------------------------------------------------


def row(result: Result) -> tuple[str, ...]:
    """The result's row in the table."""
    return (
        result.format,
        f"{result.num_bytes / 1e6:,.1f}",
        f"{result.file_bytes / 1e6:,.1f}",
        f"{result.num_read:,}",
        f"{result.num_kept:,}",
        f"{result.seconds:,.1f}",
        f"{result.idle_bytes / (1 << 20):,.0f}",
        f"{result.peak_bytes / (1 << 20):,.0f}",
        "yes" if result.peak_bytes < TARGET_BYTES else "no",
        result.commit,
    )


HEADER = (
    *("format", "MB", "MB as a file", "read", "kept", "CPU s"),
    *("MiB idle", "MiB peak", "under 1 GiB", "commit"),
)


def write(stem: Path, results: Sequence[Result]) -> str:
    from benchmarks.measuring import results as report

    packages = ("fastwarc", "resiliparse", "lxml", "pyarrow")
    parts = [
        "# Memory of a worker on one large file",
        "Largest resident set of the process that reads, edits, filters and writes one file, and "
        "of one that only prepares to (idle). MB: of the file before compression. "
        f"{report.versions(*packages)}. Command: `python -m benchmarks.data.reader_memory`.",
        report.table(HEADER, [row(result) for result in results]),
    ]
    return report.write(stem, parts, [asdict(result) for result in results])


def earlier_results(path: Path, num_bytes: int, commit: str) -> dict[str, Result]:
    """Results of the same size and code, by format."""
    if not path.is_file():
        return {}
    results = [Result(**fields) for fields in json.loads(path.read_bytes())]
    return {r.format: r for r in results if (r.num_bytes, r.commit) == (num_bytes, commit)}


def main() -> None:
    import torch

    from benchmarks.measuring import results as report

    parser = argparse.ArgumentParser(description="memory of a build's worker on large files")
    parser.add_argument("--bytes", type=int, default=2 << 30, help="of a file before compression")
    parser.add_argument("--formats", nargs="+", choices=RAW_FILES, default=list(RAW_FILES))
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    options = parser.parse_args()
    num_bytes = 300_000 if options.rehearse else options.bytes
    commit = report.commit()
    stem = report.result_stem(options.out, "reader_memory", torch.device("cpu"))
    results = earlier_results(stem.with_suffix(".json"), num_bytes, commit)
    _, idle = peak_bytes(prepare)
    text = ""
    for name in options.formats:
        results[name] = measure(name, num_bytes, commit, idle)
        cells = zip(HEADER, row(results[name]), strict=True)
        print(", ".join(f"{heading}: {cell}" for heading, cell in cells), flush=True)
        text = write(stem, [results[known] for known in RAW_FILES if known in results])
    print(text)


if __name__ == "__main__":
    main()
