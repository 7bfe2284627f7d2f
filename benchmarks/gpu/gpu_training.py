"""Hardware ceilings of the device, and full training steps of one contender."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.gpu_worker import Bench, Record
from benchmarks.measuring.results import hardware, seconds, synchronize
from benchmarks.model.contenders import COMPILED, Contender, contenders
from benchmarks.model.steppers import BACKWARD, FORWARD, HEAD, Parts, Stepper
from llama_ds.config import AttentionName, Recipe
from llama_ds.hf_config import hf_config
from llama_ds.layer.options import LayerOptions
from llama_ds.metrics import PEAK_TFLOPS_BF16, measured_matmul_tflops
from llama_ds.save_policy import PRESETS, SavePolicyName

TIMED_STEPS = 4
SEARCH_MICRO_BATCHES = 2

# -- ceilings -------------------------------------------------------------------------------------


def ceilings(bench: Bench, *, seconds: float, copy_bytes: int) -> None:
    """Device name, and its matmul and copy throughput."""
    device, is_cuda = bench.device, bench.device.type == "cuda"
    name = hardware(device)
    bench.emit(
        {
            "device": name,
            "memory_bytes": torch.cuda.mem_get_info(device)[1] if is_cuda else None,
            "cuda": torch.version.cuda if is_cuda else None,
            "data_sheet_tflops": next((t for key, t in PEAK_TFLOPS_BF16 if key in name), None),
        }
    )
    bench.emit({"matmul_tflops": measured_matmul_tflops(device, torch.bfloat16, seconds)})
    source = torch.zeros(copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = min(_wall_seconds(lambda: target.copy_(source), device) for _ in range(10))
    # Each byte is read and written.
    bench.emit({"copy_gb_per_second": 2 * copy_bytes / best / 1e9})


def _wall_seconds(run: Any, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


# -- training -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Candidate:
    micro_batch_size: int
    policy: SavePolicyName | None = None
    """Save policy of the fused layer; None for stock."""


REPEATS_MATMULS: tuple[SavePolicyName, ...] = ("no_mlp", "layer_input")
"""Worth trying only with micro-batches for which other policies save too much."""


def search(
    bench: Bench,
    *,
    recipe: Recipe,
    contender: str,
    attention: AttentionName,
    candidates: list[Candidate],
) -> None:
    """Throughput of forward and backward of each candidate, while time remains."""
    recipe = with_batch(recipe, micro_batch_size=1, num_rows=SEARCH_MICRO_BATCHES)
    entrant = contenders(with_gpu_packages=True)[contender]
    model, stepper = _built(bench, recipe, entrant)
    fitting_sizes, last = set(), 0.0
    for number, candidate in enumerate(candidates):
        size = candidate.micro_batch_size
        if candidate.policy in REPEATS_MATMULS and size in fitting_sizes:
            continue
        start = time.monotonic()
        if number > 0 and bench.seconds_left < 2 * last:
            bench.emit({"given_up": len(candidates) - number})
            break
        _choose(model, candidate.policy, attention)
        try:
            with entrant.surroundings():
                result = _rate(stepper, recipe, size, bench.device)
        except torch.OutOfMemoryError:
            result = {"out_of_memory": True}
        bench.emit({**dataclasses.asdict(candidate), **result})
        last = time.monotonic() - start
        if "out_of_memory" not in result:
            fitting_sizes.add(size)
        elif candidate.policy is None or not stepper.forget():
            # Stock's candidates grow, so larger ones fail too; a DeepSpeed engine cannot recover.
            break
    stepper.close()


def _rate(stepper: Stepper, recipe: Recipe, size: int, device: torch.device) -> Record:
    length, parts = recipe.train.sequence_length, Parts(device)
    batches = _tokens(recipe, (SEARCH_MICRO_BATCHES, size, length), device)
    _reset_peak(device)
    stepper.step(batches)
    stepper.step(batches, parts)
    spent = parts.seconds()
    duration = sum(spent[part] for part in (FORWARD, HEAD, BACKWARD))
    tokens = SEARCH_MICRO_BATCHES * size * length
    return {"tokens_per_second": tokens / duration, "peak_bytes": _peak(device)}


def timed(
    bench: Bench,
    *,
    recipe: Recipe,
    contender: str,
    attention: AttentionName,
    candidate: Candidate,
) -> None:
    """Full steps of `recipe`'s tokens; fewer where its time ends earlier."""
    rows = recipe.train.tokens_per_step // recipe.train.sequence_length
    recipe = with_batch(recipe, candidate.micro_batch_size, rows)
    entrant = contenders(with_gpu_packages=True)[contender]
    model, stepper = _built(bench, recipe, entrant)
    _choose(model, candidate.policy, attention)
    num_batches = rows // candidate.micro_batch_size
    shape = (num_batches, candidate.micro_batch_size, recipe.train.sequence_length)
    batches = _tokens(recipe, shape, bench.device)
    with entrant.surroundings():
        bench.emit({"first_loss": stepper.step(batches)})
        _reset_peak(bench.device)
        durations: list[float] = []
        for _ in range(TIMED_STEPS):
            if durations and bench.seconds_left < 2 * statistics.median(durations):
                break
            duration, loss = seconds(lambda: stepper.step(batches), bench.device)
            durations.append(duration)
            bench.emit({"step_seconds": duration, "loss": loss, "peak_bytes": _peak(bench.device)})
        if contender != COMPILED and bench.seconds_left > statistics.median(durations):
            parts = Parts(bench.device)
            stepper.step(batches, parts)
            bench.emit({"parts": parts.seconds()})
    stepper.close()


def with_batch(recipe: Recipe, micro_batch_size: int, num_rows: int) -> Recipe:
    """`recipe` with `num_rows` sequences per step."""
    train = dataclasses.replace(
        recipe.train,
        micro_batch_size=micro_batch_size,
        tokens_per_step=num_rows * recipe.train.sequence_length,
    )
    return dataclasses.replace(recipe, train=train)


def _built(bench: Bench, recipe: Recipe, entrant: Contender) -> tuple[Any, Stepper]:
    config = hf_config(recipe.model, bos_token_id=1, eos_token_id=2, dtype=torch.bfloat16)
    model = entrant.build(config, bench.device)
    return model, bench.make_stepper(model, recipe)


def _choose(model: Any, policy: SavePolicyName | None, attention: AttentionName) -> None:
    if policy is not None:
        model.model.layer_options = LayerOptions(save_policy=PRESETS[policy], attention=attention)


def _tokens(recipe: Recipe, shape: tuple[int, int, int], device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(recipe.model.vocab_size, shape, generator=generator)
    return list(tokens.to(device).unbind(0))


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
