"""Continuing prompts from the command line: stock's tokens, from every kind of model."""

from __future__ import annotations

import argparse
import builtins
import contextlib
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_ds.checkpoint.export import export
from llama_ds.generate.__main__ import main, parser, run, sampling_of
from llama_ds.torchrun_ranks import Ranks
from tests.support.prompted_models import CONTEXT, PROMPT, save_run, stock_text, write_model

Gloo = Callable[..., list[Any]]
NEW = ["--max-new-tokens", "12"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def written(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[str, str]:
    """(standard output, standard error) of a call that succeeds."""
    code = main([str(word) for word in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out, err


# -- which model ----------------------------------------------------------------------------------


@pytest.mark.dist
def test_a_run_its_checkpoint_and_its_export_give_stocks_greedy_tokens(
    gloo: Gloo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    gloo(1, save_run, run_dir)
    export(run_dir, tmp_path / "model")
    newest = run_dir / "checkpoints" / "step_00000005"
    expected = stock_text(tmp_path / "model", PROMPT, max_new_tokens=12)
    for model in (run_dir, newest, tmp_path / "model"):
        out, _ = written(capsys, model, "--prompt", PROMPT, "--greedy", *NEW)
        assert out == expected + "\n"

    older = run_dir / "checkpoints" / "step_00000003"
    expected_older = stock_text(older, PROMPT, max_new_tokens=12)
    assert expected_older != expected
    weights = next(newest.glob("model-*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    out, err = written(capsys, run_dir, "--prompt", PROMPT, "--greedy", *NEW)
    assert out == expected_older + "\n"
    assert "step_00000005 is damaged" in err
    assert main([str(newest), "--prompt", PROMPT]) == 2
    assert "the checksum differs); name its run" in capsys.readouterr().err


def test_another_architecture_is_loaded_by_transformers(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40}
    config = GPT2Config(vocab_size=704, bos_token_id=0, eos_token_id=1, **sizes)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    shutil.copy(model / "tokenizer.json", tmp_path)
    shutil.copy(model / "tokenizer_config.json", tmp_path)
    out, _ = written(capsys, tmp_path, "--prompt", PROMPT, "--greedy", *NEW)
    assert out == stock_text(tmp_path, PROMPT, max_new_tokens=12) + "\n"


# -- sampling, streaming --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "how"),
    [
        (["--temperature", "0.7", "--top-k", "20"], {"temperature": 0.7, "top_k": 20}),
        (["--do-sample", "--repetition-penalty", "1.5"], {"repetition_penalty": 1.5}),
        (["--top-p", "0.5"], {"top_p": 0.5}),
    ],
)
def test_options_of_drawing_are_stocks(
    model: Path, capsys: pytest.CaptureFixture[str], options: list[str], how: dict[str, Any]
) -> None:
    out, err = written(capsys, model, "--prompt", PROMPT, "--seed", "7", *options, *NEW)
    assert out == stock_text(model, PROMPT, seed=7, max_new_tokens=12, **how) + "\n"
    assert "seed 7" in err


def test_without_a_seed_texts_differ_and_the_seed_is_told(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command: list[str | Path] = [model, "--prompt", PROMPT, "--do-sample", *NEW]
    out, err = written(capsys, *command)
    seed = err.split("seed ")[1].split()[0]
    assert written(capsys, *command, "--seed", seed)[0] == out
    assert written(capsys, *command)[0] != out


def test_beams_are_searched_and_not_streamed(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = written(capsys, model, "--prompt", PROMPT, "--greedy", "--num-beams", "3", *NEW)
    assert out == stock_text(model, PROMPT, max_new_tokens=12, num_beams=3) + "\n"


def test_text_is_printed_as_it_grows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pieces(io.StringIO):
        def flush(self) -> None:
            states.append(self.getvalue())

    states: list[str] = []
    monkeypatch.setattr(sys, "stdout", Pieces())
    assert main([str(model), "--prompt", PROMPT, "--greedy", "--max-new-tokens", "20"]) == 0
    assert states[-1].startswith(PROMPT)
    assert len(set(states)) > 3
    assert all(states[-1].startswith(state) for state in states)


def test_writing_ends_where_the_context_is_full(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = written(capsys, model, "--prompt", PROMPT, "--greedy", "--max-new-tokens", "999")
    assert f"the context of {CONTEXT} tokens is full" in err
    assert out == stock_text(model, PROMPT, max_length=CONTEXT) + "\n"


# -- where the prompt comes from ------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("place", ["file", "-", "stdin"])
def test_a_prompt_from_a_file(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    data = f"{PROMPT}\r\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    (tmp_path / "prompt.txt").write_bytes(data)
    options: dict[str, list[str | Path]] = {
        "file": ["--prompt-file", tmp_path / "prompt.txt"],
        "-": ["--prompt-file", "-"],
    }
    out, _ = written(capsys, model, *options.get(place, []), "--greedy", *NEW)
    assert out == stock_text(model, PROMPT, max_new_tokens=12) + "\n"


def test_a_terminal_is_asked_until_it_ends(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter([PROMPT, "", "river " * CONTEXT, "The"])

    def answer(question: str) -> str:
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(builtins, "input", answer)
    out, err = written(capsys, model, "--greedy", *NEW)
    texts = [stock_text(model, prompt, max_new_tokens=12) for prompt in (PROMPT, "The")]
    assert out == "".join(f"{text}\n" for text in texts)
    assert err.count("error: the prompt has") == 1


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{none}", "--prompt", "a"], "none is not a folder; name a run"),
        (["{empty}", "--prompt", "a"], "empty has neither checkpoints/ nor config.json"),
        (["{run}", "--prompt", "a"], "run has no checkpoint; train first"),
        (["{bare}", "--prompt", "a"], "bare has neither model.safetensors nor"),
        (["{mute}", "--prompt", "a"], "mute has no tokenizer that transformers reads"),
        (["{other}", "--prompt", "a"], "config.json does not match the weights|cannot be loaded"),
        (["{model}", "--prompt", "river " * 50], r"the prompt has \d+ tokens, and the model's con"),
        (["{model}", "--prompt-file", "{none}"], "No such file"),
        (["{model}", "--prompt-file", "{binary}"], "binary is not UTF-8 text"),
        (["{model}", "--prompt", "a", "--temperature", "0"], r"--temperature \(0.0\) must be posi"),
        (["{model}", "--prompt", "a", "--top-p", "1.5"], r"--top-p \(1.5\) must lie above 0"),
        (["{model}", "--prompt", "a", "--max-new-tokens", "0"], r"--max-new-tokens \(0\) must"),
        (["{model}", "--prompt", "a", "--greedy", "--top-k", "5"], "--top-k has no effect"),
        (["{model}", "--prompt", "a", "--device", "cuda"], "torch finds no GPU"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("empty", "run/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("bare", "mute", "other"):
        shutil.copytree(model, tmp_path / name)
    (tmp_path / "bare" / "model.safetensors").unlink()
    (tmp_path / "mute" / "tokenizer.json").unlink()
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"hidden_layers": 2', '"hidden_layers": 3'))
    config.write_text(config.read_text().replace('"vocab_size": 704', '"vocab_size": 640'))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    places = {path.name: path for path in tmp_path.iterdir()}
    places |= {"none": tmp_path / "none", "model": model}
    code = main([argument.format(**places) for argument in arguments])
    assert code == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(lines[0])


# -- several processes ----------------------------------------------------------------------------


def text_of_rank(arguments: list[str]) -> str:
    import torch.distributed as dist

    options: argparse.Namespace = parser().parse_args(arguments)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        run(options, sampling_of(options), ranks)
    return out.getvalue()


@pytest.mark.dist
def test_two_processes_write_stocks_greedy_tokens(gloo: Gloo, model: Path) -> None:
    arguments = [str(model), "--prompt", PROMPT, "--greedy", *NEW]
    texts = gloo(2, text_of_rank, arguments)
    assert texts == [stock_text(model, PROMPT, max_new_tokens=12) + "\n", ""]


@pytest.mark.nightly
@pytest.mark.dist
def test_torchrun_starts_several_and_an_error_is_told_once(model: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "llama_ds.generate", str(model), "--device", "cpu", "--greedy", *NEW]
    done = subprocess.run([*command, "--prompt", PROMPT], capture_output=True, text=True)
    assert done.stdout == stock_text(model, PROMPT, max_new_tokens=12) + "\n", done.stderr[-2000:]
    assert "MiB needed on the CPU" in done.stderr
