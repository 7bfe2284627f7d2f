"""Every process of a run ends with the others, and the exit code says how the run has ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llama_ds.checkpoint.export import newest
from llama_ds.metrics import read_metrics
from recipes.process_tree import TOP_VARIABLE, launchers_of
from tests.support.nightly import at_night
from tests.support.recipe_run import RECIPE, SMALL, on_the_cpu, run
from tests.support.tiny_run import make_store

LAUNCHERS = ("runner", "launch")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def options(store: Path, run_dir: Path) -> list[str]:
    """A run that does not end by itself."""
    words = ["--data.store", store, "--run-dir", run_dir, "--train.max-steps", "1000000"]
    words += [*SMALL, "--checkpoint.every-steps", "1000000", "--train.eval-every-steps", "1000000"]
    return [str(word) for word in words]


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


class Job:
    """A recipe that was started, and its processes by what they are."""

    def __init__(
        self, command: list[str], run_dir: Path, log: Path, environment: dict[str, str]
    ) -> None:
        self._log = log
        self._metrics = run_dir / "metrics.jsonl"
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=on_the_cpu(**environment),
                cwd="/",
            )
        self.members: dict[str, psutil.Process] = {}

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 120
        while not self._metrics.exists() or len(list(read_metrics(self._metrics, "train"))) < step:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.2)
        self.find_members()

    def find_members(self) -> None:
        top = psutil.Process(self.process.pid)
        self.members = {"top": top}
        for process in top.children(recursive=True):
            name = next(
                (n for n in LAUNCHERS if f"deepspeed.launcher.{n}" in process.cmdline()), ""
            )
            self.members[name or f"rank {process.environ()['RANK']}"] = process

    def survivors(self) -> list[str]:
        """Members that have not ended within the time that a rank is given, and some."""
        deadline = time.monotonic() + 40
        while True:
            alive = [name for name, process in self.members.items() if is_alive(process)]
            if not alive or time.monotonic() > deadline:
                return alive
            time.sleep(0.1)


@contextlib.contextmanager
def started(
    command: list[str], run_dir: Path, environment: dict[str, str] | None = None
) -> Iterator[Job]:
    job = Job(command, run_dir, run_dir.with_suffix(".log"), environment or {})
    try:
        yield job
    finally:
        for process in job.members.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        job.process.kill()
        job.process.wait()


# -- kills ----------------------------------------------------------------------------------------


@pytest.mark.dist
@pytest.mark.parametrize(
    ("victim", "codes"),
    [
        ("top", {-9}),
        at_night("runner", {137}),
        at_night("launch", {1}),
        # Of the rank that was killed, or of one that missed it. The campaign kills the others, too.
        ("rank 0", {137, 1}),
    ],
)
def test_nobody_survives_a_killed_process(
    store: Path, tmp_path: Path, victim: str, codes: set[int]
) -> None:
    run_dir = tmp_path / "run"
    # A rank costs seconds to start: two where one has to notice the other's end.
    ranks = ["rank 0", "rank 1"] if victim.startswith("rank") else ["rank 0"]
    environment = {"DEEPSPEED_ARGS": f"--num_gpus {len(ranks)}"}
    command = ["bash", str(RECIPE), *options(store, run_dir)]
    with started(command, run_dir, environment) as job:
        job.wait_for_step(2)
        assert set(job.members) == {"top", "runner", "launch", *ranks}
        job.members[victim].kill()
        assert job.process.wait(60) in codes, job.output
        assert job.survivors() == []
        if victim == "launch":
            assert "a process of the launcher was killed" in job.output
        if victim.startswith("rank"):
            return
        # The ranks have saved when they saw it.
        assert newest(run_dir) is not None
    if victim == "top":  # whose lock is nobody's: the next job has the folder
        words = [*options(store, run_dir), "--train.stop-after-step", "1"]
        again = run(sys.executable, RECIPE, *words)
        assert again.returncode == 0, again.stderr[-3000:]
        assert "already" in again.stdout


@pytest.mark.nightly
@pytest.mark.dist
@pytest.mark.parametrize(
    ("launcher", "victim"), [("deepspeed", "top"), ("deepspeed", "launch"), ("torchrun", "top")]
)
def test_ranks_end_with_other_launchers(
    store: Path, tmp_path: Path, launcher: str, victim: str
) -> None:
    run_dir = tmp_path / "run"
    flags = {"deepspeed": ["--num_gpus", "1"], "torchrun": ["--nproc-per-node", "1"]}[launcher]
    command = [launcher, *flags, str(RECIPE), *options(store, run_dir)]
    with started(command, run_dir) as job:
        job.wait_for_step(2)
        job.members[victim].kill()
        # DeepSpeed's runner itself would say 0 when its child was killed.
        assert job.process.wait(60) == -signal.SIGKILL, job.output
        assert job.survivors() == []
        assert newest(run_dir) is not None


def test_a_shell_above_the_launcher_may_end(tmp_path: Path) -> None:
    """`nohup` and closed terminals: what lies above the launcher is not watched."""
    (tmp_path / "torchrun").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1]])\n"
    )
    child = "import time; print('ready', flush=True); time.sleep(60)"
    command = f"'{sys.executable}' '{tmp_path}/torchrun' \"{child}\"; true"
    shell = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True)
    try:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "ready\n"
        torchrun, rank = psutil.Process(shell.pid).children(recursive=True)
        assert launchers_of(rank, {}) == [torchrun]
        assert launchers_of(rank, {TOP_VARIABLE: str(shell.pid)}) == [
            torchrun,
            psutil.Process(shell.pid),
        ]
        assert launchers_of(torchrun, {}) == []  # a run without a launcher
    finally:
        for process in psutil.Process(shell.pid).children(recursive=True):
            process.kill()
        shell.communicate()


def test_a_rank_whose_launcher_is_gone_does_not_begin(store: Path, tmp_path: Path) -> None:
    # What deepspeed.launcher.launch gives its ranks.
    environment = {"CROSS_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    words = options(store, tmp_path / "run")
    result = run(sys.executable, RECIPE, *words, **environment)
    assert result.returncode == 1
    assert result.stderr == "error: the launcher has ended before this rank began\n"
    assert not (tmp_path / "run").exists()


# -- signals --------------------------------------------------------------------------------------


@pytest.mark.dist
@pytest.mark.parametrize(
    ("number", "code"),
    [
        at_night(signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        at_night(signal.SIGUSR1, 138),
    ],
)
def test_a_signal_saves_a_checkpoint_and_gives_its_exit_code(
    store: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run_dir = tmp_path / "run"
    words = options(store, run_dir)
    # One of them with two ranks, which have to agree.
    environment = {"DEEPSPEED_ARGS": f"--num_gpus {2 if number == signal.SIGINT else 1}"}
    with started(["bash", str(RECIPE), *words], run_dir, environment) as job:
        job.wait_for_step(2)
        if number == signal.SIGTERM:  # once is enough
            check_that_a_second_job_is_refused(words, run_dir, job.members["rank 0"].pid)
        job.process.send_signal(number)
        assert job.process.wait(60) == code, job.output
        assert job.survivors() == []
        assert job.output.count(f"stopped by {number.name} after step") == 1
        assert "Traceback" not in job.output
    assert newest(run_dir) is not None
    assert not (run_dir / "run.lock").exists()


def check_that_a_second_job_is_refused(words: list[str], run_dir: Path, holder: int) -> None:
    second = run(sys.executable, RECIPE, *words)
    assert second.returncode == 2
    errors = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert (
        f"{run_dir} is in use by another job: process {holder} on {os.uname().nodename}, "
        in (errors[0])
    )
    assert "Traceback" not in second.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [["bash", str(RECIPE)], [sys.executable, str(RECIPE)]])
def test_an_interrupt_before_training_is_one_line(
    store: Path, tmp_path: Path, command: list[str]
) -> None:
    run_dir = tmp_path / "run"
    with started([*command, *options(store, run_dir)], run_dir) as job:
        deadline = time.monotonic() + 60
        seen = set[str]()
        while not seen & {"torch", "runner"} and time.monotonic() < deadline:
            time.sleep(0.02)
            top = psutil.Process(job.process.pid)
            for process in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    if "deepspeed.launcher.runner" in process.cmdline():
                        seen.add("runner")
                    elif any("libtorch_cpu" in m.path for m in process.memory_maps()):
                        seen.add("torch")  # it is being imported
        job.process.send_signal(signal.SIGINT)
        assert job.process.wait(60) == 130, job.output
        assert job.output.count("interrupted") == 1
        assert "Traceback" not in job.output
        assert not run_dir.exists()


# -- hangs ----------------------------------------------------------------------------------------

HANG = """
import signal, time

