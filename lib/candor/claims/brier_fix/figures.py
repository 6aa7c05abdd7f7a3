"""The figures of claim 5. Each reads the claim's tables and nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from candor.claims.brier_fix.tables import ARMS, THREE, VARIANTS
from candor.claims.shared import known, others, rows
from candor.declare import figures as f
from candor.declare.figures import Figures
from candor.declare.ledger import Tables
from candor.measure.intervals import t_interval
from candor.witnesses.figures import DASHED, by_kind, dots

FIGURES = Figures()

_LOSS = "#F6DDCF"  # where giving up wins
_OUTLINE = [withStroke(linewidth=3.2, foreground=f.INK)]


def _legend(figure: Figure, *axes: Axes, **kwargs) -> None:
    """One legend below the figure with every label of `axes` once."""
    entries = {}
    for ax in axes:
        entries |= {text: handle for handle, text in zip(*ax.get_legend_handles_labels()) if text not in entries}
    if entries:
        about = {"ncols": min(len(entries), 5)} | kwargs
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", **about)


# --- From the rules alone -------------------------------------------------------------------------

SURFACES = ("swap_rlvr", "swap_rlcr", "swap_brier2", "swap_log1", "swap_log_k")


@FIGURES.draws("curves")
def reward_surfaces(tables: Tables) -> Figure:
    """Expected reward of an answer that is right with probability p and stated with confidence q (top; white line:
    zero; dashes: the honest q = p), and what the best q earns (bottom). Shaded: a surely wrong answer at q = 0
    earns more. Logarithms are clipped at .01.

    Five columns, one a rule. Top: maps of expected reward over p and q, whose ridge is the diagonal except for
    RLVR, which does not depend on q. Bottom: the best reward V(p). It rises from zero for RLVR, RLCR and the log
    score with small weight; for twice Brier it dips below zero until p = .5, for the log score until p = .65, and
    there giving up pays.
    """
    figure, axes = f.canvas(2, len(SURFACES), width=7.6, height=3.9, sharex=True, sharey="row", height_ratios=(1, 0.72))
    levels = np.arange(-1.5, 1.01, 0.25)
    for (top, below), rule in zip(axes.T, SURFACES):
        curve = rows(tables["curves"], rule=rule)
        x = curve["x"].to_numpy()
        expected = np.outer(curve["right"], x) + np.outer(curve["wrong"], 1 - x)  # [q, p]
        shades = top.contourf(x, x, expected, levels, cmap="cividis", extend="min")
        top.contour(x, x, expected, [0], colors=f.PAPER, linewidths=1)
        if curve["wrong"].nunique() > 1:
            top.plot((0, 1), (0, 1), color=f.PAPER, linewidth=1.8, linestyle=(0, (3, 2)), path_effects=_OUTLINE)
        top.set_title(f.label(rule))
        below.axhline(0, color=f.INK, linewidth=0.8)
        below.plot(x, curve["value"], **f.line(rule, marker=""))
        losing = x[curve["value"].to_numpy() < curve["wrong"].iloc[0] - 1e-9]
        if losing.size and losing.max() > 0.01:  # a clip moves g(0) by a hair: that is no region
            limit = losing.max() + 0.005
            below.axvspan(0, limit, color=_LOSS, zorder=0, linewidth=0)
            below.text(limit / 2, 0.92, "give up", ha="center", va="top", color=f.VERMILION, fontsize=8)
            top.axvline(limit, color=f.PAPER, linewidth=1.2)
        below.set(xlabel="p (right)", ylim=(-0.4, 1.02))
        below.set_xticks((0, 0.5, 1), ("0", ".5", "1"))
        top.set_yticks((0, 0.5, 1), ("0", ".5", "1"))
    axes[0, 0].set_ylabel("q, stated")
    axes[1, 0].set_ylabel("V(p), best reward")
    ticks = (-1.5, -1, -0.5, 0, 0.5, 1)
    figure.colorbar(shades, ax=axes[0], pad=0.015, aspect=14, label="expected reward", ticks=ticks)
    return figure


GAPS = ("swap_rlvr", "swap_rlcr", "swap_log_k", "swap_brier2", "swap_log1", "swap_brier_only", "swap_log_only")


@FIGURES.draws("curves")
def gaps(tables: Tables) -> Figure:
    """What being right pays more than being wrong, at the honest confidence. Where a line is below zero (shaded),
    an honest forecaster earns more by being wrong. Logarithms are clipped at .01.

    Seven lines of the gap between right and wrong over the stated confidence. RLVR is constant at 1, RLCR rises
    from 0 to 2, the log score with small weight stays just above zero; twice Brier is negative below .25, the log
    score below .27, and both scores without a correctness term below .5.
    """
    figure, ax = f.canvas(width=6.2, height=3.7)
    ax.axhspan(-3, 0, color=_LOSS, zorder=0, linewidth=0)
    ax.axhline(0, color=f.INK, linewidth=1)
    for rule in GAPS:
        curve = rows(tables["curves"], rule=rule)
        ax.plot(curve["x"], curve["gap"], **f.line(rule, markevery=(5, 15)))
    ax.text(0.985, -2.75, "being wrong pays more than being right", ha="right", color=f.VERMILION)
    ax.set(xlim=(0, 1), ylim=(-3, 4), xlabel="q, honest confidence", ylabel="gap f(q) - g(q) = V′(p) at p = q")
    figure.legend(loc="outside right center", title="rule", alignment="left")
    return figure


# --- Published ------------------------------------------------------------------------------------

COMPARED = ("base", "rlvr", "constant", "classifier", "rlcr")


@FIGURES.draws("cells")
def dumbbell(tables: Tables) -> Figure:
    """Brier score on 16 cells (model family and data set), sorted by accuracy (the number). The bar joins RLVR and
    RLCR; red names: RLCR is worse. Constant: RLCR's answers, all stated with its in-domain accuracy.

    Two panels of rows, one a data set, with markers for base, RLVR, constant, classifier and RLCR. RLCR is left of
    RLVR in all rows but CommonsenseQA in both families and math-trained GSM8K; the constant lies close to RLCR in
    most rows.
    """
    cells = tables["cells"]
    families = cells["family"].unique()
    figure, axes = f.canvas(1, len(families), width=7.4, height=3.7, sharex=True)
    for ax, family in zip(axes, families):
        part = rows(cells, family=family).sort_values("rlcr_accuracy", ascending=False, ignore_index=True)
        lost = part["rlcr_brier"] > part["rlvr_brier"]
        for y, (ends, worse) in enumerate(zip(part[["rlvr_brier", "rlcr_brier"]].to_numpy(), lost)):
            bar = {"color": f.VERMILION if worse else f.BLUE, "linewidth": 4.5, "alpha": 0.28}
            ax.plot(ends, (y, y), **bar, solid_capstyle="round", zorder=1)
        for arm in COMPARED:
            shown, constant = f.look(arm), arm == "constant"
            sizes = {"markersize": 9 if constant else 6, "markeredgewidth": 2 if constant else 0.8}
            face = f.PAPER if arm == "base" else shown.color
            about = {"color": shown.color, "markerfacecolor": face, "label": shown.label, **sizes}
            ax.plot(part[f"{arm}_brier"], part.index, shown.marker, zorder=4 if arm == "rlcr" else 3, **about)
        names = (
            part["dataset"]
            + np.where(part["domain"] == "in", " (in)", "")
            + part["rlcr_accuracy"].map("  {:.2f}".format)
        )
        ax.set_yticks(part.index, names)
        for tick, bad in zip(ax.get_yticklabels(), lost):
            tick.set(color=f.VERMILION if bad else f.INK, fontweight="bold" if bad else "normal")
        ax.grid(axis="x", color="#EEEEEE", linewidth=0.8)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set(title=f"{family}-trained", xlabel="Brier score", xlim=(0, 0.92))
        ax.set_ylim(len(part) - 0.4, -0.6)
    _legend(figure, axes[0])
    return figure


@FIGURES.draws("cells", "narrow_band")
def narrow_band(tables: Tables) -> Figure:
    """RLCR's mean stated confidence against its accuracy on every data set (filled: in domain), with the fitted
    line. A calibrated model lies on the diagonal; these lie in a narrow band.

    Two panels of eight points each. Accuracy spans .12 to .91, mean confidence only .46 to .67 and .50 to .78; the
    fitted lines are much flatter than the diagonal.
    """
    cells, bands = tables["cells"], tables["narrow_band"]
    figure, axes = f.canvas(1, len(bands), width=7.2, height=3.7, sharey=True)
    for ax, band in zip(axes, bands.itertuples()):
        part = rows(cells, family=band.family)
        ax.axhspan(band.confidence_low, band.confidence_high, color="#E3EDF5", zorder=0, linewidth=0)
        x = np.array([band.accuracy_low, band.accuracy_high])
        ax.plot(x, band.intercept + band.slope * x, color=f.BLUE, linewidth=1.2)
        for row in part.itertuples():
            point = (row.rlcr_accuracy, row.rlcr_confidence)
            face = f.BLUE if row.domain == "in" else f.PAPER
            ax.plot(*point, "^", markeredgecolor=f.BLUE, markerfacecolor=face, markersize=7, zorder=3)
        f.unit_square(ax, "accuracy")
        _name_points(ax, part)
        ax.set_title(f"{band.family}-trained: slope {band.slope:.2f}")
    axes[0].set_ylabel("mean stated confidence of RLCR")
    return figure


def _name_points(ax: Axes, part: pd.DataFrame, gap: float = 0.065) -> None:
    """Names at the foot of the panel, upright, in the order of accuracy, each with a thin line to its point."""
    part = part.sort_values("rlcr_accuracy")
    wanted = part["rlcr_accuracy"].to_numpy()
    placed = wanted.copy()
    for _ in range(200):  # push neighbours apart, half each
        short = np.clip(gap - np.diff(placed), 0, None) / 2
        placed[:-1] -= short
        placed[1:] += short
    placed = np.clip(placed, 0.04, 0.96)
    foot = 0.36
    for x, row in zip(placed, part.itertuples()):
        ax.plot([row.rlcr_accuracy, x], [row.rlcr_confidence, foot], color="#999999", linewidth=0.6, zorder=1)
        ax.text(x, foot - 0.01, row.dataset, rotation=90, ha="center", va="top", fontsize=7.5).set_path_effects(f.HALO)


SWAPPED = {
    "Brier-1": "rlcr",
    "Log-1/ln202": "swap_log_k",
    "Brier-2": "swap_brier2",
    "Log-1": "swap_log1",
    "Brier Score": "swap_brier_only",
    "Log Loss": "swap_log_only",
}
SPLITS = ("easy", "medium", "hard")


@FIGURES.draws("swap")
def swap(tables: Tables) -> Figure:
    """Qwen2.5-3B trained with other scoring rules (2607.04332): accuracy relative to rewarding correctness only, by
    difficulty (accuracy of that reference in brackets). One run each.

    Three panels of lines over easy, medium and hard questions. RLCR and the log score with small weight stay near
    one everywhere. Twice Brier and log fall with difficulty on HotpotQA-Modified, to zero on DeepMath, and hardly
    on BigMath. Both scores alone are at zero.
    """
    table = tables["swap"]
    datasets = known(table, ("BigMath", "DeepMath-103K", "HotpotQA-Modified"), "dataset")
    figure, axes = f.canvas(1, len(datasets), width=7.2, height=3.0, sharey=True, squeeze=False)
    for ax, dataset in zip(axes[0], datasets):
        ax.axhline(1, color=f.INK, linewidth=0.8)
        by_split = rows(table, dataset=dataset).pivot(index="split", columns="arm").reindex(SPLITS)
        for name, arm in SWAPPED.items():
            ax.plot(range(3), by_split["relative", name], **f.line(arm, clip_on=False, alpha=0.9))
        accuracy = by_split["accuracy", "Correctness-only"]
        ax.set_xticks(range(3), [f"{s}\n({a:.2f})" for s, a in accuracy.items()])
        ax.set(title=dataset, ylim=(-0.04, 1.08))
    axes[0, 0].set_ylabel("accuracy, relative to\nrewarding correctness only")
    _legend(figure, axes[0, 0], ncols=6, columnspacing=1.2)
    return figure


# --- The world ------------------------------------------------------------------------------------

COLUMNS = (*THREE, "rlcr_group_std")
KINDS = {"q_mean": "stated confidence", "answer_prob": "answer probability"}


@FIGURES.draws("density")
def density(tables: Tables) -> Figure:
    """How often each value is given at each exact posterior of the answer; the line is the mean. A calibrated model
    lies on the diagonal. Expert crowd, all seeds together.

    Heat maps, a column an arm: base, RLVR, RLCR, RLCR with group scaling. Top row stated confidence, bottom row
    answer probability, both against the exact posterior, with the line of means beside the diagonal.
    """
    columns = [("expert", arm) for arm in COLUMNS]
    return by_kind(tables["density"], columns, KINDS, f.density_panel, below="exact posterior", width=1.75)


CROWDS = {"expert": "expert crowd", "overconfident": "overconfident crowd", "naive": "naive crowd"}


@FIGURES.draws("summary")
def joint(tables: Tables) -> Figure:
    """From the base (circle) to RLVR and to RLCR in three crowds; dots: seeds; dashed: accuracy of the exact
    posterior. Up is more accurate, left is better calibrated: joint improvement is up and left.

    Three panels of greedy accuracy against calibration error of stated confidence, with an arrow from the base to
    RLVR and one from the base to RLCR.
    """
    summary = tables["summary"]
    crowds = [c for c in CROWDS if "base" in set(rows(summary, setting=c)["arm"])]
    figure, axes = f.canvas(1, max(len(crowds), 1), width=7.2, height=3.2, sharex=True, sharey=True, squeeze=False)
    for ax, crowd in zip(axes[0], crowds):
        part = rows(summary, setting=crowd)
        means = part.groupby("arm")[["q_mean_ece", "accuracy_greedy"]].mean()
        if "bayes_accuracy" in part:
            ax.axhline(part["bayes_accuracy"].mean(), color=f.INK, linewidth=0.8, linestyle=DASHED)
        for arm in known(part, ("rlvr", "rlcr")):
            f.arrow(ax, tuple(means.loc["base"]), tuple(means.loc[arm]), arm)
        for arm in known(part, THREE):
            shown, seeds = f.look(arm), rows(part, arm=arm)
            ax.plot(seeds["q_mean_ece"], seeds["accuracy_greedy"], ".", color=shown.color, alpha=0.55, markersize=4)
            ax.plot(*means.loc[arm], shown.marker, color=shown.color, markersize=7, label=shown.label, zorder=4)
        ax.set(title=CROWDS[crowd], xlabel="ECE of stated confidence")
    for ax in axes[0]:
        ax.margins(0.12)
        ax.set_xlim(left=0)
    axes[0, 0].set_ylabel("greedy accuracy")
    _legend(figure, *axes[0])
    return figure


RULES = {"correctness plus a score": GAPS[:5], "the score alone": GAPS[5:]}


@FIGURES.draws("posterior_bins", "thresholds", "tabular")
def give_up(tables: Tables) -> Figure:
    """Share of surely wrong answers (NONE) by the exact posterior of the best suspect, mean and 95 % interval over
    seeds; thin: each seed. Vertical: the closed-form threshold of the rule; diamonds: exact policy gradient, no
    network.

    Two panels of lines over the max posterior, a line a rule. Left, rules with a correctness term, with vertical
    thresholds at .5 for twice Brier and .648 for log. Right, both scores alone.
    """
    table = rows(tables["posterior_bins"], setting="give_up")
    figure, axes = f.canvas(1, 2, width=7.2, height=3.4, sharey=True)
    thresholds = tables["thresholds"].query("grid == 'continuous'").set_index("rule")["threshold"]
    table, ideals = (
        part.assign(middle=(part["bin_low"] + part["bin_high"]) / 2) for part in (table, tables["tabular"])
    )
    for ax, (title, arms) in zip(axes, RULES.items()):
        for arm in known(table, ("base", *arms)):
            part, ideal = rows(table, arm=arm), rows(ideals, arm=arm)
            f.seed_band(ax, part, "middle", "give_up_rate", arm)
            for _, run in part.groupby("seed"):  # some arms end in one of two states, which no band shows
                ax.plot(run["middle"], run["give_up_rate"], color=f.color(arm), linewidth=0.6, alpha=0.6)
            hollow = {"markerfacecolor": "none", "markeredgecolor": f.color(arm)}
            ax.plot(ideal["middle"], ideal["give_up_rate"], "D", markersize=8, **hollow)
            threshold = thresholds.get(arm.removeprefix("swap_"), 0)
            if 0.1 < threshold < 1:
                ax.axvline(threshold, color=f.color(arm), linewidth=1, linestyle=f.look(arm).linestyle, zorder=0)
                name = f"{threshold:.3f}".removeprefix("0")
                f.point_label(ax, (threshold, 1), name, f.color(arm), dx=4, dy=6).set_path_effects(f.HALO)
        ax.set(title=title, xlabel="max posterior p", xlim=(0.1, 0.95), ylim=(-0.04, 1.1))
        ax.set_xticks((0.2, 0.35, 0.5, 0.65, 0.8), (".2", ".35", ".5", ".65", ".8"))
    axes[0].set_ylabel("share of surely wrong answers")
    _legend(figure, *axes, ncols=4)
    return figure


SCALED = ("rlcr", "rlcr_batch_std", "rlcr_group_std")


@FIGURES.draws("group_scaling", "summary")
def group_scaling(tables: Tables) -> Figure:
    """Left: where exact GRPO with groups of 8 takes the stated confidence of an answer that is right with
    probability p. Right: the trained models, mean and 95 % interval over seeds.

    Left: without scaling stated confidence equals p, with group scaling it goes to 0 below p = .5 and to 1 above.
    Right: intervals of the distance of stated confidence from one half and from the posterior for RLCR without
    division, divided by the batch's and by the group's spread.
    """
    figure, axes = f.canvas(1, 3, width=7.4, height=2.7)
    f.unit_square(axes[0], "p (right)", "stated confidence")
    for scaling, arm in (("none", "rlcr"), ("group", "rlcr_group_std")):
        part = rows(tables["group_scaling"], scaling=scaling)
        axes[0].plot(part["p"], part["confidence"], **f.line(arm, clip_on=False))
    axes[0].set_title("without a network")
    summary = rows(tables["summary"], setting="expert")
    panels = {"q_mean_abs_half": "|stated - .5|", "q_mean_abs_posterior": "|stated - posterior|"}
    dots(axes[1:], summary, known(summary, SCALED), panels)
    for ax in axes[1:]:
        ax.set_xlim(left=0)
    axes[2].set_yticklabels([])
    return figure


@FIGURES.draws("voting", "voting_reference", "voting_published")
def voting(tables: Tables) -> Figure:
    """Votes over documents drawn from the model: accuracy (weighted by stated confidence: filled; majority: hollow,
    dotted), the gain of weighting, and how many distinct answers there are to choose from.

    Three panels over 1 to 16 documents. Accuracy of the votes, gain of weighting over majority with the paper's
    values as diamonds, and the number of distinct answers, for base, RLCR and an ideal imitator.
    """
    table = rows(tables["voting"], setting="expert")
    reference, paper = tables["voting_reference"], tables["voting_published"]
    figure, axes = f.canvas(1, 3, width=7.4, height=3.1, sharex=True)
    panels = {"accuracy": "accuracy of the vote", "difference": "weighted - majority", "diversity": "distinct answers"}
    for arm in known(table, ("base", "rlcr")):
        part, shown = rows(table, arm=arm), f.look(arm)
        for ax, column in zip(axes, panels):
            f.seed_band(ax, rows(part, rule="weighted"), "votes", column, arm)
            if column == "accuracy":
                majority = rows(part, rule="majority").groupby("votes")["accuracy"].mean()
                dotted = {"linestyle": (0, (1, 1.5)), "linewidth": 1.2, "markersize": 4, "markerfacecolor": f.PAPER}
                ax.plot(majority.index, majority, color=shown.color, marker=shown.marker, **dotted)
    crowd = rows(reference, weights="crowd", rule="weighted")
    for ax, (column, title) in zip(axes, panels.items()):
        ax.plot(crowd["votes"], crowd[column], **f.line("ideal", label="ideal imitator", markersize=4))
        ax.set_xscale("log", base=2)
        ax.set_xticks((1, 2, 4, 8, 16), ("1", "2", "4", "8", "16"))
        ax.set(xlabel="documents a question", title=title)
    gain = axes[1]
    hollow = {"markerfacecolor": "none", "markeredgecolor": f.INK}
    gain.plot(paper["votes"], paper["weighted_gain"], "D", label="paper, 7B", **hollow)
    gain.axhline(0, color=f.INK, linewidth=0.8)
    axes[2].set_ylim(bottom=0.9)
    _legend(figure, gain)
    return figure


SHIFT_NAMES = {
    "in_domain": "none",
    "testimonies_4_5": "4-5 testimonies",
    "testimonies_6_8": "6-8 testimonies",
    "only_w0_w1": "good witnesses only",
    "only_w2_w3": "bad witnesses only",
    "drift_mild": "mild drift",
    "drift_strong": "strong drift",
    "suspects_12": "12 suspects",
}
SHIFT_ARMS = {
    "RL on 1-5 testimonies": ("base", "rlvr", "rlvr_classifier", "rlcr"),
    "RL on 1-3 testimonies": ("rlvr_short", "rlvr_short_classifier", "rlcr_short"),
}


@FIGURES.draws("shift", "summary")
def shift(tables: Tables) -> Figure:
    """Brier score of stated confidence under each shift, mean and 95 % interval over seeds. Black: the ideal
    forecaster of the training world on the same questions, the limit of what can be reached.

    Two panels of rows, one a shift, with markers for base, RLVR, classifier and RLCR and a black bar for the ideal
    forecaster. Left: reinforcement learning on 1 to 5 testimonies; right: on 1 to 3 only.
    """
    summary = tables["summary"].assign(shift="in_domain", ideal_brier=tables["summary"].get("bayes_brier"))
    columns = ["arm", "shift", "q_mean_brier", "ideal_brier"]
    both = [rows(summary, setting="expert"), tables["shift"]]
    both = pd.concat([table.reindex(columns=columns) for table in both])
    names = known(both, SHIFT_NAMES, "shift")
    figure, axes = f.canvas(1, 2, width=7.4, height=0.42 * len(names) + 1.3, sharex=True, sharey=True)
    for ax, (title, arms) in zip(axes, SHIFT_ARMS.items()):
        mine = both[both["arm"].isin(arms)]
        for y, name in enumerate(names):
            part = rows(mine, shift=name)
            if part.empty:
                continue
            ideal = part["ideal_brier"].mean()
            ax.plot((ideal, ideal), (y - 0.36, y + 0.36), color=f.INK, linewidth=2, zorder=2)
            for k, arm in enumerate(arms):
                values = rows(part, arm=arm)["q_mean_brier"].dropna()
                if len(values):
                    height = y + 0.2 * (k - (len(arms) - 1) / 2)
                    shown = f.look(arm.replace("_short", ""))  # the legend serves both panels
                    ax.hlines(height, *t_interval(values), color=shown.color, linewidth=1.6)
                    ax.plot(values.mean(), height, shown.marker, color=shown.color, markersize=5)
            if y:
                ax.axhline(y - 0.5, color="#EEEEEE", linewidth=0.8)
        ax.set_yticks(range(len(names)), [SHIFT_NAMES[n] for n in names])
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set(title=title, xlabel="Brier score of stated confidence", ylim=(len(names) - 0.5, -0.5))
    handles = [f.dot(f.look(arm)) for arm in ("base", "rlvr", "classifier", "rlcr")]
    ideal = Line2D([], [], color=f.INK, linewidth=2, label="ideal forecaster of the training world")
    f.legend(figure, [*handles, ideal])
    return figure


MEASURES = {
    "q_mean_abs_posterior": "|stated confidence - exact posterior|",
    "q_mean_ece": "ECE of stated confidence",
    "q_mean_brier": "Brier score of stated confidence",
    "accuracy_greedy": "accuracy of the greedy answer",
}
EXPERT = (
    *("base", "rlvr", "rlvr_classifier", "rlcr", "rlcr_batch_std", "rlcr_group_std"),
    *("rlcr_rolled_outcomes", "linear", "shuffled_reward"),
)


@FIGURES.draws("summary")
def seeds(tables: Tables) -> Figure:
    """Expert crowd: mean and 95 % interval over seeds, a dot a seed (arrowhead: the interval goes on). Dashed: the
    exact posterior on the same questions (for ECE: what a perfectly calibrated forecaster would show).

    Four panels of intervals, a row an arm: distance of stated confidence from the posterior, its calibration error,
    its Brier score, and greedy accuracy.
    """
    summary = rows(tables["summary"], setting="expert")
    arms = [*known(summary, EXPERT), *others(summary, ARMS, VARIANTS)]
    figure, axes = f.canvas(2, 2, width=7.2, height=1.5 + 0.5 * len(arms), sharey=True)
    dots(axes.flat, summary, arms, MEASURES)
    references = {"q_mean_brier": "bayes_brier", "accuracy_greedy": "bayes_accuracy", "q_mean_ece": "ece_floor_mean"}
    for ax, measure in zip(axes.flat, MEASURES):
        if references.get(measure) in summary:
            ax.axvline(summary[references[measure]].mean(), color=f.INK, linewidth=0.9, linestyle=DASHED)
    return figure
