"""One command, watched: runs the graph by Snakemake and shows a person how far it is and what came out."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from candor import claims
from candor.core import provenance, store
from candor.core import step as steps
from candor.core.errors import CandorError, CorruptError, MissingError, disk
from candor.core.settings import ROOT
from candor.run import jobs, preflight, progress
from candor.run import plan as graph
from candor.run import steps as experiments

_HELD = "CANDOR_LOCK_HELD"
FREE_MB = 500


def hold(folder: Path, mend: bool = False) -> TextIO | None:
    """Take the lock of a results folder until the returned file is closed or its process ends, however it ends.

    Raises: `CandorError` if another replication has it, naming its process; `CorruptError` if something else than a
    file is there, which `mend` removes. None where the parent process, `replicate`, has the lock already.
    """
    if os.environ.get(_HELD) == str(folder):
        return None
    lock = folder / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(lock) and not lock.is_file():
        if not mend:
            raise store.corrupt(lock, "is not a file")
        store.remove(lock)
    file = lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CandorError(_at_work(lock)) from None
    return file


def _at_work(lock: Path) -> str:
    """Who has the lock, since when, and what to do."""
    import psutil

    there = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(file.path == str(lock.resolve()) for file in process.open_files()):
                since = datetime.fromtimestamp(process.create_time())
                left = process.environ().get(_HELD) == str(lock.parent)  # a Snakemake that `replicate` has started
                there.append((left, f"process {process.pid}, since {since:%Y-%m-%d %H:%M}", process.pid))
    rest = f"is at work in {lock.parent}: wait until it ends"
    elsewhere = "or set CANDOR_RESULTS to another folder"
    if not there:
        return f"Another replication {rest}, {elsewhere}."
    left, who, pid = min(there)
    if left:
        return (
            f"A Snakemake ({who}), left behind by a replication that was killed, still {rest}, or stop it with "
            f"`kill {pid}`, which lets its running jobs end first."
        )
    return f"Another replication ({who}) {rest}, stop it with `kill {pid}`, {elsewhere}."


# --- Before -----------------------------------------------------------------------------------------


def ready(plan: graph.Plan, cores: int) -> None:
    """Raises one sentence for what would make the run fail later: programs, folder, disk, memory, needs of models."""
    path = _environment(plan)["PATH"]
    lacks = [name for name in ("bash", "python", "papermill", "jupyter") if not shutil.which(name, path=path)]
    lacks += ["snakemake"] * (importlib.util.find_spec("snakemake") is None)
    if lacks:
        raise CandorError(f"{lacks[0]} is not installed: run `make environment`.")
    for folder in (plan.folder, ROOT / ".snakemake"):
        _probe(folder)
    free = shutil.disk_usage(plan.folder).free // 2**20
    if free < FREE_MB:
        raise CandorError(f"Only {free} MB are free for {plan.folder}, and a run needs {FREE_MB} MB: free some space.")
    preflight.check(plan, cores)


def _probe(folder: Path) -> None:
    """Raises one sentence if nothing can be written in a folder."""
    try:
        with disk(folder):
            store.write_json(folder / ".probe", "candor")
            (folder / ".probe").unlink(missing_ok=True)
    except OSError as error:
        raise CandorError(
            f"{folder} cannot be written ({error.strerror}): set CANDOR_RESULTS to another folder."
        ) from None


class Found(NamedTuple):
    """What is there of a plan."""

    states: dict[tuple[str, int], str]  # of every run: done, stale, missing, or elsewhere (to be copied from a scale)
    lacking: list[Path]  # outputs that Snakemake has to make, because they or what belongs to them are not there
    damaged: dict[Path, CorruptError]  # what is there and is not as it was written
    versions: list[dict[str, str]]  # of the libraries that made what is done


def survey(plan: graph.Plan, check: bool = True) -> Found:
    """Look at everything that a plan makes; `check` False compares no checksums of files."""
    found = Found({}, [], {}, [])

    def whole(read: Callable, *arguments: object, **options: object) -> Any:
        try:
            return read(*arguments, **options)
        except MissingError:
            return None
        except CorruptError as error:
            if os.path.lexists(error.path):
                found.damaged[error.path] = error
            return None

    known, wanted = experiments.steps(), {}
    for key, seed in plan.runs():
        wanted[key, seed] = steps.fingerprint(known[key], seed, known, plan.config)
        made = whole(steps.read, key, seed, plan.scale, check=check)
        state = "missing" if made is None else "done" if made.run["fingerprint"] == wanted[key, seed] else "stale"
        if made is None and steps.twin(key, seed, wanted[key, seed]):
            state = "elsewhere"
        found.states[key, seed] = state
        if state == "done":
            found.versions.append(made.run.get("versions", {}))
    for (name, seed), batch in plan.batches().items():
        marker = plan.folder / "batches" / str(seed) / f"{name}.json"
        promised = {key: wanted[key, seed] for key in batch.keys}
        if whole(store.read_json, marker) != promised or {found.states[key, seed] for key in batch.keys} != {"done"}:
            found.lacking.append(marker)
    for output, manifests in outputs(plan).items():
        if None in [whole(store.unseal, manifest, check=check) for manifest in manifests]:
            found.lacking.append(output)
    whole(jobs.sessions, plan)
    for kind in ("batches", "logs", "benchmarks", "progress"):
        folder = plan.folder / kind
        for path in (folder, *folder.rglob("*")):
            if os.path.lexists(path) and not (path.is_file() if path.suffix else path.is_dir()):
                found.damaged[path] = store.corrupt(path, f"is not a {'file' if path.suffix else 'folder'}")
    return found


def outputs(plan: graph.Plan) -> dict[Path, list[Path]]:
    """What Snakemake makes beside the steps, and the manifests of its files."""
    at = plan.folder
    alone = [*(at / "tables" / claim / "provenance.json" for claim in plan.claims), at / "provenance.json"]
    notebooks = graph.notebooks(plan.claims) if plan.shown else []
    pages = [*(at / "notebooks" / f"{path.stem}.html" for path in notebooks), at / "report.html"]
    drawn = {at / "figures" / claim: claims.load(claim).figures.FIGURES for claim in plan.claims if plan.shown}
    return (
        {manifest: [manifest] for manifest in alone}
        | {folder: [folder / f"{name}.json" for name in names] for folder, names in drawn.items()}
        | {page: [page.with_suffix(".json")] for page in pages}
    )


def _mend(plan: graph.Plan) -> Found:
    """Remove what is not as it was written, so that it is made again, and say what it was."""
    removed: dict[str, None] = {}
    while (found := survey(plan)).damaged:
        for path in found.damaged:
            store.remove(path)
            removed[str(path.relative_to(plan.folder))] = None
    lacks = [str(path.relative_to(plan.folder)) for path in found.lacking]
    print(f"Removed, to be made again: {_some(list(removed))}." if removed else "Every result matches its checksum.")
    print(f"Not there: {_some(lacks)}." if lacks else "Nothing is missing.", flush=True)
    return found


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- The run ----------------------------------------------------------------------------------------


def replicate(
    plan: graph.Plan, cores: int, claim: str | None = None, gpus: tuple[int, int] = (1, 1), mend: bool = False
) -> None:
    """Run the graph and watch it, with GPUs in all and for a job; `mend` first removes what is damaged.

    Raises `CandorError` in one sentence if something fails, is damaged (`CorruptError`), or is not there at the end.
    """
    if gpus[1] > gpus[0]:
        raise CandorError(f"A job cannot have {gpus[1]} GPUs where all share {gpus[0]}: raise --gpus.")
    ready(plan, cores)
    with disk(plan.folder), hold(plan.folder, mend) as held:
        store.sweep(plan.folder)
        found = _mend(plan) if mend else survey(plan)
        for error in found.damaged.values():
            more = len(found.damaged) - 1
            raise store.corrupt(error.path, error.what + f", and {more} more are damaged" * bool(more))
        if other := provenance.made_elsewhere(found.versions):
            print(other, flush=True)
        for marker in (path for path in found.lacking if path.is_relative_to(plan.folder / "batches")):
            store.remove(marker)  # it promises more than there is
        store.remove(plan.folder / "progress")
        (plan.folder / "progress").mkdir()
        log = plan.folder / "logs" / "snakemake.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text("")
        start = time.time()
        watch = progress.Watch(plan, found.states, cores, log, gpus[0])
        if code := _watched(plan, watch, _command(plan, cores, claim, found.lacking, gpus), held):
            raise CandorError(_failure(plan, log, code))
        found = survey(plan, check=False)
        gone = [f"{key}, seed {seed}" for (key, seed), state in found.states.items() if state != "done"]
        gone += [str(path.relative_to(plan.folder)) for path in (*found.lacking, *found.damaged)]
        if gone:
            raise CandorError(
                f"Snakemake has ended, and not everything of scale {plan.scale} is there: {_some(gone)}; run the same "
                f"command again, and look into {log} if it says so again."
            )
        seconds = round(time.time() - start)
        if watch.made or not jobs.sessions(plan):
            session = {"seconds": seconds, "cores": cores, "steps": len(watch.made), "peak_memory_mb": watch.memory}
            store.write_json(plan.folder / "sessions.json", [*jobs.sessions(plan), session])
        progress.show_end(plan, watch, seconds)


def _watched(plan: graph.Plan, watch: progress.Watch, command: list[str], held: TextIO) -> int:
    """Runs Snakemake under the eyes of `watch`; returns its exit code. An interrupt ends it and its jobs."""
    process = None
    try:
        with watch.log.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(plan),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=(held.fileno(),),  # so that the lock outlives a parent that is killed alone
            )
        watch.until(process)
    except KeyboardInterrupt:
        with suppress(OSError):  # a terminal that was closed
            watch.say("Stopping ...")
        if process:
            _stop(process)
        store.sweep(plan.folder)
        raise
    return process.returncode


def _command(
    plan: graph.Plan, cores: int, claim: str | None, lacking: list[Path], gpus: tuple[int, int] = (1, 1)
) -> list[str]:
    settings = [f"scale={plan.scale}"] + ([f"claim={claim}"] if claim else [])
    profile: list[str] = []
    if "models" in plan.config["evidence"]:
        profile = ["--workflow-profile", "profiles/gpu", "--resources", f"gpu={gpus[0]}"]
        settings.append(f"gpus_per_job={gpus[1]}")
    # Snakemake does not look whether what lies between is there, nor into folders: it is asked for by name.
    targets = [str(graph.plain(plan.folder) / path.relative_to(plan.folder)) for path in lacking]
    return [
        *(sys.executable, "-m", "snakemake", "all", *targets, "--cores", str(cores), "--nolock", "--nocolor"),
        *(["--forcerun", *targets] if targets else []),
        *profile,
        *("--config", *settings),
    ]


def _environment(plan: graph.Plan) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    defaults = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**defaults, **os.environ, "PATH": path, _HELD: str(plan.folder), "PYTHONUNBUFFERED": "1"}


def _stop(process: subprocess.Popen) -> None:
    """Ends Snakemake and its jobs."""
    import psutil

    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    for member in psutil.wait_procs(family, timeout=10)[1]:
        member.kill()


def report(plan: graph.Plan, claim: str | None = None) -> Path:
    """Snakemake's own report of what is there, as one page; returns its place."""
    manifest = plan.folder / "report.json"
    settings = [f"scale={plan.scale}"] + ([f"claim={claim}"] if claim else [])
    if not (plan.folder / "ledger.csv").exists():
        raise CandorError(f"Nothing has been computed at scale {plan.scale}: run `make replicate SCALE={plan.scale}`.")
    with disk(plan.folder), store.draft(manifest) as draft:
        command = ["snakemake", "evidence", "--report", str(draft / "report.html"), "--nolock", "--config", *settings]
        command = [sys.executable, "-m", *command]
        made = subprocess.run(command, cwd=ROOT, env=_environment(plan), capture_output=True, text=True, check=False)
        if made.returncode:
            lines = [line for line in (made.stdout + made.stderr).splitlines() if line.strip()]
            raise CandorError(
                f"The report needs everything at scale {plan.scale}, so run `make replicate SCALE={plan.scale}` "
                f"(Snakemake says: {lines[-1] if lines else 'nothing'})."
            )
        store.put(draft, manifest, {})
    return manifest.with_suffix(".html")


