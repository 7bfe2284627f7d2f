"""Tasks asked while a run trains: what they say is what its export says, in every layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_ds.checkpoint.export import newest
from llama_ds.config import Recipe
from llama_ds.evaluation import outcomes
from llama_ds.evaluation.harness_tasks import load
from llama_ds.evaluation.paper_tasks import all_tasks
from llama_ds.evaluation.scored_model import ScoredModel
from llama_ds.loaded_model import tokenizer_of
from llama_ds.metrics import read_metrics
from llama_ds.model import LlamaForCausalLM
from llama_ds.plot import TASKS, plot
from tests.support.evaluation_data import write_rows
from tests.support.tiny_run import make_store, run_training, tiny_recipe

Gloo = Callable[..., list[Any]]
ASKED = ("boolq", "hellaswag", "winogrande")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data"))


def recipe_of(store: Path, data: Path, run_dir: Path, **overrides: Any) -> Recipe:
    asked = {
        "train.max_steps": 2,
        "train.eval_rows": 0,
        "train.evaluate_every_steps": 2,
        "train.evaluate_tasks": ",".join(ASKED),
        "train.evaluate_data": data,
        "model.max_position_embeddings": 128,
    }
    return tiny_recipe(store, run_dir, **(asked | overrides))


def run_and_record(recipe: Recipe) -> list[dict[str, Any]]:
    """One rank of a job: the samples that it was the one to judge."""
    samples: list[dict[str, Any]] = []
    ask = outcomes.ask

    def recorded(*arguments: Any) -> Any:
        outcome = ask(*arguments)
        samples.extend(outcome.samples)
        return outcome

    outcomes.ask = recorded  # type: ignore[assignment]
    try:
        run_training(recipe)
    finally:
        outcomes.ask = ask
    return samples


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [{"zero.stage": 3}, {"parallel.tp": 2}, {"parallel.sp": 2}],
    ids=lambda layout: "-".join(layout),
)
def test_a_run_finds_what_its_export_finds(
    gloo: Gloo, store: Path, data: Path, tmp_path: Path, layout: dict[str, Any]
) -> None:
    recipe = recipe_of(store, data, tmp_path / "run", **layout)
    samples = gloo(2, run_and_record, recipe)[0]
    folder = newest(tmp_path / "run")
    model = ScoredModel(
        LlamaForCausalLM.from_pretrained(folder), tokenizer_of(folder), batch_tokens=1
    )
    exported = [
        sample
        for name in ASKED
        for sample in outcomes.ask(model, load(all_tasks()[name], 0, data), {}).samples
    ]
    assert len(samples) == len(exported) == 4
    for ours, theirs in zip(samples, exported, strict=True):
        # fp32 sums in another order than one rank's: of tensor-parallel halves, of other batches.
        assert ours["log_likelihoods"] == pytest.approx(theirs["log_likelihoods"], rel=1e-4)
        assert {**ours, "log_likelihoods": 0, "after_answer": 0} == {
            **theirs,
            "log_likelihoods": 0,
            "after_answer": 0,
        }
    (record,) = read_metrics(tmp_path / "run" / "metrics.jsonl", "task")
    assert record["step"] == 2
    assert record["questions"] == {"BoolQ": 2, "HellaSwag": 1, "WinoGrande": 1}
    right = [sample["metrics"]["acc_answer"] for sample in exported[:2]]
    assert record["accuracy"]["BoolQ"] == 50 * sum(right)
    if layout == {"zero.stage": 3}:
        assert {path.name for path in plot([tmp_path / "run"], tmp_path)} >= {TASKS}


@pytest.mark.dist
def test_tasks_that_write_are_refused_before_the_run(
    gloo: Gloo, store: Path, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(store, data, tmp_path / "run", **{"train.evaluate_tasks": "piqa,nq"})
    with pytest.raises(AssertionError, match=r"train.evaluate_tasks.*nq write text"):
        gloo(1, run_training, recipe)
