"""Training throughput on one large GPU: hardware ceilings, correctness, LLaMA-7B and 13B steps.

    bash benchmarks/gpu.sh [--out benchmarks/results] [--budget-seconds 480] [--without-deepspeed]
                           [--rehearse]

Everything runs in worker processes within a time budget, phase by phase. A phase may use time that
earlier ones have left over; what does not fit is skipped and listed in the report. `--rehearse`
runs all of it in a tiny size, on the CPU where there is no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import gpu_correctness, gpu_report, gpu_training
from benchmarks.gpu.gpu_report import Depth, Findings, Run
from benchmarks.gpu.gpu_training import Candidate
from benchmarks.gpu.gpu_worker import Record, Task, Worker
from benchmarks.measuring import results
from benchmarks.model.contenders import CHECKPOINTED, COMPILED, LIGER, STOCK, contenders, ours
from benchmarks.model.steppers import without_deepspeed
from llama_ds.config import AttentionName, Recipe
from llama_ds.model_config import ModelConfig
from llama_ds.planning.memory import estimate_memory
from llama_ds.save_policy import SavePolicyName
from recipes.llama import PLACEMENTS, llama_7b, llama_13b

OURS = ours("linear_outputs")
"""Base name of all candidates with a save policy."""
STATE_BYTES = {"torch": 18, "deepspeed": 22}
"""Bytes per parameter: bf16 weight 2, fp32 gradient 4, fp32 master and Adam's moments 12.
DeepSpeed's ZeRO-2 flattens the fp32 gradients into a copy in the optimizer step."""
POLICIES: tuple[SavePolicyName, ...] = ("linear_outputs", "keep_all", "no_mlp", "layer_input")
"""In the order in which they are tried."""
USABLE = 0.93
"""Share of the GPU memory for which a model's depth is planned; the rest is CUDA context, libraries
and fragmentation."""
ALMOST_ALL = 0.97
"""Share up to which a candidate is tried; it may run out of memory."""

# Share of the time budget at which a phase ends at the latest.
PHASES = {
    "ceilings": 0.10,  # and starting the first process
    "attention kernels": 0.14,
    "fused layer": 0.18,
    "7B ours": 0.43,
    "7B stock": 0.53,
    "7B checkpointed": 0.63,
    "13B ours": 0.75,
    "13B stock": 0.85,
    "7B Liger": 0.92,
    "7B compiled": 0.98,
}


@dataclass(frozen=True)
class Scale:
    """Sizes of all measurements."""

    recipes: dict[str, Recipe]
    """By model name; `tokens_per_step` is one GPU's share."""
    micro_batch_sizes: tuple[int, ...]
    memory_bytes: int | None
    """Used to plan depths, in place of the GPU's."""
    matmul_seconds: float
    copy_bytes: int
    attention_shape: tuple[int, int, int, int]
    attention_rows: int
    layer_model: ModelConfig
    layer_length: int


def full_scale() -> Scale:
    recipes = {}
    for name, recipe in (("LLaMA-7B", llama_7b()), ("LLaMA-13B", llama_13b())):
        num_gpus = PLACEMENTS[recipe.name]["h200-141gb"].num_gpus
        share = recipe.train.tokens_per_step // num_gpus
        recipes[name] = _for_one_gpu(recipe, tokens_per_step=share)
    return Scale(
        recipes=recipes,
        micro_batch_sizes=(1, 2, 4, 8),
        memory_bytes=None,
        matmul_seconds=1.0,
        copy_bytes=2**32,
        attention_shape=(1, 2_048, 32, 128),
        attention_rows=4,
        layer_model=dataclasses.replace(
            recipes["LLaMA-7B"].model, num_hidden_layers=2, vocab_size=2_048
        ),
        layer_length=512,
    )


def rehearsal_scale() -> Scale:
    """Tiny; the larger model does not fit at full depth, so that its time is extrapolated."""
    recipes = {}
    for name, recipe, layers in (("LLaMA-7B", llama_7b(), 2), ("LLaMA-13B", llama_13b(), 8)):
        model = dataclasses.replace(
            recipe.model,
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=256,
        )
        train = dataclasses.replace(recipe.train, sequence_length=32)
        recipe = dataclasses.replace(recipe, model=model, train=train)
        recipes[name] = _for_one_gpu(recipe, tokens_per_step=4 * 32)
    return Scale(
        recipes=recipes,
        micro_batch_sizes=(1, 2),
        memory_bytes=7_500_000,
        matmul_seconds=0.1,
        copy_bytes=2**20,
        attention_shape=(1, 16, 4, 8),
        attention_rows=1,
        layer_model=dataclasses.replace(recipes["LLaMA-7B"].model, num_hidden_layers=1),
        layer_length=16,
    )


