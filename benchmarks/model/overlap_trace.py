"""Analyzes a profiler trace: collectives' time overlapped by computation, and a plot of
a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

COMPUTATIONS = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
)
"""Operators that hide a collective on a CPU."""


def hidden_in(events: list[dict[str, Any]]) -> tuple[float, float]:
    """(seconds of collectives, of these under computation), concurrent ones counted once."""
    collectives: list[tuple[float, float]] = []
    computations: list[tuple[float, float]] = []
    for event in events:
        if event.get("ph") != "X":
            continue
        interval = (event["ts"], event["ts"] + event["dur"])
        is_kernel, name = event.get("cat") == "kernel", event["name"]
        if name.startswith(("gloo:", "ncclDevKernel")) and (is_kernel or name.startswith("gloo:")):
            collectives.append(interval)
        elif is_kernel or name in COMPUTATIONS:
            computations.append(interval)
    sent, computed = union(collectives), union(computations)
    covered = sum(
        max(0.0, min(end, other_end) - max(start, other_start))
        for start, end in sent
        for other_start, other_end in computed
    )
    return sum(end - start for start, end in sent) / 1e6, covered / 1e6


def union(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Union of intervals as disjoint intervals."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def draw(events: list[dict[str, Any]], path: Path) -> None:
    """Plot a layer's backward pass on a CPU: computation, and collectives in flight."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    events = sorted((event for event in events if event.get("ph") == "X"), key=lambda e: e["ts"])
    begins = [event["ts"] for event in events if event["name"] == "start: ddown_out"]
    begin, end = begins[0], begins[1]
    sent = [e for e in events if e["name"].startswith("gloo:") and e["name"] != "gloo:barrier"]
    bars: list[tuple[dict[str, Any], int, str, str]] = []
    for event in events:
        kind, _, name = event["name"].partition(": ")
        if event["name"] in COMPUTATIONS:
            bars.append((event, 3, "tab:blue", ""))
        elif kind == "weight gradient":
            bars.append((event, 2, "tab:green", name))
        elif kind == "wait":
            bars.append((event, 0, "tab:red", ""))
        elif kind == "start":
            # Collectives run in the order in which they were started.
            while sent[0]["ts"] < event["ts"]:
                sent.pop(0)
            bars.append((sent.pop(0), 1, "tab:orange", name))
    figure, axis = pyplot.subplots(figsize=(12, 3))
    for event, lane, color, label in bars:
        if begin <= event["ts"] < end:
            left, width = (event["ts"] - begin) / 1e3, event["dur"] / 1e3
            axis.barh(lane, width, 0.8, left, color=color, edgecolor="white", linewidth=0.5)
            axis.text(left, lane, label, fontsize=7, rotation=30, va="center")
    lanes = ["waiting", "on the wire", "weight gradient", "matmul, attention"]
    axis.set_yticks(range(4), lanes)
    axis.set(
        xlabel="milliseconds", title="Backward pass of one layer", xlim=(0, (end - begin) / 1e3)
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
