"""Checkpoints: crash-safe save, resume, and export to Hugging Face.

A checkpoint is one folder, `RUN/checkpoints/step_00000100/`:

    manifest.json             step, identity of the run, every file with its size and checksum
    state/                    DeepSpeed's own files: weights, optimizer and scheduler states
    random_state_00000.pt     one per rank

It is written under a hidden name, flushed to disk, and renamed when every rank is done, so a
checkpoint that has its final name is whole: a job killed in the middle of a save leaves only a
hidden folder, which the next save or resume removes. DeepSpeed's `latest` file is not used, since
it is rewritten in place. All ranks must see the same file system.

    python -m llama_ds.checkpoint export RUN_DIR OUT_DIR [--step N] [--dtype bf16|fp32]
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError

from data_pipeline.files.atomic import (
    atomic_directory,
    begin_directory,
    check_absent,
    clean_up_replaced_directories,
    finish_file,
    publish_directory,
    remove_unfinished_directories,
    unfinished_directory,
    write_atomic,
)
from data_pipeline.files.checksum import file_checksum
from llama_ds import config as recipe_config
from llama_ds.config import Recipe
from llama_ds.parallel.tensor import Sharding

CHECKPOINT_VERSION = 1
STATE = "state"
MANIFEST = "manifest.json"


def save(engine: Any, run_dir: Path, step: int, identity: dict[str, Any], keep_last: int) -> Path:
    """Publish a checkpoint after `step` steps; every rank must call it.

    `identity` identifies the run: `resume` raises for a checkpoint with another one.
    Raises OSError (ENOSPC) where the disk cannot hold it; the previous checkpoint stays.
    """
    root = run_dir / "checkpoints"
    final = root / f"step_{step:08d}"
    unfinished = unfinished_directory(final)
    require_room(engine, run_dir)
    if dist.get_rank() == 0:
        _remove_leftovers(root)
        begin_directory(final)
    dist.barrier()
    with _nothing_left_on_failure(unfinished):
        with _disk_full_is_an_os_error(root):
            engine.save_checkpoint(str(unfinished), tag=STATE, save_latest=False)
            torch.save(_random_state(), unfinished / _random_state_name())
        dist.barrier()
        files = _flush_and_checksum(unfinished)
    if dist.get_rank() == 0:
        manifest = {
            "version": CHECKPOINT_VERSION,
            "step": step,
            "world_size": dist.get_world_size(),
            "identity": identity,
            "files": files,
        }
        with _nothing_left_on_failure(unfinished):
            write_atomic(unfinished / MANIFEST, json.dumps(manifest, indent=1).encode("utf-8"))
            publish_directory(unfinished, final)
        _remove_old(root, keep_last)
    dist.barrier()
    return final


def require_room(engine: Any, run_dir: Path) -> None:
    """OSError (ENOSPC) where the run folder's disk cannot hold another checkpoint."""
    root = run_dir / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    _require_free_space(root, _state_bytes(engine))


def resume(engine: Any, run_dir: Path, identity: dict[str, Any]) -> int:
    """Load the newest whole checkpoint into `engine`; returns its step, 0 where there is none.

    Every rank must call it. A damaged checkpoint is passed over with a warning. ValueError where
    the checkpoint belongs to another run than `identity` describes.
    """
    root = run_dir / "checkpoints"
    if dist.get_rank() == 0:
        _remove_leftovers(root)
    dist.barrier()
    for path in _candidates(root):
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        damage = _agreed_damage(path, manifest)
        if damage:
            if dist.get_rank() == 0:
                warnings.warn(
                    f"checkpoint {path} is damaged ({damage}); trying an older one", stacklevel=2
                )
            continue
        _require_same_run(path, manifest, identity)
        engine.load_checkpoint(str(path), tag=STATE)
        _restore_random_state(path / _random_state_name())
        return int(manifest["step"])
    return 0


def newest(run_dir: Path, step: int | None = None) -> Path:
    """The newest published checkpoint of a run (or that of `step`) whose files have their sizes."""
    candidates = _candidates(run_dir / "checkpoints")
    if step is not None:
        candidates = [path for path in candidates if path.name == f"step_{step:08d}"]
    for path in candidates:
        if not _wrong_sizes(path, json.loads((path / MANIFEST).read_text(encoding="utf-8"))):
            return path
    wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
    raise ValueError(f"{run_dir} has no complete {wanted}; train first, or pass another run_dir")


# -- manifests ------------------------------------------------------------------------------------


