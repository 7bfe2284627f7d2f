"""Scaling of a build with processes, Ray's overhead, and memory against input size.

    python -m benchmarks.data.executors [--megabytes 200] [--large 4000] [--rounds 3] [--rehearse]

A build is C4's: synthetic gzipped JSON lines, through the source's reader and filters, to a
documents folder without exact duplicates. All tasks, the deduplication rule, and publishing are
timed; starting Ray is not. The executors take turns in every round, each build in a process of its
own, and a ratio is the median over rounds. Times are wall times, so the machine should be idle; the
machine's own scaling to two processes is measured in every round, too, by a CPU-bound counting
loop.

Memory is the peak resident set of a worker after any of its tasks, and of the driver process, with
two workers: on --megabytes and on --large (0: not measured).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.data.watched_executor import WatchedExecutor, count_up, start_worker
from benchmarks.measuring.peak_memory import peak_bytes
from data_pipeline.build.build_corpus import build_corpus
from data_pipeline.executors.executor import Executor
from data_pipeline.executors.local import Processes
from data_pipeline.executors.ray import ray_cluster
from recipes.llama1_web import c4_source

# `report` is imported lazily: it imports PyTorch, which would be measured with the rest.

EXECUTORS = ("1 process", "2 processes", "Ray, 2 workers")
# (contender, baseline, minimum speedup)
TARGETS = (("2 processes", "1 process", 1.8), ("Ray, 2 workers", "2 processes", 0.9))
_FILE_BYTES = 8_000_000  # of text; many for every worker, so that none is idle long at the end
_MEMORY_BUDGET = 16 << 20  # for deduplication: the minimum, so that it hides no other growth
_FLAT = 1.2
"""Memory counts as constant if it grows by less than this factor with the input size."""


@dataclass(frozen=True)
class Build:
    engine: str
    megabytes: float
    seconds: float
    num_documents: int
    worker_peak_bytes: int
    """Of the largest worker; with one process, the process itself."""
    leader_peak_bytes: int


# -- raw files ------------------------------------------------------------------------------------


def write_raw_files(folder: Path, megabytes: float) -> None:
    """C4's files with `megabytes` of text, all pages distinct, except one in ten, which is
    repeated."""
    drawn = random.Random(0)
    words = ["".join(drawn.choices("etaoinshrdlu", k=drawn.randrange(2, 10))) for _ in range(5_000)]
    sentences = [
        " ".join(drawn.choices(words, k=drawn.randrange(6, 25))).capitalize() + "."
        for _ in range(5_000)
    ]
    folder.mkdir(parents=True)
    left = int(megabytes * 1e6)
    number = 0
    while left > 0:
        size = min(left, _FILE_BYTES)
        path = folder / f"c4-train.{number:05}.json.gz"
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
            file.writelines(_rows(drawn, sentences, size))
        left -= size
        number += 1


def _rows(drawn: random.Random, sentences: Sequence[str], num_bytes: int) -> Iterator[str]:
    while num_bytes > 0:
        lines = (" ".join(drawn.choices(sentences, k=4)) for _ in range(drawn.randrange(2, 12)))
        text = "\n".join(lines)
        row = {"text": text, "url": "http://a.org/", "timestamp": "2019-04-25T12:57:54Z"}
        for _ in range(2 if drawn.random() < 0.1 else 1):
            yield json.dumps(row) + "\n"
            num_bytes -= len(text)


# -- a build --------------------------------------------------------------------------------------


@contextmanager
def started(name: str, shared: Path) -> Iterator[Executor]:
    """The executor, with its workers running if they outlive a task."""
    if name in EXECUTORS[:2]:
        yield Processes(1 + EXECUTORS.index(name))
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with ray_cluster(None, jobs=2, shared=shared) as cluster:
        cluster.map(start_worker, [c4_source] * 4, [1] * 4, label="start workers")
        yield cluster


def build(name: str, raw: Path) -> tuple[float, int, int]:
    """(seconds, documents, peak bytes of the largest worker)."""
    with tempfile.TemporaryDirectory(dir=raw.parent) as folder:
        out = Path(folder, "out")
        with started(name, Path(folder)) as engine:
            watched = WatchedExecutor(engine)
            start = time.perf_counter()
            (manifest,) = build_corpus(
                [(c4_source(), raw)], out, executor=watched, memory_budget=_MEMORY_BUDGET
            ).values()
            seconds = time.perf_counter() - start
    return seconds, manifest.num_kept, watched.peak_bytes


def measured(name: str, raw: Path, megabytes: float) -> Build:
    (seconds, count, worker), leader = peak_bytes(build, name, raw)
    print(f"{name}: {megabytes:g} MB in {seconds:.1f} s", flush=True)
    return Build(name, megabytes, seconds, count, worker, leader)


def speeds(
    megabytes: float, rounds: int, steps: int, folder: Path
) -> tuple[list[Build], list[float]]:
    """Builds of every executor, in turns, in every round; and the counting loop's speedup by
    two."""
    raw = folder / "speed"
    write_raw_files(raw, megabytes)
    builds: list[Build] = []
    counting: list[float] = []
    for _ in range(rounds):
        one, two = (counting_seconds(Processes(jobs), steps) for jobs in (1, 2))
        counting.append(one / two)
        builds += [measured(name, raw, megabytes) for name in EXECUTORS]
    assert len({b.num_documents for b in builds}) == 1, "every engine gives the same documents"
    return builds, counting


def counting_seconds(engine: Executor, steps: int) -> float:
    start = time.perf_counter()
    engine.map(count_up, [steps] * 4, [1] * 4, label="count")
    return time.perf_counter() - start


def memory(megabytes: float, folder: Path, engines: Sequence[str]) -> list[Build]:
    raw = folder / "memory"
    write_raw_files(raw, megabytes)
    return [measured(name, raw, megabytes) for name in engines]


# -- report ---------------------------------------------------------------------------------------


def ratio(builds: Sequence[Build], name: str, base: str) -> float:
    """Speedup of `name` over `base`: the median over rounds."""
    of = {engine: [b.seconds for b in builds if b.engine == engine] for engine in (name, base)}
    return statistics.median(b / a for a, b in zip(of[name], of[base], strict=True))


def growth(builds: Sequence[Build], name: str) -> tuple[float, float]:
    """(workers', driver's) memory with the largest input, relative to that with the smallest."""
    of = sorted((b for b in builds if b.engine == name), key=lambda b: b.megabytes)
    return (
        of[-1].worker_peak_bytes / of[0].worker_peak_bytes,
        of[-1].leader_peak_bytes / of[0].leader_peak_bytes,
    )


def speed_rows(builds: Sequence[Build]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in EXECUTORS:
        of = [b for b in builds if b.engine == name]
        seconds = statistics.median(b.seconds for b in of)
        rows.append((name, f"{seconds:.1f}", f"{of[0].megabytes / seconds:.1f}"))
    return rows


def memory_rows(builds: Sequence[Build]) -> list[tuple[str, ...]]:
    return [
        (
            b.engine,
            f"{b.megabytes:g}",
            f"{b.worker_peak_bytes / (1 << 20):,.0f}",
            f"{b.leader_peak_bytes / (1 << 20):,.0f}",
        )
        for b in sorted(builds, key=lambda b: (EXECUTORS.index(b.engine), b.megabytes))
    ]


def growth_table(sized: Sequence[Build], names: Sequence[str]) -> str:
    """How much the processes' memory grows from the small build to the large one."""
    from benchmarks.measuring import results

    return results.table(
        ("executor", "worker grows by", "leader grows by", "target", "reached"),
        [
            (name, f"{worker:.2f}", f"{leader:.2f}", f"< {_FLAT}", "yes" if flat else "no")
            for name in names
            for worker, leader in [growth(sized, name)]
            for flat in [max(worker, leader) < _FLAT]
        ],
    )


