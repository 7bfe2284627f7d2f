"""Executors: results, errors, lost workers, full disks. Ray against processes of this machine."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import overload

import pytest

from data_pipeline.build.build_corpus import DISTINCT_TEXTS, build_corpus
from data_pipeline.build.parts import PartSizes
from data_pipeline.dedup.near import near_duplicates
from data_pipeline.dedup.rule import Rule
from data_pipeline.document import Document, Source
from data_pipeline.executors.executor import Executor, WorkerLost
from data_pipeline.executors.local import Processes, end_workers
from data_pipeline.executors.ray import RayTasks, _check_machines, _compare, ray_cluster
from data_pipeline.sources import folder

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


@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request: pytest.FixtureRequest) -> Executor:
    return Processes(2) if request.param == "processes" else request.getfixturevalue("cluster")


def squared(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


@pytest.mark.slow
def test_results_come_in_the_order_of_the_tasks(executor: Executor) -> None:
    assert executor.map(squared, range(20), [1] * 20, label="square") == [n * n for n in range(20)]
    assert executor.map(squared, [], [], label="nothing") == []


def failing(number: int) -> int:
    if number == 3:
        raise OSError(errno.ENOSPC, "No space left on device", "some file")
    if number == 4:
        raise ValueError("number (4) must be small")
    return number


@pytest.mark.parametrize(("numbers", "kind"), [((0, 3), OSError), ((1, 4), ValueError)])
def test_the_error_of_a_task_is_raised_as_it_is(
    executor: Executor, numbers: tuple[int, ...], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        executor.map(failing, numbers, [1] * len(numbers), label="fail")
    assert type(caught.value) is kind
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.ENOSPC
    assert executor.map(failing, [1, 2], [1, 1], label="go on") == [1, 2]


class Drawn(Sequence[Path]):
    """Files for tasks to make; it keeps how many were asked for before earlier ones were there."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.most_ahead = 0

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, int) and index < len(self.files):
            ahead = index + 1 - sum(file.exists() for file in self.files)
            self.most_ahead = max(self.most_ahead, ahead)
        return self.files[index]


def touch(path: Path) -> None:
    path.touch()


@pytest.mark.slow
def test_few_tasks_wait_at_ray(cluster: RayTasks, tmp_path: Path) -> None:
    files = Drawn([tmp_path / str(number) for number in range(40)])
    cluster.map(touch, files, [1] * len(files), label="touch")
    assert 2 <= files.most_ahead <= 6  # three for each of two workers
    assert all(file.exists() for file in files.files)


