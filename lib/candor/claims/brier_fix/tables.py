"""The tables of claim 5: what the papers printed, what follows from the rules, what the world showed."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from candor.claims import shared
from candor.language_models import outputs
from candor.language_models import run as language_models
from candor.measure.calibration import brier, ece
from candor.rewards import CLIP
from candor.witnesses import evaluation
from candor.witnesses import run as witnesses
from candor.witnesses import world as world_of_witnesses
from candor.witnesses.evaluation import POSTERIOR_EDGES, TENTHS
from candor.witnesses.joint import Joint

SWAP = (
    "swap_rlvr",
    "swap_rlcr",
    "swap_brier2",
    "swap_log1",
    "swap_log_k",
    "swap_brier_only",
    "swap_log_only",
)
# What the verdict needs first comes first.
ARMS = {
    "expert": ("base", "rlvr", "rlcr"),
    "overconfident": ("base", "rlvr", "rlcr"),
    "naive": ("base", "rlvr", "rlcr"),
    "give_up": ("base", *SWAP),
}
VARIANTS = {  # limits, controls and uses: the overall verdict does not rest on these
    "expert": (
        "rlcr_group_std",
        "rlcr_batch_std",
        "rlcr_rolled_outcomes",
        "linear",
        "rlvr_short",
        "rlcr_short",
        "rlvr_short_classifier",
        "rlvr_classifier",
        "shuffled_reward",
    ),
    "expert_conf_first": ("base", "rlcr_conf_first"),
    "twelve": ("base", "rlvr", "rlcr"),
}
NEEDS = shared.trained_and_evaluated(ARMS, VARIANTS)
# The overall verdict rests on these; they run first.
DECISIVE = shared.trained_and_evaluated(
    {
        **{crowd: ARMS[crowd] for crowd in ("expert", "overconfident")},
        "naive": ("base", "rlcr"),
    }
)


# --- Published numbers ----------------------------------------------------------------------------

RELEASED = ("base", "rlvr", "rlcr", "classifier", "answer_probability", "sft_rlcr")
SWAP_ARMS = ("Correctness-only", "Brier-1", "Log-1/ln202", "Brier-2", "Log-1", "Brier Score", "Log Loss")


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """The papers' numbers about a proper second term, rearranged and nothing more; `folder` holds the CSVs."""
    released, printed, ablations, votes, swap, history = (
        pd.read_csv(folder / f"{name}.csv")
        for name in (
            "rlcr_per_dataset",
            "rlcr_main",
            "rlcr_ablations",
            "rlcr_voting",
            "scoring_rule_swap",
            "calibration_history",
        )
    )
    cells = _with_constants(shared.cells(released, RELEASED))
    return {
        "main": _main(cells),
        "cells": cells,
        "wins": _wins(cells),
        "parity": _parity(cells, printed),
        "constant": _constant(cells),
        "narrow_band": _narrow_band(cells),
        "confidence_values": _confidence_values(ablations),
        "floor": shared.floor(ablations),
        "ablations": _ablations(ablations),
        "swap": _swap(swap),
        "swap_parity": _swap_parity(swap),
        "swap_skill": _swap_skill(swap),
        "swap_check": _swap_check(swap),
        "voting_published": _voting_published(votes),
        "neighbours": _neighbours(history),
    }


def _in_table_1(cells: pd.DataFrame) -> pd.DataFrame:
    """Table 1 averages over these: the training distribution HotpotQA-Modified is left out."""
    return cells[cells["dataset"] != "HotpotQA-Modified"]


def _with_constants(cells: pd.DataFrame) -> pd.DataFrame:
    """Brier of RLCR's answers under one constant confidence: its in-domain accuracy, and (hindsight) its own here.

    A constant q on questions of accuracy a scores a(1-a) + (q-a)^2.
    """
    inside = _in_table_1(cells).query("domain == 'in'").groupby("family")["rlcr_accuracy"].mean()
    a = cells["rlcr_accuracy"]
    constant = cells["family"].map(inside)
    return cells.assign(
        constant_confidence=constant,
        constant_brier=a * (1 - a) + (constant - a) ** 2,
        own_constant_brier=a * (1 - a),
    )


