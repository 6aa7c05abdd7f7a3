"""What a person sees: time left on made-up traces, the lines of a run, its end, the ledger, help and names."""

import io
import json
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from datetime import datetime
from statistics import median

import pandas as pd
import pytest
from candor import __main__ as cli
from candor import claims
from candor.core import settings as config
from candor.core import store
from candor.core.settings import ROOT
from candor.run import evidence, progress
from candor.run import plan as graph
from candor.run import steps as experiments
from candor.run.estimate import Estimate, Job, expected_seconds, jobs
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

RATES = json.loads((ROOT / "benchmarks" / "parallel.json").read_text())["rates"]

# --- The time that is left ----------------------------------------------------------------------------


def estimate(expected: list[float], cores: int, waits: bool = False) -> Estimate:
    """Jobs of a part each; `waits`: each for the one before."""
    chart = {
        str(i): Job(str(i), "x", seconds, (str(i - 1),) if waits and i else ()) for i, seconds in enumerate(expected)
    }
    return Estimate(chart, {name: {name: job.seconds} for name, job in chart.items()}, cores)


def at(plan: Estimate, moment: float, really: list[float], cores: int) -> tuple[Estimate, float]:
    """The estimate after so many seconds of a run in which jobs take `really`, and what is left in truth."""
    free, spans = [0.0] * cores, {}
    for name, seconds in zip(plan.chart, really):
        start = max(min(free), max((spans[need][1] for need in plan.chart[name].needs), default=0.0))
        free[free.index(min(free))] = start + seconds
        spans[name] = start, start + seconds
    plan.begun = {name: start for name, (start, _) in spans.items() if start <= moment}
    plan.ended = {name for name, (_, end) in spans.items() if end <= moment}
    plan.taken = {name: spans[name][1] - spans[name][0] for name in plan.ended}
    plan.doing = {name: (moment - plan.begun[name], 0.0) for name in plan.begun if name not in plan.ended}
    return plan, max(end for _, end in spans.values()) - moment


SECONDS = st.floats(0.1, 1000)


@given(
    st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=12), st.integers(1, 4), st.floats(0, 1), st.booleans()
)
def test_what_is_left_is_never_negative_and_nothing_only_at_the_end(pairs, cores, share, waits):
    expected, really = zip(*pairs)
    whole = at(estimate(expected, cores, waits), 0.0, really, cores)[1]
    plan, _ = at(estimate(expected, cores, waits), share * whole, really, cores)
    assert plan.left() > 0 if plan.ended < plan.chart.keys() else plan.left() == 0
    assert at(estimate(expected, cores, waits), whole + 1e-6, really, cores)[0].left() == 0


@given(st.lists(SECONDS, min_size=1, max_size=8), st.floats(0.05, 20), st.floats(0, 1))
def test_a_run_in_which_all_takes_as_expected_is_foretold_and_another_factor_is_found(expected, factor, share):
    really = [factor * seconds for seconds in expected]
    foretold, truth = at(estimate(expected, 1, True), share * sum(expected), expected, 1)
    assert foretold.left() == pytest.approx(truth, abs=max(expected) / 9 + 1e-6)  # the last tenth of a job stands still
    plan, _ = at(estimate(expected, 1, True), sum(really[:-1]) * (1 + 1e-9), really, 1)
    assert all(min(1, factor) * (1 - 1e-6) <= speed <= max(1, factor) * (1 + 1e-6) for speed in plan.speeds().values())


def test_a_late_step_moves_the_estimate_and_a_share_of_it_tells_how_late_it_will_be():
    plan = estimate([10.0, 100.0, 100.0], cores=1)
    lefts = [at(plan, moment, [1000.0, 1.0, 1.0], 1)[0].left() for moment in (0, 5, 9, 30, 60, 600)]
    assert lefts[0] > lefts[1] > lefts[2] and lefts[2] < lefts[3] < lefts[4] < lefts[5]
    assert lefts[-1] > 10 * lefts[0], "what follows is expected to be as late"
    assert at(plan, 1000, [1000.0, 1.0, 1.0], 1)[0].left() > 10 * lefts[0]
    plan = replace(estimate([10.0, 100.0, 100.0], cores=1), doing={"0": (50.0, 0.25)})
    assert plan.rest("0", {True: 1.0}) == 150 and plan.speeds()[True] > 3


