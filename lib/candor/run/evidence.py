"""Tables and ledger as a reader sees them: the reader's own results where they are, else the reference run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from candor import claims
from candor.core import step as steps
from candor.core import store
from candor.core.errors import CandorError
from candor.run import plan as graph

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
    first where it is there and the second where not. Raises `CandorError` if there is nothing to load, `CorruptError`
    naming a file that is not as it was written.
    """
    if source not in ("auto", "results", "reference"):
        raise CandorError(f"There is no source {source!r}: choose auto, results or reference.")
    names = [claims.load(claim).name] if claim else list(claims.NAMES)
    own = steps.results_root() / scale
    if source != "reference" and _complete(own, own / "tables", names):
        return _load(own, own / "tables", names, claim, f"Your own run at {scale} scale.", "results")
    kept = graph.reference(names)
    if source != "results" and _complete(kept, kept, names):
        provenance = store.unseal(kept / "provenance.json", check=False)
        label = f"Reference run of {provenance['date']}, commit {provenance['commit']}, {_machine(provenance)}."
        if gone := provenance.get("missing"):
            label += f" Not finished: {len(gone)} runs are missing; `make replicate` computes them."
        return _load(kept, kept, names, claim, label, "reference")
    missing = "the reference run" if source == "reference" else f"your own results at scale {scale}"
    raise CandorError(f"There are no tables of {missing}: run `make replicate SCALE={scale}`.")


def _complete(folder: Path, tables: Path, names: list[str]) -> bool:
    manifests = [folder / "provenance.json", *(tables / name / "provenance.json" for name in names)]
    return all(map(os.path.lexists, manifests)) and set(names) <= set(load_ledgers(folder)["ledger"]["claim"])


def _load(folder: Path, tables: Path, names: list[str], claim: str | None, label: str, source: str) -> Evidence:
    ledgers = load_ledgers(folder)
    rows = (ledgers[name][ledgers[name]["claim"].isin(names)].reset_index(drop=True) for name in LEDGERS)
    found = {}
    for name in names:
        prefix = "" if claim else f"{name}/"
        found |= {prefix + table: frame for table, frame in read_tables(tables / name).items()}
    return Evidence(found, *rows, label, store.unseal(folder / "provenance.json", check=False), source)


def _machine(provenance: Mapping[str, Any]) -> str:
    hardware = provenance.get("hardware", {})
    return f"{hardware.get('gpu') or hardware.get('cpu')}, {hardware.get('cores')} cores"


# --- Tables on disk ---------------------------------------------------------------------------------


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path, **about: object) -> None:
    """Each table as CSV in `folder`, and `provenance.json` with their checksums; tables made before are removed."""
    with store.draft(folder / "provenance.json") as draft:
        for name, table in tables.items():
            table.to_csv(draft / f"{name}.csv", index=False, float_format="%.8g")
        store.put(draft, folder / "provenance.json", about)


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a claim by name.

    Raises: `MissingError` if there are none, `CorruptError` naming one that is not as it was written.
    """
    return {Path(name).stem: _csv(folder / name) for name in sorted(store.unseal(folder / "provenance.json")["files"])}


def load_ledgers(folder: Path) -> dict[str, pd.DataFrame]:
    """`ledger`, `checks` and `verdicts` of a folder; raises what `read_tables` does."""
    sealed = store.unseal(folder / "provenance.json")["files"]
    if lost := {f"{name}.csv" for name in LEDGERS} - {*sealed}:
        raise store.corrupt(folder / "provenance.json", f"has no checksum of {min(lost)}")
    return {name: _csv(folder / f"{name}.csv") for name in LEDGERS}


def _csv(path: Path) -> pd.DataFrame:
    return store.read(path, pd.read_csv)
