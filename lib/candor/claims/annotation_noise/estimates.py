"""What the criteria of claim 4 read that is no column of a table, and notes that go by what came out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from candor.claims.annotation_noise.tables import FLIPPED
from candor.declare.expressions import Measure, Rows, both, select, wide
from candor.declare.ledger import Check, Estimate, Tables

KL = "kl_0.15"
gate = Rows("gate", setting="main")
naive, weight = (Rows("policies", arm=arm) for arm in ("naive", "weight"))
EQUAL_LABELS = ("frrand_4x", "weight")  # one label on each of four times the pairs, four labels on each pair


def less(rows: Rows, measure: str, other: str, name: str) -> Measure:
    """A column minus another of the same rows."""
    return (rows.column(measure) - rows.column(other)).named(name)


# --- Published numbers ------------------------------------------------------------------------------


def ordered(column: str) -> Callable[[Tables], Estimate]:
    """How many steps of low > baseline > high assertiveness hold in a column of the Hosking table."""

    def estimate(tables: Tables) -> Estimate:
        low, middle, high = tables["hosking"].set_index("style")[column][["low", "baseline", "high"]]
        return Estimate(int(low > middle) + int(middle > high), n=2)

    return estimate


def near(tables: Tables, agreement: float = 0.73, tolerance: float = 0.01) -> pd.Series:
    """Shares of genuine annotators in the mixes whose pairwise agreement is the usual one."""
    ridge = tables["ridge"]
    return ridge.loc[(ridge["agreement"] - agreement).abs() <= tolerance, "genuine"]


def above_null(raters: int) -> Measure:
    """18.6 % minus what removing one rater in five at random does, at this number of raters a prompt."""
    return (FLIPPED - Rows("removal", raters=raters, share=0.2).flips).named(f"18.6 % minus the null, {raters} raters")


# --- The world --------------------------------------------------------------------------------------


def tilted(arm: str, setting: str = "main") -> Rows:
    """The closed-form policy on an arm's reward model at KL .15; the base itself at KL 0."""
    at: dict[str, Any] = {} if arm == "base" else {"condition": KL}
    return Rows("tilt", setting=setting, arm=arm, **at)


def ece(arm: str, other: str, setting: str = "main") -> Measure:
    """ECE of an arm minus that of another, at KL .15."""
    return (tilted(arm, setting) - tilted(other, setting)).ece.named(f"ECE, {arm} minus {other}")


def repaired(arm: str) -> tuple[Check, ...]:
    """W8 for one arm: both limits of ECE on the same seeds, and Brier."""
    brier = (tilted(arm) - tilted("base")).brier.named(f"Brier, {arm} minus base").at_most(0, 4)
    limits = ece(arm, "base").at_most(0.02, 4), ece(arm, "naive").at_most(-0.04, 4)
    return *both(4, *limits, name=f"both on the same seed, {arm}"), brier


def spread(prefix: str, column: str, name: str, unit: str = "") -> Measure:
    """Largest minus smallest over the three starts of a mixture, by seed."""

    def estimate(tables: Tables) -> pd.Series:
        shares = (Rows("shares", method=f"{prefix}_start{k}").column(column)(tables) for k in (1, 2, 3))
        starts = pd.concat(shares, axis=1)
        return starts.max(axis=1) - starts.min(axis=1)

    return Measure(estimate, name, unit)


def best_classes(tables: Tables) -> pd.Series:
    """The number of classes that BIC picks, by seed."""
    return wide(tables, "bic", "bic", "classes").idxmin(axis=1)


def picks_four(tables: Tables) -> Estimate:
    picked = best_classes(tables)
    return Estimate((picked == 4).mean(), n=len(picked))


