"""Time and saved activations of a decoder layer: stock transformers, our plain and fused layer.

    python -m benchmarks.model.layer [--out benchmarks/results] [--compile] [--rehearse]

Every contender is a stack of layers with the same weights, in one process on one thread, on the GPU
where there is one. The contenders take turns in every round, in another order, so that changes of
machine speed affect all of them; a ratio is the median over rounds of ratios within a round. Every
round builds them anew: on a CPU the addresses of weights are worth 2 % of a step, for as long as
they stay. There, time is CPU time of the process, which other processes disturb least.

Saved bytes are what one more layer saves for backward, as counted by autograd's saved-tensor hooks.
`--compile` adds our layer with its elementwise functions through torch.compile. `--rehearse` runs
everything in a small size.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from benchmarks.measuring import results as report
from benchmarks.measuring.turns import shuffled
from benchmarks.model.activation_memory import saved_bytes
from benchmarks.model.contenders import CHECKPOINTED, STOCK, Contender, contenders, ours
from benchmarks.model.targets import target_table
from llama_ds.hf_config import hf_config
from llama_ds.model_config import ModelConfig
from llama_ds.parallel_config import ParallelConfig
from llama_ds.planning.activation_memory import activation_bytes
from llama_ds.save_policy import PRESETS

OURS = ours("linear_outputs")
WIDTHS = {torch.float32: 4, torch.bfloat16: 2}


@dataclass(frozen=True)
class Size:
    """Sizes of the measurement."""

    model: ModelConfig
    rows: int
    sequence_length: int
    rounds: int

    @property
    def tokens(self) -> int:
        return self.rows * self.sequence_length


@dataclass(frozen=True)
class Result:
    contender: str
    dtype: str
    saved_bytes_per_token: float
    """Of one layer."""
    predicted_bytes_per_token: float | None
    forward_seconds: list[float]
    backward_seconds: list[float]

    @property
    def step_seconds(self) -> list[float]:
        pairs = zip(self.forward_seconds, self.backward_seconds, strict=True)
        return [forward + backward for forward, backward in pairs]


def size_of(rehearse: bool) -> Size:
    shape = (64, 176, 2, 4) if rehearse else (512, 1_376, 6, 8)
    hidden_size, intermediate_size, num_layers, num_heads = shape
    model = ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        vocab_size=256,
    )
    return Size(model, *((1, 32, 2) if rehearse else (1, 1_024, 11)))


# -- building -------------------------------------------------------------------------------------


def built(contender: Contender, size: Size, dtype: torch.dtype, num_layers: int) -> Any:
    """The stack of layers without embedding and head."""
    config = hf_config(size.model, bos_token_id=1, eos_token_id=2, dtype=dtype)
    config.num_hidden_layers = num_layers
    return contender.build(config, report.device_of_choice()).model


# -- measuring ------------------------------------------------------------------------------------


def kept_bytes(stack: Any, inputs: Tensor) -> int:
    return saved_bytes(stack, lambda: stack(inputs_embeds=inputs, use_cache=False))


def one_step(stack: Any, inputs: Tensor, device: torch.device) -> tuple[float, float]:
    """Seconds of a forward and a backward pass."""
    stack.zero_grad()
    gradient = torch.ones_like(inputs)
    forward, output = report.seconds(lambda: stack(inputs_embeds=inputs, use_cache=False), device)
    hidden_states = output.last_hidden_state
    backward, _ = report.seconds(lambda: hidden_states.backward(gradient), device)
    return forward, backward


def measure(
    size: Size, dtype: torch.dtype, device: torch.device, with_compiled: bool
) -> list[Result]:
    generator = torch.Generator().manual_seed(1)
    shape = (size.rows, size.sequence_length, size.model.hidden_size)
    inputs = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
    entrants = contenders(with_gpu_packages=False, with_compiled=with_compiled)
    saved: dict[str, float] = {}
    for name, contender in entrants.items():
        one, two = (kept_bytes(built(contender, size, dtype, n), inputs) for n in (1, 2))
        saved[name] = (two - one) / size.tokens
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in entrants}
    for round_number in range(size.rounds):
        for name, contender in shuffled(entrants, round_number):
            stack = built(contender, size, dtype, size.model.num_hidden_layers)
            gc.collect()
            one_step(stack, inputs, device)  # warms up caches and the allocator
            times[name].append(one_step(stack, inputs, device))
    return [
        Result(
            contender=name,
            dtype=str(dtype).removeprefix("torch."),
            saved_bytes_per_token=saved[name],
            predicted_bytes_per_token=predicted(name, size, WIDTHS[dtype]),
            forward_seconds=[forward for forward, _ in times[name]],
            backward_seconds=[backward for _, backward in times[name]],
        )
        for name in entrants
    ]


def predicted(contender: str, size: Size, width: int) -> float | None:
    for name, policy in PRESETS.items():
        if contender == ours(name):
            total = activation_bytes(policy, size.model, ParallelConfig(), size.tokens, width)
            return total / size.tokens
    return None


# -- reporting ------------------------------------------------------------------------------------


def ratio(result: Result, base: Result) -> float:
    return report.paired_ratio(result.step_seconds, base.step_seconds)


def table(results: list[Result]) -> str:
    """Markdown; ratios are to stock transformers, and to it with gradient checkpointing."""
    by_name = {result.contender: result for result in results}
    header = (
        "",
        "saved bytes / token / layer",
        "predicted",
        "of stock",
        "forward s",
        "backward s",
        "step s",
        "step / stock",
        "step / checkpointed",
    )
    rows = []
    for name, result in by_name.items():
        prediction = result.predicted_bytes_per_token
        cells = [
            name,
            f"{result.saved_bytes_per_token:,.0f}",
            "" if prediction is None else f"{prediction:,.0f}",
            f"{result.saved_bytes_per_token / by_name[STOCK].saved_bytes_per_token:.3f}",
            f"{statistics.median(result.forward_seconds):.3f}",
            f"{statistics.median(result.backward_seconds):.3f}",
            f"{statistics.median(result.step_seconds):.3f}",
            f"{ratio(result, by_name[STOCK]):.3f}",
            f"{ratio(result, by_name[CHECKPOINTED]):.3f}",
        ]
        rows.append(cells)
    return report.table(header, rows)


def targets(results: list[Result]) -> str:
    """Targets of `OURS`, and the measurements."""
    by_name = {result.contender: result for result in results}
    own, stock, checkpointed = by_name[OURS], by_name[STOCK], by_name[CHECKPOINTED]
    return target_table(
        OURS,
        own.dtype,
        ratio(own, stock),
        ratio(checkpointed, own),
        own.saved_bytes_per_token / stock.saved_bytes_per_token,
    )


def plot(results: list[Result], path: Path) -> None:
    """Step time against saved bytes, both relative to stock transformers."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    dtypes = sorted({result.dtype for result in results})
    figure, axes = pyplot.subplots(1, len(dtypes), figsize=(6 * len(dtypes), 4.5), squeeze=False)
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        chosen = [result for result in results if result.dtype == dtype]
        base = next(result for result in chosen if result.contender == STOCK)
        for result in chosen:
            x = result.saved_bytes_per_token / base.saved_bytes_per_token
            y = ratio(result, base)
            axis.scatter(x, y, color="tab:blue" if "ours" in result.contender else "tab:gray")
            axis.annotate(result.contender, (x, y), xytext=(4, 4), textcoords="offset points")
        axis.set(
            title=dtype, xlabel="saved bytes, of stock", ylabel="step time, of stock", xlim=(0, 1.3)
        )
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def paragraphs(
    size: Size, results: list[Result], device: torch.device, picture: str, code: str
) -> list[str]:
    model = size.model
    is_cuda = device.type == "cuda"
    parts = [
        "# A stack of decoder layers: time and saved bytes",
        f"{model.num_hidden_layers} layers, hidden_size {model.hidden_size}, intermediate_size "
        f"{model.intermediate_size}, {model.num_attention_heads} heads, {size.rows} x "
        f"{size.sequence_length} tokens, {size.rounds} rounds; {report.hardware(device)}, one "
        f"thread, {'wall time' if is_cuda else 'CPU time of the process'}, medians.",
        f"{report.versions('torch', 'transformers')}, commit {code}. "
        f"Command: `{report.command()}`.",
        "Saved bytes exclude weights and the rotary tables that all layers share.",
    ]
    for dtype in dict.fromkeys(result.dtype for result in results):
        chosen = [result for result in results if result.dtype == dtype]
        parts += [f"## {dtype}", table(chosen), targets(chosen)]
    parts.append(f"![step time against saved bytes]({picture})")
    parts.append(
        "Not measured: embedding, output head and optimizer; grouped-query heads; several ranks"
        + ("." if is_cuda else "; any GPU.")
    )
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description="time and saved bytes of a decoder layer")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    parser.add_argument("--compile", action="store_true", help="our layer with torch.compile, too")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = report.device_of_choice()
    size, code = size_of(arguments.rehearse), report.commit()
    results = []
    for dtype in WIDTHS:
        results += measure(size, dtype, device, arguments.compile)
    stem = report.result_stem(arguments.out, "layer", device)
    picture = stem.with_suffix(".png")
    text = report.write(
        stem,
        paragraphs(size, results, device, picture.name, code),
        [asdict(result) for result in results],
    )
    plot(results, picture)
    print(text)


if __name__ == "__main__":
    main()
