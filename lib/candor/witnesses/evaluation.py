"""One evaluation for every arm of `witnesses`: tables of answers, calibration, shift, voting.

Reported for the greedy answer: its probability, and the stated confidence given it as mean (`q_mean`), draw
(`q_draw`) and mode (`q_mode`); and for whole documents drawn from the model (`sampled_*`). Measured against the
outcome, and against the exact posterior of the answer.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from candor.measure import calibration as cal
from candor.measure.intervals import bootstrap_interval
from candor.witnesses import joint as joints
from candor.witnesses import world

TENTHS = np.arange(11) / 10
POSTERIOR_EDGES = np.array([0, 0.35, 0.5, 0.65, 0.8, 1.0])
VOTES = (1, 2, 4, 8, 16)
SATURATED = 0.999
RESAMPLES = 200


def questions_and_posterior(n: int, seed: int, variant: world.Variant = world.TRAINING_WORLD):
    """The declared evaluation questions, the same for every arm, with their exact posterior."""
    questions = world.sample_questions(n, world.stream("eval", seed), variant)
    return questions, world.posterior(questions, variant.reliability)


def answers_table(joint: joints.Joint, questions: world.Questions, exact: np.ndarray, rng) -> pd.DataFrame:
    """A row a question: the greedy answer and a drawn document, each with confidence, outcome and posterior."""
    rows = np.arange(len(questions))
    answer, drawn = joint.answers.argmax(1), world.draw(joint.answers, rng)
    table = {
        "posterior_max": exact.max(1),
        "bayes": exact.argmax(1),
        "truth": questions.guilty,
        "answer": answer,
        "answer_prob": np.clip(joint.answers[rows, answer], 0, 1),
        "posterior": exact[rows, answer],
        "correct": answer == questions.guilty,
        "answer_drawn": drawn,
        "posterior_drawn": exact[rows, drawn],
        "correct_drawn": drawn == questions.guilty,
        "prob_truth": joint.answers[rows, questions.guilty],
        "idk": joint.idk,
        "gives_up": joint.gives_up,
    }
    if joint.confidence is not None:
        stated = joint.confidence[rows, answer].astype(float)
        table |= {
            "q_mean": np.clip((stated / stated.sum(1, keepdims=True)) @ TENTHS, 0, 1),
            "q_draw": TENTHS[world.draw(stated, rng)],
            "q_mode": TENTHS[stated.argmax(1)],
            "confidence_drawn": TENTHS[world.draw(joint.confidence[rows, drawn].astype(float), rng)],
        }
    return pd.DataFrame(table)


MEASURES = {
    "mean": lambda q, correct: q.mean(),
    "ece": cal.ece,
    "smooth_ece": cal.smooth_ece,
    "brier": cal.brier,
    "brier_se": cal.brier_se,
    "auroc": cal.auroc,
    "log_score": cal.log_score,
}


def measured(prefix: str, q: np.ndarray, correct: np.ndarray, *names: str) -> dict[str, float]:
    """Those of `MEASURES` of a probability against the outcome, as `<prefix>_<name>`."""
    return {f"{prefix}_{name}": MEASURES[name](q, correct) for name in names}


def ideal_measures(ideal: np.ndarray, truth: np.ndarray, prefix: str = "ideal") -> dict[str, float]:
    """What a forecaster reaches who answers and states by the posterior `ideal` [n, S]."""
    right = ideal.argmax(1) == truth
    return {f"{prefix}_accuracy": right.mean()} | measured(prefix, ideal.max(1), right, "brier", "ece")


def stated_measures(q: np.ndarray, table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Calibration of one stated confidence against the outcome and against the posterior of the greedy answer."""
    correct = table["correct"].to_numpy()
    low, high = bootstrap_interval(cal.ece, q, correct, n_resamples=RESAMPLES)
    return {
        **measured(prefix, q, correct, "mean", "ece"),
        f"{prefix}_ece_low": low,
        f"{prefix}_ece_high": high,
        f"{prefix}_ece_values": np.nan if prefix == "q_mean" else cal.ece_by_value(q, correct),
        **measured(prefix, q, correct, "smooth_ece", "brier", "brier_se", "auroc", "log_score"),
        f"{prefix}_abs_posterior": np.abs(q - table["posterior"]).mean(),
        f"{prefix}_gap": q.mean() - correct.mean(),
    }


