"""Claim 5: published numbers, theory, criteria, figures."""

from functools import cache
from pathlib import Path

import guards
import numpy as np
import pandas as pd
import pytest
from candor import rewards
from candor.claims import shared
from candor.claims.brier_fix import tables as t
from candor.claims.brier_fix.criteria import CLAIM
from candor.claims.brier_fix.figures import FIGURES
from candor.declare import ledger
from candor.run import evidence
from candor.run import plan as graph
from candor.witnesses import run as witnesses

PUBLISHED = Path(__file__).parents[3] / "data" / "published"


@cache
def published():
    return t.published(PUBLISHED)


@cache
def theory():
    return t.theory(questions=40_000, tabular_questions=150, group_steps=60)


@cache
def reference():
    """The committed tables, and made-up ones of pretrained models; a caller must not change them."""
    return evidence.read_tables(graph.REFERENCE / "brier_fix") | guards.pretrained()


def judge(scale="laptop", *, without=(), **changed):
    """Verdicts of the reference with tables in place of its own, and without the rows of (setting, arm)."""
    tables = {**reference(), **changed}
    for setting, arm in without:
        for name, table in tables.items():
            if {"setting", "arm"} <= set(table):
                tables[name] = table[(table["setting"] != setting) | (table["arm"] != arm)]
    rows, checks, verdicts = ledger.judge(CLAIM, tables, scale)
    return rows.set_index("criterion"), checks.set_index(["criterion", "check"]), verdicts.set_index("part")


def table(name, /, *changes):
    """A reference table with other values: (column, value, where by column)."""
    frame = reference()[name].copy()
    for column, value, where in changes:
        rows = np.logical_and.reduce([frame[key] == wanted for key, wanted in where.items()])
        assert rows.any()
        frame.loc[rows, column] = value
    return frame


# --- Published numbers: every number that the text relies on ----------------------------------------


@pytest.mark.parametrize(
    ("family", "domain", "arm", "printed"),
    [  # accuracy, AUROC, Brier, ECE
        ("HotpotQA", "in", "base", (0.397, 0.540, 0.525, 0.535)),
        ("HotpotQA", "in", "rlvr", (0.630, 0.500, 0.370, 0.370)),
        ("HotpotQA", "in", "classifier", (0.630, 0.664, 0.217, 0.070)),
        ("HotpotQA", "in", "answer_probability", (0.630, 0.715, 0.357, 0.360)),
        ("HotpotQA", "in", "rlcr", (0.621, 0.687, 0.210, 0.030)),
        ("HotpotQA", "out", "base", (0.533, 0.540, 0.413, 0.400)),
        ("HotpotQA", "out", "rlvr", (0.539, 0.501, 0.460, 0.460)),
        ("HotpotQA", "out", "classifier", (0.539, 0.583, 0.268, 0.237)),
        ("HotpotQA", "out", "answer_probability", (0.539, 0.602, 0.415, 0.417)),
        ("HotpotQA", "out", "rlcr", (0.562, 0.677, 0.212, 0.206)),
        ("Big-Math", "in", "base", (0.561, 0.558, 0.397, 0.392)),
        ("Big-Math", "in", "rlvr", (0.697, 0.472, 0.284, 0.258)),
        ("Big-Math", "in", "classifier", (0.729, 0.783, 0.153, 0.095)),
        ("Big-Math", "in", "rlcr", (0.727, 0.674, 0.170, 0.096)),
        ("Big-Math", "in", "sft_rlcr", (0.722, 0.776, 0.141, 0.081)),
        ("Big-Math", "out", "base", (0.478, 0.533, 0.456, 0.446)),
        ("Big-Math", "out", "rlvr", (0.495, 0.516, 0.493, 0.494)),
        ("Big-Math", "out", "classifier", (0.525, 0.547, 0.339, 0.334)),
        ("Big-Math", "out", "rlcr", (0.509, 0.599, 0.278, 0.251)),
        ("Big-Math", "out", "sft_rlcr", (0.438, 0.659, 0.237, 0.176)),
    ],
)
def test_table_1(family, domain, arm, printed):
    row = shared.rows(published()["main"], family=family, domain=domain, arm=arm)
    np.testing.assert_allclose(row[["accuracy", "auroc", "brier", "ece"]].to_numpy(float)[0], printed, atol=7e-4)


