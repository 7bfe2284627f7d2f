"""Cost estimates: core-hours, memory and disk of a build from measured rates, and their error.

A stage's core-seconds are megabytes over a rate: of the input files as they are (compressed or not)
for reading, of text for all later stages. The text yield of a source's files is a rate, too. The
rates are those of `benchmarks/`, on real samples; other files and other machines differ, which is
why `compare` reports the error after each build.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

_MB = 1e6
_SAMPLES = "stage_rates_cpu_202611.md"


@dataclass(frozen=True)
class SourceRates:
    """One kind of input files, on one core."""

    kind: str
    """A source, or one of its formats (`kind_of`)."""
    read: float
    """MB of input per second: reading, edits, filters, and writing the parts."""
    reader: float
    """MB of input per second of reading alone, as in a second pass over the files."""
    extracted: float
    """Bytes of text per byte of input, as extracted by the reader."""
    text: float
    """Bytes of text per byte of input that edits and filters keep."""
    parts: float
    """Bytes of the parts' Parquet files per byte of text."""
    bytes_per_token: float
    """Bytes of text per token of LLaMA's published tokenizer."""
    measured: str
    """File in `benchmarks/results/`."""


SOURCE_RATES = (
    SourceRates("wikipedia", 1.85, 11.57, 2.81, 1.58, 0.41, 3.42, _SAMPLES),
    SourceRates("books", 33.49, 115.44, 0.99, 0.94, 0.43, 3.57, _SAMPLES),
    SourceRates("arxiv", 40.26, 87.72, 0.13, 0.07, 0.62, 3.39, _SAMPLES),
    SourceRates("stack_exchange", 17.51, 21.65, 0.65, 0.65, 0.42, 4.05, _SAMPLES),
    SourceRates("github", 3.92, 20.49, 3.33, 2.51, 0.26, 2.73, _SAMPLES),
    SourceRates("c4", 11.09, 29.97, 2.41, 2.41, 0.47, 4.03, _SAMPLES),
    SourceRates("common_crawl", 6.34, 7.34, 0.47, 0.46, 0.30, 2.17, _SAMPLES),
    # No WET file among the samples is large enough. 80 MB/s of uncompressed text, and the text per
    # byte of input that C4 has, of which English is 45 % (language statistics that CommonCrawl
    # publishes with each crawl).
    SourceRates(
        "common_crawl_wet", 33.2, 33.2, 2.41, 1.08, 0.47, 4.03, "reader_memory_cpu_202611.md"
    ),
)
"""Files of any other kind are assumed to cost as much as `OTHER_KIND`."""
OTHER_KIND = "c4"

READ, PARAGRAPHS, COMPARE = "read", "paragraphs", "compare"
BOOK_OVERLAP, NEAR_DUPLICATES = "book_overlap", "near_duplicate"
PUBLISH, TRAIN_TOKENIZER, TOKENIZE = "publish", "train_tokenizer", "tokenize"
START = "start"


@dataclass(frozen=True)
class TextRate:
    """Rate of one stage that processes text, on one core."""

    stage: str
    megabytes_per_second: float
    measured: str
    """File in `benchmarks/results/`."""


TEXT_RATES = (
    TextRate(PARAGRAPHS, 94.8, "paragraphs_cpu_202611.md"),
    TextRate(COMPARE, 357.0, _SAMPLES),
    TextRate(BOOK_OVERLAP, 12.34, "sources_cpu_202611.md"),
    TextRate(NEAR_DUPLICATES, 28.67, "dedup_cpu_202611.md"),
    TextRate(PUBLISH, 411.9, _SAMPLES),
    TextRate(TRAIN_TOKENIZER, 8.25, _SAMPLES),
    TextRate(TOKENIZE, 16.03, _SAMPLES),
)
"""Stages that are not here have no measured rate, and the estimate says so. The rates come from
CommonCrawl for paragraphs, files of one machine for near-duplicates, Wikipedia for comparing (exact
duplicates) and tokenizing, books for publishing: the other samples are too small for stages that
are so fast."""

START_SECONDS = 1.5
"""Importing Python's libraries, and loading the language model."""
WORKER_BYTES = 300 << 20
"""Peak memory of a worker that reads (`reader_memory_cpu_202611.md`: 213 to 289 MiB) or
tokenizes."""
BYTES_PER_DOCUMENT_COMPARED = 300
"""Memory of exact deduplication in one task (`dedup/exact.py`)."""
TEXT_BYTES_PER_DOCUMENT = 2_000
"""A low estimate (C4 has 2,300), so that memory is not underestimated."""
TRAINING_BYTES_PER_BYTE = 6
"""SentencePiece's memory per byte of training text (`tokenizer_training.py`)."""
HASH_BYTES_PER_TEXT_BYTE = 0.102
"""8 bytes for each of 12,705 paragraphs per megabyte (`paragraphs_cpu_202611.md`)."""
BYTES_PER_STORED_TOKEN = 2
"""For vocabularies of up to 65,536 tokens."""


