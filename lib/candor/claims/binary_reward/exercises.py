"""Checks for the exercises of notebook 01: each says what is right, or names the mistake and gives a hint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from candor.exercises import Feedback, check, close, number, right, wrong
from candor.measures.calibration import ece


@check
def check_1(pays_above: Callable[[float], float], penalty: Callable[[float], float]) -> Feedback:
    """+1 right, 0 abstaining, -k wrong: `pays_above(k)` is the p from which answering pays; `penalty(t)` the k
    that puts this point at t."""
    ks, ts = (0.0, 0.5, 1.0, 3.0, 9.0), (0.0, 0.25, 0.5, 0.75, 0.9)
    if not callable(pays_above) or not callable(penalty):
        return wrong("Give two functions: pays_above(k) and penalty(t).")
    found = [number(pays_above(k)) for k in ks]
    if not all(close(p, k / (1 + k)) for p, k in zip(found, ks)):
        if all(np.isnan(p) or p >= 1 for p in found[1:]):
            return wrong(
                "It looks as if abstaining were worth p. Whoever abstains gets 0, whatever p is: compare with 0."
            )
        if all(close(p, k) for p, k in zip(found[:3], ks[:3])):
            return wrong("The point is not k itself: solve p - (1 - p) k > 0 for p; a k of 3 must not give 3.")
        if all(close(p, 1 / (1 + k)) for p, k in zip(found, ks)):
            return wrong("That is the largest probability of being *wrong* at which answering still pays.")
        return wrong(
            "pays_above(k): write the expected reward of answering, p times 1 plus (1 - p) times -k, and ask when "
            f"it exceeds 0. At k = 1 you give {found[2]:g}; a fair coin breaks even there."
        )
    found = [number(penalty(t)) for t in ts]
    if not all(close(k, t / (1 - t), 1e-6 + 1e-3 * k) for k, t in zip(found, ts)):
        if all(close(k, t) for k, t in zip(found, ts)):
            return wrong(
                "A penalty of t moves the point to t/(1+t), which is below t: the penalty must be larger than t."
            )
        if all(close(k, (1 - t) / t) for k, t in zip(found[1:], ts[1:])):
            return wrong("Upside down: a higher threshold t needs a higher penalty.")
        return wrong("penalty(t) must undo pays_above: pays_above(penalty(t)) should be t for every t.")
    return right(
        "Answering pays above k/(1+k), so k = t/(1-t) puts the point at t. The binary reward is k = 0: answering "
        "always pays, and guessing weakly dominates abstaining for every p."
    )


def forecasts(each: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Confidences in steps of .05 and outcomes: within [.3, .4), [.4, .5), ... the errors nearly cancel.

    The items at 1 are overconfident, so that every mistake in `check_2` gives a number of its own.
    """
    confidence, correct = [], []
    for i, value in enumerate(np.arange(6, 21) / 20):
        error = -0.1 if value == 1 else (0.12, -0.09, -0.09, 0.12)[i % 4]
        hits = round(each * min(value + error, 1.0))
        confidence += [value] * each
        correct += [1] * hits + [0] * (each - hits)
    return np.array(confidence), np.array(correct)