def test_broad_win_with_three_exceptions():
    wins = published()["wins"].set_index(["against", "metric"])
    counts = {("rlvr", "brier"): 13, ("rlvr", "ece"): 13, ("rlvr", "auroc"): 15, ("base", "brier"): 14}
    assert {key: wins.wins[key] for key in counts} == counts and (wins.cells == 16).all()
    assert wins.lost[("rlvr", "brier")] == wins.lost[("rlvr", "ece")]
    assert wins.lost[("rlvr", "brier")].count("CommonsenseQA") == 2
    assert "GSM8K (Big-Math-trained)" in wins.lost[("rlvr", "brier")]
    cells = published()["cells"].set_index(["family", "dataset"])
    for key, ours, theirs in (
        (("HotpotQA", "CommonsenseQA"), 0.302, 0.092),
        (("Big-Math", "CommonsenseQA"), 0.340, 0.126),
        (("Big-Math", "GSM8K"), 0.119, 0.048),
    ):
        row = cells.loc[key]
        np.testing.assert_allclose(row[["rlcr_ece", "rlvr_ece"]].to_numpy(float), (ours, theirs), atol=6e-4)
        assert row.rlcr_confidence < row.rlcr_accuracy


def test_jointly_against_the_base_and_parity_with_rlvr():
    main = published()["main"].set_index(["family", "domain", "arm"])
    change = main.loc[("HotpotQA", "in", "rlcr")] - main.loc[("HotpotQA", "in", "base")]
    assert change.accuracy == pytest.approx(0.224, abs=5e-4) and change.ece == pytest.approx(-0.505, abs=5e-4)
    parity = published()["parity"].set_index(["family", "domain", "reading"]).difference
    assert parity[("HotpotQA", "in")].to_numpy() == pytest.approx([-0.009, -0.009], abs=1e-6)
    assert parity[("Big-Math", "in", "as printed")] == pytest.approx(-0.002, abs=1e-6)
    assert parity[("Big-Math", "in", "as released")] == pytest.approx(0.030, abs=5e-4)
    cells = published()["cells"]
    each = cells.rlcr_accuracy - cells.rlvr_accuracy
    assert (each.min(), each.max()) == pytest.approx((-0.034, 0.068), abs=6e-4)


def test_a_constant_gets_far():
    constant = published()["constant"].set_index("family")
    wanted = {
        "constant_confidence": (0.621, 0.727),
        "constant_brier": (0.250, 0.297),
        "rlvr_brier": (0.460, 0.493),
        "classifier_brier": (0.268, 0.339),
        "rlcr_brier": (0.212, 0.278),
        "share_explained": (0.85, 0.91),
        "beats_constant": (0.038, 0.020),
    }
    for column, values in wanted.items():
        atol = 4e-3 if column == "share_explained" else 6e-4
        np.testing.assert_allclose(constant.loc[["HotpotQA", "Big-Math"], column], values, atol=atol)
    assert (constant.classifier_beats_constant < 0).all()
    cells = published()["cells"]
    better = cells[cells.rlcr_brier < cells.own_constant_brier]
    assert set(better[better.domain == "out"].dataset) == {"TriviaQA"}
    inside = cells[cells.domain == "in"]
    assert set(inside.dataset) - set(better[better.domain == "in"].dataset) == {"GSM8K"} and len(inside) == 5


def test_constants_agree_with_the_reanalysis_beside_the_numbers():
    printed = pd.read_csv(PUBLISHED / "rlcr_main.csv").query("metric == 'brier'")
    cells = published()["cells"].set_index(["family", "dataset"])
    for arm, column in (("constant_forecaster", "constant_brier"), ("own_accuracy_constant", "own_constant_brier")):
        for row in printed[(printed.arm == arm) & (printed.dataset != "out-of-domain")].itertuples():
            assert cells[column][(shared.FAMILIES[row.setting], row.dataset)] == pytest.approx(row.value, abs=1e-4)


