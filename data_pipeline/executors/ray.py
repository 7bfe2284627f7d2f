"""Ray executor: tasks as Ray Core tasks on a cluster.

Workers exchange files, not objects: the build's folders must lie on a shared file system, under the
same paths on all nodes, and the same version of the package must be installed on each node.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_pipeline.executors.executor import Result, Task, WorkerLost
from data_pipeline.executors.local import progress_bar

# A lost node takes all its tasks with it; one task rarely loses this many nodes.
_RETRIES = 4
# Tasks in flight: enough that no worker idles, and few, because a task may hold a mask of its rows.
_TASKS_PER_CPU = 3
# An autoscaling cluster is polled for its size.
_SECONDS_BETWEEN_LOOKS = 10.0


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
        """Results of `function` for every task, in task order.

        A task whose worker or node is lost is retried up to four times; then WorkerLost is raised.
        An error of the task itself is not retried, and is raised here unchanged.
        """
        remote: Any = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=False)(_run)
        most, next_look = 0, 0.0
        results: dict[int, Result] = {}
        waiting: dict[Any, int] = {}
        upcoming = iter(enumerate(tasks))
        with progress_bar(sizes, label) as bar:
            try:
                while True:
                    if time.monotonic() >= next_look:
                        most = _TASKS_PER_CPU * max(1, int(_cluster_cpus()))
                        next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
                    for index, task in itertools.islice(upcoming, max(0, most - len(waiting))):
                        waiting[remote.remote(function, task)] = index
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
    task = f"task {index} of '{label}'"
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ray.exceptions.RayError):
            raise WorkerLost(f"{task} could not be run: {_first_line(error.cause)}") from error
        raise error.cause from error
    except (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
    ) as error:
        raise WorkerLost(
            f"{task} failed after {_RETRIES} retries (worker out of memory or node lost); rerun "
            f"the command to resume: {_first_line(error)}"
        ) from error
    except ray.exceptions.RayError as error:
        raise WorkerLost(
            f"Ray lost {task}; rerun the command to resume: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    """Ray's messages are followed by long reports."""
    return str(error).strip().split("\n", 1)[0]


def _run(function: Callable[[Task], Result], task: Task) -> Result:
    pa.set_cpu_count(1)  # the workers are the parallelism
    return function(task)


@contextmanager
def ray_cluster(address: str | None, *, jobs: int, shared: Path) -> Iterator[RayTasks]:
    """Connect to the cluster at `address`, which keeps running; or start one with `jobs` workers on
    this machine, shut down at the end of the block. `shared` is a folder that all nodes must see.

    ValueError if there is no cluster at the address, or one of its nodes does not see `shared` or
    has other code than this process. WorkerLost if no cluster could be started.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address is None:
        # Workers have the same import path as this process.
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        options |= {"num_cpus": jobs, "include_dashboard": False, "address": "local"}
        options |= {"runtime_env": {"env_vars": path}}
        # By default Ray retries tasks that run out of memory without limit.
        options |= {"_system_config": {"task_oom_retries": _RETRIES}}
        try:
            ray.init(**options)
        except Exception as error:  # Ray's own class for it
            raise WorkerLost(
                f"Ray could not be started on this machine, perhaps for its load: "
                f"{_first_line(error)}; rerun the command to resume"
            ) from error
    else:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            raise ValueError(
                f"--ray-address: cannot use a Ray cluster at {address} (is it running, with this "
                f"version of Ray and Python, and its token here?): {_first_line(error)}"
            ) from error
    try:
        if address is not None:
            _check_machines(shared)
        yield RayTasks()
    finally:
        ray.shutdown()


def _check_machines(folder: Path) -> None:
    """ValueError unless every node shares `folder` and has the same code as this process.

    Other code would write other results under the fingerprints of this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    path = folder.resolve() / f".shared-{token}"
    path.write_text(token)
    package = __name__.partition(".")[0]
    look = _look_around()
    here = look(str(path), package)
    try:
        remote: Any = ray.remote(num_cpus=0)(look)
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        for node in nodes:
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                answer = remote.options(scheduling_strategy=there).remote(str(path), package)
                _compare(node["NodeManagerHostname"], ray.get(answer), here, folder, package)
    finally:
        path.unlink()


def _compare(
    machine: str,
    found: tuple[str | None, str | None],
    here: tuple[str | None, str | None],
    folder: Path,
    package: str,
) -> None:
    if found[0] != here[0]:
        raise ValueError(
            f"{folder} is not the same folder on {machine}, a node of the Ray cluster; put --out "
            "on a shared file system"
        )
    if found[1] != here[1]:
        what = "cannot import" if found[1] is None else "has another version of"
        raise ValueError(
            f"{machine}, a node of the Ray cluster, {what} the package {package}; install the same "
            "version on all nodes"
        )


def _look_around() -> Callable[[str, str], tuple[str | None, str | None]]:
    """A function that returns a file's text and a hash of a package's code; None if missing.

    It is a local function, which Ray pickles by value, so it runs where the package is missing.
    """

    def look(path: str, package: str) -> tuple[str | None, str | None]:
        import hashlib
        import importlib.util
        from pathlib import Path

        file = Path(path)
        text = file.read_text() if file.is_file() else None
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            return text, None
        code = hashlib.sha256()
        for module in sorted(Path(found.submodule_search_locations[0]).rglob("*.py")):
            code.update(module.read_bytes())
        return text, code.hexdigest()

    return look
