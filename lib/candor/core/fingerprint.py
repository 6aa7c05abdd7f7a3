"""What code means, as a hash: which definitions inside candor something uses, without what does not matter.

Starting from `module:name`, every name that a definition mentions is followed to the definition that it leads to. Each
is reduced to its meaning: no docstrings, comments, layout, annotations or imports, no texts of errors, local names
replaced by numbers, keyword arguments in alphabetical order, and in place of every name that leads into candor the
number of the definition that it leads to. So a definition may be renamed, moved to another module or annotated, and
nothing that was computed with it is stale.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2]
# Carries a step and does not shape what it makes: its edits make nothing stale.
MACHINERY = frozenset(
    {"candor.train.resume", *(f"candor.core.{name}" for name in ("step", "store", "settings", "errors", "runtime"))}
)


def digest(*references: str) -> str:
    """Sixteen hexadecimal digits that change when the code behind `module:name` or `module:NAME[entry]` would do
    something else.

    A table of which `references` name entries (`candor.rewards:RULES[brier]`) counts by these alone, wherever the rest
    of the code mentions it. Raises: `LookupError` for a name that leads nowhere.
    """
    found = {reference: i for i, reference in enumerate(used(*references))}
    parts = [[found[_home(reference)] for reference in references]]
    for reference in found:
        code, mentioned = _meaning(reference)
        parts.append([code, [found[home] for home in mentioned if home in found]])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def used(*references: str) -> list[str]:
    """Every definition inside candor that `references` reach, in the order in which it is met. Raises: as `digest`."""
    queue = [_home(reference) for reference in references]
    by_entry = {home.split("[")[0] for home in queue if "[" in home}
    found: dict[str, None] = {}
    for reference in queue:
        if reference not in found and reference not in by_entry:
            found[reference] = None
            queue += _meaning(reference)[1]
    return list(found)


# --- Where a name leads -----------------------------------------------------------------------------


@cache
def _path(module: str) -> Path | None:
    place = LIBRARY / module.replace(".", "/")
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists()), None)


@cache
def _definitions(module: str) -> tuple[dict[str, ast.stmt], dict[str, str]]:
    """Top-level definitions of a candor module, and what its imports from candor stand for (`module:name`)."""
    path = _path(module)
    if path is None:
        raise LookupError(f"There is no module {module}.")
    tree, defined = ast.parse(path.read_text(encoding="utf-8")), {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            defined |= dict.fromkeys(_targets(node), node)
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    imported = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in imports
        if (node.module or "").split(".")[0] == "candor"
        for alias in node.names
    }
    return defined, imported


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _home(reference: str) -> str:
    """The place where what `module:name` names is defined: imports of imports are followed."""
    module, name = reference.split(":")
    defined, imported = _definitions(module)
    plain = name.split("[")[0]
    if plain in defined:
        return reference
    if plain in imported:
        return _home(imported[plain] + name.removeprefix(plain))
    raise LookupError(f"{module} defines no {name}.")


def _follow(module: str, name: str) -> str | None:
    """Where a name of a module leads inside candor; None for a local name, a library, machinery, or a whole module."""
    defined, imported = _definitions(module)
    target = f"{module}:{name}" if name in defined else imported.get(name, "")
    if not target or _path(target.replace(":", ".")):
        return None
    home = _home(target)
    return None if home.split(":")[0] in MACHINERY else home


# --- What a definition means ------------------------------------------------------------------------


@cache
def _meaning(reference: str) -> tuple[str, tuple[str, ...]]:
    """The code of a definition, reduced, and the definitions that it mentions, as numbered there."""
    module, name = reference.split(":")
    plain, _, entry = name.rstrip("]").partition("[")
    node = copy.deepcopy(_definitions(module)[0][plain])
    place = ""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        place = str(_targets(node).index(plain))
        node = ast.Expr(_entry(node.value, entry, reference) if entry else node.value)
    else:
        node.name = "_"
    reduced = _Reduction(module)
    code = ast.dump(reduced.visit(node)) + place
    return code, tuple(reduced.mentioned)


def _entry(value: ast.expr, entry: str, reference: str) -> ast.expr:
    """The value of one entry of a dictionary that is written out."""
    pairs = zip(value.keys, value.values) if isinstance(value, ast.Dict) else ()
    for key, part in pairs:
        if isinstance(key, ast.Constant) and key.value == entry:
            return part
    raise LookupError(f"{reference} names an entry that is not there.")


class _Reduction(ast.NodeTransformer):
    def __init__(self, module: str):
        self.module, self.mentioned, self.scopes = module, {}, []

    def local(self, name: str) -> str | None:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def reference(self, module: str, name: str, node: ast.expr) -> ast.expr:
        home = _follow(module, name)
        if home is None:
            return node
        return ast.Constant(f"@{self.mentioned.setdefault(home, len(self.mentioned))}")

    def visit_Name(self, node: ast.Name) -> ast.expr:
        name = self.local(node.id)
        return ast.Name(name, node.ctx) if name else self.reference(self.module, node.id, node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and self.local(node.value.id) is None:
            target = _definitions(self.module)[1].get(node.value.id, "").replace(":", ".")
            if target and _path(target) and target not in MACHINERY:
                return self.reference(target, node.attr, node)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.stmt:
        node.returns = node.type_comment = None
        parameters = [part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)]
        node.decorator_list = [self.visit(part) for part in node.decorator_list]
        self.scopes.append(dict(zip(parameters, parameters)) | self._numbered(node, set(parameters)))
        node.args, node.body = self.visit(node.args), self._body(node)
        self.scopes.pop()
        return node

    def _numbered(self, node: ast.FunctionDef, parameters: set[str]) -> dict[str, str]:
        """Numbers for the names that a function binds."""
        bound: dict[str, None] = {}
        for part in _scope(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                bound[part.id] = None
            elif isinstance(part, ast.FunctionDef | ast.ClassDef) or (
                isinstance(part, ast.ExceptHandler) and part.name
            ):
                bound[part.name] = None
        outer = {name for part in _scope(node) if isinstance(part, ast.Global | ast.Nonlocal) for name in part.names}
        return {
            name: f"v{len(self.scopes)}_{i}" for i, name in enumerate(n for n in bound if n not in outer | parameters)
        }

    def _body(self, node: ast.FunctionDef | ast.ClassDef) -> list[ast.stmt]:
        body = node.body[ast.get_docstring(node, clean=False) is not None :]
        return [self._named(part, node) for old in body if (part := self.visit(old))]

    def _named(self, part: ast.stmt, parent: ast.AST) -> ast.stmt:
        """A function inside a function has a local name; a method has its own."""
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and isinstance(parent, ast.FunctionDef):
            part.name = self.local(part.name) or part.name
        return part

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        for field in ("bases", "keywords", "decorator_list"):
            setattr(node, field, [self.visit(part) for part in getattr(node, field)])
        node.body = self._body(node)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.excepthandler:
        node.name = node.name and (self.local(node.name) or node.name)
        return self.generic_visit(node)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.stmt:
        node.names = sorted(self.local(name) or name for name in node.names)
        return node

    visit_Global = visit_Nonlocal

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = node.type_comment = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        parameters = [part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)]
        self.scopes.append(dict(zip(parameters, parameters)))
        self.generic_visit(node)
        self.scopes.pop()
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if all(keyword.arg for keyword in node.keywords):
            node.keywords.sort(key=lambda keyword: keyword.arg or "")
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        return None

    visit_ImportFrom = visit_Import


def _scope(node: ast.AST) -> Iterator[ast.AST]:
    """Everything inside a function but what lies in functions and classes within it, whose names are their own."""
    for part in ast.iter_child_nodes(node):
        yield part
        if not isinstance(part, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            yield from _scope(part)


def forget() -> None:
    """Forget what was read: for tests that edit the code."""
    for cached in (_path, _definitions, _meaning):
        cached.cache_clear()
