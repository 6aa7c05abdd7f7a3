"""The tables of the size sweep: the measures of the central arms of claims 1, 5 and 6, a row a size, arm and seed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from candor.claims.model_size import run as sizes

NEEDS = [
    f"{world}/{sizes.setting(world, size)}/{name}"
    for size in sizes.WIDTHS
    for world in sizes.HOMES
    for name in sizes.names(world)
]
DECISIVE: tuple[str, ...] = ()

MEASURES = {
    "witnesses": (
        "accuracy_greedy",
        "accuracy_sampled",
        "answer_ece",
        "q_mean_gap",
        "q_mean_ece",
        "q_mean_abs_posterior",
        "q_draw_brier",
        "malformed",
    ),
    "arithmetic": (
        "greedy_accuracy",
        "sampled_accuracy",
        "greedy_ece",
        "sampled_ece",
        "fixed_ece",
        "within_auroc",
        "share_full",
        "kl",
    ),
}
REWARDED = {"witnesses": ("rlvr", "rlcr"), "arithmetic": ("rlsf_fluency",)}


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """No paper printed this."""
    return {}


def theory() -> dict[str, pd.DataFrame]:
    return {}


def models(results) -> dict[str, pd.DataFrame]:
    return {}


def world(results) -> dict[str, pd.DataFrame]:
    """Tables `witnesses` and `arithmetic`: size, width, parameters, arm, seed, the measures; and `training`.

    `training`, a row a rewarded arm: world, size, parameters, arm, seed, `before` and `end`, the mean training reward
    of the last quarter of the steps and of the quarter before it.
    """
    tables = {name: _stacked(_measured(results, name, size) for size in sizes.WIDTHS) for name in sizes.HOMES}
    tables["training"] = _stacked(_training(results, name, size) for name in sizes.HOMES for size in sizes.WIDTHS)
    return {name: table for name, table in tables.items() if len(table)}


def _stacked(frames) -> pd.DataFrame:
    kept = [frame for frame in frames if len(frame)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def _described(frame: pd.DataFrame, world_: str, size: str, results) -> pd.DataFrame:
    frame = frame.drop(columns="setting")
    frame.insert(0, "size", size)
    frame.insert(1, "width", sizes.WIDTHS[size])
    frame.insert(2, "parameters", sizes.parameters(world_, size, results.config))
    return frame


def _measured(results, world_: str, size: str) -> pd.DataFrame:
    found = results.collect(sizes.setting(world_, size), sizes.EVALUATED[world_], "summary", world_)
    if found.empty:
        return found
    kept = ["setting", "arm", "seed", *(name for name in MEASURES[world_] if name in found)]
    return _described(found[kept], world_, size, results)


def _training(results, world_: str, size: str) -> pd.DataFrame:
    log = results.log(sizes.setting(world_, size), REWARDED[world_], world_)
    if log.empty:
        return log
    share = log["step"] / log.groupby(["arm", "seed"])["step"].transform("max")
    halves = {"before": (share > 0.5) & (share <= 0.75), "end": share > 0.75}
    keys = ["setting", "arm", "seed"]
    means = {name: log[rows].groupby(keys)["reward"].mean() for name, rows in halves.items()}
    found = _described(pd.DataFrame(means).reset_index(), world_, size, results)
    found.insert(0, "world", world_)
    return found
