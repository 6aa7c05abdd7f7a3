"""The exercises of notebook 03: what is right, and the mistakes that have a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from candor.claims.grounding_loss import raters, tables, world
from candor.declare.exercises import Blank, Exercise, When, array, choice, number, word
from candor.measure import agreement


def percent(answer: object) -> float:
    """A share or a percentage, as a percentage; NaN if it is no number."""
    value = number(answer)
    return 100 * value if abs(value) <= 1 else value


def act(answer: object) -> str:
    """The act that a word means: "followup", "follow-ups", "clarify", "F" ...; "none" or "alike" as they are."""
    text = str(answer).strip().lower()
    if text in ("none", "no", "rise", "up", "neither"):
        return "none"
    if text in ("all", "alike", "equal", "same", "all alike"):
        return "alike"
    short = text.replace("-", "").replace(" ", "")[:6]
    return next((name for name in world.ACTS if short and name.startswith(short)), "")


# --- 1: the headline ------------------------------------------------------------------------------


def _rates(headline: pd.DataFrame) -> tuple[pd.Series, float, pd.Series]:
    """The nine reductions, 1 minus the ratio of summed rates (percent), and the human's rates summed by act."""
    whole = 100 * (1 - headline["model"].sum() / headline["human"].sum())
    return headline["reduction"], whole, headline["human"].groupby(headline["act"]).sum()


def _headline(headline: pd.DataFrame, means: pd.DataFrame) -> list[Blank]:
    cells, whole, heaviest = _rates(headline)
    quoted = means.set_index("name")["value"]["quoted_mean"]
    flat = (headline["dataset"] == "TSCC") & (headline["act"] == "followup")
    left = "That is what is left, not what is lost: take 1 minus the ratio."
    lost = headline["human"] - headline["model"]
    others = When(lambda name: name in world.ACTS and name != heaviest.idxmax(), heaviest.idxmin())
    of_cells = {
        f"That is {quoted:.1f}: the mean of three percentages quoted in the text, which Table 2 does not give. Start "
        "from its eighteen rates.": quoted,
        "That divides summed rates, so one act, the commonest, decides: the second blank. Here reduce every cell "
        "first.": whole,
        "One cell is missing: TSCC followup, with hardly a gap. A cell that does not fit belongs to the mean, "
        "too.": cells[~flat].mean(),
        left: 100 - cells.mean(),
        "That is the median of the nine cells. The headline is a mean.": cells.median(),
        "These are percentage points. A reduction is relative to the human rate.": lost.mean(),
    }
    first = "The mean of the ratios is not the ratio of the means: sum the rates first, divide once."
    weight = (
        "In a ratio of sums a cell weighs as much as its *human* rate. Which act do the humans use most? The largest "
        "reduction need not have any weight."
    )
    asked = (
        "For each of the nine cells take 1 - model / human, then the plain mean, in percent.",
        "Sum the nine human rates, sum the nine model rates, and divide once.",
        f"Answer the third blank with an act: {', '.join(heaviest.index)}.",
    )
    return [
        Blank(cells.mean(), of_cells, asked[0], percent, tolerance=0.15),
        Blank(whole, {first: cells.mean(), left: 100 - whole}, asked[1], percent, tolerance=0.15),
        Blank(heaviest.idxmax(), {weight: others}, asked[2], act),
    ]


def _two_questions(headline: pd.DataFrame, means: pd.DataFrame) -> str:
    cells, whole, heaviest = _rates(headline)
    return (
        f"{cells.mean():.1f} % and {whole:.1f} %: two questions, two answers, and neither is the headline. The first "
        f"asks about the average cell, the second about the average turn, in which {heaviest.idxmax()}s are "
        f"{heaviest.max() / heaviest.sum():.0%} of what the humans did."
    )


check_1 = Exercise(
    _headline,
    _two_questions,
    difficulty=1,
    minutes=8,
    hints=(
        "Nine cells, each with a rate of the human and one of the model.",
        "Mean of (1 - model / human) for the first; 1 - sum(model) / sum(human) for the second.",
    ),
    given=("headline", "headline_means"),
)

# --- 2: how many turns a kappa rests on -----------------------------------------------------------

TURNS, HUMAN = tables.TURNS, tables.HUMAN_CLARIFICATIONS


def printed(model: int, coincident: int) -> tuple[float, float, float]:
    """The human's and the model's rate of clarifications in percent and kappa x 100, with two decimals, as printed."""
    kappa = tables.kappa_of_counts(TURNS, coincident, HUMAN - coincident, model - coincident)
    return tuple(round(100 * float(value), 2) for value in (HUMAN / TURNS, model / TURNS, kappa))


