"""Reads published evaluation sets (JSON, JSONL, CSV, TSV, Parquet) without a schema per set.

A file is a set, named after its path without endings (`mmlu/astronomy.test`). JSON lines, JSON,
CSV, TSV and Parquet are read, compressed or not. Of a JSON file the records are

- the elements, if it holds a list;
- the values, if it holds an object of objects only (records by their ids);
- the elements of the longest list of objects, if it holds an object with one (`{"Data": [...]}`);
- the values one after another, if it holds several (JSON lines under the name `.json`).

An item is a record's strings in order, including those in nested lists and objects. Keys, numbers
and booleans are not part of it. What is not a record is reported with its place and the reason.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from data_pipeline.files.compressed import (
    COMPRESSIONS,
    DAMAGE,
    JSON_SUFFIXES,
    one_line,
    open_stream,
    uncompressed_name,
)
from data_pipeline.files.inputs import InputFile, walk

PASSAGE_KEYS = frozenset(
    {
        *("passage", "passages", "evidence", "supporting_facts"),
        *("EntityPages", "SearchResults", "entity_pages", "search_results"),
    }
)
"""Keys of texts that a set quotes from elsewhere for its questions: the passages of BoolQ and RACE,
TriviaQA's articles and search results."""

MAX_FILE_BYTES = 4 << 30
"""Uncompressed. Evaluation sets are read whole; the largest here, TriviaQA with its search results,
has below 1 GB."""

_TABLES = {".csv": ",", ".tsv": "\t"}
_MAX_PROBLEMS_PER_FILE = 5


@dataclass(frozen=True)
class ItemString:
    text: str
    is_passage: bool
    """Whether it is under one of `PASSAGE_KEYS`."""


@dataclass(frozen=True)
class Item:
    number: int
    """Record number in its file, from 1."""
    strings: tuple[ItemString, ...]


@dataclass(frozen=True)
class Problem:
    """A file, or a place in one, that yielded no items."""

    file: str
    reason: str


@dataclass(frozen=True)
class EvaluationFile:
    """One set. `items` may be empty; then `problems` says why."""

    name: str
    items: tuple[Item, ...]
    problems: tuple[Problem, ...]


def read_evaluations(folder: Path) -> Iterator[EvaluationFile]:
    """Every file under `folder` (or that file) in the order of names. ValueError if it is missing.

    Never raises for malformed contents; they become `problems`.
    """
    if not folder.exists():
        raise ValueError(f"the folder of evaluation sets {folder} does not exist")
    found = walk(folder, follow_symlinks=True)
    names: set[str] = set()
    for file in found.files:
        name = _set_name(file.source_file)
        # "a.json" beside "a.jsonl": the second keeps its ending.
        name = file.source_file if name in names else name
        names.add(name)
        yield _read(file, name)
    for ignored in found.ignored:
        problem = Problem(ignored.source_file, ignored.reason)
        yield EvaluationFile(_set_name(ignored.source_file), (), (problem,))


def strings_of(value: object, *, is_passage: bool = False) -> Iterator[ItemString]:
    """The non-blank strings in a JSON value, in order, at any depth."""
    stack: list[tuple[object, bool]] = [(value, is_passage)]
    while stack:
        value, is_passage = stack.pop()
        if isinstance(value, str):
            if value.strip():
                yield ItemString(value, is_passage)
        elif isinstance(value, dict):
            fields = [(v, is_passage or k in PASSAGE_KEYS) for k, v in value.items()]
            stack += reversed(fields)
        elif isinstance(value, list | tuple):
            stack += ((element, is_passage) for element in reversed(value))


def _set_name(source_file: str) -> str:
    path = PurePosixPath(source_file)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    if path.suffix.lower() in {*JSON_SUFFIXES, *_TABLES, ".parquet"}:
        path = path.with_suffix("")
    return str(path)


class _Unreadable(Exception):
    """A file that cannot be read at all, with the reason."""


def _read(file: InputFile, name: str) -> EvaluationFile:
    problems: list[str] = []
    items: list[Item] = []
    try:
        for number, record in enumerate(_records(file, problems), start=1):
            if strings := tuple(strings_of(record)):
                items.append(Item(number, strings))
            else:
                problems.append(f"record {number} has no strings")
        if not items and not problems:
            problems.append("empty")
    except _Unreadable as error:
        problems.append(str(error))
    # UnicodeDecodeError: Parquet does not check that its strings are UTF-8.
    except (*DAMAGE, ValueError, RecursionError, csv.Error) as error:
        problems.append(f"damaged: {one_line(error)}")
    if (rest := len(problems) - _MAX_PROBLEMS_PER_FILE) > 0:
        problems[_MAX_PROBLEMS_PER_FILE:] = [f"{rest} more like these"]
    found = tuple(Problem(file.source_file, reason) for reason in problems)
    return EvaluationFile(name, tuple(items), found)


def _records(file: InputFile, problems: list[str]) -> Iterator[Any]:
    suffix = PurePosixPath(uncompressed_name(file.path.name)).suffix
    if suffix == ".parquet":
        with pq.ParquetFile(file.path) as parquet:
            for batch in parquet.iter_batches(1_000, use_threads=False):
                yield from batch.to_pylist()
    elif suffix in _TABLES:
        rows = csv.reader(io.StringIO(_text(file, problems), newline=""), delimiter=_TABLES[suffix])
        yield from (row for row in rows if row)
    elif suffix in JSON_SUFFIXES:
        yield from _json_records(_text(file, problems), suffix == ".json", problems)
    else:
        endings = ", ".join(sorted({*JSON_SUFFIXES, *_TABLES, ".parquet"}))
        raise _Unreadable(f"unknown format; supported are {endings}, compressed or not")


def _text(file: InputFile, problems: list[str]) -> str:
    """The file's text; if it is damaged, what can be read of it, with a problem noted."""
    data = bytearray()
    try:
        with open_stream(file.path) as stream:
            while chunk := stream.read1(1 << 20):
                data += chunk
                if len(data) > MAX_FILE_BYTES:
                    raise _Unreadable(f"longer than {MAX_FILE_BYTES} bytes")
    except DAMAGE as error:
        if not data:
            raise
        problems.append(f"damaged after byte {len(data)}: {one_line(error)}")
    text = data.decode("utf-8-sig", "replace")
    if "\ufffd" in text and b"\xef\xbf\xbd" not in data:
        problems.append("not UTF-8 in places; those characters count as punctuation")
    return text


def _json_records(text: str, is_one_value: bool, problems: list[str]) -> Iterator[Any]:
    """Records of JSON lines, or of one JSON value, whichever the text is."""
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        return
    first = _value(lines[0][1])
    if first is None or (is_one_value and len(lines) == 1):
        whole = _value(text)
        if whole is not None:
            yield from _records_of(whole)
            return
    for number, line in lines:
        value = _value(line)
        if value is None:
            problems.append(f"line {number} is not JSON")
        elif isinstance(value, list) and len(lines) == 1:
            yield from value
        else:
            yield value


def _value(text: str) -> Any:
    """None for invalid JSON, and for null, which has no strings either."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _records_of(value: object) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
        return
    if isinstance(value, dict):
        if len(value) > 1 and all(isinstance(v, dict) for v in value.values()):
            yield from value.values()
            return
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if lists:
            yield from max(lists, key=len)
            return
    yield value
