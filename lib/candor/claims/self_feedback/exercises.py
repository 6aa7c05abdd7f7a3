"""Checks for the exercises of notebook 06: each says what is right, or names the mistake and gives a hint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from candor.claims.self_feedback import self_confidence
from candor.claims.self_feedback import world as arithmetic
from candor.declare.exercises import Feedback, check, close, number, right, wrong

EMPTY = "The blank is still empty: put your answer in place of the dots and run it again."


def _blank(*values: object) -> bool:
    """Whether a function that the reader was to complete still returns nothing."""
    return any(value is None or value is ... for value in values)


def _letter(answer: object) -> str:
    return str(answer).strip(" ().").lower()


# --- 1: disparity is not a probability --------------------------------------------------------------

_IDEAL = arithmetic.SMUDGED * arithmetic.SHIFTED  # mean second-largest probability of the ideal forecaster

_FORECASTS: dict[str, Callable[[np.ndarray], float]] = {
    "You say 0: that is the error of the *probability*. Confidence here is top-1 minus top-2, and accuracy is top-1.": (
        lambda p: 0.0
    ),
    "That is the share of wrong answers, everything but top-1. Disparity lacks only the second-largest probability.": (
        lambda p: 1 - p.max(1).mean()
    ),
    "That is the mean disparity itself. The error is what lies between it and accuracy.": lambda p: np.diff(
        np.sort(p)[:, -2:]
    ).mean(),
    "That is mean accuracy. The error is what lies between accuracy and disparity.": lambda p: p.max(1).mean(),
    "You took the second *column*. Answers stand in any order: sort each row first.": lambda p: p[:, 1].mean(),
    "You took the second-smallest: `np.sort` puts the largest last.": lambda p: np.sort(p)[:, 1].mean(),
    "The sign: an error is not negative.": lambda p: -np.sort(p)[:, -2].mean(),
}

_BINS = {
    "b": "Errors of bins cancel only if they have different signs. In which bin could accuracy, top-1, be smaller than "
    "top-1 minus top-2?",
    "c": "Calibrated is the probability. Nothing says that a difference of two probabilities is calibrated, too.",
}


@check
def check_1(ece_by_disparity: Callable[[np.ndarray], float], ideal: float, why: str) -> Feedback:
    """`ece_by_disparity(p)`: the expected ECE by disparity of a calibrated forecaster whose answer distributions are
    the rows of p [n, answers]; `ideal`: that of this world's ideal forecaster; `why` bins do not matter ("a" ... "c").
    """
    if not callable(ece_by_disparity):
        return wrong("Give the function itself, without calling it: check_1(ece_by_disparity, ideal, why).")
    rng = np.random.default_rng(61)
    cases = [rng.dirichlet(np.full(k, a), 3000) for k, a in ((10, 0.1), (4, 1.0), (6, 0.4))]
    values = [ece_by_disparity(p.copy()) for p in cases]
    if _blank(*values):
        return wrong(EMPTY)
    found = [number(value) for value in values]

    def are(wanted: Callable[[np.ndarray], float], scale: float = 1.0) -> bool:
        return all(close(v, scale * wanted(p), 1e-3 * scale) for v, p in zip(found, cases))

    def second(p: np.ndarray) -> float:
        return np.sort(p)[:, -2].mean()

    if not are(second) and not are(second, 100):
        for message, slip in _FORECASTS.items():
            if are(slip):
                return wrong(message)
        top = np.sort(cases[0])
        measured = self_confidence.ece(top[:, -1] - top[:, -2], top[:, -1])
        return wrong(
            f"For 3,000 distributions over ten answers the ECE by disparity is {measured:.3f}; you give "
            f"{found[0]:.3g}. In a bin, accuracy is the mean of top-1 and confidence that of top-1 minus top-2: what "
            "is left?"
        )
    given = number(ideal)
    given = given / 100 if given > 1 else given
    if not close(given, _IDEAL, 0.002):
        mistakes = {
            "You say 0, since the forecaster is ideal. Its *probability* has no error; its disparity has one wherever "
            "a second answer is possible.": 0.0,
            "That is the second probability on a smudged question. How many questions are smudged?": arithmetic.SHIFTED,
            "Those are top-1 probabilities of the smudged questions. What lies between top-1 and disparity is top-2.": (
                arithmetic.SMUDGED * (1 - arithmetic.SHIFTED)
            ),
            "That is the share of smudged questions. How large is the second probability there?": arithmetic.SMUDGED,
        }
        for message, value in mistakes.items():
            if close(given, value, 0.002):
                return wrong(message)
        return wrong(
            f"{arithmetic.SMUDGED:.0%} of the questions have the posterior (.6, .4), the others are certain. Put these "
            "distributions into your own function."
        )
    letter = _letter(why)
    if letter in _BINS:
        return wrong(_BINS[letter])
    if letter != "a":
        return wrong('Answer the third blank with "a", "b" or "c".')
    return right(
        f"Accuracy exceeds disparity in every bin, so nothing cancels and bins do not matter. Here the ideal "
        f"forecaster shows {_IDEAL:.1%}, exactly as much as a model with the same answers that is always certain: "
        "disparity cannot tell perfect calibration from total overconfidence."
    )


# --- 2: what two printed numbers imply --------------------------------------------------------------

_NEEDS = {
    "b": "One bin or many: in each the error is at most the part above or the part below, and the bound adds up.",
    "c": "The bound uses nothing but accuracy and ECE; how confident the model is follows from it.",
}


@check
def check_2(underconfidence: Callable[[float, float], float], cells: int, needs: str, table: pd.DataFrame) -> Feedback:
    """`underconfidence(accuracy, ece)`: how much of the ECE must be underconfidence, all in percent; `cells` of the
    printed table that must contain some; what the bound `needs` ("a", "b", "c"). `table` is the table `cells`."""
    if not callable(underconfidence):
        return wrong("Give the function itself, without calling it: check_2(underconfidence, cells, needs, table).")
    pairs = [(98.0, 7.0), (97.0, 16.0), (80.0, 20.0), (54.0, 25.0), (50.7, 38.2)]
    pairs += list(table[["accuracy", "ece"]].itertuples(index=False, name=None))
    values = [underconfidence(*pair) for pair in pairs]
    if _blank(*values):
        return wrong(EMPTY)
    found = [number(value) for value in values]

    def are(wanted: Callable[[float, float], float]) -> bool:
        return all(close(v, wanted(*pair), 0.02) for v, pair in zip(found, pairs))

    if not are(lambda a, e: max(a + e - 100, 0)):
        mistakes = {
            "You use ECE = 100 - accuracy as an identity, so that any distance from it looks like underconfidence. It "
            "is an upper bound on *over*confidence: below it nothing follows.": lambda a, e: abs(a + e - 100),
            "Where accuracy + ECE is below 100 you get less than nothing. There the bound is silent: at least 0.": (
                lambda a, e: a + e - 100
            ),
            "You have the sign of it reversed: overconfidence can be at most 100 - accuracy, and what ECE exceeds that "
            "by is the rest.": lambda a, e: max(100 - a - e, 0),
            "That is the most that overconfidence can contribute. What is left of the ECE beyond it?": (
                lambda a, e: 100 - a
            ),
            "That is the part that overconfidence *can* explain. The question is the rest.": lambda a, e: min(
                e, 100 - a
            ),
            "Not all of the ECE need be underconfidence: up to 100 - accuracy of it can be overconfidence.": (
                lambda a, e: e
            ),
        }
        for message, wanted in mistakes.items():
            if are(wanted):
                return wrong(message)
        return wrong(
            f"At accuracy {pairs[0][0]:g} and ECE {pairs[0][1]:g} you give {found[0]:.4g}. Take a model that is only "
            "overconfident: confidence is at most 100, so its ECE is at most 100 - accuracy. What is above?"
        )
    more = table["accuracy"] + table["ece"] > 100
    if not close(cells, more.sum(), 1e-9):
        if close(cells, len(table), 1e-9):
            return wrong("All of them? Where the sum is below 100, overconfidence alone can explain the cell.")
        if close(cells, (~more).sum(), 1e-9):
            return wrong("You counted the cells that need not contain any.")
        return wrong("Count the rows of the table for which your own function gives more than 0.")
    letter = _letter(needs)
    if letter in _NEEDS:
        return wrong(_NEEDS[letter])
    if letter != "a":
        return wrong('Answer the third blank with "a", "b" or "c".')
    most = table.loc[(table["accuracy"] + table["ece"]).idxmax()]
    return right(
        f"{more.sum()} of {len(table)} cells cannot be overconfidence alone; the largest share is "
        f"{most['accuracy'] + most['ece'] - 100:.2f} of {most['ece']:.2f} points ({most['model']}, {most['dataset']}). "
        "If items without an answer span had been left out of the ECE but not of accuracy, even this would not be safe."
    )


# --- 3: what selection does to the gap --------------------------------------------------------------

BEST_OF_TEN = (0.5, 1.0, 1.5)  # the slopes of the exercise


def traces(seed: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Reward and correctness of ten traces for each of 500 made-up prompts, two arrays [500, 10].

    Easy prompts have higher rewards and more right traces, and within a prompt the reward points the wrong way: pooled
    and within-prompt covariance have different signs.
    """
    rng = np.random.default_rng(seed)
    easy = rng.random((500, 1))
    reward = easy + rng.normal(0, 0.15, (500, 10))
    return reward, (rng.random((500, 10)) < np.clip(easy - 0.5 * (reward - easy), 0.02, 0.98)).astype(float)


