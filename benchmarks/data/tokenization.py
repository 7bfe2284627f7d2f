"""Tokenization: throughput, equality with SentencePiece, scaling to two processes, and memory.

    python -m benchmarks.data.tokenization [--samples FOLDER] [--megabytes 20] [--speed]
        [--rehearse]

Texts: files of this machine (documentation, manual pages, programs); and where FOLDER has
`raw/<source>/`, documents of the sources' readers. The tokenizer is LLaMA's published one where
FOLDER has `tokenizer/tokenizer.model`, and is else trained on the texts. Throughput is per CPU
second of the process, from texts to arrays of ids with BOS and EOS; contenders take turns in every
round, and a ratio is the median over rounds of ratios within a round. Each starts every round with
a cold cache for every kind of text ('again': warm cache). All ids of all contenders are compared
with SentencePiece's.

With `--speed` that is all. Two processes are timed by wall time, so the machine should be idle; the
machine's own scaling to two processes is measured in every round, too, by a counting loop. Memory
is the peak resident set.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data.near_duplicate_texts import machine_texts
from benchmarks.data.tokenization_tools import CONTENDERS, OURS, Ours, SentencePiece, run
from benchmarks.data.watched_executor import count_up
from benchmarks.measuring.peak_memory import peak_bytes
from data_pipeline.document import Document
from data_pipeline.executors.local import Processes
from data_pipeline.tokens.sentencepiece_encoder import SentencePieceEncoder
from data_pipeline.tokens.tokenizer_folder import export_tokenizer
from data_pipeline.tokens.tokenizer_training import TokenizerConfig, train_on_lines

# `report` is imported lazily: it imports PyTorch, which would be measured with the rest.

TARGET_MB_PER_SECOND = 7.0
TARGET_TWO_PROCESSES = 1.8
FLAT = 1.2
"""Memory counts as constant if it grows by less than this factor with the amount of text."""
_NUM_FILES = 8
_LEAST_CHARACTERS = 100_000
"""Smaller inputs are too fast to be timed."""


@dataclass(frozen=True)
class Speed:
    texts: str
    megabytes: float
    num_documents: int
    bytes_per_token: float
    megabytes_per_second: dict[str, float]
    """Per contender, the median over rounds."""
    ratios: dict[str, float]
    """Speedup of ours over each other contender."""
    again: float
    """MB/s of ours with a warm cache, as in most of a large corpus."""
    different_documents: dict[str, int]
    """Documents whose ids differ from SentencePiece's."""


def measure(name: str, texts: Sequence[str], tokenizer: Path, rounds: int) -> Speed:
    num_bytes = sum(len(text.encode()) for text in texts)
    rates: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    again: list[float] = []
    different = dict.fromkeys(CONTENDERS, 0)
    expected = run(SentencePiece(tokenizer), texts)
    for make in CONTENDERS.values():
        run(make(tokenizer), texts[:1])  # warm-up: imports of the first call
    for _ in range(rounds):
        for contender, make in CONTENDERS.items():
            made = make(tokenizer)
            start = time.process_time()
            found = run(made, texts)
            rates[contender].append(num_bytes / 1e6 / (time.process_time() - start))
            pairs = zip(found, expected, strict=True)
            different[contender] = sum(not np.array_equal(ids, right) for ids, right in pairs)
            if contender == OURS:
                start = time.process_time()
                run(made, texts)
                again.append(num_bytes / 1e6 / (time.process_time() - start))
    return Speed(
        texts=name,
        megabytes=num_bytes / 1e6,
        num_documents=len(texts),
        bytes_per_token=num_bytes / sum(len(ids) - 2 for ids in expected),
        megabytes_per_second={c: statistics.median(values) for c, values in rates.items()},
        ratios={
            c: statistics.median(a / b for a, b in zip(rates[OURS], values, strict=True))
            for c, values in rates.items()
            if c != OURS
        },
        again=statistics.median(again),
        different_documents=different,
    )