def slow(seconds: float) -> float:
    """As a task of Python code is slow: it can be interrupted between two instructions."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return seconds


@pytest.mark.slow
def test_an_interrupt_leaves_the_workers_free(cluster: RayTasks) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        with pytest.raises(KeyboardInterrupt):
            cluster.map(slow, [300.0] * 8, [1] * 8, label="slow")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    start = time.monotonic()
    assert cluster.map(slow, [0.0, 0.0], [1, 1], label="quick") == [0.0, 0.0]
    assert time.monotonic() - start < 200  # it did not wait for the tasks above


def test_machines_without_the_folder_or_the_code() -> None:
    folder = Path("shared")
    _compare("node", ("token", "code"), ("token", "code"), folder, "package")
    with pytest.raises(ValueError, match="shared is not the same folder on node"):
        _compare("node", (None, "code"), ("token", "code"), folder, "package")
    with pytest.raises(ValueError, match=r"node, .* cannot import the package package"):
        _compare("node", ("token", None), ("token", "code"), folder, "package")
    with pytest.raises(ValueError, match=r"node, .* has another version of the package package"):
        _compare("node", ("token", "old"), ("token", "code"), folder, "package")


@pytest.mark.slow
def test_every_machine_is_asked(cluster: RayTasks, tmp_path: Path) -> None:
    _check_machines(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_cluster_that_does_not_start_is_an_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nA long report")

    monkeypatch.setattr("ray.init", fail)
    with (
        pytest.raises(WorkerLost, match=r"could not be started .*timed out.*; rerun the command"),
        ray_cluster(None, jobs=2, shared=tmp_path),
    ):
        pass


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
def raw(tmp_path: Path) -> Path:
    return raw_files(tmp_path / "raw")


def built(raw: Path, out: Path, executor: Executor, source: Source = TEXT) -> dict[str, bytes]:
    sizes = PartSizes(input_bytes=1)
    manifests = build_corpus([(source, raw)], out, rules=RULES, executor=executor, part_sizes=sizes)
    (manifest,) = manifests.values()
    assert {"duplicate", "near_duplicate"} <= set(manifest.dropped)
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.glob("*/*"))
        if path.is_file() and not path.parent.name.startswith(".")
    }


@pytest.mark.slow
def test_every_executor_gives_the_same_bytes(raw: Path, tmp_path: Path, cluster: RayTasks) -> None:
    executors: tuple[Executor, ...] = (Processes(1), Processes(2), cluster)
    results = [built(raw, tmp_path / f"out{n}", executor) for n, executor in enumerate(executors)]
    assert results[0] == results[1] == results[2]


def killed_once(document: Document, *, marker: str) -> Document:
    """Takes its worker down, the first time that a certain document comes."""
    if "word95" in document.text and not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return document


@pytest.mark.slow
def test_a_lost_worker(raw: Path, tmp_path: Path, executor: Executor) -> None:
    """Ray goes on by itself; processes end with a word on what to do, and the next run goes on."""
    edit = partial(killed_once, marker=str(tmp_path / "killed"))
    source = replace(TEXT, edits=(edit,))
    out = tmp_path / "out"
    if isinstance(executor, Processes):
        with pytest.raises(WorkerLost, match=r"killed during 'read text'.*rerun the command"):
            built(raw, out, executor, source)
        assert not (out / "text").exists()
    result = built(raw, out, executor, source)
    assert (tmp_path / "killed").exists()
    assert not list(out.rglob("*.tmp-*"))
    assert result == built(raw, tmp_path / "whole", Processes(1), source)


def always_killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_killed_while_the_pool_ends(victim: int) -> None:
    """It may have the lock of the queue, without which the other never hears that it is to end."""
    before = multiprocessing.active_children()
    executor = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
    assert list(executor.map(abs, [-1, -2])) == [1, 2]
    workers = [child for child in multiprocessing.active_children() if child not in before]
    assert len(workers) == 2
    killed = workers[victim].pid
    assert killed is not None
    time.sleep(0.2)  # until both wait for a task
    os.kill(killed, signal.SIGSTOP)
    end = threading.Thread(target=end_workers, args=(executor, workers), daemon=True)
    end.start()
    time.sleep(0.2)  # until the other waits for the lock, or has ended
    os.kill(killed, signal.SIGKILL)
    end.join(20)
    is_stuck = end.is_alive()
    for worker in workers:
        worker.kill()
    assert not is_stuck


def test_a_task_that_kills_its_worker_every_time(cluster: RayTasks) -> None:
    with pytest.raises(WorkerLost, match="task 0 of 'kill' failed after 4 retries"):
        cluster.map(always_killed, [1], [1], label="kill")


def disk_full_until(document: Document, *, marker: str) -> Document:
    if "word95" in document.text and not os.path.exists(marker):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "parts")
    return document


@pytest.mark.slow
def test_a_full_disk_ends_a_build_that_continues_when_there_is_room(
    raw: Path, tmp_path: Path, executor: Executor
) -> None:
    room = tmp_path / "room"
    source = replace(TEXT, edits=(partial(disk_full_until, marker=str(room)),))
    with pytest.raises(OSError, match="No space left"):
        built(raw, tmp_path / "out", executor, source)
    room.touch()
    result = built(raw, tmp_path / "out", executor, source)
    assert not list((tmp_path / "out").rglob("*.tmp-*"))
    assert result == built(raw, tmp_path / "whole", Processes(1), source)
