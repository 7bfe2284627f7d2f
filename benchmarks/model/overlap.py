"""Communication overlap: share of a decoder layer's communication hidden behind its computation.

    python -m benchmarks.model.overlap [--processes 2] [--link 2gbit] [--out FOLDER] [--rehearse]

A stack of layers, forward and backward, on processes that this program starts: with NCCL where
every process has a GPU, else with gloo on the CPU, one thread each. Without overlap and with it,
split into more and more chunks, the contenders take turns in every round; a ratio is the median
over rounds of ratios within a round. The hidden share is measured in two ways:

- by the clock: (step without overlap - step with it) / communication alone, where the latter is the
  time of the step's collectives back to back without computation. Below 0, overlap costs more
  than it hides.
- by the trace: the part of the collectives' time that overlaps matmuls and attention (on a GPU: any
  other kernel). It does not show whether these ran as fast as they would have alone.

On a CPU gloo's loopback is memory that the cores copy, time in which they do not compute. `--link
2gbit` runs the processes in a network namespace (Linux, `unshare` and `tc`), whose only link is
limited to that rate: there a rank waits for the link, as a GPU does, and does no work for it.

Each contender's trace of rank 0 is written as `overlap_*.trace.json.gz`, which Perfetto and
chrome://tracing open; on a CPU one layer's backward pass is plotted from it. `--rehearse` runs
everything in a small size.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import results as report
from benchmarks.model.overlap_trace import draw, hidden_in
from llama_ds.hf_config import hf_config
from llama_ds.layer.options import LayerOptions
from llama_ds.model import LlamaForCausalLM
from llama_ds.model_config import ModelConfig
from llama_ds.parallel.collectives import Pending
from llama_ds.parallel.groups import ParallelGroups

OFF = "off"


@dataclass(frozen=True)
class Size:
    """Sizes of the measurement."""

    model: ModelConfig
    rows: int
    sequence_length: int
    rounds: int
    traced_steps: int
    dtype: str


@dataclass(frozen=True)
class Layout:
    """How the processes shard the layers: all of them by tp, or all by sp."""

    name: str
    title: str
    tp: int
    sp: int
    sequence_parallel: bool


@dataclass(frozen=True)
class Result:
    layout: str
    overlap: str
    """`OFF`, or "on" and the chunks of the forward pass."""
    step_seconds: list[float]
    communication_seconds: list[float]
    """The collectives of a step, alone."""
    traced_seconds: float
    """Collectives in the traced steps."""
    covered_seconds: float
    """Of these, overlapped by computation."""

    def hidden_by_trace(self) -> float:
        return self.covered_seconds / self.traced_seconds

    def hidden_by_clock(self, off: Result) -> list[float]:
        """Lower quartile, median and upper quartile over rounds."""
        rounds = zip(off.step_seconds, self.step_seconds, self.communication_seconds, strict=True)
        shares = [(without - own) / alone for without, own, alone in rounds]
        return statistics.quantiles(shares, n=4)


def size_of(rehearse: bool, is_cuda: bool) -> Size:
    """LLaMA-7B's layers on GPUs; on a CPU small enough for a minute per layout."""
    if rehearse:
        hidden, intermediate, layers, heads, rows, length, rounds = 64, 176, 2, 4, 1, 64, 2
    elif is_cuda:
        hidden, intermediate, layers, heads, rows, length, rounds = 4096, 11008, 8, 32, 1, 4096, 9
    else:
        hidden, intermediate, layers, heads, rows, length, rounds = 512, 1376, 4, 8, 1, 1024, 9
    model = ModelConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=256,
        max_position_embeddings=max(2_048, length),
    )
    dtype, traced_steps = "bfloat16" if is_cuda else "float32", 1 if rehearse else 3
    return Size(model, rows, length, rounds, traced_steps, dtype)


def layouts(processes: int) -> list[Layout]:
    n = processes
    return [
        Layout("megatron", f"tp {n} with Megatron's sequence parallelism", n, 1, True),
        Layout("tp", f"tp {n}", n, 1, False),
        Layout("ulysses", f"sp {n} (Ulysses)", 1, n, False),
    ]


