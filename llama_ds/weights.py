"""Initialization, loading and saving of sharded weights, as stock Hugging Face checkpoints.

Memory holds at most one full parameter: loading reads only this rank's shards from the files, and
saving gathers one parameter at a time. Parameters that ZeRO-3 has sharded are all-gathered one by
one while they are written or read.

All functions are collective: every rank must call them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from data_pipeline.files.atomic import (
    begin_directory,
    finish_file,
    publish_directory,
    unfinished_directory,
    write_atomic,
)
from llama_ds.parallel.collectives import all_gather_no_grad
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.tensor import TensorParallel

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@contextlib.contextmanager
def _whole(parameters: list[nn.Parameter], *, modified: bool) -> Iterator[None]:
    """While open, parameters sharded by ZeRO-3 are all-gathered; `modified`: re-shard changes.

    The changes are those of the first replica, which is the only one that needs to read files.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed  # installed: it has sharded the parameters

    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if modified else None):
        yield


def initialize(model: Any, groups: ParallelGroups) -> None:
    """Initialize all parameters (`LlamaPreTrainedModel._init_weights`)."""
    for module in model.modules():
        parameters = list(module.parameters(recurse=False))
        if not parameters:
            continue
        with _whole(parameters, modified=True), torch.no_grad():
            if _is_source(parameters, groups):
                model._init_weights(module)


def _is_source(parameters: list[nn.Parameter], groups: ParallelGroups) -> bool:
    is_partitioned = any(hasattr(parameter, "ds_id") for parameter in parameters)
    return not is_partitioned or groups.replica_rank == 0


# -- loading --------------------------------------------------------------------------------------


def load(model: nn.Module, folder: Path, tp: TensorParallel, groups: ParallelGroups) -> None:
    """Load the safetensors of a stock Hugging Face folder into `model`, each rank its shards.

    ValueError where names or shapes of the model and the files differ.
    """
    files = _files_by_name(folder)
    parameters = dict(model.named_parameters())
    _require_same_names(set(parameters), set(files), folder, _tied_names(model))
    for name, parameter in parameters.items():
        # Opened for each parameter: pages that were read count as memory while a file is open.
        with safe_open(folder / files[name], "pt") as file:
            entry = file.get_slice(name)
            index = tp.sharding.local_slice(name, tuple(entry.get_shape()), tp.rank)
            _require_same_shape(name, parameter, index, folder)
            with _whole([parameter], modified=True), torch.no_grad():
                if _is_source([parameter], groups):
                    parameter.copy_(entry[index])


def _files_by_name(folder: Path) -> dict[str, str]:
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return dict(index["weight_map"])
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; pass a folder that transformers' "
            "save_pretrained has written"
        )
    with safe_open(folder / WEIGHTS, "pt") as file:
        return dict.fromkeys(file.keys(), WEIGHTS)


def _tied_names(model: nn.Module) -> set[str]:
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return names - {name for name, _ in model.named_parameters()}


def _require_same_names(model: set[str], files: set[str], folder: Path, tied: set[str]) -> None:
    # Old checkpoints contain the rotary frequencies, which follow from the configuration.
    extra = {name for name in files - model - tied if not name.endswith("rotary_emb.inv_freq")}
    missing = model - files
    for names, what in ((missing, "missing"), (extra, "unexpected")):
        if names:
            raise ValueError(
                f"config.json does not match the checkpoint {folder}: {len(names)} {what} keys, "
                f"first {min(names)}; use the config.json that was saved with the weights"
            )


def _require_same_shape(
    name: str, parameter: nn.Parameter, index: tuple[slice, ...], folder: Path
) -> None:
    expected = tuple(getattr(parameter, "ds_shape", parameter.shape))
    found = tuple(part.stop - part.start for part in index)
    if found != expected:
        raise ValueError(
            f"config.json does not match the checkpoint {folder}: shard of {name} has shape "
            f"{found}, the model expects {expected}; use the config.json that was saved with the "
            "weights"
        )


