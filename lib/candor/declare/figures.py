"""One style for every figure: looks of the arms, panels that claims share, saving with provenance.

A claim's `figures.py` declares `Plot`s; each draws from the claim's tables and nothing else. Colours follow
Okabe and Ito, safe for colour-blind readers; markers and line styles differ too, so that figures survive
printing in grey. The same arm looks the same everywhere.
"""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from numpy.typing import ArrayLike

from candor.measure.intervals import t_interval

ROOT = Path(__file__).parents[3]

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#AA4A86", "#767676"
PAPER, INK, FAINT = "#FFFFFF", "#222222", "#D9D9D9"
HALO: list[Any] = [withStroke(linewidth=2.6, foreground=PAPER)]  # of a text that crosses lines
# A line that others are held against.
REFERENCE: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (5, 2)), "zorder": 1}

_TICKS = {"color": "#555555", "labelcolor": INK, "major.width": 0.7, "major.size": 3}
_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs, hence the same bytes, everywhere
    "font.size": 8.5,
    "text.color": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    **{f"{axis}tick.{part}": look for axis in "xy" for part, look in _TICKS.items()},
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.dpi": 110,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "savefig.dpi": 160,
    "svg.fonttype": "path",  # text as shapes: no missing font can break a label; <desc> speaks
    "svg.hashsalt": "candor",
    "path.simplify_threshold": 0.5,
}


def style() -> AbstractContextManager[None]:
    """Context in which matplotlib draws in the house style.

    >>> with style():
    ...     print(mpl.rcParams["axes.spines.top"])
    False
    """
    return mpl.rc_context(_RC)


def legend(figure: Figure, handles: list, **kwargs: Any) -> None:
    """One legend below all panels, in one row unless `ncols` says otherwise."""
    figure.legend(handles=handles, loc="outside lower center", **{"ncols": len(handles)} | kwargs)


def canvas(rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 3.0, **kwargs: Any):
    """Figure and axes as `plt.subplots` gives them (sizes in inches, `kwargs` passed on), laid out tightly.

    The figure is not registered with pyplot: a notebook shows it once, when a cell returns it, and a graph
    that draws hundreds holds none of them in memory.
    """
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **kwargs)
    plt.close(figure)
    return figure, axes


# --- The looks of the arms ------------------------------------------------------------------------


class Look(NamedTuple):
    """How an arm is drawn."""

    label: str
    color: str
    marker: str
    linestyle: Any = "-"


_DASHED, _DOTTED, _DASHDOT, _SHORT = (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (2.5, 1.5))

