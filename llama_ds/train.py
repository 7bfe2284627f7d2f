"""The training loop.

Read top to bottom: `train` builds everything once (`job.py`), then repeats `train_step`
(`step.py`). The data of a step is a function of its number (`data.py`), so the only state of a run
is DeepSpeed's and that number.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from data_pipeline.files.folder_lock import FolderLock
from llama_ds.checkpoint.verification import all_checkpoints, step_of
from llama_ds.config import Recipe
from llama_ds.data import IGNORED, Batch, prefetch
from llama_ds.energy import energy_of
from llama_ds.engine import init_distributed, set_learning_rate
from llama_ds.hang_watch import CHECKPOINT_PATIENCE
from llama_ds.held_out_loss import SourceLoss, held_out_record
from llama_ds.job import Job, build_groups, build_job
from llama_ds.metrics import device_name, peak_memory_bytes
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.run_lock import hold_run_folder
from llama_ds.step import StepResult, model_inputs, sum_over_replicas, train_step
from llama_ds.step_verdict import Verdict
from llama_ds.stop_signal import StopSignal


@dataclass(frozen=True)
class TrainResult:
    """A job trained from `first_step` to `step` of `num_steps`, or until something stopped it."""

    first_step: int
    step: int
    num_steps: int
    signal_number: int | None
    divergence: str | None
    """Why training was given up, in one line; None where it was not."""


def train(
    recipe: Recipe,
    local_rank: int,
    deepspeed_overrides: dict[str, Any] | None = None,
    withheld: frozenset[int] = frozenset(),
) -> TrainResult:
    """Run `recipe` from its newest checkpoint (or the start) to its end; every rank calls this.

    `deepspeed_overrides` are merged over the generated DeepSpeed configuration; `withheld` are
    steps to skip because they were not finite in the run that this one repeats. ValueError for a
    recipe that does not fit the store, the world size or the checkpoint it would resume from, and
    where another job trains in its run folder. The default process group stays for further calls;
    everything else is released, also on errors.
    """
    device = init_distributed(local_rank)
    try:
        with hold_run_folder(recipe.run_dir) as lock, build_groups(recipe) as groups:
            with contextlib.ExitStack() as stack:
                overrides = deepspeed_overrides or {}
                job, first_step = build_job(recipe, groups, device, overrides, stack, withheld)
                stop = stack.enter_context(StopSignal(job.device))
                stack.enter_context(job.verification)
                stack.callback(job.profiler.close)
                stack.enter_context(job.watch)
                step, divergence = run_steps(job, first_step, stop, lock)
            return TrainResult(first_step, step, job.plan.num_steps, stop.number, divergence)
    finally:
        # DeepSpeed's engine is a reference cycle, which keeps the threads of closed groups alive.
        gc.collect()


def run_steps(
    job: Job, step: int, stop: StopSignal, lock: FolderLock | None
) -> tuple[int, str | None]:
    """Train from `step` to the end, with evaluations and checkpoints.

    Returns the last step, and why training was given up before the end, if it was.
    """
    train = job.recipe.train
    last_step = min(job.plan.num_steps, train.stop_after_step or job.plan.num_steps)
    due, divergence = False, None
    if step == 0:
        evaluate_and_log(job, step)
    batches = prefetch(_batches(job, first_step=step, last_step=last_step), depth=2)
    while step < last_step and stop.number is None and divergence is None:
        if lock is not None:
            lock.check()
        start = time.perf_counter()
        set_learning_rate(job.engine, job.recipe, step)
        job.watch.begin(f"step {step + 1}")
        with job.profiler.step(step + 1):
            result = train_step(job.engine, next(batches), job.groups, job.device, job.gate)
        step += 1
        due = not confirm_checkpoint(job, result.verdict) or due
        ranks_still_write = stop.agree(is_writing=job.saver.is_writing)
        if job.saver.in_flight and not ranks_still_write:
            settle_checkpoint(job)
        log_step(job, result, step, time.perf_counter() - start, is_last=step == last_step)
        at_end = step == last_step or stop.number is not None
        due = due or step % job.recipe.checkpoint.every_steps == 0
        if due or at_end or step % train.log_every_steps == 0:
            job.verification.agree()
        if step % train.eval_every_steps == 0 or step == last_step:
            evaluate_and_log(job, step)
        if train.evaluate_every_steps and (
            step % train.evaluate_every_steps == 0 or step == last_step
        ):
            ask_and_log(job, step)
        divergence = divergence_of(job, step)
        if divergence is None and (due or at_end):
            due = not save_checkpoint(job, step, at_end=at_end)
            if due and at_end:
                divergence = f"ended at step {step} in a bad state; {_newest_checkpoint(job)}"
    if job.saver.in_flight:
        settle_checkpoint(job)
    if job.log is not None and job.verification.num_files:
        checked, files = job.verification.num_checked, job.verification.num_files
        job.log.say(f"token store: {checked} of {files} files checked")
    spent = None if job.log is None else energy_of(job.recipe.run_dir)
    if job.log is not None and spent is not None and spent.kwh is not None:
        job.log.say(f"so far: {spent}")
    if job.events is not None:
        job.events.add("end", step, signal=stop.number, divergence=divergence)
    return step, divergence


def divergence_of(job: Job, step: int) -> str | None:
    """Why training is given up after `step`, in one line, where too many steps were skipped."""
    count = job.gate.judge.skipped_in_a_row
    if count < job.recipe.train.max_skipped_steps:
        return None
    steps = range(step - count + 1, step + 1)
    return (
        f"gave up at step {step}: {count} steps in a row were skipped (steps {steps[0]}-{step}, "
        f"{_data_of(job, steps)}); {_newest_checkpoint(job)}; lower "
        "--optimizer.peak-learning-rate, or go back and pass over the data: --train.rewind-to "
        "STEP --data.skip-steps A-B"
    )


def _data_of(job: Job, steps: range) -> str:
    """What steps counted from 1 have trained on, as `data.skip_steps` counts it."""
    first, last = job.plan.row_range(steps)
    data = [job.plan.skipped.data_step(step - 1) + 1 for step in (steps[0], steps[-1])]
    return f"rows {first}-{last}" + (
        f", steps {data[0]}-{data[1]} of the data" if job.plan.skipped.ranges else ""
    )


def save_checkpoint(job: Job, step: int, *, at_end: bool) -> bool:
    """Save the state after `step`, unless it is bad; whether it was (or will be) saved.

    The update that spoils the weights is itself made from a finite loss and gradient. So the state
    is copied here, and written when the next step has found its loss and gradient norm finite. At
    the end of a job there is no next step, and a finite loss on the next rows has to do.
    """
    if job.saver.in_flight:
        settle_checkpoint(job)
    if at_end:
        if not next_loss_is_finite(job, step):
            return False
        job.saver.save(step)
        settle_checkpoint(job)
        return True
    if job.gate.judge.skipped_in_a_row:
        return False
    job.saver.take(step)
    return True


def confirm_checkpoint(job: Job, verdict: Verdict) -> bool:
    """Write the state before the step of `verdict` if it was taken, or drop it and return False."""
    if not job.saver.has_taken:
        return True
    if not verdict.is_finite:
        job.saver.drop()
        return False
    job.saver.write()
    if not job.recipe.checkpoint.asynchronous:
        settle_checkpoint(job)
    return True


def _newest_checkpoint(job: Job) -> str:
    found = all_checkpoints(job.recipe.run_dir)
    return f"the newest checkpoint is {found[0]}" if found else "there is no checkpoint"


def settle_checkpoint(job: Job) -> None:
    """Wait for the save in flight and report it; OSError on every rank where it has failed."""
    job.watch.begin("the checkpoint", CHECKPOINT_PATIENCE)
    saved = job.saver.settle()
    if job.log is not None:
        times = f"stall {saved.stall_seconds:.1f} s, written in {saved.write_seconds:.1f} s"
        job.log.say(f"step {step_of(saved.path):>6}  checkpoint {saved.path}  {times}")
    if job.events is not None:
        job.events.add("checkpoint", step_of(saved.path))


@torch.no_grad()
def evaluate(job: Job) -> list[SourceLoss]:
    """Validation loss of each source; the ranks share the sequences."""
    job.engine.eval()
    sources = list(job.held_out.rows_of)
    sums = [0.0] * (2 * len(sources))  # losses, then targets
    for source, rows in job.held_out.micro_batches(
        job.groups.dp_rank, job.groups.dp_size, job.plan.micro_batch_size
    ):
        batch = sequence_shard(rows, job.groups)
        output = job.engine(
            **model_inputs(batch, job.device), num_items_in_batch=1, skip_logits=True
        )
        index = sources.index(source)
        sums[index] += float(output.loss)
        sums[len(sources) + index] += batch.num_targets
    job.engine.train()
    totals = sum_over_replicas(sums, job.groups, job.device)
    return [
        SourceLoss(source, job.held_out.rows_of[source], loss_sum, count, count * bytes_each)
        for source, loss_sum, count, bytes_each in zip(
            sources,
            totals[: len(sources)],
            totals[len(sources) :],
            map(job.held_out.bytes_per_target, sources),
            strict=True,
        )
    ]


@torch.no_grad()
def next_loss_is_finite(job: Job, step: int) -> bool:
    """Whether the loss on this rank's first micro-batch of `step` is finite, on every rank."""
    rows = job.data.micro_batch(step, 0, job.groups.dp_rank, job.plan)
    batch = sequence_shard(rows, job.groups)
    job.engine.eval()
    output = job.engine(**model_inputs(batch, job.device), num_items_in_batch=1, skip_logits=True)
    job.engine.train()
    is_finite = torch.isfinite(output.loss.detach()).all().int()
    dist.all_reduce(is_finite, op=dist.ReduceOp.MIN)
    return bool(is_finite)