def coincident(turns: float, human: float, model: float, kappa: float) -> float:
    """Turns with the act on both sides, from rates in percent and kappa x 100."""
    return turns * tables.split(human / 100, model / 100, kappa / 100)


def _rounded_agreement(n: float, h: float, m: float, k: float) -> float:
    observed = 1 - (h + m) / 100 + 2 * tables.split(h / 100, m / 100, k / 100)
    return n * (round(observed, 2) - 1 + (h + m) / 100) / 2


COINCIDENT: dict[str, Callable[..., float]] = {
    "Kappa is printed times 100: 12.4 means .124.": lambda n, h, m, k: coincident(n, h, m, 100 * k),
    "The rates are percentages: 3.05 means .0305.": lambda n, h, m, k: coincident(n, 100 * h, 100 * m, k),
    "You rounded the rates before solving. Half a per cent becomes 0 or 1: round the result.": (
        lambda n, h, m, k: coincident(n, round(h), round(m), k)
    ),
    "You rounded the observed agreement, and everything is in its third decimal: round the result.": _rounded_agreement,
    "You rounded kappa before solving: round the result.": lambda n, h, m, k: coincident(n, h, m, round(k, -1)),
    "That is what chance alone would give, h m turns out of all: kappa says how much more it is.": (
        lambda n, h, m, k: n * h * m / 1e4
    ),
    "That is kappa times the smaller number of acts, as if nothing coincided by chance.": (
        lambda n, h, m, k: n * k * min(h, m) / 1e4
    ),
}


def _kappas(counts: pd.DataFrame) -> list[Blank]:
    pairs = counts.loc[counts["coincident"] > 0, ["emitted", "coincident"]].drop_duplicates()
    shown = [(TURNS, *printed(*pair)) for pair in pairs.itertuples(index=False)]
    lowest = counts.loc[counts["kappa"].idxmin()]

    def like(slip: Callable[..., float]) -> When:
        """A learner may round the result."""
        wanted = [slip(*probe) for probe in shown]
        return When(
            lambda values: all(abs(v - w) <= 1e-6 + 1e-3 * abs(w) or v == round(w) for [v], w in zip(values, wanted)),
            slip,
        )

    def hint(values: list) -> str:
        _, h, m, k = shown[0]
        return (
            f"Rates of {h} and {m} % with a kappa of {k} over {TURNS} turns belong to {pairs['coincident'].iloc[0]} "
            f"turns; you give {values[0][0]:.4g}. Observed agreement is 1 - h - m + 2c/n, and kappa = (observed - "
            "chance) / (1 - chance)."
        )

    slips = {message: like(slip) for message, slip in COINCIDENT.items()}
    row = "Put the two rates of that row and its kappa into your own function, and round."
    return [
        Blank(coincident, slips, hint, probes=shown, tolerance=0.3),
        Blank(float(lowest["coincident"]), {}, row, tolerance=1e-9),
        choice(
            "b",
            a=f"Worse than chance? {int(lowest['emitted'])} acts dropped at random on {TURNS} turns miss all {HUMAN} "
            f"of the human's with probability {_no_hit(counts):.2f}: no hit is what chance itself would most often "
            "give.",
            c="It is not rounding: no hit gives a kappa below 0 whatever the digits.",
        ),
    ]


def _no_hit(counts: pd.DataFrame) -> float:
    """Probability that the acts behind the lowest kappa miss all of the human's by chance."""
    return (1 - HUMAN / TURNS) ** int(counts.loc[counts["kappa"].idxmin(), "emitted"])


check_2 = Exercise(
    _kappas,
    lambda counts: (
        f"The printed clarification kappas are {counts.loc[counts['coincident'] > 0, 'coincident'].min()} or "
        f"{counts['coincident'].max()} coincident turns and differ in how many more were emitted. And no hit in "
        f"{int(counts.loc[counts['kappa'].idxmin(), 'emitted'])} has probability {_no_hit(counts):.2f} by chance: a "
        "negative kappa so small is a count of zero and nothing more."
    ),
    difficulty=3,
    minutes=15,
    hints=(
        "Write observed and chance agreement with h, m and the share of turns on which both act.",
        "kappa = (o - e) / (1 - e) with e = h m + (1 - h)(1 - m) and o = 1 - h - m + 2 c / n: solve for c.",
    ),
    given=("clarification_counts",),
)

# --- 3: what a single-turn rater can see ----------------------------------------------------------

