"""The exercises of notebook 04: what is right, and the mistakes that have a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import binom, hypergeom

from candor.claims.annotation_noise import response_types as types
from candor.claims.annotation_noise.judges import LAPSE, POSITION, TYPES
from candor.claims.annotation_noise.tables import flips
from candor.declare.exercises import Blank, Exercise, When, array, choice, letter, number

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


def formula(kind: str, right: Callable, slips: dict[str, Callable], hint: str, *probes: tuple) -> Blank:
    """A blank for a formula, whose messages all begin with the kind of annotator or of correction."""
    slips = {f"{kind}: {message}": slip for message, slip in slips.items()}

    def say(values: list) -> str:
        return f"{kind}: {hint}; you give {values[0][0]:.3g} for {', '.join(map(str, probes[0]))}."

    return Blank(right, slips, say, probes=probes, tolerance=1e-6)


GENUINE = formula(
    "Genuine",
    stable,
    {
        "That is the chance that *one* answer slips. Two differ if just one of them does.": lambda e: e,
        "Two slips cancel: multiply with the chance that the other answer does not slip.": lambda e: 2 * e,
        "Either of the two can be the one that slips: twice that.": lambda e: e * (1 - e),
        "That is the chance of at least one slip. If both slip, the answers agree again.": lambda e: 1 - (1 - e) ** 2,
        "That is how often the two agree.": turned,
    },
    "Two answers differ if exactly one of them slips",
    *((0.05,), (0.2,)),
)
NON_ATTITUDE = formula(
    "Non-attitude",
    coin,
    {
        "A fair coin would. How often do two throws differ of one that leans by b?": lambda b, s: 0.5,
        "The columns are exchanged: a swap makes the same *position* the other side.": lambda b, s: coin(b, not s),
        "The bias stays when the order does, and a swap adds flips: the rates differ.": lambda b, s: coin(b, False),
        "When the order is the same, both throws lean to the same side: the rates differ.": lambda b, s: coin(b, True),
        "That is how often one throw takes the first-shown side. Two differ if only one does.": lambda b, s: 0.5 + b,
        "To first order a bias cancels: only a term in b squared is left.": lambda b, s: 0.5 + b * (2 * s - 1),
        "You counted one of two ways: first-shown then the other, or the reverse.": lambda b, s: coin(b, s) / 2,
    },
    "Write the chance of the *more confident side* each time",
    *((0.1, True), (0.1, False), (0.25, True), (0.25, False)),
)
CONSTRUCTED = formula(
    "Constructed",
    turned,
    {
        "That is the rate *within* a frame. In the other frame the rule itself says the opposite.": stable,
        "One slip undoes the difference, and either answer can slip: there are two occasions.": lambda e: 1 - e,
        "Two slips restore the difference. They must be counted among the flips.": lambda e: 1 - 2 * e,
        "If both slip, the answers differ again: add the square of the lapse rate.": lambda e: (1 - e) ** 2,
    },
    "Without slips the two answers would always differ",
    *((0.05,), (0.2,)),
)

check_1 = Exercise(
    [GENUINE, NON_ATTITUDE, CONSTRUCTED],
    f"With a lapse of .05 and a bias of .10: genuine {stable(LAPSE):.3f} whatever changes; non-attitude "
    f"{coin(POSITION, True):.2f} when the order swaps and {coin(POSITION, False):.2f} when it does not; constructed "
    f"{stable(LAPSE):.3f} within a frame and {turned(LAPSE):.3f} across. Genuine and constructed differ in one column "
    "only, the one with two frames.",
    difficulty=1,
    minutes=10,
    hints=(
        "Two answers differ in two ways: the first takes this side and the second the other one, or the reverse.",
        "With chances p and q of the more confident side on the two occasions, they differ with p (1 - q) + (1 - p) q.",
    ),
)

# --- 2: one frame, two populations ----------------------------------------------------------------

PARAMETERS = (*TYPES, "mixing")


def population(answer: object) -> np.ndarray:
    """The numbers of a population in the order of PARAMETERS, NaN where there is none."""
    return np.array([number(answer.get(name) if isinstance(answer, Mapping) else None) for name in PARAMETERS])


def repeated(two: list[np.ndarray]) -> float:
    """The largest difference of any pattern's probability between two populations that are asked in one frame."""
    parameters = (dict(zip(types.PARAMETERS, (g, n, mixing, LAPSE, POSITION))) for g, n, _, mixing in two)
    one, other = (types.cell_probabilities(p, types.RETEST) for p in parameters)
    return float(np.abs(one - other).max())


