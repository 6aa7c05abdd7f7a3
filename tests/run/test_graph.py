"""The real graph: its plan as data, and at smoke scale run, killed, resumed, harmed, repaired, edited.

The graph runs in a copy of the checkout, so that the tests may edit its sources, and its results are nobody's.
"""

import copy
import hashlib
import html
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from candor import claims
from candor.core import step as steps
from candor.core import store
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.declare import ledger
from candor.run import jobs, replicate
from candor.run import plan as graph
from candor.run import steps as experiments

PARTS = ("Snakefile", "environment.yml", "requirements.lock", "config", "profiles", "notebooks", "lib", "benchmarks")
PARTS += ("data/published",)


# --- The plan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "size"), [("laptop", 1), ("laptop", 3), ("laptop", None), ("smoke", None)])
def test_batches_hold_every_run_once_and_wait_only_for_earlier_ones(scale, size):
    plan = graph.plan(scale)
    batches = plan.batches(size)
    assert sorted((key, b.seed) for b in batches.values() for key in b.keys) == sorted(plan.runs())
    limit = size or (graph.SMOKE_BATCH if scale == "smoke" else graph.BATCH)
    assert max(len(batch.keys) for batch in batches.values()) <= limit
    done: set[tuple[str, int]] = set()
    waiting = dict(batches)
    while waiting:
        free = [at for at, batch in waiting.items() if all((need, batch.seed) in done for need in batch.needs)]
        assert free, "batches wait for each other"
        done |= {*free}
        for at in free:
            del waiting[at]
    for batch in batches.values():
        for i, key in enumerate(batch.keys):
            for need in experiments.steps()[key].needs:
                inside = need in batch.keys[:i]
                assert inside or any(need in batches[name, batch.seed].keys for name in batch.needs)


def test_what_decides_a_verdict_runs_first():
    known, order = experiments.steps(), [key for key, _ in graph.plan("laptop").runs()]
    optional = [known[key].seeds != "seeds" for key in order]
    # Once an optional step has come, only what optional steps need follows.
    needed = {need for key in order if known[key].seeds != "seeds" for need in known[key].needs}
    late = [key for key, is_optional in list(zip(order, optional))[optional.index(True) :] if not is_optional]
    assert set(late) <= needed
    first = {name: graph.plan("laptop").keys(name)[0] for name in claims.NAMES}
    assert all(order.index(key) < len(order) / 5 for key in first.values())


def test_one_claim_needs_less_than_all():
    one = graph.plan("laptop", "binary_reward")
    assert one.claims == ("binary_reward",)
    assert set(one.runs()) < set(graph.plan("laptop").runs())
    stems = [path.stem for path in graph.notebooks(one.claims)]
    assert "01_binary_reward" in stems and "07_verdict" in stems and "05_brier_fix" not in stems


def test_digests_follow_the_code_they_stand_for():
    plots = {claim: list(claims.load(claim).figures.FIGURES) for claim in claims.NAMES}
    digests = [graph.figure_digest(claim, name) for claim, names in plots.items() for name in names]
    assert len(set(digests)) == len(digests)
    plan = graph.plan("smoke")
    assert plan.tables_digest("binary_reward") != graph.plan("laptop").tables_digest("binary_reward")
    assert graph.criteria_digest("binary_reward") != graph.criteria_digest("brier_fix")


def test_an_unknown_parameter_of_a_notebook_is_an_error(tmp_path):
    path = tmp_path / "a.ipynb"
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["scale = 'laptop'\n", "live = True"]}
    path.write_text(json.dumps({"cells": [cell]}))
    assert graph.notebook_parameters(path, scale="smoke") == {"scale": "smoke"}
    with pytest.raises(CandorError, match=r"no parameter 'lively': .* sets live, scale"):
        graph.notebook_parameters(path, lively=False)


def test_committed_notebooks_take_the_parameters_of_the_graph():
    for path in graph.notebooks():
        graph.notebook_parameters(path, scale="smoke", source="auto", live=False)


# --- The run ----------------------------------------------------------------------------------------