PLACED: dict[str, Callable] = {
    "You counted the objects and forgot the place: unless it is mentioned, it is a guess, too.": lambda m, q: 1 / m,
    "You have the place. The words leave m objects, each as likely as the others.": lambda m, q: q,
}
CROSSINGS: dict[str, Callable] = {
    "With alpha = 0 that gives 1: no delivery would ever win. The rater compares with one half.": lambda a: 1 - a,
    "The charitable share pleases already; what is missing to one half must come from the others, who are only a share "
    "1 - alpha: divide.": lambda a: 0.5 - a,
    "That is how often a delivery pleases at p = 1/2. Ask for which p it is one half.": lambda a: a + (1 - a) / 2,
    "The charitable rater moves the point down, and yours does not move: where does alpha enter?": lambda a: 0.5,
    "The sign of alpha is reversed: more charity must lower the point.": lambda a: (0.5 + a) / (1 + a),
}
BOTH = "Both must be right: one of m objects, and the place, which is right with probability q."


def _crossing_hint(values: list) -> str:
    return (
        "A delivery pleases with probability alpha + (1 - alpha) p. Set it to 1/2 and solve for p: at alpha = 0 the "
        f"point is 1/2; you give {values[0][0]:.3g}."
    )


def right_at_once(m: int, q: float) -> float:
    return q / m


AT_ONCE = [(1, 1.0), (2, 1.0), (1, 0.5), (2, 0.5), (4, 0.25)]
CHARITY = [(0.0,), (0.1,), (0.3,), (0.45,)]

check_3 = Exercise(
    [
        Blank(right_at_once, PLACED, BOTH, probes=AT_ONCE, tolerance=1e-4),
        Blank(raters.crossing, CROSSINGS, _crossing_hint, probes=CHARITY, tolerance=1e-4),
        choice(
            "b",
            a="Below one half on average is not below one half everywhere. At alpha = 0 an act loses exactly where p "
            "> 1/2: there it was needless.",
            c="There is something to learn: a w of .48 is an average of contexts far above and far below one half.",
        ),
    ],
    f"At alpha = .3 every act loses where p > {raters.crossing(0.3):.3f}; from alpha = 1/2 on, everywhere. An average "
    "says nothing about where: you need w context by context.",
    difficulty=2,
    minutes=10,
    hints=(
        "A delivery is right if the object and the place are.",
        "It pleases with probability alpha + (1 - alpha) p: at which p is that one half?",
    ),
)

# --- 4: ten checkpoints of one run ----------------------------------------------------------------

RUNS = 2000
Simulation = Callable[[np.random.Generator], float]


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


@cache
def spread(kind: str) -> tuple[float, float]:
    """Mean and standard deviation of R over many runs of a kind."""
    return float(simulated(kind).mean()), float(simulated(kind).std())


def runs_of(simulate: Simulation, rng: np.random.Generator) -> np.ndarray:
    """R of `RUNS` runs [RUNS]."""
    return np.array([number(simulate(rng)) for _ in range(RUNS)])


def like(kind: str, sign: int = 1) -> When:
    """What gives R with the mean and spread of a kind of run, within four standard errors."""

    def holds(found: np.ndarray) -> bool:
        mean, sd = spread(kind)
        error = 4 * sd / math.sqrt(RUNS)
        return bool(abs(sign * found.mean() - mean) < error and abs(found.std() - sd) < error)

    values = sign * simulated(kind, 20_000)
    return When(holds, lambda rng: rng.choice(values))


def start_at_best(rng: np.random.Generator) -> float:
    """R of one flat run of ten checkpoints that begins at the best of ten earlier ones."""
    points = np.concatenate([[rng.normal(size=10).max()], rng.normal(size=9)])
    return float(np.corrcoef(np.arange(10), points)[0, 1])


def walk(rng: np.random.Generator) -> float:
    """R of one random walk of ten checkpoints."""
    return float(np.corrcoef(np.arange(10), rng.normal(size=10).cumsum())[0, 1])


KINDS = {start_at_best: "best_of_ten", walk: "random_walk"}


class Simulated(Blank):
    """A function of a random generator, judged by what it gives over `RUNS` runs."""

    def value(self, simulate: Simulation) -> np.ndarray:
        [[first]] = super().value(simulate)  # an empty blank, or no function of a generator
        return runs_of(simulate, np.random.default_rng(44)) if np.ndim(first) == 0 else np.full(RUNS, math.nan)

    def mistake(self, simulate: Simulation) -> str:
        if not callable(simulate):
            return "Give two functions of a random generator, start_at_best(rng) and walk(rng), and a number."
        found = self.value(simulate)
        if np.isnan(found).any() or np.abs(found).max() > 1 + 1e-9:
            return "Both functions must return one correlation, between -1 and 1, whenever they are called."
        if like(KINDS[self.answer]).holds(found):
            return ""
        return next((message for message, slip in self.slips.items() if slip.holds(found)), None) or self.hint(found)


