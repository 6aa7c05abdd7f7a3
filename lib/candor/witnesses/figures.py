"""Panels of arms of `witnesses` that claims share: a column an arm, or a panel a measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from candor.declare import figures as f

DASHED = (0, (5, 2))


def by_kind(
    table: pd.DataFrame,
    columns: Iterable[tuple[str, str]],
    kinds: Mapping[str, str],
    draw: Callable,
    *,
    below: str = "",
    beside: str = "",
    width: float = 1.85,
) -> Figure:
    """A column an arm, a row a kind of probability, each panel by `draw(ax, rows, arm, xlabel=, ylabel=)`.

    columns : (setting, arm); those that the table lacks are left out. kinds : kind -> name, the label of an axis for
    which `below` or `beside` has none.
    """
    parts = dict(list(table.groupby(["setting", "arm", "kind"])))
    known = set(zip(table["setting"], table["arm"]))
    columns = [column for column in columns if column in known]
    n = len(columns)
    figure, axes = f.canvas(2, n, width=width * n + 0.4, height=4.2, sharex=True, sharey=True, squeeze=False)
    for j, (setting, arm) in enumerate(columns):
        for i, (kind, name) in enumerate(kinds.items()):
            if (setting, arm, kind) in parts:
                xlabel = name if not below else below if i else ""
                draw(axes[i, j], parts[setting, arm, kind], arm, xlabel=xlabel, ylabel="" if j else beside or name)
        axes[0, j].set_title(f.label(arm))
    return figure


def dots(
    axes: Iterable[Axes],
    table: pd.DataFrame,
    arms: Sequence[str],
    panels: Mapping[str, str],
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """A panel a column of `table`: means and intervals over seeds, a row an arm. panels : column -> title."""
    for ax, (column, title) in zip(axes, panels.items()):
        values = {arm: table.loc[table["arm"] == arm, column] for arm in arms}
        f.interval_dots(ax, values, references=(references or {}).get(column))
        ax.set_title(title)