def _for_one_gpu(recipe: Recipe, tokens_per_step: int) -> Recipe:
    """`recipe` with one GPU's share of the step, at peak learning rate from the start."""
    return dataclasses.replace(
        recipe,
        train=dataclasses.replace(
            recipe.train, tokens_per_step=tokens_per_step, micro_batch_size=1, dtype="bf16"
        ),
        optimizer=dataclasses.replace(recipe.optimizer, warmup_steps=0),
        # One GPU does not communicate, and large buckets would only take memory.
        zero=dataclasses.replace(recipe.zero, stage=2, reduce_bucket_elements=50_000_000),
    )


# -- the run --------------------------------------------------------------------------------------


@dataclass
class Session:
    """Tasks under deadlines; skipped ones are noted."""

    worker: Worker
    budget_seconds: float
    notes: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)
    deadline: float = 0.0
    phase_name: str = ""

    def phase(self, name: str) -> None:
        self.phase_name = name
        self.deadline = self.start + PHASES[name] * self.budget_seconds
        print(f"[{time.monotonic() - self.start:6.1f} s] {name}", flush=True)

    def run(
        self, what: str, task: Task, arguments: dict[str, Any], share: float = 1.0
    ) -> list[Record]:
        """The records of `task`, which may use `share` of the phase's remaining time."""
        seconds = (self.deadline - time.monotonic()) * share
        if seconds <= 0:
            self.note(what, "not run, the time for it was used up")
            return []
        outcome = self.worker.run(task, seconds, arguments)
        if outcome.ended:
            self.note(what, outcome.ended)
        for record in outcome.records:
            if "given_up" in record:
                self.note(what, f"gave up {record['given_up']} candidates for want of time")
        return outcome.records

    def note(self, what: str, words: str) -> None:
        self.notes.append(f"{self.phase_name}, {what}: {words}")


def measure(
    session: Session, scale: Scale, device: torch.device, no_deepspeed: str, *, rehearse: bool
) -> Findings:
    length = scale.recipes["LLaMA-7B"].train.sequence_length
    findings = Findings(session.notes, no_deepspeed, length, is_rehearsal=rehearse)
    session.phase("ceilings")
    records = session.run(
        "matmul and copy",
        gpu_training.ceilings,
        {"seconds": scale.matmul_seconds, "copy_bytes": scale.copy_bytes},
    )
    for record in records:
        findings.ceilings |= record
    session.phase("attention kernels")
    for name in typing.get_args(AttentionName):
        if name != "auto" and (name != "cpu" or device.type == "cpu"):
            arguments = {
                "name": name,
                "shape": scale.attention_shape,
                "num_kv_heads": scale.attention_shape[2] // 4,
                "timed_rows": scale.attention_rows,
            }
            findings.kernels += session.run(name, gpu_correctness.check_kernel, arguments)
    session.phase("fused layer")
    findings.layer = session.run(
        "fused against plain",
        gpu_correctness.check_layer,
        {"model": scale.layer_model, "rows": 2, "length": scale.layer_length},
    )
    findings.attention = fastest_kernel(findings.kernels)
    memory = scale.memory_bytes or findings.ceilings.get("memory_bytes")
    if memory is None:
        session.note("all models", "not run, the device's memory is not known")
        return findings
    state_bytes = STATE_BYTES["torch" if no_deepspeed else "deepspeed"]
    for name, recipe in scale.recipes.items():
        layers = fitting_layers(recipe, memory, state_bytes)
        findings.depths[name] = Depth(
            recipe.model, layers, recipe.train.tokens_per_step, memory, state_bytes
        )
    measure_models(session, scale, findings)
    return findings


def measure_models(session: Session, scale: Scale, findings: Findings) -> None:
    entrants = contenders(with_gpu_packages=True)
    for phase, model, contender in (
        ("7B ours", "LLaMA-7B", OURS),
        ("7B stock", "LLaMA-7B", STOCK),
        ("7B checkpointed", "LLaMA-7B", CHECKPOINTED),
        ("13B ours", "LLaMA-13B", OURS),
        ("13B stock", "LLaMA-13B", STOCK),
        ("7B Liger", "LLaMA-7B", LIGER),
        ("7B compiled", "LLaMA-7B", COMPILED),
    ):
        session.phase(phase)
        runs = findings.runs.setdefault(model, {})
        if entrants[contender].missing:
            runs[contender] = Run(missing=entrants[contender].missing)
            continue
        depth = findings.depths[model]
        recipe = with_depth(scale.recipes[model], depth.layers)
        known = None
        if contender == COMPILED:
            # Chosen by stock: each shape would be compiled anew.
            known = runs.get(STOCK, Run()).candidate or Candidate(1)
        arguments = {"recipe": recipe, "contender": contender, "attention": findings.attention}
        left = depth.memory_bytes * ALMOST_ALL - depth.state_bytes * recipe.model.num_parameters
        tried = candidates(scale, recipe, contender, left)
        runs[contender] = run = one_run(session, arguments, tried, known)
        if contender == OURS and not depth.is_whole and run.candidate is not None:
            arguments["recipe"] = with_depth(scale.recipes[model], depth.half)
            findings.half_runs[model] = one_run(session, arguments, [], run.candidate)


