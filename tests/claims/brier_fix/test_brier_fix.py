"""Claim 5: published numbers, theory, criteria, figures."""

from functools import cache

import guards
import numpy as np
import pytest
from candor import rewards
from candor.claims import shared
from candor.claims.brier_fix import tables as t
from candor.claims.brier_fix.criteria import CLAIM
from candor.claims.brier_fix.exercises import check_3
from candor.claims.brier_fix.figures import FIGURES
from candor.declare import ledger
from candor.run import evidence
from candor.run import plan as graph
from printed import near


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


# --- What the papers print, and the text relies on; `test_tables.py` has all tables -----------------

HOTPOT, MATH = ("HotpotQA", "in"), ("Big-Math", "in")
SPLITS = ("easy", "medium", "hard")


def test_table_1():
    """Accuracy, AUROC, Brier, ECE."""
    printed = {
        ("HotpotQA", "in", "base"): (0.397, 0.540, 0.525, 0.535),
        ("HotpotQA", "in", "rlvr"): (0.630, 0.500, 0.370, 0.370),
        ("HotpotQA", "in", "classifier"): (0.630, 0.664, 0.217, 0.070),
        ("HotpotQA", "in", "answer_probability"): (0.630, 0.715, 0.357, 0.360),
        ("HotpotQA", "in", "rlcr"): (0.621, 0.687, 0.210, 0.030),
        ("HotpotQA", "out", "base"): (0.533, 0.540, 0.413, 0.400),
        ("HotpotQA", "out", "rlvr"): (0.539, 0.501, 0.460, 0.460),
        ("HotpotQA", "out", "classifier"): (0.539, 0.583, 0.268, 0.237),
        ("HotpotQA", "out", "answer_probability"): (0.539, 0.602, 0.415, 0.417),
        ("HotpotQA", "out", "rlcr"): (0.562, 0.677, 0.212, 0.206),
        ("Big-Math", "in", "base"): (0.561, 0.558, 0.397, 0.392),
        ("Big-Math", "in", "rlvr"): (0.697, 0.472, 0.284, 0.258),
        ("Big-Math", "in", "classifier"): (0.729, 0.783, 0.153, 0.095),
        ("Big-Math", "in", "rlcr"): (0.727, 0.674, 0.170, 0.096),
        ("Big-Math", "in", "sft_rlcr"): (0.722, 0.776, 0.141, 0.081),
        ("Big-Math", "out", "base"): (0.478, 0.533, 0.456, 0.446),
        ("Big-Math", "out", "rlvr"): (0.495, 0.516, 0.493, 0.494),
        ("Big-Math", "out", "classifier"): (0.525, 0.547, 0.339, 0.334),
        ("Big-Math", "out", "rlcr"): (0.509, 0.599, 0.278, 0.251),
        ("Big-Math", "out", "sft_rlcr"): (0.438, 0.659, 0.237, 0.176),
    }
    near(reference()["main"], "family domain arm", "accuracy auroc brier ece", printed, 7e-4)


def test_broad_win_with_three_exceptions():
    wins = reference()["wins"].set_index(["against", "metric"])
    counts = {("rlvr", "brier"): 13, ("rlvr", "ece"): 13, ("rlvr", "auroc"): 15, ("base", "brier"): 14}
    assert {key: wins.wins[key] for key in counts} == counts and (wins.cells == 16).all()
    lost = wins.lost[("rlvr", "brier")]
    assert lost == wins.lost[("rlvr", "ece")]
    assert lost.count("CommonsenseQA") == 2 and "GSM8K (Big-Math-trained)" in lost
    cells = reference()["cells"]
    exceptions = {
        ("HotpotQA", "CommonsenseQA"): (0.302, 0.092),
        ("Big-Math", "CommonsenseQA"): (0.340, 0.126),
        ("Big-Math", "GSM8K"): (0.119, 0.048),
    }
    near(cells, "family dataset", "rlcr_ece rlvr_ece", exceptions)
    assert (cells.rlcr_confidence < cells.rlcr_accuracy)[cells.rlcr_brier > cells.rlvr_brier].all()


