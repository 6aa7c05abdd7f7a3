"""Confidence within prompts, both conventions of the ECE, and the two pieces of theory."""

import numpy as np
import pytest
from candor.claims.self_feedback import self_confidence as measure
from candor.measure import calibration
from sklearn.metrics import roc_auc_score


def traces(n=300, k=10, b=1.0, seed=0):
    """Confidences, right or wrong, prompts: P(right) has slope `b` in confidence, and surer prompts are harder."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0.3, 0.7, (n, 1))
    confidence = centre + rng.uniform(-0.2, 0.2, (n, k))
    probability = 1 - centre + b * (confidence - centre)
    return confidence.ravel(), probability.ravel(), np.repeat(np.arange(n), k), rng


def test_the_auroc_is_that_of_each_prompt_averaged():
    confidence, probability, prompt, rng = traces(n=80)
    confidence = confidence.round(1)  # ties
    right = rng.random(len(prompt)) < probability
    each = [
        roc_auc_score(right[prompt == p], confidence[prompt == p])
        for p in np.unique(prompt)
        if 0 < right[prompt == p].mean() < 1
    ]
    assert measure.within_prompt_auroc(confidence, right, prompt) == pytest.approx(np.mean(each))
    assert len(measure.prompt_aurocs(confidence, right, prompt)) == len(each) < 81


def test_difficulty_of_prompts_makes_a_pooled_auroc_and_no_within_one():
    rng = np.random.default_rng(1)
    level = np.repeat(rng.uniform(0.1, 0.9, 400), 10)
    right = rng.random(4000) < level
    confidence = level + rng.uniform(-0.01, 0.01, 4000)  # knows the prompt, not the trace
    assert measure.auroc(confidence.clip(0, 1), right) > 0.75
    assert measure.within_prompt_auroc(confidence, right, np.repeat(np.arange(400), 10)) == pytest.approx(0.5, abs=0.03)


def test_prompts_can_be_weighted():
    confidence, right, prompt = [0.9, 0.1, 0.9, 0.1], [1, 0, 0, 1], [0, 0, 1, 1]
    assert measure.within_prompt_auroc(confidence, right, prompt) == 0.5
    assert measure.within_prompt_auroc(confidence, right, prompt, [0.6, 0.6, 0.4, 0.4]) == pytest.approx(0.6)
    assert np.isnan(measure.within_prompt_auroc([0.1, 0.2], [1, 1], [0, 0]))
    assert np.isnan(measure.within_prompt_auroc(confidence, [1, 0, 1, 1], prompt, [0, 0, 1, 1]))
    with pytest.raises(ValueError, match="weight must be one number a prompt"):
        measure.within_prompt_auroc(confidence, right, prompt, [0.6, 0.5, 0.4, 0.4])


@pytest.mark.parametrize("b", [0.5, 1.0, 1.4])
def test_the_slope_is_found_within_prompts(b):
    confidence, probability, prompt, _ = traces(b=b)
    assert measure.slope(confidence, probability, prompt) == pytest.approx(b, abs=0.05)
    assert abs(np.polyfit(confidence, probability, 1)[0] - b) > 0.1  # a pooled regression finds another


def test_no_variation_within_prompts_has_no_slope():
    assert np.isnan(measure.slope([0.3, 0.3, 0.8, 0.8], [0, 1, 1, 1], [0, 0, 1, 1]))


# --- Calibration ------------------------------------------------------------------------------------


def test_the_ece_is_the_projects_with_bins_closed_right():
    rng = np.random.default_rng(2)
    confidence = rng.random(2000).round(2)
    right = rng.random(2000) < confidence
    assert measure.ece(confidence, right) == pytest.approx(calibration.ece(confidence, right, closed="right"))
    table = measure.reliability(confidence, right)
    assert table["n"].sum() == 2000
    gap = (table["n"] * (table["confidence"] - table["accuracy"]).abs()).sum() / 2000
    assert gap == pytest.approx(measure.ece(confidence, right))


def test_dropping_zeros_flatters_by_what_the_brief_says():
    """With a share z of traces without an answer, keeping them gives (1 - z) x ECE + z x their accuracy."""
    confidence, right = np.array([0.0] * 20 + [0.85] * 80), np.array([1] * 5 + [0] * 15 + [1] * 60 + [0] * 20)
    dropped = measure.ece(confidence, right, "dropped")
    assert dropped == pytest.approx(0.10)
    assert measure.ece(confidence, right, "kept") == pytest.approx(0.8 * dropped + 0.2 * 0.25)
    assert np.isnan(measure.ece(np.zeros(3), np.zeros(3), "dropped"))


def test_grading_by_a_posterior_has_the_expectation_of_grading_by_truths():
    rng = np.random.default_rng(3)
    confidence, posterior = rng.random(400), rng.choice([0.0, 0.4, 0.6, 1.0], 400)
    truths = rng.random((800, 400)) < posterior
    assert measure.brier(confidence, posterior) == pytest.approx(
        np.mean([calibration.brier(confidence, right) for right in truths]), abs=0.002
    )
    assert measure.auroc(confidence, posterior) == pytest.approx(
        np.mean([calibration.auroc(confidence, right) for right in truths[:200]]), abs=0.005
    )
    assert measure.auroc(confidence, truths[0]) == pytest.approx(calibration.auroc(confidence, truths[0]))
    assert np.isnan(measure.auroc(confidence, np.ones(400)))


# --- Theory -----------------------------------------------------------------------------------------


def test_arc_moves_from_one_temperature_alone():
    table = measure.artefact([3.5, 1.4], "arc_like") * 100
    assert table["accuracy"].to_numpy() == pytest.approx([97.0, 97.0], abs=0.05)
    assert table["ece_disparity"].to_numpy() == pytest.approx([16.4, 5.2], abs=0.1)


@pytest.mark.parametrize("b", [-0.5, 0.5, 1.0, 1.5])
def test_selection_is_what_a_simulation_finds(b):
    rng = np.random.default_rng(4)
    confidence = rng.uniform(0.2, 0.8, (100_000, 10)).max(1)
    accuracy, gap = measure.selection(b)
    assert accuracy == pytest.approx((0.5 + b * (confidence - 0.5)).mean(), abs=0.002)
    assert gap == pytest.approx((1 - b) * (confidence.mean() - 0.5), abs=0.002)


def test_a_slope_that_leaves_the_probabilities_is_refused():
    with pytest.raises(ValueError, match="b is 3, which makes the accuracy"):
        measure.selection(3.0)
