"""One optimizer step: micro-batches forward and backward, the verdict, and the update or none.

The loss of a step is the sum over all target tokens of the global batch divided once by their
number, so it does not depend on how the batch is split over ranks and micro-batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from llama_ds.data import Batch
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.step_verdict import StepJudge, Verdict


@dataclass(frozen=True)
class StepResult:
    loss: float
    """Mean over the global batch's targets, in nats."""
    grad_norm: float
    """Before clipping; where it is not finite, inf or nan by ZeRO stage."""
    learning_rate: float
    verdict: Verdict


class UpdateGate:
    """Asks for the verdict at the last moment before the update, and withholds the update.

    At every ZeRO stage DeepSpeed sums up gradients, takes their norm, clips, and then calls torch's
    AdamW, whose hook before a step is public. The hook takes the gradients away, and AdamW passes
    over parameters without one: weights, moments and its count of updates stay as they are, and
    DeepSpeed copies unchanged master weights. An update that is not withheld is not touched.

    Where DeepSpeed itself finds a norm that is not finite (all stages but 0 in fp32), it returns
    before AdamW, on every rank; then there is nothing to withhold.
    """

    def __init__(self, engine: Any, judge: StepJudge) -> None:
        self._engine = engine
        self.judge = judge
        self._loss = self._grad_norm = math.nan
        self._verdict: Verdict | None = None
        engine.basic_optimizer.register_step_pre_hook(self._before_update)

    def expect(self, loss: float, grad_norm: float) -> None:
        """Tell the loss of the step that is about to end, and its norm where DeepSpeed has none."""
        self._loss, self._grad_norm, self._verdict = loss, grad_norm, None

    def result(self) -> tuple[float, Verdict]:
        """Gradient norm and verdict of the step that has ended."""
        if self._verdict is None:
            self._decide()
        assert self._verdict is not None, "just decided"
        return self._grad_norm, self._verdict

    def _decide(self) -> None:
        # The engine has it only after the update; DeepSpeed's wrapper of AdamW before.
        norm = getattr(self._engine.optimizer, "_global_grad_norm", None)
        if norm is not None:
            self._grad_norm = float(norm)
        self._verdict = self.judge.judge(self._loss, self._grad_norm)

    def _before_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._verdict is None:  # at stage 3 AdamW is called more than once per step
            self._decide()
        assert self._verdict is not None, "just decided"
        if self._verdict.is_skipped:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None


def train_step(
    engine: Any,
    batches: list[Batch],
    groups: ParallelGroups,
    device: torch.device,
    gate: UpdateGate,
) -> StepResult:
    """One optimizer step over this rank's micro-batches.

    DeepSpeed divides each micro-batch's gradient by the accumulation steps and averages over the
    replicas, the ranks that hold the same weight shards. Giving the model
    `num_targets / (replicas * accumulation steps)` as its divisor undoes both, which leaves the sum
    over the global batch divided by its number of targets. It is the only place where gradients are
    scaled, and the same at every ZeRO stage.
    """
    counts = [float(sum(batch.num_targets for batch in batches))]
    num_targets = sum_over_replicas(counts, groups, device)[0]
    # The number of micro-batches may change from step to step (`batch_schedule.py`).
    engine.set_train_batch_size(
        engine.train_micro_batch_size_per_gpu() * engine.dp_world_size * len(batches)
    )
    divisor = num_targets / (groups.num_replicas * len(batches))
    learning_rate = engine.get_lr()[0]
    mean_loss = math.nan
    loss_sum = torch.zeros((), device=device, dtype=torch.float32)
    for number, batch in enumerate(batches, start=1):
        engine.set_gradient_accumulation_boundary(number == len(batches))
        loss = engine(**model_inputs(batch, device), num_items_in_batch=divisor).loss
        engine.backward(loss)
        loss_sum += loss.detach() * divisor
        if engine.is_gradient_accumulation_boundary():
            mean_loss = sum_over_replicas([float(loss_sum)], groups, device)[0] / num_targets
            gate.expect(mean_loss, _norm_of_unpartitioned_gradients(engine, groups))
        engine.step()
    grad_norm, verdict = gate.result()
    return StepResult(mean_loss, grad_norm, learning_rate, verdict)


def model_inputs(batch: Batch, device: torch.device) -> dict[str, Any]:
    """What the model takes of a micro-batch, on `device`."""

    def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device, non_blocking=True)

    return {
        "input_ids": move(batch.input_ids_BS),
        "position_ids": move(batch.position_ids_BS),
        "shift_labels": move(batch.labels_BS),
        "use_cache": False,
    }


def sum_over_replicas(
    values: list[float], groups: ParallelGroups, device: torch.device
) -> list[float]:
    """Sums over dp and sp ranks; the tp ranks of a replica have equal values."""
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=groups.replica_group)
    return [float(value) for value in total.tolist()]


def _norm_of_unpartitioned_gradients(engine: Any, groups: ParallelGroups) -> float:
    """Gradient norm at stage 0 in fp32, where DeepSpeed reports none; else NaN."""
    if engine.zero_optimization() or engine.bfloat16_enabled():
        return math.nan
    square = torch.zeros((), device=engine.device)
    for parameter in engine.module.parameters():
        is_sharded = getattr(parameter, "tensor_model_parallel", False)
        if parameter.grad is not None and (is_sharded or groups.tp_rank == 0):
            square += parameter.grad.norm() ** 2
    dist.all_reduce(square, group=groups.tp_group)
    return float(square.sqrt())
