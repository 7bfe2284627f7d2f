"""What a result was made from, as one short string: inputs, thresholds and code."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import inspect
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from data_pipeline.document import Source
from data_pipeline.files.inputs import InputFile

_PACKAGE = "data_pipeline"
_STARTING_POINT = f"{_PACKAGE}.build.parts"
# They decide how and when a result is written, and not what is in it.
_WITHOUT_EFFECT = frozenset({f"{_PACKAGE}.files.atomic"})


def source_fingerprint(source: Source) -> str:
    """`code_fingerprint` of the functions that make documents of a file."""
    return code_fingerprint([source.name], functions_of(source))


def code_fingerprint(extra: Sequence[str], functions: Sequence[Callable[..., Any]]) -> str:
    """xxh3 of 128 bits over functions with their thresholds, every module of this package that
    they import, directly or not, and the versions of the other packages that those import.
    """
    digest = xxhash.xxh3_128()
    for line in [*extra, unicodedata.unidata_version, *map(describe, functions)]:
        digest.update(line.encode("utf-8") + b"\0")
    modules = modules_behind(functions)
    for name in sorted(modules):
        digest.update(name.encode() + b"\0" + modules[name].read_bytes())
    for name, version in sorted(package_versions(modules.values()).items()):
        digest.update(f"{name} {version}\0".encode())
    return digest.hexdigest()


def files_fingerprint(files: Iterable[InputFile], extra: Sequence[str]) -> str:
    """xxh3 of 128 bits over files, by name, size and modification time (behind a URL: version), and
    `extra`."""
    digest = xxhash.xxh3_128()
    lines = [
        f"{file.source_file} {file.size} {file.mtime_ns} {file.title} {file.licence}"
        + ("" if file.url is None else f" {file.version}")
        for file in files
    ]
    for line in (*extra, *lines):
        digest.update(line.encode("utf-8") + b"\0")
    return digest.hexdigest()


def functions_of(source: Source) -> list[Callable[..., Any]]:
    functions: list[Callable[..., Any]] = [source.inputs, source.read, source.same_text]
    functions += [*source.edits, *source.filters]
    if source.same_url is not None:
        functions.append(source.same_url)
    return functions


def modules_behind(functions: Iterable[Callable[..., Any]]) -> dict[str, Path]:
    """Name and file of the functions' modules, and of all that they import from this package."""
    names = [_STARTING_POINT]
    for function in functions:
        names += [plain.__module__ for plain in _plain_functions(function)]
    found: dict[str, Path] = {}
    while names:
        name = names.pop()
        if name not in found and name not in _WITHOUT_EFFECT:
            found[name] = _file_of(name)
            names += [n for n in _imports(found[name]) if n.split(".")[0] == _PACKAGE]
    return found


def package_versions(files: Iterable[Path]) -> dict[str, str]:
    """Versions of the installed packages that the modules in `files` import."""
    imported = {name.split(".")[0] for file in files for name in _imports(file)}
    packages = _packages()
    names = {package for name in imported for package in packages.get(name, ())}
    return {name: importlib.metadata.version(name) for name in names if name != "llama-ds"}


def describe(function: Callable[..., Any]) -> str:
    """Name and bound arguments of a module-level function or a partial of one.

    ValueError for anything else: neither could a change of it be noticed, nor could it be sent to
    another process.
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
    return f"{function.__module__}.{function.__qualname__}({', '.join(bound)})"


def _describe_value(value: object) -> str:
    if callable(value):
        return describe(value)
    if isinstance(value, Path) and value.is_file():
        # A model or a list: another file under the same name is another threshold.
        return f"{value} {value.stat().st_size} {value.stat().st_mtime_ns}"
    # The order of a set of strings changes from run to run.
    return repr(sorted(value)) if isinstance(value, frozenset) else repr(value)


def _plain_functions(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    if not isinstance(function, partial):
        yield function
        return
    yield from _plain_functions(function.func)
    for value in (*function.args, *function.keywords.values()):
        if callable(value):
            yield from _plain_functions(value)


def _file_of(module: str) -> Path:
    if module in sys.modules:
        return Path(str(sys.modules[module].__file__))
    path = Path(__file__).parents[2].joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _imports(file: Path) -> tuple[str, ...]:
    """Names of the modules that a module imports, also inside its functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module.split(".")[0] == _PACKAGE:
                names += [name for name in members if _file_of(name).exists()]
    return tuple(names)


@functools.cache
def _packages() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
