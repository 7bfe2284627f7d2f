"""Time and saved bytes of a decoder layer: stock transformers, our plain layer, our fused layer.

    python benchmarks/layer.py [--out benchmarks/results] [--compile] [--rehearse]

Every contender is a stack of layers with the same weights, in one process on one thread, on the
GPU where there is one. The contenders take turns in every round, so that a change of the machine's
pace meets all of them; a ratio is the median over rounds of ratios within a round. On a CPU, time
is the process's own CPU time, which other processes disturb least.

Saved bytes are what one layer more leaves for the backward pass, by autograd's own account.
`--compile` adds our layer with its elementwise functions through torch.compile. `--rehearse` runs
everything in a small size.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig
from transformers import LlamaForCausalLM as StockLlama

from llama_ds.config import ModelConfig, ParallelConfig
from llama_ds.memory import activation_bytes
from llama_ds.model import LlamaForCausalLM, hf_config
from llama_ds.save_policy import PRESETS

WIDTHS = {torch.float32: 4, torch.bfloat16: 2}
STOCK, CHECKPOINTED, PLAIN = "stock sdpa", "stock + checkpointing", "ours, plain"
COMPILED = "ours, linear_outputs, compiled"


@dataclass(frozen=True)
class Size:
    """What is measured."""

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
    return Size(model, *((1, 32, 2) if rehearse else (1, 1_024, 7)))


# -- contenders -----------------------------------------------------------------------------------


def contenders(with_compiled: bool) -> dict[str, Callable[[LlamaConfig], Any]]:
    """Name -> the stack of layers of a configuration, in training mode."""

    def stock(config: LlamaConfig) -> Any:
        return StockLlama._from_config(config, dtype=config.dtype).model

    def checkpointed(config: LlamaConfig) -> Any:
        stack = stock(config)
        # transformers is renaming it: 5.17 has only the second, 5.23 warns of it.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        next(getattr(stack, name) for name in names if hasattr(stack, name))()
        return stack

    def ours(policy: Any, elementwise: Any = "eager") -> Callable[[LlamaConfig], Any]:
        def make(config: LlamaConfig) -> Any:
            stack = LlamaForCausalLM._from_config(config, dtype=config.dtype).model  # type: ignore[no-untyped-call]
            stack.save_policy = policy
            stack.elementwise = elementwise
            return stack

        return make

    fused = {f"ours, {name}": ours(policy) for name, policy in PRESETS.items()}
    if with_compiled:
        fused[COMPILED] = ours(PRESETS["linear_outputs"], "compile")
    return {STOCK: stock, CHECKPOINTED: checkpointed, PLAIN: ours(None), **fused}


def built(
    make: Callable[[LlamaConfig], Any],
    size: Size,
    dtype: torch.dtype,
    device: torch.device,
    num_layers: int,
) -> Any:
    config = hf_config(size.model, bos_token_id=1, eos_token_id=2, dtype=dtype)
    config.num_hidden_layers = num_layers
    torch.manual_seed(0)
    with device:
        return make(config).to(device).train()


# -- measuring ------------------------------------------------------------------------------------


def saved_bytes(stack: Any, inputs: Tensor) -> int:
    """Bytes of the distinct storages that a forward pass keeps, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in stack.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = stack(inputs_embeds=inputs, use_cache=False)
    assert output.last_hidden_state.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def seconds(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """(duration, result): GPU time by the wall, a CPU's as the process's own CPU time."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start, result


def one_step(stack: Any, inputs: Tensor, device: torch.device) -> tuple[float, float]:
    """Seconds of a forward and a backward pass."""
    stack.zero_grad()
    gradient = torch.ones_like(inputs)
    forward, output = seconds(lambda: stack(inputs_embeds=inputs, use_cache=False), device)
    hidden_states = output.last_hidden_state
    backward, _ = seconds(lambda: hidden_states.backward(gradient), device)
    return forward, backward


def measure(
    size: Size, dtype: torch.dtype, device: torch.device, with_compiled: bool
) -> list[Result]:
    generator = torch.Generator().manual_seed(1)
    shape = (size.rows, size.sequence_length, size.model.hidden_size)
    inputs = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
    saved, stacks = {}, {}
    for name, make in contenders(with_compiled).items():
        one, two = (saved_bytes(built(make, size, dtype, device, n), inputs) for n in (1, 2))
        saved[name] = (two - one) / size.tokens
        stacks[name] = built(make, size, dtype, device, size.model.num_hidden_layers)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in stacks}
    for round_number in range(size.rounds + 1):
        for name, stack in stacks.items():
            gc.collect()
            step = one_step(stack, inputs, device)
            # The first round warms up caches and the allocator.
            if round_number > 0:
                times[name].append(step)
    return [
        Result(
            contender=name,
            dtype=str(dtype).removeprefix("torch."),
            saved_bytes_per_token=saved[name],
            predicted_bytes_per_token=predicted(name, size, WIDTHS[dtype]),
            forward_seconds=[forward for forward, _ in times[name]],
            backward_seconds=[backward for _, backward in times[name]],
        )
        for name in stacks
    ]


def predicted(contender: str, size: Size, width: int) -> float | None:
    for name, policy in PRESETS.items():
        if contender == f"ours, {name}":
            total = activation_bytes(policy, size.model, ParallelConfig(), size.tokens, width)
            return total / size.tokens
    return None


# -- reporting ------------------------------------------------------------------------------------


def ratio(result: Result, base: Result) -> float:
    """Median over rounds of this contender's step time over the base's in the same round."""
    return statistics.median(
        own / other for own, other in zip(result.step_seconds, base.step_seconds, strict=True)
    )


def table(results: list[Result]) -> str:
    """Markdown; ratios are to stock transformers, and to it with gradient checkpointing."""
    by_name = {result.contender: result for result in results}
    lines = [
        "| | saved bytes / token / layer | predicted | of stock | forward s | backward s | step s "
        "| step / stock | step / checkpointed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
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
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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


def commit() -> str:
    """Of the code that is measured: asked at the start, since a run takes minutes."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def report(size: Size, results: list[Result], device: torch.device, stem: Path, code: str) -> str:
    model = size.model
    is_cuda = device.type == "cuda"
    hardware = torch.cuda.get_device_name() if is_cuda else platform.processor() or "CPU"
    parts = [
        "# A stack of decoder layers: time and saved bytes",
        f"{model.num_hidden_layers} layers, hidden_size {model.hidden_size}, intermediate_size "
        f"{model.intermediate_size}, {model.num_attention_heads} heads, {size.rows} x "
        f"{size.sequence_length} tokens, {size.rounds} rounds; {hardware}, one thread, "
        f"{'wall time' if is_cuda else 'CPU time of the process'}, medians.",
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, commit {code}. Command: `python benchmarks/layer.py`.",
        "Saved bytes exclude weights and the rotary tables that all layers share.",
    ]
    for dtype in dict.fromkeys(result.dtype for result in results):
        chosen = [result for result in results if result.dtype == dtype]
        parts += [f"## {dtype}", table(chosen)]
    parts.append(f"![step time against saved bytes]({stem.name}.png)")
    parts.append(
        "Not measured: embedding, output head and optimiser; grouped-query heads; several ranks"
        + ("." if is_cuda else "; any GPU.")
    )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="time and saved bytes of a decoder layer")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--compile", action="store_true", help="our layer with torch.compile, too")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, code = size_of(arguments.rehearse), commit()
    results = []
    for dtype in WIDTHS:
        results += measure(size, dtype, device, arguments.compile)
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / f"layer_{device.type}_{time.strftime('%Y%m')}"
    plot(results, stem.with_suffix(".png"))
    text = report(size, results, device, stem, code)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    raw = [asdict(result) for result in results]
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