def _require_same_run(path: Path, manifest: dict[str, Any], identity: dict[str, Any]) -> None:
    if manifest["version"] != CHECKPOINT_VERSION:
        raise ValueError(
            f"checkpoint {path} has format version {manifest['version']}, but this program reads "
            f"version {CHECKPOINT_VERSION}; resume with the program that wrote it, or use a new "
            "run_dir"
        )
    saved = {**manifest["identity"], "world_size": manifest["world_size"]}
    current = {**identity, "world_size": dist.get_world_size()}
    for key in sorted(saved.keys() | current.keys()):
        if saved.get(key) != current.get(key):
            raise ValueError(
                f"checkpoint {path} has {key} = {saved.get(key)}, but this run has "
                f"{current.get(key)}; set {key} back to {saved.get(key)}, or use a new run_dir"
            )


def _candidates(root: Path) -> list[Path]:
    """Published checkpoints, newest first."""
    if not root.is_dir():
        return []
    found = [path for path in root.glob("step_*") if (path / MANIFEST).is_file()]
    return sorted(found, key=lambda path: path.name, reverse=True)


def _wrong_sizes(path: Path, manifest: dict[str, Any]) -> str:
    for name, entry in manifest["files"].items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            found = "missing" if size is None else f"{size} bytes"
            return f"{name}: {found}, expected {entry['bytes']} bytes"
    return ""


def _agreed_damage(path: Path, manifest: dict[str, Any]) -> str:
    """What is wrong with the files, the same answer on every rank; each rank reads its share."""
    damage = _wrong_sizes(path, manifest)
    if not damage:
        for name in sorted(manifest["files"])[dist.get_rank() :: dist.get_world_size()]:
            if file_checksum(path / name) != manifest["files"][name]["xxh3_64"]:
                damage = f"{name}: the checksum differs"
                break
    reports: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(reports, damage)
    return next((report for report in reports if report), "")


# -- publication ----------------------------------------------------------------------------------


def _flush_and_checksum(folder: Path) -> dict[str, Any]:
    """Finish every file and return size and checksum by name; the ranks share the work."""
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    mine = {}
    for name in names[dist.get_rank() :: dist.get_world_size()]:
        finish_file(folder / name, folder)
        mine[name] = {
            "bytes": (folder / name).stat().st_size,
            "xxh3_64": file_checksum(folder / name),
        }
    shares: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, mine)
    return {name: entry for share in shares for name, entry in sorted(share.items())}


def _remove_old(root: Path, keep_last: int) -> None:
    if keep_last:
        for path in _candidates(root)[keep_last:]:
            # Without its manifest a folder is no checkpoint, so a removal cut short does no harm.
            (path / MANIFEST).unlink()
            shutil.rmtree(path)


def _remove_leftovers(root: Path) -> None:
    """What a job left that was killed while it saved, or removed an old checkpoint."""
    remove_unfinished_directories(root)
    clean_up_replaced_directories(root)
    for path in root.glob("step_*"):
        if not (path / MANIFEST).exists():
            shutil.rmtree(path)


@contextlib.contextmanager
def _nothing_left_on_failure(unfinished: Path) -> Iterator[None]:
    """Whichever rank fails removes the whole folder: the job ends, and its disk may be full."""
    try:
        yield
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


# -- disk space -----------------------------------------------------------------------------------


def _state_bytes(engine: Any) -> int:
    """Size of a checkpoint: weights, and for mixed precision fp32 copies, plus two Adam moments."""
    own = sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters())
    elements = own * engine.mp_world_size  # every tp rank writes its part
    weight_bytes = next(engine.module.parameters()).element_size()
    master_bytes = 4 if engine.zero_optimization() or weight_bytes == 2 else 0
    return int(elements * (weight_bytes + master_bytes + 8))


def _require_free_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"a checkpoint needs {needed / 2**30:.2f} GiB, the disk has {free / 2**30:.2f} GiB "
            "free; free space or lower checkpoint.keep_last",
            str(root),
        )


