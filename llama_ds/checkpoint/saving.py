"""Saving while training goes on: copy to the host, then write, verify and publish in a thread.

A save blocks training for as long as it takes to copy each rank's own state to host memory. All
that follows runs in one thread per rank over a group of its own: full tensors are put together and
written (`exchange`), rank 0 publishes the folder when every rank has said that its files are on the
disk, and deletes what is superseded. At most one save is in flight, a second waits for it.

A thread's steps are taken by all ranks together, and an error of one is raised on every rank, when
training asks (`settle`). Until it is published a folder has a hidden name, so a kill at any moment
leaves the older checkpoints as they were.
"""

from __future__ import annotations

import datetime
import errno
import functools
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from data_pipeline.files.atomic import (
    begin_directory,
    finish_file,
    publish_directory,
    remove_directory,
    remove_unfinished_directories,
    unfinished_directory,
)
from data_pipeline.files.checksum import file_checksum
from llama_ds.checkpoint.engine_state import EngineState
from llama_ds.checkpoint.exchange import Exchange, Snapshot
from llama_ds.checkpoint.kinds import KINDS, index_path
from llama_ds.checkpoint.random_state import random_state
from llama_ds.checkpoint.resuming import agreed_damage
from llama_ds.checkpoint.retention import superseded
from llama_ds.checkpoint.tensor_files import (
    SHARD_BYTES,
    SafetensorsWriter,
    TensorFile,
    index_of,
    plan_files,
)
from llama_ds.checkpoint.verification import (
    RUN_FILE,
    all_checkpoints,
    checkpoint_path,
    checkpoints_folder,
    encode_run,
)
from llama_ds.config import CheckpointConfig
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.tensor import Sharding

T = TypeVar("T")

# A rank may wait for another as long as a slow file system takes for the other's files.
_TIMEOUT = datetime.timedelta(hours=4)
_PACKAGES = ("torch", "transformers", "deepspeed", "safetensors")


@dataclass(frozen=True)
class RunDescription:
    """What a checkpoint says about the run beside its state."""

    identity: dict[str, Any]
    """Which run this is, by field: the next job compares its own (`resume_contract`)."""
    layout: dict[str, Any]
    """How it was cut over ranks; for the reader, nothing depends on it."""
    num_rows: Callable[[int], int]
    """Rows passed by the end of a step, trained on or skipped."""
    num_tokens: Callable[[int], int]
    """Tokens trained on by the end of a step."""
    tokenizer_dir: Path


@dataclass(frozen=True)
class Saved:
    """A published checkpoint, the time for which training stood, and that until it was there."""

    path: Path
    stall_seconds: float
    write_seconds: float