def _main(cells: pd.DataFrame) -> pd.DataFrame:
    """Table 1: means over data sets, a row a family, domain and arm."""
    rows = []
    for (family, domain), block in _in_table_1(cells).groupby(["family", "domain"], sort=False):
        for arm in RELEASED:
            means = {m: block[f"{arm}_{m}"].mean() for m in ("accuracy", "confidence", "auroc", "brier", "ece")}
            rows.append({"family": family, "domain": domain, "arm": arm, "datasets": len(block)} | means)
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
    rows = printed[
        printed["location"].str.startswith("Table 1") & printed["arm"].isin(columns) & printed["metric"].eq("accuracy")
    ]
    rows = rows.assign(
        family=rows["setting"].map(shared.FAMILIES),
        domain=rows["dataset"].map({"in-domain": "in", "out-of-domain": "out"}),
    )
    as_printed = rows.pivot(index=["family", "domain"], columns="arm", values="value").rename(columns=columns)
    as_released = _in_table_1(cells).groupby(["family", "domain"])[list(columns.values())].mean()
    table = pd.concat({"as printed": as_printed, "as released": as_released}, names=["reading"]).reset_index()
    return table.rename_axis(columns=None).assign(difference=table["rlcr_accuracy"] - table["rlvr_accuracy"])


def _constant(cells: pd.DataFrame) -> pd.DataFrame:
    """Out-of-domain mean Brier beside one constant confidence, and the share of RLCR's gain that it explains."""
    outside = _in_table_1(cells).query("domain == 'out'")
    columns = [f"{arm}_brier" for arm in ("rlvr", "constant", "classifier", "rlcr")]
    table = outside.groupby("family", sort=False)[["constant_confidence", *columns]].mean().reset_index()
    return table.assign(
        beats_constant=table["constant_brier"] - table["rlcr_brier"],
        classifier_beats_constant=table["constant_brier"] - table["classifier_brier"],
        share_explained=(table["rlvr_brier"] - table["constant_brier"]) / (table["rlvr_brier"] - table["rlcr_brier"]),
    )


def _narrow_band(cells: pd.DataFrame) -> pd.DataFrame:
    """How far RLCR's mean confidence follows accuracy over data sets: the slope, and both ranges."""
    rows = []
    for family, part in cells.groupby("family", sort=False):
        a, q = part["rlcr_accuracy"], part["rlcr_confidence"]
        slope, intercept = np.polyfit(a, q, 1)
        rows.append((family, len(part), slope, intercept, q.min(), q.max(), a.min(), a.max()))
    columns = ["family", "datasets", "slope", "intercept", "confidence_low", "confidence_high"]
    return pd.DataFrame(rows, columns=[*columns, "accuracy_low", "accuracy_high"])


def _confidence_values(ablations: pd.DataFrame) -> pd.DataFrame:
    """How many distinct confidences an arm states, and how many of them hold 3 % of the items or more."""
    rows = ablations[ablations["metric"].isin(["distinct_confidence_values", "values_with_3pct_mass"])]
    wide = rows.pivot(index=["dataset", "arm", "n"], columns="metric", values="value")
    return wide.reset_index().rename_axis(columns=None)


def _ablations(ablations: pd.DataFrame) -> pd.DataFrame:
    """Prompts, log score, other base models, calibration-only rewards, classifiers on the analysis text."""
    derived = ablations["location"].str.startswith("re-analysis") | ablations["location"].eq("simulation")
    wide = ablations[~derived].pivot(index=["location", "model", "arm", "dataset"], columns="metric", values="value")
    return wide.reset_index().rename_axis(columns=None)


def _swap_rows(swap: pd.DataFrame, metrics: tuple[str, ...], arms=SWAP_ARMS) -> pd.DataFrame:
    rows = swap[swap["arm"].isin(arms) & swap["metric"].isin(metrics) & swap["setting"].str.startswith("split")]
    rows = rows.assign(split=rows["setting"].str.removeprefix("split: "))
    return rows.pivot(index=["dataset", "split", "arm"], columns="metric", values="value").reset_index()


