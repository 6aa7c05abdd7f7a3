"""Claim 1: what the papers printed, closed forms, criteria on made-up results, figures."""

from functools import cache

import guards
import numpy as np
import pytest
from candor.claims.binary_reward import tables as t
from candor.claims.binary_reward.criteria import CLAIM
from candor.claims.binary_reward.exercises import check_2
from candor.claims.binary_reward.figures import FIGURES
from candor.declare import ledger
from candor.run import evidence
from candor.run import plan as graph
from printed import near


@cache
def reference():
    """The committed tables, and made-up ones of pretrained models; a caller must not change them."""
    return evidence.read_tables(graph.REFERENCE / "binary_reward") | guards.pretrained()


def judge(scale="laptop", **changed):
    rows, _, verdicts = ledger.judge(CLAIM, {**reference(), **changed}, scale)
    return rows.set_index("criterion"), verdicts.set_index("part")


# --- What the papers print, and the text relies on; `test_tables.py` has all tables -----------------


def test_confidence_is_degenerate():
    cells, conventions = reference()["cells"], reference()["conventions"]
    assert (cells.rlvr_confidence >= 0.95).sum() == len(cells) == 16
    hotpot = cells[cells.family == "HotpotQA"]
    assert (hotpot.ece_minus_error.abs() <= 0.003).sum() == 8 and cells.ece_minus_gap.abs().max() < 1e-4
    rlvr = conventions[conventions.arm == "rlvr"].set_index("dataset")
    assert rlvr.distinct_confidence_values.to_dict() == {"CommonsenseQA": 1, "GPQA": 1, "MATH-500": 3}


def test_headline_values():
    blocks, base, rlvr = reference()["blocks"], (0.397, 0.535), (0.630, 0.370)
    columns = "base_accuracy base_ece rlvr_accuracy rlvr_ece base_brier rlvr_brier datasets"
    near(blocks, "family domain", columns, {("HotpotQA", "out"): (0.533, 0.400, 0.539, 0.460, 0.413, 0.460, 6)})
    near(blocks, "family domain", "base_accuracy base_ece rlvr_accuracy rlvr_ece", {("HotpotQA", "in"): base + rlvr})
    changes = {
        ("HotpotQA", "out"): (0.069, 0.007, 0.062),
        ("HotpotQA", "in"): (0.068, 0.233, -0.165),
        ("Big-Math", "in"): (0.002, 0.136, -0.134),
    }
    near(blocks, "family domain", "change_confidence change_accuracy change_gap", changes)
    near(reference()["answer_letters"], "arm", "value", {"pretrained": 0.007, "after PPO post-training": 0.074}, 0)
    asked = {("in-domain", "ece"): (0.37, 0.34)}
    near(reference()["elicitation"], "dataset metric", "rlvr rlvr_with_analysis_prompt", asked, 0)


def test_confidence_in_the_trained_text():
    printed = {
        "BigMath": (0.952, 0.991, 0.596, 0.528),
        "DeepMath-103K": (0.927, 0.992, 0.573, 0.503),
        "HotpotQA-Modified": (0.811, 0.967, 0.647, 0.529),
        "HotpotQA": (0.900, 0.992, 0.604, 0.510),
    }
    columns = "start_confidence correctness_confidence start_auroc correctness_auroc"
    near(reference()["swap_start"], "dataset", columns, printed)


def test_what_table_1b_quotes_as_rlvr_is_the_classifiers_accuracy():
    mix = reference()["row_mix"].set_index(["metric", "dataset"])
    accuracy, rest = mix.loc["accuracy"], mix.sort_index().drop("accuracy")
    np.testing.assert_allclose(accuracy.quoted_rlvr, accuracy.released_classifier, atol=6e-4)
    np.testing.assert_allclose(rest.quoted_rlvr, rest.released_rlvr, atol=6e-3)


def test_noise():
    near(reference()["floor"], "n", "ece_floor_mean ece_floor_p95", {1000: (0.028, 0.044)}, 0)
    columns = "ece_as_released ece_10_bins_closed_right ece_15_bins_closed_left ece_one_bin_per_value"
    printed = {("base", "CommonsenseQA"): (0.0037, 0.0252, 0.0252, 0.0255)}
    near(reference()["conventions"], "arm dataset", columns, printed, 6e-5)


# --- Closed forms ---------------------------------------------------------------------------------


