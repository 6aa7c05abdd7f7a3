"""Checks for the exercises of notebook 05: each says what is right, or names the mistake and gives a hint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from candor.declare.exercises import Feedback, check, close, number, right, wrong

EMPTY = "The blank is still empty: put your answer in place of the dots and run it again."


def _blank(*values: object) -> bool:
    """Whether a function that the reader was to complete still returns nothing."""
    return any(value is None or value is ... for value in values)


# --- 1: the envelope ------------------------------------------------------------------------------

_PS = (0.2, 0.35, 0.6, 0.85)
# Pairs (f, g, f', g'): RLCR, the log rule, and a linear term, whose honest forecast is no maximum.
_PAIRS = {
    "RLCR": (lambda q: 1 - (1 - q) ** 2, lambda q: -(q**2), lambda q: 2 * (1 - q), lambda q: -2 * q),
    "log": (lambda q: 1 + math.log(q), lambda q: math.log(1 - q), lambda q: 1 / q, lambda q: -1 / (1 - q)),
    "linear": (lambda q: q, lambda q: -q, lambda q: 1.0, lambda q: -1.0),
}
_REASONS = {
    "a": "The honest confidence is q = p, so it moves exactly as fast as p does. Something else must be zero.",
    "c": "f and g have slopes: a more confident document earns more when right. Look at the two slopes together.",
}


@check
def check_1(through_p: Callable[..., float], through_q: Callable[..., float], why: str) -> Feedback:
    """V(p) = p f(q) + (1-p) g(q) at q = p: `through_p(f, g, p)` is what V gains from p itself, `through_q(df, dg, p)`
    what it gains for each step that q moves, and `why` ("a", "b" or "c") says why the second vanishes."""
    if not callable(through_p) or not callable(through_q):
        return wrong("Give two functions, through_p(f, g, p) and through_q(df, dg, p), and a letter.")

    def agree(found: Callable, wanted: Callable, names: tuple[str, ...] = tuple(_PAIRS)) -> bool:
        return all(close(found(*_PAIRS[n], p), wanted(*_PAIRS[n], p), 1e-6) for n in names for p in _PS)

    def mine(f, g, df, dg, p):
        return through_p(f, g, p)

    def second(f, g, df, dg, p):
        return through_q(df, dg, p)

    if _blank(mine(*_PAIRS["RLCR"], 0.2), second(*_PAIRS["RLCR"], 0.2)):
        return wrong(EMPTY)
    if not agree(mine, lambda f, g, df, dg, p: f(p) - g(p)):
        if agree(mine, lambda f, g, df, dg, p: p * f(p) + (1 - p) * g(p)):
            return wrong("That is V itself. Hold q still and differentiate with respect to p.")
        if agree(mine, lambda f, g, df, dg, p: f(p) + g(p)):
            return wrong("Mind the sign: the weight of g is 1 - p, which falls as p rises.")
        step = 1e-5
        if all(
            abs(number(mine(f, g, df, dg, p)) - (_value(f, g, p + step) - _value(f, g, p - step)) / (2 * step)) < 1e-3
            for f, g, df, dg in _PAIRS.values()
            for p in _PS
        ):
            return wrong(
                "You let q move together with p and differentiated through the maximiser. Without the envelope "
                "argument nothing says that this equals the gap: here hold q still, its motion is the second blank."
            )
        return wrong("Hold q still: then V is a straight line in p, and its slope has two terms.")
    if not agree(second, lambda f, g, df, dg, p: p * df(p) + (1 - p) * dg(p)):
        if agree(second, lambda *_: 0.0):
            return wrong(
                "Zero is where the argument should arrive, not where it starts: write the slope in q for any pair. "
                "It is not zero for the linear term, which is why that one has no such theorem."
            )
        if agree(second, lambda f, g, df, dg, p: df(p) - dg(p)):
            return wrong("The slopes are weighted like f and g themselves: how often is each of them paid?")
        if agree(second, lambda f, g, df, dg, p: df(p) + dg(p)):
            return wrong("Weight the two slopes: being right happens with probability p, being wrong with 1 - p.")
        return wrong("Hold p still and differentiate p f(q) + (1 - p) g(q) with respect to q, then put q = p.")
    letter = str(why).strip(" ().").lower()
    if letter in _REASONS:
        return wrong(_REASONS[letter])
    if letter != "b":
        return wrong('Answer the third blank with "a", "b" or "c".')
    return right(
        "V' = (f - g) + (slope in q) x (how fast q moves), and the slope in q is zero at a maximum: that is the "
        "envelope argument. It needs a proper pair; for the linear term the second part does not vanish at q = p."
    )


def _value(f: Callable, g: Callable, p: float) -> float:
    return p * f(p) + (1 - p) * g(p)


# --- 2: the largest safe weight -------------------------------------------------------------------


@check
def check_2(smallest_gap: Callable[[float], float], largest_weight: float) -> Feedback:
    """c - k (q-c)^2: `smallest_gap(k)` is the least f(q) - g(q) over all q, `largest_weight` the largest k for
    which best effort is optimal at every p."""
    if not callable(smallest_gap):
        return wrong("Give the function itself, without calling it: check_2(smallest_gap, largest_weight).")
    ks = (0.0, 0.5, 1.0, 2.0, 3.0)
    if _blank(smallest_gap(1.0)):
        return wrong(EMPTY)
    found = [number(smallest_gap(k)) for k in ks]
    weight = number(largest_weight)
    if not all(close(gap, 1 - k, 2e-3 * (1 + k)) for gap, k in zip(found, ks)):
        if all(close(gap, 1, 0.02 * (1 + k)) for gap, k in zip(found, ks)):
            return wrong(
                "Your gap never falls below 1, so you looked at p > .5 only. The questions on which a model gives up "
                "are the hard ones: search q from 0 to 1."
            )
        if all(close(gap, 1 + k, 2e-3 * (1 + k)) for gap, k in zip(found, ks)):
            return wrong("That is the largest gap. Where is being right worth the least?")
        return wrong(
            "f(q) = 1 - k (1 - q)^2 and g(q) = -k q^2: take the smallest difference over a grid of q from 0 to 1. "
            f"At k = 0 it is 1 for every q; yours is {found[0]:g}."
        )
    if close(weight, 1, 0.01):
        return right(
            "At k = 1 the gap is 2q: it touches zero at q = 0 and is nowhere negative. A larger weight makes giving up "
            "pay on the hardest questions first. The paper's choice is the largest safe one."
        )
    if close(weight, 2, 0.01):
        return wrong(
            "2 is a rule that is bounded and proper, and that is not the condition: your own smallest_gap(2) is "
            f"{found[3]:g}. The gap must not be negative anywhere."
        )
    if weight > 1:
        return wrong(
            f"At k = {weight:g} your smallest gap is negative. If it looked safe, you tested p > .5 only: try p = .1."
        )
    if 0 <= weight < 1:
        return wrong(f"k = {weight:g} is safe, but a larger one is too: where does smallest_gap reach zero?")
    return wrong("largest_weight is a number: the k at which smallest_gap(k) stops being >= 0.")


# --- 3: a strict reward ---------------------------------------------------------------------------

MALFORMED = -1.0


def document(answer: str, *confidences: str, end: str = "") -> str:
    """A completion with one pair of confidence tags for each of `confidences`."""
    tags = " Hmm. ".join(f"<confidence>{q}</confidence>" for q in confidences)
    return f"<answer>{answer}</answer><analysis>It may be so.</analysis>{tags}{end}"


@check
def check_3(reward: Callable[[str, str], float]) -> Feedback:
    """`reward(text, truth)`: c - (q-c)^2 for a whole document, -1 for anything else."""
    if not callable(reward):
        return wrong("Give the function itself, without calling it: check_3(reward).")

    def ask(text: str) -> float:
        try:
            given = reward(text, "Paris")
        except Exception as error:
            raise _Raised(text, error) from None
        if _blank(given):
            raise _Empty
        return number(given)

    try:
        return _judge_reward(ask)
    except _Empty:
        return wrong(EMPTY)
    except _Raised as raised:
        return wrong(
            f"It raises {type(raised.error).__name__} on {raised.text[-45:]!r}. A model writes anything at all: a "
            "reward that raises stops the training run, so give such a text the worst value instead."
        )


class _Empty(Exception):
    """The function is still a blank."""


class _Raised(Exception):
    def __init__(self, text: str, error: Exception):
        self.text, self.error = text, error


def _judge_reward(ask: Callable[[str], float]) -> Feedback:
    whole = {("Paris", "0.7"): 0.91, ("Rome", "0.7"): -0.49, ("Paris", "1"): 1.0, ("Rome", "0"): 0.0}
    found = {case: ask(document(*case)) for case in whole}
    if any(not close(found[case], value, 1e-6) for case, value in whole.items()):
        if all(close(found[case], value - (case[0] == "Paris"), 1e-6) for case, value in whole.items()):
            return wrong("That is the Brier term alone. The reward has a second part: 1 for a right answer.")
        if close(found["Paris", "0.7"], 1.09, 1e-6):
            return wrong("The Brier term is a loss: it is subtracted.")
        return wrong(
            f"A right answer at confidence .7 is worth 1 - (.7 - 1)^2 = .91, a wrong one 0 - (.7 - 0)^2 = -.49; you "
            f"give {found['Paris', '0.7']:.4g} and {found['Rome', '0.7']:.4g}."
        )
    bare = "<answer>Paris</answer><analysis>It may be so.</analysis>"
    missing = ask(bare)
    if close(missing, 0, 1e-9):
        return wrong(
            "A text without a confidence gets 0. On a scale where a wrong answer at q = .7 earns -.49, 0 is a prize "
            "for leaving the confidence out: malformed must get the worst value there is."
        )
    if not close(missing, MALFORMED, 1e-6):
        return wrong(
            f"A text without a confidence should get {MALFORMED:g}, whatever its answer; you give {missing:g}."
        )
    twice = ask(document("Paris", "0.2", "0.9"))
    if close(twice, 1 - 0.8**2, 1e-6):
        return wrong(
            "You read the first confidence tag. A model may mention one while it thinks; its forecast is the last one."
        )
    if not close(twice, 0.99, 1e-6):
        return wrong(f"With two confidence tags, .2 and then .9, the last one counts; you give {twice:.4g}.")
    for text in ("nan", "inf", "-inf"):
        value = ask(document("Paris", text))
        if not math.isfinite(value):
            return wrong(
                f'float("{text}") does not fail, and your reward becomes {value}: one such value makes the whole '
                "batch NaN. Ask for 0 <= q <= 1, which NaN does not satisfy, rather than for q < 0 or q > 1."
            )
        if not close(value, MALFORMED, 1e-6):
            return wrong(f'A confidence of "{text}" is no number in [0, 1]; you give {value:g}.')
    for text in ("70%", "70"):
        value = ask(document("Paris", text))
        if close(value, 0.91, 1e-6):
            return wrong(
                f'You read "{text}" as .7. Strict means strict: if a percentage counts, nothing says whether "1" is '
                "certainty or one per cent."
            )
        if value < -100:
            return wrong(f'You take "{text}" for a probability, and the reward becomes {value:g}.')
        if not close(value, MALFORMED, 1e-6):
            return wrong(f'"{text}" is not a number in [0, 1], so the text is malformed; you give {value:g}.')
    for text, why in (
        (document("Paris", "-0.1"), "a negative confidence"),
        (document("Paris", "1.2"), "a confidence above 1"),
        (document("Paris", "high"), "a word in place of the number"),
        (document("Paris", ""), "an empty confidence"),
        (document("Paris", "0.7", end=" or so"), "text after the last tag"),
        ("<confidence>0.7</confidence>", "a document without an answer"),
        ("", "an empty text"),
    ):
        if not close(ask(text), MALFORMED, 1e-6):
            return wrong(f"There is a hole in the parsing: {why} earns {ask(text):.4g} instead of {MALFORMED:g}.")
    return right(
        "The last tag, a number in [0, 1], nothing after it, and the worst value for everything else. Every hole in "
        "the parser is a reward that the policy will find."
    )


# --- 4: what a constant would have got ------------------------------------------------------------


@check
def check_4(brier: Mapping[str, float], share: float, cells: pd.DataFrame) -> Feedback:
    """Out of domain, HotpotQA-trained: `brier` is data set -> Brier score of RLCR's answers with its in-domain
    accuracy as their one confidence; `share` what that explains of RLCR's gain over RLVR. `cells` is the table."""
    rows = cells[cells["family"] == "HotpotQA"].set_index("dataset")
    constant = rows.loc["HotpotQA", "rlcr_accuracy"]
    out = rows[rows["domain"] == "out"]
    accuracy = out["rlcr_accuracy"]
    try:
        found = pd.Series(dict(brier)).map(number).reindex(out.index)
    except (TypeError, ValueError):
        return wrong(f"Give the scores by name, as a dict or a Series: {', '.join(out.index)}.")
    if found.isna().any():
        return wrong(f"There is no score for {', '.join(found.index[found.isna()])}.")
    target = (constant - accuracy) ** 2 + accuracy * (1 - accuracy)

    def same(other: pd.Series) -> bool:
        return bool(np.allclose(found, other, atol=5e-4))

    if not same(target):
        modified = rows["rlcr_accuracy"].get("HotpotQA-Modified", constant)
        if same(accuracy * (1 - accuracy)):
            return wrong(
                "You gave every data set its *own* accuracy as the constant. That is hindsight: out of domain nobody "
                "knows it. The constant is one number, RLCR's accuracy on HotpotQA."
            )
        if same((constant - accuracy) ** 2):
            return wrong(
                "The variance term is missing. Even a forecaster who hits the accuracy exactly pays for single "
                "outcomes being 0 or 1: the mean of (k - c)^2 over c is more than (k - accuracy)^2."
            )
        if same((constant - out["rlvr_accuracy"]) ** 2 + out["rlvr_accuracy"] * (1 - out["rlvr_accuracy"])):
            return wrong("These are RLVR's answers. Keep RLCR's answers and change only what it says about them.")
        if same((rows.loc["HotpotQA", "rlvr_accuracy"] - accuracy) ** 2 + accuracy * (1 - accuracy)) or same(
            (modified - accuracy) ** 2 + accuracy * (1 - accuracy)
        ):
            return wrong("Right formula, wrong constant: it is RLCR's own accuracy on HotpotQA itself.")
        return wrong(
            "With one confidence k, right with probability a, the mean of (k - c)^2 is a (k - 1)^2 + (1 - a) k^2. "
            f"For {out.index[0]} you give {found.iloc[0]:.3f}."
        )
    gain = out["rlvr_brier"].mean() - out["rlcr_brier"].mean()
    explained = (out["rlvr_brier"].mean() - target.mean()) / gain
    given = number(share)
    if close(given, explained, 0.01):
        return right(
            f"{explained:.0%} of the gain is what merely stating a lower number buys. The rest, "
            f"{target.mean() - out['rlcr_brier'].mean():.3f} of Brier score, is knowing which answers to doubt."
        )
    if close(given, 1 - explained, 0.01):
        return wrong("That is the share it does *not* explain.")
    if close(given, 1 / explained, 0.01):
        return wrong("Upside down: divide the constant's gain by RLCR's.")
    if close(given, 1 - target.mean() / out["rlvr_brier"].mean(), 0.01):
        return wrong("That is the constant's gain relative to RLVR's score. Divide by RLCR's gain over RLVR.")
    if close(given, ((out["rlvr_brier"] - target) / (out["rlvr_brier"] - out["rlcr_brier"])).mean(), 0.01):
        return wrong("Take the means over the six data sets first and divide then; a mean of ratios is another thing.")
    return wrong("The scores are right. The share is (RLVR - constant) / (RLVR - RLCR), each a mean over the six.")


