"""What the training loop needs, built once, from the recipe and the newest checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from data_pipeline.files.atomic import atomic_directory, write_atomic
from data_pipeline.tokens.store import TokenStore
from llama_ds.batch import BatchPlan, batch_plan
from llama_ds.batch_schedule import BatchSchedule
from llama_ds.checkpoint.model_card import DATA_FILE, data_of
from llama_ds.checkpoint.resuming import Resumed, resume
from llama_ds.checkpoint.saving import CheckpointSaver, RunDescription, versions
from llama_ds.config import OptimizerConfig, Recipe
from llama_ds.data import HeldOutData, TrainingData, check_vocab
from llama_ds.deepspeed_config import deepspeed_config, merge_overrides
from llama_ds.engine import TORCH_DTYPE, build_model, open_engine
from llama_ds.hang_watch import HangWatch
from llama_ds.metrics import MetricsLog, Throughput, peak_tflops
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.planning.prediction import predicted_seconds
from llama_ds.resume_contract import describe, history_entry, run_identity
from llama_ds.rewind import rewind
from llama_ds.run_events import RunEvents
from llama_ds.schedule import learning_rate
from llama_ds.step import UpdateGate
from llama_ds.step_log import StepLog, finite_steps
from llama_ds.step_profiler import StepProfiler
from llama_ds.step_verdict import StepJudge
from llama_ds.store_verification import StoreVerification
from llama_ds.tokenizer_check import NOT_CHECKED, checked_tokenizer, has_tokenizer

if TYPE_CHECKING:
    from llama_ds.evaluation.live import LiveEvaluation


@dataclass(frozen=True)
class Job:
    """What the loop needs; the logs are None on all ranks but rank 0."""

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
    gate: UpdateGate
    watch: HangWatch
    profiler: StepProfiler
    live: LiveEvaluation | None
    log: MetricsLog | None
    step_log: StepLog | None
    events: RunEvents | None


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
    withheld: frozenset[int] = frozenset(),
) -> tuple[Job, int]:
    """What the loop needs, and the step to resume from; `stack` releases it."""
    plan = batch_plan(recipe, groups.layout.dp_size)
    store = TokenStore.open(recipe.data.store)
    tokenizer = checked_tokenizer(store, recipe.train)
    check_vocab(store, recipe.model.vocab_size)
    verification = StoreVerification(
        store, recipe.data.verify, machine=socket.gethostname(), device=device
    )
    data, held_out = _open_data(recipe, store)
    ds_config = merge_overrides(deepspeed_config(recipe, plan, device.type), deepspeed_overrides)
    model = build_model(recipe, groups, store, ds_config, device)
    engine = stack.enter_context(open_engine(model, recipe, groups, ds_config))
    identity = run_identity(recipe, store.manifest.fingerprint, tokenizer)
    rewound = rewind(recipe)
    resumed = resume(engine, recipe.run_dir, identity, groups, model.tp.sharding)
    plan = _plan_behind(resumed, plan, recipe)
    description = RunDescription(
        identity, run_layout(recipe, plan), plan.num_rows, plan.num_tokens, store.tokenizer_dir
    )
    config = recipe.checkpoint
    saver = CheckpointSaver(engine, recipe.run_dir, config, description, groups, model.tp.sharding)
    stack.callback(saver.close)
    saver.require_room()  # before hours of work, not after
    live = _open_live_evaluation(engine, recipe, groups, store, stack)
    peak, peak_source = peak_tflops(recipe.metrics, device, TORCH_DTYPE[recipe.train.dtype])
    log = step_log = events = None
    if dist.get_rank() == 0:
        log, step_log, events = _open_records(recipe, plan, store, data, ds_config, resumed, stack)
        _record_start(events, recipe, resumed, deepspeed_overrides)
        lines = [*_opening_lines(recipe, plan, device, resumed), *([rewound] if rewound else [])]
        lines.append(f"MFU is of {peak:.2f} TFLOP/s per device ({peak_source})")
        log.say("\n".join([*lines, _epochs_line(data, plan)]))
    job = Job(
        recipe=recipe,
        plan=plan,
        groups=groups,
        device=device,
        engine=engine,
        data=data,
        held_out=held_out,
        saver=saver,
        throughput=_throughput(recipe, device, peak),
        verification=verification,
        gate=UpdateGate(engine, _judge(recipe, device, resumed, withheld)),
        watch=HangWatch(engine, recipe.run_dir, recipe.train.hang_timeout_seconds),
        profiler=StepProfiler(recipe, device, log),
        live=live,
        log=log,
        step_log=step_log,
        events=events,
    )
    return job, resumed.step


def _open_live_evaluation(
    engine: Any,
    recipe: Recipe,
    groups: ParallelGroups,
    store: TokenStore,
    stack: contextlib.ExitStack,
) -> LiveEvaluation | None:
    train = recipe.train
    if train.evaluate_every_steps is None:
        return None
    try:
        from llama_ds.evaluation.live import open_live_evaluation
    except ModuleNotFoundError as error:
        raise ValueError(
            f"train.evaluate_every_steps needs the package {error.name}, which is not installed; "
            "pip install 'llama-ds[eval]'"
        ) from None
    return stack.enter_context(
        open_live_evaluation(
            engine,
            groups,
            tasks=train.evaluate_tasks,
            data=train.evaluate_data,
            limit=train.evaluate_limit,
            tokenizer_dir=store.tokenizer_dir,
            batch_tokens=train.sequence_length,
            is_zero3=recipe.zero.stage == 3,
        )
    )


def _open_data(recipe: Recipe, store: TokenStore) -> tuple[TrainingData, HeldOutData]:
    length = recipe.train.sequence_length
    data = TrainingData(store, recipe.data, length, recipe.train.seed)
    masking = recipe.data.document_masking
    return data, HeldOutData(store, length, recipe.train.eval_rows, document_masking=masking)


def _throughput(recipe: Recipe, device: torch.device, peak: float) -> Throughput:
    """With the predicted seconds of a step, on GPUs that the plan knows."""
    world_size, predicted = dist.get_world_size(), dict[int, float]()
    if device.type == "cuda":
        predicted = predicted_seconds(recipe, world_size, torch.cuda.get_device_name(device))
    return Throughput(recipe, world_size, peak, predicted)


def _plan_behind(resumed: Resumed, plan: BatchPlan, recipe: Recipe) -> BatchPlan:
    """The plan at the row where the checkpoint ends; ValueError where its length is unclear."""
    if resumed.saved is None:
        return plan
    length = resumed.saved["train.sequence_length"]
    plan = plan.resumed(resumed.step, resumed.rows, resumed.tokens, length)
    if plan.num_rows(0) != 0 and recipe.train.max_steps is None:
        raise ValueError(
            f"train.train_tokens ({recipe.train.train_tokens}) does not say how many steps a run "
            "has in which train.tokens_per_step, train.batch_schedule or "
            "train.sequence_length has changed; set "
            "train.max_steps to the number of its last step"
        )
    return plan


def _judge(
    recipe: Recipe, device: torch.device, resumed: Resumed, withheld: frozenset[int]
) -> StepJudge:
    """With the window that the job had which wrote the checkpoint; every rank the same."""
    num_skipped = resumed.step - resumed.num_updates
    judge = StepJudge(recipe.train, device, num_skipped, resumed.step, withheld)
    past: list[Any] = [None]
    if dist.get_rank() == 0:
        past = [finite_steps(recipe.run_dir, resumed.step, recipe.train.spike_window)]
    dist.broadcast_object_list(past, src=0)
    for loss, grad_norm in past[0]:
        judge.remember(loss, grad_norm)
    return judge


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


def open_run(
    recipe: Recipe,
    plan: BatchPlan,
    store: TokenStore,
    data: TrainingData,
    ds_config: dict[str, Any],
    resumed: Resumed,
) -> MetricsLog:
    """Write recipe, DeepSpeed JSON, tokenizer and `data_of` the run to its folder; open its log.

    `recipe.json` also has the run's `history`: what each job changed.
    """
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    history = _history(recipe.run_dir / "recipe.json") if resumed.step else []
    if resumed.changes:
        history.append(history_entry(resumed.step, list(resumed.changes)))
    tree = {**json.loads(recipe.to_json()), "history": history}
    write_atomic(recipe.run_dir / "recipe.json", f"{json.dumps(tree, indent=2)}\n".encode())
    write_atomic(recipe.run_dir / "deepspeed.json", f"{json.dumps(ds_config, indent=2)}\n".encode())
    about = data_of(store.manifest, data.mixture.quotas)
    write_atomic(recipe.run_dir / DATA_FILE, f"{json.dumps(about, indent=2)}\n".encode())
    with atomic_directory(recipe.run_dir / "tokenizer") as folder:
        shutil.copytree(store.tokenizer_dir, folder, dirs_exist_ok=True)
    return MetricsLog(recipe, resumed.step, plan.num_tokens)


def _open_records(
    recipe: Recipe,
    plan: BatchPlan,
    store: TokenStore,
    data: TrainingData,
    ds_config: dict[str, Any],
    resumed: Resumed,
    stack: contextlib.ExitStack,
) -> tuple[MetricsLog, StepLog, RunEvents]:
    log = open_run(recipe, plan, store, data, ds_config, resumed)
    stack.callback(log.close)
    step_log = StepLog(recipe.run_dir, resumed.step)
    stack.callback(step_log.close)
    events = RunEvents(recipe.run_dir)
    stack.callback(events.close)
    return log, step_log, events


def _record_start(
    events: RunEvents, recipe: Recipe, resumed: Resumed, deepspeed_overrides: dict[str, Any]
) -> None:
    events.add(
        "start" if resumed.saved is None else "resume",
        resumed.step,
        world_size=dist.get_world_size(),
        recipe=json.loads(recipe.to_json()),
        deepspeed_json=deepspeed_overrides,
        versions=versions(),
        changes={change.field: [change.old, change.new] for change in resumed.changes},
    )


def _history(path: Path) -> list[Any]:
    """The changes that earlier jobs made; none where the file is missing or damaged."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    history = tree.get("history") if isinstance(tree, dict) else None
    return history if isinstance(history, list) else []


