"""The exercises of notebook 06: what is right, and the mistakes that have a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from candor.claims.self_feedback import self_confidence
from candor.claims.self_feedback.world import SHIFTED, SMUDGED
from candor.claims.shared import rows, standard
from candor.declare.exercises import Blank, Exercise, When, array, choice, number, share, word

# --- 1: disparity is not a probability --------------------------------------------------------------

IDEAL = SMUDGED * SHIFTED  # mean second-largest probability of the ideal forecaster
_RNG = np.random.default_rng(61)
FORECASTS = [(_RNG.dirichlet(np.full(k, a), 3000),) for k, a in ((10, 0.1), (4, 1.0), (6, 0.4))]


def second(p: np.ndarray) -> float:
    return np.sort(p)[:, -2].mean()


def top(p: np.ndarray) -> float:
    return p.max(1).mean()


def disparity(p: np.ndarray) -> np.ndarray:
    return np.diff(np.sort(p)[:, -2:])[:, 0]


def measured(values: list[list[float]]) -> str:
    [p] = FORECASTS[0]
    return (
        "For 3,000 distributions over ten answers the ECE by disparity is "
        f"{self_confidence.ece(disparity(p), p.max(1)):.3f}; you give {values[0][0]:.3g}. In a bin, accuracy is the "
        "mean of top-1 and confidence that of top-1 minus top-2: what is left?"
    )


ERRORS: dict[str, Callable[[np.ndarray], float]] = {
    "You say 0: that is the error of the *probability*. Here confidence is top-1 minus top-2.": lambda p: 0.0,
    "That is the share of wrong answers. Disparity lacks only the second-largest probability.": lambda p: 1 - top(p),
    "That is the mean disparity. The error is what lies between it and accuracy.": lambda p: disparity(p).mean(),
    "That is mean accuracy. The error is what lies between accuracy and disparity.": lambda p: top(p),
    "You took the second *column*. Answers stand in any order: sort each row first.": lambda p: p[:, 1].mean(),
    "You took the second-smallest: `np.sort` puts the largest last.": lambda p: np.sort(p)[:, 1].mean(),
    "The sign: an error is not negative.": lambda p: -second(p),
}
IDEALS = {
    "You say 0, since the forecaster is ideal. Its *probability* has no error; its disparity has one wherever a second "
    "answer is possible.": 0.0,
    "That is the second probability on a smudged question. How many questions are smudged?": SHIFTED,
    "Those are top-1 probabilities of smudged questions. What lies between top-1 and disparity is top-2.": (
        SMUDGED * (1 - SHIFTED)
    ),
    "That is the share of smudged questions. How large is the second probability there?": SMUDGED,
}
POSTERIORS = (
    f"{SMUDGED:.0%} of the questions have the posterior (.6, .4), the others are certain. Put these distributions into "
    "your own function."
)

check_1 = Exercise(
    [
        Blank(second, ERRORS, measured, share, FORECASTS, tolerance=1e-3),
        Blank(IDEAL, IDEALS, POSTERIORS, share, tolerance=0.002),
        choice(
            "a",
            b="Errors of bins cancel only if they have different signs. In which bin could accuracy, top-1, be smaller "
            "than top-1 minus top-2?",
            c="Calibrated is the probability. Nothing says that a difference of two probabilities is calibrated, too.",
        ),
    ],
    "Accuracy exceeds disparity in every bin, so nothing cancels and bins do not matter. Here the ideal forecaster "
    f"shows {IDEAL:.1%}, exactly as much as a model with the same answers that is always certain: disparity cannot "
    "tell perfect calibration from total overconfidence.",
    difficulty=2,
    minutes=10,
    hints=(
        "What is accuracy in a bin, and what is mean confidence there, if the forecaster is calibrated?",
        "Accuracy is the mean of top-1, confidence that of top-1 minus top-2: the error is the mean of top-2.",
    ),
)

# --- 2: what two printed numbers imply --------------------------------------------------------------

MADE_UP_CELLS = [(98.0, 7.0), (97.0, 16.0), (80.0, 20.0), (54.0, 25.0), (50.7, 38.2)]


def underconfidence(accuracy: float, ece: float) -> float:
    return max(accuracy + ece - 100, 0)


BOUNDS: dict[str, Callable[[float, float], float]] = {
    "You take ECE = 100 - accuracy for an identity. It bounds *over*confidence: below it nothing follows.": (
        lambda a, e: abs(a + e - 100)
    ),
    "Below a sum of 100 you get less than nothing. There the bound is silent: at least 0.": lambda a, e: a + e - 100,
    "The sign: overconfidence can be at most 100 - accuracy, and what ECE exceeds that by is the rest.": lambda a, e: (
        max(100 - a - e, 0)
    ),
    "That is the most that overconfidence can contribute. What is left of the ECE beyond it?": lambda a, e: 100 - a,
    "That is the part that overconfidence *can* explain. The question is the rest.": lambda a, e: min(e, 100 - a),
    "Not all of it need be underconfidence: up to 100 - accuracy can be overconfidence.": lambda a, e: e,
}


def of_cells(table: pd.DataFrame) -> list[Blank]:
    cells = table[["accuracy", "ece"]]
    return [
        Blank(
            underconfidence,
            BOUNDS,
            lambda values: (
                f"At accuracy 98 and ECE 7 you give {values[0][0]:.4g}. Take a model that is only overconfident: "
                "confidence is at most 100, so its ECE is at most 100 - accuracy. What is above?"
            ),
            probes=[*MADE_UP_CELLS, *cells.itertuples(index=False, name=None)],
            tolerance=0.02,
        ),
        Blank(
            int((cells.sum(axis=1) > 100).sum()),
            {"All of them? Where the sum is below 100, overconfidence alone can explain the cell.": len(table)},
            "Count the rows of the table for which your own function gives more than 0.",
        ),
        choice(
            "a",
            b="One bin or many: in each the error is at most the part above or the part below, and the bound adds up.",
            c="The bound uses nothing but accuracy and ECE; how confident the model is follows from it.",
        ),
    ]


def of_largest(table: pd.DataFrame) -> str:
    more = table["accuracy"] + table["ece"] - 100
    most = table.loc[more.idxmax()]
    return (
        f"{(more > 0).sum()} of {len(table)} cells cannot be overconfidence alone; the largest share is "
        f"{more.max():.2f} of {most['ece']:.2f} points ({most['model']}, {most['dataset']}). If items without an "
        "answer span had been left out of the ECE but not of accuracy, even this would not be safe."
    )


check_2 = Exercise(
    of_cells,
    of_largest,
    difficulty=2,
    minutes=12,
    hints=(
        "How large can the ECE of a model be that is nowhere underconfident, if its accuracy is 98 percent?",
        "At most 2: confidence is at most 100. Whatever the ECE has beyond 100 - accuracy is underconfidence.",
    ),
    given=("cells",),
)

# --- 3: what selection does to the gap --------------------------------------------------------------


def traces(seed: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Reward and correctness of ten traces for each of 500 made-up prompts, two arrays [500, 10].

    Easy prompts have higher rewards and more right traces, and within a prompt the reward points the wrong way: pooled
    and within-prompt covariance have different signs.
    """
    rng = np.random.default_rng(seed)
    easy = rng.random((500, 1))
    reward = easy + rng.normal(0, 0.15, (500, 10))
    return reward, (rng.random((500, 10)) < np.clip(easy - 0.5 * (reward - easy), 0.02, 0.98)).astype(float)


