"""Local executor: tasks in a process pool on this machine, with a progress bar."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import NoReturn

import pyarrow as pa
from tqdm import tqdm

from data_pipeline.executors.executor import Result, Task, WorkerLost

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Processes:
    """A pool of up to `jobs` processes; with one, tasks run in this process."""

    jobs: int

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs ({self.jobs}) must be at least 1")

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        sizes: Sequence[int],
        *,
        label: str,
    ) -> list[Result]:
        """Results of `function` for every task, in task order.

        The first error cancels the other tasks and is raised here; WorkerLost for a killed process.
        Processes are forked where the platform supports it: spawned interpreters would import the
        main program, which may be a shell script or standard input.
        """
        if self.jobs == 1 or len(tasks) <= 1:
            with progress_bar(sizes, label) as bar:
                pairs = zip(tasks, sizes, strict=True)
                return [_advance(bar, size, function(task)) for task, size in pairs]
        method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(
            min(self.jobs, len(tasks)), context, _set_up_worker, (os.getpid(),)
        ) as executor:
            others = multiprocessing.active_children()
            futures = [executor.submit(function, task) for task in tasks]
            workers = [child for child in multiprocessing.active_children() if child not in others]
            size_of = dict(zip(futures, sizes, strict=True))
            try:
                with progress_bar(sizes, label) as bar:
                    for future in as_completed(futures):
                        _advance(bar, size_of[future], future.result())
            except BrokenProcessPool as error:
                raise WorkerLost(
                    f"a worker process was killed during '{label}', perhaps out of memory; rerun "
                    "the command to resume, with fewer --jobs if so"
                ) from error
            finally:
                end_workers(executor, workers)
            return [future.result() for future in futures]


def end_workers(executor: ProcessPoolExecutor, workers: Sequence[BaseProcess]) -> None:
    """Cancel tasks that have not begun, and wait until the workers have ended.

    A worker waits for its next task, or for the word to end, with the lock of the queue in its
    hands. Where it is killed then, the others would wait for that lock for good; so they are killed
    too.
    """
    executor.shutdown(wait=False, cancel_futures=True)
    left = list(workers)
    while left:
        ready = connection.wait([worker.sentinel for worker in left])
        ended = [worker for worker in left if worker.sentinel in ready]
        left = [worker for worker in left if worker not in ended]
        if any(_was_killed(worker) for worker in ended):
            for worker in left:
                worker.kill()


def _was_killed(worker: BaseProcess) -> bool:
    """Of a process that has ended."""
    for _ in range(100):
        if worker.exitcode is not None:
            return worker.exitcode != 0
        time.sleep(0.01)  # the executor's thread has reaped it, and is about to note how it ended
    return True


def _set_up_worker(parent: int) -> None:
    pa.set_cpu_count(1)  # the processes are the parallelism
    if sys.platform == "linux":
        # Workers would otherwise outlive a killed parent, and keep its standard error open.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before the line above
            os._exit(1)


def progress_bar(sizes: Sequence[int], label: str) -> tqdm[NoReturn]:
    """Progress bar over the sum of `sizes` (bytes)."""
    bar: tqdm[NoReturn] = tqdm(total=sum(sizes), desc=label, unit="B", unit_scale=True)
    return bar


def _advance(bar: tqdm[NoReturn], size: int, result: Result) -> Result:
    bar.update(size)
    return result
