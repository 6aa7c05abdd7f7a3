"""What the project keeps of a run: reference tables, committed figures, notebooks; a run held against them."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from candor import claims
from candor.core import step as steps
from candor.core import store
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.declare.ledger import missing_criteria
from candor.language_models import sets
from candor.run import cost, evidence, jobs, readme, show
from candor.run import plan as graph
from candor.run import steps as experiments

# --- Notebooks that a person works in ---------------------------------------------------------------


def lab(flags: Iterable[str] = ()) -> None:
    """JupyterLab on copies of the notebooks in `work/`, which git ignores, at the first; this process becomes it.

    A copy that is there stays as its owner left it. `flags` are JupyterLab's own and come last, so that they win.
    """
    folder = ROOT / "work"
    folder.mkdir(exist_ok=True)
    for path in graph.notebooks():
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    steps.results_root(), sets.root()  # absolute from here on: kernels start in another folder
    options = [f"--ServerApp.root_dir={ROOT}", f"--ServerApp.preferred_dir={folder}"]
    options.append(f"--LabApp.default_url=/lab/tree/{folder.name}/00_start_here.ipynb")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # a container
        options.append("--allow-root")
    print(f"The notebooks in {folder} are yours; delete one, and the next start brings it back as it was.", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *options, *flags])


# --- Reference --------------------------------------------------------------------------------------


def promote(plan: graph.Plan, unfinished: bool = False) -> list[Path]:
    """Copies a run's tables, ledger and provenance to `data/reference/`, its figures to `figures/`.

    `unfinished` allows a run that lacks steps: the provenance then names them, and so does the label that readers see.
    Raises `CandorError` if a step (unless allowed), a table or a figure of the run is missing or stale.
    """
    known = experiments.steps()
    missing = []
    for key, seed in plan.runs():
        state = steps.state(key, seed, plan.scale, steps.fingerprint(known[key], seed, known, plan.config))
        if state == "missing" and unfinished:
            missing.append(f"{key}, seed {seed}")
        elif state != "done":
            raise CandorError(f"{key}, seed {seed}, is {state}: finish the run first, with `make replicate`.")
    made, kept = [], graph.reference(plan.claims)
    drawn, tables = plan.folder / "figures", plan.folder / "tables"
    evidence.load_ledgers(plan.folder)
    for claim in plan.claims:
        if store.unseal(tables / claim / "provenance.json")["made_from"] != plan.tables_digest(claim):
            raise CandorError(f"The tables of {claim} are older than its steps: run `make replicate` first.")
        for name in claims.load(claim).figures.FIGURES if not unfinished else ():
            store.unseal(drawn / claim / f"{name}.json")
    for claim in plan.claims:
        for origin, place in ((tables / claim, kept / claim), (drawn / claim, ROOT / "figures" / claim)):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(origin, place, ignore=shutil.ignore_patterns(".*"))
            made.append(place)
    with store.draft(kept / "provenance.json") as draft:
        for name in evidence.LEDGERS:
            shutil.copy(plan.folder / f"{name}.csv", draft)
        about = jobs.origin_of(plan) | {"missing": missing, "sessions": jobs.sessions(plan)}
        store.put(draft, kept / "provenance.json", about)
    if kept == graph.REFERENCE:
        readme.put(readme.README, "answer", readme_answer())
        readme.put(readme.README, "verdicts", readme_verdicts())
        readme.put(readme.LEDGER, "ledger", readme_ledger())
    else:
        readme.put(readme.LEDGER, "sweep", readme_sweep())
    cost.write_page()  # it tells core-minutes from the seconds of the reference
    return [*made, kept / "ledger.csv", kept / "provenance.json", readme.README, readme.LEDGER, cost.PAGE]


# The answer's sentences, and the numbers in them: claim, criterion, place among its checks.
ANSWER = (
    (
        "Training pays for what can be seen, and nobody pays for honest confidence. A reward for right answers alone "
        "raises the calibration error of an answer's probability from {:.2f} to {:.2f}; the same rewards shuffled "
        "raise it by {:.2f} less.",
        (("binary_reward", "W2", 1), ("binary_reward", "W2", 0), ("binary_reward", "W2", 2)),
    ),
    (
        "A judge who can check only a part approves {:.0f} points more of the wrong answers.",
        (("sophistry", "W3", 0),),
    ),
    (
        "Raters who let guesses pass teach a model to stop asking: its agreement with people on when to ask falls by "
        "{:.2f}.",
        (("grounding_loss", "W2", 0),),
    ),
    (
        "Pay for calibration too, with a Brier term, and the error of stated confidence is {:.2f} at the same "
        "accuracy.",
        (("brier_fix", "W2", 2),),
    ),
    ("All this is in small worlds, with simulated people; what failed stands in the verdicts.", ()),
)


def answer_numbers(checks: pd.DataFrame) -> list[list[float]]:
    """The numbers of `ANSWER`, sentence by sentence."""
    values = checks.groupby(["claim", "criterion"])["value"].agg(list)
    return [[float(values[claim, criterion][place]) for claim, criterion, place in places] for _, places in ANSWER]


def readme_answer() -> str:
    """The answer to the title's question, with the sizes of the reference's numbers; the sentences have their signs."""
    numbers = answer_numbers(evidence.load(source="reference").checks)
    return " ".join(text.format(*map(abs, row)) for (text, _), row in zip(ANSWER, numbers))


def readme_verdicts() -> str:
    """A row a claim: what it says, and the reference's overall verdict."""
    kept = evidence.load(source="reference")
    rows = []
    for name in claims.NAMES:
        claim = claims.load(name).claim
        whole = kept.verdicts.query("claim == @name and part == 'overall'").iloc[0]
        notebook = f"notebooks/{claim.number:02d}_{name}.ipynb"
        rows.append((f"[{claim.number}]({notebook})", claim.statement, f"**{whole.verdict}**"))
    return f"*{kept.label}*\n\n{readme.table(('', 'claim', 'verdict'), rows)}"


