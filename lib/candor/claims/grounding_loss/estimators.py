"""What the criteria of claim 3 compare, and what their notes say beside the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from candor.claims.grounding_loss.tables import CHARITIES, measured_shifts
from candor.claims.grounding_loss.world import ACTS
from candor.declare import expressions
from candor.declare.expressions import Measure, Rows, each_seed, number, wide
from candor.declare.ledger import Check, Estimate, Tables


def arm(name: str) -> Rows:
    return Rows("summary", arm=name)


base, charity = arm("base"), arm("charity_6")
# Pretrained models: the whole message, our labeller, ESConv unless another set is named.
rates = Rows("models_rates", labeller="prompt", corpus="esconv", number=True)


def said(words: str, *measures: Measure) -> Callable[[Tables], str]:
    """A note: means over seeds in their places among the words."""
    return lambda tables: words.format(*(np.mean(measure(tables)) for measure in measures))


# --- The world --------------------------------------------------------------------------------------


def relative(name: str, column: str) -> Measure:
    """Change of an arm as a share of its base's value."""
    return ((arm(name) / base).column(column) - 1).named(column.replace("_", " "), "share of base")


def kappas(one: Rows, other: Rows = base, against: str = "") -> Iterator[Measure]:
    """An act's change of kappa each."""
    return ((one - other).column(f"{act}_kappa").named(f"kappa, {act}{against}", "kappa") for act in ACTS)


def from_exact(measure: str, act: str = "") -> Measure:
    """The base's measure minus that of the human, which is exact; success is the same in each act's row."""
    mine = base.column(f"{act}_{measure}" if act else measure)
    return (mine - Rows("human", act=act or ACTS[0]).column(measure)).named(f"{measure}, {act}" if act else measure)


def slope(name: str, act: str) -> Measure:
    """Least-squares slope of kappa along training, per 100 steps: one number a seed."""

    def estimate(tables: Tables) -> pd.Series:
        course = wide(tables, "trajectory", f"{act}_kappa", "step", arm=name)
        return course.apply(lambda run: 100 * np.polyfit(run.dropna().index, run.dropna(), 1)[0], axis=1)

    return Measure(estimate, f"slope, {act}", "kappa per 100 steps")


def checkpoint_correlations(tables: Tables) -> pd.DataFrame:
    """`shuffled`, a row a seed and act: r of kappa with the step over its checkpoints, and change since the base."""
    found = []
    for act in ACTS:
        for seed, run in wide(tables, "trajectory", f"{act}_kappa", "step", arm="shuffled").iterrows():
            kappa = run[run.index > 0]
            r = np.corrcoef(kappa.index, kappa)[0, 1] if kappa.nunique() > 1 else 0.0
            found.append((seed, act, r, kappa.iloc[-1] - run.iloc[0]))
    return pd.DataFrame(found, columns=["seed", "act", "r", "change"])


DETECTED = 0.632  # |R| at which ten independent points give p < .05


def misleading(tables: Tables) -> Estimate:
    table = checkpoint_correlations(tables)
    return Estimate(int(((table["r"].abs() >= DETECTED) & (table["change"].abs() <= 0.02)).sum()), n=len(table))


def largest_correlation(tables: Tables) -> pd.Series:
    return checkpoint_correlations(tables).groupby("seed")["r"].agg(lambda r: r.abs().max())


def spearman_of_shifts(tables: Tables) -> Estimate:
    for name in ("base", *CHARITIES):
        expressions.select(tables, "cells", arm=name)
    cells = each_seed(tables, "cells", ["model"], ["arm", "cell"])
    both = measured_shifts(cells, tables["predicted_cells"])
    return Estimate(both["measured"].corr(both["shift"], method="spearman"), n=len(both))


def better_placed(act: str) -> Measure:
    """The smaller of the rise of precision and the fall of recall: above 0 where both hold on the same seed."""
    up, down = ((charity - base).column(f"{act}_{measure}") for measure in ("precision", "recall"))
    return up.with_(-down, np.minimum, f"both, {act}").named(f"both, {act}", "smaller change")


dose_note = said("rates: F {:+.3f}, A {:+.3f}, C {:+.3f}", *((charity - base).column(f"{act}_rate") for act in ACTS))
untied_note = said("without ties the win rate is {:.3f}", charity.win_rate_untied)
strict_note = said(  # what an aggregate share would have suggested
    "acts win only {:.1%} of the pairs of an act and a delivery, and nothing useful is lost",
    Rows("pairs", arm="charity_0").act_win_rate,
)
clarification_note = said(
    "the clarification rate changes by {:+.0%}: one step ahead cannot credit two acts in a row",
    relative("reaction_6", "clarification_rate"),
)


def correlation_note(tables: Tables) -> str:
    largest = checkpoint_correlations(tables)["r"].abs().max()
    return f"largest |R| {largest:.2f}; of independent points .75 of 15 would pass"


# --- Published numbers --------------------------------------------------------------------------------


def headline_note(tables: Tables) -> str:
    means = tables["headline_means"].set_index("name")["value"]
    return (
        f"quoted, not derivable from Table 2: its nine cells have the mean {means['cells_mean']:.1f}, the median "
        f"{means['cells_median']:.1f} and {means['pooled']:.1f} where rates are added up first"
    )


def not_established_note(tables: Tables) -> str:
    cells = tables["headline"]
    left = cells[~cells["beyond"].astype(bool)]
    return "not established: " + ", ".join(f"{row.dataset} {row.act}" for row in left.itertuples())


def rates_note(tables: Tables) -> str:
    before, after = (number(tables, "rate_sums", "rate", model="Mistral-7B", arm=name) for name in ("sft", "sft_dpo"))
    return f"all acts of Mistral-7B together: {before:.1f} -> {after:.1f} % of turns"


def walk_note(tables: Tables) -> str:
    flat = tables["flat_runs"].set_index("process")
    return (
        f"weak: one run. A random walk of ten points has R <= -.70 with probability "
        f"{flat['below_70']['random_walk']:.2f}"
    )


# --- Pretrained models --------------------------------------------------------------------------------


def interval_of(rows: Rows, column: str, items: str) -> Callable[[Tables], Estimate]:
    """The number in `column` with its interval (_low, _high) and its number of items."""

    def estimate(tables: Tables) -> Estimate:
        *ends, n = (rows.column(c)(tables) for c in (column, f"{column}_low", f"{column}_high", items))
        return Estimate(*ends, n=int(n))

    return estimate


def of_lineage(lineage: str, stage: str) -> Rows:
    """Followups of a stage."""
    return rates.where(lineage=lineage, stage=stage, act="followup")


def change_of(lineage: str, stage: str, measure: str, name: str) -> Measure:
    """Relative change of a followup measure since SFT, with its interval over conversations."""
    return Measure(interval_of(of_lineage(lineage, stage), f"{measure}_relative", "turns"), name, "share of SFT")


def human_rate(corpus: str, act: str) -> Measure:
    return 100 * rates.where(corpus=corpus, lineage="human", stage="human", act=act).human_rate


def at_least_half(measure: str, stage: str, printed: float) -> tuple[Check, Check]:
    """The paper's own models lose at least half of what is printed, relative to SFT, and surely something."""
    # Not the limit of the relative change: it has no value in resamples in which SFT itself does not agree.
    limit = of_lineage("archangel", stage).column(f"{measure}_change_high")
    unit = "share of turns" if measure == "rate" else measure
    return (
        change_of("archangel", stage, measure, f"followup {measure}, {stage}").at_most(printed / 2),
        limit.named(f"upper limit of the change, {measure}, {stage}", unit).at_most(0),
    )
