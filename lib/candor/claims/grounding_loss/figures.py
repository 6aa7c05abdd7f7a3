"""The figures of claim 3. Each reads the claim's tables and nothing else."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from candor.claims.grounding_loss.tables import CHARITIES, measured_shifts
from candor.claims.grounding_loss.world import ACTS
from candor.claims.shared import known, rows
from candor.declare import figures as f
from candor.declare.figures import Figures
from candor.declare.ledger import Tables
from candor.measure.intervals import t_interval

FIGURES = Figures()

# The acts, where a figure tells acts apart instead of arms.
ACT_LOOKS = {
    "followup": f.Look("followup", f.BLUE, "o"),
    "acknowledgement": f.Look("acknowledgement", f.ORANGE, "s"),
    "clarification": f.Look("clarification", f.PURPLE, "^"),
}


# --- Published ------------------------------------------------------------------------------------


@FIGURES.draws("headline", "headline_means")
def headline(tables: Tables) -> Figure:
    """The headline taken apart: how much rarer GPT-3.5-turbo's acts are than the human's, in the nine cells of
    Table 2 with 95 % intervals (hollow: not established; rates beside the names). 77.5 % is the mean of the three
    reductions quoted in the text, not of the table.

    Nine rows of reductions in percent, three data sets by three acts. Most lie between 60 and 100; TSCC followup
    lies at 4 with an interval from minus 23 to 25 that covers zero. Two vertical lines at 73.1, the mean of the
    nine cells, and at 77.5, the mean of the three quoted reductions 64.3, 83.4 and 84.8.
    """
    cells, means = tables["headline"], tables["headline_means"].set_index("name")["value"]
    figure, ax = f.canvas(width=7.0, height=3.9)
    heights = [*(np.arange(len(cells)) + 0.45 * pd.factorize(cells["dataset"])[0])]
    for y, (_, row) in zip(heights, cells.iterrows()):
        look, open_end = ACT_LOOKS[row.act], np.isnan(row.reduction_low)
        if not open_end:
            ax.hlines(y, row.reduction_low, row.reduction_high, color=look.color, linewidth=1.8)
        face = look.color if row.beyond else f.PAPER
        ax.plot(row.reduction, y, look.marker, color=look.color, markerfacecolor=face, markersize=7, clip_on=False)
        if open_end:
            f.point_label(ax, (row.reduction, y), "never", look.color, dx=8)
    y = heights[-1] + 1.45
    for (act, look), off in zip(ACT_LOOKS.items(), (0, -0.17, 0.17)):  # two of them nearly coincide
        ax.plot(means[f"quoted_{act}"], y + off, look.marker, color=look.color, markersize=7)
    ax.axvline(0, color=f.INK, linewidth=0.9)
    ax.axvline(means["quoted_mean"], color=f.VERMILION, linewidth=1.4, linestyle=(0, (5, 2)), zorder=0)
    ax.axvline(means["cells_mean"], color=f.INK, linewidth=1.4, zorder=0)
    texts = {
        "cells_mean": ("mean of the nine cells", f.INK, -4),
        "quoted_mean": ("mean of three quoted", f.VERMILION, 4),
    }
    for name, (text, ink, dx) in texts.items():
        note = f.point_label(ax, (means[name], -0.75), f"{text} {means[name]:.1f}", ink, dx=dx)
        note.set_path_effects(f.HALO)
    ax.axhline(y - 0.72, color=f.FAINT, linewidth=0.8)
    names = [f"{row.dataset}  {row.human:.3g} → {row.model:.3g} %" for _, row in cells.iterrows()]
    ax.set_yticks([*heights, y], [*names, "quoted in the text"])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color="#EEEEEE", linewidth=0.8)
    ax.set(xlim=(-26, 124), ylim=(y + 0.6, -1.2), xlabel="reduction against the human, %")
    ax.set_xticks((-25, 0, 25, 50, 75, 100))
    handles = [f.dot(look) for look in ACT_LOOKS.values()]
    f.legend(figure, [*handles, f.dot(f.Look("not established", f.GREY, "o"), markerfacecolor=f.PAPER)])
    return figure


@FIGURES.draws("dpo_curve", "flat_envelope", "first_checkpoint", "correlations")
def checkpoints(tables: Tables) -> Figure:
    """Agreement along the paper's DPO run, ten points of one run. Shaded: 95 % of runs in which training changes
    nothing, with the noise of the ten SFT checkpoints. The paper began at the best SFT checkpoint for
    acknowledgements, which was the worst for followups.

    Three panels, one an act, of kappa over 2,700 DPO steps: from 18 to 14, from 27 to 17, from 12 to 8. The first
    segment is marked: 67, 33 and 60 percent of the fall precede the first saved checkpoint. The points lie inside
    the bands of flat runs, but for the last acknowledgements.
    """
    curve, envelope = tables["dpo_curve"], tables["flat_envelope"]
    falls = tables["first_checkpoint"].set_index("act")
    r = rows(tables["correlations"], method="dpo").set_index(["act", "points"])["r"]
    figure, axes = f.canvas(1, 3, width=7.6, height=3.1, sharex=True)
    shades = {"random_walk": ("#EFEFEF", "random walk"), "best_of_ten": ("#CFDDE8", "flat, begun at the best of ten")}
    for ax, act in zip(axes, ACTS):
        look = ACT_LOOKS[act]
        for process, (shade, label) in shades.items():
            band = rows(envelope, process=process, act=act)
            ax.fill_between(band["step"], band["low"], band["high"], color=shade, linewidth=0, label=label)
        part = rows(curve, method="dpo", act=act)
        ax.plot(part["step"], part["kappa"], color=look.color, marker=look.marker, label="_")
        first, second = part.iloc[0], part.iloc[1]
        ax.plot(part["step"][:2], part["kappa"][:2], color=f.VERMILION, linewidth=2.6, zorder=3)
        text = f"{falls['share'][act]:.0%} of the fall before\nthe first checkpoint"
        note = f.point_label(ax, (second.step, (first.kappa + second.kappa) / 2), text, f.VERMILION, dx=10, dy=8)
        note.set_path_effects(f.HALO)
        without = f"{r[act, 9]:.2f}".replace("-0", "−")
        ax.set_title(f"{act}\nR = {r[act, 10]:.2f}, without step 0 {without}".replace("-0", "−").replace(" 0.", " ."))
        ax.set(xlabel="DPO step", ylim=(first.kappa - 19, first.kappa + 12))
        ax.set_xticks((0, 900, 1800, 2700))
    axes[0].set_ylabel("kappa × 100")
    f.legend(figure, axes[0].get_legend_handles_labels()[0], ncols=3)
    return figure


METHODS = {
    ("Mistral-7B", "dpo"): ("Mistral DPO", "-"),
    ("Llama-7B", "dpo"): ("Llama DPO", (0, (5, 2))),
    ("Llama-7B", "ppo"): ("Llama PPO", (0, (1, 1.2))),
}


@FIGURES.draws("changes", "kappa_bound")
def bound(tables: Tables) -> Figure:
    """Rate against agreement on ESConv, from SFT (hollow) to preference optimisation (arrow head), and the largest
    kappa that a rate allows. Followups become rarer at nearly the same precision; acknowledgements and the few
    clarifications lose precision.

    Three panels with a boundary curve that peaks at the human rate. Followup arrows run down and to the left,
    parallel to the boundary; acknowledgement arrows run down, one of them to the right, away from it; clarification
    arrows lie at rates below three percent.
    """
    changes, bounds = tables["changes"], tables["kappa_bound"]
    figure, axes = f.canvas(1, 3, width=7.6, height=3.2)
    limits = {"followup": (9, 30), "acknowledgement": (9, 21), "clarification": (0, 3.6)}
    for ax, act in zip(axes, ACTS):
        look, curve = ACT_LOOKS[act], rows(bounds, act=act)
        low, high = limits[act]
        curve = curve[curve["rate"].between(low, high)]
        ax.fill_between(curve["rate"], curve["kappa_max"], 105, color="#EFEFEF", linewidth=0)
        ax.plot(curve["rate"], curve["kappa_max"], color=f.INK, linewidth=1.2)
        human = curve["human"].iloc[0]
        ax.axvline(human, **f.REFERENCE)
        shares = []
        for row in rows(changes, act=act).itertuples():
            label, linestyle = METHODS[row.model, row.method]
            start, end = (row.rate_before, row.kappa_before), (row.rate_after, row.kappa_after)
            f.arrow(ax, start, end, color=look.color, linestyle=linestyle, linewidth=1.6)
            ax.plot(*start, "o", color=f.PAPER, markeredgecolor=look.color, markersize=5)
            shares.append(f"{label} {row.precision_before:.0f}→{row.precision_after:.0f}")
        note = ax.text(0.36, 0.5, "precision, %\n" + "\n".join(shares), transform=ax.transAxes, fontsize=7, va="top")
        note.set_path_effects(f.HALO)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set(title=act, xlabel="rate, % of turns", xlim=(low, high), ylim=(0, 105))
    axes[0].set_ylabel("kappa × 100")
    handles = [Line2D([], [], color=f.GREY, linestyle=linestyle, label=label) for label, linestyle in METHODS.values()]
    handles.append(Line2D([], [], color=f.INK, linewidth=1.2, label="largest kappa at this rate"))
    handles.append(Line2D([], [], label="the human's rate", **f.REFERENCE))
    f.legend(figure, handles)
    return figure


COUNTED = {  # (source, model, arm, step): what the row is called
    ("Table 3", "GPT-3.5-turbo-instruct", "older_instruction_tuning", -1): "GPT-3.5 instruct",
    ("Table 3", "GPT-4", "off_the_shelf", -1): "GPT-4",
    ("Table 3", "GPT-3.5-turbo", "mitigation_prompt", -1): "GPT-3.5 with a prompt",
    ("Figure 2a", "Mistral-7B", "sft", 400): "Mistral SFT, step 400",
    ("Table 3", "Mistral-7B", "sft", -1): "Mistral SFT",
    ("Table 3", "Mistral-7B", "sft_dpo", -1): "Mistral DPO, step 2,100",
    ("Figure 2b", "Mistral-7B", "sft_dpo", 2700): "Mistral DPO, step 2,700",
}
_CLARIFICATIONS = 26


@FIGURES.draws("clarification_counts")
def counts(tables: Tables) -> Figure:
    """What a printed clarification kappa stands for: one triangle a turn, among about 860 turns of ESConv. Between
    SFT and DPO the same two hits remain, and the model clarifies more often.

    Eight rows of triangles. The human has 26. GPT-3.5 instruct has 1, GPT-4 has 3, the prompted GPT-3.5 has 10,
    none where the human clarified. Mistral has 4 with 2 hits after SFT, 8 and then 13 with 2 hits after DPO.
    """
    table = tables["clarification_counts"].assign(step=tables["clarification_counts"]["step"].fillna(-1).astype(int))
    table = table.set_index(["source", "model", "arm", "step"])
    figure, ax = f.canvas(width=6.8, height=3.1)
    names = ["human"]
    ax.plot(np.arange(_CLARIFICATIONS), np.zeros(_CLARIFICATIONS), "^", color=f.BLACK, markersize=6.5)
    for y, (key, name) in enumerate(((k, n) for k, n in COUNTED.items() if k in table.index), start=1):
        row = table.loc[key]
        x = np.arange(int(row["emitted"]))
        hits = x < row["coincident"]
        ax.plot(x[hits], np.full(hits.sum(), y), "^", color=f.VERMILION, markersize=6.5)
        ax.plot(x[~hits], np.full((~hits).sum(), y), "^", color=f.PURPLE, markerfacecolor=f.PAPER, markersize=6.5)
        f.point_label(ax, (x[-1] + 0.6, y), f"kappa {row['kappa']:.2f}".replace("-", "−"), f.INK, dx=6)
        names.append(name)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="both", length=0)
    ax.set(xlim=(-0.8, _CLARIFICATIONS + 0.5), ylim=(len(names) - 0.4, -0.7))
    ax.set_xticks([])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    handles = [
        f.dot(f.Look("the human's", f.BLACK, "^")),
        f.dot(f.Look("the model's, where the human clarified too", f.VERMILION, "^")),
        f.dot(f.Look("the model's, elsewhere", f.PURPLE, "^"), markerfacecolor=f.PAPER),
    ]
    f.legend(figure, handles)
    return figure


# --- The world ------------------------------------------------------------------------------------


def _measured(ax: Axes, at: float, values: pd.Series, ink: str, marker: str, width: float, **kwargs) -> None:
    """A mean over seeds with its 95 % interval."""
    ax.vlines(at, *t_interval(values), color=ink, linewidth=width)
    ax.plot(at, values.mean(), marker, color=ink, **kwargs)


_DOTS = (0, (1, 1.5))
BY_CHARITY = ("base", "charity_0", "charity_3", "charity_6")


@FIGURES.draws("cells", "predicted_cells", "crossing")
def contexts(tables: Tables) -> Figure:
    """How often an act is used in contexts where a delivery now would be right with probability p, seed means.
    Diamonds: closed form. Vertical: above this p an act loses against a delivery more often than it wins; with
    charity .6 it loses everywhere.

    Three panels, one an act, of falling curves over p. Base and charity 0 follow the human. With charity .3 the
    curve is lower right of its crossing at .29; with charity .6 it is lower everywhere.
    """
    cells, predicted = tables["cells"], tables["predicted_cells"]
    crossings = tables["crossing"].set_index("alpha")["p"]
    arms = known(cells, BY_CHARITY)
    figure, axes = f.canvas(1, 3, width=7.6, height=3.3, sharey=True)
    for ax, act in zip(axes, ACTS):
        here = rows(cells, act=act)
        human = rows(here, arm=arms[0], seed=here["seed"].min()).sort_values("p")
        ax.plot(human["p"], human["human"], **f.line("human", markersize=7, markerfacecolor="none", linewidth=1))
        for arm in arms:
            part = rows(here, arm=arm).groupby("cell")[["p", "model"]].mean().sort_values("p")
            ax.plot(part["p"], part["model"], **f.line(arm, clip_on=False))
            if arm in CHARITIES:
                form = rows(predicted, arm=arm, act=act)
                hollow = {"marker": "D", "linestyle": "", "markerfacecolor": "none", "markersize": 8}
                ax.plot(form["p"], form["model"], **f.line(arm, label="_", **hollow), clip_on=False)
        for arm in arms:
            p = crossings.get(CHARITIES.get(arm, -1), -1.0)
            if 0 < p < 1:
                ax.axvline(p, color=f.color(arm), linewidth=1, linestyle=f.look(arm).linestyle, zorder=0)
                text = f"{p:.2f}".lstrip("0")
                f.point_label(ax, (p, 1.075), text, f.color(arm), dx=0).set_path_effects(f.HALO)
        ax.set(title=act, xlabel="p, a delivery now is right", xlim=(0, 1), ylim=(-0.03, 1.12))
        ax.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", ".25", ".5", ".75", "1"))
    axes[0].set_ylabel("probability of the act")
    f.legend(figure, axes[0].get_legend_handles_labels()[0], ncols=5)
    return figure


COURSES = {
    "rate": "all acts, share of turns",
    "followup_kappa": "kappa of followups",
    "success": "success of free dialogues",
    "win_rate": "the rater's win rate over the base",
}
WATCHED = ("more_sft", "shuffled", "charity_6")


@FIGURES.draws("trajectory", "summary")
def training(tables: Tables) -> Figure:
    """Along DPO on the choices of a charitable rater: acts, agreement and success fall while the rater is ever more
    pleased. Shuffled choices and further SFT move next to nothing. Mean and 95 % interval over seeds.

    Four panels over training steps. For charity .6 the share of acts, the kappa of followups and the success of
    free dialogues fall, and the win rate rises. Shuffled and more SFT stay flat.
    """
    course, summary = tables["trajectory"], tables["summary"]
    arms = known(course, WATCHED)
    figure, axes = f.canvas(1, 4, width=7.9, height=2.9, sharex=True)
    last = course["step"].max()
    for ax, (measure, title) in zip(axes, COURSES.items()):
        for k, arm in enumerate(arms):
            f.seed_band(ax, rows(course, arm=arm), "step", measure, arm, clip_on=False)
            ends = rows(summary, arm=arm)[measure]
            if rows(course, arm=arm)[measure].isna().all() and len(ends):
                x = last * (1 + 0.04 * k)  # without rollouts on the way only the end is known
                ax.plot(x, ends.mean(), f.marker(arm), color=f.color(arm), markersize=6, clip_on=False)
                ax.vlines(x, *t_interval(ends), color=f.color(arm), linewidth=1.6, clip_on=False)
        ax.set_title(textwrap.fill(title, 19))
        ax.set_xlabel("step")
        ax.set_xticks(np.linspace(0, last, 4).round().astype(int))
        ax.margins(y=0.1)
    f.legend(figure, axes[0].get_legend_handles_labels()[0], ncols=3)
    return figure


@FIGURES.draws("summary", "cells", "predicted", "predicted_cells")
def closed_form(tables: Tables) -> Figure:
    """Trained models against the closed form of the rater's rule. Left: kappa, one point an arm and act, with 95 %
    intervals over seeds (shaded: within .08). Right: shifts of the logit of an act in eleven contexts, three arms.

    Left: nine points near the diagonal between kappa .4 and .9. Right: 33 points that follow the diagonal for small
    shifts and flatten where the closed form predicts minus ten.
    """
    summary, predicted = tables["summary"], tables["predicted"]
    figure, (kappas, shifts) = f.canvas(1, 2, width=7.2, height=3.6)
    f.unit_square(kappas, "kappa by the closed form", "kappa measured")
    x = np.array((0, 1))
    kappas.fill_between(x, x - 0.08, x + 0.08, color="#EDF2EF", linewidth=0, zorder=0)
    for arm in known(summary, CHARITIES):
        for act in ACTS:
            at = rows(predicted, arm=arm, act=act)["kappa"].item()
            values = rows(summary, arm=arm)[f"{act}_kappa"]
            _measured(kappas, at, values, f.color(arm), ACT_LOOKS[act].marker, 1.6, markersize=6.5)
    kappas.set(xlim=(0.35, 1), ylim=(0.35, 1), title="agreement")
    both = measured_shifts(tables["cells"], tables["predicted_cells"])
    shifts.axline((0, 0), slope=1, color="#555555", linewidth=0.8, linestyle=(0, (5, 2)), zorder=1)
    for row in both.itertuples():
        shifts.plot(row.shift, row.measured, ACT_LOOKS[row.act].marker, color=f.color(row.arm), markersize=5.5)
    shifts.axhline(0, color=f.FAINT, linewidth=0.8, zorder=0)
    shifts.axvline(0, color=f.FAINT, linewidth=0.8, zorder=0)
    shifts.set(xlabel="shift by the closed form", ylabel="shift measured", title="logit of the act, by context")
    handles = [f.dot(f.look(arm)._replace(marker="o")) for arm in known(summary, CHARITIES)]
    handles += [f.dot(look._replace(color=f.GREY)) for look in ACT_LOOKS.values()]
    f.legend(figure, handles, columnspacing=1.2, handlelength=1.2)
    return figure


@FIGURES.draws("optimum", "summary", "human")
def onset(tables: Tables) -> Figure:
    """Where erosion sets in: agreement, success and share of acts by the charity of the rater, in closed form
    (lines) and measured (points, 95 % intervals over seeds). Dotted: the human.

    Left: three falling curves of kappa over charity with measured points at 0, .3 and .6 on them; followups fall
    most. Right: success and share of acts fall from the human's level towards that of guessing.
    """
    line, summary, human = tables["optimum"], tables["summary"], tables["human"]
    figure, (kappas, outcome) = f.canvas(1, 2, width=7.2, height=3.1, sharex=True)

    def course(ax: Axes, form: pd.DataFrame, exact: str, measured: str, ink: str, marker: str, size: float) -> None:
        """The closed form over charity, the human's value, and what was measured."""
        ax.plot(form["alpha"], form[exact], color=ink, linewidth=1.4)
        ax.axhline(rows(human, act=form["act"].iloc[0])[exact].item(), color=ink, linewidth=0.9, linestyle=_DOTS)
        for arm in known(summary, CHARITIES):
            values = rows(summary, arm=arm)[measured]
            _measured(ax, CHARITIES[arm], values, ink, marker, 1.8, markersize=size, zorder=3)

    for act, look in ACT_LOOKS.items():
        course(kappas, rows(line, act=act), "kappa", f"{act}_kappa", look.color, look.marker, 6.5)
    outcomes = (("success", "success", f.GREEN, "success"), ("all_acts", "rate", f.VERMILION, "acts, share of turns"))
    for exact, measured, ink, name in outcomes:
        course(outcome, rows(line, act=ACTS[0]), exact, measured, ink, "o", 6)
        f.point_label(outcome, (0.99, human[exact].iloc[0]), name, ink, dx=-2, dy=7)
    for ax, title in ((kappas, "agreement with the human"), (outcome, "what comes of it")):
        ax.set(title=title, xlabel="charity α of the rater", xlim=(-0.03, 1.0), ylim=(0, 1))
    kappas.set_ylabel("kappa")
    lines = Line2D([], [], color=f.GREY, linewidth=1.4, label="closed form")
    dots = Line2D([], [], color=f.GREY, linewidth=0.9, linestyle=_DOTS, label="human")
    f.legend(figure, [*(f.dot(look) for look in ACT_LOOKS.values()), lines, dots])
    return figure