def possible(parameters: np.ndarray) -> bool:
    return bool(((parameters >= 0) & (parameters <= 1)).all() and abs(parameters[:3].sum() - 1) <= 1e-6)


def alike(two: list[np.ndarray]) -> bool:
    """Whether these are populations with different shares of the genuine that one frame cannot tell apart."""
    return all(map(possible, two)) and abs(two[0][0] - two[1][0]) >= 0.3 - 1e-9 and repeated(two) <= 1e-6


FEW = {"genuine": 0.25, "non_attitude": 0.25, "constructed": 0.5, "mixing": 0.0}
MANY = {"genuine": 0.75, "non_attitude": 0.25, "constructed": 0.0, "mixing": 2 / 3}


def of_one(message: str, odd: Callable[[np.ndarray], bool], change: dict[str, float]) -> dict[str, When]:
    """The slip that one of the populations shows, for the first and for the second."""
    return {
        f"The first {message}": When(lambda two: odd(two[0]), (FEW | change, MANY)),
        f"The second {message}": When(lambda two: odd(two[1]), (FEW, MANY | change)),
    }


POPULATIONS = Blank(
    When(alike, (FEW, MANY)),
    {
        f"Give each population as a dict with {', '.join(PARAMETERS)}.": When(
            lambda two: any(np.isnan(p).all() for p in two), (0.5, 0.2)
        ),
        **of_one(
            "population needs a number between 0 and 1 for each of its four parameters.",
            lambda p: not ((p >= 0) & (p <= 1)).all(),
            {"mixing": 2},
        ),
        **of_one("population has shares that do not sum to 1.", lambda p: not possible(p), {"genuine": 0.5}),
        "The shares of the genuine are too close to each other: look for two that are .3 or more apart.": When(
            lambda two: abs(two[0][0] - two[1][0]) < 0.3 - 1e-9, (FEW, FEW)
        ),
        "Non-attitudes answer anew each time, and one frame shows how many there are: keep their share equal.": When(
            lambda two: abs(two[0][1] - two[1][1]) > 1e-9, (FEW, MANY | {"non_attitude": 0, "constructed": 0.25})
        ),
        "A mixing of one half pins the share of the genuine, and nothing in the data gives it: let it vary.": When(
            lambda two: two[0][3] == two[1][3] == 0.5, (FEW | {"mixing": 0.5}, MANY | {"mixing": 0.5})
        ),
    },
    lambda two: (
        "In one frame a constructed answer looks like a genuine one for the confident side. Keep genuine x mixing + "
        f"constructed and genuine x (1 - mixing) as they are; now patterns differ by up to {repeated(two):.3f}."
    ),
    population,
)
TELLS = choice(
    "c",
    a="Whoever is stable in a frame answers alike, lapses aside, at every further wave in it, with a view or without.",
    b="That assumption names one population as the true one, and no answer in one frame can contradict it.",
)

check_2 = Exercise(
    [POPULATIONS, TELLS],
    "In one frame the two agree in every pattern; asked in two frames, with as many answers, they do not. Repetition "
    "measures stability, and both are stable: what differs is what they depend on.",
    difficulty=3,
    minutes=15,
    hints=(
        "In one frame, whose answers look like those of a constructed annotator?",
        "Make constructed annotators genuine, and raise the mixing until as many as before take the confident side.",
    ),
)

# --- 3: weighted soft labels ----------------------------------------------------------------------


def label_of(took_first: np.ndarray, a_first: np.ndarray) -> np.ndarray:
    """1 where A was preferred, [n]."""
    return took_first == a_first


