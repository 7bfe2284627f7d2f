"""Verification of a token store's checksums while a run trains on it.

Opening a store checks file sizes only, and training reads random windows, so silent corruption of a
few bytes would go into the weights unnoticed. Here the files' checksums are compared with the
manifest: a sample before the first step, all others in a background thread. One process per node
reads; nodes that see the same copy of the store share its files, so that a shared file system is
read once.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
import torch.distributed as dist

from data_pipeline.tokens.store import ShardFile, TokenStore
from llama_ds.config import StoreVerificationMode

SAMPLE_BYTES = 1 << 30
"""Read per process before the first step, at most or one file: seconds on a local disk."""
BYTES_PER_SECOND = 200 << 20
"""Read rate limit of the background thread, per process."""


class StoreVerification:
    """Verification of a run's store against its manifest; collective, every rank creates one.

    As a context manager it reads in the background while open. ValueError, on every rank, where a
    file of the sample is corrupt.
    """

    def __init__(
        self,
        store: TokenStore,
        mode: StoreVerificationMode,
        *,
        machine: str,
        device: torch.device,
        bytes_per_second: float = BYTES_PER_SECOND,
    ) -> None:
        """`machine`: name of this rank's node; one rank of each node reads. `device`: of the
        collectives' tensors."""
        self._store = store
        self._mode = mode
        self._device = device
        self._bytes_per_second = bytes_per_second
        self._num_checked = self.num_checked = self.num_files = 0
        self._stopping = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._result: Future[str] | None = None
        self._rest: Sequence[ShardFile] = ()
        if mode != "off":
            files = _own_files(store, machine)
            self.num_files = int(self._sums([len(files)])[0])
            sample = _beginning(files, SAMPLE_BYTES)
            self._rest = files[len(sample) :]
            damage = self._first_damage(sample)
            self._raise_together((store.damage_of_tokenizer() if files else "") or damage)
            self.agree()

    def agree(self) -> None:
        """Raise ValueError on every rank if any has found a corrupt file; every rank must call it.

        `num_checked` is then the number of files, of `num_files`, that all ranks have checked.
        """
        if self._mode == "off":
            return
        damage = ""
        if self._result is not None and self._result.done():
            damage = self._result.result()
        num_damaged, self.num_checked = self._sums([bool(damage), self._num_checked])
        if num_damaged:
            self._raise_together(damage)

    def __enter__(self) -> StoreVerification:
        if self._mode == "full" and self._rest:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="store-verification")
            self._result = self._pool.submit(self._read_rest)
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the thread between two blocks."""
        self._stopping.set()
        if self._pool is not None:
            self._pool.shutdown()

    def _read_rest(self) -> str:
        if sys.platform == "linux":  # elsewhere it would set the priority of the process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        due = time.monotonic()

        def wait(num_bytes: int) -> None:
            nonlocal due
            due = max(due, time.monotonic() - 1.0) + num_bytes / self._bytes_per_second
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                raise _StoppedError

        try:
            return self._first_damage(self._rest, wait)
        except _StoppedError:
            return ""

    def _first_damage(
        self, files: Sequence[ShardFile], after_block: Callable[[int], None] | None = None
    ) -> str:
        for file in files:
            if damage := self._store.damage(file, after_block):
                return damage
            self._num_checked += 1
        return ""

    def _raise_together(self, damage: str) -> None:
        found = [""] * dist.get_world_size()
        dist.all_gather_object(found, damage)
        if any(found):
            raise ValueError(f"data.store: {next(filter(None, found))}")

    def _sums(self, values: Sequence[int]) -> list[int]:
        total = torch.tensor(values, dtype=torch.int64, device=self._device)
        dist.all_reduce(total)
        return [int(value) for value in total.tolist()]


class _StoppedError(Exception):
    """The run has ended while a file was being read."""


def _own_files(store: TokenStore, machine: str) -> list[ShardFile]:
    """This rank's share of the store's token files, in a deterministic, shuffled order."""
    # Nodes that see the same copy of the store see the same inode and ctime; copies differ in them.
    info = (store.path / "manifest.json").stat()
    copy = (info.st_ino, info.st_ctime_ns)
    seen = [(machine, copy)] * dist.get_world_size()
    dist.all_gather_object(seen, (machine, copy))
    readers = [rank for rank, what in enumerate(seen) if seen.index(what) == rank]
    sharing = [rank for rank in readers if seen[rank][1] == copy]
    if dist.get_rank() not in sharing:
        return []
    key = store.manifest.fingerprint
    files = sorted(store.shards, key=lambda f: hashlib.blake2b(f"{key} {f.path}".encode()).digest())
    return files[sharing.index(dist.get_rank()) :: len(sharing)]


def _beginning(files: Sequence[ShardFile], max_bytes: int) -> Sequence[ShardFile]:
    """The first files, up to `max_bytes` in total, but at least one if there are any."""
    count = used = 0
    for file in files:
        used += file.bytes
        if count and used > max_bytes:
            break
        count += 1
    return files[:count]
