"""Timing, ratios, tables, and result files of the benchmarks.

A result is one Markdown file and one JSON file with all numbers, named
`<what>_<hardware>_<yyyymm>`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def device_of_choice() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# -- measuring ------------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """(duration, result): wall time on a GPU, CPU time of the process on a CPU.

    CPU time of the process is least disturbed by other processes.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    synchronize(device)
    start = clock()
    result = function()
    synchronize(device)
    return clock() - start, result


def paired_ratio(own: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds of own / base within a round, which cancels changes of machine speed."""
    return statistics.median(a / b for a, b in zip(own, base, strict=True))


# -- environment ----------------------------------------------------------------------------------


def commit() -> str:
    """Git commit of the measured code: queried at the start, since a run takes minutes."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def command() -> str:
    """The command line to reproduce the result, without output and local folders."""
    arguments = ["FOLDER" if os.path.isabs(word) else word for word in sys.argv[1:]]
    if "--out" in arguments:
        at = arguments.index("--out")
        del arguments[at : at + 2]
    script = Path(sys.argv[0]).resolve()
    place = script.relative_to(ROOT) if ROOT in script.parents else Path(script.name)
    return shlex.join(["python", "-m", ".".join(place.with_suffix("").parts), *arguments])


def hardware(device: torch.device) -> str:
    """The device's name, human-readable."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or "CPU"


def versions(*packages: str) -> str:
    """Python and `packages` (by their names on PyPI) with versions, in one line."""
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        version = installed_version(package)
        found.append(f"{package} {version}" if version else f"{package} not installed")
    return ", ".join(found)


def installed_version(package: str) -> str | None:
    """Version of a package by its name on PyPI; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# -- writing --------------------------------------------------------------------------------------


def result_stem(folder: Path, what: str, device: torch.device) -> Path:
    """`<what>_<hardware>_<yyyymm>` in `folder`, without a suffix: `layer_cpu_202611`."""
    name = "cpu"
    if device.type == "cuda":
        words = re.findall(r"[a-z0-9]+", torch.cuda.get_device_name(device).lower())
        name = "-".join(word for word in words if word != "nvidia")
    return folder / f"{what}_{name}_{time.strftime('%Y%m')}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    assert all(len(row) == len(header) for row in rows), "every row has a cell for every column"
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write(stem: Path, parts: Sequence[str], raw: Any) -> str:
    """Write both files of a result; returns the Markdown text."""
    write_json(stem, raw)
    return write_markdown(stem, parts)


def write_json(stem: Path, raw: Any) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


def write_markdown(stem: Path, parts: Sequence[str]) -> str:
    """Write `parts` as paragraphs; returns the text."""
    text = "\n\n".join(parts) + "\n"
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    return text
