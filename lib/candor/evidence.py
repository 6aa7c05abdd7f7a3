"""Tables and ledger as a reader sees them: the reader's own results where they are, else the reference run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from candor import claims, graph, steps
from candor.errors import CandorError, CorruptError

LEDGERS = ("ledger", "checks", "verdicts")


@dataclass(frozen=True)
class Evidence:
    """The evidence for a claim, or for all of them (then `tables` has claim/table as names)."""

    tables: dict[str, pd.DataFrame]
    ledger: pd.DataFrame
    checks: pd.DataFrame
    verdicts: pd.DataFrame
    label: str  # one sentence: whose run this is
    provenance: dict[str, Any]
    source: str  # "reference" | "results"


def load(claim: str | None = None, scale: str = "laptop", source: str = "auto") -> Evidence:
    """The evidence for a claim (None: for all).

    `source` "results" is the reader's own run at `scale`, "reference" the run that came with the project, "auto" the
    first where it is there and the second where not. Raises `CandorError` if there is nothing to load.
    """
    if source not in ("auto", "results", "reference"):
        raise CandorError(f"There is no source {source!r}: choose auto, results or reference.")
    names = [claims.load(claim).name] if claim else list(claims.NAMES)
    own = steps.results_root() / scale
    if source != "reference" and _complete(own, own / "tables", names):
        return _load(own, own / "tables", names, claim, f"Your own run at {scale} scale.", "results")
    kept = graph.reference(names)
    if source != "results" and _complete(kept, kept, names):
        provenance = _provenance(kept)
        label = f"Reference run of {provenance['date']}, commit {provenance['commit']}, {_machine(provenance)}."
        if gone := provenance.get("missing"):
            label += f" Not finished: {len(gone)} runs are missing; `make replicate` computes them."
        return _load(kept, kept, names, claim, label, "reference")
    missing = "the reference run" if source == "reference" else f"your own results at scale {scale}"
    raise CandorError(f"There are no tables of {missing}: run `make replicate SCALE={scale}`.")


def _complete(folder: Path, tables: Path, names: list[str]) -> bool:
    ledger = folder / "ledger.csv"
    if not ledger.exists() or not all(list((tables / name).glob("*.csv")) for name in names):
        return False
    return set(names) <= set(pd.read_csv(ledger, usecols=["claim"])["claim"])


def _load(folder: Path, tables: Path, names: list[str], claim: str | None, label: str, source: str) -> Evidence:
    def rows(name: str) -> pd.DataFrame:
        frame = pd.read_csv(folder / f"{name}.csv")
        return frame[frame["claim"].isin(names)].reset_index(drop=True)

    found = {}
    for name in names:
        prefix = "" if claim else f"{name}/"
        found |= {prefix + table: frame for table, frame in read_tables(tables / name).items()}
    return Evidence(found, *(rows(name) for name in LEDGERS), label, _provenance(folder), source)


def _provenance(folder: Path) -> dict[str, Any]:
    path = folder / "provenance.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _machine(provenance: Mapping[str, Any]) -> str:
    hardware = provenance.get("hardware", {})
    return f"{hardware.get('gpu') or hardware.get('cpu')}, {hardware.get('cores')} cores"


# --- Tables on disk ---------------------------------------------------------------------------------


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path, **about: object) -> None:
    """Each table as CSV in `folder`, and `provenance.json` with their checksums; other tables there are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.csv"):
        old.unlink()
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.8g")
    known = {**about, "files": {f"{name}.csv": _sha256(folder / f"{name}.csv") for name in sorted(tables)}}
    (folder / "provenance.json").write_text(json.dumps(known, indent=1) + "\n")


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a claim by name.

    Raises `CandorError` if there are none, `CorruptError` naming one that does not match its checksum.
    """
    check_tables(folder)
    return {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}


def check_tables(folder: Path) -> None:
    """Raises what `read_tables` would."""
    try:
        files = json.loads((folder / "provenance.json").read_text())["files"]
    except FileNotFoundError:
        raise CandorError(f"There are no tables in {folder}: run `make replicate`.") from None
    except (json.JSONDecodeError, KeyError):
        raise CorruptError(_corrupt(folder / "provenance.json")) from None
    for name, digest in files.items():
        if not (folder / name).exists() or _sha256(folder / name) != digest:
            raise CorruptError(_corrupt(folder / name))


def _corrupt(path: Path) -> str:
    remedy = (
        "restore it with git"
        if path.is_relative_to(graph.REFERENCE)
        else f"run `python -m candor repair --scale {path.parts[-4]}` to make it again"
    )
    return f"{path} does not match its checksum (truncated or edited by hand): {remedy}."


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_ledgers(folder: Path) -> dict[str, pd.DataFrame]:
    """`ledger`, `checks` and `verdicts` of a folder; `CandorError` if they are not there."""
    if missing := [name for name in LEDGERS if not (folder / f"{name}.csv").exists()]:
        raise CandorError(f"There is no {folder / missing[0]}.csv: run `make replicate`.")
    return {name: pd.read_csv(folder / f"{name}.csv") for name in LEDGERS}