# -- texts ----------------------------------------------------------------------------------------


def real_texts(samples: Path, num_bytes: float) -> Iterator[tuple[str, list[str]]]:
    """Per kind of input that has enough samples, the first documents of its reader."""
    from benchmarks.data.stage_rates import kinds

    for kind, source, _, files in kinds(samples, ()):
        items = itertools.chain.from_iterable(map(source.read, files))
        texts = [item.text for item in up_to(num_bytes, items)]
        if sum(map(len, texts)) >= _LEAST_CHARACTERS:
            yield kind, texts


def up_to(num_bytes: float, items: Iterator[Any]) -> Iterator[Document]:
    size = 0
    for item in items:
        if isinstance(item, Document):
            size += len(item.text.encode())
            yield item
        if size >= num_bytes:
            break


def texts_of_machine(num_bytes: float) -> list[str]:
    size = 0
    texts = []
    for text in machine_texts(random.Random(0)):
        size += len(text.encode())
        texts.append(text)
        if size >= num_bytes:
            break
    return texts


def made_words(num_bytes: float) -> str:
    """Synthetic words by Zipf's law, from a million distinct ones."""
    drawn = np.random.default_rng(0)
    numbers = (1e6 ** drawn.random(int(num_bytes / 6))).astype(int)
    text = " ".join(map(np.base_repr, numbers, itertools.repeat(36))).lower()
    return text[: int(num_bytes)]


# -- two processes --------------------------------------------------------------------------------


def encode_file(task: tuple[Path, Path]) -> tuple[float, float, int]:
    """(start, end, number of tokens)."""
    tokenizer, path = task
    start = time.monotonic()
    count = sum(map(len, run(Ours(tokenizer), pq.read_table(path).column("text").to_pylist())))
    return start, time.monotonic(), count


def two_processes(
    texts: Sequence[str], tokenizer: Path, rounds: int, steps: int
) -> tuple[list[float], list[float]]:
    """Speedup of two processes over one, startup excluded, and that of a counting loop."""
    ratios, counting = [], []
    with tempfile.TemporaryDirectory() as folder:
        tasks = []
        for index in range(_NUM_FILES):
            path = Path(folder, f"{index}.parquet")
            pq.write_table(pa.table({"text": texts[index::_NUM_FILES]}), path)
            tasks.append((tokenizer, path))
        for _ in range(rounds):
            seconds, counts = [], []
            for jobs in (1, 2):
                engine = Processes(jobs)
                done = engine.map(encode_file, tasks, [1] * len(tasks), label="encode")
                starts, ends, tokens = zip(*done, strict=True)
                seconds.append(max(ends) - min(starts))
                counts.append(tokens)
                start = time.perf_counter()
                engine.map(count_up, [steps] * 4, [1] * 4, label="count")
                counting.append(time.perf_counter() - start)
            assert counts[0] == counts[1], "the number of processes changes nothing"
            ratios.append(seconds[0] / seconds[1])
    pairs = zip(counting[::2], counting[1::2], strict=True)
    return ratios, [one / two for one, two in pairs]


# -- memory ---------------------------------------------------------------------------------------


