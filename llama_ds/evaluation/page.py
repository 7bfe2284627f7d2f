"""The table as one self-contained HTML page, in the style of the data report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from llama_ds.evaluation.table import SIZES, Line, numbers


def render(lines: Sequence[Line], size: str, title: str, record: Mapping[str, Any]) -> str:
    """The page; all text is escaped by the template engine, and it has no script."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = files("llama_ds.evaluation").joinpath("page.html").read_text("utf-8")
    rows = [
        {
            "name": one.name,
            "table": one.table,
            "cells": numbers(one),
            "note": one.note,
            "dots": dots,
        }
        for one, dots in ((one, _dots(one)) for one in lines)
    ]
    groups = [
        {"table": number, "rows": [row for row in rows if row["table"] == number]}
        for number in dict.fromkeys(row["table"] for row in rows)
    ]
    template = environment.from_string(text)
    return template.render(groups=groups, size=size, sizes=SIZES, title=title, record=record)


def _dots(line: Line) -> list[dict[str, Any]]:
    """Where the paper's models and ours lie between 0 and 100 percent."""
    scale = 100.0 if line.metric == "toxicity" else 1.0
    marks = [*zip(SIZES, line.paper, strict=True), ("ours", line.ours)]
    return [
        {"who": who, "at": round(scale * value, 2)} for who, value in marks if value is not None
    ]
