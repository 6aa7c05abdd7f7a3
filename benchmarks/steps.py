"""What every step cost: seconds and peak memory of a finished scale, from the steps' own records.

    python benchmarks/steps.py --scale laptop      # writes benchmarks/steps.csv

A row a step over its seeds, then totals by world and of everything. Seconds are those of the step itself, without the
job's imports; the peak memory is that of the process, which may have made other steps before.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from candor.core.errors import CandorError
from candor.core.step import results_root

COLUMNS = ["step", "seeds", "mean_seconds", "core_minutes", "peak_memory_mb"]


def costs(scale: str) -> pd.DataFrame:
    """The table; raises `CandorError` where nothing has been computed."""
    paths = sorted((results_root() / scale / "steps").glob("*/*/*/*/run.json"))
    runs = [json.loads(path.read_text()) for path in paths if ".partial-" not in path.parent.name]
    if not runs:
        raise CandorError(f"Nothing has been computed at scale {scale}: run `make replicate SCALE={scale}`.")
    groups = pd.DataFrame(runs)[["key", "seed", "seconds", "peak_memory_mb"]].groupby("key")
    table = groups.agg(
        seeds=("seed", "nunique"),
        mean_seconds=("seconds", "mean"),
        core_minutes=("seconds", lambda seconds: seconds.sum() / 60),
        peak_memory_mb=("peak_memory_mb", "max"),
    )
    table = table.sort_values("core_minutes", ascending=False).reset_index(names="step")
    worlds = table.groupby(table["step"].str.split("/").str[0])
    totals = [_total(f"total, {world}", part) for world, part in worlds] if len(worlds) > 1 else []
    return pd.concat([table, pd.DataFrame([*totals, _total("total", table)])], ignore_index=True)[COLUMNS]


def _total(name: str, table: pd.DataFrame) -> dict:
    return {
        "step": name,
        "seeds": table["seeds"].max(),
        "mean_seconds": float("nan"),
        "core_minutes": table["core_minutes"].sum(),
        "peak_memory_mb": table["peak_memory_mb"].max(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("steps.csv"))
    options = parser.parse_args()
    try:
        table = costs(options.scale)
    except CandorError as error:
        raise SystemExit(str(error)) from None
    table.round(2).to_csv(options.output, index=False)
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
