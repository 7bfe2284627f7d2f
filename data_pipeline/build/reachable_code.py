"""Code reachable from functions, by static analysis: their definitions, those these use, and so on.

Where a name cannot be resolved to one definition (a module that is passed around, a star import, a
name created at run time), the whole module counts. Of each module that is reached, its import-time
statements count, too. Unused imports do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.build.module_definitions import Definition, Module, Reference, parse_module

_WHOLE_MODULE = "*"
_OTHER_STATEMENTS = ""


@dataclass(frozen=True)
class ReachableCode:
    """Reachable code, independent of module paths."""

    lines: tuple[str, ...]
    """Canonical text of each definition, with the numbers of the definitions that it uses."""
    packages: frozenset[str]
    """Top-level names of the other packages that the definitions import."""


def reachable_code(
    starts: Iterable[Reference],
    places: Mapping[str, Path],
    *,
    without_effect: frozenset[str] = frozenset(),
) -> ReachableCode:
    """The code that is reachable from `starts`.

    `places` maps the top-level packages and modules to analyze to their folder or file. Modules and
    packages named in `without_effect` are skipped.
    """
    walk = _Walk(places, without_effect)
    lines = ["starts " + " ".join(walk.label(start) for start in starts)]
    # It grows as definitions are found.
    lines += [walk.line(module, name) for module, name in walk.found]
    return ReachableCode(tuple(lines), frozenset(walk.packages))


class _Walk:
    """Traversal of definitions, in an order that does not depend on module names."""

    def __init__(self, places: Mapping[str, Path], without_effect: frozenset[str]) -> None:
        self._places = places
        self._without_effect = without_effect
        self._modules: dict[str, Module | None] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._begun: set[str] = set()
        self.found: list[tuple[str, str]] = []
        self.packages: set[str] = set()

    def line(self, module_name: str, name: str) -> str:
        module = self._module(module_name)
        assert module is not None, f"{module_name} was found before"
        if name == _WHOLE_MODULE:
            names = {*module.definitions, *module.imports, *self._submodules(module_name)}
            whole = tuple(Reference(module_name, (name,)) for name in sorted(names))
            definition = Definition("whole module", whole)
        elif name == _OTHER_STATEMENTS:
            definition = module.other_statements
        else:
            definition = module.definitions[name]
        return "\n".join([definition.text, *map(self.label, definition.references)])

    def label(self, reference: Reference) -> str:
        """The referenced definition's number, or a name, independent of module paths."""
        name, attributes = reference.module, reference.attributes
        top = name.partition(".")[0]
        if top not in self._places:
            self.packages.add(top)
            return ".".join((name, *attributes))
        if not self._without_effect.isdisjoint(_with_packages(name)):
            return ".".join(("without effect", *attributes))
        if (module := self._module(name)) is None:
            return ".".join(("missing", *attributes))
        self._begin(name)
        if not attributes:
            return self._number(name, _WHOLE_MODULE)
        first, *others = attributes
        labels = []
        if first in module.definitions:
            labels.append(".".join((self._number(name, first), *others)))
        for imported in module.imports.get(first, ()):
            if imported != Reference(name, (first,)):  # else a package imports its own module
                labels.append(self.label(imported.of(others)))
        if not labels and self._module(f"{name}.{first}") is not None:
            labels.append(self.label(Reference(f"{name}.{first}", tuple(others))))
        if not labels:
            labels.append(".".join((self._number(name, _WHOLE_MODULE), *attributes)))
        return "|".join(labels)

    def _number(self, module: str, name: str) -> str:
        if (module, name) not in self._numbers:
            self._numbers[module, name] = len(self._numbers)
            self.found.append((module, name))
        return str(self._numbers[module, name])

    def _begin(self, name: str) -> None:
        """Add the import-time code of the module and of each package that contains it."""
        for part in _with_packages(name):
            module = self._module(part)
            if part not in self._begun and module is not None and module.other_statements.text:
                self.found.append((part, _OTHER_STATEMENTS))
            self._begun.add(part)

    def _module(self, name: str) -> Module | None:
        """None if there is no such module."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def _read(self, name: str) -> Module | None:
        path = self._path(name)
        if path.is_file():
            return parse_module(name, path.read_bytes(), is_package=False)
        face = path / "__init__.py"
        if face.is_file():
            return parse_module(name, face.read_bytes(), is_package=True)
        return parse_module(name, b"", is_package=True) if path.is_dir() else None

    def _path(self, name: str) -> Path:
        """File of a module; folder of a package, which comes first where there are both."""
        top, *inner = name.split(".")
        path = self._places[top].joinpath(*inner)
        return path if path.is_dir() or not inner else path.with_name(f"{path.name}.py")

    def _submodules(self, name: str) -> list[str]:
        path = self._path(name)
        if not path.is_dir():
            return []
        folders = [p.parent.name for p in path.glob("*/__init__.py")]
        return [*folders, *(p.stem for p in path.glob("*.py") if p.stem != "__init__")]


def _with_packages(module: str) -> list[str]:
    """The module and the packages that it lies in."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