def _pooled(r: np.ndarray, c: np.ndarray) -> float:
    return float(((r - r.mean()) * (c - c.mean())).mean())


def _within(r: np.ndarray, c: np.ndarray) -> float:
    return float(((r - r.mean(1, keepdims=True)) * (c - c.mean(1, keepdims=True))).mean())


_COVARIANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "You pooled: the covariance over all traces of all prompts mostly says that some prompts are easier. A policy can "
    "only choose among traces of the prompt it is given: centre within each row.": _pooled,
    "That is the covariance of the prompts' means, between prompts. A policy cannot choose its prompt.": lambda r, c: (
        _pooled(r.mean(1), c.mean(1))
    ),
    "You divide by one less than the number of traces. These ten are the whole policy, not a sample from it: divide by "
    "their number.": lambda r, c: _within(r, c) * r.shape[1] / (r.shape[1] - 1),
    "Without centring this is a mean product, not a covariance.": lambda r, c: float((r * c).mean()),
    "You centred over prompts (axis 0) instead of over the traces of a prompt (axis 1).": lambda r, c: float(
        ((r - r.mean(0)) * (c - c.mean(0))).mean()
    ),
    "That is a correlation. The change of accuracy is in units of the reward: a covariance.": lambda r, c: (
        _within(r, c) / math.sqrt(_within(r, r) * _within(c, c))
    ),
}