LOOKS: dict[str, Look] = {
    "base": Look("base", GREY, "o"),
    "rlvr": Look("RLVR", VERMILION, "s"),
    "rlvr_answer_only": Look("RLVR, answer only", VERMILION, "P", _DASHED),
    "rlvr_no_format": Look("RLVR, no format term", VERMILION, "X", _DOTTED),
    "rlvr_kl": Look("RLVR + KL", VERMILION, "p", _DASHDOT),
    "rlvr_oracle": Look("RLVR, exact reward", ORANGE, "*", _SHORT),
    "rlvr_short": Look("RLVR, short", VERMILION, "h", _SHORT),
    "rlvr_conf_first": Look("RLVR, confidence first", VERMILION, ">", _DASHED),
    "rlcr": Look("RLCR", BLUE, "^"),
    "rlcr_group_std": Look("RLCR, group s.d.", BLUE, "<", _DASHED),
    "rlcr_batch_std": Look("RLCR, batch s.d.", BLUE, ">", _DOTTED),
    "rlcr_rolled_outcomes": Look("RLCR, rolled outcomes", PURPLE, "d", _DASHDOT),
    "rlcr_short": Look("RLCR, short", BLUE, "h", _SHORT),
    "rlcr_conf_first": Look("RLCR, confidence first", BLUE, ">", _DASHED),
    "sft_rlcr": Look("SFT + RLCR", SKY, "^", _DASHED),
    "linear": Look("linear term", ORANGE, "D", _DASHED),
    "shuffled": Look("shuffled", PURPLE, "x", _DOTTED),
    "shuffled_correct": Look("shuffled correctness", PURPLE, "x", _DOTTED),
    "shuffled_reward": Look("shuffled reward", PURPLE, "+", _DASHDOT),
    "shuffled_conf_first": Look("shuffled, confidence first", PURPLE, "x", _DASHED),
    "ideal": Look("Bayes", BLACK, "*", _DASHED),
    "classifier": Look("classifier", GREEN, "v", _DASHDOT),
    "answer_probability": Look("answer probability", SKY, "p", _SHORT),
    "constant": Look("constant", ORANGE, "|", _DOTTED),
    "abstain_00": Look("binary (t = 0)", VERMILION, "s"),
    "abstain_50": Look("t = .5", ORANGE, "D", _DASHED),
    "abstain_75": Look("t = .75", GREEN, "v", _DASHDOT),
    "abstain_90": Look("t = .9", BLUE, "^", _SHORT),
    "swap_brier2": Look("2 x Brier", ORANGE, "D", _DASHED),
    "swap_log1": Look("log", GREEN, "v", _DASHDOT),
    "swap_log_k": Look("log, small weight", SKY, "p", _SHORT),
    "swap_brier_only": Look("Brier only", PURPLE, "d", _DOTTED),
    "swap_log_only": Look("log only", BLACK, "X", _DOTTED),
    "human": Look("human", BLACK, "H", _DASHED),
    "more_sft": Look("more SFT", GREY, "v", _DASHDOT),
    "charity_6": Look("charity .6", VERMILION, "s"),
    "charity_3": Look("charity .3", ORANGE, "D", _DASHED),
    "charity_0": Look("charity 0", BLUE, "^"),
    "reaction_6": Look("sees the reaction", GREEN, "p", _DASHDOT),
    "lookahead_6": Look("looks ahead", VERMILION, ">", _DASHED),
    "average_6": Look("averages", VERMILION, "P", _DOTTED),
    "lookahead_average_6": Look("looks ahead, averages", SKY, "h", _SHORT),
    "r_train": Look("two easy tests", VERMILION, "s"),
    "r_star": Look("all tests", BLUE, "^"),
    "learned_rm": Look("learned reward model", ORANGE, "D", _DASHED),
    "r_train_kl000": Look("two easy tests, no KL", VERMILION, ">", _DASHED),
    "r_train_kl020": Look("two easy tests, KL .2", VERMILION, "P", _DOTTED),
    "r_hard": Look("two hard tests", GREEN, "v", _DASHDOT),
    "best_of_4": Look("best of 4, easy tests", SKY, "p", _SHORT),
    "best_of_16": Look("best of 16, easy tests", SKY, "h", _DASHED),
    "best_of_4_r_star": Look("best of 4, all tests", BLUE, "<", _DASHED),
    "best_of_16_r_star": Look("best of 16, all tests", BLUE, ">", _DOTTED),
    "naive": Look("naive", VERMILION, "s"),
    "naive_4x": Look("naive, 4 x pairs", VERMILION, "P", _DASHED),
    "rdpo": Look("corrected for flips (rDPO)", ORANGE, "D", _DASHED),
    "retest": Look("retest", VERMILION, "v", _DOTTED),
    "dropn": Look("without N", ORANGE, "X", _DASHDOT),
    "dropnc": Look("without N and C", SKY, "p", _DASHDOT),
    "weight": Look("weighted", BLUE, "^"),
    "frbal": Look("both frames", GREEN, "o", _DASHED),
    "frrand": Look("random frame", GREEN, "d", _DOTTED),
    "frrand_4x": Look("random frame, 4 x pairs", GREEN, "P", _DASHDOT),
    "dawid_skene": Look("Dawid-Skene", PURPLE, "h", _SHORT),
    "oracle": Look("true genuine cells", BLACK, "*", _DASHED),
    "filter_retest_20": Look("filter by retest, 20 %", SKY, "<", _DASHED),
    "filter_retest_50": Look("filter by retest, 50 %", SKY, "<"),
    "filter_frame_20": Look("filter by frame, 20 %", GREEN, ">", _DASHED),
    "filter_frame_50": Look("filter by frame, 50 %", GREEN, ">"),
    "filter_random_20": Look("filter at random, 20 %", GREY, "x", _DASHED),
    "filter_random_50": Look("filter at random, 50 %", GREY, "x"),
    "fluency": Look("fluency", ORANGE, "s"),
    "assured": Look("assured", PURPLE, "v"),
    "binary": Look("binary", VERMILION, "D"),
    "sharpened": Look("sharpened", SKY, "P"),
    "rlsf_fluency": Look("fluency + RLSF-RLOO", BLUE, "^"),
    "rlsf_assured": Look("assured + RLSF-RLOO", BLUE, "<", _DASHED),
    "rlsf_binary": Look("binary + RLSF-RLOO", BLUE, ">", _DASHDOT),
    "rlsf_base": Look("base + RLSF-RLOO", BLUE, "o", _SHORT),
    "rlsf_sharpened": Look("sharpened + RLSF-RLOO", BLUE, "h", _DOTTED),
    "fluency_shuffled": Look("fluency + shuffled", PURPLE, "x", _DOTTED),
    "fluency_shuffled_2": Look("fluency + shuffled, again", PURPLE, "+", _DASHDOT),
    "fluency_dpo": Look("fluency + DPO", GREEN, "D", _DASHED),
    "fluency_sft_1": Look("fluency + SFT, early", ORANGE, "1", _DASHED),
    "fluency_sft_2": Look("fluency + SFT, middle", ORANGE, "2", _DASHDOT),
    "fluency_sft_3": Look("fluency + SFT, best traces", ORANGE, "3", _DOTTED),
    "fluency_gold": Look("fluency + gold ranking", BLACK, "*", _DASHED),
    "fluency_rlsf_long": Look("fluency + RLSF-RLOO, 120 steps", BLUE, "p", _SHORT),
    "online": Look("online confidence reward", VERMILION, "X", _DASHED),
}

