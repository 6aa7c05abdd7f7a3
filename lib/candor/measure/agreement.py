"""Agreement of two speakers about when to use an act: Cohen's kappa, what bounds it, and what it mixes.

All functions take the probabilities with which a human and a model use the act at the same turns, [n] (or 0 and 1
where acts were observed), and assume that the two draw independently at a turn.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from candor.measure.checks import ACTS, SHARES, TOLERANCE, WEIGHTS, takes

NEVER = 1e-12  # a disagreement by chance that is only rounding: both never act, or both always do


@takes(human=ACTS, model=ACTS, weights=WEIGHTS)
def kappa(human: ArrayLike, model: ArrayLike, weights: ArrayLike | None = None) -> float:
    r"""Cohen's kappa of one act against the rest.

    .. math:: \kappa = \frac{o - e}{1 - e}, \quad o = \overline{h m + (1-h)(1-m)}, \quad
              e = \bar h \bar m + (1 - \bar h)(1 - \bar m)

    Parameters
    ----------
    human, model : probabilities of the act, arrays of shape (n,); 0 and 1 give the usual kappa of two codings.
    weights : share of each turn (default: equal).

    Returns
    -------
    kappa, at most 1; nan where neither uses the act (or both always do), 0 where only one never does.

    References
    ----------
    Cohen (1960), A coefficient of agreement for nominal scales. Educational and Psychological Measurement 20.

    Examples
    --------
    >>> kappa([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    >>> kappa([0, 0], [0, 0])
    nan
    """
    h, m, together = moments(human, model, weights)
    return kappa_of(h, m, together)


@takes(h=SHARES, m=SHARES, together=SHARES)
def kappa_of(h: ArrayLike, m: ArrayLike, together: ArrayLike):
    """kappa from the two rates and the share of turns at which both use the act; element by element.

    Raises
    ------
    ValueError : two speakers with these rates cannot act together that often, or that rarely.

    Examples
    --------
    >>> kappa_of(0.5, 0.25, 0.25)
    0.5
    """
    if np.any((together < h + m - 1 - TOLERANCE) | (together > np.minimum(h, m) + TOLERANCE)):
        raise ValueError("together must be a share that speakers with the rates h and m can have.")
    chance = h * m + (1 - h) * (1 - m)
    observed = 1 - h - m + 2 * together
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = np.where(1 - chance > NEVER, (observed - chance) / (1 - chance), np.nan)
    return kappa if kappa.ndim else float(kappa)


@takes(h=SHARES, m=SHARES)
def kappa_max(h: ArrayLike, m: ArrayLike):
    r"""The largest kappa that two rates allow: one speaker's acts are all among the other's.

    .. math:: 1 - \frac{|h - m|}{h + m - 2 h m}

    Examples
    --------
    >>> kappa_max(0.2, 0.2), round(kappa_max(0.28, 0.11), 3)
    (1.0, 0.482)
    """
    return kappa_of(h, m, np.minimum(h, m))


@takes(human=ACTS, model=ACTS, weights=WEIGHTS)
def recall(human: ArrayLike, model: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Share of the human's acts at which the model acts too; nan where the human never does.

    Examples
    --------
    >>> recall([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    h, _, together = moments(human, model, weights)
    return together / h if h else math.nan


@takes(human=ACTS, model=ACTS, weights=WEIGHTS)
def precision(human: ArrayLike, model: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Share of the model's acts at which the human acts too; nan where the model never does.

    Examples
    --------
    >>> precision([1, 1, 0, 0], [1, 0, 0, 0])
    1.0
    """
    _, m, together = moments(human, model, weights)
    return together / m if m else math.nan


@takes(human=ACTS, model=ACTS, weights=WEIGHTS)
def moments(human: ArrayLike, model: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float, float]:
    """Rate of the human, rate of the model, share of turns at which both use the act."""
    h, m, together = np.average(np.stack([human, model, human * model]), axis=1, weights=weights)
    return float(h), float(m), float(together)
