"""Lines of code of lib/ by room, and of tests/: how large the house is.

    python benchmarks/lines.py [FOLDER]

Of lib/ count lines with code: no blank lines, comments or docstrings. Of tests/ count all lines.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EMPTY = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def lines_of_code(source: str) -> int:
    """Lines that hold code.

    Examples
    --------
    >>> lines_of_code("def f(x):\\n    'What it does.'\\n    # why\\n\\n    return x\\n")
    2
    """
    documented = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
    docstrings = [node.body[0] for node in documented if ast.get_docstring(node, clean=False) is not None]
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in EMPTY]
    code = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(code - {line for node in docstrings for line in range(node.lineno, node.end_lineno + 1)})


def rooms(library: Path) -> Counter:
    """Lines of code by folder below `library`."""
    counts: Counter = Counter()
    for path in sorted(library.rglob("*.py")):
        counts[str(path.parent.relative_to(library))] += lines_of_code(path.read_text(encoding="utf-8"))
    return counts


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    found = rooms(root / "lib" / "candor")
    for room, count in found.most_common():
        print(f"{count:7,}  {room}")
    print(f"{found.total():7,}  lib, lines of code")
    tests = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (root / "tests").rglob("*.py"))
    print(f"{tests:7,}  tests, all lines")
