"""What repeated answers say about their types: a constrained mixture, which designs identify it, cross-checks.

Responses are coded as "chose the more confident completion" (0, 1), occasions as (frame, order): +1 or -1 each, order
+1 if the more confident completion is shown first. Classes: genuine (two opposite constant patterns, mixed by
`mixing`), non-attitudes (a coin that leans by `bias` to what is shown first) and constructed answers (the pattern that
the frame dictates), with one lapse rate. The constraints are the theory: four binary items have 15 degrees of freedom,
and four free classes need 19 parameters. Nothing about the quality of the completions enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from candor.measure.checks import COUNT, FLAG, GROUPS, SEED, SHARE, SHARES, Array, Is, Number, Sizes, takes

PARAMETERS = ("genuine", "non_attitude", "mixing", "lapse", "bias")
AT = {"genuine": 0.5, "non_attitude": 0.25, "mixing": 0.53, "lapse": 0.05, "bias": 0.10}
STARTS = ((0.9, 0.05, 0.05), (0.05, 0.05, 0.9), (0.34, 0.33, 0.33))

Design = Sequence[tuple[int, int]]

DESIGNS: dict[str, Design] = {
    "one label": [(1, 1)],
    "same frame twice, same order": [(1, 1), (1, 1)],
    "one frame x 2 orders": [(1, 1), (1, -1)],
    "one frame x 2 orders x 2 waves": [(1, 1), (1, -1)] * 2,
    "2 frames, one order": [(1, 1), (-1, 1)],
    "2 frames x 2 orders": [(1, 1), (1, -1), (-1, 1), (-1, -1)],
    "2 frames x 2 orders x 2 waves": [(1, 1), (1, -1), (-1, 1), (-1, -1)] * 2,
}
FOUR = DESIGNS["2 frames x 2 orders"]
EIGHT = DESIGNS["2 frames x 2 orders x 2 waves"]
RETEST = DESIGNS["one frame x 2 orders x 2 waves"]


ANSWERS = Array(("items", "occasions"), only=(0, 1), flags=True)
_RANGES = dict.fromkeys(PARAMETERS, SHARE) | {"bias": Number(low=-0.5, high=0.5)}


def _design(value: Any, name: str, sizes: Sizes) -> np.ndarray:
    """Rule: (frame, order) of up to 16 occasions, each +1 or -1."""
    design = Array(("occasions", "2"), only=(-1, 1))(value, name, sizes)
    if len(design) > 16:
        raise ValueError(f"{name} must have at most 16 occasions, but has {len(design)}.")
    return design


def _parameters(value: Any, name: str, sizes: Sizes) -> dict[str, float]:
    """Rule: the five `PARAMETERS`; the shares of the types are at most 1 together."""
    if not isinstance(value, dict) or set(value) != set(PARAMETERS):
        raise ValueError(f"{name} must be a dict of {', '.join(PARAMETERS)}.")
    found = {key: _RANGES[key](part, f"{key} of {name}", sizes) for key, part in value.items()}
    if found["genuine"] + found["non_attitude"] > 1 + 1e-9:
        raise ValueError(f"{name} must have genuine and non_attitude of at most 1 together.")
    return found


@takes(design=_design)
def patterns_of(design: Design) -> np.ndarray:
    """All response patterns of a design, 0 and 1, [2^k, k]."""
    k = len(design)
    return (np.arange(2**k)[:, None] >> np.arange(k)[::-1]) & 1


def _classes(p: dict[str, float], design: Design, style_known: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights [classes] and P(chose the more confident) [classes, k]: genuine + and -, non-attitude, constructed.

    Where it is not known which side is the more confident, constructed answers begin on either side.
    """
    frame, first = np.array(design).T
    high, low = 1 - p["lapse"], p["lapse"]
    dictated = np.where(frame > 0, high, low)
    rows = [np.full(len(design), high), np.full(len(design), low), 0.5 + p["bias"] * first, dictated]
    c = 1 - p["genuine"] - p["non_attitude"]
    weights = [p["genuine"] * p["mixing"], p["genuine"] * (1 - p["mixing"]), p["non_attitude"], c]
    if not style_known:
        rows.append(1 - dictated)
        weights[3:] = [c / 2, c / 2]
    return np.array(weights), np.array(rows)


