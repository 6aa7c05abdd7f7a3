"""Claim 6, declared before any run: a model's own answer-span confidence as feedback (RLSF).

Changes are in points (100 x a share) unless they are relative (percent of what was there before). The RL arm is called
RLSF-RLOO, since it is not the paper's PPO.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd

from candor.claims.self_feedback.tables import CHECKPOINTS, FEW_STARTS, GEMMA, PHI, QWEN, SHUFFLES, STARTS, WATCHED
from candor.declare.expressions import Measure, Rows, criterion, each_seed, select, together, wide
from candor.declare.ledger import (
    FULL_SEEDS,
    NOT_ATTEMPTED,
    PARTLY,
    REPLICATED,
    Check,
    Claim,
    Criterion,
    Estimate,
    Incomplete,
    NotRun,
    Part,
    Tables,
    Verdicts,
    better,
    listed,
    named,
    worst,
)

RLSF = "RLSF-RLOO"
standard = Rows("summary", setting="standard")
before = {start: standard.where(arm=start) for start in (*STARTS, *FEW_STARTS)}
after = {start: Rows("summary", label=RLSF, setting="standard", arm=f"rlsf_{start}") for start in before}
moved = {start: after[start] - before[start] for start in before}
fluency, assured, binary, base, sharpened = before.values()
rlsf, strengthened = after["fluency"], moved["fluency"]
dpo = Rows("summary", label="DPO", setting="standard", arm="fluency_dpo")
half_trap = Rows("summary", number=False, setting="half_trap")  # one row an arm, and yet a seed's
trapped = half_trap.where(arm="rlsf_fluency") - half_trap.where(arm="fluency")
fitted = Rows("temperature", setting="standard")
greedy, *branching = (
    Rows("decoding", label=method.replace("_", " "), setting="standard", arm="base", method=method)
    for method in ("greedy", "max_path", "aggregated", "majority")
)
warm, cold = (Rows("artefact", temperature=t) for t in (1.0, 0.7))


# --- What is no column of a table -----------------------------------------------------------------


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


def count(name: str) -> Check:
    """A count of the published cells, with of how many it is."""
    cells = Rows("counts", name=name)
    return (
        cells.value.with_(cells.n, lambda value, n: Estimate(int(value), n=int(n)), name).named(name, "cells").reported
    )


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


def collapse_step(tables: Tables, mode: str = "") -> pd.Series:
    """The first step with confidence of at least .97 and accuracy 10 points below its own peak; NaN if none."""
    found = course(tables, ONLINE, 160, mode)
    return found["step"].where(found["certain"] >= 10).groupby(found["seed"]).min()


def collapsed(tables: Tables, mode: str = "") -> Estimate:
    """On how many seeds there is such a step; the note says which it is. None at all is a finding, too."""
    found = collapse_step(tables, mode)
    return Estimate(int(found.notna().sum()), n=len(found))


def beyond_prompts(tables: Tables) -> Estimate:
    """How many labelling runs were not shown to have received prompts and nothing else."""
    found = each_seed(tables, "pairs", ["prompts_only"], ["arm"], setting="standard")["prompts_only"]
    return Estimate(int((~found.astype(bool)).sum()), n=len(found))


# --- Pretrained models ----------------------------------------------------------------------------

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


# --- Notes that depend on the outcome -------------------------------------------------------------

FEW = "three seeds: partly is the best they can give"


def mean(measure: Measure, tables: Tables) -> float:
    return float(measure(tables).mean())


def source_note(start: str, tables: Tables) -> str:
    """Where a change of greedy ECE comes from: accuracy, selection, or the probabilities on fixed traces."""
    ece, right, sure, gap, fixed = (
        mean(moved[start].column(column).points, tables)
        for column in ("greedy_ece", "greedy_accuracy", "greedy_confidence", "greedy_gap", "fixed_ece")
    )
    foreseen = mean(predicted(start), tables)
    if ece >= 0:
        word = "greedy ECE did not fall"
    elif fixed <= -2:
        word = "the probabilities themselves changed (W6d)"
    elif right > abs(sure) and abs(foreseen) < abs(gap) / 2:
        word = "its fall came from accuracy"
    else:
        word = "its fall came from selection"
    eces = (
        " -> ".join(f"{mean(arm.column(name).points, tables):.1f}" for arm in (base, before[start], after[start]))
        for name in ("greedy_ece", "sampled_ece")
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
    return (
        f"{FEW}; below its own peak at the end by {falls} points, with confidence at most "
        f"{', '.join(f'{top:.3f}' for top in seeds['confidence'].max())}; collapse at step {steps}"
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


# --- Criteria that several share --------------------------------------------------------------------


def without_unit(measure: Measure) -> Measure:
    """In points, though the gates were declared without a unit."""
    return measure.points.named(measure.name, "")


def damage(id: str, statement: str, estimator: str, *checks: Check) -> Criterion:
    """A gate of other criteria: its first check is how many of the rest meet their count of seeds (or their mean)."""

    def met(check: Check, tables: Tables) -> bool:
        values = check.estimate(tables).dropna()
        if check.count is None:
            return check.band.holds(values.mean())
        return sum(map(check.band.holds, values)) >= math.ceil(check.count / FULL_SEEDS * len(values))

    def conditions(tables: Tables) -> Estimate:
        return Estimate(sum(met(check, tables) for check in checks), n=len(checks))

    return criterion(id, statement, estimator, Measure(conditions, id, "conditions").equals(len(checks)), *checks)


W0 = (
    damage(
        "W0a",
        "style damage (gate of W3-W5)",
        "fluency: sampled accuracy vs base; sampled share full",
        without_unit((fluency - base).sampled_accuracy).at_most(-3, 5),
        without_unit(fluency.share_full).at_least(3),
    ),
    damage(
        "W0b",
        "calibration damage (gate of W6b, W6d)",
        "binary: greedy ECE prob.",
        (binary / base).greedy_ece.named("greedy ECE, binary / base", "ratio").at_least(1.5, 5),
        (binary - base).greedy_ece.points.at_least(4, 5),
    ),
    damage(
        "W0c",
        "both (gate of W6a)",
        "assured: sampled accuracy, greedy and sampled ECE prob., share full",
        without_unit((assured - base).sampled_accuracy).at_most(-3, 5),
        without_unit((assured - base).greedy_ece).at_least(4, 5),
        without_unit((assured - base).sampled_ece).at_least(4, 5),
        without_unit(assured.share_full).at_least(3, 5),
    ),
    damage(
        "W0d",
        "positive control (gate of W6c)",
        "sharpened: sampled ECE prob.; fitted temperature",
        without_unit((sharpened - base).sampled_ece).at_least(1.5, 4),
        fitted.where(arm="sharpened").temperature.named("fitted temperature", "T").within(1.5, 2.5),
    ),
)
STYLE, CERTAINTY, BOTH, SHARP = (gate.checks[:1] for gate in W0)


def fallen(start: str, count: int, **columns: str) -> tuple[Check, ...]:
    """Each column at least 20 % lower after RLSF-RLOO than before, and all of them on the same seeds."""
    checks = [
        (100 * ((after[start] / before[start]).column(column) - 1))
        .named(f"{words}, change", "percent")
        .at_most(-20, count)
        for column, words in columns.items()
    ]
    return *checks, together("both on the same seed, slack", count, *checks)


def collapse(id: str, statement: str, estimator: str, mode: str = "") -> Criterion:
    def fall(tables: Tables) -> pd.Series:
        return course(tables, ONLINE, 160, mode).groupby("seed")["certain"].max()

    return criterion(
        id,
        statement,
        estimator,
        Measure(fall, "fall below own peak at confidence >= .97", "points").at_least(10, 5),
        Measure(partial(collapsed, mode=mode), "seeds with such a step", "seeds").reported,
        paper="not tried there",
        note=partial(steps_note, mode),
    )


ONLINE, LONG = WATCHED
rival = (Measure(nearest_checkpoint, "SFT") - rlsf.sampled_accuracy).points
last = Measure(lambda tables: course(tables, LONG, 120).groupby("seed")["below"].last(), "below own peak", "points")
published, pretrained = (partial(criterion, evidence=evidence) for evidence in ("published", "models"))

# --- Criteria -------------------------------------------------------------------------------------

CRITERIA = (
    published(
        "P1",
        "accuracy above greedy",
        "cells up; intervals above 0",
        *map(count, ("accuracy above greedy", "accuracy above greedy, interval above 0")),
        paper="5 of 6 cells",
        note="intervals: two independent binomials on the public split; secondary cells",
    ),
    published(
        "P2",
        "ECE below the RLHF arm",
        "cells; intervals below 0",
        *map(count, ("ECE below the RLHF arm", "ECE below the RLHF arm, interval below 0")),
        paper="4 of 4 math cells",
        note="two arms from one base are compared: no damaged model was repaired",
    ),
    published(
        "P3",
        "ECE below the base",
        "cells; intervals; Gemma math",
        *map(count, ("ECE below the base", "ECE below the base, interval below 0", "ECE below the base, Gemma math")),
        paper="not counted there",
        note="the math table shows damage avoided rather than repaired",
    ),
    published(
        "P4",
        "direction of the error",
        "cells with accuracy + ECE > 100; Qwen CoT sums within .05 of 100",
        *map(count, ("accuracy + ECE above 100", "Qwen CoT-decoding: accuracy + ECE within .05 of 100")),
        paper="not computed there",
        note="a sum above 100 needs underconfidence; near 100 ECE is 1 - accuracy in disguise",
    ),
    published(
        "P5",
        "amortised CoT-decoding",
        "accuracy intervals RLSF-PPO minus CoT that contain 0; ECE worse",
        *map(count, ("accuracy interval to CoT-decoding contains 0", "ECE above CoT-decoding")),
        paper="not computed there",
        note="what it buys is a tenth of the cost of inference",
    ),
    published(
        "P6",
        "the artefact",
        "ten answers, T 1 -> .7: change of ECE, disparity and probability",
        (100 * ((cold / warm).ece_disparity - 1)).named("ECE by disparity", "percent").at_most(-30),
        (cold - warm).ece_probability.points.named("ECE by probability").at_least(5),
        paper="the released evaluation defaults to disparity",
        note="a drop of the one can be pure overconfidence in the other",
    ),
    *W0,
    criterion(
        "W1",
        "(i) confidence ranks traces of one prompt",
        "within-prompt AUROC, disparity, 600 prompts; base, fluency, assured, sharpened, binary",
        *(
            before[start].within_auroc.named(f"within-prompt AUROC, {start}", "AUROC").at_least(0.8, 5)
            for start in ("base", "fluency", "assured", "sharpened", "binary")
        ),
        paper="not measured there",
        note=labels_note,
    ),
    criterion(
        "W2",
        "branching finds better traces",
        "CoT-decoding max path minus greedy, base",
        (branching[0] - greedy).accuracy.points.at_least(10, 5),
        *((other - greedy).accuracy.points.reported for other in branching[1:]),
        paper="-1.7 to +4.9",
    ),
    criterion(
        "W3",
        "(ii) training on it raises accuracy",
        "fluency + RLSF-RLOO minus fluency, sampled; greedy beside it",
        strengthened.sampled_accuracy.points.at_least(3, 5),
        strengthened.greedy_accuracy.points.reported,
        paper="-1.4 to +6.7 (greedy, PPO)",
        gates=STYLE,
    ),
    criterion(
        "W4",
        "... because of the ranking",
        "same minus shuffled (mean of the seed's shuffles), sampled",
        (rlsf - shuffled).sampled_accuracy.points.at_least(2, 4),
        (rlsf - shuffled).greedy_accuracy.points.reported,
        paper="no such control there",
        gates=STYLE,
    ),
    criterion(
        "W5a",
        "more step-by-step",
        "sampled share full: minus fluency; minus shuffled",
        strengthened.share_full.points.at_least(10, 5),
        (rlsf - shuffled).share_full.points.at_least(0, 4),
        paper="not measured there",
        gates=STYLE,
    ),
    criterion(
        "W5b",
        "better steps",
        "step validity in sampled full traces, minus base",
        (rlsf - base).step_validity.points.at_least(1, 4),
        paper="not measured there",
        gates=STYLE,
    ),
    criterion(
        "W6a",
        "(iii) repair of a less accurate, too certain model",
        "ECE prob., greedy and sampled, RLSF-RLOO vs assured",
        *fallen("assured", 4, greedy_ece="greedy ECE", sampled_ece="sampled ECE"),
        paper="compared with an RLHF arm, no repair",
        note=partial(source_note, "assured"),
        gates=BOTH,
    ),
    criterion(
        "W6b",
        "repair after binary reward",
        "greedy ECE prob. and gap",
        *fallen("binary", 4, greedy_ece="greedy ECE", greedy_gap="greedy gap"),
        paper="not tried there",
        note=partial(source_note, "binary"),
        gates=CERTAINTY,
    ),
    criterion(
        "W6c",
        "repair of sharpened logits",
        "greedy and sampled ECE prob. (3 seeds)",
        *fallen("sharpened", 5, greedy_ece="greedy ECE", sampled_ece="sampled ECE"),
        paper="not tried there",
        note=lambda tables: f"{FEW}; {source_note('sharpened', tables)}",
        gates=SHARP,
    ),
    *(
        criterion(
            f"W6d {start}",
            f"probabilities themselves repaired, {start}",
            "fixed traces, ECE prob., RLSF minus start: fluency, assured, binary, each judged alone",
            moved[start].fixed_ece.points.at_most(-2, 4),
            paper="not separated there",
            gates=gates,
        )
        for start, gates in (("fluency", CERTAINTY), ("assured", CERTAINTY + BOTH), ("binary", CERTAINTY))
    ),
    criterion(
        "W6e",
        "undamaged base stays calibrated",
        "sampled ECE prob., base + RLSF-RLOO minus base (3 seeds)",
        moved["base"].sampled_ece.points.at_most(1),
        paper="-11.0 to +.4 (greedy, by disparity?)",
        note=FEW,
    ),
    *(
        criterion(
            f"W6f {start}",
            f"reference: one temperature, {start}",
            "assured and binary, T from 200 labels at the answer token, greedy ECE after / before",
            (one.ece_after / one.ece_before).named("greedy ECE after / before", "ratio").at_most(0.5, 4),
            paper="not tried there",
            note="a reference for what 200 labels buy, not a label-free rival",
            gates=gates,
        )
        for start, one, gates in (
            ("assured", fitted.where(arm="assured"), BOTH),
            ("binary", fitted.where(arm="binary"), ()),
        )
    ),
    criterion(
        "W7",
        "the measure decides",
        "disparity: ECE(binary)/ECE(base); probability: same",
        (binary / base).greedy_ece_disparity.named("by disparity", "ratio").at_most(0.7, 5),
        (binary / base).greedy_ece.named("by probability", "ratio").at_least(1.5, 5),
        paper="which one was printed is not stated",
    ),
    criterion(
        "W8",
        "selection identity",
        "sign of gap change = sign of (1 - b) x confidence change, greedy",
        Measure(signs_agree, "share of starts whose sign agrees", "share").reported,
        *(
            measure.reported
            for start in before
            for measure in (moved[start].greedy_gap.points.named(f"gap, {start}"), predicted(start))
        ),
        paper="no theory there",
    ),
    criterion(
        "W9",
        "RL no worse than DPO in ECE",
        "greedy and sampled ECE prob., fluency start (3 seeds)",
        *((rlsf - dpo).column(f"{mode}_ece").points.at_most(0, 5) for mode in ("greedy", "sampled")),
        *((rlsf - dpo).column(f"{mode}_accuracy").points.reported for mode in ("greedy", "sampled")),
        paper="5 of 6 cells",
        note=FEW,
    ),
    criterion(
        "W10",
        "label-free rival",
        "sampled accuracy of SFT checkpoint with KL nearest to RLSF's, minus RLSF",
        rival.reported,
        paper="not tried there",
        note=needed_note,
    ),
    criterion(
        "W11",
        "shuffled null",
        "abs of mean over seeds and shuffles, sampled accuracy minus start; spread",
        (shuffled - fluency).sampled_accuracy.points.within(2),
        Measure(spread, "standard deviation over runs", "points").reported,
        paper="no such control there",
    ),
    collapse(
        "W12",
        "(v) online confidence collapses",
        "confidence >= .97 and accuracy >= 10 below own peak within 160 steps",
    ),
    collapse(
        "W12-greedy",
        "the same with greedy answers (added after the result of W12; no part rests on it)",
        "as W12, greedy: the plan's pilot had counted greedy answers",
        "greedy_",
    ),
    criterion(
        "W13",
        "(v) one-round RLSF does not",
        "fluency + RLSF-RLOO at 120 steps vs own peak, sampled accuracy",
        last.at_most(3, 5),
        paper="not prolonged there",
        note=FEW,
    ),
    criterion(
        "W14",
        "precondition",
        "half trap (1 seed): accuracy and gap change",
        *(
            trapped.column(f"{mode}_{measure}").points.reported
            for mode in ("greedy", "sampled")
            for measure in ("accuracy", "gap")
        ),
        paper="not tried there",
        note=trap_note,
    ),
    criterion(
        "W15",
        "(iv) no labels",
        "code path of labelling, reward model and RL receives prompts only (assert); constants fixed before any "
        "labelled evaluation",
        Measure(beyond_prompts, "labelling runs not shown to receive prompts only", "runs").equals(0),
        Rows("audit").how_many(lambda a: a["evaluations"] > 0, "steps that rest on an evaluation", "steps").equals(0),
        paper="by construction",
        note="RLSF steps of all starts; the start models themselves were made with labels",
    ),
    pretrained(
        "M1",
        "ranking on real models",
        "GSM8K and CommonsenseQA, >= 200 prompts with both right and wrong traces: within-prompt AUROC; max path minus "
        "greedy",
        *(
            check
            for dataset in SETS
            for check in (
                ranking(dataset, "within_auroc", "within-prompt AUROC").at_least(0.6),
                ranking(dataset, "within_auroc_low", "its lower bound").at_least(0.5),
                ranking(dataset, "max_path_gain", "max path minus greedy", "share").reported,
            )
        ),
        paper="not measured there",
    ),
    pretrained(
        "M2",
        "accuracy",
        "RLSF minus base greedy, 3 seeds, McNemar",
        *(
            check
            for dataset in SETS
            for check in (
                moved_on(dataset, "base", "accuracy").within(0, 6),
                moved_on(dataset, "base", "accuracy").named(f"not below -1, {dataset}").at_least(-1, 5),
                Rows("models_differences", dataset=dataset, arm="rlsf", other="base")
                .mcnemar_p.named(f"McNemar p, {dataset}", "p")
                .reported,
            )
        ),
        paper="+2.6, +5.0, +6.7",
        note=FEW,
    ),
    pretrained(
        "M3",
        "calibration",
        "ECE prob.: RLSF minus base; RLSF minus RLHF arm (public reward model, same KL)",
        *(
            moved_on(dataset, other, "ece").at_most(limit)
            for dataset in SETS
            for other, limit in (("base", 2), ("rlhf", -3))
        ),
        paper="(disparity?) -11 to +.4; -4.9 to -9.3",
        note=FEW,
    ),
    pretrained(
        "M4",
        "amortisation",
        "RLSF greedy minus CoT-decoding max path",
        *(moved_on(dataset, "cot", "accuracy").within(-3, 1) for dataset in SETS),
        paper="-1.0 to +2.2",
        note=FEW,
    ),
    pretrained(
        "M5",
        "DPO variant",
        "ECE and accuracy vs base",
        *(moved_on(dataset, "base", measure, "dpo").reported for dataset in SETS for measure in ("ece", "accuracy")),
        paper="ECE up in 5 of 6 cells",
    ),
    pretrained(
        "M6",
        "measure",
        "does any verdict of M2-M5 flip with disparity or with zeros dropped?",
        Rows("models_flips").how_many(lambda f: f["flips"].astype(bool), "verdicts that flip", "verdicts").reported,
        paper="disparity, zeros dropped, by default",
        note=flips_note,
    ),
    pretrained(
        "M7",
        "paper scale",
        "differences to own base: accuracy +-2.5 (GSM8K, CommonsenseQA), +-5 (MultiArith Qwen), +-1 (ARC); ECE +-3",
        *(printed_check(*cell, metric) for cell in PRINTED_CELLS for metric in ("accuracy", "ece")),
        paper="the printed differences",
        note="which confidence entered the printed ECE is not stated",
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

FIXED = tuple(f"W6d {start}" for start in STARTS)


def strengthens(verdict: Verdicts) -> tuple[str, str]:
    """W3 and W4; what to call it depends on W5a and W5b."""
    word = worst([verdict["W3"], verdict["W4"]])
    if word == NOT_ATTEMPTED:
        wording = "open"
    elif verdict["W5b"] == REPLICATED:
        wording = "better steps"
    elif verdict["W5a"] == REPLICATED:
        wording = "more stepwise traces"
    else:
        wording = "neither more stepwise traces nor better steps shown"
    return word, f"{wording}; {listed(verdict, 'W3', 'W4', 'W5a', 'W5b')}"


def probabilities_note(verdict: Verdicts) -> str:
    """Whether the probabilities on fixed traces were repaired (W6d)."""
    if all(verdict[c] == NOT_ATTEMPTED for c in FIXED):
        return "whether the probabilities changed was not tested (W6d)"
    if repaired := named(verdict, REPLICATED, *FIXED):
        return f"the probabilities themselves were repaired from {repaired.replace('W6d ', '')} (W6d)"
    return "no repair of the probabilities is shown (W6d), so that a fall of ECE came from accuracy or selection"


def reverses(verdict: Verdicts) -> tuple[str, str]:
    """Replicated if W6a and W6b hold, partly if one of them does, else the better of the two.

    So what was not attempted holds no more than what failed, and an interval that spans the limit leaves the part
    inconclusive where the other does not hold.
    """
    words = verdict["W6a"], verdict["W6b"]
    word = PARTLY if better(*words) == REPLICATED != worst(list(words)) else better(*words)
    beside = listed(verdict, "W6c", *FIXED, "W6e", "W6f assured", "W6f binary", "W7")
    return word, f"{listed(verdict, 'W6a', 'W6b')}; {probabilities_note(verdict)}; beside: {beside}"


def collapses_not(verdict: Verdicts) -> tuple[str, str]:
    return worst([verdict["W12"], verdict["W13"]]), f"three seeds; {listed(verdict, 'W12', 'W13')}"


def overall(verdict: Verdicts) -> tuple[str, str]:
    """Replicated if (i)-(iii) are, partly if (i) and (ii) hold and (iii) does not; otherwise by parts: the worst."""
    strong, wording = strengthens(verdict)
    repair, why = reverses(verdict)
    parts = {"(i)": verdict["W1"], "(ii)": strong, "(iii)": repair}
    head = f"(i) {verdict['W1']}, (ii) {strong} ({wording.split(';')[0]}), (iii) {repair}: {why}"
    if missing := named(parts, NOT_ATTEMPTED, *parts):
        return NOT_ATTEMPTED, f"still missing: {missing}; {head}"
    if verdict["W1"] == strong == REPLICATED:
        return (REPLICATED if repair == REPLICATED else PARTLY), head
    return worst(list(parts.values())), f"by parts: {head}"


PARTS = (
    Part("(i)", "world", "answer-span confidence ranks traces of one prompt by correctness", ("W1",)),
    Part("(ii)", "world", "training on the ranking strengthens step-by-step reasoning", ("W3", "W4"), strengthens),
    Part("(iii)", "world", "it reverses calibration damage", ("W6a", "W6b"), reverses),
    Part("(iv)", "world", "no human labels enter", ("W15",)),
    Part("(v)", "world", "it does not collapse as online confidence rewards do", ("W12", "W13"), collapses_not),
)

CLAIM = Claim(
    name="self_feedback",
    number=6,
    title="The model's own confidence as feedback",
    statement=(
        "A model's own answer-span confidence ranks reasoning traces into synthetic preferences, strengthens "
        "step-by-step reasoning and reverses RLHF's calibration damage without human labels (RLSF)."
    ),
    paper="niekerk2025rlsf",
    citation=(
        "van Niekerk, Vukovic, Ruppik, Lin, Gasic: Post-Training Large Language Models via Reinforcement Learning from "
        "Self-Feedback. arXiv 2507.21931, 2025"
    ),
    criteria=CRITERIA,
    parts=PARTS,
    overall=overall,
    tables=(
        *("counts", "artefact", "differences", "audit"),
        *("summary", "decoding", "temperature", "pairs", "trajectory"),
        *("models_ranking", "models_summary", "models_differences", "models_flips", "models_cells"),
    ),
)