@check
def check_3(covariance: Callable[..., float], gaps: Iterable[float], overconfident: str) -> Feedback:
    """`covariance(reward, correct)`, both [prompts, traces]: the first-order change of accuracy at beta = 1; `gaps`
    after the most confident of ten traces is taken, for b = .5, 1 and 1.5; what selection does to an `overconfident`
    model, b < 1 ("a", "b", "c")."""
    if not callable(covariance):
        return wrong("Give the function itself, without calling it: check_3(covariance, gaps, overconfident).")
    cases = [traces(), traces(7), tuple(x[:50, :4] for x in traces(8))]
    values = [covariance(r.copy(), c.copy()) for r, c in cases]
    if _blank(*values):
        return wrong(EMPTY)
    found = [number(value) for value in values]

    def are(wanted: Callable[[np.ndarray, np.ndarray], float]) -> bool:
        return all(close(v, wanted(*case), 1e-6) for v, case in zip(found, cases))

    if not are(_within):
        for message, slip in _COVARIANCES.items():
            if are(slip):
                return wrong(message)
        return wrong(
            f"Over the made-up traces accuracy changes by {_within(*cases[0]):+.4f} per unit of 1 / beta; you give "
            f"{found[0]:+.4g}. For each prompt take the covariance over its traces, then the mean over prompts."
        )
    given = [number(g) for g in gaps] if isinstance(gaps, Iterable) and not isinstance(gaps, str) else []
    if len(given) != len(BEST_OF_TEN) or any(map(math.isnan, given)):
        return wrong("Give three gaps, one for each of b = .5, 1 and 1.5: mean confidence minus accuracy.")
    given = [g / 100 if abs(g) > 1 else g for g in given]
    chosen = [self_confidence.selection(b) for b in BEST_OF_TEN]
    target = [gap for _, gap in chosen]

    def is_(wanted: Iterable[float]) -> bool:
        return all(close(g, w, 0.011) for g, w in zip(given, wanted))

    if not is_(target):
        moved = chosen[1][0] - 0.5  # by how much the chosen trace is more confident
        mistakes = {
            "The sign: a gap is mean confidence minus accuracy.": [-g for g in target],
            "You expect selection to leave the gap alone. That is so at b = 1 only: elsewhere the traces it prefers "
            "have another gap than the rest.": [0.0] * 3,
            "Those are accuracies. The gap is mean confidence minus accuracy.": [a for a, _ in chosen],
            "You have confidence rise by as much as one trace can be above the mean. The best of ten uniform draws "
            "lies ten elevenths up, not at the top.": [(1 - b) * 0.3 for b in BEST_OF_TEN],
            "That is the change of accuracy, b times the change of confidence. The gap changes by 1 - b times it.": (
                [b * moved for b in BEST_OF_TEN]
            ),
        }
        for message, wanted in mistakes.items():
            if is_(wanted):
                return wrong(message)
        return wrong(
            "Change of gap = (1 - b) x change of mean confidence. Confidence is uniform on [.2, .8]; what is the mean "
            "of the largest of ten draws, and what was it before?"
        )
    letter = _letter(overconfident)
    if letter == "a":
        return wrong(
            "Selection by confidence picks traces that are *more* confident, and at b < 1 their accuracy does not keep "
            "up: it cannot repair overconfidence. What did your first number say?"
        )
    if letter == "c":
        return wrong("It leaves the gap alone at b = 1 only.")
    if letter != "b":
        return wrong('Answer the third blank with "a", "b" or "c".')
    return right(
        "Gaps of "
        + ", ".join(f"{g:+.2f}" for g in target)
        + ". Nothing in a reward for confidence lowers confidence on a wrong answer. In these traces the pooled "
        f"covariance is {_pooled(*cases[0]):+.3f} and the one within prompts {_within(*cases[0]):+.3f}: a reward "
        "that looks fine over all prompts would lower accuracy."
    )


