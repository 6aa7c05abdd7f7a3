"""The tables of claim 5: what the papers printed, what follows from the rules, what the world showed."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaln, softmax

from candor.claims import shared
from candor.claims.shared import pivoted
from candor.language_models import outputs
from candor.language_models import run as language_models
from candor.rewards import CLIP
from candor.witnesses import evaluation
from candor.witnesses import run as witnesses
from candor.witnesses import world as world_of_witnesses
from candor.witnesses.evaluation import POSTERIOR_EDGES, TENTHS
from candor.witnesses.joint import Joint

SWAP = tuple(witnesses.ARMS["give_up"])
THREE = ("base", "rlvr", "rlcr")
# What the verdict needs first comes first.
ARMS = {"expert": THREE, "overconfident": THREE, "naive": THREE, "give_up": ("base", *SWAP)}
VARIANTS = {  # limits, controls and uses: the overall verdict does not rest on these
    "expert": (
        *("rlcr_group_std", "rlcr_batch_std", "rlcr_rolled_outcomes", "linear", "rlvr_short", "rlcr_short"),
        *("rlvr_short_classifier", "rlvr_classifier", "shuffled_reward"),
    ),
    "expert_conf_first": ("base", "rlcr_conf_first"),
    "twelve": THREE,
}
NEEDS = shared.trained_and_evaluated(ARMS, VARIANTS)
# The overall verdict rests on these; they run first.
DECISIVE = shared.trained_and_evaluated({"expert": THREE, "overconfident": THREE, "naive": ("base", "rlcr")})


# --- Published numbers ----------------------------------------------------------------------------

RELEASED = (*THREE, "classifier", "answer_probability", "sft_rlcr")
SWAP_ARMS = ("Correctness-only", "Brier-1", "Log-1/ln202", "Brier-2", "Log-1", "Brier Score", "Log Loss")


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """The papers' numbers about a proper second term, rearranged and nothing more; `folder` holds the CSVs."""
    names = ("rlcr_per_dataset", "rlcr_main", "rlcr_ablations", "rlcr_voting", "scoring_rule_swap")
    released, printed, ablations, votes, swap = (pd.read_csv(folder / f"{name}.csv") for name in names)
    history = pd.read_csv(folder / "calibration_history.csv")
    cells = _with_constants(shared.cells(released, RELEASED))
    values = "metric in ('distinct_confidence_values', 'values_with_3pct_mass')"
    printed_ones = "not location.str.startswith('re-analysis') and location != 'simulation'"
    repairs = "source == 'baniharouni2025doubt' or source == 'leng2024taming' and location.str.startswith('authors')"
    return {
        "main": _main(cells),
        "cells": cells,
        "wins": _wins(cells),
        "parity": _parity(cells, printed),
        "constant": _constant(cells),
        "narrow_band": _narrow_band(cells),
        # How many distinct confidences an arm states, and how many of them hold 3 % of the items or more.
        "confidence_values": pivoted(ablations, values, ["dataset", "arm", "n"], "metric"),
        "floor": shared.floor(ablations),
        # Prompts, log score, other base models, calibration-only rewards, classifiers on the analysis text.
        "ablations": pivoted(ablations, printed_ones, ["location", "model", "arm", "dataset"], "metric"),
        **_swaps(swap),
        "voting_published": _voting_published(votes),
        # Other repairs: Rewarding Doubt (log score, confidence tokens only) and calibrated reward models (Leng).
        "neighbours": pivoted(history, repairs, ["source", "location", "model", "dataset", "arm"], "metric"),
    }


def _in_table_1(cells: pd.DataFrame) -> pd.DataFrame:
    """Table 1 averages over these: the training distribution HotpotQA-Modified is left out."""
    return cells[cells["dataset"] != "HotpotQA-Modified"]