def contenders(layout: Layout) -> dict[str, LayerOptions]:
    """Name -> the model's options. Ulysses has nothing to split in chunks."""
    chunks = (1, 2, 4) if layout.tp > 1 else (1,)
    on = {
        f"on, {n} chunk{'s' * (n > 1)}": LayerOptions(overlap=True, overlap_chunks=n)
        for n in chunks
    }
    return {OFF: LayerOptions(), **on}


# -- measuring, on every rank ---------------------------------------------------------------------


def collectives_of_step(stack: Any, inputs: Tensor) -> list[Callable[[], Pending]]:
    """Those of all layers under `linear_outputs`, as `docs/layer.md` lists them."""
    tp, sp = stack.tp, stack.sp
    inside = torch.zeros_like(inputs)
    outside = tp.outside(inside).contiguous()
    heads = inside.unflatten(-1, (stack.config.num_attention_heads, -1))
    if sp.size > 1:
        # Forward q, k, v and the way back; backward o_in once more, its gradient, dq, dk, dv.
        exchanges = 4 + 5
        return [lambda: sp.start_to_heads(heads, "exchange")] * exchanges * len(stack.layers)
    # Forward attn_in, mlp_in; backward these again, and the gradients of the two sums.
    gathers = [lambda: tp.start_all_gather(outside, "gather")] * (
        2 + 4 if outside is not inside else 0
    )
    # Forward mid, out; backward the gradients of attn_in and mlp_in. Zeros, summed in place.
    sums = [lambda: tp.start_reduce(inside, "sum")] * (2 + 2)
    return [*gathers, *sums] * len(stack.layers)


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Wall time until all ranks have finished."""
    settle(device)
    start = time.perf_counter()
    function()
    settle(device)
    return time.perf_counter() - start


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    dist.barrier()


def measure(
    layout: Layout, groups: ParallelGroups, size: Size, device: torch.device, folder: Path
) -> list[Result]:
    dtype = getattr(torch, size.dtype)
    config = hf_config(size.model, bos_token_id=1, eos_token_id=2, dtype=dtype)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config, groups, sequence_parallel=layout.sequence_parallel)
    stack = model.to(device, dtype).train().model
    shape = (size.rows, size.sequence_length // layout.sp, size.model.hidden_size)
    inputs = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)

    def step() -> None:
        stack.zero_grad()
        hidden = stack(inputs_embeds=inputs, use_cache=False).last_hidden_state
        hidden.backward(torch.ones_like(hidden))

    collectives = collectives_of_step(stack, inputs.detach())

    def alone() -> None:
        for start in collectives:
            start().wait()

    options = contenders(layout)
    steps: dict[str, list[float]] = {name: [] for name in options}
    communication: list[float] = []
    for number in range(size.rounds + 1):
        for name in options:
            stack.layer_options = options[name]
            took = seconds(step, device)
            # The first round warms up caches, connections and the allocator.
            if number > 0:
                steps[name].append(took)
        took = seconds(alone, device)
        if number > 0:
            communication.append(took)
    results = []
    for name in options:
        stack.layer_options = options[name]
        settle(device)
        label = f"{layout.name}_{name}".replace(",", "").replace(" ", "_")
        path = folder / f"rank{dist.get_rank()}.{label}.json"
        with profile(activities=activities(device)) as profiler:
            for _ in range(size.traced_steps):
                step()
            settle(device)
        profiler.export_chrome_trace(str(path))
        traced, covered = hidden_in(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])
        results.append(Result(layout.name, name, steps[name], communication, traced, covered))
    return results


def activities(device: torch.device) -> list[ProfilerActivity]:
    on_gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return [ProfilerActivity.CPU, *on_gpu]


# -- processes ------------------------------------------------------------------------------------


def behind_link(rate: str) -> NoReturn:
    """Start this program again in a network namespace with a loopback of this rate."""
    link = f"ip link set lo up && tc qdisc add dev lo root tbf rate {rate} burst 1mb latency 2s"
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", f'{link} && exec "$@"', "sh"]
    again = [sys.executable, *sys.argv, "--behind-link"]
    os.execvpe(command[0], [*command, *again], os.environ | {"GLOO_SOCKET_IFNAME": "lo"})


def run_rank(rank: int, processes: int, size: Size, is_cuda: bool, folder: Path) -> None:
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if is_cuda else torch.device("cpu")
    if is_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if is_cuda else "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=processes,
    )
    found = []
    for layout in layouts(processes):
        with ParallelGroups.build(tp_size=layout.tp, sp_size=layout.sp) as groups:
            found += [asdict(result) for result in measure(layout, groups, size, device, folder)]
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


# -- reporting ------------------------------------------------------------------------------------


HEADER = (
    "overlap",
    "step s",
    "step / off",
    "communication alone s",
    "hidden, by the clock (quartiles)",
    "hidden, by the trace",
)


def table(results: list[Result]) -> str:
    off = next(result for result in results if result.overlap == OFF)
    rows = [
        (
            result.overlap,
            f"{statistics.median(result.step_seconds):.4f}",
            f"{report.paired_ratio(result.step_seconds, off.step_seconds):.3f}",
            f"{statistics.median(result.communication_seconds):.4f}",
            "" if result is off else clock_share(result, off),
            f"{result.hidden_by_trace():.0%}",
        )
        for result in results
    ]
    return report.table(HEADER, rows)


def clock_share(result: Result, off: Result) -> str:
    low, middle, high = result.hidden_by_clock(off)
    return f"{middle:.0%} ({low:.0%} to {high:.0%})"


def paragraphs(
    size: Size,
    results: list[Result],
    arguments: argparse.Namespace,
    device: torch.device,
    picture: str,
    code: str,
) -> list[str]:
    link, processes, model = arguments.link, arguments.processes, size.model
    cores = "" if device.type == "cuda" else f" of {os.cpu_count()} cores"
    parts = [
        "# Communication hidden behind a decoder layer's computation",
        f"{model.num_hidden_layers} layers, hidden_size {model.hidden_size}, intermediate_size "
        f"{model.intermediate_size}, {model.num_attention_heads} heads, {size.rows} x "
        f"{size.sequence_length} tokens, {size.dtype}, save policy linear_outputs, {size.rounds} "
        f"rounds; {processes} processes on {report.hardware(device)}{cores}"
        + (f" behind a link of {link}" if link else "")
        + f"; load {os.getloadavg()[1]:.0f}; wall time, medians.",
        f"{report.versions('torch')}, commit {code}. Command: `{report.command()}`, which defines "
        "the columns.",
    ]
    for layout in layouts(processes):
        chosen = [result for result in results if result.layout == layout.name]
        parts += [f"## {layout.title}", table(chosen)]
    if device.type == "cpu":
        parts.append(
            f"Rank 0 with Megatron's sequence parallelism and overlap, as traced:\n\n"
            f"![what is computed while tensors are sent]({picture})\n\nNot measured: any GPU."
        )
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description="share of communication that a layer hides")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--link", metavar="RATE", help="CPU only: rate of the link, as tc takes it")
    parser.add_argument("--behind-link", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.link and not arguments.behind_link:
        behind_link(arguments.link)
    processes, code = arguments.processes, report.commit()
    is_cuda = torch.cuda.device_count() >= processes
    device = torch.device("cuda" if is_cuda else "cpu")
    size = size_of(arguments.rehearse, is_cuda)
    arguments.out.mkdir(parents=True, exist_ok=True)
    network = f"_{arguments.link}" if arguments.link else ""
    stem = report.result_stem(arguments.out, f"overlap{network}", device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spawn(run_rank, (processes, size, is_cuda, folder), nprocs=processes)
        raw = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if not is_cuda:
            drawn = folder / "rank0.megatron_on_2_chunks.json"
            events = json.loads(drawn.read_text(encoding="utf-8"))["traceEvents"]
            draw(events, stem.with_suffix(".png"))
        for trace in folder.glob("rank0.*.json"):
            target = f"{stem.name}_{trace.name.removeprefix('rank0.').removesuffix('.json')}"
            with gzip.open(arguments.out / f"{target}.trace.json.gz", "wb") as file:
                file.write(trace.read_bytes())
    results = [Result(**fields) for fields in raw]
    parts = paragraphs(size, results, arguments, device, f"{stem.name}.png", code)
    print(report.write(stem, parts, raw))


if __name__ == "__main__":
    main()
