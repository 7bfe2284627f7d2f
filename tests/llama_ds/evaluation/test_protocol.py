"""The paper's measures, against references written here."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from llama_ds.evaluation.harness_tasks import load
from llama_ds.evaluation.paper_tasks import all_tasks
from llama_ds.evaluation.protocol import (
    closed_book,
    gsm8k_answers,
    majority,
    math_answers,
    normalised,
    pass_at_k,
)
from tests.support.evaluation_data import write_rows


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Origin, of Species!", "origin of species"),
        ("an apple a day", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre", "theatre"),
        ("  14 December\t1972 ", "14 december 1972"),
        ("“Été”", "“été”"),  # ASCII punctuation, as the standard metric
    ],
)
def test_answers_are_normalized(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (" Charles Darwin", 1.0),
        (" the charles darwin. He was", 1.0),
        (" Charles Darwin, of course", 1.0),
        (" Charles Darwin\nQ:", 1.0),
        (" Charles", 0.0),
        (" I think Charles Darwin", 0.0),
        ("", 0.0),
    ],
)
def test_closed_book_answers_match_exactly(text: str, score: float) -> None:
    row = {"answer": ["Darwin", "Charles Darwin"]}
    assert closed_book(row, [text]) == {"exact_match": score}


def test_the_majority_is_the_most_frequent_and_of_equals_the_first() -> None:
    assert majority(["1", "2", "2", None]) == "2"
    assert majority(["3", "1", "1", "3"]) == "3"
    assert majority([None, None]) is None
    assert majority([None, None, "5"]) == "5"


@pytest.mark.parametrize(
    ("texts", "first", "voted"),
    [
        (["It is 18. The answer is 18.", "The answer is 17.", "The answer is 18."], 1.0, 1.0),
        (["The answer is 17.", "The answer is $18.", "The answer is 18.0"], 0.0, 1.0),
        (["The answer is 1,018.", "The answer is 18", "no answer"], 0.0, 0.0),
        (["I do not know", "nor do I"], 0.0, 0.0),
    ],
)
def test_gsm8k_counts_numbers_and_votes(texts: list[str], first: float, voted: float) -> None:
    row = {"answer": "9 * 2 = <<9*2=18>>18\n#### 18"}
    assert gsm8k_answers(row, [texts]) == {"exact_match": first, "majority": voted}


def test_thousands_are_written_with_and_without_commas() -> None:
    row = {"answer": "#### 1,200"}
    assert gsm8k_answers(row, [["The answer is 1200."]])["exact_match"] == 1.0
    assert gsm8k_answers(row, [["The answer is $1,200."]])["exact_match"] == 1.0


def final(answer: str) -> str:
    return f"So.\nFinal Answer: The final answer is ${answer}$. I hope it is correct."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gold", "texts", "first", "voted"),
    [
        ("\\frac{1}{2}", [final("\\frac12"), final("0.5"), final("3")], 1.0, 1.0),
        ("10", [final("7"), final("10 \\text{ cm}"), final("10")], 0.0, 1.0),
        ("x+1", [final("1+x"), final("x")], 1.0, 1.0),
        ("5", ["It is 5.", "It is 5."], 0.0, 0.0),
    ],
)
def test_math_compares_as_minerva(gold: str, texts: list[str], first: float, voted: float) -> None:
    assert math_answers({"answer": gold}, [texts]) == {"exact_match": first, "majority": voted}


@pytest.mark.parametrize("passed", range(7))
@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_subsets_that_pass(passed: int, k: int) -> None:
    subsets = list(itertools.combinations([True] * passed + [False] * (6 - passed), k))
    expected = sum(map(any, subsets)) / len(subsets)
    assert pass_at_k(6, passed, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match=r"pass@100 needs 100 samples or more, not 10"):
        pass_at_k(10, 3, 100)


def test_a_choice_is_divided_by_its_likelihood_after_answer(tmp_path: Path) -> None:
    (loaded,) = load(all_tasks()["openbookqa"], 0, write_rows(tmp_path, "openbookqa.validation"))
    row = loaded.harness.eval_docs[0]  # iron is right, a feather is wrong
    # -20 - -25 = 5 is more than -10 - -11 = 1, though -10 is the more likely in itself.
    judged = loaded.harness.process_results(
        row, [(-20.0, False), (-10.0, False), (-25.0, False), (-11.0, False)]
    )
    assert judged["acc"] == 0.0
    assert judged["acc_answer"] == 1.0


def test_characters_divide_a_likelihood(tmp_path: Path) -> None:
    (loaded,) = load(all_tasks()["piqa"], 0, write_rows(tmp_path, "piqa.validation"))
    row = loaded.harness.eval_docs[0]  # "Turn the lid." has 13 characters, "Burn it." 8
    judged = loaded.harness.process_results(row, [(-13.0, False), (-9.0, False)])
    assert judged == {"acc": 0.0, "acc_norm": 1.0}


def test_the_second_truthfulqa_measure_is_the_mass_of_the_true(tmp_path: Path) -> None:
    (loaded,) = load(
        all_tasks()["truthfulqa_mc2"], 0, write_rows(tmp_path, "truthfulqa.validation")
    )
    row = loaded.harness.eval_docs[0]
    judged = loaded.harness.process_results(row, [(0.0, True), (0.0, False), (0.0, False)])
    assert judged["acc"] == pytest.approx(1 / 3)