# --- 4: the pair builder ----------------------------------------------------------------------------

Pairs = list[tuple[int, int, float]]
_TABLES = (  # prompt, answer, confidence
    ("a tie", [0, 0], [3, 4], [0.95, 0.95]),
    ("one trace above the threshold", [0, 0, 0], [3, 4, 4], [0.95, 0.5, 0.7]),
    ("none above", [0, 0, 0], [3, 4, 5], [0.85, 0.5, 0.7]),
    ("equal answers", [0, 0], [3, 3], [0.97, 0.91]),
    ("two above", [0, 0, 0], [3, 4, 5], [0.99, 0.95, 0.2]),
    ("exactly at the threshold", [0, 0], [3, 4], [0.2, 0.9]),
    ("two prompts", [0, 0, 1, 1], [3, 4, 5, 6], [0.95, 0.3, 0.99, 0.4]),
    ("traces of two prompts in turns", [1, 0, 1, 0], [3, 4, 5, 6], [0.95, 0.3, 0.6, 0.92]),
)


def builder(
    *,
    margin: Callable[[float], float] = math.exp,
    across: bool = False,
    ties: bool = False,
    distinct: bool = False,
    strict: bool = False,
    both: bool = False,
    loose: bool = False,
    top: bool = False,
) -> Callable[..., Pairs]:
    """The pair builder of the released code, or one with a mistake: all ordered pairs of traces of one prompt, the
    preferred with at least the threshold and more confidence than the other, with the margin exp(difference)."""

    def pairs(prompt, answer, confidence, threshold) -> Pairs:
        def takes(i: int, j: int) -> bool:
            high, low = confidence[i], confidence[j]
            above = loose or (high > threshold if strict else high >= threshold)
            wins = high >= low if ties else high > low
            rest = [confidence[k] for k in range(len(prompt)) if prompt[k] == prompt[i]]
            return (
                (i != j and above and wins and (across or prompt[i] == prompt[j]))
                and not (distinct and answer[i] == answer[j])
                and not (both and low < threshold)
                and not (top and (high < max(rest) or low > min(rest)))
            )

        n = range(len(prompt))
        return [(i, j, margin(confidence[i] - confidence[j])) for i in n for j in n if takes(i, j)]

    return pairs