_ABSTAINING = [name for name in LOOKS if name.startswith("abstain")]
LOOKS |= {f"{name}_long": LOOKS[name]._replace(label=f"{LOOKS[name].label}, 800 steps") for name in _ABSTAINING}

# What a name is called elsewhere (papers' arms, worlds' references), then what it begins with.
_ALIASES = {"bayes": "ideal", "posterior": "ideal", "null": "shuffled", "swap_rlvr": "rlvr", "swap_rlcr": "rlcr"}
_BEGINNINGS = ("base", "rlvr", "rlcr", "shuffled", "sft_rlcr", "ideal", "constant", "null")


def look(arm: str) -> Look:
    """Label, colour, marker and line style of an arm; a variant without its own look has its family's.

    >>> look("rlcr").color == look("eval_rlcr").color
    True
    >>> look("rlvr+bce_classifier").label
    'classifier'
    """
    name = arm.lower().removeprefix("eval_").replace("+", "_").replace("-", "_").replace(" ", "_")
    name = _ALIASES.get(name, name)
    if name in LOOKS:
        return LOOKS[name]
    text = arm.replace("_", " ")
    if name.endswith("classifier"):
        return LOOKS["classifier"]
    for family in _BEGINNINGS:
        if name.startswith(family):
            return LOOKS[_ALIASES.get(family, family)]._replace(label=text)
    return Look(text, GREY, ".", _DOTTED)


def color(arm: str) -> str:
    return look(arm).color


