"""The arms of claim 6 as rows of its tables, what is read from several of them, and notes that go by what came out."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import cast

import numpy as np
import pandas as pd

from candor.claims.self_feedback.tables import CHECKPOINTS, FEW_STARTS, GEMMA, PHI, QWEN, SHUFFLES, STARTS, WATCHED
from candor.declare.expressions import Measure, Rows, criterion, each_seed, select, together, wide
from candor.declare.ledger import FULL_SEEDS, Band, Check, Criterion, Estimate, Incomplete, NotRun, Tables

standard = Rows("summary", setting="standard")
before = {start: standard.where(arm=start) for start in (*STARTS, *FEW_STARTS)}
after = {start: Rows("summary", label="RLSF-RLOO", setting="standard", arm=f"rlsf_{start}") for start in before}
moved = {start: after[start] - before[start] for start in before}
fluency, assured, binary, base, sharpened = before.values()
rlsf = after["fluency"]
half_trap = Rows("summary", number=False, setting="half_trap")  # one row an arm, and yet a seed's
trapped = half_trap.where(arm="rlsf_fluency") - half_trap.where(arm="fluency")
ONLINE, LONG = WATCHED
FEW = "three seeds: partly is the best they can give"


# --- The published cells ----------------------------------------------------------------------------


def counts(*names: str) -> tuple[Check, ...]:
    """Counts of the published cells, with of how many each is."""
    cells = {name: Rows("counts", name=name) for name in names}
    return tuple(
        rows.value.with_(rows.n, lambda value, n: Estimate(int(value), n=int(n)), name).named(name, "cells").reported
        for name, rows in cells.items()
    )


# --- The world --------------------------------------------------------------------------------------


def shuffles(tables: Tables, measure: str) -> pd.DataFrame:
    """A row a seed and a column a shuffle that ran."""
    ran = wide(tables, "summary", measure, "arm", setting="standard").filter(SHUFFLES)
    if ran.empty:
        raise NotRun("No shuffle was run.")
    return ran


class Shuffled(Rows):
    """The mean over the seed's shuffles that ran."""

    def column(self, column: str) -> Measure:
        return Measure(lambda tables: shuffles(tables, column).mean(axis=1).dropna(), f"shuffled: {column}")


shuffled = Shuffled("summary", label="shuffled")


def spread(tables: Tables) -> Estimate:
    """Standard deviation over all shuffled runs of their change in sampled accuracy, in points."""
    runs = shuffles(tables, "sampled_accuracy").sub(fluency.sampled_accuracy(tables), axis=0).stack().dropna()
    if len(runs) < 2:
        raise NotRun("A spread needs two runs of the shuffles.")
    return Estimate(float(100 * runs.std()), n=len(runs))


def predicted(start: str) -> Measure:
    """(1 - b) x change of greedy confidence, b of the start's own branches: what selection does to the gap."""
    return ((1 - before[start].slope_b) * moved[start].greedy_confidence).points.named(f"predicted gap, {start}")


def signs_agree(tables: Tables) -> pd.Series:
    """Share of the starts in which the gap moved to the side that the identity of selection predicts, by seed."""
    agree = []
    for start in before:
        with suppress(NotRun):
            one, other = (measure.map(np.sign) for measure in (moved[start].greedy_gap, predicted(start)))
            agree.append((one - other)(tables) == 0)
    if not agree:
        raise NotRun("No start was run with its RLSF-RLOO.")
    return pd.concat(agree, axis=1).astype(float).mean(axis=1)


def nearest_checkpoint(tables: Tables) -> pd.Series:
    """Sampled accuracy of the SFT checkpoint whose KL to the start is nearest to that of RLSF-RLOO.

    Only seeds of which all checkpoints were evaluated.
    """
    kl, accuracy = (
        pd.concat({arm: standard.where(arm=arm).column(column)(tables) for arm in CHECKPOINTS}, axis=1)
        for column in ("kl_start", "sampled_accuracy")
    )
    distance = kl.sub(rlsf.kl_start(tables), axis=0).dropna().abs()
    nearest = distance.idxmin(axis=1)
    return pd.Series([accuracy.at[seed, arm] for seed, arm in nearest.items()], nearest.index, dtype=float)


rival = (Measure(nearest_checkpoint, "SFT") - rlsf.sampled_accuracy).points


def course(tables: Tables, arm: str, until: int, mode: str = "") -> pd.DataFrame:
    """The checkpoints of an arm up to a step; `Incomplete` unless it reached that step on all its seeds.

    Columns: seed, step, accuracy and confidence (sampled, or greedy with the mode `greedy_`), below: points under the
    peak so far, certain: the same while mean confidence is at least .97, else 0.
    """
    found = each_seed(tables, "trajectory", [f"{mode}accuracy", f"{mode}confidence"], ["step"], arm=arm)
    found.columns = ["seed", "step", "accuracy", "confidence"]
    if (found.groupby("seed")["step"].max() < until).any():
        raise Incomplete(f"{arm} did not reach step {until} on every seed")
    found = found[found["step"] <= until]
    below = 100 * (found.groupby("seed")["accuracy"].cummax() - found["accuracy"])
    return found.assign(below=below, certain=below.where(found["confidence"] >= 0.97, 0.0))


