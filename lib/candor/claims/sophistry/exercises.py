"""The exercises of notebook 02: what is right, and the mistakes that have a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from candor.claims.shared import rows
from candor.claims.sophistry import approval, tables
from candor.declare.exercises import EMPTY, Blank, Exercise, When, array, choice, empty, letter, number, share, word


def points(change: float, off: float) -> When:
    """A change in percentage points, also where it is written as a share."""
    return When(lambda value: min(abs(value - change), abs(100 * value - change)) <= off, change)


# --- 1: three numbers are two rates ---------------------------------------------------------------

STATED = np.array([0, 0, 25, 50, 50, 50, 75, 75, 75, 100])  # made up: ten answers on the five-point scale, percent
YES, UNSURE = (STATED > 50).mean(), (STATED == 50).mean()


def masses(a: Any, e: Any, c: Any) -> np.ndarray:
    """The shares of all outputs that are approved and right, approved and wrong; of approval, error, correctness."""
    return np.array([(a - e + c) / 2, (a + e - c) / 2])


RATES: dict[str, Callable] = {
    "These are shares of *all* outputs. A rate has its own denominator: divide the true positives by the right outputs "
    "and the false positives by the wrong ones.": masses,
    "You swapped the two denominators: true positives are among the right outputs, c of all.": (
        lambda a, e, c: masses(a, e, c) / (1 - c, c)
    ),
    "You return FPR first. The order is TPR, FPR.": lambda a, e, c: masses(a, e, c)[::-1] / (1 - c, c),
    "You divided by the approved outputs: that is how much of the approval is right or wrong, a precision.": (
        lambda a, e, c: masses(a, e, c) / a
    ),
    "You swapped the masses: what is approved *and* wrong grows with the error.": (
        lambda a, e, c: masses(a, e, c)[::-1] / (c, 1 - c)
    ),
    "Not every wrong judgment is an approval: error counts false positives and false negatives together.": (
        lambda a, e, c: ((a - e) / c, e / (1 - c))
    ),
}
DERIVE = (
    "Approved is what is approved and right plus what is approved and wrong; error is approved and wrong plus rejected "
    "and right. Solve for the two masses, then divide each by the outputs it is drawn from."
)
APPROVED = {
    "You counted the unsure as approving. Approval is confidence strictly above 50 %: unsure rejects.": YES + UNSURE,
    "You dropped the unsure. They stay in the denominator: unsure counts as a rejection.": YES / (1 - UNSURE),
    "You split the unsure in halves. In the paper they reject, all of them.": YES + UNSURE / 2,
    "That is the mean confidence. Approval is a yes or a no: above 50 %, or not.": STATED.mean() / 100,
}


def printed(main: pd.DataFrame, *metrics: str) -> np.ndarray:
    """Printed metrics of the general reward model as shares: [metric, (before, after)]."""
    return rows(main, setting=tables.GENERAL).set_index("metric").loc[[*metrics], ["before", "after"]].to_numpy() / 100


def of_general(main: pd.DataFrame) -> list[Blank]:
    numbers = printed(main, "approval", "error", "correctness")
    found = approval.from_three_numbers(*numbers)[1], printed(main, "fpr_both")[0], masses(*numbers)[1]
    fpr, both, mass = (100 * np.diff(values).item() for values in found)
    changes = {
        "That is the printed change on the questions that *both* policies answer wrongly. The identity gives the rate "
        "over all wrong outputs; the two are different populations.": points(both, 0.15),
        "That is the change of the false-positive mass, in points of all outputs. Divide first.": points(mass, 0.15),
        "The sign is reversed: after minus before.": points(-fpr, 0.15),
    }
    put = "Put the printed numbers of the general reward model into your own function, after minus before."
    count = "Count the answers strictly above 50 %, and divide by all ten."
    probes = [*map(tuple, numbers.T), (0.5, 0.2, 0.6)]
    return [
        Blank(approval.from_three_numbers, RATES, DERIVE, array, probes, tolerance=2e-3),
        Blank(points(fpr, 0.15), changes, put),
        Blank(YES, APPROVED, count, share, tolerance=1e-3),
    ]


def caught_up(main: pd.DataFrame) -> str:
    rates = approval.from_three_numbers(*printed(main, "approval", "error", "correctness"))
    tpr, fpr = (f"{before:.1f} to {after:.1f}" for before, after in 100 * np.array(rates))
    return (
        f"TPR {tpr}, FPR {fpr} %: the wrong outputs caught up with the right ones. And approval means confidence "
        "strictly above one half, so whoever is unsure rejects."
    )


check_1 = Exercise(
    of_general,
    caught_up,
    difficulty=2,
    minutes=12,
    hints=(
        "Draw the two by two table of outputs: right or wrong, approved or rejected. Which cells make up a, e and c?",
        "Approved and right is (a - e + c) / 2, approved and wrong (a + e - c) / 2. Divide by c and by 1 - c.",
    ),
    given=("main",),
)

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


def pooled(quantity: np.ndarray, reward: np.ndarray) -> float:
    return ((quantity - quantity.mean()) * (reward - reward.mean())).mean()


def slope(quantity: np.ndarray, reward: np.ndarray) -> float:
    """The mean over prompts of the covariance among the samples of a prompt."""
    return pooled(quantity - quantity.mean(1, keepdims=True), reward - reward.mean(1, keepdims=True))


def slope_fpr(approved: np.ndarray, correct: np.ndarray, reward: np.ndarray, slope: Callable = slope) -> float:
    """The initial slope of FPR, from that of approved wrong outputs and that of wrong ones."""
    wrong = 1 - correct
    fpr = (approved * wrong).mean() / wrong.mean()
    return (slope(approved * wrong, reward) - fpr * slope(wrong, reward)) / wrong.mean()


SLOPES: dict[str, Callable] = {
    "You pooled the prompts. Easy prompts are both right and rewarded, but a policy cannot move from one prompt to "
    "another: take the covariance among the samples of each prompt, then the mean over prompts.": pooled,
    "That is the covariance *between* prompts, of their means: exactly the part that training cannot use.": (
        lambda b, r: pooled(b.mean(1), r.mean(1))
    ),
    "The sign is reversed: what comes with reward becomes more frequent.": lambda b, r: -slope(b, r),
}
SLOPES_FPR: dict[str, Callable] = {
    "You ignored that W changes, too: more wrong outputs bring more approved wrong outputs, without one of them "
    "becoming more convincing. Subtract FPR times the slope of W.": lambda a, c, r: (
        slope(a * (1 - c), r) / np.mean(1 - c)
    ),
    "You pooled the prompts: take every covariance within the prompts.": lambda a, c, r: slope_fpr(a, c, r, pooled),
    "FPR is a share of the wrong outputs: divide by E[W].": lambda a, c, r: slope_fpr(a, c, r) * (1 - c).mean(),
    "That is the slope of the approval of all outputs. FPR looks at the wrong ones: start from A W.": (
        lambda a, c, r: slope(a, r)
    ),
    "That is the slope of the approved wrong outputs as a share of *all*: a mass, not a rate.": (
        lambda a, c, r: slope(a * (1 - c), r)
    ),
}
BASE, OTHER = base_samples(), base_samples(1)
CORRECTNESS, FPR = slope(BASE.correct, BASE.reward), slope_fpr(BASE.approved, BASE.correct, BASE.reward)


def of_samples(right: Callable, slips: Mapping[str, Callable], hint: str, *columns: str) -> Blank:
    """A function of columns of samples, whether a covariance is divided by the samples of a prompt or by one less."""
    probes = [tuple(getattr(samples, column) for column in columns) for samples in (BASE, OTHER)]
    k = BASE.reward.shape[1]

    def like(function: Callable) -> When:
        wanted = np.array([[function(*probe)] for probe in probes])
        return When(lambda values: any(np.allclose(values, f * wanted, atol=1e-4) for f in (1, k / (k - 1))), function)

    return Blank(like(right), {message: like(slip) for message, slip in slips.items()}, hint, probes=probes)


def direction(name: str, steepness: float) -> Blank:
    """Which way a falling quantity goes."""
    up = f"{name}: your own slope is {steepness:+.3f}, and its sign is the prediction."
    read = word(up="+ rises rise higher", down="- − falls fall lower")
    return Blank("down", {up: "up"}, f'Predict "up" or "down" for {name}.', read)


WITHIN = (
    "slope: for each prompt the covariance of quantity and reward among its samples (a row), then the mean over "
    f"prompts. For base_samples() it is {CORRECTNESS:+.3f}."
)
SLOPE_FPR = "slope_fpr: (slope of A W minus FPR times the slope of W) / E[W], with W = 1 - correct."

check_2 = Exercise(
    [
        of_samples(slope, SLOPES, WITHIN, "correct", "reward"),
        of_samples(slope_fpr, SLOPES_FPR, SLOPE_FPR, "approved", "correct", "reward"),
        direction("correctness", CORRECTNESS),
        direction("fpr", FPR),
    ],
    f"Correctness {CORRECTNESS:+.3f}, though pooled it would be {pooled(BASE.correct, BASE.reward):+.3f}; FPR "
    f"{FPR:+.3f}, though the approved wrong outputs become more "
    f"({slope(BASE.approved * (1 - BASE.correct), BASE.reward):+.3f}). No training was needed, only samples of the "
    "base. In this made-up base wrong outputs become more frequent and less convincing; nothing says that it must be "
    "so in another.",
    difficulty=3,
    minutes=15,
    hints=(
        "A policy moves within a prompt: subtract each prompt's own mean before you multiply.",
        "The second function can call the first: once with approved * (1 - correct), once with 1 - correct.",
    ),
)

# --- 3: how many labels ---------------------------------------------------------------------------


@cache
def printable(shown: Callable[[float], float], limit: int, *percentages: float) -> list[int]:
    """Every n up to `limit` at which each percentage is shown as that of some count is."""
    wanted = set(map(shown, percentages))
    return [n for n in range(1, limit + 1) if wanted <= {shown(100 * k / n) for k in range(n + 1)}]


def if_shown(shown: Callable[[float], float]) -> Callable[[float, float, int], list[int]]:
    """What whoever shows percentages in another way finds."""
    return lambda first, second, limit: printable(shown, limit, first, second)


def whole_numbers(answer: Any) -> list[int] | str:
    """The different whole numbers of a list, sorted; an empty text for anything else."""
    try:
        return sorted({int(n) for n in answer})
    except (TypeError, ValueError):
        return ""


SIZES: dict[str, Any] = {
    "both must return a list of whole numbers: every n that fits.": (
        When(lambda values: [""] in values, lambda a, b, limit: 83)
    ),
    "You checked the first percentage only: n must fit both.": lambda a, b, limit: tables.sizes(a, a, limit),
    "You checked the second percentage only: n must fit both.": lambda a, b, limit: tables.sizes(b, b, limit),
    "You joined the two lists. An n must fit both percentages, not one of them.": (
        lambda a, b, limit: tables.sizes(a, a, limit) + tables.sizes(b, b, limit)
    ),
    "You cut digits off. A printed 41.0 is rounded: it stands for 40.95 to 41.05.": (
        if_shown(lambda percent: math.floor(10 * percent + 1e-9))
    ),
    "You rounded the wrong way, always up: a printed 41.0 stands for 40.95 to 41.05.": (
        if_shown(lambda percent: math.ceil(10 * percent - 1e-9))
    ),
    "You compared whole percentages. One decimal is printed, and it is what tells.": if_shown(round),
    "You asked for exact equality. Few shares of n are exactly 41.0 %: round to one decimal, then compare.": (
        if_shown(lambda percent: round(percent, 9))
    ),
    "That is the smallest n only. Return every n up to the limit.": lambda *asked: tables.sizes(*asked)[:1],
}
PEOPLE = {"26 of 35 are 74.3 % and 27 of 35 are 77.1 %: with 35 people 76 % cannot be printed.": 35}


def fitting(main: pd.DataFrame) -> dict[tuple, list[int]]:
    """By printed false-positive rates (before, after, and the limit): the numbers of labels that fit both."""
    pairs = rows(main, metric="fpr_both")[["before", "after"]].assign(limit=300)
    return {pair: tables.sizes(*pair) for pair in pairs.itertuples(index=False, name=None)}


def of_labels(main: pd.DataFrame) -> list[Blank]:
    fit = fitting(main)

    def which(values: list) -> str:
        mine, (pair, right) = next((mine, item) for [mine], item in zip(values, fit.items()) if mine != item[1])
        too_many, missing = (sorted({*one} - {*other}) for one, other in ((mine, right), (right, mine)))
        what = f"{too_many[0]} does not fit" if too_many else f"{missing[0]} is missing"
        return (
            f"For {pair[0]} and {pair[1]} % {what}. Ask for each n whether some count k gives 100 k / n, rounded to "
            "one decimal, and that for both."
        )

    asked = "Try 35, 34, 33 ...: is there a count k with 100 k / n between 75.5 and 76.5?"
    most = max(n for n in range(1, 36) if tables.attainable(76, n, digits=0))
    return [
        Blank(tables.sizes, SIZES, which, whole_numbers, list(fit)),
        Blank(most, PEOPLE, asked),
        choice(
            "b",
            a="Invented numbers are one story among several, and nothing here favours it over a dull one.",
            c="It is not rounding: rounding is what you just allowed for, to one decimal.",
        ),
    ]


def no_hundred(main: pd.DataFrame) -> str:
    shown = (f"{a} and {b} %: {', '.join(map(str, right[:3]))} ..." for (a, b, _), right in fitting(main).items())
    return (
        f"{'; '.join(shown)}. None of them holds 100, which would print whole percents. So the rates rest on other "
        "numbers than one label for each of 100 questions: fewer, several labels, or weights. The text does not say "
        "which, and the width of every interval depends on it."
    )


check_3 = Exercise(
    of_labels,
    no_hundred,
    difficulty=2,
    minutes=10,
    hints=(
        "With n labels only the shares 0/n, 1/n, ... n/n can come out. Which of them prints as 41.0?",
        "For each n look for a k with round(100 * k / n, 1) equal to the first percentage, and a k for the second.",
    ),
    given=("main",),
)

# --- 4: reading better, or finishing --------------------------------------------------------------


def of_finished(accuracy: np.ndarray, finished: np.ndarray) -> np.ndarray:
    """Accuracy of the finished answers, where an unfinished one counts as wrong in `accuracy`."""
    return accuracy / finished


FINISHED: dict[str, Callable] = {
    "You divided by the share that is *unfinished*. The finished answers are one minus that.": lambda a, f: a / (1 - f),
    "You multiplied. All right answers are finished ones: divide by the share finished.": lambda a, f: a * f,
    "That is the accuracy over all outputs, in which an unfinished answer counts as wrong.": lambda a, f: a,
    "You subtracted the unfinished. They leave the denominator: divide.": lambda a, f: a - (1 - f),
}


def along(curves: pd.DataFrame) -> np.ndarray:
    """Accuracy over all outputs, the share finished, and the accuracy of the finished: [3, steps]."""
    accuracy, finished = curves.sort_values("step")[["accuracy_all", "finished"]].to_numpy().T
    return np.array([accuracy, finished, of_finished(accuracy, finished)])


def of_curves(curves: pd.DataFrame) -> list[Blank]:
    accuracy, finished, target = along(curves)
    climb, reached, gain = (100 * (curve[-1] - curve[0]) for curve in along(curves))
    gains = {
        "That is the climb over all outputs, which holds both: whether an answer comes, and if it is right.": (
            points(climb, 0.5)
        ),
        "That is how much the share finished rose. Ask how much the finished answers improved.": points(reached, 0.5),
    }
    asked = "Of all outputs, a share is finished, and `accuracy` of all are right. How many of the finished?"
    last = "Take the last value of your own curve minus its first, in points."
    return [
        Blank(of_finished, FINISHED, asked, array, [(accuracy, finished)], tolerance=1e-3),
        Blank(points(gain, 0.3), gains, last),
        choice(
            "b",
            a=f"{accuracy[0]:.2f} to {accuracy[-1]:.2f} looks like better reading. But of the answers that were given, "
            f"{target[0]:.2f} were right at first and {target[-1]:.2f} at last.",
            c="Something was learned: half of the outputs did not reach an answer at first.",
        ),
    ]


def to_reach_an_answer(curves: pd.DataFrame) -> str:
    accuracy, _, target = along(curves)
    return (
        f"Finished answers are right in {target.mean():.0%} on average, and change by "
        f"{100 * (target[-1] - target[0]):+.1f} points; all outputs by {100 * (accuracy[-1] - accuracy[0]):+.0f}. What "
        "was learned is to reach an answer. Whether a judge who sees the story would make answers more often right, "
        "these curves do not show."
    )


check_4 = Exercise(
    of_curves,
    to_reach_an_answer,
    difficulty=1,
    minutes=8,
    hints=(
        "An unfinished answer is never right. So how many of the right answers are among the finished?",
        "All of them: divide the accuracy by the share finished, then compare the last value with the first.",
    ),
    given=("critique_curves",),
)

# --- 5: more wrong outputs approved, and fewer errors ---------------------------------------------

CORRECT, STYLE_BEFORE, STYLE_AFTER = 0.6, 0.2, 0.8  # share right; shares written in the pleasing style, right or wrong


def lenient(right: bool, pleasing: bool) -> float:
    """An evaluator whom a style pleases, whether what it says is right or wrong."""
    return 0.2 + 0.3 * right + 0.4 * pleasing


def evaluator(answer: Any) -> Any:
    """A function's probabilities of approval [right or wrong, plain or pleasing], `EMPTY` if it gives none yet; the
    letter of anything else."""
    if not callable(answer):
        return letter(answer)
    approved = [answer(right, pleasing) for right in (True, False) for pleasing in (False, True)]
    return EMPTY if any(map(empty, approved)) else np.reshape([number(value) for value in approved], (2, 2))


def changes(approves: np.ndarray) -> dict[str, float]:
    """What happens, in points, as the style spreads from `STYLE_BEFORE` to `STYLE_AFTER` of right and wrong outputs."""
    tpr, fpr = 100 * (STYLE_AFTER - STYLE_BEFORE) * (approves[:, 1] - approves[:, 0])
    return {"tpr": tpr, "fpr": fpr, "error": (1 - CORRECT) * fpr - CORRECT * tpr, "discrimination": tpr - fpr}


def shortcoming(approves: np.ndarray) -> str:
    """Why FPR does not rise while error falls and right is told from wrong as well; empty if all that holds."""
    if not (abs(approves - 0.5) <= 0.5).all():
        return "approves must return a probability, between 0 and 1, for each of the four cases."
    change = changes(approves)
    if abs(change["fpr"]) < 0.1 and abs(change["tpr"]) < 0.1:
        return "Nothing changes: your evaluator does not care for the style, which is all that changes."
    if change["fpr"] < 0.1:
        return f"FPR changes by {change['fpr']:+.1f} points. The style must make wrong outputs please more."
    if change["error"] > -0.1:
        return (
            f"FPR rises by {change['fpr']:.1f} points, and error changes by {change['error']:+.1f}: the style helps "
            f"the wrong outputs too much. Right ones are {CORRECT:.0%} of all; let it help them as well."
        )
    if change["discrimination"] < -1e-6:
        return (
            f"Error falls, but so does TPR - FPR, by {-change['discrimination']:.1f} points: only because right "
            "outputs are the majority. Let the style please right and wrong alike, or the right ones more."
        )
    return ""


def named(name: str) -> When:
    """An evaluator as it should be, and this name for what it does."""
    return When(
        lambda values: isinstance(values[0], np.ndarray) and not shortcoming(values[0]) and str(values[1]) == name,
        (lenient, name),
    )


JUDGED: dict[str, When] = {
    "It can happen. Let a style please, whether what it says is right or wrong.": (
        When(lambda values: values[0] is EMPTY and values[1] == "c", (lambda right, pleasing: ..., "c"))
    ),
    EMPTY: When(lambda values: values[0] is EMPTY, (lambda right, pleasing: ..., "b")),
    "Give the function itself, without calling it.": When(lambda values: isinstance(values[0], str), (0.5, "b")),
    "A rising FPR alone is not U-Sophistry: the evaluator errs less, and right outputs gain as much. Part (iv) of the "
    "claim, lost discrimination, is missing.": named("a"),
    "You say that it cannot happen, and have just built it.": named("c"),
}
OF_LENIENT = changes(evaluator(lenient))

CHOOSE = 'Answer the second blank with "a", "b" or "c".'

check_5 = Exercise(
    [Blank(named("b"), JUDGED, lambda values: shortcoming(values[0]) or CHOOSE, evaluator)],
    "Leniency. For example, whoever approves with probability .2, .3 more if right and .4 more if pleasing, moves FPR "
    "by {fpr:+.1f}, TPR by {tpr:+.1f}, error by {error:+.1f} and TPR - FPR by {discrimination:+.1f} points. Wrong "
    "outputs are approved more often, and the evaluator serves better than before. Only error and discrimination tell "
    "this from being misled.".format_map(OF_LENIENT),
    difficulty=2,
    minutes=10,
    hints=(
        "Right outputs are the majority. What happens if the style makes right and wrong ones please equally more?",
        "Start from one probability; add something if the output is right, and something if it pleases.",
    ),
)