def marker(arm: str) -> str:
    return look(arm).marker


def label(arm: str) -> str:
    return look(arm).label


def line(arm: str, **kwargs: Any) -> dict[str, Any]:
    """Keyword arguments with which `ax.plot` draws the line of an arm; `kwargs` override them."""
    return {**look(arm)._asdict(), "markeredgewidth": 1, **kwargs}


VERDICTS: dict[str, tuple[str, str, str]] = {  # fill, ink, sign: dark means decided, and the sign says how
    "replicated": ("#00664B", PAPER, "✓"),
    "partly": ("#9CD3C1", INK, "◐"),
    "inconclusive": ("#F3E3B3", INK, "?"),
    "not replicated": ("#A63F00", PAPER, "✗"),
    "not attempted": ("#F2F2F2", "#666666", "–"),
    "reported": ("#DCE9F2", INK, "•"),
    "recomputed": ("#DCE9F2", INK, "="),
}


# --- Panels that the claims share -----------------------------------------------------------------


def unit_square(ax: Axes, xlabel: str = "", ylabel: str = "", *, diagonal: bool = True) -> Axes:
    """Both axes from 0 to 1, equally long, with the diagonal."""
    ticks = (0, 0.25, 0.5, 0.75, 1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(ticks, [f"{t:g}".removeprefix("0") or "0" for t in ticks])
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=xlabel, ylabel=ylabel)
    if diagonal:
        ax.axline((0, 0), slope=1, color="#555555", linewidth=0.8, linestyle=_DASHED, zorder=1)
    return ax


def reliability_panel(
    ax: Axes, table: pd.DataFrame, arm: str = "base", *, xlabel: str = "confidence", ylabel: str = "share correct"
) -> Axes:
    """Reliability diagram: accuracy against mean confidence, one point a bin.

    Parameters
    ----------
    table : columns bin_low, bin_high, n, mean_confidence, accuracy (`calibration.reliability_table`); with
        floor_low, floor_high (`calibration.floor_band`) the accuracies that a perfectly calibrated forecaster
        would show are shaded. Several rows a bin (one a seed) are pooled; the seeds remain as faint points. Bars at
        the foot show how the answers spread over the bins.
    """
    unit_square(ax, xlabel, ylabel)
    table = table[table.n > 0]
    if table.empty:
        return ax
    pooled = _pooled_bins(table)
    shown = look(arm)
    width = pooled.bin_high - pooled.bin_low
    if {"floor_low", "floor_high"} <= set(table):
        height = pooled.floor_high - pooled.floor_low
        ax.bar(pooled.bin_low, height, width, pooled.floor_low, align="edge", color=FAINT, zorder=0)
    share = pooled.n / pooled.n.sum()
    ax.bar(pooled.bin_low, 0.16 * share / share.max(), width * 0.92, align="edge", color=shown.color, alpha=0.4)
    x, y = pooled.mean_confidence, pooled.accuracy
    ax.vlines(x, np.minimum(x, y), np.maximum(x, y), color=shown.color, linewidth=0.9, alpha=0.7)
    if len(table) > len(pooled):
        ax.plot(table.mean_confidence, table.accuracy, ".", color=shown.color, alpha=0.3, markersize=3)
    ax.plot(x, y, **line(arm, markeredgecolor=PAPER, markersize=6.5, linewidth=1.1, clip_on=False))
    return ax