def stand_still(number, frame):
    time.sleep(1000)

signal.signal(signal.SIGUSR2, stand_still)
"""


@pytest.mark.nightly
@pytest.mark.dist
def test_a_step_that_hangs_leaves_the_stacks_of_every_rank(store: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANG)
    run_dir = tmp_path / "run"
    words = [*options(store, run_dir), "--train.hang-timeout-seconds", "10"]
    environment = {"PYTHONPATH": str(tmp_path)}
    with started(["bash", str(RECIPE), *words], run_dir, environment) as job:
        job.wait_for_step(2)
        job.members["rank 1"].send_signal(signal.SIGUSR2)
        assert job.process.wait(60) == 4, job.output
        assert job.survivors() == []
    assert "Traceback" not in job.output
    lines = [line for line in job.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    (folder,) = (run_dir / "hangs").iterdir()
    assert "has stood still for 10 s" in lines[0]
    assert f"{folder} has the stacks of every rank" in lines[0]
    assert "begins again: there is no checkpoint" in lines[0]
    assert sorted(path.name for path in folder.iterdir()) == [
        f"rank_{rank}.{kind}" for rank in (0, 1) for kind in ("collectives.json", "txt")
    ]
    waits, hangs = ((folder / f"rank_{rank}.txt").read_text() for rank in (0, 1))
    assert "stand_still" in hangs
    assert "distributed_c10d.py" in waits  # in a collective
    assert "stand_still" not in waits
    for stacks in (waits, hangs):
        assert "in run_steps" in stacks
    calls = [
        json.loads((folder / f"rank_{rank}.collectives.json").read_text())["entries"][-1]
        for rank in (0, 1)
    ]
    assert {call["profiling_name"].split(":")[0] for call in calls} == {"gloo"}


@pytest.mark.nightly
@pytest.mark.dist
def test_ranks_do_not_wait_for_one_that_is_stopped(store: Path, tmp_path: Path) -> None:
    """Not even stacks can be had of it; a job that is stopped as a whole and continued goes on."""
    run_dir = tmp_path / "run"
    flags = ["--num_gpus", "2"]
    words = [*options(store, run_dir), "--train.hang-timeout-seconds", "10"]
    with started(["deepspeed", *flags, str(RECIPE), *words], run_dir) as job:
        job.wait_for_step(2)
        ranks = [job.members[f"rank {rank}"] for rank in (0, 1)]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for rank in ranks:
                rank.send_signal(number)
            if number == signal.SIGSTOP:
                time.sleep(12)
        seen = len(list(read_metrics(run_dir / "metrics.jsonl", "train")))
        job.wait_for_step(seen + 2)
        ranks[1].suspend()
        assert psutil.wait_procs([ranks[0]], timeout=60)[1] == [], job.output
        (folder,) = (run_dir / "hangs").iterdir()
        assert "distributed_c10d.py" in (folder / "rank_0.txt").read_text()
        assert not (folder / "rank_1.txt").exists()
        ranks[1].kill()  # DeepSpeed does so 30 seconds later
        assert job.process.wait(60) == 4, job.output