def _with_constants(cells: pd.DataFrame) -> pd.DataFrame:
    """Brier of RLCR's answers under one constant confidence: its in-domain accuracy, and (hindsight) its own here.

    A constant q on questions of accuracy a scores a(1-a) + (q-a)^2.
    """
    inside = _in_table_1(cells).query("domain == 'in'").groupby("family")["rlcr_accuracy"].mean()
    a, constant = cells["rlcr_accuracy"], cells["family"].map(inside)
    own = a * (1 - a)
    return cells.assign(constant_confidence=constant, constant_brier=own + (constant - a) ** 2, own_constant_brier=own)


def _main(cells: pd.DataFrame) -> pd.DataFrame:
    """Table 1: means over data sets, a row a family, domain and arm."""
    measures = ("accuracy", "confidence", "auroc", "brier", "ece")
    rows = [
        {"family": family, "domain": domain, "arm": arm, "datasets": len(block)}
        | {measure: block[f"{arm}_{measure}"].mean() for measure in measures}
        for (family, domain), block in _in_table_1(cells).groupby(["family", "domain"], sort=False)
        for arm in RELEASED
    ]
    return pd.DataFrame(rows).dropna(subset=["accuracy"], ignore_index=True)


def _wins(cells: pd.DataFrame) -> pd.DataFrame:
    """In how many cells RLCR is better than RLVR and than the base; `lost` names the others."""
    names = cells["dataset"] + " (" + cells["family"] + "-trained)"
    rows = []
    for against, metric in itertools.product(("rlvr", "base"), ("brier", "ece", "auroc")):
        sign = 1 if metric == "auroc" else -1
        better = sign * (cells[f"rlcr_{metric}"] - cells[f"{against}_{metric}"]) > 0
        rows.append((against, metric, int(better.sum()), len(cells), ", ".join(names[~better])))
    return pd.DataFrame(rows, columns=["against", "metric", "wins", "cells", "lost"])


