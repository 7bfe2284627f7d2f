"""What a documents folder was made from, as one short string: inputs, thresholds and code."""

from __future__ import annotations

import inspect
import sys
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from data_pipeline.document import Source
from data_pipeline.inputs import Inputs

_CODE = ("dedup", "document", "filters", "inputs", "licences", "pipeline", "text")
"""Modules here that decide about the result, besides those of the source's own functions."""


def source_fingerprint(source: Source, found: Inputs, extra: Sequence[str]) -> str:
    """xxh3 of 128 bits over all that decides about the result of building `found` with `source`.

    Input files count by name, size and modification time.
    """
    functions: list[Callable[..., Any]] = [
        source.inputs,
        source.read,
        *source.edits,
        *source.filters,
    ]
    digest = xxhash.xxh3_128()
    lines = [source.name, unicodedata.unidata_version, *extra, *map(describe, functions)]
    lines += [
        f"{file.source_file} {file.size} {file.mtime_ns} {file.title} {file.licence}"
        for file in found.files
    ]
    lines += [f"{item.source_file} {item.reason}" for item in found.ignored]
    for line in lines:
        digest.update(line.encode("utf-8") + b"\0")
    own = {Path(__file__).with_name(f"{name}.py") for name in _CODE}
    theirs = {Path(str(sys.modules[_plain(f).__module__].__file__)) for f in functions}
    for path in sorted(own | theirs, key=lambda path: path.name):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def describe(function: Callable[..., Any]) -> str:
    """Name and bound arguments of a module-level function or a partial of one.

    ValueError for anything else: neither could a change of it be noticed, nor could it be sent to
    another process.
    """
    bound: list[str] = []
    if isinstance(function, partial):
        bound += [_describe_value(value) for value in function.args]
        bound += [f"{k}={_describe_value(v)}" for k, v in sorted(function.keywords.items())]
    plain = _plain(function)
    if not inspect.isfunction(plain) or "<" in plain.__qualname__:
        raise ValueError(f"{plain} in a Source must be a module-level function or a partial of one")
    return f"{plain.__module__}.{plain.__qualname__}({', '.join(bound)})"


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return function.func if isinstance(function, partial) else function


def _describe_value(value: object) -> str:
    # The order of a set of strings changes from run to run.
    return repr(sorted(value)) if isinstance(value, frozenset) else repr(value)
