"""CPU seconds of reading the samples of a kind, whenever asked: `pace.py` runs this in two commits.

    python -m benchmarks.data.read_seconds SAMPLES [SOURCE ...]

A line of the input is the name of a kind, and the line of the answer the CPU seconds of reading its
samples, with edits, filters and writing. Only what both commits have is used.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.data.stage_rates import kinds
from data_pipeline.build.build_corpus import build_corpus
from data_pipeline.document import Source
from data_pipeline.executors.local import Processes
from data_pipeline.executors.timed import TimedExecutor
from data_pipeline.files.inputs import InputFile, Inputs
from data_pipeline.files.remote import Root


def read_seconds(source: Source, root: Root, files: Sequence[InputFile]) -> float:
    """Of the tasks that build parts, in this process."""
    engine = TimedExecutor(Processes(1))
    # Repeated paragraphs have their own benchmark.
    chosen = replace(source, inputs=partial(_these, files=tuple(files)), paragraph_group_bytes=None)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        build_corpus([(chosen, root)], Path(folder, "out"), executor=engine, may_be_empty=True)
    return engine.core_seconds[f"read {source.name}"]


def _these(root: Root, *, files: tuple[InputFile, ...]) -> Inputs:
    del root  # the files of one kind have been chosen under it
    return Inputs(files, ())


def main() -> None:
    samples, sources = Path(sys.argv[1]), sys.argv[2:]
    for line in sys.stdin:
        wanted = line.strip()
        for kind, source, root, files in kinds(samples, sources):
            if kind == wanted:
                print(read_seconds(source, root, files), flush=True)


if __name__ == "__main__":
    main()
