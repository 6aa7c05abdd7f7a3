"""Claim 6: published numbers, theory, criteria on the committed tables and on changed ones, figures."""

from functools import cache
from io import StringIO
from pathlib import Path

import guards
import numpy as np
import pandas as pd
import pytest
from candor.claims.self_feedback import run as steps
from candor.claims.self_feedback import tables as t
from candor.claims.self_feedback.criteria import CLAIM
from candor.claims.self_feedback.figures import FIGURES
from candor.claims.shared import rows, standard
from candor.declare import figures, ledger
from candor.run import evidence, plan

PUBLISHED = Path(__file__).parents[3] / "data" / "published"


@cache
def published():
    return t.published(PUBLISHED)


@cache
def theory():
    return t.theory()


@cache
def reference():
    """The committed tables; a caller must not change them."""
    return evidence.read_tables(plan.REFERENCE / "self_feedback")


def judge(scale="laptop", tables=None, **changed):
    rows, checks, verdicts = ledger.judge(CLAIM, {**(tables or reference()), **changed}, scale)
    return rows.set_index("criterion"), checks.set_index(["criterion", "check"]), verdicts.set_index("part")


def summary(**arms):
    """The committed summary with other values by arm (`trap_`: of the half trap) and column: one number, or several."""
    table = reference()["summary"].copy()
    for name, columns in arms.items():
        arm, setting = name.removeprefix("trap_"), "half_trap" if name.startswith("trap_") else "standard"
        mine = (table["setting"] == setting) & (table["arm"] == arm)
        table.loc[mine, list(columns)] = np.transpose([np.broadcast_to(v, mine.sum()) for v in columns.values()])
    return table


def of(arm, column):
    return rows(standard(reference()["summary"]), arm=arm).set_index("seed")[column]


# --- Published numbers ------------------------------------------------------------------------------


def test_tables_without_runs_are_the_committed_ones():
    for name, table in (published() | theory()).items():
        written = pd.read_csv(StringIO(table.to_csv(index=False)))
        pd.testing.assert_frame_equal(written, reference()[name], rtol=1e-6)


def test_reanalysis_agrees_with_the_derived_rows_beside_the_numbers():
    printed = pd.read_csv(PUBLISHED / "rlsf_main.csv")
    printed["model"] = printed["model"].str.removesuffix(" (paper: Qwen 2.5 7B)")
    printed["arm"] = printed["arm"].map(t.PRINTED)
    derived = printed[printed["setting"].str.startswith("difference to ")]
    ours = published()["differences"].set_index(["model", "dataset", "arm", "comparison", "metric"])
    assert len(derived) == len(ours) == 84
    for row in derived.itertuples():
        other = t.PRINTED[row.setting.removeprefix("difference to ")]
        at = (row.model, row.dataset, row.arm, other, row.metric.removesuffix("_difference"))
        found = ours.loc[at, ["value", "low", "high"]].tolist()
        assert found == pytest.approx([row.value, row.ci_low, row.ci_high], abs=0.006), at
    theirs = {"underconfidence_share_min": "under_low", "mean_confidence_min": "confidence_low"}
    theirs |= {"mean_confidence_max": "confidence_high", "accuracy_is_k_over_n": "fits"}
    both = published()["underconfidence"].assign(fits=published()["k_of_n"]["fits"])
    both = both.set_index(["model", "dataset", "arm"])
    for row in printed[printed["metric"].isin(theirs)].itertuples():
        at = (row.model, row.dataset, row.arm)
        assert both.at[at, theirs[row.metric]] == pytest.approx(row.value, abs=0.006), (at, row.metric)


def test_a_percentage_of_so_many_items_is_whole_or_not():
    assert t.whole(50, 2) and t.whole(77.77, 180) and not t.whole(98.12, 180)


def test_theory_agrees_with_the_simulation_beside_the_numbers():
    ours = theory()["artefact"].set_index("temperature")
    printed = rows(published()["printed_sweeps"], world="ten_answers").set_index("temperature")
    for name in ("ece_probability", "ece_disparity", "accuracy"):
        np.testing.assert_allclose(100 * ours[name], printed.loc[ours.index, name], atol=0.15)


def test_audit_sees_an_evaluation_on_the_way(monkeypatch):
    assert (theory()["audit"]["evaluations"] == 0).all() and len(theory()["audit"]) == 19
    step = steps.STEPS["arithmetic/standard/judge_fluency"]
    leaking = step.__class__(step.key, step.make, (*step.needs, "arithmetic/standard/eval_base"), step.options)
    monkeypatch.setitem(steps.STEPS, step.key, leaking)
    audit = t._audit()
    assert set(rows(audit, evaluations=1)["step"]) == {"judge_fluency", "rlsf_fluency", "fluency_rlsf_long"}
    ledger, checks, verdicts = judge(audit=audit)
    assert ledger.verdict["W15"] == verdicts.verdict["(iv)"] == "not replicated"
    assert checks.value[("W15", "steps that rest on an evaluation")] == 3