_BUILDERS: dict[str, Callable[..., Pairs]] = {
    "The margin is exp of the *negative* difference: near-ties would get the largest. Preferred minus rejected.": (
        builder(margin=lambda d: math.exp(-d))
    ),
    "The margin is the difference itself; the released code takes exp of it.": builder(margin=lambda d: d),
    "Pairs across prompts: which prompt is easier is nothing a policy can learn from. Compare traces of one prompt.": (
        builder(across=True)
    ),
    "You keep ties: a trace with equal confidence is not preferred, and the pair would come in both directions.": (
        builder(ties=True)
    ),
    "You drop pairs with equal answers. That would be sensible, but the rule does not look at answers: two traces with "
    "one answer are a pair like any other.": builder(distinct=True),
    "A confidence equal to the threshold suffices: at least, not more than.": builder(strict=True),
    "The threshold is for the *preferred* trace only; you ask it of both.": builder(both=True),
    "You do not use the threshold: a preferred trace has at least that confidence.": builder(loose=True),
    "You pair the best with the worst only. The rule takes *all* ordered pairs.": builder(top=True),
}


def _normal(found: object) -> set[tuple[int, int, float]]:
    rows = list(found)  # type: ignore[call-overload]
    return {(int(i), int(j), round(number(m), 6)) for i, j, m in rows}


