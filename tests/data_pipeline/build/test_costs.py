"""Predicted costs: their arithmetic, where rates come from, and the error stated afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.build import costs
from data_pipeline.build.build_corpus import build_corpus
from data_pipeline.build.costs import (
    SOURCE_RATES,
    TEXT_RATES,
    Deviation,
    StageCost,
    as_text,
    compare,
    deviations_as_text,
    kind_of,
    predict,
    stage_of,
)
from data_pipeline.document import Source
from data_pipeline.executors.local import Processes
from data_pipeline.executors.timed import TimedExecutor
from data_pipeline.sources import folder

ROOT = Path(__file__).resolve().parents[3]
GB = 10**9


def rates_of(kind: str) -> costs.SourceRates:
    return {rates.kind: rates for rates in SOURCE_RATES}[kind]


def cost_of(predicted: list[StageCost], stage: str, source: str = "all") -> StageCost:
    (cost,) = (c for c in predicted if (c.stage, c.source) == (stage, source))
    return cost


def test_seconds_are_megabytes_over_rates() -> None:
    predicted = predict({"wikipedia": GB, "books": 2 * GB}, jobs=4, memory_budget=GB)
    wikipedia = rates_of("wikipedia")
    read = cost_of(predicted, "read", "wikipedia")
    assert read.megabytes == 1_000
    assert read.core_seconds == pytest.approx(1_000 / wikipedia.read)
    assert read.disk_bytes == pytest.approx(GB * wikipedia.text * wikipedia.parts)
    assert read.memory_bytes == 4 * costs.WORKER_BYTES
    tokenize = cost_of(predicted, "tokenize", "wikipedia")
    assert tokenize.megabytes == pytest.approx(1_000 * wikipedia.text)
    # Two bytes a token.
    assert tokenize.disk_bytes == pytest.approx(
        GB * wikipedia.text / wikipedia.bytes_per_token * 2, abs=1
    )
    together = cost_of(predicted, "compare").megabytes
    assert together == pytest.approx(1_000 * wikipedia.text + 2_000 * rates_of("books").text)
    # Twice the input is twice the time.
    twice = predict({"wikipedia": 2 * GB, "books": 4 * GB}, jobs=4, memory_budget=GB)
    pairs = [(a, b) for a, b in zip(predicted, twice, strict=True) if a.stage != "start"]
    for once, double in pairs:
        assert once.core_seconds is not None
        assert double.core_seconds == pytest.approx(2 * once.core_seconds)


def test_paragraphs_take_what_the_reader_gives_and_a_second_reading() -> None:
    predicted = predict(
        {"common_crawl_wet": GB},
        jobs=2,
        memory_budget=GB,
        extra={"paragraphs": ["common_crawl_wet"]},
    )
    rates = rates_of("common_crawl_wet")
    (rate,) = (r.megabytes_per_second for r in TEXT_RATES if r.stage == "paragraphs")
    cost = cost_of(predicted, "paragraphs", "common_crawl_wet")
    expected = 1_000 * rates.extracted / rate + 1_000 / rates.reader
    assert cost.core_seconds == pytest.approx(expected)
    assert cost.memory_bytes == 2 * costs.WORKER_BYTES + GB
    assert cost.disk_bytes > 0


def test_a_stage_without_a_rate_is_named_and_not_counted() -> None:
    predicted = predict(
        {"c4": GB}, jobs=1, memory_budget=GB, extra={"unheard_of": ["c4"]}, tokenizer_sample_bytes=0
    )
    assert cost_of(predicted, "unheard_of", "c4").core_seconds is None
    (line,) = (x for x in as_text(predicted, jobs=1).splitlines() if x.startswith("unheard_of"))
    assert "not measured" in line


def test_comparing_stays_in_its_budget() -> None:
    huge, small = {"c4": 10**13}, {"c4": 10**6}
    workers = 2 * costs.WORKER_BYTES
    for sizes, most in ((huge, GB), (small, GB // 1_000)):
        cost = cost_of(predict(sizes, jobs=2, memory_budget=GB), "compare")
        assert workers < cost.memory_bytes <= workers + most


def test_a_tokenizer_is_trained_on_what_there_is_at_most() -> None:
    asked = partial(predict, {"c4": 10**6}, jobs=1, memory_budget=GB)
    text = 1.0 * rates_of("c4").text
    trained = cost_of(asked(tokenizer_sample_bytes=GB), "train_tokenizer")
    assert trained.megabytes == pytest.approx(text)
    assert not [cost for cost in asked() if cost.stage == "train_tokenizer"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, r"jobs \(0\) must be at least 1"),
        (
            {"extra": {"paragraphs": ["c4", "web"]}},
            "paragraphs applies to web, for which sizes gives no size",
        ),
    ],
)
def test_what_cannot_be_predicted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict({"c4": 1}, **{"jobs": 1, "memory_budget": 1, **options})


def test_kinds_of_files() -> None:
    assert kind_of("common_crawl", "CC-MAIN-2019-30.warc.wet.gz") == "common_crawl_wet"
    assert kind_of("common_crawl", "a/b.warc.gz") == "common_crawl"
    assert kind_of("wikipedia", "dewiki.xml.bz2") == "wikipedia"
    # Unknown kinds are predicted too, as costly as C4.
    other, c4 = (predict({kind: GB}, jobs=1, memory_budget=GB) for kind in ("notes", "c4"))
    assert [cost.core_seconds for cost in other] == [cost.core_seconds for cost in c4]


def test_rates_are_those_of_the_results() -> None:
    """Every number comes from a file in benchmarks/results, and those of the samples stand in it as
    they do here."""
    results = ROOT / "benchmarks" / "results"
    for rates in (*SOURCE_RATES, *TEXT_RATES):
        assert (results / rates.measured).is_file(), rates
    for rates in SOURCE_RATES:
        if rates.measured.startswith("stage_rates"):
            numbers = (rates.read, rates.reader, rates.extracted, rates.text, rates.parts)
            shown = ", ".join(f"{number:.2f}" for number in (*numbers, rates.bytes_per_token))
            assert f'"{rates.kind}", {shown}' in (results / rates.measured).read_text()


@pytest.mark.parametrize(
    ("label", "stage"),
    [
        ("read wikipedia", "read"),
        ("read ids", "tokenize"),
        ("hash paragraphs of common_crawl", "paragraphs"),
        ("compare paragraphs", "paragraphs"),
        ("sort by text", "compare"),
        ("verify", "near_duplicate"),
        ("something else", "something else"),
        ("", ""),
    ],
)
def test_labels_are_of_stages(label: str, stage: str) -> None:
    assert stage_of(label) == stage


# -- afterwards -----------------------------------------------------------------------------------


def test_how_far_off() -> None:
    predicted = [
        StageCost("read", "a", 1.0, 10.0, 0, 0),
        StageCost("read", "b", 1.0, 30.0, 0, 0),
        StageCost("guess", "a", 1.0, None, 0, 0),
        StageCost("publish", "a", 1.0, 5.0, 0, 0),
    ]
    found = compare(predicted, {"read": 50.0, "guess": 3.0, "extra": 1.0})
    assert found == [
        Deviation("read", 40.0, 50.0),
        Deviation("guess", None, 3.0),
        Deviation("publish", 5.0, None),
        Deviation("extra", None, 1.0),
        Deviation("all of these", 40.0, 50.0),  # of stages with both numbers
    ]
    assert [deviation.ratio for deviation in found] == [1.25, None, None, None, 1.25]
    lines = deviations_as_text(found).splitlines()
    assert lines[1].split() == ["read", "40.0", "s", "50.0", "s", "1.25"]
    assert lines[2].split() == ["guess", "-", "3.0", "s", "-"]


def test_a_build_s_own_times(tmp_path: Path) -> None:
    """A timed executor changes nothing, and its labels are stages that are predicted."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("a", "b"):
        (raw / f"{name}.txt").write_text("Some text.\n" * 2_000 + name)
    read = partial(folder.read, text_field="text", max_document_bytes=1 << 20)
    source = Source(name="notes", inputs=folder.inputs, read=read)
    plain = build_corpus([(source, raw)], tmp_path / "plain")
    executor = TimedExecutor(Processes(2))
    assert build_corpus([(source, raw)], tmp_path / "timed", executor=executor) == plain
    assert set(executor.core_seconds) == set(executor.wall_seconds)
    assert all(seconds > 0 for seconds in executor.core_seconds.values())
    size = sum(path.stat().st_size for path in raw.iterdir())
    predicted = predict({"notes": size}, jobs=2, memory_budget=GB)
    stages = {stage_of(label) for label in executor.core_seconds}
    assert {"read", "publish"} <= stages <= {cost.stage for cost in predicted}


