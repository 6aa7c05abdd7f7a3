"""The tables of claim 1: what the papers printed, what follows from the reward, what the world showed."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from candor.claims import shared
from candor.claims.shared import pivoted
from candor.language_models import outputs
from candor.language_models import run as language_models
from candor.measure.calibration import ece
from candor.witnesses import world as witnesses
from candor.witnesses.evaluation import TENTHS

CONF_FIRST = ("rlvr_conf_first", "shuffled_conf_first")
# What the verdict needs first comes first.
ARMS = {
    "expert": ("base", "rlvr", "shuffled_correct"),
    "abstaining": ("base", "abstain_00", "abstain_50", "abstain_75", "abstain_90"),
    "expert_conf_first": ("base", *CONF_FIRST),
}
VARIANTS = {  # no verdict rests on these
    "expert": ("rlvr_answer_only", "rlvr_no_format", "rlvr_oracle", "rlvr_kl"),
    "overconfident": ("base", "rlvr"),
    "naive": ("base", "rlvr"),
    "abstaining": tuple(f"{arm}_long" for arm in ARMS["abstaining"][1:]),
}
NEEDS = shared.trained_and_evaluated(ARMS, VARIANTS)
# The overall verdict rests on these; they run first.
DECISIVE = shared.trained_and_evaluated(ARMS | {"expert_conf_first": ("base", "rlvr_conf_first")})

THRESHOLDS = (0.0, 0.5, 0.75, 0.9)


# --- Published numbers ----------------------------------------------------------------------------


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """The papers' numbers about binary rewards, rearranged and nothing more; `folder` holds the CSVs."""
    names = ("rlcr_per_dataset", "rlcr_main", "rlcr_ablations", "scoring_rule_swap", "calibration_history")
    released, main, ablations, swap, history = (pd.read_csv(folder / f"{name}.csv") for name in names)
    cells = _cells(released)
    letters = history[history["source"] == "openai2023gpt4"].reset_index(drop=True)
    rlvr_asked = "location == 'Table 2 (v2)' and arm.str.startswith('rlvr') and metric in ('ece', 'brier')"
    trained, elicited = (
        "location == 'appendix DPO table'",
        {"Label prob.": "label_probability", "Verb. 1S top-1": "stated"},
    )
    binned = "location.str.startswith('re-analysis') and arm in ('base', 'rlvr')"
    return {
        "released": _released(released, cells),
        "cells": cells,
        "cell_counts": _cell_counts(cells),
        "blocks": _blocks(cells),
        "row_mix": _row_mix(main),
        # RLVR asked with its own prompt, and with the analysis prompt of RLCR at test time.
        "elicitation": pivoted(ablations, rlvr_asked, ["dataset", "metric"], "arm"),
        # ECE under the binning conventions, and how many distinct confidences are stated.
        "conventions": pivoted(ablations, binned, ["dataset", "arm", "n"], "metric"),
        "floor": shared.floor(ablations),
        "sampling_error": _sampling_error(cells, ablations),
        "swap_start": _swap_start(swap),
        "answer_letters": letters[["model", "arm", "dataset", "metric", "value", "status"]],
        "preference_training": _side_by_side(history, trained, ["setting", "model", "dataset"], SFT="sft", DPO="dpo"),
        "elicited": _side_by_side(history, "source == 'tian2023just'", ["model", "dataset"], **elicited),
    }


def _cells(released: pd.DataFrame) -> pd.DataFrame:
    """A row a model family and data set: base and RLVR, and the change of the gap taken apart."""
    cells = shared.cells(released, ("base", "rlvr"))
    return _with_changes(cells).assign(
        ece_minus_error=cells["rlvr_ece"] - (1 - cells["rlvr_accuracy"]),
        ece_minus_gap=cells["rlvr_ece"] - (cells["rlvr_confidence"] - cells["rlvr_accuracy"]),
    )