def test_a_busy_disk_that_delays_processes_does_not_delay_what_steps_compute():
    step = ("a/b/c", 11)
    plan = Estimate({}, {"x": {"x": 10.0, step: 10.0}}, 1, taken={"x": 200.0, step: 10.0})
    speeds = plan.speeds()
    assert speeds[True] > 12 and speeds[False] < 6


def test_more_cores_leave_less_but_no_less_than_the_longest_chain():
    lefts = [estimate([30.0] * 6, cores).left() for cores in (1, 2, 6, 50)]
    assert lefts == [180, 90, 30, 30]
    assert [estimate([30.0] * 6, cores, waits=True).left() for cores in (1, 50)] == [180, 180]


def test_every_scale_has_seconds_of_its_own():
    smoke, laptop = graph.plan("smoke"), graph.plan("laptop")
    table = pd.read_csv(ROOT / "benchmarks" / "steps_smoke.csv").set_index("step")["mean_seconds"]
    assert {key: times["11"] for key, times in expected_seconds(smoke).items()} == table[
        [key for key, _ in smoke.runs()]
    ].to_dict()
    known = json.loads((graph.REFERENCE / "provenance.json").read_text())["seconds"]
    seconds = expected_seconds(laptop)
    for key, times in known.items():
        middle = median(times.values())  # a busy hour of the reference run says nothing of a seed
        assert {*seconds[key].values()} == {middle}
    assert sum(map(len, seconds.values())) == len(laptop.runs())
    longer = config.load("laptop", overrides={"seeds": [21], "world": {"witnesses": {"grpo_steps": 4000}}})
    own = expected_seconds(graph.Plan(longer, ("brier_fix",)))
    assert own["witnesses/expert/rlcr"] == {"21": seconds["witnesses/expert/rlcr"]["11"]}
    models = expected_seconds(graph.plan("gpu", "self_feedback"))
    for scale in config.scales():
        assert all(took > 0 for times in expected_seconds(graph.plan(scale)).values() for took in times.values()), scale
    trained = [key for key in models if key.startswith("reasoning/") and experiments.steps()[key].trains]
    assert trained and all(took > 600 for key in trained for took in models[key].values())


def test_each_rule_of_the_snakefile_has_a_rate():
    rules = {job.rule for job in jobs(graph.plan("smoke"), expected_seconds(graph.plan("smoke")), RATES).values()}
    text = (ROOT / "Snakefile").read_text()
    assert rules == {line[5:-1] for line in text.splitlines() if line.startswith("rule ")} - {"all", "evidence"}


@pytest.mark.parametrize("seconds", [0, 0.4, 1, 9, 59, 100, 3599, 7200, 10**6])
def test_about_is_never_nothing(seconds):
    assert not any(word.startswith("0") for word in progress._about(seconds).split())


# --- While it runs ------------------------------------------------------------------------------------


