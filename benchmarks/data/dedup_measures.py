"""Measurements of `dedup.py`: throughput and accuracy of each tool, memory, and scaling to 2."""

from __future__ import annotations

import random
import statistics
import string
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.data.exact_jaccard import NgramSets, Similar
from benchmarks.data.near_duplicate_texts import Corpus, write_documents
from benchmarks.data.near_duplicate_tools import NGRAM_WORDS, OURS, Tool, remove_from_folder
from benchmarks.measuring.peak_memory import peak_bytes

THRESHOLD = 0.8
LOWEST = 0.5
"""Similarity from which on pairs are known: no other text may be this similar to a planted copy."""
BINS = np.linspace(0.5, 1.0, 11)
MIN_PLANTED = 5
"""Minimum planted pairs in a bin to be shown."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Planted:
    """Planted pairs that are similar to no other text."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]

    def within(self, num_texts: int) -> Planted:
        chosen = np.maximum(self.first, self.second) < num_texts
        return Planted(self.first[chosen], self.second[chosen], self.similarity[chosen])

    def found(self, is_removed: Flags) -> Flags:
        """Of which pairs one text was removed."""
        return is_removed[self.first] | is_removed[self.second]


@dataclass(frozen=True)
class Truth:
    corpus: Corpus
    pairs: Similar
    """All, from `LOWEST` on."""
    planted: Planted

    def part(self, num_bytes: int) -> Truth:
        corpus = self.corpus.part(num_bytes)
        count = len(corpus.texts)
        return Truth(corpus, self.pairs.within(count), self.planted.within(count))


@dataclass(frozen=True)
class Accuracy:
    num_removed: int
    precision: float
    """Share of removed texts that are similar to some other text, by the threshold."""
    left: float
    """Missed pairs: share of the pairs above the threshold of which both are kept."""
    planted_precision: float
    planted_recall: float
    """On planted pairs, with those above the threshold as positives."""
    found_by_similarity: list[float | None]
    """Share of planted pairs of which one is removed, per bin of `BINS`."""


@dataclass(frozen=True)
class Measured:
    tool: str
    megabytes: float
    rates: list[float]
    """MB per CPU second in every round."""
    ours_is_faster: float
    """Speedup of ours on the same texts."""
    accuracy: Accuracy


@dataclass(frozen=True)
class Memory:
    megabytes: float
    """Of text."""
    budget: int
    idle_bytes: int
    """Peak of a process that only imports the libraries."""
    peak_bytes: int

    @property
    def bytes_per_byte(self) -> float:
        return (self.peak_bytes - self.idle_bytes) / (self.megabytes * 1e6)


@dataclass(frozen=True)
class Jobs:
    one: list[float]
    """Wall seconds in every round."""
    two: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.one, self.two, strict=True))


# -- ground truth ---------------------------------------------------------------------------------


def known(corpus: Corpus) -> Truth:
    sets = NgramSets(corpus.texts, NGRAM_WORDS)
    pairs = sets.similar_pairs(LOWEST)
    neighbors = np.bincount(np.concatenate([pairs.first, pairs.second]), minlength=len(sets.sizes))
    planted = []
    for one, other in corpus.planted:
        similarity = sets.similarity(one, other)
        # Each counts as the other's neighbor, if they are similar enough to be known.
        if max(neighbors[one], neighbors[other]) <= int(similarity >= LOWEST):
            planted.append((one, other, similarity))
    first, second, similarities = np.array(planted, np.float64).reshape(-1, 3).T
    return Truth(
        corpus, pairs, Planted(first.astype(np.int64), second.astype(np.int64), similarities)
    )


def accuracy(truth: Truth, removed: Sequence[int], threshold: float) -> Accuracy:
    count = len(truth.corpus.texts)
    is_removed, has_neighbor = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    is_removed[list(removed)] = True
    pairs = truth.pairs.at_least(threshold)
    has_neighbor[pairs.first] = has_neighbor[pairs.second] = True
    planted, found = truth.planted, truth.planted.found(is_removed)
    is_right = planted.similarity >= threshold
    bins = np.digitize(planted.similarity, BINS) - 1
    shares = [
        float(found[bins == i].mean()) if (bins == i).sum() >= MIN_PLANTED else None
        for i in range(len(BINS) - 1)
    ]
    return Accuracy(
        num_removed=len(removed),
        precision=share_of(has_neighbor[is_removed], 1.0),
        left=share_of(~is_removed[pairs.first] & ~is_removed[pairs.second], 0.0),
        planted_precision=share_of(is_right[found], 1.0),
        planted_recall=share_of(found[is_right], 1.0),
        found_by_similarity=shares,
    )


def share_of(flags: Flags, of_none: float) -> float:
    return float(flags.mean()) if len(flags) else of_none


# -- measuring ------------------------------------------------------------------------------------


def compare(truth: Truth, tools: Sequence[Tool], rounds: int) -> list[Measured]:
    """Each tool on all texts, ours first."""
    megabytes = truth.corpus.num_bytes / 1e6
    rates: dict[str, list[float]] = {tool.name: [] for tool in tools}
    found: dict[str, Accuracy] = {}
    for tool in tools:
        tool.remove(truth.corpus.texts[:10], THRESHOLD)  # warm-up: imports and tables
    for _ in range(rounds):
        for tool in tools:
            start = time.process_time()
            removed = tool.remove(truth.corpus.texts, THRESHOLD)
            rates[tool.name].append(megabytes / (time.process_time() - start))
            print(f"{tool.name}: {rates[tool.name][-1]:.2f} MB/s", flush=True)
            found[tool.name] = accuracy(truth, removed, THRESHOLD)
    return [
        Measured(
            tool=name,
            megabytes=megabytes,
            rates=values,
            ours_is_faster=statistics.median(
                a / b for a, b in zip(rates[OURS], values, strict=True)
            ),
            accuracy=found[name],
        )
        for name, values in rates.items()
    ]


def nothing() -> None:
    """Baseline: the libraries alone."""


def copies(corpus: Corpus, count: int) -> Iterator[str]:
    """The texts, then again with letters substituted, so that they are distinct texts of the same
    kind."""
    letters = string.ascii_lowercase
    for number in range(count):
        shuffled = "".join(random.Random(number).sample(letters, len(letters)))
        table = str.maketrans(letters + letters.upper(), shuffled + shuffled.upper())
        for text in corpus.texts:
            yield text.translate(table)


def measure_memory(corpus: Corpus, budgets: Sequence[int], multiple: int) -> list[Memory]:
    """On the texts with each budget, then on `multiple` times as many with the smallest."""
    _, idle = peak_bytes(nothing)
    results = []
    for times, some_budgets in ((1, budgets), (multiple, budgets[-1:])):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_documents(copies(corpus, times), folder)
            for budget in some_budgets:
                _, peak = peak_bytes(remove_from_folder, folder, THRESHOLD, 1, budget)
                megabytes = times * corpus.num_bytes / 1e6
                results.append(Memory(megabytes, budget, idle, peak))
    return results


def measure_jobs(corpus: Corpus, rounds: int) -> Jobs:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_documents(corpus.texts, folder)
        for _ in range(rounds):
            for jobs, values in seconds.items():
                start = time.perf_counter()
                remove_from_folder(folder, THRESHOLD, jobs, 1 << 30)
                values.append(time.perf_counter() - start)
    return Jobs(seconds[1], seconds[2])
