"""The lines that must run before a change can matter.

A change inside a function matters when its statement runs. One that is only executed at import,
such as the SQL in a constant, a field of a class or a default, matters where its name is used.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Lines = Mapping[str, frozenset[int]]  # by file

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Definition:
    """What surrounds a line: the statement, its function if any, and the names it defines."""

    statement: range
    function: _Function | None
    names: tuple[str, ...]
    in_body: bool


@dataclass(slots=True)
class Probes:
    """Finds the lines for the changes of one tree of sources. ``files``: relative to it."""

    sources: Path
    files: Iterable[str]
    _trees: dict[str, ast.Module] = field(default_factory=dict)
    _uses: defaultdict[str, set[_Place]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        for file in self.files:
            tree = ast.parse((self.sources / file).read_bytes())
            self._trees[file] = tree
            for name, line in _names(tree):
                self._uses[name].add((file, line))

    def of(self, file: str, line: int) -> Lines:
        """Return the lines for a change at ``line`` of ``file``."""
        found: defaultdict[str, set[int]] = defaultdict(set)
        todo, seen = [(file, line)], {(file, line)}
        while todo:
            place = todo.pop()
            definition = _definition(self._trees[place[0]], place[1])
            function = definition.function
            if function is not None and definition.in_body:
                found[place[0]].update(definition.statement)
            elif function is not None:
                found[place[0]].update(_body(function))
            if function is None or self._called_at_import(place[0], function.name):
                names = definition.names if function is None else (function.name,)
                used = {use for name in names for use in self._uses[name]} - seen
                # A private name of a module is used in that module only.
                todo += (u for u in used if u[0] == place[0] or not names[0].startswith("_"))
                seen |= used
        return {name: frozenset(lines) for name, lines in found.items()}

    def _called_at_import(self, file: str, name: str) -> bool:
        tree = self._trees[file]
        uses = [line for used, line in self._uses[name] if used == file]
        return any(_definition(tree, line).function is None for line in uses)


def _names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield each name and attribute that is read, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr, node.end_lineno or node.lineno


def _definition(tree: ast.Module, line: int) -> _Definition:
    """Find the innermost statement and function at ``line``, and what they define at import."""
    statement: ast.stmt | None = None
    function: _Function | None = None
    in_body = False
    names: tuple[str, ...] = ()
    body: list[ast.stmt] = tree.body
    while (inner := next((each for each in body if line in _range(each)), None)) is not None:
        statement = inner
        if isinstance(inner, _Function):
            if function is None or in_body:
                function, in_body = inner, line in _body(inner)
        elif function is None:
            names = _defined(inner) or names
        body = [each for each in ast.iter_child_nodes(inner) if isinstance(each, ast.stmt)] + [
            each for part in _clauses(inner) for each in part.body
        ]
    return _Definition(_header(statement, line), function, names, in_body)


def _clauses(statement: ast.stmt) -> list[ast.ExceptHandler | ast.match_case]:
    return [
        each
        for each in ast.iter_child_nodes(statement)
        if isinstance(each, ast.ExceptHandler | ast.match_case)
    ]


def _defined(statement: ast.stmt) -> tuple[str, ...]:
    """Return the names that a statement at module or class level defines."""
    if isinstance(statement, ast.ClassDef):
        return (statement.name,)
    if isinstance(statement, ast.Assign):
        nodes = [node for target in statement.targets for node in ast.walk(target)]
        return tuple(node.id for node in nodes if isinstance(node, ast.Name))
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return (statement.target.id,)
    return ()


def _range(statement: ast.stmt) -> range:
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(each.lineno for each in decorators)])
    return range(first, (statement.end_lineno or statement.lineno) + 1)


def _body(function: _Function) -> range:
    return range(function.body[0].lineno, (function.end_lineno or function.lineno) + 1)


def _header(statement: ast.stmt | None, line: int) -> range:
    """Return the lines of a simple statement, or those of a compound one before its body."""
    if statement is None:
        return range(line, line + 1)
    lines = _range(statement)
    body = getattr(statement, "body", None)
    if isinstance(body, list) and body and line < body[0].lineno:
        return range(lines.start, body[0].lineno)
    return lines if not isinstance(body, list) else range(line, line + 1)
