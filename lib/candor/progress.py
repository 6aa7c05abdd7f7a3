"""What a person sees of a replication: how far it is while it runs, and what came out at its end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from candor import evidence, experiments, graph

_STAGES = {"tables": "tables", "ledger": "ledger", "figures": "figures", "notebook": "notebooks", "report": "report"}


def events(plan: graph.Plan) -> Iterator[dict]:
    path = plan.folder / "progress" / "events.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


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
        told = list(events(self.plan))
        for event in told[self.read :]:
            run = (event.get("done"), event.get("seed"))
            if event.get("made") and run in self.todo:
                self.todo.remove(run)
                self.made.append((run, event["seconds"]))
                self.memory = max(self.memory, event["memory"])
                self.say(
                    f"[{len(self.made):>3}/{self.total}] {self.claim_of[run]}: {run[0]}, seed {run[1]}, "
                    f"{event['seconds']:.0f} s; {self.clock()}"
                )
        self.read = len(told)
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


def show_end(plan: graph.Plan, watch: Watch, seconds: float) -> None:
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
