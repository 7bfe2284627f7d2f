"""From a folder of a model to the table: one rank, two that share questions, two that share it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_ds.evaluation import outcomes
from llama_ds.evaluation.outcomes import Outcome
from llama_ds.evaluation.run import Evaluation, evaluate, plan
from llama_ds.evaluation.sandbox import Sandbox
from llama_ds.torchrun_ranks import Ranks
from tests.support.evaluation_data import write_reader, write_rows

pytestmark = pytest.mark.slow

Gloo = Callable[..., list[Any]]
CHOICES = "piqa,hellaswag,openbookqa,mmlu,nq"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reader(tmp_path_factory.mktemp("model"))


def alone(evaluation: Evaluation) -> list[str]:
    """What is said of an evaluation on one rank."""
    said: list[str] = []
    evaluate(evaluation, Ranks(0, 1, torch.device("cpu")), said.append)
    return said


def together(evaluation: Evaluation) -> None:
    """A rank of several."""
    import torch.distributed as dist

    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    evaluate(evaluation, ranks, lambda line: None)


def numbers(found: dict[str, Outcome]) -> list[float]:
    return [
        value
        for outcome in found.values()
        for sample in outcome.samples
        for value in sample.get("log_likelihoods", ())
    ]


@pytest.mark.dist
def test_ranks_that_share_questions_or_the_model_find_the_same(
    gloo: Gloo, tmp_path: Path, model: Path, data: Path
) -> None:
    how: dict[str, Any] = {"model": model, "tasks": CHOICES, "data": data, "shots": (0, 1)}
    how |= {"batch_tokens": 120}
    alone(Evaluation(**how, out=tmp_path / "one"))
    gloo(2, together, Evaluation(**how, out=tmp_path / "two"))
    gloo(2, together, Evaluation(**how, out=tmp_path / "shared", tp=2))
    one, two, shared = (outcomes.read_all(tmp_path / name) for name in ("one", "two", "shared"))
    assert len(numbers(one)) > 10
    assert two == one  # the same batches, whoever computes them
    # fp32 sums of two ranks' halves, in another order than one rank's.
    assert numbers(shared) == pytest.approx(numbers(one), rel=1e-4)
    for name, outcome in one.items():
        assert [s["metrics"] for s in shared[name].samples] == [
            s["metrics"] for s in outcome.samples
        ]
        assert [s.get("text") for s in shared[name].samples] == [
            s.get("text") for s in outcome.samples
        ]


def test_every_task_with_local_rows_reaches_the_table(tmp_path: Path, data: Path) -> None:
    # A short context: at most half of it is written.
    model, out = write_reader(tmp_path / "model", context=64), tmp_path / "out"
    how: dict[str, Any] = {"model": model, "data": data, "limit": 1, "samples": 2}
    how |= {"shots": (0, 1), "tasks": "available", "out": out}
    said = alone(Evaluation(**how, sandbox=Sandbox(seconds=1)))
    record = json.loads((out / "results.json").read_text("utf-8"))
    asked = {row["name"] for row in record["rows"] if row["n"]}
    assert {"BoolQ", "TriviaQA 1-shot", "RACE-high", "MATH maj1@k", "MBPP pass@1"} <= asked
    assert {"MMLU average", "CrowS-Pairs gender", "TruthfulQA mc2"} <= asked
    assert len(asked) == 29
    # Of two samples there is no pass@100, and there is no key of the API.
    assert set(record["not_run"]) == {"HumanEval at temperature 0.8", "MBPP at temperature 0.8"}
    assert record["versions"]["lm_eval"] == "0.4.13"
    assert record["tokenizer_sha256"]
    assert "| BoolQ" in (out / "results.md").read_text("utf-8")
    assert "<table>" in (out / "results.html").read_text("utf-8")
    sample = json.loads((out / "samples" / "piqa_0_shots.jsonl").read_text().splitlines()[1])
    assert {"prompt_hash", "tokens", "log_likelihoods", "answer"} <= sample.keys()
    assert not list((out / "answers").iterdir())
    # Again: nothing is asked, and the table is the same.
    again = alone(Evaluation(**how, sandbox=Sandbox(seconds=1)))
    assert sum("kept from before" in line for line in again) == len(record["tasks"])
    assert again[-2] == said[-2]
    # Against itself nothing flips.
    beside = alone(Evaluation(**{**how, "tasks": "piqa,mmlu"}, against=out))
    versus = json.loads((out / "against.json").read_text("utf-8"))
    assert {one["name"]: one["difference"] for one in versus}["PIQA"] == 0.0
    assert "# Against" in beside[-2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": "piqa,nothing"}, "'nothing' is no task"),
        ({"tasks": "code"}, "humaneval executes programs that the model writes, .* --run-code"),
        ({"tasks": "available", "data": None}, "name a folder"),
        ({"data": Path("/nowhere")}, "--data /nowhere is not a folder"),
    ],
)
def test_bad_options_are_told_before_anything_is_loaded(
    data: Path, options: dict[str, Any], words: str
) -> None:
    how: dict[str, Any] = {"model": Path("model"), "data": data, **options}
    with pytest.raises(ValueError, match=words):
        plan(Evaluation(**how))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, r"--limit \(0\) must be positive"),
        ({"batch_tokens": -1}, r"--batch-tokens \(-1\) must be positive"),
        ({"shots": (-1,)}, r"--shots .* from 0 on"),
        ({"size": "70B"}, "--size 70B must be one of 7B, 13B, 33B, 65B"),
    ],
)
def test_numbers_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Evaluation(model=Path("model"), **options)


def test_a_plan_takes_the_shots_where_the_paper_has_several(data: Path) -> None:
    found = plan(Evaluation(Path("model"), tasks="nq,gsm8k", data=data, shots=(2,)))
    assert [(task.name, shots) for task, shots in found.asked] == [("nq", 2), ("gsm8k", 8)]
    paper = plan(Evaluation(Path("model"), tasks="paper", data=data))
    assert len(paper.asked) == 2 * 4 + 8 + 2 + 4 + 1 + 5 + 2
    assert set(paper.not_run) == {
        *("HumanEval", "HumanEval at temperature 0.8", "MBPP", "MBPP at temperature 0.8"),
    }


def test_another_model_begins_anew(tmp_path: Path, data: Path, model: Path) -> None:
    how: dict[str, Any] = {"tasks": "piqa", "data": data, "out": tmp_path / "out"}
    alone(Evaluation(model, **how))
    other = write_reader(tmp_path / "other", context=300)
    assert not any("kept from before" in line for line in alone(Evaluation(other, **how)))
    assert any("kept from before" in line for line in alone(Evaluation(other, **how)))
