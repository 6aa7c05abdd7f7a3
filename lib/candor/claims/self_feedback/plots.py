"""The figures of claim 6. Each reads the claim's tables and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from candor.claims.self_feedback.tables import FEW_STARTS, GEMMA, PHI, QWEN, STARTS
from candor.claims.shared import known, rows, standard
from candor.declare import figures as f
from candor.declare.figures import Plot
from candor.declare.ledger import Tables

_HALO = [withStroke(linewidth=2.6, foreground=f.PAPER)]
_REFERENCE: dict[str, Any] = {"color": f.INK, "linewidth": 0.9, "linestyle": (0, (5, 2)), "zorder": 1}
PROBABILITY = f.Look("ECE by probability", f.VERMILION, "s")
DISPARITY = f.Look("ECE by disparity", f.BLUE, "^", (0, (5, 2)))
ACCURACY = f.Look("accuracy", f.GREY, "o")
# The paper's arms and models, which are other than ours.
PAPER_ARMS = {
    "base": f.Look("base, greedy", f.GREY, "o"),
    "cot": f.Look("CoT-decoding", f.GREEN, "D"),
    "rlhf": f.Look("RLHF", f.VERMILION, "s"),
    "rlsf_dpo": f.Look("RLSF-DPO", f.SKY, "v"),
    "rlsf_ppo": f.Look("RLSF-PPO", f.BLUE, "^"),
}
MODELS = {GEMMA: "Gemma-2-2B", QWEN: "Qwen-7B", PHI: "Phi-2"}
CELLS = (
    *((GEMMA, "MultiArith"), (GEMMA, "GSM8K"), (GEMMA, "ARC-Easy")),
    *((QWEN, "MultiArith"), (QWEN, "GSM8K"), (PHI, "CommonsenseQA")),
)


def _line(look: f.Look, **kwargs: Any) -> Line2D:
    return Line2D([], [], **look._asdict() | {"markersize": 5} | kwargs)


def _means(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Means over seeds by arm, percent."""
    return 100 * standard(table).groupby("arm", sort=False)[columns].mean()


# --- Published ------------------------------------------------------------------------------------


def cells(tables: Tables) -> Figure:
    """The printed cells in the plane of accuracy and ECE."""
    table = tables["cells"]
    figure, axes = f.canvas(1, 2, width=7.6, height=3.9, width_ratios=(1.25, 1))
    panels = (
        (CELLS[1:2] + CELLS[3:], "Qwen, Phi-2, Gemma on GSM8K"),
        ((CELLS[0], CELLS[2]), "Gemma: MultiArith (filled), ARC-Easy"),
    )
    for ax, (shown, title) in zip(axes, panels):
        ax.axline((50, 50), slope=-1, **_REFERENCE)
        for model, dataset in shown:
            part = rows(table, model=model, dataset=dataset)
            for row in part.itertuples():
                look = PAPER_ARMS[row.arm]
                face = f.PAPER if dataset == "ARC-Easy" else look.color
                ax.plot(row.accuracy, row.ece, look.marker, color=look.color, markerfacecolor=face, markersize=6.5)
        ax.set(title=title, xlabel="accuracy, percent")
    axes[0].set(xlim=(43, 93), ylim=(6, 56), ylabel="expected calibration error, percent")
    axes[1].set(xlim=(95, 100), ylim=(0, 20))
    names = {"Qwen-7B GSM8K": (49.8, 34.8), "Qwen-7B MultiArith": (69, 16.5), "Gemma GSM8K": (81, 8.6)}
    for text, at in (names | {"Phi-2 CommonsenseQA": (57, 13.5)}).items():
        axes[0].text(*at, text, fontsize=8, ha="center", color="#555555")
    for ax, at in ((axes[0], (70, 32.5)), (axes[1], (95.25, 5.9))):
        note = ax.text(*at, "ECE = 100 − accuracy", fontsize=8, ha="left")
        note.set_path_effects(_HALO)
    axes[1].text(97.4, 18.2, "above the line:\npartly underconfident", fontsize=8, color="#555555", va="top")
    f.legend(figure, [_line(look, linestyle="") for look in PAPER_ARMS.values()])
    return figure


COMPARISONS = {"base": "minus base, greedy", "rlhf": "minus RLHF", "cot": "minus CoT-decoding"}