def evaluate_and_log(job: Job, step: int) -> None:
    if not job.held_out.num_rows:
        return
    job.watch.begin(f"evaluation after step {step}")
    losses = evaluate(job)
    if job.log is not None:
        tokens = job.plan.num_tokens(step)
        job.log.log("eval", step, {**held_out_record(losses), "tokens": tokens})


def ask_and_log(job: Job, step: int) -> None:
    """The paper's tasks, asked of the model as it is."""
    assert job.live is not None, "train.evaluate_every_steps opens it"
    job.watch.begin(f"tasks after step {step}", CHECKPOINT_PATIENCE)
    accuracies = job.live.accuracies()
    if job.log is not None and accuracies is not None:
        job.log.log("task", step, {"tokens": job.plan.num_tokens(step), **accuracies})


def _batches(job: Job, first_step: int, last_step: int) -> Iterator[list[Batch]]:
    for step in range(first_step, last_step):
        yield [
            sequence_shard(
                job.data.micro_batch(step, accum_step, job.groups.dp_rank, job.plan), job.groups
            )
            for accum_step in range(job.plan.grad_accum_steps(step))
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


# -- reports --------------------------------------------------------------------------------------


def log_step(job: Job, result: StepResult, step: int, seconds: float, *, is_last: bool) -> None:
    """Record a step, counted from 1; what is unusual about it goes to the log with its rows."""
    if job.log is None or job.step_log is None or job.events is None:
        return
    verdict = result.verdict
    values: dict[str, Any] = {"loss": result.loss, "grad_norm": result.grad_norm}
    if verdict.is_skipped or verdict.is_spike:
        this, rows = range(step, step + 1), list(job.plan.row_range(range(step, step + 1)))
        values |= {"skipped": verdict.is_skipped, "spike": verdict.is_spike, "rows": rows}
        what = "skipped" if verdict.is_skipped else "spike"
        job.log.say(
            f"step {step:>6}  {what}: {'; '.join(verdict.reasons)} ({_data_of(job, this)}); "
            f"{job.gate.judge.num_skipped} skipped so far"
        )
        is_finite, reasons = verdict.is_finite, list(verdict.reasons)
        job.events.add(what, step, rows=rows, is_finite=is_finite, reasons=reasons)
    job.step_log.add(step, values)
    job.log.advance(step)
    if step % job.recipe.train.log_every_steps == 0 or is_last:
        job.log.log("train", step, _record(job, result, step, seconds))


def _record(job: Job, result: StepResult, step: int, seconds: float) -> dict[str, Any]:
    return {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "tokens": job.plan.num_tokens(step),
        "skipped": result.verdict.is_skipped,
        "spike": result.verdict.is_spike,
        "skipped_steps": job.gate.judge.num_skipped,
        **job.throughput.of(seconds, job.plan.tokens_of(step - 1)),
        "device": device_name(job.device),
        "devices": job.throughput.world_size,
        "remaining_seconds": None if job.log is None else job.log.remaining.seconds,
        "peak_memory_bytes": peak_memory_bytes(job.device),
    }