def fill(num_bytes: int) -> int:
    """Touch so much memory, and give it back."""
    return len(b"x" * num_bytes)


def test_memory_is_that_of_each_stage() -> None:
    executor = TimedExecutor(Processes(1))
    executor.map(fill, [300 << 20, 1], [1, 1], label="much")
    executor.map(fill, [1], [1], label="little")
    assert executor.peak_bytes["much"] > executor.peak_bytes["little"] + (250 << 20)


def spin(seconds: float) -> float:
    """Compute for so long."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_phase_is_what_is_computed_beside_the_tasks(jobs: int) -> None:
    executor = TimedExecutor(Processes(jobs))
    with executor.phase("all the rest"):
        assert executor.map(spin, [0.2, 0.2], [1, 1], label="tasks") == [0.2, 0.2]
        spin(0.1)
    assert executor.core_seconds["tasks"] >= 0.4
    # Starting processes is computed here too, the tasks in no case.
    assert 0.1 <= executor.core_seconds["all the rest"] < 0.4


def test_the_benchmark_of_rates(tmp_path: Path) -> None:
    samples = os.environ.get("LLAMA_DS_SAMPLES")
    if not samples:
        pytest.skip("LLAMA_DS_SAMPLES names no folder of sample files")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.data.stage_rates", "--samples", samples),
            *("--sources", "github", "--rehearse", "--out", str(tmp_path)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (result,) = tmp_path.glob("stage_rates_cpu_*.md")
    assert result.read_text(encoding="utf-8") in ran.stdout
    assert 'SourceRates("github", ' in ran.stdout
