"""Paragraph-level deduplication: throughput against plain Python, and memory.

    python -m benchmarks.data.paragraphs [--samples FOLDER] [--megabytes 32] [--rehearse]

One core, per CPU second of the process; the contenders take turns in every round, and a ratio is
the median over rounds. All of them normalize, hash, decide and remove, with equal results. Texts:
synthetic pages with shared menus and notices around unique paragraphs; and where FOLDER has `raw/`,
documents of C4 and CommonCrawl, repeated with a word added to every line so that the paragraphs are
new. The target is 26 MB/s, the throughput of a numpy version of the same rule.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measuring.peak_memory import peak_bytes
from data_pipeline.dedup.paragraph_hashes import COUNTS, HASHES, write_paragraph_hashes
from data_pipeline.dedup.paragraphs import BYTES_PER_PARAGRAPH, ParagraphKeeper, keep_masks
from data_pipeline.document import Document
from data_pipeline.executors.local import Processes
from data_pipeline.sources import c4, common_crawl
from data_pipeline.text.normal_forms import paragraph_key

# `report` is imported lazily: it imports PyTorch, which would be measured with the rest.

TARGET_MB_PER_SECOND = 26.0
Remover = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class Speed:
    texts: str
    megabytes: float
    paragraphs_per_megabyte: float
    ascii_share: float
    """Of the lines."""
    removed_share: float
    """Of the characters."""
    megabytes_per_second: dict[str, float]
    """Per contender, the median over rounds."""
    ratios: dict[str, float]
    """Speedup of ours over each other contender."""


@dataclass(frozen=True)
class Memory:
    what: str
    amount: str
    idle_bytes: int
    peak_bytes: int


# -- contenders -----------------------------------------------------------------------------------


def ours(texts: Sequence[str]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        part, out = Path(folder, "part"), Path(folder, "out")
        part.mkdir()
        write_paragraph_hashes(texts, part)
        ((mask,),) = keep_masks([[part]], out, executor=Processes(1), memory_budget=1 << 34)
        keeper = ParagraphKeeper(mask)
        return [keeper.remaining(text).text for text in texts]


def plain_python(texts: Sequence[str]) -> list[str]:
    """A set of hashes: the first 64 bits of SHA-1 of each normalized line, as in CCNet."""
    seen: set[bytes] = set()
    result = []
    for text in texts:
        kept = []
        is_kept = True
        for line in text.split("\n"):
            if key := paragraph_key(line):
                value = hashlib.sha1(key.encode()).digest()[:8]
                is_kept = value not in seen
                seen.add(value)
            if is_kept:
                kept.append(line)
        result.append("\n".join(kept))
    return result


CONTENDERS: dict[str, Remover] = {"ours": ours, "plain Python": plain_python}


def measure(name: str, texts: Sequence[str], rounds: int) -> Speed:
    size = sum(len(text.encode()) for text in texts) / 1e6
    rates: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    left: dict[str, int] = {}
    for _ in range(rounds):
        for contender, remove in CONTENDERS.items():
            start = time.process_time()
            result = remove(texts)
            rates[contender].append(size / (time.process_time() - start))
            left[contender] = sum(map(len, result))
            if contender != "ours":
                assert left[contender] == left["ours"], f"{contender} removes something else"
    lines = [line for text in texts for line in text.split("\n")]
    return Speed(
        texts=name,
        megabytes=size,
        paragraphs_per_megabyte=len(lines) / size,
        ascii_share=sum(map(str.isascii, lines)) / len(lines),
        removed_share=1 - left["ours"] / sum(map(len, texts)),
        megabytes_per_second={c: statistics.median(values) for c, values in rates.items()},
        ratios={
            c: statistics.median(a / b for a, b in zip(rates["ours"], values, strict=True))
            for c, values in rates.items()
            if c != "ours"
        },
    )


# -- texts ----------------------------------------------------------------------------------------

_LETTERS = {
    "English": "etaoinshrdlu",
    "French": "etaoinshrdl\u00e9\u00e0",
    "Russian": "".join(map(chr, range(0x430, 0x440))),
}


def made_texts(language: str, megabytes: float) -> Iterator[str]:
    """Synthetic pages of 20 lines, four of which are boilerplate shared with many others."""
    drawn = random.Random(0)
    letters = _LETTERS[language]
    words = ["".join(drawn.choices(letters, k=drawn.randrange(2, 10))) for _ in range(5_000)]
    shared = [" ".join(drawn.choices(words, k=6)).capitalize() for _ in range(200)]
    size = 0.0
    while size < megabytes * 1e6:
        own = [" ".join(drawn.choices(words, k=drawn.randrange(4, 30))) + "." for _ in range(16)]
        page = "\n".join([*drawn.choices(shared, k=3), *own, drawn.choice(shared)])
        size += len(page.encode())
        yield page


def real_texts(samples: Path) -> dict[str, list[str]]:
    """Per source, the texts as its reader yields them."""
    readers = {
        "C4": (c4.inputs(samples / "raw" / "c4"), partial(c4.read, language="en")),
        "CommonCrawl": (
            common_crawl.inputs(samples / "raw" / "common_crawl"),
            partial(common_crawl.read, max_block_bytes=5 << 20),
        ),
    }
    return {
        name: [
            item.text for file in files.files for item in read(file) if isinstance(item, Document)
        ]
        for name, (files, read) in readers.items()
    }


def repeated(texts: Sequence[str], megabytes: float) -> list[str]:
    """The texts repeated, with distinct paragraphs each time."""
    result = []
    size = 0
    for number in itertools.count():
        mark = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        for text in texts:
            result.append("\n".join(f"{line} {mark}" for line in text.split("\n")))
            size += len(result[-1].encode())
            if size >= megabytes * 1e6:
                return result
    raise AssertionError("counting does not end")


# -- memory ---------------------------------------------------------------------------------------


def hash_made(megabytes: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_paragraph_hashes(made_texts("French", megabytes), Path(folder))


def compare_random(folder: Path, memory_budget: int) -> None:
    groups = [sorted(folder.glob("part-*"))]
    with tempfile.TemporaryDirectory() as out:
        keep_masks(groups, Path(out), executor=Processes(1), memory_budget=memory_budget)


def write_random_hashes(folder: Path, count: int, num_parts: int) -> None:
    """Half of all paragraphs are duplicates."""
    drawn = np.random.default_rng(0)
    for part in range(num_parts):
        (folder / f"part-{part}").mkdir()
        hashes = drawn.integers(0, count // 2, count // num_parts).astype(np.uint64)
        hashes *= np.uint64(
            0x9E3779B97F4A7C15
        )  # an odd factor is a bijection: distinct stay distinct
        np.save(folder / f"part-{part}" / HASHES, hashes)
        np.save(folder / f"part-{part}" / COUNTS, np.full(len(hashes) // 10, 10, np.uint32))


def nothing() -> None:
    """Baseline: the libraries alone."""


def measure_memory(megabytes: float, count: int) -> list[Memory]:
    _, idle = peak_bytes(nothing)
    results = []
    for size in (megabytes, 4 * megabytes):
        _, peak = peak_bytes(hash_made, size)
        results.append(Memory("hash texts", f"{size:,.0f} MB", idle, peak))
    with tempfile.TemporaryDirectory() as folder:
        write_random_hashes(Path(folder), count, num_parts=4)
        for share in (4, 16):
            budget = count * BYTES_PER_PARAGRAPH // share
            _, peak = peak_bytes(compare_random, Path(folder), budget)
            amount = f"{count / 1e6:,.1f} M paragraphs, budget {budget / (1 << 20):,.0f} MiB"
            results.append(Memory("compare", amount, idle, peak))
    return results


# -- report ---------------------------------------------------------------------------------------


def speed_row(result: Speed) -> tuple[str, ...]:
    own, peer = (result.megabytes_per_second[name] for name in CONTENDERS)
    return (
        result.texts,
        f"{result.megabytes:,.1f}",
        f"{result.paragraphs_per_megabyte:,.0f}",
        f"{result.ascii_share:.0%}",
        f"{result.removed_share:.1%}",
        f"{own:,.1f}",
        f"{peer:,.1f}",
        f"{result.ratios['plain Python']:.1f}",
    )


def target_row(result: Speed) -> tuple[str, ...]:
    own = result.megabytes_per_second["ours"]
    return (
        result.texts,
        f"at least {TARGET_MB_PER_SECOND:.0f} MB/s per core",
        f"{own:,.1f}",
        "yes" if own >= TARGET_MB_PER_SECOND else "no",
    )


def memory_row(result: Memory) -> tuple[str, ...]:
    used = result.peak_bytes - result.idle_bytes
    return (
        result.what,
        result.amount,
        f"{result.idle_bytes / (1 << 20):,.0f}",
        f"{result.peak_bytes / (1 << 20):,.0f}",
        f"{used / (1 << 20):,.0f}",
    )


def main() -> None:
    import torch

    from benchmarks.measuring import results as report

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=Path, help="folder with raw/c4 and raw/common_crawl")
    parser.add_argument("--megabytes", type=float, default=32, help="of each kind of text")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    commit = report.commit()
    megabytes, rounds, count = options.megabytes, 5, 20_000_000
    if options.rehearse:
        megabytes, rounds, count = 0.2, 2, 20_000
    texts = {f"made, {name}": list(made_texts(name, megabytes)) for name in _LETTERS}
    if options.samples is not None:
        real = real_texts(options.samples)
        texts |= {name: repeated(some, megabytes) for name, some in real.items()}
    speeds = [measure(name, some, rounds) for name, some in texts.items()]
    memory = measure_memory(megabytes, count)
    speed_header = (
        *("texts", "MB", "paragraphs/MB", "lines of ASCII", "characters removed"),
        *("ours MB/s", "plain Python MB/s", "times as fast"),
    )
    memory_header = ("what", "of", "MiB idle", "MiB peak", "MiB used")
    parts = [
        "# Repeated paragraphs",
        f"Commit {commit}, {report.hardware(torch.device('cpu'))}, one core. "
        f"{report.versions('numpy', 'xxhash')}. Command: `{report.command()}`.",
        report.table(
            ("texts", "target", "measured", "reached"),
            [target_row(result) for result in speeds],
        ),
        report.table(speed_header, [speed_row(result) for result in speeds]),
        "Largest resident set of a process; idle: one that only imports the libraries. Texts of "
        "four times the size take the same. Comparing stays within its budget, which is for one "
        "task's paragraphs; the process has some 60 MiB besides for what it reads at a time.",
        report.table(memory_header, [memory_row(result) for result in memory]),
    ]
    stem = report.result_stem(options.out, "paragraphs", torch.device("cpu"))
    raw = {
        "commit": commit,
        "speed": list(map(asdict, speeds)),
        "memory": list(map(asdict, memory)),
    }
    print(report.write(stem, parts, raw))


if __name__ == "__main__":
    main()
