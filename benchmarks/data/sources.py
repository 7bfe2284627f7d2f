"""Runs every `source_*.py` of this folder, and writes their output to one result file.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.data.sources [--samples FOLDER] [--rehearse]

FOLDER holds `raw/<source>/` with real files. The result is written after each script, so that
finished measurements are kept if the run is stopped. A peer that is not installed is named; scripts
that can do without it compare with the others. The exit code is 1 if a script failed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measuring import results

FOLDER = Path(__file__).parent
TARGETS = (
    ("WARC reading", "fastwarc", "at least 0.9 of its records/s"),
    ("HTML to text", "resiliparse", "at least 0.9 of its pages/s"),
    ("language id", "fastText on the first 1,000 characters", "as many documents/s"),
    ("rules of C4", "datatrove", "at least 20 MB/s"),
    ("n-gram training", "none", "at least 0.6 M tokens/s"),
    ("wikitext to text", "mwparserfromhell", "its MB/s, and none of its residue"),
    ("LaTeX", "regular expressions, pylatexenc", "at least 5 MB/s, and no user macro left"),
)
"""(stage, peer, target on one core)."""


def peers(script: Path, requirements: str) -> tuple[str, ...]:
    """Packages whose line in benchmarks/requirements.txt names the script."""
    found = re.findall(r"(?m)^([\w.-]+)==\S+ +# (.*)$", requirements)
    return tuple(package for package, reason in found if script.name in reason)


def run(script: Path, options: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a script; the output is echoed as it comes."""
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-u", "-m", f"{__package__}.{script.stem}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None, "it was requested as a pipe"
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines).strip("\n")


def section(script: Path, options: Sequence[str], packages: Sequence[str]) -> tuple[bool, str]:
    """Whether the script succeeded, and its section of the result."""
    heading = f"## {script.name}\n\n{results.versions(*packages)}"
    missing = [package for package in packages if results.installed_version(package) is None]
    print(f"\n== {script.name}", flush=True)
    if missing:
        print(f"not installed: {', '.join(missing)} (pip install -r benchmarks/requirements.txt)")
    code, output = run(script, options)
    if code:
        heading += f"\n\n**Failed** with exit code {code}."
    return code == 0, f"{heading}\n\n```\n{output}\n```"


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of every source")
    parser.add_argument("--samples", type=Path, help="folder with raw/<source>/")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument(
        "--scripts", nargs="+", metavar="NAME", help="only these: arxiv, books, ..."
    )
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    arguments = parser.parse_args()
    names = arguments.scripts or [p.stem[len("source_") :] for p in FOLDER.glob("source_*.py")]
    scripts = [FOLDER / f"source_{name}.py" for name in sorted(names)]
    if absent := [script.name for script in scripts if not script.is_file()]:
        parser.error(f"--scripts: {FOLDER} has no {', '.join(absent)}")
    options = ["--rehearse"] if arguments.rehearse else []
    if arguments.samples is not None:
        options += ["--samples", str(arguments.samples)]
    requirements = (FOLDER.parent / "requirements.txt").read_text(encoding="utf-8")
    stem = results.result_stem(arguments.out, "sources", torch.device("cpu"))
    parts = [
        "# Speed of the sources",
        f"Commit {results.commit()}, {results.hardware(torch.device('cpu'))}. Command: "
        f"`python -m benchmarks.data.sources{' --rehearse' if arguments.rehearse else ''}`"
        + (" with real files." if arguments.samples else ", with files made by code."),
        results.table(("stage", "peer", "target on one core"), TARGETS),
    ]
    failed: list[str] = []
    for script in scripts:
        ran, text = section(script, options, peers(script, requirements))
        parts.append(text)
        failed += [] if ran else [script.name]
        results.write_markdown(stem, parts)
    print(f"\nwrote {stem.with_suffix('.md')}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