def test_jointly_against_the_base_and_parity_with_rlvr():
    main = reference()["main"].set_index(["family", "domain", "arm"])
    change = main.loc[(*HOTPOT, "rlcr")] - main.loc[(*HOTPOT, "base")]
    assert (change.accuracy, change.ece) == pytest.approx((0.224, -0.505), abs=5e-4)
    printed = {(*HOTPOT, "as printed"): -0.009, (*HOTPOT, "as released"): -0.009, (*MATH, "as printed"): -0.002}
    near(reference()["parity"], "family domain reading", "difference", printed, 1e-6)
    near(reference()["parity"], "family domain reading", "difference", {(*MATH, "as released"): 0.030}, 5e-4)
    cells = reference()["cells"]
    each = cells.rlcr_accuracy - cells.rlvr_accuracy
    assert (each.min(), each.max()) == pytest.approx((-0.034, 0.068), abs=6e-4)


def test_a_constant_gets_far():
    constant, cells = reference()["constant"], reference()["cells"]
    columns = "constant_confidence constant_brier rlvr_brier classifier_brier rlcr_brier beats_constant"
    wanted = {
        "HotpotQA": (0.621, 0.250, 0.460, 0.268, 0.212, 0.038),
        "Big-Math": (0.727, 0.297, 0.493, 0.339, 0.278, 0.020),
    }
    near(constant, "family", columns, wanted)
    near(constant, "family", "share_explained", {"HotpotQA": 0.85, "Big-Math": 0.91}, 4e-3)
    assert (constant.classifier_beats_constant < 0).all()
    better, inside = cells.rlcr_brier < cells.own_constant_brier, cells.domain == "in"
    assert set(cells.dataset[better & ~inside]) == {"TriviaQA"} and inside.sum() == 5
    assert set(cells.dataset[inside]) - set(cells.dataset[better & inside]) == {"GSM8K"}


def by_split(dataset, *values):
    return {(dataset, split): value for split, value in zip(SPLITS, values)}


def test_independent_parity_and_skill():
    parity = reference()["swap_parity"]
    printed = {("HotpotQA", "all"): -0.007, **by_split("BigMath", -0.001, -0.007, -0.011)}
    printed |= by_split("DeepMath-103K", -0.020, -0.014, -0.021) | by_split("HotpotQA-Modified", 0.004, -0.007, -0.007)
    near(parity, "dataset split", "difference", printed)
    assert (parity.difference < 0).sum() == 9 and len(parity) == 10
    check = reference()["swap_check"]
    assert check["rows"].sum() == check.agree.sum() == 208
    skill = {"BigMath": 0.31, "DeepMath-103K": 0.07, "HotpotQA-Modified": 0.16, "HotpotQA": -0.04}
    near(reference()["swap_skill"], "dataset", "skill", skill, 5e-3)
    near(reference()["swap_skill"], "dataset", "brier own_constant_brier auroc", {"HotpotQA": (0.236, 0.227, 0.579)})


