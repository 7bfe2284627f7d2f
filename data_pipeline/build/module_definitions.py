"""Canonical text of each top-level definition of a module, for code fingerprints.

The text is the syntax tree (AST) without docstrings, comments and positions, and without the way
names are imported: where a definition uses a name from outside, the text has a placeholder, and
`Definition.references` holds what it refers to. So moving a module, or importing a name from
elsewhere or under another name, does not change the text.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

_MARK = "@"
# Calls of these may use any name of the module.
_BY_TEXT = frozenset({"globals", "eval", "exec"})
# `kind` is the prefix u of a string; `ctx` (load or store) follows from the position.
_WITHOUT_MEANING = frozenset({"ctx", "kind", "type_comment"})

_Functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_Comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_Assignments = (ast.Assign, ast.AnnAssign, ast.AugAssign)


@dataclass(frozen=True)
class Reference:
    """A module, or a dotted attribute of it."""

    module: str
    attributes: tuple[str, ...] = ()

    def of(self, attributes: Iterable[str]) -> Reference:
        return Reference(self.module, (*self.attributes, *attributes))


@dataclass(frozen=True)
class Definition:
    """Canonical text of one or several statements."""

    text: str
    references: tuple[Reference, ...]
    """What the placeholders in the text refer to, in order."""


@dataclass(frozen=True)
class Module:
    """Definitions and imports of a module, by name."""

    is_package: bool
    definitions: Mapping[str, Definition]
    """For each name all top-level statements that bind it, imports excepted."""
    imports: Mapping[str, tuple[Reference, ...]]
    """For each imported name what it may refer to; several where imports are conditional."""
    other_statements: Definition
    """Import-time code: calls, loops, conditions, star imports, and definitions decorated by a
    function of the same package, which may register them."""


# For each name of a scope: what it is imported from; None for a value.
_Scope = Mapping[str, Sequence[Reference | None]]


@functools.cache
def parse_module(name: str, source: bytes, *, is_package: bool) -> Module:
    """Parse the module `name`. SyntaxError where `source` is not Python."""
    package = name if is_package else name.rpartition(".")[0]
    statements: dict[str, list[ast.stmt]] = {}
    imports: dict[str, list[Reference]] = {}
    body = [statement for statement in ast.parse(source).body if not _is_text(statement)]
    for statement in body:
        for bound, meanings in _bindings([statement], package).items():
            imports.setdefault(bound, []).extend(m for m in meanings if m is not None)
            if None in meanings:
                statements.setdefault(bound, []).append(statement)
    stars = imports.pop("*", [])
    scope: dict[str, Sequence[Reference]] = {**imports}
    scope |= {bound: [Reference(name, (bound,))] for bound in statements}
    top = name.partition(".")[0]
    own = {n for n, found in scope.items() if any(r.module.split(".")[0] == top for r in found)}
    others = [s for s in body if not _is_definition(s) or _is_decorated_by(s, own)]
    other_statements = _definition(others, name, package, scope)
    return Module(
        is_package,
        {bound: _definition(found, name, package, scope) for bound, found in statements.items()},
        {bound: tuple(found) for bound, found in imports.items() if found},
        Definition(
            other_statements.text + _MARK * len(stars), (*other_statements.references, *stars)
        ),
    )


def _definition(
    statements: Sequence[ast.stmt], module: str, package: str, scope: _Scope
) -> Definition:
    writer = _Writer(module, package, scope)
    text = "".join(writer.write(statement) for statement in statements)
    return Definition(text, tuple(writer.references))


def _is_text(node: object) -> bool:
    """Whether this is a docstring, also of an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_definition(statement: ast.stmt) -> bool:
    """Whether the statement only binds names."""
    if isinstance(statement, _Assignments):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return not any(
            isinstance(node, ast.Attribute | ast.Subscript)
            for target in targets
            for node in ast.walk(target)
        )
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    return isinstance(statement, kinds) or type(statement).__name__ == "TypeAlias"  # Python 3.12


def _is_decorated_by(statement: ast.stmt, names: Collection[str]) -> bool:
    """Whether a decorator uses one of these names, and so may have side effects (registration)."""
    return any(
        isinstance(node, ast.Name) and node.id in names
        for decorator in getattr(statement, "decorator_list", ())
        for node in ast.walk(decorator)
    )


