"""The exercises of notebook 01: what is right, and the mistakes that have a name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from candor.declare.exercises import Blank, Exercise, When, array, word
from candor.measure.calibration import ece

# --- 1: where answering pays ------------------------------------------------------------------------

PENALTIES, THRESHOLDS = ((0.0,), (0.5,), (1.0,), (3.0,), (9.0,)), ((0.0,), (0.25,), (0.5,), (0.75,), (0.9,))

check_1 = Exercise(
    [
        Blank(
            lambda k: k / (1 + k),
            {
                "It looks as if abstaining were worth p. Whoever abstains gets 0, whatever p is: compare with 0.": When(
                    lambda values: all(np.isnan(p) or p >= 1 for [p] in values[1:]), lambda k: 1.0
                ),
                "The point is not k itself: solve p - (1 - p) k > 0 for p; a k of 3 must not give 3.": When(
                    lambda values: [p for [p] in values[:3]] == [0, 0.5, 1], lambda k: min(k, 2.0) if k < 9 else 0.9
                ),
                "That is the largest probability of being *wrong* at which answering still pays.": lambda k: (
                    1 / (1 + k)
                ),
            },
            lambda values: (
                "pays_above(k): write the expected reward of answering, p times 1 plus (1 - p) times -k, and ask when "
                f"it exceeds 0. At k = 1 you give {values[2][0]:g}; a fair coin breaks even there."
            ),
            probes=PENALTIES,
        ),
        Blank(
            lambda t: t / (1 - t),
            {
                "A penalty of t moves the point to t/(1+t), which is below t: the penalty must be larger than t.": (
                    lambda t: t
                ),
                "Upside down: a higher threshold t needs a higher penalty.": When(
                    lambda values: np.allclose(values[1:], [[3], [1], [1 / 3], [1 / 9]], atol=0.005),
                    lambda t: (1 - t) / t if t else 0.0,
                ),
            },
            "penalty(t) must undo pays_above: pays_above(penalty(t)) should be t for every t.",
            probes=THRESHOLDS,
        ),
    ],
    "Answering pays above k/(1+k), so k = t/(1-t) puts the point at t. The binary reward is k = 0: answering always "
    "pays, and guessing weakly dominates abstaining for every p.",
    difficulty=1,
    minutes=8,
    hints=(
        "Write the expected reward of answering when you are right with probability p.",
        "It is p - (1 - p) k. Set it to 0 and solve for p, then for k.",
    ),
)

# --- 2: ten bins ----------------------------------------------------------------------------------


def forecasts(each: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Confidences in steps of .05 and outcomes: within [.3, .4), [.4, .5), ... the errors nearly cancel.

    The items at 1 are overconfident, so that every mistake of exercise 2 gives a number of its own.
    """
    values = np.arange(6, 21) / 20
    errors = np.resize([0.12, -0.09, -0.09, 0.12], len(values))
    errors[-1] = -0.1
    hits = np.rint(each * (values + errors).clip(max=1))
    return np.repeat(values, each), (np.arange(each) < hits[:, None]).ravel().astype(int)


def closed_ece(confidence: np.ndarray, correct: np.ndarray, closed: str) -> float:
    """ECE in ten bins, closed on the "left" or on the "right"."""
    return ece(confidence, correct, closed=closed)


def from_bins(formula: Callable, edges: np.ndarray | None = None) -> Callable:
    """An ECE that forms `formula(gaps, items)` of the ten bins; `edges` as floats where they are not rounded."""

    def mistaken(confidence, correct, closed):
        tenths = np.rint(confidence * 1e6) / 1e5
        index = np.floor(tenths) if closed == "left" else np.ceil(tenths) - 1
        index = (np.digitize(confidence, edges) - 1 if edges is not None else index).clip(0, 9).astype(int)
        items = np.bincount(index, minlength=10)
        return formula(np.bincount(index, confidence - correct, 10) / np.maximum(items, 1), items)

    return mistaken


def on_the_left(function: Callable) -> When:
    """A slip that shows with bins closed on the left, whatever comes with the others."""
    [[wrong]] = Blank(function, {}, "", probes=PROBES[:1]).value(function)
    return When(lambda values: abs(values[0][0] - wrong) <= 1e-6, function)


def mean(gaps: np.ndarray, items: np.ndarray) -> float:
    return (gaps * items).sum() / items.sum()


