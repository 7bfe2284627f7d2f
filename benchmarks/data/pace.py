"""Pace of every source in two commits, in turns, in one run: that nothing became slow.

    python -m benchmarks.data.pace --samples FOLDER --before COMMIT [--rounds N] [--sources NAME]

Of each commit a copy of its files is made, in which `stage_rates` of that copy runs. CPU seconds of
reading, with edits, filters and writing; the shortest of all rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.measuring import results

ROOT = Path(__file__).resolve().parents[2]
TARGET = 0.9


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


def main() -> None:
    parser = argparse.ArgumentParser(description="pace of the sources in two commits")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--before", required=True, help="the older commit")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    options = parser.parse_args()
    words = ["--samples", str(options.samples.resolve())]
    words += ["--sources", *options.sources] if options.sources else []
    best: dict[str, dict[str, float]] = {"before": defaultdict(lambda: 1e9)}
    best["now"] = defaultdict(lambda: 1e9)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commits = {
            "before": unpack(options.before, folder / "before"),
            "now": unpack("HEAD", folder / "now"),
        }
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
        ("kind", f"{commits['before']}, s", f"{commits['now']}, s", "pace"),
        [(kind, f"{old:.2f}", f"{new:.2f}", f"{old / new:.2f}") for kind, old, new in pairs],
    )
    parts = [
        "# Pace of the sources, before and now",
        f"{results.hardware(torch.device('cpu'))}, one core, CPU seconds of reading the samples, "
        f"the shortest of {options.rounds} rounds in turns; the target is a pace of {TARGET}. "
        f"{results.versions('pyarrow')}. Command: `{results.command()}`.",
        table,
    ]
    rows = [{"kind": kind, "before": old, "now": new} for kind, old, new in pairs]
    print(results.write(results.result_stem(options.out, "pace", torch.device("cpu")), parts, rows))


if __name__ == "__main__":
    main()
