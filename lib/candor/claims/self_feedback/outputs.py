"""What a model writes in `arithmetic`, how sure it is there, and all that an evaluation measures of both.

Prompts are token ids [n, 7], completions [n, 8], branches of a prompt [n, k, 8] (see `world`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from candor.claims.self_feedback import self_confidence as measure
from candor.claims.self_feedback import world

BATCH = 2000  # rows in a pass without gradient
TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6, 2.0)
DIGITS = slice(world.ZERO, world.ZERO + 10)


def sampled(model, prompts: np.ndarray, seed: int) -> np.ndarray:
    """A completion of each prompt at temperature 1, as ids [n, 8]; a seed gives every model the same chances.

    The generators of the process are left as they were.
    """
    import torch

    from candor.train.sharing import sample_groups

    found = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), BATCH):
            found += sample_groups(model, prompts[start : start + BATCH].tolist(), 1, world.NEW_TOKENS).tolist()
    return world.matrix(found)


def branched(model, prompts: np.ndarray, k: int) -> np.ndarray:
    """The `k` branches of each prompt, as ids [n, k, 8]; k = 1 is the greedy completion."""
    from candor.claims.self_feedback.branching import branch

    return branch(model, prompts.tolist(), k, world.NEW_TOKENS, batch=max(1, BATCH // k)).tokens


def logits_of(model, prompts: np.ndarray, completions: np.ndarray) -> np.ndarray:
    """Logits [n, 8, 40] of every token of completions behind their prompts."""
    import torch

    rows = torch.as_tensor(np.concatenate([prompts, completions], 1)[:, :-1], device=model.device)
    found = []
    with torch.inference_mode():
        for part in rows.split(BATCH):
            hidden = model.model(input_ids=part, use_cache=False).last_hidden_state[:, world.PROMPT - 1 :]
            found.append(model.lm_head(hidden).float().cpu().numpy())
    return np.concatenate(found)


def log_probs_of(model, prompts: np.ndarray, completions: np.ndarray) -> np.ndarray:
    return special.log_softmax(logits_of(model, prompts, completions).astype(float), axis=2)


@dataclass(frozen=True)
class Output:
    """What a model writes, `n` completions `ids`, and its mind there.

    `logits` [n, 40] are those of the answer token, with `temperature` 1; confidences are 0 where there is no answer.
    """

    ids: np.ndarray
    traces: world.Traces
    logits: np.ndarray

    def confidence(self, kind: str = "probability", temperature: float = 1.0) -> np.ndarray:
        """Confidence in the written answer [n]: its probability, or the disparity where it stands."""
        shown = special.softmax(self.logits.astype(float) / temperature, axis=1)
        if kind == "disparity":
            top = np.sort(shown, axis=1)
            value = top[:, -1] - top[:, -2]
        else:
            value = shown[np.arange(len(shown)), world.ZERO + np.maximum(self.traces.answer, 0)]
        return np.where(self.traces.answer >= 0, value, 0.0)


def observed(model, prompts: np.ndarray, ids: np.ndarray) -> Output:
    """Completions, or branches (a row each), with the mind of the model at their answers."""
    prompts = np.repeat(prompts, ids[0].size // world.NEW_TOKENS, 0)
    ids = ids.reshape(-1, world.NEW_TOKENS)
    traces = world.read(ids)
    return Output(ids, traces, logits_of(model, prompts, ids)[np.arange(len(ids)), traces.answer_at])


# --- Measures -----------------------------------------------------------------------------------------


def ranked(confidence: np.ndarray, given: world.Questions, answers: np.ndarray) -> dict[str, float]:
    """Within-prompt AUROC of confidences [n, k] of branches with `answers` [n, k].

    `within_auroc` in expectation over the truths that a smudged question allows, `within_auroc_truth` for the sampled
    ones; `within_prompts` is the number of prompts with both right and wrong branches, by the latter.
    """
    n, k = confidence.shape
    clean, smudged = given.clean, given.smudge >= 0
    both = np.concatenate([np.arange(n), np.flatnonzero(smudged)])
    truths = np.concatenate([clean, (clean[smudged] + world.SHIFT) % 10])
    weights = np.concatenate([np.where(smudged, 1 - world.SHIFTED, 1.0), np.full(smudged.sum(), world.SHIFTED)])
    prompt, expected = np.repeat(np.arange(n), k), np.repeat(np.arange(len(both)), k)
    right, either = answers == given.truth[:, None], answers[both] == truths[:, None]
    auroc = measure.within_prompt_auroc
    return {
        "within_auroc": auroc(confidence[both].ravel(), either.ravel(), expected, np.repeat(weights, k)),
        "within_auroc_truth": auroc(confidence.ravel(), right.ravel(), prompt),
        "within_prompts": int((right.any(1) & ~right.all(1)).sum()),
    }


def measures(output: Output, given: world.Questions, prefix: str) -> dict[str, float]:
    """The measures of completions, graded by the posterior and (`_truth`) by the sampled truth."""
    probability, disparity = output.confidence(), output.confidence("disparity")
    row = {f"{prefix}confidence": probability.mean(), f"{prefix}disparity": disparity.mean()}
    answer = output.traces.answer
    for suffix, right in (("", world.graded(given, answer)), ("_truth", (answer == given.truth).astype(float))):
        row |= {
            f"{prefix}accuracy{suffix}": right.mean(),
            f"{prefix}gap{suffix}": probability.mean() - right.mean(),
            f"{prefix}ece{suffix}": measure.ece(probability, right),
            f"{prefix}ece_disparity{suffix}": measure.ece(disparity, right),
            f"{prefix}ece_dropped{suffix}": measure.ece(probability, right, "dropped"),
            f"{prefix}ece_disparity_dropped{suffix}": measure.ece(disparity, right, "dropped"),
            f"{prefix}brier{suffix}": measure.brier(probability, right),
            f"{prefix}auroc{suffix}": measure.auroc(probability, right),
        }
    return row


def styles(output: Output, given: world.Questions, prefix: str = "") -> dict[str, float]:
    """What the traces look like: shares of the styles, validity of steps, agreement of answer and last step, length."""
    traces = output.traces
    row = {f"{prefix}share_{name}": (traces.style == i).mean() for i, name in enumerate(world.STYLES)}
    return row | {
        f"{prefix}malformed": (traces.style < 0).mean(),
        f"{prefix}zeros": int((traces.answer < 0).sum()),
        f"{prefix}step_validity": world.step_validity(given, traces),
        f"{prefix}agreement": world.agreement(traces),
        f"{prefix}length": traces.length.mean(),
    }


def bins(output: Output, given: world.Questions, mode: str) -> list[pd.DataFrame]:
    """Reliability by probability and by disparity: mode, measure, bin, n, confidence, accuracy."""
    right = world.graded(given, output.traces.answer)
    kinds = ("probability", "disparity")
    return [measure.reliability(output.confidence(kind), right).assign(mode=mode, measure=kind) for kind in kinds]


def divergence(model, reference, prompts: np.ndarray, ids: np.ndarray) -> float:
    """KL from `model` to `reference` in nats a completion: exact at every token of completions of `model`."""
    p, q = (log_probs_of(m, prompts, ids) for m in (model, reference))
    each = (np.exp(p) * (p - q)).sum(2) * (ids != world.PAD)
    return float(each.sum(1).mean())


def entropy(model, prompts: np.ndarray) -> float:
    """Entropy of the first token in nats, mean over prompts."""
    log_probs = log_probs_of(model, prompts, np.full((len(prompts), world.NEW_TOKENS), world.PAD))[:, 0]
    return float(-(np.exp(log_probs) * log_probs).sum(1).mean())


def on_fixed(model, given: world.Questions, ids: np.ndarray) -> dict[str, float]:
    """Calibration of the model's answers at the end of traces [n, k, 8] that are the same for every model."""
    output = observed(model, given.prompt_ids(), ids)
    at = output.traces.answer >= 0
    if not at.any():
        return dict.fromkeys(("fixed_ece", "fixed_ece_disparity", "fixed_accuracy", "fixed_gap"), np.nan)
    shown = special.softmax(output.logits[at].astype(float), axis=1)[:, DIGITS]
    best, confidence = shown.argmax(1), shown.max(1)
    right = world.graded(given[np.repeat(np.arange(len(given)), ids.shape[1])[at]], best)
    return {
        "fixed_ece": measure.ece(confidence, right),
        "fixed_ece_disparity": measure.ece(output.confidence("disparity")[at], right),
        "fixed_accuracy": right.mean(),
        "fixed_gap": confidence.mean() - right.mean(),
    }