def _likelihoods(rows: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """P(pattern | class) [patterns, classes]."""
    return np.where(patterns[:, None, :] == 1, rows[None], 1 - rows[None]).prod(2)


@takes(parameters=_parameters, design=_design, style_known=FLAG)
def cell_probabilities(parameters: dict[str, float], design: Design, style_known: bool = True) -> np.ndarray:
    """P of every response pattern, in the order of `patterns_of(design)`, [2^k]; `parameters` as in `PARAMETERS`."""
    return _cells(parameters, design, style_known)


def _cells(parameters: dict[str, float], design: Design, style_known: bool) -> np.ndarray:
    weights, rows = _classes(parameters, design, style_known)
    return _likelihoods(rows, patterns_of(design)) @ weights


# --- Which designs identify the shares ----------------------------------------------------------------


@dataclass(frozen=True)
class Identification:
    """`rank`: directions of the parameters, of 5, that the design can see; `se` of genuine and non_attitude.

    The standard errors are NaN where the rank is below 5.
    """

    rank: int
    se: dict[str, float]


@takes(design=_design, style_known=FLAG, n=COUNT, at=_parameters)
def rank(
    design: Design, style_known: bool = True, *, n: int = 4000, at: dict[str, float] | None = None
) -> Identification:
    """Rank of the Jacobian of the cell probabilities, and standard errors of the shares from `n` cells.

    `at` are the parameters (default: `AT`). The errors come from Fisher's information, n J' diag(1/p) J.

    >>> rank(DESIGNS["one frame x 2 orders x 2 waves"]).rank, rank(DESIGNS["2 frames x 2 orders"]).rank
    (4, 5)
    """
    at, step = at or AT, 1e-5
    p, columns = _cells(at, design, style_known), []
    if p.min() <= 0:
        raise ValueError("at must give every pattern a probability: take lapse or bias off its end.")
    for name in PARAMETERS:
        above, below = (_cells(at | {name: at[name] + s}, design, style_known) for s in (step, -step))
        columns.append((above - below) / (2 * step))
    jacobian = np.stack(columns, 1)
    found = int(np.linalg.matrix_rank(jacobian, tol=1e-6))
    se: dict[str, float] = dict.fromkeys(PARAMETERS[:2], np.nan)
    if found == len(PARAMETERS):
        errors = np.sqrt(np.diag(np.linalg.inv(n * jacobian.T @ (jacobian / p[:, None]))))
        se = dict(zip(PARAMETERS[:2], errors.tolist()))
    return Identification(found, se)


# --- The constrained mixture ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """A fitted mixture: `shares` (genuine, non-attitude, constructed), the other parameters, and every cell's types.

    `responsibilities` [n, 3]: P(type | the cell's answers).
    """

    shares: tuple[float, float, float]
    mixing: float
    lapse: float
    bias: float
    log_likelihood: float
    responsibilities: np.ndarray

    @property
    def types(self) -> np.ndarray:
        """The most probable type of every cell, [n]."""
        return self.responsibilities.argmax(1)


@takes(
    responses=ANSWERS,
    design=_design,
    start=Array(("3",), low=0, high=1),
    iterations=COUNT,
    tolerance=Number(low=0, open=True),
)
def em(
    responses: ArrayLike,
    design: Design = FOUR,
    start: tuple[float, float, float] | None = None,
    *,
    iterations: int = 5000,
    tolerance: float = 1e-9,
) -> Fit:
    """The constrained mixture by EM, from one start, or the best of `STARTS`.

    Parameters
    ----------
    responses : 0 or 1 [n, k], columns in the order of `design`.
    start : shares (genuine, non-attitude, constructed) to begin from.
    iterations, tolerance : EM stops when the log-likelihood of a cell gains less than `tolerance` / n.

    Raises
    ------
    ValueError : the responses do not have a column an occasion, or the start does not add up to 1.
    """
    if start is None:
        return max((em(responses, design, s) for s in STARTS), key=lambda fit: fit.log_likelihood)
    if abs(start.sum() - 1) > 1e-6:
        raise ValueError(f"start must add up to 1, but adds up to {start.sum():g}.")
    responses = responses.astype(int)
    patterns = patterns_of(design)
    index = responses @ (1 << np.arange(len(design))[::-1])
    counts = np.bincount(index, minlength=len(patterns)).astype(float)
    frame, first = np.array(design).T
    dictated = (frame > 0).astype(int)
    wrong = np.stack([1 - patterns, patterns, np.zeros_like(patterns), patterns != dictated], 1).sum(2)  # [cells, 4]
    with_first = (patterns == (first > 0)).sum(1)
    p = dict(zip(PARAMETERS, (start[0], start[1], 0.5, 0.1, 0.05)))
    before = -np.inf
    for _ in range(iterations):
        weights, rows = _classes(p, design, True)
        joint = _likelihoods(rows, patterns) * weights
        total = np.maximum(joint.sum(1), 1e-300)
        reached = float(counts @ np.log(total))
        if reached - before < tolerance:
            break
        before = reached
        p = _maximised(counts[:, None] * joint / total[:, None], wrong, with_first, *responses.shape)
    each = joint / total[:, None]
    merged = np.stack([each[:, :2].sum(1), each[:, 2], each[:, 3]], 1)
    genuine, coins, *others = (float(p[name]) for name in PARAMETERS)
    return Fit((genuine, coins, max(0.0, 1 - genuine - coins)), *others, reached, merged[index])


def _maximised(of_class: np.ndarray, wrong: np.ndarray, with_first: np.ndarray, n: int, k: int) -> dict[str, float]:
    """The parameters that fit expected counts of patterns and classes best, [patterns, 4]."""
    high, low, coin, cue = of_class.sum(0)
    constant, tiny = high + low, 1e-300
    return {
        "genuine": constant / n,
        "non_attitude": coin / n,
        "mixing": high / max(constant, tiny),
        "lapse": np.clip((of_class * wrong).sum() / max((constant + cue) * k, tiny), 1e-4, 0.5),
        "bias": np.clip(of_class[:, 2] @ with_first / max(coin * k, tiny) - 0.5, -0.49, 0.49),
    }


@takes(responses=ANSWERS, start=Array(("3",), low=0, high=1))
def retest_em(responses: ArrayLike, start: tuple[float, float, float]) -> Fit:
    """The same mixture when all answers come from one frame: genuine and constructed are told apart by the start.

    `responses` [n, 4]: two orders, two waves.
    """
    return em(responses, RETEST, start)


@takes(fit=Is((Fit,)), responses=ANSWERS, annotator=GROUPS, design=_design)
def by_annotator(fit: Fit, responses: ArrayLike, annotator: np.ndarray, design: Design = FOUR) -> np.ndarray:
    """P(type | all answers of the annotator) [n, 3], for annotators who have one type in all their cells."""
    annotator = np.unique(annotator, return_inverse=True)[1].ravel()
    p = {"genuine": fit.shares[0], "non_attitude": fit.shares[1]}
    _, rows = _classes(p | {"mixing": fit.mixing, "lapse": fit.lapse, "bias": fit.bias}, design, True)
    each = _likelihoods(rows, responses)
    genuine = each[:, :2] @ np.array([fit.mixing, 1 - fit.mixing])
    log = np.log(np.maximum(np.stack([genuine, each[:, 2], each[:, 3]], 1), 1e-300))
    totals = np.stack([np.bincount(annotator, log[:, k]) for k in range(3)], 1) + np.log(np.maximum(fit.shares, 1e-300))
    belief = np.exp(totals - totals.max(1, keepdims=True))
    return (belief / belief.sum(1, keepdims=True))[annotator]


# --- Cross-checks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unconstrained:
    """A free latent class model: `shares` by the pattern that a class resembles, BIC, log-likelihood."""

    shares: tuple[float, float, float]
    bic: float
    log_likelihood: float


@takes(responses=ANSWERS, classes=COUNT, design=_design, starts=COUNT, seed=SEED)
def stepmix(responses: ArrayLike, classes: int, design: Design = EIGHT, *, starts: int = 4, seed: int = 0):
    """StepMix's unconstrained latent classes of binary items, best of `starts`; returns an `Unconstrained`.

    Classes carry no names and no order: each counts to the type whose pattern is nearest (constant: genuine; what the
    frame dictates: constructed; near a coin: non-attitude). `responses` [n, k].

    References
    ----------
    Morin et al. (2025), StepMix: a Python package for pseudo-likelihood estimation of generalized mixture models.
    """
    from stepmix.stepmix import StepMix

    responses = responses.astype(int)
    model = StepMix(classes, measurement="binary", n_init=starts, random_state=seed, abs_tol=1e-7, progress_bar=0)
    model.fit(responses)
    rows = model.get_parameters()["measurement"]["pis"]
    _, prototypes = _classes(AT, design, True)
    kind = np.array([0, 0, 1, 2])[((rows[:, None] - prototypes[None]) ** 2).sum(2).argmin(1)]
    shares = np.bincount(kind, model.get_parameters()["weights"], 3)
    total = float(model.score(responses)) * len(responses)
    return Unconstrained(tuple(shares.tolist()), float(model.bic(responses)), total)


@takes(
    labels=Array(("items", "labellers"), only=(0, 1), flags=True),
    annotators=Array(("items", "labellers"), low=0, high=10**6, whole=True),
    iterations=COUNT,
)
def dawid_skene(labels: ArrayLike, annotators: ArrayLike, *, iterations: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Truth inference from agreement (Dawid & Skene 1979), two classes.

    Parameters
    ----------
    labels : 0 or 1 [items, k], each of the item's k annotators.
    annotators : who gave them, 0 .. m-1 [items, k].

    Returns
    -------
    P(item's true label is 1) [items], and the annotators' confusion [m, 2, 2]: P(label | true).
    """
    labels, annotators = labels.astype(int), annotators.astype(int)
    m, belief = annotators.max() + 1, labels.mean(1)
    for _ in range(iterations):
        truth = np.stack([1 - belief, belief], 1)
        confusion = np.ones((m, 2, 2))  # one pseudo-count keeps logarithms finite
        for true in (0, 1):
            np.add.at(confusion, (annotators, true, labels), truth[:, true, None])
        confusion /= confusion.sum(2, keepdims=True)
        log = np.log(truth.mean(0)) + np.log(confusion[annotators, :, labels]).sum(1)
        belief = 1 / (1 + np.exp(np.clip(log[:, 0] - log[:, 1], -500, 500)))
    return belief, confusion


@takes(g=SHARES, n=SHARES, c=SHARES, consensus=SHARES, follow=SHARE)
def agreement_of(g: ArrayLike, n: ArrayLike, c: ArrayLike, consensus: ArrayLike = 1.0, follow: float = 0.95):
    """P(two people give the same label), one label each in one frame.

    Genuine people agree with the better side with probability `consensus`; that side is the more confident one in half
    of the pairs; constructed answers are the more confident side with probability `follow`; non-attitudes are coins.

    >>> float(round(agreement_of(0.68, 0.32, 0.0), 3)), float(round(agreement_of(0.0, 0.24, 0.76), 3))
    (0.731, 0.734)
    """
    g, n, c, consensus = map(np.asarray, (g, n, c, consensus))
    if np.abs(g + n + c - 1).max() > 1e-6:
        raise ValueError("g, n and c must add up to 1.")
    agree = 0.0
    for genuine in (consensus, 1 - consensus):
        p = g * genuine + n / 2 + c * follow
        agree = agree + (p**2 + (1 - p) ** 2) / 2
    return agree
