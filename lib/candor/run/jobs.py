"""What the jobs of the graph do: a batch of steps, the tables of a claim, the ledger, figures.

Each leaves small traces in `results/<scale>/progress/` from which `replicate` shows how far things are: one file a
process for what it is doing, and one line an event in `events.jsonl` for what was finished or failed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pandas as pd

from candor import claims
from candor.core import provenance, store
from candor.core import step as steps
from candor.core.errors import CandorError, CorruptError, MissingError, disk
from candor.declare import ledger
from candor.run import evidence, gpus
from candor.run import plan as graph
from candor.run import steps as experiments

# --- Traces -----------------------------------------------------------------------------------------


def tell(folder: Path, **event: object) -> None:
    """One line in the record of events; short lines appended by several processes do not mix.

    A trace is only shown, so a disk that refuses it does not stop the work.
    """
    place = folder / "progress" / "events.jsonl"
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a") as file:
            file.write(json.dumps(event) + "\n")


@contextmanager
def told(folder: Path, job: str, log: str) -> Iterator[None]:
    """Records what made a job fail, and raises it; what the disk refuses as one sentence."""
    try:
        with disk(folder):
            yield
    except Exception as error:
        why = str(error) if isinstance(error, CandorError) else f"{type(error).__name__}: {error}"
        tell(folder, failed=job, why=why, log=log)
        raise


# --- Jobs -------------------------------------------------------------------------------------------


def batch(
    plan: graph.Plan, seed: int, keys: list[str], marker: Path | None = None, log: str = "", number: int | None = None
) -> None:
    """Make the steps that are not done yet, one after the other, then write the marker.

    The process sees `number` GPUs that no other job has; by default one if a step runs a pretrained model, else none.
    """
    graph.check_keys(keys)
    if number is None:
        number = int(any(graph._on_gpu(experiments.steps()[key], plan.config) for key in keys))
    with ExitStack() as held:
        with told(plan.folder, f"{keys[0]}, seed {seed}", log):
            held.enter_context(gpus.assigned(number))
        fingerprints = _make(plan, seed, keys, log)
        if marker:
            with told(plan.folder, f"marker of {keys[0]}, seed {seed}", log):
                store.write_json(marker, fingerprints)


def _make(plan: graph.Plan, seed: int, keys: list[str], log: str) -> dict[str, str]:
    known, fingerprints = experiments.steps(), {}
    doing = plan.folder / "progress" / f"{socket.gethostname()}-{os.getpid()}.json"
    try:
        for key in keys:
            started = time.time()
            last = 0.0

            def progress(done: int, total: int, key: str = key, started: float = started) -> None:
                nonlocal last
                if time.time() - last > 0.5 or done == total:
                    last = time.time()
                    with suppress(OSError):
                        store.write_json(
                            doing, {"key": key, "seed": seed, "done": done, "total": total, "started": started}
                        )

            progress(0, 1)
            with told(plan.folder, f"{key}, seed {seed}", log):
                result, made = steps.run(key, seed, known, plan.config, progress=progress)
            fingerprints[key] = result.run["fingerprint"]
            if made:
                print(f"{key}, seed {seed}: {result.run['seconds']:.1f} s", flush=True)
            memory = result.run["peak_memory_mb"]
            tell(plan.folder, done=key, seed=seed, made=made, seconds=result.run["seconds"], memory=memory)
    finally:
        with suppress(OSError):
            doing.unlink()
    return fingerprints


def tables(plan: graph.Plan, claim: str) -> None:
    """The tables of a claim, as CSV."""
    modules, kinds = claims.load(claim), plan.config["evidence"]
    results = experiments.Results(plan.config)
    found: dict[str, pd.DataFrame] = {}
    sources = {
        "published": [lambda: modules.tables.published(graph.PUBLISHED), modules.tables.theory],
        "world": [lambda: modules.tables.world(results)],
        "released": [getattr(modules.tables, "released", dict)],
        "models": [lambda: modules.tables.models(results)],
    }
    with told(plan.folder, f"tables of {claim}", f"{plan.folder}/logs/tables/{claim}.log"):
        for kind in kinds:
            for make in sources[kind]:
                made = make()
                if twice := set(made) & set(found):
                    raise CandorError(f"Claim {claim} makes the table {sorted(twice)[0]} twice: rename one.")
                found |= made
        digest = plan.tables_digest(claim)
        evidence.write_tables(found, plan.folder / "tables" / claim, claim=claim, scale=plan.scale, made_from=digest)


def judge(plan: graph.Plan) -> None:
    """The ledger of every claim whose tables are there, and the provenance of the whole run."""
    with told(plan.folder, "ledger", f"{plan.folder}/logs/ledger.log"):
        made = {path.parent.name for path in plan.folder.glob("tables/*/provenance.json")}
        there = [name for name in (*claims.NAMES, *claims.STUDIES) if name in made]
        if not there:
            raise CandorError(f"There are no tables at scale {plan.scale}: run `make replicate SCALE={plan.scale}`.")
        pairs = [(claims.load(name).claim, evidence.read_tables(plan.folder / "tables" / name)) for name in there]
        with store.draft(plan.folder / "provenance.json") as draft:
            ledger.write(pairs, plan.scale, draft)
            store.put(draft, plan.folder / "provenance.json", origin_of(plan))


def origin_of(plan: graph.Plan) -> dict:
    """Where the results of a scale come from, and what they cost, read from the finished steps."""
    runs, costs, fingerprints = [], {}, {}
    for key, seed in plan.runs():
        try:
            run = steps.read(key, seed, plan.scale, check=False).run
        except MissingError:
            continue
        runs.append(run)
        costs.setdefault(key, {})[str(seed)] = run["seconds"]
        fingerprints.setdefault(key, {})[str(seed)] = run["fingerprint"]
    commits = Counter(run["commit"] for run in runs)
    origin = runs[-1] if runs else provenance.here()
    return {
        "scale": plan.scale,
        "date": provenance.today(),
        "commit": commits.most_common(1)[0][0] if commits else origin["commit"],
        "commits": dict(commits),
        "modified": next((state for state in (True, None) if state in {run["modified"] for run in runs}), False),
        "versions": origin["versions"],
        "hardware": origin["hardware"],
        "seeds": list(plan.config["seeds"]),
        "config": plan.config.to_dict(),
        "core_minutes": round(sum(run["seconds"] for run in runs) / 60, 1),
        "peak_memory_mb": max((run["peak_memory_mb"] for run in runs), default=0),
        "seconds": costs,
        "fingerprints": fingerprints,
    }


def sessions(plan: graph.Plan) -> list[dict]:
    """What each session of `replicate` took; the runs of a scale may have come from several."""
    try:
        return store.read_json(plan.folder / "sessions.json", list)
    except MissingError:
        return []


def figures(plan: graph.Plan, claim: str | None = None, figure: str | None = None) -> list[Path]:
    """Draw a figure, those of a claim, or all, from the tables of the scale, or else the reference's.

    A figure that is there already, of the same code and the same tables, is left alone; one that the claim no longer
    has is removed. Returns what was drawn.
    """
    with told(plan.folder, f"figures of {claim}", f"{plan.folder}/logs/figures/{claim}.log"):
        return [path for name in ([claim] if claim else plan.claims) for path in _figures(plan, name, figure)]


def _figures(plan: graph.Plan, claim: str, figure: str | None) -> list[Path]:
    plots = claims.load(claim).figures.FIGURES
    if figure and figure not in plots:
        raise CandorError(f"Claim {claim} has no figure {figure!r}: choose one of {', '.join(plots)}.")
    folder = plan.folder / "tables" / claim
    own = (folder / "provenance.json").exists()
    if not own:
        folder = graph.reference([claim]) / claim
    tables = evidence.read_tables(folder)
    files = store.unseal(folder / "provenance.json")["files"]
    for path in (plan.folder / "figures" / claim).glob("*.*"):
        if path.stem not in plots and path.suffix in (".svg", ".png", ".json"):
            path.unlink()
    drawn = []
    for name in [figure] if figure else plots:
        plot, manifest = plots[name], plan.folder / "figures" / claim / f"{name}.json"
        read = {table: files.get(f"{table}.csv") for table in plot.tables}
        origin = {"code": graph.figure_digest(claim, name), "read": read, "source": "results" if own else "reference"}
        with suppress(MissingError, CorruptError):
            there = store.unseal(manifest)
            if all(there[part] == origin[part] for part in origin):
                continue
        about = {"commit": provenance.here()["commit"], "scale": plan.scale}
        with store.draft(manifest) as draft:
            try:
                plot.save(tables, draft / name, about | origin)
            except KeyError as error:
                raise CandorError(f"The figure {name} of {claim} cannot be drawn: {error.args[0]}") from None
            store.put(draft, manifest, store.read_json(draft / manifest.name))
        drawn.append(manifest.with_suffix(".svg"))
    return drawn
