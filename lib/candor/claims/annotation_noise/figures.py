"""The figures of claim 4. Each reads the claim's tables and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from candor.claims.annotation_noise.tables import FLIPPED, TRUTH
from candor.claims.shared import known, rows
from candor.declare import figures as f
from candor.declare.figures import Figures
from candor.declare.ledger import Tables
from candor.measure.intervals import t_interval

FIGURES = Figures()

# The types of annotator, where a figure tells types apart instead of arms.
TYPE_LOOKS = {
    "genuine": f.Look("genuine", f.BLUE, "o"),
    "non_attitude": f.Look("non-attitude", f.GREY, "s"),
    "constructed": f.Look("constructed", f.VERMILION, "^"),
}


def _legend(figure: Figure, handles: list, gate: pd.DataFrame | None = None, **kwargs: Any) -> None:
    """The legend, above it whether the reward models saw the evidence where the figure rests on them."""
    title = {} if gate is None else {"title": gate_of(gate)}
    f.legend(figure, handles, **{"title_fontsize": 7.5} | title | kwargs)


def _lines(arms: list[str]) -> list[Line2D]:
    return [Line2D([], [], **f.line(arm, markersize=5)) for arm in arms]


BASE = Line2D([], [], label="base", **f.REFERENCE)


def _short(value: float) -> str:
    """.95 for 0.95, .905 for 0.905."""
    return f"{value:.3f}".removesuffix("0").replace("0.", ".", 1)


def gate_of(gate: pd.DataFrame, setting: str = "main") -> str:
    """One line on whether the reward models saw the evidence, to stand below what rests on them."""
    seen = rows(gate, setting=setting).groupby("arm")["posterior_correlation"].mean()
    rest = seen.drop("oracle", errors="ignore")
    oracle = f"oracle {seen['oracle']:.2f}, " if "oracle" in seen else ""
    return (
        f"correlation of reward and posterior at fixed confidence: {oracle}lowest {rest.min():.2f} "
        f"({f.label(rest.idxmin())})"
    )


# --- Types ----------------------------------------------------------------------------------------


@FIGURES.draws("cards", "flip_rates")
def cards(tables: Tables) -> Figure:
    """How an annotator of each type answers at the four occasions of the design: probability of choosing the more
    confident of two completions, by frame (+ which would you rather act on, − which could mislead you less) and by
    order. The genuine card is that of someone who prefers the less confident one.

    Three cards of two by two tiles. Genuine: .05 in all four. Non-attitude: .60 where the more confident one is
    shown first, .40 where second. Constructed: .95 in frame plus, .05 in frame minus. Below: answers flip with the
    order in .095, .52 and .095, with the frame in .095, .48 and .905 of cells.
    """
    answers, flips = tables["cards"], tables["flip_rates"].set_index(["type", "condition"])["rate"]
    shades = LinearSegmentedColormap.from_list("chosen", [f.SKY, f.PAPER, f.ORANGE])
    figure, axes = f.canvas(1, 3, width=7.6, height=3.7)
    for ax, (kind, look) in zip(axes, TYPE_LOOKS.items()):
        for row in rows(answers, type=kind).itertuples():
            x, y = (0 if row.first > 0 else 1), (0 if row.frame > 0 else 1)
            ax.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, facecolor=shades(row.p), edgecolor=f.FAINT))
            ax.text(x + 0.5, y + 0.5, _short(row.p), ha="center", va="center", fontsize=11)
        ax.set(xlim=(0, 2), ylim=(2, 0), aspect="equal")
        ax.set_xticks((0.5, 1.5), ("first", "second"))
        ax.set_yticks((0.5, 1.5), ("+", "−") if ax is axes[0] else ("", ""))
        ax.tick_params(length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
        order, frame = (_short(flips[kind, c]) for c in ("order", "frame"))
        ax.set_title(look.label, color=look.color, fontweight="bold")
        ax.set_xlabel(f"more confident one is shown\n\nflips when the order swaps {order}\nin the other frame {frame}")
    axes[0].set_ylabel("frame")
    return figure


def _triangle(ax: Axes, title: str) -> None:
    ax.plot((0, 1, 0, 0), (0, 0, 1, 0), color=f.INK, linewidth=0.8)
    f.unit_square(ax, "share genuine", diagonal=False).set(xlim=(-0.02, 1.04), ylim=(-0.02, 1.04), title=title)
    f.point_label(ax, (0.03, 0.965), "all constructed", dx=6)
    f.point_label(ax, (0.02, 0.03), "all non-attitudes", dx=4).set_path_effects(f.HALO)


@FIGURES.draws("likelihood")
def identified(tables: Tables) -> Figure:
    """What repetition can tell: log-likelihood of the shares, best fit of the mix of genuine sides at each point.
    With one frame all mixes on a line fit equally well, from a quarter to three quarters genuine; a second frame
    makes it a peak at the truth.

    Two triangles of shares. Left, one frame: a dark diagonal band of equal likelihood that passes through the truth
    at .5 genuine and .25 constructed. Right, two frames: a small dark spot around the truth.
    """
    figure, axes = f.canvas(1, 2, width=7.2, height=3.9, sharey=True)
    levels = (0, 10, 100, 1000, 1e9)
    shades = [f.BLUE, "#8DBAD9", "#DDEAF3", "#F6F6F6"]
    titles = {"retest": "one frame, two orders, two waves", "frames": "two frames, two orders"}
    for ax, (design, title) in zip(axes, titles.items()):
        part = rows(tables["likelihood"], design=design)
        # The root of a quadratic deficit is nearly linear between the points of the grid.
        root = np.sqrt(part["deficit"].clip(lower=0))
        ax.tricontourf(part["genuine"], part["constructed"], root, np.sqrt(levels), colors=shades)
        _triangle(ax, title)
        ax.plot(TRUTH["genuine"], 0.25, "*", color=f.VERMILION, markersize=11, markeredgecolor=f.PAPER)
    axes[0].set_ylabel("share constructed")
    names = ("< 10", "< 100", "< 1,000", "more")
    patches = (Rectangle((0, 0), 1, 1, facecolor=c, edgecolor=f.FAINT, label=n) for c, n in zip(shades, names))
    star = f.dot(f.Look("truth", f.VERMILION, "*"), markersize=9)
    _legend(figure, [*patches, star], ncols=6, title="log-likelihood below the best, nats at 8,000 cells")
    return figure


@FIGURES.draws("simplex", "ridge")
def contour(tables: Tables) -> Figure:
    """Mixes of annotators in which two people agree on .73 of pairs, the usual level. Agreement alone fits none to
    all genuine annotators.

    A triangle of shares with three curves of agreement .73, by how far genuine people agree among themselves. Three
    points on them: all genuine with consensus .84; 68 percent genuine and 32 percent non-attitudes; no genuine, 24
    percent non-attitudes and 76 percent constructed.
    """
    simplex, ridge = tables["simplex"], tables["ridge"]
    figure, ax = f.canvas(width=6.4, height=4.3)
    lines = {1.0: (f.BLUE, "-"), 0.92: (f.GREEN, (0, (5, 2))), 0.84: (f.ORANGE, (0, (5, 1.5, 1, 1.5)))}
    handles = []
    for consensus, (ink, linestyle) in lines.items():
        part = simplex[np.isclose(simplex["consensus"], consensus)]
        where = (part["genuine"], part["constructed"], part["agreement"])
        ax.tricontourf(*where, (0.72, 0.74), colors=[ink], alpha=0.16)
        ax.tricontour(*where, (0.73,), colors=[ink], linestyles=[linestyle], linewidths=1.8)
        label = f"genuine people agree on {_short(consensus)}" if consensus < 1 else "genuine people all agree"
        handles.append(Line2D([], [], color=ink, linestyle=linestyle, label=label))
    _triangle(ax, "pairwise agreement .73 ± .01")
    for row in ridge[(ridge["agreement"] - 0.73).abs() <= 0.01].itertuples():
        ax.plot(row.genuine, row.constructed, "o", color=f.VERMILION, markeredgecolor=f.PAPER, markersize=8, zorder=4)
        text = ", ".join(f"{100 * share:.0f} % {kind}" for share, kind in zip(row[1:4], "GNC") if share)
        dx, dy = (-8, 10) if 0 < row.genuine < 1 else (8, 9)
        f.point_label(ax, (row.genuine, row.constructed), text, f.VERMILION, dx=dx, dy=dy).set_path_effects(f.HALO)
    ax.set(ylabel="share constructed", xlim=(-0.02, 1.5))
    ax.spines["bottom"].set_bounds(0, 1)
    ax.legend(handles=handles, loc="upper right")
    return figure


# --- Published ------------------------------------------------------------------------------------


@FIGURES.draws("hosking")
def hosking(tables: Tables) -> Figure:
    """Factual errors that a crowd and experts saw in the same outputs (Hosking et al. 2024). The crowd's rate is
    the mode of 4 to 8 flags an output; the mean of the same flags is two to five times as high, and more than the
    experts' at low assertiveness. Bars: 95 % (Wilson).

    Three groups, low, baseline and high assertiveness. Mode of flags 7.2, 4.2, 2.2 percent; mean of flags 14.1,
    11.8, 10.1; experts 12.5, 20.3, 24.6 with wide overlapping intervals.
    """
    table = tables["hosking"]
    figure, ax = f.canvas(width=6.4, height=3.4)
    kinds = {
        "mode": (f.Look("crowd, mode of the flags", f.ORANGE, "s"), -0.22),
        "mean": (f.Look("crowd, mean of the same flags", f.VERMILION, "D"), 0.0),
        "expert": (f.Look("experts", f.BLUE, "o"), 0.22),
    }
    for row, style in enumerate(table.itertuples()):
        for name, (shown, off) in kinds.items():
            x, y = row + off, getattr(style, name)
            if name != "mean":
                ends = getattr(style, f"{name}_low"), getattr(style, f"{name}_high")
                ax.vlines(x, *ends, color=shown.color, linewidth=1.8)
            ax.plot(x, y, shown.marker, color=shown.color, markersize=7)
            dx, dy = (0, -11) if name == "mean" else (7, 0)
            f.point_label(ax, (x, y), f"{y:.1f}", shown.color, dx=dx, dy=dy)
    names = [f"{s.style} assertiveness" if s.style != "baseline" else "baseline" for s in table.itertuples()]
    counts = [f"{s.outputs} outputs, experts {s.errors} of {s.checked}" for s in table.itertuples()]
    ax.set_xticks(range(len(table)), [f"{n}\n{c}" for n, c in zip(names, counts)])
    ax.tick_params(axis="x", length=0)
    ax.set(xlim=(-0.5, len(table) - 0.3), ylim=(0, 40), ylabel="outputs with a factual error, %")
    _legend(figure, [f.dot(shown) for shown, _ in kinds.values()])
    return figure


@FIGURES.draws("removal")
def removal(tables: Tables) -> Figure:
    """How many majorities change when raters are removed at random (items with uniform shares; a change to or from
    a tie counts). Whether 18.6 % is much depends on how many raters a prompt had.

    Points over the number of raters from 3 to 123. With a fifth removed, 20 percent of majorities change at 5
    raters, 10 at 10, 6 at 30 and 2 at 123. A horizontal line at 18.6 percent lies below the first and above the
    rest.
    """
    table = tables["removal"]
    figure, ax = f.canvas(width=6.4, height=3.5)
    shares = {0.1: (f.SKY, "^"), 0.2: (f.BLUE, "o"), 0.5: (f.GREEN, "s")}
    for share, (ink, marker) in shares.items():
        part = rows(table, share=share)
        ax.plot(part["raters"], part["flips"], marker, color=ink, markersize=4.5, label=f"{100 * share:.0f} % removed")
    strict = rows(table, share=0.2)
    hollow = {"color": f.BLUE, "markerfacecolor": f.PAPER, "markersize": 4.5}
    ax.plot(strict["raters"], strict["strict"], "o", label="20 %, reversals only", **hollow)
    ax.axhline(FLIPPED, color=f.VERMILION, linewidth=1.4, linestyle=(0, (5, 2)), zorder=0)
    f.point_label(ax, (123, FLIPPED), "the paper: 18.6 % of prompts", f.VERMILION, dx=-1, dy=7)
    ax.set_xscale("log")
    ax.set_xticks((3, 5, 10, 20, 30, 60, 123), ("3", "5", "10", "20", "30", "60", "123"))
    ax.minorticks_off()
    ax.set(xlabel="raters an item", ylabel="share of items", ylim=(-0.01, None))
    _legend(figure, ax.get_legend_handles_labels()[0])
    return figure


# --- The world ------------------------------------------------------------------------------------

BENT = ("naive", "naive_4x", "retest", "rdpo", "dropN", "dawid_skene")
STRAIGHT = ("dropNC", "weight", "frbal", "frrand", "frrand_4x", "oracle")
KL_LIMIT = 0.62


def _course(tilt: pd.DataFrame, arm: str) -> pd.DataFrame:
    """ECE of the closed form by matched KL, mean over seeds, from the base on."""
    part = rows(tilt, setting="main", arm=arm)
    part = part[part["condition"].str.startswith("kl_")]
    means = part.groupby("condition")[["kl", "ece"]].mean()
    base = rows(tilt, setting="main", arm="base")[["kl", "ece"]].mean().to_frame().T.assign(kl=0.0)
    return pd.concat([base, means]).sort_values("kl")


@FIGURES.draws("two_curves", "tilt", "policies", "trajectory", "gate")
def two_curves(tables: Tables) -> Figure:
    """Calibration against distance from the base: arms on one curve differ in where they stop, arms on different
    curves in what their reward has learned. Lines: closed form (left with the exact posterior, right on learned
    reward models, seed means); dots: policies trained by RLOO, a dot a seed (small: on the way).

    Two panels of ECE over KL with the base as a dashed line. Left, exactly: naive, corrected for flips and without
    N rise together from the base; weighted and random frame stay below them. Right, learned: a line an arm from the
    base on, with dots for trained policies.
    """
    ideal, tilt, policies = tables["two_curves"], tables["tilt"], tables["policies"]
    figure, (exact, learned) = f.canvas(1, 2, width=7.6, height=4.5, sharey=True)
    for (setting, arm), part in ideal.groupby(["setting", "arm"], sort=False):
        if setting == "main":
            part = part[part["kl"] <= KL_LIMIT]
            exact.plot(part["kl"], part["ece"], **f.line(arm, markevery=2, markersize=5))
    noise = ideal[(ideal["setting"] == "noise_only") & (ideal["kl"] <= KL_LIMIT)]
    exact.plot(noise["kl"], noise["ece"], color=f.GREY, linewidth=1, label="naive, noise only (.6/.4/0)")
    exact.axhline(ideal["ece"].iloc[0], **f.REFERENCE)
    arms = known(rows(tilt, setting="main"), (*BENT, *STRAIGHT))
    for arm in arms:
        course = _course(tilt, arm)
        learned.plot(course["kl"], course["ece"], **f.line(arm, markersize=5))
    learned.axhline(rows(tilt, setting="main", arm="base")["ece"].mean(), **f.REFERENCE)
    dots = policies[policies["arm"].isin(("naive", "weight", "oracle", "naive_beta", "weight_beta"))]
    for arm, part in tables["trajectory"].groupby("arm"):
        learned.plot(part["kl"], part["ece"], ".", color=f.color(arm), alpha=0.3, markersize=4, label="_")
    for row in dots.itertuples():
        ink = f.color(row.arm.removesuffix("_beta"))
        learned.plot(row.kl, row.ece, "o", color=ink, markersize=8, markeredgecolor=f.PAPER, zorder=5, label="_")
    for ax, title in ((exact, "the reward sees the exact posterior"), (learned, "learned reward models")):
        ax.set(title=title, xlabel="KL from the base, nats", xlim=(-0.01, KL_LIMIT), ylim=(0, None))
    exact.set_ylabel("ECE")
    alone = Line2D([], [], color=f.GREY, linewidth=1, label="naive, noise only")
    trained = f.dot(f.Look("trained by RLOO", f.GREY, "o"), markersize=8)
    _legend(figure, [*_lines(arms), alone, trained, BASE], ncols=4, gate=tables["gate"])
    return figure


EVENT = {
    "win_production": ("production judges", "win over the base"),
    "win_genuine": ("genuine judges", "win over the base"),
    "ece": ("calibration", "ECE"),
}


@FIGURES.draws("trajectory", "gate")
def one_event(tables: Tables) -> Figure:
    """Is it one event? Along the training of policies on naive and on weighted labels: wins over the base with
    production and with genuine judges, and calibration. Mean and 95 % interval over seeds; dashed: the base.

    Three stacked panels over training steps: win rate with production judges, win rate with genuine judges, ECE.
    Each has a line with a band for naive and for weighted, and a dashed line for the base.
    """
    course = tables["trajectory"]
    figure, axes = f.canvas(3, 1, width=6.2, height=5.6, sharex=True)
    arms = known(course, ("naive", "weight"))
    for ax, (measure, (title, ylabel)) in zip(axes, EVENT.items()):
        for arm in arms:
            f.seed_band(ax, rows(course, arm=arm), "step", measure, arm, clip_on=False)
        start = course[course["step"] == course["step"].min()]
        ax.axhline(0.5 if measure.startswith("win") else start[measure].mean(), **f.REFERENCE)
        ax.set(title=title, ylabel=ylabel)
        ax.margins(y=0.12)
    axes[-1].set_xlabel("RLOO step")
    _legend(figure, [*_lines(arms), BASE], gate=tables["gate"])
    return figure


FANNED = ("naive", "weight", "oracle")


@FIGURES.draws("fan", "gate")
def fan(tables: Tables) -> Figure:
    """What the reward models have learned: how the reward changes with stated confidence for answers that are right
    with different probability, seed means. A reward for quality opens a fan: confidence pays where the answer is
    likely right, and costs where it is not. A taste for confidence lifts all lines.

    Three panels, naive, weighted and the oracle. Each has four lines of reward over stated confidence, a line a
    band of the posterior, all from zero at confidence zero.
    """
    table = tables["fan"]
    arms = known(table, FANNED)
    figure, axes = f.canvas(1, len(arms), width=7.6, height=3.3, squeeze=False, sharey=True)
    bands = sorted(table["band"].unique())
    inks = [f.VERMILION, f.ORANGE, f.GREEN, f.BLUE]
    for ax, arm in zip(axes.flat, arms):
        part = rows(table, arm=arm)
        # What an answer earns whatever is stated moves no policy, and a reward has no unit: each band begins at 0, in
        # standard deviations of the model's rewards.
        unit = part["reward"].std() or 1
        for band, ink, marker in zip(bands, inks, "os^D"):
            mean = rows(part, band=band).groupby("confidence")["reward"].mean()
            low, high = (f"{float(end):g}".removeprefix("0") or "0" for end in band.split("-"))
            name = f"posterior {low} to {high}"
            ax.plot(mean.index, (mean - mean.iloc[0]) / unit, color=ink, marker=marker, label=name)
        ax.axhline(0, **f.REFERENCE)
        ax.set(title=f.label(arm), xlabel="stated confidence")
        ax.set_xticks((0, 0.5, 1), ("0", ".5", "1"))
    axes[0, 0].set_ylabel("reward since confidence 0, s.d.")
    _legend(figure, axes[0, 0].get_legend_handles_labels()[0], ncols=4, gate=tables["gate"])
    return figure


CONTROLS = {
    "main": "two frames\nthat pull equally",
    "half_frame": "second frame\nof half strength",
    "dead_frame": "second frame\nmoves nobody",
    "style_lovers": "30 % genuinely\nlove confidence",
    "all_genuine": "all genuine",
}
BARS = {"naive": "", "weight": "", "frbal": "///", "frrand": "...", "oracle": ""}  # arm -> how its bar is hatched


@FIGURES.draws("tilt", "gate")
def controls(tables: Tables) -> Figure:
    """Controls: ECE at KL .15 when the second frame pulls as hard, half as hard or not at all, when some genuinely
    love confidence, and when all are genuine. A remedy works where its bar is below that of naive. 95 % intervals
    over seeds; dashed: the base.

    A group of bars for each population of annotators: naive, weighted, both frames, random frame and the oracle,
    with intervals, and a dashed line at the ECE of the base.
    """
    tilt = tables["tilt"]
    settings = [s for s in CONTROLS if s in set(tilt["setting"])]
    figure, ax = f.canvas(width=7.4, height=3.6)
    for k, setting in enumerate(settings):
        here = rows(tilt, setting=setting)
        for arm in known(here, BARS):
            values = rows(here, arm=arm, condition="kl_0.15")["ece"]
            x = k + 0.16 * (list(BARS).index(arm) - 2)
            ax.bar(x, values.mean(), 0.1408, color=f.color(arm), alpha=0.85, hatch=BARS[arm], edgecolor=f.PAPER)
            if len(values) > 1:
                ax.vlines(x, *t_interval(values), color=f.INK, linewidth=1.2)
        base = rows(here, arm="base")["ece"].mean()
        ax.hlines(base, k - 0.46, k + 0.46, **f.REFERENCE | {"zorder": 3})
    ax.set_xticks(range(len(settings)), [CONTROLS[s] for s in settings])
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel="ECE at KL .15")
    patches = (
        Rectangle((0, 0), 1, 1, facecolor=f.color(arm), edgecolor=f.PAPER, hatch=hatch, label=f.label(arm))
        for arm, hatch in BARS.items()
    )
    _legend(figure, [*patches, BASE], ncols=6, gate=tables["gate"])
    return figure


RELIABLE = ("base", "naive", "frrand")


@FIGURES.draws("reliability", "gate")
def reliability(tables: Tables) -> Figure:
    """Stated confidence against the share of right answers, base and closed-form policies at KL .15, all seeds
    (faint: each seed; bars: how often a confidence is stated). Below the diagonal: overconfident.

    Three reliability diagrams, base, naive and random frame: share of right answers over stated confidence, with
    the diagonal of perfect calibration.
    """
    table = rows(tables["reliability"], setting="main")
    arms = known(table, RELIABLE)
    figure, axes = f.canvas(1, len(arms), width=7.2, height=2.9, squeeze=False)
    for ax, arm in zip(axes.flat, arms):
        part = rows(table, arm=arm).rename(columns={"stated": "mean_confidence"})
        part = part.assign(bin_low=part["mean_confidence"] - 0.05, bin_high=part["mean_confidence"] + 0.05)
        f.reliability_panel(ax, part, arm, xlabel="stated confidence", ylabel="share right" if arm == arms[0] else "")
        ax.set_title(f.label(arm))
    figure.supxlabel(gate_of(tables["gate"]), fontsize=7.5)
    return figure
