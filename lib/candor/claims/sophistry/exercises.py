"""Checks for the exercises of notebook 02: each says what is right, or names the mistake and gives a hint."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from candor.claims.shared import rows
from candor.claims.sophistry import approval, tables
from candor.declare.exercises import Feedback, check, close, number, right, wrong

EMPTY = "The blank is still empty: put your answer in place of the dots and run it again."


def _blank(*values: object) -> bool:
    """Whether a function that the reader was to complete still returns nothing."""
    return any(value is None or value is ... for value in values)


def _points(answer: object) -> float:
    """A change in percentage points, also where it was given as a share; NaN if it is no number."""
    value = number(answer)
    return 100 * value if abs(value) <= 1 else value


def _letter(answer: object) -> str:
    return str(answer).strip(" ().").lower()


def _pair(answer: object) -> tuple[float, float]:
    """Two numbers; NaN for what is not there."""
    try:
        first, second = answer
    except (TypeError, ValueError):
        return np.nan, np.nan
    return number(first), number(second)


# --- 1: three numbers are two rates ---------------------------------------------------------------

STATED = np.array([0, 0, 25, 50, 50, 50, 75, 75, 75, 100])  # made up: ten answers on the five-point scale, percent


def _general(main: pd.DataFrame, metric: str) -> tuple[float, float]:
    """A printed metric of the general reward model, before and after, as shares."""
    row = rows(main, setting=tables.GENERAL, metric=metric).iloc[0]
    return row["before"] / 100, row["after"] / 100


_RATES: dict[str, Callable[[float, float, float], tuple[float, float]]] = {
    "These are shares of *all* outputs. A rate has its own denominator: divide the true positives by the right "
    "outputs and the false positives by the wrong ones.": lambda a, e, c: ((a - e + c) / 2, (a + e - c) / 2),
    "You swapped the two denominators: true positives are among the right outputs, c of all.": lambda a, e, c: (
        (a - e + c) / 2 / (1 - c),
        (a + e - c) / 2 / c,
    ),
    "You return FPR first. The order is TPR, FPR.": lambda a, e, c: approval.from_three_numbers(a, e, c)[::-1],
    "You divided by the approved outputs: that is how much of the approval is right or wrong, a precision.": (
        lambda a, e, c: ((a - e + c) / 2 / a, (a + e - c) / 2 / a)
    ),
    "You swapped the masses: what is approved *and* wrong grows with the error.": lambda a, e, c: (
        (a + e - c) / 2 / c,
        (a - e + c) / 2 / (1 - c),
    ),
    "Not every wrong judgment is an approval: error counts false positives and false negatives together.": (
        lambda a, e, c: ((a - e) / c, e / (1 - c))
    ),
}


@check
def check_1(rates: Callable, change: float, approved: float, main: pd.DataFrame) -> Feedback:
    """`rates(approval, error, correctness)` returns TPR and FPR, all shares; `change`: of FPR over all wrong outputs,
    general reward model, in points; `approved`: the share of `STATED` that counts as approval. `main` is that table."""
    if not callable(rates):
        return wrong("Give the function itself, without calling it: check_1(rates, change, approved, main).")
    before, after = zip(*(_general(main, metric) for metric in ("approval", "error", "correctness")))
    cases = (before, after, (0.5, 0.2, 0.6))
    values = [rates(*case) for case in cases]
    if _blank(*values):
        return wrong(EMPTY)
    found = np.array([_pair(value) for value in values])

    def are(wanted: Callable) -> bool:
        return np.allclose(found, [wanted(*case) for case in cases], atol=2e-3)

    if not are(approval.from_three_numbers):
        for message, slip in _RATES.items():
            if are(slip):
                return wrong(message)
        return wrong(
            "Approved is what is approved and right plus what is approved and wrong; error is approved and wrong plus "
            "rejected and right. Solve for the two masses, then divide each by the outputs it is drawn from."
        )
    tpr, fpr = zip(*(approval.from_three_numbers(*case) for case in (before, after)))
    target, given = 100 * (fpr[1] - fpr[0]), _points(change)
    if not close(given, target, 0.15):
        first, second = _general(main, "fpr_both")
        mass = [(a + e - c) / 2 for a, e, c in (before, after)]
        if close(given, 100 * (second - first), 0.15):
            return wrong(
                "That is the printed change on the questions that *both* policies answer wrongly. The identity gives "
                "the rate over all wrong outputs; the two are different populations."
            )
        if close(given, 100 * (mass[1] - mass[0]), 0.15):
            return wrong("That is the change of the false-positive mass, in points of all outputs. Divide first.")
        if close(given, -target, 0.15):
            return wrong("The sign is reversed: after minus before.")
        return wrong("Put the printed numbers of the general reward model into your own function, after minus before.")
    given, unsure = number(approved), (STATED == 50).mean()
    given = given / 100 if given > 1 else given
    yes = (STATED > 50).mean()
    if close(given, yes, 1e-3):
        return right(
            f"TPR {100 * tpr[0]:.1f} to {100 * tpr[1]:.1f}, FPR {100 * fpr[0]:.1f} to {100 * fpr[1]:.1f} %: the wrong "
            "outputs caught up with the right ones. And "
            "approval means confidence strictly above one half, so whoever is unsure rejects."
        )
    if close(given, yes + unsure, 1e-3):
        return wrong("You counted the unsure as approving. Approval is confidence strictly above 50 %: unsure rejects.")
    if close(given, yes / (1 - unsure), 1e-3):
        return wrong("You dropped the unsure. They stay in the denominator: unsure counts as a rejection.")
    if close(given, yes + unsure / 2, 1e-3):
        return wrong("You split the unsure in halves. In the paper they reject, all of them.")
    if close(given, STATED.mean() / 100, 1e-3):
        return wrong("That is the mean confidence. Approval is a yes or a no: above 50 %, or not.")
    return wrong("Count the answers strictly above 50 %, and divide by all ten.")


# --- 2: where it goes, before anything is trained -------------------------------------------------


class Samples(NamedTuple):
    """Samples of a made-up base: reward, correct and approved, each 0 or 1, [prompts, samples a prompt]."""

    reward: np.ndarray
    correct: np.ndarray
    approved: np.ndarray


def base_samples(seed: int = 0, prompts: int = 600, samples: int = 16) -> Samples:
    """Half of the prompts are easy, mostly right and rewarded whatever comes. In the others a wrong sample is rewarded
    more often than a right one, and among the wrong ones the rewarded look a little worse."""
    rng = np.random.default_rng(seed)
    easy = np.arange(prompts)[:, None] % 2 == 0
    shape = (prompts, samples)
    correct = rng.random(shape) < np.where(easy, 0.95, 0.5)
    rewarded = np.where(correct, np.where(easy, 0.97, 0.25), np.where(easy, 0.99, 0.55))
    reward = rng.random(shape) < rewarded
    approved = rng.random(shape) < np.where(correct, 0.7, np.where(reward, 0.45, 0.6))
    return Samples(*(np.asarray(x, dtype=float) for x in (reward, correct, approved)))


def _within(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over prompts of the covariance among the samples of a prompt."""
    return float(((a - a.mean(1, keepdims=True)) * (b - b.mean(1, keepdims=True))).mean())


