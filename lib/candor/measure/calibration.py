"""Does a stated probability mean what it says? Calibration, sharpness and their noise, for yes/no outcomes.

Everywhere `confidence` has shape (n,) and values in [0, 1]; `correct` has shape (n,) and values 0 or 1 (or
booleans). Empty, misshapen, non-finite or out-of-range input is a `ValueError` (see `checks`).

One convention of binning holds in the whole project: equal-width bins **closed on the left**, [0, .1),
[.1, .2), ..., [.9, 1], the last one closed on both sides. It is the convention of the RLCR authors' released
numbers (Damani et al. 2025, arXiv 2507.16806). On a grid of tenths it decides everything, so a value within
1e-6 of an edge (float16: .001) lies on that edge: .3, .6 and .7 open their bins even where their floats lie below.
Never print an ECE without a bin-free measure (Brier, smooth ECE) and its `noise_floor` beside it.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats
from sklearn.metrics import roc_auc_score

from candor.measure.checks import (
    BINS,
    COUNT,
    LEVEL,
    OUTCOMES,
    PROBABILITIES,
    RANDOM,
    SHARE,
    TOLERANCE,
    Array,
    Choice,
    Number,
    takes,
    tolerance,
)

N_BINS = 10
LOG_CLIP = 1e-3
TEMPERATURE_BOUNDS = (0.05, 20.0)

Closed = Literal["left", "right"]
SIDE = Choice(("left", "right"))
CLIP = Number(low=0, high=0.5, open=True)
LOGITS = Array(("items", "answers"))


# --- Expected calibration error -------------------------------------------------------------------


@takes(confidence=PROBABILITIES, correct=OUTCOMES, n_bins=BINS, closed=SIDE)
def ece(confidence: ArrayLike, correct: ArrayLike, n_bins: int = N_BINS, *, closed: Closed = "left") -> float:
    r"""Expected calibration error: the mean absolute gap between confidence and accuracy over bins.

    .. math:: \sum_b \frac{n_b}{n} \left| \bar y_b - \bar q_b \right|,
        \quad \bar y_b = \text{accuracy}, \quad \bar q_b = \text{mean confidence in bin } b

    Parameters
    ----------
    confidence, correct : arrays of shape (n,)
    n_bins : number of bins of equal width.
    closed : "left" is the project's convention. "right", (0, .1], ..., (.9, 1] with 0 in the first bin,
        exists only to show how much the convention matters.

    Returns
    -------
    float in [0, 1]. Biased upwards: see `noise_floor`.

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning,
    AAAI.
    Guo et al. (2017), On calibration of modern neural networks, equation 3. ICML.

    Examples
    --------
    >>> round(ece([0.95, 0.95, 0.95, 0.95], [1, 1, 1, 0]), 3)
    0.2
    >>> tenths, right = [0.3, 0.25], [1, 0]
    >>> round(ece(tenths, right), 3), round(ece(tenths, right, closed="right"), 3)
    (0.475, 0.225)
    """
    return _mean_gap(confidence - correct, bins(confidence, n_bins, closed))


@takes(confidence=PROBABILITIES, correct=OUTCOMES)
def ece_by_value(confidence: ArrayLike, correct: ArrayLike) -> float:
    """ECE with one bin for every distinct value: free of edges, for confidences on a grid.

    It needs several items a value: with few of them it is mostly noise (see `noise_floor`), and where values hardly
    repeat, as continuous confidences do, it would not measure calibration at all. So it is a `ValueError` where all
    values differ, or where there are fewer than two items a value and the values are no twentieths.

    Examples
    --------
    >>> round(ece_by_value([0.3, 0.3, 0.25, 0.25], [1, 1, 0, 0]), 3)
    0.475
    """
    values, index = np.unique((confidence / TOLERANCE).round(), return_inverse=True)
    twentieths = np.abs(20 * confidence - (20 * confidence).round()).max() < 20 * tolerance(confidence)
    if 1 < confidence.size < 2 * values.size and (values.size == confidence.size or not twentieths):
        raise ValueError(
            f"confidence has {values.size} values for {confidence.size} items: one bin a value needs a grid, so take "
            "`ece` or `smooth_ece`."
        )
    return _mean_gap(confidence - correct, index)


@takes(confidence=PROBABILITIES, correct=OUTCOMES)
def smooth_ece(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Smooth ECE (relplot's `smECE`): no bins, but a kernel whose bandwidth equals the result.

    relplot reflects its grid of 1,001 points or more at the ends but not their own mass, so that a confidence of 0 or 1
    counts half. Residuals are therefore placed a thousandth inside; their size is kept.

    References
    ----------
    Blasiok and Nakkiran (2024), Smooth ECE: principled reliability diagrams via kernel smoothing. ICLR.

    Examples
    --------
    >>> round(smooth_ece([0.9] * 100, [1] * 60 + [0] * 40), 2)
    0.3
    """
    import relplot  # imports matplotlib: keep it out of the way of whoever wants one number

    inside = confidence.clip(0.001, 0.999)
    return float(relplot.smECE(inside, correct + (inside - confidence)))


