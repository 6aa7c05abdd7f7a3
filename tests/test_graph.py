"""The real graph: its plan as data, and at smoke scale run, killed, resumed, harmed, repaired, edited.

The graph runs in a copy of the checkout, so that the tests may edit its sources, and its results are nobody's.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from candor import claims, experiments, graph, jobs, ledger, replicate, steps
from candor.config import ROOT
from candor.errors import CandorError

PARTS = (
    "Snakefile",
    "environment.yml",
    "requirements.lock",
    "config",
    "profiles",
    "notebooks",
    "lib",
    "data/published",
    "benchmarks",
)


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
    plots = {claim: list(claims.load(claim).plots.FIGURES) for claim in claims.NAMES}
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
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        output, _ = process.communicate(timeout=900)
        return process.returncode, output

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


@pytest.fixture(scope="session")
def resumed(tmp_path_factory) -> tuple[Checkout, dict[Path, int], str]:
    """The graph, killed with all its processes after some steps, then finished by the same command."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    process = checkout.start("candor", "replicate", "--scale", "smoke", "--cores", "2")
    while process.poll() is None and len(checkout.finished()) < 5:
        time.sleep(0.2)
    assert process.poll() is None, process.stdout.read()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = checkout.finished()
    code, output = checkout.replicate()
    assert code == 0, output
    return checkout, before, output


@pytest.mark.slow
def test_a_killed_run_keeps_what_was_finished(resumed):
    checkout, before, output = resumed
    after = checkout.finished()
    assert len(before) >= 5
    assert {path: after[path] for path in before} == before
    total = len(graph.plan("smoke").runs())
    assert len(after) == total
    assert f"{total - len(before)} of {total} steps to run, {len(before)} are done." in output
    assert not list(checkout.results.rglob("*.partial-*"))
    assert len(re.findall(r"^\[step \d+/\d+\] \w+/", output, flags=re.M)) == total - len(before)
    jobs = re.findall(r"^\[job (\d+)/(\d+)\] (\w+)", output, flags=re.M)
    assert jobs[-1] == (jobs[-1][1], jobs[-1][1], "report") and len(jobs) == 2 * len(claims.NAMES) + 10


@pytest.mark.slow
def test_the_ledger_is_complete_and_gives_no_verdict(resumed):
    checkout, _, output = resumed
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
def test_figures_notebooks_and_report_are_there(resumed):
    checkout, _, _ = resumed
    for name in claims.NAMES:
        for figure in claims.load(name).plots.FIGURES:
            assert {p.suffix for p in (checkout.results / "figures" / name).glob(f"{figure}.*")} == {
                *(".svg", ".png", ".json")
            }
    for path in graph.notebooks():
        executed = json.loads((checkout.results / "notebooks" / path.name).read_text())
        assert any("injected-parameters" in cell["metadata"].get("tags", ()) for cell in executed["cells"])
    page = (checkout.results / "report.html").read_text()
    for name in claims.NAMES:
        assert all(f"{figure}.svg" in page for figure in claims.load(name).plots.FIGURES)
        assert claims.load(name).claim.title in page.partition("var workflow_desc = ")[2].partition("\n")[0]
    assert "ledger.csv" in page and "07_verdict" in page


@pytest.mark.slow
def test_a_second_run_does_nothing(resumed):
    checkout, _, _ = resumed
    before = {path: path.stat().st_mtime_ns for path in checkout.results.rglob("*.csv")} | checkout.finished()
    code, output = checkout.replicate()
    assert code == 0, output
    assert "was there already" in output
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


@pytest.mark.slow
def test_an_edited_figure_redraws_itself_and_trains_nothing(resumed):
    checkout, _, _ = resumed
    before, drawn = checkout.finished(), checkout.results / "figures" / "binary_reward"
    times = {path: path.stat().st_mtime_ns for path in drawn.glob("*.svg")}
    checkout.edit("lib/candor/claims/binary_reward/plots.py", "def payoff(tables: Tables)", "def payoff(tables: dict)")
    todo = checkout.would_run()
    assert todo["figures"] == 1
    assert not {"steps", "tables", "ledger"} & set(todo)
    code, output = checkout.run("candor", "figures", "--scale", "smoke")
    assert code == 0 and output.splitlines() == [str(drawn / "payoff.svg")]
    assert {p for p, then in times.items() if p.stat().st_mtime_ns != then} == {drawn / "payoff.svg"}
    assert checkout.finished() == before
    checkout.edit("lib/candor/claims/binary_reward/plots.py", "def payoff(tables: dict)", "def payoff(tables: Tables)")


