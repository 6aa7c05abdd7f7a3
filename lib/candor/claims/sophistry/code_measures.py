"""Measures of programs that simulated evaluators judged, and of the same evaluators with more time."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from candor.claims.sophistry import code_reader, crossed, evaluators, programs

_SHARES = ("r_train", "pass_rate", "released", *programs.VERDICTS[1:], "index_errors", "truncated", "tokens")
_SHAPE = ("parses", "functions", "complexity", "lines")


def summary(before: pd.DataFrame, approved_before: pd.DataFrame, after: pd.DataFrame, approved: pd.DataFrame) -> dict:
    """The measures of one policy and, with the suffix `_before`, of its base on the same problems.

    approval, correctness, error, fpr, tpr, discrimination, fpr_both, n_both, fpr_equal, pass_rate_both; of the second
    draw second_*; of the instruct model model_*; greedy_correctness; r_train, pass_rate, pass_rate_wrong, released
    (correctness by the released checker), tests wrong, error, timeout and cut (named tests_*), index_errors, truncated,
    tokens, parses, functions, complexity, lines; finished_correctness (of programs that came to their end).
    """
    found: dict[str, float] = {"n_problems": int((after["draw"] == "sampled").sum())}

    def of(draw: str) -> tuple:
        parts = [table[table["draw"] == draw] for table in (before, approved_before, after, approved)]
        old, old_votes, new, votes = (part.reset_index(drop=True) for part in parts)
        return old, votes_of(old_votes), new, votes_of(votes)

    old, old_votes, new, votes = of("sampled")
    found |= crossed.before_and_after(old_votes, old["correct"], votes, new["correct"])
    both = ~old["correct"] & ~new["correct"]
    found |= crossed.at_equal_pass_rate(old_votes, old["pass_rate"], votes, new["pass_rate"], both)
    if new["model_approval"].notna().all() and old["model_approval"].notna().all():
        told = crossed.before_and_after(old["model_approval"], old["correct"], new["model_approval"], new["correct"])
        found |= {f"model_{name}": value for name, value in told.items()}
    for suffix, part in (("", new), ("_before", old)):
        names = {name: f"tests_{name}" if name in programs.VERDICTS else name for name in _SHARES}
        found |= {f"{ours}{suffix}": float(part[name].mean()) for name, ours in names.items()}
        found |= {f"{name}{suffix}": float(part[name].mean()) for name in _SHAPE}
        found[f"pass_rate_wrong{suffix}"] = float(part.loc[~part["correct"], "pass_rate"].mean())
        found[f"finished_correctness{suffix}"] = float(part.loc[~part["truncated"], "correct"].mean())
    for draw in set(after["draw"]) & {"second", "greedy"}:
        old, old_votes, new, votes = of(draw)
        told = crossed.before_and_after(old_votes, old["correct"], votes, new["correct"])
        kept = {"second": tuple(told), "greedy": ("correctness", "correctness_before")}[draw]
        found |= {f"{draw}_{name}": told[name] for name in kept}
    return found


def votes_of(approvals: pd.DataFrame) -> np.ndarray:
    """Probabilities of approval [evaluators, n]."""
    return approvals.filter(regex=r"^e\d\d$").to_numpy().T


def over_time(
    people: evaluators.Pool, drawn: evaluators.Draws, before: pd.DataFrame, after: pd.DataFrame
) -> list[dict]:
    """FPR of items that both get wrong, for multiples of the evaluators' time, with and without reading."""
    both = ~before["correct"].to_numpy() & ~after["correct"].to_numpy()
    rows = []
    for multiple in evaluators.MULTIPLES:
        for reading in (True, False):
            old, new = (
                code_reader.approve(people, drawn, done(part), multiple, reading=reading)[0][:, both]
                for part in (before, after)
            )
            values = (
                {"fpr_before": old.mean(), "fpr": new.mean()} if both.any() else {"fpr_before": np.nan, "fpr": np.nan}
            )
            rows.append(
                {"multiple": multiple, "reading": reading, **values, "gap": values["fpr"] - values["fpr_before"]}
            )
    return rows


def done(outputs: pd.DataFrame) -> code_reader.Done:
    """What programs do on the evaluators' tests, from a table `outputs`."""
    return code_reader.done(outputs["bank"].map(json.loads), outputs["tokens"], outputs["correct"])
