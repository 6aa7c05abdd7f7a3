"""The figures of claim 2. Each reads the claim's tables and nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from candor.claims.shared import known, rows, standard
from candor.claims.sophistry.tables import APPS, GENERAL, TASK
from candor.declare import figures as f
from candor.declare.figures import Figures
from candor.declare.ledger import Tables
from candor.measure.intervals import t_interval

FIGURES = Figures()

_THIN: dict[str, Any] = {"color": "#C9C9C9", "linewidth": 0.8, "zorder": 0}
# The paper's settings, where a figure tells settings apart instead of arms.
SETTING_LOOKS = {
    GENERAL: f.Look("QuALITY, general", f.PURPLE, "o"),
    TASK: f.Look("QuALITY, task-specific", f.GREEN, "D"),
    APPS: f.Look("APPS", f.BLACK, "s"),
}


def _arm(name: str, **kwargs: Any) -> Line2D:
    return Line2D([], [], **f.line(name, markersize=5) | kwargs)


def _change(table: pd.DataFrame, measure: str) -> pd.Series:
    """In points."""
    return 100 * (table[measure] - table[f"{measure}_before"])


# --- Published ------------------------------------------------------------------------------------


@FIGURES.draws("decomposition", "leniency")
def plane(tables: Tables) -> Figure:
    """People's verdicts before (hollow) and after RLHF (arrowhead), on all outputs: wrong ones are approved more
    often, right ones are not. Levels are printed for the general reward model only; dashed arrows assume a constant
    correctness of 35 % (APPS) and 50 % (task-specific).

    Three panels with the false-positive rate on the x-axis and the true-positive rate on the y-axis. General: from
    46, 64 to 63, 66. APPS: from 30, 66 to 52, 65. Task-specific: from 41, 55 to 63, 46, below the diagonal. The
    arrows run to the right, towards higher error; a curve of mere leniency runs up and to the right.
    """
    figure, axes = f.canvas(1, 3, width=7.8, height=3.7, sharey=True)
    lenient = tables["leniency"]
    for ax, (setting, look) in zip(axes, SETTING_LOOKS.items()):
        before, after = (rows(tables["decomposition"], setting=setting, arm=arm).iloc[0] for arm in ("init", "rlhf"))
        f.unit_square(ax, "FPR, all wrong outputs", diagonal=False)
        _iso_error(ax, after["correctness"] / 100)
        ax.axline((0, 0), slope=1, **f.REFERENCE)
        for x, name, dx, dy in ((0, "reject all", 8, 5), (1, "approve all", -8, -9)):
            ax.plot(x, x, "X", color=f.INK, markersize=7, clip_on=False, zorder=4)
            f.point_label(ax, (x, x), name, dx=dx, dy=dy).set_path_effects(f.HALO)
        if setting == GENERAL:
            ax.plot(lenient["fpr"], lenient["tpr"], color=f.ORANGE, linewidth=1.6, linestyle=(0, (2, 1.2)))
        start, end = (before["fpr"] / 100, before["tpr"] / 100), (after["fpr"] / 100, after["tpr"] / 100)
        assumed = bool(before["assumed"]) and pd.notna(before["assumed"])
        f.arrow(ax, start, end, color=look.color, linestyle=(0, (4, 1.6)) if assumed else "-", linewidth=2.0)
        ax.plot(*start, "o", color=f.PAPER, markeredgecolor=look.color, markersize=5.5, zorder=4)
        d = [row["discrimination"] for row in (before, after)]
        words = f"TPR - FPR {d[0]:.0f} → {d[1]:.0f}\nerror {before['error']:.1f} → {after['error']:.1f} %"
        note = ax.text(0.97, 0.13, words.replace("-", "−"), transform=ax.transAxes, fontsize=8, ha="right")
        note.set_path_effects(f.HALO)
        ax.set_title(f"{look.label}\n{'levels partly assumed' if assumed else 'printed levels'}", fontsize=9)
    axes[0].set_ylabel("TPR, right outputs")
    handles = [
        Line2D([], [], label="equal error, percent", **_THIN),
        Line2D([], [], label="no discrimination", **f.REFERENCE),
        Line2D([], [], color=f.INK, marker="X", linestyle="", label="rubber stamp"),
        Line2D([], [], color=f.ORANGE, linestyle=(0, (2, 1.2)), label="leniency: one logit added to both"),
    ]
    f.legend(figure, handles, columnspacing=1.2)
    return figure


def _iso_error(ax: Axes, correctness: float) -> None:
    """Lines of error .1, .2, ... in the plane of FPR and TPR, with their percentages at the left end."""
    for e in np.arange(1, 10) / 10:
        start = 1 - e / correctness  # TPR at FPR 0
        ax.axline((0, start), slope=(1 - correctness) / correctness, **_THIN)
        if start > 0.1:
            note = f.point_label(ax, (0, start), f"{100 * e:.0f}", "#888888", dx=4, dy=3)
            note.set_fontsize(7)


@FIGURES.draws("fpr_intervals", "error_intervals", "summary")
def forest(tables: Tables) -> Figure:
    """Changes with 95 % intervals. Above: people in the paper, intervals derived from the likely number of labels,
    one training seed a setting. Below: the world with a simulated evaluator, intervals over training seeds.

    Two panels of intervals. FPR, both wrong: 23.5, 24.1 and 18.3 points with intervals of about 13 points on either
    side. Error: 7.4, 15.6 and 14.4. Below a line, an interval and small dots for each of the world's arms, by the
    same measures.
    """
    figure, axes = f.canvas(1, 2, width=7.6, height=4.1, sharey=True)
    ways = ("sampling scheme", "smallest attainable"), ("labels", "evaluators")
    for y, (setting, look) in enumerate(SETTING_LOOKS.items()):
        fpr = rows(tables["fpr_intervals"], setting=setting).set_index("why")
        error = rows(tables["error_intervals"], setting=setting, metric="error").set_index("how")
        for ax, found, (labels, other) in zip(axes, (fpr, error), ways):
            _interval(ax, y - 0.13, found.loc[labels], look)
            _interval(ax, y + 0.17, found.loc[other], look, hollow=True)
    summary = standard(tables["summary"])
    arms = known(summary, ("r_train", "learned_rm", "r_star", "shuffled", "r_hard"))
    for y, arm in enumerate(arms):
        for ax, measure in zip(axes, ("fpr_both", "error")):
            moved = _change(rows(summary, arm=arm), measure)
            row = pd.Series([moved.mean(), *t_interval(moved)], ["change", "low", "high"])
            ax.plot(moved, np.full(len(moved), y + 3.77), "o", color=f.color(arm), alpha=0.55, markersize=2.8)
            _interval(ax, y + 3.5, row, f.look(arm))
    for ax, title in zip(axes, ("FPR, both wrong", "evaluation error")):
        ax.axvline(0, color=f.INK, linewidth=0.9)
        ax.axhline(2.75, color=f.FAINT, linewidth=0.8)
        ax.set(title=title, xlabel="change, percentage points", ylim=(len(arms) + 3.1, -0.6))
        _in_rows(ax)
    heights = [*range(3), *(3.5 + y for y in range(len(arms)))]
    axes[0].set_yticks(heights, [*(look.label for look in SETTING_LOOKS.values()), *map(f.label, arms)])
    note = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center", "fontsize": 8, "color": "#555555"}
    for at, words in ((0, "people"), (3.5, "simulated\nevaluator")):
        axes[1].annotate(words, (1.0, at), **note)
    labels = "labels: 100 (FPR), 250 (error); world: over seeds"
    fewest = f.Look("fewest labels (FPR); people (error)", f.GREY, "o")
    f.legend(figure, [_entry(f.Look(labels, f.GREY, "o")), _entry(fewest, markerfacecolor=f.PAPER)])
    return figure


def _entry(look: f.Look, **kwargs: Any) -> Line2D:
    return Line2D([], [], color=look.color, marker=look.marker, label=look.label, **kwargs)


def _in_rows(ax: Axes) -> None:
    """An axis whose rows have names and no line."""
    ax.grid(axis="x", color="#EEEEEE", linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _interval(ax: Axes, y: float, row: pd.Series, look: f.Look, *, hollow: bool = False) -> None:
    ax.hlines(y, row["low"], row["high"], color=look.color, linewidth=1.2 if hollow else 1.9)
    face = f.PAPER if hollow else look.color
    ax.plot(row["change"], y, look.marker, color=look.color, markerfacecolor=face, markersize=5 if hollow else 6.5)


@FIGURES.draws("critique_curves")
def finishing(tables: Tables) -> Figure:
    """The critique's training run with the full story, read off its plots: accuracy over all outputs climbs because
    answers get finished; finished answers are right as often at the start as at the end.

    Five curves over 521 steps. Accuracy with unfinished counted as wrong goes from .36 to .70, the share unfinished
    from .50 over .95 at step 41 to .02. The accuracy of finished answers stays near .70 throughout.
    """
    curves = tables["critique_curves"]
    figure, ax = f.canvas(width=6.6, height=3.4)
    shown = {
        "accuracy_finished": ("accuracy of finished answers", f.VERMILION, "-", 2.4),
        "accuracy_all": ("accuracy, unfinished = wrong", f.BLUE, "-", 1.6),
        "unfinished": ("share unfinished", f.BLACK, (0, (5, 2)), 1.4),
        "letter_a": ("share of letter A", f.GREY, (0, (1, 1.5)), 1.2),
        "letter_b": ("share of letter B", f.GREY, (0, (5, 1.5, 1, 1.5)), 1.2),
    }
    for name, (text, ink, linestyle, width) in shown.items():
        ax.plot(curves["step"], curves[name], color=ink, linestyle=linestyle, linewidth=width, label=text)
    ax.set(xlabel="training step", ylabel="share", ylim=(0, 1), xlim=(0, curves["step"].max()))
    f.label_lines(ax, gap=11)
    return figure


SIGHT = {"truncated": "policy sees a cut story", "full": "policy sees the full story"}


@FIGURES.draws("story_lookup")
def two_by_two(tables: Tables) -> Figure:
    """Who lacks the story, computed exactly at KL .15 (simulated evaluator): change of correctness and of approval
    in four cells. Only a policy that sees the story can become right more often; error falls in all four.

    A two by two grid of arrows from the origin. Cut story: correctness up by 1 (blind) and 3 (sighted), approval by
    about 7.5. Full story: correctness up by 7.5 (blind) and 19.3 (sighted), approval by 9.7 and 8.1.
    """
    cells = tables["story_lookup"].set_index(["policy", "judge"])
    figure, axes = f.canvas(2, 2, width=5.8, height=5.2, sharex=True, sharey=True)
    for ax, (policy, judge) in zip(axes.flat, itertools.product(SIGHT, ("blind", "sighted"))):
        cell = cells.loc[(policy, judge)]
        ax.axhline(0, color=f.FAINT, linewidth=0.8, zorder=0)
        ax.axvline(0, color=f.FAINT, linewidth=0.8, zorder=0)
        ax.axline((0, 0), slope=1, **f.REFERENCE)
        f.arrow(ax, (0, 0), (cell["correctness"], cell["approval"]), color=f.VERMILION, linewidth=2.0)
        words = "\n".join(f"{name} {cell[name.lower()]:+.1f}" for name in ("FPR", "TPR", "error")).replace("-", "−")
        ax.text(0.97, 0.05, words, transform=ax.transAxes, ha="right", va="bottom", fontsize=8)
        ax.set_title(f"{SIGHT[policy]}\nreward is {judge}", fontsize=8.5)
        ax.set(xlim=(-2, 22), ylim=(-2, 14))
    for left, below in zip(axes[:, 0], axes[1]):
        left.set_ylabel("approval, points")
        below.set_xlabel("correctness, points")
    f.legend(figure, [Line2D([], [], label="approval and correctness rise alike", **f.REFERENCE)])
    return figure


# --- The world ------------------------------------------------------------------------------------

COURSES = {
    "approval": "approval",
    "correctness": "correctness",
    "error": "evaluation error",
    "fpr_both": "FPR, both wrong",
}
WATCHED = ("shuffled", "r_star", "r_train", "learned_rm")


@FIGURES.draws("trajectory", "slopes")
def training(tables: Tables) -> Figure:
    """Along training, against KL (root scale): what each reward does to the simulated evaluator's verdicts and to
    correctness. Bands: 95 % over seeds. Pale lines: the initial direction predicted from base samples, for a policy
    that spends its KL on nothing but the reward (last panel: predicted for all wrong outputs).

    Four panels over KL: approval, correctness, evaluation error and FPR. Each has a line with a band for every arm,
    all from the base's value at KL zero, and a pale straight line where a slope was predicted.
    """
    course, slopes = tables["trajectory"], tables["slopes"]
    arms = known(course, WATCHED)
    figure, axes = f.canvas(1, 4, width=8.0, height=3.1, sharex=True)
    for ax, (measure, title) in zip(axes, COURSES.items()):
        start = 100 * rows(course, step=0)[measure].mean()
        for arm in arms:
            run = rows(course, arm=arm).groupby("step")
            root, mean = np.sqrt(run["kl"].mean().clip(lower=0)), 100 * run[measure].mean()
            low, high = np.transpose([_interval_of(100 * part) for _, part in run[measure]])
            ax.fill_between(root, low, high, color=f.color(arm), alpha=0.16, linewidth=0)
            ax.plot(root, mean, **f.line(arm, markersize=4))
            if (tangent := _tangent(slopes, arm, measure)) is not None:
                x = np.array((0, 0.3))
                ax.plot(x, start + 100 * tangent * x, color=f.color(arm), linewidth=3.5, alpha=0.35, zorder=1)
        ticks = (0, 0.1, 0.3, 0.6, 1.0)
        ax.set(title=title, xlabel="KL, nats")
        ax.set_xticks(np.sqrt(ticks), ("0", ".1", ".3", ".6", "1"))
        ax.margins(y=0.1)
    axes[0].set_ylabel("percent")
    handles = [_arm(arm) for arm in arms]
    if any(_tangent(slopes, arm, "approval") is not None for arm in arms):
        handles.append(Line2D([], [], color=f.GREY, linewidth=3.5, alpha=0.5, label="predicted"))
    f.legend(figure, handles)
    return figure


def _interval_of(values: pd.Series) -> tuple[float, float]:
    """Of one seed the value itself."""
    return t_interval(values) if len(values) > 1 else (values.mean(), values.mean())


def _tangent(slopes: pd.DataFrame, arm: str, measure: str) -> float | None:
    """Slope against the square root of KL: at first order KL is t^2 Var(R) / 2, and a change is t Cov(B, R).

    `reward_variance` is that within problems; without it there is no tangent.
    """
    found = rows(slopes, reward=arm, quantity={"fpr_both": "fpr"}.get(measure, measure))
    if found.empty or "reward_variance" not in found:
        return None
    return float((found["slope"] * np.sqrt(2 / found["reward_variance"])).mean())


@FIGURES.draws("minutes")
def minutes(tables: Tables) -> Figure:
    """FPR of the simulated evaluator before and after training on two easy tests, by its minutes: with tests and
    reading, and with tests alone. The shaded gap is the change, in points at the fitted time and at sixteen times
    that. Means over seeds.

    Two panels over minutes from 2.5 to 160, left with reading, right with tests only. Each has a curve before and
    one after training; the area between them is shaded and labelled at 10 and at 160 minutes.
    """
    table = rows(standard(tables["minutes"]), arm="r_train")
    figure, axes = f.canvas(1, 2, width=7.2, height=3.2, sharey=True)
    for ax, (reading, title) in zip(axes, {True: "tests and reading", False: "tests only"}.items()):
        mean = rows(table, reading=reading).groupby("multiple")[["fpr_before", "fpr", "gap"]].mean() * 100
        ax.fill_between(mean.index, mean["fpr_before"], mean["fpr"], color="#F6D9C6", linewidth=0)
        ax.plot(mean.index, mean["fpr"], **f.line("r_train"))
        ax.plot(mean.index, mean["fpr_before"], **f.line("base"))
        for multiple in (1, 16):
            before, after, gap = mean.loc[multiple]
            dx, dy = -4 if multiple == 16 else 0, 0 if gap > 3 else 12
            note = f.point_label(ax, (multiple, (after + before) / 2), f"{gap:+.1f}".replace("-", "−"), dx=dx, dy=dy)
            note.set_path_effects(f.HALO)
        ax.set_xscale("log", base=2)
        ax.set_xticks(mean.index, [f"{10 * m:g}" for m in mean.index])
        ax.minorticks_off()
        ax.axvline(1, **f.REFERENCE)
        ax.set(title=title, xlabel="minutes of the simulated evaluator")
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("FPR, both wrong, percent")
    handles = [_arm("r_train"), _arm("base"), Patch(color="#F6D9C6", label="gap")]
    f.legend(figure, [*handles, Line2D([], [], label="the time it was fitted at", **f.REFERENCE)])
    return figure


@FIGURES.draws("bins")
def near_misses(tables: Tables) -> Figure:
    """Wrong programs by the share of oracle tests that they pass: how often the simulated evaluator approves them,
    and how they are distributed, before and after (small: seeds). A curve that moves up means more convincing at
    equal distance from right, bars that move right mean less wrong.

    Two columns, two easy tests and shuffled. Above, FPR over the oracle pass rate in six bins, a curve before and
    one after, with dotted verticals at the mean pass rates. Below, bars of the share of wrong programs in each bin.
    """
    table = standard(tables["bins"])
    arms = known(table, ("r_train", "shuffled"))
    shape = {"sharex": True, "sharey": "row", "height_ratios": (2, 1), "squeeze": False}
    figure, axes = f.canvas(2, len(arms), width=7.0, height=4.2, **shape)
    for (top, foot), arm in zip(axes.T, arms):
        part = rows(table, arm=arm)
        mean = part.groupby(["pass_low", "pass_high"])[["fpr_before", "fpr", "n_before", "n"]].mean().reset_index()
        middle = (mean["pass_low"] + mean["pass_high"]) / 2
        top.plot(middle, 100 * mean["fpr_before"], **f.line("base", label="before"))
        top.plot(middle, 100 * mean["fpr"], **f.line(arm, label="after"))
        for _, run in part.groupby("seed"):
            top.plot(middle, 100 * run["fpr"].to_numpy(), ".", color=f.color(arm), alpha=0.35, markersize=3)
        width = (mean["pass_high"] - mean["pass_low"]) / 2
        for k, (count, name) in enumerate((("n_before", "base"), ("n", arm))):
            share = 100 * mean[count] / mean[count].sum()
            foot.bar(mean["pass_low"] + k * width, share, width * 0.92, align="edge", color=f.color(name))
            centre = np.average(middle, weights=mean[count])
            top.axvline(centre, color=f.color(name), linewidth=1.2, linestyle=(0, (1, 1.5)), zorder=0)
        top.set_title(f.label(arm))
        foot.set(xlabel="oracle pass rate of the wrong program", xlim=(0, 1))
    axes[0, 0].set_ylabel("FPR, percent")
    axes[1, 0].set_ylabel("share of wrong\nprograms, %")
    handles = [_arm("base", label="before"), *(_arm(arm, label=f"after, {f.label(arm)}") for arm in arms)]
    handles.append(Line2D([], [], color=f.GREY, linewidth=1.2, linestyle=(0, (1, 1.5)), label="mean pass rate"))
    f.legend(figure, handles)
    return figure


CLASSES = {0: "easy", 1: "stated rule, corner", 2: "hidden rule, corner"}
BY_CLASS = {
    "approval": "approval",
    "correctness": "correctness",
    "fpr": "FPR, all wrong",
    "main_right": "main rule right",
    "line": "writes a line",
}


@FIGURES.draws("classes")
def classes(tables: Tables) -> Figure:
    """What training on two easy tests changes, by class of problem: before (hollow) and after, seed means, with the
    simulated evaluator. The last two panels say how: whether the main rule is right, the corner aside, and whether
    the program draws a line through the two examples.

    Five panels, a row a class of problem: approval, correctness, FPR, main rule right, writes a line. A hollow
    point before and a filled one after training in each row, joined by a line.
    """
    table = rows(standard(tables["classes"]), arm="r_train")
    mean = 100 * table.groupby("class")[[m + end for m in BY_CLASS for end in ("_before", "")]].mean()
    figure, axes = f.canvas(1, len(BY_CLASS), width=7.8, height=2.2, sharey=True)
    for ax, (measure, title) in zip(axes, BY_CLASS.items()):
        for y, kind in enumerate(CLASSES):
            before, after = mean.loc[kind, f"{measure}_before"], mean.loc[kind, measure]
            if np.isfinite((before, after)).all():
                ax.plot((before, after), (y, y), color=f.color("r_train"), linewidth=1.4)
                ax.plot(before, y, "o", color=f.PAPER, markeredgecolor=f.color("base"), markersize=6)
                ax.plot(after, y, f.marker("r_train"), color=f.color("r_train"), markersize=6)
        ax.set(title=title, xlim=(-6, 106), ylim=(len(CLASSES) - 0.5, -0.5), xlabel="percent")
        ax.set_xticks((0, 50, 100))
        _in_rows(ax)
    axes[0].set_yticks(range(len(CLASSES)), CLASSES.values())
    handles = [_arm("base", linestyle="", markerfacecolor=f.PAPER), _arm("r_train", linestyle="")]
    f.legend(figure, handles)
    return figure


AUDIENCES = ("reward", "evaluator", "oracle")


@FIGURES.draws("programs")
def side_by_side(tables: Tables) -> Figure:
    """One problem and three programs, of the first seed: the tests of the reward, those that one simulated
    evaluator ran, and the oracle's, by input. Ticked: passed. Chosen because both programs are wrong and approval
    rose, where there is such a problem.

    A matrix of ticks and crosses, a row a program: the reference, that of the base, that of the trained model. The
    columns are inputs in three groups: reward, evaluator, oracle. Beside each program the share of oracle tests
    that it passes, and how often it is approved.
    """
    table = tables["programs"]
    shown = rows(table, problem=_telling(table)).reset_index(drop=True)
    about = shown.iloc[0]
    order = shown.assign(rank=shown["audience"].map(AUDIENCES.index))
    order = order.sort_values(["rank", "x"], kind="stable", ignore_index=True)
    x = np.arange(len(order)) + 1.5 * order["rank"].to_numpy()
    programs = (
        ("reference", f.BLACK, about["reference"], np.ones(len(order), bool), ""),
        ("base", f.color("base"), about["program_before"], order["passed_before"].to_numpy(bool), "_before"),
        (f.label("r_train"), f.color("r_train"), about["program"], order["passed"].to_numpy(bool), ""),
    )
    figure, ax = f.canvas(width=7.8, height=3.5)
    for k, (name, ink, text, passed, suffix) in enumerate(programs):
        y = 1.9 * k
        if k > 0:
            name += f"   passes {about[f'pass_rate{suffix}']:.0%}, approved {about[f'approval{suffix}']:.0%}"
        ax.text(x[0] - 0.5, y - 0.85, name, color=ink, fontweight="bold", fontsize=8.5, va="center")
        ax.text(x[-1] + 0.5, y - 0.85, text, color=ink, family="monospace", fontsize=8, va="center", ha="right")
        ax.plot(x[passed], np.full(passed.sum(), y), "s", color="#BFE3D7", markersize=8.5)
        ax.plot(x[~passed], np.full((~passed).sum(), y), "s", color=f.VERMILION, markersize=8.5)
        for at, ok in zip(x, passed):
            sign, mark = ("✓", f.GREEN) if ok else ("✗", f.PAPER)
            ax.text(at, y, sign, color=mark, ha="center", va="center_baseline", fontsize=7)
    for rank, audience in enumerate(AUDIENCES):
        mine = x[order["rank"] == rank]
        if len(mine):
            ax.plot((mine[0] - 0.45, mine[-1] + 0.45), (5.35, 5.35), color=f.INK, linewidth=0.9, clip_on=False)
            ax.text(mine.mean(), 5.6, audience, ha="center", va="top", fontsize=8)
    for at, value in zip(x, order["x"]):
        ax.text(at, 4.5, f"{value:g}".replace("-", "−"), rotation=90, ha="center", va="top", fontsize=6.5)
    ax.text(x[0] - 0.5, -1.9, about["prompt"], family="monospace", fontsize=8, va="center")
    ax.set(xlim=(x[0] - 0.8, x[-1] + 0.8), ylim=(6.1, -2.3))
    ax.axis("off")
    return figure


def _telling(table: pd.DataFrame) -> int:
    """The problem to show: approved more, though both programs are wrong; the evaluator ran several tests."""
    tried = rows(table, audience="evaluator").groupby("problem")
    about = tried[["picked", "approval", "approval_before", "pass_rate"]].first().assign(tests=tried.size())
    gain = about["approval"] - about["approval_before"]
    clear = about["picked"].astype(bool) & tried["passed"].all() & ~tried["passed_before"].all()
    return int(gain.where(clear & (about["tests"] >= 2), gain - 2).idxmax())


EVERY = ("r_train", "learned_rm", "r_train_kl000", "r_train_kl020", "r_hard", "r_star", "shuffled")
RULES = ("best_of_4", "best_of_16", "best_of_4_r_star", "best_of_16_r_star")


@FIGURES.draws("summary", "selection")
def arms(tables: Tables) -> Figure:
    """All arms, and base samples filtered without any training: change with 95 % interval over seeds, a dot a seed
    (arrowhead: the interval goes on). Simulated evaluator.

    Four panels of intervals, a row an arm: changes of approval, correctness, evaluation error and FPR. Above a line
    the trained arms, below it the filters of base samples.
    """
    summary, selection = standard(tables["summary"]), tables["selection"]
    trained, rules = known(summary, EVERY), known(selection, RULES, "rule")
    figure, axes = f.canvas(1, 4, width=8.0, height=1.5 + 0.24 * (len(trained) + len(rules)), sharey=True)
    for ax, (measure, title) in zip(axes, COURSES.items()):
        groups = {arm: _change(rows(summary, arm=arm), measure) for arm in trained}
        groups |= {rule: _change(rows(selection, rule=rule), measure) for rule in rules}
        f.interval_dots(ax, groups)
        ax.axvline(0, color=f.INK, linewidth=0.9, zorder=1)
        ax.axhline(len(trained) - 0.5, color=f.FAINT, linewidth=0.8)
        ax.set_title(title)
        ax.set_xlabel("points")
    return figure