@pytest.mark.slow
def test_an_edited_trainer_trains_again_and_comments_do_not(resumed):
    checkout, _, _ = resumed
    checkout.edit("lib/candor/training/sft.py", "model.train()\n", "model.train()  # a remark\n")
    assert "steps" not in checkout.would_run()
    checkout.edit("lib/candor/training/sft.py", "weight_decay=0.01", "weight_decay=0.02")
    todo = checkout.would_run()
    checkout.edit("lib/candor/training/sft.py", "weight_decay=0.02", "weight_decay=0.01")
    # This function trains the bases of `witnesses`, on which `annotators` rests too, and no other base.
    plan, stale = graph.plan("smoke"), ("witnesses/", "annotators/")
    assert todo["steps"] == sum(batch.keys[0].startswith(stale) for batch in plan.batches().values())
    assert todo["tables"] == sum(any(key.startswith(stale) for key in plan.keys(name)) for name in plan.claims)


@pytest.mark.slow
def test_a_truncated_result_is_named_and_repaired(resumed):
    checkout, _, _ = resumed
    folder = checkout.results / "steps" / "witnesses" / "twelve" / "eval_rlcr" / "11"
    harmed = folder / "summary.parquet"
    whole = harmed.read_bytes()
    harmed.write_bytes(whole[: len(whole) // 2])
    before = checkout.finished()
    code, output = checkout.replicate()
    assert code == 2
    assert f"{harmed} does not match its checksum" in output and "repair --scale smoke" in output
    code, output = checkout.replicate("repair", "--claim", "brier_fix")  # one, for the sake of the notebooks' time
    assert code == 0, output
    assert "To be made again: witnesses/twelve/eval_rlcr, seed 11." in output
    changed = {path for path, then in checkout.finished().items() if before[path] != then}
    assert changed == {folder / "run.json"}
    pd.testing.assert_frame_equal(pd.read_parquet(harmed), pd.read_parquet(_write(whole, checkout.folder)))


def _write(content: bytes, folder: Path) -> Path:
    place = folder / "before.parquet"
    place.write_bytes(content)
    return place


# --- Marks that promise too much -------------------------------------------------------------------


def test_half_the_figures_of_a_claim_are_taken_away_and_a_figure_that_is_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    plan = graph.plan("smoke", "sophistry")
    folder, names = plan.folder / "figures" / "sophistry", list(claims.load("sophistry").plots.FIGURES)
    folder.mkdir(parents=True)
    for name in (*names, "pie"):
        (folder / f"{name}.svg").write_text("<svg/>")
    jobs.figures(plan, "sophistry", names[0])
    assert {path.stem for path in folder.glob("*.svg")} == set(names)
    replicate.survey(plan)
    assert len(list(folder.glob("*.svg"))) == len(names)
    (folder / f"{names[-1]}.svg").unlink()
    replicate.survey(plan)
    assert not folder.exists()


def test_a_marker_without_its_step_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    plan = graph.plan("smoke")
    [key, *_] = plan.keys("binary_reward")
    for seed in ("11", "12"):
        marker = plan.folder / "batches" / seed / "a.json"
        marker.parent.mkdir(parents=True)
        marker.write_text(json.dumps({key: "0"}))
    (plan.folder / "batches" / "11" / "b.json").write_text("{half")
    states = replicate.survey(plan)
    assert set(states.values()) == {"missing"}
    assert [path.parent.name for path in plan.folder.glob("batches/*/*.json")] == ["12"]


def test_repair_finds_nothing_in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    assert replicate.repair(graph.plan("smoke")) == []
    assert not steps.folder_of("witnesses/expert/base", 11, "smoke").exists()
