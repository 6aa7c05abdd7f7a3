"""What a completion of a pretrained model is worth, with the signature that TRL expects.

Every term takes `completions` (list of str) and the columns `answer` and `grader` by name, and returns a list of
finite floats. c is 1 if the answer is right and 0 otherwise, q the stated confidence; an arm is a weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from candor.language_models.text import grade

# Integer confidences k = 0..100 stand for (k + 1/2) / 101 in Tan et al. 2026 (arXiv 2607.04332): the same clip.
CLIP = 1 / 202
LOG_K = 1 / math.log(202)

# Scoring rules S(q, c) and their worst value, which a malformed completion gets.
RULES: dict[str, tuple[Callable, float]] = {
    "brier": (lambda q, c: -((q - c) ** 2), -1.0),
    "log": (
        lambda q, c: np.log(np.where(c, np.clip(q, CLIP, 1 - CLIP), 1 - np.clip(q, CLIP, 1 - CLIP))),
        math.log(CLIP),
    ),
}

# Arm: what a whole completion is; the rule; its weight beside the correctness; whether correctness counts.
ARMS: dict[str, tuple[str, str | None, float, bool]] = {
    "rlvr": ("answer", None, 0.0, True),
    "rlcr": ("document", "shifted_brier", 1.0, True),
    "brier2": ("document", "brier", 2.0, True),
    "log1": ("document", "log", 1.0, True),
    "log_k": ("document", "log", LOG_K, True),
    "brier_only": ("document", "brier", 1.0, False),
    "log_only": ("document", "log", 1.0, False),
}


def well_formed(form: str) -> Callable:
    """1 for a whole completion, otherwise 0."""

    def format_reward(completions, answer, grader, **_) -> list[float]:
        return grade(completions, answer, grader, form)["well_formed"].astype(float).tolist()

    return format_reward


def correct(form: str) -> Callable:
    """c; 0 for a malformed completion."""

    def accuracy_reward(completions, answer, grader, **_) -> list[float]:
        return grade(completions, answer, grader, form)["correct"].astype(float).tolist()

    return accuracy_reward


def shifted_brier(completions, answer, grader, **_) -> list[float]:
    """1 - (q - c)^2, and 0 for a malformed completion (Damani et al. 2025, by the authors' code)."""
    graded = grade(completions, answer, grader)
    score = 1 - (graded["confidence"] - graded["correct"].astype(float)) ** 2
    return score.where(graded["well_formed"], 0.0).tolist()


def score(rule: str) -> Callable:
    """S(q, c) by the rule of that name; its worst value for a malformed completion (Tan et al. 2026)."""
    rule_of, worst = RULES[rule]

    def term(completions, answer, grader, **_) -> list[float]:
        graded = grade(completions, answer, grader)
        values = rule_of(graded["confidence"].to_numpy(), graded["correct"].to_numpy(float))
        return np.where(graded["well_formed"], values, worst).tolist()

    term.__name__ = f"{rule}_score"
    return term


def of_arm(arm: str, weights: Mapping[str, float]) -> tuple[list[Callable], list[float]]:
    """Terms and weights of an arm, from `format_weight`, `accuracy_weight`, `brier_weight` of the recipe."""
    form, rule, factor, counts = ARMS[arm]
    terms, values = [well_formed(form)], [weights["format_weight"]]
    if counts:
        terms.append(correct(form))
        values.append(weights["accuracy_weight"])
    if rule:
        terms.append(shifted_brier if rule == "shifted_brier" else score(rule))
        values.append(factor * weights["brier_weight"])
    return terms, values
