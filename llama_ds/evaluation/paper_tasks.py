"""The tasks of the paper, as the files of `tasks/` state them, and their names and groups."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

import yaml

Kind = Literal["choices", "answer_normalised", "closed_book", "math", "gsm8k", "code", "written"]
GROUPS = (*("common-sense", "closed-book", "reading", "math", "code", "mmlu", "bias", "truthful"),)
"""In the order of the paper's tables; each is a file of `tasks/`."""
GENERATING = ("closed_book", "math", "gsm8k", "code", "written")


@dataclass(frozen=True)
class Column:
    """A column of a task's rows, where it may be found, and what stands in for it."""

    type: Literal["str", "int", "list", "dict"]
    sources: tuple[str, ...]
    """Names in published files; a dot enters an object."""
    default: Any = None


@dataclass(frozen=True)
class TableRow:
    """A row of the table: the mean of `metric` over the samples that have the values of `where`."""

    name: str
    metric: str
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperTask:
    """What is asked, of which data, and how it is judged."""

    name: str
    group: str
    title: str
    columns: Mapping[str, Column]
    """By the names that the prompts use."""
    rows: tuple[TableRow, ...]
    harness: str | None = None
    """The harness's own task file that this one starts from."""
    kind: Kind = "choices"
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the harness's configuration that differ."""
    convert: str | None = None
    or_columns: Mapping[str, Column] = field(default_factory=dict)
    """Of files in which the rows are converted already."""
    hub: Mapping[str, Any] = field(default_factory=dict)
    """Split of the questions, of the shots, and configurations that are read together."""
    files: tuple[str, ...] = ()
    """Names of local files without their ending, first choice first."""
    shots_files: tuple[str, ...] = ()
    shots_where: Mapping[str, list[Any]] = field(default_factory=dict)
    """Rows that are shown and never asked."""
    shots: tuple[int, ...] = (0,)
    """Numbers of examples in the prompt; the task is evaluated with each."""
    samples: int = 1
    """Texts drawn for each question."""
    pass_at: tuple[int, ...] = ()
    subjects: str | None = None
    """The harness's files of which each is a subject with data and prompt of its own."""
    note: str = ""

    @property
    def generates(self) -> bool:
        """Whether the model writes text, and does not only judge choices."""
        return self.kind in GENERATING


@functools.cache
def all_tasks() -> dict[str, PaperTask]:
    """Every task by name, in the order of the paper's tables."""
    folder = files("llama_ds.evaluation").joinpath("tasks")
    found: dict[str, PaperTask] = {}
    for group in GROUPS:
        stated = yaml.safe_load(folder.joinpath(f"{group}.yaml").read_text("utf-8"))
        found |= {name: _task(name, group, tree) for name, tree in stated.items()}
    return found


def chosen(words: str) -> list[PaperTask]:
    """The tasks of names and groups with commas between; "paper" is all of them.

    ValueError for a word that is neither.
    """
    tasks = all_tasks()
    names: list[str] = []
    for word in (part.strip() for part in words.split(",")):
        of_group = [name for name, task in tasks.items() if word in ("paper", task.group)]
        if not of_group and word not in tasks:
            near = difflib.get_close_matches(word, [*tasks, *GROUPS, "paper"], n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"--tasks {word!r} is no task{meant} Groups are paper, {', '.join(GROUPS)}; "
                f"tasks are {', '.join(tasks)}"
            )
        names += of_group or [word]
    return [tasks[name] for name in dict.fromkeys(names)]


def _task(name: str, group: str, tree: dict[str, Any]) -> PaperTask:
    lists = ("files", "shots_files", "shots", "pass_at")
    tree = {key: tuple(value) if key in lists else value for key, value in tree.items()}
    tree |= {key: _columns(tree.get(key, {})) for key in ("columns", "or_columns")}
    rows = tuple(TableRow(**row) for row in tree.pop("rows"))
    return PaperTask(name=name, group=group, rows=rows, **tree)


def _columns(tree: Mapping[str, Any]) -> dict[str, Column]:
    found = {}
    for name, stated in tree.items():
        full = stated if isinstance(stated, dict) else {"type": stated}
        sources = tuple(full.get("from", (name,)))
        found[name] = Column(full["type"], sources, full.get("default"))
    return found