def collapse_step(tables: Tables, mode: str) -> pd.Series:
    """The first step with confidence of at least .97 and accuracy 10 points below its own peak; NaN if none."""
    found = course(tables, ONLINE, 160, mode)
    return found["step"].where(found["certain"] >= 10).groupby(found["seed"]).min()


def beyond_prompts(tables: Tables) -> Estimate:
    """How many labelling runs were not shown to have received prompts and nothing else."""
    found = each_seed(tables, "pairs", ["prompts_only"], ["arm"], setting="standard")["prompts_only"]
    return Estimate(int((~found.astype(bool)).sum()), n=len(found))


# --- Pretrained models ------------------------------------------------------------------------------

SEEDS = 3
SETS = ("gsm8k", "commonsense_qa")
PROMPTS = 200  # with both right and wrong traces


def on_set(dataset: str, arm: str, measure: str) -> Measure:
    """A measure of an arm; `Incomplete` unless all declared seeds are there."""

    def complete(values: pd.Series) -> pd.Series:
        if len(values) < SEEDS:
            raise Incomplete(f"{SEEDS} seeds of {arm} on {dataset} are needed and {len(values)} were run")
        return values

    return Rows("models_summary", dataset=dataset, arm=arm).column(measure).map(complete)


def moved_on(dataset: str, other: str, measure: str, arm: str = "rlsf") -> Measure:
    """An arm minus another on the same seed and items, in points."""
    change = on_set(dataset, arm, measure) - on_set(dataset, other, measure)
    return change.points.named(f"{arm} minus {other}: {measure}, {dataset}")


def ranking(dataset: str, measure: str, name: str, unit: str = "AUROC") -> Measure:
    """A number of the base's branches; `Incomplete` below 200 prompts with both right and wrong traces."""

    def estimate(tables: Tables) -> float:
        row = select(tables, "models_ranking", dataset=dataset).iloc[0]  # the limit and finder of the arms come first
        if row["prompts"] < PROMPTS:
            raise Incomplete(f"{PROMPTS} prompts of {dataset} with right and wrong traces are needed")
        return float(row[measure])

    return Measure(estimate, f"{name}, {dataset}", unit)


# Paper scale: how far a change of accuracy may be from the printed one, in points (None: reported).
PRINTED_CELLS = {
    ("gemma", "gsm8k"): (GEMMA, "GSM8K", 2.5),
    ("qwen", "gsm8k"): (QWEN, "GSM8K", 2.5),
    ("phi", "commonsense_qa"): (PHI, "CommonsenseQA", 2.5),
    ("qwen", "multi_arith"): (QWEN, "MultiArith", 5.0),
    ("gemma", "arc_easy"): (GEMMA, "ARC-Easy", 1.0),
    ("gemma", "multi_arith"): (GEMMA, "MultiArith", None),
}


def printed_check(model: str, dataset: str, metric: str) -> Check:
    """Change of RLSF since its own base minus the printed change of RLSF-PPO, in points."""
    name, printed_set, tolerance = PRINTED_CELLS[model, dataset]
    ours = Rows("models_cells", number=True, model=model, dataset=dataset, arm="rlsf").column(f"{metric}_change")
    printed = Rows("differences", model=name, dataset=printed_set, arm="rlsf_ppo", comparison="base", metric=metric)
    distance = (ours.points - printed.value).named(f"{metric} change minus the printed one, {name} {printed_set}")
    limit = tolerance if metric == "accuracy" else 3.0
    return distance.reported if limit is None else distance.within(limit)


# --- Notes that depend on the outcome ---------------------------------------------------------------


def mean(measure: Measure, tables: Tables) -> float:
    return float(measure(tables).mean())


def source_note(start: str, tables: Tables) -> str:
    """Where a change of greedy ECE comes from: accuracy, selection, or the probabilities on fixed traces."""
    names = ("greedy_ece", "greedy_accuracy", "greedy_confidence", "greedy_gap", "fixed_ece")
    ece, right, sure, gap, fixed = (mean(moved[start].column(name).points, tables) for name in names)
    foreseen = mean(predicted(start), tables)
    if ece >= 0:
        word = "greedy ECE did not fall"
    elif fixed <= -2:
        word = "the probabilities themselves changed (W6d)"
    elif right > abs(sure) and abs(foreseen) < abs(gap) / 2:
        word = "its fall came from accuracy"
    else:
        word = "its fall came from selection"
    arms = (base, before[start], after[start])
    eces = (
        " -> ".join(f"{mean(arm.column(f'{mode}_ece').points, tables):.1f}" for arm in arms)
        for mode in ("greedy", "sampled")
    )
    return (
        f"greedy ECE {ece:+.1f}: {word}; accuracy {right:+.1f}, confidence {sure:+.1f}, gap {gap:+.1f} (selection "
        f"predicts {foreseen:+.1f}), ECE on fixed traces {fixed:+.1f}; ECE of base -> damaged -> repaired: greedy "
        f"{', sampled '.join(eces)}"
    )