def _pooled(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a - a.mean()) * (b - b.mean())).mean())


def _fpr_slope(cov: Callable[[np.ndarray, np.ndarray], float], s: Samples) -> float:
    w = 1 - s.correct
    aw = s.approved * w
    return (cov(aw, s.reward) - aw.mean() / w.mean() * cov(w, s.reward)) / w.mean()


_SLOPE: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "You pooled the prompts. Easy prompts are both right and rewarded, but a policy cannot move from one prompt to "
    "another: take the covariance among the samples of each prompt, then the mean over prompts.": _pooled,
    "That is the covariance *between* prompts, of their means: exactly the part that training cannot use.": (
        lambda b, r: _pooled(b.mean(1), r.mean(1))
    ),
    "The sign is reversed: what comes with reward becomes more frequent.": lambda b, r: -_within(b, r),
}
_FPR: dict[str, Callable[[Samples], float]] = {
    "You ignored that W changes, too: more wrong outputs bring more approved wrong outputs, without one of them "
    "becoming more convincing. Subtract FPR times the slope of W.": lambda s: (
        _within(s.approved * (1 - s.correct), s.reward) / (1 - s.correct).mean()
    ),
    "You pooled the prompts here: take every covariance within the prompts.": lambda s: _fpr_slope(_pooled, s),
    "The last step is missing: FPR is a share of the wrong outputs, so divide by E[W].": lambda s: (
        _fpr_slope(_within, s) * (1 - s.correct).mean()
    ),
    "That is the slope of the approval of all outputs. FPR looks at the wrong ones: start from A W.": lambda s: _within(
        s.approved, s.reward
    ),
    "That is the slope of the approved wrong outputs as a share of *all*: a mass, not a rate.": lambda s: _within(
        s.approved * (1 - s.correct), s.reward
    ),
}
_UP, _DOWN = ("up", "+", "rises", "rise", "higher"), ("down", "-", "−", "falls", "fall", "lower")


