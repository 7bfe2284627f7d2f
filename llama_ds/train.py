"""The training loop.

Read top to bottom: `train` builds everything once, then repeats `train_step`. The data of a step is
a function of its number (`data.py`), so the only state of a run is DeepSpeed's and that number.

The loss of a step is the sum over all target tokens of the global batch divided once by their
number, so it does not depend on how the batch is split over ranks and micro-batches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import math
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from data_pipeline.files.atomic import atomic_directory, write_atomic
from data_pipeline.tokens.store import TOKENIZER_FILES, TokenizerKind, TokenStore
from llama_ds.batch import BatchPlan, batch_plan
from llama_ds.checkpoint.resuming import resume
from llama_ds.checkpoint.saving import CheckpointSaver, RunDescription
from llama_ds.checkpoint.verification import step_of
from llama_ds.config import Recipe
from llama_ds.data import IGNORED, Batch, HeldOutData, TrainingData, check_vocab, prefetch
from llama_ds.deepspeed_config import deepspeed_config, merge_overrides
from llama_ds.engine import (
    TORCH_DTYPE,
    build_model,
    init_distributed,
    open_engine,
    set_learning_rate,
)
from llama_ds.metrics import MetricsLog, Throughput, peak_memory_bytes, peak_tflops
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.run_lock import RunLock, hold_run_folder
from llama_ds.stop_signal import StopSignal
from llama_ds.store_verification import StoreVerification


@dataclass(frozen=True)
class TrainResult:
    """A job trained from `first_step` to `step` of `num_steps`, or until a signal stopped it."""

    first_step: int
    step: int
    num_steps: int
    signal_number: int | None


@dataclass(frozen=True)
class Job:
    """What the loop needs, built once; `log` is None on all ranks but rank 0."""

    recipe: Recipe
    plan: BatchPlan
    groups: ParallelGroups
    device: torch.device
    engine: Any
    data: TrainingData
    held_out: HeldOutData
    saver: CheckpointSaver
    throughput: Throughput
    verification: StoreVerification
    log: MetricsLog | None


def train(
    recipe: Recipe, local_rank: int, deepspeed_overrides: dict[str, Any] | None = None
) -> TrainResult:
    """Run `recipe` from its newest checkpoint (or the start) to its end; every rank calls this.

    `deepspeed_overrides` are merged over the generated DeepSpeed configuration. ValueError for a
    recipe that does not fit the store, the world size or the checkpoint it would resume from, and
    where another job trains in its run folder. The default process group stays for further calls;
    everything else is released, also on errors.
    """
    device = init_distributed(local_rank)
    try:
        with hold_run_folder(recipe.run_dir) as lock, build_groups(recipe) as groups:
            return _train(recipe, groups, device, deepspeed_overrides or {}, lock)
    finally:
        # DeepSpeed's engine is a reference cycle, which keeps the threads of closed groups alive.
        gc.collect()


def _train(
    recipe: Recipe,
    groups: ParallelGroups,
    device: torch.device,
    deepspeed_overrides: dict[str, Any],
    lock: RunLock | None,
) -> TrainResult:
    with contextlib.ExitStack() as stack:
        job, first_step = build_job(recipe, groups, device, deepspeed_overrides, stack)
        stop = stack.enter_context(StopSignal(job.device))
        stack.enter_context(job.verification)
        step = run_steps(job, first_step, stop, lock)
    return TrainResult(first_step, step, job.plan.num_steps, stop.number)


def run_steps(job: Job, step: int, stop: StopSignal, lock: RunLock | None) -> int:
    """Train from `step` to the end, with evaluations and checkpoints; returns the last step."""
    train = job.recipe.train
    last_step = min(job.plan.num_steps, train.stop_after_step or job.plan.num_steps)
    if step == 0:
        evaluate_and_log(job, step)
    batches = prefetch(_batches(job, first_step=step, last_step=last_step), depth=2)
    while step < last_step and stop.number is None:
        if lock is not None:
            lock.check()
        start = time.perf_counter()
        set_learning_rate(job.engine, job.recipe, step)
        result = train_step(job.engine, next(batches), job.groups, job.device)
        step += 1
        ranks_still_write = stop.agree(is_writing=job.saver.is_writing)
        if job.saver.in_flight and not ranks_still_write:
            settle_checkpoint(job)
        if job.log is not None:
            job.log.advance(step)
            if step % train.log_every_steps == 0 or step == last_step:
                job.log.log("train", step, _record(job, result, step, time.perf_counter() - start))
        at_end = step == last_step or stop.number is not None
        saves = at_end or step % job.recipe.checkpoint.every_steps == 0
        if saves or step % train.log_every_steps == 0:
            job.verification.agree()
        if step % train.eval_every_steps == 0 or step == last_step:
            evaluate_and_log(job, step)
        if saves:
            if job.saver.in_flight:
                settle_checkpoint(job)
            job.saver.save(step)
            if at_end or not job.recipe.checkpoint.asynchronous:
                settle_checkpoint(job)
    if job.log is not None and job.verification.num_files:
        checked, files = job.verification.num_checked, job.verification.num_files
        job.log.say(f"token store: {checked} of {files} files checked")
    return step


def settle_checkpoint(job: Job) -> None:
    """Wait for the save in flight and report it; OSError on every rank where it has failed."""
    saved = job.saver.settle()
    if job.log is not None:
        times = f"stall {saved.stall_seconds:.1f} s, written in {saved.write_seconds:.1f} s"
        job.log.say(f"step {step_of(saved.path):>6}  checkpoint {saved.path}  {times}")


# -- one step -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepResult:
    loss: float
    grad_norm: float
    learning_rate: float


def train_step(
    engine: Any, batches: list[Batch], groups: ParallelGroups, device: torch.device
) -> StepResult:
    """One optimizer step over this rank's micro-batches.

    DeepSpeed divides each micro-batch's gradient by the accumulation steps and averages over the
    replicas, the ranks that hold the same weight shards. Giving the model
    `num_targets / (replicas * accumulation steps)` as its divisor undoes both, which leaves the sum
    over the global batch divided by its number of targets. It is the only place where gradients are
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
    """Mean validation loss per token; the ranks share the sequences."""
    job.engine.eval()
    loss_sum, num_targets = 0.0, 0
    for rows in job.held_out.micro_batches(
        job.groups.dp_rank, job.groups.dp_size, job.plan.micro_batch_size
    ):
        batch = sequence_shard(rows, job.groups)
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
            sequence_shard(
                job.data.micro_batch(step, accum_step, job.groups.dp_rank, job.plan), job.groups
            )
            for accum_step in range(job.plan.grad_accum_steps)
        ]


