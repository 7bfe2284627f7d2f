"""The table, its page, and two results side by side."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from llama_ds.evaluation import outcomes, page, table
from llama_ds.evaluation.comparison import compare, markdown
from llama_ds.evaluation.outcomes import Outcome, mean_and_error
from llama_ds.evaluation.paper_tasks import all_tasks


def outcome(task: str, values: list[float], metric: str, **how: Any) -> Outcome:
    samples = [
        {
            "subject": task,
            "id": number,
            "prompt_hash": f"hash {number}",
            "metrics": {metric: value},
            "where": {},
        }
        for number, value in enumerate(values)
    ]
    about: dict[str, Any] = {"left_out": {}, "origins": [], "notes": [], "requests": 8}
    about |= {"truncated": 0, "settings": {}, "shots": 0}
    return Outcome(task=task, samples=samples, **(about | how))


def test_a_mean_has_its_standard_error() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0]
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(0.6)
    assert error == pytest.approx(statistics.stdev(values) / math.sqrt(5))
    assert mean_and_error([1.0]) == (1.0, None)


def test_ours_stands_beside_the_papers_with_difference_and_noise() -> None:
    values = [1.0] * 75 + [0.0] * 25
    (line,) = table.lines([outcome("piqa", values, "acc_norm")], "13B")
    assert (line.ours, line.n, line.table) == (75.0, 100, 3)
    assert line.paper == (79.8, 80.1, 82.3, 82.8)
    assert line.difference == pytest.approx(75.0 - 80.1)
    assert line.standard_error == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 99))
    assert line.is_within_noise  # 5.1 is less than twice 4.35
    (far,) = table.lines([outcome("piqa", values * 4, "acc_norm")], "65B")
    assert not far.is_within_noise  # 7.8 is more than twice 2.17
    cells = table.numbers(line)
    assert cells == ["75.0", "79.8", "80.1", "82.3", "82.8", "(−5.1)", "100", "4.4"]


def test_a_few_samples_that_are_all_wrong_are_no_finding() -> None:
    (line,) = table.lines([outcome("piqa", [0.0, 0.0], "acc_norm")], "7B")
    assert line.standard_error == 0.0
    # Of two samples the paper's 79.8 has a standard error of 28.4.
    assert not line.is_within_noise
    (other,) = table.lines([outcome("siqa", [0.0, 0.0], "acc_norm")], "7B")
    assert other.is_within_noise


def test_groups_are_means_of_their_questions() -> None:
    mmlu = outcome("mmlu", [1.0, 0.0, 0.0, 1.0, 1.0], "acc", shots=5)
    groups = ["stem", "stem", "stem", "humanities", "other"]
    for sample, group in zip(mmlu.samples, groups, strict=True):
        sample["where"] = {"group": group}
    found = {line.name: (line.ours, line.n) for line in table.lines([mmlu], "7B")}
    assert found["MMLU STEM"][0] == pytest.approx(100 / 3)
    assert found["MMLU humanities"] == (100.0, 1)
    assert found["MMLU social sciences"] == (None, 0)
    assert found["MMLU average"][0] == pytest.approx(60.0)
    assert (found["MMLU STEM"][1], found["MMLU average"][1]) == (3, 5)


def test_the_page_and_the_markdown_say_what_was_left_out() -> None:
    told = outcome(
        "boolq", [1.0, 0.0], "acc_answer", left_out={"not JSON": 3}, truncated=2, notes=["<b>"]
    )
    lines = table.lines([told], "7B")
    text = table.markdown(lines, "7B", "Evaluation", {"HumanEval": "needs --run-code"})
    assert "| BoolQ [1] | 50.0 | 76.5 | 78.1 | 83.1 | 85.3 | (−26.5) | 2 | 50.0 |" in text
    assert "2 of 8 contexts truncated; 3 rows left out: not JSON (3)" in text
    assert "not run: HumanEval: needs --run-code" in text
    record = {
        "not_run": {"HumanEval": "needs --run-code"},
        "checkpoint": "model",
        "tokenizer_sha256": {"tokenizer.json": "0"},
        "commit": None,
        "versions": {"torch": "2"},
    }
    shown = page.render(lines, "7B", "Evaluation of <model>", record)
    assert "Evaluation of &lt;model&gt;" in shown
    assert "&lt;b&gt;" in shown
    assert "<script" not in shown
    assert 'title="65B: 85.3"' in shown


def test_results_are_read_back(tmp_path: Path) -> None:
    told = outcome("piqa", [1.0, 0.0], "acc_norm", settings={"seed": 0})
    outcomes.write(told, tmp_path / "samples")
    assert outcomes.read_all(tmp_path) == {"piqa_0_shots": told}
    (tmp_path / "samples" / "nq_0_shots.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"nq_0_shots.jsonl is no result of an evaluation"):
        outcomes.read_all(tmp_path)
    with pytest.raises(ValueError, match=r"has no samples/\*.jsonl"):
        outcomes.read_all(tmp_path / "other")


def test_two_results_are_compared_sample_by_sample() -> None:
    ours = outcome("piqa", [1.0, 1.0, 0.0, 1.0], "acc_norm")
    theirs = outcome("piqa", [1.0, 0.0, 1.0, 0.0, 1.0], "acc_norm")
    (found,) = compare({"piqa_0_shots": ours}, {"piqa_0_shots": theirs})
    assert (found.n, found.num_unpaired) == (4, 1)
    assert (found.ours, found.theirs, found.difference) == (75.0, 50.0, 25.0)
    assert found.standard_error == pytest.approx(100 * statistics.stdev([0, 1, -1, 1]) / 2)
    assert [key[1] for key in found.won] == [1, 3]
    assert [key[1] for key in found.lost] == [2]
    text = markdown([found], "other")
    assert "| PIQA | 75.0 | 50.0 | +25.0 | 47.9 | 2 | 1 | 4 |" in text
    assert "- PIQA: won piqa 1, piqa 3; lost piqa 2" in text
    with pytest.raises(ValueError, match="no sample in common"):
        compare({"piqa_0_shots": ours}, {"siqa_0_shots": theirs})


def test_every_metric_of_a_row_is_one_that_is_judged() -> None:
    judged = {"acc", "acc_norm", "acc_answer", "exact_match", "majority", "pct_stereotype"}
    judged |= {"pass@1", "pass@100", "pass@80", "toxicity"}
    assert {row.metric for task in all_tasks().values() for row in task.rows} == judged