def _bin_gaps(closed: str, edges: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Gap and number of items in each of the ten bins."""
    confidence, correct = forecasts()
    tenths = np.rint(confidence * 1e6) / 1e5
    index = np.floor(tenths) if closed == "left" else np.ceil(tenths) - 1
    if edges is not None:
        index = np.digitize(confidence, edges) - 1
    index = index.clip(0, 9).astype(int)
    n = np.bincount(index, minlength=10)
    gap = np.bincount(index, confidence - correct, 10) / np.maximum(n, 1)
    return gap, n


@check
def check_2(my_ece: Callable[..., float]) -> Feedback:
    """`my_ece(confidence, correct, closed)` with ten bins, closed "left" or "right"."""
    if not callable(my_ece):
        return wrong("Give the function itself, without calling it: check_2(my_ece).")
    confidence, correct = forecasts()
    found = {side: number(my_ece(confidence, correct, side)) for side in ("left", "right")}
    target = {side: ece(confidence, correct, closed=side) for side in ("left", "right")}
    if all(close(found[side], target[side], 1e-6) for side in target):
        ratio = target["right"] / target["left"]
        return right(
            f"Closed on the left {target['left']:.4f}, closed on the right {target['right']:.4f}: the edge "
            f"convention alone changes it {ratio:.0f}-fold. Errors of opposite sign cancel inside a bin."
        )
    if close(found["left"], target["right"], 1e-6) and close(found["right"], target["left"], 1e-6):
        return wrong('Left and right are swapped: "left" means that .8 opens the bin [.8, .9).')
    gap, n = _bin_gaps("left")
    naive, m = _bin_gaps("left", np.linspace(0, 1, 11))
    mistakes = {
        "The bins are averaged without weights. A bin counts as much as it has items: weight by n_b / n.": np.abs(gap)[
            n > 0
        ].mean(),
        "The empty bins are in the mean. Weights are n_b / n, so that an empty bin weighs nothing.": np.abs(gap).sum()
        / 10,
        "Take the absolute value in each bin, before the sum: signed gaps cancel.": abs((gap * n).sum() / n.sum()),
        "That is the root of the mean squared gap. ECE is the mean absolute gap.": np.sqrt(
            (gap**2 * n).sum() / n.sum()
        ),
        "The gaps are squared. ECE is the mean absolute gap.": (gap**2 * n).sum() / n.sum(),
        "Float edges: .3, .6 and .7 fall into the lower bin, because linspace(0, 1, 11) puts these edges a hair "
        "above them. Bin round(10 q, 6) instead.": (np.abs(naive) * m).sum() / m.sum(),
        "The items with confidence 1 are lost: the last bin includes 1.": _without_ones(),
        "That is the mean error of single items, |q - c|. Average q and c inside a bin first.": np.abs(
            confidence - correct
        ).mean(),
    }
    for message, value in mistakes.items():
        if close(found["left"], value, 1e-6):
            return wrong(message)
    if close(found["left"], target["left"], 1e-6):
        return wrong('"left" is right, "right" is not: there .8 closes the bin (.7, .8].')
    return wrong(
        f'On the example you give {found["left"]:.4f} for "left". Sort items into ten bins, take |mean confidence - '
        "accuracy| in each, and weight by the bin's share of items."
    )


def _without_ones() -> float:
    confidence, correct = forecasts()
    kept = confidence < 1
    return ece(confidence[kept], correct[kept]) * kept.mean()


@check
def check_3(gradient: Callable[..., np.ndarray]) -> Feedback:
    """`gradient(answers [A], confidences [A, 11], reward [A, 11]) -> [A, 11]`: the expected policy gradient on
    the confidence logits, one softmax an answer, where `reward` is expected over the truth."""
    if not callable(gradient):
        return wrong("Give the function itself, without calling it: check_3(gradient).")
    rng = np.random.default_rng(3)
    answers, confidences = rng.dirichlet(np.ones(8)), rng.dirichlet(np.ones(11), 8)
    posterior, q = rng.dirichlet(np.ones(8)), np.arange(11) / 10
    binary = np.repeat(posterior[:, None], 11, 1)
    brier = binary - posterior[:, None] * (q - 1) ** 2 - (1 - posterior[:, None]) * q**2

    def ask(reward: np.ndarray) -> np.ndarray:
        return np.asarray(gradient(answers.copy(), confidences.copy(), reward.copy()), dtype=float)

    def exact(reward: np.ndarray) -> np.ndarray:
        mean = (confidences * reward).sum(1, keepdims=True)
        return answers[:, None] * confidences * (reward - mean)

    zero, other = ask(binary), ask(brier)
    if zero.shape != (8, 11):
        return wrong(
            f"The gradient has one entry an answer and a confidence token, shape (8, 11); yours is {zero.shape}."
        )
    if not np.array_equal(ask(brier), other):
        return wrong(
            "Two calls give two results, so you sample. A batch mean that is nearly zero proves nothing: enumerate "
            "all answers and all confidences, each weighted by its probability."
        )
    if np.allclose(other, exact(brier), atol=1e-9) and np.allclose(zero, 0, atol=1e-9):
        return right(
            "With the binary reward every entry is zero: given the answer the reward is the same for every "
            "confidence, and the score function has mean zero. With the Brier term the same code is not zero."
        )
    if np.allclose(other, 0):
        return wrong("It is zero for a reward that does depend on the confidence, too: you have not used `reward`.")
    if np.allclose(other * answers[:, None], exact(brier), atol=1e-9):
        return wrong("You conditioned on the answer: weight each row by the probability that it is sampled.")
    if (np.abs(other).sum(1) > 0).sum() == 1:
        return wrong("You conditioned on one sampled answer: sum over all of them, each with its probability.")
    if np.allclose(other, answers[:, None] * confidences * brier, atol=1e-9):
        return wrong(
            "The score of a softmax logit is 1[q = l] - pi(l), not 1[q = l]: a larger logit takes probability "
            "from all the others."
        )
    return wrong("Sum over answers a and confidences q: pi(a) pi(q|a) reward(a, q) (1[q = l] - pi(l|a)), for each l.")


@check
def check_4(change_of_confidence: float, change_of_accuracy: float, cause: str, blocks: pd.DataFrame) -> Feedback:
    """HotpotQA, base to RLVR: the two changes whose difference is the change of the gap, and which of them
    ("confidence" or "accuracy") made ECE fall. `blocks` is the table of that name."""
    rows = blocks.set_index(["family", "domain"])
    row, outside = rows.loc[("HotpotQA", "in")], rows.loc[("HotpotQA", "out")]
    found = number(change_of_confidence), number(change_of_accuracy)
    target = row["change_confidence"], row["change_accuracy"]
    if not all(map(close, found, target)):
        if all(close(-f, t) for f, t in zip(found, target)):
            return wrong("The signs are reversed: take RLVR minus base.")
        if all(map(close, found, target[::-1])):
            return wrong("The two are swapped.")
        if all(map(close, found, (outside["change_confidence"], outside["change_accuracy"]))):
            return wrong("These are the means out of domain; the question is about HotpotQA itself.")
        if any(close(f, row["rlvr_ece"] - row["base_ece"]) for f in found):
            return wrong("That is the change of ECE. Take it apart: mean confidence and accuracy, RLVR minus base.")
        return wrong("Take RLVR minus base, once for the mean stated confidence and once for accuracy.")
    word = str(cause).lower()
    if "accura" in word and "confid" not in word and "calib" not in word:
        return right(
            f"The gap changes by {target[0]:+.3f} - {target[1]:+.3f} = {target[0] - target[1]:+.3f}: accuracy rose "
            "and left less room between itself and a confidence that only went up. No forecast became more honest."
        )
    if "calib" in word or "confid" in word or "honest" in word:
        return wrong(
            "RLVR did not improve calibration in domain: confidence moved *away* from accuracy "
            f"({target[0]:+.3f}). Ask which of the two changes made the gap smaller."
        )
    return wrong('Answer the third question with "confidence" or "accuracy".')


_DIRECTIONS = {
    "up": ("up", "+", "rise", "rises", "positive", "higher", "1", "+1"),
    "down": ("down", "-", "fall", "falls", "negative", "lower", "-1"),
    "undetermined": (
        "undetermined",
        "0",
        "none",
        "neither",
        "unknown",
        "no direction",
        "open",
        "either",
        "?",
    ),
}


def _direction(answer: object) -> str | None:
    word = str(answer).strip().lower()
    return next((name for name, words in _DIRECTIONS.items() if word in words), None)


@check
def check_5(answer_first: str, confidence_first: str) -> Feedback:
    """Which way the binary reward pushes the stated confidence: "up", "down" or "undetermined"."""
    first, second = _direction(answer_first), _direction(confidence_first)
    if first is None or second is None:
        return wrong('Answer each with "up", "down" or "undetermined".')
    if (first, second) == ("undetermined", "up"):
        return right(
            "Answer first: the expected gradient is zero, and what moves the confidence is interference and noise. "
            "Confidence first: documents that begin confidently are right more often, so the reward selects them."
        )
    if first == second == "up":
        return wrong(
            "Up in both because the claim says so? Look at the figure of the gradient: in which order can the "
            "reward tell a confident document from a hedged one?"
        )
    if first != "undetermined":
        return wrong(
            "Answer first: the reward is fixed once the answer is written, whatever confidence follows. "
            "What does an expected gradient of zero predict?"
        )
    return wrong(
        "Confidence first: for the same question, which documents carry the most likely answer more often, those "
        "that begin with a high confidence or those that begin with a low one?"
    )
