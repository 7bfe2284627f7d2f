"""The training loop.

Read top to bottom: `train` builds everything once, then repeats `train_step`. Which rows a step
takes is arithmetic on the step's number (`data.py`), so the only state of a run is DeepSpeed's and
that number.

The loss of a step is the sum over all target tokens of the global batch divided once by their
number, so it does not depend on how the batch is cut over ranks and micro-batches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import math
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from data_pipeline.files.atomic import atomic_directory, write_atomic
from data_pipeline.tokens.store import TokenStore
from llama_ds import checkpoint
from llama_ds.batch import BatchPlan, batch_plan, data_parallel_size
from llama_ds.config import Recipe
from llama_ds.data import IGNORED, Batch, HeldOutData, TrainingData, check_vocab, prefetch
from llama_ds.deepspeed_config import deepspeed_config, merge_overrides
from llama_ds.engine import TORCH_DTYPE, build_model, init_distributed, open_engine
from llama_ds.metrics import MetricsLog, Throughput, peak_memory_bytes, peak_tflops
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.sequence import SequenceParallel


@dataclass(frozen=True)
class TrainResult:
    """A job took the run from `first_step` to `step` of `num_steps`; which signal stopped it."""

    first_step: int
    step: int
    num_steps: int
    signal_number: int | None


@dataclass(frozen=True)
class Job:
    """What the loop needs, built once; `log` is None on all ranks but the first."""

    recipe: Recipe
    plan: BatchPlan
    groups: ParallelGroups
    device: torch.device
    engine: Any
    data: TrainingData
    held_out: HeldOutData
    identity: dict[str, Any]
    throughput: Throughput
    log: MetricsLog | None


def train(
    recipe: Recipe, local_rank: int, deepspeed_overrides: dict[str, Any] | None = None
) -> TrainResult:
    """Run `recipe` from its newest checkpoint (or the start) to its end; every rank calls this.

    `deepspeed_overrides` are merged over the generated DeepSpeed configuration. ValueError for a
    recipe that does not fit the store, the world size or the checkpoint it would resume from. The
    default process group stays, for a next call; what else was built is released, also on errors.
    """
    device = init_distributed(local_rank)
    try:
        with build_groups(recipe) as groups:
            return _train(recipe, groups, device, deepspeed_overrides or {})
    finally:
        # DeepSpeed's engine refers to itself, and through it live the threads of closed groups.
        gc.collect()


def _train(
    recipe: Recipe,
    groups: ParallelGroups,
    device: torch.device,
    deepspeed_overrides: dict[str, Any],
) -> TrainResult:
    with contextlib.ExitStack() as stack:
        job, first_step = build_job(recipe, groups, device, deepspeed_overrides, stack)
        stop = stack.enter_context(StopSignal(job.device))
        step = run_steps(job, first_step, stop)
    return TrainResult(first_step, step, job.plan.num_steps, stop.number)


def run_steps(job: Job, step: int, stop: StopSignal) -> int:
    """Train from after `step` to the end, with evaluations and checkpoints; the step reached."""
    train = job.recipe.train
    last_step = min(job.plan.num_steps, train.stop_after_step or job.plan.num_steps)
    if step == 0:
        evaluate_and_log(job, step)
    batches = prefetch(_batches(job, first_step=step, last_step=last_step), depth=2)
    while step < last_step and stop.number is None:
        start = time.perf_counter()
        result = train_step(job.engine, next(batches), job.groups, job.device)
        step += 1
        stop.agree()
        if job.log is not None:
            job.log.advance(step)
            if step % train.log_every_steps == 0 or step == last_step:
                job.log.log("train", step, _record(job, result, step, time.perf_counter() - start))
        at_end = step == last_step or stop.number is not None
        if step % train.eval_every_steps == 0 or step == last_step:
            evaluate_and_log(job, step)
        if at_end or step % job.recipe.checkpoint.every_steps == 0:
            path = checkpoint.save(
                job.engine, job.recipe.run_dir, step, job.identity, job.recipe.checkpoint.keep_last
            )
            if job.log is not None:
                job.log.say(f"step {step:>6}  checkpoint {path}")
    return step


# -- one step -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepResult:
    loss: float
    grad_norm: float
    learning_rate: float


def train_step(
    engine: Any, batches: list[Batch], groups: ParallelGroups, device: torch.device
) -> StepResult:
    """One optimiser step over this rank's micro-batches.

    DeepSpeed divides each micro-batch's gradient by the accumulation steps and averages over the
    replicas, the ranks that hold the same part of the weights. Giving the model
    `num_targets / (replicas * accumulation steps)` as its divisor undoes both, which leaves the sum
    over the global batch divided by its number of targets; it is the only place where gradients are
    scaled, and the same at every ZeRO stage.
    """
    num_targets = _sum_over_replicas([sum(batch.num_targets for batch in batches)], groups, device)[
        0
    ]
    divisor = num_targets / (groups.num_replicas * len(batches))
    learning_rate = engine.get_lr()[0]
    loss_sum = torch.zeros((), device=device, dtype=torch.float32)
    grad_norm = math.nan
    for batch in batches:
        loss = engine(**_inputs(batch, device), num_items_in_batch=divisor).loss
        engine.backward(loss)
        loss_sum += loss.detach() * divisor
        if engine.is_gradient_accumulation_boundary():
            grad_norm = _norm_of_unpartitioned_gradients(engine, groups)
        engine.step()
    if engine.get_global_grad_norm() is not None:
        grad_norm = float(engine.get_global_grad_norm())
    return StepResult(
        loss=_sum_over_replicas([float(loss_sum)], groups, device)[0] / num_targets,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
    )


@torch.no_grad()
def evaluate(job: Job) -> float:
    """Mean loss per held-out token; each rank takes its share of the rows."""
    job.engine.eval()
    loss_sum, num_targets = 0.0, 0
    for rows in job.held_out.micro_batches(
        job.groups.dp_rank, job.groups.dp_size, job.plan.micro_batch_size
    ):
        batch = own_slice(rows, job.groups)
        output = job.engine(**_inputs(batch, job.device), num_items_in_batch=1, skip_logits=True)
        loss_sum += float(output.loss)
        num_targets += batch.num_targets
    job.engine.train()
    total, count = _sum_over_replicas([loss_sum, float(num_targets)], job.groups, job.device)
    return total / count


def evaluate_and_log(job: Job, step: int) -> None:
    if not job.held_out.num_rows:
        return
    loss = evaluate(job)
    if job.log is not None:
        tokens = step * job.plan.tokens_per_step
        job.log.log("eval", step, {"loss": loss, "rows": job.held_out.num_rows, "tokens": tokens})


def _inputs(batch: Batch, device: torch.device) -> dict[str, Any]:
    def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device, non_blocking=True)

    return {
        "input_ids": move(batch.input_ids_BS),
        "position_ids": move(batch.position_ids_BS),
        "shift_labels": move(batch.labels_BS),
        "use_cache": False,
    }


def _batches(job: Job, first_step: int, last_step: int) -> Iterator[list[Batch]]:
    for step in range(first_step, last_step):
        yield [
            own_slice(
                job.data.micro_batch(step, accum_step, job.groups.dp_rank, job.plan), job.groups
            )
            for accum_step in range(job.plan.grad_accum_steps)
        ]


def own_slice(batch: Batch, groups: ParallelGroups) -> Batch:
    """This rank's slice of the rows, along the sequence; labels are shifted already."""
    if groups.sp_size == 1:
        return batch
    cut = SequenceParallel.of(groups).cut
    labels_Bs = cut(batch.labels_BS)
    positions_BS = batch.position_ids_BS
    return Batch(
        input_ids_BS=cut(batch.input_ids_BS),
        labels_BS=labels_Bs,
        position_ids_BS=None if positions_BS is None else cut(positions_BS),
        num_targets=int((labels_Bs != IGNORED).sum()),
    )


