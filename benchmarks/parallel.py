"""What more cores gain: the critical path of the graph, the time it should take with N cores, the time that it took.

    python benchmarks/parallel.py                                   # predicts, for all claims and for each
    python benchmarks/parallel.py --measure --claim sophistry       # runs it with 1 and with 2 cores, then predicts

Predicted is the laptop scale: the seconds of every step come from the reference run, those of the other jobs and what
a job costs beside its steps from the last measurement, and jobs start as Snakemake starts them, the highest priority
first. Measured is a whole run from an empty results folder, phase by phase. Measure on an idle machine. Both are kept
in `parallel.json`; `parallel.svg` draws them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path

import pandas as pd
from candor import claims
from candor.core import provenance
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.declare import figures
from candor.run import plan as graph
from candor.run.estimate import Job, jobs, makespan

CORES = (1, 2, 4, 8, 16, 32)
KEPT = Path(__file__).with_name("parallel.json")


# --- Predicted --------------------------------------------------------------------------------------


def critical_path(known: Mapping[str, Job]) -> list[Job]:
    """The chain of jobs, each waiting for the one before, that takes longest: no number of cores is faster."""

    @cache
    def end(name: str) -> tuple[float, str | None]:
        before = max(known[name].needs, key=lambda need: end(need)[0], default=None)
        return known[name].seconds + (end(before)[0] if before else 0), before

    path, name = [], max(known, key=lambda name: end(name)[0])
    while name:
        path.append(known[name])
        name = end(name)[1]
    return path[::-1]


def predict(claim: str | None, rates: Mapping[str, float]) -> dict:
    """Work, critical path and time with N cores of all claims or one, at the reference's scale, in minutes."""
    reference = json.loads((graph.REFERENCE / "provenance.json").read_text())
    known = jobs(graph.plan(reference["scale"], claim), reference["seconds"], rates)
    path = critical_path(known)
    alone = makespan(known, 1) + rates["start"]
    taken = {cores: makespan(known, cores) + rates["start"] for cores in CORES}
    return {
        "jobs": len(known),
        "work_minutes": round(sum(job.seconds for job in known.values()) / 60, 1),
        "critical_minutes": round(sum(job.seconds for job in path) / 60, 1),
        "critical_path": [{"job": job.name, "minutes": round(job.seconds / 60, 1)} for job in path],
        "cores": {n: {"minutes": round(s / 60, 1), "speedup": round(alone / s, 2)} for n, s in taken.items()},
    }


# --- Measured ---------------------------------------------------------------------------------------