def encode_many(tokenizer: Path, num_bytes: int) -> None:
    """Batches of documents in which most words are new, so that the cache is always full."""
    encoder = SentencePieceEncoder(tokenizer)
    for index in range(num_bytes // 1_000_000):
        drawn = np.random.default_rng(index)
        numbers = (1e9 ** drawn.random(1_000_000 // 7)).astype(int).astype(str)
        encoder.encode([" ".join(numbers[first::100]) for first in range(100)])


def encode_one(tokenizer: Path, num_bytes: int) -> None:
    """One document of words."""
    SentencePieceEncoder(tokenizer).encode([made_words(1_000_000) * (num_bytes // 1_000_000)])


def encode_letters(tokenizer: Path, num_bytes: int) -> None:
    """One document of letters without a blank."""
    SentencePieceEncoder(tokenizer).encode(
        ["".join(random.Random(0).choices("ACGT", k=10_000)) * (num_bytes // 10_000)]
    )


MEMORY: tuple[tuple[str, Callable[[Path, int], None]], ...] = (
    ("documents of 10 kB", encode_many),
    ("one document of words", encode_one),
    ("one document without a blank", encode_letters),
)


@dataclass(frozen=True)
class Memory:
    what: str
    megabytes: float
    peak_bytes: int


def measure_memory(tokenizer: Path, sizes: Sequence[int]) -> list[Memory]:
    results = []
    for what, function in MEMORY:
        for size in sizes if function is not encode_letters else sizes[:1]:
            _, peak = peak_bytes(function, tokenizer, size)
            results.append(Memory(what, size / 1e6, peak))
            print(f"{what}: {size / 1e6:g} MB, {peak / (1 << 20):,.0f} MiB", flush=True)
    return results


# -- report ---------------------------------------------------------------------------------------


def speed_row(result: Speed) -> tuple[str, ...]:
    rates = result.megabytes_per_second
    return (
        result.texts,
        f"{result.megabytes:,.1f}",
        f"{result.num_documents:,}",
        f"{result.bytes_per_token:.2f}",
        *(f"{rates[name]:,.1f}" for name in CONTENDERS),
        f"{result.again:,.1f}",
        *(f"{result.ratios[name]:.1f}" for name in CONTENDERS if name != OURS),
    )


def targets(
    speeds: Sequence[Speed], ratios: Sequence[float], memory: Sequence[Memory]
) -> list[tuple[str, str, str, str]]:
    """(what, target, measured, whether it is reached)."""
    seconds = [result.megabytes / result.megabytes_per_second[OURS] for result in speeds]
    slowest = min(speeds, key=lambda result: result.megabytes_per_second[OURS])
    rates = {
        "all texts": sum(result.megabytes for result in speeds) / sum(seconds),
        f"slowest: {slowest.texts}": slowest.megabytes_per_second[OURS],
    }
    rows = [
        (
            f"MB/s per core, {name}",
            f">= {TARGET_MB_PER_SECOND:g}",
            f"{rate:.1f}",
            rate >= TARGET_MB_PER_SECOND,
        )
        for name, rate in rates.items()
    ]
    wrong = sum(result.different_documents[OURS] for result in speeds)
    count = sum(result.num_documents for result in speeds)
    rows.append(
        ("documents whose ids are not SentencePiece's", "0", f"{wrong} of {count:,}", wrong == 0)
    )
    two = statistics.median(ratios)
    rows.append(
        (
            "2 processes, times as fast as 1",
            f">= {TARGET_TWO_PROCESSES}",
            f"{two:.2f}",
            two >= TARGET_TWO_PROCESSES,
        )
    )
    few, many = (result for result in memory if result.what == MEMORY[0][0])
    growth = many.peak_bytes / few.peak_bytes
    rows.append(
        (
            f"memory, {many.megabytes:g} MB against {few.megabytes:g} MB of documents",
            f"flat (below {FLAT})",
            f"{growth:.2f}",
            growth < FLAT,
        )
    )
    return [(what, target, value, "yes" if good else "no") for what, target, value, good in rows]


def speed_table(speeds: Sequence[Speed]) -> list[str]:
    """The table of throughputs, and how often the ids of others differ."""
    from benchmarks.measuring import results as report

    peers = [name for name in CONTENDERS if name != OURS]
    header = (
        *("texts", "MB", "documents", "bytes per token"),
        *(f"{name} MB/s" for name in CONTENDERS),
        f"{OURS} again MB/s",
        *(f"x {name}" for name in peers),
    )
    differing = [
        f"{name}: {sum(result.different_documents[name] for result in speeds):,}" for name in peers
    ]
    return [
        report.table(header, [speed_row(result) for result in speeds]),
        f"Documents with other ids than SentencePiece's: {'; '.join(differing)}.",
    ]


def report_parts(
    about: str,
    speeds: list[Speed],
    ratios: list[float],
    counting: list[float],
    memory: list[Memory],
) -> list[str]:
    """The paragraphs and tables of the result file."""
    from benchmarks.measuring import results as report

    return [
        "# Tokenization",
        about,
        *speed_table(speeds),
        report.table(("", "target", "measured", "reached"), targets(speeds, ratios, memory)),
        f"A loop that only counts is {statistics.median(counting):.2f} times as fast in two "
        "processes as in one: what the machine had to give while this ran.",
        "Largest resident set of a process, with the text itself and some 150 MiB of libraries.",
        report.table(
            ("what", "MB", "MiB"),
            [(m.what, f"{m.megabytes:g}", f"{m.peak_bytes / (1 << 20):,.0f}") for m in memory],
        ),
    ]


def make_tokenizer(
    samples: Path | None, texts: Sequence[str], folder: Path, vocab_size: int
) -> str:
    """The published tokenizer in the folder, or one trained on the texts; which one, in words."""
    published = samples and samples / "tokenizer" / "tokenizer.model"
    if published and published.is_file():
        export_tokenizer(published, folder)
        return "LLaMA's published tokenizer"
    lines = (line for text in texts for line in text.split("\n"))
    train_on_lines(lines, folder, TokenizerConfig(vocab_size=vocab_size))
    return "A tokenizer trained on the texts"


def main() -> None:
    import torch

    from benchmarks.measuring import results as report

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=Path, help="folder with raw/<source>/ and tokenizer/")
    parser.add_argument("--megabytes", type=float, default=20, help="of each kind of text, at most")
    parser.add_argument("--speed", action="store_true", help="the speed of one process alone")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    commit = report.commit()
    megabytes, rounds, steps, vocab_size = options.megabytes, 3, 10_000_000, 32_000
    sizes: tuple[int, ...] = (75_000_000, 300_000_000)
    if options.rehearse:
        megabytes, rounds, steps, vocab_size, sizes = 0.3, 1, 10_000, 1_000, (1_000_000, 2_000_000)
    texts = {"this machine": texts_of_machine(megabytes * 1e6)}
    if options.samples is not None:
        texts |= dict(real_texts(options.samples, megabytes * 1e6))
    with tempfile.TemporaryDirectory() as name:
        tokenizer = Path(name, "tokenizer")
        model = make_tokenizer(options.samples, texts["this machine"], tokenizer, vocab_size)
        speeds = []
        for kind, some in texts.items():
            speeds.append(measure(kind, some, tokenizer, rounds))
            print(", ".join(speed_row(speeds[-1])), flush=True)
        if not options.speed:
            everything = list(itertools.chain.from_iterable(texts.values()))
            ratios, counting = two_processes(everything, tokenizer, rounds, steps)
            memory = measure_memory(tokenizer, sizes)
    about = (
        f"Commit {commit}, {report.hardware(torch.device('cpu'))}, one core. "
        f"{report.versions('sentencepiece', 'tokenizers', 'kitoken', 'tokie', 'numpy')}. {model}. "
        f"Command: `{report.command()}`."
    )
    if options.speed:
        stem = report.result_stem(options.out, "tokenization_speed", torch.device("cpu"))
        parts = ["# Speed of tokenization", about, *speed_table(speeds)]
        print(report.write(stem, parts, list(map(asdict, speeds))))
        return
    parts = report_parts(about, speeds, ratios, counting, memory)
    raw = {
        "commit": commit,
        "speed": list(map(asdict, speeds)),
        "two_processes": ratios,
        "two_processes_counting": counting,
        "memory": list(map(asdict, memory)),
    }
    print(
        report.write(
            report.result_stem(options.out, "tokenization", torch.device("cpu")), parts, raw
        )
    )


if __name__ == "__main__":
    main()