ONE_RUN = {
    "Every run gives the same R: draw new noise from rng in each call.": When(
        lambda found: np.ptp(found) < 1e-9, lambda rng: 0.3
    ),
    "Your start is a point like the others. It was the best of ten earlier ones: take their maximum.": (
        like("independent")
    ),
    "You chose the start after looking at the run itself: its own maximum, moved to the front. The start is the best "
    "of ten *earlier* points, and the nine after it are untouched.": like("peeked"),
    "You sorted the run. Only its start was chosen; what follows is flat.": like("sorted"),
    "The sign is reversed: correlate with the step, which grows.": like("best_of_ten", -1),
}
ONE_WALK = {
    "These ten points are independent. Checkpoints of one run are not: each is the one before plus a step.": (
        like("independent")
    ),
}


def _start_hint(found: np.ndarray) -> str:
    return (
        "Ten earlier values of standard noise, their maximum first; then nine new values; and the correlation of the "
        f"ten with 0 ... 9. Your mean is {found.mean():+.2f}."
    )


def _correlations(correlations: pd.DataFrame) -> list[Blank]:
    row, limit = _printed(correlations)
    walks = simulated("random_walk")
    target, two_sided = float((walks <= limit).mean()), float((np.abs(walks) >= -limit).mean())
    independent = (row["p"], float((simulated("independent") <= limit).mean()))
    shares = {
        f"{row['p']:.3f} is the chance for *independent* points, which is what a printed p means. Ask your walks.": (
            When(lambda share: any(abs(share - p) <= 0.012 for p in independent), row["p"])
        ),
        "You counted both signs. The claim is a fall: R at most the printed value.": When(
            lambda share: abs(share - two_sided) <= 0.035, two_sided
        ),
        "That is the share of walks that do *not* fall so clearly.": 1 - target,
    }
    cumulative = "A random walk: the cumulative sum of ten steps of standard noise, correlated with 0 ... 9."
    asked = f"Run walk(rng) a few thousand times: in what share of them is R <= {limit:.2f}?"
    generator = [(np.random.default_rng(44),)]
    return [
        Simulated(start_at_best, ONE_RUN, _start_hint, probes=generator),
        Simulated(walk, ONE_WALK, lambda found: cumulative, probes=generator),
        Blank(target, shares, asked, tolerance=0.035),
    ]


def _printed(correlations: pd.DataFrame) -> tuple[pd.Series, float]:
    row = correlations.query("method == 'dpo' and act == 'followup'").dropna(subset=["printed"]).iloc[0]
    return row, row["printed"]


def _walks(correlations: pd.DataFrame) -> str:
    _, limit = _printed(correlations)
    share, mean = (simulated("random_walk") <= limit).mean(), spread("best_of_ten")[0]
    return (
        f"A walk that goes nowhere in particular shows R <= {limit:.2f} in {share:.0%} of the runs, and a flat run "
        f"begun at the best of ten earlier points has a mean R of {mean:.2f}. A p value over checkpoints treats them "
        "as ten samples; there was one run."
    )


check_4 = Exercise(
    _correlations,
    _walks,
    difficulty=3,
    minutes=15,
    hints=(
        "`np.corrcoef(np.arange(10), points)[0, 1]` is the R of one run.",
        "start_at_best: max of ten draws, then nine more draws. walk: rng.normal(size=10).cumsum().",
    ),
    given=("correlations",),
)

# --- 5: less is not worse placed, and more is not better ------------------------------------------

MEASURES = ("rate", "kappa", "kappa / kappa_max", "precision", "success")
DIRECTION = word(up="+ rises rise higher better", down="- falls fall lower worse")
EXPECTED = {
    "rate": "The rater prefers a guess to an act in most contexts with p > 0: can the acts become more?",
    "kappa": "Where the human acts and the model no longer does, they disagree: every lost act costs agreement.",
    "kappa / kappa_max": "Take the loss of rate out, as kappa_max does. The acts that go first are the least needed.",
    "precision": "You expect what is left to be misplaced. But a rater who forgives some guesses punishes the needless "
    "acts first: the acts that remain stand where the human acts, too.",
    "success": "A guess that pleases a charitable rater is still a guess: what happens when it is carried out?",
}