class Run:
    """A run that did not happen: its log, events and traces are written here, and a watch reads them."""

    def __init__(self, tmp_path, claim=None, width=80, terminal=False):
        self.plan, self.now, self.number = graph.plan("smoke", claim), time.time(), 0
        (self.plan.folder / "progress").mkdir(parents=True)
        self.log = tmp_path / "snakemake.log"
        self.log.write_text("")
        self.page = io.StringIO()
        self.watch = progress.Watch(self.plan, dict.fromkeys(self.plan.runs(), "missing"), 2, self.log)
        self.watch.started, self.numbers = self.now, {}
        self.watch.console = Console(file=self.page, width=width, force_terminal=terminal, highlight=False)
        self.watch.live = terminal

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.watch.follow(self.now)

    def add(self, text: str) -> None:
        stamp = datetime.fromtimestamp(self.now).strftime("%a %b %d %H:%M:%S %Y")
        self.log.write_text(self.log.read_text() + f"[{stamp}]\n{text}\n")

    def stats(self, **counts: int) -> None:
        rows = "".join(f"{rule:10s} {count}\n" for rule, count in {**counts, "total": sum(counts.values())}.items())
        self.log.write_text(f"Building DAG of jobs...\nJob stats:\njob  count\n---  ---\n{rows}\nSelect jobs ...\n")

    def begin(self, rule: str, **wildcards: object) -> None:
        self.number += 1
        told = ", ".join(f"{name}={value}" for name, value in wildcards.items())
        wild = f"    wildcards: {told}\n" if told else ""
        self.add(f"localrule {rule}:\n    input: a, b\n    jobid: {self.number}\n{wild}    resources: gpu=0, mem_mb=1")
        self.numbers[rule, *wildcards.values()] = self.number

    def end(self, rule: str, *values: object) -> None:
        self.add(f"Finished jobid: {self.numbers[rule, *values]} (Rule: {rule})\n1 of 9 steps (11%) done")

    def trace(self, key: str, done: int = 0, total: int = 1) -> None:
        about = {"key": key, "seed": 11, "done": done, "total": total, "started": self.now}
        (self.plan.folder / "progress" / "host-1.json").write_text(json.dumps(about))

    def made(self, key: str, seconds: float) -> None:
        event = {"done": key, "seed": 11, "made": True, "seconds": seconds, "memory": 600}
        with (self.plan.folder / "progress" / "events.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\n")

    def seen(self) -> list[str]:
        """What a terminal shows now, or would."""
        page = Console(file=io.StringIO(), width=self.watch.console.width)
        page.print(self.watch.view(self.now))
        return [line.rstrip() for line in page.file.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))


def whole_run(run: Run) -> list[list[str]]:
    """One claim from the start to the end, and what was to be seen at each moment."""
    seen = []

    def look(seconds: float) -> None:
        run.wait(seconds)
        seen.append(run.seen())

    [batch] = run.plan.batches().values()
    look(3)
    run.stats(steps=1, tables=1, figures=1, ledger=1, notebook=3, report=1, all=1)
    run.begin("steps", seed=11, batch=batch.name)
    look(4)
    for key in batch.keys:
        run.trace(key)
        look(1)
        run.trace(key, 1, 2)
        run.made(key, 2.0)
        look(1)
    (run.plan.folder / "progress" / "host-1.json").unlink()
    run.end("steps", 11, batch.name)
    claim = run.plan.claims[0]
    for rule, wild in (
        ("tables", {"claim": claim}),
        ("figures", {"claim": claim}),
        ("ledger", {}),
        *(("notebook", {"notebook": path.stem}) for path in graph.notebooks(run.plan.claims)),
        ("report", {}),
        ("all", {}),
    ):
        run.begin(rule, **wild)
        look(5)
        run.end(rule, *wild.values())
        look(1)
    return seen


def test_what_is_at_work_is_named_until_the_very_end(tmp_path):
    run = Run(tmp_path, "grounding_loss", terminal=True)
    seen = whole_run(run)
    assert all(len(line) <= 80 for lines in seen for line in lines)
    working = [" ".join(line.split()) for lines in seen for line in lines[1:]]
    assert working[0] == "Snakemake is starting 0:03" and working[-1].startswith("Snakemake is ending")
    named = "\n".join(working)
    for words in ("tables of grounding_loss 0:05", "figures of grounding_loss 0:05", "ledger 0:05", "report 0:05"):
        assert words in named
    assert "notebook 03_grounding_loss 0:05" in named and "21 steps of reference_game, seed 11 0:04" in named
    assert all(f"{key}, seed 11 0:01" in named for key, _ in run.plan.runs()), "of one claim the steps name none"
    assert "8 of 8 jobs, 21 of 21 steps" in seen[-1][0] and "left" not in seen[-1][0]
    assert all("left" in lines[0] and "left 0" not in lines[0] for lines in seen[:-3])
    assert not run.watch.estimate.left()