def _direction(answer: object) -> str | None:
    word = str(answer).strip().lower()
    return "up" if word in _UP else "down" if word in _DOWN else None


@check
def check_2(slope: Callable, slope_fpr: Callable, correctness: str, fpr: str) -> Feedback:
    """`slope(quantity, reward)` and `slope_fpr(approved, correct, reward)`: initial slopes from samples [prompts, k];
    `correctness` and `fpr`: "up" or "down" for training on the reward of `base_samples()`."""
    if not callable(slope) or not callable(slope_fpr):
        return wrong("Give two functions, slope(quantity, reward) and slope_fpr(approved, correct, reward).")
    cases = [base_samples(seed) for seed in (0, 1)]
    slopes = [slope(s.correct, s.reward) for s in cases]
    rates = [slope_fpr(s.approved, s.correct, s.reward) for s in cases]
    if _blank(*slopes, *rates):
        return wrong(EMPTY)
    k = cases[0].reward.shape[1]

    def are(given: list, wanted: list[float]) -> bool:
        """Equal, whether a covariance was divided by k or by k - 1."""
        return any(np.allclose([number(g) for g in given], np.multiply(f, wanted), atol=1e-4) for f in (1, k / (k - 1)))

    if not are(slopes, [_within(s.correct, s.reward) for s in cases]):
        for message, slip in _SLOPE.items():
            if are(slopes, [slip(s.correct, s.reward) for s in cases]):
                return wrong(message)
        return wrong(
            "slope: for each prompt the covariance of quantity and reward among its samples (a row), then the mean "
            f"over prompts. For base_samples() it is {_within(cases[0].correct, cases[0].reward):+.3f}."
        )
    if not are(rates, [_fpr_slope(_within, s) for s in cases]):
        for message, slip in _FPR.items():
            if are(rates, [slip(s) for s in cases]):
                return wrong(message)
        return wrong("slope_fpr: (slope of A W minus FPR times the slope of W) / E[W], with W = 1 - correct.")
    truth = {"correctness": _within(cases[0].correct, cases[0].reward), "fpr": _fpr_slope(_within, cases[0])}
    for name, given in (("correctness", correctness), ("fpr", fpr)):
        word = _direction(given)
        if word is None:
            return wrong(f'Predict "up" or "down" for {name}.')
        if word != ("up" if truth[name] > 0 else "down"):
            return wrong(f"{name}: your own slope is {truth[name]:+.3f}, and its sign is the prediction.")
    naive = _within(cases[0].approved * (1 - cases[0].correct), cases[0].reward)
    return right(
        f"Correctness {truth['correctness']:+.3f}, though pooled it would be "
        f"{_pooled(cases[0].correct, cases[0].reward):+.3f}; FPR {truth['fpr']:+.3f}, though the approved wrong "
        f"outputs become more ({naive:+.3f}). No training was needed, only samples of the base. In this made-up base "
        "wrong outputs become more frequent and less convincing; nothing says that it must be so in another."
    )


