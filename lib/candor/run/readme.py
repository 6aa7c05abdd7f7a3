"""The parts of README.md that are made from results, each between its two marks."""

from __future__ import annotations

from candor.core.settings import ROOT

PATH = ROOT / "README.md"


def _parts(name: str) -> tuple[str, str, str]:
    """What stands before, between and after the marks of `name`, marks included in the outer two."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, rest = PATH.read_text(encoding="utf-8").split(start)
    between, after = rest.split(end)
    return before + start, between, end + after


def read(name: str) -> str:
    """What stands between the marks of `name`."""
    return _parts(name)[1].strip()


def put(name: str, text: str) -> None:
    """Puts `text` between the marks of `name`."""
    before, _, after = _parts(name)
    PATH.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")
