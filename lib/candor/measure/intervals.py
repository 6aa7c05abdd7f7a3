"""Intervals and tests: over seeds (t, signs) and over items (bootstrap, Wilson, paired differences).

Every bootstrap interval of the project comes from `percentiles`, with one rule for resamples in which the statistic
means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from candor.measure.checks import ANYTHING, COUNT, LEVEL, RANDOM, VALUES, Array, Is, Number, takes


@takes(values=VALUES, level=LEVEL)
def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    r"""Student's t interval of the mean of a few independent values, usually one per seed.

    .. math:: \bar x \pm t_{n-1}\, s / \sqrt n

    Parameters
    ----------
    values : array of shape (n,)
    level : coverage, in (0, 1).

    Returns
    -------
    (low, high). One value says nothing about its spread: (nan, nan). Values without variance: (mean, mean).

    Raises
    ------
    ValueError : `values` is empty, not a vector, or not finite.

    Examples
    --------
    >>> low, high = t_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    >>> t_interval([0.5])
    (nan, nan)
    """
    if values.size == 1:
        return math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, values.size - 1) * stats.sem(values) if np.ptp(values) else 0.0
    return float(values.mean() - half), float(values.mean() + half)


@takes(k=Number(low=0, whole=True), n=COUNT)
def sign_test(k: int, n: int) -> float:
    r"""One-sided p value of at least `k` successes in `n` fair coin tosses.

    .. math:: \sum_{i=k}^n \binom n i 2^{-n}

    Examples
    --------
    >>> sign_test(5, 5)
    0.03125
    """
    _count(k, n)
    return float(stats.binomtest(k, n, 0.5, alternative="greater").pvalue)


@takes(k=Number(low=0, whole=True), n=COUNT, level=LEVEL)
def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a proportion of `k` in `n`.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference. JASA 22.

    Examples
    --------
    >>> low, high = wilson(16, 16)
    >>> round(low, 3), high
    (0.806, 1.0)
    """
    _count(k, n)
    interval = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


@takes(a=ANYTHING, b=ANYTHING)
def paired_difference(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    r"""Mean of `a - b` over the same items, and its standard error.

    .. math:: \bar d = \frac 1n \sum_i (a_i - b_i), \qquad \mathrm{s.e.} = s_d / \sqrt n

    Parameters
    ----------
    a, b : arrays of shape (n,), n >= 2, in the same order of items.

    Returns
    -------
    (mean, standard error)

    Examples
    --------
    >>> paired_difference([1, 1, 0, 1], [0, 1, 0, 0])
    (0.5, 0.28867513459481287)
    """
    if a.size < 2:
        raise ValueError("a and b need at least two items for a standard error.")
    return float((a - b).mean()), float(stats.sem(a - b))


RESAMPLED = Array(gaps=True)


@takes(values=RESAMPLED, level=LEVEL)
def percentiles(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile limits (low, high) of a statistic over resamples, array of shape (n,).

    NaN says that the statistic meant nothing in a resample (an AUROC of right answers alone): such resamples are left
    out. Where they are more than half, the others are no sample of anything: (nan, nan).

    Examples
    --------
    >>> percentiles([1.0, 2.0, 3.0, math.nan], level=0.5), percentiles([1.0, math.nan, math.nan])
    ((1.5, 2.5), (nan, nan))
    """
    known = values[~np.isnan(values)]
    if 2 * known.size < values.size:
        return math.nan, math.nan
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


@takes(statistic=Is((Callable,)), arrays=ANYTHING, level=LEVEL, n_resamples=COUNT, rng=RANDOM)
def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(*arrays)`, resampling items (all arrays together); see `percentiles`.

    It is an interval over items at one seed. For a statistic that cannot be negative (ECE) it is biased
    upwards near zero, because a resample is noisier than the sample: hold ECE against
    `calibration.noise_floor` instead.

    Parameters
    ----------
    statistic : function of as many vectors as there are arrays; returns a number, or NaN where it means nothing.
    arrays : arrays of shape (n,), n >= 2.
    rng : a generator or a seed; the same seed gives the same interval.

    Returns
    -------
    (low, high)

    References
    ----------
    Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13.

    Examples
    --------
    >>> low, high = bootstrap_interval(np.mean, np.arange(100.0), rng=1)
    >>> bool(40 < low < 49.5 < high < 60)
    True
    """
    if not arrays:
        raise ValueError("A bootstrap needs at least one of the arrays.")
    n = arrays[0].size
    if n < 2:
        raise ValueError("arrays must hold at least two items for a bootstrap.")
    rng, values = np.random.default_rng(rng), []
    for _ in range(n_resamples):
        # scipy.stats.bootstrap does the same with all indices in memory, in three times the time.
        items = rng.integers(n, size=n)
        values.append(statistic(*(a[items] for a in arrays)))
    return percentiles(RESAMPLED(values, "what statistic returns", {}), level)


def _count(k: int, n: int) -> None:
    if k > n:
        raise ValueError(f"k must be a whole number from 0 to {n}, but is {k}.")