def _swap(swap: pd.DataFrame) -> pd.DataFrame:
    """arXiv 2607.04332: accuracy by rule, data set and difficulty, and relative to rewarding correctness only."""
    table = _swap_rows(swap, ("accuracy",)).rename_axis(columns=None)
    reference = table[table["arm"] == "Correctness-only"].set_index(["dataset", "split"])["accuracy"]
    keys = pd.MultiIndex.from_frame(table[["dataset", "split"]])
    return table.assign(relative=table["accuracy"].to_numpy() / reference.loc[keys].to_numpy())


def _swap_parity(swap: pd.DataFrame) -> pd.DataFrame:
    """An independent look at parity: accuracy of Brier-1 (= RLCR) minus Correctness-only, by difficulty."""
    table = _swap(swap).pivot(index=["dataset", "split"], columns="arm", values="accuracy").reset_index()
    # Where the splits are printed, their union adds nothing.
    table = table[(table["split"] != "all") | (table["dataset"] == "HotpotQA")]
    return pd.DataFrame(
        {
            "dataset": table["dataset"],
            "split": table["split"],
            "correctness_only": table["Correctness-only"],
            "brier1": table["Brier-1"],
            "difference": table["Brier-1"] - table["Correctness-only"],
        }
    ).reset_index(drop=True)


def _swap_skill(swap: pd.DataFrame) -> pd.DataFrame:
    """Brier-1 beside a constant at its own accuracy; skill = 1 - Brier / (accuracy (1 - accuracy))."""
    table = _swap_rows(swap, ("accuracy", "brier", "auroc"), ("Brier-1",)).query("split == 'all'")
    table = table.drop(columns=["split", "arm"]).rename_axis(columns=None).reset_index(drop=True)
    constant = table["accuracy"] * (1 - table["accuracy"])
    return table.assign(own_constant_brier=constant, skill=1 - table["brier"] / constant)


def _swap_check(swap: pd.DataFrame) -> pd.DataFrame:
    """Does the printed Brier-1 reward equal accuracy - Brier? By data set; rounding allows a unit in the last place."""
    every = tuple(swap["arm"].unique())
    table = _swap_rows(swap, ("accuracy", "brier", "brier1_reward"), every)
    error = (table["brier1_reward"] - (table["accuracy"] - table["brier"])).abs()
    groups = table.assign(error=error, agrees=error < 1.5e-4).groupby("dataset")
    return groups.agg(rows=("error", "size"), agree=("agrees", "sum"), largest_error=("error", "max")).reset_index()


def _voting_published(votes: pd.DataFrame) -> pd.DataFrame:
    """Voting (project page, read off a plot), gains against the majority vote, and averaged analyses (Brier)."""
    table = votes.pivot(index="n", columns="arm", values="value").reset_index().rename_axis(columns=None)
    table = table.rename(
        columns={
            "n": "votes",
            "confidence_weighted_majority": "weighted",
            "average_confidence_over_resampled_analyses": "averaged_analyses_brier",
        }
    )
    return table.assign(
        weighted_gain=table["weighted"] - table["majority"],
        max_confidence_gain=table["max_confidence"] - table["majority"],
    )


