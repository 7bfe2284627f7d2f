"""Local files: which are found, what is named in an error, and which rows are left out, and why."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llama_ds.evaluation.harness_tasks import TooFewShots, load, require_data
from llama_ds.evaluation.paper_tasks import all_tasks
from llama_ds.evaluation.rows import find_file, local_rows
from tests.support.evaluation_data import ROWS, write_rows

TASKS = all_tasks()


def write_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_missing_file_is_one_line_with_the_set_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file of PIQA") as caught:
        require_data([TASKS["piqa"]], tmp_path)
    (line,) = str(caught.value).splitlines()
    assert "piqa.validation.jsonl" in line
    assert "hf download --repo-type dataset baber/piqa" in line


def test_a_set_that_the_hub_does_not_give_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nand much more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match=r"the set baber/piqa .*reach the Hub\)") as at:
        load(TASKS["piqa"], 0, None)
    assert len(str(at.value).splitlines()) == 1


def test_rows_of_the_hub_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def given(path: str, name: str | None, split: str) -> list[Any]:
        asked.append((path, name, split))
        return [*ROWS["math.test"], {"problem": "What?", "solution": "nothing in a box"}]

    monkeypatch.setattr(datasets, "load_dataset", given)
    (loaded,) = load(TASKS["math"], 4, None)
    assert len(asked) == 7
    assert asked[0] == ("EleutherAI/hendrycks_math", "algebra", "test")
    assert len(loaded.harness.eval_docs) == 7
    assert loaded.left_out == Counter({"cannot be read as the task's authors do": 7})


def test_files_are_found_by_their_published_names_and_forms(tmp_path: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in ROWS["humaneval.test"])
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (found,) = find_file(tmp_path, TASKS["humaneval"].files)
    assert local_rows(TASKS["humaneval"], tmp_path, TASKS["humaneval"].files).origin == str(found)
    write_lines(tmp_path / "piqa" / "validation.jsonl", ROWS["piqa.validation"])
    assert len(local_rows(TASKS["piqa"], tmp_path, TASKS["piqa"].files).rows) == 2
    raw = {"Data": [{"Question": "Who?", "Answer": {"Aliases": ["I", "Me"]}}]}
    (tmp_path / "wikipedia-dev.json").write_text(json.dumps(raw), encoding="utf-8")
    found_rows = local_rows(TASKS["triviaqa"], tmp_path, TASKS["triviaqa"].files).rows
    assert found_rows == [{"question": "Who?", "answer": ["I", "Me"]}]


def test_parquet_files_are_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(ROWS["arc_easy.validation"])
    pyarrow.parquet.write_table(table, tmp_path / "arc_easy.test.parquet")
    (row,) = local_rows(TASKS["arc_easy"], tmp_path, TASKS["arc_easy"].files).rows
    assert row["choices"]["text"] == ["iron", "a feather"]


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    rows = [{"goal": "Open a jar.", "first": "Turn.", "second": "Burn.", "label": 0}] * 3
    write_lines(tmp_path / "piqa.validation.jsonl", rows)
    with pytest.raises(ValueError, match=r"column sol1 is missing \(3\)") as caught:
        load(TASKS["piqa"], 0, tmp_path)
    assert "PIQA needs the columns goal (str), sol1 (str), sol2 (str), label (int)" in str(
        caught.value
    )


def test_two_hundred_bad_rows_are_counted_with_their_reasons(tmp_path: Path) -> None:
    good = ROWS["arc_easy.validation"][0]
    bad: list[Any] = [{**good, "answerKey": "E"}] * 50  # no such label
    bad += [{**good, "question": None}] * 40
    bad += [{**good, "choices": {"text": ["one"], "label": ["A"]}}] * 30
    bad += [["a", "list"]] * 30
    lines = [json.dumps(row) for row in [*bad, good, good]] + ["{cut"] * 50
    (tmp_path / "arc_easy.test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (loaded,) = load(TASKS["arc_easy"], 0, tmp_path)
    assert len(loaded.harness.eval_docs) == 2
    assert loaded.left_out == Counter(
        {
            "no prompt can be made of it (ValueError)": 50,
            "column question is missing": 40,
            "fewer than two choices": 30,
            "no object": 30,
            "not JSON": 50,
        }
    )


def test_a_label_must_be_one_of_the_choices(tmp_path: Path) -> None:
    (row,) = ROWS["anatomy.test"]
    write_rows(tmp_path, "anatomy.dev")
    write_lines(tmp_path / "anatomy.test.jsonl", [row, {**row, "answer": 7}])
    (loaded,) = load(TASKS["mmlu"], 5, tmp_path)
    assert loaded.left_out == Counter({"its label is none of its choices": 1})


def test_endings_that_are_letters_are_not_hellaswag(tmp_path: Path) -> None:
    letters = {"query": "Which?", "choices": ["A", "B"], "gold": 0}
    write_lines(tmp_path / "hellaswag.validation.jsonl", [letters])
    with pytest.raises(ValueError, match="letters in place of texts"):
        load(TASKS["hellaswag"], 0, tmp_path)
    whole = {"query": "A man", "choices": ["sits.", "flies."], "gold": 0}
    write_lines(tmp_path / "other" / "hellaswag_small.jsonl", [whole])
    (loaded,) = load(TASKS["hellaswag"], 0, tmp_path)
    assert loaded.origin.endswith("hellaswag_small.jsonl")


def test_examples_come_from_the_asked_rows_only_where_there_is_no_training_set(
    tmp_path: Path,
) -> None:
    rows = [{"question": f"question {n}", "answer": [f"answer {n}"]} for n in range(4)]
    write_lines(tmp_path / "nq_open.validation.jsonl", rows)
    (loaded,) = load(TASKS["nq"], 3, tmp_path)
    assert "for want of a training set" in loaded.notes[0]
    loaded.harness.build_all_requests(limit=None, rank=0, world_size=1)
    for request, row in zip(loaded.harness.instances, rows, strict=True):
        shown, _, asked = request.args[0].rpartition("\nQ: ")
        assert asked == f"{row['question']}?\nA:"
        assert row["question"] not in shown
    with pytest.raises(TooFewShots, match=r"4 rows to draw 5 examples from; put nq_open.train"):
        load(TASKS["nq"], 5, tmp_path)


def test_a_limit_counts_rows_that_can_be_asked(tmp_path: Path) -> None:
    good = ROWS["piqa.validation"][0]
    write_lines(tmp_path / "piqa.validation.jsonl", [{}, {}, good, good, good])
    (loaded,) = load(TASKS["piqa"], 0, tmp_path, limit=2)
    assert len(loaded.harness.eval_docs) == 2