def steps_note(mode: str, tables: Tables) -> str:
    """What the online reward did on each seed, whatever its confidence was."""
    seeds = course(tables, ONLINE, 160, mode).groupby("seed")
    steps = ", ".join("-" if np.isnan(step) else f"{step:.0f}" for step in collapse_step(tables, mode))
    falls = ", ".join(f"{points:.0f}" for points in seeds["below"].last())
    tops = ", ".join(f"{top:.3f}" for top in seeds["confidence"].max())
    return (
        f"{FEW}; below its own peak at the end by {falls} points, with confidence at most {tops}; collapse at step "
        f"{steps}"
    )


def needed_note(tables: Tables) -> str:
    worse = rival(tables) <= -2
    needed = len(worse) >= SEEDS and worse.all()
    return f'RLSF {"" if needed else "not "}"needed": SFT is at least 2 points worse in {worse.sum()}/{len(worse)}'


def trap_note(tables: Tables) -> str:
    right, gap = (mean(measure.points, tables) for measure in (trapped.greedy_accuracy, trapped.greedy_gap))
    return f"one seed; {'as' if right <= 0 and gap >= 10 else 'not as'} expected (accuracy <= 0, gap >= +10)"


def labels_note(tables: Tables) -> str:
    arms = {arm: Rows("pairs", setting="standard", arm=arm) for arm in tables["pairs"]["arm"].unique()}
    pairs = (
        f"{arm} {mean(rows.number, tables):,.0f} ({mean(rows.different_answers, tables):.0%})"
        for arm, rows in arms.items()
    )
    return f"pairs (share with different answers): {', '.join(pairs)}"


def flips_note(tables: Tables) -> str:
    """Which verdicts of pretrained models turn with the measure."""
    flips = tables["models_flips"]
    flips = flips[flips["flips"].astype(bool)]
    if flips.empty:
        return "no verdict of M2-M5 flips with disparity or with zeros dropped"
    return "flips: " + ", ".join(f"{row.criterion} on {row.dataset} with {row.variant}" for row in flips.itertuples())


# --- Checks and criteria that come several times ----------------------------------------------------


def without_unit(measure: Measure) -> Measure:
    """In points, though the gates were declared without a unit."""
    return measure.points.named(measure.name, "")


def damage(id: str, statement: str, estimator: str, *checks: Check) -> Criterion:
    """A gate of other criteria: its first check is how many of the rest meet their count of seeds (or their mean)."""

    def met(check: Check, tables: Tables) -> bool:
        values, band = cast(pd.Series, check.estimate(tables)).dropna(), check.band or Band()
        if check.count is None:
            return band.holds(values.mean())
        return sum(map(band.holds, values)) >= math.ceil(check.count / FULL_SEEDS * len(values))

    def conditions(tables: Tables) -> Estimate:
        return Estimate(sum(met(check, tables) for check in checks), n=len(checks))

    return criterion(id, statement, estimator, Measure(conditions, id, "conditions").equals(len(checks)), *checks)


def fallen(start: str, count: int, **columns: str) -> tuple[Check, ...]:
    """Each column at least 20 % lower after RLSF-RLOO than before, and all of them on the same seeds."""
    ratio = after[start] / before[start]
    changes = {words: 100 * (ratio.column(column) - 1) for column, words in columns.items()}
    checks = [change.named(f"{words}, change", "percent").at_most(-20, count) for words, change in changes.items()]
    return *checks, together("both on the same seed, slack", count, *checks)


def collapse(id: str, statement: str, estimator: str, mode: str = "") -> Criterion:
    """The fall while the model is certain, and on how many seeds there is one: none at all is a finding, too."""

    def fall(tables: Tables) -> pd.Series:
        return course(tables, ONLINE, 160, mode).groupby("seed")["certain"].max()

    def seeds(tables: Tables) -> Estimate:
        found = collapse_step(tables, mode)
        return Estimate(int(found.notna().sum()), n=len(found))

    certain = Measure(fall, "fall below own peak at confidence >= .97", "points").at_least(10, 5)
    often = Measure(seeds, "seeds with such a step", "seeds").reported
    note = partial(steps_note, mode)
    return criterion(id, statement, estimator, certain, often, paper="not tried there", note=note)
