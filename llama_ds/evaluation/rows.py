"""Rows of a task from local files or the hub: their columns, and why some are left out."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_ds.evaluation.paper_tasks import Column, PaperTask

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet")
TYPES = {"str": (str,), "int": (int, bool), "list": (list,), "dict": (dict,)}

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The rows of a split that can be used."""

    rows: list[Row]
    origin: str
    """The file, or the set of the hub."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that cannot be used, by reason."""


def find_file(folder: Path, names: tuple[str, ...], subject: str = "") -> list[Path]:
    """Files of one of `names` in `folder` or in a folder of it, the best name first."""
    found = []
    for name in (one.format(subject=subject) for one in names):
        for ending in ENDINGS:
            # A name with a dot is also looked for as folder/split.
            for form in dict.fromkeys((name, name.replace(".", "/", 1))):
                found += [p for p in [folder / f"{form}{ending}"] if p.is_file()]
                found += sorted(p for p in folder.glob(f"*/{form}{ending}") if p.is_file())
    return list(dict.fromkeys(found))


def require_data(task: PaperTask, folder: Path, hub_name: str, subject: str = "") -> None:
    """ValueError, in one line, where `folder` has no file of `task`."""
    if find_file(folder, task.files, subject):
        return
    name = task.files[0].format(subject=subject or "SUBJECT")
    raise ValueError(
        f"{folder} has no file of {task.title}: expected {name}.jsonl (or "
        f"{', '.join(ENDINGS[1:])}); it is the split {task.hub['split']} of {hub_name}: "
        f"hf download --repo-type dataset {hub_name.split()[0]}, or leave out --data, or this task "
        "of --tasks"
    )


def local_rows(task: PaperTask, folder: Path, names: tuple[str, ...], subject: str = "") -> Rows:
    """Rows of the first file that has any; ValueError where none has, with the reasons."""
    refused = []
    for path in find_file(folder, names, subject):
        found = usable(task, read_rows(path), str(path))
        if found.rows:
            return found
        refused.append(f"{path} has no row that can be used: {reasons(found.left_out)}")
    columns = ", ".join(f"{name} ({c.type})" for name, c in task.columns.items())
    raise ValueError(f"{'; '.join(refused)}. {task.title} needs the columns {columns}")


def hub_rows(task: PaperTask, path: str, names: list[str | None], split: str) -> Rows:
    """Rows of a set of the hub, of several configurations one after the other.

    ValueError, in one line, where it cannot be had.
    """
    import datasets

    found = []
    for name in names:
        try:
            found += list(datasets.load_dataset(path, name, split=split))
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"{task.title}: the set {path} of the Hugging Face hub cannot be read ({reason}); "
                f"put {task.files[0]}.jsonl into a folder and name it by --data"
            ) from None
    return usable(task, iter(found), f"{path} {split}")


def read_rows(path: Path) -> Iterator[Row | str]:
    """What each line holds; for one that holds no row, why."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(path).to_pylist()
        return
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.suffix == ".json":
        tree = _parsed(data)
        rows = tree.get("Data", [tree]) if isinstance(tree, dict) else tree  # TriviaQA's own files
        yield from ("not JSON",) if isinstance(rows, str) else rows
        return
    for line in data.split(b"\n"):
        if line.strip():
            row = _parsed(line)
            yield row if isinstance(row, dict | str) else "no object"


def _parsed(data: bytes) -> Any:
    """The value; "not JSON" or "not UTF-8" where it is none."""
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):
        return "not JSON"
    return "no object" if isinstance(value, str) else value


def usable(task: PaperTask, found: Iterator[Row | str], origin: str) -> Rows:
    """The rows that have the task's columns, converted; the others counted by reason."""
    rows, left_out = [], Counter[str]()
    for row in found:
        if not isinstance(row, dict):
            left_out[row if isinstance(row, str) else "no object"] += 1
            continue
        taken = _taken(row, task.columns)
        if isinstance(taken, str) and task.or_columns:
            other = _taken(row, task.or_columns)
            taken = taken if isinstance(other, str) else other
        elif not isinstance(taken, str) and task.convert:
            taken = converted(task.convert, taken)
        reason = taken if isinstance(taken, str) else fault_of_choices(taken)
        if reason is not None:
            left_out[reason] += 1
        else:
            assert isinstance(taken, dict)
            rows.append(taken)
    return Rows(rows, origin, left_out)


def _taken(row: Row, columns: Mapping[str, Column]) -> Row | str:
    """The columns that are needed; a reason where one is missing or of another type."""
    taken: Row = {}
    for name, column in columns.items():
        values = [value for path in column.sources if (value := _at(row, path)) is not None]
        fitting = [value for value in values if isinstance(value, TYPES[column.type])]
        if fitting:
            value = fitting[0]
            taken[name] = int(value) if isinstance(value, bool) else value
        elif column.default is not None:
            taken[name] = column.default
        elif column.type == "str" and values and isinstance(values[0], int):
            taken[name] = str(values[0])  # some publish a label as a number, some as text
        elif column.type == "int" and values and str(values[0]).isdigit():
            taken[name] = int(values[0])
        else:
            what = f"is no {column.type}" if values else "is missing"
            return f"column {name} {what}"
    return taken


def _at(row: Any, path: str) -> Any:
    for part in path.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def converted(how: str, row: Row) -> Row | str:
    """The row as the prompts need it, by functions of the harness; a reason where it cannot be."""
    try:
        return {"hellaswag": _hellaswag, "math": _math}[how](row)
    except (AssertionError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return "cannot be read as the task's authors do"


def _hellaswag(row: Row) -> Row:
    from lm_eval.tasks.hellaswag.utils import preprocess

    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    choices = [preprocess(ending) for ending in row["endings"]]
    return {"query": preprocess(context), "choices": choices, "label": int(row["label"])}


def _math(row: Row) -> Row:
    from lm_eval.tasks.minerva_math.utils import (
        last_boxed_only_string,
        normalize_final_answer,
        remove_boxed,
    )

    boxed = remove_boxed(last_boxed_only_string(row["solution"]))
    return {**row, "answer": normalize_final_answer(boxed)}


def fault_of_choices(row: Row) -> str | None:
    """Why the choices of a row cannot be told apart; None where nothing is wrong."""
    choices = row.get("choices", row.get("options"))
    choices = choices.get("text") if isinstance(choices, dict) else choices
    if choices is None:
        return None
    if not isinstance(choices, list) or len(choices) < 2:
        return "fewer than two choices"
    if not all(isinstance(choice, str) and choice for choice in choices):
        return "a choice is empty"
    if "query" in row and all(len(choice) == 1 for choice in choices):
        return "the choices are letters in place of texts"
    return None


def reasons(left_out: Counter[str]) -> str:
    """As `column label is missing (3), not JSON (1)`."""
    return ", ".join(f"{reason} ({count})" for reason, count in left_out.most_common()) or "empty"