def pooled(r: np.ndarray, c: np.ndarray, axis: int | None = None) -> float:
    return ((r - r.mean(axis, keepdims=True)) * (c - c.mean(axis, keepdims=True))).mean()


def within(reward: np.ndarray, correct: np.ndarray) -> float:
    centred = reward - reward.mean(axis=1, keepdims=True)
    return (centred * correct).mean()


def bessel(r: np.ndarray) -> float:
    return r.shape[1] / (r.shape[1] - 1)


def correlation(r: np.ndarray, c: np.ndarray) -> float:
    return within(r, c) / math.sqrt(within(r, r) * within(c, c))


def shares(answer: object) -> np.ndarray:
    values = array(answer)
    return np.where(abs(values) > 1, values / 100, values)


SLOPES = np.array([0.5, 1.0, 1.5])
ACCURACIES, GAPS = np.transpose([self_confidence.selection(b) for b in SLOPES])
MADE_UP_TRACES = [traces(), traces(7), tuple(x[:50, :4] for x in traces(8))]
POOLED, WITHIN = pooled(*traces()), within(*traces())
COVARIANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "You pooled: over all traces of all prompts it mostly says that some prompts are easier. A policy can only choose "
    "among traces of the prompt it is given: centre within each row.": pooled,
    "That is the covariance of the prompts' means. A policy cannot choose its prompt.": lambda r, c: pooled(
        r.mean(1), c.mean(1)
    ),
    "Divide by the number of traces, not by one less: these are the whole policy.": lambda r, c: (
        bessel(r) * within(r, c)
    ),
    "Without centring this is a mean product, not a covariance.": lambda r, c: (r * c).mean(),
    "You centred over prompts (axis 0), not over the traces of a prompt (axis 1).": lambda r, c: pooled(r, c, 0),
    "That is a correlation. Accuracy changes by a covariance, in units of the reward.": correlation,
}
SELECTED = {
    "Give three gaps, one for each of b = .5, 1 and 1.5: mean confidence minus accuracy.": When(
        lambda gaps: gaps.shape != (3,) or np.isnan(gaps).any(), 0.12
    ),
    "The sign: a gap is mean confidence minus accuracy.": -GAPS,
    "You expect selection to leave the gap alone. At b = 1 it does; elsewhere the chosen traces have another gap.": (
        np.zeros(3)
    ),
    "Those are accuracies. The gap is mean confidence minus accuracy.": ACCURACIES,
    "You put the best trace at the top of the range. The best of ten uniform draws lies ten elevenths up.": (1 - SLOPES)
    * 0.3,
    "That is the change of accuracy, b times that of confidence. The gap changes by 1 - b times it.": ACCURACIES - 0.5,
}