def _neighbours(history: pd.DataFrame) -> pd.DataFrame:
    """Other repairs: Rewarding Doubt (log score, confidence tokens only) and calibrated reward models (Leng)."""
    doubt = history["source"].eq("baniharouni2025doubt")
    leng = history["source"].eq("leng2024taming") & history["location"].str.startswith("authors' README")
    keys = ["source", "location", "model", "dataset", "arm"]
    wide = history[doubt | leng].pivot(index=keys, columns="metric", values="value")
    return wide.reset_index().rename_axis(columns=None)


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
    exact = world_of_witnesses.posterior(
        world_of_witnesses.sample_questions(tabular_questions, np.random.default_rng(1))
    )
    return {
        "curves": curves(),
        "optimum": optimum(),
        "rules": rules(),
        "thresholds": thresholds(),
        "safe_weights": safe_weights(),
        "as_coded": as_coded(),
        "group_scaling": group_scaling(group_steps),
        "tabular": tabular(exact),
        "voting_reference": voting_reference(questions // 2),
        "shift_reference": shift_reference(questions),
    }


def curves() -> pd.DataFrame:
    """f, g and their gap at each stated q = x, and V at each probability p = x of being right (log clipped at .01).

    Columns: rule, x, right, wrong, gap, value. The expected reward at (p, q) is p right(q) + (1-p) wrong(q).
    """
    x, fine = np.linspace(0, 1, 101), np.linspace(0, 1, 1001)
    frames = []
    for rule in RULES:
        right, wrong = payoff(rule, x)
        value = best(rule, x, fine)[1]
        frames.append(
            pd.DataFrame({"rule": rule, "x": x, "right": right, "wrong": wrong, "gap": right - wrong, "value": value})
        )
    return pd.concat(frames, ignore_index=True)


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

    p, q = sp.symbols("p q", positive=True)
    fine, grid = np.linspace(0, 1, 10_001), np.linspace(0, 1, 1001)
    rows = []
    for rule in RULES:
        right, wrong = _symbolic(rule, q)
        expected = p * right + (1 - p) * wrong
        trying, gap = expected.subs(q, p), right - wrong
        at_honest = gap.subs(q, p)
        numeric = np.subtract(*payoff(rule, fine))
        value = best(rule, grid, grid)[1]
        proper = rule in PROPER
        rows.append(
            {
                "rule": rule,
                "proper": proper,
                "gap": str(sp.simplify(gap)),
                "value": str(sp.simplify(trying)) if proper else "",
                "stationary": str(sp.simplify(sp.diff(expected, q).subs(q, p))),
                "identity": str(sp.simplify(sp.diff(trying, p) - at_honest)) if proper else "",
                "identity_error": _identity_error(rule) if proper else np.nan,
                "min_gap": numeric.min(),
                "hackable": int(numeric.min() < -1e-12),
                "min_value": value.min(),
                "min_value_p": grid[value.argmin()],
            }
        )
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
    from scipy.optimize import minimize_scalar

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
    rows = [(r.removeprefix("swap_"), "continuous", 0.0, _root(r)) for r in SWAP]
    midpoints = (np.arange(11) + 0.5) / 11
    for rule, grid, q, clip in (
        ("swap_log1", "tenths", TENTHS, 0.01),
        ("swap_log1", "tenths", TENTHS, 0.001),
        ("swap_log1", "midpoints", midpoints, 0.0),
        ("swap_log_k", "tenths", TENTHS, 0.01),
        ("swap_brier2", "tenths", TENTHS, 0.0),
        ("swap_rlcr", "tenths", TENTHS, 0.0),
    ):
        p = np.arange(100_001) / 100_000
        giving_up = payoff(rule, q[:1], clip)[1][0]
        worse = p[best(rule, p, q, clip)[1] < giving_up - 1e-12]
        rows.append((rule.removeprefix("swap_"), grid, clip, worse.max() + 1e-5 if worse.size else 0.0))
    return pd.DataFrame(rows, columns=["rule", "grid", "clip", "threshold"])


def _root(rule: str) -> float:
    """The last zero of V(p) - g(0), q continuous and not clipped, to 30 digits; 1 if trying never pays."""
    import mpmath
    import sympy as sp

    p = sp.Symbol("p", positive=True)
    right, wrong = _symbolic(rule, p)
    advantage = sp.lambdify(p, p * right + (1 - p) * wrong - wrong.subs(p, 0), "mpmath")
    with mpmath.workdps(30):
        grid = [mpmath.mpf(k) / 2000 for k in range(1, 2000)]
        losing = [x for x in grid if advantage(x) < 0]
        if not losing:
            return 0.0
        if losing[-1] == grid[-1]:
            return 1.0
        return float(mpmath.findroot(advantage, (losing[-1], losing[-1] + mpmath.mpf(1) / 2000), solver="anderson"))


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


def group_scaling(
    steps: int = 200, step_size: float = 6.0, probabilities: tuple[float, ...] = (0.1, 0.3, 0.4, 0.6, 0.7, 0.9)
) -> pd.DataFrame:
    """Exact GRPO on the stated confidence of one certain answer, groups of 8 that share the outcome.

    The expectation runs over every group that eleven confidences can form. Columns: scaling (none, group),
    p (probability of being right), confidence (mean at the end), concentration (largest probability).
    """
    from scipy.special import gammaln, softmax

    combinations = np.array(list(itertools.combinations_with_replacement(range(11), GROUP)))
    counts = np.stack([(combinations == k).sum(1) for k in range(11)], 1).astype(float)
    log_ways = gammaln(GROUP + 1) - gammaln(counts + 1).sum(1)
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
    from scipy.special import softmax

    n = len(posterior)
    chance = np.concatenate([posterior, np.zeros((n, 1))], 1)[:, :, None]  # the last answer, NONE, is never right
    given = np.concatenate([shared.stated(posterior), np.broadcast_to(TENTHS == 0, (n, 1, 11))], 1)
    answers = np.concatenate([0.95 * posterior, np.full((n, 1), 0.05)], 1)
    peak = posterior.max(1)
    edges = POSTERIOR_EDGES
    which = np.clip(np.digitize(peak, edges) - 1, 0, len(edges) - 2)
    rows = []
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
        accuracy = (a * chance[:, :, 0]).sum(1).mean()
        for k in range(len(edges) - 1):
            inside = which == k
            rate, optimal = a[inside, -1].mean(), gives_up[inside].mean()
            rows.append((rule, edges[k], edges[k + 1], inside.sum(), rate, optimal, accuracy))
    columns = ["arm", "bin_low", "bin_high", "n", "give_up_rate", "optimal", "accuracy_sampled"]
    return pd.DataFrame(rows, columns=columns)


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
        ideal = world_of_witnesses.posterior(asked)
        right = ideal.argmax(1) == asked.guilty
        q = ideal.max(1)
        rows.append(
            {
                "shift": shift,
                "n": questions,
                "bayes_accuracy": (exact.argmax(1) == asked.guilty).mean(),
                "mean_posterior": exact.max(1).mean(),
                "ideal_accuracy": right.mean(),
                "ideal_brier": brier(q, right),
                "ideal_ece": ece(q, right),
            }
        )
    return pd.DataFrame(rows)


# --- The world ------------------------------------------------------------------------------------

TRAINING = ["reward", "frac_reward_zero_std", "entropy", "clipped_ratio", "mean_length"]
TRAJECTORY = [
    "accuracy_greedy",
    "accuracy_sampled",
    "answer_ece",
    "q_mean_mean",
    "q_mean_ece",
    "q_mean_brier",
    "q_mean_abs_posterior",
]
DRAWN = {
    "expert": ("base", "rlvr", "rlcr", "rlcr_group_std", "rlcr_batch_std", "linear", "rlvr_classifier"),
    "overconfident": ("base", "rlvr", "rlcr"),
    "naive": ("base", "rlvr", "rlcr"),
}
VOTED = {"expert": ("base", "rlvr", "rlcr")}
SHIFTED = {
    "expert": (
        *("base", "rlvr", "rlcr", "rlvr_classifier"),
        *("rlvr_short", "rlcr_short", "rlvr_short_classifier"),
    ),
    "twelve": ("base", "rlvr", "rlcr"),
}


def world(results) -> dict[str, pd.DataFrame]:
    """What the trained models did, from the evaluation steps; a table without a finished step is left out."""
    keys = ["setting", "arm", "kind"]
    tables = {
        "summary": shared.collect(results, "summary", ARMS, VARIANTS, results.own("brier_fix")),
        "reliability": shared.pool(
            shared.collect(results, "reliability", DRAWN),
            [*keys, "bin_low", "bin_high"],
            ["mean_confidence", "accuracy", "floor_low", "floor_high"],
        ),
        "density": shared.total(shared.collect(results, "density", DRAWN), [*keys, "posterior_bin", "value_bin"]),
        "posterior_bins": shared.collect(results, "posterior_bins", ARMS),
        "trajectory": shared.collect(results, "trajectory", {"expert": ("rlvr", "rlcr")}),
        "shift": shared.collect(results, "shift", SHIFTED),
        "voting": shared.collect(results, "voting", VOTED),
        "training": shared.training(results, TRAINING, ARMS, VARIANTS, results.own("brier_fix")),
    }
    if len(tables["trajectory"]):
        tables["trajectory"] = tables["trajectory"][["setting", "arm", "seed", "step", *TRAJECTORY]]
    return {name: table for name, table in tables.items() if len(table)}


def released() -> dict[str, pd.DataFrame]:
    """What the authors' released outputs say."""
    return outputs.tables()


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models did; empty at a scale that asks for none."""
    return language_models.tables(results)
