"""One command, watched: runs the graph by Snakemake and shows a person how far it is and what came out."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from candor import claims, evidence, experiments, graph, jobs, preflight, progress, steps
from candor.config import ROOT
from candor.errors import CandorError

_HELD = "CANDOR_LOCK_HELD"
FREE_MB = 500


def hold(folder: Path) -> TextIO | None:
    """Take the lock of a results folder until the returned file is closed or its process ends, however it ends.

    Raises `CandorError` if another replication has it. None where the parent process, `replicate`, has it already.
    """
    if os.environ.get(_HELD) == str(folder):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CandorError(
            f"Another replication is at work in {folder}: wait until it ends, or set CANDOR_RESULTS to another folder."
        ) from None
    return file


# --- Before -----------------------------------------------------------------------------------------


def ready(plan: graph.Plan, cores: int) -> None:
    """Raises one sentence for what would make the run fail later: folder, disk, memory, requirements of models."""
    folder = plan.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"candor")
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CandorError(f"The disk with {folder} is full: free some space and run the command again.") from None
        raise CandorError(
            f"{folder} cannot be written ({error.strerror}): change its permissions or set CANDOR_RESULTS to another "
            "folder."
        ) from None
    free = shutil.disk_usage(folder).free // 2**20
    if free < FREE_MB:
        raise CandorError(f"Only {free} MB are free for {folder}, and a run needs {FREE_MB} MB: free some space.")
    preflight.check(plan, cores)


def survey(plan: graph.Plan) -> dict[tuple[str, int], str]:
    """State of every run that is needed; markers that promise more than there is are removed, and half drawn figures.

    "elsewhere" is a run that another scale has made alike and that is only copied.

    Raises `CorruptError` naming the first file that was truncated or edited by hand.
    """
    known = experiments.steps()
    found = {}
    for key, seed in plan.runs():
        wanted = steps.fingerprint(known[key], seed, known, plan.config)
        found[key, seed] = steps.state(key, seed, plan.scale, wanted)
        if found[key, seed] == "corrupt":
            steps.read(key, seed, plan.scale)
        if found[key, seed] == "missing" and steps.twin(key, seed, wanted):
            found[key, seed] = "elsewhere"  # to be copied, not made
    gone = {run for run, state in found.items() if state != "done"}
    for path in plan.folder.glob("batches/*/*.json"):
        if {(key, int(path.parent.name)) for key in _keys_in(path)} & gone:
            path.unlink()
    for claim in plan.claims:
        folder = plan.folder / "tables" / claim
        if (folder / "provenance.json").exists():
            evidence.check_tables(folder)
        drawn = plan.folder / "figures" / claim
        if not all((drawn / f"{name}.svg").exists() for name in claims.load(claim).plots.FIGURES):
            shutil.rmtree(drawn, ignore_errors=True)
    return found


def _keys_in(marker: Path) -> list[str]:
    try:
        return list(json.loads(marker.read_text()))
    except (json.JSONDecodeError, OSError):
        marker.unlink(missing_ok=True)
        return []


def repair(plan: graph.Plan) -> list[str]:
    """Removes what does not match its checksum, so that the next run makes it again; returns what it was."""
    removed = []
    for key, seed in plan.runs():
        if steps.state(key, seed, plan.scale, "") == "corrupt":
            shutil.rmtree(steps.folder_of(key, seed, plan.scale))
            removed.append(f"{key}, seed {seed}")
    for claim in plan.claims:
        folder = plan.folder / "tables" / claim
        try:
            if folder.exists():
                evidence.check_tables(folder)
        except CandorError:
            shutil.rmtree(folder)
            removed.append(f"tables of {claim}")
    return removed


# --- The run ----------------------------------------------------------------------------------------


def replicate(
    plan: graph.Plan, cores: int, claim: str | None = None, until: str = "all", gpus: tuple[int, int] = (1, 1)
) -> None:
    """Run the graph and watch it, with GPUs in all and for a job; raises `CandorError` in one sentence if one fails."""
    if gpus[1] > gpus[0]:
        raise CandorError(f"A job cannot have {gpus[1]} GPUs where all share {gpus[0]}: raise --gpus.")
    ready(plan, cores)
    with hold(plan.folder) as lock:
        states = survey(plan)
        traces = plan.folder / "progress"
        shutil.rmtree(traces, ignore_errors=True)
        traces.mkdir()
        log = plan.folder / "logs" / "snakemake.log"
        log.parent.mkdir(exist_ok=True)
        start = time.time()
        with log.open("w") as file:
            process = subprocess.Popen(
                _command(plan, cores, claim, until, gpus),
                cwd=ROOT,
                env=_environment(plan),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),  # so that the lock outlives a parent that is killed alone
            )
            watch = progress.Watch(plan, states, cores, log, gpus[0])
            try:
                signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end: as with Ctrl-C
                watch.until(process)
            except KeyboardInterrupt:
                _stop(process)
                raise CandorError(
                    f"Stopped; what is finished is kept, and the same command goes on from there ({plan.folder})."
                ) from None
        if process.returncode:
            raise CandorError(_failure(plan, log))
        seconds = round(time.time() - start)
        _remember(plan, seconds=seconds, cores=cores, steps=len(watch.made), peak_memory_mb=watch.memory)
        progress.show_end(plan, watch, seconds)


def _remember(plan: graph.Plan, **session: float) -> None:
    """Adds to `sessions.json` what this session took; the runs of a scale may have come from several."""
    path = plan.folder / "sessions.json"
    known = json.loads(path.read_text()) if path.exists() else []
    if session["steps"] or not known:
        jobs.write(path, [*known, session])


def _command(plan: graph.Plan, cores: int, claim: str | None, until: str, gpus: tuple[int, int] = (1, 1)) -> list[str]:
    settings = [f"scale={plan.scale}"] + ([f"claim={claim}"] if claim else [])
    profile = []
    if "models" in plan.config["evidence"]:
        profile = ["--workflow-profile", "profiles/gpu", "--resources", f"gpu={gpus[0]}"]
        settings.append(f"gpus_per_job={gpus[1]}")
    return [
        *(sys.executable, "-m", "snakemake", until, "--cores", str(cores), "--nolock", "--nocolor"),
        *profile,
        *("--config", *settings),
    ]


def _environment(plan: graph.Plan) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    defaults = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**defaults, **os.environ, "PATH": path, _HELD: str(plan.folder), "PYTHONUNBUFFERED": "1"}


def _stop(process: subprocess.Popen) -> None:
    """Ends Snakemake and its jobs; a job's step in flight leaves nothing behind."""
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.terminate()
        except psutil.NoSuchProcess:
            continue
    for member in psutil.wait_procs(family, timeout=10)[1]:
        member.kill()