PROBES = [(*forecasts(), "left"), (*forecasts(), "right")]
LEFT, RIGHT = (closed_ece(*probe) for probe in PROBES)
FALSE_ECE = {
    "The bins are averaged without weights. A bin counts as much as it has items: weight by n_b / n.": from_bins(
        lambda gaps, n: np.abs(gaps)[n > 0].mean()
    ),
    "The empty bins are in the mean. Weights are n_b / n, so that an empty bin weighs nothing.": from_bins(
        lambda gaps, n: np.abs(gaps).sum() / 10
    ),
    "Take the absolute value in each bin, before the sum: signed gaps cancel.": from_bins(
        lambda gaps, n: abs(mean(gaps, n))
    ),
    "That is the root of the mean squared gap. ECE is the mean absolute gap.": from_bins(
        lambda gaps, n: np.sqrt(mean(gaps**2, n))
    ),
    "The gaps are squared. ECE is the mean absolute gap.": from_bins(lambda gaps, n: mean(gaps**2, n)),
    "Float edges: .3, .6 and .7 fall into the lower bin, because linspace(0, 1, 11) puts these edges a hair above "
    "them. Bin round(10 q, 6) instead.": from_bins(lambda gaps, n: mean(np.abs(gaps), n), np.linspace(0, 1, 11)),
    "The items with confidence 1 are lost: the last bin includes 1.": lambda q, c, closed: (
        closed_ece(q[q < 1], c[q < 1], closed) * (q < 1).mean()
    ),
    "That is the mean error of single items, |q - c|. Average q and c inside a bin first.": lambda q, c, closed: np.abs(
        q - c
    ).mean(),
    '"left" is right, "right" is not: there .8 closes the bin (.7, .8].': lambda q, c, closed: closed_ece(q, c, "left"),
}

check_2 = Exercise(
    [
        Blank(
            closed_ece,
            {
                'Left and right are swapped: "left" means that .8 opens the bin [.8, .9).': lambda q, c, closed: (
                    closed_ece(q, c, "right" if closed == "left" else "left")
                ),
                **{message: on_the_left(function) for message, function in FALSE_ECE.items()},
            },
            lambda values: (
                f'On the example you give {values[0][0]:.4f} for "left". Sort items into ten bins, take |mean '
                "confidence - accuracy| in each, and weight by the bin's share of items."
            ),
            probes=PROBES,
            tolerance=1e-6,
        )
    ],
    f"Closed on the left {LEFT:.4f}, closed on the right {RIGHT:.4f}: the edge convention alone changes it "
    f"{RIGHT / LEFT:.0f}-fold. Errors of opposite sign cancel inside a bin.",
    difficulty=2,
    minutes=12,
    hints=(
        "Give every item the number of its bin, then loop over the ten bins.",
        "With t = round(10 q, 6), the bin is floor(t) if it is closed on the left, ceil(t) - 1 if on the right; 1 "
        "belongs to the last and 0 to the first.",
    ),
)

# --- 3: the gradient on the confidence --------------------------------------------------------------


