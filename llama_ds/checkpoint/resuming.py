"""Resuming: the newest complete checkpoint into an engine of any layout, ZeRO stage and dtype.

Nothing is converted. Each rank reads from the files the ranges that it holds, with at most a part
of a row more, and never a whole tensor that it has a part of.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from data_pipeline.files.atomic import (
    clean_up_replaced_directories,
    remove_unfinished_directories,
)
from llama_ds.checkpoint.engine_state import EngineState
from llama_ds.checkpoint.kinds import KINDS
from llama_ds.checkpoint.random_state import restore_random_state
from llama_ds.checkpoint.tensor_files import TensorReader
from llama_ds.checkpoint.verification import (
    checkpoints_folder,
    damage_of,
    newest_complete,
    read_run,
)
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.tensor import Sharding
from llama_ds.resume_contract import Change, changes, check_skipped_data


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on."""

    step: int = 0
    rows: int = 0
    """Rows passed until then, trained on or skipped, of the sequence length of its job."""
    tokens: int = 0
    """Tokens trained on until then."""
    num_updates: int = 0
    """Steps until then that were not skipped."""
    saved: dict[str, Any] | None = None
    """The identity in the checkpoint; None at the start of a run."""
    changes: tuple[Change, ...] = ()


def resume(
    engine: Any,
    run_dir: Path,
    identity: dict[str, Any],
    groups: ParallelGroups,
    sharding: Sharding,
) -> Resumed:
    """Load the newest complete checkpoint into `engine`; step 0 where there is none.

    Every rank must call it. A damaged checkpoint is passed over with a warning. ValueError where
    none is complete, or where `identity` differs in what may not change (`resume_contract`).
    """
    if dist.get_rank() == 0 and checkpoints_folder(run_dir).is_dir():
        # Left by killed jobs; of one run there is one job at a time.
        remove_unfinished_directories(checkpoints_folder(run_dir))
        clean_up_replaced_directories(checkpoints_folder(run_dir))
    dist.barrier()
    path = newest_complete(run_dir, functools.partial(agreed_damage, group=None), _warn)
    if path is None:
        return Resumed()
    run = read_run(path)
    saved = run["identity"]
    found = changes(str(path), saved, identity)
    check_skipped_data(str(path), run["step"], saved, identity)
    load(engine, path, run, groups, sharding)
    tokens = run.get("tokens")
    if tokens is None:  # of a program that skipped no data
        tokens = run["rows"] * saved["train.sequence_length"]
    return Resumed(run["step"], run["rows"], tokens, run["num_updates"], saved, tuple(found))


def agreed_damage(path: Path, group: dist.ProcessGroup | None) -> str | None:
    """`damage_of`, with its reading shared out over the ranks: the same answer on all of them."""
    reports: list[str | None] = [None] * dist.get_world_size()
    own = damage_of(path, dist.get_rank(), dist.get_world_size())
    dist.all_gather_object(reports, own, group=group)
    return next((report for report in reports if report is not None), None)


def load(
    engine: Any, path: Path, run: dict[str, Any], groups: ParallelGroups, sharding: Sharding
) -> None:
    """Fill `engine` from a complete checkpoint at `path`, whose `run.json` is `run`. Collective.

    ValueError where a name or a shape of the model is not that of the files.
    """
    state = EngineState(engine, sharding)
    state.make_moments()
    for kind in KINDS:
        reader = TensorReader(path, kind)
        if reader.names != {part.name for part in state.parts}:
            raise ValueError(f"{path}: the names of its tensors are not those of the model's")
        for part in state.parts:
            shape = reader.shape(part.name)
            if shape != part.shape:
                raise ValueError(
                    f"{path}: {part.name} has the shape {shape}, the model's has {part.shape}"
                )
            if part.length:
                index = sharding.local_slice(part.name, shape, groups.tp_rank)
                values = reader.flat_range(part.name, index, part.start, part.length)
                with torch.no_grad():
                    state.view(part, kind).copy_(values)
    state.finish_loading(run["step"], run["num_updates"])
    restore_random_state(run["random_state"])


def _warn(message: str) -> None:
    if dist.get_rank() == 0:
        warnings.warn(message, stacklevel=3)
