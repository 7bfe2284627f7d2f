"""The engine of a cluster: tasks as Ray Core tasks.

Workers exchange files, not data: the build's folders must lie on a file system that all machines
share, under the same paths, and the package must be installed on each of them.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_pipeline.engine import Result, Task, WorkerLost
from data_pipeline.workers import progress_bar

# A machine that is lost takes all its tasks with it; one task seldom loses so many machines.
_RETRIES = 4
# Enough that no worker waits for the next task, and no more: a task may hold a mask of its rows.
_TASKS_PER_CPU = 3


@dataclass(frozen=True)
class RayTasks:
    """A Ray cluster that this process is connected to (`ray_cluster` connects it)."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        sizes: Sequence[int],
        *,
        label: str,
    ) -> list[Result]:
        """`function` of every task, in the order of the tasks.

        A task whose worker or machine is lost runs again, up to four times; then WorkerLost is
        raised. An error of the task itself is not tried again, and is raised here as it is.
        """
        remote: Any = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=False)(_run)
        most = _TASKS_PER_CPU * max(1, int(_cluster_cpus()))
        results: dict[int, Result] = {}
        waiting: dict[Any, int] = {}
        upcoming = iter(enumerate(tasks))
        with progress_bar(sizes, label) as bar:
            try:
                while True:
                    for index, task in upcoming:
                        waiting[remote.remote(function, task)] = index
                        if len(waiting) >= most:
                            break
                    if not waiting:
                        return [results[index] for index in range(len(tasks))]
                    (done,), _ = ray.wait(list(waiting), num_returns=1)
                    index = waiting.pop(done)
                    results[index] = _result(done, label, index)
                    bar.update(sizes[index])
            except BaseException:
                for reference in waiting:
                    ray.cancel(reference)
                raise


def _cluster_cpus() -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("CPU", 1)


def _result(reference: Any, label: str, index: int) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
    ) as error:
        raise WorkerLost(
            f"task {index} of '{label}' lost its worker {_RETRIES + 1} times, for want of memory "
            f"or because machines went away: {error}"
        ) from error


def _run(function: Callable[[Task], Result], task: Task) -> Result:
    pa.set_cpu_count(1)  # the workers are the parallelism
    return function(task)


@contextmanager
def ray_cluster(address: str | None, *, jobs: int, shared: Path) -> Iterator[RayTasks]:
    """Connect to the cluster at `address`, which stays; or start one of `jobs` workers on this
    machine, which ends with the block. `shared` is a folder that all machines must see.

    ValueError if there is no cluster at the address, or one of its machines does not see `shared`.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address is None:
        # Its workers import what this process can.
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        options |= {"num_cpus": jobs, "include_dashboard": False, "address": "local"}
        options |= {"runtime_env": {"env_vars": path}}
    else:
        options |= {"address": address}
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise ValueError(f"--ray-address: no Ray cluster at {address}: {error}") from error
    try:
        if address is not None:
            _check_shared(shared)
        yield RayTasks()
    finally:
        ray.shutdown()


def _check_shared(folder: Path) -> None:
    """ValueError unless every machine reads what this one writes into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    path = folder.resolve() / f".shared-{token}"
    path.write_text(token)
    try:
        read: Any = ray.remote(num_cpus=0)(_read)
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        for node in nodes:
            if node["Alive"]:
                here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                found = ray.get(read.options(scheduling_strategy=here).remote(str(path)))
                if found != token:
                    raise ValueError(
                        f"{folder} is not the same folder on {node['NodeManagerHostname']}, a "
                        "machine of the Ray cluster; put --out on a file system that all share"
                    )
    finally:
        path.unlink()


def _read(path: str) -> str | None:
    return Path(path).read_text() if os.path.exists(path) else None