# --- 5: dividing by the group's spread ------------------------------------------------------------

GROUP = (0.2,) * 4 + (0.4,) * 4  # what the eight documents of one question state


@check
def check_5(push: Callable[[float, bool], float], same_factor: bool) -> Feedback:
    """One question, eight documents with one answer, four stating .2 and four .4: `push(p, scaled)` is the expected
    advantage of stating .4, and `same_factor` says whether a right and a wrong group divide by the same number."""
    if not callable(push):
        return wrong("Give the function itself, without calling it: check_5(push, same_factor).")
    if _blank(push(0.1, False), push(0.1, True)):
        return wrong(EMPTY)
    ps = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    plain, scaled = (np.array([number(push(p, flag)) for p in ps]) for flag in (False, True))
    if np.isnan(plain).any() or np.isnan(scaled).any():
        return wrong("push(p, scaled) must return a number for every p, with scaling and without.")

    def like(found: np.ndarray, wanted: np.ndarray) -> bool:
        """The same up to a positive factor: mean or sum, s.d. over n or n - 1 make no difference here."""
        size = np.abs(found).max() / np.abs(wanted).max()
        return bool(size > 1e-9 and np.allclose(found, size * wanted, atol=1e-3 * np.abs(found).max()))

    honest, half = 0.2 * ps - 0.06, 2 * ps - 1
    if like(-plain, honest) or like(-scaled, half):
        return wrong("The sign is reversed: you follow the four documents that state less.")
    if not like(plain, honest):
        if like(plain, half):
            return wrong("Without scaling the rewards keep their size: you have divided there, too, or taken signs.")
        if np.ptp(plain) < 1e-9:
            return wrong("It does not depend on p: the group comes out right with probability p, wrong with 1 - p.")
        return wrong(
            "Without scaling: the reward is c - (q - c)^2, the advantage its distance from the mean of the eight, and "
            "the push the mean over c = 1 (probability p) and c = 0."
        )
    if like(scaled, honest):
        return wrong(
            "A constant factor would not matter, but the divisor is no constant: you used one number for both "
            "outcomes. Compute the spread of the eight rewards once with c = 1 and once with c = 0."
        )
    if not like(scaled, half):
        return wrong(
            "With scaling, divide the advantages of the right group by its own s.d., and the wrong group's by its."
        )
    if isinstance(same_factor, (str, bytes)):
        same_factor = {"true": True, "yes": True, "false": False, "no": False}.get(str(same_factor).strip().lower())
    if same_factor is None or not isinstance(same_factor, (bool, np.bool_)):
        return wrong("Answer the second blank with True or False.")
    if same_factor:
        return wrong(
            "A constant factor cannot matter, that is true; but compare the two spreads: are they the same number?"
        )
    return right(
        "Right groups pull up and wrong groups pull down, and division makes both pulls equally strong: what remains "
        "is how often each happens, which balances at one half and not at q = p. A question that comes out "
        "right three times in ten is driven to confidence 0, whatever is stated now."
    )