def test_a_pipe_gets_a_line_a_step_and_a_job(tmp_path):
    run = Run(tmp_path, "grounding_loss", width=40)
    whole_run(run)
    lines = run.page.getvalue().splitlines()
    assert len(lines) == 21 + 7, "steps, and jobs of other rules"
    assert lines[0].startswith("[step 1/21] reference_game/standard/base, seed 11, 2 s; 0:09 gone, about ")
    assert lines[-1].startswith("[job 8/8] report, 5 s; ") and lines[21].startswith(
        "[job 2/8] tables of grounding_loss, "
    )
    assert all(line.endswith(" left") for line in lines[:-1]), "what comes after the steps takes time too"


def test_the_first_line_says_on_how_many_cores(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("candor.run.preflight.machine_cores", lambda: 16)
    Run(tmp_path, "grounding_loss")
    said = " ".join(capsys.readouterr().out.split())
    assert said == "Scale smoke, claim grounding_loss, on 2 of 16 cores: 21 of 21 steps to run."


def test_the_first_seconds_already_move(tmp_path):
    run = Run(tmp_path, "grounding_loss")
    run.wait(1)
    first = run.watch.estimate.left()
    run.wait(4)
    assert first - 4.5 < run.watch.estimate.left() < first - 3
    run.wait(60)
    assert run.watch.estimate.left() > first, "a start that takes a minute says that the machine is slow"


def test_a_shared_step_names_no_single_claim(tmp_path):
    run = Run(tmp_path)
    shared, own = ("witnesses/expert/rlvr", 11), ("witnesses/twelve/rlcr", 11)
    users = [name for name in claims.NAMES if shared in graph.plan("smoke", name).runs()]
    assert len(users) > 1 and run.watch.words(shared) == f"witnesses/expert/rlvr, seed 11, for {len(users)} claims"
    assert own in graph.plan("smoke", "brier_fix").runs()
    assert run.watch.words(own) == "witnesses/twelve/rlcr, seed 11, for brier_fix"


def test_jobs_that_snakemake_does_not_run_count_for_nothing(tmp_path):
    run = Run(tmp_path)
    everything = run.watch.estimate.left()
    run.watch.todo.clear()
    run.watch.estimate = run.watch._estimate(1)
    run.stats(figures=1, report=1, all=1)
    run.begin("figures", claim="brier_fix")
    run.wait(1)
    assert run.watch.estimate.chart.keys() == {"start", "figures of brier_fix", "report"}
    assert run.watch.estimate.left() < everything / 5


def test_a_failure_is_said_at_once(tmp_path):
    run = Run(tmp_path, "grounding_loss")
    run.begin("tables", claim="grounding_loss")
    (run.plan.folder / "progress" / "events.jsonl").write_text('{"failed": "tables of grounding_loss", "why": "no"}\n')
    run.log.write_text(run.log.read_text() + "Error in rule tables:\n    message: None\n    jobid: 1\n    output: a\n")
    run.wait(1)
    assert "tables of grounding_loss failed" in run.page.getvalue()
    assert not any("tables" in line for line in run.seen())


# --- What came out ------------------------------------------------------------------------------------


def ended(tmp_path, scale: str) -> str:
    """What the end of a run prints, on the reference's ledger."""
    run = Run(tmp_path, width=80)
    plan = graph.plan(scale)
    with store.draft(plan.folder / "provenance.json") as draft:
        for name, frame in evidence.load_ledgers(graph.REFERENCE).items():
            frame.sort_values("claim").to_csv(draft / f"{name}.csv", index=False)
        store.put(draft, plan.folder / "provenance.json", {})
    progress.show_end(plan, run.watch, 61)
    return run.page.getvalue()


def test_the_end_is_six_verdicts_then_paths_then_totals(tmp_path, capsys):
    shown, frame = ended(tmp_path, "laptop"), pd.read_csv(graph.REFERENCE / "verdicts.csv").query("part == 'overall'")
    places = []
    for name in claims.NAMES:
        claim, [row] = claims.load(name).claim, list(frame[frame["claim"] == name].itertuples())
        places.append(shown.index(f"{claim.number}. {claim.title}: {row.verdict}\n"))
        assert " ".join(row.note.split()) in " ".join(shown.split())
    assert places == sorted(places) and shown.endswith("0 steps made in 1:01 " + f"{shown.split('1:01 ')[1]}")
    assert len(shown.splitlines()) < 40 and all(len(line) <= 80 for line in shown.splitlines())
    paths = capsys.readouterr().out
    assert [line.split()[0] for line in paths.splitlines()[-4:]] == ["Report", "Figures", "Notebooks", "Ledger"]


def test_the_end_of_smoke_says_that_verdicts_need_another_scale(tmp_path):
    shown = ended(tmp_path, "smoke")
    assert "SCALE=laptop" in shown and "not attempted" not in shown and len(shown.splitlines()) < 4


def test_the_ledger_is_in_the_order_of_the_claims_and_says_what_must_hold(capsys):
    frames = evidence.load_ledgers(graph.REFERENCE)
    mixed = {name: frame.sample(frac=1, random_state=0).sort_values("claim") for name, frame in frames.items()}
    progress.show_ledger(mixed)
    shown = capsys.readouterr().out
    titles = [f"{claims.load(name).claim.number}. {claims.load(name).claim.title}\n" for name in claims.NAMES]
    places = [shown.replace("  ", "").index(title.strip()) for title in titles]
    assert places == sorted(places) and max(map(len, shown.splitlines())) <= 120
    for row in frames["ledger"].itertuples():
        assert f" {row.criterion} " in shown and row.statement.split()[0] in shown


# --- Help and names -----------------------------------------------------------------------------------


def helped(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_lists_scales_and_claims(capsys):
    commands = cli.parser()._subparsers._group_actions[0].choices
    for command in ("", *commands):
        text = helped(capsys, *[command] * bool(command))
        takes = {"--scale", "--claim"} & {
            *(commands[command]._option_string_actions if command else ("--scale", "--claim"))
        }
        for option, names in (("--scale", config.scales()), ("--claim", (*claims.NAMES, *claims.STUDIES))):
            assert option not in takes or all(name in text for name in names), (command, option)


@pytest.mark.parametrize("words", [("--claim", "binary"), ("--scale", "huge")])
def test_a_wrong_name_is_refused_before_anything_is_imported(words):
    program = f"import sys; from candor.__main__ import main; code = main(['replicate', *{words}]); "
    program += "sys.exit(code if 'pandas' not in sys.modules else 'pandas was imported')"
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert made.returncode == 2 and made.stderr.count("\n") == 1 and words[1] in made.stderr


def test_a_warning_is_shown_once(monkeypatch):
    def noisy(_):
        for _ in range(5):
            with warnings.catch_warnings():  # as libraries do; Python then forgets what it has shown
                warnings.simplefilter("default")
            warnings.warn("too hot", RuntimeWarning, stacklevel=1)
        warnings.warn("too cold", RuntimeWarning, stacklevel=1)

    shown: list[str] = []
    noisy.__name__ = "_list"
    monkeypatch.setattr(cli, "_list", noisy)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["list"]) == 0
    assert shown == ["too hot", "too cold"]


def test_figures_say_from_what_they_are_drawn(capsys):
    assert cli.main(["figures", "--scale", "paper", "--claim", "sophistry", "--figure", "plane"]) == 0
    first, path = capsys.readouterr().out.splitlines()
    assert first.startswith("No results of sophistry at scale paper: drawn from ") and path.endswith("plane.svg")