def forest(tables: Tables) -> Figure:
    """RLSF-PPO against the three arms that it can be held against."""
    table = rows(tables["differences"], arm="rlsf_ppo")
    figure, axes = f.canvas(1, 3, width=7.8, height=3.5, sharex=True, sharey=True)
    inks = {
        "accuracy": f.Look("accuracy: right is better", f.GREEN, "o"),
        "ece": f.Look("ECE: left is better", f.PURPLE, "s"),
    }
    for ax, (comparison, title) in zip(axes, COMPARISONS.items()):
        ax.axvline(0, color=f.INK, linewidth=0.9, zorder=1)
        for y, (model, dataset) in enumerate(CELLS):
            found = rows(table, comparison=comparison, model=model, dataset=dataset).set_index("metric")
            if found.empty:
                ax.text(0.5, y, "not printed", fontsize=7.5, color="#888888", va="center")
            for (metric, look), shift in zip(inks.items(), (-0.17, 0.17)):
                if metric in found.index:
                    row = found.loc[metric]
                    face = look.color if row["low"] * row["high"] > 0 else f.PAPER
                    ax.hlines(y + shift, row["low"], row["high"], color=look.color, linewidth=1.6)
                    ax.plot(
                        row["value"], y + shift, look.marker, color=look.color, markerfacecolor=face, markersize=5.5
                    )
        ax.set(title=title, xlabel="percentage points", ylim=(len(CELLS) - 0.4, -0.6))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color="#EEEEEE", linewidth=0.8)
        ax.spines["left"].set_visible(False)
    axes[0].set_yticks(range(len(CELLS)), [f"{MODELS[model]} {dataset}" for model, dataset in CELLS])
    handles = [_line(look, linestyle="-") for look in inks.values()]
    handles.append(Line2D([], [], color=f.GREY, marker="o", markerfacecolor=f.PAPER, label="interval contains 0"))
    f.legend(figure, handles)
    return figure


# --- Theory ---------------------------------------------------------------------------------------


def _over_temperature(ax: Axes, table: pd.DataFrame, names: dict[str, f.Look]) -> None:
    """Percent over temperature, on a log axis that runs from warm to sharp; the smallest ECE of either kind marked."""
    for name, look in names.items():
        line = 100 * table.groupby("temperature")[name].mean()
        ax.plot(line.index, line, **look._asdict() | {"marker": ""})
        if name != "accuracy":
            ax.plot(line.idxmin(), line.min(), look.marker, color=look.color, markersize=7, clip_on=False)
    ax.axvline(1, **_REFERENCE)
    ax.set_xscale("log")
    ticks = [t for t in (2, 1.4, 1, 0.7, 0.5, 0.3, 0.2) if table["temperature"].min() <= t]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="temperature (sharper to the right)", xlim=(2, min(ticks)), ylim=(0, None))


def artefact(tables: Tables) -> Figure:
    """One temperature, two measures of one error."""
    figure, ax = f.canvas(width=6.2, height=3.3)
    names = {"ece_probability": PROBABILITY, "ece_disparity": DISPARITY, "accuracy": ACCURACY}
    _over_temperature(ax, tables["artefact"], names)
    ax.set_ylabel("percent")
    note = ax.annotate("calibrated", (1, 0), (-5, 66), textcoords="offset points", rotation=90, fontsize=8, ha="right")
    note.set_path_effects(_HALO)
    f.legend(figure, [_line(look) for look in names.values()])
    return figure


def sweep(tables: Tables) -> Figure:
    """The same in the world: one temperature on the base's greedy answers."""
    figure, ax = f.canvas(width=6.2, height=3.3)
    names = {"ece": PROBABILITY, "ece_disparity": DISPARITY, "accuracy": ACCURACY}
    _over_temperature(ax, tables["temperatures"], names)
    ax.set_ylabel("percent")
    f.legend(figure, [_line(look) for look in names.values()])
    return figure