def test_a_bounded_rule_fails():
    swap = reference()["swap"]
    printed = {
        "Correctness-only": (0.627, 0.425, 0.210),
        "Brier-1": (0.632, 0.418, 0.203),
        "Brier-2": (0.530, 0.232, 0.096),
        "Log-1": (0.202, 0.062, 0.020),
        "Log-1/ln202": (0.627, 0.420, 0.209),
    }
    for arm, values in printed.items():
        near(shared.rows(swap, arm=arm), "dataset split", "accuracy", by_split("HotpotQA-Modified", *values))
    left = by_split("HotpotQA-Modified", 0.84, 0.55, 0.46)
    near(shared.rows(swap, arm="Brier-2"), "dataset split", "relative", left, 6e-3)
    near(shared.rows(swap, arm="Log-1"), "dataset split", "relative", {("HotpotQA", "all"): 0.985}, 5e-4)
    assert shared.rows(swap, arm="Brier-2", dataset="BigMath").relative.min() >= 1 - 0.0145
    zero = swap.arm.isin(["Brier Score", "Log Loss"])
    zero |= swap.arm.isin(["Log-1", "Brier-2"]) & (swap.dataset == "DeepMath-103K")
    assert swap.accuracy[zero].max() < 1e-3
    printed = {("rlcr_log", "five-arm next-draw task"): 0, ("brier_only_whole_output", "in-domain"): 0}
    near(reference()["ablations"], "arm dataset", "accuracy", printed, 0)
    near(reference()["ablations"], "arm dataset", "accuracy ece", {("rlcr_log", "in-domain"): (0.595, 0.07)}, 0)


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
    rules = reference()["rules"].set_index("rule")
    proper = rules[rules.proper]
    assert len(proper) == 7 and proper.identity_error.max() < 1e-3 and rules.stationary["linear"] == "2*p - 1"
    assert (proper[["identity", "stationary"]].astype(float) == 0).all(axis=None)
    assert set(rules.index[rules.hackable == 1]) == {"swap_brier2", "swap_log1", "swap_brier_only", "swap_log_only"}
    assert (rules.gap["swap_rlcr"], rules.value["swap_rlcr"]) == ("2*q", "p**2")
    assert (rules.gap["swap_brier2"], rules.value["swap_brier2"]) == ("4*q - 1", "p*(2*p - 1)")
    least = {"swap_brier2": (-0.125, 0.25), "swap_log1": (-0.313, 0.269)}
    near(reference()["rules"], "rule", "min_value min_value_p", least)


def test_thresholds_and_safe_weights():
    exact = {"log1": 0.64842, "brier2": 0.5, "rlcr": 0, "rlvr": 0, "brier_only": 1, "log_only": 1}
    near(shared.rows(reference()["thresholds"], grid="continuous"), "rule", "threshold", exact, 5e-6)
    stated = {
        **{("log1", "tenths", 0.01): 0.645, ("log1", "tenths", 0.001): 0.651, ("log1", "midpoints", 0): 0.620},
        **{("log_k", "tenths", 0.01): 0, ("brier2", "tenths", 0): 0.5, ("rlcr", "tenths", 0): 0},
    }
    near(reference()["thresholds"], "rule grid clip", "threshold", stated)
    p = t.last_loss("swap_log1")
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert p - entropy == pytest.approx(0, abs=1e-9)
    weights = reference()["safe_weights"].weight
    np.testing.assert_allclose(weights, (0.1448, 1 / np.log(202), 0.2176, 0.340, 0.455), atol=5e-4)


def test_optimum_and_the_incentive_to_be_right():
    optimum = reference()["optimum"]
    np.testing.assert_allclose(optimum.best_q, optimum.p, atol=1e-12)
    np.testing.assert_allclose(optimum.value, optimum.p**2, atol=1e-12)
    curves = reference()["curves"]
    for rule, rise in (("swap_rlvr", 0.10), ("swap_rlcr", 0.03)):
        value = shared.rows(curves, rule=rule).set_index(curves.x[:101].round(2)).value
        assert value[0.2] - value[0.1] == pytest.approx(rise)


def test_the_code_is_half_the_formula_plus_a_constant():
    coded = reference()["as_coded"]
    whole = coded[coded.outcome != "malformed"]
    np.testing.assert_allclose(whole.coded_minus_half, 1)
    assert coded[coded.outcome == "malformed"].coded.item() == 0 and whole.coded.min() == 0.5


def test_what_whole_documents_earn_is_told_before_any_hole_in_the_parser():
    assert "A right answer at confidence .7 is worth" in check_3(lambda text, truth: 0.0).message


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


def test_figures_stand_missing_arms():
    gone = ("rlcr_group_std", "rlvr_classifier", "swap_log1", "rlcr_short")
    tables = {n: frame[~frame["arm"].isin(gone)] if "seed" in frame else frame for n, frame in reference().items()}
    for plot in FIGURES.values():
        plot(tables)