def one_run(
    session: Session,
    arguments: dict[str, Any],
    tried: list[Candidate],
    known: Candidate | None,
) -> Run:
    """Search for the best candidate, unless it is `known`, and time full steps of it."""
    layers = arguments["recipe"].model.num_hidden_layers
    what = f"{arguments['contender']}, {layers} layers"
    run = Run(candidate=known)
    if known is None:
        run.search = session.run(
            f"search of {what}",
            gpu_training.search,
            {**arguments, "candidates": tried},
            share=0.5,
        )
        found = [record for record in run.search if "tokens_per_second" in record]
        if not found:
            session.note(what, "no candidate was measured")
            return run
        best = max(found, key=lambda record: record["tokens_per_second"])
        run.candidate = Candidate(best["micro_batch_size"], best["policy"])
    run.add_timed(
        session.run(
            f"steps of {what}", gpu_training.timed, {**arguments, "candidate": run.candidate}
        )
    )
    return run


def candidates(
    scale: Scale, recipe: Recipe, contender: str, memory_bytes: float
) -> list[Candidate]:
    """Micro-batch sizes, for the fused layer with each save policy for which they should fit."""
    rows = recipe.train.tokens_per_step // recipe.train.sequence_length
    sizes = [size for size in scale.micro_batch_sizes if rows % size == 0]
    if contender != OURS:
        return [Candidate(size) for size in sizes]

    def need(size: int, policy: SavePolicyName) -> int:
        train = dataclasses.replace(recipe.train, micro_batch_size=size, save_policy=policy)
        estimate = estimate_memory(dataclasses.replace(recipe, train=train), dp_size=1)
        return max(phase.activations + phase.loss for phase in estimate.phases().values())

    pairs = [(size, policy) for policy in POLICIES for size in sizes]
    fitting = [Candidate(*pair) for pair in pairs if need(*pair) <= memory_bytes]
    # The smallest is tried whatever the estimate says.
    return fitting or [Candidate(sizes[0], "layer_input")]


# -- what fits ------------------------------------------------------------------------------------


def fitting_layers(recipe: Recipe, memory_bytes: int, state_bytes: int) -> int:
    """Layers with which a full step of stock transformers fits at one sequence per micro-batch.

    Full depth, or else an even number: half of it is measured as well. Stock saves 10 d + 4 f
    elements per token and layer in bf16, and its norms' inputs in fp32, d + d elements more
    (`benchmarks/model/layer.py`), and its logits in bf16 and fp32 with the gradients of
    both.
    """
    model, tokens = recipe.model, recipe.train.sequence_length
    outside = model.num_parameters - model.num_hidden_layers * model.num_layer_parameters
    fixed = outside * state_bytes + tokens * model.vocab_size * (2 + 4 + 4 + 2)
    saved = tokens * (12 * model.hidden_size + 4 * model.intermediate_size) * 2
    per_layer = model.num_layer_parameters * state_bytes + saved
    layers = int((memory_bytes * USABLE - fixed) // per_layer)
    if layers >= model.num_hidden_layers:
        return model.num_hidden_layers
    return max(2, layers - layers % 2)


def with_depth(recipe: Recipe, layers: int) -> Recipe:
    model = dataclasses.replace(recipe.model, num_hidden_layers=layers)
    return dataclasses.replace(recipe, model=model)


def fastest_kernel(kernels: list[Record]) -> AttentionName:
    """The fastest correct attention kernel; auto where none was measured."""
    right = [record for record in kernels if record.get("is_right")]
    if not right:
        return "auto"
    name: AttentionName = min(right, key=lambda record: record["seconds"])["kernel"]
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description="LLaMA's training steps on one large GPU")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    parser.add_argument("--budget-seconds", type=float, default=480.0)
    parser.add_argument("--without-deepspeed", action="store_true", help="also where it is there")
    parser.add_argument("--rehearse", action="store_true", help="everything in a tiny size")
    arguments = parser.parse_args()
    device, code = results.device_of_choice(), results.commit()
    if device.type == "cpu" and not arguments.rehearse:
        parser.error("there is no GPU; --rehearse runs in a tiny size on the CPU")
    no_deepspeed = "as asked for" if arguments.without_deepspeed else without_deepspeed()
    if no_deepspeed:
        print(f"steps run without DeepSpeed, in the same arithmetic: {no_deepspeed}")
    scale = rehearsal_scale() if arguments.rehearse else full_scale()
    session = Session(Worker(deepspeed=not no_deepspeed), arguments.budget_seconds)
    try:
        findings = measure(session, scale, device, no_deepspeed, rehearse=arguments.rehearse)
    finally:
        session.worker.close()
    findings.seconds = time.monotonic() - session.start
    what = "rehearsal" if arguments.rehearse else "gpu"
    stem = results.result_stem(arguments.out, what, device)
    # The numbers are written first: they are kept if formatting the text fails.
    results.write_json(stem, gpu_report.raw(findings))
    print(results.write_markdown(stem, gpu_report.paragraphs(findings, code)))


if __name__ == "__main__":
    main()