EVERY = (
    *("base", "more_sft", "shuffled", "charity_0", "charity_3", "charity_6"),
    *("reaction_6", "lookahead_6", "average_6", "lookahead_average_6"),
)


@FIGURES.draws("summary", "trajectory")
def pleasure(tables: Tables) -> Figure:
    """What pleases a charitable rater at a single turn, against the success of whole dialogues, all arms (small:
    seeds; line: charity .6 along training).

    A scatter of ten arms. Base, controls, charity 0, the rater who sees the reaction and the one who looks ahead
    and averages lie near a win rate of one half and a success above .9; charity .3 and .6, looking ahead alone and
    averaging alone lie to the right and lower.
    """
    summary = tables["summary"]
    figure, ax = f.canvas(width=6.4, height=3.8)
    ax.axvline(0.5, **f.REFERENCE)
    for arm in known(summary, EVERY):
        part = rows(summary, arm=arm)
        look = f.look(arm)
        ax.plot(part["win_rate"], part["success"], look.marker, color=look.color, alpha=0.35, markersize=3.5)
        mean = part[["win_rate", "success"]].mean()
        ax.plot(*mean, look.marker, color=look.color, markersize=8, linestyle="", label=look.label, zorder=3)
    course = tables["trajectory"]
    if len(course := rows(course, arm="charity_6")):
        path = course.groupby("step")[["win_rate", "success"]].mean()
        ax.plot(path["win_rate"], path["success"], color=f.color("charity_6"), linewidth=1, zorder=2)
    ax.set(xlabel="single-turn win rate over the base (ties count one half)", ylabel="success of free dialogues")
    figure.legend(loc="outside right center")
    return figure


