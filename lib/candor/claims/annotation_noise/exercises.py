"""Checks for the exercises of notebook 04: each says what is right, or names the mistake and gives a hint."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import binom, hypergeom

from candor.claims.annotation_noise.judges import LAPSE, POSITION, TYPES
from candor.claims.annotation_noise.response_types import DESIGNS, cell_probabilities
from candor.claims.annotation_noise.tables import flips
from candor.declare.exercises import Feedback, check, close, number, right, wrong

EMPTY = "The blank is still empty: put your answer in place of the dots and run it again."


def _blank(*values: object) -> bool:
    """Whether a function that the reader was to complete still returns nothing."""
    return any(value is None or value is ... for value in values)


def _same(given: list, wanted: Callable[..., float], cases: tuple, tolerance: float = 1e-6) -> bool:
    """Whether the answers to `cases` (tuples of arguments) are those of `wanted`."""
    return all(close(value, wanted(*case), tolerance) for value, case in zip(given, cases))


def _letter(answer: object) -> str:
    return str(answer).strip(" ().").lower()


# --- 1: four flip rates ---------------------------------------------------------------------------


def stable(lapse: float) -> float:
    """How often two answers differ that rest on one view and slip independently of each other."""
    return 2 * lapse * (1 - lapse)


def coin(bias: float, swapped: bool) -> float:
    """How often two fresh answers point to different sides, where the first-shown side wins with .5 + bias."""
    differ = 2 * (0.5 + bias) * (0.5 - bias)
    return 1 - differ if swapped else differ


def turned(lapse: float) -> float:
    """How often two answers differ whose rule turns over in between."""
    return 1 - stable(lapse)


_STABLE_SLIPS: dict[str, Callable[[float], float]] = {
    "That is the chance that *one* answer slips. Two answers differ if the first slips or the second, not both.": (
        lambda e: e
    ),
    "Two slips cancel: the answers agree again. Multiply with the chance that the other one does not slip.": (
        lambda e: 2 * e
    ),
    "Either of the two can be the one that slips: twice that.": lambda e: e * (1 - e),
    "That is the chance of at least one slip. If both slip, the answers agree again.": lambda e: 1 - (1 - e) ** 2,
    "That is how often the two agree.": lambda e: 1 - stable(e),
}
_COIN_SLIPS: dict[str, Callable[[float, bool], float]] = {
    "A fair coin would. This one leans to the side that is shown first: by how much do two throws of a coin with "
    "chances .5 + b and .5 - b differ?": lambda b, swapped: 0.5,
    "The two columns are exchanged: when the order swaps, following the *position* means choosing the *other* side.": (
        lambda b, swapped: coin(b, not swapped)
    ),
    "The position bias does not go away when the order is the same, and when it swaps it adds flips: the two rates "
    "differ.": lambda b, swapped: coin(b, False),
    "When the order is the same, both throws lean to the same side: the two rates differ.": (
        lambda b, swapped: coin(b, True)
    ),
    "That is how often one throw takes the first-shown side. Two throws differ if one does and the other does not.": (
        lambda b, swapped: 0.5 + b
    ),
    "To the first order a bias cancels: 2 (.5 + b)(.5 - b) has no term in b, only one in b squared.": (
        lambda b, swapped: 0.5 + b if swapped else 0.5 - b
    ),
    "You counted one of two ways: first-shown side then the other, or the other then the first-shown.": (
        lambda b, swapped: coin(b, swapped) / 2
    ),
}
_TURNED_SLIPS: dict[str, Callable[[float], float]] = {
    "That is the rate *within* a frame. In the other frame the rule itself says the opposite.": stable,
    "One slip undoes the difference, and either answer can slip: there are two occasions, not one.": lambda e: 1 - e,
    "Two slips restore the difference. They must be counted among the flips.": lambda e: 1 - 2 * e,
    "If both slip, the answers differ again: add the square of the lapse rate.": lambda e: (1 - e) ** 2,
}


@check
def check_1(
    genuine: Callable[[float], float], non_attitude: Callable[..., float], constructed: Callable[[float], float]
) -> Feedback:
    """`genuine(lapse)`: how often two answers of a genuine judge differ; `non_attitude(bias, swapped)`: two answers of
    a judge without a view, order swapped or not; `constructed(lapse)`: two answers in opposite frames."""
    if not all(map(callable, (genuine, non_attitude, constructed))):
        return wrong("Give the three functions themselves, without calling them.")
    lapses = ((0.05,), (0.2,))
    biases = ((0.1, True), (0.1, False), (0.25, True), (0.25, False))
    found = [
        [function(*case) for case in cases]
        for function, cases in ((genuine, lapses), (non_attitude, biases), (constructed, lapses))
    ]
    if _blank(*itertools.chain(*found)):
        return wrong(EMPTY)
    todo = (
        ("Genuine", found[0], stable, lapses, _STABLE_SLIPS, "Two answers differ if exactly one of them slips"),
        (
            "Non-attitude",
            found[1],
            coin,
            biases,
            _COIN_SLIPS,
            "Write the chance of the *more confident side* each time",
        ),
        ("Constructed", found[2], turned, lapses, _TURNED_SLIPS, "Without slips the two answers would always differ"),
    )
    for name, values, truth, cases, slips, hint in todo:
        if _same(values, truth, cases):
            continue
        for message, slip in slips.items():
            if _same(values, slip, cases):
                return wrong(f"{name}: {message}")
        return wrong(f"{name}: {hint}; you give {number(values[0]):.3g} for {', '.join(map(str, cases[0]))}.")
    return right(
        f"With a lapse of .05 and a bias of .10: genuine {stable(0.05):.3f} whatever changes; non-attitude "
        f"{coin(0.1, True):.2f} when the order swaps and {coin(0.1, False):.2f} when it does not; constructed "
        f"{stable(0.05):.3f} within a frame and {turned(0.05):.3f} across. Genuine and constructed differ in one "
        "column only, the one with two frames."
    )


# --- 2: one frame, two populations ----------------------------------------------------------------

PARAMETERS = (*TYPES, "mixing")
RETEST, TWO_FRAMES = "one frame x 2 orders x 2 waves", "2 frames x 2 orders"


def patterns(population: Mapping[str, float], design: str) -> np.ndarray:
    """Probability of every pattern of answers in a design (a name), with the lapses and bias of the world."""
    known = {name: population[name] for name in ("genuine", "non_attitude", "mixing")}
    return cell_probabilities(known | {"lapse": LAPSE, "bias": POSITION}, DESIGNS[design])


def differ(one: Mapping[str, float], other: Mapping[str, float], design: str) -> float:
    """The largest difference of any pattern's probability between two populations."""
    return float(np.abs(patterns(one, design) - patterns(other, design)).max())