# --- 3: how many labels ---------------------------------------------------------------------------


@cache
def _printable(shown: Callable[[float], float], limit: int, *printed: float) -> list[int]:
    """Every n up to `limit` at which each percentage is that of some count, if shares in percent are `shown` so."""
    return [n for n in range(1, limit + 1) if {*printed} <= {shown(100 * k / n) for k in range(n + 1)}]


def _cut(percent: float) -> float:
    return math.floor(10 * percent + 1e-9) / 10


def _up(percent: float) -> float:
    return math.ceil(10 * percent - 1e-9) / 10


def _one_decimal(percent: float) -> float:
    return round(percent, 1)


def _exact(percent: float) -> float:
    return round(percent, 9)


_SIZES: dict[str, Callable[[float, float, int], list[int]]] = {
    "You checked the first percentage only. Both rest on the same questions: n must fit both.": lambda a, b, limit: (
        _printable(_one_decimal, limit, a)
    ),
    "You checked the second percentage only. Both rest on the same questions: n must fit both.": lambda a, b, limit: (
        _printable(_one_decimal, limit, b)
    ),
    "You joined the two lists. An n must fit both percentages, not one of them.": lambda a, b, limit: sorted(
        {*_printable(_one_decimal, limit, a), *_printable(_one_decimal, limit, b)}
    ),
    "You cut digits off. A printed 41.0 is rounded: it stands for 40.95 to 41.05.": lambda a, b, limit: _printable(
        _cut, limit, a, b
    ),
    "You rounded the wrong way, always up: a printed 41.0 stands for 40.95 to 41.05.": lambda a, b, limit: _printable(
        _up, limit, a, b
    ),
    "You compared whole percentages. One decimal is printed, and it is what tells.": lambda a, b, limit: _printable(
        round, limit, round(a), round(b)
    ),
    "You asked for exact equality. Few shares of n are exactly 41.0 %: round to one decimal, then compare.": (
        lambda a, b, limit: _printable(_exact, limit, a, b)
    ),
}


