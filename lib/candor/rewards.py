"""What a completion of the `witnesses` world is worth, with the signature that TRL expects.

Every function takes `completions` (list of str) and the data set's columns by name, and returns a list of float,
one a completion. A total reward is a weighted sum of such terms; `witnesses/run.py` says which.

c is 1 if the answer is right and 0 otherwise, q the stated confidence. A malformed completion gets the worst
value of the term that it fails to earn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import wraps

import numpy as np

from candor.core.errors import CandorError
from candor.witnesses.world import IDK, grade

CLIP = 0.01  # confidences are clipped to [CLIP, 1 - CLIP] before a logarithm is taken

# Scoring rules S(q, c) of Damani et al. 2025 (Eq. 8) and of Tan et al. 2026; the worst value comes second.
RULES: dict[str, tuple[Callable, float]] = {
    "brier": (lambda q, c: -((q - c) ** 2), -1.0),
    "linear": (lambda q, c: -np.abs(q - c), -1.0),
    "log": (lambda q, c: np.log(np.where(c, q, 1 - q).clip(CLIP, 1 - CLIP)), float(np.log(CLIP))),
}


def correct(completions, truth, **_) -> list[float]:
    """c: 1 for a right answer. The reward of RLVR; it does not contain q."""
    return grade(completions, truth)["correct"].astype(float).tolist()


def well_formed(completions, truth, **_) -> list[float]:
    """1 for a completion that is a whole document and nothing else."""
    return grade(completions, truth)["well_formed"].astype(float).tolist()


def well_formed_answer(completions, truth, **_) -> list[float]:
    """1 for a completion that is an answer with its closing tag and nothing else."""
    return grade(completions, truth, form="answer")["well_formed"].astype(float).tolist()


def score(rule: str) -> Callable:
    """S(q, c) by the scoring rule of that name; the worst value for a malformed completion."""

    def term(completions, truth, **_) -> list[float]:
        graded = grade(completions, truth)
        return _scores(rule, graded, graded["correct"].to_numpy())

    term.__name__ = f"{rule}_score"
    return term


def _scores(rule: str, graded, outcomes: np.ndarray) -> list[float]:
    score_of, worst = RULES[rule]
    return np.where(graded["well_formed"], score_of(graded["confidence"].to_numpy(), outcomes), worst).tolist()


def oracle(completions, truth, posterior, **_) -> list[float]:
    """The exact posterior of the answer: the same expectation as `correct`, without the noise of the truth."""
    answers = grade(completions, truth)["answer"].to_numpy()
    exact = np.asarray(posterior)
    named = (answers >= 0) & (answers < exact.shape[1])
    return np.where(named, exact[np.arange(len(exact)), np.where(named, answers, 0)], 0.0).tolist()


def threshold(t: float) -> Callable:
    """+1 right, 0 for IDK, -t/(1-t) wrong: answering pays exactly where P(right) > t (Kalai et al. 2025).

    A completion without an answer costs as much as a wrong one.
    """

    def threshold_reward(completions, truth, **_) -> list[float]:
        graded = grade(completions, truth, form="answer")
        wrong = np.where(graded["answer"] == IDK, 0.0, -t / (1 - t))
        return np.where(graded["correct"], 1.0, wrong).tolist()

    return threshold_reward


def _groups(prompts, group: int) -> int:
    blocks = np.array(prompts, dtype=object).reshape(-1, group)
    if (blocks != blocks[:, :1]).any():
        raise ValueError("The completions of a group must share one prompt and be neighbours.")
    return len(blocks)


def shuffled(reward: Callable, group: int, seed: int) -> Callable:
    """Null: the values of `reward`, permuted within each group of completions of one prompt."""
    rng = np.random.default_rng(seed)

    def shuffled_reward(prompts, **columns) -> list[float]:
        n = _groups(prompts, group)
        values = np.array(reward(prompts=prompts, **columns)).reshape(n, group)
        return rng.permuted(values, axis=1).ravel().tolist()

    return shuffled_reward


def rolled(rule: str, group: int) -> Callable:
    """Null: S(q, c) with the outcomes c of the previous question's group in place of the own ones."""

    def rolled_score(prompts, completions, truth, **_) -> list[float]:
        n = _groups(prompts, group)
        if n < 2:
            raise ValueError("Outcomes can only be borrowed where a step has two questions or more.")
        graded = grade(completions, truth)
        outcomes = np.roll(graded["correct"].to_numpy().reshape(n, group), 1, axis=0).ravel()
        return _scores(rule, graded, outcomes)

    return rolled_score


def checked(reward: Callable) -> Callable:
    """`reward` as a trainer takes it: a `CandorError` that names it where it does not give each completion a number.

    TRL reads a NaN or None as "no reward here", and trains on what is left.
    """

    @wraps(reward)
    def checked_reward(**columns) -> list[float]:
        values = reward(**columns)
        n = len(columns.get("completions", columns.get("completion_ids", ())))
        with suppress(TypeError):
            if len(values) == n and not any(map(math.isnan, values)):
                return values
        raise CandorError(
            f"The reward {getattr(reward, '__name__', reward)} did not give each of {n} completions a number: let it "
            "return a list of as many floats, without NaN and None."
        )

    return checked_reward


def summed(terms: list[tuple[float, Callable]]) -> Callable:
    """The weighted sum of several terms as one reward."""

    def total(**columns) -> list[float]:
        return sum(weight * np.array(term(**columns)) for weight, term in terms).tolist()

    return total