def summary(table: pd.DataFrame, exact: np.ndarray) -> dict[str, float]:
    """The measures of one arm on one set of questions; absent ones are left out (they become NaN)."""
    correct, probability = table["correct"].to_numpy(), table["answer_prob"].to_numpy()
    accuracy, sampled = correct.mean(), table["prob_truth"].mean()
    row = {
        "n": len(table),
        "accuracy_greedy": accuracy,
        "accuracy_sampled": sampled,
        **ideal_measures(exact, table["truth"].to_numpy(), "bayes"),
        "answer_prob_mean": probability.mean(),
        **measured("answer", probability, correct, "ece", "smooth_ece", "brier", "auroc"),
        "answer_saturated": cal.saturation(probability, SATURATED),
        "answer_abs_posterior": np.abs(probability - table["posterior"]).mean(),
    }
    if "q_mean" not in table:
        return row
    for prefix in ("q_mean", "q_draw", "q_mode"):
        row |= stated_measures(table[prefix].to_numpy(), table, prefix)
    q, confidence = table["q_mean"].to_numpy(), table["confidence_drawn"].to_numpy()
    floor_mean, floor_p95 = cal.noise_floor(q)
    return row | {
        "q_mean_sd": q.std(),
        "q_mean_extreme": ((q < 0.1) | (q > 0.9)).mean(),
        "q_mean_abs_half": np.abs(q - 0.5).mean(),
        "q_draw_values": int((table["q_draw"].value_counts(normalize=True) >= 0.03).sum()),
        "skill_own": cal.brier_skill(q, correct) if 0 < accuracy < 1 else np.nan,
        "sampled_confidence": confidence.mean(),
        "sampled_gap": confidence.mean() - sampled,
        **measured("sampled", confidence, table["correct_drawn"].to_numpy(), "ece", "brier"),
        "ece_floor_mean": floor_mean,
        "ece_floor_p95": floor_p95,
    }


def heldout(joint: joints.Joint, table: pd.DataFrame, held: joints.Joint, held_table: pd.DataFrame) -> dict:
    """One temperature for the answers and one for the stated confidence, fitted on held-out questions."""
    logits, held_logits = (np.log(np.maximum(part.answers, 1e-30)) for part in (joint, held))
    correct, t = table["correct"].to_numpy(), cal.fit_temperature(held_logits, held_table["truth"])
    cooled = cal.apply_temperature(logits, t).max(1)
    row = {
        "temperature_answer": t,
        "answer_ece_heldout_before": cal.ece(table["answer_prob"], correct),
        "answer_ece_heldout_after": cal.ece(np.clip(cooled, 0, 1), correct),
    }
    if "q_mean" not in table:
        return row
    stated, held_stated = (cal.binary_logits(part["q_mean"]) for part in (table, held_table))
    t = cal.fit_temperature(held_stated, held_table["correct"])
    return row | {
        "temperature_confidence": t,
        "q_mean_ece_heldout_before": cal.ece(table["q_mean"], correct),
        "q_mean_ece_heldout_after": cal.ece(cal.apply_temperature(stated, t)[:, 1], correct),
        "skill_constant": cal.brier_skill(table["q_mean"], correct, constant=float(held_table["correct"].mean())),
    }


def abstention(table: pd.DataFrame) -> dict[str, float]:
    """Rates of drawn documents in expectation, and the posterior at which the model starts to answer.

    The switch point is where a logistic fit of answering on the max posterior crosses one half.
    """
    from sklearn.linear_model import LogisticRegression

    answers = 1 - table["idk"].to_numpy()
    right = answers * table["prob_truth"].to_numpy()
    p = table["posterior_max"].to_numpy()
    fit = LogisticRegression(C=1e6).fit(
        np.concatenate([p, p])[:, None],
        np.repeat([1, 0], len(p)),
        sample_weight=np.concatenate([answers, 1 - answers]) + 1e-12,
    )
    slope, intercept = fit.coef_[0, 0], fit.intercept_[0]
    return {
        "idk_rate": 1 - answers.mean(),
        "selective_accuracy": right.sum() / answers.sum(),
        "wrong_per_100": 100 * (answers - right).mean(),
        "right_per_100": 100 * right.mean(),
        "switch_point": -intercept / slope if slope > 0 else np.nan,
    }


def frontier(table: pd.DataFrame, row: dict[str, float]) -> pd.DataFrame:
    """Coverage against selective accuracy: the arm's point, and Bayes answering only above a threshold."""
    p, right = table["posterior_max"].to_numpy(), (table["bayes"] == table["truth"]).to_numpy()
    rows = [
        {"kind": "bayes", "threshold": t, "coverage": (p >= t).mean(), "selective_accuracy": right[p >= t].mean()}
        for t in np.arange(0, 1, 0.05)
        if (p >= t).any()
    ]
    point = {"coverage": 1 - row["idk_rate"], "selective_accuracy": row["selective_accuracy"]}
    return pd.DataFrame([*rows, {"kind": "arm", "threshold": np.nan, **point}])


def reliability(table: pd.DataFrame) -> pd.DataFrame:
    """Reliability of answer probability and stated confidence, with the band of a calibrated forecaster."""
    frames = []
    for kind in [kind for kind in ("answer_prob", "q_mean", "q_draw") if kind in table]:
        bins = cal.reliability_table(table[kind], table["correct"])
        band = cal.floor_band(table[kind], n_repetitions=RESAMPLES)[["floor_low", "floor_high"]]
        frames.append(bins.join(band).assign(kind=kind))
    return pd.concat(frames, ignore_index=True)


