"""The figures of claim 6. Each reads the claim's tables and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from candor.claims.self_feedback.tables import DAMAGED, FEW_STARTS, GEMMA, PHI, QWEN, REPAIRED, STARTS, WATCHED
from candor.claims.shared import known, rows, standard
from candor.declare import figures as f
from candor.declare.figures import Figures
from candor.declare.ledger import Tables

FIGURES = Figures()

_DASHES = (0, (5, 2))
_QUIET: dict[str, Any] = {"fontsize": 8, "color": "#555555"}
PAPER_ARMS = {  # the paper's arms, which are other than ours
    "base": f.Look("base, greedy", f.GREY, "o"),
    "cot": f.Look("CoT-decoding", f.GREEN, "D"),
    "rlhf": f.Look("RLHF", f.VERMILION, "s"),
    "rlsf_dpo": f.Look("RLSF-DPO", f.SKY, "v"),
    "rlsf_ppo": f.Look("RLSF-PPO", f.BLUE, "^"),
}
CELLS = {
    **{(GEMMA, name): f"Gemma-2-2B {name}" for name in ("MultiArith", "GSM8K", "ARC-Easy")},
    **{(QWEN, name): f"Qwen-7B {name}" for name in ("MultiArith", "GSM8K")},
    (PHI, "CommonsenseQA"): "Phi-2 CommonsenseQA",
}


def _line(look: f.Look) -> Line2D:
    return Line2D([], [], **look._asdict())


@FIGURES.draws("traces")
def tree(tables: Tables) -> Figure:
    """One prompt, ten branches of the base by their first token, sorted by confidence: bars show the disparity at the
    answer, colours whether it is right. Pairs prefer a branch beyond the dashed line to any less confident one, right
    or not.

    A tree from one prompt to ten rows. Each row shows the first token, the trace with its answer, a tick or cross by
    whether the answer is right, and a bar as long as the confidence, with a dashed line at .9.
    """
    table = tables["traces"].sort_values("disparity", ascending=False, ignore_index=True)
    figure, ax = f.canvas(width=7.4, height=0.9 + 0.3 * len(table))
    middle, start, wide = (len(table) - 1) / 2, 0.56, 0.4
    mono: dict[str, Any] = {"family": "monospace", "fontsize": 8.5, "va": "center"}
    ax.text(-0.06, -0.95, str(table["prompt"][0]), **mono | {"fontsize": 8})
    ax.text(start, -0.95, "confidence (disparity) of its answer", va="center", **_QUIET)
    for y, row in enumerate(table.itertuples()):
        ink, sign = {1: (f.GREEN, "✓"), 0: (f.VERMILION, "✗")}.get(row.right, (f.ORANGE, f"{row.right:g}"))
        length = wide * max(row.disparity, 0)
        ax.plot((0, 0.1), (middle, y), color="#AAAAAA", linewidth=0.9)
        ax.text(0.11, y, row.first, fontweight="bold", **mono)
        ax.text(0.17, y, row.text.removeprefix(row.first).removesuffix("<eos>"), **mono)
        ax.text(0.535, y, sign, color=ink, fontsize=9, ha="center", va="center_baseline")
        ax.barh(y, length, 0.52, start, color=ink)
        ax.text(start + 0.005 + length, y, f"{row.disparity:.2f}".replace("-", "−"), fontsize=8, va="center")
    ax.plot(0, middle, "o", color=f.INK, markersize=6)
    ax.plot([start + wide * 0.9] * 2, (-0.5, len(table) - 0.5), **f.REFERENCE)
    ax.text(start + wide * 0.9, len(table) - 0.35, "threshold .9", fontsize=8, ha="center", va="top")
    ax.set(xlim=(-0.06, 1.03), ylim=(len(table) + 0.1, -1.3))
    ax.axis("off")
    handles = [Patch(color=f.GREEN, label="right"), Patch(color=f.VERMILION, label="wrong")]
    if table["right"].between(0, 1, inclusive="neither").any():
        handles.append(Patch(color=f.ORANGE, label="right with that probability"))
    f.legend(figure, handles)
    return figure


# --- Published ------------------------------------------------------------------------------------


@FIGURES.draws("cells")
def cells(tables: Tables) -> Figure:
    """The printed cells (a third party's transcription) by accuracy and ECE. On the dashed line ECE is 1 - accuracy, as
    with confidence near 1 throughout: Qwen. Above it part of the error must be underconfidence: Gemma on MultiArith and
    ARC-Easy.

    Two scatter plots of accuracy and calibration error. Left, the Qwen cells lie along the line ECE = 100 minus
    accuracy, Gemma on GSM8K near it, Phi-2 below. Right, enlarged, the nine cells of Gemma on MultiArith and ARC-Easy:
    all above the line except CoT-decoding on ARC-Easy.
    """
    table = tables["cells"]
    enlarged = (table["model"] == GEMMA) & table["dataset"].isin(("MultiArith", "ARC-Easy"))
    figure, axes = f.canvas(1, 2, width=7.6, height=3.9, width_ratios=(1.25, 1))
    titles = ("Qwen, Phi-2, Gemma on GSM8K", "Gemma: MultiArith (filled), ARC-Easy")
    for ax, part, title, at in zip(axes, (table[~enlarged], table[enlarged]), titles, ((70, 32.5), (95.25, 5.9))):
        ax.axline((50, 50), slope=-1, **f.REFERENCE)
        for row in part.itertuples():
            look = PAPER_ARMS[row.arm]
            face = f.PAPER if row.dataset == "ARC-Easy" else look.color
            ax.plot(row.accuracy, row.ece, look.marker, color=look.color, markerfacecolor=face, markersize=6.5)
        ax.text(*at, "ECE = 100 − accuracy", fontsize=8).set_path_effects(f.HALO)
        ax.set(title=title, xlabel="accuracy, percent")
    axes[0].set(xlim=(43, 93), ylim=(6, 56), ylabel="expected calibration error, percent")
    axes[1].set(xlim=(95, 100), ylim=(0, 20))
    names = {"Qwen-7B GSM8K": (49.8, 34.8), "Qwen-7B MultiArith": (69, 16.5), "Gemma GSM8K": (81, 8.6)}
    for text, at in (names | {"Phi-2 CommonsenseQA": (57, 13.5)}).items():
        axes[0].text(*at, text, ha="center", **_QUIET)
    axes[1].text(97.4, 18.2, "above the line:\npartly underconfident", va="top", **_QUIET)
    f.legend(figure, [f.dot(look) for look in PAPER_ARMS.values()])
    return figure


@FIGURES.draws("differences")
def forest(tables: Tables) -> Figure:
    """RLSF-PPO minus three other arms, printed cells with rough 95 % intervals (two independent binomials on the public
    split; hollow: the interval contains 0). Three comparisons, three stories: only the one with RLHF shows lower ECE
    throughout.

    Three panels of intervals, a row a cell. Against base accuracy is up in five of six cells, ECE down in four. Against
    RLHF ECE is down in all four math cells and accuracy up. Against CoT-decoding ECE is up in four of six and all
    accuracy intervals contain zero.
    """
    titles = {"base": "minus base, greedy", "rlhf": "minus RLHF", "cot": "minus CoT-decoding"}
    looks = {
        "accuracy": f.Look("accuracy: right is better", f.GREEN, "o"),
        "ece": f.Look("ECE: left is better", f.PURPLE, "s"),
    }
    place = {cell: y for y, cell in enumerate(CELLS)}
    figure, axes = f.canvas(1, 3, width=7.8, height=3.5, sharex=True, sharey=True)
    for ax, (comparison, title) in zip(axes, titles.items()):
        table = rows(tables["differences"], arm="rlsf_ppo", comparison=comparison)
        ax.axvline(0, color=f.INK, linewidth=0.9, zorder=1)
        for cell in sorted(CELLS.keys() - set(zip(table["model"], table["dataset"])), key=lambda cell: place[cell]):
            ax.text(0.5, place[cell], "not printed", fontsize=7.5, color="#888888", va="center")
        for row in table.itertuples():
            look = looks[row.metric]
            y = place[row.model, row.dataset] + (0.17 if row.metric == "ece" else -0.17)
            face = look.color if row.low * row.high > 0 else f.PAPER
            ax.hlines(y, row.low, row.high, color=look.color, linewidth=1.6)
            ax.plot(row.value, y, look.marker, color=look.color, markerfacecolor=face, markersize=5.5)
        ax.set(title=title, xlabel="percentage points", ylim=(len(CELLS) - 0.4, -0.6))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color="#EEEEEE", linewidth=0.8)
        ax.spines["left"].set_visible(False)
    axes[0].set_yticks(range(len(CELLS)), CELLS.values())
    hollow = Line2D([], [], color=f.GREY, marker="o", markerfacecolor=f.PAPER, label="interval contains 0")
    f.legend(figure, [*map(_line, looks.values()), hollow])
    return figure


# --- Theory, and the same in the world --------------------------------------------------------------


def _over_temperature(table: pd.DataFrame, probability: str) -> Figure:
    """Percent over temperature, on a log axis that runs from warm to sharp; the smallest ECE of either kind marked."""
    looks = {
        probability: f.Look("ECE by probability", f.VERMILION, "s"),
        "ece_disparity": f.Look("ECE by disparity", f.BLUE, "^", _DASHES),
        "accuracy": f.Look("accuracy", f.GREY, "o"),
    }
    figure, ax = f.canvas(width=6.2, height=3.3)
    for name, look in looks.items():
        line = 100 * table.groupby("temperature")[name].mean()
        ax.plot(line.index, line, **look._asdict() | {"marker": ""})
        if name != "accuracy":
            ax.plot(line.idxmin(), line.min(), look.marker, color=look.color, markersize=7, clip_on=False)
    ax.axvline(1, **f.REFERENCE)
    ax.set_xscale("log")
    ticks = [t for t in (2, 1.4, 1, 0.7, 0.5, 0.3, 0.2) if table["temperature"].min() <= t]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="temperature (sharper to the right)", ylabel="percent", xlim=(2, min(ticks)), ylim=(0, None))
    f.legend(figure, [_line(look) for look in looks.values()])
    return figure


@FIGURES.draws("artefact")
def artefact(tables: Tables) -> Figure:
    """A forecaster over ten answers that is calibrated at T = 1, made sharper or flatter. Accuracy does not move; ECE
    by probability is 0 at T = 1, ECE by disparity is smallest (marked) where the forecaster is overconfident.

    Three curves over temperature. Accuracy is flat at 53 percent. ECE by probability touches zero at temperature 1 and
    rises on both sides. ECE by disparity falls from 40 at temperature 2 over 20 at 1 to 12 near .7, then rises.
    """
    figure = _over_temperature(tables["artefact"], "ece_probability")
    [ax] = figure.axes
    note = ax.annotate("calibrated", (1, 0), (-5, 66), textcoords="offset points", rotation=90, fontsize=8, ha="right")
    note.set_path_effects(f.HALO)
    return figure


@FIGURES.draws("temperatures")
def sweep(tables: Tables) -> Figure:
    """The same in the world: one temperature at the answer token of the base's greedy answers, means over seeds. The
    marks show where either measure would call the model best calibrated; read off how far apart they lie.

    Curves over temperature, sharper to the right: ECE by probability, ECE by disparity, each with a mark at its
    minimum, and accuracy, which no temperature changes.
    """
    return _over_temperature(tables["temperatures"], "ece")


def _moved(summary: pd.DataFrame, start: str) -> pd.DataFrame:
    """Change of the greedy gap and what selection predicts for it, points, a row a seed."""
    before, after = (rows(standard(summary), arm=arm).set_index("seed") for arm in (start, f"rlsf_{start}"))
    columns = ["greedy_gap", "greedy_confidence"]
    moved = 100 * (after[columns] - before[columns])
    return moved.assign(predicted=(1 - before["slope_b"]) * moved["greedy_confidence"]).dropna()


@FIGURES.draws("selection", "summary")
def selection(tables: Tables) -> Figure:
    """Left: what taking the most confident of ten traces does, by the slope b of correctness on confidence. Right:
    change of the greedy gap under RLSF-RLOO against what the identity predicts (large: mean, small: seeds). Off the
    diagonal the conditional probabilities changed too.

    Left panel: the change of the gap falls linearly with the slope and is zero at b = 1, the change of accuracy rises
    linearly. Right panel: a square with a diagonal and a point an arm and seed, predicted change on the x-axis and
    measured change on the y-axis.
    """
    figure, (left, right) = f.canvas(1, 2, width=7.6, height=3.5)
    theory = tables["selection"]
    left.plot(theory["slope"], 100 * theory["gap"], color=f.VERMILION, label="change of gap")
    rise = 100 * (theory["accuracy"] - 0.5)
    left.plot(theory["slope"], rise, color=f.BLUE, linestyle=_DASHES, label="change of accuracy")
    left.axhline(0, color=f.INK, linewidth=0.9)
    left.axvline(1, **f.REFERENCE)
    for x, words in ((-0.4, "overconfident traces:\nthe gap grows"), (1.08, "underconfident\ntraces: it falls")):
        left.text(x, -27, words, **_QUIET)
    left.set(title="theory: best of ten traces", xlabel="slope b of correctness on confidence", ylabel="points")
    left.set_ylim(-30, 52)
    left.legend(loc="upper left")
    moved = {start: _moved(tables["summary"], start) for start in (*STARTS, *FEW_STARTS)}
    moved = {start: table for start, table in moved.items() if len(table)}
    for start, table in moved.items():
        x, y, look = table["predicted"], table["greedy_gap"], f.look(start)
        right.plot(x, y, look.marker, color=look.color, alpha=0.45, markersize=4)
        right.plot(x.mean(), y.mean(), look.marker, color=look.color, markersize=8)
    reach = max((1.15 * table[["predicted", "greedy_gap"]].abs().max().max() for table in moved.values()), default=1)
    right.axline((0, 0), slope=1, **f.REFERENCE)
    for line in (right.axhline, right.axvline):
        line(0, color=f.FAINT, linewidth=0.8, zorder=0)
    right.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title="world: RLSF-RLOO, greedy")
    right.set(xlabel="(1 − b) × change of confidence, points", ylabel="change of gap, points")
    f.legend(figure, [f.dot(f.look(start), label=f"from {f.label(start)}") for start in moved])
    return figure


# --- The world ------------------------------------------------------------------------------------


def _means(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Means over seeds by arm, percent."""
    return 100 * standard(table).groupby("arm", sort=False)[columns].mean()


@FIGURES.draws("reliability")
def reliability(tables: Tables) -> Figure:
    """Greedy answers by confidence: base, damaged and after RLSF-RLOO, a column a damage; above by probability, below
    by disparity. Points on the diagonal are calibrated, below it overconfident; size shows the share of answers.

    A grid of reliability diagrams: a column for each of the damages, the upper row by probability and the lower by
    disparity, each with three lines of points and the diagonal.
    """
    table = rows(standard(tables["reliability"]), mode="greedy")
    table = table[table["n"] > 0]
    starts = known(table, STARTS)
    figure, axes = f.canvas(2, len(starts), width=2.5 * len(starts) + 0.4, height=5.2, squeeze=False)
    for line, measure in zip(axes, ("probability", "disparity")):
        for ax, start in zip(line, starts):
            f.unit_square(ax, "confidence" if measure == "disparity" else "")
            for arm in ("base", start, f"rlsf_{start}"):
                bins = rows(table, measure=measure, arm=arm)
                sums = bins[["confidence", "accuracy"]].mul(bins["n"], axis=0).assign(n=bins["n"])
                sums = sums.groupby(bins["bin"]).sum()
                x, y, look = sums["confidence"] / sums["n"], sums["accuracy"] / sums["n"], f.look(arm)
                size = 4 + 70 * sums["n"] / sums["n"].sum()
                ax.plot(x, y, color=look.color, linestyle=look.linestyle, linewidth=1.1, alpha=0.8)
                ax.scatter(x, y, size, color=look.color, marker=look.marker, alpha=0.85, linewidth=0.4)
            ax.set_title(f"{f.label(start)}, {measure}")
        line[0].set_ylabel("accuracy")
    after = f.Look("after RLSF-RLOO", f.BLUE, "^")
    f.legend(figure, [*(_line(f.look(arm)) for arm in ("base", *starts)), _line(after)])
    return figure


GROUPS = (
    ("base", *DAMAGED),
    REPAIRED,
    ("fluency_dpo", "fluency_sft_3", "fluency_shuffled", "fluency_gold", "online"),
)
STYLES = {"direct": ("#C9C9C9", ""), "half": ("#F3C56B", "//"), "full": ("#4C8DC2", "")}


@FIGURES.draws("summary")
def styles(tables: Tables) -> Figure:
    """What is written and how often it is right, by arm: shares of direct, half and full traces, validity of the steps
    in full traces, accuracy; means with 95 % intervals over seeds, a dot a seed. Lines part starts, RLSF-RLOO and
    controls.

    Four panels with a row an arm: stacked bars of the three styles, then intervals for valid steps, sampled accuracy
    and greedy accuracy.
    """
    summary = standard(tables["summary"])
    groups = [known(summary, group) for group in GROUPS]
    arms = [arm for group in groups for arm in group]
    figure, axes = f.canvas(1, 4, width=8.0, height=1.2 + 0.26 * len(arms), sharey=True, width_ratios=(1.25, 1, 1, 1))
    mean, left = _means(summary, [f"share_{style}" for style in STYLES]).loc[arms], np.zeros(len(arms))
    for style, (ink, hatch) in STYLES.items():
        width = mean[f"share_{style}"].to_numpy()
        drawn = {"color": ink, "hatch": hatch, "edgecolor": f.PAPER, "linewidth": 0.3, "label": style}
        axes[0].barh(range(len(arms)), width, 0.72, left, **drawn)
        left += width
    axes[0].set(title="sampled styles", xlabel="percent", xlim=(0, 100))
    titles = ("valid steps", "accuracy, sampled", "accuracy, greedy")
    for ax, measure, title in zip(axes[1:], ("step_validity", "sampled_accuracy", "greedy_accuracy"), titles):
        f.interval_dots(ax, {arm: 100 * rows(summary, arm=arm)[measure] for arm in arms}, xlabel="percent")
        ax.set_title(title)
    axes[0].set_yticks(range(len(arms)), map(f.label, arms))
    axes[0].tick_params(axis="y", length=0)
    for ax in axes:
        for y in np.cumsum([len(group) for group in groups[:2]]):
            ax.axhline(y - 0.5, color=f.FAINT, linewidth=0.8)
    f.legend(figure, axes[0].get_legend_handles_labels()[0])
    return figure


@FIGURES.draws("summary")
def repair(tables: Tables) -> Figure:
    """Accuracy and ECE, seed means: grey arrows from the base to the damaged models, blue arrows on to RLSF-RLOO. A
    repair would point back down to the level of the base; sideways is accuracy without repair.

    Two panels, greedy and sampled, with accuracy on the x-axis and calibration error on the y-axis. From the base a
    grey arrow leads to each damaged model and a blue arrow from there to the model after RLSF-RLOO.
    """
    mean = _means(tables["summary"], [f"{mode}_{m}" for mode in ("greedy", "sampled") for m in ("accuracy", "ece")])
    shown = [arm for arm in ("base", *DAMAGED) if arm in mean.index]
    grey: dict[str, Any] = {"color": "#BBBBBB", "linestyle": "-", "linewidth": 1.0}
    blue: dict[str, Any] = {"color": f.BLUE, "linestyle": "-", "linewidth": 1.9}
    from_base = blue | {"linestyle": (0, (3, 1.5))}
    figure, axes = f.canvas(1, 2, width=7.8, height=3.9, sharey=True)
    for ax, mode in zip(axes, ("greedy", "sampled")):
        at = {arm: tuple(row) for arm, row in mean[[f"{mode}_accuracy", f"{mode}_ece"]].iterrows()}
        for start in shown:
            if start != "base" and "base" in at:
                f.arrow(ax, at["base"], at[start], start, **grey)
            if f"rlsf_{start}" in at:
                f.arrow(ax, at[start], at[f"rlsf_{start}"], **(from_base if start == "base" else blue))
        for start in shown:
            ax.plot(*at[start], f.marker(start), color=f.color(start), markersize=7.5, zorder=4)
        ax.set(title=mode, xlabel="accuracy, percent")
        ax.margins(0.12)
    axes[0].set(ylabel="ECE by probability, percent", ylim=(0, None))
    arrows: dict[str, dict[str, Any]] = {"damage": grey, "RLSF-RLOO": blue}
    if "rlsf_base" in mean.index:
        arrows["RLSF-RLOO from base"] = from_base
    dots, lines = map(f.dot, map(f.look, shown)), (Line2D([], [], label=words, **arrows[words]) for words in arrows)
    f.legend(figure, [*dots, *lines], ncols=5)
    return figure


@FIGURES.draws("trajectory")
def collapse(tables: Tables) -> Figure:
    """Along training: an online reward for current confidence beside one round of RLSF-RLOO made four times as long.
    Above, confidence and accuracy; below, two alarms that need no labels. Bold: mean; thin: seeds.

    Two columns, online confidence reward and RLSF-RLOO over 120 steps. The upper panels show mean confidence and
    accuracy over steps, the lower ones the share of full traces whose answer contradicts their last step and the
    entropy of the first token.
    """
    looks = {
        "confidence": f.Look("mean confidence", f.VERMILION, "s"),
        "accuracy": f.Look("accuracy", f.BLUE, "o"),
        "disagreement": f.Look("last step and answer disagree", f.PURPLE, "v", _DASHES),
        "entropy": f.Look("entropy of the first token, nats", f.GREEN, "D", (0, (1, 1.5))),
    }
    arms = known(tables["trajectory"], WATCHED)
    figure, axes = f.canvas(
        2, len(arms), width=7.6, height=4.6, sharex="col", sharey="row", squeeze=False, height_ratios=(1.5, 1)
    )
    for (top, foot), arm in zip(axes.T, arms):
        table = rows(tables["trajectory"], arm=arm)
        for ax, name in zip((top, top, foot, foot), looks):
            for _, run in table.groupby("seed"):
                ax.plot(run["step"], run[name], color=looks[name].color, linewidth=0.7, alpha=0.35)
            mean = table.groupby("step")[name].mean()
            ax.plot(mean.index, mean, **looks[name]._asdict() | {"markersize": 4})
        top.set(title=f.label(arm), ylim=(0, 1.02))
        foot.set(xlabel="step", ylim=(0, None))
    axes[0, 0].set_ylabel("share, sampled")
    axes[1, 0].set_ylabel("alarms without labels")
    f.legend(figure, [_line(look) for look in looks.values()], columnspacing=1.2)
    return figure