@takes(confidence=PROBABILITIES, correct=OUTCOMES, n_bins=BINS)
def reliability_table(confidence: ArrayLike, correct: ArrayLike, n_bins: int = N_BINS) -> pd.DataFrame:
    """The data of a reliability diagram, in the binning of `ece`.

    Returns
    -------
    DataFrame with a row a bin (empty ones too): bin_low, bin_high, n, mean_confidence, accuracy (the last two
    NaN in empty bins). `sum(n * abs(accuracy - mean_confidence)) / sum(n)` is the ECE.

    Examples
    --------
    >>> reliability_table([0.2, 0.7, 0.9], [0, 1, 1], n_bins=2)
       bin_low  bin_high  n  mean_confidence  accuracy
    0      0.0       0.5  1              0.2       0.0
    1      0.5       1.0  2              0.8       1.0
    """
    index = bins(confidence, n_bins)
    n = np.bincount(index, minlength=n_bins)
    table = _edges(n_bins).assign(n=n)
    for name, values in (("mean_confidence", confidence), ("accuracy", correct)):
        table[name] = _ratio(np.bincount(index, values, n_bins), n)
    return table


# --- Proper scores --------------------------------------------------------------------------------


@takes(confidence=PROBABILITIES, correct=OUTCOMES)
def brier(confidence: ArrayLike, correct: ArrayLike) -> float:
    r"""Brier score, the mean squared error :math:`\frac 1n \sum_i (q_i - y_i)^2`; 0 is best.

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability. Monthly Weather Review 78.

    Examples
    --------
    >>> brier([1.0, 0.5], [1, 0])
    0.125
    """
    return float(np.square(confidence - correct).mean())