def decoding(given: world.Questions, greedy: Output, branches: Output, k: int) -> pd.DataFrame:
    """Four ways to an answer: greedy, the most confident branch, answers by summed disparity, by number of branches.

    A row a `method`: accuracy, accuracy_truth, confidence, ece. Confidence is the probability of the answer in the
    first two, the answer's share of the sum or of the votes in the others.
    """
    n, rows = len(given), np.arange(len(given))
    answers = branches.traces.answer.reshape(n, k)
    disparity, probability = (branches.confidence(kind).reshape(n, k) for kind in ("disparity", "probability"))
    found = {"greedy": (greedy.traces.answer, greedy.confidence())}
    best = disparity.argmax(1)
    found["max_path"] = (answers[rows, best], probability[rows, best])
    for name, weight in (("aggregated", disparity), ("majority", np.ones((n, k)))):
        totals = np.stack([np.where(answers == digit, weight, 0).sum(1) for digit in range(10)], 1)
        total = totals.sum(1)
        picked = np.where(total > 0, totals.argmax(1), -1)
        found[name] = (picked, totals.max(1) / np.where(total > 0, total, 1))
    table = []
    for name, (answer, confidence) in found.items():
        right = world.graded(given, answer)
        row = {"method": name, "accuracy": right.mean(), "accuracy_truth": (answer == given.truth).mean()}
        table.append(row | {"confidence": confidence.mean(), "ece": measure.ece(confidence, right)})
    return pd.DataFrame(table)