def sequence_shard(batch: Batch, groups: ParallelGroups) -> Batch:
    """This rank's shard of the batch along the sequence, whose labels are pre-shifted."""
    if groups.sp_size == 1:
        return batch
    shard = SequenceParallel.of(groups).shard
    labels_Bs = shard(batch.labels_BS)
    positions_BS = batch.position_ids_BS
    return Batch(
        input_ids_BS=shard(batch.input_ids_BS),
        labels_BS=labels_Bs,
        position_ids_BS=None if positions_BS is None else shard(positions_BS),
        num_targets=int((labels_Bs != IGNORED).sum()),
    )


def _sum_over_replicas(
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
    """What the loop needs, and the step to resume from; `stack` releases it."""
    plan = batch_plan(recipe, groups.layout.dp_size)
    store = TokenStore.open(recipe.data.store)
    sha256 = _tokenizer_sha256(recipe.train.init_from, store.manifest.tokenizer_kind)
    check_vocab(store, recipe.model.vocab_size, sha256)
    verification = StoreVerification(
        store, recipe.data.verify, machine=socket.gethostname(), device=device
    )
    length = recipe.train.sequence_length
    data = TrainingData(store, recipe.data, length, recipe.train.seed)
    ds_config = merge_overrides(deepspeed_config(recipe, plan, device.type), deepspeed_overrides)
    model = build_model(recipe, groups, store, ds_config, device)
    engine = stack.enter_context(open_engine(model, recipe, groups, ds_config))
    identity, sharding = run_identity(recipe, store), model.tp.sharding
    step = resume(engine, recipe.run_dir, identity, groups, sharding)
    description = RunDescription(
        identity, run_layout(recipe, plan), plan.rows_per_step, store.tokenizer_dir
    )
    saver = CheckpointSaver(
        engine, recipe.run_dir, recipe.checkpoint, description, groups, sharding
    )
    stack.callback(saver.close)
    saver.require_room()  # before hours of work, not after
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
        saver=saver,
        throughput=Throughput(recipe, dist.get_world_size(), peak),
        verification=verification,
        log=log,
    )
    return job, step


def _tokenizer_sha256(model_dir: Path | None, kind: TokenizerKind) -> str | None:
    """Checksum of the file in a Hugging Face folder that identifies a tokenizer of `kind`; None
    where it has no such file."""
    name = TOKENIZER_FILES[kind]
    if model_dir is None or not (model_dir / name).is_file():
        return None
    return hashlib.sha256((model_dir / name).read_bytes()).hexdigest()


def run_identity(recipe: Recipe, store: TokenStore) -> dict[str, Any]:
    """What must be equal in a checkpoint and in the job that resumes from it."""
    return {
        "model": dataclasses.asdict(recipe.model),
        "train.seed": recipe.train.seed,
        "train.sequence_length": recipe.train.sequence_length,
        "train.tokens_per_step": recipe.train.tokens_per_step,
        "data.shares": dict(sorted(recipe.data.shares.items())),
        # None, as in checkpoints that are older than this option.
        "data.epochs": dict(sorted(recipe.data.epochs.items())) or None,
        "data.block_rows": recipe.data.block_rows,
        "data.document_masking": recipe.data.document_masking,
        "token store": store.manifest.fingerprint,
    }


def run_layout(recipe: Recipe, plan: BatchPlan) -> dict[str, Any]:
    """How a job cuts the run over ranks: the next one may do it otherwise."""
    return {
        "dp": plan.dp_size,
        "parallel.sp": recipe.parallel.sp,
        "parallel.tp": recipe.parallel.tp,
        "zero.stage": recipe.zero.stage,
        "train.dtype": recipe.train.dtype,
        "train.micro_batch_size": recipe.train.micro_batch_size,
    }


def open_run(recipe: Recipe, store: TokenStore, ds_config: dict[str, Any], step: int) -> MetricsLog:
    """Write recipe, DeepSpeed JSON and tokenizer to the run folder, and open its metrics log."""
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(recipe.run_dir / "recipe.json", f"{recipe.to_json()}\n".encode())
    write_atomic(recipe.run_dir / "deepspeed.json", f"{json.dumps(ds_config, indent=2)}\n".encode())
    with atomic_directory(recipe.run_dir / "tokenizer") as folder:
        shutil.copytree(store.tokenizer_dir, folder, dirs_exist_ok=True)
    return MetricsLog(recipe, step)


# -- reports --------------------------------------------------------------------------------------


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
