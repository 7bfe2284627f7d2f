"""Shared fixtures: a pool of gloo processes, and the folder of real sample files.

Importing DeepSpeed takes seconds, so it is imported once, by a server from which every process of
every pool is forked; and the processes of a pool are started once and serve every test of the
session. They meet through a file, not a port, so parallel runs cannot clash.
"""

from __future__ import annotations

import gc
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.fork_server import start_fork_server
from tests.support.quick_tier import LEFT_OUT, is_quick

# How long an example takes depends on what else the machine does, and a change that passes today
# passes tomorrow: searching for new examples is the fuzzer's job (tests/tools/fuzz_readers.py).
hypothesis.settings.register_profile("untimed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("untimed")

# Where a shell starts the suite in the background it ignores SIGINT, and so would all that tests
# start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TIMEOUT_SECONDS = 240.0
CLOSE_SECONDS = 60.0


LONGEST = ("tests/recipes/", "tests/golden/", "tests/llama_ds/", "tests/benchmarks/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden", action="store_true", help="store the loss curves that tests compare with"
    )
    parser.addoption(
        "--quick",
        action="store_true",
        help=f"leave out tests marked {', '.join(sorted(LEFT_OUT))}",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse tests of several processes that are not marked so; leave tests out for `--quick`."""
    quick: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        markers = {marker.name for marker in item.iter_markers()}
        if "gloo" in getattr(item, "fixturenames", ()) and not markers & {"dist", "golden"}:
            raise pytest.UsageError(f"{item.nodeid} uses the fixture gloo: mark it dist")
        (quick if is_quick(markers) else left_out).append(item)
    if config.getoption("--quick"):
        config.hook.pytest_deselected(items=left_out)
        items[:] = quick
    # The longest first, so that several workers end together.
    items.sort(
        key=lambda item: min(
            (i for i, name in enumerate(LONGEST) if name in item.nodeid), default=len(LONGEST)
        )
    )
    # Modules and tests live to the end: the garbage collector need not go through them, which takes
    # a third of a second, again and again.
    gc.freeze()


def _serve(rank: int, world_size: int, store: str, pipe: Connection) -> None:
    """One process of the pool: run what arrives, answer ("ok", result) or ("error", traceback).

    None ends it.
    """
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    import torch
    import torch.distributed as dist

    gc.freeze()  # what is imported lives to the end, and every training job collects garbage
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    while (job := pipe.recv()) is not None:
        function, arguments = job
        try:
            pipe.send(("ok", function(*arguments)))
        except Exception:
            pipe.send(("error", traceback.format_exc()))
    _close_groups()
    dist.destroy_process_group()


def _close_groups() -> None:
    from tests.support.pool_groups import close_pool_groups

    close_pool_groups()


class GlooPool:
    """`world_size` processes in one gloo group."""

    def __init__(self, world_size: int, folder: Path) -> None:
        start_fork_server()
        context = get_context("forkserver")
        self._pipes, self._processes = [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            arguments = (rank, world_size, str(folder / "store"), theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(*arguments)` on every rank; the results by rank, or the first traceback."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers: list[tuple[str, Any]] = []
        for rank, pipe in enumerate(self._pipes):
            # A rank that failed leaves the others waiting in a collective.
            failed = any(kind == "error" for kind, _ in answers)
            if pipe.poll(5.0 if failed else TIMEOUT_SECONDS):
                answers.append(pipe.recv())
            else:
                answers.append(("error", f"rank {rank} did not answer"))
        errors = [text for kind, text in answers if kind == "error"]
        if errors:
            self.kill()
            # The rank that raised explains more than those that waited for it.
            raise AssertionError(max(errors, key=len))
        return [result for _, result in answers]

    @property
    def alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def close(self) -> None:
        """End the processes in order, once each has released its groups."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(CLOSE_SECONDS)
        assert [process.exitcode for process in self._processes] == [0] * len(self._processes), (
            "a process of the pool did not end in order"
        )

    def kill(self) -> None:
        """End the processes after an error, when some of them wait for others."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


class GlooPools:
    """Pools by number of processes, each started when it is first asked for."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._pools: dict[int, GlooPool] = {}

    def run(self, world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(*arguments)` on every rank; results by rank."""
        pool = self._pools.get(world_size)
        if pool is None or not pool.alive:
            pool = GlooPool(world_size, self._folder(f"gloo{world_size}"))
            self._pools[world_size] = pool
        return pool.run(function, *arguments)

    def close_groups(self) -> None:
        """Every group has threads that wake up all the time, also where nobody uses it."""
        for pool in self._pools.values():
            if pool.alive:
                pool.run(_close_groups)

    def close(self) -> None:
        for pool in self._pools.values():
            if pool.alive:
                pool.close()


@pytest.fixture(scope="session")
def gloo_pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GlooPools]:
    pools = GlooPools(tmp_path_factory.mktemp)
    yield pools
    pools.close()


@pytest.fixture(scope="module")
def gloo(gloo_pools: GlooPools) -> Iterator[Callable[..., list[Any]]]:
    """`gloo(world_size, function, *arguments)` -> results by rank."""
    yield gloo_pools.run
    gloo_pools.close_groups()


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real sample files; tests that need it are skipped where it is not named."""
    folder = os.environ.get("LLAMA_DS_SAMPLES")
    if not folder:
        pytest.skip("LLAMA_DS_SAMPLES does not name a folder of sample files")
    return Path(folder)