def selection(tables: Tables) -> Figure:
    """What selecting the most confident trace does to the gap, and where the measured arms lie."""
    figure, axes = f.canvas(1, 2, width=7.6, height=3.5)
    theory = tables["selection"]
    for name, ink, linestyle in (("gap", f.VERMILION, "-"), ("accuracy", f.BLUE, (0, (5, 2)))):
        values = 100 * (theory[name] - (0.5 if name == "accuracy" else 0))
        axes[0].plot(theory["slope"], values, color=ink, linestyle=linestyle, label=f"change of {name}")
    axes[0].axhline(0, color=f.INK, linewidth=0.9)
    axes[0].axvline(1, **_REFERENCE)
    for x, words in ((-0.4, "overconfident traces:\nthe gap grows"), (1.08, "underconfident\ntraces: it falls")):
        axes[0].text(x, -27, words, fontsize=8, color="#555555")
    axes[0].set(title="theory: best of ten traces", xlabel="slope b of correctness on confidence", ylabel="points")
    axes[0].set_ylim(-30, 52)
    axes[0].legend(loc="upper left")
    ends, handles = [0.0], []
    for start in (*STARTS, *FEW_STARTS):
        found = _moved(tables["summary"], start)
        if found.empty:
            continue
        look = f.look(start)
        axes[1].plot(found["predicted"], found["gap"], look.marker, color=look.color, alpha=0.45, markersize=4)
        axes[1].plot(found["predicted"].mean(), found["gap"].mean(), look.marker, color=look.color, markersize=8)
        handles.append(_line(look, linestyle="", label=f"from {look.label}"))
        ends += [*found["predicted"], *found["gap"]]
    reach = 1.15 * max(map(abs, ends)) or 1
    axes[1].axline((0, 0), slope=1, **_REFERENCE)
    axes[1].axhline(0, color=f.FAINT, linewidth=0.8, zorder=0)
    axes[1].axvline(0, color=f.FAINT, linewidth=0.8, zorder=0)
    axes[1].set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title="world: RLSF-RLOO, greedy")
    axes[1].set(xlabel="(1 − b) × change of confidence, points", ylabel="change of gap, points")
    f.legend(figure, handles)
    return figure


def _moved(summary: pd.DataFrame, start: str) -> pd.DataFrame:
    """Change of the greedy gap and what selection predicts for it, points, a row a seed."""
    table = standard(summary)
    before, after = (rows(table, arm=arm).set_index("seed") for arm in (start, f"rlsf_{start}"))
    if before.empty or after.empty:
        return pd.DataFrame()
    moved = 100 * (after[["greedy_gap", "greedy_confidence"]] - before[["greedy_gap", "greedy_confidence"]])
    predicted = (1 - before["slope_b"]) * moved["greedy_confidence"]
    return pd.DataFrame({"gap": moved["greedy_gap"], "predicted": predicted}).dropna()


# --- The world ------------------------------------------------------------------------------------


def tree(tables: Tables) -> Figure:
    """Ten branches of one prompt: what is ranked."""
    table = tables["traces"].sort_values("disparity", ascending=False, ignore_index=True)
    figure, ax = f.canvas(width=7.4, height=0.9 + 0.3 * len(table))
    middle = (len(table) - 1) / 2
    ax.text(-0.06, -0.95, str(table["prompt"][0]), family="monospace", fontsize=8, ha="left", va="center")
    for y, row in enumerate(table.itertuples()):
        right = row.right
        ink, sign = (f.GREEN, "✓") if right == 1 else (f.VERMILION, "✗") if right == 0 else (f.ORANGE, f"{right:g}")
        ax.plot((0, 0.1), (middle, y), color="#AAAAAA", linewidth=0.9)
        ax.text(0.11, y, row.first, family="monospace", fontsize=8.5, fontweight="bold", va="center")
        ax.text(
            0.17,
            y,
            row.text.removeprefix(row.first).removesuffix("<eos>"),
            family="monospace",
            fontsize=8.5,
            va="center",
        )
        ax.barh(y, 0.4 * max(row.disparity, 0), 0.52, 0.56, color=ink)
        ax.text(
            0.565 + 0.4 * max(row.disparity, 0), y, f"{row.disparity:.2f}".replace("-", "−"), fontsize=8, va="center"
        )
        ax.text(0.535, y, sign, color=ink, fontsize=9, ha="center", va="center_baseline")
    ax.plot(0, middle, "o", color=f.INK, markersize=6)
    at = 0.56 + 0.4 * 0.9
    ax.plot((at, at), (-0.5, len(table) - 0.5), **_REFERENCE)
    ax.text(at, len(table) - 0.35, "threshold .9", fontsize=8, ha="center", va="top")
    for x, words in ((0.11, "first token, trace"), (0.56, "confidence (disparity) of its answer")):
        ax.text(x, -0.95 if x > 0.5 else -0.6, words if x > 0.5 else "", fontsize=8, color="#555555", va="center")
    ax.set(xlim=(-0.06, 1.03), ylim=(len(table) + 0.1, -1.3))
    ax.axis("off")
    handles = [Patch(color=f.GREEN, label="right"), Patch(color=f.VERMILION, label="wrong")]
    if table["right"].between(0, 1, inclusive="neither").any():
        handles.append(Patch(color=f.ORANGE, label="right with that probability"))
    f.legend(figure, handles)
    return figure