def test_narrow_band_and_few_values():
    band = published()["narrow_band"].set_index("family")
    assert (band.slope["HotpotQA"], band.slope["Big-Math"]) == pytest.approx((0.23, 0.08), abs=5e-3)
    found = band.loc["HotpotQA", ["confidence_low", "confidence_high", "accuracy_low", "accuracy_high"]]
    np.testing.assert_allclose(found.to_numpy(float), (0.46, 0.67, 0.12, 0.91), atol=5e-3)
    assert (band.datasets == 8).all()
    values = published()["confidence_values"].query("arm == 'rlcr'")
    assert values.distinct_confidence_values.between(10, 15).all() and values.values_with_3pct_mass.isin([5, 6]).all()


def test_headline_at_the_floor_and_ranking_apart():
    floor = published()["floor"].set_index("n").loc[1000]
    assert (floor.ece_floor_mean, floor.ece_floor_p95) == (0.028, 0.044)
    inside = published()["main"].query("domain == 'in'").set_index(["family", "arm"])
    assert floor.ece_floor_mean < inside.ece[("HotpotQA", "rlcr")] < floor.ece_floor_p95
    assert inside.loc["HotpotQA"].auroc.idxmax() == "answer_probability"
    math = inside.loc["Big-Math"]
    assert math.auroc["classifier"] > math.auroc["rlcr"] and math.brier["classifier"] < math.brier["rlcr"]
    assert math.ece["classifier"] == pytest.approx(math.ece["rlcr"], abs=1e-3)


def test_independent_parity_and_skill():
    parity = published()["swap_parity"].set_index(["dataset", "split"]).difference
    printed = {
        "BigMath": (-0.001, -0.007, -0.011),
        "DeepMath-103K": (-0.020, -0.014, -0.021),
        "HotpotQA-Modified": (0.004, -0.007, -0.007),
    }
    for dataset, values in printed.items():
        np.testing.assert_allclose(parity[dataset][["easy", "medium", "hard"]], values, atol=6e-4)
    assert parity[("HotpotQA", "all")] == pytest.approx(-0.007, abs=5e-4)
    assert (parity < 0).sum() == 9 and len(parity) == 10
    check = published()["swap_check"]
    assert check["rows"].sum() == check.agree.sum() == 208
    skill = published()["swap_skill"].set_index("dataset")
    wanted = {"BigMath": 0.31, "DeepMath-103K": 0.07, "HotpotQA-Modified": 0.16, "HotpotQA": -0.04}
    for dataset, value in wanted.items():
        assert skill.skill[dataset] == pytest.approx(value, abs=5e-3)
    row = skill.loc["HotpotQA", ["brier", "own_constant_brier", "auroc"]]
    np.testing.assert_allclose(row.to_numpy(float), (0.236, 0.227, 0.579), atol=6e-4)


def test_a_bounded_rule_fails():
    swap = published()["swap"].set_index(["arm", "dataset", "split"])
    printed = {
        "Correctness-only": (0.627, 0.425, 0.210),
        "Brier-1": (0.632, 0.418, 0.203),
        "Brier-2": (0.530, 0.232, 0.096),
        "Log-1": (0.202, 0.062, 0.020),
        "Log-1/ln202": (0.627, 0.420, 0.209),
    }
    for arm, values in printed.items():
        found = swap.accuracy[arm]["HotpotQA-Modified"][["easy", "medium", "hard"]]
        np.testing.assert_allclose(found, values, atol=6e-4)
    lost = 1 - swap.relative
    np.testing.assert_allclose(
        lost["Brier-2"]["HotpotQA-Modified"][["easy", "medium", "hard"]], (0.16, 0.45, 0.54), atol=6e-3
    )
    assert lost["Brier-2"]["BigMath"].max() <= 0.014 + 5e-4
    assert (
        swap.accuracy["Log-1"]["DeepMath-103K"].max() < 1e-3 and swap.accuracy["Brier-2"]["DeepMath-103K"].max() < 1e-3
    )
    assert lost[("Log-1", "HotpotQA", "all")] == pytest.approx(0.015, abs=5e-4)
    alone = swap.loc[["Brier Score", "Log Loss"], "accuracy"]
    assert alone.max() < 1e-3
    ablations = published()["ablations"].set_index(["arm", "dataset"]).loc[["rlcr_log", "brier_only_whole_output"]]
    assert ablations.accuracy[("rlcr_log", "five-arm next-draw task")] == 0
    assert (ablations.accuracy[("rlcr_log", "in-domain")], ablations.ece[("rlcr_log", "in-domain")]) == (0.595, 0.07)
    assert ablations.accuracy[("brier_only_whole_output", "in-domain")] == 0


