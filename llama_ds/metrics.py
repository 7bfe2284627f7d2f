"""Metrics of a run, one record per logged step: JSON lines, TensorBoard, console and W&B.

Throughput is of whole steps, data loading and optimizer included, evaluation and checkpoints
excluded. MFU is named by how it counts attention FLOPs: `mfu_noncausal` of the full score matrix
(PaLM's convention, which most publications use), `mfu_causal` of the half that causal models need.
"""

from __future__ import annotations

import io
import json
import math
import os
import resource
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

from data_pipeline.files.atomic import write_atomic
from llama_ds.config import MetricsConfig, Recipe
from llama_ds.json_lines import finite_or_null, keep_records_up_to, to_line, whole_records
from llama_ds.remaining_time import RemainingTime, duration

# Dense bf16 TFLOP/s without sparsity, from NVIDIA's data sheets; first match in the name wins.
PEAK_TFLOPS_BF16 = (
    ("H200", 989.5),
    ("H100 PCIe", 756.5),
    ("H100 NVL", 835.5),
    ("H100", 989.5),
    ("H800", 989.5),
    ("A100", 312.0),
    ("A800", 312.0),
)


def peak_tflops(
    config: MetricsConfig, device: torch.device, dtype: torch.dtype
) -> tuple[float, str]:
    """(peak TFLOP/s of one device, the denominator of MFU; its source)."""
    if config.peak_tflops is not None:
        return config.peak_tflops, "metrics.peak_tflops"
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for key, tflops in PEAK_TFLOPS_BF16:
            if key in name:
                return tflops, f"data sheet of {name}, dense bf16"
    return measured_matmul_tflops(device, dtype), f"measured matmul, {device.type} {dtype}"


