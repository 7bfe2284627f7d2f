"""Saves by several ranks, in the background: kills, failures, full disks, and one after another."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from llama_ds.checkpoint import tensor_files
from llama_ds.checkpoint.export import newest
from llama_ds.checkpoint.verification import all_checkpoints, damage_of
from llama_ds.config import Recipe
from llama_ds.metrics import read_metrics
from tests.support.checkpoints import RANKS, SmallEngine, save_as_rank, saver_of
from tests.support.nightly import at_night
from tests.support.tiny_run import make_store, run_training, tiny_recipe

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]


@pytest.fixture(scope="module", autouse=True)
def server(gloo: Gloo) -> None:
    """Start the server from which processes are forked, with everything imported."""
    gloo(1, os.getpid)


def value_in(path: Path) -> float:
    """The value that every weight of a whole checkpoint has."""
    assert damage_of(path) is None
    values = {
        float(value)
        for file in path.glob("model-*.safetensors")
        for weight in load_file(file).values()
        for value in weight.unique()
    }
    (value,) = values
    return value


# -- kills ----------------------------------------------------------------------------------------


def save(run_dir: Path, step: int, killed: tuple[int, int] | None = None) -> list[int | None]:
    """Save with two processes; their exit codes."""
    context = get_context("forkserver")
    processes = [
        context.Process(target=save_as_rank, args=(rank, run_dir, step, killed))
        for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    (run_dir.parent / f"meeting-{run_dir.name}-{step}").unlink(missing_ok=True)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("killed_rank", [0, at_night(1)])
def test_a_kill_anywhere_leaves_a_whole_checkpoint(tmp_path: Path, killed_rank: int) -> None:
    """One checkpoint is there, and a damaged one with the name of the one that is written."""
    start, damaged = tmp_path / "start", tmp_path / "damaged"
    assert save(start, 2) == [0, 0]
    assert save(damaged, 4) == [0, 0]
    next(damaged.rglob("exp_avg-*.safetensors")).write_bytes(b"")
    shutil.copytree(damaged, start, dirs_exist_ok=True)
    outcomes = set()
    shutil.copytree(start, tmp_path / "counted")
    assert save(tmp_path / "counted", 4, (killed_rank, 1_000)) == [0, 0]
    num_changes = int((tmp_path / "changes").read_text())
    assert num_changes >= (20 if killed_rank == 0 else 3)  # rank 1 publishes nothing
    # Some while files are written, and all from before the folder is published.
    points = {*range(0, num_changes, 4), *range(max(0, num_changes - 8), num_changes)}
    for number in sorted(points):
        run_dir = tmp_path / f"killed-{number}"
        shutil.copytree(start, run_dir)
        codes = save(run_dir, 4, (killed_rank, number))
        found = newest(run_dir)
        assert value_in(found) == float(found.name[5:])
        outcomes.add(found.name)
        assert codes[killed_rank] == -signal.SIGKILL
        # The next save finds whatever there is, and leaves nothing of it.
        if number % 3 == 0:
            assert save(run_dir, 4) == [0, 0]
            assert value_in(newest(run_dir, 4)) == 4.0
            assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_00000004"]
        shutil.rmtree(run_dir)
    assert outcomes == {0: {"step_00000002", "step_00000004"}, 1: {"step_00000002"}}[killed_rank]


# -- full disks -----------------------------------------------------------------------------------


class FullDisk:
    """Writes of tensors fail on one rank from the `after`-th on."""

    def __init__(self, patch: pytest.MonkeyPatch, rank: int, after: int) -> None:
        self.left = after
        plain = tensor_files.SafetensorsWriter.add

        def add(writer: Any, name: str, tensor: torch.Tensor) -> None:
            if dist.get_rank() == rank:
                self.left -= 1
                if self.left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            plain(writer, name, tensor)

        patch.setattr(tensor_files.SafetensorsWriter, "add", add)


def save_on_full_disks(run_dir: Path) -> list[tuple[int | None, str]]:
    """Errors of saves that fail sooner and later on each rank, after one that succeeds."""
    engine = SmallEngine(2.0)
    saver = saver_of(engine, run_dir)
    saver.save(2)
    saver.settle()
    errors = []
    for rank, after in itertools.product(range(RANKS), (0, 2, 9)):
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, rank, after)
            saver.save(4)
            with pytest.raises(OSError, match="No space left") as caught:
                saver.settle()
        errors.append((caught.value.errno, str(caught.value)))
        dist.barrier()  # the first rank has removed what was written
        assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_00000002"]
        dist.barrier()
    # Once there is room again, the same saver goes on.
    engine.fill(6.0)
    saver.save(6)
    saver.settle()
    saver.close()
    return errors


def test_a_full_disk_is_an_error_on_every_rank(gloo: Gloo, tmp_path: Path) -> None:
    one, other = gloo(RANKS, save_on_full_disks, tmp_path / "run")
    assert one == other
    assert {number for number, _ in one} == {errno.ENOSPC}
    assert len(one) == 6
    assert [path.name for path in all_checkpoints(tmp_path / "run")] == ["step_00000006"]
    assert value_in(newest(tmp_path / "run")) == 6.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def train_on_a_full_disk(recipe: Recipe) -> str:
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, 1, 100)  # the first checkpoint has fewer tensors for a rank
        try:
            run_training(recipe)
        except OSError as error:
            return str(error)
    return "no error"


def test_training_ends_with_the_error_of_a_save_in_the_background(
    gloo: Gloo, store: Path, tmp_path: Path
) -> None:
    overrides = {"checkpoint.every_steps": 1, "train.max_steps": 30, "train.eval_rows": 0}
    recipe = tiny_recipe(store, tmp_path / "run", **overrides)
    for error in gloo(2, train_on_a_full_disk, recipe):
        assert "No space left on device" in error
    left = all_checkpoints(recipe.run_dir)
    assert left
    assert all(damage_of(path) is None for path in left)
    assert not list((recipe.run_dir / "checkpoints").glob(".*"))
    steps = [record["step"] for record in read_metrics(recipe.run_dir / "metrics.jsonl", "train")]
    assert steps[-1] < 30
    # The run goes on where the last whole checkpoint is.
    assert gloo(2, run_training, recipe) == [(30, None)] * 2


# -- in the background ----------------------------------------------------------------------------


def save_slowly(run_dir: Path, steps: int) -> dict[str, Any]:
    """Change the weights while a save is held up, and begin a second one."""
    engine = SmallEngine(1.0)
    saver = saver_of(engine, run_dir, keep_last=0)
    may_write = threading.Event()
    plain = tensor_files.SafetensorsWriter.add
    seen: dict[str, Any] = {}

    def add(writer: Any, name: str, tensor: torch.Tensor) -> None:
        assert may_write.wait(60)
        plain(writer, name, tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_files.SafetensorsWriter, "add", add)
        saver.save(1)
        engine.fill(2.0)  # training goes on
        seen["in flight"] = (saver.in_flight, saver.is_writing)
        seen["while writing"] = [path.name for path in all_checkpoints(run_dir)]
        # On the same machine and at no time may two saves be in flight.
        threading.Timer(0.5, may_write.set).start()
        start = time.perf_counter()
        saver.save(2)
        seen["waited"] = time.perf_counter() - start
        seen["after the second began"] = damage_of(run_dir / "checkpoints" / "step_00000001")
    engine.fill(3.0)
    saved = saver.settle()
    seen["stall"] = saved.stall_seconds
    seen["at the end"] = (saver.in_flight, saver.is_writing)
    saver.close()
    return seen


def test_a_save_takes_the_state_of_its_step_and_the_next_one_waits(
    gloo: Gloo, tmp_path: Path
) -> None:
    for seen in gloo(RANKS, save_slowly, tmp_path / "run", 2):
        assert seen["in flight"] == (True, True)
        assert seen["while writing"] == []
        assert seen["waited"] > 0.4
        assert seen["stall"] > 0.4  # what the log line says
        assert seen["after the second began"] is None
        assert seen["at the end"] == (False, False)
    for step in (1, 2):
        path = tmp_path / "run" / "checkpoints" / f"step_{step:08d}"
        assert value_in(path) == float(step)


def save_at_the_end_of_steps(recipe: Recipe) -> list[tuple[str, float]]:
    """Train with slow writes; the events in the order in which they came, and when."""
    from llama_ds import train as module
    from llama_ds.step import train_step as plain_step

    events: list[tuple[str, float]] = []
    plain_add = tensor_files.SafetensorsWriter.add

    def add(writer: Any, name: str, tensor: torch.Tensor) -> None:
        time.sleep(0.01)
        plain_add(writer, name, tensor)
        events.append(("write", time.perf_counter()))

    def step(*arguments: Any) -> Any:
        result = plain_step(*arguments)
        events.append(("step", time.perf_counter()))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_files.SafetensorsWriter, "add", add)
        patch.setattr(module, "train_step", step)
        run_training(recipe)
    return events


@pytest.mark.parametrize("asynchronous", [True, False])
def test_training_goes_on_while_a_checkpoint_is_written(
    gloo: Gloo, store: Path, tmp_path: Path, asynchronous: bool
) -> None:
    overrides = {
        "checkpoint.every_steps": 3,
        "checkpoint.asynchronous": asynchronous,
        "train.max_steps": 6,
        "train.eval_rows": 0,
    }
    recipe = tiny_recipe(store, tmp_path / "run", **overrides)
    (events, _) = gloo(2, save_at_the_end_of_steps, recipe)
    kinds = [kind for kind, _ in events]
    writes = [at for at, kind in enumerate(kinds) if kind == "write"]
    num_first = len(writes) // 2
    between = kinds[writes[0] : writes[num_first - 1]].count("step")
    assert (between > 0) == asynchronous
    assert [path.name for path in all_checkpoints(recipe.run_dir)] == [
        "step_00000006",
        "step_00000003",
    ]
    assert all(damage_of(path) is None for path in all_checkpoints(recipe.run_dir))


def test_some_checkpoints_stay_for_good(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    overrides = {
        "checkpoint.every_steps": 1,
        "checkpoint.keep_last": 1,
        "checkpoint.keep_every": 2,
        "train.max_steps": 7,
        "train.eval_rows": 0,
    }
    recipe = tiny_recipe(store, tmp_path / "run", **overrides)
    gloo(2, run_training, recipe)
    steps = [int(path.name[5:]) for path in all_checkpoints(recipe.run_dir)]
    assert steps == [7, 6, 4, 2]
