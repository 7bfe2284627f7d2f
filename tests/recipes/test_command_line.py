"""A mistake in the input is one line and exit code 2, a mistake in the program a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_ds.config import TrainConfig
from recipes.command_line import bad_input
from recipes.scheduler import first_host, rank_variables


def error_of(function: Callable[[], Any]) -> Exception:
    with pytest.raises((ValueError, OSError)) as caught:
        function()
    return caught.value


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (lambda: first_host(","), "error: no host can be read from the node list"),
        (lambda: TrainConfig(max_steps=0), "error: train.max_steps (0) must be"),
        (lambda: Path("/none").read_bytes(), "error: [Errno 2] No such file"),
    ],
)
def test_what_the_project_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[[], Any],
    line: str,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert bad_input(error_of(function)) == 2
    text = capsys.readouterr().err
    assert text.startswith(line)
    assert len(text.splitlines()) == 1


TASK = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "x"}


@pytest.mark.parametrize(
    "function",
    [lambda: int("x"), lambda: rank_variables(TASK)],
    ids=["outside", "in a call of the project"],
)
def test_what_no_raise_statement_says_keeps_its_traceback(function: Callable[[], Any]) -> None:
    error = error_of(function)
    with pytest.raises(ValueError, match="invalid literal") as raised:
        bad_input(error)
    assert raised.value is error


def test_other_ranks_leave_the_word_to_rank_0_and_then_speak(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr("time.sleep", waited.append)
    assert bad_input(OSError("the disk of one machine")) == 2
    assert waited == [5]
    assert capsys.readouterr().err == "rank 3: error: the disk of one machine\n"
