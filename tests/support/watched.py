"""Fuzzing of a source in a monitored process, with limits on time and memory.

The process makes inputs, writes them into a folder and reads, edits and filters them as a build
does. It says when it begins and ends each file; whoever watches it ends it when a file takes too
long or its memory grows too large, and keeps the folder.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from random import Random
from typing import Literal

from data_pipeline.build.parts import apply_edits_and_filters
from data_pipeline.document import Document, Source
from data_pipeline.files.inputs import InputFile

Generator = Callable[[Random], Iterator[tuple[str, bytes]]]
"""Names and contents of files; a new generator state gives other ones."""

_FILES_AT_ONCE = 20  # enough for a checkout with its license, or a dump in several forms
_WARM_UP_FILES = 30
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Limits:
    seconds_per_file: float = 30.0
    peak_bytes: int = 1 << 30
    """Resident set of the process at any time."""
    growth_bytes: int = 256 << 20
    """Resident set after a file, beyond the largest after one of the first thirty."""


@dataclass
class Account:
    """What became of a source's inputs."""

    source: str
    num_files: int = 0
    num_ignored: int = 0
    num_documents: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    """Seconds and name of the file that took longest."""
    peak_bytes: int = 0
    failure: str | None = None


@dataclass(frozen=True)
class Begun:
    file: str


@dataclass(frozen=True)
class Ended:
    file: str
    seconds: float
    num_documents: int
    reasons: Counter[str]


@dataclass(frozen=True)
class Ignored:
    num_files: int


@dataclass(frozen=True)
class Failed:
    trace: str


def watch(
    source: Source,
    generator: Generator,
    *,
    seed: str,
    seconds: float,
    limits: Limits,
    save: Path,
    start_method: Literal["spawn", "fork"] = "spawn",
) -> Account:
    """Feed the source for so many seconds, or until the first failure.

    The account names the failure and its file, which lies under `save` with all that was beside it.
    `start_method` is the process's, as multiprocessing names it.
    """
    account = Account(source.name)
    context: SpawnContext | ForkContext = (
        get_context("fork") if start_method == "fork" else get_context("spawn")
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipe, theirs = context.Pipe(duplex=False)
        arguments = (theirs, source, generator, seed, seconds, folder)
        process = context.Process(target=_feed, args=arguments, daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the process
        assert process.pid is not None, "it was started"
        try:
            account.failure = _listen(pipe, process.pid, account, limits)
        finally:
            process.kill()
            process.join()
        if account.failure is not None:
            kept = save / source.name
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept)
            account.failure += f"\ninput and what was beside it: {kept} (seed {seed})"
    return account


def _listen(pipe: Connection, pid: int, account: Account, limits: Limits) -> str | None:
    """Follow the process to its end; what went wrong, or None."""
    file, begun, settled = "(finding inputs)", time.monotonic(), 0
    while True:
        if not pipe.poll(_LOOK_SECONDS):
            account.peak_bytes = max(account.peak_bytes, _memory(pid, "VmHWM"))
            if account.peak_bytes > limits.peak_bytes:
                return f"memory: {file} took {account.peak_bytes >> 20} MiB"
            # Before the first file the process starts, which is no input's fault.
            if account.num_files and time.monotonic() - begun > limits.seconds_per_file:
                return f"hang: {file} takes more than {limits.seconds_per_file:.0f} s"
            continue
        try:
            message = pipe.recv()
        except EOFError:
            return f"crash: the process ended in {file}"
        match message:
            case None:
                return None
            case Begun():
                file, begun = message.file, time.monotonic()
                account.num_files += 1
            case Ignored():
                account.num_ignored += message.num_files
            case Failed():
                return f"crash: {file}\n{message.trace}"
            case Ended():
                account.num_documents += message.num_documents
                account.reasons += message.reasons
                account.slowest = max(account.slowest, (message.seconds, message.file))
                account.peak_bytes = max(account.peak_bytes, _memory(pid, "VmHWM"))
                resident = _memory(pid, "VmRSS")
                if account.num_files <= _WARM_UP_FILES:
                    settled = max(settled, resident)
                elif resident > settled + limits.growth_bytes:
                    return f"growth: {resident >> 20} MiB after {file}, {settled >> 20} at first"
                file, begun = f"(after {file})", time.monotonic()


def _memory(pid: int, which: str) -> int:
    """Bytes, by a line of the process's status; 0 once it has ended. Linux only."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(which)), 0
    )


# -- in the process that is watched ---------------------------------------------------------------


def _feed(
    pipe: Connection, source: Source, generator: Generator, seed: str, seconds: float, folder: Path
) -> None:
    end = time.monotonic() + seconds
    try:
        for number, files in enumerate(_groups(generator, seed)):
            _empty(folder)
            for name, data in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            found = source.inputs(folder)
            pipe.send(Ignored(len(found.ignored)))
            # In a short run every kind of file should have its chance.
            for file in Random(f"{seed} {number}").sample(found.files, len(found.files)):
                pipe.send(Begun(file.source_file))
                pipe.send(read_whole(source, file))
                if time.monotonic() > end:
                    pipe.send(None)
                    return
    except Exception:
        pipe.send(Failed(traceback.format_exc()))


def _groups(generator: Generator, seed: str) -> Iterator[dict[str, bytes]]:
    """Files without end, some at a time, no name twice among them."""
    group: dict[str, bytes] = {}
    for number in itertools.count():
        for name, data in generator(Random(f"{seed} {number}")):
            if name in group or len(group) == _FILES_AT_ONCE:
                yield group
                group = {}
            group[name] = data


def _empty(folder: Path) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir():
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def read_whole(source: Source, file: InputFile) -> Ended:
    """All of a file as a build takes it; AssertionError where something is not accounted for."""
    start = time.monotonic()
    num_items = num_documents = 0
    reasons: Counter[str] = Counter()
    for item in source.read(file):
        num_items += 1
        result = apply_edits_and_filters(source, item)
        assert item.source_file == result.source_file == file.source_file, (
            f"{result.source_file} is not the file that was read"
        )
        if isinstance(result, Document):
            num_documents += 1
            assert result.text.strip(), "a document without text was kept"
            source.same_text(result.text)
            json.dumps(result.row(source.name), ensure_ascii=False).encode()
        else:
            # A reason that holds a part of the input would make a report of any length.
            assert re.fullmatch(r"[a-z0-9_]{1,40}", result.reason), f"reason {result.reason!r}"
            reasons[result.reason] += 1
            f"{result.detail}".encode()
    assert num_items, "the file is neither read nor rejected"
    return Ended(file.source_file, time.monotonic() - start, num_documents, reasons)
