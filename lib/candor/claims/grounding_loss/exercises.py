"""Checks for the exercises of notebook 03: each says what is right, or names the mistake and gives a hint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from candor.claims.grounding_loss import raters, tables
from candor.claims.grounding_loss import world as reference_game
from candor.declare.exercises import Feedback, check, close, number, right, wrong
from candor.measure import agreement

EMPTY = "The blank is still empty: put your answer in place of the dots and run it again."


def _blank(*values: object) -> bool:
    """Whether a function that the reader was to complete still returns nothing."""
    return any(value is None or value is ... for value in values)


def _percent(answer: object) -> float:
    """A share or a percentage, as a percentage; NaN if it is no number."""
    value = number(answer)
    return 100 * value if abs(value) <= 1 else value


def _act(answer: object) -> str | None:
    """The act that a word means: "followup", "follow-ups", "clarify", "F" ..."""
    word = str(answer).strip().lower().replace("-", "").replace(" ", "")[:6]
    return next((act for act in reference_game.ACTS if word and act.startswith(word)), None)


# --- 1: the headline ------------------------------------------------------------------------------


@check
def check_1(mean_of_cells: float, pooled: float, decides: str, headline: pd.DataFrame, means: pd.DataFrame) -> Feedback:
    """Table 2, in percent: the mean of the nine reductions, 1 minus the ratio of summed rates, and the act that
    weighs most in the second. `headline` and `means` are the tables `headline` and `headline_means`."""
    human, model, cells = headline["human"], headline["model"], headline["reduction"]
    whole = 100 * (1 - model.sum() / human.sum())
    given = _percent(mean_of_cells)
    if not close(given, cells.mean(), 0.15):
        quoted = means.set_index("name")["value"]["quoted_mean"]
        flat = (headline["dataset"] == "TSCC") & (headline["act"] == "followup")
        mistakes = {
            f"That is {quoted:.1f}: the mean of three percentages quoted in the text. Table 2 does not give them; "
            "start from its eighteen rates.": quoted,
            "That divides summed rates: one act, the commonest, decides it. It is the second blank; here take the "
            "reduction in every cell first.": whole,
            "One cell is missing: without TSCC followup, where there is hardly a gap, the mean is larger. A cell "
            "that does not fit belongs to the mean like the others.": cells[~flat].mean(),
            "That is what is left, not what is lost: take 1 minus the ratio.": 100 - cells.mean(),
            "That is the median of the nine cells. The headline is a mean.": cells.median(),
            "These are percentage points. A reduction is relative to the human rate.": (human - model).mean(),
        }
        for message, value in mistakes.items():
            if close(given, value, 0.15):
                return wrong(message)
        return wrong("For each of the nine cells take 1 - model / human, then the plain mean, in percent.")
    given = _percent(pooled)
    if not close(given, whole, 0.15):
        if close(given, cells.mean(), 0.15):
            return wrong("The mean of the ratios is not the ratio of the means: sum the rates first, divide once.")
        if close(given, 100 - whole, 0.15):
            return wrong("That is what is left, not what is lost: take 1 minus the ratio.")
        return wrong("Sum the nine human rates, sum the nine model rates, and divide once.")
    heaviest = human.groupby(headline["act"]).sum()
    act = _act(decides)
    if act is None:
        return wrong(f"Answer the third blank with an act: {', '.join(heaviest.index)}.")
    if act != heaviest.idxmax():
        return wrong(
            "In a ratio of sums a cell weighs as much as its *human* rate. Which act do the humans use most? The "
            "largest reduction need not have any weight."
        )
    return right(
        f"{cells.mean():.1f} % and {whole:.1f} %: two questions, two answers, and neither is the headline. The first "
        f"asks about the average cell, the second about the average turn, in which {act}s are "
        f"{heaviest.max() / heaviest.sum():.0%} of what the humans did."
    )


# --- 2: how many turns a kappa rests on -----------------------------------------------------------

TURNS, HUMAN = tables.TURNS, tables.HUMAN_CLARIFICATIONS


def printed(model: int, coincident: int) -> tuple[float, float, float]:
    """The human's and the model's rate of clarifications in percent and kappa x 100, with two decimals, as printed."""
    kappa = tables.kappa_of_counts(TURNS, coincident, HUMAN - coincident, model - coincident)
    return tuple(round(100 * float(value), 2) for value in (HUMAN / TURNS, model / TURNS, kappa))


def _solve(n: float, h: float, m: float, kappa: float) -> float:
    return n * tables.split(h, m, kappa)


def _rounded_agreement(n: float, h: float, m: float, kappa: float) -> float:
    observed = 1 - h - m + 2 * tables.split(h, m, kappa)
    return n * (round(observed, 2) - 1 + h + m) / 2


_SLIPS: dict[str, Callable[[float, float, float, float], float]] = {
    "You forgot that kappa is printed times 100: 12.4 means .124.": lambda n, h, m, k: _solve(n, h / 100, m / 100, k),
    "You forgot that the rates are percentages: 3.05 means .0305.": lambda n, h, m, k: _solve(n, h, m, k / 100),
    "You rounded the rates before solving. Half a per cent becomes 0 or 1: round the result.": lambda n, h, m, k: (
        _solve(n, round(h) / 100, round(m) / 100, k / 100)
    ),
    "You rounded the observed agreement before solving, and everything is in its third decimal: round the result.": (
        lambda n, h, m, k: _rounded_agreement(n, h / 100, m / 100, k / 100)
    ),
    "You rounded kappa before solving: round the result.": lambda n, h, m, k: _solve(
        n, h / 100, m / 100, round(k / 100, 1)
    ),
    "That is what chance alone would give, h m turns out of all: kappa says how much more it is.": lambda n, h, m, k: (
        n * h * m / 1e4
    ),
    "That is kappa times the smaller number of acts, as if nothing coincided by chance.": lambda n, h, m, k: (
        n * k * min(h, m) / 1e4
    ),
}


@check
def check_2(coincident: Callable[..., float], hits: int, meaning: str, counts: pd.DataFrame) -> Feedback:
    """`coincident(turns, human, model, kappa)`: how many turns had the act on both sides, from rates in percent and
    kappa x 100; `hits` of the acts behind the lowest kappa; `meaning` of that number ("a", "b" or "c"). `counts` is the
    table `clarification_counts`."""
    if not callable(coincident):
        return wrong("Give the function itself, without calling it: check_2(coincident, hits, meaning, counts).")
    pairs = counts.loc[counts["coincident"] > 0, ["emitted", "coincident"]].drop_duplicates()
    cases = [(printed(*pair), pair[1]) for pair in pairs.itertuples(index=False)]
    values = [coincident(TURNS, *shown) for shown, _ in cases]
    if _blank(*values):
        return wrong(EMPTY)
    found = [number(value) for value in values]
    if not all(close(value, target, 0.3) for value, (_, target) in zip(found, cases)):
        for message, slip in _SLIPS.items():
            wanted = [slip(TURNS, *shown) for shown, _ in cases]
            if all(close(v, w, 1e-6 + 1e-3 * abs(w)) or v == round(w) for v, w in zip(found, wanted)):
                return wrong(message)
        h, m, k = cases[0][0]
        return wrong(
            f"Rates of {h} and {m} % with a kappa of {k} over {TURNS} turns belong to {cases[0][1]} turns; you give "
            f"{found[0]:.4g}. Observed agreement is 1 - h - m + 2c/n, and kappa = (observed - chance) / (1 - chance)."
        )
    lowest = counts.loc[counts["kappa"].idxmin()]
    if not close(hits, lowest["coincident"], 1e-9):
        return wrong("Put the two rates of that row and its kappa into your own function, and round.")
    letter = str(meaning).strip(" ().").lower()
    emitted = int(lowest["emitted"])
    none = (1 - HUMAN / TURNS) ** emitted
    if letter == "a":
        return wrong(
            f"Worse than chance? {emitted} acts dropped at random on {TURNS} turns miss all {HUMAN} of the human's "
            f"with probability {none:.2f}: no hit is what chance itself would most often give."
        )
    if letter == "c":
        return wrong("It is not rounding: no hit gives a kappa below 0 whatever the digits.")
    if letter != "b":
        return wrong('Answer the third blank with "a", "b" or "c".')
    return right(
        f"The printed clarification kappas are {pairs['coincident'].min()} or {pairs['coincident'].max()} coincident "
        f"turns and differ in how many more were emitted. And no hit in {emitted} has probability {none:.2f} by "
        "chance: a negative kappa so small is a count of zero and nothing more."
    )


# --- 3: what a single-turn rater can see ----------------------------------------------------------

_LETTERS = {
    "a": "Below one half on average is not below one half everywhere. At alpha = 0 an act loses exactly where p > "
    "1/2: there it was needless.",
    "c": "There is something to learn: a w of .48 is an average of contexts far above and far below one half.",
}


@check
def check_3(right_now: Callable[..., float], crossing: Callable[[float], float], proof: str) -> Feedback:
    """`right_now(m, q)`: the chance that a delivery made now is the rater's reading; `crossing(alpha)`: the p above
    which a rater with that charity prefers the delivery; `proof`: what an average win rate of .48 says."""
    if not callable(right_now) or not callable(crossing):
        return wrong("Give two functions, right_now(m, q) and crossing(alpha), and a letter.")
    contexts = ((1, 1.0), (2, 1.0), (1, 0.5), (2, 0.5), (4, 0.25))
    values = [right_now(m, q) for m, q in contexts]
    alphas = (0.0, 0.1, 0.3, 0.45)
    points = [crossing(alpha) for alpha in alphas]
    if _blank(*values, *points):
        return wrong(EMPTY)

    def are(wanted: Callable[..., float], given: list, where: tuple) -> bool:
        return all(close(v, wanted(*(x if isinstance(x, tuple) else (x,))), 1e-4) for v, x in zip(given, where))

    if not are(lambda m, q: q / m, values, contexts):
        if are(lambda m, q: 1 / m, values, contexts):
            return wrong(
                "You counted the objects and forgot the place: as long as it is not mentioned, the place of a "
                "delivery is a guess, too."
            )
        if are(lambda m, q: q, values, contexts):
            return wrong("You have the place. The words leave m objects, each as likely as the others.")
        return wrong("Both must be right: one of m objects, and the place, which is right with probability q.")
    if not are(raters.crossing, points, alphas):
        mistakes = {
            "With alpha = 0 that gives 1, so that no delivery would ever win: the rater compares with one half.": (
                lambda a: 1 - a
            ),
            "The charitable share pleases already; what is missing to one half must come from the others, who are only "
            "a share 1 - alpha: divide.": lambda a: 0.5 - a,
            "That is the share that a delivery pleases at p = 1/2. Ask for which p it is one half.": (
                lambda a: a + (1 - a) / 2
            ),
            "The charitable rater moves the point down, and yours does not move: where does alpha enter?": (
                lambda a: 0.5
            ),
            "The sign of alpha is reversed: more charity must lower the point.": lambda a: (0.5 + a) / (1 + a),
        }
        for message, wanted in mistakes.items():
            if are(wanted, points, alphas):
                return wrong(message)
        return wrong(
            "A delivery pleases with probability alpha + (1 - alpha) p. Set it to 1/2 and solve for p: at alpha = 0 "
            f"the point is 1/2; you give {number(points[0]):.3g}."
        )
    letter = str(proof).strip(" ().").lower()
    if letter in _LETTERS:
        return wrong(_LETTERS[letter])
    if letter != "b":
        return wrong('Answer the third blank with "a", "b" or "c".')
    return right(
        f"At alpha = .3 every act loses where p > {raters.crossing(0.3):.3f}; from alpha = 1/2 on, everywhere. An "
        "average says nothing about where: you need w context by context."
    )


# --- 4: ten checkpoints of one run ----------------------------------------------------------------

RUNS = 2000


def simulated(kind: str, runs: int = 50_000) -> np.ndarray:
    """R of `runs` runs of ten points [runs]: a process of `tables.flat_runs`; or independent points, "peeked" (their
    own maximum moved to the front) or "sorted"."""
    own = kind in ("peeked", "sorted")
    points = tables.flat_runs("independent" if own else kind, runs, np.random.default_rng(4))
    if kind == "peeked":
        rest = np.arange(points.shape[1]) != points.argmax(1)[:, None]
        points = np.column_stack([points.max(1), points[rest].reshape(runs, -1)])
    elif kind == "sorted":
        points = -np.sort(-points, axis=1)
    return tables.correlation_with_steps(points)


def _like(found: np.ndarray, kind: str) -> bool:
    """Whether mean and spread of R are those of a kind of run, within four standard errors of `RUNS` runs."""
    target = simulated(kind)
    error = target.std() / math.sqrt(len(found))
    return bool(abs(found.mean() - target.mean()) < 4 * error and abs(found.std() - target.std()) < 4 * error)


@check
def check_4(start_at_best: Callable, walk: Callable, chance: float, correlations: pd.DataFrame) -> Feedback:
    """`start_at_best(rng)` and `walk(rng)` return the R of one simulated run of ten checkpoints; `chance` is the share
    of random walks whose R is at most the printed one for followups. `correlations` is the table of that name."""
    if not callable(start_at_best) or not callable(walk):
        return wrong("Give two functions of a random generator, start_at_best(rng) and walk(rng), and a number.")
    rng = np.random.default_rng(44)
    if _blank(start_at_best(rng), walk(rng)):
        return wrong(EMPTY)
    best, walks = (np.array([number(simulate(rng)) for _ in range(RUNS)]) for simulate in (start_at_best, walk))
    if np.isnan(best).any() or np.isnan(walks).any() or max(np.abs(best).max(), np.abs(walks).max()) > 1 + 1e-9:
        return wrong("Both functions must return one correlation, between -1 and 1, whenever they are called.")
    if not _like(best, "best_of_ten"):
        if np.ptp(best) < 1e-9:
            return wrong("Every run gives the same R: draw new noise from rng in each call.")
        if _like(best, "independent"):
            return wrong(
                "Your start is a point like the others. It was the best of ten earlier ones: take their maximum."
            )
        if _like(best, "peeked"):
            return wrong(
                "You chose the start after looking at the run itself: its own maximum, moved to the front. The start "
                "is the best of ten *earlier* points, and the nine after it are untouched."
            )
        if _like(best, "sorted"):
            return wrong("You sorted the run. Only its start was chosen; what follows is flat.")
        if _like(-best, "best_of_ten"):
            return wrong("The sign is reversed: correlate with the step, which grows.")
        return wrong(
            "Ten earlier values of standard noise, their maximum first; then nine new values; and the correlation of "
            f"the ten with 0 ... 9. Your mean is {best.mean():+.2f}."
        )
    if not _like(walks, "random_walk"):
        if _like(walks, "independent"):
            return wrong(
                "These ten points are independent. Checkpoints of one run are not: each is the one before plus a step."
            )
        return wrong("A random walk: the cumulative sum of ten steps of standard noise, correlated with 0 ... 9.")
    row = correlations.query("method == 'dpo' and act == 'followup'").dropna(subset=["printed"]).iloc[0]
    limit = row["printed"]
    target = (simulated("random_walk") <= limit).mean()
    given = number(chance)
    if close(given, target, 0.035):
        return right(
            f"A walk that goes nowhere in particular shows R <= {limit:.2f} in {target:.0%} of the runs, and a flat "
            f"run begun at the best of ten earlier points has a mean R of {simulated('best_of_ten').mean():.2f}. A p "
            "value over checkpoints treats them as ten samples; there was one run."
        )
    if close(given, row["p"], 0.012) or close(given, (simulated("independent") <= limit).mean(), 0.012):
        return wrong(
            f"{given:.3f} is the chance for *independent* points, which is what a printed p means. Ask your walks."
        )
    if close(given, (np.abs(simulated("random_walk")) >= -limit).mean(), 0.035):
        return wrong("You counted both signs. The claim is a fall: R at most the printed value.")
    if close(given, 1 - target, 0.035):
        return wrong("That is the share of walks that do *not* fall so clearly.")
    return wrong(f"Run walk(rng) a few thousand times: in what share of them is R <= {limit:.2f}?")


# --- 5: less is not worse placed, and more is not better ------------------------------------------

MEASURES = ("rate", "kappa", "kappa / kappa_max", "precision", "success")
_UP = ("up", "+", "rises", "rise", "higher", "better")
_DOWN = ("down", "-", "falls", "fall", "lower", "worse")


def moved(policy: np.ndarray) -> dict[str, set[str]]:
    """Which way each of MEASURES goes from the human's policy to `policy` [28, 3], over the three acts."""
    before, after = reference_game.exact(reference_game.HUMAN), reference_game.exact(policy)

    def of(found: Mapping[str, float], act: str, measure: str) -> float:
        if measure == "success":
            return found["success"]
        if measure == "kappa / kappa_max":
            bound = agreement.kappa_max(before[f"{act}_rate"], found[f"{act}_rate"])
            return found[f"{act}_kappa"] / bound
        return found[f"{act}_{measure}"]

    return {
        measure: {"up" if of(after, a, measure) > of(before, a, measure) else "down" for a in reference_game.ACTS}
        for measure in MEASURES
    }


