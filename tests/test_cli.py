"""The command line: what is wrong is said in one sentence, with exit code 2."""

import os
import subprocess
import sys

import pytest
from candor import __main__ as cli
from candor import claims
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError, DivergedError
from candor.run import jobs, progress, replicate
from candor.run import plan as graph
from candor.run import steps as experiments

BASE = "witnesses/expert/base"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def said(capsys):
    """Runs a command; returns its exit code, output and error."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = cli.main(list(words))
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("replicate", "--scale", "huge"), "no scale 'huge' (no file config/huge.yaml): choose one of gpu, laptop"),
        (("replicate", "--claim", "brier"), f"no claim 'brier': choose one of {', '.join(claims.NAMES)}"),
        (("replicate", "--cores", "many"), "a number of cores is a whole number from 1, not 'many'"),
        (("steps", "--scale", "smoke", "--seed", "one", BASE), "a seed is a whole number, such as 11, not 'one'"),
        (("steps", "--scale", "smoke", "--seed", "11", "witnesses/expert/rlvx"), "there are witnesses/expert/base"),
        (("steps", "--scale", "smoke", "--seed", "11", "rlvr"), "witnesses/abstaining, witnesses/expert"),
        (("figures", "--claim", "binary_reward", "--figure", "pie"), "no figure 'pie': choose one of payoff"),
        (("report", "--scale", "smoke"), "Nothing has been computed at scale smoke: run `make replicate SCALE=smoke`"),
        (("verify", "--scale", "smoke"), "run `make replicate SCALE=smoke`"),
        (("ledger", "--scale", "smoke"), "no tables at scale smoke: run `make replicate SCALE=smoke`"),
        (("cost", "--hardware", "abacus"), "There is no hardware 'abacus': choose one of h100, h100_pcie"),
        (("cost", "--csv", "/nowhere/cost.csv"), "/nowhere/cost.csv cannot be written"),
        (("fetch", "everything"), "nothing to fetch called 'everything'"),
        (("sheet", "turns.csv"), "No model has written anything at scale laptop: replicate it first."),
        (("sheet", __file__), "is there already and may hold labels"),
        (("steps", "--scale", "smoke", "--seed", "12", BASE), "has no seed 12 at scale smoke: choose 11, 0 to 4 for"),
        (("paint",), "invalid choice: 'paint'"),
        (("ledger", "--all", "x"), "Unrecognized arguments: --all x"),
    ],
)
def test_what_is_wrong_is_one_sentence(said, words, sentence):
    code, _, error = said(*words)
    assert code == 2
    assert sentence in error
    assert error.startswith("candor: ") and len(error.strip().splitlines()) == 1


def test_list_shows_scales_claims_and_steps(said):
    code, shown, _ = said("list", "--scale", "smoke")
    assert code == 0
    for word in ("laptop", "binary_reward", "brier_fix", "witnesses/expert/eval_rlcr  (seeds 11)"):
        assert word in shown


def test_step_wants_a_number_and_a_known_name():
    import candor

    for seed in ("11", True, -1, 10**31):
        with pytest.raises(CandorError, match=f"A seed is a whole number from 0 to 1000000, such as 11, not {seed!r}"):
            candor.step(BASE, seed=seed, scale="smoke")
    with pytest.raises(CandorError, match="there are witnesses/expert/base"):
        candor.step("witnesses/expert/rlvx", scale="smoke")


def test_step_runs_once_and_then_loads(capsys):
    import candor

    made = candor.step(BASE, scale="smoke")
    assert "100%" in capsys.readouterr().err
    before = (made.folder / "run.json").stat().st_mtime_ns
    assert candor.step(BASE, scale="smoke").table("log")["loss"].notna().all()
    assert (made.folder / "run.json").stat().st_mtime_ns == before
    assert not capsys.readouterr().err


def test_step_makes_what_it_needs_first(monkeypatch):
    import candor

    key, made = "annotators/main/eval_policy_naive_full", []  # some of it is needed by what it needs alone
    monkeypatch.setattr(steps, "state", lambda *_: "missing")
    monkeypatch.setattr(steps, "run", lambda name, *_, **__: made.append(name))
    monkeypatch.setattr(steps, "read", lambda *_: None)
    candor.step(key, scale="smoke")
    assert made[-1] == key and BASE in made and len(made) == len({*made})
    assert all(need in made[:i] for i, name in enumerate(made) for need in experiments.steps()[name].needs)


def test_a_loss_that_is_not_a_number_is_said(said, results, monkeypatch):
    wild = config.load("smoke", overrides={"world": {"witnesses": {"base_lr": 1e12}}})
    plan = graph.Plan(wild, ("binary_reward",))
    with pytest.raises(DivergedError, match="lower the learning rate"):
        jobs.batch(plan, 11, [BASE], results / "marker.json", "a.log")
    [event] = [event for event in progress.events(plan) if "failed" in event]
    assert event["failed"] == f"{BASE}, seed 11" and event["log"] == "a.log"
    assert not (results / "marker.json").exists()
    assert not list(results.rglob(".*")) and not list(plan.folder.glob("progress/*.json"))
    monkeypatch.setattr(graph, "plan", lambda *_: plan)
    code, _, error = said("steps", "--scale", "smoke", "--seed", "11", BASE)
    assert code == 2 and "The loss became" in error


@pytest.mark.parametrize(
    "place, sentence",
    [("{tmp}/file/results", "is in the way"), ("/sys/kernel/candor", "CANDOR_RESULTS"), ("/proc/candor", "cannot be")],
)
def test_a_folder_that_cannot_be_written_is_said_before_any_work(said, tmp_path, monkeypatch, place, sentence):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CANDOR_RESULTS", place.format(tmp=tmp_path))
    for command in ("replicate", "repair"):
        code, _, error = said(command, "--scale", "smoke")
        assert code == 2 and sentence in error and "CANDOR_RESULTS" in error and len(error.splitlines()) == 1


def test_no_room_is_said_before_any_work(said, monkeypatch):
    monkeypatch.setattr(replicate, "FREE_MB", 10**12)
    code, _, error = said("replicate", "--scale", "smoke")
    assert code == 2 and "MB are free" in error


@pytest.mark.parametrize("there, lacking", [([], "bash"), (["bash", "python", "papermill"], "jupyter")])
def test_a_missing_program_is_said_before_any_work(said, tmp_path, monkeypatch, there, lacking):
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    code, _, error = said("replicate", "--scale", "smoke")
    assert code == 2 and f"{lacking} is not installed: run `make environment`." in error


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("left", [True, False])
def test_a_second_replication_is_refused_and_the_first_is_named(said, left):
    folder = graph.plan("smoke").folder
    folder.mkdir(parents=True)
    environment = os.environ | ({replicate._HELD: str(folder)} if left else {})
    command, pipe = [sys.executable, "-c", HOLD, str(folder / ".lock")], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as other:
        other.stdout.readline()
        for command in ("replicate", "repair"):
            code, _, error = said(command, "--scale", "smoke")
            assert code == 2 and f"(process {other.pid}, since 20" in error and f"`kill {other.pid}`" in error
            assert ("left behind by a replication that was killed" in error) == left
            assert ("Another replication" in error) != left
        other.stdin.close()
    replicate.hold(folder).close()  # the lock is free again
    replicate.hold(folder).close()


def test_known_steps_pass_the_check():
    graph.check_keys(list(experiments.steps()))
    assert steps.results_root().name == "results"
