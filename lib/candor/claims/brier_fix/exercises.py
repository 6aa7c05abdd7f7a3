"""The exercises of notebook 05: what is right, and the mistakes that have a name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from candor.declare.exercises import Blank, Exercise, When, choice, number, word

# --- 1: the envelope ------------------------------------------------------------------------------

PS = (0.2, 0.35, 0.6, 0.85)
# Pairs (f, g, f', g'): RLCR, the log rule, and a linear term, whose honest forecast is no maximum.
PAIRS: tuple[tuple[Callable[[float], float], ...], ...] = (
    (lambda q: 1 - (1 - q) ** 2, lambda q: -(q**2), lambda q: 2 * (1 - q), lambda q: -2 * q),
    (lambda q: 1 + math.log(q), lambda q: math.log(1 - q), lambda q: 1 / q, lambda q: -1 / (1 - q)),
    (lambda q: q, lambda q: -q, lambda q: 1.0, lambda q: -1.0),
)


def honest(f: Callable, g: Callable, p: float) -> float:
    return p * f(p) + (1 - p) * g(p)


def whole_slope(f: Callable, g: Callable, p: float) -> float:
    """Of V(p) where q moves together with p, by central differences."""
    return (honest(f, g, p + 1e-5) - honest(f, g, p - 1e-5)) / 2e-5


THROUGH_P = [(f, g, p) for f, g, _, _ in PAIRS for p in PS]

check_1 = Exercise(
    [
        Blank(
            lambda f, g, p: f(p) - g(p),
            {
                "That is V itself. Hold q still and differentiate with respect to p.": honest,
                "Mind the sign: the weight of g is 1 - p, which falls as p rises.": lambda f, g, p: f(p) + g(p),
                "You let q move together with p and differentiated through the maximiser. Without the envelope "
                "argument nothing says that this equals the gap: here hold q still, its motion is the second "
                "blank.": When(
                    lambda values: np.allclose([v for [v] in values], [whole_slope(*x) for x in THROUGH_P], atol=1e-3),
                    whole_slope,
                ),
            },
            "Hold q still: then V is a straight line in p, and its slope has two terms.",
            probes=THROUGH_P,
            tolerance=1e-6,
        ),
        Blank(
            lambda df, dg, p: p * df(p) + (1 - p) * dg(p),
            {
                "Zero is where the argument should arrive, not where it starts: write the slope in q for any pair. It "
                "is not zero for the linear term, which is why that one has no such theorem.": lambda df, dg, p: 0.0,
                "The slopes are weighted like f and g themselves: how often is each of them paid?": (
                    lambda df, dg, p: df(p) - dg(p)
                ),
                "Weight the two slopes: being right happens with probability p, being wrong with 1 - p.": (
                    lambda df, dg, p: df(p) + dg(p)
                ),
            },
            "Hold p still and differentiate p f(q) + (1 - p) g(q) with respect to q, then put q = p.",
            probes=[(df, dg, p) for _, _, df, dg in PAIRS for p in PS],
            tolerance=1e-6,
        ),
        choice(
            "b",
            a="The honest confidence is q = p, so it moves exactly as fast as p does. Something else must be zero.",
            c="f and g have slopes: a more confident document earns more when right. Look at the two slopes together.",
        ),
    ],
    "V' = (f - g) + (slope in q) x (how fast q moves), and the slope in q is zero at a maximum: that is the envelope "
    "argument. It needs a proper pair; for the linear term the second part does not vanish at q = p.",
    difficulty=3,
    minutes=15,
    hints=(
        "V depends on p in two ways: directly, as a weight, and through the honest q = p.",
        "Directly: d/dp of p f + (1 - p) g with f and g held. Through q: p f'(q) + (1 - p) g'(q).",
    ),
)

# --- 2: the largest safe weight -------------------------------------------------------------------

WEIGHTS = (0.0, 0.5, 1.0, 2.0, 3.0)


def gaps_like(wanted: Callable[[float], float], tolerance: float) -> Callable[[Any], bool]:
    return lambda values: all(abs(gap - wanted(k)) <= tolerance * (1 + k) for [gap], k in zip(values, WEIGHTS))


check_2 = Exercise(
    [
        Blank(
            lambda k: 1 - k,
            {
                "Your gap never falls below 1, so you looked at p > .5 only. The questions on which a model gives up "
                "are the hard ones: search q from 0 to 1.": When(gaps_like(lambda k: 1, 0.02), lambda k: 1.0),
                "That is the largest gap. Where is being right worth the least?": When(
                    gaps_like(lambda k: 1 + k, 2e-3), lambda k: 1 + k
                ),
            },
            lambda values: (
                "f(q) = 1 - k (1 - q)^2 and g(q) = -k q^2: take the smallest difference over a grid of q from 0 to 1. "
                f"At k = 0 it is 1 for every q; yours is {values[0][0]:g}."
            ),
            probes=[(k,) for k in WEIGHTS],
            tolerance=6e-3,
        ),
        Blank(
            1.0,
            {
                "2 is a rule that is bounded and proper, and that is not the condition: your own smallest_gap(2) is "
                "negative. The gap must not be negative anywhere.": 2.0,
                "There your smallest gap is negative. If it looked safe, you tested p > .5 only: try p = .1.": When(
                    lambda weight: weight > 1, 4.0
                ),
                "That is safe, but a larger one is too: where does smallest_gap reach zero?": When(
                    lambda weight: 0 <= weight < 1, 0.5
                ),
            },
            "largest_weight is a number: the k at which smallest_gap(k) stops being >= 0.",
            tolerance=0.01,
        ),
    ],
    "At k = 1 the gap is 2q: it touches zero at q = 0 and is nowhere negative. A larger weight makes giving up pay on "
    "the hardest questions first. The paper's choice is the largest safe one.",
    difficulty=2,
    minutes=10,
    hints=(
        "f(q) - g(q) is what being right is worth more than being wrong; search q on a grid.",
        "1 - k (1 - q)^2 + k q^2 = 1 - k + 2 k q: where is it smallest?",
    ),
)

# --- 3: a strict reward ---------------------------------------------------------------------------

MALFORMED = -1.0


def document(answer: str, *confidences: str, end: str = "") -> str:
    """A completion with one pair of confidence tags for each of `confidences`."""
    tags = " Hmm. ".join(f"<confidence>{q}</confidence>" for q in confidences)
    return f"<answer>{answer}</answer><analysis>It may be so.</analysis>{tags}{end}"


# What is asked about: a name in the feedback, and the text.
ASKED = {
    "right": document("Paris", "0.7"),
    "wrong": document("Rome", "0.7"),
    "sure": document("Paris", "1"),
    "humble": document("Rome", "0"),
    "none": document("Paris"),
    "twice": document("Paris", "0.2", "0.9"),
    **{text: document("Paris", text) for text in ("nan", "inf", "-inf", "70%", "70")},
    "a negative confidence": document("Paris", "-0.1"),
    "a confidence above 1": document("Paris", "1.2"),
    "a word in place of the number": document("Paris", "high"),
    "an empty confidence": document("Paris", ""),
    "text after the last tag": document("Paris", "0.7", end=" or so"),
    "a document without an answer": "<confidence>0.7</confidence>",
    "an empty text": "",
}
EARNED = {"right": 0.91, "wrong": -0.49, "sure": 1.0, "humble": 0.0, "twice": 0.99}


def strict(text: str, truth: str) -> float:
    """c - (q - c)^2 of a document that ends with a confidence in [0, 1], and -1 for anything else."""
    found = re.fullmatch(r".*<answer>(.*?)</answer>.*<confidence>([^<]*)</confidence>", text, re.DOTALL)
    try:
        answer, q = found.groups()
        q = float(q)
    except (AttributeError, ValueError):
        return MALFORMED
    correct = float(answer == truth)
    return correct - (q - correct) ** 2 if 0 <= q <= 1 else MALFORMED


def but(**instead: float) -> Callable[[str, str], float]:
    """A strict reward except for these texts of `ASKED`."""
    given = {ASKED[name]: value for name, value in instead.items()}
    return lambda text, truth: given.get(text, strict(text, truth))


def earns(earned: float, value: float) -> bool:
    return bool(np.isclose(earned, value, rtol=0, atol=1e-6, equal_nan=True))


def whole(by_name: dict[str, float]) -> bool:
    """Whether whole documents earn what they should."""
    return all(earns(by_name[name], EARNED[name]) for name in ("right", "wrong", "sure", "humble"))


def slip(holds: Callable[[dict[str, float]], bool], **instead: float) -> When:
    """A slip of the parser, which counts once whole documents earn what they should."""
    return When(lambda values: whole(named(values)) and holds(named(values)), but(**instead))


def at(name: str, value: float) -> When:
    """A slip of the parser by which this text earns `value`."""
    return slip(lambda by_name: earns(by_name[name], value), **{name: value})


def named(values: list[list[float]]) -> dict[str, float]:
    return {name: value for name, [value] in zip(ASKED, values)}


def first_hole(values: list[list[float]]) -> str:
    """The first text that earns what it should not."""
    by_name = named(values)
    if not whole(by_name):
        return (
            f"A right answer at confidence .7 is worth 1 - (.7 - 1)^2 = .91, a wrong one 0 - (.7 - 0)^2 = -.49; you "
            f"give {by_name['right']:.4g} and {by_name['wrong']:.4g}."
        )
    name = next(name for name in by_name if not earns(by_name[name], EARNED.get(name, MALFORMED)))
    earned = f"{by_name[name]:.4g}"
    if name == "none":
        return f"A text without a confidence should get -1, whatever its answer; you give {earned}."
    if name == "twice":
        return f"With two confidence tags, .2 and then .9, the last one counts; you give {earned}."
    if name in ("nan", "inf", "-inf", "70%", "70"):
        return f'A confidence of "{name}" is no number in [0, 1], so it is malformed; you give {earned}.'
    return f"There is a hole in the parsing: {name} earns {earned} instead of -1."


check_3 = Exercise(
    [
        Blank(
            strict,
            {
                "That is the Brier term alone. The reward has a second part: 1 for a right answer.": When(
                    lambda values: np.allclose([v for [v] in values[:4]], [-0.09, -0.49, 0, 0], atol=1e-6),
                    but(right=-0.09, sure=0.0),
                ),
                "The Brier term is a loss: it is subtracted.": When(
                    lambda values: earns(values[0][0], 1.09), but(right=1.09, wrong=0.49)
                ),
                "A text without a confidence gets 0. On a scale where a wrong answer at q = .7 earns -.49, 0 is a "
                "prize for leaving the confidence out: malformed must get the worst value there is.": at("none", 0.0),
                "You read the first confidence tag. A model may mention one while it thinks; its forecast is the last "
                "one.": at("twice", 0.36),
                'float("nan") does not fail, and your reward becomes nan: one such value makes the whole batch NaN. '
                "Ask for 0 <= q <= 1, which NaN does not satisfy, rather than for q < 0 or q > 1.": at("nan", math.nan),
                'float("inf") does not fail, and your reward becomes infinite: ask for 0 <= q <= 1.': slip(
                    lambda by_name: math.isinf(by_name["inf"]), inf=-math.inf
                ),
                'You read "70%" as .7. Strict means strict: if a percentage counts, nothing says whether "1" is '
                "certainty or one per cent.": slip(
                    lambda by_name: any(earns(by_name[text], 0.91) for text in ("70%", "70")), **{"70%": 0.91}
                ),
                'You take "70" for a probability, and the reward becomes enormous.': slip(
                    lambda by_name: by_name["70"] < -100, **{"70": -4760.0}
                ),
            },
            first_hole,
            probes=[(text, "Paris") for text in ASKED.values()],
            tolerance=1e-6,
            raises="It raises {error} on {probe[0]!r}. A model writes anything at all: a reward that raises stops the "
            "training run, so give such a text the worst value instead.",
        )
    ],
    "The last tag, a number in [0, 1], nothing after it, and the worst value for everything else. Every hole in the "
    "parser is a reward that the policy will find.",
    difficulty=2,
    minutes=15,
    hints=(
        "Find the last confidence tag first; then ask whether anything stands after it.",
        "`try: q = float(text)`, then accept only 0 <= q <= 1; everything else returns -1.",
    ),
)

# --- 4: what a constant would have got ------------------------------------------------------------


def _constant(cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """The HotpotQA-trained rows, those out of domain, and RLCR's accuracy on HotpotQA."""
    rows = cells[cells["family"] == "HotpotQA"].set_index("dataset")
    return rows, rows[rows["domain"] == "out"], rows.loc["HotpotQA", "rlcr_accuracy"]


