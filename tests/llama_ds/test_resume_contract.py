"""What may change at resume: every field in one class, changes applied and told, others refused."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_ds import resume_contract
from llama_ds.config import Recipe
from llama_ds.metrics import read_metrics
from llama_ds.resume_contract import APPLIED, BY_NAME, MUST_MATCH, changes, class_of, run_identity
from llama_ds.schedule import learning_rate
from tests.support.tiny_run import make_store, run_training, tiny_recipe

Gloo = Callable[..., list[Any]]


def field_names(recipe: Recipe) -> list[str]:
    names = []
    for section in dataclasses.fields(recipe):
        value = getattr(recipe, section.name)
        if dataclasses.is_dataclass(value):
            names += [f"{section.name}.{field.name}" for field in dataclasses.fields(value)]
        else:
            names.append(section.name)
    return names


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny_recipe(tmp_path / "store", tmp_path / "run")


def test_every_field_is_in_one_class_and_every_class_names_fields(recipe: Recipe) -> None:
    names = field_names(recipe)
    for name in names:
        class_of(name)
    sections = {name.partition(".")[0] for name in names}
    assert sections | set(names) >= MUST_MATCH | BY_NAME | APPLIED
    assert list(run_identity(recipe, "content", "hash")) == [*names, "token store", "tokenizer"]


def test_a_new_field_needs_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError, match=r"train.new is in 0 classes"):
        class_of("train.new")
    monkeypatch.setattr(resume_contract, "APPLIED", APPLIED | {"train.seed"})
    with pytest.raises(KeyError, match=r"train.seed is in 2 classes"):
        class_of("train.seed")


def test_the_documentation_has_the_same_classes() -> None:
    page = (Path(__file__).parents[2] / "docs/checkpoints.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| **")]
    documented = {title.strip(" *"): set(re.findall("`(.*?)`", names)) for title, names in rows}
    assert documented == {
        "must match": MUST_MATCH | {"data.store"},  # by its content
        "by name": BY_NAME,
        "applied": APPLIED,
    }


def test_changes_are_listed_refused_or_need_a_name(recipe: Recipe) -> None:
    saved = run_identity(recipe, "content", "hash")

    def against(store: str = "content", tokenizer: str = "hash", **fields: Any) -> list[str]:
        names = {name.replace("__", "."): value for name, value in fields.items()}
        run_dir = names.pop("run_dir", recipe.run_dir)
        other = tiny_recipe(recipe.data.store, run_dir, **names)
        return [
            str(change) for change in changes("c", saved, run_identity(other, store, tokenizer))
        ]

    assert against() == []
    assert against(optimizer__weight_decay=0.0, zero__stage=3) == [
        "optimizer.weight_decay 0.1 -> 0.0",
        "zero.stage 1 -> 3",
    ]
    assert against(run_dir=Path("moved"), train__stop_after_step=3) == []
    with pytest.raises(ValueError, match=r"set train.seed back to 0, or use a new run_dir"):
        against(train__seed=1)
    with pytest.raises(ValueError, match="has token store = content, but this run has other"):
        against("other")
    with pytest.raises(ValueError, match="has tokenizer = hash, but this run has other"):
        against(tokenizer="other")
    with pytest.raises(ValueError, match=r"dtype back to fp32, add it to train.allow_change"):
        against(train__dtype="bf16")
    allowed = against(train__dtype="bf16", train__allow_change=("train.dtype",))
    assert allowed == ["train.dtype fp32 -> bf16"]
    with pytest.raises(ValueError, match=r"allow_change \(train.seed\) must be one of data.block"):
        against(train__allow_change=("train.seed",))


def test_a_field_that_an_older_checkpoint_lacks_is_not_compared(recipe: Recipe) -> None:
    saved = run_identity(recipe, "content", "hash")
    del saved["optimizer.schedule"]
    assert changes("c", saved, run_identity(recipe, "content", "hash")) == []


# -- training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.mark.dist
def test_what_changes_is_applied_and_remembered(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    first = tiny_recipe(store, tmp_path / "run")
    gloo(1, run_training, first)
    change = {"train.max_steps": 9, "optimizer.peak_learning_rate": 5e-3}
    second = tiny_recipe(store, tmp_path / "run", **change)
    assert gloo(1, run_training, second) == [(9, None)]
    rates = [r["learning_rate"] for r in read_metrics(first.run_dir / "metrics.jsonl", "train")]
    # A function of the step alone, by the schedule of the job that took the step.
    assert rates == [
        *(learning_rate(step, first.optimizer, 6) for step in range(6)),
        *(learning_rate(step, second.optimizer, 9) for step in range(6, 9)),
    ]
    (entry,) = json.loads((first.run_dir / "recipe.json").read_text())["history"]
    assert entry["step"] == 6
    assert entry["changes"] == {
        "optimizer.peak_learning_rate": [1e-2, 5e-3],
        "train.max_steps": [6, 9],
    }


@pytest.mark.dist
def test_a_larger_batch_goes_on_behind_the_rows_that_were_taken(
    gloo: Gloo, store: Path, tmp_path: Path
) -> None:
    gloo(1, run_training, tiny_recipe(store, tmp_path / "run"))
    change = {"train.tokens_per_step": 512, "train.allow_change": ("train.tokens_per_step",)}
    with_length = {**change, "train.max_steps": 8, "train.max_skipped_steps": 2}
    assert gloo(1, run_training, tiny_recipe(store, tmp_path / "run", **with_length)) == [(8, None)]
    run = tmp_path / "run" / "checkpoints" / "step_00000008" / "run.json"
    assert json.loads(run.read_text())["rows"] == 6 * 8 + 2 * 16
    records = read_metrics(tmp_path / "run" / "metrics.jsonl", "train")
    assert [r["tokens"] for r in records][-3:] == [6 * 256, 6 * 256 + 512, 6 * 256 + 1024]