class Checkout:
    """A copy of the checkout with results of its own."""

    def __init__(self, folder: Path):
        self.folder, self.results = folder, folder / "results" / "smoke"
        for part in PARTS:
            source, place = ROOT / part, folder / part
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(source, place)
        bin_folder = Path(sys.executable).parent
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CANDOR_")},
            "PYTHONPATH": str(folder / "lib"),
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *words: str) -> subprocess.Popen:
        how = {"cwd": self.folder, "env": self.env, "start_new_session": True, "preexec_fn": heed_signals}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([sys.executable, "-m", *words], **how, **pipes)

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        output, _ = process.communicate()
        return process.returncode, output

    def elsewhere(self, name: str) -> "Checkout":
        """The same checkout, with results in another folder."""
        other = copy.copy(self)
        other.results, other.env = self.folder / name / "smoke", {**self.env, "CANDOR_RESULTS": str(self.folder / name)}
        return other

    def replicate(self, command: str = "replicate", *words: str) -> tuple[int, str]:
        return self.run("candor", command, "--scale", "smoke", "--cores", "2", *words)

    def finished(self) -> dict[Path, int]:
        """Every finished step and when it was finished."""
        return {path: path.stat().st_mtime_ns for path in self.results.glob("steps/**/run.json")}

    def edit(self, path: str, old: str, new: str) -> None:
        place = self.folder / path
        text = place.read_text()
        assert text.count(old) >= 1, f"{path} has no {old!r}"
        place.write_text(text.replace(old, new, 1))

    def would_run(self) -> dict[str, int]:
        """Jobs a rule that Snakemake would run now."""
        code, output = self.run("snakemake", "--dry-run", "--config", "scale=smoke")
        assert code == 0, output
        return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", output, flags=re.M) if rule != "total"}