# --- Criteria ---------------------------------------------------------------------------------------

FIXED = [f"W6d {start}" for start in t.STARTS]
WHOLE = {"assured": {"sampled_accuracy": 0.44}}  # with it all four gates are open


@pytest.mark.parametrize(
    ("gate", "change", "closed"),
    [
        ("", {}, []),
        ("W0a", {"fluency": {"sampled_accuracy": 0.55}}, ["W3", "W4", "W5a", "W5b"]),
        ("W0a", {"fluency": {"share_full": 0.01}}, ["W3", "W4", "W5a", "W5b"]),
        ("W0b", {"binary": {"greedy_ece": 0.07}}, ["W6b", *FIXED]),
        ("W0c", {"assured": {"sampled_accuracy": 0.52}}, ["W6a", "W6d assured", "W6f assured"]),
        ("W0c", {"assured": {"greedy_ece": 0.05}}, ["W6a", "W6d assured", "W6f assured"]),
        ("W0d", {"sharpened": {"sampled_ece": 0.01}}, ["W6c"]),
    ],
)
def test_gates_close_what_depends_on_them(gate, change, closed):
    ledger, checks, _ = judge(summary=summary(**{**WHOLE, **change}))
    world = [c for c in ledger.index if c.startswith("W")]
    assert [c for c in world if ledger.verdict[c] == "not attempted"] == sorted(closed, key=world.index)
    assert all(ledger.note[c] == f"gate failed: {gate}" for c in closed)
    assert not gate or ledger.verdict[gate] == checks.verdict[(gate, gate)] == "not replicated"


def test_what_is_no_column_agrees_with_plain_loops():
    _, checks, _ = judge()
    agree, nearest = {seed: [] for seed in of("fluency", "kl_start").index}, []
    for start in (*t.STARTS, *t.FEW_STARTS):
        for seed in of(f"rlsf_{start}", "greedy_gap").index:
            gap, confidence = (
                of(f"rlsf_{start}", c)[seed] - of(start, c)[seed] for c in ("greedy_gap", "greedy_confidence")
            )
            agree[seed].append((gap > 0) == ((1 - of(start, "slope_b")[seed]) * confidence > 0))
    share = checks.value[("W8", "share of starts whose sign agrees")]
    assert share == pytest.approx(np.mean([np.mean(signs) for signs in agree.values()]))
    for seed in of("fluency_sft_1", "kl_start").index:
        kl = {arm: abs(of(arm, "kl_start")[seed] - of("rlsf_fluency", "kl_start")[seed]) for arm in t.CHECKPOINTS}
        rival = of(min(kl, key=kl.get), "sampled_accuracy")[seed]
        nearest.append(100 * (rival - of("rlsf_fluency", "sampled_accuracy")[seed]))
    assert checks.per_seed[("W10", "SFT minus RLSF-RLOO: sampled accuracy")] == " ".join(f"{v:.4f}" for v in nearest)
    runs = [100 * (of(arm, "sampled_accuracy") - of("fluency", "sampled_accuracy")).dropna() for arm in t.SHUFFLES]
    assert checks.value[("W11", "standard deviation over runs")] == pytest.approx(np.std(np.concatenate(runs), ddof=1))
    null = pd.concat(runs, axis=1).mean(axis=1).mean()
    assert checks.value[("W11", "shuffled minus fluency: sampled accuracy")] == pytest.approx(null)


FALLING = np.array([0.5, 0.8, 0.85, 0.8, 0.72, 0.68, 0.62, 0.6, 0.58])
SURE = np.array([0.5, 0.9, 0.97, 0.99, 0.99, 0.995, 0.995, 0.995, 0.995])


@pytest.mark.parametrize(
    ("accuracy", "confidence", "verdict", "steps", "note"),
    [
        (
            FALLING,
            SURE,
            "partly",
            3,
            "27, 27, 27 points, with confidence at most 0.995, 0.995, 0.995; collapse at step 80",
        ),
        (np.linspace(0.5, 0.9, 9), SURE, "not replicated", 0, "collapse at step -, -, -"),
        (FALLING, np.full(9, 0.9), "not replicated", 0, "collapse at step -, -, -"),
        (FALLING[:5], SURE[:5], "not attempted", 0, "online did not reach step 160 on every seed"),
    ],
)
def test_a_collapse_is_a_fall_while_the_model_is_certain(accuracy, confidence, verdict, steps, note):
    made = pd.DataFrame({"accuracy": accuracy, "confidence": confidence, "arm": "online", "setting": "standard"})
    made = made.assign(step=20 * made.index, greedy_accuracy=0.5, greedy_confidence=0.5)
    rest = reference()["trajectory"].query("arm != 'online'")
    trajectory = pd.concat([rest, *(made.assign(seed=seed) for seed in (11, 12, 13))])
    ledger, checks, _ = judge(trajectory=trajectory)
    assert ledger.verdict["W12"] == verdict and note in ledger.note["W12"]
    if verdict != "not attempted":
        assert checks.value[("W12", "seeds with such a step")] == steps
        assert ledger.verdict["W12-greedy"] == "not replicated"


