"""What a measure accepts: every measure asks here first, so that none returns a number for nonsense."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A confidence computed in float32 (a softmax, a mean of tenths) may miss a bin edge or leave [0, 1] by this.
TOLERANCE = 1e-6


def vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """A finite, non-empty vector of floats, or a `ValueError` that names the argument."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1:
        raise ValueError(f"{name} must have one dimension, but has shape {values.shape}.")
    if values.size == 0:
        raise ValueError(f"{name} is empty.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(values))} values that are not finite.")
    return values


def probabilities(values: ArrayLike, name: str = "confidence") -> NDArray[np.float64]:
    """A vector inside [0, 1]; what exceeds it by float32 rounding is clipped."""
    values = vector(values, name)
    if values.min() < -TOLERANCE or values.max() > 1 + TOLERANCE:
        raise ValueError(f"{name} must lie in [0, 1], but reaches from {values.min():g} to {values.max():g}.")
    return values.clip(0, 1)


def outcomes(values: ArrayLike, name: str = "correct") -> NDArray[np.float64]:
    """A vector of zeros and ones (or booleans)."""
    values = vector(values, name)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"{name} must hold only 0 and 1 (or booleans).")
    return values


def forecasts(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Confidences in [0, 1] and their 0/1 outcomes, of one length."""
    confidence, correct = probabilities(confidence), outcomes(correct)
    if confidence.shape != correct.shape:
        raise ValueError(f"There are {confidence.size} confidences for {correct.size} outcomes.")
    return confidence, correct


def share(value: float, name: str) -> float:
    """A number strictly between 0 and 1, such as the level of an interval."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, but is {value!r}.")
    return float(value)


def positive(value: int, name: str) -> int:
    """A whole number of at least 1."""
    if value != int(value) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, but is {value!r}.")
    return int(value)
