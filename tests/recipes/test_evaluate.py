"""The command: its options, its one-line errors, and the file that bash and Python both accept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipes.evaluate import main, parser

ROOT = Path(__file__).resolve().parents[2]


def test_options_are_the_papers_by_default() -> None:
    options = parser().parse_args(["--model", "runs/llama_7b"])
    assert (options.tasks, options.samples, options.run_code) == ("paper", None, False)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--shots", "0,x"], "--shots '0,x' must be numbers with commas, as 0,1,5,64"),
        (["--limit", "0"], "--limit (0) must be positive"),
        ([], "nowhere is not a folder; name a run, a checkpoint or a Hugging Face model folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--model", "nowhere", *arguments])
    assert ended.value.code == 2
    assert line in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_python_reads_the_file_that_bash_runs() -> None:
    command = [sys.executable, str(ROOT / "recipes" / "evaluate.sh"), "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout
    assert "--run-code" in said
