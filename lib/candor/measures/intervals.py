"""Intervals and tests: over seeds (t, signs) and over items (bootstrap, Wilson, paired differences)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from candor.measures import checks


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
    values, level = checks.vector(values, "values"), checks.share(level, "level")
    if values.size == 1:
        return math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, values.size - 1) * stats.sem(values) if np.ptp(values) else 0.0
    return float(values.mean() - half), float(values.mean() + half)


def sign_test(k: int, n: int) -> float:
    r"""One-sided p value of at least `k` successes in `n` fair coin tosses.

    .. math:: \sum_{i=k}^n \binom n i 2^{-n}

    Examples
    --------
    >>> sign_test(5, 5)
    0.03125
    """
    k, n = _count(k, n)
    return float(stats.binomtest(k, n, 0.5, alternative="greater").pvalue)


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
    k, n = _count(k, n)
    interval = stats.binomtest(k, n).proportion_ci(checks.share(level, "level"), method="wilson")
    return float(interval.low), float(interval.high)


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
    a, b = checks.vector(a, "a"), checks.vector(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b must hold the same items, but have {a.size} and {b.size}.")
    if a.size < 2:
        raise ValueError("A standard error needs at least two items.")
    return float((a - b).mean()), float(stats.sem(a - b))


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    level: float = 0.95,
    n_resamples: int = 1000,
    rng: np.random.Generator | int | None = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(*arrays)`, resampling items (all arrays together).

    It is an interval over items at one seed. For a statistic that cannot be negative (ECE) it is biased
    upwards near zero, because a resample is noisier than the sample: hold ECE against
    `calibration.noise_floor` instead.

    Parameters
    ----------
    statistic : function of as many vectors as there are arrays; returns a number.
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
        raise ValueError("A bootstrap needs at least one array.")
    arrays = [checks.vector(a, f"array {i}") for i, a in enumerate(arrays)]
    n = arrays[0].size
    if any(a.size != n for a in arrays):
        raise ValueError(f"The arrays must hold the same items, but have {[a.size for a in arrays]}.")
    if n < 2:
        raise ValueError("A bootstrap needs at least two items.")
    rng = np.random.default_rng(rng)
    values = np.empty(checks.positive(n_resamples, "n_resamples"))
    for i in range(values.size):
        # scipy.stats.bootstrap does the same with all indices in memory, in three times the time.
        items = rng.integers(n, size=n)
        values[i] = statistic(*(a[items] for a in arrays))
    tail = 50 * (1 - checks.share(level, "level"))
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)


def _count(k: int, n: int) -> tuple[int, int]:
    n = checks.positive(n, "n")
    if k != int(k) or not 0 <= k <= n:
        raise ValueError(f"k must be a whole number from 0 to {n}, but is {k!r}.")
    return int(k), n