def measured_matmul_tflops(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """TFLOP/s of a square matmul that is large enough to be compute-bound."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    torch.matmul(a, b)
    _synchronize(device)
    end, best = time.perf_counter() + seconds, float("inf")
    while (start := time.perf_counter()) < end:
        torch.matmul(a, b)
        _synchronize(device)
        # The fastest: other processes can only slow a matmul down.
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: allocated on the GPU, or without one resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def device_name(device: torch.device) -> str:
    """As NVIDIA's driver says it; "cpu" without a GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Throughput:
    """Tokens/s, tokens/s per device and MFU from seconds per step."""

    def __init__(
        self,
        recipe: Recipe,
        world_size: int,
        peak: float,
        predicted: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        """`predicted`: tokens per step -> seconds, which records have beside the measured ones."""
        self.predicted = predicted
        length = recipe.train.sequence_length
        self.world_size = world_size
        self.peak_flops = peak * 1e12
        self.flops_noncausal = recipe.model.flops_per_token(length, causal=False)
        self.flops_causal = recipe.model.flops_per_token(length, causal=True)

    def of(self, seconds_per_step: float, tokens_per_step: int) -> dict[str, float]:
        tokens_per_second = tokens_per_step / seconds_per_step
        per_device = tokens_per_second / self.world_size
        seconds = self.predicted.get(tokens_per_step)
        predicted = {} if seconds is None else {"predicted_seconds": seconds}
        return {
            "seconds_per_step": seconds_per_step,
            **predicted,
            "tokens_per_second": tokens_per_second,
            "tokens_per_second_per_device": per_device,
            "mfu_noncausal": per_device * self.flops_noncausal / self.peak_flops,
            "mfu_causal": per_device * self.flops_causal / self.peak_flops,
        }


class MetricsLog:
    """Writes the records of one run; only rank 0 has one.

    A resumed run deletes the records after the step it resumes from, so that `metrics.jsonl` has
    one record per step. A number that is not finite is null there, and named in `not_finite`.
    """

    def __init__(
        self, recipe: Recipe, resume_step: int, tokens_after: Callable[[int], int]
    ) -> None:
        """`tokens_after(step)`: tokens trained on by the end of `step` steps."""
        self.path = recipe.run_dir / "metrics.jsonl"
        keep_records_up_to(self.path, resume_step)
        self._file = self.path.open("a", encoding="utf-8")
        self.remaining = RemainingTime(recipe.train.num_steps, tokens_after)
        self._bar = tqdm(
            total=recipe.train.num_steps,
            initial=resume_step,
            unit="step",
            desc=recipe.name,
            dynamic_ncols=True,
            mininterval=0.5,
            disable=None,  # where stderr is not a terminal
        )
        self._tensorboard: Any = None
        if recipe.metrics.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # Steps after the resumed one are hidden from the curve of the earlier job.
            self._tensorboard = SummaryWriter(
                str(recipe.run_dir / "tensorboard"), purge_step=resume_step + 1
            )
        self._wandb = _start_wandb(recipe) if recipe.metrics.wandb else None

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Record `values` of `kind` ("train", "eval", "task") at the end of `step`, from 1 on."""
        record = {"kind": kind, "step": step, **finite_or_null(values)}
        self._file.write(to_line(record))
        self._file.flush()
        numbers = _numbers({name: record[name] for name in values})
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{name}": v for name, v in numbers.items()}, step=step)
        self.say(_console_line(kind, step, values))

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        self._bar.write(line)

    def advance(self, step: int) -> None:
        """`step` has ended."""
        self.remaining.step_ended(step)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(recipe: Recipe) -> Any:
    try:
        import wandb
    except ImportError:
        raise ValueError(
            "metrics.wandb needs the package wandb, which is not installed; install it, or set "
            "metrics.wandb to False"
        ) from None
    return wandb.init(
        project="llama-ds",
        name=recipe.name,
        id=_wandb_id(recipe.run_dir),
        resume="allow",
        dir=str(recipe.run_dir),
        config=json.loads(recipe.to_json()),
    )


def _wandb_id(run_dir: Path) -> str:
    """The id of the run folder, drawn by its first job: folders of one name are different runs."""
    path = run_dir / "wandb_id.txt"
    if not path.exists():
        write_atomic(path, f"{secrets.token_hex(8)}\n".encode())
    return path.read_text(encoding="ascii").strip()


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers among `values` by name, `web/loss` for those of a source."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _numbers(value, prefix if name == "sources" else f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            found[f"{prefix}{name}"] = value
    return found


def _console_line(kind: str, step: int, values: dict[str, Any]) -> str:
    if kind == "eval":
        return f"step {step:>6}  held-out loss {values['loss']:.4f}  ({values['rows']} rows)"
    if kind == "task":
        told = "  ".join(f"{name} {value:.1f}" for name, value in values["accuracy"].items())
        return f"step {step:>6}  {told}"
    remaining = values["remaining_seconds"]
    return (
        f"step {step:>6}  loss {values['loss']:.4f}  grad norm {values['grad_norm']:.3f}  "
        f"lr {values['learning_rate']:.2e}  {values['tokens_per_second']:,.0f} tokens/s  "
        f"{values['tokens_per_second_per_device']:,.0f}/device  "
        f"MFU {values['mfu_noncausal']:.1%} ({values['mfu_causal']:.1%} causal)  "
        f"{values['peak_memory_bytes'] / 2**30:.2f} GiB"
        + ("" if remaining is None else f"  ETA {duration(remaining)}")
    )


def read_metrics(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The records of one kind, in order; ends at a line that a crash has truncated."""
    for _, record in whole_records(path):
        if record["kind"] == kind:
            yield record


def plot_losses(run_dir: Path) -> Path:
    """Plot the training and validation loss of a run; returns the PNG's path."""
    from matplotlib.figure import Figure

    train = list(read_metrics(run_dir / "metrics.jsonl", "train"))
    held_out = list(read_metrics(run_dir / "metrics.jsonl", "eval"))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    # null, where a loss was not finite, is a gap in the curve.
    losses = [math.nan if r["loss"] is None else r["loss"] for r in train]
    axes.plot([r["tokens"] for r in train], losses, lw=1, label="training")
    if held_out:
        axes.plot(
            [r["tokens"] for r in held_out], [r["loss"] for r in held_out], "o-", label="held-out"
        )
    axes.set_xlabel("tokens")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(name_of_run(run_dir))
    axes.grid(alpha=0.3)
    axes.legend()
    path = run_dir / "loss.png"
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_atomic(path, image.getvalue())
    return path


def name_of_run(run_dir: Path) -> str:
    """The recipe's name; the folder's where `recipe.json` is missing or damaged."""
    try:
        recipe = json.loads((run_dir / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return run_dir.name
    return str(recipe["name"]) if isinstance(recipe, dict) and "name" in recipe else run_dir.name