def loss_of(a: np.ndarray, b: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Mean over pairs of weight (mean 1) x cross-entropy of s(a - b) against the label."""
    return np.mean(w / w.mean() * (np.logaddexp(0, a - b) - y * (a - b)))


def gradient_of(a: np.ndarray, b: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """d loss_of / d a, [n]."""
    return w / w.mean() * (1 / (1 + np.exp(b - a)) - y) / len(a)


ORDERS = [tuple(np.array(bits, dtype=bool) for bits in ((1, 1, 0, 0), (1, 0, 1, 0)))]
REWARDS = np.random.default_rng(4).normal(size=(2, 6))
PAIRS = [(*REWARDS, np.array([1.0, 0.7, 0.2, 0.6, 0.0, 0.9]), np.array([0.1, 0.9, 0.4, 0.2, 0.8, 0.3]))]


def shaped(*shape: int) -> Callable[[list], bool]:
    """Whether what a function gives has another shape than this one."""
    return lambda values: values[0][0].shape != shape


LABEL = Blank(
    label_of,
    {
        "label(took_first, a_first) must give one label a judgement.": When(shaped(4), lambda took, first: 0.5),
        "That says whether the *first-shown* side won: after a swap it is the other one.": lambda took, first: took,
        "Your label says how often B is preferred.": lambda took, first: took != first,
        "Your label says which side was shown first, not which was taken.": lambda took, first: first,
    },
    "A was preferred if it was shown first and the first was taken, or shown second and the second was.",
    array,
    ORDERS,
)
LOSS = Blank(
    loss_of,
    {
        "The loss is one number: the mean over the pairs.": When(shaped(), lambda a, b, y, w: w),
        "The weights are not normalised: divide by their mean.": lambda a, b, y, w: loss_of(a, b, y, w) * w.mean(),
        "You summed over the pairs instead of taking the mean.": lambda a, b, y, w: loss_of(a, b, y, w) * len(a),
        "You summed, and the weights are not normalised.": lambda a, b, y, w: loss_of(a, b, y, w) * w.sum(),
        "You divided by the sum of weights and by the number of pairs.": lambda *pair: loss_of(*pair) / 6,
        "The weights do not enter.": lambda a, b, y, w: loss_of(a, b, y, np.ones(6)),
        "The label says how often A is preferred: its reward comes first.": lambda a, b, y, w: loss_of(b, a, y, w),
        "A label of .7 counts as 1: y log s(d) + (1 - y) log s(-d).": lambda a, b, y, w: loss_of(a, b, y.round(), w),
        "The other half is missing: with probability 1 - y the other side was preferred.": lambda a, b, y, w: np.mean(
            w / w.mean() * y * np.logaddexp(0, b - a)
        ),
        "The sign is reversed: a loss is the *negative* log-likelihood.": lambda a, b, y, w: -loss_of(a, b, y, w),
    },
    lambda values: (
        "Per pair: w / mean(w) times the cross-entropy of s(reward of A - reward of B) against y; then the mean. For "
        f"the pairs tried it is {loss_of(*PAIRS[0]):.4f}; you give {values[0][0]:.4f}."
    ),
    array,
    PAIRS,
    1e-6,
)
GRADIENT = Blank(
    gradient_of,
    {
        "It has one entry a pair: the derivative in that pair's reward of A.": When(shaped(6), lambda a, b, y, w: 0.0),
        "The sign: where A wins more often than labelled, the loss rises.": lambda *pair: -gradient_of(*pair),
        "A mean over the pairs: each one's part is divided by their number.": lambda *pair: 6 * gradient_of(*pair),
        "The weights in the gradient are not normalised.": lambda *pair: gradient_of(*pair) * pair[3].mean(),
        "The weights do not enter the gradient.": lambda a, b, y, w: gradient_of(a, b, y, np.ones(6)),
    },
    "Compare with (loss(a + h, ...) - loss(a, ...)) / h, one pair at a time.",
    array,
    PAIRS,
    1e-4,  # also a numerical derivative will do
)

check_3 = Exercise(
    [LABEL, LOSS, GRADIENT],
    "What a pair pulls at is s(gap) minus its label, times its weight. A label of one half pulls towards no "
    "difference, a weight of nought does not pull at all: that is how counting a non-attitude and leaving it out "
    "differ.",
    difficulty=2,
    minutes=15,
    hints=(
        "Begin with one pair of weight 1: the cross-entropy of s(a - b) against its label.",
        "Its derivative in a is s(a - b) - y. Then weigh: times w / mean(w), divided by the number of pairs.",
    ),
)

# --- 4: which arms share a curve ------------------------------------------------------------------

CURVE_OF = {"naive": "naive", "rdpo": "naive", "dropN": "naive", "frrand": "genuine"}


def unflipped(label: float, flips: float) -> float:
    """The label whose mean is the clean one if a share `flips` of the labels is turned over."""
    return (label - flips) / (1 - 2 * flips)


def left_over(plus: float, minus: float) -> float:
    """How far from one half the constructed answer is on average if the frame is drawn by a coin."""
    return (plus - minus) / 2


def curves(answer: object) -> dict[str, str]:
    """The curve of every arm in lower case; the oracle's is the genuine one."""
    named = answer if isinstance(answer, Mapping) else {}
    return {arm: str(named.get(arm)).strip().lower().replace("oracle", "genuine") for arm in CURVE_OF}


def other_curve(arm: str) -> When:
    """The arm is expected on the curve where it is not."""
    wrong = "naive" if CURVE_OF[arm] == "genuine" else "genuine"
    return When(lambda named: named[arm] == wrong, CURVE_OF | {arm: wrong})


CORRECTED = formula(
    "Corrected",
    unflipped,
    {
        "Flips also shrink the distance from one half. Divide by 1 - 2e.": lambda y, e: y - e,
        "That flips a second time. Solve for the clean one.": lambda y, e: (1 - e) * y + e * (1 - y),
        "A flip takes from one side and gives to the other. Divide by 1 - 2e.": lambda y, e: (y - e) / (1 - e),
        "The label does not change: where do the flips enter?": lambda y, e: y,
    },
    "Solve  observed = (1 - e) clean + e (1 - clean)  for the clean one",
    *((0.6, 0.2), (1.0, 0.125), (0.0, 0.125)),
)
LEFT = formula(
    "Left",
    left_over,
    {
        "Only where both frames pull equally hard.": lambda p, m: 0.0,
        "Each frame is shown half of the time: half of that.": lambda p, m: p - m,
        "The sign is reversed: a stronger first frame leaves a pull *to* the confident side.": lambda p, m: (m - p) / 2,
        "The second frame pulls to the *less* confident side: subtract the strengths.": lambda p, m: (p + m) / 2,
        "That is the share itself. The question is how far it is from one half.": lambda p, m: (p + 1 - m) / 2,
        "The second frame takes the confident side with 1 minus its strength.": lambda p, m: (p + m) / 2 - 0.5,
    },
    "Take the mean of s+ and 1 - s-, and its distance from one half",
    *((0.95, 0.7), (0.95, 0.95), (0.8, 0.9)),
)
CURVES = Blank(
    CURVE_OF,
    {
        f"{arm}: {message}": other_curve(arm)
        for arm, message in {
            "naive": "The naive labels contain what the constructed answers follow: that curve bends away.",
            "rdpo": 'You count on "robust to noise". The correction undoes flips that are as likely for either side; '
            "constructed answers agree with each other. Its expected label is dropN's: the naive one, stretched.",
            "dropN": "You expect removing noise to help. It takes away what shrinks the reward and leaves what bends "
            "it: the ratio of constructed to genuine stays as it was.",
            "frrand": "Half of the labels come from the other frame: what does a constructed answer say on average, if "
            "both frames pull equally hard? Nothing that depends on confidence.",
        }.items()
    },
    'Answer "naive" or "genuine" for each arm: the curve on which you expect it.',
    curves,
)
CHANGES = Blank(
    "b",
    {
        "Its labels are steeper by 1 / (1 - 2e), and at a fixed beta a steeper reward goes further.": "a",
        "A reward times a constant is the same reward at another beta: it moves along the curve.": "c",
    },
    'Answer the fourth blank with "a", "b" or "c".',
    letter,
)

check_4 = Exercise(
    [CORRECTED, LEFT, CURVES, CHANGES],
    "Three arms on one curve, one on the other. For rdpo and dropN the expected labels are the very same function, "
    "(g s + c k) / (1 - n): correcting for noise and removing it decide where one stops. Only what takes the "
    "constructed share out of the label decides which curve. Now hold it against the figure.",
    difficulty=3,
    minutes=15,
    hints=(
        "Write the expected label of each arm as a sum over the three types.",
        "The naive one is g s + n / 2 + c k, with k what a constructed answer says. In which arms is k still there?",
    ),
)

# --- 5: the majority under random removal ---------------------------------------------------------

RATERS, REMOVED = 10, 2


def remove(votes: np.ndarray, removed: int, rng: np.random.Generator) -> np.ndarray:
    """The votes that stay when each item loses `removed` raters at random: [n, raters] -> [n, raters - removed]."""
    order = rng.random(votes.shape).argsort(1)[:, removed:]
    return np.take_along_axis(votes, order, 1)


# Items with a single yes, of each rater in turn: what stays of it shows who was removed.
DRAWS = [(np.tile(np.eye(RATERS, dtype=int), (40, 1)), REMOVED, np.random.default_rng(k)) for k in range(40)]


def still_there(kept: object) -> np.ndarray:
    """How many yes stay of each item, [n]; NaN where the shape is not that of fewer votes."""
    votes = array(kept)
    return votes.sum(1) if votes.shape == (len(DRAWS[0][0]), RATERS - REMOVED) else np.array(np.nan)


def often(values: list) -> bool:
    """Whether a vote stays as often as it should."""
    return abs(np.mean(values) - (1 - REMOVED / RATERS)) <= 0.05


REMOVE = Blank(
    When(lambda values: often(values) and np.max(values) <= 1 and np.ptp(values, axis=0).any(), remove),
    {
        f"Of votes [n, {RATERS}] there must stay [n, {RATERS - REMOVED}].": When(
            lambda values: np.isnan(values).any(), lambda votes, removed, rng: votes[:, :removed]
        ),
        "You draw with replacement: a rater is kept twice, and more than the removed ones are lost.": When(
            lambda values: np.max(values) > 1, lambda votes, removed, rng: votes[:, rng.integers(10, size=8)]
        ),
        "You remove those who deviate on the item, by the very vote that then counts: that turns no majority.": When(
            lambda values: np.mean(values) < 0.5, lambda votes, removed, rng: np.sort(votes, 1)[:, :-removed]
        ),
        "The same raters go every time. Draw anew from rng who is removed.": When(
            often, lambda votes, removed, rng: votes[:, removed:]
        ),
    },
    lambda values: (
        f"A rater should stay with probability {1 - REMOVED / RATERS:.1f}; with yours it is {np.mean(values):.2f}."
    ),
    still_there,
    DRAWS,
)


def shares_of(kept: int = RATERS - REMOVED) -> list[Blank]:
    """The shares of majorities that change and that are reversed, and what typical mistakes give."""
    votes, left = np.arange(RATERS + 1)[:, None], np.arange(kept + 1)  # of yes, before and after
    before, after = np.sign(2 * votes - RATERS), np.sign(2 * left - kept)
    drawn, again = hypergeom.pmf(left, RATERS, votes, kept), binom.pmf(left, kept, votes / RATERS)
    changed, untied = before != after, before != 0
    uniform = np.full((RATERS + 1, 1), 1 / (RATERS + 1))

    def share(which: np.ndarray, chance: np.ndarray = drawn, items: np.ndarray = uniform) -> float:
        return float((items * chance * which).sum())

    right, reversals = flips(RATERS, REMOVED)
    no_ties = share(changed & untied), share(changed & untied) / share(untied)
    slips = {
        "You ignored ties: a five-to-five item is a third state, no majority for one side.": share(
            (before > 0) != (after > 0)
        ),
        "You left out the items that were tied before. A broken tie is a changed majority, too.": When(
            lambda value: min(abs(value - wrong) for wrong in no_ties) <= 0.003, no_ties[0]
        ),
        "You drew with replacement: nobody can be kept twice.": share(changed, again),
        "Here every item is a close call, with a share of one half. First draw each item's share.": share(
            changed, items=binom.pmf(votes, RATERS, 0.5)
        ),
    }
    hint = (
        "Draw a share for each of many items, uniformly; then the votes; then remove, and compare the sign of yes "
        "minus no before and after. A tie has sign 0."
    )
    ties = {"That counts ties again. A reversal goes from one side to the *other*.": right}
    closest = "Six to four is the closest majority: what is the most that losing two votes can do to it?"
    return [Blank(right, slips, hint, tolerance=0.004), Blank(reversals, ties, closest, tolerance=0.002)]


check_5 = Exercise(
    [REMOVE, *shares_of()],
    "{:.3f} and {:.0f}: one item in ten gets another majority by removing two of ten raters at random, and none is "
    "turned around. With one in five removed it is {:.1%} for 5 raters, {:.1%} for 30, {:.1%} for 60. So 18.6 % means "
    "nothing before the number of raters is known.".format(
        *flips(RATERS, REMOVED), *(flips(raters, raters // 5)[0] for raters in (5, 30, 60))
    ),
    difficulty=2,
    minutes=20,
    hints=(
        "A random order of the raters, drawn anew for each item, says who goes: rng.random(votes.shape).argsort(1).",
        "Give each of 100,000 items a share, votes from it, and the sign of yes minus no before and after. A change to "
        "or from a tie counts in the first share, not in the second.",
    ),
)
