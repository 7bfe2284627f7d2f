"""Pace of every source in two commits, in turns, in one run: that nothing became slow.

    python -m benchmarks.data.pace --samples FOLDER --before COMMIT [--rounds N] [--sources NAME]

Of each commit a copy of its files is made, in which `read_seconds` runs. The two read the samples
of a kind in turns, a few times each, so that both meet the same load of the machine; every round
has new processes, in which strings and objects lie elsewhere. The pace is the median of the ratios
of neighbouring turns.

The samples of a kind are repeated, for both alike, until the older commit reads them in
`MIN_SECONDS`: else the time is that of opening and closing files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.data import read_seconds
from benchmarks.data.stage_rates import kinds
from benchmarks.measuring import results

ROOT = Path(__file__).resolve().parents[2]
TARGET = 0.9
MIN_SECONDS = 0.5
_TURNS = 4
"""Of each commit per round and kind, beside the first, which includes imports."""


def unpack(commit: str, folder: Path) -> str:
    """The files of a commit in `folder`, and the present `read_seconds`; its short name."""
    folder.mkdir(parents=True)
    with subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(folder)], stdin=archive.stdout, check=True)
    if archive.returncode != 0:
        raise ValueError(f"--before {commit}: not a commit of this repository")
    shutil.copy(read_seconds.__file__, folder / "benchmarks" / "data")
    name = ["git", "rev-parse", "--short", commit]
    return subprocess.run(name, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


@dataclass
class Reader:
    """`read_seconds` of one commit in a process."""

    process: subprocess.Popen[str]

    def seconds(self, kind: str) -> float:
        questions, answers = self.process.stdin, self.process.stdout
        assert questions is not None, "a pipe"
        assert answers is not None, "a pipe"
        print(kind, file=questions, flush=True)
        return float(answers.readline())


@contextmanager
def started(tree: Path, samples: Path, sources: Sequence[str]) -> Iterator[Reader]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.data.read_seconds", str(samples), *sources],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield Reader(process)


@dataclass
class Paced:
    """A kind of file, and the CPU seconds of reading its samples."""

    kind: str
    folder: Path
    """Of the kind's source, where both commits read."""
    files: dict[str, Path]
    """The samples: place under the folder -> file."""
    copies: int = 0
    before: list[float] = field(default_factory=list)
    now: list[float] = field(default_factory=list)

    @property
    def pace(self) -> float:
        """Of now, where that of before is 1."""
        return 1 / results.paired_ratio(self.now, self.before)

    def repeat(self, copies: int) -> None:
        """Have as many copies of the samples in the folder."""
        for number in range(self.copies, copies):
            folder = self.folder / f"{number}" if number else self.folder
            for place, file in self.files.items():
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / place)
        self.copies = copies

    def take_turns(self, before: Reader, now: Reader) -> None:
        for reader in (before, now):
            reader.seconds(self.kind)
        for _ in range(_TURNS):
            self.before.append(before.seconds(self.kind))
            self.now.append(now.seconds(self.kind))


def found(samples: Path, names: Sequence[str], folder: Path) -> list[Paced]:
    """The kinds in `samples`, to be read in `folder`, where nothing is yet."""
    paced: list[Paced] = []
    for kind, _, root, files in kinds(samples, names):
        assert isinstance(root, Path), "samples are local"
        places = {file.source_file: file.path for file in files}
        paced.append(Paced(kind, folder / root.relative_to(samples), places))
    return paced


def main() -> None:
    parser = argparse.ArgumentParser(description="pace of the sources in two commits")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--before", required=True, help="the older commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trees = [folder / "before", folder / "now"]
        commits = [unpack(*pair) for pair in zip((options.before, "HEAD"), trees, strict=True)]
        samples = folder / "samples"
        paced = found(options.samples.resolve(), options.sources, samples)
        for kind in paced:
            kind.repeat(1)
        with started(trees[0], samples, options.sources) as reader:
            for kind in paced:
                reader.seconds(kind.kind)
                while reader.seconds(kind.kind) < MIN_SECONDS:
                    kind.repeat(2 * kind.copies)
        for number in range(options.rounds):
            with ExitStack() as stack:
                readers = [
                    stack.enter_context(started(tree, samples, options.sources)) for tree in trees
                ]
                for kind in paced:
                    kind.take_turns(*readers)
            print(f"round {number + 1}", flush=True)
    parts = [
        "# Pace of the sources, before and now",
        f"{results.hardware(torch.device('cpu'))}, one core, CPU seconds of reading the samples, "
        f"as many copies of them as take {commits[0]} {MIN_SECONDS} s, medians of "
        f"{options.rounds * _TURNS} times in turns, in {options.rounds} processes each. Pace is "
        f"the median of the ratios of neighbouring turns; the target is {TARGET}. "
        f"{results.versions('pyarrow')}. Command: `{results.command()}`.",
        results.table(
            ("kind", "copies", f"{commits[0]}, s", f"{commits[1]}, s", "pace"),
            [
                (k.kind, f"{k.copies}", _median(k.before), _median(k.now), f"{k.pace:.2f}")
                for k in paced
            ],
        ),
    ]
    stem = results.result_stem(options.out, "pace", torch.device("cpu"))
    raw = [
        {"kind": k.kind, "copies": k.copies, "before": k.before, "now": k.now, "pace": k.pace}
        for k in paced
    ]
    print(results.write(stem, parts, raw))


def _median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f}"


if __name__ == "__main__":
    main()
