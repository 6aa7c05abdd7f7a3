"""Rate and agreement of an act over turns, with paired bootstrap intervals over conversations.

Turns of one conversation are not independent, so conversations are resampled. Every measure here is a function of four
sums over turns, so a resample is a weighting of conversations: 2,000 of them are one product of matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

MEASURES = ("human_rate", "rate", "kappa", "kappa_max", "kappa_share", "recall", "precision")


def act_sums(human: ArrayLike, model: ArrayLike, conversations: ArrayLike) -> np.ndarray:
    """Sums over the turns of each conversation [C, 4]: turns, human acts, model acts, coincident acts.

    Parameters
    ----------
    human, model : arrays of shape (n,), probabilities (or 0/1) of the act at the same turns.
    conversations : array of shape (n,), which conversation a turn belongs to; rows of the result are in its order.
    """
    human, model = np.asarray(human, float), np.asarray(model, float)
    _, place = np.unique(conversations, return_inverse=True)
    columns = (np.ones_like(human), human, model, human * model)
    return np.column_stack([np.bincount(place, column) for column in columns])


def act_measures(sums: np.ndarray) -> dict[str, np.ndarray]:
    r"""The measures of one act from sums [..., 4], as `agreement` defines them from turns.

    .. math:: \kappa = \frac{p_o - p_e}{1 - p_e}, \quad p_o = \overline{hm + (1-h)(1-m)}, \quad
              \kappa_{max} = 1 - \frac{|h - m|}{h + m - 2 h m}

    NaN where a measure means nothing: kappa where neither side uses the act, precision where the model does not.

    Examples
    --------
    >>> found = act_measures(act_sums([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]).sum(0))
    >>> round(float(found["kappa"]), 3), float(found["recall"]), float(found["precision"])
    (0.5, 0.5, 1.0)
    """
    turns, human, model, both = np.moveaxis(np.asarray(sums, float), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        h, m, hm = human / turns, model / turns, both / turns
        chance = h * m + (1 - h) * (1 - m)
        kappa = np.where(h + m > 0, (1 - h - m + 2 * hm - chance) / (1 - chance), np.nan)
        best = np.where(h + m > 0, 1 - np.abs(h - m) / (h + m - 2 * h * m), np.nan)
        return {
            "human_rate": h,
            "rate": m,
            "kappa": kappa,
            "kappa_max": best,
            "kappa_share": np.where(best > 0, kappa / best, np.nan),
            "recall": np.where(h > 0, hm / h, np.nan),
            "precision": np.where(m > 0, hm / m, np.nan),
        }


def weights(conversations: int, n_resamples: int, seed: int = 0) -> np.ndarray:
    """How often each conversation is drawn in each resample [R, C]; the same seed pairs the arms of a comparison."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(conversations, np.full(conversations, 1 / conversations), n_resamples)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile limits of bootstrap values; NaN where none of them is a number."""
    values = np.asarray(values)[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
