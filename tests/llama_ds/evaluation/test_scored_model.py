"""The model as the harness asks it: equal to the harness's own, interrupted or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_ds.evaluation import outcomes
from llama_ds.evaluation.answers import Answers
from llama_ds.evaluation.batches import Request, in_batches, tokens_that_fit
from llama_ds.evaluation.harness_tasks import Loaded, load
from llama_ds.evaluation.outcomes import Outcome
from llama_ds.evaluation.paper_tasks import all_tasks
from llama_ds.evaluation.scored_model import ScoredModel
from llama_ds.model import LlamaForCausalLM
from tests.support.evaluation_data import write_reader, write_rows

pytestmark = pytest.mark.slow

CHOICES = ("boolq", "piqa", "siqa", "hellaswag", "winogrande", "openbookqa", "mmlu", "crows_pairs")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reader(tmp_path_factory.mktemp("model"))


def scored(folder: Path, batch_tokens: int = 1, **how: Any) -> ScoredModel:
    model = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return ScoredModel(model, tokenizer, batch_tokens=batch_tokens, **how)


def loaded(data: Path, name: str, **how: Any) -> list[Loaded]:
    task = all_tasks()[name]
    return load(task, task.shots[0], data, **how)


def likelihoods(outcome: Outcome) -> list[float]:
    return [
        value
        for sample in outcome.samples
        for value in (*sample["log_likelihoods"], *sample.get("after_answer", ()))
    ]


def test_log_likelihoods_are_the_harnesss_own_with_stock_transformers(
    data: Path, folder: Path
) -> None:
    stock = AutoModelForCausalLM.from_pretrained(folder)
    assert type(stock).__module__.startswith("transformers.")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.convert_ids_to_tokens([0, 1])
    theirs = HFLM(pretrained=stock, tokenizer=tokenizer, batch_size=1, softmax_dtype="float32")
    model = scored(folder)
    for name in CHOICES:
        ours = likelihoods(outcomes.ask(model, loaded(data, name), {}))
        requests = []
        for part in loaded(data, name):
            part.harness.build_all_requests(limit=None, rank=0, world_size=1)
            requests += part.harness.instances
        expected = [value for value, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
        assert len(ours) == len(expected) > 1
        # Rows of one request, computed by equal functions in the same order.
        assert max(abs(a - b) for a, b in zip(ours, expected, strict=True)) == 0.0, name


def test_larger_batches_change_rounding_alone(data: Path, folder: Path) -> None:
    ones = outcomes.ask(scored(folder, 1), loaded(data, "hellaswag"), {})
    many = outcomes.ask(scored(folder, 10_000), loaded(data, "hellaswag"), {})
    # fp32 sums over a vocabulary of 704 and rows of up to 60 tokens, in another order.
    assert likelihoods(many) == pytest.approx(likelihoods(ones), rel=1e-5)
    assert [one["tokens"] for one in many.samples] == [one["tokens"] for one in ones.samples]


def test_an_interrupted_evaluation_continues_and_asks_nothing_twice(
    data: Path, folder: Path, tmp_path: Path
) -> None:
    model = scored(folder, 40)
    whole = outcomes.ask(model, loaded(data, "hellaswag"), {})
    path = tmp_path / "answers.jsonl"
    computed = model._computed
    calls: list[int] = []

    def until_the_second(kind: str, batch: list[Request]) -> list[Any]:
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return computed(kind, batch)

    model._computed = until_the_second  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), Answers(path) as answers:
        outcomes.ask(model, loaded(data, "hellaswag"), {}, answers)
    with path.open("a") as file:
        file.write('{"cut')  # as a kill leaves it
    with Answers(path) as answers:
        assert len(answers) == sum(calls[:2]) > 0
        again = outcomes.ask(model, loaded(data, "hellaswag"), {}, answers)
    assert again.samples == whole.samples
    assert sum(calls) - calls[2] == 4  # the endings, each once


def test_what_is_drawn_depends_on_the_seed_and_not_on_what_was_drawn_before(
    data: Path, folder: Path
) -> None:
    parts = loaded(data, "gsm8k_maj", samples=3)
    for part in parts:
        part.harness.config.generation_kwargs["max_gen_toks"] = 5
    state = torch.random.get_rng_state()
    first = outcomes.ask(scored(folder, 4000, seed=1), parts, {}).samples[0]["texts"]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    assert outcomes.ask(scored(folder, 4000, seed=1), parts, {}).samples[0]["texts"] == first
    assert outcomes.ask(scored(folder, 4000, seed=2), parts, {}).samples[0]["texts"] != first
    assert len(set(first)) == 3


def test_truncated_contexts_are_counted(data: Path, tmp_path: Path) -> None:
    short = write_reader(tmp_path, context=32)
    outcome = outcomes.ask(scored(short), loaded(data, "boolq"), {})
    tokens = [sum(sample["tokens"]) for sample in outcome.samples]
    assert outcome.requests == 8  # two rows, two choices, after their context and after "Answer:"
    expected = sum(count > 33 for sample in outcome.samples for count in sample["tokens"])
    assert outcome.truncated == expected > 0, tokens


def test_batches_are_of_like_length_and_hold_no_more_than_they_may() -> None:
    lengths = [5, 40, 7, 39, 8, 300, 6]
    requests = [Request(f"{i}", length, None) for i, length in enumerate(lengths)]
    batches = [[one.length for one in batch] for batch in in_batches(requests, 80)]
    assert batches == [[300], [40, 39], [8, 7, 6, 5]]
    shuffled = in_batches(requests[::-1], 80)
    assert [[one.key for one in b] for b in shuffled] == [
        [one.key for one in b] for b in in_batches(requests, 80)
    ]


def test_the_size_of_a_batch_follows_the_free_memory() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig()  # 7B
    fits = tokens_that_fit(40 * 2**30, config, 2, 1, is_cpu=False)
    # Logits in bf16, in fp32 and once more: 10 bytes for each of 32,000; keys and values 512 KiB.
    assert 20_000 < fits < 40 * 2**30 / (32_000 * 10 + 2 * 32 * 4096 * 2)
    assert tokens_that_fit(20 * 2**30, config, 2, 1, is_cpu=False) == pytest.approx(
        fits / 2, rel=0.01
    )


def test_a_batch_that_does_not_fit_is_halved(data: Path, folder: Path) -> None:
    model = scored(folder, 10_000)
    whole = outcomes.ask(model, loaded(data, "hellaswag"), {})
    computed, sizes = model._computed, []

    def too_large(kind: str, batch: list[Request]) -> list[Any]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return computed(kind, batch)

    model._computed = too_large  # type: ignore[method-assign]
    halves = outcomes.ask(model, loaded(data, "hellaswag"), {})
    assert sizes == [4, 2, 2]
    assert likelihoods(halves) == pytest.approx(likelihoods(whole), rel=1e-5)
