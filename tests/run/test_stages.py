"""Seeds in two stages: from the spread of stage 1 alone, and only where a verdict rests on them."""

import pandas as pd
from candor import claims
from candor.core.step import Step
from candor.declare.expressions import Measure, Rows, criterion
from candor.declare.ledger import Arm, Claim
from candor.run import evidence, stages
from candor.run import plan as graph

BASE, RLVR, NULL = (Rows("runs", setting="expert", arm=arm) for arm in ("base", "rlvr", "shuffled_correct"))
NAMES = {"base": "expert", "rlvr": "expert", "shuffled_correct": "expert", "rlvr_kl": "other"}


def table(seeds=range(21, 26), spread=1.0, shift=0.0):
    noise = pd.Series([1.0, -1.0, 0.5, -0.5, 0.0] * 4, index=range(21, 41)).loc[list(seeds)] * spread
    rows = [pd.DataFrame({"setting": NAMES[a], "arm": a, "seed": noise.index, "x": shift, "y": noise}) for a in NAMES]
    runs = pd.concat(rows, ignore_index=True)
    runs.loc[runs["arm"] != "base", "x"] += runs["y"]
    return {"runs": runs}


STAGE_1 = (*range(21, 26),)


def toy(*criteria):
    return Claim("binary_reward", 1, "T", "S", "k", "c", criteria, (), lambda verdict: ("", ""), ("runs", "later"))


V1 = criterion("V1", "s", "e", (RLVR - BASE).x.at_least(0.1, d=1.0), role="limits")
V2 = criterion("V2", "s", "e", (NULL - BASE).x.equivalent(0.2, d=0.75), role="control")
V3 = criterion("V3", "s", "e", RLVR.y.rate(low=0.1), Rows("later", arm="rlvr").x.at_least(0.1), role="limits")
W1 = criterion("W1", "s", "e", (NULL - BASE).x.at_least(0.1, d=0.01))


def n(d, s=0.79057):
    return -int(-((2.776445 * s / d) ** 2) // 1)


def test_an_arm_runs_the_most_seeds_that_a_criterion_asks_for():
    found = stages.arms(toy(V1, V2, V3, W1), table())
    assert found == {
        Arm("expert", "rlvr"): n(1),
        Arm("expert", "shuffled_correct"): n(0.75),
        Arm("expert", "base"): n(0.75),
    }
    assert n(1) == 5 < n(0.75) == 9, "protocol 1 asks for nothing, nor does what has no d or was not run"
    assert stages.arms(toy(V1), table(spread=100)) == dict.fromkeys((Arm("expert", "rlvr"), Arm("expert", "base")), 20)
    every = criterion("V5", "s", "e", Measure(lambda tables: RLVR.x(tables), "x").at_least(0.1, d=0.75), role="limits")
    assert stages.arms(toy(every), table()) == {Arm(): n(0.75)}


def test_stage_2_and_the_mean_change_no_count():
    first = stages.arms(toy(V1, V2), table())
    assert first == stages.arms(toy(V1, V2), table(range(21, 35), shift=9.0))


def test_a_step_runs_stage_2_once_the_tables_of_stage_1_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "load", lambda name: claims.ClaimModules(name, toy(V1, V2)))
    two = {**graph.plan("laptop").config, "protocol": 2, "seeds": STAGE_1, "few_seeds": STAGE_1[:3]}

    def seeds(key, config=two, **fields):
        return stages.seeds_of(Step(f"witnesses/{key}", "m:f", **fields), config, "binary_reward", tmp_path / "tables")

    assert seeds("expert/base") == STAGE_1, "there is no table yet"
    evidence.write_tables(table(), tmp_path / "tables")
    assert seeds("expert/eval_shuffled_correct") == seeds("expert/base") == tuple(range(21, 30))
    assert seeds("expert/rlvr") == seeds("expert/correct") == STAGE_1 and seeds("naive/base") == STAGE_1
    assert seeds("expert/base", seeds="few_seeds") == STAGE_1[:3]
    assert seeds("expert/base", {**two, "protocol": 1}) == seeds(
        "expert/base", {**two, "seeds": STAGE_1, "protocol": 1}
    )
    evidence.write_tables(table(spread=2.0), tmp_path / "tables")
    assert seeds("expert/base") == tuple(range(21, 41)), "other tables are read again"


def test_the_plan_runs_them(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    laptop = graph.plan("laptop", "binary_reward").config
    plan = graph.Plan({**laptop, "protocol": 2, "seeds": STAGE_1, "few_seeds": STAGE_1[:3]}, ("binary_reward",))
    monkeypatch.setattr(claims, "load", lambda name: claims.ClaimModules(name, toy(V1, V2)))
    first, digest = set(plan.runs()), plan.tables_digest("binary_reward")
    assert {seed for _, seed in first} == {*STAGE_1}
    evidence.write_tables(table(), plan.folder / "tables" / "binary_reward")
    more = set(plan.runs()) - first
    assert {seed for _, seed in more} == {26, 27, 28, 29} and digest != plan.tables_digest("binary_reward")
    assert {key for key, _ in more} == {
        f"witnesses/expert/{step}" for step in ("base", "eval_base", "shuffled_correct", "eval_shuffled_correct")
    }