@cache
def moved() -> dict[str, str]:
    """Which way each of MEASURES goes, in each of the three acts, from the human's policy to that of charity .6."""
    before, after = world.exact(world.HUMAN), world.exact(raters.optimum(0.6))

    def of(found: dict[str, float], name: str, measure: str) -> float:
        if measure == "success":
            return found["success"]
        if measure == "kappa / kappa_max":
            return found[f"{name}_kappa"] / agreement.kappa_max(before[f"{name}_rate"], found[f"{name}_rate"])
        return found[f"{name}_{measure}"]

    ways = {m: {"up" if of(after, a, m) > of(before, a, m) else "down" for a in world.ACTS} for m in MEASURES}
    return {measure: way for measure, [way] in ways.items()}


def directions(predicted: Any) -> list[str]:
    return [DIRECTION(predicted.get(measure)) for measure in MEASURES] if hasattr(predicted, "get") else [""]


def wrong_at(measure: str) -> When:
    """The first wrong direction is that of this measure."""
    place, right = MEASURES.index(measure), [moved()[name] for name in MEASURES]
    other = {"up": "down", "down": "up"}
    return When(
        lambda values: len(values) == 5 and values[:place] == right[:place] and values[place] == other[right[place]],
        moved() | {measure: other[moved()[measure]]},
    )


def _kappas_of_asking() -> tuple[dict[str, tuple[float, float]], tuple[float, float], str]:
    """Kappa of each act before and after asking anyway in a tenth of the turns, the rates, and which falls most."""
    before, after = world.exact(world.HUMAN), world.exact(world.ask_anyway(0.1))
    kappas = {name: (before[f"{name}_kappa"], after[f"{name}_kappa"]) for name in world.ACTS}
    return kappas, (before["rate"], after["rate"]), max(kappas, key=lambda name: kappas[name][0] - kappas[name][1])


USEFUL = world.admissible()
ASKING: dict[str, Any] = {
    "You left the human's own acts whole and added d: in those d of the cases he does something else, so they shrink "
    "by 1 - d.": lambda d: world.HUMAN + d * USEFUL / USEFUL.sum(1, keepdims=True),
    "An act without a use in that context is not admissible: nobody acknowledges a closed request. Multiply with "
    "admissible().": lambda d: (1 - d) * world.HUMAN + d / 3,
    "Where two acts are admissible, each gets half of d: together they must not exceed it.": (
        lambda d: (1 - d) * world.HUMAN + d * USEFUL
    ),
    "With probability d he asks *anyway*; you let him act less.": lambda d: (1 - d) * world.HUMAN,
    f"A policy has a row a context and a column an act, shape {world.HUMAN.shape}.": When(
        lambda values: values[0][0].shape != world.HUMAN.shape, lambda d: np.zeros(3)
    ),
}


def _asking() -> list[Blank]:
    kappas, rates, suffers = _kappas_of_asking()
    compared = {
        f"A higher rate is not better grounding: at d = .1 all acts together go from {rates[0]:.0%} to {rates[1]:.0%} "
        "of the turns, and what is added stands at turns where the human needed nothing.": "none",
        "Not alike: the same d is little beside a common act and much beside a rare one. Look at exact(asking(.1)).": (
            "alike"
        ),
    }
    compared |= {
        f"{name}: its kappa goes from {a:.2f} to {b:.2f}. One falls further.": name
        for name, (a, b) in kappas.items()
        if name != suffers
    }
    wrong = {f"{measure}: {why}": wrong_at(measure) for measure, why in EXPECTED.items()}
    each = 'Predict "up" or "down" for each of the measures, as a dict by name.'
    mixed = "asking(d) is (1 - d) times HUMAN plus d times a uniform draw among the admissible acts."
    return [
        Blank(moved(), wrong, each, directions),
        Blank(world.ask_anyway, ASKING, mixed, array, [(0.1,), (0.3,)], 1e-6),
        Blank(suffers, compared, 'Answer the third blank with an act, or "alike", or "none".', act),
    ]


def _more_is_not_better() -> str:
    shown = "; ".join(f"{name} {a:.2f} to {b:.2f}" for name, (a, b) in _kappas_of_asking()[0].items())
    return (
        f"Kappa at d = .1: {shown}. The rarest act suffers most. Training for a charitable rater makes acts fewer and "
        "better placed; asking anyway makes them more and worse placed; kappa falls both times. Hence rate, kappa_max, "
        "precision and recall beside every kappa."
    )


check_5 = Exercise(
    _asking,
    _more_is_not_better,
    difficulty=2,
    minutes=12,
    hints=(
        "Which acts does a rater who forgives guesses punish first: the needed or the needless ones?",
        "asking(d): a row of admissible() divided by its sum, times d, plus (1 - d) times HUMAN.",
    ),
)
