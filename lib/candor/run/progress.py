"""What a person sees of a replication: how far it is while it runs, and what came out at its end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from rich.markup import escape

from candor import claims
from candor.core.settings import ROOT
from candor.run import evidence, preflight
from candor.run import plan as graph
from candor.run.estimate import Estimate, Job, expected_seconds, jobs

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

START = 5.0  # seconds of Snakemake until its first job begins
_LOG = re.compile(
    r"^\[(?P<at>.+)\]\n"
    r"(?:(?:local)?rule (?P<rule>\w+):\n(?P<about>(?: +.*\n)*? +resources: .*\n)|Finished jobid: (?P<ended>\d+) )"
    r"|^Error in rule \w+:\n(?: +.*\n)*? +jobid: (?P<failed>\d+)\n",
    flags=re.M,
)
_NAMES = {
    "steps": "{batch}, seed {seed}",
    "tables": "tables of {claim}",
    "figures": "figures of {claim}",
    "notebook": "notebook {notebook}",
}


# --- While it runs ----------------------------------------------------------------------------------


def events(plan: graph.Plan) -> Iterator[dict]:
    """What the jobs of this run have finished, and what has failed."""
    path = plan.folder / "progress" / "events.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):  # half a line, where the disk was full
            yield json.loads(line)


class Watch:
    """How far a replication is: live lines on a terminal, a line a finished step or job in a pipe."""

    def __init__(self, plan: graph.Plan, states: dict[tuple[str, int], str], cores: int, log: Path, gpus: int = 1):
        from rich.console import Console

        self.plan, self.log, self.cores, self.started = plan, log, cores, time.time()
        self.console = Console(highlight=False)
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal
        self.todo = {run for run, state in states.items() if state not in ("done", "elsewhere")}
        self.made: dict[tuple[str, int], float] = {}  # seconds of the steps that were made
        self.doing: dict[tuple[str, int], dict] = {}  # traces of the steps that are being made
        self.imports: dict[str, float] = {}  # of a batch: seconds until its first step began
        self.memory, self.told, self.share, self.end, self.finished = 0, 0, 0.0, 0.0, {"start"}
        users = {name: graph.Plan(plan.config, (name,)).runs() for name in plan.claims}
        self.users = {run: [name for name, runs in users.items() if run in runs] for run in states}
        self.estimate = self._estimate(gpus)
        self.chart = self.estimate.chart
        self.where = f"on {cores} of {preflight.machine_cores()} cores"
        kept, names = len(states) - len(self.todo), f"claim{'s' * (len(plan.claims) > 1)} {', '.join(plan.claims)}"
        self.say(
            f"Scale {plan.scale}, {names}, {self.where}: {len(self.todo)} of {len(states)} steps to run"
            + (f", {kept} are done." if kept else ".")
        )

    def _estimate(self, gpus: int) -> Estimate:
        """Everything that may have to run, with what it should take; steps of pretrained models share the GPUs."""
        batches = self.plan.batches()
        rates = json.loads((ROOT / "benchmarks" / "parallel.json").read_text())["rates"]
        seconds = expected_seconds(self.plan)
        chart = {"start": Job("start", "start", START, ())}
        for name, job in jobs(self.plan, seconds, rates).items():
            chart[name] = replace(job, needs=(*job.needs, "start"))
        parts = {name: {name: job.seconds} for name, job in chart.items()}
        for (name, seed), batch in batches.items():
            runs = [(key, seed) for key in batch.keys if (key, seed) in self.todo]
            job = f"{name}, seed {seed}"
            parts[job] = {job: rates["steps"], **{run: seconds[run[0]][str(seed)] for run in runs}}
        gpu = any(batch.gpu for batch in batches.values())
        return Estimate(chart, parts, min(self.cores, gpus) if gpu else self.cores)

    def say(self, text: str) -> None:
        """A line; on a terminal it is wrapped between words."""
        self.console.print(text, markup=False, soft_wrap=not self.console.is_terminal)

    def until(self, process: subprocess.Popen) -> None:
        """Follow log and traces until Snakemake ends."""

        from rich.live import Live

        with Live(console=self.console, transient=True) if self.live else nullcontext() as live:
            while True:
                ended = process.poll() is not None
                self.follow(time.time())
                if live:
                    live.update(self.view(time.time()))
                if ended:
                    return
                time.sleep(0.5)

    def follow(self, now: float) -> None:
        """Read what the jobs have left, and say what was finished since."""
        new = list(events(self.plan))[self.told :]
        self.told, said = self.told + len(new), []
        for event in new:
            run = (event.get("done"), event.get("seed"))
            if "failed" in event:
                said.append(f"{event['failed']} failed; what else is at work ends first")
            elif event["made"] and run in self.todo:
                self.made[run] = event["seconds"]
                self.memory = max(self.memory, event["memory"])
                said.append(f"[step {len(self.made)}/{len(self.todo)}] {self.words(run)}, {event['seconds']:.0f} s")
        self._measure(now)
        end = now + self.estimate.left()
        self.end += (end - self.end) / (10 if self.end else 1)  # damped, so that it can be read
        # A bar does not go back.
        self.share = max(self.share, 1 - (end - now) / (end - self.started)) if end > now else 1.0
        for name in [name for name in self.estimate.ended if name not in self.finished]:
            self.finished.add(name)
            if self.chart[name].rule != "steps":  # which have told of themselves
                count = f"job {len(self.finished) - 1}/{len(self.estimate.chart) - 1}"
                said.append(f"[{count}] {name}, {self.estimate.taken[name]:.0f} s")
        for line in said:
            self.say(line if self.live else f"{line}; {self.clock(now)}")

    def _measure(self, now: float) -> None:
        """Fill the estimate from Snakemake's log, the steps that were made and the traces of those at work."""
        text, jobs_of = self.log.read_text(), {}
        begun, ended = {"start": self.started}, {}
        for found in _LOG.finditer(text):
            at = datetime.strptime(found["at"], "%a %b %d %H:%M:%S %Y").timestamp() if found["at"] else now
            if rule := found["rule"]:
                number, wildcards = (re.search(f" {word}: (.*)", found["about"]) for word in ("jobid", "wildcards"))
                about = dict(re.findall(r"(\w+)=(\w+)", wildcards[1])) if wildcards else {}
                jobs_of[number[1]] = name = _NAMES.get(rule, rule).format(**about)
                begun |= {name: at} if name in self.chart else {}
            elif (name := jobs_of.get(found["ended"] or found["failed"])) in self.chart:
                ended[name] = at
        if len(begun) > 1:
            ended["start"] = max(min(at for name, at in begun.items() if name != "start"), self.started)
        self.doing = {}
        for path in sorted((self.plan.folder / "progress").glob("*.json")):
            try:
                trace = json.loads(path.read_text())
            except (OSError, json.JSONDecodeError):
                continue
            self.doing[trace["key"], trace["seed"]] = trace
        taken, doing = dict(self.made), {}
        for run, trace in self.doing.items():
            if run in self.todo and run not in self.made:
                doing[run] = (now - trace["started"], trace["done"] / max(trace["total"], 1))
        parts_of = self.estimate.parts
        for name, at in begun.items():
            first = [self.doing[run]["started"] for run in parts_of[name] if run in self.doing]
            if len(parts_of[name]) > 1 and (first or name in ended):
                self.imports.setdefault(name, max(first[0] - at, 0) if first else parts_of[name][name])
            if name in self.imports:
                taken[name] = self.imports[name]
            elif name in ended:
                taken[name] = ended[name] - at
            else:
                doing[name] = (now - at, 0.0)
        stats = text.partition("Job stats:\n")[2].partition("\n\n")[0]
        counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", stats, flags=re.M)}
        chart = {"start": self.chart["start"]}
        for rule in dict.fromkeys(job.rule for job in self.chart.values()):
            # Snakemake says how many jobs of a rule it runs, but not which: first those with something new to do.
            those = [job for job in self.chart.values() if job.rule == rule != "start"]
            new = {job.name for job in those if len(parts_of[job.name]) > 1 or set(job.needs) & {*chart} - {"start"}}
            those.sort(key=lambda job: (job.name not in begun, job.name not in new))
            chart |= {job.name: job for job in those[: counts.get(rule, 0) if counts else len(new)]}
        self.estimate = replace(self.estimate, chart=chart, begun=begun, ended={*ended}, taken=taken, doing=doing)

    def words(self, run: tuple[str, int]) -> str:
        """A step by name; of several claims also which of them needs it."""
        users = self.users[run] if len(self.plan.claims) > 1 else []
        whom = f", for {users[0]}" if len(users) == 1 else f", for {len(users)} claims" if users else ""
        return f"{run[0]}, seed {run[1]}{whom}"

    def clock(self, now: float) -> str:
        left = f", {_about(self.end - now)} left" if self.estimate.left() else ""
        return f"{_time(now - self.started)} gone{left}"

    def view(self, now: float) -> RenderableType:
        """The whole as a bar, then what is at work."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        at = self.estimate
        done = (len(at.ended - {"start"}), len(at.chart) - 1, "jobs"), (len(self.made), len(self.todo), "steps")
        counts = "".join(f"{made} of {all_} {what}, " for made, all_, what in done if all_)
        head = Table.grid("", "", expand=True, padding=(0, 2, 0, 0))
        head.columns[0].ratio, head.columns[1].no_wrap = 1, True
        head.add_row(ProgressBar(1, self.share), counts + self.clock(now))
        rows = Table.grid("", "", padding=(0, 2, 0, 0))
        rows.columns[0].no_wrap, rows.columns[1].justify = True, "right"
        for name, begun in at.begun.items():
            runs = [run for run in at.doing if run in at.parts[name] and run != name]
            for run in runs:
                seconds, share = at.doing[run]
                rows.add_row(f"  {self.words(run)}", f"{share:.0%}  " * (share > 0) + _time(seconds))
            if not runs and name not in at.ended:
                steps = [part[0] for part in at.parts[name] if part != name]
                words = f"{len(steps)} steps of {steps[0].split('/')[0]}, {name.split(', ')[1]}" if steps else name
                rows.add_row(f"  {'Snakemake is starting' if name == 'start' else words}", _time(now - begun))
        if not at.chart.keys() - at.ended:
            rows.add_row("  Snakemake is ending")
        return Group(head, rows)


def _time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _about(seconds: float) -> str:
    """As exact as an estimate can be."""
    if seconds < 10:
        return "some seconds"
    if seconds < 90:
        return f"about {10 * round(seconds / 10)} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} hours"


# --- What came out ----------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """A claim's overall verdict."""

    claim: str
    title: str  # with its number; a study has none
    verdict: str
    note: str