def main() -> None:
    import torch

    from benchmarks.measuring import results

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=float, default=200, help="of text, for the times")
    parser.add_argument("--large", type=float, default=4000, help="of text, for the memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--folder", type=Path, help="for raw files and builds; 4 x --large of room")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    options = parser.parse_args()
    commit = results.commit()
    megabytes, large, rounds, steps = options.megabytes, options.large, options.rounds, 10_000_000
    sizes_of: Sequence[str] = EXECUTORS[1:]
    if options.rehearse:
        megabytes, large, rounds, steps, sizes_of = 0.2, 0.4, 1, 10_000, EXECUTORS[1:2]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        timed, counting = speeds(megabytes, rounds, steps, Path(folder))
        sized = [b for b in timed[: len(EXECUTORS)] if b.engine in sizes_of]
        sized += memory(large, Path(folder), sizes_of) if large else []
    ratios = {name: (base, ratio(timed, name, base), least) for name, base, least in TARGETS}
    parts = [
        "# Executors",
        f"Commit {commit}, {results.hardware(torch.device('cpu'))}, {os.cpu_count()} cores. "
        f"{results.versions('ray', 'pyarrow')}. Command: `{results.command()}`.",
        f"Build of {megabytes:g} MB of C4's text; medians, rounds: {rounds}.",
        results.table(("executor", "s", "MB/s"), speed_rows(timed)),
        results.table(
            ("executor", "against", "times as fast", "target", "reached"),
            [
                (name, base, f"{found:.2f}", f"{least}", "yes" if found >= least else "no")
                for name, (base, found, least) in ratios.items()
            ],
        ),
        f"A loop that only counts is {statistics.median(counting):.2f} times as fast in two "
        "processes as in one: what the machine had to give while this ran.",
        f"Largest resident set. Comparing documents may use {_MEMORY_BUDGET >> 20} MiB.",
        results.table(("executor", "MB of text", "worker MiB", "leader MiB"), memory_rows(sized)),
    ]
    if large:
        parts.append(growth_table(sized, sizes_of))
    raw = {
        "commit": commit,
        "builds": list(map(asdict, [*timed, *sized[len(sizes_of) :]])),
        "counting_times_as_fast": counting,
        "times_as_fast": {name: found for name, (_, found, _) in ratios.items()},
    }
    stem = results.result_stem(options.out, "executors", torch.device("cpu"))
    print(results.write(stem, parts, raw))


if __name__ == "__main__":
    main()