check_3 = Exercise(
    [
        Blank(
            within,
            COVARIANCES,
            lambda values: (
                f"Over the made-up traces accuracy changes by {WITHIN:+.4f} per unit of 1 / beta; you give "
                f"{values[0][0]:+.4g}. For each prompt take the covariance over its traces, then the mean over prompts."
            ),
            probes=MADE_UP_TRACES,
            tolerance=1e-6,
        ),
        Blank(
            GAPS.tolist(),
            SELECTED,
            "Change of gap = (1 - b) x change of mean confidence. Confidence is uniform on [.2, .8]; what is the mean "
            "of the largest of ten draws, and what was it before?",
            shares,
            tolerance=0.011,
        ),
        choice(
            "b",
            a="Selection by confidence picks traces that are *more* confident, and at b < 1 their accuracy does not "
            "keep up: it cannot repair overconfidence. What did your first number say?",
            c="It leaves the gap alone at b = 1 only.",
        ),
    ],
    f"Gaps of {', '.join(f'{gap:+.2f}' for gap in GAPS)}. Nothing in a reward for confidence lowers confidence on a "
    f"wrong answer. In these traces the pooled covariance is {POOLED:+.3f} and the one within prompts {WITHIN:+.3f}: a "
    "reward that looks fine over all prompts would lower accuracy.",
    difficulty=3,
    minutes=20,
    hints=(
        "A policy shifts weight among the traces of one prompt; the best of ten uniform draws lies ten elevenths up.",
        "Centre each row before you multiply. The gap changes by (1 - b) times .6 x 10/11 - .3.",
    ),
)

# --- 4: the pair builder ----------------------------------------------------------------------------

TRACES = {  # prompt, answer, confidence, threshold
    "a tie": ([0, 0], [3, 4], [0.95, 0.95], 0.9),
    "one trace above the threshold": ([0, 0, 0], [3, 4, 4], [0.95, 0.5, 0.7], 0.9),
    "none above": ([0, 0, 0], [3, 4, 5], [0.85, 0.5, 0.7], 0.9),
    "equal answers": ([0, 0], [3, 3], [0.97, 0.91], 0.9),
    "two above": ([0, 0, 0], [3, 4, 5], [0.99, 0.95, 0.2], 0.9),
    "exactly at the threshold": ([0, 0], [3, 4], [0.2, 0.9], 0.9),
    "two prompts": ([0, 0, 1, 1], [3, 4, 5, 6], [0.95, 0.3, 0.99, 0.4], 0.9),
    "traces of two prompts in turns": ([1, 0, 1, 0], [3, 4, 5, 6], [0.95, 0.3, 0.6, 0.92], 0.9),
}


def pairs(prompt, answer, confidence, threshold):
    rows = range(len(prompt))
    return [
        (i, j, math.exp(confidence[i] - confidence[j]))
        for i in rows
        for j in rows
        if prompt[i] == prompt[j] and confidence[i] >= threshold and confidence[i] > confidence[j]
    ]


def only(keep: Callable[..., bool]) -> Callable:
    """A builder that drops some of the pairs: those without `keep(i, j, prompt, answer, confidence, threshold)`."""
    return lambda *table: [pair for pair in pairs(*table) if keep(*pair[:2], *table)]


