"""One job per run folder: rank 0 locks it for all ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

from data_pipeline.files.folder_lock import FolderLock

LOCK_FILE = "run.lock"


@contextlib.contextmanager
def hold_run_folder(run_dir: Path) -> Iterator[FolderLock | None]:
    """Rank 0 keeps other jobs out of the run folder; ValueError, on every rank, where one is in it.

    Yields the lock on rank 0, None on the others. All ranks leave together, except after an error.
    """
    with contextlib.ExitStack() as stack:
        lock: FolderLock | None = None
        failure: list[Exception | None] = [None]
        if dist.get_rank() == 0:
            try:
                advice = "give this job another run folder (run_dir)"
                lock = stack.enter_context(FolderLock(run_dir / LOCK_FILE, advice))
            except (ValueError, OSError) as error:
                failure = [error]
        dist.broadcast_object_list(failure, src=0)
        if failure[0] is not None:
            raise failure[0]
        yield lock
    # Launchers end all ranks as soon as one has ended, and rank 0 has the most to close.
    dist.barrier()