@pytest.mark.parametrize(
    ("change", "criterion", "note"),
    [
        ({"rlsf_assured": {"greedy_ece": 0.4}}, "W6a", "greedy ECE did not fall"),
        ({"rlsf_assured": {"fixed_ece": 0.0}}, "W6a", "the probabilities themselves changed (W6d)"),
        ({"rlsf_assured": {"greedy_ece": 0.2, "greedy_accuracy": 0.9, "fixed_ece": 0.5}}, "W6a", "came from accuracy"),
        ({"rlsf_assured": {"greedy_ece": 0.2, "greedy_accuracy": 0.1, "fixed_ece": 0.5}}, "W6a", "came from selection"),
        ({arm: {"sampled_accuracy": 0.9} for arm in t.CHECKPOINTS}, "W10", 'RLSF not "needed": SFT is at least'),
        ({arm: {"sampled_accuracy": 0.1} for arm in t.CHECKPOINTS}, "W10", 'RLSF "needed": SFT is at least 2 points'),
        ({}, "W14", "not as expected"),
        ({"trap_rlsf_fluency": {"greedy_accuracy": 0.0, "greedy_gap": 0.5}}, "W14", "; as expected"),
    ],
)
def test_notes_go_by_what_came_out(change, criterion, note):
    assert note in judge(summary=summary(**{**WHOLE, **change}))[0].note[criterion]


def test_the_words_for_parts():
    rule, right = CLAIM.overall, dict.fromkeys((c.id for c in CLAIM.criteria), "replicated")
    no, gone = "not replicated", "not attempted"
    strong, repair = (part.rule for part in CLAIM.parts[1:3])
    assert rule(right)[0] == "replicated" and strong(right)[1].startswith("better steps;")
    assert strong(right | {"W5b": no})[1].startswith("more stepwise traces;")
    assert strong(right | {"W5a": no, "W5b": no})[1].startswith("neither more stepwise traces nor better steps")
    assert strong(right | {"W3": gone})[1].startswith("open;")
    for one, other, word in (
        ("replicated", no, "partly"),
        ("replicated", gone, "partly"),
        ("partly", no, "partly"),
        ("inconclusive", no, "inconclusive"),
        ("inconclusive", gone, "inconclusive"),
        (no, gone, no),
        (gone, gone, gone),
    ):
        for words in ({"W6a": one, "W6b": other}, {"W6a": other, "W6b": one}):
            assert repair(right | words)[0] == word
            assert rule(right | words)[0] == ("partly" if word != gone else gone)
    assert "repaired from fluency, binary (W6d)" in repair(right | {"W6d assured": no})[1]
    assert "no repair of the probabilities is shown" in repair(right | dict.fromkeys(FIXED, no))[1]
    assert "was not tested (W6d)" in repair(right | dict.fromkeys(FIXED, gone))[1]
    word, note = rule(right | {"W3": "inconclusive"})
    assert word == "inconclusive" and note.startswith("by parts: ")
    word, note = rule(right | {"W1": gone})
    assert word == gone and note.startswith("still missing: (i); ")


def test_what_was_not_run_is_left_out():
    table = reference()["summary"]
    for arms, lost in ((t.SHUFFLES[1:], []), (t.SHUFFLES, ["W4", "W11"]), (("rlsf_base",), ["W6e"])):
        verdict = judge(summary=table[~table["arm"].isin(arms)])[0].verdict
        assert (verdict[["W4", "W6e", "W11"]] == "not attempted").tolist() == [c in lost for c in ("W4", "W6e", "W11")]
    smoke = judge("smoke")[0].verdict
    assert set(smoke.filter(like="W").drop("W15")) == {"not attempted"} and smoke["P6"] == "replicated"


