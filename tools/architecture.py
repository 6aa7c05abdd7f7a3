"""Writes the map of the modules in ARCHITECTURE.md: each with the first sentence of its docstring.

python tools/architecture.py
"""

import ast
import itertools
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "ARCHITECTURE.md"
START, END = "<!-- modules:start -->", "<!-- modules:end -->"


def modules() -> str:
    """A table a room, from the command line down to what everybody uses."""
    library = ROOT / "lib" / "candor"
    paths = [path.relative_to(library) for path in library.rglob("*.py") if path.name != "__init__.py"]
    order = ("run", "claims", "witnesses", "language_models", "train", "declare", "measure", "core")
    rank = {name: place for place, name in enumerate(order, 1)}
    paths.sort(key=lambda path: (rank.get(path.parts[0], 0), str(path.parent), path.name))
    blocks = []
    for room, inside in itertools.groupby(paths, lambda path: str(path.parent)):
        rows = [f"| `{'candor' if room == '.' else room}/` | |", "| --- | --- |"]
        for path in inside:
            said = ast.get_docstring(ast.parse((library / path).read_text(encoding="utf-8"))) or ""
            rows.append(f"| `{path.stem}` | {_first(said)} |")
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks)


def _first(docstring: str) -> str:
    """Its first paragraph, in one line."""
    return " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")


def split() -> tuple[str, str, str]:
    """The page before, between and after the marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    between, after = rest.split(END)
    return before, between.strip(), after


if __name__ == "__main__":
    head, _, tail = split()
    PAGE.write_text(f"{head}{START}\n{modules()}\n{END}{tail}", encoding="utf-8")
