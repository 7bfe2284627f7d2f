"""Pace of every source in two commits, in turns, in one run: that nothing became slow.

    python -m benchmarks.data.pace --samples FOLDER --before COMMIT [--rounds N] [--sources NAME]

Of each commit a copy of its files is made, in which `stage_rates` of that copy runs. CPU seconds of
reading, with edits, filters and writing; the shortest of all rounds counts. Samples that the older
commit reads in less than `MIN_SECONDS` stand in the measured folder several times, for both commits
alike: else the time is that of opening and closing files.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.data.stage_rates import kinds
from benchmarks.measuring import results

ROOT = Path(__file__).resolve().parents[2]
TARGET = 0.9
MIN_SECONDS = 0.5


def unpack(commit: str, folder: Path) -> str:
    """The files of a commit in `folder`; its short name."""
    folder.mkdir(parents=True)
    with subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(folder)], stdin=archive.stdout, check=True)
    if archive.returncode != 0:
        raise ValueError(f"--before {commit}: not a commit of this repository")
    name = ["git", "rev-parse", "--short", commit]
    return subprocess.run(name, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def measured(tree: Path, out: Path, options: Sequence[str]) -> Iterator[tuple[str, float]]:
    """(kind of file, CPU seconds of reading it) as one commit's `stage_rates` measures them."""
    out.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "benchmarks.data.stage_rates", *options, "--out", str(out)],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (path,) = out.glob("*.json")
    for record in json.loads(path.read_text(encoding="utf-8")):
        yield record["kind"], record["read_seconds"]


def repeat(
    samples: Path, names: Sequence[str], seconds: Mapping[str, float], folder: Path
) -> dict[str, int]:
    """Fill `folder` with the samples, those of each kind as often as take `MIN_SECONDS` if once
    takes these seconds; the number of copies per kind."""
    numbers: dict[str, int] = {}
    for kind, _, root, files in kinds(samples, names):
        assert isinstance(root, Path), "samples are local"
        numbers[kind] = max(1, math.ceil(MIN_SECONDS / seconds[kind]))
        for copy in range(numbers[kind]):
            for file in files:
                place = Path(file.source_file) if copy == 0 else Path(f"{copy}", file.source_file)
                path = folder / root.relative_to(samples) / place
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.path, path)
    shutil.copytree(samples / "tokenizer", folder / "tokenizer")
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description="pace of the sources in two commits")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--before", required=True, help="the older commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    options = parser.parse_args()
    samples = options.samples.resolve()
    names = ["--sources", *options.sources] if options.sources else []
    best: dict[str, dict[str, float]] = {"before": defaultdict(lambda: 1e9)}
    best["now"] = defaultdict(lambda: 1e9)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commits = {
            "before": unpack(options.before, folder / "before"),
            "now": unpack("HEAD", folder / "now"),
        }
        once = dict(
            measured(folder / "before", folder / "once", ["--samples", str(samples), *names])
        )
        copies = repeat(samples, options.sources, once, folder / "samples")
        words = ["--samples", str(folder / "samples"), *names]
        for number in range(options.rounds):
            for tree, seconds in best.items():
                out = folder / f"{tree}-{number}"
                for kind, found in measured(folder / tree, out, words):
                    seconds[kind] = min(seconds[kind], found)
                print(f"round {number + 1}: {commits[tree]}", flush=True)
    pairs = [
        (kind, s, best["now"][kind]) for kind, s in best["before"].items() if kind in best["now"]
    ]
    table = results.table(
        ("kind", "copies", f"{commits['before']}, s", f"{commits['now']}, s", "pace"),
        [
            (kind, f"{copies[kind]}", f"{old:.2f}", f"{new:.2f}", f"{old / new:.2f}")
            for kind, old, new in pairs
        ],
    )
    parts = [
        "# Pace of the sources, before and now",
        f"{results.hardware(torch.device('cpu'))}, one core, CPU seconds of reading the samples, "
        f"the shortest of {options.rounds} rounds in turns; the target is a pace of {TARGET}. "
        "Copies: how often the samples stand in the folder, so that "
        f"{commits['before']} takes about {MIN_SECONDS} s. "
        f"{results.versions('pyarrow')}. Command: `{results.command()}`.",
        table,
    ]
    rows = [
        {"kind": kind, "copies": copies[kind], "before": old, "now": new}
        for kind, old, new in pairs
    ]
    print(results.write(results.result_stem(options.out, "pace", torch.device("cpu")), parts, rows))


if __name__ == "__main__":
    main()
