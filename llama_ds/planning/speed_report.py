"""The plan's section on speed and cost, as text: what is predicted, what binds, what would help."""

from __future__ import annotations

import math

from llama_ds.config import Recipe
from llama_ds.planning.hardware import Cluster
from llama_ds.planning.prediction import BAND, CARBON_PER_KWH, PUE, Prediction, predict_recipe
from llama_ds.planning.search import search

SHOWN_SHARE = 0.01
"""Terms below this share of the step are summed up."""
WORTH_CHANGING = 1.03
"""A layout that is predicted at least so much faster is named."""
CHECKPOINT_BYTES = 12
"""Per parameter: fp32 weights and Adam's two moments."""
TOKEN_IDS_16_BIT = 65_536
"""Vocabularies up to this size are stored as uint16, larger ones as uint32."""


def speed_lines(
    recipe: Recipe,
    world_size: int,
    cluster: Cluster,
    *,
    price_per_gpu_hour: float | None = None,
    paper_tokens_per_second: int | None = None,
) -> list[str]:
    """Lines of the plan; ValueError where ranks or batch do not divide."""
    found = predict_recipe(recipe, world_size, cluster)
    if found is None:
        return [f"not predicted for train.dtype {recipe.train.dtype}: the model is fitted on bf16"]
    lines = [_rate(found), *_terms(found)]
    lines.append(
        f"MFU {found.mfu(causal=False):.1%} counting full attention scores, "
        f"{found.mfu(causal=True):.1%} counting the causal half, of "
        f"{cluster.gpu.peak_flops / 1e12:,.1f} TFLOP/s"
    )
    lines += _cost(found, price_per_gpu_hour)
    lines += _disk(recipe)
    if paper_tokens_per_second is not None:
        lines.append(
            f"the paper's A100-80GB at 2,048 tokens: {paper_tokens_per_second:,} tokens/s per GPU"
        )
    return lines + _advice(recipe, found)


def _rate(found: Prediction) -> str:
    likely = found.tokens_per_second
    return (
        f"{likely / (1 + BAND):,.0f} to {likely / (1 - BAND):,.0f} tokens/s per GPU, likely "
        f"{likely:,.0f}; seven in eight published speeds lie in such a band"
    )


def _terms(found: Prediction) -> list[str]:
    total, rest = found.seconds, 0.0
    tokens = found.workload.rows_per_step * found.workload.sequence_length
    of = f" of {tokens:,} tokens, the last batch size" if found.has_other_batches else ""
    lines = [f"{total:.2f} s per step{of}:"]
    for name, seconds in found.terms().items():
        if seconds < SHOWN_SHARE * total:
            rest += seconds
        else:
            lines.append(f"  {name:<20} {seconds:8.2f} s {seconds / total:6.1%}")
    if rest > 0:
        lines.append(f"  {'other':<20} {rest:8.2f} s {rest / total:6.1%}")
    return lines


def _cost(found: Prediction, price: float | None) -> list[str]:
    lines = [
        f"{found.days:.1f} days, {found.gpu_hours:,.0f} GPU-hours, without restarts",
        f"{found.kilowatt_hours / 1e3:,.1f} MWh, {found.carbon_tonnes:,.1f} t of CO2 equivalent, "
        f"by the paper's formula: {found.cluster.gpu.watts:.0f} W per GPU, PUE {PUE}, "
        f"{CARBON_PER_KWH} kg per kWh",
    ]
    if price is not None:
        lines.append(f"price {price * found.gpu_hours:,.0f} at {price:g} per GPU-hour")
    return lines


def _disk(recipe: Recipe) -> list[str]:
    one = CHECKPOINT_BYTES * recipe.model.num_parameters
    tokens = recipe.train.batches.tokens_before(recipe.train.num_steps)
    width = 2 if recipe.model.vocab_size <= TOKEN_IDS_16_BIT else 4
    checkpoint, num_steps = recipe.checkpoint, recipe.train.num_steps
    kept = checkpoint.keep_last
    words = f"the last {kept} {kept * one / 1e12:.2f} TB"
    if not kept:
        number = num_steps // checkpoint.every_steps
        words = f"all {number:,}, which are kept, {number * one / 1e12:,.2f} TB"
    elif checkpoint.keep_every:
        number = num_steps // math.lcm(checkpoint.keep_every, checkpoint.every_steps)
        words += f"; {number:,} are kept for good, {number * one / 1e12:,.2f} TB"
    return [
        f"a checkpoint has {one / 1e9:,.0f} GB, {words}",
        f"token store: {width * tokens / 1e12:.2f} TB, were every token of the run used once",
    ]


def _advice(recipe: Recipe, found: Prediction) -> list[str]:
    """The largest term that is not the model's own arithmetic, and a faster layout."""
    terms = found.terms()
    arithmetic = ("matmuls", "attention", "head")
    name = max((n for n in terms if n not in arithmetic), key=lambda n: terms[n])
    binding = f"{terms[name] / found.seconds:.0%} of the step is {_WHAT.get(name, name)}"
    best = next(iter(search(recipe, found.workload.world_size, found.cluster)), None)
    if best is None:
        return [binding]
    ratio = best.prediction.tokens_per_second / found.tokens_per_second
    if ratio < WORTH_CHANGING:
        return [f"{binding}; no layout that fits is predicted 3 % faster"]
    return [f"{binding}: {best.options} is predicted {ratio:.2f} x as fast"]


_WHAT = {
    "zero collectives": "waiting for gradients and weights between replicas",
    "tp collectives": "waiting for tensor parallelism",
    "sp collectives": "waiting for sequence parallelism",
    "recomputation": "recomputing activations",
    "elementwise": "elementwise functions, bound by memory bandwidth",
    "scale": "stragglers and jitter of many GPUs",
    "optimizer": "the optimizer's update",
    "data loading": "waiting for data",
    "checkpoint": "stopping for checkpoints",
}