@dataclass(frozen=True)
class StageCost:
    """Estimated cost of one stage for one source (or for all at once)."""

    stage: str
    source: str
    megabytes: float
    """Input bytes for reading, text bytes for other stages."""
    core_seconds: float | None
    """None: no measured rate."""
    memory_bytes: int
    """Peak of all processes together during the stage."""
    disk_bytes: int
    """Bytes that the stage writes; paragraph hashes are deleted after comparing."""


def kind_of(source: str, file: str) -> str:
    """The kind of a source's input file; CommonCrawl's WET and WARC files differ."""
    is_text = ".wet" in file or file.endswith(".warc.txt")
    return "common_crawl_wet" if source == "common_crawl" and is_text else source


def predict(
    sizes: Mapping[str, int],
    *,
    jobs: int,
    memory_budget: int,
    extra: Mapping[str, Collection[str]] | None = None,
    tokenizer_sample_bytes: int = 0,
) -> list[StageCost]:
    """Estimate the costs of a build, stage by stage.

    `sizes`: bytes of input per kind (`kind_of`). `extra`: optional stages (paragraphs,
    book_overlap, near_duplicates …) with the kinds that they apply to. A tokenizer is trained on
    `tokenizer_sample_bytes` of text, and none if that is 0. Comparing takes at most `memory_budget`
    bytes where it can choose. ValueError for a kind in `extra` that is not in `sizes`.
    """
    extra = extra or {}
    if jobs < 1:
        raise ValueError(f"jobs ({jobs}) must be at least 1")
    for stage, kinds in extra.items():
        if unknown := sorted(set(kinds) - set(sizes)):
            raise ValueError(
                f"{stage} applies to {', '.join(unknown)}, for which sizes gives no size"
            )
    rates = {kind: _source_rates(kind) for kind in sizes}
    text = {kind: size * rates[kind].text for kind, size in sizes.items()}
    workers = jobs * WORKER_BYTES
    costs = [StageCost(START, "all", 0.0, START_SECONDS, WORKER_BYTES, 0)]
    for kind, size in sizes.items():
        seconds = size / _MB / rates[kind].read
        disk = round(text[kind] * rates[kind].parts)
        costs.append(StageCost(READ, kind, size / _MB, seconds, workers, disk))
    for stage, kinds in extra.items():
        for kind in sorted(kinds):
            if stage == PARAGRAPHS:
                memory = workers + memory_budget
                costs.append(_paragraph_cost(kind, rates[kind], sizes[kind], memory))
            else:
                costs.append(_text_cost(stage, kind, text[kind], workers + memory_budget))
    documents = sum(text.values()) / TEXT_BYTES_PER_DOCUMENT
    comparing = min(memory_budget, round(documents * BYTES_PER_DOCUMENT_COMPARED))
    costs.append(_text_cost(COMPARE, "all", sum(text.values()), workers + comparing))
    for kind, num_bytes in text.items():
        # Files without removals are hard-linked; the others are rewritten.
        disk = round(num_bytes * rates[kind].parts)
        costs.append(_text_cost(PUBLISH, kind, num_bytes, workers, disk))
    if tokenizer_sample_bytes:
        sample = min(tokenizer_sample_bytes, sum(text.values()))
        memory = WORKER_BYTES + round(sample * TRAINING_BYTES_PER_BYTE)
        costs.append(_text_cost(TRAIN_TOKENIZER, "all", sample, memory))
    for kind, num_bytes in text.items():
        disk = round(num_bytes / rates[kind].bytes_per_token * BYTES_PER_STORED_TOKEN)
        costs.append(_text_cost(TOKENIZE, kind, num_bytes, workers, disk))
    return costs


def _source_rates(kind: str) -> SourceRates:
    by_kind = {rates.kind: rates for rates in SOURCE_RATES}
    return by_kind.get(kind, by_kind[OTHER_KIND])


def _paragraph_cost(kind: str, rates: SourceRates, size: int, memory: int) -> StageCost:
    """All text of the reader is hashed and compared, and the files are read twice."""
    extracted = size * rates.extracted
    hashes = round(extracted * HASH_BYTES_PER_TEXT_BYTE)
    cost = _text_cost(PARAGRAPHS, kind, extracted, memory, hashes)
    assert cost.core_seconds is not None, "the rate is in the table"
    return replace(cost, core_seconds=cost.core_seconds + size / _MB / rates.reader)


