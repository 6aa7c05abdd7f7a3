"""What docs/your_own.md says: an arm from outside of lib/ runs, is shown, and makes nothing else stale."""

import re

import pytest
from candor import claims
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import ROOT, load
from candor.declare import figures
from candor.run import own
from candor.run import plan as graph
from candor.run import steps as experiments
from candor.witnesses import run as witnesses

PAGE = (ROOT / "docs" / "your_own.md").read_text()
CODE = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
KEY = "witnesses/expert/rlcr_spherical"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """`mine(code)`: the smoke plan of claim 5 with a file of one's own."""
    monkeypatch.setattr(own, "ROOT", tmp_path)
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))
    (tmp_path / "config").mkdir()
    shared = (experiments.steps(), witnesses.TERMS, figures.LOOKS, own._INSTALLED)
    before = [dict(table) for table in shared]

    def plan(code=CODE):
        (tmp_path / "config" / "mine.py").write_text(code)
        return graph.Plan(load("smoke", overrides={"own": "mine.py"}), ("brier_fix",))

    yield plan
    for table, kept in zip(shared, before):
        table.clear()
        table.update(kept)


def fingerprints(plan):
    return plan.fingerprints(plan.keys("brier_fix"), 11)


def test_an_own_arm_is_planned_and_makes_nothing_else_stale(mine):
    plain = fingerprints(graph.Plan(load("smoke"), ("brier_fix",)))
    first = fingerprints(mine())
    assert set(first) - set(plain) == {KEY, KEY.replace("rlcr", "eval_rlcr")}
    assert {key: first[key] for key in plain} == plain
    edited = fingerprints(mine(CODE.replace("score - 1", "2 * score - 2")))
    assert {key for key in first if edited[key] != first[key]} == set(first) - set(plain)
    assert KEY not in graph.plan("laptop").keys("brier_fix")


def test_an_own_arm_is_trained_and_shown(mine):
    plan = mine()
    keys, known = plan.keys("brier_fix"), experiments.steps()
    for key in (key for key in keys if key.split("/")[:2] == ["witnesses", "expert"] and "spherical" in key):
        steps.run(key, 11, known, plan.config)
    tables = claims.load("brier_fix").tables.world(experiments.Results(plan.config))
    row = tables["summary"].set_index("arm").loc["rlcr_spherical"]
    assert row["seed"] == 11 and 0 <= row["accuracy_greedy"] <= 1
    assert "rlcr_spherical" in set(tables["training"]["arm"])
    figure = claims.load("brier_fix").figures.FIGURES["seeds"]({"summary": tables["summary"]})
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert any("spherical" in label for label in labels)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("import numpy", "import nampy", "cannot be used (ModuleNotFoundError: No module named 'nampy')"),
        ('"brier_fix"', '"brier"', "adds arms to 'brier': that can be done to binary_reward and brier_fix"),
        ('"expert"', '"experts"', "names the crowd 'experts': choose one of expert"),
        ('"rlcr_spherical"', '"rlcr"', "gives expert/rlcr a second meaning"),
        ('TERMS = {"spherical"', 'TERMS = {"correct"', "gives the reward correct a second meaning"),
        ('("spherical", 1.0)', '("sperical", 1.0)', "the arm rlcr_spherical has the reward 'sperical', which nobody"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(mine, old, new, said):
    assert old in CODE
    with pytest.raises(CandorError) as told:
        mine(CODE.replace(old, new)).keys("brier_fix")
    assert said in str(told.value) and "\n" not in str(told.value)
