"""The plan of a mixture: shares, epochs, who runs out, and what dropping a source does."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.commands.plan_mixture import PlanMixture, stated_tokens
from data_pipeline.corpus import text_corpus
from data_pipeline.tokens.mixture_plan import (
    MixturePlan,
    as_json,
    as_text,
    available_tokens,
    count_in_words,
    drops,
    parse_count,
    plan_mixture,
)
from data_pipeline.tokens.store import FORMAT_VERSION, SplitManifest, StoreManifest, TokenStore
from llama_ds.data import Mixture
from recipes.launch import parse
from recipes.llama import LLAMA1_EPOCHS, LLAMA1_SHARES, llama_7b
from recipes.llama1_corpus import llama1_corpus

LLAMA1 = llama1_corpus(Path("raw"))
AVAILABLE = {"a": 600, "b": 300, "c": 100}


def shares_of(plan: MixturePlan) -> dict[str, float]:
    return {source.name: source.share for source in plan.sources}


def test_shares_in_proportion() -> None:
    plan = plan_mixture(AVAILABLE, 1_200, shares={"b": 3.0, "a": 6.0, "c": 3.0})
    assert shares_of(plan) == {"b": 0.25, "a": 0.5, "c": 0.25}
    assert {s.name: s.seen_tokens for s in plan.sources} == {"b": 300, "a": 600, "c": 300}
    assert plan.epochs == {"b": 1.0, "a": 1.0, "c": 3.0}
    assert plan.first_to_run_out.name == "c"
    assert plan.first_to_run_out.runs_out_after == 400


def test_without_shares_sources_go_by_size() -> None:
    plan = plan_mixture(AVAILABLE, 500)
    assert plan.epochs == {name: pytest.approx(0.5) for name in AVAILABLE}


def test_epochs_give_the_length_or_the_proportions() -> None:
    plan = plan_mixture(AVAILABLE, None, epochs={"a": 0.5, "c": 3.0})
    assert plan.num_tokens == 600
    assert plan.epochs == {"a": 0.5, "c": 3.0}
    longer = plan_mixture(AVAILABLE, 1_200, epochs={"a": 0.5, "c": 3.0})
    assert longer.epochs == {"a": 1.0, "c": 6.0}


def test_the_training_data_does_what_the_plan_says() -> None:
    """Rows of one token each: the epochs of the order in which rows come are the plan's."""
    epochs = {"a": 1.0, "b": 2.0, "c": 8.0}
    plan = plan_mixture(AVAILABLE, None, epochs=epochs)
    weights = {name: value * AVAILABLE[name] for name, value in epochs.items()}
    mixture = Mixture(AVAILABLE, weights, block_rows=20, seed=0)
    assert mixture.epochs(plan.num_tokens) == plan.epochs == epochs