def test_votes_and_neighbours():
    votes = published()["voting_published"].set_index("votes")
    assert (
        votes.weighted_gain[2] == pytest.approx(0.015) and votes.weighted_gain[[4, 8, 16]].between(0.0039, 0.0051).all()
    )
    assert votes.max_confidence_gain[16] == pytest.approx(-0.022, abs=6e-4)
    assert votes.averaged_analyses_brier[1] - votes.averaged_analyses_brier[16] == pytest.approx(0.0065)
    trivia = published()["neighbours"].query(
        "dataset == 'TriviaQA' and model.str.startswith('Llama-3-8B')", engine="python"
    )
    trivia = trivia.set_index("arm")
    before, after = trivia.loc["verbalised before training"], trivia.loc["rewarding doubt"]
    np.testing.assert_allclose((before.ece, after.ece), (0.346, 0.023), atol=6e-4)
    assert after.accuracy == pytest.approx(before.accuracy, abs=1e-3)


# --- Theory ---------------------------------------------------------------------------------------


def test_payoffs_are_those_that_training_pays():
    q = np.arange(11) / 10
    for rule in t.RULES:
        correct, score, weight = t.terms(rule)
        for c, reward in zip((1, 0), t.payoff(rule, q)):
            term = weight * rewards.RULES[score][0](q, np.full(11, bool(c))) if score else 0
            np.testing.assert_allclose(reward, correct * c + term)
    assert t.terms("swap_brier2") == (1.0, "brier", 2.0) and t.terms("swap_log_only") == (0.0, "log", 1.0)


def test_gap_identity_and_hackable_rules():
    rules = theory()["rules"].set_index("rule")
    proper = rules[rules.proper]
    assert len(proper) == 7 and (proper.identity == "0").all() and (proper.stationary == "0").all()
    assert proper.identity_error.max() < 1e-3 and not rules.proper["linear"]
    assert rules.stationary["linear"] == "2*p - 1"
    hackable = {"swap_brier2", "swap_log1", "swap_brier_only", "swap_log_only"}
    assert set(rules.index[rules.hackable == 1]) == hackable
    assert (rules.gap["swap_rlcr"], rules.value["swap_rlcr"]) == ("2*q", "p**2")
    assert (rules.gap["swap_brier2"], rules.value["swap_brier2"]) == ("4*q - 1", "p*(2*p - 1)")
    least = rules.loc[["swap_brier2", "swap_log1"], ["min_value", "min_value_p"]].to_numpy()
    np.testing.assert_allclose(least, [(-0.125, 0.25), (-0.313, 0.269)], atol=6e-4)


def test_thresholds_and_safe_weights():
    found = theory()["thresholds"].set_index(["rule", "grid", "clip"]).threshold
    wanted = {
        ("log1", "continuous", 0): 0.64842,
        ("brier2", "continuous", 0): 0.5,
        ("rlcr", "continuous", 0): 0,
        ("rlvr", "continuous", 0): 0,
        ("brier_only", "continuous", 0): 1,
        ("log_only", "continuous", 0): 1,
        ("log1", "tenths", 0.01): 0.645,
        ("log1", "tenths", 0.001): 0.651,
        ("log1", "midpoints", 0): 0.620,
        ("log_k", "tenths", 0.01): 0,
        ("brier2", "tenths", 0): 0.5,
        ("rlcr", "tenths", 0): 0,
    }
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, abs=6e-4 if key[1] != "continuous" else 5e-6), key
    p = found[("log1", "continuous", 0)]
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert p - entropy == pytest.approx(0, abs=1e-9)
    weights = theory()["safe_weights"].weight
    np.testing.assert_allclose(weights, (0.1448, 1 / np.log(202), 0.2176, 0.340, 0.455), atol=5e-4)