def reliability(tables: Tables) -> Figure:
    """Reliability of greedy answers: base, damaged and after RLSF-RLOO, by probability and by disparity."""
    table = rows(standard(tables["reliability"]), mode="greedy")
    starts = known(table, STARTS)
    figure, axes = f.canvas(2, len(starts), width=2.5 * len(starts) + 0.4, height=5.2, squeeze=False)
    for line, measure in zip(axes, ("probability", "disparity")):
        for ax, start in zip(line, starts):
            f.unit_square(ax)
            for arm in ("base", start, f"rlsf_{start}"):
                part = rows(table, measure=measure, arm=arm)
                part = part[part["n"] > 0]
                if part.empty:
                    continue
                sums = part.assign(c=part["confidence"] * part["n"], a=part["accuracy"] * part["n"])
                sums = sums.groupby("bin")[["n", "c", "a"]].sum()
                size = 4 + 70 * sums["n"] / sums["n"].sum()
                look = f.look(arm)
                x, y = sums["c"] / sums["n"], sums["a"] / sums["n"]
                ax.plot(x, y, color=look.color, linestyle=look.linestyle, linewidth=1.1, alpha=0.8)
                ax.scatter(x, y, size, color=look.color, marker=look.marker, alpha=0.85, linewidth=0.4)
            ax.set_title(f"{f.label(start)}, {measure}")
        line[0].set_ylabel("accuracy")
    for ax in axes[1]:
        ax.set_xlabel("confidence")
    shown = ["base", *starts]
    handles = [_line(f.look(arm), linestyle="-") for arm in shown]
    handles.append(Line2D([], [], color=f.BLUE, marker="^", label="after RLSF-RLOO"))
    f.legend(figure, handles)
    return figure


EVERY = (
    *("base", *STARTS, "sharpened"),
    *("rlsf_fluency", "rlsf_assured", "rlsf_binary", "rlsf_base", "rlsf_sharpened"),
    *("fluency_dpo", "fluency_sft_3", "fluency_shuffled", "fluency_gold", "online"),
)
STYLES = {"direct": ("#C9C9C9", ""), "half": ("#F3C56B", "//"), "full": ("#4C8DC2", "")}


def styles(tables: Tables) -> Figure:
    """Shares of styles, validity of steps, accuracy, by arm."""
    summary = standard(tables["summary"])
    arms = known(summary, EVERY)
    figure, axes = f.canvas(1, 4, width=8.0, height=1.2 + 0.26 * len(arms), sharey=True, width_ratios=(1.25, 1, 1, 1))
    mean = _means(summary, [f"share_{style}" for style in STYLES])
    left = np.zeros(len(arms))
    for style, (ink, hatch) in STYLES.items():
        width = mean.loc[arms, f"share_{style}"].to_numpy()
        axes[0].barh(range(len(arms)), width, 0.72, left, color=ink, hatch=hatch, edgecolor=f.PAPER, linewidth=0.3)
        left += width
    axes[0].set(title="sampled styles", xlabel="percent", xlim=(0, 100))
    titles = {
        "step_validity": "valid steps",
        "sampled_accuracy": "accuracy, sampled",
        "greedy_accuracy": "accuracy, greedy",
    }
    for ax, (measure, title) in zip(axes[1:], titles.items()):
        f.interval_dots(ax, {arm: 100 * rows(summary, arm=arm)[measure] for arm in arms}, xlabel="percent")
        ax.set_title(title)
    axes[0].set_yticks(range(len(arms)), [f.label(arm) for arm in arms])
    axes[0].tick_params(axis="y", length=0)
    for group in (EVERY[:5], EVERY[:10]):
        for ax in axes:
            ax.axhline(len(known(summary, group)) - 0.5, color=f.FAINT, linewidth=0.8)
    handles = [Patch(facecolor=ink, hatch=hatch, edgecolor=f.PAPER, label=s) for s, (ink, hatch) in STYLES.items()]
    f.legend(figure, handles)
    return figure