def test_dropping_one_makes_the_others_shares_grow() -> None:
    plan = plan_mixture(AVAILABLE, 1_000, shares={"a": 0.5, "b": 0.25, "c": 0.25}, without={"b"})
    assert plan.num_tokens == 1_000
    assert shares_of(plan) == pytest.approx({"a": 2 / 3, "c": 1 / 3})
    whole = plan_mixture(AVAILABLE, 1_000, shares={"a": 0.5, "b": 0.25, "c": 0.25})
    assert drops(whole)["b"] == plan
    assert set(drops(whole)) == set(AVAILABLE)
    assert drops(plan_mixture({"a": 5}, 10)) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": {"x": 1.0}}, "shares: unknown source x; the sources are a, b, c"),
        ({"epochs": {"a": 0.0}}, r"epochs: a \(0.0\) must be positive"),
        ({"shares": {"a": 1.0}, "epochs": {"a": 1.0}}, "shares and epochs both set"),
        ({"without": {"x", "y"}}, r"without \(x, y\): the sources are a, b, c"),
        ({"shares": {"a": 1.0}, "without": {"a"}}, r"without \(a\): no source is left"),
        ({"num_tokens": None}, "tokens: give the run's number of tokens, or epochs"),
        ({"num_tokens": 0}, r"tokens \(0\) must be at least 1"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_mixture(AVAILABLE, **{"num_tokens": 10, **options})


def test_text_and_json_say_who_runs_out() -> None:
    plan = plan_mixture(AVAILABLE, 1_200, shares={"a": 2.0, "b": 1.0, "c": 1.0})
    text = as_text(plan)
    assert "c runs out first, after 400 of 1.200K tokens, and is repeated." in text
    assert "c          100  25.00%   300    3.00            400" in text
    # Without b, a and c share the run two to one: c is seen four times.
    assert "b               x 1.333               c    300   c, 4.00 epochs" in text
    assert as_json(plan)["first_to_run_out"] == "c"
    assert as_json(plan)["sources"][2]["epochs"] == 3.0
    short = plan_mixture(AVAILABLE, 100)
    assert as_text(short).count("No source runs out in 100 tokens; a would be the first") == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [("1.4T", 1.4e12), ("300b", 3e11), ("20 M", 2e7), ("1_000", 1e3), ("5,000", 5e3), ("7k", 7e3)],
)
def test_counts_as_people_write_them(text: str, count: float) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "T", "1.4X", "-3B", "1e9", "many"])
def test_other_words_are_no_counts(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a number with K, M, B or T"):
        parse_count(text)


def test_counts_in_words() -> None:
    words = {1.4e12: "1.400T", 62.48e9: "62.48B", 812.0: "812", 852.7e9: "852.7B"}
    assert {count: count_in_words(count) for count in words} == words


# -- the command ----------------------------------------------------------------------------------


def test_the_paper_s_sizes_give_the_paper_s_epochs() -> None:
    plan = plan_mixture(stated_tokens(LLAMA1), 1_400_000_000_000, shares=LLAMA1_SHARES)
    assert plan.epochs == {name: pytest.approx(e, rel=1e-9) for name, e in LLAMA1_EPOCHS.items()}
    text = PlanMixture().run(LLAMA1)
    assert "wikipedia runs out first, after 571.4B of 1.400T tokens" in text


def write_manifest(path: Path, tokens: dict[str, int]) -> TokenStore:
    """A store's manifest: all that a plan reads."""
    empty = SplitManifest.of((), num_text_bytes=0, num_byte_tokens=0)
    manifest = StoreManifest(
        version=FORMAT_VERSION,
        tokenizer_kind="sentencepiece",
        tokenizer_sha256="a" * 64,
        vocab_size=32_000,
        bos_token_id=1,
        eos_token_id=2,
        dtype="uint16",
        holdout_share=0.0,
        fingerprint="f",
        sources={
            name: {"train": dataclasses.replace(empty, num_tokens=count), "validation": empty}
            for name, count in tokens.items()
        },
    )
    path.mkdir()
    (path / "manifest.json").write_text(manifest.to_json())
    return TokenStore.open(path)


def test_a_store_s_sizes(tmp_path: Path) -> None:
    store = write_manifest(tmp_path / "store", {"books": 100, "c4": 1_000, "notes": 7, "web": 0})
    assert available_tokens(store) == {"books": 100, "c4": 1_000, "notes": 7}
    plan = PlanMixture(store=tmp_path / "store", tokens="1K")
    text = plan.run(LLAMA1)
    # The paper's 4.5 and 15 %, of what there is.
    assert "23.08%" in text
    assert "not in the store: common_crawl, github, wikipedia, arxiv, stack_exchange" in text
    assert "without a share, never sampled: notes" in text
    numbers = json.loads(dataclasses.replace(plan, json=True).run(LLAMA1))
    assert [source["name"] for source in numbers["sources"]] == ["c4", "books"]
    dropped = dataclasses.replace(plan, without=("books",)).run(LLAMA1)
    assert "epochs before" in dropped
    assert "0.77" in dropped  # of c4, before


def test_a_corpus_that_states_nothing_needs_a_store_and_a_length(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path)
    with pytest.raises(ValueError, match="name a token store with --store"):
        PlanMixture(tokens="1K").run(corpus)
    write_manifest(tmp_path / "store", {"text": 100, "code": 300})
    with pytest.raises(ValueError, match="states no token budget; give --tokens or --epochs"):
        PlanMixture(store=tmp_path / "store").run(corpus)
    numbers = json.loads(PlanMixture(tmp_path / "store", tokens="1K", json=True).run(corpus))
    assert {source["name"]: source["share"] for source in numbers["sources"]} == {
        "text": 0.25,
        "code": 0.75,
    }


@pytest.mark.slow
def test_the_command_prints_a_plan_or_one_line_of_error() -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "recipes.build_dataset", "plan", *options]
        root = Path(__file__).resolve().parents[3]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    shown = run("--epochs", "books", "2", "wikipedia", "3", "--without", "books")
    assert shown.returncode == 0, shown.stderr
    assert "wikipedia" in shown.stdout
    refused = run("--tokens", "lots")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: tokens (lots) must be a number with K, M, B or T, such as 1.4T\n"
    )


def test_recipes_take_epochs_in_place_of_their_shares() -> None:
    epochs = ["--data.epochs", "books", "2", "c4", "1.5"]
    data = parse(llama_7b, epochs).recipe.data
    assert data.shares == {}
    assert data.epochs == {"books": 2.0, "c4": 1.5}
    with pytest.raises(ValueError, match=r"data.epochs .* and data.shares .* give one"):
        parse(llama_7b, [*epochs, "--data.shares", "books", "1.0"])
