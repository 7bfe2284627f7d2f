"""Names and groups of tasks, and the paper's numbers beside them."""

from __future__ import annotations

import pytest

from llama_ds.evaluation.paper_tasks import GROUPS, all_tasks, chosen
from llama_ds.evaluation.table import SIZES, nearest_size, paper_results, row_name


def test_groups_hold_every_task_in_the_order_of_the_tables() -> None:
    tasks = all_tasks()
    assert [task.name for task in chosen("paper")] == list(tasks)
    assert [task.name for task in chosen("reading,piqa")] == ["race_middle", "race_high", "piqa"]
    assert {task.group for task in tasks.values()} == set(GROUPS)
    assert [task.name for task in chosen("piqa,common-sense")].count("piqa") == 1


def test_an_unknown_name_suggests_one() -> None:
    with pytest.raises(ValueError, match=r"'hellaswagg' is no task; did you mean hellaswag\?"):
        chosen("piqa,hellaswagg")


def test_the_papers_numbers_are_those_of_the_tables() -> None:
    paper = paper_results()
    assert all(len(row["values"]) == len(SIZES) for row in paper.values())
    names = {
        row_name(task, row, shots)
        for task in all_tasks().values()
        for row in task.rows
        for shots in task.shots
    }
    # The measures of TruthfulQA that need no judge are not the paper's.
    assert names - set(paper) == {"TruthfulQA mc1", "TruthfulQA mc2"}
    assert set(paper) - names == {"TruthfulQA truthful", "TruthfulQA truthful*inf"}
    assert {row["table"] for row in paper.values()} == {*range(3, 10), *range(11, 15)}


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("BoolQ", 76.5, 85.3),
        ("PIQA", 79.8, 82.8),
        ("SIQA", 48.9, 52.3),
        ("HellaSwag", 76.1, 84.2),
        ("WinoGrande", 70.1, 77.0),
        ("ARC-e", 72.8, 78.9),
        ("ARC-c", 47.6, 56.0),
        ("OBQA", 57.2, 60.2),
        ("MMLU average", 35.1, 63.4),
        ("GSM8k", 11.0, 50.9),
        ("HumanEval pass@1", 10.5, 23.7),
        ("MBPP pass@1", 17.7, 37.7),
    ],
)
def test_some_of_the_papers_numbers(name: str, first: float, last: float) -> None:
    values = paper_results()[name]["values"]
    assert (values[0], values[-1]) == (first, last)


@pytest.mark.parametrize(
    ("parameters", "size"), [(10**6, "7B"), (8 * 10**9, "7B"), (30 * 10**9, "33B"), (10**12, "65B")]
)
def test_a_model_is_compared_with_the_nearest_size(parameters: int, size: str) -> None:
    assert nearest_size(parameters) == size