@cache
def pretrained(rlsf=0.03, ece=-0.04, seeds=(11, 12, 13), auroc=0.7):
    """Made-up tables of pretrained models with the columns that `reasoning_models.models` documents."""
    sets = ("gsm8k", "commonsense_qa")
    arms = {"base": (0.4, 0.2), "cot": (0.44, 0.2), "rlhf": (0.38, 0.22), "dpo": (0.39, 0.25)}
    arms |= {"rlsf": (0.4 + rlsf, 0.2 + ece)}
    runs = [
        {"dataset": dataset, "arm": arm, "seed": seed, "accuracy": x + 0.0005 * (seed - 12), "ece": y}
        for dataset in sets
        for seed in seeds
        for arm, (x, y) in arms.items()
    ]
    ranks = {"prompts": 250, "within_auroc": auroc, "within_auroc_low": auroc - 0.05, "max_path_gain": 0.04}
    flips = {"criterion": ["M3 base", "M5"], "dataset": "gsm8k", "variant": "disparity", "flips": [True, False]}
    cells = {"model": "qwen", "dataset": "gsm8k", "arm": "rlsf", "accuracy_change": 0.06, "ece_change": -0.02}
    return {
        "models_summary": pd.DataFrame(runs),
        "models_ranking": pd.DataFrame([{"dataset": dataset} | ranks for dataset in sets]),
        "models_differences": pd.DataFrame(runs).query("arm == 'rlsf'").assign(other="base", mcnemar_p=0.04),
        "models_flips": pd.DataFrame(flips),
        "models_cells": pd.DataFrame([cells]),
    }


def test_pretrained_models_pass_and_fail():
    ledger, checks, _ = judge("gpu", **pretrained())
    assert ledger.verdict["M1"] == "replicated" and (ledger.verdict[["M2", "M3", "M4"]] == "partly").all()
    assert ledger.verdict["M5"] == "reported" and ledger.note["M6"] == "flips: M3 base on gsm8k with disparity"
    printed = checks.value[("M7", "accuracy change minus the printed one, DeepSeek-R1-Distill-Qwen-7B GSM8K")]
    assert printed == pytest.approx(6 - 4.95) and ledger.verdict["M7"] == "not attempted", "other cells are missing"
    ledger, *_ = judge("gpu", **pretrained(rlsf=-0.05, ece=0.05, auroc=0.52))
    assert (ledger.verdict[["M1", "M2", "M3", "M4"]] == "not replicated").all()
    few = pretrained(seeds=(11, 12))
    ledger, *_ = judge("gpu", **few | {"models_ranking": few["models_ranking"].assign(prompts=199)})
    assert (ledger.verdict[["M1", "M2", "M3", "M4", "M5"]] == "not attempted").all()
    assert ledger.note["M5"] == "3 seeds of dpo on gsm8k are needed and 2 were run; " + ledger.note["M5"].split("; ")[1]


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    tables = reference() | pretrained()
    guards.check(CLAIM, tables, of_what_ran=("W4", "W5a", "W8", "W11", "W15"), made_with_others=("cot",))


# --- Tables and figures -----------------------------------------------------------------------------


class Made:
    """Finished steps: every table has the arm and a seed."""

    def collect(self, setting, arms, table, world):
        assert world == "arithmetic"
        return pd.DataFrame(
            [(setting, arm, seed) for arm in arms for seed in (12, 11)], columns=["setting", "arm", "seed"]
        )

    trained = collect


def test_tables_of_the_world_name_arms_and_starts():
    tables = t.world(Made())
    assert set(tables) == {name for name, table in reference().items() if "seed" in table}
    assert set(tables["summary"].query("setting == 'standard'")["arm"]) == set(t.ARMS)
    assert set(tables["summary"].query("setting == 'half_trap'")["arm"]) == set(t.TRAP)
    assert set(tables["pairs"]["arm"]) == set(tables["judges"]["arm"]) == {*t.STARTS, *t.FEW_STARTS}
    assert tables["traces"]["seed"].tolist() == [11]


def test_everything_is_needed_and_what_decides_comes_first():
    assert len(set(t.NEEDS)) == len(t.NEEDS) and set(t.NEEDS) == set(steps.STEPS)
    assert t.NEEDS[: len(t.DECISIVE)] == t.DECISIVE
    place = {key: k for k, key in enumerate(t.NEEDS)}
    assert all(place[need] < place[key] for key in t.NEEDS for need in steps.STEPS[key].needs)


def test_figures_stand_one_seed_and_missing_arms():
    gone = ("base", "rlsf_binary", "rlsf_sharpened", "rlsf_base", "online")
    tables = {
        name: table[(table["seed"] == 11) & ~table["arm"].isin(gone)] if {"seed", "arm"} <= set(table) else table
        for name, table in reference().items()
    }
    tables |= {name: reference()[name] for name in ("temperatures", "traces")}
    for plot in FIGURES.values():
        assert plot(tables).get_axes()


def test_every_arm_has_its_own_look():
    assert set(t.ARMS) <= set(figures.LOOKS)
    assert len({figures.look(arm)[1:] for arm in t.ARMS}) == len(t.ARMS)
    assert all("RLSF-RLOO" in figures.label(arm) for arm in (*t.REPAIRED, "fluency_rlsf_long"))
