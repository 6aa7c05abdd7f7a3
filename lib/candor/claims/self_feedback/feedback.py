"""Labels that a model makes for itself in `arithmetic`: its branches of unlabelled prompts, and pairs of them.

Nothing here sees a truth but `shown`, which is for the eye only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from candor.claims.self_feedback import world
from candor.claims.self_feedback.outputs import branched, observed
from candor.core.errors import CandorError


def prompts_only(prompts: np.ndarray) -> np.ndarray:
    """The prompts [n, 7], if they are token ids of prompts and nothing more. Raises: `CandorError`."""
    ids = np.asarray(prompts)
    whole = ids.ndim == 2 and ids.shape[1] == world.PROMPT and ids.dtype.kind == "i"
    if not (whole and (ids[:, 0] == world.TOKEN["Q"]).all() and (ids[:, -1] == world.TOKEN[":"]).all()):
        raise CandorError("Feedback is made from prompts alone, but something else was handed in.")
    return ids


def labelled(model, prompts: np.ndarray, k: int) -> pd.DataFrame:
    """The branches of a model with its confidence in their answers: all that RLSF knows.

    A row a branch: prompt, branch, ids, answer (-1: none), finished, disparity, probability.
    """
    prompts = prompts_only(prompts)
    output = observed(model, prompts, branched(model, prompts, k))
    return pd.DataFrame(
        {
            "prompt": np.repeat(np.arange(len(prompts)), k),
            "branch": np.tile(np.arange(k), len(prompts)),
            "ids": list(output.ids),
            "answer": output.traces.answer,
            "finished": (output.ids == world.EOS).any(1),
            "disparity": output.confidence("disparity"),
            "probability": output.confidence(),
        }
    )


def matrix(branches: pd.DataFrame, column: str) -> np.ndarray:
    """A column of the branches as [n, k]."""
    return branches[column].to_numpy().reshape(branches["prompt"].nunique(), -1)


def described(pairs: pd.DataFrame, branches: pd.DataFrame, unlabelled: bool = True) -> dict[str, float]:
    """What the pairs hold: number, share of prompts with one, share with different answers, median difference.

    `prompts_only` says that nothing but prompts went in: `unlabelled` of pairs that passed the checks of `_asked`.
    """
    answer = matrix(branches, "answer")
    chosen, rejected = (answer[pairs["prompt"], pairs[side]] for side in ("chosen", "rejected"))
    return {
        "number": len(pairs),
        "coverage": pairs["prompt"].nunique() / len(answer),
        "different_answers": pd.Series(chosen != rejected).mean(),
        "median_difference": pairs["difference"].median(),
        "prompts": len(answer),
        "no_answer": float((answer < 0).mean()),
        "prompts_only": unlabelled,
    }


def shown(given: world.Questions, branches: pd.DataFrame) -> pd.DataFrame:
    """The branches of the first prompt with four active operations on whose answer they differ.

    A row a branch: prompt, branch, first, text, answer, disparity, probability, right (posterior), truth.
    """
    answers = matrix(branches, "answer")
    posterior = world.posterior(given)[np.arange(len(given))[:, None], np.maximum(answers, 0)] * (answers >= 0)
    splits = (posterior.max(1) == 1) & (posterior.min(1) < 1)
    wanted = np.flatnonzero(splits & (given.active == given.active[splits].max())) if splits.any() else [0]
    pick = int(wanted[0])
    rows = branches[branches["prompt"] == pick].reset_index(drop=True)
    texts, right, truth = rows["ids"].map(world.text), posterior[pick], given.truth[pick]
    rows = rows.assign(prompt=given.prompts()[pick], text=texts, first=texts.str.split().str[0].fillna(""))
    columns = ["prompt", "branch", "first", "text", "answer", "disparity", "probability"]
    return rows[columns].assign(right=right, truth=truth)


def texts(prompts: np.ndarray, ids: np.ndarray) -> list[list[int]]:
    """Prompts with their completions, or with a completion a branch, as token ids without padding."""
    ids = ids.reshape(-1, world.NEW_TOKENS)
    prompts = np.repeat(prompts, len(ids) // len(prompts), 0)
    return [[*prompt, *(t for t in own if t != world.PAD)] for prompt, own in zip(prompts.tolist(), ids.tolist())]


def sides(pairs: pd.DataFrame, found: list | np.ndarray, k: int) -> dict[str, list]:
    """What was found of the preferred and of the rejected branches of pairs."""
    return {side: [found[i] for i in pairs["prompt"] * k + pairs[side]] for side in ("chosen", "rejected")}


def scale_of(scores: np.ndarray) -> dict[str, float]:
    """Centre and half width of the 1-99 % range of a judge's scores."""
    low, high = np.percentile(scores, [1, 99])
    if not high > low:
        raise CandorError("The judge scores all traces alike: train it longer.")
    return {"low": low, "high": high, "centre": (low + high) / 2, "divisor": (high - low) / 2}
