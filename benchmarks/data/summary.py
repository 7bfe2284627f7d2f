"""Runs the benchmarks of the data pipeline, and collects their targets in one table.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.data.summary [--samples FOLDER] [--scripts dedup executors ...]
        [--rehearse] [--megabytes 200] [--large 4000]

FOLDER holds `raw/<source>/` with real files, for the scripts that can use them. --megabytes is the
text size of dedup.py and executors.py, --large that on which executors.py measures memory. Each
script writes its own result file; here its target tables are collected. The result is written after
each script, so that finished measurements are kept if the run is stopped. The exit code is 1 if a
script failed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.data.sources import peers, run
from benchmarks.measuring import results

FOLDER = Path(__file__).parent
SCRIPTS = ("dedup", "paragraphs", "tokenization", "executors")
TAKE_MEGABYTES = frozenset({"dedup", "executors"})
TAKE_SAMPLES = frozenset({"paragraphs", "tokenization"})


def target_tables(text: str) -> Iterator[str]:
    """Tables of a script's output that have a column "reached"."""
    for table in re.findall(r"(?m)(?:^\|.*\n?)+", text):
        header = table.split("\n", 1)[0]
        if "target" in header and "reached" in header:
            yield table.rstrip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="speed and memory of the dataset job")
    parser.add_argument("--samples", type=Path, help="folder with raw/<source>/")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--large", type=float, default=4000)
    parser.add_argument("--scripts", nargs="+", choices=SCRIPTS, default=SCRIPTS)
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    arguments = parser.parse_args()
    stem = results.result_stem(arguments.out, "data", torch.device("cpu"))
    parts = [
        "# The dataset job",
        f"Commit {results.commit()}, {results.hardware(torch.device('cpu'))}. Command: "
        f"`{results.command()}`.",
    ]
    requirements = (FOLDER.parent / "requirements.txt").read_text(encoding="utf-8")
    failed: list[str] = []
    for name in arguments.scripts:
        script = FOLDER / f"{name}.py"
        print(f"\n== {script.name}", flush=True)
        packages = peers(script, requirements)
        missing = [package for package in packages if results.installed_version(package) is None]
        code, output = run(script, options_of(name, arguments))
        heading = f"## {script.name}"
        if missing:
            heading += f"\n\nNot installed: {', '.join(missing)}."
        if code:
            failed.append(script.name)
            heading += f"\n\n**Failed** with exit code {code}."
        parts += [heading, *target_tables(output)]
        text = results.write_markdown(stem, parts)
    print(text)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def options_of(name: str, arguments: argparse.Namespace) -> Sequence[str]:
    """Command-line options of a script."""
    options = ["--out", str(arguments.out)]
    if arguments.rehearse:
        options.append("--rehearse")
    elif name in TAKE_MEGABYTES:
        options += ["--megabytes", str(arguments.megabytes)]
        options += ["--large", str(arguments.large)] if name == "executors" else []
    if arguments.samples is not None and name in TAKE_SAMPLES:
        options += ["--samples", str(arguments.samples)]
    return options


if __name__ == "__main__":
    main()
