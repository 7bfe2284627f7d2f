"""Publication of checkpoints by several ranks: kills, failures, and disks that are full."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from data_pipeline.files.checksum import file_checksum
from llama_ds import checkpoint

pytestmark = pytest.mark.dist

RANKS = 2
CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}


@pytest.fixture(scope="module", autouse=True)
def server(gloo: Callable[..., list[Any]]) -> None:
    """Start the server from which processes are forked, with everything imported."""
    gloo(1, os.getpid)


class SmallEngine:
    """What `checkpoint` uses of DeepSpeed's engine, with a state of some bytes."""

    mp_world_size = 1

    def __init__(self, error: OSError | None = None) -> None:
        self.module = torch.nn.Linear(4, 4)
        self._error = error

    def zero_optimization(self) -> bool:
        return True

    def save_checkpoint(self, folder: str, tag: str, save_latest: bool) -> None:
        assert not save_latest
        rank = dist.get_rank()
        (Path(folder) / tag).mkdir(exist_ok=True)
        torch.save(self.module.state_dict(), Path(folder) / tag / f"rank_{rank}_model_states.pt")
        if self._error is not None and rank == 1:
            raise self._error
        dist.barrier()
        torch.save(torch.zeros(100), Path(folder) / tag / f"rank_{rank}_optim_states.pt")


def save_as_rank(rank: int, run_dir: Path, step: int, killed: tuple[int, int] | None) -> None:
    """Save a checkpoint; the rank `killed[0]` is killed before its `killed[1]`-th change."""
    store = f"file://{run_dir.parent}/meeting-{run_dir.name}-{step}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    if killed is not None and killed[0] == rank:
        left = killed[1]

        def watch(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if name == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                return
            if name in CHANGES:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
    checkpoint.save(SmallEngine(), run_dir, step, {"run": "test"}, keep_last=1)


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


def assert_whole(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    assert len(manifest["files"]) == 3 * RANKS
    for name, entry in manifest["files"].items():
        assert file_checksum(path / name) == entry["xxh3_64"]


@pytest.mark.parametrize("killed_rank", [0, 1])
def test_a_kill_anywhere_leaves_a_whole_checkpoint(tmp_path: Path, killed_rank: int) -> None:
    """One checkpoint is there, and a damaged one with the name of the one that is written."""
    start, damaged = tmp_path / "start", tmp_path / "damaged"
    assert save(start, 2) == [0, 0]
    assert save(damaged, 4) == [0, 0]
    next(damaged.rglob("*_optim_states.pt")).write_bytes(b"")
    shutil.copytree(damaged, start, dirs_exist_ok=True)
    outcomes = set()
    for number in itertools.count():
        run_dir = tmp_path / f"killed-{number}"
        shutil.copytree(start, run_dir)
        codes = save(run_dir, 4, (killed_rank, number))
        found = checkpoint.newest(run_dir)
        assert_whole(found)
        outcomes.add(found.name)
        if codes == [0, 0]:
            break
        assert codes[killed_rank] == -signal.SIGKILL
        # The next save finds whatever there is, and leaves nothing of it.
        assert save(run_dir, 4) == [0, 0]
        assert_whole(checkpoint.newest(run_dir, 4))
        assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_00000004"]
        shutil.rmtree(run_dir)
    # Rank 1 writes files and publishes nothing. (PyTorch opens its files unseen by Python.)
    assert number >= (10 if killed_rank == 0 else 2)
    assert outcomes == {"step_00000002", "step_00000004"}


def save_on_a_full_disk(run_dir: Path) -> str:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        checkpoint.save(SmallEngine(error), run_dir, 6, {"run": "test"}, keep_last=1)
    except Exception as caught:
        return type(caught).__name__
    return "no error"


def fail_as_rank(rank: int, run_dir: Path) -> None:
    store = f"file://{run_dir.parent}/meeting-failure"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    assert save_on_a_full_disk(run_dir) == ("OSError" if rank == 1 else "RuntimeError")


def test_a_rank_without_room_leaves_nothing_and_the_older_checkpoint(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert save(run_dir, 4) == [0, 0]
    context = get_context("forkserver")
    processes = [context.Process(target=fail_as_rank, args=(r, run_dir)) for r in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_00000004"]
    assert_whole(checkpoint.newest(run_dir))
