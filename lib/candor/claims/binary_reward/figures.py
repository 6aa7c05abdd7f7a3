"""The figures of claim 1. Each reads the claim's tables and nothing else."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from candor.claims.binary_reward.tables import ARMS, CONF_FIRST, VARIANTS
from candor.claims.shared import known, others, rows
from candor.declare import figures as f
from candor.declare.figures import Figures
from candor.declare.ledger import Tables
from candor.witnesses.figures import DASHED, by_kind, dots

FIGURES = Figures()

T_OF = {"abstain_00": 0.0, "abstain_50": 0.5, "abstain_75": 0.75, "abstain_90": 0.9}


@FIGURES.draws("payoff")
def payoff(tables: Tables) -> Figure:
    """Expected reward of answering, by the probability of being right. Abstaining is worth 0; each marker is the
    point from which answering pays.

    Four rising lines over the probability of being right. The binary line starts at zero and is never below the
    horizontal line of abstaining; the lines with a penalty start below it and cross it at .5, .75 and .9.
    """
    figure, ax = f.canvas(width=5.2, height=3.1)
    ax.axhline(0, color=f.INK, linewidth=1)
    f.point_label(ax, (0.1, 0), "abstain", dx=1, dy=-7)
    for arm, t in T_OF.items():
        part = rows(tables["payoff"], t=t)
        ax.plot(part["p"], part["answer_reward"], **f.line(arm, marker=""))
        ax.plot(t, 0, f.marker(arm), color=f.color(arm), markersize=7, clip_on=False, zorder=3)
    ax.set(xlim=(0, 1), ylim=(-2, 1.02), xlabel="p, probability of being right", ylabel="expected reward")
    figure.legend(loc="outside right center", title="a wrong answer\ncosts t/(1-t)", alignment="left")
    return figure


@FIGURES.draws("sharpening")
def sharpening(tables: Tables) -> Figure:
    """What the binary reward pays for: answers drawn ever more sharply than the exact posterior. Reward rises,
    accuracy of the best answer stays, and the probability of that answer leaves it behind.

    Lines over sharpness k. Expected reward rises to meet the flat line of accuracy; the probability of the best
    answer rises to one, and its calibration error grows from near zero to the error rate.
    """
    figure, ax = f.canvas(width=6.4, height=3.4)
    table = tables["sharpening"]
    x = np.arange(len(table))
    for column, label, linestyle, color, marker in (
        ("expected_reward", "expected reward = accuracy of a drawn answer", "-", f.INK, "s"),
        ("accuracy", "accuracy of the best answer", DASHED, f.GREEN, "o"),
        ("answer_prob", "probability of the best answer", "-", f.VERMILION, "^"),
        ("ece", "its calibration error", (0, (1, 1.5)), f.VERMILION, "v"),
    ):
        ax.plot(x, table[column], linestyle=linestyle, color=color, marker=marker, label=label)
    ax.set_xticks(x, ["∞" if np.isinf(k) else f"{k:g}" for k in table["sharpness"]])
    ax.set(ylim=(0, 1.03), xlabel="k, where answers are drawn with probability ∝ posterior$^k$")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@FIGURES.draws("confidence_gradient")
def gradient(tables: Tables) -> Figure:
    """Expected policy gradient of the binary reward on each confidence token of one question, by enumeration of
    every document and every truth.

    Two panels of eleven bars. Answer first: all bars are zero. Confidence first: bars are negative for low
    confidences and positive for high ones.
    """
    figure, axes = f.canvas(1, 2, width=7, height=2.7, sharey=True)
    for ax, order, arm in zip(axes, ("answer first", "confidence first"), ("rlvr", "rlvr_conf_first")):
        part = rows(tables["confidence_gradient"], order=order)
        ax.bar(part["confidence"], part["gradient"], width=0.075, color=f.color(arm))
        largest = part["largest"].iloc[0]
        ax.text(0.03, 0.94, f"largest: {largest:{'.0e' if largest < 1e-6 else '.3f'}}", transform=ax.transAxes)
        ax.axhline(0, color=f.INK, linewidth=0.8)
        ax.set(title=order, xlabel="confidence token")
        ax.set_xticks(np.arange(0, 1.01, 0.2))
    axes[0].set_ylabel("expected policy gradient")
    return figure


@FIGURES.draws("released")
def released(tables: Tables) -> Figure:
    """The released metrics, a marker a model family and data set (filled: in domain; larger: more questions).
    Distance from the diagonal is the gap between mean stated confidence and accuracy.

    Three panels of accuracy against mean stated confidence. Base: markers near the right edge, mostly below the
    diagonal. RLVR: all markers at the right edge. RLCR: markers in a narrow band left of it, on both sides of the
    diagonal.
    """
    figure, axes = f.canvas(1, 3, width=7, height=2.75, sharey=True)
    for ax, arm in zip(axes, ("base", "rlvr", "rlcr")):
        part, shown = rows(tables["released"], arm=arm), f.look(arm)
        x, y = part["mean_confidence"], part["accuracy"]
        ax.vlines(x, np.minimum(x, y), np.maximum(x, y), color=shown.color, alpha=0.35, linewidth=0.9)
        for domain, face in (("out", f.PAPER), ("in", shown.color)):
            there, over = part["domain"] == domain, {"zorder": 3, "clip_on": False}
            colors = {"facecolor": face, "edgecolor": shown.color}
            ax.scatter(x[there], y[there], s=14 + part["n"][there] / 60, marker=shown.marker, **colors, **over)
        f.unit_square(ax, "mean stated confidence")
        ax.set_title(f.label(arm))
    axes[0].set_ylabel("accuracy")
    return figure


@FIGURES.draws("cells")
def gap_arrows(tables: Tables) -> Figure:
    """From base (circle) to RLVR (head of the arrow) on every data set. Solid: trained on HotpotQA; dashed: on
    Big-Math. A move to the right closes the gap to the diagonal, a move up widens it.

    Two panels of mean stated confidence against accuracy, with arrows from base to RLVR. In domain the arrows point
    mainly to the right; out of domain mainly upwards.
    """
    figure, axes = f.canvas(1, 2, width=7.2, height=3.7, sharey=True)
    cells = tables["cells"]
    for ax, domain, title in zip(axes, ("in", "out"), ("in domain", "out of domain")):
        part = rows(cells, domain=domain)
        for row in part.itertuples():
            shape = {} if row.family == "HotpotQA" else {"linestyle": (0, (3, 1.5))}
            start, end = (row.base_accuracy, row.base_confidence), (row.rlvr_accuracy, row.rlvr_confidence)
            f.arrow(ax, start, end, "rlvr", **shape)
        for dataset, row in part.groupby("dataset").first().iterrows():
            crowded = domain == "in" and dataset in ("HotpotQA", "Big-Math-Digits", "MATH-500")
            beside = {"dx": -7} if crowded else {"dx": 0, "dy": -10}
            text = f.point_label(ax, (row["base_accuracy"], row["base_confidence"]), dataset, **beside)
            text.set_path_effects([withStroke(linewidth=2.5, foreground=f.PAPER)])
        ax.axline((0, 0), slope=1, color="#555555", linewidth=0.8, linestyle=DASHED)
        ax.set(title=title, xlabel="accuracy", xlim=(0, 1), ylim=(0.86, 1.008))
    axes[0].set_ylabel("mean stated confidence")
    return figure


COLUMNS = (
    *(("expert", "base"), ("expert", "rlvr"), ("expert", "shuffled_correct")),
    ("expert_conf_first", "rlvr_conf_first"),
)
KINDS = {"answer_prob": "answer probability", "q_mean": "stated confidence"}


@FIGURES.draws("density")
def density(tables: Tables) -> Figure:
    """How often each value is given at each exact posterior of the answer; the line is the mean. A calibrated model
    lies on the diagonal. All seeds together.

    Panels of heat maps, a column an arm; top row answer probability, bottom row stated confidence, both against the
    exact posterior, with the line of means beside the diagonal.
    """
    return by_kind(tables["density"], COLUMNS, KINDS, f.density_panel, below="exact posterior")


@FIGURES.draws("reliability")
def reliability(tables: Tables) -> Figure:
    """Reliability of the answer probability (top) and of the stated confidence (bottom). Grey: where a perfectly
    calibrated forecaster would lie; bars: how the questions spread over the bins.

    Panels of share correct against confidence in ten bins, a column an arm, with the diagonal and the band of a
    calibrated forecaster.
    """
    return by_kind(tables["reliability"], COLUMNS, KINDS, f.reliability_panel, beside="share correct")


MEASURES = {
    "answer_ece": "calibration error of the answer probability",
    "q_mean_abs_posterior": "|stated confidence - exact posterior|",
    "q_mean_gap": "mean stated confidence - accuracy",
    "accuracy_greedy": "accuracy of the greedy answer",
}
EXPERT = ("base", "rlvr", "shuffled_correct", "rlvr_answer_only", "rlvr_no_format", "rlvr_oracle", "rlvr_kl")


@FIGURES.draws("summary")
def seeds(tables: Tables) -> Figure:
    """Expert crowd, answer first: mean and 95 % interval over seeds, a dot a seed. Dashed line: accuracy of the
    exact posterior on the same questions.

    Four panels of intervals, a row an arm: calibration error of the answer probability, distance of stated
    confidence from the posterior, gap of confidence and accuracy, greedy accuracy.
    """
    summary = rows(tables["summary"], setting="expert")
    arms = [*known(summary, EXPERT), *others(summary, ARMS, VARIANTS)]
    figure, axes = f.canvas(2, 2, width=7.2, height=1.6 + 0.5 * len(arms), sharey=True)
    dots(axes.flat, summary, arms, MEASURES)
    axes[1, 0].axvline(0, color=f.INK, linewidth=0.8)
    if "bayes_accuracy" in summary:
        axes[1, 1].axvline(summary["bayes_accuracy"].mean(), color=f.INK, linewidth=0.8, linestyle=DASHED)
    return figure


@FIGURES.draws("summary", "tabular")
def confidence_first(tables: Tables) -> Figure:
    """Confidence written before the answer: documents drawn whole, mean and 95 % interval over seeds. Hollow
    diamonds: exact policy gradient without a network.

    Three panels of intervals for the base and the arms trained with confidence first: stated confidence, accuracy,
    and the gap between the two.
    """
    summary = rows(tables["summary"], setting="expert_conf_first")
    start, end = rows(tables["tabular"], reward="binary").set_index("step").iloc[[0, -1]].to_dict("records")
    figure, axes = f.canvas(1, 3, width=7.2, height=2.1, sharey=True)
    panels = {
        "sampled_confidence": "mean stated confidence",
        "accuracy_sampled": "accuracy",
        "sampled_gap": "confidence - accuracy",
    }
    ideals = zip(panels, ("stated_mean", "accuracy_sampled", "gap"))
    references = {measure: {"base": start[ideal], "rlvr_conf_first": end[ideal]} for measure, ideal in ideals}
    dots(axes, summary, known(summary, ("base", *CONF_FIRST)), panels, references)
    return figure


FOLLOWED = {
    "accuracy_sampled": "accuracy of a drawn answer",
    "answer_prob_mean": "probability of the greedy answer",
    "q_mean_abs_posterior": "|stated confidence - exact posterior|",
    "sampled_gap": "drawn documents: confidence - accuracy",
}


@FIGURES.draws("trajectory")
def trajectories(tables: Tables) -> Figure:
    """Along training: mean over seeds and 95 % interval. The shuffled arms get the same rewards, dealt out at
    random within each group.

    Four panels of lines over training steps, a line an arm with a band over seeds: accuracy of a drawn answer,
    answer probability, distance of stated confidence from the posterior, gap of drawn documents.
    """
    figure, axes = f.canvas(2, 2, width=7.2, height=4.4, sharex=True)
    for ax, (measure, title) in zip(axes.flat, FOLLOWED.items()):
        for arm, part in tables["trajectory"].groupby("arm", sort=False):
            f.seed_band(ax, part, "step", measure, arm)
        ax.set_title(title)
    return _over_steps(figure, axes, ncols=4)


def _over_steps(figure: Figure, axes: np.ndarray, ncols: int) -> Figure:
    for ax in axes[1]:
        ax.set_xlabel("training step")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=ncols)
    return figure


LOGGED = {
    "reward": "training reward",
    "frac_reward_zero_std": "share of groups without a signal",
    "entropy": "entropy (nats a token)",
    "clipped_ratio": "share of completions cut off",
}
TRAINED = (*COLUMNS[1:], ("expert_conf_first", "shuffled_conf_first"), ("expert", "rlvr_no_format"))


@FIGURES.draws("training")
def training(tables: Tables) -> Figure:
    """What the trainer logs, mean over seeds. A group whose completions all earn the same gives no signal.

    Four panels of lines over training steps: reward, share of groups without a signal, entropy, share of
    completions cut off at the length limit.
    """
    table = tables["training"]
    figure, axes = f.canvas(2, 2, width=7.2, height=4.4, sharex=True)
    for ax, measure in zip(axes.flat, [measure for measure in LOGGED if measure in table]):
        for setting, arm in TRAINED:
            part = rows(table, setting=setting, arm=arm)
            if len(part):
                ax.plot(part["step"], part[measure], **f.line(arm, markevery=max(1, len(part) // 5), markersize=4))
        ax.set_title(LOGGED[measure])
    return _over_steps(figure, axes, ncols=3)


@FIGURES.draws("summary", "posterior_bins", "frontier")
def abstention(tables: Tables) -> Figure:
    """Left: accuracy when answering against coverage, a marker a seed; the dashed line is the best possible. Right:
    share of IDK by exact posterior, with the thresholds t dotted.

    Left: markers of the base and of four rewards beside the line of the Bayes forecaster. Right: lines of the share
    of IDK against the posterior of the best answer, a line a reward.
    """
    figure, (left, right) = f.canvas(1, 2, width=7.2, height=3.2)
    frontier = tables["frontier"]
    left.plot(frontier["coverage"], frontier["selective_accuracy"], **f.line("ideal", marker=""))
    summary, bins = (rows(tables[name], setting="abstaining") for name in ("summary", "posterior_bins"))
    for arm in ("base", *T_OF):
        mine, shown = rows(summary, arm=arm), f.look(arm)
        about = {"color": shown.color, "alpha": 0.8, "label": shown.label}
        left.plot(1 - mine["idk_rate"], mine["selective_accuracy"], shown.marker, **about)
        part = rows(bins, arm=arm).sort_values("bin_low")
        right.plot((part["bin_low"] + part["bin_high"]) / 2, part["idk_rate"], **f.line(arm))
        if T_OF.get(arm):
            right.axvline(T_OF[arm], color=shown.color, linewidth=0.8, linestyle=(0, (1, 1.5)))
    left.set(xlabel="share of questions answered", ylabel="accuracy when answering", title="risk and coverage")
    right.set(xlabel="exact posterior of the best answer", ylabel="share of IDK", title="who abstains when")
    right.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure
