"""Executes programs that a model has written, confined, and counts how each ended."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_ds.evaluation import confined_program
from llama_ds.evaluation.protocol import pass_at_k

START_SECONDS = 20
"""For Python to start, on a machine that is busy."""
_OUT_OF_TIME = (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL)
STOPPED = ("time", "memory", "processes", "network", "files", "environment", "native code")


@dataclass(frozen=True)
class Sandbox:
    """Limits of each program; programs run side by side."""

    seconds: int = 3
    memory_bytes: int = 2**29
    num_workers: int = 1

    def require(self) -> None:
        """ValueError where this machine cannot confine programs."""
        verdict = self.verdict("pass")
        if verdict != "passed":
            raise ValueError(
                f"programs cannot be confined here ({verdict}): --run-code needs Linux 5.13 or "
                "newer with Landlock and seccomp; leave out the tasks of code"
            )

    def verdicts(self, programs: Sequence[str]) -> list[str]:
        """How each ended: passed, failed, or one of `STOPPED` for what it was stopped at."""
        with ThreadPoolExecutor(self.num_workers) as pool:
            return list(pool.map(self.verdict, programs))

    def verdict(self, program: str) -> str:
        token = secrets.token_hex(16)
        limits = {"seconds": self.seconds, "memory_bytes": self.memory_bytes}
        task = json.dumps({"program": program, "token": token, "limits": limits})
        with tempfile.TemporaryDirectory(prefix="llama-ds-program-") as folder:
            said, code = _run(task.encode(), os.path.realpath(folder), self.seconds)
        if not said.startswith(token):
            # It ended its process itself, or was ended.
            return "time" if code in _OUT_OF_TIME else "failed"
        verdict = said.removeprefix(token)
        return "failed" if verdict.startswith("failed") else verdict


def _run(task: bytes, folder: str, seconds: int) -> tuple[str, int]:
    """What the program's process says of it, and its exit code."""
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", str(Path(confined_program.__file__)), str(writing)]
    nothing = subprocess.DEVNULL
    with open(reading, "rb") as verdict:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={},
                stdin=subprocess.PIPE,
                stdout=nothing,
                stderr=nothing,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            # The process ends itself in time; one that has put that off is ended.
            process.communicate(task, timeout=START_SECONDS + seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return verdict.read().decode("utf-8", "replace"), process.returncode


def program_of(row: dict[str, Any], text: str) -> str:
    """The program whose end judges `text`: of HumanEval, or of MBPP."""
    if "entry_point" in row:
        return f"{row['prompt']}{text}\n{row['test']}\ncheck({row['entry_point']})\n"
    return "\n".join([row["test_setup_code"], text, *row["test_list"]])


@dataclass(frozen=True)
class CodeJudge:
    """pass@k of a row's texts, and how their programs ended."""

    sandbox: Sandbox
    pass_at: tuple[int, ...]

    def __call__(self, row: dict[str, Any], texts: Sequence[str]) -> dict[str, float]:
        ends = Counter(self.sandbox.verdicts([program_of(row, text) for text in texts]))
        found = {
            f"pass@{k}": pass_at_k(len(texts), ends["passed"], k)
            for k in self.pass_at
            if k <= len(texts)
        }
        return found | {f"programs {end}": float(count) for end, count in ends.items()}