@check
def check_4(pairs: Callable[..., Pairs], smallest: float) -> Feedback:
    """`pairs(prompt, answer, confidence, threshold)`: a list of (row preferred, row rejected, margin); `smallest`: the
    limit that no margin lies below."""
    if not callable(pairs):
        return wrong("Give the function itself, without calling it: check_4(pairs, smallest).")
    columns = [[list(column) for column in table[1:]] for table in _TABLES]
    answers = [pairs(*given, 0.9) for given in columns]
    if _blank(*answers):
        return wrong(EMPTY)
    found = [_normal(answer) for answer in answers]
    wanted = [_normal(builder()(*given, 0.9)) for given in columns]
    if found != wanted:
        for message, slip in _BUILDERS.items():
            if found == [_normal(slip(*given, 0.9)) for given in columns]:
                return wrong(message)
        k = next(k for k, (mine, target) in enumerate(zip(found, wanted)) if mine != target)
        name, *given = _TABLES[k]
        return wrong(
            f"The test with {name} fails: prompts {given[0]}, confidences {given[2]}. You give {len(found[k])} pairs, "
            f"the rule {len(wanted[k])}: {sorted((i, j, round(m, 3)) for i, j, m in wanted[k])}."
        )
    if any(len(list(answer)) != len(target) for answer, target in zip(answers, wanted)):
        return wrong("A pair comes more than once.")
    if not close(smallest, 1, 1e-6):
        if close(smallest, 0, 1e-6):
            return wrong("The *difference* comes near 0 at a near-tie. What is exp of it?")
        if close(smallest, math.e, 0.01):
            return wrong("That is the largest margin, at a difference of 1.")
        return wrong("Two traces that hardly differ: what does exp(difference) come to?")
    return right(
        "So near-ties ask for a margin of 1, and a difference of .5 for 1.65. And nothing here looks at an answer: two "
        "right traces form a pair, and a right one can be rejected. How many pairs there are says nothing about what "
        "can be learned from them."
    )


# --- 5: which damage is repaired ---------------------------------------------------------------------

DAMAGES = {"sharpened": "sharpened logits", "binary": "binary reward", "fluency": "brevity reward"}
FIFTH = 0.2  # the relative change that criteria W6a to W6c ask for
SHARE = 0.8  # of the seeds
_YES, _NO = ("yes", "y", "true", "1", "lower", "lowers"), ("no", "n", "false", "0", "not")

_REASONS = {
    "sharpened": "Confidence is too high by one temperature, and that is not what a ranking sees.",
    "binary": "Ask what there is to select: how many traces does that policy still write that differ in kind?",
    "fluency": "This damage is mostly one of style and accuracy. Compare what it did to the ECE with the floor, and "
    "look at sampled answers, not only at greedy ones.",
}


def repaired(before: pd.DataFrame, after: pd.DataFrame) -> pd.Series:
    """By seed, whether greedy and sampled ECE by probability both fall by a fifth at least (columns greedy_ece,
    sampled_ece; indexed by seed)."""
    columns = ["greedy_ece", "sampled_ece"]
    both = before.index.intersection(after.index)
    return (after.loc[both, columns] / before.loc[both, columns] - 1 <= -FIFTH).all(axis=1)


def _yes_or_no(answer: object) -> bool | None:
    word = str(answer).strip().lower()
    return True if word in _YES else False if word in _NO else None


_RULES: dict[str, Callable[[float, float, float, float], bool]] = {
    "You look at greedy answers only. Greedy ECE of a model with two styles jumps when the mode flips; the criterion "
    "asks for sampled ECE, too.": lambda gb, ga, sb, sa: ga / gb - 1 <= -FIFTH,
    "You look at sampled answers only; the criterion asks for both.": lambda gb, ga, sb, sa: sa / sb - 1 <= -FIFTH,
    "One of the two is not enough: the criterion asks for both.": lambda gb, ga, sb, sa: (
        min(ga / gb, sa / sb) - 1 <= -FIFTH
    ),
    "A fall in the mean of both can hide a rise in one: the criterion asks for both.": lambda gb, ga, sb, sa: (
        (ga + sa) / (gb + sb) - 1 <= -FIFTH
    ),
    "Any fall counts with you, even within noise: a fifth at least.": lambda gb, ga, sb, sa: ga < gb and sa < sb,
    "A fifth is relative to the damaged model, not .2 in units of ECE.": lambda gb, ga, sb, sa: (
        ga - gb <= -FIFTH and sa - sb <= -FIFTH
    ),
    "You have before and after reversed.": lambda gb, ga, sb, sa: gb / ga - 1 <= -FIFTH and sb / sa - 1 <= -FIFTH,
}
_CHANGES = (  # greedy before, greedy after, sampled before, sampled after
    *((0.10, 0.07, 0.10, 0.07), (0.10, 0.07, 0.10, 0.12), (0.10, 0.12, 0.10, 0.07), (0.10, 0.09, 0.10, 0.09)),
    *((0.10, 0.13, 0.10, 0.13), (0.10, 0.01, 0.10, 0.11), (0.10, 0.11, 0.10, 0.01), (0.5, 0.25, 0.5, 0.25)),
)


