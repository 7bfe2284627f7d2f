"""Fingerprints of results, as cache keys: hashes of input files, thresholds and code.

Code is hashed as the definitions that the functions reach (`reachable_code`), without comments,
docstrings and module paths, which cannot change a result.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from data_pipeline.build.module_definitions import Reference
from data_pipeline.build.parts import build_part
from data_pipeline.build.reachable_code import ReachableCode, reachable_code
from data_pipeline.build.repeated_paragraphs import mark_repeated, write_hashes
from data_pipeline.document import Source
from data_pipeline.files.inputs import InputFile

_PACKAGE = __name__.partition(".")[0]

WITHOUT_EFFECT = frozenset(
    {
        # Executors and progress bars: results are the same, byte for byte, for any of them.
        f"{_PACKAGE}.executors",
        # Cost estimates.
        f"{_PACKAGE}.build.costs",
        # Downloads; the files' names and versions are part of `files_fingerprint`.
        f"{_PACKAGE}.files.remote",
        # Atomic publication.
        f"{_PACKAGE}.files.atomic",
    }
)
"""Modules, or packages with all their modules, that cannot change a result."""


def source_fingerprint(source: Source) -> str:
    """`code_fingerprint` of the functions that build the parts of a source."""
    return code_fingerprint([source.name], functions_of(source))


def code_fingerprint(extra: Sequence[str], functions: Sequence[Callable[..., Any]]) -> str:
    """xxh3 (128 bits) of functions with their thresholds, the definitions that they reach, and the
    versions of the packages that these use.
    """
    code = code_behind(functions)
    versions = sorted(package_versions(code).items())
    digest = xxhash.xxh3_128()
    for line in (
        *(*extra, unicodedata.unidata_version, *map(describe, functions)),
        *code.lines,
        *(f"{name} {version}" for name, version in versions),
    ):
        digest.update(line.encode("utf-8") + b"\0")
    return digest.hexdigest()


def files_fingerprint(files: Iterable[InputFile], extra: Sequence[str]) -> str:
    """xxh3 (128 bits) of files, by name, size and modification time (of remote files: version), and
    `extra`."""
    digest = xxhash.xxh3_128()
    lines = [
        f"{file.source_file} {file.size} {file.mtime_ns} {file.title} {file.license}"
        + ("" if file.url is None else f" {file.version}")
        for file in files
    ]
    for line in (*extra, *lines):
        digest.update(line.encode("utf-8") + b"\0")
    return digest.hexdigest()


def functions_of(source: Source) -> list[Callable[..., Any]]:
    """The source's functions, and those that build its parts."""
    functions: list[Callable[..., Any]] = [source.inputs, source.read, source.same_text]
    functions += [*source.edits, *source.filters]
    if source.same_url is not None:
        functions.append(source.same_url)
    functions.append(build_part)
    if source.paragraph_group_bytes is not None:
        functions += [write_hashes, mark_repeated]
    return functions


def code_behind(functions: Iterable[Callable[..., Any]]) -> ReachableCode:
    """Code that is reachable from the functions, and from the classes of their bound arguments:
    definitions of this package, and of the packages that define the functions."""
    found = [value for function in functions for value in _functions_and_classes(function)]
    tops = {_PACKAGE, *(_top(value) for value in found if inspect.isfunction(value))}
    starts = [
        Reference(value.__module__, tuple(value.__qualname__.split(".")))
        for value in found
        if _top(value) in tops
    ]
    places = {top: _place(top) for top in tops}
    return reachable_code(starts, places, without_effect=WITHOUT_EFFECT)


def package_versions(code: ReachableCode) -> dict[str, str]:
    """Versions of the installed packages that the code uses."""
    packages = _packages()
    names = {package for name in code.packages for package in packages.get(name, ())}
    return {name: importlib.metadata.version(name) for name in names if name != "llama-ds"}


def describe(function: Callable[..., Any]) -> str:
    """Name and bound arguments of a module-level function or a partial of one.

    ValueError for anything else, which could be neither fingerprinted nor pickled.
    """
    bound: list[str] = []
    if isinstance(function, partial):
        bound += [_describe_value(value) for value in function.args]
        bound += [f"{k}={_describe_value(v)}" for k, v in sorted(function.keywords.items())]
        function = function.func
    if not inspect.isfunction(function) or "<" in function.__qualname__:
        raise ValueError(
            f"{function} in a Source must be a module-level function or a partial of one"
        )
    return f"{function.__qualname__}({', '.join(bound)})"


def _describe_value(value: object) -> str:
    if callable(value):
        return describe(value)
    if isinstance(value, Path) and value.is_file():
        # A model or a word list: the content of the file is a threshold, too.
        return f"{value} {value.stat().st_size} {value.stat().st_mtime_ns}"
    # The order of a set of strings changes from run to run.
    return repr(sorted(value)) if isinstance(value, frozenset) else repr(value)


def _functions_and_classes(value: object) -> Iterator[Callable[..., Any]]:
    """The function or the value's class, and those of bound arguments and container items."""
    if isinstance(value, partial):
        inner: Iterable[object] = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, tuple | list):
        inner = value
    else:
        yield value if inspect.isfunction(value) else type(value)
        return
    for one in inner:
        yield from _functions_and_classes(one)


def _top(function: Callable[..., Any]) -> str:
    """The top-level package or module that defines a function or class."""
    return function.__module__.partition(".")[0]


def _place(top: str) -> Path:
    """The file of a top-level module, or the folder of a package. ValueError for neither."""
    module = sys.modules.get(top)
    for folder in getattr(module, "__path__", ()):
        return Path(folder)
    if (file := getattr(module, "__file__", None)) is None:
        raise ValueError(
            f"functions of a Source cannot be defined in {top}, which is not read from a file, so "
            "their code cannot be fingerprinted; put them into a module"
        )
    return Path(file)


@functools.cache
def _packages() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