def gradient(answers: np.ndarray, confidences: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Expected policy gradient on the confidence logits, one softmax an answer: [A], [A, 11], [A, 11] -> [A, 11]."""
    return answers[:, None] * confidences * (reward - (confidences * reward).sum(1, keepdims=True))


def _documents() -> list[tuple]:
    """A policy of eight answers with its confidences, under the binary reward and with the Brier term."""
    rng = np.random.default_rng(3)
    answers, confidences = rng.dirichlet(np.ones(8)), rng.dirichlet(np.ones(11), 8)
    posterior, q = rng.dirichlet(np.ones(8))[:, None], np.arange(11) / 10
    brier = posterior - posterior * (q - 1) ** 2 - (1 - posterior) * q**2
    return [(answers, confidences, reward) for reward in (np.repeat(posterior, 11, 1), brier, brier)]


check_3 = Exercise(
    [
        Blank(
            gradient,
            {
                "The gradient has one entry an answer and a confidence token: its shape is (8, 11).": When(
                    lambda values: values[0][0].shape != (8, 11), lambda answers, confidences, reward: 0.0
                ),
                "Two calls give two results, so you sample. A batch mean that is nearly zero proves nothing: enumerate "
                "all answers and all confidences, each weighted by its probability.": When(
                    lambda values: not np.array_equal(values[1][0], values[2][0]),
                    lambda answers, confidences, reward: np.random.default_rng().normal(0, 1e-6, (8, 11)),
                ),
                "It is zero for a reward that does depend on the confidence, too: you have not used `reward`.": (
                    lambda answers, confidences, reward: 0 * reward
                ),
                "You conditioned on the answer: weight each row by the probability that it is sampled.": (
                    lambda answers, confidences, reward: gradient(np.ones(8), confidences, reward)
                ),
                "You conditioned on one sampled answer: sum over all of them, each with its probability.": When(
                    lambda values: (np.abs(values[1][0]).sum(1) > 0).sum() == 1,
                    lambda answers, confidences, reward: gradient(np.eye(8)[0], confidences, reward),
                ),
                "The score of a softmax logit is 1[q = l] - pi(l), not 1[q = l]: a larger logit takes probability "
                "from all the others.": lambda answers, confidences, reward: answers[:, None] * confidences * reward,
            },
            "Sum over answers a and confidences q: pi(a) pi(q|a) reward(a, q) (1[q = l] - pi(l|a)), for each l.",
            array,
            _documents(),
            1e-9,
        )
    ],
    "With the binary reward every entry is zero: given the answer the reward is the same for every confidence, and the "
    "score function has mean zero. With the Brier term the same code is not zero.",
    difficulty=3,
    minutes=15,
    hints=(
        "Enumerate all answers and all confidences; nothing is sampled.",
        "The derivative of log pi(q) by logit l is 1[q = l] - pi(l); multiply by reward and probability, and sum.",
    ),
)

# --- 4: what made ECE fall --------------------------------------------------------------------------


def _changes(blocks: pd.DataFrame) -> list[Blank]:
    rows = blocks.set_index(["family", "domain"])
    columns = ["change_confidence", "change_accuracy"]
    inside, outside = (tuple(rows.loc[("HotpotQA", domain), columns]) for domain in ("in", "out"))
    fell = (rows["rlvr_ece"] - rows["base_ece"])["HotpotQA", "in"]
    return [
        Blank(
            inside,
            {
                "The signs are reversed: take RLVR minus base.": tuple(-change for change in inside),
                "The two are swapped.": inside[::-1],
                "These are the means out of domain; the question is about HotpotQA itself.": outside,
                "That is the change of ECE. Take it apart: mean confidence and accuracy, RLVR minus base.": When(
                    lambda values: any(abs(value - fell) <= 0.005 for value in values), (fell, inside[1])
                ),
            },
            "Take RLVR minus base, once for the mean stated confidence and once for accuracy.",
        ),
        Blank(
            "accuracy",
            {
                "RLVR did not improve calibration in domain: confidence moved *away* from accuracy "
                f"({inside[0]:+.3f}). Ask which of the two changes made the gap smaller.": "confidence",
            },
            'Answer the third question with "confidence" or "accuracy".',
            _cause,
        ),
    ]


def _cause(answer: object) -> str:
    text = str(answer).lower()
    stems = {"calib": "confidence", "confid": "confidence", "honest": "confidence", "accura": "accuracy"}
    return next((cause for stem, cause in stems.items() if stem in text), "")


def _gap(blocks: pd.DataFrame) -> str:
    confidence, accuracy = _changes(blocks)[0].answer
    return (
        f"The gap changes by {confidence:+.3f} - {accuracy:+.3f} = {confidence - accuracy:+.3f}: accuracy rose and "
        "left less room between itself and a confidence that only went up. No forecast became more honest."
    )


check_4 = Exercise(
    _changes,
    _gap,
    difficulty=1,
    minutes=6,
    hints=(
        "The table `blocks` has a row for HotpotQA-trained models in domain.",
        "The gap is confidence minus accuracy: which of its two parts moved further?",
    ),
    given=("blocks",),
)

# --- 5: which way the reward pushes -----------------------------------------------------------------

DIRECTION = word(
    up="+ rise rises positive higher 1 +1",
    down="- fall falls negative lower -1",
    undetermined="0 none neither unknown open either ? no",
)

check_5 = Exercise(
    [
        Blank(
            ("undetermined", "up"),
            {
                "Up in both because the claim says so? Look at the figure of the gradient: in which order can the "
                "reward tell a confident document from a hedged one?": ("up", "up"),
                'Answer each with "up", "down" or "undetermined".': When(lambda values: "" in values, ("north", "up")),
                "Answer first: the reward is fixed once the answer is written, whatever confidence follows. What does "
                "an expected gradient of zero predict?": When(
                    lambda values: values[0] != "undetermined", ("up", "down")
                ),
            },
            "Confidence first: for the same question, which documents carry the most likely answer more often, those "
            "that begin with a high confidence or those that begin with a low one?",
            DIRECTION,
        )
    ],
    "Answer first: the expected gradient is zero, and what moves the confidence is interference and noise. Confidence "
    "first: documents that begin confidently are right more often, so the reward selects them.",
    difficulty=2,
    minutes=5,
    hints=(
        "Look at the figure of the gradient for both orders.",
        "When the answer stands already, does the reward still depend on the confidence?",
    ),
)
