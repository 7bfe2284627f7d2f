"""Activation memory and communication volume per rank against the formulas; longest sequence.

    python -m benchmarks.model.parallelism [--out benchmarks/results] [--rehearse]

Four processes on one CPU with gloo run every layout in turn; where a layout needs fewer, the others
are data-parallel replicas. Three measurements:

- bytes that one more layer saves for backward, as counted by autograd's saved-tensor hooks;
- bytes that one more layer sends, forward and backward, counted at PyTorch's collectives;
- the longest sequence that can be trained within a budget for activations: the peak of forward and
  backward pass of a whole model, without weights and their gradients.

`--rehearse` runs everything in a small size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from benchmarks.measuring.results import (
    RESULTS,
    commit,
    hardware,
    result_stem,
    table,
    versions,
    write,
)
from benchmarks.model.activation_memory import peak_bytes, saved_bytes
from benchmarks.model.wire import sent_bytes
from llama_ds.hf_config import hf_config
from llama_ds.layer.options import LayerOptions
from llama_ds.loss import DEFAULT_LOSS_CHUNK_TOKENS
from llama_ds.model import LlamaForCausalLM
from llama_ds.model_config import ModelConfig
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel_config import ParallelConfig
from llama_ds.planning.activation_memory import activation_bytes
from llama_ds.planning.traffic import layer_traffic
from llama_ds.save_policy import PRESETS, SavePolicyName

WORLD_SIZE = 4
CPU = torch.device("cpu")
DTYPE, WIDTH = torch.bfloat16, 2
LAYOUTS = [
    ParallelConfig(tp=1),
    ParallelConfig(tp=2, sequence_parallel=False),
    ParallelConfig(tp=2),
    ParallelConfig(tp=4, sequence_parallel=False),
    ParallelConfig(tp=4),
    ParallelConfig(sp=2),
    ParallelConfig(sp=4),
    ParallelConfig(tp=2, sp=2),
]
POLICIES: list[SavePolicyName] = ["keep_all", "linear_outputs"]


@dataclass(frozen=True)
class Size:
    """Sizes of the measurement."""

    model: ModelConfig
    """For the longest sequence; saved and sent bytes are those of its second layer."""
    tokens: int
    """Sequence length for saved and sent bytes."""
    budget_bytes: int
    """Activation memory, in the search of the longest sequence."""
    step_tokens: int
    """Sequence lengths are multiples of this, the resolution of the longest."""


@dataclass(frozen=True)
class Variant:
    """A way to save memory on long sequences."""

    name: str
    policy: SavePolicyName
    mlp_tiles: int = 1


@dataclass(frozen=True)
class LayerResult:
    """Bytes of one rank for one layer and `tokens` in whole sequences."""

    layout: str
    policy: str
    kept: int
    kept_predicted: int
    forward: dict[str, int]
    """Collective -> bytes sent."""
    forward_predicted: dict[str, int]
    backward: dict[str, int]
    backward_predicted: dict[str, int]


@dataclass(frozen=True)
class LengthResult:
    sp: int
    variant: str
    longest: int
    peak_bytes: int
    """At that length; the maximum over ranks."""


@dataclass(frozen=True)
class Results:
    layers: list[LayerResult]
    lengths: list[LengthResult]


def size_of(rehearse: bool) -> Size:
    hidden_size, intermediate_size, num_layers, vocab_size = (
        (64, 176, 1, 64) if rehearse else (256, 688, 4, 1_024)
    )
    model = ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=vocab_size,
        max_position_embeddings=2**20,
    )
    return Size(model, 64, 2**19, 64) if rehearse else Size(model, 1_024, 2**25, 128)


def variants() -> list[Variant]:
    return [
        Variant("linear_outputs", "linear_outputs"),
        Variant("no_mlp", "no_mlp"),
        Variant("no_mlp, 8 MLP tiles", "no_mlp", 8),
    ]


def name_of(parallel: ParallelConfig) -> str:
    megatron = ", Megatron sp" if parallel.tp > 1 and parallel.sequence_parallel else ""
    return f"tp {parallel.tp}, sp {parallel.sp}{megatron}"


# -- measuring, on every rank ---------------------------------------------------------------------


def built(
    model: ModelConfig,
    parallel: ParallelConfig,
    groups: ParallelGroups,
    policy: SavePolicyName,
    mlp_tiles: int = 1,
) -> Any:
    torch.manual_seed(0)
    causal_lm: Any = LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
        hf_config(model, bos_token_id=1, eos_token_id=2, dtype=DTYPE),
        dtype=DTYPE,
        groups=groups,
        sequence_parallel=parallel.sequence_parallel,
        layer_options=LayerOptions(save_policy=PRESETS[policy], mlp_tiles=mlp_tiles),
    )
    return causal_lm.train()


def layer_result(
    size: Size, parallel: ParallelConfig, groups: ParallelGroups, policy: SavePolicyName
) -> LayerResult:
    """What a second layer adds to a stack of one."""
    one, two = (
        _stack_bytes(
            built(replace(size.model, num_hidden_layers=n), parallel, groups, policy), size
        )
        for n in (1, 2)
    )
    predicted = layer_traffic(PRESETS[policy], size.model, parallel, size.tokens, WIDTH)
    return LayerResult(
        layout=name_of(parallel),
        policy=policy,
        kept=two[0] - one[0],
        kept_predicted=activation_bytes(PRESETS[policy], size.model, parallel, size.tokens, WIDTH),
        forward=dict(two[1] - one[1]),
        forward_predicted=dict(predicted.forward),
        backward=dict(two[2] - one[2]),
        backward_predicted=dict(predicted.backward),
    )


def _stack_bytes(causal_lm: Any, size: Size) -> tuple[int, Counter[str], Counter[str]]:
    """(saved, sent forward, sent backward) of the layers."""
    stack, sp = causal_lm.model, causal_lm.sp
    inputs = torch.ones(1, size.tokens // sp.size, size.model.hidden_size, dtype=DTYPE)
    inputs.requires_grad_()

    def forward() -> Tensor:
        output: Tensor = stack(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return output

    kept = saved_bytes(stack, forward)
    sent_forward, output = sent_bytes(forward)
    sent_backward, _ = sent_bytes(lambda: output.sum().backward())
    return kept, sent_forward, sent_backward


def length_result(size: Size, groups: ParallelGroups, variant: Variant) -> LengthResult:
    sp = groups.sp_size
    parallel = ParallelConfig(sp=sp)
    model = built(size.model, parallel, groups, variant.policy, variant.mlp_tiles)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def peak(length: int) -> int:
        tokens = torch.zeros(1, length // sp, dtype=torch.long)

        def step() -> None:
            model(input_ids=tokens, shift_labels=tokens, num_items_in_batch=length).loss.backward()

        own = torch.tensor(peak_bytes(step, CPU))
        dist.all_reduce(own, op=dist.ReduceOp.MAX)
        return int(own)

    peak(size.step_tokens)  # warm-up: one-time allocations of libraries
    longest, its_peak = longest_within(size.budget_bytes, peak, size.step_tokens)
    return LengthResult(sp, variant.name, longest, its_peak)


def longest_within(budget: int, peak: Callable[[int], int], step: int) -> tuple[int, int]:
    """(the longest multiple of `step` whose peak is within `budget`, its peak).

    By doubling and bisection, each length measured once: gloo's threads hold tensors for varying
    times, so that peaks vary between runs.
    """
    fits, its_peak, too_long = 0, 0, 1
    while (found := peak(too_long * step)) <= budget:
        fits, its_peak, too_long = too_long, found, 2 * too_long
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if (found := peak(middle * step)) <= budget:
            fits, its_peak = middle, found
        else:
            too_long = middle
    assert fits > 0, f"{budget} bytes do not hold a row of {step} tokens"
    return fits * step, its_peak


def measure(size: Size) -> Results:
    """Run by each of the four processes; all return the same results."""
    sizes = dict.fromkeys((layout.tp, layout.sp) for layout in LAYOUTS)
    with contextlib.ExitStack() as stack:
        groups = {
            (tp, sp): stack.enter_context(ParallelGroups.build(tp_size=tp, sp_size=sp))
            for tp, sp in sizes
        }
        return Results(
            layers=[
                layer_result(size, layout, groups[layout.tp, layout.sp], policy)
                for policy in POLICIES
                for layout in LAYOUTS
            ],
            lengths=[
                length_result(size, groups[1, sp], variant)
                for variant in variants()
                for sp in (1, 2, 4)
            ],
        )


def work(rank: int, folder: Path, size: Size) -> None:
    """One process; rank 0 writes the results into `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE
    )
    results = measure(size)
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(asdict(results)), encoding="utf-8")
    dist.destroy_process_group()


# -- reporting ------------------------------------------------------------------------------------


def layer_tables(results: list[LayerResult]) -> list[str]:
    """Markdown paragraphs: per save policy the bytes a rank saves and sends, beside the
    formulas."""
    header = ["", "kept", "formula", "of one rank"]
    header += ["sent forward", "formula", "sent backward", "formula"]
    paragraphs = []
    for policy in POLICIES:
        chosen = [result for result in results if result.policy == policy]
        rows = [
            [
                result.layout,
                f"{result.kept:,}",
                f"{result.kept_predicted:,}",
                f"{result.kept / chosen[0].kept:.3f}",
                f"{sum(result.forward.values()):,}",
                f"{sum(result.forward_predicted.values()):,}",
                f"{sum(result.backward.values()):,}",
                f"{sum(result.backward_predicted.values()):,}",
            ]
            for result in chosen
        ]
        paragraphs += [f"## Per layer and rank, save policy {policy}", table(header, rows)]
    return paragraphs


def length_table(results: list[LengthResult]) -> str:
    one = {result.variant: result.longest for result in results if result.sp == 1}
    rows = [
        [
            result.variant,
            str(result.sp),
            f"{result.longest:,}",
            f"{result.longest / one[result.variant]:.2f}",
            f"{result.peak_bytes / result.longest * result.sp:,.0f}",
        ]
        for result in results
    ]
    return table(
        ["", "sp", "longest row, tokens", "of sp 1", "peak bytes per token of a rank"], rows
    )


def plot(results: list[LengthResult], path: Path) -> None:
    """Longest sequence against sp."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4))
    for variant in dict.fromkeys(result.variant for result in results):
        chosen = [result for result in results if result.variant == variant]
        axis.plot([r.sp for r in chosen], [r.longest for r in chosen], "o-", label=variant)
    axis.set(xlabel="sp", ylabel="longest row, tokens", xticks=[1, 2, 4], ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def report(size: Size, results: Results, stem: Path, code: str) -> list[str]:
    """Markdown paragraphs."""
    model = size.model
    return [
        "# Parallel ranks: bytes kept, bytes sent, longest row",
        f"hidden_size {model.hidden_size}, intermediate_size {model.intermediate_size}, "
        f"{model.num_attention_heads} heads, {str(DTYPE).removeprefix('torch.')}; {WORLD_SIZE} "
        f"processes, gloo, {hardware(CPU)}. {versions('torch', 'transformers')}, commit {code}. "
        "Command: `python -m benchmarks.model.parallelism`.",
        f"Per layer: bytes of one rank for a row of {size.tokens:,} tokens, counted, and by the "
        "formulas of `planning/memory.py` and `planning/traffic.py`. `sp` is Ulysses. Collectives "
        "are charged with the least that any algorithm sends; the JSON has them one by one.",
        *layer_tables(results.layers),
        "## Longest row",
        f"{model.num_hidden_layers} layers, vocabulary {model.vocab_size:,}, loss in chunks of "
        f"{DEFAULT_LOSS_CHUNK_TOKENS:,} tokens: the most bytes that a forward and a "
        "backward pass hold at once, beside weights and gradients, within "
        f"{size.budget_bytes / 2**20:g} MiB, to {size.step_tokens} tokens.",
        length_table(results.lengths),
        f"![longest row against sp]({stem.name}.png)",
        "Not measured: time, any GPU or network.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="what parallel ranks keep and send")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    arguments = parser.parse_args()
    size, code = size_of(arguments.rehearse), commit()
    with tempfile.TemporaryDirectory() as name:
        spawn(work, (Path(name), size), nprocs=WORLD_SIZE)
        raw = json.loads((Path(name) / "results.json").read_text(encoding="utf-8"))
    results = Results(
        layers=[LayerResult(**result) for result in raw["layers"]],
        lengths=[LengthResult(**result) for result in raw["lengths"]],
    )
    stem = result_stem(arguments.out, "parallelism", CPU)
    print(write(stem, report(size, results, stem, code), raw))
    plot(results.lengths, stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
