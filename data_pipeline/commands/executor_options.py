"""Command-line options of the executor: local processes or a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipeline.executors.executor import Executor
from data_pipeline.executors.local import Processes


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class ExecutorOptions:
    """Executor options: local processes, or a Ray cluster."""

    executor: Literal["local", "ray"] = "local"
    """Ray is fault-tolerant: it survives the loss of workers and nodes. Results are the same, byte
    for byte."""
    jobs: Annotated[
        int, tyro.conf.arg(help="Worker processes, local or of a Ray cluster started here.")
    ] = os.cpu_count() or 1
    ray_address: str | None = None
    """With --executor ray: address of a running cluster, such as auto or ray://host:10001 (needs
    ray[client]); by default one is started on this machine."""

    @contextmanager
    def started(self, out: Path) -> Iterator[Executor]:
        """The executor, for the duration of the block. `out`: the folder that its workers share."""
        if self.ray_address is not None and self.executor != "ray":
            raise ValueError("--ray-address needs --executor ray")
        processes = Processes(self.jobs)
        if self.executor == "local":
            yield processes
            return
        # Ray's import takes a second, which no other build should pay for.
        from data_pipeline.executors.ray import ray_cluster

        with ray_cluster(self.ray_address, jobs=self.jobs, shared=out) as cluster:
            yield cluster
