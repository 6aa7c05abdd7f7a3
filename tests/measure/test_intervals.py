import math

import numpy as np
import pytest
from candor.claims.sophistry import crossed
from candor.measure import clustered, intervals
from candor.measure.calibration import auroc, brier
from candor.measure.intervals import bootstrap_interval, paired_difference, sign_test, t_interval, wilson
from scipy import stats
from statsmodels.stats.proportion import proportion_confint


def test_t_interval_agrees_with_scipy():
    values = np.random.default_rng(0).normal(size=5)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert t_interval(values, 0.9) == pytest.approx(tuple(expected))


def test_t_interval_without_spread():
    assert all(map(math.isnan, t_interval([0.7])))
    assert t_interval([0.1] * 5) == pytest.approx((0.1, 0.1), abs=0)


def test_t_interval_covers():
    rng = np.random.default_rng(1)
    lows, highs = np.transpose([t_interval(rng.normal(size=5)) for _ in range(1000)])
    assert ((lows <= 0) & (highs >= 0)).mean() == pytest.approx(0.95, abs=0.025)


def test_sign_test():
    assert sign_test(5, 5) == pytest.approx(0.03125)  # the brief's "5/5 one-sided: .031"
    assert sign_test(0, 5) == 1
    assert sign_test(13, 16) == pytest.approx(sum(math.comb(16, i) for i in range(13, 17)) / 2**16)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (397, 1000)])
def test_wilson_agrees_with_statsmodels(k, n):
    assert wilson(k, n) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-12)


def test_paired_difference_is_the_paired_t_test():
    a, b = np.random.default_rng(2).random((2, 50))
    mean, error = paired_difference(a, b)
    assert mean / error == pytest.approx(stats.ttest_rel(a, b).statistic)
    assert paired_difference([1, 3], [0, 0]) == (2, 1), "two items are enough"


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(3)
    confidence = rng.random(400)
    correct = rng.random(400) < confidence
    ours = bootstrap_interval(brier, confidence, correct, n_resamples=2000, rng=0)
    theirs = stats.bootstrap(
        (confidence, correct),
        brier,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=1,
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.003)
    assert ours == bootstrap_interval(brier, confidence, correct, n_resamples=2000, rng=0)


def test_one_rule_for_resamples_in_which_a_statistic_means_nothing():
    """They are left out; where they are most, nothing is said. By every bootstrap of the project."""
    assert intervals.percentiles([1, 2, 3, math.nan, math.nan], 0.5) == (1.5, 2.5)
    assert intervals.percentiles([1, 2, math.nan, math.nan], 0.5) == (1.25, 1.75), "half of them is enough"
    assert clustered.interval is intervals.percentiles
    rare, correct = np.linspace(0.1, 0.9, 12), np.arange(12) == 11  # a resample holds the right answer in 65 %
    values = [auroc(rare[i], correct[i]) for i in np.random.default_rng(0).integers(12, size=(200, 12))]
    assert 0 < np.isnan(values).sum() < 100
    assert bootstrap_interval(auroc, rare, correct, n_resamples=200) == intervals.percentiles(values)
    assert np.isnan(bootstrap_interval(lambda a: math.nan if a.mean() < 3 else 1.0, np.arange(4.0))).all()
    found = crossed.changes([1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1])  # one wrong item in four
    assert found["fpr_change_low"] == found["fpr_change_high"] == 0
    alone = crossed.changes([1, 0], [0, 1], [1, 1], [0, 1], groups=["a", "a"])
    assert alone["approval_change"] == 0.5 and np.isnan(alone["approval_change_low"])


@pytest.mark.parametrize("returned", ["x", None, math.inf, True, [1.0, 2.0]])
def test_a_statistic_returns_a_number(returned):
    with pytest.raises(ValueError, match="what statistic returns"):
        bootstrap_interval(lambda a: returned, [1.0, 2.0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: sign_test(6, 5), "k must be a whole number from 0 to 5"),
        (lambda: wilson(6, 5), "k must be a whole number from 0 to 5"),
        (lambda: sign_test(-1, 5), "k must be whole and lie in .0"),
        (lambda: wilson(-1, 5), "k must be whole and lie in .0"),
        (lambda: paired_difference([1], [2]), "at least two items"),
        (lambda: bootstrap_interval(np.mean), "at least one of the arrays"),
        (lambda: bootstrap_interval(np.mean, [1.0]), "at least two items"),
        (lambda: bootstrap_interval(brier, [0.1, 0.2], [1]), "arrays.1. has 1 items, but arrays.0. has 2"),
    ],
)
def test_nonsense_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