def report(plan: graph.Plan, claim: str | None = None) -> Path:
    """Snakemake's own report of what is there, as one page; returns its place."""
    place = plan.folder / "report.html"
    settings = [f"scale={plan.scale}"] + ([f"claim={claim}"] if claim else [])
    if not (plan.folder / "ledger.csv").exists():
        raise CandorError(f"Nothing has been computed at scale {plan.scale}: run `make replicate SCALE={plan.scale}`.")
    command = ["snakemake", "evidence", "--report", str(place), "--nolock", "--config", *settings]
    made = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=_environment(plan), capture_output=True, text=True, check=False
    )
    if made.returncode:
        lines = [line for line in (made.stdout + made.stderr).splitlines() if line.strip()]
        raise CandorError(
            f"The report needs everything at scale {plan.scale}, so run `make replicate SCALE={plan.scale}` "
            f"(Snakemake says: {lines[-1] if lines else 'nothing'})."
        )
    return place


def _failure(plan: graph.Plan, log: Path) -> str:
    """Which job failed, why, where its log is, what to do."""
    again = "The same command goes on from there, and what is finished is kept."
    for event in progress.events(plan):
        if "failed" in event:
            place = f" Log: {event['log']}." if event["log"] else ""
            return f"{event['failed']} failed: {event['why']}{place} {again}"
    text = log.read_text()
    rule = re.search(r"Error in rule (\w+):.*?log: (\S+)", text, flags=re.S)
    if rule:
        place = Path(rule[2]) if Path(rule[2]).is_absolute() else ROOT / rule[2]
        lines = [line for line in place.read_text().splitlines() if line.strip()] if place.exists() else []
        return f"The rule {rule[1]} failed: {lines[-1] if lines else 'no message'} Log: {place}. {again}"
    lines = [line for line in text.splitlines() if line.strip()]
    return f"Snakemake failed: {lines[-1] if lines else 'no message'} Log: {log}. {again}"