@contextlib.contextmanager
def _disk_full_is_an_os_error(path: Path) -> Iterator[None]:
    """torch.save reports a full disk as a RuntimeError about its zip writer, safetensors as an
    error of its own."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(path).free < 1 << 24:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


# -- random state ---------------------------------------------------------------------------------


def _random_state_name() -> str:
    return f"random_state_{dist.get_rank():05d}.pt"


def _random_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (
            kind,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _restore_random_state(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numpy_keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, numpy_keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


# -- export ---------------------------------------------------------------------------------------


def export(run_dir: Path, out_dir: Path, step: int | None = None, dtype: str | None = None) -> Path:
    """Write a run's newest checkpoint (or that of `step`) as a stock Hugging Face model folder.

    It has the optimizer's fp32 master weights, stored in `dtype` ("bf16" or "fp32"; the recipe's by
    default), and the run's tokenizer. `out_dir` must not exist; it appears when it is complete.
    Returns the checkpoint it was made from.
    """
    from transformers import AutoTokenizer

    from llama_ds.model import LlamaForCausalLM, hf_config

    check_absent(out_dir)
    checkpoint = newest(run_dir, step)
    recipe = recipe_config.from_dict(
        json.loads((run_dir / "recipe.json").read_text(encoding="utf-8"))
    )
    torch_dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype or recipe.train.dtype]
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "tokenizer")
    config = hf_config(
        recipe.model,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=torch_dtype,
    )
    weights = {
        name: w.to(torch_dtype) for name, w in _consolidated_weights(checkpoint, recipe).items()
    }
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    with atomic_directory(out_dir, replace=False) as folder:
        with _disk_full_is_an_os_error(folder):
            model.save_pretrained(folder)
        for file in sorted((run_dir / "tokenizer").iterdir()):
            if file.name != "manifest.json":
                shutil.copyfile(file, folder / file.name)
    return checkpoint


def _consolidated_weights(checkpoint: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Full fp32 master weights by name, from any parallel layout and ZeRO stage."""
    tp_size = recipe.parallel.tp
    sharding = Sharding(tp_size, recipe.model.num_key_value_heads)
    ranks = [_weights_of_tp_rank(checkpoint, recipe, tp_rank) for tp_rank in range(tp_size)]
    # Each shard is freed once it is concatenated, so that the weights are not held twice.
    return {
        name: sharding.unshard(name, [weights.pop(name) for weights in ranks])
        for name in list(ranks[0])
    }


def _weights_of_tp_rank(checkpoint: Path, recipe: Recipe, tp_rank: int) -> dict[str, torch.Tensor]:
    state = checkpoint / STATE
    own = f"mp_rank_{tp_rank:02d}_"
    if not list(state.glob("*_optim_states.pt")):  # stage 0: nothing was partitioned
        # DeepSpeed pickles its configuration beside the weights; the file is this program's own.
        file = torch.load(state / f"{own}model_states.pt", map_location="cpu", weights_only=False)
        return dict(file["module"])
    if recipe.zero.stage == 1 and recipe.train.dtype == "bf16":
        return _weights_of_bf16_optimizer(state, own)
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    # It reads a whole folder and refuses more than one tp rank: give it a folder of this rank's
    # files, under the names of the first.
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder) / STATE
        links.mkdir()
        for file in state.glob(f"*{own}*"):
            (links / file.name.replace(own, "mp_rank_00_")).symlink_to(file.resolve())
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            return dict(get_fp32_state_dict_from_zero_checkpoint(folder, tag=STATE))


def _weights_of_bf16_optimizer(state: Path, own: str) -> dict[str, torch.Tensor]:
    """Master weights of the optimizer that DeepSpeed uses for bf16 at stage 1.

    DeepSpeed 0.19's own reader rejects its files because they do not record a stage. Each rank has
    written its shard of one flat tensor per parameter group, which is the concatenation of the
    parameters, with padding at the end.
    """

    def read(path: Path) -> Any:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=False)

    paths = {int(path.name.split("_")[4]): path for path in state.glob(f"bf16_zero_*_{own}*")}
    parts = [read(paths[rank])["optimizer_state_dict"] for rank in sorted(paths)]
    assert sorted(paths) == list(range(max(parts[0]["partition_count"]))), f"{state} lacks a part"
    weights = {}
    for group, shapes in enumerate(read(state / f"{own}model_states.pt")["param_shapes"]):
        flat = torch.cat([part["single_partition_of_fp32_groups"][group] for part in parts])
        sizes = [shape.numel() for shape in shapes.values()]
        pieces = flat[: sum(sizes)].split(sizes)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True):
            weights[name] = piece.view(shape)
    return weights


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m llama_ds.checkpoint", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="write a run's model as a Hugging Face folder")
    command.add_argument("run_dir", type=Path)
    command.add_argument("out_dir", type=Path)
    command.add_argument("--step", type=int, help="checkpoint to take; the newest by default")
    command.add_argument("--dtype", choices=("bf16", "fp32"), help="the recipe's by default")
    options = parser.parse_args(arguments)
    try:
        checkpoint = export(options.run_dir, options.out_dir, options.step, options.dtype)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"{checkpoint} -> {options.out_dir}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