def density_panel(
    ax: Axes, table: pd.DataFrame, arm: str = "base", *, xlabel: str = "exact posterior", ylabel: str = "confidence"
) -> QuadMesh:
    """How often each confidence is given at each exact posterior, and its mean (the line).

    Parameters
    ----------
    table : columns posterior_bin, value_bin (left edges of 20 equal bins), n; seeds are added up.

    Returns
    -------
    The mesh, in shares of all questions (shown as their square roots), for `figure.colorbar`.
    """
    edges, half = np.arange(21) / 20, 0.5 / 20
    # From the left edges to the middles, where no rounding moves a count to its neighbour.
    grid, _, _ = np.histogram2d(table.value_bin + half, table.posterior_bin + half, (edges, edges), weights=table.n)
    middle = edges[:-1] + half
    shades = LinearSegmentedColormap.from_list(arm, [PAPER, color(arm), BLACK])
    share = np.ma.masked_equal(grid / max(grid.sum(), 1), 0)
    # The darkest fifth stays free for the line of means.
    mesh = ax.pcolormesh(
        edges, edges, share, cmap=shades, norm=PowerNorm(0.5, vmin=0, vmax=share.max() * 1.6), rasterized=True
    )
    total = grid.sum(axis=0)
    enough = total >= max(0.002 * grid.sum(), 1)
    mean = (grid * middle[:, None]).sum(axis=0)[enough] / total[enough]
    for width, ink in ((3.2, PAPER), (1.5, BLACK)):
        ax.plot(middle[enough], mean, color=ink, linewidth=width)
    unit_square(ax, xlabel, ylabel)
    return mesh


def interval_dots(
    ax: Axes, groups: Mapping[str, ArrayLike], *, references: Mapping[str, float] | None = None, xlabel: str = ""
) -> Axes:
    """A row an arm, from top to bottom: mean and 95 % t interval over seeds; each seed as a small dot.

    An interval that reaches far beyond all seeds of all arms is cut there, with an arrowhead.

    Parameters
    ----------
    groups : arm -> one value a seed; NaN seeds are left out, an arm without any keeps an empty row.
    references : arm -> a value to hold it against, such as the paper's, as a hollow diamond.
    """
    groups = {arm: np.asarray(values, dtype=float) for arm, values in groups.items()}
    groups = {arm: values[np.isfinite(values)] for arm, values in groups.items()}
    seen = np.concatenate([*groups.values(), [r for r in (references or {}).values() if np.isfinite(r)]])
    # Three scattered seeds have an interval that would press all other arms into a corner.
    reach = 0.25 * np.ptp(seen) if seen.size else 0
    for row, (arm, values) in enumerate(groups.items()):
        shown = look(arm)
        if values.size > 1:
            # All seeds sit a little below the mean, so that a narrow interval does not hide them.
            ax.plot(values, np.full(values.size, row + 0.22), "o", color=shown.color, alpha=0.55, markersize=2.8)
            ends = np.array(t_interval(values))
            cut = np.clip(ends, seen.min() - reach, seen.max() + reach)
            ax.hlines(row, *cut, color=shown.color, linewidth=1.8)
            for end, sign in zip(cut[cut != ends], np.array(["<", ">"])[cut != ends]):
                ax.plot(end, row, sign, color=shown.color, markersize=5)
        if values.size:
            ax.plot(values.mean(), row, shown.marker, color=shown.color, markersize=6.5, markeredgewidth=1.4)
        if references and np.isfinite(references.get(arm, np.nan)):
            ax.plot(references[arm], row, "D", markerfacecolor="none", markeredgecolor=INK, markersize=7.5)
    ax.set_yticks(range(len(groups)), [label(arm) for arm in groups])
    ax.set(ylim=(len(groups) - 0.4, -0.6), xlabel=xlabel)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#EEEEEE", linewidth=0.8)
    ax.spines["left"].set_visible(False)
    return ax


