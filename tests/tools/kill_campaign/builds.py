"""Scenarios of dataset builds: killed, two at once, or with raw files that change meanwhile.

A build is the command with all of its stages, on a folder whose files are a part each. Its result
must be byte for byte that of a build that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import psutil

from data_pipeline.build.parts import PART_SIZES
from tests.support.checkpoints import CHANGES
from tests.support.fork_server import start_fork_server
from tests.tools.kill_campaign.jobs import descendants, redirect_output, wait_for_end
from tests.tools.kill_campaign.record import Kill, Record, Wrong

Kind = Literal["killed", "two at once", "raw files change"]
RAY_VICTIMS = {"ray worker": "ray::", "raylet": "raylet", "gcs": "gcs_server"}
BUILD_SECONDS = 300
# Ray's agents, which hold no files, look for a lost cluster for a minute.
END_SECONDS = {"local": 20, "ray": 150}
NUM_FILES = 5
# Of a build that was refused: invalid input, or another build in the folder.
REFUSED = 2


def write_raw_file(path: Path, seed: int, mode: Literal["a", "w"] = "w") -> None:
    """Forty documents, some of them in every file, and enough blanks to fill a part."""
    words = random.Random(seed)
    texts = [_text(words) for _ in range(30)] + [_text(random.Random(n)) for n in range(10)]
    rows: list[dict[str, str]] = [{"text": text} for text in texts]
    rows[0]["blanks"] = " " * PART_SIZES.input_bytes
    with path.open(mode) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def _text(words: random.Random) -> str:
    return " ".join("".join(words.choices("abcdefghij", k=3)) for _ in range(50))


def change_raw_files(raw: Path, moments: random.Random) -> None:
    """A file is replaced, grows, is added or is removed."""
    path = raw / f"{moments.randrange(NUM_FILES)}.jsonl"
    seed = moments.randrange(1000, 1 << 30)
    match moments.randrange(4):
        case 0:
            write_raw_file(raw / ".new", seed)
            (raw / ".new").replace(path)
        case 1:
            write_raw_file(path, seed, mode="a")
        case 2:
            write_raw_file(raw / ".new", seed)
            (raw / ".new").replace(raw / f"{moments.choice(['added', '0-added'])}.jsonl")
        case _:
            path.unlink(missing_ok=True)  # an earlier change may have removed it


# -- results --------------------------------------------------------------------------------------


def result_of(out: Path) -> dict[str, str]:
    """Checksums of what a build has published, but for its report and card, which have times."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    names = {path.relative_to(out).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if "/" in name
        and path.name != "README.md"
        and not any(part.startswith(".") for part in name.split("/"))
    }


@dataclass
class BuildCampaign:
    """What scenarios share: raw files, the result of an undisturbed build, and its duration."""

    folder: Path
    executor: str
    raw: Path = field(init=False)
    result: dict[str, str] = field(init=False)
    seconds: float = field(init=False)
    others: set[int] = field(init=False)
    """Processes that are no builds'."""

    def __post_init__(self) -> None:
        self.raw = self.folder / "raw"
        self.raw.mkdir(parents=True)
        for number in range(NUM_FILES):
            write_raw_file(self.raw / f"{number}.jsonl", 100 + number)
        self.result_of_undisturbed(self.raw)  # also what is imported late
        self.others = descendants()
        start = time.monotonic()
        # By this executor: Ray takes most of its time to start.
        self.result = self.result_of_undisturbed(self.raw, self.executor)
        self.seconds = time.monotonic() - start

    def result_of_undisturbed(self, raw: Path, executor: str = "local") -> dict[str, str]:
        out = self.folder / "undisturbed"
        shutil.rmtree(out, ignore_errors=True)
        build = start_build(raw, out, self.folder / "log", executor)
        build.join(BUILD_SECONDS)
        assert build.exitcode == 0, (self.folder / "log").read_text()[-3000:]
        return result_of(out)


