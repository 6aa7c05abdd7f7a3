"""Claim 1: published numbers, theory, criteria on made-up results, figures, exercises."""

from functools import cache
from pathlib import Path

import guards
import numpy as np
import pytest
from candor.claims.binary_reward import tables as t
from candor.claims.binary_reward.criteria import CLAIM
from candor.claims.binary_reward.figures import FIGURES
from candor.declare import ledger
from candor.run import evidence
from candor.run import plan as graph

PUBLISHED = Path(__file__).parents[3] / "data" / "published"


@cache
def published():
    return t.published(PUBLISHED)


@cache
def theory():
    return t.theory(questions=40_000, tabular_questions=300, tabular_steps=100)


@cache
def reference():
    """The committed tables, and made-up ones of pretrained models; a caller must not change them."""
    return evidence.read_tables(graph.REFERENCE / "binary_reward") | guards.pretrained()


def judge(scale="laptop", **changed):
    rows, _, verdicts = ledger.judge(CLAIM, {**reference(), **changed}, scale)
    return rows.set_index("criterion"), verdicts.set_index("part")


# --- Published numbers: every number that the text relies on ------------------------------------


def test_confidence_is_degenerate():
    cells, conventions = published()["cells"], published()["conventions"]
    assert (cells.rlvr_confidence >= 0.95).sum() == len(cells) == 16
    hotpot = cells[cells.family == "HotpotQA"]
    assert (hotpot.ece_minus_error.abs() <= 0.003).sum() == 8
    assert cells.ece_minus_error.abs().max() == pytest.approx(0.050, abs=5e-4)
    assert cells.ece_minus_gap.abs().max() < 1e-4
    rlvr = conventions[conventions.arm == "rlvr"].set_index("dataset")
    assert rlvr.distinct_confidence_values.to_dict() == {"CommonsenseQA": 1, "GPQA": 1, "MATH-500": 3}
    sure = hotpot[hotpot.dataset.isin(["CommonsenseQA", "GPQA"])]
    assert (sure.rlvr_confidence == 1).all() and (sure.rlvr_auroc == 0.5).all()
    np.testing.assert_allclose(sure.rlvr_brier, 1 - sure.rlvr_accuracy, atol=1e-5)
    assert hotpot.set_index("dataset").rlvr_confidence["MATH-500"] == pytest.approx(0.9972)


def test_worse_out_of_domain_not_in_domain():
    counts = published()["cell_counts"].set_index(["metric", "domain"])
    found = {key: (row.worse, row.cells) for key, row in counts.iterrows()}
    assert found["ece", "out"] == (10, 11) and found["ece", "in"] == (0, 5)
    assert found["brier", "all"] == (8, 16) and found["auroc", "all"] == (13, 16)
    inside = published()["cells"].query("domain == 'in'")
    assert set(inside.dataset) == {"HotpotQA", "HotpotQA-Modified", "Big-Math-Digits", "GSM8K", "MATH-500"}


@pytest.mark.parametrize(
    ("family", "domain", "confidence", "accuracy", "gap"),
    [
        ("HotpotQA", "out", 0.069, 0.007, 0.062),
        ("HotpotQA", "in", 0.068, 0.233, -0.165),
        ("Big-Math", "in", 0.002, 0.136, -0.134),
    ],
)
def test_decomposition(family, domain, confidence, accuracy, gap):
    row = published()["blocks"].set_index(["family", "domain"]).loc[(family, domain)]
    found = row[["change_confidence", "change_accuracy", "change_gap"]].to_numpy(float)
    np.testing.assert_allclose(found, [confidence, accuracy, gap], atol=6e-4)
    assert 0.92 <= row.base_confidence <= 0.955


def test_headline_values():
    blocks = published()["blocks"].set_index(["family", "domain"])
    inside, outside = blocks.loc[("HotpotQA", "in")], blocks.loc[("HotpotQA", "out")]
    columns = ["base_accuracy", "rlvr_accuracy", "base_ece", "rlvr_ece"]
    np.testing.assert_allclose(inside[columns].to_numpy(float), [0.397, 0.630, 0.535, 0.370], atol=5e-4)
    np.testing.assert_allclose(outside[columns].to_numpy(float), [0.533, 0.539, 0.400, 0.460], atol=6e-4)
    np.testing.assert_allclose(outside[["base_brier", "rlvr_brier"]].to_numpy(float), [0.413, 0.460], atol=6e-4)
    assert outside.datasets == 6
    letters = published()["answer_letters"].set_index("arm").value
    assert letters["pretrained"] == 0.007 and letters["after PPO post-training"] == 0.074


def test_elicitation_control():
    table = published()["elicitation"].set_index(["dataset", "metric"])
    row = table.loc[("in-domain", "ece")]
    assert (row.rlvr, row.rlvr_with_analysis_prompt) == (0.37, 0.34)


def test_confidence_in_the_trained_text():
    swap = published()["swap_start"].set_index("dataset")
    printed = {
        "BigMath": (0.952, 0.991, 0.596, 0.528),
        "DeepMath-103K": (0.927, 0.992, 0.573, 0.503),
        "HotpotQA-Modified": (0.811, 0.967, 0.647, 0.529),
        "HotpotQA": (0.900, 0.992, 0.604, 0.510),
    }
    for dataset, values in printed.items():
        row = swap.loc[dataset, ["start_confidence", "correctness_confidence", "start_auroc", "correctness_auroc"]]
        np.testing.assert_allclose(row.to_numpy(float), values, atol=6e-4)
    assert (swap.correctness_ece < swap.start_ece).sum() == 3