def density(table: pd.DataFrame) -> pd.DataFrame:
    """Counts of (posterior of the answer, stated value) on a 20 x 20 grid; empty cells are left out."""
    edges, frames = np.linspace(0, 1, 21), []
    for kind in [kind for kind in ("answer_prob", "q_mean") if kind in table]:
        counts, _, _ = np.histogram2d(table["posterior"], table[kind], bins=[edges, edges])
        i, j = np.nonzero(counts)
        cells = {"posterior_bin": edges[i].round(2), "value_bin": edges[j].round(2), "n": counts[i, j].astype(int)}
        frames.append(pd.DataFrame(cells).assign(kind=kind))
    return pd.concat(frames, ignore_index=True)


def posterior_bin(p: np.ndarray) -> np.ndarray:
    """Which bin of `POSTERIOR_EDGES` a posterior lies in."""
    return np.clip(np.digitize(p, POSTERIOR_EDGES) - 1, 0, len(POSTERIOR_EDGES) - 2)


def posterior_bins(table: pd.DataFrame) -> pd.DataFrame:
    """Means within bins of the max posterior."""
    columns = {
        **{"correct": "accuracy", "q_mean": "q_mean", "answer_prob": "answer_prob", "idk": "idk_rate"},
        "gives_up": "give_up_rate",
    }
    groups = table.reindex(columns=list(columns)).groupby(posterior_bin(table["posterior_max"]))
    means = groups.mean().rename(columns=columns)
    edges = {"bin_low": POSTERIOR_EDGES[means.index], "bin_high": POSTERIOR_EDGES[means.index + 1]}
    return pd.DataFrame(edges | {"n": groups.size().to_numpy()}).join(means.reset_index(drop=True))


def trajectory_row(table: pd.DataFrame) -> dict[str, float]:
    """The measures that are followed along training, and the histogram of the answer probability."""
    correct, q = table["correct"].to_numpy(), table["q_mean"].to_numpy()
    probability, sampled = table["answer_prob"].to_numpy(), table["prob_truth"].mean()
    counts, _ = np.histogram(probability, bins=np.linspace(0, 1, 21))
    return {
        "accuracy_greedy": correct.mean(),
        "accuracy_sampled": sampled,
        "answer_prob_mean": probability.mean(),
        **measured("answer", probability, correct, "ece"),
        **measured("q_mean", q, correct, "mean", "ece", "brier"),
        "q_mean_abs_posterior": np.abs(q - table["posterior"]).mean(),
        "sampled_confidence": table["confidence_drawn"].mean(),
        "sampled_gap": table["confidence_drawn"].mean() - sampled,
        **{f"hist_{k:02d}": int(count) for k, count in enumerate(counts)},
    }


def shift_row(table: pd.DataFrame, ideal: np.ndarray) -> dict[str, float]:
    """An arm under a shift, beside the ideal forecaster of the training world on the same questions."""
    correct, q = table["correct"].to_numpy(), table["q_mean"].to_numpy()
    return {
        "n": len(table),
        "accuracy_greedy": correct.mean(),
        **measured("q_mean", q, correct, "mean", "brier", "ece", "auroc"),
        **measured("answer", table["answer_prob"].to_numpy(), correct, "ece"),
        **ideal_measures(ideal, table["truth"].to_numpy()),
    }


def vote(joint: joints.Joint, truth: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Answers voted from 1 to 16 documents a question: majority, weighted by stated confidence, most confident.

    Ties are broken at random. `difference` is against the majority of the same documents, question by question.
    """
    n, suspects = joint.answers.shape
    most = max(VOTES)
    answers = world.draw(np.repeat(joint.answers, most, axis=0), rng).reshape(n, most)
    given = joint.confidence[np.repeat(np.arange(n), most), answers.ravel()].astype(float)
    stated = TENTHS[world.draw(given, rng)].reshape(n, most)
    onehot = answers[:, :, None] == np.arange(suspects)
    rows = []
    for votes in VOTES:
        ballots, weight = onehot[:, :votes], stated[:, :votes, None]
        scores = {
            "majority": ballots.sum(1).astype(float),
            "weighted": (ballots * weight).sum(1),
            "max_confidence": np.where(ballots, weight, -1.0).max(1),
        }
        # A vote whose weights are all 0 still names its answer: below any positive weight, above no vote.
        scores["weighted"] += 1e-6 * ballots.any(1)
        ties = rng.random((n, suspects)) * 1e-9
        right = {rule: ((score + ties).argmax(1) == truth).astype(float) for rule, score in scores.items()}
        for rule, hits in right.items():
            difference = hits - right["majority"]
            row = {"votes": votes, "rule": rule, "accuracy": hits.mean(), "difference": difference.mean()}
            row["difference_se"] = difference.std(ddof=1) / np.sqrt(n)
            rows.append(row | {"diversity": ballots.any(1).sum(1).mean()})
    return pd.DataFrame(rows)