def repair(tables: Tables) -> Figure:
    """Accuracy against ECE: base, damaged, repaired, as arrows."""
    table = tables["summary"]
    columns = [f"{mode}_{m}" for mode in ("greedy", "sampled") for m in ("accuracy", "ece")]
    mean = _means(table, columns)
    figure, axes = f.canvas(1, 2, width=7.8, height=3.9, sharey=True)
    for ax, mode in zip(axes, ("greedy", "sampled")):
        at = {arm: tuple(row) for arm, row in mean[[f"{mode}_accuracy", f"{mode}_ece"]].iterrows()}
        for start in known(mean.reset_index(), (*STARTS, "sharpened")):
            if "base" in at:
                f.arrow(ax, at["base"], at[start], start, color="#BBBBBB", linestyle="-", linewidth=1.0)
            if f"rlsf_{start}" in at:
                f.arrow(ax, at[start], at[f"rlsf_{start}"], color=f.BLUE, linestyle="-", linewidth=1.9)
            ax.plot(*at[start], f.marker(start), color=f.color(start), markersize=7.5, zorder=4)
        if {"base", "rlsf_base"} <= set(at):
            f.arrow(ax, at["base"], at["rlsf_base"], color=f.BLUE, linestyle=(0, (3, 1.5)), linewidth=1.9)
        if "base" in at:
            ax.plot(*at["base"], "o", color=f.color("base"), markersize=7.5, zorder=4)
        ax.set(title=mode, xlabel="accuracy, percent")
        ax.margins(0.12)
    axes[0].set_ylabel("ECE by probability, percent")
    for ax in axes:
        ax.set_ylim(bottom=0)
    handles = [_line(f.look(arm), linestyle="") for arm in ("base", *STARTS, "sharpened") if arm in mean.index]
    handles += [
        Line2D([], [], color="#BBBBBB", linewidth=1.2, label="damage"),
        Line2D([], [], color=f.BLUE, linewidth=2, label="RLSF-RLOO"),
    ]
    if "rlsf_base" in mean.index:
        handles.append(Line2D([], [], color=f.BLUE, linewidth=2, linestyle=(0, (3, 1.5)), label="RLSF-RLOO from base"))
    f.legend(figure, handles, ncols=5)
    return figure


COURSES = {
    "confidence": ("mean confidence", f.VERMILION, "s", "-"),
    "accuracy": ("accuracy", f.BLUE, "o", "-"),
    "disagreement": ("last step and answer disagree", f.PURPLE, "v", (0, (5, 2))),
    "entropy": ("entropy of the first token, nats", f.GREEN, "D", (0, (1, 1.5))),
}


def collapse(tables: Tables) -> Figure:
    """Along training: the online confidence reward beside one-round RLSF, with alarms that need no labels."""
    table = tables["trajectory"]
    arms = known(table, ("online", "fluency_rlsf_long"))
    figure, axes = f.canvas(
        2, len(arms), width=7.6, height=4.6, sharex="col", sharey="row", squeeze=False, height_ratios=(1.5, 1)
    )
    for (top, foot), arm in zip(axes.T, arms):
        mine = rows(table, arm=arm)
        for ax, names in ((top, ("confidence", "accuracy")), (foot, ("disagreement", "entropy"))):
            for name in names:
                _, ink, marker, linestyle = COURSES[name]
                for _, run in mine.groupby("seed"):
                    ax.plot(run["step"], run[name], color=ink, linewidth=0.7, alpha=0.35)
                mean = mine.groupby("step")[name].mean()
                ax.plot(mean.index, mean, color=ink, marker=marker, markersize=4, linestyle=linestyle)
        top.set(title=f.label(arm), ylim=(0, 1.02))
        foot.set(xlabel="step", ylim=(0, None))
    axes[0, 0].set_ylabel("share, sampled")
    axes[1, 0].set_ylabel("alarms without labels")
    handles = [
        Line2D([], [], color=ink, marker=marker, markersize=5, linestyle=linestyle, label=words)
        for words, ink, marker, linestyle in COURSES.values()
    ]
    f.legend(figure, handles, columnspacing=1.2)
    return figure