def _opening_lines(
    recipe: Recipe, plan: BatchPlan, device: torch.device, resumed: Resumed
) -> list[str]:
    lines = []
    if resumed.saved is not None:
        lines.append(describe(list(resumed.changes)))
        lines += _change_of_rate(recipe, resumed.saved, resumed.step)
    start = f"resuming after step {resumed.step}" if resumed.step else "starting"
    lines.append(
        f"{start}: {recipe.model.num_parameters:,} parameters, {plan.dp_size} x {device.type}, "
        f"ZeRO-{recipe.zero.stage}, {recipe.train.dtype}, "
        f"{plan.batches}, {plan.num_steps:,} steps"
    )
    init_from = recipe.train.init_from
    if init_from is not None and not has_tokenizer(init_from):
        lines.append(NOT_CHECKED)
    return lines


def _epochs_line(data: TrainingData, plan: BatchPlan) -> str:
    epochs = data.epochs(plan.num_rows(plan.num_steps))
    return "epochs by the end: " + ", ".join(f"{k} {v:.2f}" for k, v in epochs.items())


def _change_of_rate(recipe: Recipe, saved: dict[str, Any], step: int) -> list[str]:
    """A line on what the learning rate does at `step`, where the schedule is not the one before."""
    names = {f.name for f in dataclasses.fields(OptimizerConfig)}
    fields = {name: saved.get(f"optimizer.{name}") for name in names}
    before = OptimizerConfig(**{name: v for name, v in fields.items() if v is not None})
    batches = BatchSchedule.of(
        saved["train.tokens_per_step"], saved.get("train.batch_schedule", {})
    )
    steps_before = saved["train.max_steps"] or max(
        1, batches.num_steps(saved["train.train_tokens"])
    )
    last = learning_rate(step - 1, before, steps_before)
    num_steps = recipe.train.num_steps
    if last == learning_rate(step - 1, recipe.optimizer, num_steps):
        return []
    following = learning_rate(step, recipe.optimizer, num_steps)
    return [
        f"learning rate: {last:.3g} at step {step} by the schedule before ({before.schedule}, "
        f"{steps_before} steps), {following:.3g} at step {step + 1} by the new one "
        f"({recipe.optimizer.schedule}, {num_steps} steps)"
    ]