@check
def check_3(both: Callable, people: int, meaning: str, main: pd.DataFrame) -> Feedback:
    """`both(first, second, limit)`: every n at which the two percentages can be printed; `people`: the largest number
    up to 35 of which 76 % can be printed; `meaning`: "a", "b" or "c". `main` is the table of that name."""
    if not callable(both):
        return wrong("Give the function itself, without calling it: check_3(both, people, meaning, main).")
    limit = 300
    pairs = [tuple(row) for row in rows(main, metric="fpr_both")[["before", "after"]].to_numpy()]
    values = [both(*pair, limit) for pair in pairs]
    if _blank(*values):
        return wrong(EMPTY)
    try:
        found = [sorted({int(n) for n in value}) for value in values]
    except (TypeError, ValueError):
        return wrong("both must return a list of whole numbers: every n that fits.")
    targets = [tables.sizes(*pair, limit) for pair in pairs]
    if found != targets:
        for message, slip in _SIZES.items():
            if found == [slip(*pair, limit) for pair in pairs]:
                return wrong(message)
        if all(f == t[:1] for f, t in zip(found, targets)):
            return wrong("That is the smallest n only. Return every n up to the limit.")
        pair, mine, theirs = next(x for x in zip(pairs, found, targets) if x[1] != x[2])
        too_many = sorted(set(mine) - set(theirs))
        what = f"{too_many[0]} does not fit" if too_many else f"{sorted(set(theirs) - set(mine))[0]} is missing"
        return wrong(
            f"For {pair[0]} and {pair[1]} % {what}. Ask for each n whether some count k gives 100 k / n, rounded to "
            "one decimal, and that for both."
        )
    largest = max(n for n in range(1, 36) if tables.attainable(76, n, digits=0))
    given = number(people)
    if not close(given, largest, 1e-9):
        if close(given, 35, 1e-9):
            return wrong("26 of 35 are 74.3 % and 27 of 35 are 77.1 %: with 35 people 76 % cannot be printed.")
        return wrong("Try 35, 34, 33 ...: is there a count k with 100 k / n between 75.5 and 76.5?")
    letter = _letter(meaning)
    if letter == "a":
        return wrong("Invented numbers are one story among several, and nothing here favours it over a dull one.")
    if letter == "c":
        return wrong("It is not rounding: rounding is what you just allowed for, to one decimal.")
    if letter != "b":
        return wrong('Answer the third blank with "a", "b" or "c".')
    shown = "; ".join(f"{a} and {b} %: {', '.join(map(str, t[:3]))} ..." for (a, b), t in zip(pairs, targets))
    return right(
        f"{shown}. None of them holds 100, which would print whole percents. So the rates rest on other numbers than "
        "one label for each of 100 questions: fewer, several labels, or weights. The text does not say which, and the "
        "width of every interval depends on it."
    )


# --- 4: reading better, or finishing --------------------------------------------------------------

_FINISHED: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "You divided by the share that is *unfinished*. The finished answers are one minus that.": lambda a, f: a / (1 - f),
    "You multiplied. All right answers are finished ones: divide by the share finished.": lambda a, f: a * f,
    "That is the accuracy over all outputs, in which an unfinished answer counts as wrong.": lambda a, f: a + 0 * f,
    "You subtracted the unfinished. They leave the denominator: divide.": lambda a, f: a - (1 - f),
}


@check
def check_4(of_finished: Callable, gain: float, learned: str, curves: pd.DataFrame) -> Feedback:
    """`of_finished(accuracy, finished)`: accuracy of the finished answers, from shares of all outputs; `gain`: its last
    value minus its first, in points; `learned`: "a", "b" or "c". `curves` is the table `critique_curves`."""
    if not callable(of_finished):
        return wrong("Give the function itself, without calling it: check_4(of_finished, gain, learned, curves).")
    accuracy, finished = (curves.sort_values("step")[name].to_numpy() for name in ("accuracy_all", "finished"))
    value = of_finished(accuracy, finished)
    if _blank(value):
        return wrong(EMPTY)
    found = np.broadcast_to(np.asarray(value, dtype=float), accuracy.shape)
    target = accuracy / finished
    if not np.allclose(found, target, atol=1e-3):
        with np.errstate(divide="ignore", invalid="ignore"):
            for message, slip in _FINISHED.items():
                if np.allclose(found, slip(accuracy, finished), atol=1e-3):
                    return wrong(message)
        return wrong("Of all outputs, a share is finished, and `accuracy` of all are right. How many of the finished?")
    change, whole, given = 100 * (target[-1] - target[0]), 100 * (accuracy[-1] - accuracy[0]), number(gain)
    if not (close(given, change, 0.3) or close(given, change / 100, 0.003)):
        if close(_points(given), whole, 0.5):
            return wrong(
                "That is the climb over all outputs, which holds both: whether an answer comes, and if it is right."
            )
        if close(_points(given), 100 * (finished[-1] - finished[0]), 0.5):
            return wrong("That is how much the share finished rose. Ask how much the finished answers improved.")
        return wrong("Take the last value of your own curve minus its first, in points.")
    letter = _letter(learned)
    if letter == "a":
        return wrong(
            f"{accuracy[0]:.2f} to {accuracy[-1]:.2f} looks like better reading. But of the answers that were given, "
            f"{target[0]:.2f} were right at first and {target[-1]:.2f} at last."
        )
    if letter == "c":
        return wrong("Something was learned: half of the outputs did not reach an answer at first.")
    if letter != "b":
        return wrong('Answer the third blank with "a", "b" or "c".')
    return right(
        f"Finished answers are right in {target.mean():.0%} on average, and change by {change:+.1f} points; all "
        f"outputs by {whole:+.0f}. What was learned is to reach an answer. Whether a judge who sees the story would "
        "make answers more often right, these curves do not show."
    )