def measure(scale: str, claim: str | None, cores: int) -> tuple[dict, dict[str, float]]:
    """Runs the graph from an empty results folder; returns what it took, and the rates for `jobs`."""
    with tempfile.TemporaryDirectory() as place:
        words = ["replicate", "--scale", scale, "--cores", str(cores), *(["--claim", claim] if claim else [])]
        began = time.time()
        ended = subprocess.run(
            [sys.executable, "-m", "candor", *words],
            cwd=ROOT,
            env={**os.environ, "CANDOR_RESULTS": place},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.time() - began
        if ended.returncode:
            raise CandorError(f"The run failed: {(ended.stderr or ended.stdout).strip().splitlines()[-1]}")
        folder = Path(place) / scale
        spans = phases((folder / "logs" / "snakemake.log").read_text())
        rates = rates_of(folder) | {"start": _start(seconds, spans)}
    origin = provenance.here()
    about = {"scale": scale, "claim": claim or "all", "cores": cores, "seconds": round(seconds, 1)}
    return about | {"phases": spans, "commit": origin["commit"], "hardware": origin["hardware"]}, rates


def phases(log: str) -> dict[str, dict[str, float]]:
    """From Snakemake's log: jobs of each rule, and when, in seconds from the first start, the first began and the last
    ended. Phases overlap."""
    event = re.compile(r"^\[(.+)\]\n(?:(?:local)?rule (\w+):|Finished jobid: \d+ \(Rule: (\w+)\))$", flags=re.M)
    found: dict[str, dict[str, float]] = {}
    zero = None
    for text, started, finished in event.findall(log):
        moment = datetime.strptime(text, "%a %b %d %H:%M:%S %Y").timestamp()
        zero = moment if zero is None else zero
        if (rule := started or finished) == "all":
            continue
        span = found.setdefault(rule, {"jobs": 0, "from": moment - zero, "to": 0.0})
        if finished:
            span |= {"jobs": span["jobs"] + 1, "to": moment - zero}
    return found


def _start(seconds: float, spans: Mapping[str, Mapping[str, float]]) -> float:
    """What goes by before the first job starts and after the last one ended: survey, Snakemake's own start."""
    return round(max(seconds - max(span["to"] for span in spans.values()), 0), 1)


def rates_of(folder: Path) -> dict[str, float]:
    """Mean seconds of a job of each rule, from Snakemake's records of a finished run; of `steps`, beside its steps."""
    taken = defaultdict(list)
    for path in (folder / "benchmarks").rglob("*.tsv"):
        rule = path.relative_to(folder / "benchmarks").parts[0].removesuffix(".tsv")
        taken[rule.replace("notebooks", "notebook")].append(float(pd.read_csv(path, sep="\t")["s"].iloc[-1]))
    made = [json.loads(path.read_text())["seconds"] for path in (folder / "steps").glob("*/*/*/*/run.json")]
    means = {rule: round(sum(those) / len(those), 1) for rule, those in taken.items()}
    return means | {"steps": round((sum(taken["steps"]) - sum(made)) / len(taken["steps"]), 1)}


# --- Shown ------------------------------------------------------------------------------------------


def describe(predicted: Mapping[str, Mapping], measured: list[Mapping]) -> str:
    """The critical path of the whole, then the times, for a terminal."""
    whole = predicted["all"]
    lines = [f"The longest chain of jobs takes {whole['critical_minutes']} of {whole['work_minutes']} minutes of work:"]
    lines += [f"  {part['minutes']:6.1f} min  {part['job']}" for part in whole["critical_path"]]
    lines += ["", "Predicted minutes (speed-up), laptop scale, by cores:"]
    lines += [f"{'':18s}" + "".join(f"{n:>16d}" for n in CORES) + f"{'longest chain':>16s}"]
    for name, part in predicted.items():
        cells = (f"{row['minutes']:.1f} ({row['speedup']:.1f}x)" for row in part["cores"].values())
        lines.append(f"{name:18s}" + "".join(f"{cell:>16s}" for cell in cells) + f"{part['critical_minutes']:>16.1f}")
    for run in measured:
        lines.append(f"Measured: {run['claim']} at scale {run['scale']}, {run['cores']} cores: {run['seconds']} s")
        lines += [
            f"  {rule:10s} {span['jobs']:3.0f} jobs, from {span['from']:5.0f} s to {span['to']:5.0f} s"
            for rule, span in run["phases"].items()
        ]
    return "\n".join(lines)


def draw(predicted: Mapping[str, Mapping], measured: list[Mapping], path: Path) -> None:
    """Speed-up against cores: ideal, predicted for all claims and for one, measured."""
    with figures.style():
        figure, ax = figures.canvas(width=5.5, height=4.2)
        ax.plot(CORES, CORES, ":", color=figures.INK, label="ideal")
        for name, part in predicted.items():
            ups = [row["speedup"] for row in part["cores"].values()]
            whole = name == "all"
            ax.plot(CORES, ups, "-" if whole else "--", linewidth=2 if whole else 1, label=f"{name}, predicted")
        alone = {(run["scale"], run["claim"]): run["seconds"] for run in measured if run["cores"] == 1}
        for run in measured:
            if (at := (run["scale"], run["claim"])) in alone and run["cores"] > 1:
                ax.plot(run["cores"], alone[at] / run["seconds"], "o", color=figures.INK)
                ax.annotate(
                    f"measured, {at[0]}",
                    (run["cores"], alone[at] / run["seconds"]),
                    (6, -10),
                    textcoords="offset points",
                )
        ax.set(
            xscale="log", yscale="log", xticks=CORES, yticks=CORES, xlabel="Cores", ylabel="Times as fast as one core"
        )
        ax.set_xticks(CORES, [str(n) for n in CORES])
        ax.set_yticks(CORES, [str(n) for n in CORES])
        ax.minorticks_off()
        ax.legend(fontsize=7)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="run the graph, once for each number of cores")
    parser.add_argument("--scale", default="smoke", help="of the measured run (smoke)")
    parser.add_argument("--claim", default=None, help="of the measured run (all)")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="of the measured runs (1 2)")
    options = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"measured": [], "rates": None}
    try:
        if options.measure:
            runs = [measure(options.scale, options.claim, cores) for cores in sorted(options.cores)]
            kept = {"measured": [run for run, _ in runs], "rates": runs[0][1]}  # of the fewest cores, least disturbed
        if kept["rates"] is None:
            raise CandorError("What a job costs beside its steps is not known yet: run with --measure first.")
        predicted = {name or "all": predict(name, kept["rates"]) for name in (None, *claims.NAMES)}
    except CandorError as error:
        raise SystemExit(str(error)) from None
    KEPT.write_text(json.dumps({**kept, "predicted": predicted}, indent=1) + "\n")
    draw(predicted, kept["measured"], KEPT.with_suffix(".svg"))
    print(describe(predicted, kept["measured"]))


if __name__ == "__main__":
    main()