def outcomes(frame: pd.DataFrame, names: Iterable[str]) -> list[Outcome]:
    """The overall verdicts of some claims in the table `verdicts`, by number, studies last."""
    rows = frame[frame["part"] == "overall"].fillna("").set_index("claim")
    found = []
    for name in (*claims.NAMES, *claims.STUDIES):
        if name in names and name in rows.index:
            claim = claims.load(name).claim
            title = f"{claim.number}. {claim.title}" if claim.number else claim.title
            found.append(Outcome(name, title, rows.at[name, "verdict"], rows.at[name, "note"]))
    return found


def show_outcomes(console: Console, found: Iterable[Outcome]) -> None:
    from rich.padding import Padding

    for row in found:
        console.print(f"{row.title}: [bold]{row.verdict}[/bold]")
        if row.note:
            console.print(Padding(escape(row.note), (0, 0, 0, 3), expand=False))


def show_end(plan: graph.Plan, watch: Watch, seconds: float) -> None:
    """The verdicts, where everything is, and what it took."""
    if plan.scale == "smoke":
        watch.say("Scale smoke shows that everything runs; verdicts need `make replicate SCALE=laptop`.")
    else:
        show_outcomes(watch.console, outcomes(evidence.load_ledgers(plan.folder)["verdicts"], plan.claims))
    if "Nothing to be done" in watch.log.read_text():
        watch.say(f"Everything at scale {plan.scale} was there already.")
    for name in ("report.html", "figures", "notebooks", "ledger.csv"):
        print(f"{name.split('.')[0].capitalize():<10} {plan.folder / name}")
    memory = f", at most {watch.memory} MB a process" if watch.memory else ""
    watch.say(f"{len(watch.made)} steps made in {_time(seconds)} {watch.where}{memory}.")


def show_ledger(frames: dict[str, pd.DataFrame]) -> None:
    """The ledger claim by claim, then the verdicts, for a terminal or a file."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from candor.run.show import value_of

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    found = outcomes(frames["verdicts"], set(frames["ledger"]["claim"]))
    for claim in found:
        rows = Table(
            "",
            "what must hold",
            "value [95 %]",
            "passes if",
            "verdict",
            box=box.SIMPLE_HEAD,
            title=claim.title,
            title_justify="left",
        )
        for row in frames["ledger"].fillna({"band": "", "statement": ""}).query("claim == @claim.claim").itertuples():
            rows.add_row(*map(escape, (row.criterion, row.statement, value_of(row), row.band, row.verdict)))
        console.print(rows)
    show_outcomes(console, found)
