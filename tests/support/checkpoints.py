"""Checkpoint fixtures without a training run: a small engine to save, and corrupted files."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import AdamW
from transformers import LlamaConfig

from llama_ds.checkpoint.saving import CheckpointSaver, RunDescription
from llama_ds.config import CheckpointConfig
from llama_ds.model import LlamaForCausalLM
from llama_ds.parallel.tensor import Sharding
from tests.support.pool_groups import pool_groups

RANKS = 2
CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    dtype="float32",
)


class SmallEngine:
    """What checkpoints use of DeepSpeed's engine at stage 0, whole on every rank."""

    def __init__(self, value: float = 1.0) -> None:
        self.module = LlamaForCausalLM(CONFIG)
        self.optimizer = self.basic_optimizer = AdamW(self.module.parameters(), lr=0.1)
        self.fill(value)

    def fill(self, value: float) -> None:
        """Give every weight this value, as if training went on."""
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.fill_(value)

    def zero_optimization_stage(self) -> int:
        return 0

    def train_batch_size(self) -> int:
        return 8


def tokenizer_folder(folder: Path) -> Path:
    """Files that a tokenizer folder has, with made-up content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer.model", "manifest.json"):
        (folder / name).write_text(json.dumps({"file": name}))
    return folder


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "truncated": lambda data: data[:-1],
    "emptied": lambda _: b"",
    "deleted": lambda _: None,
    "appended": lambda data: data + b"\n",
}
"""Name -> what becomes of a file's bytes; None: the file is gone."""


def damaged_versions(checkpoint: Path) -> Iterator[tuple[str, list[str]]]:
    """Damage each file of a checkpoint in each way, and mend it when the caller goes on.

    Yields the kind of damage and the files that it is in: one, or two that are exchanged.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    names = {file: str(file.relative_to(checkpoint)) for file in files}
    for file in files:
        content = file.read_bytes()
        for kind, damage in DAMAGES.items():
            changed = damage(content)
            if changed is None:
                file.unlink()
            else:
                file.write_bytes(changed)
            yield kind, [names[file]]
            file.write_bytes(content)
    for one, other in zip(files, files[1:] + files[:1], strict=True):
        contents = one.read_bytes(), other.read_bytes()
        if contents[0] != contents[1]:
            one.write_bytes(contents[1])
            other.write_bytes(contents[0])
            yield "exchanged", [names[one], names[other]]
            one.write_bytes(contents[0])
            other.write_bytes(contents[1])


def description(tokenizer_dir: Path, **identity: Any) -> RunDescription:
    return RunDescription(
        identity, {"zero.stage": 0}, lambda step: 8 * step, lambda step: 64 * step, tokenizer_dir
    )


def saver_of(engine: SmallEngine, run_dir: Path, keep_last: int = 1) -> CheckpointSaver:
    return CheckpointSaver(
        engine,
        run_dir,
        CheckpointConfig(keep_last=keep_last),
        description(tokenizer_folder(run_dir.parent / "tokenizer"), run="test"),
        pool_groups(),
        Sharding(1, 2),
        shard_bytes=5_000,
    )


def save_as_rank(rank: int, run_dir: Path, step: int, killed: tuple[int, int] | None) -> None:
    """Save a checkpoint; the rank `killed[0]` is killed before its `killed[1]`-th change to the
    disk, or says in a file how many there were."""
    store = f"file://{run_dir.parent}/meeting-{run_dir.name}-{step}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    saver = saver_of(SmallEngine(float(step)), run_dir)
    if killed is not None and killed[0] == rank:
        left = killed[1]

        def watch(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if name == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                return
            if name in CHANGES:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
    saver.save(step)
    saver.settle()
    if killed is not None and killed[0] == rank:
        (run_dir.parent / "changes").write_text(str(killed[1] - left))
    os._exit(0)  # no process group is missed, and no time lost