def heed_signals():
    """A shell's background job ignores some signals, and so would what it starts."""
    for number in SIGNALS:
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Checkout, str]:
    """The graph, run to its end, and what was said."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    code, output = checkout.replicate()
    assert code == 0, output
    return checkout, output


@pytest.mark.slow
def test_every_arm_is_trained(finished):
    """In every world no model has the weights of its base, or of another arm."""
    checkout, _ = finished
    models = sorted(checkout.results.glob("steps/*/*/*/*/model/*.safetensors"))
    assert {path.parents[4].name for path in models} >= set(graph.plan("smoke").config["world"])
    same = {}
    for path in models:
        same.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), []).append("/".join(path.parts[-6:-2]))
    assert not [names for names in same.values() if len(names) > 1]


@pytest.mark.slow
def test_every_step_is_told(finished):
    checkout, output = finished
    total = len(graph.plan("smoke").runs())
    assert len(checkout.finished()) == total
    assert f"{total} of {total} steps to run" in output
    assert len(re.findall(r"^\[step \d+/\d+\] \w+/", output, flags=re.M)) == total
    jobs = re.findall(r"^\[job (\d+)/(\d+)\] (\w+)", output, flags=re.M)
    assert jobs[-1] == (jobs[-1][1], jobs[-1][1], "report") and len(jobs) == 2 * len(claims.NAMES) + 10
    assert not leftovers(checkout.results)


def leftovers(results: Path) -> list[Path]:
    return [path for path in results.rglob(".*") if path.name not in (".lock", ".snakemake_timestamp")]


@pytest.mark.slow
def test_the_ledger_is_complete_and_gives_no_verdict(finished):
    checkout, output = finished
    rows = pd.read_csv(checkout.results / "ledger.csv")
    for name in claims.NAMES:
        assert not ledger.missing_criteria(claims.load(name).claim, rows)
    runs = rows[rows["seeds"].notna()]
    assert len(runs) > 10
    assert set(runs["verdict"]) == {"not attempted"} and set(runs["note"]) == {"mechanics only"}
    verdicts = pd.read_csv(checkout.results / "verdicts.csv")
    assert set(verdicts.loc[verdicts["part"] == "overall", "verdict"]) == {"not attempted"}
    for word in ("verdicts need `make replicate SCALE=laptop`", "Report ", "Figures ", "Notebooks ", "MB a process"):
        assert word in output
    assert "not attempted" not in output
    assert "{'loss'" not in output and "{'reward" not in output


@pytest.mark.slow
def test_figures_notebooks_and_report_are_there(finished):
    checkout, _ = finished
    for name in claims.NAMES:
        for figure in claims.load(name).figures.FIGURES:
            made = (checkout.results / "figures" / name).glob(f"{figure}.*")
            assert {path.suffix for path in made} == {".svg", ".png", ".json"}
    for path in graph.notebooks():
        executed = json.loads((checkout.results / "notebooks" / path.name).read_text())
        assert any("injected-parameters" in cell["metadata"].get("tags", ()) for cell in executed["cells"])
    page = (checkout.results / "report.html").read_text()
    first = html.unescape(page.partition("var workflow_desc = ")[2].partition("\n")[0])
    for name in claims.NAMES:
        assert all(f"{figure}.svg" in page for figure in claims.load(name).figures.FIGURES)
        assert claims.load(name).claim.title in first
    assert "ledger.csv" in page and "07_verdict" in page


@pytest.mark.slow
def test_what_was_lost_is_made_again_and_nothing_else(finished):
    checkout, _ = finished
    before = {path: path.stat().st_mtime_ns for path in checkout.results.rglob("*.csv")} | checkout.finished()
    drawn = {path: path.read_bytes() for path in (checkout.results / "figures").rglob("*.*g")}
    lost = [checkout.results / name for name in ("figures/sophistry/minutes.svg", "notebooks/07_verdict.html")]
    for path in lost:
        path.unlink()
    code, output = checkout.replicate()
    assert code == 0, output
    assert all(path.exists() for path in lost)
    assert {path: path.read_bytes() for path in drawn} == drawn
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    log = (checkout.results / "logs" / "snakemake.log").read_text()
    ran = {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", log, flags=re.M)}
    assert ran == {"all": 1, "figures": 1, "notebook": 1, "report": 1, "total": 4}
    assert not checkout.would_run()


@pytest.mark.slow
def test_an_edited_figure_redraws_itself_and_trains_nothing(finished):
    checkout, _ = finished
    before, drawn = checkout.finished(), checkout.results / "figures" / "binary_reward"
    times = {path: path.stat().st_mtime_ns for path in drawn.glob("*.svg")}
    payoff = "lib/candor/claims/binary_reward/figures.py"
    checkout.edit(payoff, "canvas(width=5.2, height=3.1)", "canvas(width=5.3, height=3.1)")
    todo = checkout.would_run()
    assert todo["figures"] == 1
    assert not {"steps", "tables", "ledger"} & set(todo)
    code, output = checkout.run("candor", "figures", "--scale", "smoke")
    assert code == 0 and output.splitlines() == [str(drawn / "payoff.svg")]
    assert {p for p, then in times.items() if p.stat().st_mtime_ns != then} == {drawn / "payoff.svg"}
    assert checkout.finished() == before
    checkout.edit(payoff, "canvas(width=5.3, height=3.1)", "canvas(width=5.2, height=3.1)")


@pytest.mark.slow
def test_an_edited_trainer_trains_again_and_comments_do_not(finished):
    checkout, _ = finished
    checkout.edit("lib/candor/train/sft.py", "model.train()\n", "model.train()  # a remark\n")
    assert "steps" not in checkout.would_run()
    checkout.edit("lib/candor/train/sft.py", "weight_decay=0.01", "weight_decay=0.02")
    todo = checkout.would_run()
    checkout.edit("lib/candor/train/sft.py", "weight_decay=0.02", "weight_decay=0.01")
    # This function trains the bases of `witnesses`, on which `annotators` rests too, and no other base.
    plan, stale = graph.plan("smoke"), ("witnesses/", "annotators/")
    assert todo["steps"] == sum(batch.keys[0].startswith(stale) for batch in plan.batches().values())
    assert todo["tables"] == sum(any(key.startswith(stale) for key in plan.keys(name)) for name in plan.claims)


# --- Killed, harmed and run again --------------------------------------------------------------------

ONE = "grounding_loss"  # the cheapest claim


@pytest.mark.parametrize(
    ("rule", "ended", "said"),
    [
        ("steps", "died with <Signals.SIGKILL: 9>.", "the rule steps was killed (SIGKILL, signal 9; most often"),
        ("steps", "returned non-zero exit status 143.", "the rule steps was killed (SIGTERM, signal 15)"),
        ("notebook", "returned non-zero exit status 138.", "The kernel of a notebook was killed"),
        ("notebook", "returned non-zero exit status 1.", "The rule notebook failed: no message"),
    ],
)
def test_what_killed_a_job_is_named(rule, ended, said, tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    plan, log = graph.plan("smoke"), tmp_path / "log"
    plan.folder.mkdir()
    log.write_text(f"Error in rule {rule}:\n    log: nowhere.log (check it)\nCommand 'set -euo pipefail' {ended}\n")
    assert said in replicate._failure(plan, log, 1)


TARGETS = ("worker", "shell", "snakemake", "parent", "group")


def killed(run: Checkout, draw: random.Random) -> str:
    """Start the run of one claim and kill a part of it at a random moment; follow what is then said.

    Returns what was done, after every process has ended.
    """
    until, number, target = draw.randint(tally(run), len(manifests(run))), draw.choice(SIGNALS), draw.choice(TARGETS)
    process = run.start("candor", "replicate", "--scale", "smoke", "--claim", ONE, "--cores", "2")
    parent = psutil.Process(process.pid)
    while process.poll() is None and not holds_lock(parent):
        time.sleep(0.1)
    while process.poll() is None and tally(run) < until:
        time.sleep(0.1)
    time.sleep(2 * draw.random())
    there = family(parent)
    done = f"{number.name} to {target}, {tally(run)} of {len(manifests(run))} finished"
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        if target == "group":
            os.killpg(process.pid, number)
        else:
            there.get(target, parent).send_signal(number)
    output, code = process.communicate()[0], process.returncode
    done += f", exit {code}: {output.splitlines()[-1] if output else 'nothing was said'}"
    assert "Traceback" not in output, done
    stopped = 128 + number  # the command was told to end; else a part of it was, and is named
    assert code in (0, 2, stopped) or (code == -number and number == signal.SIGKILL), done
    assert code != stopped or "Stopped; what is finished is kept" in output, done
    assert code != stopped or "shell" not in there or "Stopping ..." in output, done
    if code == 2:
        named = f"({number.name}" in output or "by SIGTERM" in output or "kernel of a notebook was killed" in output
        assert number in (signal.SIGINT, signal.SIGHUP) or named, done
    snakemake = there.get("snakemake")
    if code == -signal.SIGKILL and snakemake and alive(snakemake):
        code, output = run.replicate("replicate", "--claim", ONE)
        if code:  # else it had ended by itself meanwhile
            assert "left behind" in output and f"`kill {snakemake.pid}`" in output, output
            snakemake.terminate()
            done += "; Snakemake was left behind, and stopped as was said"
    while any(map(alive, there.values())):
        time.sleep(0.1)
    return done


def manifests(run: Checkout) -> list[Path]:
    """Of all that the run of one claim makes."""
    plan = graph.plan("smoke", ONE)
    those = [path for paths in replicate.outputs(plan).values() for path in paths]
    those += [steps.folder_of(key, seed, plan.scale) / "run.json" for key, seed in plan.runs()]
    return [run.results / path.relative_to(plan.folder) for path in those]


def tally(run: Checkout) -> int:
    return sum(path.exists() for path in manifests(run))


def family(parent: psutil.Process) -> dict[str, psutil.Process]:
    """Snakemake, a job's shell, and what works in it."""
    found = {}
    with suppress(psutil.NoSuchProcess):
        for child in parent.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                shell = child.name() == "bash"
                found["snakemake" if child.ppid() == parent.pid else "shell" if shell else "worker"] = child
    return found


