"""Programs that do what they must not are stopped, each, and counted by what they did."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_ds.evaluation import confined_program
from llama_ds.evaluation.sandbox import CodeJudge, Sandbox, program_of
from tests.support.evaluation_data import HUMANEVAL, MBPP

SANDBOX = Sandbox(seconds=1, memory_bytes=2**29)


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("import math, re, typing\nassert math.sqrt(4) == 2", "passed"),
        ("open('own.txt', 'w').write('x')\nassert open('own.txt').read() == 'x'", "passed"),
        ("assert False", "failed"),
        ("def f(:", "failed"),
        ("while True: pass", "time"),
        ("import time\ntime.sleep(60)", "time"),
        ("bytearray(2**34)", "memory"),
        ("import os\nos.fork()", "processes"),
        ("import subprocess\nsubprocess.run(['true'])", "processes"),
        ("import _thread\n_thread.start_new_thread(print, ())", "processes"),
        ("import os\nos.kill(os.getppid(), 9)", "processes"),
        ("import os\nos.environ.get('HOME')", "environment"),
        ("import os\nos.getenv('HOME')", "environment"),
        ("import os\nprint(dict(os.environ))", "environment"),
        ("import socket\nsocket.socket()", "network"),
        ("open('/etc/passwd').read()", "files"),
        ("open('/proc/self/environ').read()", "files"),
        ("open('../outside.txt', 'w')", "files"),
        ("import os\nos.listdir('/')", "files"),
        ("import os\nos.remove('/tmp/none')", "files"),
        ("import ctypes\nctypes.CDLL(None).fork()", "native code"),
    ],
)
def test_a_program_ends_as_it_should(program: str, verdict: str) -> None:
    assert SANDBOX.verdict(program) == verdict


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "try:\n    open('/etc/passwd')\nexcept BaseException:\n    pass",
        "import os\nfor n in range(3, 20):\n    try: os.write(n, b'passed')\n"
        "    except OSError: pass\nos._exit(0)",
        "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass",
    ],
)
def test_no_program_passes_by_a_trick(program: str) -> None:
    assert SANDBOX.verdict(program) != "passed"


@pytest.mark.parametrize(
    "call",
    [
        "os.open('/etc/passwd', os.O_RDONLY)",
        "posix.open('/etc/passwd', posix.O_RDONLY)",
        "posix.fork()",
        "posix.execv('/bin/true', ['true'])",
        "_socket.socket(2, 1)",
    ],
)
def test_the_kernel_forbids_it_too(
    call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the audit hook, which is Python's alone, the call fails."""
    source = Path(confined_program.__file__).read_text(encoding="utf-8")
    unhooked = source.replace("    sys.addaudithook(guard.audit)\n", "")
    assert unhooked != source
    (tmp_path / "unhooked.py").write_text(unhooked, encoding="utf-8")
    monkeypatch.setattr(confined_program, "__file__", str(tmp_path / "unhooked.py"))
    expected = (
        "import os, posix, errno, _socket\n"
        f"try:\n    {call}\nexcept OSError as error:\n"
        "    assert error.errno in (errno.EPERM, errno.EACCES)\nelse:\n    assert False\n"
    )
    assert SANDBOX.verdict(expected) == "passed"


def test_the_environment_and_the_folder_of_a_program_are_empty(tmp_path: Path) -> None:
    program = "import posix, os\nassert not posix.environ\nassert os.listdir('.') == []"
    assert SANDBOX.verdict(program) == "passed"


def test_a_judge_counts_how_programs_ended() -> None:
    judge = CodeJudge(SANDBOX, (1, 2, 100))
    texts = ["    return 2", "    return 3", "    import os\n    os.fork()", "    return 1 + 1"]
    found = judge(HUMANEVAL, texts)
    # Of 4 samples 2 pass: pass@1 = 1/2, pass@2 = 1 - 1/6; of 100 there are too few.
    assert found == {
        "pass@1": 0.5,
        "pass@2": pytest.approx(5 / 6),
        "programs passed": 2.0,
        "programs failed": 1.0,
        "programs processes": 1.0,
    }


def test_a_program_is_the_text_with_its_tests() -> None:
    assert SANDBOX.verdict(program_of(HUMANEVAL, "    return 2\n")) == "passed"
    row = {**MBPP[0], "test_setup_code": "import math"}
    assert SANDBOX.verdict(program_of(row, "def f2():\n    return math.isqrt(4)")) == "passed"
    assert SANDBOX.verdict(program_of(row, "def f2():\n    return 3")) == "failed"


def test_what_cannot_be_confined_is_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = Path(confined_program.__file__).read_text(encoding="utf-8")
    # As a kernel without Landlock answers.
    old = source.replace("= 444, 445, 446", "= 9444, 9445, 9446")
    assert old != source
    (tmp_path / "old_kernel.py").write_text(old, encoding="utf-8")
    monkeypatch.setattr(confined_program, "__file__", str(tmp_path / "old_kernel.py"))
    with pytest.raises(ValueError, match=r"cannot be confined here \(unconfined: .*Linux 5.13"):
        SANDBOX.require()