def _bindings(nodes: Sequence[ast.AST], package: str) -> dict[str, list[Reference | None]]:
    """The names that these nodes bind in their own scope."""
    found: dict[str, list[Reference | None]] = {}
    elsewhere: set[str] = set()
    todo = list(nodes)
    for node in todo:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, reference in _imported(node, package):
                found.setdefault(name, []).append(reference)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere.update(node.names)
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                found.setdefault(node.id, []).append(None)
        else:
            # Functions, classes, caught exceptions and captured patterns.
            for field in ("name", "rest"):
                if isinstance(bound := getattr(node, field, None), str):
                    found.setdefault(bound, []).append(None)
            if not isinstance(node, (*_Functions, *_Comprehensions, ast.ClassDef)):
                todo += ast.iter_child_nodes(node)
    return {name: meanings for name, meanings in found.items() if name not in elsewhere}


def _imported(
    statement: ast.Import | ast.ImportFrom, package: str
) -> Iterable[tuple[str, Reference]]:
    """Each name that the import binds, and what it refers to."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            top = alias.name.partition(".")[0]
            yield alias.asname or top, Reference(alias.name if alias.asname else top)
    elif statement.module != "__future__":
        origin = [statement.module] if statement.module else []
        if statement.level:
            above = package.split(".")
            origin = above[: len(above) - statement.level + 1] + origin
        for alias in statement.names:
            yield alias.asname or alias.name, Reference(".".join(origin), (alias.name,))


class _Writer:
    """Writes syntax trees as text that does not depend on the version of Python."""

    def __init__(self, module: str, package: str, scope: _Scope) -> None:
        self._module = module
        self._package = package
        # From the outermost to the innermost; the flag: whether names bound there are also looked
        # up in outer scopes, since methods do not see the names of their class body.
        self._scopes: list[tuple[_Scope, bool]] = [(scope, False)]
        self.references: list[Reference] = []

    def write(self, node: object) -> str:
        if isinstance(node, list):
            return f"[{','.join(text for item in node if (text := self.write(item)))}]"
        if _is_text(node) or isinstance(node, ast.Import | ast.ImportFrom):
            return ""
        if isinstance(node, ast.Name | ast.Attribute) and (used := self._name_from_outside(node)):
            return used
        if isinstance(node, _Functions):
            return self._function(node)
        if isinstance(node, _Comprehensions):
            return self._comprehension(node)
        if isinstance(node, ast.ClassDef):
            scope = _bindings(node.body, self._package)
            outside = self._fields(node, without=("body",))
            return outside + self._inside(scope, node.body, is_searched_further=True)
        return self._fields(node) if isinstance(node, ast.AST) else repr(node)

    def _fields(self, node: ast.AST, without: Sequence[str] = ()) -> str:
        """Empty fields are omitted, because later versions of Python add some."""
        texts = [
            f"{name}={self.write(value)}"
            for name, value in ast.iter_fields(node)
            if not (value is None or value == [] or name in _WITHOUT_MEANING or name in without)
        ]
        return f"{type(node).__name__}({','.join(texts)})"

    def _name_from_outside(self, node: ast.expr) -> str | None:
        """A placeholder for each thing that the (dotted) name can refer to."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        meanings = self._meanings(node.id, is_bound_here=not isinstance(node.ctx, ast.Load))
        found = [meaning.of(attributes) for meaning in meanings if meaning is not None]
        if not meanings and node.id in _BY_TEXT:
            found, meanings = [Reference(self._module)], [None]
        if not found:
            return None
        self.references += found
        name = ".".join((node.id, *attributes)) if None in meanings else ""
        return _MARK * len(found) + name

    def _meanings(self, name: str, *, is_bound_here: bool) -> list[Reference | None]:
        found: list[Reference | None] = []
        for scope, is_searched_further in reversed(self._scopes):
            found += scope.get(name, ())
            if name in scope and (is_bound_here or not is_searched_further):
                break
        return found

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> str:
        body = node.body if isinstance(node.body, list) else [node.body]
        scope = {**_bindings(body, self._package)}
        given = node.args
        for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs):
            scope.setdefault(argument.arg, []).append(None)
        for rest in (given.vararg, given.kwarg):
            if rest is not None:
                scope.setdefault(rest.arg, []).append(None)
        # Decorators, defaults and annotations are evaluated in the enclosing scope.
        outside = self._fields(node, without=("body",))
        return outside + self._inside(scope, body, is_searched_further=False)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ) -> str:
        first, *others = node.generators
        scope = _bindings([generator.target for generator in node.generators], self._package)
        # The first iterable is evaluated in the enclosing scope.
        outside = f"{type(node).__name__}{self.write(first.iter)}"
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        inside = [first.target, first.ifs, first.is_async, *others, *results]
        return outside + self._inside(scope, inside, is_searched_further=False)

    def _inside(self, scope: _Scope, nodes: Sequence[object], *, is_searched_further: bool) -> str:
        self._scopes.append((scope, is_searched_further))
        text = self.write([*nodes])
        self._scopes.pop()
        return text
