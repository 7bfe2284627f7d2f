"""Formats the results of `gpu.py` as text and tables."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.gpu_correctness import KERNEL_TOLERANCE, LAYER_TOLERANCE
from benchmarks.gpu.gpu_training import Candidate
from benchmarks.gpu.gpu_worker import Record
from benchmarks.measuring import results
from benchmarks.model.contenders import CHECKPOINTED, COMPILED, LIGER, STOCK, ours
from benchmarks.model.steppers import BACKWARD, FORWARD, HEAD, OPTIMIZER
from llama_ds.config import AttentionName
from llama_ds.model_config import ModelConfig

OURS = ours("linear_outputs")
TARGET_TOKENS_PER_SECOND, AIM_TOKENS_PER_SECOND, TARGET_RATIO = 12_700, 13_850, 1.3
GIB = 2**30


@dataclass(frozen=True)
class Depth:
    """The layers of a model that fit, and the work per step."""

    model: ModelConfig
    """Whole."""
    layers: int
    tokens_per_step: int
    memory_bytes: int
    """GPU memory."""
    state_bytes: int
    """Weight, gradient and optimizer state per parameter."""

    @property
    def is_whole(self) -> bool:
        return self.layers == self.model.num_hidden_layers

    @property
    def half(self) -> int:
        return self.layers // 2


@dataclass
class Run:
    """One contender at one depth."""

    missing: str = ""
    candidate: Candidate | None = None
    search: list[Record] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    parts: dict[str, float] = field(default_factory=dict)

    def add_timed(self, records: list[Record]) -> None:
        for record in records:
            if "step_seconds" in record:
                self.step_seconds.append(record["step_seconds"])
                self.losses.append(record["loss"])
                self.peak_bytes = record["peak_bytes"]
            self.parts |= record.get("parts", {})

    @property
    def seconds(self) -> float | None:
        """Median of the full steps; None without any."""
        return statistics.median(self.step_seconds) if self.step_seconds else None


@dataclass
class Findings:
    notes: list[str]
    """What was skipped, and why."""
    no_deepspeed: str
    """Why steps ran without DeepSpeed; empty where they ran with it."""
    sequence_length: int
    is_rehearsal: bool
    seconds: float = 0.0
    ceilings: Record = field(default_factory=dict)
    kernels: list[Record] = field(default_factory=list)
    layer: list[Record] = field(default_factory=list)
    attention: AttentionName = "auto"
    """Chosen for the fused layer."""
    depths: dict[str, Depth] = field(default_factory=dict)
    runs: dict[str, dict[str, Run]] = field(default_factory=dict)
    """By model and contender."""
    half_runs: dict[str, Run] = field(default_factory=dict)
    """`OURS` at half the depth, where the model does not fit."""

    def whole_seconds(self, model: str) -> float | None:
        """Step time of `OURS` at full depth: measured, or extrapolated linearly from two depths."""
        depth, run = self.depths[model], self.runs.get(model, {}).get(OURS, Run())
        if depth.is_whole or run.seconds is None:
            return run.seconds
        half = self.half_runs.get(model, Run()).seconds
        if half is None:
            return None
        per_layer = (run.seconds - half) / (depth.layers - depth.half)
        return run.seconds + (depth.model.num_hidden_layers - depth.layers) * per_layer


def raw(findings: Findings) -> dict[str, Any]:
    """All numbers, for the JSON file."""
    return dataclasses.asdict(findings)


def paragraphs(findings: Findings, code: str) -> list[str]:
    parts = [
        "# LLaMA's training steps on one GPU",
        *(["A rehearsal in a tiny size: no number here means anything."] * findings.is_rehearsal),
        _setting(findings, code),
        "## Ceilings",
        _ceilings(findings),
        "## Attention kernels in bf16",
        _kernels(findings),
        "## The fused layer in bf16",
        _layer(findings),
    ]
    for model in findings.depths:
        parts += [f"## {model}", *_model(findings, model)]
    parts += ["## Targets", _targets(findings), "## Given up"]
    parts.append("\n".join(f"- {note}" for note in findings.notes) or "Nothing.")
    parts.append(
        "Not measured: several GPUs, and with them all communication; an optimizer offloaded to "
        "the host; packed documents; reading data and writing checkpoints."
    )
    return parts


def _setting(findings: Findings, code: str) -> str:
    found = findings.ceilings
    memory = found.get("memory_bytes")
    steps = (
        f"Steps run without DeepSpeed ({findings.no_deepspeed}), for every contender in the same "
        "arithmetic: bf16 weights, gradients summed in fp32, fused AdamW on fp32 masters."
        if findings.no_deepspeed
        else "Steps run through DeepSpeed at ZeRO-2 on one rank, for every contender with one "
        "configuration."
    )
    versions = results.versions(
        "torch",
        "transformers",
        "deepspeed",
        "liger-kernel",
        "xformers",
        "flash-attn-3",
    )
    return (
        f"{found.get('device', 'device unknown')}"
        + (f" ({memory / GIB:.1f} GiB)" if memory else "")
        + (f", CUDA {found['cuda']}" if found.get("cuda") else "")
        + f"; {versions}; commit {code}. {steps} A step is forward, loss, backward, clipping and "
        "optimizer over the tokens that one of the recipe's GPUs has per step, all on random "
        f"tokens in rows of {findings.sequence_length}. The run took {findings.seconds:.0f} s. "
        "Command: `bash benchmarks/gpu.sh`."
    )


def _ceilings(findings: Findings) -> str:
    rows = []
    for key, what, unit in (
        ("data_sheet_tflops", "dense bf16, data sheet", "TFLOP/s"),
        ("matmul_tflops", "large square bf16 matmul, best", "TFLOP/s"),
        ("copy_gb_per_second", "device copy, read and written", "GB/s"),
    ):
        value = findings.ceilings.get(key)
        rows.append([what, f"{value:,.3f} {unit}" if value else "not known"])
    return results.table(("ceiling", "rate"), rows)


def _kernels(findings: Findings) -> str:
    rows = []
    for record in findings.kernels:
        if "unavailable" in record:
            rows.append([record["kernel"], f"not available: {record['unavailable']}", *[""] * 6])
            continue
        errors = [f"{record['errors'][name]:.4f}" for name in ("out", "dq", "dk", "dv")]
        speed = [f"{record['seconds'] * 1e3:.3f}", f"{record['tflops']:.3f}"]
        verdict = "right" if record["is_right"] else "WRONG"
        rows.append([record["kernel"], verdict, *errors, *speed])
    header = ("kernel", "", "out", "dq", "dk", "dv", "ms", "causal TFLOP/s")
    return (
        results.table(header, rows)
        + "\n\nErrors of result and gradients against fp32 on the same inputs, with 4 query heads "
        f"to a key/value head; right means at most {KERNEL_TOLERANCE}. Time is that of forward and "
        f"backward with as many key/value heads. The fused layer runs on `{findings.attention}`."
    )


def _layer(findings: Findings) -> str:
    rows = [
        [
            record["contender"],
            f"{record['loss_error']:.2e}",
            f"{record['gradient_error']:.4f}",
            f"`{record['worst']}`",
            "right" if record["is_right"] else "WRONG",
        ]
        for record in findings.layer
    ]
    return (
        results.table(("", "loss error", "worst gradient error", "of", ""), rows)
        + "\n\nAgainst the plain layer in fp32 with the same weights; right means a worst error of "
        f"at most {LAYER_TOLERANCE} times the plain layer's in bf16."
    )


# -- a model's steps ------------------------------------------------------------------------------


def _model(findings: Findings, name: str) -> list[str]:
    depth, runs = findings.depths[name], findings.runs.get(name, {})
    own = runs.get(OURS, Run())
    parts = [_depth_in_words(depth, name)]
    found = [record for record in own.search if "given_up" not in record]
    if found:
        parts += ["Search of ours, forward and backward only:", _search(found)]
    parts += ["Whole steps:", _steps(findings, name)]
    if own.seconds is not None and own.parts:
        parts += ["Where the step's time goes:", _time_of_parts(runs)]
    whole = findings.whole_seconds(name)
    if whole is not None:
        parts += ["Rate of ours at the model's whole depth:", _rates(findings, name, whole)]
    return parts


def _depth_in_words(depth: Depth, name: str) -> str:
    total = depth.model.num_hidden_layers
    work = f"{depth.tokens_per_step:,} tokens per step."
    if depth.is_whole:
        return f"All {total} layers. {work}"
    return (
        f"{name} with its optimizer ({depth.state_bytes} bytes per parameter: "
        f"{depth.state_bytes * depth.model.num_parameters / GIB:.3f} GiB) and activations does not "
        f"fit into {depth.memory_bytes / GIB:.3f} GiB: measured with {depth.layers} of {total} "
        f"layers, embedding and head whole, and ours also with {depth.half}. All layers cost the "
        f"same, so the time of {total} lies on the line through both; it is extrapolated, not "
        f"measured. {work}"
    )


def _search(records: list[Record]) -> str:
    rows = [
        [
            str(record["policy"]),
            str(record["micro_batch_size"]),
            "out of memory" if "out_of_memory" in record else f"{record['tokens_per_second']:,.0f}",
            _gib(record.get("peak_bytes")),
        ]
        for record in records
    ]
    return (
        results.table(("policy", "micro-batch", "tokens/s", "peak GiB"), rows)
        + "\n\nPolicies that repeat matmuls are tried with micro-batches for which others keep too "
        "much, and none where the estimate of memory says that it cannot fit."
    )


def _steps(findings: Findings, name: str) -> str:
    runs = findings.runs.get(name, {})
    own = runs.get(OURS, Run()).seconds
    rows = []
    for contender in (OURS, STOCK, CHECKPOINTED, LIGER, COMPILED):
        if contender not in runs:
            continue
        run = runs[contender]
        label = _label(contender, run)
        if run.missing or run.seconds is None:
            rows.append([label, run.missing or "not measured", *[""] * 5])
            continue
        assert run.candidate is not None, "timed steps have one"
        rows.append(
            [
                label,
                str(run.candidate.micro_batch_size),
                f"{run.seconds:.3f} ({len(run.step_seconds)})",
                f"{findings.depths[name].tokens_per_step / run.seconds:,.0f}",
                _gib(run.peak_bytes),
                f"{run.seconds / own:.3f}" if own else "",
                f"{run.losses[-1]:.4f}",
            ]
        )
    header = (
        "",
        "micro-batch",
        "step s (of so many)",
        "tokens/s",
        "peak GiB",
        "its time / ours",
        "last loss",
    )
    return results.table(header, rows)


def _label(contender: str, run: Run) -> str:
    if contender == OURS and run.candidate is not None:
        return ours(str(run.candidate.policy))
    return contender


def _time_of_parts(runs: dict[str, Run]) -> str:
    rows = []
    for contender, run in runs.items():
        if run.parts:
            total = sum(run.parts.values())
            cells = [
                f"{run.parts[part]:.3f} ({run.parts[part] / total:.0%})"
                for part in (FORWARD, HEAD, BACKWARD, OPTIMIZER)
            ]
            rows.append([_label(contender, run), *cells])
    return (
        results.table(("seconds", FORWARD, HEAD, BACKWARD, OPTIMIZER), rows)
        + "\n\nOne step of its own; our loss head computes its gradients with the loss."
    )


def _rates(findings: Findings, name: str, whole: float) -> str:
    depth, found = findings.depths[name], findings.ceilings
    per_second = depth.tokens_per_step / whole
    rows = [
        ["tokens/s" + ("" if depth.is_whole else " (extrapolated)"), f"{per_second:,.0f}"],
    ]
    peaks = {
        "data sheet": found.get("data_sheet_tflops"),
        "measured matmul": found.get("matmul_tflops"),
    }
    for of, tflops in peaks.items():
        for count, causal in (("non-causal", False), ("causal", True)):
            flops = depth.model.flops_per_token(findings.sequence_length, causal=causal)
            share = f"{per_second * flops / tflops / 1e12:.1%}" if tflops else "not known"
            rows.append([f"MFU, {count}, of the {of}", share])
    return results.table(("", "rate"), rows)


def _gib(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / GIB:.1f}"


# -- targets --------------------------------------------------------------------------------------


def _targets(findings: Findings) -> str:
    name = "LLaMA-7B"
    rate = ratio = None
    if name in findings.depths:
        whole = findings.whole_seconds(name)
        runs = findings.runs.get(name, {})
        own, stock = runs.get(OURS, Run()).seconds, runs.get(STOCK, Run()).seconds
        rate = findings.depths[name].tokens_per_step / whole if whole else None
        ratio = stock / own if own and stock else None
    rows = [
        [
            "LLaMA-7B, tokens/s on an H200",
            f"at least {TARGET_TOKENS_PER_SECOND:,}, aim {AIM_TOKENS_PER_SECOND:,}",
            *_judged(rate, TARGET_TOKENS_PER_SECOND, ",.0f"),
        ],
        [
            "LLaMA-7B, stock sdpa's step time / ours",
            f"at least {TARGET_RATIO}",
            *_judged(ratio, TARGET_RATIO, ".3f"),
        ],
    ]
    return results.table(("", "target", "measured", ""), rows)


def _judged(value: float | None, least: float, form: str) -> list[str]:
    if value is None:
        return ["not measured", ""]
    return [format(value, form), "met" if value >= least else "not met"]