def _released(released: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Base, RLVR and RLCR on every data set, a row each: what a reliability diagram would be made of."""
    rows = released.assign(family=released["setting"].map(shared.FAMILIES))
    keys, measures = ["family", "dataset", "n", "arm"], ["accuracy", "mean_confidence", "ece", "brier"]
    table = pivoted(rows, "arm in ('base', 'rlvr', 'rlcr')", keys, "metric")[keys + measures]
    return table.merge(cells[["family", "dataset", "domain"]])


def _with_changes(frame: pd.DataFrame) -> pd.DataFrame:
    """gap = mean confidence - accuracy; its change is the change of confidence less that of accuracy."""
    confidence = frame["rlvr_confidence"] - frame["base_confidence"]
    accuracy = frame["rlvr_accuracy"] - frame["base_accuracy"]
    return frame.assign(change_confidence=confidence, change_accuracy=accuracy, change_gap=confidence - accuracy)


def _cell_counts(cells: pd.DataFrame) -> pd.DataFrame:
    """In how many cells RLVR is worse than the base, by measure and domain."""
    rows = []
    for metric, sign in (("ece", 1), ("brier", 1), ("auroc", -1)):
        worse = sign * (cells[f"rlvr_{metric}"] - cells[f"base_{metric}"]) > 0
        for domain in ("in", "out", "all"):
            there = worse[(cells["domain"] == domain) | (domain == "all")]
            rows.append({"metric": metric, "domain": domain, "worse": int(there.sum()), "cells": len(there)})
    return pd.DataFrame(rows)


def _blocks(cells: pd.DataFrame) -> pd.DataFrame:
    """Means over data sets as Table 1 takes them: the training distribution HotpotQA-Modified is left out."""
    groups = cells[cells["dataset"] != "HotpotQA-Modified"].groupby(["family", "domain"], sort=False)
    means = groups[[c for c in cells if c.startswith(("base_", "rlvr_"))]].mean()
    means.insert(0, "datasets", groups.size())
    return _with_changes(means.reset_index())


def _row_mix(main: pd.DataFrame) -> pd.DataFrame:
    """Table 1b: the RLVR cells as quoted, beside what the released RLVR and classifier runs give."""
    math, columns = main[main["setting"] == "trained on Big-Math-Digits"], {}
    for name, location, arm in (
        ("quoted_rlvr", "Table 1b", "rlvr"),
        ("released_rlvr", "mean of released", "rlvr"),
        ("released_classifier", "mean of released", "rlvr+bce_classifier"),
    ):
        rows = math[math["location"].str.startswith(location) & (math["arm"] == arm)]
        columns[name] = rows.set_index(["dataset", "metric"])["value"]
    return pd.DataFrame(columns).loc[columns["quoted_rlvr"].index].reset_index()


def _sampling_error(cells: pd.DataFrame, ablations: pd.DataFrame) -> pd.DataFrame:
    """Standard errors over items that the aggregates allow: accuracy (binomial) and paired Brier differences.

    Where every confidence is 1, RLVR's Brier and ECE are 1 - accuracy and share its standard error.
    """
    rows = cells[cells["dataset"].isin(["CommonsenseQA", "GPQA", "MATH-500"]) & (cells["family"] == "HotpotQA")]
    accuracy = [
        (row["dataset"], row["n"], f"accuracy of {arm}", np.sqrt(p * (1 - p) / row["n"]))
        for _, row in rows.iterrows()
        for arm in ("base", "rlvr")
        for p in [row[f"{arm}_accuracy"]]
    ]
    brier = [
        (row.dataset, int(row.n), f"Brier, {row.arm.replace('_', ' ')}", (row.ci_high - row.ci_low) / (2 * 1.96))
        for row in ablations[ablations["metric"] == "brier_difference"].itertuples()
    ]
    return pd.DataFrame([*accuracy, *brier], columns=["dataset", "n", "quantity", "se"])


def _swap_start(swap: pd.DataFrame) -> pd.DataFrame:
    """arXiv 2607.04332: the start, and after training on correctness with the confidence in the output."""
    arms = {"SFT (XML)": "start", "Correctness-only": "correctness"}
    rows = swap.assign(arm=swap["arm"].map(arms), metric=swap["metric"].str.removeprefix("mean_"))
    columns = [f"{arm}_{metric}" for arm in arms.values() for metric in shared.METRICS]
    return pivoted(rows, "setting == 'split: all' and arm.notna()", "dataset", ["arm", "metric"])[["dataset", *columns]]


def _side_by_side(published: pd.DataFrame, query: str, keys: list[str], **names: str) -> pd.DataFrame:
    """ECE of two arms side by side; `higher` where it is higher for the second."""
    first, second = names.values()
    table = pivoted(published, f"{query} and metric == 'ece' and arm in {tuple(names)}", keys, "arm")
    table = table.rename(columns=names)[[*keys, first, second]]
    return table.assign(higher=table[second] > table[first])


# --- What follows from the reward alone -----------------------------------------------------------


def theory(
    questions: int = 100_000, tabular_questions: int = 600, tabular_steps: int = 1000
) -> dict[str, pd.DataFrame]:
    """Payoffs, optimum, gradients and the Bayes frontier, computed and not copied."""
    exact = witnesses.posterior(witnesses.sample_questions(questions, np.random.default_rng(1)))
    return {
        "payoff": payoff(),
        "vertex": vertex(exact[exact.max(1).argsort()[len(exact) // 3]]),
        "sharpening": sharpening(exact[:20_000]),
        "frontier": frontier(exact),
        "confidence_gradient": confidence_gradient(),
        "tabular": tabular(exact[:tabular_questions], tabular_steps),
    }


def payoff(thresholds: tuple[float, ...] = THRESHOLDS, grid: int = 1000) -> pd.DataFrame:
    """Expected reward of answering against abstaining (0), in exact fractions.

    Columns: t, p, answer_reward, answers (whether answering pays more than abstaining).
    """
    rows = []
    for t, k in itertools.product(map(Fraction, map(str, thresholds)), range(grid + 1)):
        p = Fraction(k, grid)
        reward = p - (1 - p) * t / (1 - t)
        rows.append((float(t), float(p), float(reward), reward > 0))
    return pd.DataFrame(rows, columns=["t", "p", "answer_reward", "answers"])


def vertex(posterior: np.ndarray) -> pd.DataFrame:
    """Expected binary reward of answer distributions on one question with this posterior [suspects].

    The last row is what a linear program over the simplex finds. Columns: distribution, expected_reward,
    answer_prob (of the modal answer).
    """
    from scipy.optimize import linprog

    n, order = len(posterior), posterior.argsort()[::-1]
    candidates = {
        "uniform": np.full(n, 1 / n),
        "matches the posterior": posterior,
        "posterior squared": posterior**2 / (posterior**2).sum(),
        "all on the second best": np.eye(n)[order[1]],
        "all on the best": np.eye(n)[order[0]],
        "found by linear programming": linprog(-posterior, A_eq=np.ones((1, n)), b_eq=[1.0], bounds=(0, 1)).x,
    }
    rows = [(name, d @ posterior, d[order[0]]) for name, d in candidates.items()]
    return pd.DataFrame(rows, columns=["distribution", "expected_reward", "answer_prob"])


def sharpening(posterior: np.ndarray) -> pd.DataFrame:
    """What happens to calibration as an answer distribution proportional to posterior^k is sharpened.

    `posterior` [questions, suspects]. Columns: sharpness k, expected_reward (accuracy of a drawn answer),
    accuracy (of the modal answer), answer_prob, ece (of its probability), error (1 - accuracy). Powers
    leave ties between suspects alone, and so does the reward; the last row (k infinite) breaks them too.
    """
    modal, rows = posterior.argmax(1), []
    correct = modal == witnesses.draw(posterior, np.random.default_rng(2))
    best = np.eye(posterior.shape[1])[modal]
    for k in (1, 1.5, 2, 3, 5, 8, 16, 64, np.inf):
        d = softmax(k * np.log(posterior), 1) if k < np.inf else best
        prob = d[np.arange(len(d)), modal]
        rows.append((k, (d * posterior).sum(1).mean(), correct.mean(), prob.mean(), ece(prob.clip(0, 1), correct)))
    table = pd.DataFrame(rows, columns=["sharpness", "expected_reward", "accuracy", "answer_prob", "ece"])
    return table.assign(error=1 - table["accuracy"])


def frontier(posterior: np.ndarray) -> pd.DataFrame:
    """Answer only above a posterior of t, and then the most likely suspect: the best that can be done.

    Columns: t, coverage, selective_accuracy, right_per_100, wrong_per_100. `posterior` [questions, suspects].
    """
    best = posterior.max(1)
    rows = []
    for t in (*np.arange(0, 0.951, 0.05).round(2), 0.975):
        answered = best > t
        right = best[answered].sum() / len(best)
        rows.append((t, answered.mean(), right / answered.mean(), 100 * right, 100 * (answered.mean() - right)))
    return pd.DataFrame(rows, columns=["t", "coverage", "selective_accuracy", "right_per_100", "wrong_per_100"])


# One question for the enumeration: one suspect likely, one possible, six unlikely.
TOY_POSTERIOR = np.array([0.6, 0.22, 0.03, 0.03, 0.03, 0.03, 0.03, 0.03])


def confidence_gradient(posterior: np.ndarray = TOY_POSTERIOR) -> pd.DataFrame:
    """Expected policy gradient of the binary reward on the confidence logits of one question, by enumeration.

    Sums over every answer, confidence and truth. With the answer first there is one softmax over confidences
    for each answer; the rows are those of the modal answer, `largest` is over all answers. Columns: order,
    confidence, probability, accuracy (P(right | q)), gradient, noise (s.d. of one document's gradient),
    largest (absolute gradient).
    """
    modal, stating, reward = posterior.argmax(), shared.stated(posterior), np.eye(len(posterior))  # [answer, truth]
    joint = posterior[:, None] * stating  # the policy: answer drawn from the belief, then the confidence [answer, q]
    marginal = joint.sum(0)
    advantage = reward - (posterior[:, None] * reward).sum(0)  # minus the mean reward, given the truth
    weight = np.einsum("aq,t->aqt", joint, posterior)
    right = (joint * posterior[:, None]).sum(0) / marginal
    orders = {  # the score, d log pi(drawn q) / d logit, has a row an answer where that comes first
        "answer first": ("aqt,at,aql->al", np.eye(11)[None] - stating[:, None], stating[modal], posterior[modal]),
        "confidence first": ("aqt,at,ql->l", np.eye(11) - marginal, marginal, right),
    }
    frames = []
    for order, (sums, score, probability, accuracy) in orders.items():
        first, second = (np.einsum(sums, weight, advantage**power, score**power) for power in (1, 2))
        mine, square = (moment[modal] if moment.ndim == 2 else moment for moment in (first, second))
        columns = {"order": order, "confidence": TENTHS, "probability": probability, "accuracy": accuracy}
        columns |= {"gradient": mine, "noise": np.sqrt(square), "largest": np.abs(first).max()}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def tabular(posterior: np.ndarray, steps: int = 1000, step_size: float = 0.5) -> pd.DataFrame:
    """Exact policy gradient with one table of logits a question, confidence first, expert crowd: no network.

    Prediction for `rlvr_conf_first`. Columns: reward, step, stated_mean, accuracy_sampled, gap, ece (of whole
    drawn documents). `posterior` [questions, suspects].
    """
    joint = posterior[:, :, None] * shared.stated(posterior)  # [question, answer, q]
    binary = np.repeat(posterior[:, :, None], 11, axis=2)
    brier = -(binary * (TENTHS - 1) ** 2 + (1 - binary) * TENTHS**2)
    rows = []
    for name, value in (("binary", binary), ("binary + Brier", binary + brier)):
        q_logits = np.log(joint.sum(1))
        a_logits = np.log(joint / joint.sum(1, keepdims=True))
        for step in range(steps + 1):
            q, a = softmax(q_logits, 1), softmax(a_logits, 1)
            if step in (0, 10, 30, 100, 300, 1000, steps):
                right = (a * binary).sum(1)
                accuracy, mean = (q * right).sum(1).mean(), (q * TENTHS).sum(1).mean()
                by_value = np.abs((q * (right - TENTHS)).mean(0)).sum()
                rows.append((name, step, mean, accuracy, mean - accuracy, by_value))
            given_q = (a * value).sum(1)
            q_logits += step_size * q * (given_q - (q * given_q).sum(1, keepdims=True))
            a_logits += step_size * q[:, None] * a * (value - given_q[:, None])
    return pd.DataFrame(rows, columns=["reward", "step", "stated_mean", "accuracy_sampled", "gap", "ece"])


# --- The world ------------------------------------------------------------------------------------

COURSE = (
    *("accuracy_greedy", "accuracy_sampled", "answer_prob_mean", "answer_ece", "q_mean_mean", "q_mean_ece"),
    *("q_mean_abs_posterior", "sampled_confidence", "sampled_gap"),
)
DRAWN = {"expert": ("base", "rlvr", "shuffled_correct"), "expert_conf_first": ("base", "rlvr_conf_first")}
FOLLOWED = {"expert": ("rlvr", "shuffled_correct"), "expert_conf_first": CONF_FIRST}


def world(results) -> dict[str, pd.DataFrame]:
    """What the trained models did, from the evaluation steps; a table without a finished step is left out."""
    groups = (ARMS, VARIANTS, results.own("binary_reward"))
    bins = shared.collect(results, "posterior_bins", ARMS)
    measures = ["accuracy", "q_mean", "answer_prob", "idk_rate"]
    return shared.world_tables(results, groups, DRAWN, FOLLOWED, COURSE) | shared.present(
        posterior_bins=shared.pool(bins, ["setting", "arm", "bin_low", "bin_high"], measures)
    )


# --- Pretrained models ------------------------------------------------------------------------------

MODELS = ("base", "rlvr")  # arms of `language_models/run.py`


def released() -> dict[str, pd.DataFrame]:
    """What the authors' released outputs say."""
    return outputs.tables()


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models did; empty at a scale that asks for none."""
    return language_models.tables(results, MODELS)
