"""Evaluators who approve or reject outputs: how often, how often wrongly, and what a reward does to it at first order.

Approval is a verdict (0 or 1) or the probability of one; "wrong" is an output that the oracle calls wrong. All numbers
are shares, not points. Several evaluators of the same outputs are averaged first: outputs are the items, not labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from candor.measure.checks import ANYTHING, GROUPS, OUTCOMES, SHARES, VERDICTS, WEIGHTS, Array, takes, tolerance

PASS_RATES = (0.2, 0.4, 0.6, 0.8, 0.95)  # edges of the six bins of oracle pass rate
EDGES = Array(("edges",), low=0, high=1, open=True)


def _binned(side: str) -> tuple[Array, Array]:
    """Rules for verdicts and the pass rates of the same outputs, of which there may be none."""
    items = f"items{side}"
    return replace(VERDICTS, dims=(f"evaluators{side}?", items), empty=True), Array((items,), low=0, high=1, empty=True)


BEFORE, AFTER = _binned("_before"), _binned("")


@takes(approved=VERDICTS, correct=OUTCOMES, weights=WEIGHTS)
def rates(approved: ArrayLike, correct: ArrayLike, weights: ArrayLike | None = None) -> dict[str, float]:
    """Approval, correctness, and how they differ.

    Parameters
    ----------
    approved : array of shape (evaluators, n) or (n,), in [0, 1].
    correct : array of shape (n,), 0 or 1.
    weights : of the outputs, array of shape (n,) (default: equal).

    Returns
    -------
    approval, correctness, error (share whose verdict differs from the oracle's), tpr and fpr (share approved of the
    right and of the wrong outputs; nan without any), discrimination (tpr - fpr).

    Examples
    --------
    >>> rates([1, 1, 0, 0], [1, 0, 0, 0])["error"]
    0.25
    >>> rates([[1, 1], [1, 0]], [1, 0])["fpr"]
    0.5
    """
    weights = np.ones(len(correct)) if weights is None else weights
    return {name: float(value) for name, value in _measures(_averaged(approved), correct, weights).items()}


def _measures(a: np.ndarray, correct: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """`rates` of approval `a` [.., n] under weights of the outputs [.., n], each [..]."""
    total, right, wrong = weights.sum(-1), weights @ correct, weights @ (1 - correct)
    true, false = (weights * a) @ correct, (weights * a) @ (1 - correct)
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr = true / right, false / wrong
    return {
        "approval": (true + false) / total,
        "correctness": right / total,
        "error": (false + right - true) / total,
        "fpr": fpr,
        "tpr": tpr,
        "discrimination": tpr - fpr,
    }


def _averaged(approved: np.ndarray) -> np.ndarray:
    return approved.mean(0) if approved.ndim == 2 else approved


@takes(approval=SHARES, error=SHARES, correctness=SHARES)
def from_three_numbers(approval, error, correctness):
    r"""TPR and FPR on all outputs from three printed shares; arrays are taken element by element.

    .. math:: \mathrm{TPR} = \frac{a - e + c}{2 c}, \qquad \mathrm{FPR} = \frac{a + e - c}{2 (1 - c)}

    Approved and right, approved and wrong: together they are the approval, and error is what is approved and wrong
    plus what is right and rejected.

    Raises
    ------
    ValueError : no set of verdicts has these three shares.

    Examples
    --------
    >>> tpr, fpr = from_three_numbers(0.553, 0.408, 0.520)
    >>> round(tpr, 3), round(fpr, 3)
    (0.639, 0.459)
    """
    a, e, c = approval, error, correctness
    if np.any((c <= 0) | (c >= 1)):
        raise ValueError("correctness must lie strictly between 0 and 1, or one of the two rates has no outputs.")
    tpr, fpr = (a - e + c) / (2 * c), (a + e - c) / (2 * (1 - c))
    if np.any(np.minimum(tpr, fpr) < -1e-9) or np.any(np.maximum(tpr, fpr) > 1 + 1e-9):
        raise ValueError("approval, error and correctness do not fit: no verdicts have these three shares.")
    return _plain(tpr), _plain(fpr)


def _plain(values: np.ndarray):
    return values if np.ndim(values) else float(values)


@takes(correctness=SHARES)
def rejecting_all(correctness):
    """Error of an evaluator who rejects everything: the right outputs, all of them.

    Examples
    --------
    >>> rejecting_all(0.35)
    0.35
    """
    return _plain(correctness)


@takes(approved=AFTER[0], pass_rate=AFTER[1], edges=EDGES)
def by_pass_rate(approved: ArrayLike, pass_rate: ArrayLike, edges: Sequence[float] = PASS_RATES):
    """Mean approval and number of outputs in each bin of pass rate, two arrays (bins,); nan in an empty bin.

    A pass rate on an edge, or within rounding of it, belongs to the bin above it. Edges rise strictly inside (0, 1).

    Examples
    --------
    >>> by_pass_rate([1, 0, 1], [0.1, 0.1, 0.9], edges=(0.5,))
    (array([0.5, 1. ]), array([2, 1]))
    """
    if (np.diff(edges) <= 0).any():
        raise ValueError("edges must rise.")
    bins = np.digitize(pass_rate + tolerance(pass_rate), edges)
    n = np.bincount(bins, minlength=len(edges) + 1)
    sums = np.bincount(bins, _averaged(approved), len(edges) + 1)
    return np.divide(sums, n, out=np.full(len(n), np.nan), where=n > 0), n


@takes(approved_before=BEFORE[0], pass_before=BEFORE[1], approved_after=AFTER[0], pass_after=AFTER[1], edges=EDGES)
def equal_pass_rate(
    approved_before: ArrayLike,
    pass_before: ArrayLike,
    approved_after: ArrayLike,
    pass_after: ArrayLike,
    edges: Sequence[float] = PASS_RATES,
) -> float:
    """Change of approval at equal oracle pass rate: within bins, weighted as the initial outputs fall into them.

    Give it wrong outputs and it says how much more convincing they are at an equal distance from being right; a bin
    that is empty on one side is left out. nan where no bin is left.

    Examples
    --------
    >>> equal_pass_rate([0, 0, 1], [0.1, 0.1, 0.9], [1, 1, 1], [0.1, 0.9, 0.9], edges=(0.5,))  # 2/3 of +1, 1/3 of 0
    0.6666666666666666
    """
    before, n_before = by_pass_rate(approved_before, pass_before, edges)
    after, n_after = by_pass_rate(approved_after, pass_after, edges)
    both = (n_before > 0) & (n_after > 0)
    return float(np.average((after - before)[both], weights=n_before[both])) if both.any() else np.nan


QUANTITIES = ("approval", "correctness", "error", "fpr")


@takes(approved=VERDICTS, correct=OUTCOMES, reward=ANYTHING, prompt=GROUPS)
def slopes(approved: ArrayLike, correct: ArrayLike, reward: ArrayLike, prompt: ArrayLike) -> dict[str, float]:
    r"""Where a reward pulls before any training: derivatives at t = 0 under :math:`\pi_t \propto \pi_0 e^{t R}`.

    .. math:: \frac{d\,E[B]}{dt} = E_p\,\mathrm{Cov}(B, R \mid p), \qquad
              \frac{d\,\mathrm{FPR}}{dt} = \frac{E\,\mathrm{Cov}(AW, R) - \mathrm{FPR}\; E\,\mathrm{Cov}(W, R)}{E[W]}

    with W = 1 - correct. Covariances are taken within a prompt (unbiased) and averaged over prompts: what separates
    prompts from each other is no matter of the policy.

    Parameters
    ----------
    approved : array of shape (evaluators, n) or (n,); samples of the initial policy.
    correct, reward : arrays of shape (n,).
    prompt : which prompt a sample answers, array of shape (n,); at least two samples each.

    Returns
    -------
    approval, correctness, error, fpr.

    Examples
    --------
    >>> slopes([1, 0], [0, 0], [1, 0], [0, 0])["fpr"]
    0.5
    """
    a, c, r = _averaged(approved), correct, reward
    which = np.unique(prompt, return_inverse=True)[1].ravel()
    n = np.bincount(which)
    if n.min() < 2:
        raise ValueError("prompt must name at least two samples of each prompt, or it has no covariance.")
    centred = r - (np.bincount(which, r) / n)[which]
    weights = 1 / ((n - 1) * len(n))  # of a prompt's sum of products

    def covariance(b: np.ndarray) -> float:
        return float(np.bincount(which, b * centred) @ weights)

    w = 1 - c
    approved_wrong, wrong = covariance(a * w), covariance(w)
    share = np.bincount(which, w) / n
    fpr = (np.bincount(which, a * w) / n).sum() / share.sum() if share.sum() else np.nan
    return {
        "approval": covariance(a),
        "correctness": -wrong,
        "error": covariance(a * w + (1 - a) * c),
        "fpr": float((approved_wrong - fpr * wrong) / share.mean()) if share.sum() else np.nan,
    }
