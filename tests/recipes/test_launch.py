"""The programs as people start them: exit codes, messages, and what survives a kill."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from transformers import AutoTokenizer

from llama_ds.metrics import read_metrics
from recipes.launch import may_compile, parse
from recipes.llama import llama_tiny
from tests.support.nightly import at_night
from tests.support.recipe_run import RECIPE, ROOT, SMALL, run
from tests.support.tiny_run import WORDS, make_store, run_training

QUICKSTART = ROOT / "recipes" / "quickstart.sh"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def losses(run_dir: Path, kind: str = "train") -> list[float]:
    return [record["loss"] for record in read_metrics(run_dir / "metrics.jsonl", kind)]


# -- options --------------------------------------------------------------------------------------


def test_options_override_the_recipe() -> None:
    arguments = ["--train.max-steps", "7", "--data.shares", "web", "0.5", "books", "0.5"]
    launch = parse(llama_tiny, [*arguments, "--zero.stage", "3", "--cluster", "h200-141gb"])
    assert launch.recipe.train.max_steps == 7
    assert launch.recipe.data.shares == {"web": 0.5, "books": 0.5}
    assert launch.recipe.zero.stage == 3
    assert launch.cluster == "h200-141gb"
    assert launch.recipe.model == llama_tiny().model


@pytest.mark.parametrize(
    ("elementwise", "environment", "expected"),
    [
        ("auto", {"DS_ACCELERATOR": "cpu"}, False),
        ("auto", {}, True),
        ("compile", {"DS_ACCELERATOR": "cpu"}, True),
        ("eager", {}, False),
        ("liger", {}, False),
    ],
)
def test_torchs_compiler_stays_where_it_may_be_used(
    elementwise: str, environment: dict[str, str], expected: bool
) -> None:
    recipe = parse(llama_tiny, ["--train.elementwise", elementwise]).recipe
    assert may_compile(recipe, environment) is expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.max-step", "5"], r"unknown option --train.max-step; did you mean .*max-steps"),
        at_night(["--nonsense"], "unknown option --nonsense"),
        (["--zero.stage", "7"], r"zero.stage \(7\) must be 0, 1, 2 or 3"),
        at_night(["--deepspeed-json", "/none.json"], "file /none.json does not exist"),
        (["--data.store", "/none"], "/none is not a token store"),
        at_night(
            ["--data.store", "/none", "--dry-run", "--world-size", "3"], "8 sequ.* of 3 data-par"
        ),
        at_night(
            ["--train.max-steps", "many"], "Error parsing --train.max-steps: no type .*'many'"
        ),
        at_night(["--cluster", "b200"], r"--cluster \(b200\) must be one of a100-80gb"),
        (["--train.micro-batch-size", "3"], r"8 sequ.* multiple of 1 .*size \(3\)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    result = run(sys.executable, RECIPE, *arguments)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    with pytest.raises(ValueError, match=message):
        raise ValueError(errors[0])
    assert len(errors) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "code"),
    # torchrun says 1 whatever its ranks have said.
    [(["deepspeed", "--num_gpus", "2"], 2), (["torchrun", "--nproc-per-node", "2"], 1)],
)
def test_under_the_launcher_bad_input_is_said_once(launcher: list[str], code: int) -> None:
    result = run(*launcher, RECIPE, "--train.max-step", "5")
    assert result.returncode == code
    assert result.stderr.count("error: unknown option --train.max-step") == 1


def test_bash_says_bad_input_before_it_starts_the_launcher() -> None:
    result = run("bash", RECIPE, "--train.max-step", "5")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: unknown option --train.max-step; did you mean")
    assert len(result.stderr.splitlines()) == 1


def test_whether_a_run_has_ended_is_said_without_torch(tmp_path: Path) -> None:
    program = f"""if True:
        import sys
        from recipes.launch import main
        from recipes.llama import llama_tiny
        try:
            main(llama_tiny, arguments=["check-end", "--run-dir", {str(tmp_path)!r}])
        except SystemExit as end:
            assert end.code == 1
        assert "torch" not in sys.modules
    """
    result = run(sys.executable, "-c", program)
    assert result.returncode == 0, result.stderr
    assert "has checkpoints up to step 0 of" in result.stderr


@pytest.mark.slow
def test_a_bug_is_a_traceback_and_exit_code_1(tmp_path: Path) -> None:
    # In place of a mistake in the program: a call that does not do what it should.
    bug = "import socket\nsocket.socket.bind = lambda *_: 1 / 0\n"
    (tmp_path / "sitecustomize.py").write_text(bug)
    result = run(sys.executable, RECIPE, "--run-dir", tmp_path / "run", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


# -- ways to start --------------------------------------------------------------------------------


@pytest.mark.dist
@pytest.mark.parametrize(
    "command",
    [
        ["bash", RECIPE],
        at_night(["torchrun", "--nproc-per-node", "2", RECIPE]),
    ],
    ids=["bash", "torchrun"],  # deepspeed: below
)
def test_a_recipe_starts_under_every_launcher(
    store: Path, tmp_path: Path, command: list[str | Path]
) -> None:
    run_dir = tmp_path / "a run"
    options = ["--data.store", store, "--run-dir", run_dir, "--train.max-steps", "5"]
    result = run(*command, *map(str, options), *SMALL)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(losses(run_dir)) == 5
    assert (run_dir / "checkpoints" / "step_00000005" / "run.json").is_file()


@pytest.mark.nightly
@pytest.mark.dist
def test_four_processes_of_every_kind_train_as_one(
    gloo: Callable[..., list[Any]], store: Path, tmp_path: Path
) -> None:
    options = ["--data.store", str(store), "--train.max-steps", "10", *SMALL]
    parallel = ["--parallel.tp", "2", "--parallel.sp", "2", "--zero.stage", "3"]
    one, four = tmp_path / "one", tmp_path / "four"
    gloo(1, run_training, parse(llama_tiny, [*options, "--run-dir", str(one)]).recipe)
    result = run("deepspeed", "--num_gpus", "4", RECIPE, *parallel, *options, "--run-dir", four)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(losses(one)) == 10
    # fp32 sums in another order, over ten steps of Adam.
    assert losses(four) == pytest.approx(losses(one), rel=1e-5)


# -- kills ----------------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.dist
def test_a_kill_during_a_save_costs_no_more_than_that_save(
    gloo: Callable[..., list[Any]],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def options(run_dir: Path) -> list[str]:
        words = ["--data.store", store, "--run-dir", run_dir, "--train.max-steps", "12"]
        words += ["--checkpoint.every-steps", "2", *SMALL, "--train.micro-batch-size", "8"]
        return [str(word) for word in words]

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    gloo(1, run_training, parse(llama_tiny, options(straight)).recipe)
    # As many threads as the processes of the pool have: sums in the same order.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, str(RECIPE), *options(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = killed / "checkpoints" / ".partial_step_00000006"
    deadline = time.monotonic() + 120
    while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
        pass  # the window is milliseconds wide
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists(), "the kill came too late to interrupt the save"
    result = run(*command)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "resuming after step 4" in result.stdout + result.stderr
    assert not partial.exists()
    assert losses(killed) == losses(straight)
    assert losses(killed, "eval")[-1] == losses(straight, "eval")[-1]


# -- the quickstart -------------------------------------------------------------------------------


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    for number in range(40):
        words = [WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(300)]
        (folder / f"{number}.txt").write_text(f"Text {number}. " + " ".join(words))
    return folder


@pytest.mark.dist
def test_the_quickstart_goes_from_text_to_a_stock_model_and_reuses_its_stages(
    tmp_path: Path,
) -> None:
    corpus, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    small = [word for word in SMALL if word not in ("--model.vocab-size", "320")]
    command: list[str | Path] = ["bash", QUICKSTART, "--corpus", corpus, "--out", out]
    command += ["--tokenizer.vocab-size", "300", "--train.max-steps", "20", *small]
    # One process; two are started by the test of the launchers.
    first = run(*command, DEEPSPEED_ARGS="--num_gpus 1")
    assert first.returncode == 0, first.stderr[-3000:]
    said = first.stdout + first.stderr
    assert "hostfile" not in said
    sample = said.split("sample from transformers.models.llama.modeling_llama.LlamaForCausalLM")[1]
    # The prompt is the beginning of a document that was not trained on.
    shown = re.search(r"prompt:\n    \| (Text \d+\. .*)\n\n  continued with:\n    \| \S", sample)
    assert shown is not None
    held_out = load_from_disk(str(out / "store" / "text" / "validation"))
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    text = tokenizer.decode(held_out[0]["input_ids"][1:])
    assert isinstance(text, str)
    assert text.startswith(shown[1])
    bits = re.search(r"(\d+\.\d\d) and (\d+\.\d\d) bits per byte of text", sample)
    assert bits is not None
    assert 0 < float(bits[2]) < float(bits[1])
    next_command = re.search("more text: +(.*)", sample)
    assert next_command is not None
    more = run(*shlex.split(next_command[1]), "--max-new-tokens", "5")
    assert more.returncode == 0, more.stderr
    assert more.stdout.startswith(shown[1].strip())
    assert (out / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    held_out = losses(out / "run", "eval")
    assert held_out[-1] < held_out[0] - 0.3
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.arrow")}
    second = run(*command, DEEPSPEED_ARGS="--num_gpus 1")
    assert second.returncode == 0, second.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.arrow")} == made
    assert len(losses(out / "run")) == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "/no/such/folder"], "corpus path /no/such/folder does not exist"),
        (["--corpus", "{empty}"], "has nothing that source 'text' reads"),
        (["--corpus", "{text}", "--tokenizer.vocab-size", "9000"], r"\(9000\) is larger than the"),
        (["--corpus", "{text}", "--train.max-step", "3"], "did you mean --train.max-steps"),
        (["--corpus", "{text}", "--train.sequence-length", "512"], r"\(512\) must not exceed"),
    ],
)
def test_bad_input_to_the_quickstart(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    text = write_corpus(tmp_path / "text")
    places = {"empty": tmp_path / "empty", "text": text}
    filled = [argument.format(**places) for argument in arguments]
    result = run("bash", QUICKSTART, "--out", tmp_path / "out", *filled)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(errors[0])
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "store").exists()