def readme_ledger() -> str:
    """The reference ledger as Markdown: a claim's overall verdict, then a row a criterion."""
    kept = evidence.load(source="reference")
    blocks = [f"*{kept.label}*"]
    for name in claims.NAMES:
        claim = claims.load(name).claim
        whole = kept.verdicts.query("claim == @name and part == 'overall'").iloc[0]
        blocks.append(f"**{claim.number}. {claim.statement}** Overall: **{whole.verdict}** ({whole.note}).")
        rows = [
            (row.criterion, row.statement, row.band, show.value_of(row), f"**{row.verdict}**")
            for row in kept.ledger[kept.ledger["claim"] == name].itertuples()
        ]
        blocks.append(readme.table(("", "what must hold", "passes if", "value [95 %]", "verdict"), rows))
        short = {row: show.short_of(kept, name, row) for row in (criterion.id for criterion in claim.criteria)}
        if missed := [f"- {row}. {text}" for row, text in short.items() if text]:
            blocks.append("\n".join(missed))
    return "\n\n".join(blocks)


def readme_sweep() -> str:
    """The reference of the size sweep as Markdown: what was run, then a row a criterion with what its note says."""
    kept = evidence.load("model_size", source="reference")
    table = kept.tables["witnesses"]
    seeds = table.groupby("parameters")["seed"].nunique()
    own = {key: times for key, times in kept.provenance["seconds"].items() if "/size_" in key}
    minutes = sum(sum(times.values()) for times in own.values()) / 60
    sizes = ", ".join(f"{n:,} ({count})" for n, count in seeds.items())
    rows = []
    for row in kept.ledger.itertuples():
        said = row.note if row.verdict == "reported" else f"**{row.verdict}** ({row.band})"
        rows.append((row.criterion, row.statement, show.value_of(row), said))
    made = readme.table(("", "effect", "S1 to S9: change a fourfold size [95 %]", ""), rows)
    return (
        f"*{kept.label} Parameters in claims 1 and 5, with the number of seeds: {sizes}. Beside a laptop run it took "
        f"{minutes:.0f} core-minutes.*\n\n{made}"
    )