@check
def check_5(predicted: Mapping[str, str], falls: Callable[..., bool], summary: pd.DataFrame) -> Feedback:
    """`predicted`: "yes" or "no" for each of DAMAGES, whether RLSF-RLOO lowers its ECE; `falls(greedy_before,
    greedy_after, sampled_before, sampled_after)`: whether the ECE of one seed counts as lowered by the criterion.
    `summary` is the table `summary` (any empty one if nothing was computed)."""
    if not isinstance(predicted, Mapping) or not callable(falls):
        return wrong("Give the predictions as a dict, the function itself, and the table.")
    verdicts = [falls(*change) for change in _CHANGES]
    if _blank(*predicted.values(), *verdicts):
        return wrong(EMPTY)
    guesses = {damage: _yes_or_no(predicted.get(damage)) for damage in DAMAGES}
    for damage, guess in guesses.items():
        if guess is None:
            return wrong(f'Predict "yes" or "no" for {damage!r} ({DAMAGES[damage]}).')
    given = [bool(verdict) for verdict in verdicts]
    if given != [_criterion(*change) for change in _CHANGES]:
        for message, rule in _RULES.items():
            if given == [rule(*change) for change in _CHANGES]:
                return wrong(message)
        return wrong("Lowered means: greedy ECE *and* sampled ECE are both at least a fifth smaller than before.")
    found = _outcomes(summary)
    missing = [damage for damage in DAMAGES if damage not in found]
    if all(guesses.values()) and (missing or not all(share >= SHARE for share, _ in found.values())):
        return wrong(
            "Yes three times is what the claim says. Ask of each damage what selecting among the model's own traces "
            "can change: the style it writes, or how certain it is once it has written?"
        )
    for damage, (share, text) in found.items():
        if guesses[damage] != (share >= SHARE):
            return wrong(f"{DAMAGES[damage].capitalize()}: {text}. {_REASONS[damage]}")
    if missing:
        return wrong(
            "Your predictions are noted, and your rule is the criterion's. Nothing to hold them against yet for "
            f"{' and '.join(DAMAGES[damage] for damage in missing)}: `make replicate` computes it."
        )
    return right("; ".join(f"{DAMAGES[damage]}: {text}" for damage, (_, text) in found.items()) + ".")


def _criterion(gb: float, ga: float, sb: float, sa: float) -> bool:
    before, after = (pd.DataFrame({"greedy_ece": [g], "sampled_ece": [s]}) for g, s in ((gb, sb), (ga, sa)))
    return bool(repaired(before, after).all())


def _outcomes(summary: pd.DataFrame) -> dict[str, tuple[float, str]]:
    """By damage that was run and treated: in what share of the seeds the ECE was lowered, and what happened."""
    if not {"setting", "arm", "seed", "greedy_ece", "sampled_ece"} <= set(summary.columns):
        return {}
    found = {}
    table = summary[summary["setting"] == "standard"]
    for damage in DAMAGES:
        before, after = (table[table["arm"] == arm].set_index("seed") for arm in (damage, f"rlsf_{damage}"))
        done = repaired(before, after)
        if len(done):
            words = [
                f"{mode} ECE {before.loc[done.index, f'{mode}_ece'].mean():.3f} to "
                f"{after.loc[done.index, f'{mode}_ece'].mean():.3f}"
                for mode in ("greedy", "sampled")
            ]
            found[damage] = (float(done.mean()), f"{', '.join(words)}, lowered in {done.sum()} of {len(done)} seeds")
    return found