def _parity(cells: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of RLCR minus RLVR in the four blocks of Table 1, by the printed cells and by the released runs."""
    columns = {"rlvr": "rlvr_accuracy", "rlcr": "rlcr_accuracy"}
    blocks = printed.assign(
        family=printed["setting"].map(shared.FAMILIES),
        domain=printed["dataset"].map({"in-domain": "in", "out-of-domain": "out"}),
    )
    of_table_1 = f"location.str.startswith('Table 1') and metric == 'accuracy' and arm in {tuple(columns)}"
    as_printed = pivoted(blocks, of_table_1, ["family", "domain"], "arm").rename(columns=columns)
    as_released = _in_table_1(cells).groupby(["family", "domain"])[list(columns.values())].mean().reset_index()
    table = pd.concat([as_printed.assign(reading="as printed"), as_released.assign(reading="as released")])
    table = table[["reading", "family", "domain", *as_printed.columns[2:]]].reset_index(drop=True)
    return table.assign(difference=table["rlcr_accuracy"] - table["rlvr_accuracy"])


def _constant(cells: pd.DataFrame) -> pd.DataFrame:
    """Out-of-domain mean Brier beside one constant confidence, and the share of RLCR's gain that it explains."""
    columns = [f"{arm}_brier" for arm in ("rlvr", "constant", "classifier", "rlcr")]
    outside = _in_table_1(cells).query("domain == 'out'").groupby("family", sort=False)
    table = outside[["constant_confidence", *columns]].mean().reset_index()
    rlvr, constant, classifier, rlcr = (table[column] for column in columns)
    return table.assign(
        beats_constant=constant - rlcr,
        classifier_beats_constant=constant - classifier,
        share_explained=(rlvr - constant) / (rlvr - rlcr),
    )


def _narrow_band(cells: pd.DataFrame) -> pd.DataFrame:
    """How far RLCR's mean confidence follows accuracy over data sets: the slope, and both ranges."""
    rows = []
    for family, part in cells.groupby("family", sort=False):
        a, q = part["rlcr_accuracy"], part["rlcr_confidence"]
        rows.append((family, len(part), *np.polyfit(a, q, 1), q.min(), q.max(), a.min(), a.max()))
    columns = ["family", "datasets", "slope", "intercept", "confidence_low", "confidence_high"]
    return pd.DataFrame(rows, columns=[*columns, "accuracy_low", "accuracy_high"])


def _swaps(swap: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """arXiv 2607.04332, by data set and difficulty.

    `swap`: accuracy by rule, and relative to rewarding correctness only. `swap_parity`, an independent look at parity:
    accuracy of Brier-1 (= RLCR) minus Correctness-only. `swap_skill`: Brier-1 beside a constant at its own accuracy;
    skill = 1 - Brier / (accuracy (1 - accuracy)). `swap_check`: does the printed Brier-1 reward equal accuracy - Brier?
    Rounding allows a unit in the last place.
    """
    rows = swap.assign(split=swap["setting"].str.removeprefix("split: "))
    table = pivoted(rows, "setting.str.startswith('split')", ["dataset", "split", "arm"], "metric")
    accuracy, score = table["accuracy"], table["brier"]
    reference = accuracy.where(table["arm"] == "Correctness-only").groupby([table["dataset"], table["split"]])
    relative = table.assign(relative=accuracy / reference.transform("first"))
    arms = relative[relative["arm"].isin(SWAP_ARMS)].dropna(subset=["accuracy"])
    parity = arms.pivot(index=["dataset", "split"], columns="arm", values="accuracy").reset_index()
    # Where the splits are printed, their union adds nothing.
    parity = parity[(parity["split"] != "all") | (parity["dataset"] == "HotpotQA")].rename_axis(columns=None)
    parity = parity.rename(columns={"Correctness-only": "correctness_only", "Brier-1": "brier1"})
    parity = parity[["dataset", "split", "correctness_only", "brier1"]]
    constant = accuracy * (1 - accuracy)
    skill = table.assign(own_constant_brier=constant, skill=1 - score / constant)
    skill = skill.query("arm == 'Brier-1' and split == 'all'")
    error = (table["brier1_reward"] - (accuracy - score)).abs()
    checked = table.assign(error=error, agrees=error < 1.5e-4).groupby("dataset", as_index=False)
    tables = {
        "swap": arms[["dataset", "split", "arm", "accuracy", "relative"]],
        "swap_parity": parity.assign(difference=parity["brier1"] - parity["correctness_only"]),
        "swap_skill": skill[["dataset", "accuracy", "auroc", "brier", "own_constant_brier", "skill"]],
        "swap_check": checked.agg(rows=("error", "size"), agree=("agrees", "sum"), largest_error=("error", "max")),
    }
    return {name: rows.reset_index(drop=True) for name, rows in tables.items()}


def _voting_published(votes: pd.DataFrame) -> pd.DataFrame:
    """Voting (project page, read off a plot), gains against the majority vote, and averaged analyses (Brier)."""
    names = {
        "n": "votes",
        "confidence_weighted_majority": "weighted",
        "average_confidence_over_resampled_analyses": "averaged_analyses_brier",
    }
    table = pivoted(votes, "n > 0", "n", "arm").rename(columns=names)
    gains = {name: table[name] - table["majority"] for name in ("weighted", "max_confidence")}
    return table.assign(**{f"{name}_gain": gain for name, gain in gains.items()})


# --- What follows from the rules alone ------------------------------------------------------------

RULES = (*SWAP, "linear")
PROPER = SWAP  # the binary reward says nothing about q, so no q is better than the honest one
SCORES = {  # S(q, c), of numbers or symbols; `log` is handed over
    "brier": lambda q, c, log: -((q - c) ** 2),
    "log": lambda q, c, log: log(q if c else 1 - q),
    "linear": lambda q, c, log: -(1 - q if c else q),
}


@cache
def terms(rule: str) -> tuple[float, str | None, float]:
    """Weight of correctness, name and weight of the scoring rule, as the arm of that name is trained."""
    setting = "give_up" if rule in SWAP else "expert"
    weights = dict(witnesses.STEPS[f"witnesses/{setting}/{rule}"].options["reward"])
    score = next((name for name in SCORES if f"{name}_score" in weights), None)
    return weights.get("correct", 0.0), score, weights.get(f"{score}_score", 0.0)


def payoff(rule: str, q: np.ndarray, clip: float = CLIP) -> tuple[np.ndarray, np.ndarray]:
    """Reward f(q) of a right and g(q) of a wrong answer; `clip` limits q where the rule takes logarithms."""
    correct, score, weight = terms(rule)
    q = np.asarray(q, dtype=float)
    if score is None:
        return np.full_like(q, correct), np.zeros_like(q)
    q = np.clip(q, clip, 1 - clip) if score == "log" else q
    right, wrong = (weight * SCORES[score](q, c, np.log) for c in (1, 0))
    return correct + right, wrong


def best(rule: str, p: np.ndarray, q: np.ndarray, clip: float = CLIP) -> tuple[np.ndarray, np.ndarray]:
    """Over the allowed `q` [k], for each p [n]: the best one and the expected reward V(p) that it earns."""
    right, wrong = payoff(rule, q, clip)
    expected = np.multiply.outer(p, right) + np.multiply.outer(1 - p, wrong)
    return q[expected.argmax(1)], expected.max(1)


def theory(questions: int = 100_000, tabular_questions: int = 300, group_steps: int = 200) -> dict[str, pd.DataFrame]:
    """Rules, thresholds, and what ideal forecasters and exact policy gradients reach; computed, not copied."""
    drawn = world_of_witnesses.sample_questions(tabular_questions, np.random.default_rng(1))
    return {
        "curves": curves(),
        "optimum": optimum(),
        "rules": rules(),
        "thresholds": thresholds(),
        "safe_weights": safe_weights(),
        "as_coded": as_coded(),
        "group_scaling": group_scaling(group_steps),
        "tabular": tabular(world_of_witnesses.posterior(drawn)),
        "voting_reference": voting_reference(questions // 2),
        "shift_reference": shift_reference(questions),
    }


def curves() -> pd.DataFrame:
    """f, g and their gap at each stated q = x, and V at each probability p = x of being right (log clipped at .01).

    Columns: rule, x, right, wrong, gap, value. The expected reward at (p, q) is p right(q) + (1-p) wrong(q).
    """
    x, fine = np.linspace(0, 1, 101), np.linspace(0, 1, 1001)
    frames = [
        pd.DataFrame({"rule": rule, "x": x, "right": right, "wrong": wrong, "value": best(rule, x, fine)[1]})
        for rule in RULES
        for right, wrong in [payoff(rule, x)]
    ]
    table = pd.concat(frames, ignore_index=True)
    table.insert(4, "gap", table["right"] - table["wrong"])
    return table


def optimum() -> pd.DataFrame:
    """RLCR on a grid of .001: the q that pays most and what it pays. Columns: p, best_q, value."""
    grid = np.arange(1001) / 1000
    q, value = best("swap_rlcr", grid, grid)
    return pd.DataFrame({"p": grid, "best_q": q, "value": value})


def rules() -> pd.DataFrame:
    """Every rule: proper, the gap identity by symbols and by differences, hackable, where trying is worth least.

    Columns: rule, proper, gap and value (formulas, without clip), stationary and identity (what d/dq at q = p
    and V' - (f - g) simplify to), identity_error (numeric maximum, p = .01 ... .99), min_gap, hackable (0/1),
    min_value, min_value_p. The numbers are for the clip that training uses.
    """
    import sympy as sp

    def simple(expression) -> str:
        return str(sp.simplify(expression))

    p, q = sp.symbols("p q", positive=True)
    fine, grid = np.linspace(0, 1, 10_001), np.linspace(0, 1, 1001)
    rows = []
    for rule in RULES:
        right, wrong = _symbolic(rule, q)
        expected, gap, proper = p * right + (1 - p) * wrong, right - wrong, rule in PROPER
        trying = expected.subs(q, p)
        least, value = np.subtract(*payoff(rule, fine)).min(), best(rule, grid, grid)[1]
        row = {"rule": rule, "proper": proper, "gap": simple(gap), "value": simple(trying) if proper else ""}
        row["stationary"] = simple(sp.diff(expected, q).subs(q, p))
        row["identity"] = simple(sp.diff(trying, p) - gap.subs(q, p)) if proper else ""
        row["identity_error"] = _identity_error(rule) if proper else np.nan
        row |= {"min_gap": least, "hackable": int(least < -1e-12)}
        rows.append(row | {"min_value": value.min(), "min_value_p": grid[value.argmin()]})
    return pd.DataFrame(rows)


def _symbolic(rule: str, q):
    """f and g of a rule as sympy expressions of q, exact weights, no clip."""
    import sympy as sp

    correct, score, weight = terms(rule)
    if score is None:
        return sp.Integer(int(correct)), sp.Integer(0)
    correct, weight = sp.Rational(str(correct)), sp.Rational(str(weight))
    right, wrong = (weight * SCORES[score](q, c, sp.log) for c in (1, 0))
    return correct + right, wrong


def _identity_error(rule: str, h: float = 1e-5) -> float:
    """Largest |V' - (f - g)|: V by numeric maximum over q, its slope by central differences."""

    def value(p: float) -> float:
        def loss(q):
            right, wrong = payoff(rule, q)
            return -(p * right + (1 - p) * wrong)

        return -minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).fun

    p = np.arange(1, 100) / 100
    slope = np.array([(value(x + h) - value(x - h)) / (2 * h) for x in p])
    return float(np.abs(slope - np.subtract(*payoff(rule, p))).max())


def thresholds() -> pd.DataFrame:
    """Probability of being right from which an honest try is worth a surely wrong answer at the lowest q; 0: always.

    Columns: rule, grid (of allowed q: continuous, tenths, midpoints (k + .5)/11), clip, threshold.
    """
    rows = [(rule.removeprefix("swap_"), "continuous", 0.0, last_loss(rule)) for rule in SWAP]
    grids, p = {"tenths": TENTHS, "midpoints": (np.arange(11) + 0.5) / 11}, np.arange(100_001) / 100_000
    for rule, grid, clip in (
        *(("log1", "tenths", 0.01), ("log1", "tenths", 0.001), ("log1", "midpoints", 0.0)),
        *(("log_k", "tenths", 0.01), ("brier2", "tenths", 0.0), ("rlcr", "tenths", 0.0)),
    ):
        name, q = f"swap_{rule}", grids[grid]
        worse = p[best(name, p, q, clip)[1] < payoff(name, q[:1], clip)[1][0] - 1e-12]
        rows.append((rule, grid, clip, worse.max() + 1e-5 if worse.size else 0.0))
    return pd.DataFrame(rows, columns=["rule", "grid", "clip", "threshold"])


def last_loss(rule: str) -> float:
    """The last zero of V(p) - g(0), q continuous and not clipped; 0 if trying always pays, 1 if it never does."""

    def advantage(p):
        with np.errstate(divide="ignore"):  # of a right answer at q = 0, which nobody takes
            right, wrong = payoff(rule, np.append(p, 0.0), clip=0.0)
        return p * right[:-1] + (1 - p) * wrong[:-1] - wrong[-1]

    p = np.arange(1, 2000) / 2000
    losing = p[advantage(p) < 0]
    if losing.size == 0 or losing[-1] == p[-1]:
        return float(losing.size > 0)
    return brentq(lambda p: advantage(p)[0], losing[-1], losing[-1] + 1 / 2000, xtol=1e-15)


def safe_weights() -> pd.DataFrame:
    """Largest weight of the log score with which no gap is negative, by clip e: 1 / ln((1 - e)/e)."""
    clips = (0.001, 1 / 203, 0.01, 0.05, 0.1)
    return pd.DataFrame({"clip": clips, "weight": [1 / np.log((1 - e) / e) for e in clips]})


def as_coded() -> pd.DataFrame:
    """The formula c - (q-c)^2 beside what the authors' code pays: .5 format + .5 c + .5 (1 - (q-c)^2), 0 if malformed.

    Among well-formed completions the second is half the first plus 1, so they rank alike; against malformed
    ones the constant acts as a further format bonus. Columns: outcome, q, formula, coded, coded_minus_half.
    """
    rows = [("malformed", np.nan, np.nan, 0.0)]
    for outcome, c in (("right", 1), ("wrong", 0)):
        rows += [(outcome, q, c - (q - c) ** 2, 0.5 + 0.5 * c + 0.5 * (1 - (q - c) ** 2)) for q in TENTHS]
    table = pd.DataFrame(rows, columns=["outcome", "q", "formula", "coded"])
    return table.assign(coded_minus_half=table["coded"] - table["formula"] / 2)


GROUP = 8


def group_scaling(steps: int = 200, step_size: float = 6.0) -> pd.DataFrame:
    """Exact GRPO on the stated confidence of one certain answer, groups of 8 that share the outcome.

    The expectation runs over every group that eleven confidences can form. Columns: scaling (none, group),
    p (probability of being right), confidence (mean at the end), concentration (largest probability).
    """
    combinations = np.array(list(itertools.combinations_with_replacement(range(11), GROUP)))
    counts = np.stack([(combinations == k).sum(1) for k in range(11)], 1).astype(float)
    log_ways = gammaln(GROUP + 1) - gammaln(counts + 1).sum(1)
    probabilities = (0.1, 0.3, 0.4, 0.6, 0.7, 0.9)
    p = np.array(probabilities)[:, None]

    def gradients(c: int, scaling: str) -> np.ndarray:
        """[group, confidence]: sum of advantages of each confidence in each group, over the group's size."""
        reward = -((TENTHS - c) ** 2)
        advantage = reward - counts @ reward[:, None] / GROUP
        if scaling == "group":
            spread = np.sqrt((counts * advantage**2).sum(1) / (GROUP - 1))
            advantage = advantage / (spread[:, None] + 1e-4)
        return counts * advantage / GROUP

    rows = []
    for scaling in ("none", "group"):
        right, wrong = gradients(1, scaling), gradients(0, scaling)
        logits = np.zeros((len(p), 11))
        for _ in range(steps):
            chance = np.exp(log_ways[:, None] + counts @ np.log(softmax(logits, 1) + 1e-300).T).T
            logits += step_size * (p * (chance @ right) + (1 - p) * (chance @ wrong))
        policy = softmax(logits, 1)
        rows += zip(itertools.repeat(scaling), probabilities, policy @ TENTHS, policy.max(1))
    return pd.DataFrame(rows, columns=["scaling", "p", "confidence", "concentration"])


def tabular(posterior: np.ndarray, steps: int = 300, step_size: float = 3.0) -> pd.DataFrame:
    """Exact policy gradient of the seven rules with one table of logits a question, from the give-up crowd.

    A prediction for the arms `swap_*` without a network; `optimal` is what the rule pays for at the best q.
    `posterior` [questions, suspects]. Columns: arm, bin_low, bin_high, n, give_up_rate, optimal,
    accuracy_sampled (of all questions).
    """
    n = len(posterior)
    chance = np.concatenate([posterior, np.zeros((n, 1))], 1)[:, :, None]  # the last answer, NONE, is never right
    given = np.concatenate([shared.stated(posterior), np.broadcast_to(TENTHS == 0, (n, 1, 11))], 1)
    answers = np.concatenate([0.95 * posterior, np.full((n, 1), 0.05)], 1)
    peak, frames = posterior.max(1), []
    which = evaluation.posterior_bin(peak)
    for rule in SWAP:
        right, wrong = payoff(rule, TENTHS)
        reward = chance * right + (1 - chance) * wrong
        a_logits, q_logits = np.log(answers + 1e-12), np.log(given + 1e-6)
        for _ in range(steps):
            a, q = softmax(a_logits, 1), softmax(q_logits, 2)
            value = (q * reward).sum(2)
            a_logits += step_size * a * (value - (a * value).sum(1, keepdims=True))
            q_logits += step_size * a[:, :, None] * q * (reward - value[:, :, None])
        a = softmax(a_logits, 1)
        gives_up = best(rule, peak, TENTHS)[1] < wrong[0] - 1e-12
        bins = pd.DataFrame({"give_up_rate": a[:, -1], "optimal": gives_up}).groupby(which)
        means = bins.mean().assign(arm=rule, n=bins.size(), accuracy_sampled=(a * chance[:, :, 0]).sum(1).mean())
        frames.append(means.assign(bin_low=POSTERIOR_EDGES[means.index], bin_high=POSTERIOR_EDGES[means.index + 1]))
    columns = ["arm", "bin_low", "bin_high", "n", "give_up_rate", "optimal", "accuracy_sampled"]
    return pd.concat(frames, ignore_index=True)[columns]


def voting_reference(questions: int = 50_000) -> pd.DataFrame:
    """Votes over answers drawn from the exact posterior, weighted by it or by the crowd's noisy confidence.

    Columns: weights (posterior, crowd), votes, rule, accuracy, difference, difference_se, diversity.
    """
    drawn = world_of_witnesses.sample_questions(questions, np.random.default_rng(3))
    exact = world_of_witnesses.posterior(drawn)
    nothing = np.zeros(questions)
    honest = np.rint(exact * 10)[..., None] == np.arange(11)
    frames = []
    for weights, confidence in (("posterior", honest), ("crowd", shared.stated(exact))):
        joint = Joint(exact, confidence, nothing, nothing)
        votes = evaluation.vote(joint, drawn.guilty, np.random.default_rng(4))
        frames.append(votes.assign(weights=weights))
    return pd.concat(frames, ignore_index=True)


def shift_reference(questions: int = 100_000) -> pd.DataFrame:
    """The best that can be done under each shift: by Bayes there, and by Bayes for the training world.

    Columns: shift, n, bayes_accuracy, mean_posterior, ideal_accuracy, ideal_brier, ideal_ece (of the forecaster
    that ascribes the training world's reliabilities to the witnesses).
    """
    rows = []
    for shift, variant in world_of_witnesses.SHIFTS.items():
        asked = world_of_witnesses.sample_questions(questions, np.random.default_rng(5), variant)
        exact = world_of_witnesses.posterior(asked, variant.reliability)
        bayes = {"bayes_accuracy": (exact.argmax(1) == asked.guilty).mean(), "mean_posterior": exact.max(1).mean()}
        ideal = evaluation.ideal_measures(world_of_witnesses.posterior(asked), asked.guilty)
        rows.append({"shift": shift, "n": questions} | bayes | ideal)
    return pd.DataFrame(rows)


# --- The world ------------------------------------------------------------------------------------

COURSE = (
    *("accuracy_greedy", "accuracy_sampled", "answer_ece", "q_mean_mean", "q_mean_ece", "q_mean_brier"),
    "q_mean_abs_posterior",
)
DRAWN = {
    "expert": (*THREE, "rlcr_group_std", "rlcr_batch_std", "linear", "rlvr_classifier"),
    **{"overconfident": THREE, "naive": THREE},
}
SHORT = ("rlvr_short", "rlcr_short", "rlvr_short_classifier")
SHIFTED = {"expert": (*THREE, "rlvr_classifier", *SHORT), "twelve": THREE}


def world(results) -> dict[str, pd.DataFrame]:
    """What the trained models did, from the evaluation steps; a table without a finished step is left out."""
    groups = (ARMS, VARIANTS, results.own("brier_fix"))
    return shared.world_tables(results, groups, DRAWN, {"expert": ("rlvr", "rlcr")}, COURSE) | shared.present(
        posterior_bins=shared.collect(results, "posterior_bins", ARMS),
        shift=shared.collect(results, "shift", SHIFTED),
        voting=shared.collect(results, "voting", {"expert": THREE}),
    )


def released() -> dict[str, pd.DataFrame]:
    """What the authors' released outputs say."""
    return outputs.tables()


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models did; empty at a scale that asks for none."""
    return language_models.tables(results)