def seed_band(ax: Axes, table: pd.DataFrame, x: str, y: str, arm: str, **kwargs: Any) -> Axes:
    """Mean over seeds of column `y` along column `x`, with its 95 % t interval shaded.

    `table` has a row a seed and x; some six markers along the line tell arms apart in grey.
    """
    if (table := table.dropna(subset=[y])).empty:
        return ax
    values = table.groupby(x)[y]
    mean = values.mean()
    low, high = np.transpose([t_interval(group) for _, group in values])
    every = max(1, len(mean) // 6)
    ax.fill_between(mean.index, low, high, color=color(arm), alpha=0.16, linewidth=0)
    ax.plot(mean.index, mean, **line(arm, markevery=every, markersize=4, **kwargs))
    return ax


def arrow(
    ax: Axes, start: Sequence[float], end: Sequence[float], arm: str = "rlvr", text: str = "", **kwargs: Any
) -> None:
    """Arrow in data coordinates from what was to what became, in the colour of the arm that did it."""
    shown = look(arm)
    shape = {"arrowstyle": "-|>,head_length=.45,head_width=.22", "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    stroke = {"color": shown.color, "linestyle": shown.linestyle}
    ax.annotate("", end, start, arrowprops=shape | stroke | kwargs)
    # An annotation does not widen the limits of the axes, a point does.
    ax.plot(*start, "o", color=PAPER, markeredgecolor=shown.color, markersize=4)
    ax.plot(*end, ",", color=shown.color)
    if text:
        right = end[0] >= start[0]
        point_label(ax, end, text, shown.color, dx=5 if right else -5)


def point_label(
    ax: Axes, point: Sequence[float], text: str, ink: str = INK, *, dx: float = 5, dy: float = 0
) -> Annotation:
    """Text beside a point, `dx`, `dy` in points; it ends at the point where `dx` is negative."""
    side = "left" if dx > 0 else "right" if dx < 0 else "center"
    return ax.annotate(text, point, (dx, dy), textcoords="offset points", ha=side, va="center", color=ink, fontsize=8)


def label_lines(ax: Axes, *, gap: float = 10) -> None:
    """Writes the label of each line behind its end instead of a legend, at least `gap` points apart.

    Call it last: it places the labels for the limits that the axes have then.
    """
    ax.figure.draw_without_rendering()
    to_points = 72 / ax.figure.dpi
    ends = []
    for drawn in ax.get_lines():
        if drawn.get_label().startswith("_") or not len(drawn.get_xdata()):
            continue
        end = np.asarray(drawn.get_xydata())[np.nanargmax(drawn.get_xdata())]
        ends.append((ax.transData.transform(end)[1] * to_points, end, drawn))
    ends.sort(key=lambda e: e[0])
    heights = np.array([height for height, _, _ in ends])
    placed = heights.copy()
    for _ in range(200):  # push neighbours apart, half each, until none overlap
        short = gap - np.diff(placed)
        if not (short > 0.1).any():
            break
        push = np.clip(short, 0, None) / 2
        placed[:-1] -= push
        placed[1:] += push
    for height, place, (_, end, drawn) in zip(heights, placed, ends):
        point_label(ax, end, drawn.get_label(), drawn.get_color(), dx=7, dy=place - height)


def _pooled_bins(table: pd.DataFrame) -> pd.DataFrame:
    """One row a bin: means weighted by n; the band is that of one seed, averaged."""
    means = [c for c in ("mean_confidence", "accuracy", "floor_low", "floor_high") if c in table]
    groups = table.assign(**{c: table[c] * table.n for c in means}).groupby("bin_low")
    pooled = groups[["n", *means]].sum()
    pooled[means] = pooled[means].div(pooled.n, axis=0)
    return pooled.assign(bin_high=groups.bin_high.first()).reset_index()


# --- Figures of claims, and saving ----------------------------------------------------------------


@dataclass(frozen=True)
class Plot:
    """A figure of a claim, as data.

    Attributes
    ----------
    draw : tables (name -> DataFrame, those named in `tables` only) -> Figure.
    tables : names of the tables that it reads.
    caption : one or two sentences, printed below it.
    alt : what the figure shows, for a reader who cannot see it.
    """

    draw: Callable[[Mapping[str, pd.DataFrame]], Figure]
    tables: tuple[str, ...]
    caption: str
    alt: str

    def __call__(self, tables: Mapping[str, pd.DataFrame]) -> Figure:
        """Draws it in the house style; `KeyError` if one of its tables is missing."""
        missing = [name for name in self.tables if name not in tables]
        if missing:
            raise KeyError(f"The figure {self.draw.__name__} needs the tables {', '.join(missing)}.")
        with style():
            return self.draw({name: tables[name] for name in self.tables})

    @property
    def origin(self) -> dict[str, Any]:
        """Where the drawing code is: function, path in the repository, line."""
        path = Path(inspect.getsourcefile(self.draw))
        path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(path.name)
        function, line = f"{self.draw.__module__}.{self.draw.__qualname__}", inspect.getsourcelines(self.draw)[1]
        return {"function": function, "path": path.as_posix(), "line": line}

    def save(self, tables: Mapping[str, pd.DataFrame], stem: Path, provenance: Mapping[str, Any]) -> list[Path]:
        """Draws and saves it, with its tables and origin beside `provenance` (commit, scale, source)."""
        known = {"tables": list(self.tables), **self.origin, **provenance}
        return save(self(tables), stem, caption=self.caption, alt=self.alt, provenance=known)


class Figures(dict[str, Plot]):
    """The figures of a claim, in the order in which they are declared."""

    def draws(self, *tables: str) -> Callable[[Callable], Callable]:
        """Declares a function as the figure of its name; its docstring is the caption and, after a blank line, the alt
        text. It is given those of the claim's tables that are named here."""

        def declare(draw: Callable) -> Callable:
            caption, alt = (" ".join(text.split()) for text in (inspect.getdoc(draw) or "").split("\n\n"))
            self[draw.__name__] = Plot(draw, tables, caption, alt)
            return draw

        return declare


def dot(shown: Look, **kwargs: Any) -> Line2D:
    """The entry of a legend for a marker without a line."""
    return Line2D([], [], color=shown.color, marker=shown.marker, linestyle="", **{"label": shown.label} | kwargs)


def save(figure: Figure, stem: Path, *, caption: str, alt: str, provenance: Mapping[str, Any]) -> list[Path]:
    """Writes `stem`.svg, `stem`.png and the sidecar `stem`.json; the same figure gives the same bytes.

    Parameters
    ----------
    alt : the SVG's <desc>, the PNG's Description.
    provenance : JSON-ready: tables, function, path, line, commit, scale, source. In all three files.

    Raises
    ------
    ValueError : caption or alt text is empty.
    """
    if not caption.strip() or not alt.strip():
        raise ValueError(f"The figure {Path(stem).name} needs a caption and an alt text.")
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    svg, png, sidecar = (stem.with_name(stem.name + suffix) for suffix in (".svg", ".png", ".json"))
    origin = json.dumps(provenance, ensure_ascii=False, sort_keys=True)

    with style():
        buffer = io.StringIO()
        metadata = {"Title": caption, "Description": alt, "Source": origin, "Creator": "Candor", "Date": None}
        figure.savefig(buffer, format="svg", metadata=metadata)
        # matplotlib hides the description in RDF, but a screen reader reads <desc>.
        text = buffer.getvalue().replace("<svg ", '<svg role="img" aria-labelledby="title desc" ', 1)
        text = text.replace("<title>", '<title id="title">', 1)
        text = text.replace("</title>", f'</title>\n <desc id="desc">{escape(alt)}</desc>', 1)
        svg.write_text("\n".join(row.rstrip() for row in text.splitlines()) + "\n", encoding="utf-8")
        metadata = {"Title": caption, "Description": alt, "Provenance": origin, "Software": None}
        figure.savefig(png, format="png", metadata=metadata, pil_kwargs={"optimize": True})
    about = json.dumps({"caption": caption, "alt": alt, **provenance}, indent=2, ensure_ascii=False)
    sidecar.write_text(about + "\n", encoding="utf-8")
    return [svg, png, sidecar]