# --- 5: more wrong outputs approved, and fewer errors ---------------------------------------------

CORRECT, STYLE_BEFORE, STYLE_AFTER = 0.6, 0.2, 0.8  # share right; shares written in the pleasing style, right or wrong


def judged(approves: Callable[[bool, bool], float], pleasing: float) -> dict[str, float]:
    """TPR, FPR, error and discrimination of an evaluator who approves an output with probability `approves(right,
    pleasing)`, where a share `pleasing` of the outputs has the style, whether right or wrong."""
    tpr, fpr = (
        (1 - pleasing) * number(approves(good, False)) + pleasing * number(approves(good, True))
        for good in (True, False)
    )
    error = CORRECT * (1 - tpr) + (1 - CORRECT) * fpr
    return {"tpr": tpr, "fpr": fpr, "error": error, "discrimination": tpr - fpr}


@check
def check_5(approves: Callable, name: str) -> Feedback:
    """`approves(right, pleasing)`: the probability that an output is approved; `name`: what happened, "a", "b", "c"."""
    word = _letter(name)
    if not callable(approves):
        return wrong("Give the function itself, without calling it: check_5(approves, name).")
    values = [approves(good, style) for good in (True, False) for style in (True, False)]
    if _blank(*values):
        if word == "c":
            return wrong("It can happen. Let a style please, whether what it says is right or wrong.")
        return wrong(EMPTY)
    if not all(0 <= number(value) <= 1 for value in values):
        return wrong("approves must return a probability, between 0 and 1, for each of the four cases.")
    before, after = judged(approves, STYLE_BEFORE), judged(approves, STYLE_AFTER)
    change = {key: 100 * (after[key] - before[key]) for key in before}
    if abs(change["fpr"]) < 0.1 and abs(change["tpr"]) < 0.1:
        return wrong("Nothing changes: your evaluator does not care for the style, which is all that changes.")
    if change["fpr"] < 0.1:
        return wrong(f"FPR changes by {change['fpr']:+.1f} points. The style must make wrong outputs please more.")
    if change["error"] > -0.1:
        return wrong(
            f"FPR rises by {change['fpr']:.1f} points, and error changes by {change['error']:+.1f}: the style helps "
            f"the wrong outputs too much. Right ones are {CORRECT:.0%} of all; let it help them as well."
        )
    if change["discrimination"] < -1e-6:
        return wrong(
            f"Error falls, but so does TPR - FPR, by {-change['discrimination']:.1f} points: only because right "
            "outputs are the majority. Let the style please right and wrong alike, or the right ones more."
        )
    if word == "a":
        return wrong(
            "A rising FPR alone is not U-Sophistry: the evaluator errs less, and right outputs gain as much. Part "
            "(iv) of the claim, lost discrimination, is missing."
        )
    if word == "c":
        return wrong("You say that it cannot happen, and have just built it.")
    if word != "b":
        return wrong('Answer the second blank with "a", "b" or "c".')
    return right(
        f"FPR {change['fpr']:+.1f}, TPR {change['tpr']:+.1f}, error {change['error']:+.1f}, TPR - FPR "
        f"{change['discrimination']:+.1f} points: leniency. Wrong outputs are approved more often, and the evaluator "
        "serves better than before. Only error and discrimination tell this from being misled."
    )