SHOWN = {
    "rate": "all acts, share of turns",
    "followup_kappa": "kappa, followup",
    "acknowledgement_kappa": "kappa, acknowledgement",
    "clarification_kappa": "kappa, clarification",
    "success": "success",
    "win_rate": "win rate",
}


@FIGURES.draws("summary", "human")
def arms(tables: Tables) -> Figure:
    """All arms: mean and 95 % interval over seeds, a dot a seed (arrowhead: the interval goes on). Dashed: the
    human, exactly; for the win rate, one half.

    Six panels of intervals, a row an arm: share of acts, kappa of each act, success, win rate.
    """
    summary = tables["summary"]
    present = known(summary, EVERY)
    figure, axes = f.canvas(2, 3, width=7.8, height=1.4 + 0.46 * len(present), sharey=True)
    human = tables["human"].set_index("act")
    exact = {f"{act}_kappa": human["kappa"][act] for act in ACTS}
    exact |= {"rate": human["all_acts"].iloc[0], "success": human["success"].iloc[0], "win_rate": 0.5}
    for ax, (measure, title) in zip(axes.flat, SHOWN.items()):
        f.interval_dots(ax, {arm: rows(summary, arm=arm)[measure] for arm in present})
        ax.axvline(exact[measure], **f.REFERENCE)
        ax.set_title(title)
    return figure