def test_optimum_and_the_incentive_to_be_right():
    optimum = theory()["optimum"]
    np.testing.assert_allclose(optimum.best_q, optimum.p, atol=1e-12)
    np.testing.assert_allclose(optimum.value, optimum.p**2, atol=1e-12)
    curves = theory()["curves"]
    for rule, rise in (("swap_rlvr", 0.10), ("swap_rlcr", 0.03)):
        value = shared.rows(curves, rule=rule).set_index(curves.x[:101].round(2)).value
        assert value[0.2] - value[0.1] == pytest.approx(rise)


def test_the_code_is_half_the_formula_plus_a_constant():
    coded = theory()["as_coded"]
    whole = coded[coded.outcome != "malformed"]
    np.testing.assert_allclose(whole.coded_minus_half, 1)
    assert coded[coded.outcome == "malformed"].coded.item() == 0 and whole.coded.min() == 0.5


def test_group_scaling_moves_the_balance_point():
    scaling = t.group_scaling(steps=150, step_size=10).set_index(["scaling", "p"]).confidence
    np.testing.assert_allclose(scaling["none"], (0.1, 0.3, 0.4, 0.6, 0.7, 0.9), atol=0.01)
    np.testing.assert_allclose(scaling["group"], (0, 0, 0.1, 0.9, 1, 1), atol=0.01)


def test_tabular_give_up():
    tabular = theory()["tabular"]
    rate = tabular.pivot(index="arm", columns="bin_low", values="give_up_rate")
    assert rate.loc[["swap_rlvr", "swap_rlcr", "swap_log_k"]].max(axis=None) < 0.02
    assert rate.loc["swap_brier2", 0] > 0.95 and rate.loc["swap_brier2", [0.5, 0.65, 0.8]].max() < 0.02
    assert rate.loc["swap_log1", [0, 0.35]].min() > 0.95 and rate.loc["swap_log1", [0.65, 0.8]].max() < 0.02
    assert rate.loc[["swap_brier_only", "swap_log_only"], [0, 0.35, 0.5, 0.65]].min(axis=None) > 0.95
    assert rate.loc[["swap_brier_only", "swap_log_only"], 0.8].max() < 0.95
    optimal = tabular.pivot(index="arm", columns="bin_low", values="optimal")
    assert optimal.loc["swap_rlcr"].max() == 0 and optimal.loc["swap_brier_only"].min() == 1


def test_ideal_votes_and_shifts():
    votes = theory()["voting_reference"].set_index(["weights", "rule", "votes"]).accuracy
    for key, values in {
        ("posterior", "majority"): (0.613, 0.612, 0.668, 0.691, 0.706),
        ("posterior", "weighted"): (0.613, 0.678, 0.704, 0.711, 0.714),
        ("crowd", "weighted"): (0.615, 0.670, 0.692, 0.705, 0.711),
    }.items():
        np.testing.assert_allclose(votes[key], values, atol=0.012)
    shifts = theory()["shift_reference"].set_index("shift")
    printed = {
        "testimonies_6_8": 0.920,
        "only_w2_w3": 0.410,
        "only_w0_w1": 0.862,
        "testimonies_4_5": 0.832,
        "suspects_12": 0.722,
    }
    for shift, accuracy in printed.items():
        assert shifts.bayes_accuracy[shift] == pytest.approx(accuracy, abs=0.01)
        assert shifts.mean_posterior[shift] == pytest.approx(accuracy, abs=0.01) and shifts.ideal_ece[shift] < 0.012
    drift = shifts.loc[["drift_mild", "drift_strong"], ["ideal_ece", "ideal_brier", "ideal_accuracy"]].to_numpy()
    np.testing.assert_allclose(drift, [(0.072, 0.185, 0.610), (0.132, 0.219, 0.527)], atol=0.01)


