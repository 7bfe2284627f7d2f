"""Throughput of each source in each stage of a build, on one core: the rates behind `costs.py`.

    python -m benchmarks.data.stage_rates --samples FOLDER [--sources NAME ...] [--rehearse]

FOLDER holds `raw/<source>/` with real files, and `tokenizer/` with a tokenizer.model. Each source
is built by itself, in one process; its tasks' CPU time is divided by the bytes of its input files
(compressed or not), and of its texts. It is built at least twice, and the shortest time counts:
samples are small, and a first run includes imports. `--rehearse` builds once. The last output is
the table for `data_pipeline/build/costs.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import sentencepiece
import torch

from benchmarks.measuring import results as report
from data_pipeline.build.build_corpus import build_corpus
from data_pipeline.build.costs import kind_of
from data_pipeline.document import Document, Source
from data_pipeline.executors.local import Processes
from data_pipeline.executors.timed import TimedExecutor
from data_pipeline.files.inputs import InputFile, Inputs
from data_pipeline.files.remote import Root
from data_pipeline.tokens.sentencepiece_encoder import SentencePieceEncoder
from recipes.llama1_corpus import CrawlModels, llama1_corpus


@dataclass(frozen=True)
class Measured:
    kind: str
    input_megabytes: float
    extracted_megabytes: float
    """Text that the reader yields."""
    text_megabytes: float
    """Text that is kept."""
    num_documents: int
    reader_seconds: float
    """CPU time of reading alone, without edits, filters and writing."""
    read_seconds: float
    """Of the tasks that build parts."""
    compare_seconds: float
    """Of the build without the tasks that read and publish: exact deduplication, and
    bookkeeping."""
    publish_seconds: float
    parts_bytes: int
    bytes_per_token: float
    tokenize_seconds: float
    """Of encoding all texts."""


def measure(
    kind: str, source: Source, root: Root, files: Sequence[InputFile], tokenizer: Path, runs: int
) -> tuple[Measured, list[str]]:
    """The measurement, and the texts that are kept."""
    # Repeated paragraphs have their own benchmark.
    these = partial(_these, files=tuple(files))
    chosen = replace(source, inputs=these, paragraph_group_bytes=None)
    best: dict[str, float] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for name, seconds in _build(chosen, root, Path(folder, "out")).items():
                best[name] = min(seconds, best.get(name, seconds))
            texts = list(_texts(Path(folder, "out", source.name)))
            parts = sum(
                path.stat().st_size for path in Path(folder).rglob(".parts/**/documents-*.parquet")
            )
        start = time.process_time()
        extracted = 0
        for file in files:
            for item in source.read(file):
                extracted += len(item.text) if isinstance(item, Document) else 0
        seconds = time.process_time() - start
        best["reader"] = min(seconds, best.get("reader", seconds))
    encoder = SentencePieceEncoder(tokenizer)
    start = time.process_time()
    num_tokens = len(encoder.encode(texts).tokens)
    seconds = time.process_time() - start
    num_bytes = sum(len(text.encode()) for text in texts)
    measured = Measured(
        kind=kind,
        input_megabytes=sum(file.size for file in files) / 1e6,
        # Counted in characters, assumed as long in bytes as those of the texts kept.
        extracted_megabytes=extracted / 1e6 * num_bytes / max(1, sum(map(len, texts))),
        text_megabytes=num_bytes / 1e6,
        num_documents=len(texts),
        reader_seconds=best["reader"],
        read_seconds=best["read"],
        compare_seconds=best["compare"],
        publish_seconds=best["publish"],
        parts_bytes=parts,
        bytes_per_token=num_bytes / max(1, num_tokens),
        tokenize_seconds=seconds,
    )
    return measured, texts


def _these(root: Root, *, files: tuple[InputFile, ...]) -> Inputs:
    del root  # the files of one kind have been chosen under it
    return Inputs(files, ())


def _build(source: Source, root: Root, out: Path) -> dict[str, float]:
    """CPU seconds per stage."""
    engine = TimedExecutor(Processes(1))
    start = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        build_corpus([(source, root)], out, executor=engine, may_be_empty=True)
    whole = time.process_time() - start
    read, publish = (engine.core_seconds[f"{stage} {source.name}"] for stage in ("read", "publish"))
    return {"read": read, "compare": whole - read - publish, "publish": publish}


def _texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("documents-*.parquet")):
        yield from pq.read_table(path, columns=["text"]).column("text").to_pylist()


def kinds(
    samples: Path, names: Sequence[str]
) -> Iterator[tuple[str, Source, Root, list[InputFile]]]:
    """Every kind of input in the samples, with its files."""
    corpus = llama1_corpus(samples / "raw", CrawlModels())
    for source, root in corpus.sources:
        if names and source.name not in names:
            continue
        by_kind: dict[str, list[InputFile]] = {}
        for file in source.inputs(root).files:
            by_kind.setdefault(kind_of(source.name, file.source_file), []).append(file)
        for kind, files in by_kind.items():
            yield kind, source, root, files


def train_tokenizer(texts: Sequence[str]) -> float:
    """CPU seconds of training SentencePiece with LLaMA's settings, which determine the time."""
    start = time.process_time()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.split("\n")),
        model_writer=io.BytesIO(),
        model_type="bpe",
        vocab_size=32_000,
        split_digits=True,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return time.process_time() - start


