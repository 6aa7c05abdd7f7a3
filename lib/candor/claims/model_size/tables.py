"""The tables of the size sweep: the measures of the central arms of claims 1, 5 and 6, a row a size, arm and seed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from candor.claims.model_size import run as sizes
from candor.claims.shared import present, stack

NEEDS = [
    f"{world}/{sizes.setting(world, size)}/{name}"
    for size in sizes.WIDTHS
    for world in sizes.HOMES
    for name in sizes.names(world)
]
DECISIVE: tuple[str, ...] = ()

MEASURES = {
    "witnesses": (
        *("accuracy_greedy", "accuracy_sampled", "answer_ece", "q_mean_gap", "q_mean_ece", "q_mean_abs_posterior"),
        *("q_draw_brier", "malformed"),
    ),
    "arithmetic": (
        *("greedy_accuracy", "sampled_accuracy", "greedy_ece", "sampled_ece", "fixed_ece", "within_auroc"),
        *("share_full", "kl"),
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
    places = [(name, size) for name in sizes.HOMES for size in sizes.WIDTHS]
    measured = {name: stack(_measured(results, name, size) for size in sizes.WIDTHS) for name in sizes.HOMES}
    return present(**measured, training=stack(_training(results, *place) for place in places))


def _described(frame: pd.DataFrame, world_: str, size: str, results) -> pd.DataFrame:
    """The frame with what is to be said of its size in front."""
    about = {"size": size, "width": sizes.WIDTHS[size], "parameters": sizes.parameters(world_, size, results.config)}
    frame = frame.drop(columns="setting")
    return pd.DataFrame(about, index=frame.index).join(frame)


def _measured(results, world_: str, size: str) -> pd.DataFrame:
    found = results.collect(sizes.setting(world_, size), sizes.EVALUATED[world_], "summary", world_)
    kept = ["setting", "arm", "seed", *(name for name in MEASURES[world_] if name in found)]
    return _described(found[kept], world_, size, results) if len(found) else found


def _training(results, world_: str, size: str) -> pd.DataFrame:
    log = results.log(sizes.setting(world_, size), REWARDED[world_], world_)
    if log.empty:
        return log
    share = log["step"] / log.groupby(["arm", "seed"])["step"].transform("max")
    quarters = {"before": (share > 0.5) & (share <= 0.75), "end": share > 0.75}
    keys = ["setting", "arm", "seed"]
    means = pd.DataFrame({name: log[rows].groupby(keys)["reward"].mean() for name, rows in quarters.items()})
    found = _described(means.reset_index(), world_, size, results)
    found.insert(0, "world", world_)
    return found