def temperatures(output: Output, given: world.Questions) -> pd.DataFrame:
    """What one temperature at the answer token does to the greedy completions: temperature, accuracy, ece, ..."""
    right = world.graded(given, output.traces.answer)
    rows = []
    for t in TEMPERATURES:
        probability, disparity = output.confidence(temperature=t), output.confidence("disparity", t)
        row = {"temperature": t, "accuracy": right.mean(), "confidence": probability.mean()}
        rows.append(row | {"ece": measure.ece(probability, right), "ece_disparity": measure.ece(disparity, right)})
    return pd.DataFrame(rows)


def temperature(held: Output, labels: np.ndarray, greedy: Output, given: world.Questions) -> pd.DataFrame:
    """One temperature from labels, fitted at the answer token: temperature, labels, greedy ECE before and after."""
    from candor.measure import calibration

    rows = held.traces.answer >= 0
    right = world.graded(given, greedy.traces.answer)
    row = {"temperature": np.nan, "labels": int(rows.sum())}
    if rows.any():
        row["temperature"] = calibration.fit_temperature(held.logits[rows], world.ZERO + labels[rows])
    for suffix, t in (("before", 1.0), ("after", row["temperature"])):
        for kind, name in (("probability", "ece"), ("disparity", "ece_disparity")):
            row[f"{name}_{suffix}"] = measure.ece(greedy.confidence(kind, t), right) if rows.any() else np.nan
    return pd.DataFrame([row])