def margins(of: Callable[[float], float]) -> Callable:
    """A builder with other margins."""
    return lambda *table: [(i, j, of(margin)) for i, j, margin in pairs(*table)]


def extremes(i: int, j: int, p: list, a: list, c: list, t: float) -> bool:
    own = [x for x, prompt in zip(c, p) if prompt == p[i]]
    return c[i] == max(own) and c[j] == min(own)


def with_ties(p: list, a: list, c: list, t: float) -> list:
    rows = range(len(p))
    return pairs(p, a, c, t) + [(i, j, 1) for i in rows for j in rows if i != j and p[i] == p[j] and c[i] == c[j] >= t]


def normal(answer: Any) -> list[tuple[int, int, float]]:
    return sorted((int(i), int(j), round(number(margin), 6)) for i, j, margin in answer)


def failing(values: list[list]) -> str:
    for (name, table), [mine] in zip(TRACES.items(), values):
        if mine != (wanted := normal(pairs(*table))):
            return (
                f"The test with {name} fails: prompts {table[0]}, confidences {table[2]}. You give {len(mine)} pairs, "
                f"the rule {len(wanted)}: {[(i, j, round(m, 3)) for i, j, m in wanted]}."
            )
    return ""


BUILDERS: dict[str, Callable | When] = {
    "A pair comes more than once.": When(
        lambda values: any(len(set(mine)) < len(mine) for [mine] in values), lambda *table: 2 * pairs(*table)
    ),
    "The margin is exp of the *negative* difference: near-ties get the largest.": margins(lambda margin: 1 / margin),
    "The margin is the difference itself; the released code takes exp of it.": margins(math.log),
    "Pairs across prompts: which prompt is easier teaches a policy nothing. Compare traces of one prompt.": (
        lambda p, *rest: pairs([0] * len(p), *rest)
    ),
    "You keep ties: with equal confidence neither is preferred, and the pair comes in both directions.": with_ties,
    "You drop pairs with equal answers. The rule does not look at answers.": only(
        lambda i, j, p, a, c, t: a[i] != a[j]
    ),
    "A confidence equal to the threshold suffices: at least, not more than.": only(lambda i, j, p, a, c, t: c[i] > t),
    "The threshold is for the *preferred* trace only; you ask it of both.": only(lambda i, j, p, a, c, t: c[j] >= t),
    "You do not use the threshold: a preferred trace has at least that.": lambda p, a, c, t: pairs(p, a, c, 0),
    "You pair the best with the worst only. The rule takes *all* ordered pairs.": only(extremes),
}

check_4 = Exercise(
    [
        Blank(pairs, BUILDERS, failing, normal, list(TRACES.values())),
        Blank(
            1.0,
            {
                "The *difference* comes near 0 at a near-tie. What is exp of it?": 0.0,
                "That is the largest margin, at a difference of 1.": math.e,
            },
            "Two traces that hardly differ: what does exp(difference) come to?",
        ),
    ],
    "So near-ties ask for a margin of 1, and a difference of .5 for 1.65. And nothing here looks at an answer: two "
    "right traces form a pair, and a right one can be rejected. How many pairs there are says nothing about what can "
    "be learned from them.",
    difficulty=2,
    minutes=15,
    hints=(
        "Two loops over the rows, and a condition on prompts, on the preferred confidence and on both confidences.",
        "Same prompt, confidence[i] >= threshold, confidence[i] > confidence[j]; the margin is exp of the difference.",
    ),
)

# --- 5: which damage is repaired ---------------------------------------------------------------------

DAMAGES = {"sharpened": "sharpened logits", "binary": "binary reward", "fluency": "brevity reward"}
REASONS = {
    "sharpened": "Confidence is too high by one temperature, and that is not what a ranking sees.",
    "binary": "Ask what there is to select: how many traces does that policy still write that differ in kind?",
    "fluency": "This damage is mostly one of style and accuracy. Compare what it did to the ECE with the floor, and "
    "look at sampled answers, not only at greedy ones.",
}
ECES = ["greedy_ece", "sampled_ece"]
CHANGES = (  # greedy before, greedy after, sampled before, sampled after
    *((0.10, 0.07, 0.10, 0.07), (0.10, 0.07, 0.10, 0.12), (0.10, 0.12, 0.10, 0.07), (0.10, 0.09, 0.10, 0.09)),
    *((0.10, 0.13, 0.10, 0.13), (0.10, 0.01, 0.10, 0.11), (0.10, 0.11, 0.10, 0.01), (0.5, 0.25, 0.5, 0.25)),
)
ALL_YES = dict.fromkeys(DAMAGES, "yes")
yes_or_no = word(yes="y true 1 lower lowers", no="n false 0 not")


