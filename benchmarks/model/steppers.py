"""Full training steps of any causal language model: through DeepSpeed, or in plain PyTorch.

Both implement `llama_ds.deepspeed_config`: gradients of the micro-batches accumulated in fp32,
clipped to a global norm, AdamW on fp32 master weights, with weight decay on matrices only.
`TorchStepper` is for machines without DeepSpeed; on one GPU it also omits DeepSpeed's communication
buffers.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llama_ds.batch import batch_plan
from llama_ds.config import OptimizerConfig, Recipe

FORWARD, HEAD, BACKWARD, OPTIMIZER = "forward", "loss head", "backward", "optimizer"


class Stepper(Protocol):
    model: Any

    def step(self, micro_batches: list[Tensor], parts: Parts | None = None) -> float:
        """One optimizer step over token ids [B, S] of each micro-batch; returns the mean loss.

        `parts` is notified where each part of the step ends. A compiled model lacks the hooks for
        this: it is timed as a whole.
        """

    def forget(self) -> bool:
        """Discard the state of a failed step; False where that is not possible."""

    def close(self) -> None:
        """Free the memory of the optimizer."""


def without_deepspeed() -> str:
    """Why DeepSpeed cannot be used; empty where it can."""
    for module in ("deepspeed", "llama_ds.engine"):
        try:
            importlib.import_module(module)
        # Not only ImportError: DeepSpeed looks for compilers and CUDA headers on import.
        except Exception as error:
            return f"{module} cannot be imported ({error})"
    return ""


@contextlib.contextmanager
def stepping(
    device: torch.device, *, deepspeed: bool
) -> Iterator[Callable[[nn.Module, Recipe], Stepper]]:
    """Context manager with a factory of steppers, from models and recipes, for a single rank."""
    if not deepspeed:
        yield lambda model, recipe: TorchStepper(model, recipe, device)
        return
    from llama_ds.engine import init_distributed
    from llama_ds.parallel.groups import ParallelGroups

    # Environment variables that a launcher of one process would set, and DeepSpeed reads.
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    store = dist.HashStore()  # type: ignore[attr-defined]
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        init_distributed(local_rank=0)
        with ParallelGroups.build() as groups:
            yield lambda model, recipe: DeepSpeedStepper(model, recipe, groups, device)
    finally:
        dist.destroy_process_group()


@dataclass
class Parts:
    """Seconds of each part of a step, summed over micro-batches.

    A GPU is timed by CUDA events in its stream, without synchronization; a CPU by CPU time.
    """

    device: torch.device
    _marks: list[tuple[str, Any]] = field(default_factory=list)

    def end(self, part: str) -> None:
        """Attribute the time since the last call to `part`; the empty string discards it."""
        self._marks.append((part, self._now()))

    def seconds(self) -> dict[str, float]:
        """By name of the part; synchronizes the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        totals: dict[str, float] = {}
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            if part:
                elapsed = (
                    before.elapsed_time(after) / 1e3
                    if self.device.type == "cuda"
                    else after - before
                )
                totals[part] = totals.get(part, 0.0) + elapsed
        return totals

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def loss_of(module: Any, input_ids: Tensor) -> Tensor:
    """Mean next-token loss; the call is the same for every contender."""
    loss: Tensor = module(input_ids=input_ids, labels=input_ids, use_cache=False).loss
    return loss


@contextlib.contextmanager
def _marking(model: Any, parts: Parts | None) -> Iterator[Callable[[str], None]]:
    """A function to call at the end of each part; a hook calls it at the end of the decoder."""
    if parts is None:
        yield lambda part: None
        return
    handle = model.model.register_forward_hook(lambda *_: parts.end(FORWARD))
    try:
        yield parts.end
    finally:
        handle.remove()


# -- through DeepSpeed ----------------------------------------------------------------------------


class DeepSpeedStepper:
    def __init__(self, model: Any, recipe: Recipe, groups: Any, device: torch.device) -> None:
        """A DeepSpeed engine of its own for `model`, in the configuration of `recipe` for one
        rank."""
        from llama_ds.deepspeed_config import deepspeed_config
        from llama_ds.engine import build_engine

        self.model = model
        config = deepspeed_config(recipe, batch_plan(recipe, dp_size=1), device.type)
        # Any causal language model will do: only its parameters are read.
        self.engine = build_engine(self.model, recipe, groups, config)

    def step(self, micro_batches: list[Tensor], parts: Parts | None = None) -> float:
        total = torch.zeros((), device=micro_batches[0].device)
        with _marking(self.model, parts) as end:
            for input_ids in micro_batches:
                end("")
                loss = loss_of(self.engine, input_ids)
                end(HEAD)
                self.engine.backward(loss)
                end(BACKWARD)
                self.engine.step()
                end(OPTIMIZER)
                total += loss.detach()
        return float(total) / len(micro_batches)

    def forget(self) -> bool:
        # The engine counts micro-batches and fills buckets on the way.
        return False

    def close(self) -> None:
        self.engine.destroy()


# -- without it -----------------------------------------------------------------------------------


class TorchStepper:
    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device) -> None:
        settings = recipe.optimizer
        self.model = model
        self.max_grad_norm = settings.max_grad_norm
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.masters = [self._master(weight) for weight in self.weights]
        self.optimizer = _adamw(self.masters, settings, fused=device.type == "cuda")

    def _master(self, weight: nn.Parameter) -> nn.Parameter:
        """The fp32 master weight that the optimizer updates; it accumulates the gradients of
        `weight`."""
        if weight.dtype == torch.float32:
            return weight
        master = nn.Parameter(weight.detach().float())
        master.grad = torch.zeros_like(master)

        def collect(weight: Tensor) -> None:
            # At once, so that the bf16 gradients of all weights never exist together.
            assert master.grad is not None, "the fp32 gradient is zeroed in place, never dropped"
            if weight.grad is not None:
                master.grad.add_(weight.grad)
            weight.grad = None

        weight.register_post_accumulate_grad_hook(collect)
        return master

    def step(self, micro_batches: list[Tensor], parts: Parts | None = None) -> float:
        total = torch.zeros((), device=micro_batches[0].device)
        with _marking(self.model, parts) as end:
            for input_ids in micro_batches:
                end("")
                loss = loss_of(self.model, input_ids)
                end(HEAD)
                (loss / len(micro_batches)).backward()
                end(BACKWARD)
                total += loss.detach()
            self._update()
            end(OPTIMIZER)
        return float(total) / len(micro_batches)

    def forget(self) -> bool:
        self.optimizer.zero_grad(set_to_none=False)
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master:
                weight.grad = None
        return True

    def close(self) -> None:
        """No other object holds its memory."""

    @torch.no_grad()
    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master:
                weight.copy_(master)


def _adamw(
    parameters: list[nn.Parameter], settings: OptimizerConfig, *, fused: bool
) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=settings.peak_learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=fused,
    )