@check
def check_2(one: Mapping[str, float], other: Mapping[str, float], tells: str) -> Feedback:
    """Two populations as dicts of PARAMETERS that answer alike in one frame, with shares of the genuine that differ by
    .3 or more; and what would tell them apart without assuming anything ("a", "b" or "c")."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return wrong(f"Give each population as a dict with {', '.join(PARAMETERS)}.")
    if _blank(*one.values(), *other.values()):
        return wrong(EMPTY)
    for which, given in (("first", one), ("second", other)):
        values = {name: number(given.get(name)) for name in PARAMETERS}
        if lacking := [name for name, value in values.items() if not 0 <= value <= 1]:
            return wrong(f"The {which} population needs a number between 0 and 1 for {', '.join(lacking)}.")
        if not close(sum(values[name] for name in TYPES), 1, 1e-6):
            return wrong(f"The three shares of the {which} population must sum to 1.")
    one, other = ({name: number(given[name]) for name in PARAMETERS} for given in (one, other))
    apart = abs(one["genuine"] - other["genuine"])
    if apart < 0.3 - 1e-9:
        return wrong(f"The shares of the genuine differ by {apart:.2f} only: look for two that are .3 or more apart.")
    retest = differ(one, other, RETEST)
    if retest > 1e-6:
        if not close(one["non_attitude"], other["non_attitude"], 1e-9):
            return wrong(
                "Non-attitudes answer anew each time, and a repetition sees that: their share is known from one frame. "
                "Keep it equal."
            )
        if one["mixing"] == other["mixing"] == 0.5:
            return wrong(
                "With the mixing fixed at one half, the genuine who take the *less* confident side show how many there "
                "are of all: that assumption alone pins the share. Nothing in the data gives it; let it vary."
            )
        return wrong(
            "In one frame a constructed answer looks like a genuine one for the confident side. Keep genuine x mixing "
            f"+ constructed and genuine x (1 - mixing) as they are; now patterns differ by up to {retest:.3f}."
        )
    letter = _letter(tells)
    if letter == "a":
        return wrong(
            "More waves do not help: whoever is stable in a frame gives the same answer, lapses aside, at every "
            "further wave in it, with a view or without one."
        )
    if letter == "b":
        return wrong(
            "That assumption would do all the work: it names one population as the true one, whatever the people are, "
            "and no answer in one frame can contradict it."
        )
    if letter != "c":
        return wrong('Answer the third blank with "a", "b" or "c".')
    two = differ(one, other, TWO_FRAMES)
    return right(
        "In one frame the two agree in every pattern; asked in two frames, with as many answers, some pattern differs "
        f"by {two:.2f}. Repetition measures stability, and both are stable: what differs is what they depend on."
    )


# --- 3: weighted soft labels ----------------------------------------------------------------------


def loss_of(first: np.ndarray, second: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """Mean over pairs of weight (mean 1) x cross-entropy of s(first - second) against the label."""
    gap = first - second
    return float(np.mean(weight / weight.mean() * (np.logaddexp(0, gap) - label * gap)))


def gradient_of(first: np.ndarray, second: np.ndarray, label: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """d loss_of / d first, [n]."""
    return weight / weight.mean() * (1 / (1 + np.exp(second - first)) - label) / len(first)


_LOSS_SLIPS: dict[str, Callable[..., float]] = {
    "The weights are not normalised: with small weights everything trains more slowly, and arms differ in their "
    "learning rate. Divide by their mean.": lambda a, b, y, w: loss_of(a, b, y, w) * w.mean(),
    "You summed over the pairs instead of taking the mean.": lambda a, b, y, w: loss_of(a, b, y, w) * len(a),
    "You summed over the pairs, and the weights are not normalised.": lambda a, b, y, w: loss_of(a, b, y, w) * w.sum(),
    "You divided by the sum of the weights and took the mean as well: the loss is too small by the number of pairs.": (
        lambda a, b, y, w: loss_of(a, b, y, w) / len(a)
    ),
    "The weights do not enter.": lambda a, b, y, w: loss_of(a, b, y, np.ones_like(w)),
    "The label says how often A is preferred: the reward of A comes first in the difference.": (
        lambda a, b, y, w: loss_of(b, a, y, w)
    ),
    "A label of .7 counts as 1 here. Soft labels weigh both sides: y log s(d) + (1 - y) log s(-d).": (
        lambda a, b, y, w: loss_of(a, b, np.round(y), w)
    ),
    "The other half is missing: with probability 1 - y the other side was preferred.": lambda a, b, y, w: float(
        np.mean(w / w.mean() * y * np.logaddexp(0, b - a))
    ),
    "The sign is reversed: a loss is the *negative* log-likelihood.": lambda a, b, y, w: -loss_of(a, b, y, w),
}
_GRADIENT_SLIPS: dict[str, Callable[..., np.ndarray]] = {
    "The sign is reversed: where A is already preferred more often than labelled, the loss rises with its reward.": (
        lambda a, b, y, w: -gradient_of(a, b, y, w)
    ),
    "Your loss is a mean over the pairs, so each pair's part is divided by their number.": lambda a, b, y, w: (
        gradient_of(a, b, y, w) * len(a)
    ),
    "The weights in the gradient are not normalised.": lambda a, b, y, w: gradient_of(a, b, y, w) * w.mean(),
    "The weights do not enter the gradient.": lambda a, b, y, w: gradient_of(a, b, y, np.ones_like(w)),
}


@check
def check_3(
    label: Callable[..., np.ndarray], loss: Callable[..., float], gradient: Callable[..., np.ndarray]
) -> Feedback:
    """`label(took_first, a_first)`: 1 where A was preferred, [n]; `loss(a, b, y, w)`: a number, from rewards of A and
    B, labels in [0, 1] and weights, [n] each; `gradient(a, b, y, w)`: its derivative in the rewards of A, [n]."""
    if not all(map(callable, (label, loss, gradient))):
        return wrong("Give the three functions themselves, without calling them.")
    took_first, a_first = (np.array(bits, dtype=bool) for bits in ((1, 1, 0, 0), (1, 0, 1, 0)))
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 6))
    y, w = np.array([1.0, 0.7, 0.2, 0.6, 0.0, 0.9]), np.array([0.1, 0.9, 0.4, 0.2, 0.8, 0.3])
    given, value, slope = label(took_first, a_first), loss(a, b, y, w), gradient(a, b, y, w)
    if _blank(given, value, slope):
        return wrong(EMPTY)
    if np.shape(given) != (4,):
        return wrong("label(took_first, a_first) must give one label a judgement.")
    given = np.asarray(given, dtype=float)
    if not np.allclose(given, took_first == a_first):
        if np.allclose(given, took_first):
            return wrong(
                "Your label says whether the *first-shown* side won. In half of the judgements that was B: after the "
                "swap the label lands on the wrong side."
            )
        if np.allclose(given, took_first != a_first):
            return wrong("Your label says how often B is preferred.")
        if np.allclose(given, a_first):
            return wrong("Your label says which side was shown first, not which was taken.")
        return wrong(
            "A was preferred if it was shown first and the first was taken, or shown second and the second was."
        )
    if np.shape(value) != ():
        return wrong("The loss is one number: the mean over the pairs.")
    if not close(value, loss_of(a, b, y, w), 1e-6):
        for message, slip in _LOSS_SLIPS.items():
            if close(value, slip(a, b, y, w), 1e-6):
                return wrong(message)
        return wrong(
            "Per pair: w / mean(w) times the cross-entropy of s(reward of A - reward of B) against y; then the mean. "
            f"For the pairs tried it is {loss_of(a, b, y, w):.4f}; you give {number(value):.4f}."
        )
    if np.shape(slope) != (6,):
        return wrong("The gradient has one entry a pair: the derivative in that pair's reward of A.")
    slope = np.asarray(slope, dtype=float)
    if not np.allclose(slope, gradient_of(a, b, y, w), atol=1e-4):  # also a numerical derivative will do
        for message, slip in _GRADIENT_SLIPS.items():
            if np.allclose(slope, slip(a, b, y, w), atol=1e-6):
                return wrong(message)
        return wrong("Compare with (loss(a + h, ...) - loss(a, ...)) / h, one pair at a time.")
    return right(
        "What a pair pulls at is s(gap) minus its label, times its weight. A label of one half pulls towards no "
        "difference, a weight of nought does not pull at all: that is how counting a non-attitude and leaving it out "
        "differ."
    )


# --- 4: which arms share a curve ------------------------------------------------------------------

ARMS = ("naive", "rdpo", "dropN", "frrand")
CURVES = ("naive", "genuine")


def unflipped(label: float, flips: float) -> float:
    """The label whose mean is the clean one if a share `flips` of the labels is turned over."""
    return (label - flips) / (1 - 2 * flips)


def left_over(plus: float, minus: float) -> float:
    """How far from one half the constructed answer is on average if the frame is drawn by a coin."""
    return (plus - minus) / 2


_UNFLIPPED_SLIPS: dict[str, Callable[[float, float], float]] = {
    "Its mean is right up to a factor: flips also shrink the distance from one half. Divide by 1 - 2e.": (
        lambda y, e: y - e
    ),
    "That flips a second time. Solve  observed = (1 - e) clean + e (1 - clean)  for the clean one.": (
        lambda y, e: (1 - e) * y + e * (1 - y)
    ),
    "A share of e flips costs twice: it takes from one side and gives to the other. Divide by 1 - 2e.": (
        lambda y, e: (y - e) / (1 - e)
    ),
    "The label does not change: where do the flips enter?": lambda y, e: y,
}
_LEFT_SLIPS: dict[str, Callable[[float, float], float]] = {
    "Only where both frames pull equally hard.": lambda p, m: 0.0,
    "Each frame is shown half of the time: half of that.": lambda p, m: p - m,
    "The sign is reversed: a stronger first frame leaves a pull *to* the confident side.": lambda p, m: (m - p) / 2,
    "In the second frame the pull goes to the *less* confident side: the two strengths are subtracted.": (
        lambda p, m: (p + m) / 2
    ),
    "That is the share itself. The question is how far it is from one half.": lambda p, m: (p + 1 - m) / 2,
    "In the second frame the more confident side is taken with 1 minus its strength.": lambda p, m: (p + m) / 2 - 0.5,
}
_CURVE_HINTS = {
    "naive": "The naive labels contain what the constructed answers follow: that is the curve that bends away.",
    "rdpo": 'You count on "robust to noise". The correction undoes flips that are as likely for either side; '
    "constructed answers are not flips, they agree with each other. Its expected label is that of dropN: the naive "
    "one, stretched.",
    "dropN": "You expect removing noise to help. It takes away what shrinks the reward and leaves what bends it: the "
    "ratio of constructed to genuine stays as it was.",
    "frrand": "Half of the labels come from the other frame: what does a constructed answer say on average, if both "
    "frames pull equally hard? Nothing that depends on confidence.",
}


@check
def check_4(
    corrected: Callable[..., float], left: Callable[..., float], curve: Mapping[str, str], changes: str
) -> Feedback:
    """`corrected(label, flips)`: rdpo's label; `left(plus, minus)`: what a random frame leaves of the constructed pull;
    `curve`: "naive" or "genuine" for each of ARMS; `changes`: what rdpo changes at a fixed beta ("a", "b", "c")."""
    if not callable(corrected) or not callable(left) or not isinstance(curve, Mapping):
        return wrong("Give the two functions themselves, a dict with a curve for each arm, and a letter.")
    labels = ((1.0, 0.125), (0.0, 0.125), (0.6, 0.2))
    pulls = ((0.95, 0.95), (0.95, 0.7), (0.8, 0.9))
    found, remains = [corrected(*case) for case in labels], [left(*case) for case in pulls]
    if _blank(*found, *remains, *curve.values()):
        return wrong(EMPTY)
    todo = (
        (
            found,
            unflipped,
            labels,
            _UNFLIPPED_SLIPS,
            "Solve  observed = (1 - e) clean + e (1 - clean)  for the clean one",
        ),
        (remains, left_over, pulls, _LEFT_SLIPS, "Take the mean of s+ and 1 - s-, and its distance from one half"),
    )
    for values, truth, cases, slips, hint in todo:
        if _same(values, truth, cases):
            continue
        for message, slip in slips.items():
            if _same(values, slip, cases):
                return wrong(message)
        return wrong(
            f"{hint}: {cases[1][0]:g} and {cases[1][1]:g} give {truth(*cases[1]):.3f}, not {number(values[1]):.3g}."
        )
    for arm in ARMS:
        given = str(curve.get(arm)).strip().lower().replace("oracle", "genuine")
        if given not in CURVES:
            return wrong(f'Answer "naive" or "genuine" for {arm}: the curve on which you expect it.')
        if given != ("genuine" if arm == "frrand" else "naive"):
            return wrong(f"{arm}: {_CURVE_HINTS[arm]}")
    letter = _letter(changes)
    if letter == "a":
        return wrong("Its labels are steeper by 1 / (1 - 2e), and at a fixed beta a steeper reward goes further.")
    if letter == "c":
        return wrong("A reward times a constant is the same reward at another beta: it moves along the curve.")
    if letter != "b":
        return wrong('Answer the fourth blank with "a", "b" or "c".')
    return right(
        "Three arms on one curve, one on the other. For rdpo and dropN the expected labels are the very same function, "
        "(g s + c k) / (1 - n): correcting for noise and removing it decide where one stops. Only what takes the "
        "constructed share out of the label decides which curve. Now hold it against the figure."
    )


# --- 5: the majority under random removal ---------------------------------------------------------

RATERS, REMOVED = 10, 2


def _null_slips() -> list[tuple[str, float]]:
    """What typical mistakes give for the share of majorities that change."""
    raters, kept = RATERS, RATERS - REMOVED
    votes, left = np.arange(raters + 1), np.arange(kept + 1)  # of yes, before and after
    uniform = np.full(raters + 1, 1 / (raters + 1))
    chance = hypergeom.pmf(left, raters, votes[:, None], kept)
    above = (votes > raters / 2)[:, None] != (left > kept / 2)
    untied = votes != raters / 2
    before, after = np.sign(2 * votes - raters)[:, None], np.sign(2 * left - kept)
    gone_tied = (before != after) & untied[:, None]
    again = binom.pmf(left, kept, votes[:, None] / raters)
    ignored = "You left out the items that were tied before. A tie that removal breaks is a changed majority, too."
    return [
        (
            "You ignored ties: a five-to-five item counts as a majority for one side. With an even number of raters a "
            "tie is a third state.",
            float(uniform @ (chance * above).sum(1)),
        ),
        (ignored, float(uniform @ (chance * gone_tied).sum(1))),
        (ignored, float(uniform @ (chance * gone_tied).sum(1) / untied.mean())),
        ("You drew with replacement: nobody can be kept twice.", float(uniform @ (again * (before != after)).sum(1))),
        (
            "Here every item has a share of one half: all are close calls. First draw each item's share.",
            float(binom.pmf(votes, raters, 0.5) @ (chance * (before != after)).sum(1)),
        ),
    ]


@check
def check_5(remove: Callable[..., np.ndarray], changes: float, reverses: float) -> Feedback:
    """`remove(votes, removed, rng)`: the votes that stay, [n, raters - removed], of votes [n, raters]; the share of
    items whose majority `changes` (to or from a tie counts) and `reverses`, for 10 raters of whom 2 are removed."""
    if not callable(remove):
        return wrong("Give the function itself, without calling it: check_5(remove, changes, reverses).")
    rng, items = np.random.default_rng(5), 400
    first = remove(np.eye(RATERS, dtype=int), REMOVED, rng)
    if _blank(first):
        return wrong(EMPTY)
    if np.shape(first) != (RATERS, RATERS - REMOVED):
        return wrong(f"Of votes [n, {RATERS}] there must stay [n, {RATERS - REMOVED}]; yours has {np.shape(first)}.")
    alone = np.eye(RATERS, dtype=int)[rng.integers(RATERS, size=items)]  # one yes an item
    stays = np.stack([np.asarray(remove(alone, REMOVED, rng)).sum(1) for _ in range(40)])
    if stays.max() > 1:
        return wrong("You draw with replacement: a rater is kept twice, and more than the removed ones are lost.")
    kept = stays.mean()
    if kept < 0.5:
        return wrong(
            "You remove those who deviate on the item: whoever is removed was chosen by the very vote that is then "
            "counted. Such a removal cannot turn a majority, and says nothing about random raters."
        )
    if not close(kept, 1 - REMOVED / RATERS, 0.05):
        return wrong(f"A rater should stay with probability {1 - REMOVED / RATERS:.1f}; with yours it is {kept:.2f}.")
    first_alone = np.eye(RATERS, dtype=int)[np.zeros(items, int)]
    of_first = np.stack([np.asarray(remove(first_alone, REMOVED, rng)).sum(1) for _ in range(40)])
    if of_first.std() == 0:
        return wrong("The same raters go every time. Draw anew from rng who is removed.")
    target, reversed_target = flips(RATERS, REMOVED)
    given = number(changes)
    if not close(given, target, 0.004):
        for message, value in _null_slips():
            if close(given, value, 0.003):
                return wrong(message)
        return wrong(
            "Draw a share for each of many items, uniformly; then the votes; then remove, and compare the sign of yes "
            "minus no before and after. A tie has sign 0."
        )
    if not close(reverses, reversed_target, 0.002):
        if close(reverses, target, 0.004):
            return wrong("That counts ties again. A reversal goes from one side to the *other*.")
        return wrong("Six to four is the closest majority: what is the most that losing two votes can do to it?")
    more = {raters: flips(raters, raters // 5)[0] for raters in (5, 30, 60)}
    return right(
        f"{target:.3f} and {reversed_target:.0f}: one item in ten gets another majority by removing two of ten raters "
        f"at random, and none is turned around. With one in five removed it is {more[5]:.1%} for 5 raters, "
        f"{more[30]:.1%} for 30, {more[60]:.1%} for 60. So 18.6 % means nothing before the number of raters is known."
    )