def holds_lock(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(file.path.endswith("/.lock") for file in process.open_files())
    return False


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_same(one: Path, other: Path) -> None:
    """Every step, table, ledger row, figure and marker of the claim, byte for byte.

    Exempt: how long a step took and what memory (`seconds`, `peak_memory_mb`), in `run.json` and in a training's log;
    notebooks and the report, which say when they were executed, have to be there and whole.
    """
    plan = graph.plan("smoke", ONE)
    for key, seed in plan.runs():
        at = Path("steps", key, str(seed))
        runs = [store.unseal(results / at / "run.json") for results in (one, other)]
        assert runs[0]["files"].keys() == runs[1]["files"].keys()
        for name in runs[0]["files"]:
            if (one / at / name).read_bytes() != (other / at / name).read_bytes():
                logs = [pd.read_parquet(results / at / name).drop(columns="seconds") for results in (one, other)]
                pd.testing.assert_frame_equal(*logs, check_exact=True)
        for run in runs:
            for part in ("seconds", "peak_memory_mb", "files"):
                run.pop(part)
        assert runs[0] == runs[1]
    for kind in ("tables", "figures"):
        names = {path.relative_to(one) for path in (one / kind / ONE).glob("*.*")}
        assert names == {path.relative_to(other) for path in (other / kind / ONE).glob("*.*")}
        for name in names:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("ledger.csv", "checks.csv", "verdicts.csv"):
        rows = [[row for row in (at / name).read_bytes().splitlines() if row.startswith(b"gro")] for at in (one, other)]
        assert rows[0] and rows[0] == rows[1], name
    found = replicate.survey(plan)
    assert not found.lacking and not found.damaged and {*found.states.values()} == {"done"}
    assert not leftovers(one)


@pytest.fixture(scope="session")
def one(finished) -> tuple[Checkout, list[str]]:
    """The run of one claim, killed three times, then finished by the same command; and how it was killed."""
    run = finished[0].elsewhere("killed")
    done = [killed(run, random.Random(f"kill {i}")) for i in range(3)]
    code, output = run.replicate("replicate", "--claim", ONE)
    assert code == 0, output
    return run, done


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_one_that_nobody_touched(finished, one, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", one[0].env["CANDOR_RESULTS"])
    assert_same(one[0].results, finished[0].results)


HARM = {
    "steps/reference_game/standard/eval_base/11/cells.parquet": lambda p: p.write_bytes(p.read_bytes()[:100]),
    "steps/reference_game/standard/base/11": shutil.rmtree,
    "batches/11/reference_game_1.json": lambda p: p.write_text("5"),
    "tables/grounding_loss/cells.csv": Path.unlink,
    "tables/grounding_loss/provenance.json": lambda p: p.write_text("null"),
    "ledger.csv": lambda p: p.write_text(p.read_text().replace("not attempted", "replicated")),
    "checks.csv": Path.unlink,
    "figures/grounding_loss/headline.svg": lambda p: p.write_text(""),
    "figures/grounding_loss/arms.json": Path.unlink,
    "notebooks/03_grounding_loss.ipynb": lambda p: p.write_bytes(p.read_bytes()[:1000]),
    "notebooks/07_verdict.html": Path.unlink,
    "report.html": lambda p: (p.unlink(), p.mkdir()),
    "logs/ledger.log": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.slow
def test_whatever_is_harmed_is_named_and_repaired_with_the_command_of_the_run(finished, one, monkeypatch):
    run, before = one[0], one[0].finished()
    monkeypatch.setenv("CANDOR_RESULTS", run.env["CANDOR_RESULTS"])
    for name, harm in HARM.items():
        harm(run.results / name)
    code, output = run.replicate("replicate", "--claim", ONE)
    assert code == 2 and sum(line.startswith("candor: ") for line in output.splitlines()) == 1
    assert "cells.parquet does not match its checksum" in output and "repair --scale smoke" in output
    code, output = run.replicate("repair", "--claim", ONE)
    assert code == 0, output
    assert_same(run.results, finished[0].results)
    made = {path.parent.parent.name for path, then in run.finished().items() if before[path] != then}
    assert made == {"base", "eval_base"}


@pytest.mark.slow
@pytest.mark.long
def test_twenty_kills(finished, monkeypatch):
    """`make test-long`: other moments each time."""
    seed = time.time_ns()
    print(f"random.Random({seed})")
    draw, run = random.Random(seed), finished[0].elsewhere("twenty")
    monkeypatch.setenv("CANDOR_RESULTS", run.env["CANDOR_RESULTS"])
    for _ in range(20):
        if tally(run) == len(manifests(run)):  # something to do again
            for path in draw.sample(sorted(run.results.rglob("run.json")), 7):
                shutil.rmtree(path.parent)
        print(killed(run, draw), flush=True)
    code, output = run.replicate("replicate", "--claim", ONE)
    assert code == 0, output
    assert_same(run.results, finished[0].results)


def test_a_figure_that_is_no_more_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    plan = graph.plan("smoke", "sophistry")
    folder, names = plan.folder / "figures" / "sophistry", list(claims.load("sophistry").figures.FIGURES)
    folder.mkdir(parents=True)
    for name in (*names, "pie"):
        (folder / f"{name}.svg").write_text("<svg/>")
    jobs.figures(plan, "sophistry", names[0])
    assert {path.stem for path in folder.glob("*.svg")} == set(names)
