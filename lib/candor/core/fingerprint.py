"""What code means, as a hash: which definitions inside candor something uses, without what does not matter.

Starting from `module:name`, every name that a definition mentions is followed to the definition that it leads to.

- What does not count: docstrings, comments, layout, annotations, the names of local variables, of definitions and of
  modules, where a definition or an import stands, what an error or a failed `assert` says, the order of keyword
  arguments of which at most one calls something, and what `MACHINERY` lists.
- What counts: all else in a definition and in everything that it reaches, parameters' names and other texts included.
  A statement at the head of a module that fills a table or registers a function belongs to each name that it changes
  or calls with. A dictionary of which a step names entries (`candor.rewards:RULES[brier]`) counts by these alone.
- What is not seen: code reached by a text, as by `getattr(module, name)`, which a step names in its `uses`; libraries,
  whose versions `run.json` holds.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).resolve().parents[2]
# Modules, and a list of all steps, that carry a step and do not shape what it makes: their edits make nothing stale.
MACHINERY = {
    "candor.train.resume",
    "candor.run.steps:steps",
    *(f"candor.core.{name}" for name in ("step", "store", "settings", "errors", "runtime")),
}


@cache
def digest(*references: str) -> str:
    """Sixteen hexadecimal digits that change when the code behind `module:name` or `module:NAME[entry]` would do
    something else.

    Raises: `LookupError` for a name that leads nowhere, and for a module that is used as a value.
    """
    numbers = {reference: i for i, reference in enumerate(used(*references))}
    parts: list[Any] = [[numbers[_home(reference)] for reference in references]]
    for code, mentioned in map(_meaning, numbers):
        parts.append([code, [numbers.get(home) for home in mentioned]])
    return _hash(parts)[:16]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def used(*references: str) -> list[str]:
    """Every definition inside candor that `references` reach, in the order in which it is met. Raises: as `digest`."""
    queue = [_home(reference) for reference in references]
    by_entry = {home.split("[")[0] for home in queue if "[" in home}
    reached: dict[str, None] = {}
    for reference in queue:
        if reference not in reached and reference not in by_entry:
            reached[reference] = None
            queue += _meaning(reference)[1]
    return list(reached)


def forget() -> None:
    """Forget what was read, after `LIBRARY` or the code in it has changed."""
    for cached in (digest, _path, _names, _home, _meaning):
        cached.cache_clear()


# --- Where a name leads -----------------------------------------------------------------------------


@cache
def _path(module: str) -> Path | None:
    place = LIBRARY / module.replace(".", "/")
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists()), None)


@cache
def _names(module: str) -> tuple[dict[str, list[ast.stmt]], dict[str, str]]:
    """The statements that make each name at the head of a module what it is, and where its imported names lead."""
    path = _path(module)
    if path is None:
        raise LookupError(f"There is no module {module}.")
    body, made = ast.parse(path.read_text(encoding="utf-8")).body, defaultdict(list)
    for statement in body:
        for name in dict.fromkeys(_made(statement)):
            made[name].append(statement)
    return {name: made[name] for name in _bound(body)}, _imports(body)


def _made(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement binds, whose parts it changes, or that it mentions if it is a bare call."""
    yield from _bound([statement])
    for part in _scope([statement]):
        if isinstance(part, ast.Name) and isinstance(statement, ast.Expr):
            yield part.id
        elif isinstance(part, ast.Subscript | ast.Attribute) and not isinstance(part.ctx, ast.Load):
            yield from (name.id for name in ast.walk(part.value) if isinstance(name, ast.Name))


def _bound(nodes: Iterable[ast.AST]) -> dict[str, None]:
    names, outer = {}, set()
    for part in _scope(nodes):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            names[part.id] = None
        elif isinstance(part, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler):
            names[part.name or ""] = None
        elif isinstance(part, ast.Global | ast.Nonlocal):
            outer |= {*part.names}
    return {name: None for name in names if name not in outer}