def rate(amount: float, seconds: float) -> str:
    return f"{amount / seconds:,.2f}" if seconds > 0 else "-"


HEADER = (
    *("kind", "input MB", "text MB", "documents", "reader MB/s", "read MB/s"),
    *("extracted per input", "text per input", "parts per text", "compare MB/s", "publish MB/s"),
    *("bytes per token", "tokenize MB/s"),
)


def row(m: Measured) -> tuple[str, ...]:
    return (
        m.kind,
        f"{m.input_megabytes:,.2f}",
        f"{m.text_megabytes:,.2f}",
        f"{m.num_documents:,}",
        rate(m.input_megabytes, m.reader_seconds),
        rate(m.input_megabytes, m.read_seconds),
        f"{m.extracted_megabytes / m.input_megabytes:.2f}",
        f"{m.text_megabytes / m.input_megabytes:.2f}",
        f"{m.parts_bytes / 1e6 / max(m.text_megabytes, 1e-9):.2f}",
        rate(m.text_megabytes, m.compare_seconds),
        rate(m.text_megabytes, m.publish_seconds),
        f"{m.bytes_per_token:.2f}",
        rate(m.text_megabytes, m.tokenize_seconds),
    )


def as_code(m: Measured) -> str:
    """The measurement as a line of `costs.SOURCE_RATES`."""
    numbers = (
        m.input_megabytes / m.read_seconds,
        m.input_megabytes / m.reader_seconds,
        m.extracted_megabytes / m.input_megabytes,
        m.text_megabytes / m.input_megabytes,
        m.parts_bytes / 1e6 / max(m.text_megabytes, 1e-9),
        m.bytes_per_token,
    )
    return f'SourceRates("{m.kind}", {", ".join(f"{n:.2f}" for n in numbers)}, _SAMPLES),'


def main() -> None:
    parser = argparse.ArgumentParser(description="rates of every source in every stage")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--rehearse", action="store_true", help="build once")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    commit = report.commit()
    stem = report.result_stem(options.out, "stage_rates", torch.device("cpu"))
    tokenizer = options.samples / "tokenizer"
    results: list[Measured] = []
    texts: list[str] = []
    parts: list[str] = []
    for kind, source, root, files in kinds(options.samples, options.sources):
        runs = 1 if options.rehearse else 2
        result, own_texts = measure(kind, source, root, files, tokenizer, runs)
        results.append(result)
        texts += own_texts
        print(", ".join(map(": ".join, zip(HEADER, row(results[-1]), strict=True))), flush=True)
        parts = [
            "# What each source costs in each stage",
            f"Commit {commit}, {report.hardware(torch.device('cpu'))}, one core, real files. "
            "MB/s of input (reader: reading alone; read: with edits, filters and writing), of text "
            "(the others; compare: for exact duplicates, with all that a build does beside its "
            f"tasks). {report.versions('pyarrow', 'sentencepiece')}. Command: "
            f"`{report.command()}`.",
            report.table(HEADER, [row(result) for result in results]),
        ]
        report.write(stem, parts, [asdict(result) for result in results])
    megabytes = sum(result.text_megabytes for result in results)
    trained = rate(megabytes, train_tokenizer(texts))
    parts.append(f"SentencePiece trains on {megabytes:,.1f} MB of these texts at {trained} MB/s.")
    parts.append("\n".join(["```", *map(as_code, results), "```"]))
    print(report.write(stem, parts, [asdict(result) for result in results]))


if __name__ == "__main__":
    main()
