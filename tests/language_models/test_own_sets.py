"""What docs/your_own.md says of data sets: one file beside the scale, and pretrained models are asked its questions."""

import json
import re

import pytest
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import ROOT, load
from candor.language_models import needs, sets
from candor.run import fetch, own
from candor.run import plan as graph
from candor.run import steps as experiments
from candor.witnesses import run as witnesses
from test_language_models import policy, small  # noqa: F401

CODE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "your_own.md").read_text(), re.DOTALL)[1]
KEY = "hotpot/policy/eval_base"


@pytest.fixture
def plan(tmp_path, monkeypatch, request):
    """`plan(code, sets)`: claim 5 on the stand-in, with a file of one's own."""
    monkeypatch.setattr(own, "ROOT", tmp_path)
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path / "corpora"))
    (tmp_path / "config").mkdir()
    shared = (experiments.steps(), witnesses.TERMS, sets.SETS, own._INSTALLED)
    before = [dict(table) for table in shared]
    models = small(request.getfixturevalue("policy"))["models"].to_dict() | {"voting_questions": 0}

    def planned(code=CODE, asked=("capitals",)):
        (tmp_path / "config" / "mine.py").write_text(code)
        given = {"own": "mine.py", "evidence": ["models"], "models": models | {"eval_sets": list(asked)}}
        settings = load("gpu", overrides=given)
        own.install(settings)
        return graph.Plan(settings, ("brier_fix",))

    yield planned
    for table, kept in zip(shared, before):
        table.clear()
        table.update(kept)


def test_a_set_of_ones_own_is_asked_and_an_edit_makes_its_evaluations_stale(plan):
    mine = plan()
    result, _ = steps.run(KEY, mine.config["models"]["eval_seed"], experiments.steps(), mine.config)
    assert result.table("summary")[["dataset", "grader"]].to_numpy().tolist() == [["capitals", "exact"]]
    assert len(result.table("items")) == 2

    keys = mine.keys("brier_fix")
    first, edited = (plan(code).fingerprints(keys, 11) for code in (CODE, CODE.replace("Bolivia", "Peru")))
    assert {key for key in keys if first[key] != edited[key]} == {key for key in keys if "/eval_" in key}


def test_its_rows_may_lie_in_a_file_and_are_never_fetched(plan, tmp_path):
    mine = plan('from candor.language_models.sets import Corpus\nSETS = {"rivers": Corpus("exact")}\n', ["rivers"])
    known = [experiments.steps()[KEY]]
    assert any("The set rivers has no rows: put them into" in line for line in needs.lacking(known, mine.config))
    (tmp_path / "corpora" / "rivers").mkdir(parents=True)
    row = {"problem": "Which river flows through Paris?", "answer": ["Seine", "the Seine"]}
    (tmp_path / "corpora" / "rivers" / "test.jsonl").write_text(json.dumps(row) + "\n")
    assert not any("rivers" in line for line in needs.lacking(known, mine.config))
    assert sets.prompts("rivers")[0]["answer"] == ["Seine", "the Seine"]
    assert "rivers" not in fetch.names(mine.config)


@pytest.mark.parametrize(
    ("code", "asked", "said"),
    [
        (CODE, ["capitols"], "names the set 'capitols', which nobody defines: choose from hotpot_modified"),
        (CODE.replace('"capitals"', '"gsm8k"'), ["gsm8k"], "gives the set gsm8k a second meaning"),
    ],
)
def test_a_set_that_does_not_fit_is_one_sentence(plan, code, asked, said):
    with pytest.raises(CandorError) as told:
        plan(code, asked)
    assert said in str(told.value) and "\n" not in str(told.value)
