"""Does a model's confidence in the answer of a trace rank its own traces, and what does selecting by it do?

The confidence of a trace is the mean over its answer tokens of a gap (disparity: top-1 minus top-2 probability, Wang
and Zhou 2024, arXiv 2402.10200) or of the probability of the answer. Ranking happens among traces of one prompt, so
only what varies within prompts matters: a pooled AUROC mostly says that some prompts are harder. `correct` may be a
probability throughout: where the posterior of a question is known, grading by it has the same expectation as grading
by its truth, with less noise.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from candor.measure.calibration import N_BINS, bins
from candor.measure.checks import (
    COUNT,
    GROUPS,
    OUTCOMES,
    PROBABILITIES,
    SEED,
    SHARE,
    VALUES,
    WEIGHTS,
    Array,
    Choice,
    Number,
    takes,
)

GRADES = Array(low=0, high=1, flags=True)  # right or wrong, or the probability of right


# --- Within prompts ---------------------------------------------------------------------------------


@takes(confidence=VALUES, correct=OUTCOMES, prompt=GROUPS)
def prompt_aurocs(confidence: ArrayLike, correct: ArrayLike, prompt: ArrayLike) -> pd.Series:
    """The AUROC of each prompt that has both right and wrong traces, by prompt (ties count half)."""
    table = pd.DataFrame({"confidence": confidence, "correct": correct, "prompt": prompt})
    table["rank"] = table.groupby("prompt")["confidence"].rank()
    table["right_rank"] = table["rank"] * table["correct"]
    sums = table.groupby("prompt").agg(n=("correct", "size"), right=("correct", "sum"), ranks=("right_rank", "sum"))
    sums = sums[(sums["right"] > 0) & (sums["right"] < sums["n"])]
    wins = sums["ranks"] - sums["right"] * (sums["right"] + 1) / 2
    return wins / (sums["right"] * (sums["n"] - sums["right"]))


@takes(confidence=VALUES, correct=OUTCOMES, prompt=GROUPS, weight=WEIGHTS)
def within_prompt_auroc(
    confidence: ArrayLike, correct: ArrayLike, prompt: ArrayLike, weight: ArrayLike | None = None
) -> float:
    """Mean over prompts of P(a right trace carries more confidence than a wrong one of the same prompt).

    Over prompts with both right and wrong traces, each counting once or with the `weight` of its traces (one number a
    prompt, repeated). NaN without such a prompt, or where all of them weigh 0.

    Examples
    --------
    Two hard prompts, ranked perfectly, and an easy one that has nothing to rank:

    >>> within_prompt_auroc([0.3, 0.2, 0.2, 0.1, 0.9, 0.9], [1, 0, 1, 0, 1, 1], [0, 0, 1, 1, 2, 2])
    1.0
    """
    found = prompt_aurocs(confidence, correct, prompt)
    if found.empty:
        return np.nan
    if weight is None:
        return float(found.mean())
    weights = pd.Series(weight).groupby(prompt)
    if (weights.nunique() > 1).any():
        raise ValueError("weight must be one number a prompt, repeated for its traces.")
    weights = weights.first()[found.index]
    return float((found * weights).sum() / weights.sum()) if weights.any() else np.nan


@takes(confidence=VALUES, correct=GRADES, prompt=GROUPS)
def slope(confidence: ArrayLike, correct: ArrayLike, prompt: ArrayLike) -> float:
    """The slope b of correctness on confidence over traces with prompt fixed effects (both centred within prompts).

    To first order selection by confidence changes accuracy by b times what it changes mean confidence. NaN where
    confidence never varies within a prompt.

    Examples
    --------
    >>> round(slope([0.2, 0.4, 0.7, 0.9], [0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]), 3)
    0.5
    """
    table = pd.DataFrame({"confidence": confidence, "correct": correct})
    centred = table - table.groupby(prompt).transform("mean")
    variance = float((centred["confidence"] ** 2).sum())
    return float((centred["confidence"] * centred["correct"]).sum() / variance) if variance > 1e-12 else np.nan


# --- Calibration, graded by a posterior or a truth --------------------------------------------------


@takes(confidence=PROBABILITIES, correct=GRADES, zeros=Choice(("kept", "dropped")))
def ece(confidence: ArrayLike, correct: ArrayLike, zeros: Literal["kept", "dropped"] = "kept") -> float:
    """Expected calibration error in 10 bins closed on the right, (0, .1], ..., (.9, 1].

    A trace without an answer has confidence 0. "kept" puts it into the first bin; "dropped" is what bins open on the
    left do: it disappears (van Niekerk et al. 2025, released code). NaN where nothing is left.

    Examples
    --------
    >>> confidence, correct = [0.0, 0.9, 0.9], [1, 1, 1]
    >>> round(ece(confidence, correct), 3), round(ece(confidence, correct, "dropped"), 3)
    (0.4, 0.1)
    """
    if zeros == "dropped":
        confidence, correct = confidence[confidence > 0], correct[confidence > 0]
    if not confidence.size:
        return np.nan
    return float(np.abs(np.bincount(bins(confidence, closed="right"), confidence - correct)).sum() / confidence.size)


@takes(confidence=PROBABILITIES, correct=GRADES)
def reliability(confidence: ArrayLike, correct: ArrayLike) -> pd.DataFrame:
    """The bins of `ece` with zeros kept, empty ones too: bin (0 to 9), n, confidence, accuracy."""
    index = bins(confidence, closed="right")
    n = np.bincount(index, minlength=N_BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, values, N_BINS) / n for values in (confidence, correct)]
    return pd.DataFrame({"bin": np.arange(N_BINS), "n": n, "confidence": means[0], "accuracy": means[1]})


@takes(confidence=PROBABILITIES, correct=GRADES)
def brier(confidence: ArrayLike, correct: ArrayLike) -> float:
    """The expected Brier score where each answer is right with probability `correct`."""
    return float((correct * (1 - confidence) ** 2 + (1 - correct) * confidence**2).mean())


@takes(confidence=PROBABILITIES, correct=GRADES)
def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """P(a right answer carries more confidence than a wrong one), each right with probability `correct`.

    NaN where all are right for certain, or all wrong.
    """
    weights = np.concatenate([correct, 1 - correct])
    if not 0 < correct.mean() < 1:
        return np.nan
    labels = np.repeat([1, 0], correct.size)
    return float(roc_auc_score(labels, np.tile(confidence, 2), sample_weight=weights))


# --- Theory -----------------------------------------------------------------------------------------

# Number of answers and the spread of their logits; the last is as right (.97) as a model on ARC-Easy.
WORLDS = {"ten_answers": (10, 2.0), "five_options": (5, 1.5), "arc_like": (4, 23.94)}


@takes(temperatures=Array(("temperatures?",), low=0, open=True), world=Choice(tuple(WORLDS)), n=COUNT, seed=SEED)
def artefact(temperatures: ArrayLike, world: str = "ten_answers", n: int = 200_000, seed: int = 0) -> pd.DataFrame:
    """What one temperature does to the ECE by disparity and by probability, in a forecaster calibrated at T = 1.

    Logits of the answers are normal, and the truth is drawn from their softmax; accuracy is that of the most likely
    answer and does not depend on T. In expectation over truths, so that `n` is all the noise. At T = 1 the ECE by
    disparity is the mean second-largest probability: accuracy exceeds disparity by it in every bin.

    Returns a row a temperature: temperature, ece_disparity, ece_probability, accuracy.

    Examples
    --------
    >>> artefact([1.0, 0.7], n=20_000).round(2).to_numpy().tolist()
    [[1.0, 0.2, 0.0, 0.53], [0.7, 0.12, 0.11, 0.53]]
    """
    answers, spread = WORLDS[world]
    logits = np.sort(np.random.default_rng(seed).normal(0, spread, (n, answers)), axis=1)
    right = special.softmax(logits, axis=1)[:, -1]
    rows = []
    for temperature in np.atleast_1d(temperatures):
        shown = special.softmax(logits / temperature, axis=1)
        top, second = shown[:, -1], shown[:, -2]
        rows.append((float(temperature), ece(top - second, right), ece(top, right), float(right.mean())))
    return pd.DataFrame(rows, columns=["temperature", "ece_disparity", "ece_probability", "accuracy"])


@takes(b=Number(), traces=COUNT)
def selection(b: float, traces: int = 10) -> tuple[float, float]:
    """Accuracy and gap (mean confidence minus accuracy) of the most confident of `traces`, exactly.

    Confidence c is uniform on [.2, .8] and P(right | c) = .5 + b (c - .5), so that the gap is 0 before. A slope for
    which the accuracy leaves [0, 1] is a `ValueError`.

    Examples
    --------
    >>> [tuple(round(x, 2) for x in selection(b)) for b in (0.5, 1.0, 1.5)]
    [(0.62, 0.12), (0.75, 0.0), (0.87, -0.12)]
    """
    confidence = 0.2 + 0.6 * stats.beta(traces, 1).mean()
    accuracy = 0.5 + b * (confidence - 0.5)
    if not 0 <= accuracy <= 1:
        raise ValueError(f"b is {b:g}, which makes the accuracy {accuracy:g}.")
    return float(accuracy), float(confidence - accuracy)


@takes(confidence=Array(("prompts", "traces"), 0, 1, gaps=True, empty=True), threshold=SHARE)
def preference_pairs(confidence: ArrayLike, threshold: float = 0.9) -> pd.DataFrame:
    """All ordered pairs of traces of one prompt, from confidences [n, K]; frozen once made.

    The preferred trace has at least `threshold` and strictly more than the other; whether either is right plays no
    part. Returns prompt, chosen, rejected (indices of traces), difference, and margin, exp(difference): van
    Niekerk et al. (2025, arXiv 2507.21931, released code).

    Examples
    --------
    >>> preference_pairs(np.array([[0.95, 0.95, 0.5], [0.8, 0.1, 0.2]])).round(3).to_numpy().tolist()
    [[0.0, 0.0, 2.0, 0.45, 1.568], [0.0, 1.0, 2.0, 0.45, 1.568]]
    """
    confidence = np.asarray(confidence, float)
    more = (confidence[:, :, None] > confidence[:, None]) & (confidence[:, :, None] >= threshold)
    prompt, chosen, rejected = np.nonzero(more)
    difference = confidence[prompt, chosen] - confidence[prompt, rejected]
    columns = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "difference": difference}
    return pd.DataFrame(columns | {"margin": np.exp(difference)})