class CheckpointSaver:
    """Saves one run; every rank has one and calls the same methods in the same order."""

    def __init__(
        self,
        engine: Any,
        run_dir: Path,
        config: CheckpointConfig,
        description: RunDescription,
        groups: ParallelGroups,
        sharding: Sharding,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._module = engine.module
        self._run_dir = run_dir
        self._config = config
        self._description = description
        self._state = EngineState(engine, sharding)
        self._files = plan_files({p.name: p.shape for p in self._state.parts}, shard_bytes)
        self._group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        self._snapshot = Snapshot(self._state, sharding, groups)
        self._exchange = Exchange(
            self._snapshot, self._state.parts, self._files, sharding, groups, self._group
        )
        self._taken: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._saved: Saved | None = None

    # -- for the training loop --------------------------------------------------------------------

    def require_room(self) -> None:
        """OSError (ENOSPC), on every rank, where the disk cannot hold another checkpoint."""
        self._together(self._require_room)

    def save(self, step: int) -> None:
        """Begin to save the state after `step` steps; `settle` tells how it ended."""
        self.take(step)
        self.write()

    def take(self, step: int) -> None:
        """Copy the state after `step` steps, to be written or dropped.

        Waits for a save in flight, whose error it raises.
        """
        start = time.perf_counter()
        if self.in_flight:
            self.settle()
        self.require_room()
        self._snapshot.take()
        run = {
            "step": step,
            "num_updates": self._state.num_updates,
            "rows": self._description.num_rows(step),
            "tokens": self._description.num_tokens(step),
            "identity": self._description.identity,
            "layout": self._description.layout,
            "versions": versions(),
            "random_state": random_state(),
        }
        stall = time.perf_counter() - start
        self._taken = functools.partial(self._write_in_thread, step, run, stall)

    def write(self) -> None:
        """Begin to write what was taken."""
        assert self._taken is not None, "no state was taken"
        self._thread = threading.Thread(target=self._taken, name="checkpoint", daemon=True)
        self._taken = None
        self._thread.start()

    def drop(self) -> None:
        """Forget what was taken."""
        self._taken = None

    @property
    def has_taken(self) -> bool:
        """Whether a state waits to be written or dropped; the same on every rank."""
        return self._taken is not None

    @property
    def in_flight(self) -> bool:
        """Whether a save has begun that was not settled; the same on every rank."""
        return self._thread is not None

    @property
    def is_writing(self) -> bool:
        """Whether this rank's thread is at work; ranks become free at different times."""
        return self._thread is not None and self._thread.is_alive()

    def settle(self) -> Saved:
        """Wait for the save in flight; OSError, on every rank, where any rank could not write."""
        assert self._thread is not None, "no save is in flight"
        self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        assert self._saved is not None, "a thread leaves a result or an error"
        return self._saved

    def close(self) -> None:
        """Release the process group; a save in flight, after an error in training, is dropped."""
        if self._thread is not None and self._thread.is_alive():
            self._group.abort()  # the thread may wait for a rank that has failed
            self._thread.join()
        dist.destroy_process_group(self._group)

    # -- in the thread ----------------------------------------------------------------------------

    def _write_in_thread(self, step: int, run: dict[str, Any], stall: float) -> None:
        start = time.perf_counter()
        path = checkpoint_path(self._run_dir, step)
        try:
            self._write(path, run)
            self._saved = Saved(path, stall, time.perf_counter() - start)
            self._delete_superseded()
        except BaseException as failure:  # raised again by `settle`
            self._failure = failure

    def _write(self, path: Path, run: dict[str, Any]) -> None:
        partial = unfinished_directory(path)
        try:
            self._together(lambda: self._begin(path))
            written = self._together(lambda: self._write_own_files(partial))
            entries = {name: entry for files in written for name, entry in files.items()}
            self._together(lambda: self._publish(path, run, entries))
        except Exception:
            if dist.get_rank() == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _together(self, work: Callable[[], T]) -> list[T]:
        """Results of `work` on all ranks; where it fails on one, that error on all of them."""
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except OSError as error:
            failure = OSError(error.errno, error.strerror or str(error), error.filename)
        except Exception as error:
            failure = RuntimeError(f"{type(error).__name__}: {error}")
        reports: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(reports, (result, failure), group=self._group)
        for _, reported in reports:
            if reported is not None:
                raise reported
        return [result for result, _ in reports]

    def _require_room(self) -> None:
        folder = checkpoints_folder(self._run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        needed = sum(file.num_bytes for file in self._files)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"a checkpoint needs {needed / 2**30:.2f} GiB, the disk has {free / 2**30:.2f} GiB "
                "free; free space or lower checkpoint.keep_last",
                str(folder),
            )

    def _begin(self, path: Path) -> None:
        if dist.get_rank() == 0:
            remove_unfinished_directories(path.parent)  # of killed jobs: only one save is in flight
            partial = begin_directory(path)
            for kind in KINDS:
                (partial / index_path(kind)).parent.mkdir(exist_ok=True)

    def _write_own_files(self, partial: Path) -> dict[str, Any]:
        """Send what others write, and write this rank's files; by name, size and checksum."""
        sent = self._exchange.start_sending()
        entries: dict[str, Any] = {}
        failure: OSError | None = None
        for file in self._exchange.own_files():
            try:
                entries[file.path] = self._write_file(partial, file)
            except OSError as error:
                failure = failure or error
        for work in sent:
            work.wait()
        if failure is not None:
            raise failure
        return entries

    def _write_file(self, partial: Path, file: TensorFile) -> dict[str, Any]:
        tensors = (
            (name, self._exchange.receive(name, file.kind, shape))
            for name, shape in file.shapes.items()
        )
        try:
            with SafetensorsWriter(partial / file.path, file.shapes, torch.float32) as writer:
                for name, tensor in tensors:
                    writer.add(name, tensor)
            finish_file(partial / file.path, partial)
        finally:
            for _ in tensors:  # also after a failure: the ranks that send must not wait for ever
                pass
        return writer.entry

    def _publish(self, path: Path, run: dict[str, Any], entries: dict[str, Any]) -> None:
        if dist.get_rank() != 0:
            return
        partial = unfinished_directory(path)
        for kind in KINDS:
            files = [file for file in self._files if file.kind == kind]
            (partial / index_path(kind)).write_bytes(index_of(files, torch.float32))
        self._module.config.architectures = [type(self._module).__name__]
        self._module.config.save_pretrained(partial)
        self._module.generation_config.save_pretrained(partial)
        for file in sorted(self._description.tokenizer_dir.iterdir()):
            if file.is_file() and file.name != "manifest.json":
                shutil.copy2(file, partial / file.name)
        for file in sorted(file for file in partial.rglob("*") if file.is_file()):
            name = str(file.relative_to(partial))
            if name not in entries:
                finish_file(file, partial)
                entries[name] = {"bytes": file.stat().st_size, "xxh3_64": file_checksum(file)}
        run["files"] = dict(sorted(entries.items()))
        (partial / RUN_FILE).write_bytes(encode_run(run))
        finish_file(partial / RUN_FILE, partial)
        publish_directory(partial, path)

    def _delete_superseded(self) -> None:
        # One rank's listing for all: another may not yet see what this one has published.
        found = self._together(lambda: all_checkpoints(self._run_dir))[0]
        damage = functools.partial(agreed_damage, group=self._group)
        deletable = superseded(found, self._config.keep_last, self._config.keep_every, damage)

        def remove() -> None:
            for path in deletable if dist.get_rank() == 0 else []:
                remove_directory(path)

        self._together(remove)


@functools.cache  # reading the packages' metadata takes longer than a small model's copy
def versions() -> dict[str, str]:
    """Of Python and of the packages that a run's numbers depend on."""
    return {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in _PACKAGES}
