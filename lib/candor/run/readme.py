"""The parts of README.md and of pages in docs/ that are made from results, each between its two marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from candor.core.settings import ROOT

README, LEDGER = ROOT / "README.md", ROOT / "docs" / "ledger.md"


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    """What stands before, between and after the marks of `name`, marks included in the outer two."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, rest = page.read_text(encoding="utf-8").split(start)
    between, after = rest.split(end)
    return before + start, between, end + after


def table(head: Sequence[str], rows: Iterable[Iterable[object]], rule: Sequence[str] | None = None) -> str:
    """A table in Markdown; `rule` says on which side each column stands, by default on the left."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(line)} |" for line in (head, rule or ["---"] * len(head), *cells)]
    return "\n".join([lines[0].replace("|  |", "| |"), *lines[1:]])


def read(page: Path, name: str) -> str:
    """What stands between the marks of `name`."""
    return _parts(page, name)[1].strip()


def put(page: Path, name: str, text: str) -> None:
    """Puts `text` between the marks of `name`."""
    before, _, after = _parts(page, name)
    page.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")
