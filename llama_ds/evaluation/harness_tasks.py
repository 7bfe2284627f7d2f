"""The harness's task objects of a paper's task: its prompts and metrics, our rows, k and judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval.tasks
from jinja2 import TemplateError
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from llama_ds.evaluation import protocol, rows
from llama_ds.evaluation.paper_tasks import PaperTask
from llama_ds.evaluation.rows import Row, Rows

HARNESS = Path(lm_eval.tasks.__file__).parent
SHOTS_SEED = 1234
UNUSABLE = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)
PROCESS = {
    "closed_book": protocol.closed_book,
    "math": protocol.math_answers,
    "gsm8k": protocol.gsm8k_answers,
    "written": lambda row, texts: {"characters": float(len(texts[0]))},
}
METRICS = {
    "closed_book": ("exact_match",),
    "math": ("exact_match", "majority"),
    "gsm8k": ("exact_match", "majority"),
    "written": ("characters",),
}

CodeJudge = Callable[[Row, Sequence[str]], dict[str, float]]
"""Of a row and the texts that were drawn: values by metric."""


class TooFewShots(ValueError):
    """There are fewer rows than examples to draw."""


class Docs(list[Row]):
    """Rows in the form of a split of `datasets`, as far as the harness asks for it."""

    @property
    def features(self) -> Row:
        return self[0]


@dataclass(frozen=True)
class Subject:
    """A part of a task with data and prompt of its own; most tasks have one without a name."""

    name: str
    group: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A task's subject that can be asked."""

    name: str
    task: PaperTask
    shots: int
    harness: ConfigurableTask
    left_out: Counter[str]
    origin: str
    notes: tuple[str, ...]


def subjects(task: PaperTask) -> list[Subject]:
    if task.subjects is None:
        return [Subject("", "", _config(task, task.harness))]
    found = []
    for path in sorted(HARNESS.glob(task.subjects)):
        config = _config(task, str(path))
        group = str(config.pop("tag")).removeprefix(f"{task.name}_").removesuffix("_tasks")
        found.append(Subject(config["dataset_name"], group, config))
    return found


def _config(task: PaperTask, file: str | None) -> dict[str, Any]:
    """The harness's own file, with what the paper's protocol changes."""
    # The functions behind HumanEval and MBPP fetch a metric from the hub as they are imported.
    config = {} if file is None else load_yaml(HARNESS / file, resolve_func=task.kind != "code")
    return {**config, **task.config}


def hub_name(subject: Subject) -> str:
    """As `allenai/ai2_arc ARC-Easy`."""
    name = subject.config.get("dataset_name")
    return " ".join(str(part) for part in (subject.config["dataset_path"], name) if part)


def require_data(tasks: Sequence[PaperTask], folder: Path | None) -> None:
    """ValueError, in one line, for a task without data; nothing is loaded."""
    for task in tasks if folder is not None else ():
        assert folder is not None
        parts = subjects(task)
        if task.subjects is not None:
            parts = [s for s in parts if rows.find_file(folder, task.files, s.name)] or parts[:1]
        rows.require_data(task, folder, hub_name(parts[0]), parts[0].name)


def load(
    task: PaperTask,
    shots: int,
    folder: Path | None,
    *,
    limit: int | None = None,
    samples: int = 1,
    judge: CodeJudge | None = None,
) -> list[Loaded]:
    """Every subject of `task` that has data, with `shots` examples in its prompts.

    ValueError where no row can be used, or too few to draw the examples from.
    """
    found = []
    for subject in subjects(task):
        if folder is not None and not rows.find_file(folder, task.files, subject.name):
            continue
        asked = _rows(task, subject, folder)
        shown, notes = _shots(task, subject, folder, shots, asked)
        config = _complete(task, subject, shots, samples, judge)
        if shots and shown is None and "fewshot_config" not in subject.config:
            config["fewshot_split"] = "test"  # never the row that is asked itself
        splits = {"test": Docs(_asked(task, asked.rows, subject)[:limit]), "shots": shown}
        harness, left_out = _built(task, config, splits)
        name = f"{task.name}_{subject.name}" if subject.name else task.name
        name = f"{name}_{shots}_shots" if len(task.shots) > 1 else name
        harness.set_fewshot_seed(SHOTS_SEED)
        counted = asked.left_out + left_out
        found.append(Loaded(name, task, shots, harness, counted, asked.origin, notes))
    return found


def _rows(task: PaperTask, subject: Subject, folder: Path | None) -> Rows:
    if folder is not None:
        return rows.local_rows(task, folder, task.files, subject.name)
    names = task.hub.get("names", [subject.config.get("dataset_name")])
    return rows.hub_rows(task, subject.config["dataset_path"], names, task.hub["split"])