# -- saving ---------------------------------------------------------------------------------------


def _save(
    model: nn.Module,
    folder: Path,
    tp: TensorParallel,
    groups: ParallelGroups,
    max_shard_size: int,
) -> None:
    """Write the weights as stock safetensors in `folder`, which must exist on rank 0.

    Rank 0 holds at most one file of `max_shard_size` bytes (or one parameter) at a time.
    """
    sizes = {name: _full_bytes(name, p, tp) for name, p in model.named_parameters()}
    writer = _ShardWriter(folder, sizes, max_shard_size) if dist.get_rank() == 0 else None
    for name, parameter in model.named_parameters():
        with _whole([parameter], modified=False):
            if groups.replica_rank == 0:
                full = _full(name, parameter.detach(), tp)
                if writer is not None:
                    writer.add(name, full.cpu())
    if writer is not None:
        writer.finish()


def _full_bytes(name: str, local: nn.Parameter, tp: TensorParallel) -> int:
    """Bytes of the whole parameter."""
    numel = int(getattr(local, "ds_numel", local.numel()))
    return numel * local.element_size() * (tp.size // tp.sharding.replicas(name))


def _full(name: str, local: Tensor, tp: TensorParallel) -> Tensor:
    """The full parameter, all-gathered over the tp group."""
    if tp.sharding.dim(name) is None:
        return local.clone()
    parts = all_gather_no_grad(local.unsqueeze(0), 0, tp.group)
    return tp.sharding.unshard(name, list(parts.unbind(0)))


class _ShardWriter:
    """Writes tensors into files of limited size, in the order of `sizes` (bytes of each)."""

    def __init__(self, folder: Path, sizes: Mapping[str, int], max_bytes: int) -> None:
        self._folder = folder
        self._total_bytes = sum(sizes.values())
        self._files: list[list[str]] = [[]]
        filled = 0
        for name, size in sizes.items():
            if self._files[-1] and filled + size > max_bytes:
                self._files.append([])
                filled = 0
            self._files[-1].append(name)
            filled += size
        self._num_written = 0
        self._tensors: dict[str, Tensor] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        self._tensors[name] = tensor.contiguous()
        if list(self._tensors) == self._files[self._num_written]:
            path = self._folder / self._name(self._num_written)
            save_file(self._tensors, path, metadata={"format": "pt"})
            self._num_written += 1
            self._tensors = {}

    def finish(self) -> None:
        assert self._num_written == len(self._files), "not every tensor was added"
        if len(self._files) == 1:
            return
        weight_map = {
            name: self._name(number) for number, names in enumerate(self._files) for name in names
        }
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
        write_atomic(self._folder / INDEX, json.dumps(index, indent=1).encode("utf-8"))

    def _name(self, number: int) -> str:
        count = len(self._files)
        return WEIGHTS if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def save_pretrained(
    model: Any,
    folder: Path,
    tp: TensorParallel,
    groups: ParallelGroups,
    *,
    max_shard_size: int = 5 * 10**9,
) -> None:
    """Write the full model as a stock Hugging Face folder, which appears when it is complete.

    ValueError where `folder` exists.
    """
    exists: list[bool] = [folder.exists()]
    dist.broadcast_object_list(exists, src=0)
    if exists[0]:
        raise ValueError(f"{folder} exists already; name a new folder, or remove it")
    unfinished = unfinished_directory(folder)
    try:
        if dist.get_rank() == 0:
            begin_directory(folder)
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(unfinished)
            if model.can_generate():
                model.generation_config.save_pretrained(unfinished)
        _save(model, unfinished, tp, groups, max_shard_size)
        if dist.get_rank() == 0:
            for file in unfinished.iterdir():
                finish_file(file, unfinished)
            publish_directory(unfinished, folder)
    except BaseException:
        if dist.get_rank() == 0:  # the only one that writes
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    dist.barrier()