def _sum_over_replicas(
    values: list[float], groups: ParallelGroups, device: torch.device
) -> list[float]:
    """Sums over data and sequence; the tp ranks of a replica all have the same values."""
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=groups.replica_group)
    return [float(value) for value in total.tolist()]


def _norm_of_unpartitioned_gradients(engine: Any, groups: ParallelGroups) -> float:
    """DeepSpeed reports no norm at stage 0 in fp32; there each rank holds the reduced gradients."""
    if engine.zero_optimization() or engine.bfloat16_enabled():
        return math.nan
    square = torch.zeros((), device=engine.device)
    for parameter in engine.module.parameters():
        is_part = getattr(parameter, "tensor_model_parallel", False)
        if parameter.grad is not None and (is_part or groups.tp_rank == 0):
            square += parameter.grad.norm() ** 2
    dist.all_reduce(square, group=groups.tp_group)
    return float(square.sqrt())


# -- building -------------------------------------------------------------------------------------


def build_groups(recipe: Recipe) -> ParallelGroups:
    """The process groups of the recipe's layout; the caller closes them."""
    parallel = recipe.parallel
    return ParallelGroups.build(
        tp_size=parallel.tp,
        sp_size=parallel.sp,
        kv_replicas=max(1, parallel.tp // recipe.model.num_key_value_heads),
    )


def build_job(
    recipe: Recipe,
    groups: ParallelGroups,
    device: torch.device,
    deepspeed_overrides: dict[str, Any],
    stack: contextlib.ExitStack,
) -> tuple[Job, int]:
    """Everything the loop needs, and the step it resumes after; `stack` releases it."""
    plan = batch_plan(recipe, data_parallel_size(recipe, dist.get_world_size()))
    store = TokenStore.open(recipe.data.store)
    check_vocab(store, recipe.model.vocab_size, _tokenizer_sha256(recipe.train.init_from))
    length = recipe.train.sequence_length
    data = TrainingData(store, recipe.data, length, recipe.train.seed)
    ds_config = merge_overrides(deepspeed_config(recipe, plan, device.type), deepspeed_overrides)
    model = build_model(recipe, groups, store, ds_config, device)
    engine = stack.enter_context(open_engine(model, recipe, groups, ds_config))
    identity = run_identity(recipe, store)
    step = checkpoint.resume(engine, recipe.run_dir, identity)
    checkpoint.require_room(engine, recipe.run_dir)  # before hours of work, not after
    peak, peak_source = peak_tflops(recipe.metrics, device, TORCH_DTYPE[recipe.train.dtype])
    log = None
    if dist.get_rank() == 0:
        log = open_run(recipe, store, ds_config, step)
        stack.callback(log.close)
        epochs = data.epochs(plan.rows_per_step * plan.num_steps)
        log.say(_opening_line(recipe, plan, device, step))
        log.say(f"MFU is of {peak:.2f} TFLOP/s per device ({peak_source})")
        log.say("epochs by the end: " + ", ".join(f"{k} {v:.2f}" for k, v in epochs.items()))
    job = Job(
        recipe=recipe,
        plan=plan,
        groups=groups,
        device=device,
        engine=engine,
        data=data,
        held_out=HeldOutData(
            store,
            length,
            recipe.train.eval_rows,
            document_masking=recipe.data.document_masking,
        ),
        identity=identity,
        throughput=Throughput(recipe, dist.get_world_size(), peak),
        log=log,
    )
    return job, step


def _tokenizer_sha256(model_dir: Path | None) -> str | None:
    """Checksum of the SentencePiece model in a Hugging Face folder, where it holds one."""
    if model_dir is None or not (model_dir / "tokenizer.model").is_file():
        return None
    return hashlib.sha256((model_dir / "tokenizer.model").read_bytes()).hexdigest()


def run_identity(recipe: Recipe, store: TokenStore) -> dict[str, Any]:
    """What must not change between a checkpoint and the job that resumes from it."""
    return {
        "model": dataclasses.asdict(recipe.model),
        "train.seed": recipe.train.seed,
        "train.dtype": recipe.train.dtype,
        "train.sequence_length": recipe.train.sequence_length,
        "train.tokens_per_step": recipe.train.tokens_per_step,
        "zero.stage": recipe.zero.stage,
        "parallel.tp": recipe.parallel.tp,
        "parallel.sp": recipe.parallel.sp,
        "data.shares": dict(sorted(recipe.data.shares.items())),
        # None is what a checkpoint says that was made before there was such an option.
        "data.epochs": dict(sorted(recipe.data.epochs.items())) or None,
        "data.block_rows": recipe.data.block_rows,
        "data.document_masking": recipe.data.document_masking,
        "token store": store.manifest.fingerprint,
    }


def open_run(recipe: Recipe, store: TokenStore, ds_config: dict[str, Any], step: int) -> MetricsLog:
    """Make the run folder self-contained: recipe, DeepSpeed configuration, tokenizer, metrics."""
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(recipe.run_dir / "recipe.json", f"{recipe.to_json()}\n".encode())
    write_atomic(recipe.run_dir / "deepspeed.json", f"{json.dumps(ds_config, indent=2)}\n".encode())
    with atomic_directory(recipe.run_dir / "tokenizer") as folder:
        shutil.copytree(store.tokenizer_dir, folder, dirs_exist_ok=True)
    return MetricsLog(recipe, step)


# -- signals and reports --------------------------------------------------------------------------


class StopSignal:
    """While open, SIGTERM and SIGINT ask for a checkpoint and an end after the current step."""

    def __init__(self, device: torch.device) -> None:
        self.number: int | None = None
        """The signal that all ranks have agreed to stop for."""
        self._received = 0
        self._device = device
        self._previous: dict[int, Any] = {}

    def agree(self) -> None:
        """A signal may reach one rank only, or each at another step: all stop after the same."""
        number = torch.tensor(self._received, device=self._device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        self.number = int(number) or None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _record(job: Job, result: StepResult, step: int, seconds: float) -> dict[str, Any]:
    return {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "tokens": step * job.plan.tokens_per_step,
        **job.throughput.of(seconds),
        "peak_memory_bytes": peak_memory_bytes(job.device),
    }


def _opening_line(recipe: Recipe, plan: BatchPlan, device: torch.device, step: int) -> str:
    start = f"resuming after step {step}" if step else "starting"
    return (
        f"{start}: {recipe.model.num_parameters:,} parameters, {plan.dp_size} x {device.type}, "
        f"ZeRO-{recipe.zero.stage}, {recipe.train.dtype}, "
        f"{plan.tokens_per_step:,} tokens per step, {plan.num_steps:,} steps"
    )