@takes(confidence=PROBABILITIES, correct=OUTCOMES)
def brier_se(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Standard error of the Brier score over items: s.d. of the squared errors / sqrt(n), n >= 2.

    Examples
    --------
    >>> round(brier_se([1.0, 0.5], [1, 0]), 3)
    0.125
    """
    if confidence.size < 2:
        raise ValueError("A standard error needs at least two items.")
    return float(stats.sem(np.square(confidence - correct)))


class BrierParts(NamedTuple):
    """brier = reliability - resolution + uncertainty + within_variance - within_covariance."""

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def brier(self) -> float:
        return self.reliability - self.resolution + self.uncertainty + self.within_variance - self.within_covariance


@takes(confidence=PROBABILITIES, correct=OUTCOMES, n_bins=BINS)
def brier_decomposition(confidence: ArrayLike, correct: ArrayLike, n_bins: int = N_BINS) -> BrierParts:
    r"""Murphy's decomposition in the binning of `ece`, with within-bin terms so that it adds up exactly.

    .. math::
        \mathrm{reliability} = \sum_b \tfrac{n_b}{n} (\bar q_b - \bar y_b)^2, \quad
        \mathrm{resolution} = \sum_b \tfrac{n_b}{n} (\bar y_b - \bar y)^2, \quad
        \mathrm{uncertainty} = \bar y (1 - \bar y)

        \mathrm{within\ variance} = \tfrac 1n \sum_i (q_i - \bar q_{b(i)})^2, \quad
        \mathrm{within\ covariance} = \tfrac 2n \sum_i (q_i - \bar q_{b(i)})(y_i - \bar y_{b(i)})

    The within-bin terms vanish when every bin holds a single value, as on a grid of tenths.

    References
    ----------
    Murphy (1973), A new vector partition of the probability score. Journal of Applied Meteorology 12.
    Stephenson, Coelho and Jolliffe (2008), Two extra components in the Brier score decomposition. Weather and
    Forecasting 23, equation 9.

    Examples
    --------
    >>> parts = brier_decomposition([0.2, 0.2, 0.9, 0.9], [0, 1, 1, 1])
    >>> [round(part, 4) for part in parts], round(parts.brier, 4)
    ([0.05, 0.0625, 0.1875, 0.0, 0.0], 0.175)
    """
    index = bins(confidence, n_bins)
    n = np.bincount(index, minlength=n_bins)
    q = _ratio(np.bincount(index, confidence, n_bins), n)[index]
    y = _ratio(np.bincount(index, correct, n_bins), n)[index]
    accuracy = correct.mean()
    parts = (
        np.square(q - y).mean(),
        np.square(y - accuracy).mean(),
        accuracy * (1 - accuracy),
        np.square(confidence - q).mean(),
        2 * ((confidence - q) * (correct - y)).mean(),
    )
    return BrierParts(*map(float, parts))


@takes(confidence=PROBABILITIES, correct=OUTCOMES, constant=SHARE)
def brier_skill(confidence: ArrayLike, correct: ArrayLike, constant: float | None = None) -> float:
    r"""Brier skill against a constant forecast, :math:`1 - \mathrm{Brier} / \mathrm{Brier}_\text{constant}`.

    Parameters
    ----------
    constant : the reference forecast, such as the accuracy on the training distribution. `None`: the accuracy
        on these very items, the best constant in hindsight, with Brier accuracy * (1 - accuracy).

    Returns
    -------
    float <= 1; 0 is no better than the constant; nan where the constant is perfect.

    Examples
    --------
    >>> brier_skill([0.5, 0.5, 1.0, 1.0], [1, 0, 1, 1])
    0.33333333333333337
    >>> brier_skill([0.5, 0.5], [1, 0])
    0.0
    """
    constant = correct.mean() if constant is None else constant
    reference = np.square(constant - correct).mean()
    return float(1 - np.square(confidence - correct).mean() / reference) if reference > 0 else math.nan


@takes(confidence=PROBABILITIES, correct=OUTCOMES, clip=CLIP)
def log_score(confidence: ArrayLike, correct: ArrayLike, clip: float = LOG_CLIP) -> float:
    r"""Logarithmic score as a loss, in nats: :math:`-\frac 1n \sum_i \log p_i(y_i)`; 0 is best.

    Confidences are clipped to [clip, 1 - clip], by default to [.001, .999]: without a clip a single sure and
    wrong answer makes it infinite. State the clip beside the number; by default such an answer costs 6.9.

    References
    ----------
    Good (1952), Rational decisions. JRSS B 14.

    Examples
    --------
    >>> round(log_score([0.5, 0.5], [1, 0]), 4), round(log_score([1.0], [0]), 4)
    (0.6931, 6.9078)
    """
    confidence = confidence.clip(clip, 1 - clip)
    return float(-np.log(np.where(correct == 1, confidence, 1 - confidence)).mean())


# --- Ranking --------------------------------------------------------------------------------------


@takes(confidence=PROBABILITIES, correct=OUTCOMES)
def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Probability that a right answer carries more confidence than a wrong one (ties count half).

    Returns
    -------
    float in [0, 1]; .5 when confidence is constant; nan when all answers are right or all are wrong.

    Examples
    --------
    >>> auroc([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0])
    0.875
    >>> auroc([0.9, 0.8], [1, 1])
    nan
    """
    if correct.min() == correct.max():
        return math.nan
    return float(roc_auc_score(correct, confidence))


# --- What a perfectly calibrated forecaster would get ---------------------------------------------


@takes(confidence=PROBABILITIES, n_repetitions=COUNT, rng=RANDOM, n_bins=BINS)
def noise_floor(
    confidence: ArrayLike,
    n_repetitions: int = 200,
    rng: np.random.Generator | int | None = 0,
    n_bins: int = N_BINS,
) -> tuple[float, float]:
    """ECE of a perfectly calibrated forecaster that states these confidences, on as many items.

    Each repetition draws every outcome with exactly the stated probability. An observed ECE below the second
    number is no evidence of miscalibration.

    Returns
    -------
    (mean, 95 % point) of the ECE over repetitions.

    Examples
    --------
    >>> mean, p95 = noise_floor([0.1, 0.5, 0.9] * 300)
    >>> bool(0.01 < mean < p95 < 0.06)
    True
    """
    index = bins(confidence, n_bins)
    right = _calibrated_draws(confidence, index, n_bins, n_repetitions, rng)
    gaps = right - np.bincount(index, confidence, n_bins)
    errors = np.abs(gaps).sum(axis=1) / confidence.size
    return float(errors.mean()), float(np.percentile(errors, 95))


@takes(confidence=PROBABILITIES, n_repetitions=COUNT, rng=RANDOM, n_bins=BINS, level=LEVEL)
def floor_band(
    confidence: ArrayLike,
    n_repetitions: int = 500,
    rng: np.random.Generator | int | None = 0,
    n_bins: int = N_BINS,
    level: float = 0.95,
) -> pd.DataFrame:
    """Band of the accuracy that a perfectly calibrated forecaster would show in each bin, item noise alone.

    Returns
    -------
    DataFrame with the rows of `reliability_table`: bin_low, bin_high, n, floor_low, floor_high (NaN in empty
    bins).

    Examples
    --------
    >>> band = floor_band([0.75] * 400, n_bins=2).round(2)
    >>> band.loc[1, ["n", "floor_low", "floor_high"]].tolist()
    [400.0, 0.71, 0.8]
    """
    index = bins(confidence, n_bins)
    n = np.bincount(index, minlength=n_bins)
    accuracy = _ratio(_calibrated_draws(confidence, index, n_bins, n_repetitions, rng), n)
    tail = 50 * (1 - level)
    low, high = np.percentile(accuracy, (tail, 100 - tail), axis=0)
    return _edges(n_bins).assign(n=n, floor_low=low, floor_high=high)


# --- Repair by one temperature --------------------------------------------------------------------


@takes(logits=LOGITS, labels=Array(flags=True, whole=True))
def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    r"""The one temperature that minimises the log loss of softmax(logits / T) on held-out items.

    .. math:: \min_T -\frac 1n \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}

    The loss is convex in 1/T, so the minimum is unique. T > 1 softens, T < 1 sharpens. Where the best T lies
    outside `TEMPERATURE_BOUNDS` (logits that are saturated or say nothing), the bound is returned with a
    `RuntimeWarning`; look at `saturation` beside it: dividing by T cannot bring back what rounding lost.

    Parameters
    ----------
    logits : array of shape (n, k), k >= 2; for a stated confidence use `binary_logits`.
    labels : integers of shape (n,) in 0..k-1.

    References
    ----------
    Guo et al. (2017), On calibration of modern neural networks, section 4.2. ICML.

    Examples
    --------
    >>> z = np.log([[0.5, 0.5], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2]])
    >>> round(fit_temperature(3 * z, [0, 0, 0, 0, 0, 1]), 3)
    3.0
    """
    rows, labels, last = np.arange(labels.size), labels.astype(int), _answers(logits) - 1
    if labels.min() < 0 or labels.max() > last:
        raise ValueError(f"labels must be whole numbers from 0 to {last}.")

    def slope(inverse: float) -> float:  # of the loss, in 1 / T; it never falls
        expected = (special.softmax(logits * inverse, axis=1) * logits).sum(axis=1)
        return (expected - logits[rows, labels]).mean()

    low, high = TEMPERATURE_BOUNDS
    if slope(1 / high) < 0 < slope(1 / low):
        return float(1 / optimize.brentq(slope, 1 / high, 1 / low))
    bound = high if slope(1 / high) >= 0 else low
    warnings.warn(f"The best temperature lies beyond {bound:g}, the limit of the search.", RuntimeWarning, stacklevel=3)
    return bound


@takes(logits=LOGITS, temperature=Number(low=0, open=True))
def apply_temperature(logits: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """softmax(logits / temperature), shape (n, k).

    Examples
    --------
    >>> apply_temperature(np.log([[0.8, 0.2]]), 2.0).round(3)
    array([[0.667, 0.333]])
    """
    _answers(logits)
    return special.softmax((logits - logits.max(1, keepdims=True)) / temperature, axis=1)


@takes(confidence=PROBABILITIES, clip=CLIP)
def binary_logits(confidence: ArrayLike, clip: float = LOG_CLIP) -> NDArray[np.float64]:
    """Logits of shape (n, 2) of (wrong, right), so that one temperature can be fitted to a stated confidence.

    Confidences are clipped to [clip, 1 - clip] first: no temperature moves an infinite logit.

    Examples
    --------
    >>> binary_logits([0.5, 0.8]).round(3)
    array([[0.   , 0.   ],
           [0.   , 1.386]])
    """
    right = special.logit(confidence.clip(clip, 1 - clip))
    return np.stack([np.zeros_like(right), right], axis=1)


@takes(confidence=PROBABILITIES, threshold=LEVEL)
def saturation(confidence: ArrayLike, threshold: float = 0.999) -> float:
    """Share of confidences above `threshold`: what one temperature cannot tell apart again.

    Examples
    --------
    >>> saturation([0.9995, 1.0, 0.5, 0.9])
    0.5
    """
    return float((confidence > threshold).mean())


# --- Shared ---------------------------------------------------------------------------------------


@takes(confidence=PROBABILITIES, n_bins=BINS, closed=SIDE)
def bins(confidence: ArrayLike, n_bins: int = N_BINS, closed: Closed = "left") -> NDArray[np.int64]:
    """Index (n,) of the bin of each confidence; a value within the tolerance of an edge lies on it.

    Examples
    --------
    >>> bins([0.0, 0.3, 1.0]), bins([0.0, 0.3, 1.0], closed="right")
    (array([0, 3, 9]), array([0, 2, 9]))
    """
    slack = tolerance(confidence)
    left = np.floor((confidence + slack) * n_bins) if closed == "left" else np.ceil((confidence - slack) * n_bins) - 1
    return np.asarray(left).astype(np.int64).clip(0, n_bins - 1)


def _edges(n_bins: int) -> pd.DataFrame:
    edges = np.arange(n_bins + 1) / n_bins
    return pd.DataFrame({"bin_low": edges[:-1], "bin_high": edges[1:]})


def _mean_gap(error: NDArray, index: NDArray) -> float:
    return float(np.abs(np.bincount(index, error)).sum() / error.size)


def _ratio(numerator: NDArray, n: NDArray) -> NDArray[np.float64]:
    """numerator / n along the last axis, NaN where n is 0."""
    return numerator / np.where(n > 0, n, np.nan)


def _calibrated_draws(confidence, index, n_bins, n_repetitions, rng) -> NDArray[np.float64]:
    """Right answers in each bin, (n_repetitions, n_bins), when every confidence is the true probability."""
    rng = np.random.default_rng(rng)
    right = np.empty((n_repetitions, n_bins))
    for row in right:
        row[:] = np.bincount(index, rng.random(confidence.size) < confidence, n_bins)
    return right


def _answers(logits: NDArray) -> int:
    if logits.shape[1] < 2:
        raise ValueError(f"logits must have two answers or more, but have shape {logits.shape}.")
    return logits.shape[1]