def _failure(plan: graph.Plan, log: Path, code: int) -> str:
    """Which job failed, why, where its log is, what to do."""
    again = "The same command goes on from there, and what is finished is kept."
    if code < 0:
        return f"Snakemake was {_killed(-code)}; jobs that it had started end by themselves. Log: {log}. {again}"
    for event in progress.events(plan):
        if "failed" in event:
            place = f" Log: {event['log']}." if event["log"] else ""
            return f"{event['failed']} failed: {event['why']}{place} {again}"
    _probe(plan.folder)  # a full disk leaves no room for traces and logs
    text = log.read_text(errors="replace")
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
    rule = re.search(r"Error in rule (\w+):.*?log: (\S+)", text, flags=re.S)
    if rule is None:
        stopped = "Will exit after finishing" in text
        return f"Snakemake {'was stopped by SIGTERM' if stopped else f'failed: {last}'} Log: {log}. {again}"
    place = ROOT / rule[2]
    ended = re.search(r"died with <Signals\.\w+: (\d+)>|returned non-zero exit status (\d+)\.", text)
    if (
        rule[1] == "notebook" and ended and ended[2] == "138"
    ):  # papermill's code for a kernel that ended before its cells
        return f"The kernel of a notebook was killed; most often the memory was full. Log: {place}. {again}"
    number = int(ended[1] or max(int(ended[2]) - 128, 0)) if ended else 0
    if number:
        return f"A job of the rule {rule[1]} was {_killed(number)}. Log: {place}. {again}"
    lines = [line for line in place.read_text(errors="replace").splitlines() if line.strip()] if place.exists() else []
    return f"The rule {rule[1]} failed: {lines[-1] if lines else 'no message'} Log: {place}. {again}"


def _killed(number: int) -> str:
    name = signal.Signals(number).name if number in {*signal.Signals} else "a signal"
    memory = "; most often the memory was full, so try --cores 1" if number == signal.SIGKILL else ""
    return f"killed ({name}, signal {number}{memory})"
