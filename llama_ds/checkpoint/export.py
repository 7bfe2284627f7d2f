"""A checkpoint's weights in a dtype of choice, as a folder for stock transformers.

A checkpoint is such a folder already, with fp32 weights; exporting casts and copies, or takes the
mean over several checkpoints. One tensor at a time is in memory.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from data_pipeline.files.atomic import atomic_directory
from llama_ds.checkpoint.kinds import WEIGHT, index_path
from llama_ds.checkpoint.model_card import CARD, model_card, public
from llama_ds.checkpoint.model_files import complete_config, complete_tokenizer_config
from llama_ds.checkpoint.tensor_files import SafetensorsWriter
from llama_ds.checkpoint.verification import (
    all_checkpoints,
    checkpoint_path,
    damage_of,
    newest_complete,
    read_run,
    step_of,
)

EXPORT_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def export(run_dir: Path, out_dir: Path, step: int | None = None, dtype: str | None = None) -> Path:
    """Write a run's newest complete checkpoint (or that of `step`) as a Hugging Face model folder.

    The weights are the optimizer's fp32 copies, stored in `dtype` ("bf16" or "fp32"; the run's by
    default), with the run's tokenizer, a model card and `training.json`, the run's identity.
    `out_dir` must not exist; it appears when it is complete. Returns the checkpoint that it was
    made from. ValueError where that is damaged.
    """
    with atomic_directory(out_dir, replace=False) as partial:
        source = newest(run_dir, step)
        _write_model([source], run_dir, partial, dtype)
    return source


def average(
    run_dir: Path, out_dir: Path, steps: Sequence[int], dtype: str | None = None
) -> list[Path]:
    """As `export`, with the mean of the weights of the checkpoints of `steps`, in float64.

    Configuration and tokenizer are those of the last of `steps`. Returns the checkpoints.
    """
    if len(set(steps)) < 2:
        raise ValueError(f"a mean takes two checkpoints or more, not those of steps {list(steps)}")
    with atomic_directory(out_dir, replace=False) as partial:
        sources = [newest(run_dir, step) for step in sorted(set(steps))]
        _write_model(sources, run_dir, partial, dtype)
    return sources


def last_complete(run_dir: Path, count: int) -> list[int]:
    """Steps of the newest `count` complete checkpoints; ValueError where there are fewer."""
    found: list[int] = []
    for path in all_checkpoints(run_dir):
        if len(found) < count and damage_of(path) is None:
            found.append(step_of(path))
    if len(found) < count:
        raise ValueError(f"{run_dir} has {len(found)} complete checkpoints, not {count}")
    return found


def _write_model(sources: Sequence[Path], run_dir: Path, target: Path, dtype: str | None) -> None:
    last = sources[-1]
    config = json.loads((last / "config.json").read_text(encoding="utf-8"))
    stored = config["dtype"] if dtype is None else str(EXPORT_DTYPES[dtype])
    config["dtype"] = stored.removeprefix("torch.")
    num_parameters = _cast_weights(sources, target, getattr(torch, config["dtype"]))
    run = read_run(last)
    for name in run["files"]:
        if "/" not in name and ".safetensors" not in name:
            shutil.copy2(last / name, target / name)
    _write_json(target / "config.json", complete_config(config))
    tokenizer = target / "tokenizer_config.json"
    if tokenizer.is_file():
        settings = json.loads(tokenizer.read_text(encoding="utf-8"))
        length = config["max_position_embeddings"]
        _write_json(tokenizer, complete_tokenizer_config(settings, length))
    (target / CARD).write_text(model_card(run_dir, run, num_parameters), encoding="utf-8")
    kept = {name: run.get(name) for name in ("step", "num_updates", "rows", "versions")}
    means = {"mean_of_steps": [step_of(path) for path in sources]} if len(sources) > 1 else {}
    _write_json(target / "training.json", {**kept, **means, "identity": public(run["identity"])})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def newest(run_dir: Path, step: int | None = None) -> Path:
    """The newest complete checkpoint of a run, or that of `step`.

    ValueError where there is none. Damaged ones that are passed over are named on stderr.
    """
    if step is None:
        found = newest_complete(run_dir, damage_of, functools.partial(print, file=sys.stderr))
        if found is not None:
            return found
    else:
        path = checkpoint_path(run_dir, step)
        damage = damage_of(path) if path.is_dir() else "missing"
        if damage is None:
            return path
        raise ValueError(f"{run_dir} has no complete checkpoint of step {step} ({damage})")
    raise ValueError(f"{run_dir} has no checkpoint; train first, or pass another run_dir")


def _cast_weights(sources: Sequence[Path], target: Path, dtype: torch.dtype) -> int:
    """The number of parameters."""
    last = sources[-1]
    index = json.loads((last / index_path(WEIGHT)).read_text(encoding="utf-8"))
    total = 0
    for file_name in sorted(set(index["weight_map"].values())):
        with safe_open(last / file_name, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        with SafetensorsWriter(target / file_name, shapes, dtype) as writer:
            for name in shapes:
                tensor = _mean([source / file_name for source in sources], name).to(dtype)
                writer.add(name, tensor)
                total += tensor.nbytes
    index["metadata"]["total_size"] = total
    (target / index_path(WEIGHT)).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return total // dtype.itemsize


def _mean(files: Sequence[Path], name: str) -> torch.Tensor:
    """Of a tensor over files, which are opened for each: what was read of one counts as memory
    while it is open."""
    total: torch.Tensor | None = None
    for path in files:
        with safe_open(path, "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        if len(files) == 1:
            return tensor
        total = tensor.double() if total is None else total.add_(tensor)
    assert total is not None, "there are files"
    return total.div_(len(files))