@dataclass(frozen=True)
class BuildAim:
    """A process that is killed before one of its changes to the disk."""

    victim: str
    count: int


# -- processes ------------------------------------------------------------------------------------


def start_build(
    raw: Path, out: Path, log: Path, executor: str, aim: BuildAim | None = None
) -> BaseProcess:
    start_fork_server()
    process = get_context("forkserver").Process(target=_build, args=(raw, out, log, executor, aim))
    process.start()
    return process


def _build(raw: Path, out: Path, log: Path, executor: str, aim: BuildAim | None) -> None:
    redirect_output(log)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from data_pipeline.commands import build_text, command_line

    if aim is not None:
        _kill_at_a_change(aim, out)
    options = {"--raw": raw, "--out": out, "--executor": executor, "--jobs": 2, "--holdout": 0.1}
    options |= {"--tokenizer.vocab-size": 280, "--deduplication.near-duplicates": 0.8}
    sys.argv[1:] = [str(word) for option in options.items() for word in option]
    try:
        command_line.main(lambda arguments: build_text.run(arguments, prog="build_text"))
    finally:
        # As at the end of a program: multiprocessing would close the queue of a pool before its
        # thread has told the workers to end.
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()


def _kill_at_a_change(aim: BuildAim, out: Path) -> None:
    """From now on, count changes to files of the build, and end the process before one."""
    main, left = os.getpid(), aim.count

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name not in CHANGES or not str(arguments[0]).startswith(str(out)):
            return
        if name == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        if (aim.victim == "main process") == (os.getpid() == main):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def command_of(pid: int) -> str:
    """The beginning of a process's command line; "" where it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline())[:100]
    return ""


def victims_of(build: BaseProcess) -> dict[str, list[int]]:
    """Processes of a build that may be killed, by what they are."""
    if build.exitcode is not None or build.pid is None:
        return {}
    found: dict[str, list[int]] = {"main process": [build.pid]}
    with contextlib.suppress(psutil.Error):
        main = psutil.Process(build.pid).cmdline()
        for process in psutil.Process(build.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = (process.cmdline() or [""])[0]
                name = os.path.basename(command)
                kinds = [kind for kind, word in RAY_VICTIMS.items() if name.startswith(word)]
                if process.cmdline() == main:  # forked
                    kinds = ["worker"]
                for kind in kinds:
                    found.setdefault(kind, []).append(process.pid)
    return found


# -- scenarios ------------------------------------------------------------------------------------


def run_build_scenario(campaign: BuildCampaign, seed: int) -> Record:
    """Disturb builds of one folder until enough processes were killed; then let one end."""
    moments = random.Random(seed)
    kinds: list[Kind] = ["killed", "killed", "two at once", "raw files change"]
    kind, executor = moments.choice(kinds), campaign.executor
    record = Record("builds", seed, f"{executor}, {kind}")
    folder = campaign.folder / f"build-{executor}-{seed}"
    shutil.copytree(campaign.raw, folder / "raw")
    try:
        _Builds(campaign, folder, kind, moments, record).run()
    except Wrong as wrong:
        record.wrong = f"{wrong} ({folder})"
    else:
        shutil.rmtree(folder)
    return record


@dataclass
class _Builds:
    """The builds of a scenario, one after the other or two at once."""

    campaign: BuildCampaign
    folder: Path
    kind: Kind
    moments: random.Random
    record: Record

    def __post_init__(self) -> None:
        self.executor = self.campaign.executor
        self.raw, self.out = self.folder / "raw", self.folder / "out"
        self.log = self.folder / "log"
        self.expected = self.campaign.result

    def run(self) -> None:
        num_kills = self.moments.randint(3, 6)
        for _ in range(40):
            if len(self.record.kills) >= num_kills:
                break
            if self.kind == "raw files change" and self.moments.random() < 0.5:
                self.changed()
            else:
                self.killed()
        for _ in range(5):
            if self.end([self.start()], allowed={0}) == [0]:
                break
        self.check([self.expected])

    def start(self, aim: BuildAim | None = None) -> BaseProcess:
        return start_build(self.raw, self.out, self.log, self.executor, aim)

    def killed(self) -> None:
        """A process of one build, or of one of two, is killed."""
        self.record.num_resumes += (self.out / "documents").exists()
        if self.kind != "two at once" and self.executor == "local" and self.moments.random() < 0.5:
            victim = self.moments.choice(["main process", "worker"])
            aim = BuildAim(victim, self.moments.randint(1, 60 if victim == "main process" else 12))
            (code,) = self.end([self.start(aim)], allowed={0, 1, -signal.SIGKILL})
            if code != 0:
                self.record.kills.append(Kill(victim, "at a change", self.seconds_to_end))
            return
        builds = [self.start()]
        if self.kind == "two at once":
            connection.wait([builds[0].sentinel], timeout=self.moments.uniform(0, 0.3))
            builds.append(self.start())
        time.sleep(self.moments.uniform(0, self.campaign.seconds))
        killed = self.kill_one(builds)
        allowed = {0, -signal.SIGKILL} if killed == "main process" else {0, 1}
        self.end(builds, allowed | ({REFUSED} if len(builds) == 2 else set()))
        if killed is not None:
            self.record.kills.append(Kill(killed, "any time", self.seconds_to_end))

    def kill_one(self, builds: Sequence[BaseProcess]) -> str | None:
        """What was killed; None where the builds have ended."""
        found = [
            (victim, pid)
            for build in builds
            for victim, pids in victims_of(build).items()
            for pid in pids
        ]
        if not found:
            return None
        # Each kind of process as often as any other.
        victim = self.moments.choice(sorted({victim for victim, _ in found}))
        try:
            os.kill(self.moments.choice([pid for kind, pid in found if kind == victim]), 9)
        except ProcessLookupError:
            return None
        return victim

    def changed(self) -> None:
        """The raw files change: the build is of those before or after, or it is refused."""
        build = self.start()
        connection.wait([build.sentinel], timeout=self.moments.uniform(0, self.campaign.seconds))
        change_raw_files(self.raw, self.moments)
        (code,) = self.end([build], allowed={0, REFUSED})
        before, self.expected = self.expected, self.campaign.result_of_undisturbed(self.raw)
        if code == 0:
            self.check([before, self.expected])

    def end(self, builds: Sequence[BaseProcess], allowed: set[int]) -> list[int | None]:
        """Wait for builds; their exit codes."""
        for build in builds:
            build.join(BUILD_SECONDS)
        start = time.monotonic()
        left = wait_for_end(self.campaign.others, END_SECONDS[self.executor])
        self.seconds_to_end = time.monotonic() - start
        if left:
            names = [command_of(pid) for pid in left]
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise Wrong(f"processes were left: {names}")
        codes = [build.exitcode for build in builds]
        said = self.log.read_text() if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        if self.executor == "ray" and "Ray could not be started" in said:
            allowed = allowed | {1}  # on a busy machine; the user runs the command again
        if not set(codes) <= allowed:
            raise Wrong(f"builds ended with {codes}, not {sorted(allowed)}: {said[-500:]}")
        if 0 in codes and len(builds) == 2:
            self.check([self.expected])
        return codes

    def check(self, allowed: Sequence[dict[str, str]]) -> None:
        """The result is one of these; then it is removed, and the next build begins anew."""
        found = result_of(self.out)
        if found not in allowed:
            names = {
                name for one in allowed for name in one | found if one.get(name) != found.get(name)
            }
            raise Wrong(f"the result differs from an undisturbed build's in {sorted(names)[:5]}")
        hidden = [path for path in self.out.rglob("*") if ".tmp-" in path.name]
        if hidden:
            raise Wrong(f"temporary files were left: {hidden[:5]}")
        shutil.rmtree(self.out)
