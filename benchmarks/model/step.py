"""Full training step: stock transformers and this project's model under one configuration.

    python -m benchmarks.model.step [--compile] [--without-deepspeed] [--rehearse] [--out FOLDER]

A step is forward, loss, backward and optimizer over several micro-batches, through DeepSpeed with
the configuration that a recipe would generate, on one rank. Every contender has its own engine,
with the same initial weights, and sees the same tokens. They take turns in every round, in another
order; a ratio is the median over rounds of ratios within a round. On a CPU, time is CPU time of the
process on one thread. Where DeepSpeed is missing, or with `--without-deepspeed`, all of them step
with the same arithmetic without it.

Activation memory is that of one micro-batch, from the embedding to the loss: bytes saved for
backward, as counted by autograd's saved-tensor hooks, and the peak of forward and backward.
`--compile` adds our layer with its elementwise functions through torch.compile. `--rehearse` runs
everything in a small size.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import results as report
from benchmarks.measuring.turns import shuffled
from benchmarks.model.activation_memory import peak_bytes, saved_bytes
from benchmarks.model.contenders import (
    CHECKPOINTED,
    COMPILED,
    LIGER,
    STOCK,
    Contender,
    contenders,
    ours,
)
from benchmarks.model.steppers import Stepper, loss_of, stepping, without_deepspeed
from benchmarks.model.targets import target_table
from llama_ds.config import DataConfig, OptimizerConfig, Recipe, TrainConfig
from llama_ds.hf_config import hf_config
from llama_ds.model_config import ModelConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OURS = ours("linear_outputs")


@dataclass(frozen=True)
class Size:
    """Sizes of the measurement."""

    model: ModelConfig
    micro_batch_size: int
    grad_accum_steps: int
    sequence_length: int
    rounds: int
    dtypes: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return self.micro_batch_size * self.sequence_length

    def recipe(self, dtype: Any) -> Recipe:
        """Source of the DeepSpeed configuration; it reads no data."""
        return Recipe(
            name="step",
            run_dir=Path("unused"),
            model=self.model,
            optimizer=OptimizerConfig(peak_learning_rate=3e-4, warmup_steps=0),
            train=TrainConfig(
                sequence_length=self.sequence_length,
                tokens_per_step=self.tokens * self.grad_accum_steps,
                micro_batch_size=self.micro_batch_size,
                max_steps=1_000_000,
                dtype=dtype,
            ),
            data=DataConfig(store=Path("unused")),
        )


@dataclass(frozen=True)
class Result:
    contender: str
    dtype: str
    missing: str
    """Why there are no numbers; empty where there are."""
    saved_bytes: int = 0
    """Of a micro-batch."""
    peak_bytes: int = 0
    step_seconds: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    """Of every step from the first, warm-up included."""


def size_of(device: torch.device, rehearse: bool) -> Size:
    if rehearse:
        return Size(_model(64, 176, 2, 4, 256), 1, 2, 32, 2, tuple(DTYPES))
    if device.type == "cuda":
        # All contenders' weights and optimizer states are on the GPU together.
        return Size(_model(2_048, 5_632, 4, 16, 32_000), 4, 4, 2_048, 7, ("bf16",))
    return Size(_model(512, 1_376, 6, 8, 2_048), 1, 4, 1_024, 5, tuple(DTYPES))


def _model(hidden: int, intermediate: int, layers: int, heads: int, vocab: int) -> ModelConfig:
    return ModelConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocab,
    )


# -- measuring ------------------------------------------------------------------------------------


def measure(
    size: Size,
    dtype: str,
    device: torch.device,
    make_stepper: Callable[[nn.Module, Recipe], Stepper],
    with_compiled: bool,
) -> list[Result]:
    tokens = torch.Generator().manual_seed(1)
    shape = (size.grad_accum_steps, size.micro_batch_size, size.sequence_length)
    batches = list(
        torch.randint(size.model.vocab_size, shape, generator=tokens).to(device).unbind(0)
    )
    entrants = contenders(with_gpu_packages=device.type == "cuda", with_compiled=with_compiled)
    missing = {name: entrant.missing for name, entrant in entrants.items() if entrant.missing}
    steppers: dict[str, Stepper] = {}
    memory: dict[str, tuple[int, int]] = {}
    for name, entrant in entrants.items():
        if name in missing:
            continue
        config = hf_config(size.model, bos_token_id=1, eos_token_id=2, dtype=DTYPES[dtype])
        try:
            model = entrant.build(config, device)
            memory[name] = activation_memory(entrant, model, batches[0], device)
            steppers[name] = make_stepper(model, size.recipe(dtype))
        except Exception as error:
            if name not in (LIGER, COMPILED):
                raise
            # A contender's failure is a result, too, and must not end the others.
            missing[name] = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    losses: dict[str, list[float]] = {name: [] for name in steppers}
    for round_number in range(size.rounds + 1):
        for name, stepper in shuffled(steppers, round_number):
            gc.collect()
            with entrants[name].surroundings():
                duration, loss = report.seconds(partial(stepper.step, batches), device)
            losses[name].append(loss)
            # The first round warms up caches, the allocator and compilers.
            if round_number > 0:
                seconds[name].append(duration)
    for stepper in steppers.values():
        stepper.close()
    return [
        Result(name, dtype, missing[name])
        if name in missing
        else Result(name, dtype, "", *memory[name], tuple(seconds[name]), tuple(losses[name]))
        for name in entrants
    ]


def activation_memory(
    entrant: Contender, model: Any, input_ids: Tensor, device: torch.device
) -> tuple[int, int]:
    """(saved, peak) bytes of one micro-batch."""

    def forward_and_backward() -> None:
        loss_of(model, input_ids).backward()

    with entrant.surroundings():
        saved = saved_bytes(model, lambda: loss_of(model, input_ids))
        # Once before, so that the accumulated gradients of weights are not part of the peak.
        forward_and_backward()
        peak = peak_bytes(forward_and_backward, device)
    model.zero_grad(set_to_none=True)
    return saved, peak


# -- reporting ------------------------------------------------------------------------------------

HEADER = (
    "",
    "saved bytes / token",
    "of stock",
    "peak bytes / token",
    "of stock",
    "step s",
    "step / stock",
    "step / checkpointed",
    "loss after the last step",
)


def table(results: list[Result], tokens: int) -> str:
    """Markdown; ratios are to stock transformers, and to it with gradient checkpointing."""
    by_name = {result.contender: result for result in results}
    stock, checkpointed = by_name[STOCK], by_name[CHECKPOINTED]
    rows = []
    for result in results:
        if result.missing:
            rows.append([result.contender, result.missing, *[""] * (len(HEADER) - 2)])
            continue
        rows.append(
            [
                result.contender,
                f"{result.saved_bytes / tokens:,.0f}",
                f"{result.saved_bytes / stock.saved_bytes:.3f}",
                f"{result.peak_bytes / tokens:,.0f}",
                f"{result.peak_bytes / stock.peak_bytes:.3f}",
                f"{statistics.median(result.step_seconds):.3f}",
                f"{report.paired_ratio(result.step_seconds, stock.step_seconds):.3f}",
                f"{report.paired_ratio(result.step_seconds, checkpointed.step_seconds):.3f}",
                f"{result.losses[-1]:.4f}",
            ]
        )
    return report.table(HEADER, rows)


def targets(results: list[Result]) -> str:
    """Targets of `OURS`, and the measurements."""
    by_name = {result.contender: result for result in results}
    own, stock, checkpointed = by_name[OURS], by_name[STOCK], by_name[CHECKPOINTED]
    return target_table(
        OURS,
        str(DTYPES[own.dtype]).removeprefix("torch."),
        report.paired_ratio(own.step_seconds, stock.step_seconds),
        report.paired_ratio(checkpointed.step_seconds, own.step_seconds),
        own.saved_bytes / stock.saved_bytes,
    )


def paragraphs(
    size: Size, results: list[Result], device: torch.device, no_deepspeed: str, code: str
) -> list[str]:
    model, is_cuda = size.model, device.type == "cuda"
    through = (
        f"In the arithmetic of the same configuration without DeepSpeed: {no_deepspeed}."
        if no_deepspeed
        else "Through DeepSpeed at ZeRO-1, one configuration for all."
    )
    parts = [
        "# The whole training step: time and activation memory",
        f"{model.num_hidden_layers} layers, hidden_size {model.hidden_size}, intermediate_size "
        f"{model.intermediate_size}, {model.num_attention_heads} heads, vocabulary "
        f"{model.vocab_size}; {size.grad_accum_steps} micro-batches of {size.micro_batch_size} x "
        f"{size.sequence_length} tokens per step, {size.rounds} rounds; {report.hardware(device)}, "
        f"one rank, {'wall time' if is_cuda else 'one thread, CPU time of the process'}, medians.",
        through,
        f"{report.versions('torch', 'transformers', 'deepspeed', 'liger-kernel')}, commit {code}. "
        f"Command: `{report.command()}`.",
        "Bytes are those of one micro-batch, weights and accumulated gradients left out. Our loss "
        "computes the gradient of the head's weight in the forward pass; it is counted as saved, "
        f"{model.vocab_size * model.hidden_size:,} elements whatever the number of tokens.",
    ]
    for dtype in size.dtypes:
        chosen = [result for result in results if result.dtype == dtype]
        parts += [f"## {dtype}", table(chosen, size.tokens), targets(chosen)]
    parts.append(
        "Not measured: grouped-query heads; packed documents; several ranks"
        + ("." if is_cuda else "; any GPU, and there stock + Liger and stock + torch.compile.")
    )
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description="time and memory of a whole training step")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--without-deepspeed", action="store_true", help="also where it is there")
    parser.add_argument("--compile", action="store_true", help="our layer with torch.compile, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device, code = report.device_of_choice(), report.commit()
    size = size_of(device, arguments.rehearse)
    no_deepspeed = "as asked for" if arguments.without_deepspeed else without_deepspeed()
    # Objects made by imports are frozen: DeepSpeed and the rounds below run the garbage collector
    # often.
    gc.collect()
    gc.freeze()
    results = []
    with stepping(device, deepspeed=not no_deepspeed) as make_stepper:
        for dtype in size.dtypes:
            results += measure(size, dtype, device, make_stepper, arguments.compile)
    stem = report.result_stem(arguments.out, "step", device)
    parts = paragraphs(size, results, device, no_deepspeed, code)
    print(report.write(stem, parts, [asdict(result) for result in results]))


if __name__ == "__main__":
    main()
