"""Encoding: speed against SentencePiece and Hugging Face's tokenizers, with all ids compared.

    python benchmarks/tokenization.py [--samples FOLDER] [--megabytes 40] [--rehearse]

Texts are what this machine has (programs and documentation of the Python installation); with FOLDER
also the documents of every source in FOLDER/raw, and LLaMA's own tokenizer.model, FOLDER/tokenizer.
Without it a tokenizer is trained on the texts. Each contender gets every text once, new to it: our
encoder begins with an empty table. Speed is on the process's own CPU time; contenders take turns in
every round, and a ratio is the median over rounds. Two processes against one are timed by the wall,
so the machine should be idle.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.document import Document
from data_pipeline.encoding import Encoder, has_borders, load_processor
from data_pipeline.huggingface_tokenizer import to_huggingface
from data_pipeline.parts import processed
from data_pipeline.tokenizer_folder import export_tokenizer
from data_pipeline.tokenizer_training import TokenizerConfig, train_on_lines
from data_pipeline.workers import Processes
from recipes.llama1_corpus import CrawlModels, llama1_corpus

# `report` is imported where it is used: it brings PyTorch.

TARGET_MB_PER_SECOND = 7.0
TARGET_JOBS = 1.8
OURS, SENTENCEPIECE, TOKENIZERS = "ours", "SentencePiece", "tokenizers"
_CHUNK_BYTES = 1_000_000
Ids = list[npt.NDArray[np.unsignedinteger[Any]]]


@dataclass(frozen=True)
class Speed:
    texts: str
    megabytes: float
    num_tokens: int
    megabytes_per_second: dict[str, float]
    times_as_fast: dict[str, float]
    """Ours against each other contender."""
    again: float
    """MB/s of ours on texts that it has encoded before."""


# -- texts ----------------------------------------------------------------------------------------


def machine_texts(megabytes: float) -> list[str]:
    """Python files of the installation, in the order of their names."""
    texts: list[str] = []
    left = megabytes * 1e6
    for folder in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(folder).rglob("*.py")):
            text = path.read_bytes().decode("utf-8", "replace")
            if left <= 0:
                return texts
            left -= len(text)
            texts.append(text)
    return texts


def sample_texts(samples: Path) -> Iterator[tuple[str, list[str]]]:
    """The documents of each source."""
    for source, root in llama1_corpus(samples / "raw", CrawlModels()).sources:
        items = (item for file in source.inputs(root).files for item in source.read(file))
        kept = (processed(source, item) for item in items)
        yield source.name, [item.text for item in kept if isinstance(item, Document)]


# -- speed ----------------------------------------------------------------------------------------


def contenders(folder: Path) -> dict[str, Callable[[Sequence[str]], Ids]]:
    """Each gives the ids of texts with BOS and EOS, beginning anew."""
    processor = load_processor(folder)
    huggingface = to_huggingface(processor)
    eos = processor.eos_id()

    def ours(texts: Sequence[str]) -> Ids:
        encoder = Encoder(folder)
        encoded = [encoder.encode(chunk) for chunk in chunks(texts)]
        return [part for e in encoded for part in np.split(e.tokens, e.offsets[1:-1])]

    def sentencepiece(texts: Sequence[str]) -> Ids:
        found = processor.encode(list(texts), add_bos=True, add_eos=True, num_threads=1)
        return [np.array(ids, np.uint32) for ids in found]

    def tokenizers(texts: Sequence[str]) -> Ids:
        # It has no way to take special tokens in text for text, so these texts have none.
        found = (huggingface.encode(text) for text in texts)
        return [np.array([*encoding.ids, eos], np.uint32) for encoding in found]

    return {OURS: ours, SENTENCEPIECE: sentencepiece, TOKENIZERS: tokenizers}


def chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Consecutive texts, as the store is made of."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def measure(name: str, texts: Sequence[str], folder: Path, rounds: int) -> Speed:
    """ValueError where two contenders' ids differ."""
    texts = [text for text in texts if "<s>" not in text and "</s>" not in text]
    texts = [text for text in texts if text and "<unk>" not in text]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    seconds: dict[str, list[float]] = {}
    expected: Ids | None = None
    for _ in range(rounds):
        for contender, encode in contenders(folder).items():
            start = time.process_time()
            ids = encode(texts)
            seconds.setdefault(contender, []).append(time.process_time() - start)
            expected = expected or ids
            for text, one, other in zip(texts, expected, ids, strict=True):
                if not np.array_equal(one, other):
                    raise ValueError(f"{contender} gives other ids for {text[:100]!r}")
    assert expected is not None, "there is a round"
    own = seconds[OURS]
    return Speed(
        texts=name,
        megabytes=megabytes,
        num_tokens=sum(map(len, expected)),
        megabytes_per_second={n: megabytes / statistics.median(s) for n, s in seconds.items()},
        times_as_fast={
            n: statistics.median(b / a for a, b in zip(own, s, strict=True))
            for n, s in seconds.items()
            if n != OURS
        },
        again=megabytes / seconds_again(texts, folder),
    )