def _asked(task: PaperTask, found: list[Row], subject: Subject) -> list[Row]:
    shown = [(column, set(values)) for column, values in task.shots_where.items()]
    kept = [row for row in found if not any(row[column] in values for column, values in shown)]
    return [{**row, "group": subject.group} for row in kept] if subject.group else kept


def _shots(
    task: PaperTask, subject: Subject, folder: Path | None, shots: int, asked: Rows
) -> tuple[Docs | None, tuple[str, ...]]:
    """Rows to draw the prompt's examples from; None where they are in the harness, or are asked."""
    if not shots or (not task.shots_files and "shots" not in task.hub):
        return None, ()
    if folder is None:
        names = [subject.config.get("dataset_name")]
        found = rows.hub_rows(task, subject.config["dataset_path"], names, task.hub["shots"]).rows
    elif rows.find_file(folder, task.shots_files, subject.name):
        found = rows.local_rows(task, folder, task.shots_files, subject.name).rows
    else:
        if len(asked.rows) <= shots:
            wanted = ", ".join(name.format(subject=subject.name) for name in task.shots_files)
            raise TooFewShots(
                f"{task.title} has {len(asked.rows)} rows to draw {shots} examples from; put "
                f"{wanted} (.jsonl) into the folder of --data, or give smaller --shots"
            )
        return None, ("examples drawn from the rows that are asked, for want of a training set",)
    for column, values in task.shots_where.items():
        found = [{**row, "is_fewshot": True} for row in found if row[column] in values]
    if len(found) < shots:
        raise TooFewShots(f"{task.title} has {len(found)} rows to draw {shots} examples from")
    return Docs(found), ()


def _complete(
    task: PaperTask, subject: Subject, shots: int, samples: int, judge: CodeJudge | None
) -> dict[str, Any]:
    """The configuration of a harness's task, but for its rows."""
    config = {k: v for k, v in subject.config.items() if k not in ("tag", "task_alias", "include")}
    for split in ("training_split", "validation_split", "fewshot_split"):
        config[split] = None
    config |= {"test_split": "test", "dataset_path": "", "num_fewshot": shots, "repeats": samples}
    if shots and (task.shots_files or "shots" in task.hub):
        config["fewshot_split"] = "shots"
    if task.kind in PROCESS or task.kind == "code":
        metrics = METRICS.get(task.kind) or tuple(f"pass@{k}" for k in task.pass_at)
        config["process_results"] = PROCESS.get(task.kind) or _code(judge)
        config["metric_list"] = [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics
        ]
        takes: dict[str, Any] = {"function": "take_first"}
        if task.kind not in ("closed_book", "written"):
            takes = {"function": "take_first_k", "k": samples}
        config["filter_list"] = [{"name": "none", "filter": [takes]}]
    return config


def _code(judge: CodeJudge | None) -> Callable[[Row, Sequence[Sequence[str]]], dict[str, float]]:
    def process(row: Row, drawn: Sequence[Sequence[str]]) -> dict[str, float]:
        assert judge is not None, "code is not run without a sandbox"
        return judge(row, drawn[0])

    return process


def _built(
    task: PaperTask, config: dict[str, Any], splits: Mapping[str, Docs | None]
) -> tuple[ConfigurableTask, Counter[str]]:
    """The harness's object, without the rows of which no prompt can be made."""
    build: Any = ConfigurableTask
    if task.kind == "answer_normalised":
        build = protocol.AnswerNormalised
    asked, left_out = splits["test"], Counter[str]()
    assert asked is not None
    kept = Docs(asked)
    while kept:
        own = {**splits, "test": kept}
        try:  # it renders its first row
            harness = build(config={**config, "custom_dataset": lambda own=own, **_: own})
            break
        except (*UNUSABLE, TemplateError) as error:
            left_out[f"no prompt can be made of it ({type(error).__name__})"] += 1
            first_error = error
            kept = Docs(kept[1:])
    else:
        raise ValueError(f"no row of {task.title} gives a prompt ({first_error})")
    for row in list(kept):
        reason = _fault(harness, row)
        if reason is not None:
            left_out[reason] += 1
            kept.remove(row)
    if not kept:
        raise ValueError(f"no row of {task.title} can be asked: {rows.reasons(left_out)}")
    return harness, left_out


def _fault(harness: ConfigurableTask, row: Row) -> str | None:
    """Why `row` cannot be asked."""
    try:
        text, target = harness.doc_to_text(row), harness.doc_to_target(row)
        choices = harness.doc_to_choice(row) if harness.config.doc_to_choice is not None else None
    except (*UNUSABLE, TemplateError) as error:
        return f"no prompt can be made of it ({type(error).__name__})"
    index = text if harness.multiple_input else target
    if choices is not None and not (isinstance(index, int) and 0 <= index < len(choices)):
        return "its label is none of its choices"
    return None
