"""Rate and agreement of an act over turns, with paired bootstrap intervals over conversations.

Turns of one conversation are not independent, so conversations are resampled. Every measure here is a function of four
sums over turns, so a resample is a weighting of conversations: 2,000 of them are one product of matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from candor.measure import agreement, intervals
from candor.measure.checks import ACTS, COUNT, GROUPS, MANY, SEED, TOLERANCE, Array, Number, takes

MEASURES = ("human_rate", "rate", "kappa", "kappa_max", "kappa_share", "recall", "precision")


@takes(human=ACTS, model=ACTS, conversations=GROUPS)
def act_sums(human: ArrayLike, model: ArrayLike, conversations: ArrayLike) -> np.ndarray:
    """Sums over the turns of each conversation [C, 4]: turns, human acts, model acts, coincident acts.

    Parameters
    ----------
    human, model : arrays of shape (n,), probabilities (or 0/1) of the act at the same turns.
    conversations : array of shape (n,), which conversation a turn belongs to; rows of the result are in its order.
    """
    _, place = np.unique(conversations, return_inverse=True)
    columns = (np.ones_like(human), human, model, human * model)
    return np.column_stack([np.bincount(place, column) for column in columns])


@takes(sums=Array(("...", "4"), low=0))
def act_measures(sums: np.ndarray) -> dict[str, np.ndarray]:
    r"""The measures of one act from sums [..., 4], as `agreement` defines them from turns.

    .. math:: \kappa = \frac{p_o - p_e}{1 - p_e}, \quad p_o = \overline{hm + (1-h)(1-m)}, \quad
              \kappa_{max} = 1 - \frac{|h - m|}{h + m - 2 h m}

    NaN where a measure means nothing: kappa where neither side uses the act, precision where the model does not.
    Sums that no turns have are a `ValueError`.

    Examples
    --------
    >>> found = act_measures(act_sums([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]).sum(0))
    >>> round(float(found["kappa"]), 3), float(found["recall"]), float(found["precision"])
    (0.5, 0.5, 1.0)
    """
    turns, human, model, both = np.moveaxis(sums, -1, 0)
    few, many, slack = np.minimum(human, model), np.maximum(human, model), TOLERANCE * turns
    if not np.all((turns > 0) & (many <= turns + slack) & (both <= few + slack) & (both >= few + many - turns - slack)):
        raise ValueError("sums must be turns, human acts, model acts and coincident acts, in this order.")
    h, m, hm = human / turns, model / turns, both / turns
    kappa, best = agreement.kappa_of(h, m, hm), agreement.kappa_max(h, m)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "human_rate": h,
            "rate": m,
            "kappa": kappa,
            "kappa_max": best,
            "kappa_share": np.where(best > 0, np.divide(kappa, best), np.nan),
            "recall": np.where(h > 0, hm / h, np.nan),
            "precision": np.where(m > 0, hm / m, np.nan),
        }


@takes(conversations=Number(low=2, high=MANY, whole=True), n_resamples=COUNT, seed=SEED)
def weights(conversations: int, n_resamples: int, seed: int = 0) -> np.ndarray:
    """How often each conversation is drawn in each resample [R, C]; the same seed pairs the arms of a comparison."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(conversations, np.full(conversations, 1 / conversations), n_resamples)


interval = intervals.percentiles