def seconds_again(texts: Sequence[str], folder: Path) -> float:
    encoder = Encoder(folder)
    for chunk in chunks(texts):
        encoder.encode(chunk)
    start = time.process_time()
    for chunk in chunks(texts):
        encoder.encode(chunk)
    return time.process_time() - start


@dataclass(frozen=True)
class _Task:
    texts: tuple[str, ...]
    folder: Path


def encode_task(task: _Task) -> int:
    encoder = Encoder(task.folder)
    return sum(len(encoder.encode(chunk).tokens) for chunk in chunks(task.texts))


def times_as_fast_with_two(texts: Sequence[str], folder: Path, rounds: int) -> float:
    """Wall time of one process over that of two, for the same tasks."""
    tasks = [_Task(tuple(texts[index::8]), folder) for index in range(8)]
    ratios = []
    for _ in range(rounds):
        walls = []
        for jobs in (1, 2):
            start = time.perf_counter()
            Processes(jobs).map(encode_task, tasks, [1] * len(tasks), label=f"{jobs} jobs")
            walls.append(time.perf_counter() - start)
        ratios.append(walls[0] / walls[1])
    return statistics.median(ratios)


# -- what is shown --------------------------------------------------------------------------------


def targets(speeds: Sequence[Speed], jobs: float | None) -> list[tuple[str, ...]]:
    size = sum(speed.megabytes for speed in speeds)
    rate = size / sum(s.megabytes / s.megabytes_per_second[OURS] for s in speeds)
    rows: list[tuple[str, ...]] = [
        (
            "MB/s per core, all texts, new",
            f"at least {TARGET_MB_PER_SECOND}",
            f"{rate:.1f}",
            "yes" if rate >= TARGET_MB_PER_SECOND else "no",
        ),
        (
            "ids equal to SentencePiece's",
            "all",
            f"{sum(speed.num_tokens for speed in speeds):,} tokens",
            "yes",
        ),
    ]
    if jobs is not None:
        reached = "yes" if jobs >= TARGET_JOBS else "no"
        rows.append(("2 jobs against 1", f"at least {TARGET_JOBS}", f"{jobs:.2f}", reached))
    return rows


def speed_row(speed: Speed) -> tuple[str, ...]:
    rates, ratios = speed.megabytes_per_second, speed.times_as_fast
    return (
        speed.texts,
        f"{speed.megabytes:.1f}",
        f"{speed.megabytes * 1e6 / speed.num_tokens:.2f}",
        f"{rates[OURS]:.1f}",
        f"{speed.again:.1f}",
        *(f"{rates[name]:.1f} ({ratios[name]:.2f})" for name in (SENTENCEPIECE, TOKENIZERS)),
    )


def main() -> None:
    import report
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=Path, help="folder with raw/<source>/ and tokenizer/")
    parser.add_argument("--megabytes", type=float, default=40, help="of this machine's texts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    megabytes, rounds = (0.3, 1) if options.rehearse else (options.megabytes, options.rounds)
    machine = machine_texts(megabytes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tokenizer"
        if options.samples is not None:
            export_tokenizer(options.samples / "tokenizer" / "tokenizer.model", folder)
        else:
            vocab_size = 1_000 if options.rehearse else 32_000
            lines = (line for text in machine for line in text.split("\n"))
            train_on_lines(lines, folder, TokenizerConfig(vocab_size=vocab_size))
        assert has_borders(load_processor(folder)), "the tokenizer is not of LLaMA's kind"
        texts = {"Python files": machine}
        if options.samples is not None:
            texts |= dict(sample_texts(options.samples))
        speeds = [measure(name, some, folder, rounds) for name, some in texts.items()]
        jobs = None
        if (os.cpu_count() or 1) > 1:
            jobs = times_as_fast_with_two(machine, folder, rounds)
    header = (
        *("texts", "MB", "bytes per token", "ours MB/s", "ours again MB/s"),
        *("SentencePiece MB/s (ours is faster by)", "tokenizers MB/s (ours is faster by)"),
    )
    parts = [
        "# Tokenization",
        f"Commit {report.commit()}, {report.hardware(torch.device('cpu'))}. "
        f"{report.versions('sentencepiece', 'tokenizers', 'numpy')}. Command: "
        f"`{report.command()}`.",
        report.table(("", "target", "measured", "reached"), targets(speeds, jobs)),
        f"One core; medians, rounds: {rounds}. All ids of all contenders are equal. 'Again': texts "
        "that are in the table already, as most of a large corpus is.",
        report.table(header, [speed_row(speed) for speed in speeds]),
    ]
    stem = report.result_stem(options.out, "tokenization", torch.device("cpu"))
    raw = {"speeds": list(map(asdict, speeds)), "times_as_fast_with_two": jobs}
    print(report.write(stem, parts, raw))


if __name__ == "__main__":
    main()
