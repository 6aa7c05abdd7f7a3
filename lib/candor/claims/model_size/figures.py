"""The figure of the size sweep. It reads the study's tables and nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from candor.claims.model_size import run as sizes
from candor.claims.model_size.criteria import EFFECTS
from candor.declare import figures as f
from candor.declare.figures import Figures
from candor.declare.ledger import Tables
from candor.measure.intervals import t_interval

FIGURES = Figures()

_LABELS = {
    "S1": "ECE of answer probability,\nRLVR minus shuffled",
    "S2": "distance to posterior,\nRLVR minus base",
    "S3": "distance to posterior,\nRLVR minus RLCR",
    "S4": "Brier of drawn confidence,\nbase minus RLCR",
    "S5": "greedy accuracy (points),\nRLCR minus RLVR",
    "S6": "within-prompt AUROC,\nfluency, minus .5",
    "S7": "sampled accuracy (points),\nRLSF minus fluency",
    "S8": "sampled accuracy (points),\nRLSF minus shuffled",
    "S9": "ECE on fixed traces (points),\nfluency minus RLSF",
}
_COLORS = {1: f.VERMILION, 5: f.BLUE, 6: f.GREEN}


def _panel(ax, values: pd.DataFrame, color: str) -> None:
    """Effects [size, seed] against the number of parameters: seeds faint, means with t-intervals, one seed hollow."""
    ax.axhline(0, color=f.INK, linewidth=0.8)
    grouped = values.groupby("parameters")["effect"]
    ax.plot(values["parameters"] * 1.09, values["effect"], "o", color=color, alpha=0.35, markersize=2.8)
    mean = grouped.mean()
    ax.plot(mean.index, mean, color=color, linewidth=1.2, zorder=2)
    for parameters, group in grouped:
        if len(group) > 1:
            ax.vlines(parameters, *t_interval(group), color=color, linewidth=1.8)
        face = color if len(group) > 1 else f.PAPER
        ax.plot(parameters, group.mean(), "o", color=color, markerfacecolor=face, markersize=6, zorder=3)


@FIGURES.draws(*sizes.HOMES)
def effects(tables: Tables) -> Figure:
    """Nine effects of claims 1, 5 and 6 against the number of parameters; above 0 is the claim's way. Small dots are
    seeds, bars 95 % t-intervals over seeds (cut where they reach far beyond the seeds), hollow dots a single seed. The
    other worlds' models have 130k.

    Nine panels, two for claim 1, three for claim 5, four for claim 6, each with a line over the sizes from 30 thousand
    parameters upwards, seeds as dots and intervals as vertical bars around each mean, and a line at 0.
    """
    figure, axes = f.canvas(3, 3, width=7.6, height=6.6)
    for ax, effect in zip(axes.flat, EFFECTS):
        values = effect.values(tables)
        _panel(ax, values, _COLORS[effect.claim])
        known = values.groupby("parameters")["size"].first()
        ax.set_xscale("log")
        ax.set_xticks(list(known.index), [name.removeprefix("size_").replace("m", "M") for name in known])
        ax.minorticks_off()
        low, high = values["parameters"].min(), values["parameters"].max()
        ax.set_xlim(low / 1.8, high * 1.8)
        # An interval of three scattered seeds would press everything else flat.
        reach = 0.6 * max(np.ptp([*values["effect"], 0.0]), 1e-9)
        ax.set_ylim(min(values["effect"].min(), 0) - reach, max(values["effect"].max(), 0) + reach)
        ax.set_title(f"{effect.id} · claim {effect.claim}", color=_COLORS[effect.claim], loc="left", fontsize=8)
        ax.set_ylabel(_LABELS[effect.id], fontsize=7.5)
    for ax in axes[-1]:
        ax.set_xlabel("parameters")
    return figure
