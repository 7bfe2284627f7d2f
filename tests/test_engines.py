"""Engines: results, errors, lost workers, full disks. Ray against processes of this machine."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from data_pipeline import parts
from data_pipeline.comparison import Rule
from data_pipeline.document import Document, Source
from data_pipeline.engine import Engine, WorkerLost
from data_pipeline.near_duplicates import near_duplicates
from data_pipeline.pipeline import DISTINCT_TEXTS, build_corpus
from data_pipeline.ray_engine import RayTasks, ray_cluster
from data_pipeline.sources import folder
from data_pipeline.workers import Processes

TEXT = Source(
    "text", folder.inputs, partial(folder.read, text_field="text", max_document_bytes=1000)
)
RULES = (*DISTINCT_TEXTS, Rule("near_duplicate", partial(near_duplicates, min_similarity=0.8)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayTasks]:
    """Two Ray workers, started once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        with ray_cluster(None, jobs=2, shared=tmp_path_factory.mktemp("shared")) as tasks:
            yield tasks


@pytest.fixture(params=["processes", "ray"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return Processes(2) if request.param == "processes" else request.getfixturevalue("cluster")


def squared(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def test_results_come_in_the_order_of_the_tasks(engine: Engine) -> None:
    assert engine.map(squared, range(20), [1] * 20, label="square") == [n * n for n in range(20)]
    assert engine.map(squared, [], [], label="nothing") == []


def failing(number: int) -> int:
    if number == 3:
        raise OSError(errno.ENOSPC, "No space left on device", "some file")
    if number == 4:
        raise ValueError("number (4) must be small")
    return number


@pytest.mark.parametrize(("numbers", "kind"), [((0, 3), OSError), ((1, 4), ValueError)])
def test_the_error_of_a_task_is_raised_as_it_is(
    engine: Engine, numbers: tuple[int, ...], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        engine.map(failing, numbers, [1] * len(numbers), label="fail")
    assert type(caught.value) is kind
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.ENOSPC
    assert engine.map(failing, [1, 2], [1, 1], label="go on") == [1, 2]


# -- builds ---------------------------------------------------------------------------------------


def raw_files(root: Path) -> Path:
    """Six files, with copies and near-copies across them."""
    root.mkdir()
    words = [f"word{n}" for n in range(400)]
    for number in range(6):
        lines = [" ".join(words[n : n + 60]) for n in range(0, 300, 20)]
        changed = lines[number].replace(f"word{number * 20}", "another")
        texts = [changed, *lines[number : number + 3]]
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (root / f"{number}.jsonl").write_text(rows)
    return root


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parts, "_PART_INPUT_BYTES", 1)
    return raw_files(tmp_path / "raw")


def built(raw: Path, out: Path, engine: Engine, source: Source = TEXT) -> dict[str, bytes]:
    (manifest,) = build_corpus([(source, raw)], out, rules=RULES, engine=engine).values()
    assert {"duplicate", "near_duplicate"} <= set(manifest.dropped)
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.glob("*/*"))
        if path.is_file() and not path.parent.name.startswith(".")
    }


def test_every_engine_gives_the_same_bytes(raw: Path, tmp_path: Path, cluster: RayTasks) -> None:
    engines: tuple[Engine, ...] = (Processes(1), Processes(2), cluster)
    results = [built(raw, tmp_path / f"out{n}", engine) for n, engine in enumerate(engines)]
    assert results[0] == results[1] == results[2]


def killed_once(document: Document, *, marker: str) -> Document:
    """Takes its worker down, the first time that a certain document comes."""
    if "word95" in document.text and not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return document


def test_a_lost_worker(raw: Path, tmp_path: Path, engine: Engine) -> None:
    """Ray goes on by itself; processes end with a word on what to do, and the next run goes on."""
    edit = partial(killed_once, marker=str(tmp_path / "killed"))
    source = replace(TEXT, edits=(edit,))
    out = tmp_path / "out"
    if isinstance(engine, Processes):
        with pytest.raises(WorkerLost, match=r"killed while it worked on 'read text'.* again"):
            built(raw, out, engine, source)
        assert not (out / "text").exists()
    result = built(raw, out, engine, source)
    assert (tmp_path / "killed").exists()
    assert not list(out.rglob("*.tmp-*"))
    assert result == built(raw, tmp_path / "whole", Processes(1), source)


def always_killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_task_that_kills_its_worker_every_time(cluster: RayTasks) -> None:
    with pytest.raises(WorkerLost, match="task 0 of 'kill' lost its worker 5 times"):
        cluster.map(always_killed, [1], [1], label="kill")


def disk_full_until(document: Document, *, marker: str) -> Document:
    if "word95" in document.text and not os.path.exists(marker):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "parts")
    return document


def test_a_full_disk_ends_a_build_that_continues_when_there_is_room(
    raw: Path, tmp_path: Path, engine: Engine
) -> None:
    room = tmp_path / "room"
    source = replace(TEXT, edits=(partial(disk_full_until, marker=str(room)),))
    with pytest.raises(OSError, match="No space left"):
        built(raw, tmp_path / "out", engine, source)
    room.touch()
    result = built(raw, tmp_path / "out", engine, source)
    assert not list((tmp_path / "out").rglob("*.tmp-*"))
    assert result == built(raw, tmp_path / "whole", Processes(1), source)