FIGURES: dict[str, Plot] = {
    "tree": Plot(
        tree,
        ("traces",),
        "One prompt, ten branches of the base by their first token, sorted by confidence: bars show the disparity at "
        "the answer, colours whether it is right. Pairs prefer a branch beyond the dashed line to any less confident "
        "one, right or not.",
        "A tree from one prompt to ten rows. Each row shows the first token, the trace with its answer, a tick or "
        "cross by whether the answer is right, and a bar as long as the confidence, with a dashed line at .9.",
    ),
    "cells": Plot(
        cells,
        ("cells",),
        "The printed cells (a third party's transcription) by accuracy and ECE. On the dashed line ECE is 1 - "
        "accuracy, as with confidence near 1 throughout: Qwen. Above it part of the error must be underconfidence: "
        "Gemma on MultiArith and ARC-Easy.",
        "Two scatter plots of accuracy and calibration error. Left, the Qwen cells lie along the line ECE = 100 minus "
        "accuracy, Gemma on GSM8K near it, Phi-2 below. Right, enlarged, the nine cells of Gemma on MultiArith and "
        "ARC-Easy: all above the line except CoT-decoding on ARC-Easy.",
    ),
    "forest": Plot(
        forest,
        ("differences",),
        "RLSF-PPO minus three other arms, printed cells with rough 95 % intervals (two independent binomials on the "
        "public split; hollow: the interval contains 0). Three comparisons, three stories: only the one with RLHF "
        "shows lower ECE throughout.",
        "Three panels of intervals, a row a cell. Against base accuracy is up in five of six cells, ECE down in four. "
        "Against RLHF ECE is down in all four math cells and accuracy up. Against CoT-decoding ECE is up in four of "
        "six and all accuracy intervals contain zero.",
    ),
    "artefact": Plot(
        artefact,
        ("artefact",),
        "A forecaster over ten answers that is calibrated at T = 1, made sharper or flatter. Accuracy does not move; "
        "ECE by probability is 0 at T = 1, ECE by disparity is smallest (marked) where the forecaster is "
        "overconfident.",
        "Three curves over temperature. Accuracy is flat at 53 percent. ECE by probability touches zero at temperature "
        "1 and rises on both sides. ECE by disparity falls from 40 at temperature 2 over 20 at 1 to 12 near .7, then "
        "rises.",
    ),
    "sweep": Plot(
        sweep,
        ("temperatures",),
        "The same in the world: one temperature at the answer token of the base's greedy answers, means over seeds. "
        "The marks show where either measure would call the model best calibrated; read off how far apart they lie.",
        "Curves over temperature, sharper to the right: ECE by probability, ECE by disparity, each with a mark at its "
        "minimum, and accuracy, which no temperature changes.",
    ),
    "selection": Plot(
        selection,
        ("selection", "summary"),
        "Left: what taking the most confident of ten traces does, by the slope b of correctness on confidence. Right: "
        "change of the greedy gap under RLSF-RLOO against what the identity predicts (large: mean, small: seeds). Off "
        "the diagonal the conditional probabilities changed too.",
        "Left panel: the change of the gap falls linearly with the slope and is zero at b = 1, the change of accuracy "
        "rises linearly. Right panel: a square with a diagonal and a point an arm and seed, predicted change on the "
        "x-axis and measured change on the y-axis.",
    ),
    "reliability": Plot(
        reliability,
        ("reliability",),
        "Greedy answers by confidence: base, damaged and after RLSF-RLOO, a column a damage; above by probability, "
        "below by disparity. Points on the diagonal are calibrated, below it overconfident; size shows the share of "
        "answers.",
        "A grid of reliability diagrams: a column for each of the damages, the upper row by probability and the "
        "lower by disparity, each with three lines of points and the diagonal.",
    ),
    "styles": Plot(
        styles,
        ("summary",),
        "What is written and how often it is right, by arm: shares of direct, half and full traces, validity of the "
        "steps in full traces, accuracy; means with 95 % intervals over seeds, a dot a seed. Lines part starts, "
        "RLSF-RLOO and controls.",
        "Four panels with a row an arm: stacked bars of the three styles, then intervals for valid steps, sampled "
        "accuracy and greedy accuracy.",
    ),
    "repair": Plot(
        repair,
        ("summary",),
        "Accuracy and ECE, seed means: grey arrows from the base to the damaged models, blue arrows on to RLSF-RLOO. A "
        "repair would point back down to the level of the base; sideways is accuracy without repair.",
        "Two panels, greedy and sampled, with accuracy on the x-axis and calibration error on the y-axis. From the "
        "base a grey arrow leads to each damaged model and a blue arrow from there to the model after RLSF-RLOO.",
    ),
    "collapse": Plot(
        collapse,
        ("trajectory",),
        "Along training: an online reward for current confidence beside one round of RLSF-RLOO made four times as "
        "long. Above, confidence and accuracy; below, two alarms that need no labels. Bold: mean; thin: seeds.",
        "Two columns, online confidence reward and RLSF-RLOO over 120 steps. The upper panels show mean confidence and "
        "accuracy over steps, the lower ones the share of full traces whose answer contradicts their last step and the "
        "entropy of the first token.",
    ),
}