def _direction(answer: object) -> str | None:
    word = str(answer).strip().lower()
    return "up" if word in _UP else "down" if word in _DOWN else None


_EXPECTED = {
    "rate": "The rater prefers a guess to an act in most contexts with p > 0: can the acts become more?",
    "kappa": "Where the human acts and the model no longer does, they disagree: every lost act costs agreement.",
    "kappa / kappa_max": "Take the loss of rate out, as kappa_max does. The acts that go first are the least needed.",
    "precision": "You expect what is left to be misplaced. But a rater who forgives some guesses punishes the needless "
    "acts first: the acts that remain stand where the human acts, too.",
    "success": "A guess that pleases a charitable rater is still a guess: what happens when it is carried out?",
}


@check
def check_5(predicted: Mapping[str, str], asking: Callable[[float], np.ndarray], falls_most: str) -> Feedback:
    """`predicted`: "up" or "down" for each of MEASURES after training for a rater with charity .6; `asking(d)`: the
    policy [28, 3] that with probability d asks anyway; `falls_most`: the act whose kappa suffers most from it."""
    if not isinstance(predicted, Mapping) or not callable(asking):
        return wrong("Give the directions as a dict, the function itself, and a word.")
    if _blank(*predicted.values(), asking(0.1)):
        return wrong(EMPTY)
    target = moved(raters.optimum(0.6))
    for measure in MEASURES:
        given = _direction(predicted.get(measure))
        if given is None:
            return wrong(f'Predict "up" or "down" for {measure!r}.')
        if {given} != target[measure]:
            return wrong(f"{measure}: {_EXPECTED[measure]}")
    useful, human = reference_game.admissible(), reference_game.HUMAN
    each = useful / useful.sum(1, keepdims=True)
    slips = {
        "You left the human's own acts whole and added d: in those d of the cases he does something else, so they "
        "shrink by 1 - d.": lambda d: human + d * each,
        "An act without a use in that context is not admissible: nobody acknowledges a closed request. Multiply with "
        "admissible().": lambda d: (1 - d) * human + d / 3,
        "Where two acts are admissible, each gets half of d: together they must not exceed it.": lambda d: (
            (1 - d) * human + d * useful
        ),
        "With probability d he asks *anyway*; you let him act less.": lambda d: (1 - d) * human,
    }
    ds = (0.1, 0.3)
    shapes = {np.shape(asking(d)) for d in ds}
    if shapes != {human.shape}:
        return wrong(f"A policy has a row a context and a column an act, shape {human.shape}; yours is {shapes.pop()}.")
    policies = [np.asarray(asking(d), dtype=float) for d in ds]
    if not all(np.allclose(p, reference_game.ask_anyway(d), atol=1e-6) for p, d in zip(policies, ds)):
        for message, slip in slips.items():
            if all(np.allclose(p, slip(d), atol=1e-6) for p, d in zip(policies, ds)):
                return wrong(message)
        return wrong("asking(d) is (1 - d) times HUMAN plus d times a uniform draw among the admissible acts.")
    before, after = reference_game.exact(human), reference_game.exact(reference_game.ask_anyway(0.1))
    kappas = {act: (before[f"{act}_kappa"], after[f"{act}_kappa"]) for act in reference_game.ACTS}
    suffers = max(kappas, key=lambda act: kappas[act][0] - kappas[act][1])
    shown = "; ".join(f"{act} {a:.2f} to {b:.2f}" for act, (a, b) in kappas.items())
    word = str(falls_most).strip().lower()
    if word in ("none", "no", "rise", "up", "neither"):
        return wrong(
            f"A higher rate is not better grounding: at d = .1 all acts together go from {before['rate']:.0%} to "
            f"{after['rate']:.0%} of the turns, and what is added stands at turns where the human needed nothing."
        )
    if word in ("all", "alike", "equal", "same", "all alike"):
        return wrong(
            "Not alike: the same d is little beside a common act and much beside a rare one. Look at exact(asking(.1))."
        )
    act = _act(word)
    if act is None:
        return wrong('Answer the third blank with an act, or "alike", or "none".')
    if act != suffers:
        return wrong(f"{act}: its kappa goes from {kappas[act][0]:.2f} to {kappas[act][1]:.2f}. One falls further.")
    return right(
        f"Kappa at d = .1: {shown}. The rarest act suffers most. Training for a charitable rater makes acts fewer and "
        "better placed; asking anyway makes them more and worse placed; kappa falls both times. Hence rate, kappa_max, "
        "precision and recall beside every kappa."
    )