def falls(greedy_before, greedy_after, sampled_before, sampled_after):
    """By a fifth of each, as criteria W6a to W6c ask."""
    return (greedy_after <= 0.8 * greedy_before) & (sampled_after <= 0.8 * sampled_before)


RULES: dict[str, Callable[[float, float, float, float], bool]] = {
    "You look at greedy answers only. With two styles they jump when the mode flips; the criterion asks for both.": (
        lambda gb, ga, sb, sa: ga <= 0.8 * gb
    ),
    "You look at sampled answers only; the criterion asks for both.": lambda gb, ga, sb, sa: sa <= 0.8 * sb,
    "One of the two is not enough: the criterion asks for both.": lambda gb, ga, sb, sa: min(ga / gb, sa / sb) <= 0.8,
    "A fall in the mean of both can hide a rise in one.": lambda gb, ga, sb, sa: ga + sa <= 0.8 * (gb + sb),
    "Any fall counts with you, even within noise: a fifth at least.": lambda gb, ga, sb, sa: ga < gb and sa < sb,
    "A fifth of the damaged model's, not .2 in units of ECE.": lambda gb, ga, sb, sa: max(ga - gb, sa - sb) <= -0.2,
    "You have before and after reversed.": lambda gb, ga, sb, sa: falls(ga, gb, sa, sb),
}


def outcomes(summary: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """By damage that was run and treated: whether the ECE falls in four of five seeds, and what happened."""
    known = {}
    for damage in DAMAGES if len(summary) else ():
        seeds = (rows(standard(summary), arm=arm).set_index("seed")[ECES] for arm in (damage, f"rlsf_{damage}"))
        both = pd.concat(seeds, axis=1, join="inner")
        lowered = falls(*both.to_numpy()[:, [0, 2, 1, 3]].T)
        if len(lowered):
            gb, sb, ga, sa = both.mean()
            text = f"greedy ECE {gb:.3f} to {ga:.3f}, sampled ECE {sb:.3f} to {sa:.3f}"
            word = "yes" if lowered.mean() >= 0.8 else "no"
            known[damage] = word, f"{text}, lowered in {lowered.sum()} of {len(lowered)} seeds"
    return known


def of_summary(summary: pd.DataFrame) -> list[Blank]:
    known = outcomes(summary)

    def predictions(answer: object) -> dict[str, str]:
        """Those that there is something to hold against, and those that cannot be read."""
        words = {damage: yes_or_no(answer.get(damage) if isinstance(answer, Mapping) else "") for damage in DAMAGES}
        return {damage: guess for damage, guess in words.items() if damage in known or not guess}

    def wrong(guesses: dict[str, str]) -> str:
        for damage, guess in guesses.items():
            if not guess:
                return f'Predict "yes" or "no" for {damage!r} ({DAMAGES[damage]}).'
        damage = next(damage for damage, guess in guesses.items() if guess != known[damage][0])
        return f"{DAMAGES[damage].capitalize()}: {known[damage][1]}. {REASONS[damage]}"

    everything = (
        "Yes three times is what the claim says. Ask of each damage what selecting among the model's own traces can "
        "change: the style it writes, or how certain it is once it has written?"
    )
    right = ALL_YES | {damage: word for damage, (word, _) in known.items()}
    lower = "Lowered means: greedy ECE *and* sampled ECE are both at least a fifth smaller than before."
    return [Blank(right, {everything: ALL_YES}, wrong, predictions), Blank(falls, RULES, lower, bool, CHANGES)]


def of_outcomes(summary: pd.DataFrame) -> str:
    known = outcomes(summary)
    if missing := [DAMAGES[damage] for damage in DAMAGES if damage not in known]:
        return (
            "Your rule is the criterion's, and your predictions are noted. Nothing to hold them against yet for "
            f"{' and '.join(missing)}: `make replicate` computes it."
        )
    return "; ".join(f"{DAMAGES[damage]}: {text}" for damage, (_, text) in known.items()) + "."


check_5 = Exercise(
    of_summary,
    of_outcomes,
    difficulty=3,
    minutes=12,
    hints=(
        "Selection chooses among traces that the model already writes. Which of the three damages is one of choice?",
        "For the rule, hold each ECE against 80 percent of what it was, and ask for both.",
    ),
    given=("summary",),
)