def _text_cost(stage: str, kind: str, text: float, memory: int, disk: int = 0) -> StageCost:
    by_stage = {rate.stage: rate.megabytes_per_second for rate in TEXT_RATES}
    seconds = text / _MB / by_stage[stage] if stage in by_stage else None
    return StageCost(stage, kind, text / _MB, seconds, memory, disk)


# -- error after a build --------------------------------------------------------------------------


@dataclass(frozen=True)
class Deviation:
    """Predicted and measured cost of a stage."""

    stage: str
    predicted_seconds: float | None
    measured_seconds: float | None
    """Core-seconds; None if the stage was not measured."""
    peak_bytes: int | None = None
    """Most memory of one process during the stage; None if it was not measured."""
    disk_bytes: int | None = None
    """What the stage has written, as it lies on disk; None if that is not measured."""

    @property
    def ratio(self) -> float | None:
        """Measured over predicted; None if one of them is unknown."""
        if not self.predicted_seconds or self.measured_seconds is None:
            return None
        return self.measured_seconds / self.predicted_seconds


def compare(
    predicted: Sequence[StageCost],
    measured: Mapping[str, float],
    peaks: Mapping[str, int] | None = None,
    disk: Mapping[str, int] | None = None,
) -> list[Deviation]:
    """Prediction error per stage, all sources together, and last the total of those that have both.

    `measured`: core-seconds per stage (`TimedExecutor.core_seconds` by label, `stage_of` each);
    `peaks` likewise in bytes of memory, `disk` in bytes on disk.
    """
    stages = list(dict.fromkeys([*(cost.stage for cost in predicted), *measured]))
    result = []
    for stage in stages:
        seconds = [cost.core_seconds for cost in predicted if cost.stage == stage]
        known = [value for value in seconds if value is not None]
        total = sum(known) if known else None
        deviation = Deviation(stage, total, measured.get(stage))
        own_peak, own_disk = (peaks or {}).get(stage), (disk or {}).get(stage)
        result.append(replace(deviation, peak_bytes=own_peak, disk_bytes=own_disk))
    both = [d for d in result if d.ratio is not None]
    total_predicted = sum(d.predicted_seconds or 0.0 for d in both)
    total_measured = sum(d.measured_seconds or 0.0 for d in both)
    return [*result, Deviation("all of these", total_predicted, total_measured)]


_STAGES_BY_LABEL = {
    READ: READ,
    "read ids": TOKENIZE,
    "hash": PARAGRAPHS,
    "mark": PARAGRAPHS,
    "compare": PARAGRAPHS,
    "sort": COMPARE,
    "same": COMPARE,
    **dict.fromkeys(("sign", "pair", "shingle", "verify"), NEAR_DUPLICATES),
    PUBLISH: PUBLISH,
    "tokenize": TOKENIZE,
}


def stage_of(label: str) -> str:
    """The stage of tasks with this progress bar label; an unknown label is returned unchanged."""
    by_first_word = _STAGES_BY_LABEL.get(label.split(" ")[0], label)
    return _STAGES_BY_LABEL.get(label, by_first_word)


# -- text -----------------------------------------------------------------------------------------


def as_text(costs: Sequence[StageCost], *, jobs: int) -> str:
    """The estimate as a table, one line per stage, and the totals."""
    rows = [("stage", "MB", "core time", "memory", "disk")]
    for stage in dict.fromkeys(cost.stage for cost in costs):
        own = [cost for cost in costs if cost.stage == stage]
        known = [cost.core_seconds for cost in own if cost.core_seconds is not None]
        rows.append(
            (
                stage,
                f"{sum(cost.megabytes for cost in own):,.1f}",
                _duration(sum(known)) if known else "not measured",
                _bytes(max(cost.memory_bytes for cost in own)),
                _bytes(sum(cost.disk_bytes for cost in own)),
            )
        )
    total = sum(cost.core_seconds or 0.0 for cost in costs)
    peak = max(cost.memory_bytes for cost in costs)
    disk = sum(cost.disk_bytes for cost in costs)
    last = (
        f"{_duration(total)} on one core, about {_duration(total / jobs)} with {jobs} jobs; "
        f"{_bytes(peak)} of memory; {_bytes(disk)} of disk"
    )
    return "\n".join([*_aligned(rows), "", last])


def deviations_as_text(deviations: Sequence[Deviation]) -> str:
    """Predicted and measured costs as a table."""
    rows: list[tuple[str, ...]] = [("stage", "predicted", "measured", "measured / predicted")]
    for deviation in deviations:
        times = (deviation.predicted_seconds, deviation.measured_seconds)
        shown = ["-" if seconds is None else _duration(seconds) for seconds in times]
        ratio = "-" if deviation.ratio is None else f"{deviation.ratio:.2f}"
        rows.append((deviation.stage, *shown, ratio))
    return "\n".join(_aligned(rows))


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def _bytes(count: int) -> str:
    if count == 0:
        return "-"
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
