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
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from candor import claims, evidence, experiments, graph, jobs, preflight, steps
from candor.config import ROOT
from candor.errors import CandorError

_HELD = "CANDOR_LOCK_HELD"
_STAGES = {"tables": "tables", "ledger": "ledger", "figures": "figures", "notebook": "notebooks", "report": "report"}
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
        progress = plan.folder / "progress"
        shutil.rmtree(progress, ignore_errors=True)
        progress.mkdir()
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
            watch = Watch(plan, states, cores, log)
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
        _show_end(plan, watch, seconds)


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
    for event in _events(plan):
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


def _events(plan: graph.Plan) -> Iterator[dict]:
    path = plan.folder / "progress" / "events.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


# --- What a person sees -----------------------------------------------------------------------------


class Watch:
    """How far a replication is: a live line on a terminal, one line a finished step in a pipe."""

    def __init__(self, plan: graph.Plan, states: dict[tuple[str, int], str], cores: int, log: Path):
        from rich.console import Console

        self.plan, self.cores, self.log = plan, cores, log
        self.claim_of = plan.runs()
        self.todo = {run for run, state in states.items() if state not in ("done", "elsewhere")}
        self.total, self.made, self.read = len(self.todo), [], 0
        self.costs = {run: _cost(run, plan) for run in self.todo}
        self.memory, self.stages = 0, 0
        self.started = time.time()
        self.console = Console(highlight=False, soft_wrap=True)
        kept = len(states) - self.total
        names = ", ".join(plan.claims)
        self.say(
            f"Scale {plan.scale}, claims {names}: {self.total} of {len(states)} steps to run"
            + (f", {kept} are done." if kept else ".")
        )

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def until(self, process: subprocess.Popen) -> None:
        """Follow the traces until Snakemake ends."""
        from contextlib import nullcontext

        from rich.live import Live

        live = Live(console=self.console, refresh_per_second=4, transient=True) if self.console.is_terminal else None
        with live or nullcontext():
            while True:
                ended = process.poll() is not None
                self.follow()
                if live:
                    live.update("\n".join(self.lines()))
                if ended:
                    return
                time.sleep(0.25)

    def follow(self) -> None:
        events = list(_events(self.plan))
        for event in events[self.read :]:
            run = (event.get("done"), event.get("seed"))
            if event.get("made") and run in self.todo:
                self.todo.remove(run)
                self.made.append((run, event["seconds"]))
                self.memory = max(self.memory, event["memory"])
                self.say(
                    f"[{len(self.made):>3}/{self.total}] {self.claim_of[run]}: {run[0]}, seed {run[1]}, "
                    f"{event['seconds']:.0f} s; {self.clock()}"
                )
        self.read = len(events)
        finished = re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", self.log.read_text())
        finished = [_STAGES[rule] for rule in finished if rule in _STAGES]
        for stage in finished[self.stages :]:
            if stage not in finished[: self.stages] and not self.console.is_terminal:
                self.say(f"{stage}: under way; {self.clock()}")
        self.stages = len(finished)

    def lines(self) -> list[str]:
        """The live lines: the whole, then what each process is doing."""
        now = time.time()
        share = len(self.made) / self.total if self.total else 1
        bar = "━" * round(30 * share) + "╌" * (30 - round(30 * share))
        lines = [f"{bar} run {len(self.made)} of {self.total}, {self.clock()}"]
        for path in sorted((self.plan.folder / "progress").glob("*.json")):
            try:
                doing = json.loads(path.read_text())
            except (OSError, json.JSONDecodeError):
                continue
            run = (doing["key"], doing["seed"])
            done = f"{100 * doing['done'] / max(doing['total'], 1):3.0f} %"
            lines.append(
                f"  {self.claim_of.get(run, '')}: {run[0]}, seed {run[1]}, {done}, {_time(now - doing['started'])}"
            )
        if not self.todo:
            lines.append("  tables, ledger, figures, notebooks, report")
        return lines

    def clock(self) -> str:
        elapsed = time.time() - self.started
        return f"elapsed {_time(elapsed)}" + (f", about {_time(left)} left" if (left := self.left()) else "")

    def left(self) -> float | None:
        """Seconds that the remaining steps should take, at the speed of those that are finished."""
        if not self.todo:
            return None
        spent = sum(self.costs[run] for run, _ in self.made)
        measured = sum(seconds for _, seconds in self.made)
        known = any(cost > 10 for cost in self.costs.values())
        if not spent and not known:
            return None
        speed = measured / spent if spent else 1
        return speed * sum(self.costs[run] for run in self.todo) / min(self.cores, len(self.todo))


def _cost(run: tuple[str, int], plan: graph.Plan) -> float:
    """What a step should cost: its seconds in the reference run if it is there, else 3 for training, 1 for the rest."""
    path = graph.REFERENCE / "provenance.json"
    if path.exists():
        seconds = json.loads(path.read_text())["seconds"].get(run[0])
        if seconds:
            return sum(seconds.values()) / len(seconds)
    return 3 if experiments.steps()[run[0]].trains else 1


def _time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _show_end(plan: graph.Plan, watch: Watch, seconds: float) -> None:
    show_ledger(evidence.load_ledgers(plan.folder))
    if "Nothing to be done" in watch.log.read_text():
        watch.say(f"Everything at scale {plan.scale} was there already.")
    watch.say(f"Report     {plan.folder / 'report.html'}")
    watch.say(f"Figures    {plan.folder / 'figures'}")
    watch.say(f"Notebooks  {plan.folder / 'notebooks'}")
    memory = f", at most {watch.memory} MB a process" if watch.memory else ""
    watch.say(f"{len(watch.made)} steps run in {_time(seconds)} on {watch.cores} cores{memory}.")


def show_ledger(frames: dict) -> None:
    """Ledger and verdicts, short, for a terminal or a file."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)

    def number(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) and value == value else ""

    rows = Table("claim", "id", "value", "95 % interval", "band", "verdict", box=box.SIMPLE_HEAD)
    for row in frames["ledger"].itertuples():
        low, high = number(row.ci_low), number(row.ci_high)
        interval = f"{low} to {high}" if low and high else ""
        band = row.band if isinstance(row.band, str) else ""
        verdict = row.verdict + (" (mechanics only)" if row.note == "mechanics only" else "")
        rows.add_row(row.claim, row.criterion, number(row.value), interval, band, verdict)
    console.print(rows)
    for row in frames["verdicts"].itertuples():
        if row.part == "overall":
            note = f" ({row.note})" if isinstance(row.note, str) and row.note else ""
            console.print(f"[bold]{row.claim}: {row.verdict}[/bold]{note}", highlight=False)