def farthest(reference: str, setting: str, name: str, arms: tuple[str, ...] | None = None) -> Measure:
    """Largest absolute difference of ECE at KL .15 between a reference arm and `arms` (all others), by seed."""

    def estimate(tables: Tables) -> pd.Series:
        table = wide(tables, "tilt", "ece", "arm", setting=setting, condition=KL)
        others = arms or [arm for arm in table if arm != reference]
        return pd.concat([ece(arm, reference, setting)(tables).abs() for arm in others], axis=1).max(axis=1)

    return Measure(estimate, name)


# The gate of section 4.6: below it a reward model has not seen the evidence, and nothing said of it counts.
ORACLE = gate.where(arm="oracle").posterior_correlation.map(pd.Series.mean)


def others_seen(tables: Tables) -> pd.Series:
    """Correlation of reward and posterior at fixed confidence, mean over seeds, by arm without the oracle."""
    return wide(tables, "gate", "posterior_correlation", "arm", setting="main").mean().drop("oracle", errors="ignore")


GATES = (
    ORACLE.named("the oracle's reward sees the posterior (correlation >= .8)").at_least(0.8),
    Measure(others_seen, "every other arm's reward sees it (correlation >= .5)").map(min).at_least(0.5),
)


# --- Pretrained models and real raters --------------------------------------------------------------


def flag_means(tables: Tables) -> float:
    """Largest difference of the mean flags from those beside the published numbers, as a share of outputs."""
    flags = select(tables, "models_hosking", setting="crowd_mean of individual flags")
    return float(flags["difference"].abs().max() / 100)


def beyond(removals: Rows, name: str) -> Check:
    """At how many sizes of removal (10, 20 and 50 % of the raters) by all scores together the effect exceeds the 99th
    percentile of random ones: at all three."""
    return removals.how_many(lambda rows: rows["beyond"].astype(bool), name, "comparisons").equals(3)


def filtered(dataset: str) -> tuple[Check, ...]:
    """Whether raters of DICES who are removed by all scores turn more majorities than random ones; and how many."""
    removals = Rows("models_removal", score="combined", dataset=dataset, unsure="own", number=True)
    fifth = removals.where(share=0.2)
    return (
        beyond(removals, f"{dataset}, removals beyond random"),
        fifth.ratio.named(f"{dataset}, flips at 20 % over random", "ratio").reported,
        fifth.flips.named(f"{dataset}, flips at 20 %", "share of items").reported,
    )


# --- Notes that depend on the outcome ---------------------------------------------------------------


def sign_note(tables: Tables) -> str:
    low = tables["hosking"].set_index("style").loc["low"]
    return (
        f"the sign at low assertiveness differs: {low['gap_mode']:+.1f} points with the mode, {low['gap_mean']:+.1f} "
        "with the mean of the same flags"
    )


def null_note(tables: Tables) -> str:
    null = select(tables, "removal", share=0.2).set_index("raters")["flips"]
    known = ", ".join(f"{null[n]:.1%} with {n}" for n in (5, 10, 30, 123))
    return f"random removal of one rater in five alone: {known} raters; how many there were is not printed. See M4"


def gate_note(tables: Tables) -> str:
    """The correlation gate, beside everything that rests on a reward model."""
    rest = others_seen(tables)
    return f"gate: oracle {ORACLE(tables):.2f}, lowest of the others {rest.min():.2f} ({rest.idxmin()})"


def labels_note(tables: Tables) -> str:
    labels = (f"{arm} {gate.where(arm=arm).labels(tables).mean():,.0f}" for arm in EQUAL_LABELS)
    return f"labels: {', '.join(labels)}"


def posture_note(tables: Tables) -> str:
    """At which KL, accuracy and confidence the event was measured."""
    names = ("kl", "accuracy_before", "accuracy", "confidence_before", "confidence")
    moved = "KL {:.2f}, accuracy {:.3f} -> {:.3f}, stated confidence {:.3f} -> {:.3f}"
    return f"{moved.format(*(naive.column(name)(tables).mean() for name in names))}; {gate_note(tables)}"