def verify(plan: graph.Plan) -> str:
    """Holds a run's ledger against the reference's; returns one sentence if they agree.

    Rows with an interval agree when the value lies inside the reference's interval, or the two intervals overlap; rows
    without one when they are equal to six digits or, if they rest on runs (a count of seeds), in their verdict. At
    smoke scale only the criteria that rest on no run are compared. Raises `CandorError` naming the rows that are
    missing or differ.
    """
    own, kept = (evidence.load_ledgers(at)["ledger"] for at in (plan.folder, graph.reference(plan.claims)))
    declared = {name: claims.load(name).claim for name in plan.claims}
    wrong = [
        f"{name} has no row for {missing}"
        for name, claim in declared.items()
        for frame in (own, kept)
        for missing in missing_criteria(claim, frame)
    ]
    runs = {(name, c.id): c.rests_on_runs for name, claim in declared.items() for c in claim.criteria}
    compared = 0
    for row in own.merge(kept, on=["claim", "criterion"], suffixes=("", "_reference")).to_dict("records"):
        rests_on_runs = runs.get((row["claim"], row["criterion"]), True)
        if plan.scale == "smoke" and rests_on_runs:  # its numbers mean nothing there
            continue
        compared += 1
        if not _agrees(row, rests_on_runs):
            wrong.append(f"{row['claim']} {row['criterion']} is {row['value']:.4g}, not {row['value_reference']:.4g}")
    if wrong:
        raise CandorError(f"Not as in the reference: {'; '.join(wrong)}.")
    note = " (at smoke scale only what does not rest on runs is compared)" if plan.scale == "smoke" else ""
    return f"{compared} rows of the ledger agree with the reference{note}."


def _agrees(row: dict, rests_on_runs: bool) -> bool:
    value, reference = row["value"], row["value_reference"]
    if pd.isna(value) or pd.isna(reference):
        # What the reference could not do, this run may; what it did, this run has to do.
        return bool(pd.isna(reference))
    low, high = row["ci_low_reference"], row["ci_high_reference"]
    if pd.isna(low) or pd.isna(high):
        same_verdict = rests_on_runs and "verdict" in row and row["verdict"] == row["verdict_reference"]
        return same_verdict or abs(value - reference) <= 1e-6 * max(1, abs(reference))
    return low <= value <= high or bool(row["ci_low"] <= high and row["ci_high"] >= low)


# --- Notebooks --------------------------------------------------------------------------------------


def execute_notebooks(cores: int, paths: list[Path] | None = None) -> None:
    """Executes the committed notebooks from `data/reference` with live cells off, and keeps the outputs in them."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    def execute(path: Path) -> str | None:
        given = graph.notebook_parameters(path, source="reference", live=False)
        notebook = nbformat.read(path, as_version=4)
        running = copy.deepcopy(notebook)
        at = next(i for i, cell in enumerate(running.cells) if "parameters" in cell.metadata.get("tags", ()))
        injected = "\n".join(f"{name} = {value!r}" for name, value in given.items())
        running.cells.insert(at + 1, nbformat.v4.new_code_cell(injected))
        client = NotebookClient(
            running, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(graph.NOTEBOOKS)}}
        )
        try:
            client.execute()
        except CellExecutionError as error:
            return f"notebooks/{path.name} failed: {error.ename}: {error.evalue}"
        del running.cells[at + 1]
        for cell, done in zip(notebook.cells, running.cells):
            if cell.cell_type == "code":
                cell.outputs = done.outputs
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for count, cell in enumerate(code, 1):
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of this machine
        show.stamp(notebook)
        nbformat.write(notebook, path)
        print(f"notebooks/{path.name}", flush=True)
        return None

    with ThreadPoolExecutor(cores) as pool:
        failed = [why for why in pool.map(execute, paths or graph.notebooks()) if why]
    if failed:
        raise CandorError("; ".join(failed).rstrip(".") + ".")