# --- Criteria -------------------------------------------------------------------------------------

EXPERT = {"setting": "expert", "arm": "rlcr"}


@pytest.mark.parametrize(
    ("criterion", "column", "good", "bad", "where"),
    [
        ("W1", "accuracy_greedy", None, 0.66, EXPERT),
        ("W2", "q_mean_abs_posterior", 0.03, 0.15, EXPERT),
        ("W3", "q_draw_brier", 0.10, 0.19, EXPERT),
        ("W5", "answer_ece", 0.26, 0.05, EXPERT),
        ("W7", "q_mean_abs_half", None, 0.45, {"arm": "rlcr_batch_std"}),
        ("W8", "q_mean_extreme", 0.9, 0.3, {"arm": "linear"}),
    ],
)
def test_what_a_measure_says_decides(criterion, column, good, bad, where):
    first = judge(summary=table("summary", (column, bad, where)))[1].loc[criterion]
    assert "not replicated" in set(first["verdict"])
    if good is not None:
        changed = judge(summary=table("summary", (column, good, where)))[1].loc[criterion]
        assert (changed["verdict"] != "not replicated").all()


def test_a_hacked_safe_rule_and_a_lost_vote_are_seen():
    bins = table("posterior_bins", ("give_up_rate", 0.5, {"arm": "swap_rlcr", "bin_low": 0.0}))
    votes = table("voting", ("difference", -0.03, {"arm": "base", "rule": "weighted", "votes": 8}))
    _, checks, _ = judge(posterior_bins=bins, voting=votes)
    assert checks.verdict["W6", "RLCR, p in 0-1"] == checks.verdict["W9", "base, N = 8"] == "not replicated"


def test_the_overall_rule():
    words = dict.fromkeys([criterion.id for criterion in CLAIM.criteria], "replicated")
    assert CLAIM.overall(words)[0] == "replicated"
    word, note = CLAIM.overall(words | {"W4": "not replicated"})
    assert word == "partly" and "not joint" in note and "W5: replicated" in note
    word, note = CLAIM.overall(words | {"W2": "inconclusive", "W3": "not replicated"})
    assert word == "inconclusive" and "W2 inconclusive, W3 not replicated" in note
    assert CLAIM.overall(words | {"T1": "not attempted"})[0] == "not attempted"


def test_a_missing_arm_and_smoke():
    found, _, verdicts = judge(without=[("expert", "rlcr_group_std"), ("naive", "rlcr")])
    assert found.verdict["W7"] == found.verdict["W4"] == "not attempted" != found.verdict["W8"]
    assert verdicts.verdict["overall"] == "not attempted" and "W4" in verdicts.note["overall"]
    found, _, verdicts = judge("smoke")
    assert verdicts.verdict["overall"] == "not attempted"
    assert set(found.verdict[[f"W{k}" for k in range(1, 11)]]) == {"not attempted"}
    assert (found.verdict[["P1", "P2", "P3", "P4", "T1", "T2", "T3"]] == "replicated").all()


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    guards.check(CLAIM, reference())


def test_needs_are_declared_unique_and_trained_before_evaluated():
    assert len(set(t.NEEDS)) == len(t.NEEDS) and set(t.NEEDS) <= set(witnesses.STEPS)
    place = {key: k for k, key in enumerate(t.NEEDS)}
    for key in t.NEEDS:
        for need in witnesses.STEPS[key].needs:
            assert place[need] < place[key], (need, key)
    assert place["witnesses/naive/eval_rlcr"] < place["witnesses/expert/rlcr_group_std"]


def test_figures_stand_missing_arms():
    gone = ("rlcr_group_std", "rlvr_classifier", "swap_log1", "rlcr_short")
    tables = {n: frame[~frame["arm"].isin(gone)] if "seed" in frame else frame for n, frame in reference().items()}
    for plot in FIGURES.values():
        plot(tables)
