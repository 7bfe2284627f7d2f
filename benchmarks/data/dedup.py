"""Near-duplicate removal: throughput, accuracy against exact Jaccard indexes, memory, scaling to 2.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.data.dedup [--megabytes 200] [--memory-multiple 4] [--rehearse]

Texts are files of this machine (documentation, manual pages, programs), with edited copies planted
among them. Ground truth is exact: the Jaccard index of all pairs (`exact_jaccard.py`). Throughput
is per CPU second of the process, from texts to the list of removed ones, tokenization into words
and shingling included; contenders take turns in every round, and a ratio is the median over rounds
of ratios within a round. datatrove is slow and gets a subset of the texts, on which ours is
measured, too. A peer that is not installed is named and skipped.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.data.dedup_measures import (
    BINS,
    THRESHOLD,
    Accuracy,
    Jobs,
    Measured,
    Memory,
    Truth,
    accuracy,
    compare,
    known,
    measure_jobs,
    measure_memory,
)
from benchmarks.data.near_duplicate_texts import make_corpus
from benchmarks.data.near_duplicate_tools import (
    DATATROVE,
    NGRAM_WORDS,
    NUM_HASHES,
    OURS,
    TOOLS,
    ours,
)
from data_pipeline.dedup.minhash import choose_bands

# `report` and matplotlib are imported lazily: PyTorch would be measured with the rest.


@dataclass(frozen=True)
class Size:
    megabytes: float
    part_megabytes: float
    """Text for datatrove."""
    rounds: int
    thresholds: tuple[float, ...]
    """Of the precision-recall curve."""
    memory_budgets: tuple[int, ...]
    memory_multiple: int
    """Memory is also measured on the texts repeated this many times."""


WHOLE = Size(200, 6, 3, (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95), (1 << 30, 1 << 26), 4)
REHEARSAL = Size(3, 0.3, 1, (0.5, 0.8, 0.95), (1 << 24,), 2)


@dataclass(frozen=True)
class Results:
    num_texts: int
    megabytes: float
    num_pairs: int
    """Pairs at or above the threshold."""
    num_planted: int
    tools: list[Measured]
    part: list[Measured]
    """Ours and datatrove, on a subset."""
    curve: dict[float, Accuracy]
    """Ours at other thresholds; the ground truth remains that at `THRESHOLD`."""
    memory: list[Memory]
    jobs: Jobs | None
    """None on one core."""


def measure(size: Size) -> Results:
    print(f"all similar pairs of {size.megabytes:g} MB of texts ...", flush=True)
    truth = known(make_corpus(int(size.megabytes * 1e6), NGRAM_WORDS))
    tools = [tool for tool in TOOLS if tool.is_installed()]
    part = [tool for tool in tools if tool.name in (OURS, DATATROVE)]
    corpus = truth.corpus
    print("speed and accuracy, other thresholds, memory, two processes ...", flush=True)
    return Results(
        num_texts=len(corpus.texts),
        megabytes=corpus.num_bytes / 1e6,
        num_pairs=len(truth.pairs.at_least(THRESHOLD).first),
        num_planted=len(truth.planted.first),
        tools=compare(truth, [tool for tool in tools if tool.name != DATATROVE], size.rounds),
        part=compare(truth.part(int(size.part_megabytes * 1e6)), part, size.rounds),
        curve=curve(truth, size.thresholds),
        memory=measure_memory(corpus, size.memory_budgets, size.memory_multiple),
        jobs=measure_jobs(corpus, size.rounds) if (os.cpu_count() or 1) > 1 else None,
    )


def curve(truth: Truth, thresholds: Sequence[float]) -> dict[float, Accuracy]:
    return {t: accuracy(truth, ours(truth.corpus.texts, t), THRESHOLD) for t in thresholds}


# -- report ---------------------------------------------------------------------------------------


def targets(results: Results) -> list[tuple[str, str, str, str]]:
    """(what, target, measured, whether it is reached)."""
    own = results.tools[0]
    rate = statistics.median(own.rates)
    rows = [
        ("speed on one core", "at least 15 MB/s", f"{rate:.1f} MB/s", rate >= 15),
        (
            "precision",
            "at least 0.95",
            f"{own.accuracy.precision:.4f}",
            own.accuracy.precision >= 0.95,
        ),
        (
            "similar pairs left",
            "at most 0.2 %",
            f"{own.accuracy.left:.3%}",
            own.accuracy.left <= 0.002,
        ),
    ]
    for peer in results.part[1:]:
        factor = peer.ours_is_faster
        rows.append((f"speed beside {peer.tool}", "at least 10 x", f"{factor:.1f} x", factor >= 10))
    used = max(memory.bytes_per_byte for memory in results.memory)
    rows.append(("memory per byte of text", "at most 3 bytes", f"{used:.2f} bytes", used <= 3))
    if results.jobs is not None:
        factor = results.jobs.ratio
        rows.append(("two processes", "at least 1.8 x one", f"{factor:.2f} x", factor >= 1.8))
    return [(what, target, value, "yes" if good else "no") for what, target, value, good in rows]


def tool_row(result: Measured) -> tuple[str, ...]:
    found = result.accuracy
    return (
        result.tool,
        f"{result.megabytes:,.1f}",
        f"{statistics.median(result.rates):.2f}",
        f"{result.ours_is_faster:.2f}",
        f"{found.num_removed:,}",
        f"{found.precision:.3f}",
        f"{found.left:.2%}",
        f"{found.planted_precision:.3f}",
        f"{found.planted_recall:.3f}",
    )


TOOL_HEADER = (
    *("", "MB", "MB/s", "ours is faster by", "removed", "precision", "pairs left"),
    *("planted: precision", "planted: recall"),
)


def bins_table(results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    bands = choose_bands(THRESHOLD, num_hashes=NUM_HASHES)
    columns = [*results.tools, *results.part[1:]]
    rows = []
    for index, (low, high) in enumerate(itertools.pairwise(BINS.tolist())):
        shares = [result.accuracy.found_by_similarity[index] for result in columns]
        candidate = 1 - bands.miss_probability((low + high) / 2)
        cells = ["" if share is None else f"{share:.3f}" for share in shares]
        rows.append((f"{low:.2f} to {high:.2f}", f"{candidate:.4f}", *cells))
    return ("similarity", "ours: candidate, in theory", *(r.tool for r in columns)), rows


def plot(results: Results, path: Path) -> None:
    """Left: share of planted pairs found, by similarity. Right: their recall and precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8))
    x = np.linspace(BINS[0], 1, 200)
    bands = choose_bands(THRESHOLD, num_hashes=NUM_HASHES)
    chance = [1 - bands.miss_probability(similarity) for similarity in x.tolist()]
    left.plot(x, chance, ":", color="tab:gray", label="ours: a candidate, in theory")
    left.axvline(THRESHOLD, color="black", linewidth=0.8)
    precision = [found.planted_precision for found in results.curve.values()]
    recall = [found.planted_recall for found in results.curve.values()]
    right.plot(recall, precision, ".-", color="tab:gray", label="ours, other thresholds")
    for threshold, found in results.curve.items():
        at = (found.planted_recall, found.planted_precision)
        right.annotate(f"{threshold:g}", at, xytext=(4, 4), textcoords="offset points", fontsize=8)
    middles = (BINS[:-1] + BINS[1:]) / 2
    for result in [*results.tools, *results.part[1:]]:
        found = result.accuracy
        shares = [np.nan if share is None else share for share in found.found_by_similarity]
        left.plot(middles, shares, "o-", label=result.tool)
        right.plot(found.planted_recall, found.planted_precision, "o", label=result.tool)
    left.set(
        xlabel="Jaccard index of a planted pair", ylabel="share of pairs of which one is removed"
    )
    right.set(xlabel="recall of planted pairs", ylabel="precision")
    left.set_title(f"threshold {THRESHOLD}")
    right.set_title(f"positives: pairs from {THRESHOLD} on")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def paragraphs(results: Results, missing: Sequence[str], picture: str, about: str) -> list[str]:
    from benchmarks.measuring import results as report

    header, rows = bins_table(results)
    parts = [
        "# Near-duplicates",
        about,
        f"{results.num_texts:,} texts of {results.megabytes:,.1f} MB, with "
        f"{results.num_pairs:,} pairs whose sets of word {NGRAM_WORDS}-grams have a Jaccard index "
        f"of {THRESHOLD} or more; {results.num_planted:,} planted pairs that are like no other "
        "text.",
        report.table(("", "target", "measured", "reached"), targets(results)),
        "Precision: share of removed texts with a similar one. Pairs left: similar pairs of "
        "which both are kept. The last two columns are about planted pairs alone.",
        report.table(TOOL_HEADER, [tool_row(result) for result in results.tools]),
    ]
    if len(results.part) > 1:
        parts.append(report.table(TOOL_HEADER, [tool_row(result) for result in results.part]))
    if missing:
        parts.append(f"Not installed, and left out: {', '.join(missing)}.")
    parts += [
        f"Share of planted pairs of which one text is removed, at a threshold of {THRESHOLD}:",
        report.table(header, rows),
        f"![planted pairs by similarity; recall and precision]({picture})",
        "Ours at other thresholds, with positives still those from "
        f"{THRESHOLD} on; and at the threshold itself:",
        report.table(
            ("threshold", "removed", "planted: precision", "planted: recall"),
            [
                (
                    f"{threshold:g}",
                    f"{found.num_removed:,}",
                    f"{found.planted_precision:.3f}",
                    f"{found.planted_recall:.3f}",
                )
                for threshold, found in results.curve.items()
            ],
        ),
        "Memory: largest resident set of a process that does it all, beside that of one that only "
        "imports the libraries.",
        report.table(
            ("MB of text", "budget MiB", "MiB idle", "MiB peak", "bytes per byte of text"),
            [
                (
                    f"{memory.megabytes:,.1f}",
                    f"{memory.budget / (1 << 20):,.0f}",
                    f"{memory.idle_bytes / (1 << 20):,.0f}",
                    f"{memory.peak_bytes / (1 << 20):,.0f}",
                    f"{memory.bytes_per_byte:.2f}",
                )
                for memory in results.memory
            ],
        ),
    ]
    if results.jobs is not None:
        one, two = (statistics.median(values) for values in (results.jobs.one, results.jobs.two))
        parts.append(
            f"One process {one:.2f} s, two {two:.2f} s by the wall: {results.jobs.ratio:.2f} x."
        )
    return parts


def main() -> None:
    import torch

    from benchmarks.measuring import results as report

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=float, help="of text")
    parser.add_argument("--memory-multiple", type=int, help="of the texts, for memory")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    size = REHEARSAL if options.rehearse else WHOLE
    if options.megabytes is not None:
        size = replace(size, megabytes=options.megabytes)
    if options.memory_multiple is not None:
        size = replace(size, memory_multiple=options.memory_multiple)
    packages = [tool.package for tool in TOOLS if tool.package is not None]
    about = (
        f"Commit {report.commit()}, {report.hardware(torch.device('cpu'))}. "
        f"{report.versions('numpy', 'pyarrow', *packages)}. Command: `{report.command()}`."
    )
    missing = [tool.name for tool in TOOLS if not tool.is_installed()]
    results = measure(size)
    stem = report.result_stem(options.out, "dedup", torch.device("cpu"))
    picture = stem.with_suffix(".png")
    text = report.write(stem, paragraphs(results, missing, picture.name, about), asdict(results))
    plot(results, picture)
    print(text)


if __name__ == "__main__":
    main()
