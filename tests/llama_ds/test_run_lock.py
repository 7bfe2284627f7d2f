"""One job per run folder: rank 0 locks it for all ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.files.folder_lock import FolderLock
from llama_ds.run_lock import LOCK_FILE, hold_run_folder


def hold(run_dir: Path) -> str:
    try:
        with hold_run_folder(run_dir) as lock:
            return "held" if lock is not None else "held by rank 0"
    except ValueError as error:
        return str(error)


@pytest.mark.dist
def test_rank_0_holds_the_folder_for_all_and_all_hear_of_a_refusal(
    gloo: Callable[..., list[Any]], tmp_path: Path
) -> None:
    assert gloo(2, hold, tmp_path) == ["held", "held by rank 0"]
    with FolderLock(tmp_path / LOCK_FILE, "use another"):
        refused = gloo(2, hold, tmp_path)
    assert refused[0] == refused[1]
    assert "is in use by another job" in refused[0]