def test_answering_pays_above_the_threshold_and_the_optimum_is_a_vertex():
    payoff = reference()["payoff"]
    assert (payoff.answers == (payoff.p > payoff.t)).all() and len(payoff) == 4 * 1001
    reward = reference()["vertex"].set_index("distribution").expected_reward
    assert reward.max() == pytest.approx(reward["found by linear programming"]) == reward["all on the best"]
    assert reward["matches the posterior"] < reward.max()
    sharp = reference()["sharpening"]
    assert sharp.ece.is_monotonic_increasing and sharp.expected_reward.is_monotonic_increasing
    assert sharp.ece.iloc[-1] == pytest.approx(sharp.error.iloc[-1])


def test_gradient_on_the_confidence():
    gradient = t.confidence_gradient().set_index("order")
    first, second = gradient.loc["answer first"], gradient.loc["confidence first"]
    assert first.largest.max() < 1e-15 and first.noise.min() > 0
    mean = (second.probability * second.accuracy).sum()
    np.testing.assert_allclose(second.gradient, second.probability * (second.accuracy - mean), atol=1e-12)


def test_tabular_prediction_and_frontier():
    pilot = {("binary", 0): (0.658, 0.603, 0.054, 0.067), ("binary", 100): (0.741, 0.660, 0.081, 0.089)}
    near(reference()["tabular"], "reward step", "stated_mean accuracy_sampled gap ece", pilot, 0.03)
    near(reference()["frontier"], "t", "selective_accuracy", {0.5: 0.845, 0.75: 0.927, 0.9: 0.977}, 0.006)
    near(reference()["frontier"], "t", "wrong_per_100", {0.5: 11.4, 0.75: 3.9, 0.9: 0.8}, 0.5)


def test_bins_by_float_edges_are_recognised():
    def naive(confidence, correct, closed):
        bin_of = (np.digitize(confidence, np.linspace(0, 1, 11)) - 1).clip(max=9)
        return np.abs(np.bincount(bin_of, confidence - correct)).sum() / len(confidence)

    assert check_2(naive).message.startswith("Float edges")


# --- Criteria -------------------------------------------------------------------------------------


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    guards.check(CLAIM, reference())


@pytest.mark.parametrize(
    ("moves", "verdict", "note"),
    [
        ((0.1, -0.1, 0.08, -0.09, 0.02), "inconclusive", "rises in 3 of 5 seeds and falls"),
        ((0.05,) * 5, "replicated", "the gap rises in every seed (5 of 5)"),
        ((-0.05,) * 5, "not replicated", "the gap falls in every seed (5 of 5)"),
    ],
)
def test_the_direction_of_a_seed_is_told(moves, verdict, note):
    summary = reference()["summary"].copy()
    rlvr, base = ((summary.setting == "expert") & (summary.arm == arm) for arm in ("rlvr", "base"))
    summary.loc[rlvr, "q_mean_gap"] = summary.loc[base, "q_mean_gap"].to_numpy() + moves
    rows, _ = judge(summary=summary)
    assert rows.verdict["W3b"] == verdict and note in rows.note["W3b"]


def test_saturation_is_a_failure():
    summary = reference()["summary"].copy()
    summary.loc[summary.arm == "rlvr", "answer_saturated"] = 0.8
    rows, _ = judge(summary=summary)
    assert rows.verdict["W6"] == "not replicated" and "5 of 5" in rows.note["W6"]


def test_overall_rule():
    rule = CLAIM.overall
    verdicts = dict.fromkeys([c.id for c in CLAIM.criteria], "replicated")
    assert rule(verdicts)[0] == "replicated"
    assert rule(verdicts | {"W3b": "not replicated"})[0] == "replicated"
    assert rule(verdicts | {"W3b": "not replicated", "W4": "inconclusive"})[0] == "partly"
    word, note = rule(verdicts | {"W2": "not replicated"})
    assert word == "partly" and note.startswith("by parts") and "(ii) not replicated" in note
    assert rule(dict.fromkeys(verdicts, "not replicated"))[0] == "not replicated"
    word, note = rule(verdicts | {"W5": "not attempted"})
    assert word == "not attempted" and note == "still missing: W5"


def test_smoke_judges_mechanics_only():
    rows, verdicts = judge("smoke")
    assert verdicts.verdict["overall"] == "not attempted"
    assert set(rows.verdict[["W2", "W3a", "W4", "W5", "W6", "W7"]]) == {"not attempted"}
    assert rows.verdict["P1"] == rows.verdict["W1"] == "replicated"


def test_figures_stand_missing_arms():
    missing = ("rlvr_conf_first", "shuffled_correct", "rlvr_kl", "abstain_75")
    tables = {n: frame[~frame["arm"].isin(missing)] if "seed" in frame else frame for n, frame in reference().items()}
    for plot in FIGURES.values():
        plot(tables)