def _stating(constant: float, accuracy: pd.Series) -> pd.Series:
    """Brier score of one confidence, right with probability `accuracy`."""
    return (constant - accuracy) ** 2 + accuracy * (1 - accuracy)


def _explained(cells: pd.DataFrame) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Brier scores out of domain: of RLVR, of the constant, of RLCR."""
    _, out, constant = _constant(cells)
    return out["rlvr_brier"], _stating(constant, out["rlcr_accuracy"]), out["rlcr_brier"]


def _scores(cells: pd.DataFrame) -> list[Blank]:
    rows, out, constant = _constant(cells)
    accuracy, (rlvr, target, rlcr) = out["rlcr_accuracy"], _explained(cells)
    explained = (rlvr.mean() - target.mean()) / (rlvr.mean() - rlcr.mean())

    def read(scores: Any) -> np.ndarray:
        if not isinstance(scores, Mapping | pd.Series):
            return np.full(len(out), math.nan)
        return pd.Series(dict(scores), dtype=object).map(number).astype(float).reindex(out.index).to_numpy()

    def hint(values: np.ndarray) -> str:
        if np.isnan(values).any():
            return f"Give a score by name for each of {', '.join(out.index)}, as a dict or a Series."
        return (
            "With one confidence k, right with probability a, the mean of (k - c)^2 is a (k - 1)^2 + (1 - a) k^2. "
            f"For {out.index[0]} you give {values[0]:.3f}."
        )

    slips = {
        "You gave every data set its *own* accuracy as the constant. That is hindsight: out of domain nobody knows it. "
        "The constant is one number, RLCR's accuracy on HotpotQA.": accuracy * (1 - accuracy),
        "The variance term is missing. Even a forecaster who hits the accuracy exactly pays for single outcomes being "
        "0 or 1: the mean of (k - c)^2 over c is more than (k - accuracy)^2.": (constant - accuracy) ** 2,
        "These are RLVR's answers. Keep RLCR's answers and change only what it says about them.": _stating(
            constant, out["rlvr_accuracy"]
        ),
        "Right formula, wrong constant: it is RLCR's own accuracy on HotpotQA itself, not RLVR's.": _stating(
            rows.loc["HotpotQA", "rlvr_accuracy"], accuracy
        ),
        "Right formula, wrong constant: it is RLCR's own accuracy on HotpotQA itself, not on the modified set.": (
            _stating(rows.loc["HotpotQA-Modified", "rlcr_accuracy"], accuracy)
        ),
    }
    by_name = {message: scores.to_dict() for message, scores in slips.items()}
    return [
        Blank(target.to_dict(), by_name, hint, read, tolerance=5e-4),
        Blank(
            explained,
            {
                "That is the share it does *not* explain.": 1 - explained,
                "Upside down: divide the constant's gain by RLCR's.": 1 / explained,
                "That is the constant's gain relative to RLVR's score. Divide by RLCR's gain over RLVR.": (
                    1 - target.mean() / rlvr.mean()
                ),
                "Take the means over the six data sets first and divide then; a mean of ratios is another thing.": (
                    ((rlvr - target) / (rlvr - rlcr)).mean()
                ),
            },
            "The scores are right. The share is (RLVR - constant) / (RLVR - RLCR), each a mean over the six.",
            tolerance=0.01,
        ),
    ]


def _bought(cells: pd.DataFrame) -> str:
    rlvr, target, rlcr = (scores.mean() for scores in _explained(cells))
    return (
        f"{(rlvr - target) / (rlvr - rlcr):.0%} of the gain is what merely stating a lower number buys. The rest, "
        f"{target - rlcr:.3f} of Brier score, is knowing which answers to doubt."
    )


check_4 = Exercise(
    _scores,
    _bought,
    difficulty=2,
    minutes=12,
    hints=(
        "One confidence k for answers that are right with probability a: what is the mean of (k - c)^2?",
        "(k - a)^2 + a (1 - a), with k RLCR's accuracy on HotpotQA and a its accuracy on each data set out of domain.",
    ),
    given=("cells",),
)

# --- 5: dividing by the group's spread ------------------------------------------------------------

GROUP = (0.2,) * 4 + (0.4,) * 4  # what the eight documents of one question state
CHANCES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
HONEST, HALF = 0.2 * CHANCES - 0.06, 2 * CHANCES - 1  # the expected push, without and with division


class UpToAFactor(Blank):
    """Pushes are compared up to a positive factor: mean or sum, s.d. over n or n - 1 make no difference here."""

    def same(self, value: Any, other: Any) -> bool:
        return all(map(alike, halves(value), halves(other)))


def halves(values: list[list[float]]) -> np.ndarray:
    """The pushes without and with scaling, each over `CHANCES`: [2, chances]."""
    return np.array(values).reshape(2, len(CHANCES))


def alike(found: np.ndarray, wanted: np.ndarray) -> bool:
    size = np.abs(found).max() / max(np.abs(wanted).max(), 1e-12)
    return bool(size > 1e-9 and np.allclose(found, size * wanted, atol=1e-3 * np.abs(found).max()))


def push(p: float, scaled: bool) -> float:
    """Expected advantage of stating .4 for a question that comes out right with probability p."""
    return float(2 * p - 1 if scaled else 0.2 * p - 0.06)


def when(holds: Callable[[np.ndarray, np.ndarray], bool], example: Callable[[float, bool], float]) -> When:
    """A slip that the pushes without and with scaling show."""
    return When(lambda values: holds(*halves(values)), example)


check_5 = Exercise(
    [
        UpToAFactor(
            push,
            {
                "push(p, scaled) must return a number for every p, with scaling and without.": when(
                    lambda plain, scaled: np.isnan([plain, scaled]).any(), lambda p, scaled: math.nan
                ),
                "The sign is reversed: you follow the four documents that state less.": when(
                    lambda plain, scaled: alike(-plain, HONEST) or alike(-scaled, HALF),
                    lambda p, scaled: -push(p, scaled),
                ),
                "Without scaling the rewards keep their size: you have divided there, too, or taken signs.": when(
                    lambda plain, scaled: alike(plain, HALF), lambda p, scaled: 2 * p - 1
                ),
                "It does not depend on p: the group comes out right with probability p, wrong with 1 - p.": when(
                    lambda plain, scaled: np.ptp(plain) < 1e-9, lambda p, scaled: 0.2
                ),
                "Without scaling: the reward is c - (q - c)^2, the advantage its distance from the mean of the eight, "
                "and the push the mean over c = 1 (probability p) and c = 0.": when(
                    lambda plain, scaled: not alike(plain, HONEST), lambda p, scaled: p**2
                ),
                "A constant factor would not matter, but the divisor is no constant: you used one number for both "
                "outcomes. Compute the spread of the eight rewards once with c = 1 and once with c = 0.": when(
                    lambda plain, scaled: alike(scaled, HONEST), lambda p, scaled: 0.2 * p - 0.06
                ),
            },
            "With scaling, divide the advantages of the right group by its own s.d., and the wrong group's by its.",
            probes=[(p, scaled) for scaled in (False, True) for p in CHANCES],
        ),
        Blank(
            "no",
            {
                "A constant factor cannot matter, that is true; but compare the two spreads: are they the same "
                "number?": "yes",
            },
            "Answer the second blank with True or False.",
            word(yes="true", no="false"),
        ),
    ],
    "Right groups pull up and wrong groups pull down, and division makes both pulls equally strong: what remains is "
    "how often each happens, which balances at one half and not at q = p. A question that comes out right three times "
    "in ten is driven to confidence 0, whatever is stated now.",
    difficulty=3,
    minutes=15,
    hints=(
        "Write the eight rewards once for c = 1 and once for c = 0.",
        "Advantage: reward minus the mean of the eight; with scaling, divided by the s.d. of these eight.",
    ),
)