def test_neighbours():
    preference, elicited = published()["preference_training"], published()["elicited"]
    assert (preference.higher.sum(), len(preference)) == (8, 24)
    assert ((~elicited.higher).sum(), len(elicited)) == (12, 15)


def test_row_mix():
    mix = published()["row_mix"].set_index(["metric", "dataset"])
    accuracy = mix.loc["accuracy"]
    np.testing.assert_allclose(accuracy.quoted_rlvr, accuracy.released_classifier, atol=6e-4)
    np.testing.assert_allclose(accuracy.released_rlvr, [0.697, 0.495], atol=5e-4)
    calibration = mix.sort_index().drop("accuracy")
    np.testing.assert_allclose(calibration.quoted_rlvr, calibration.released_rlvr, atol=6e-3)


def test_noise():
    errors = published()["sampling_error"]
    accuracy = errors[errors.quantity.str.startswith("accuracy")].se
    assert accuracy.min() == pytest.approx(0.008, abs=5e-4) and accuracy.max() == pytest.approx(0.023, abs=5e-4)
    floor = published()["floor"].set_index("n").loc[1000]
    assert (floor.ece_floor_mean, floor.ece_floor_p95) == (0.028, 0.044)
    base = published()["conventions"].query("arm == 'base' and dataset == 'CommonsenseQA'").iloc[0]
    found = base[["ece_as_released", "ece_10_bins_closed_right", "ece_15_bins_closed_left", "ece_one_bin_per_value"]]
    np.testing.assert_allclose(found.to_numpy(float), [0.0037, 0.0252, 0.0252, 0.0255], atol=6e-5)


# --- Theory ---------------------------------------------------------------------------------------


def test_answering_pays_above_the_threshold():
    payoff = theory()["payoff"]
    assert (payoff.answers == (payoff.p > payoff.t)).all() and len(payoff) == 4 * 1001


def test_optimum_is_a_vertex():
    vertex = theory()["vertex"].set_index("distribution")
    best = vertex.expected_reward.max()
    assert vertex.expected_reward["found by linear programming"] == pytest.approx(best)
    assert vertex.expected_reward["all on the best"] == pytest.approx(best)
    assert vertex.expected_reward["matches the posterior"] < best
    sharp = theory()["sharpening"]
    assert sharp.ece.is_monotonic_increasing and sharp.expected_reward.is_monotonic_increasing
    assert sharp.ece.iloc[-1] == pytest.approx(sharp.error.iloc[-1])


def test_gradient_on_the_confidence():
    gradient = theory()["confidence_gradient"].set_index("order")
    first, second = gradient.loc["answer first"], gradient.loc["confidence first"]
    assert first.largest.max() < 1e-15 and first.noise.min() > 0
    assert (second.gradient.to_numpy()[-5:] > 0).all() and (second.gradient.to_numpy()[:5] < 0).all()
    mean = (second.probability * second.accuracy).sum()
    np.testing.assert_allclose(second.gradient, second.probability * (second.accuracy - mean), atol=1e-12)


def test_tabular_prediction_and_frontier():
    tabular = theory()["tabular"].set_index(["reward", "step"])
    pilot = {0: (0.658, 0.603, 0.054, 0.067), 100: (0.741, 0.660, 0.081, 0.089)}
    for step, values in pilot.items():
        np.testing.assert_allclose(tabular.loc[("binary", step)], values, atol=0.03)
    frontier = theory()["frontier"].set_index("t")
    for threshold, accuracy, wrong in ((0.5, 0.845, 11.4), (0.75, 0.927, 3.9), (0.9, 0.977, 0.8)):
        assert frontier.selective_accuracy[threshold] == pytest.approx(accuracy, abs=0.006)
        assert frontier.wrong_per_100[threshold] == pytest.approx(wrong, abs=0.5)


# --- Criteria -------------------------------------------------------------------------------------


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    guards.check(CLAIM, reference())


def test_the_direction_of_a_seed_is_told():
    summary = reference()["summary"].copy()
    rlvr = (summary.setting == "expert") & (summary.arm == "rlvr")
    base = (summary.setting == "expert") & (summary.arm == "base")
    for moves, verdict, note in (
        ((0.1, -0.1, 0.08, -0.09, 0.02), "inconclusive", "rises in 3 of 5 seeds and falls"),
        ((0.05,) * 5, "replicated", "the gap rises in every seed (5 of 5)"),
        ((-0.05,) * 5, "not replicated", "the gap falls in every seed (5 of 5)"),
    ):
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


def test_needs_are_unique_and_trained_before_evaluated():
    assert len(set(t.NEEDS)) == len(t.NEEDS)
    assert t.NEEDS.index("witnesses/expert/rlvr") < t.NEEDS.index("witnesses/expert/eval_rlvr")


def test_figures_stand_missing_arms():
    missing = ("rlvr_conf_first", "shuffled_correct", "rlvr_kl", "abstain_75")
    tables = {
        name: table[~table["arm"].isin(missing)] if "seed" in table else table for name, table in reference().items()
    }
    for plot in FIGURES.values():
        plot(tables)