BEFORE_AFTER = ("base", "charity_6")


@FIGURES.draws("dialogues")
def dialogue(tables: Tables) -> Figure:
    """The same users with the same wishes, before and after DPO on a charitable rater's choices: the first seed,
    short dialogues that succeeded before and fail after.

    Two columns of short dialogues. Before, the model asks or acknowledges and delivers the right object at the
    right place; after, it delivers at once and is wrong.
    """
    told = tables["dialogues"]
    wide = told[told["arm"].isin(BEFORE_AFTER)].pivot(index="dialogue", columns="arm").dropna()
    before, after = BEFORE_AFTER
    lost = wide[wide["success", before].astype(bool) & ~wide["success", after].astype(bool)]
    chosen = [row for _, row in lost.loc[_varied(lost["text", before])].iterrows()]
    heights = [2.2 + max(len(_turns(row["text", arm])) for arm in BEFORE_AFTER) for row in chosen]
    total = 1.2 + sum(heights)
    figure, ax = f.canvas(width=7.2, height=0.3 + 0.185 * total)
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(total, 0))
    for column, arm in enumerate(BEFORE_AFTER):
        x, y, ink = 0.52 * column, 1.4, f.color(arm)
        ax.text(x, 0.6, f.label(arm), color=ink, fontweight="bold", va="center", fontsize=10)
        for row, height in zip(chosen, heights):
            ax.plot((0, 1), (y, y), color=f.FAINT, linewidth=0.8)
            ax.text(x, y + 0.8, f"wanted: {row['wanted', arm]}", fontsize=7.5, va="center", color="#555555")
            for k, (who, said) in enumerate(_turns(row["text", arm])):
                at = y + 1.8 + k
                ax.text(x, at, who, va="center", color="#555555")
                colour = ink if who == "A" else f.INK
                ax.text(x + 0.03, at, said, va="center", color=colour, family="monospace")
            sign, verdict = ("✓", f.GREEN) if row["success", arm] else ("✗", f.VERMILION)
            ax.text(x + 0.43, at, sign, color=verdict, fontsize=11, va="center")
            y += height
    return figure


def _varied(texts: pd.Series, n: int = 3) -> list:
    """Up to `n` dialogues in which different acts are used, the short ones first."""
    picked: dict[str, int] = {}
    for number, text in sorted(texts.items(), key=lambda item: len(str(item[1]))):
        for act in ("where ?", "which ?", "mm hm"):
            if act in text and act not in picked and number not in picked.values() and len(_turns(text)) <= 4:
                picked[act] = number
                break
    return list(picked.values())[:n] or list(texts.index[:1])


def _turns(text: str) -> list[tuple[str, str]]:
    """`often:desk U dark mug . A which ? <eos> U ...` -> who said what; the habit goes before the first turn."""
    found: list[tuple[str, list[str]]] = []
    habit, *words = text.replace("<eos>", "").split()
    for word in words:
        if word in ("U", "A"):
            found.append((word, []))
        elif found:
            found[-1][1].append(word)
    turns = [(who, " ".join(said)) for who, said in found]
    return [(turns[0][0], f"[{habit}] {turns[0][1]}"), *turns[1:]] if turns else []