def _imports(nodes: Iterable[ast.AST]) -> dict[str, str]:
    names = {}
    for part in _scope(nodes):
        if isinstance(part, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{part.module}:{alias.name}" for alias in part.names}
        elif isinstance(part, ast.Import):
            names |= {alias.asname: alias.name for alias in part.names if alias.asname}
    return names


def _scope(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Everything in some code but what has names of its own: functions, classes, the variables of a comprehension."""
    waiting = [*nodes][::-1]
    while waiting:
        yield (node := waiting.pop())
        if isinstance(node, ast.comprehension):
            waiting += [*node.ifs[::-1], node.iter]
        elif not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            waiting += [*ast.iter_child_nodes(node)][::-1]


@cache
def _home(reference: str) -> str:
    """Where what `module:name` names is defined, imports of imports followed; without a colon if it is a module."""
    module, _, name = reference.partition(":")
    if not name or _path(f"{module}.{name}") or module.split(".")[0] != "candor":
        return reference.replace(":", ".")
    plain = name.split("[")[0]
    defined, imported = _names(module)
    if plain in defined:
        return reference
    if plain in imported:
        return _home(imported[plain] + name.removeprefix(plain))
    raise LookupError(f"{module} defines no {name}.")


# --- What a definition means ------------------------------------------------------------------------


@cache
def _meaning(reference: str) -> tuple[str, tuple[str, ...]]:
    """A hash of the code of a definition, reduced, and the definitions that it mentions, as numbered there."""
    module, name = reference.split(":")
    plain, _, entry = name.rstrip("]").partition("[")
    made: list = _names(module)[0][plain]
    reduction = _Reduction(module)
    code = reduction.plain([_entry(made, entry, reference)] if entry else made)
    return _hash(code), tuple(reduction.mentioned)


def _entry(made: list, entry: str, reference: str) -> ast.expr:
    """The value of one entry of a dictionary that is written out."""
    table = getattr(made[0], "value", None)
    if isinstance(table, ast.Dict) and len(made) == 1:
        for key, value in zip(table.keys, table.values):
            if isinstance(key, ast.Constant) and key.value == entry:
                return value
    raise LookupError(f"{reference} names an entry that is not there.")


class _Reduction:
    """Reduces code of a module to what it means; a method is named after the syntax that it reduces."""

    SKIPPED = ("annotation", "ctx", "kind", "returns", "simple", "type_comment", "type_params")

    def __init__(self, module: str):
        self.module, self.mentioned, self.scopes = module, {}, [{}]

    def plain(self, node: Any) -> Any:
        if isinstance(node, list):
            silent = (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)  # they only say where names lead
            return [self.plain(part) for part in node if not isinstance(part, silent)]
        if not isinstance(node, ast.AST):
            return node
        return getattr(self, type(node).__name__, self.fields)(node)

    def fields(self, node: ast.AST, **other: Any) -> list:
        """A node's fields, some replaced; empty ones are left out, since Pythons differ in them."""
        there = {name: self.plain(part) for name, part in ast.iter_fields(node) if name not in (*self.SKIPPED, *other)}
        return [type(node).__name__, {name: part for name, part in (there | other).items() if part not in (None, [])}]

    def inside(self, names: dict[str, str], reduce: Callable, node: Any) -> Any:
        """What is in a scope with names of its own."""
        self.scopes.append(self.scopes[-1] | names)
        inner = reduce(node)
        self.scopes.pop()
        return inner

    def numbered(self, names: Iterable[str]) -> dict[str, str]:
        return {name: f"{len(self.scopes)}.{i}" for i, name in enumerate(names)}

    # Names

    def origin(self, node: ast.AST) -> str | None:
        """Where a name, or names with dots between them, lead: `module:name`, or what a local name is called here."""
        if isinstance(node, ast.Attribute):
            left = self.origin(node.value)
            module = _home(left) if left and left.startswith("candor") else ""
            return f"{module}:{node.attr}" if module and _path(module) else None
        if not isinstance(node, ast.Name):
            return None
        defined, imported = _names(self.module)
        there = f"{self.module}:{node.id}" if node.id in defined else imported.get(node.id, node.id)
        return self.scopes[-1].get(node.id, there)

    def Name(self, node: ast.Name | ast.Attribute) -> list:
        origin = self.origin(node)
        if origin is None:
            return self.fields(node)
        home = _home(origin)
        module, _, name = home.partition(":")
        if not origin.startswith("candor") or {home, module} & MACHINERY:
            return ["Name", name or module]
        if not name:
            raise LookupError(f"{self.module}, line {node.lineno}, uses a module as a value: name what it uses of it.")
        return ["Name", self.mentioned.setdefault(home, len(self.mentioned))]

    Attribute = Name

    # Scopes

    def FunctionDef(self, node: ast.FunctionDef, name: str | None = None) -> list:
        parameters = _parameters(node)
        local = self.numbered(name for name in _bound(node.body) if name not in parameters)
        body = self.inside(local | _imports(node.body) | parameters, self.plain, _body(node))
        return self.fields(node, name=name or self.scopes[-1].get(node.name), body=body)

    def ClassDef(self, node: ast.ClassDef) -> list:
        own = {ast.FunctionDef: lambda part: self.FunctionDef(part, part.name), ast.AnnAssign: self.fields}
        body = [own.get(type(part), self.plain)(part) for part in _body(node)]
        return self.fields(node, name=self.scopes[-1].get(node.name), body=body)

    def Lambda(self, node: ast.Lambda) -> list:
        return self.fields(node, body=self.inside(_parameters(node), self.plain, node.body))

    def ListComp(self, node: ast.ListComp) -> list:
        variables = self.numbered(_bound(generator.target for generator in node.generators))
        return self.inside(variables, self.fields, node)

    SetComp = DictComp = GeneratorExp = ListComp

    def ExceptHandler(self, node: ast.ExceptHandler) -> list:
        return self.fields(node, name=self.scopes[-1].get(node.name or ""))

    # What says the same in other words

    def AnnAssign(self, node: ast.AnnAssign) -> list:
        return ["Assign", {"targets": [self.plain(node.target)], "value": self.plain(node.value)}]

    def Raise(self, node: ast.Raise) -> list:
        return self.fields(node, exc=self.plain(node.exc.func if isinstance(node.exc, ast.Call) else node.exc))

    def Assert(self, node: ast.Assert) -> list:
        return self.fields(node, msg=None)

    def Call(self, node: ast.Call) -> list:
        calls = [part for part in node.keywords if any(isinstance(inner, ast.Call) for inner in ast.walk(part))]
        ordered = len(calls) > 1 or getattr(node.func, "attr", getattr(node.func, "id", "")) in ("assign", "dict")
        if ordered or not all(part.arg for part in node.keywords):
            return self.fields(node)
        return self.fields(node, keywords=self.plain(sorted(node.keywords, key=lambda part: part.arg or "")))

    def Constant(self, node: ast.Constant) -> list:
        return ["Constant", repr(node.value)]


def _parameters(node: ast.FunctionDef | ast.Lambda) -> dict[str, str]:
    return {part.arg: part.arg for part in ast.iter_child_nodes(node.args) if isinstance(part, ast.arg)}


def _body(node: ast.FunctionDef | ast.ClassDef) -> list[ast.stmt]:
    return node.body[ast.get_docstring(node, clean=False) is not None :]
