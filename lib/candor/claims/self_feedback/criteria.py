"""Claim 6, declared before any run: a model's own answer-span confidence as feedback (RLSF).

Changes are in points (100 x a share) unless they are relative (percent of what was there before). The RL arm is called
RLSF-RLOO, since it is not the paper's PPO.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from candor.claims import shared
from candor.claims.self_feedback.tables import CHECKPOINTS, GEMMA, PHI, QWEN, SHUFFLES, STARTS, WATCHED
from candor.claims.shared import Estimator, number, paired, select, together, wide
from candor.declare.ledger import (
    FULL_SEEDS,
    INCONCLUSIVE,
    NOT_ATTEMPTED,
    NOT_REPLICATED,
    PARTLY,
    REPLICATED,
    Band,
    Check,
    Claim,
    Criterion,
    Estimate,
    Incomplete,
    NotRun,
    Part,
    Tables,
    worst,
)

# --- Estimators -----------------------------------------------------------------------------------

ONLINE, LONG = WATCHED


def value(arm: str, measure: str, setting: str = "standard", table: str = "summary") -> Estimator:
    """One number a seed, as it is in the table."""
    return shared.value(table, measure, setting=setting, arm=arm)


def points(one: Estimator) -> Estimator:
    return lambda tables: 100 * one(tables)


def change(arm: str, start: str, measure: str, setting: str = "standard") -> Estimator:
    """An arm minus another on the same seed and questions, in points."""
    return points(paired(operator.sub, value(arm, measure, setting), value(start, measure, setting)))


def ratio(arm: str, other: str, measure: str) -> Estimator:
    """An arm's measure over that of another on the same seed."""
    return paired(operator.truediv, value(arm, measure), value(other, measure))


def relative(arm: str, start: str, measure: str) -> Estimator:
    """Change of an arm in percent of what its start has."""
    return lambda tables: 100 * (ratio(arm, start, measure)(tables) - 1)


def shuffles(measure: str) -> Estimator:
    """Mean over the seed's shuffles that ran."""

    def estimate(tables: Tables) -> pd.Series:
        found = wide(tables, "summary", measure, "arm", setting="standard").filter(SHUFFLES)
        if found.empty:
            raise NotRun("No shuffle was run.")
        return found.mean(axis=1).dropna()

    return estimate


def beyond_shuffled(measure: str) -> Estimator:
    """RLSF-RLOO from fluency minus the mean of the seed's shuffles, in points."""
    return points(paired(operator.sub, value("rlsf_fluency", measure), shuffles(measure)))


def held(name: str, *checks: Check) -> Check:
    """How many of the checks meet their pass condition (count of seeds, or mean): a gate needs all of them."""

    def met(check: Check, tables: Tables) -> bool:
        values = check.estimate(tables).dropna()
        if check.count is None:
            return check.band.holds(values.mean())
        return sum(map(check.band.holds, values)) >= math.ceil(check.count / FULL_SEEDS * len(values))

    def estimate(tables: Tables) -> Estimate:
        return Estimate(sum(met(check, tables) for check in checks), n=len(checks))

    return Check(name, estimate, Band(len(checks), len(checks)), unit="conditions")


def counted(name: str) -> Callable[[Tables], Estimate]:
    """A count of the published cells."""

    def estimate(tables: Tables) -> Estimate:
        found, n = (number(tables, "counts", column, name=name) for column in ("value", "n"))
        return Estimate(int(found), n=int(n))

    return estimate


def counts(*names: str) -> tuple[Check, ...]:
    return tuple(Check(name, counted(name), unit="cells") for name in names)


def cooled(measure: str, share: bool) -> Callable[[Tables], float]:
    """What T 1 -> .7 does to an ECE of the ten answers: percent of it if `share`, else points."""

    def estimate(tables: Tables) -> float:
        cold, usual = (number(tables, "artefact", measure, temperature=t) for t in (0.7, 1.0))
        return 100 * (cold / usual - 1) if share else 100 * (cold - usual)

    return estimate


def branching(rule: str) -> Estimator:
    """Accuracy of a way to decode the base's ten branches minus greedy, in points."""

    one, greedy = (
        shared.value("decoding", "accuracy", setting="standard", arm="base", method=m) for m in (rule, "greedy")
    )
    return points(paired(operator.sub, one, greedy))


def warmed(arm: str) -> Estimator:
    """Greedy ECE after one fitted temperature as a share of that before."""

    return paired(operator.truediv, *(value(arm, f"ece_{when}", table="temperature") for when in ("after", "before")))


def predicted_gap(start: str) -> Estimator:
    """(1 - b) x change of greedy confidence, b of the start's own branches: what selection does to the gap, points."""

    moved = change(f"rlsf_{start}", start, "greedy_confidence")
    return paired(lambda slope, change: (1 - slope) * change, value(start, "slope_b"), moved)


def signs_agree(tables: Tables) -> pd.Series:
    """Share of the starts in which the gap moved to the side that the identity of selection predicts, by seed."""
    agree = []
    for start in (*STARTS, "base", "sharpened"):
        moved = change(f"rlsf_{start}", start, "greedy_gap")
        same_sign = paired(lambda a, b: (np.sign(a) == np.sign(b)).astype(float), moved, predicted_gap(start))
        try:
            agree.append(same_sign(tables))
        except NotRun:
            continue
    if not agree:
        raise NotRun("No start was run with its RLSF-RLOO.")
    return pd.concat(agree, axis=1).mean(axis=1)


def nearest_checkpoint(tables: Tables) -> pd.Series:
    """Sampled accuracy of the SFT checkpoint whose KL to the start is nearest to that of RLSF-RLOO, minus its, points.

    Only seeds of which all checkpoints were evaluated.
    """
    kl, accuracy = (
        pd.concat([value(arm, measure)(tables) for arm in CHECKPOINTS], axis=1, keys=CHECKPOINTS)
        for measure in ("kl_start", "sampled_accuracy")
    )
    target = value("rlsf_fluency", "kl_start")(tables)
    seeds = kl.dropna().index.intersection(target.index)
    distance = kl.loc[seeds].sub(target[seeds], axis=0).abs()
    best = pd.Series([accuracy.at[seed, arm] for seed, arm in distance.idxmin(axis=1).items()], seeds)
    return 100 * (best - value("rlsf_fluency", "sampled_accuracy")(tables)[seeds])


def shuffled_change(tables: Tables) -> pd.Series:
    """Sampled accuracy of the shuffled null minus its start, mean over the seed's shuffles, in points."""
    return points(paired(operator.sub, shuffles("sampled_accuracy"), value("fluency", "sampled_accuracy")))(tables)


def shuffled_spread(tables: Tables) -> Estimate:
    """Standard deviation over all shuffled runs of the same change, in points."""
    found = []
    for arm in SHUFFLES:
        try:
            found.append(change(arm, "fluency", "sampled_accuracy")(tables))
        except NotRun:
            continue
    runs = pd.concat(found) if found else pd.Series(dtype=float)
    if len(runs) < 2:
        raise NotRun("A spread needs two runs of the shuffles.")
    return Estimate(float(runs.std()), n=len(runs))


# Along training


def course(tables: Tables, arm: str, until: int, mode: str = "") -> pd.DataFrame:
    """The checkpoints of an arm up to a step; `Incomplete` unless it reached that step on all its seeds.

    `accuracy` and `confidence` are sampled, or greedy with the mode `greedy_`.
    """
    columns = {name: f"{mode}{name}" for name in ("accuracy", "confidence")}
    found = shared.each_seed(tables, "trajectory", list(columns.values()), ["step"], arm=arm)
    if (found.groupby("seed")["step"].max() < until).any():
        raise Incomplete(f"{arm} did not reach step {until} on every seed")
    found = found[found["step"] <= until].assign(**{name: found[column] for name, column in columns.items()})
    return found.assign(below=100 * (found.groupby("seed")["accuracy"].cummax() - found["accuracy"]))


def certain_fall(tables: Tables, mode: str = "") -> pd.Series:
    """The deepest fall below its own peak while mean confidence is at least .97, within 160 steps, in points."""
    found = course(tables, ONLINE, 160, mode)
    return found["below"].where(found["confidence"] >= 0.97, 0.0).groupby(found["seed"]).max()


def collapse_step(tables: Tables, mode: str = "") -> pd.Series:
    """The first step with confidence of at least .97 and accuracy 10 points below its own peak; NaN if none."""
    found = course(tables, ONLINE, 160, mode)
    fallen = (found["confidence"] >= 0.97) & (found["below"] >= 10)
    return found["step"].where(fallen).groupby(found["seed"]).min()


def collapsed(tables: Tables, mode: str = "") -> Estimate:
    """On how many seeds there is such a step; the note says which it is. None at all is a finding, too."""
    found = collapse_step(tables, mode)
    return Estimate(int(found.notna().sum()), n=len(found))


def final_fall(tables: Tables) -> pd.Series:
    """Accuracy of 120 steps of RLSF-RLOO below its own peak along them, in points."""
    return course(tables, LONG, 120).groupby("seed")["below"].last()


def resting(tables: Tables) -> Estimate:
    """How many RLSF steps rest on an evaluation, directly or not."""
    return Estimate(int((tables["audit"]["evaluations"] > 0).sum()), n=len(tables["audit"]))


def beyond_prompts(tables: Tables) -> Estimate:
    """How many labelling runs were not shown to have received prompts and nothing else."""
    found = shared.each_seed(tables, "pairs", ["prompts_only"], ["arm"], setting="standard")["prompts_only"]
    return Estimate(int((~found.astype(bool)).sum()), n=len(found))


# --- Pretrained models ----------------------------------------------------------------------------

SEEDS = 3
SETS = ("gsm8k", "commonsense_qa")
PROMPTS = 200  # with both right and wrong traces


def on_set(dataset: str, arm: str, measure: str) -> Estimator:
    """A measure of an arm by seed; `Incomplete` unless all declared seeds are there."""

    def estimate(tables: Tables) -> pd.Series:
        found = shared.by_seed(tables, "models_summary", measure, dataset=dataset, arm=arm)
        if len(found) < SEEDS:
            raise Incomplete(f"{SEEDS} seeds of {arm} on {dataset} are needed and {len(found)} were run")
        return found

    return estimate


def moved(dataset: str, arm: str, other: str, measure: str) -> Estimator:
    """An arm minus another on the same seed and items, in points."""
    return points(paired(operator.sub, on_set(dataset, arm, measure), on_set(dataset, other, measure)))


def ranking(dataset: str, measure: str) -> Callable[[Tables], float]:
    """A number of the base's branches; `Incomplete` below 200 prompts with both right and wrong traces."""

    def estimate(tables: Tables) -> float:
        row = select(tables, "models_ranking", dataset=dataset).iloc[0]  # the limit and finder of the arms come first
        if row["prompts"] < PROMPTS:
            raise Incomplete(f"{PROMPTS} prompts of {dataset} with right and wrong traces are needed")
        return float(row[measure])

    return estimate


def chance(dataset: str, arm: str, other: str) -> Estimator:
    """McNemar's p value of the difference in accuracy, by seed."""

    return shared.value("models_differences", "mcnemar_p", dataset=dataset, arm=arm, other=other)


# Paper scale: how far a change may be from the printed one, in points (None: reported).
PRINTED_CELLS = {
    ("gemma", "gsm8k"): (GEMMA, "GSM8K", 2.5),
    ("qwen", "gsm8k"): (QWEN, "GSM8K", 2.5),
    ("phi", "commonsense_qa"): (PHI, "CommonsenseQA", 2.5),
    ("qwen", "multi_arith"): (QWEN, "MultiArith", 5.0),
    ("gemma", "arc_easy"): (GEMMA, "ARC-Easy", 1.0),
    ("gemma", "multi_arith"): (GEMMA, "MultiArith", None),
}


def from_printed(model: str, dataset: str, metric: str) -> Callable[[Tables], float]:
    """Change of RLSF since its own base minus the printed change of RLSF-PPO, in points."""
    name, printed_set, _ = PRINTED_CELLS[model, dataset]

    def estimate(tables: Tables) -> float:
        found = number(tables, "models_cells", f"{metric}_change", model=model, dataset=dataset, arm="rlsf")
        where = {"model": name, "dataset": printed_set, "arm": "rlsf_ppo", "comparison": "base", "metric": metric}
        return 100 * found - number(tables, "differences", "value", **where)

    return estimate


def printed_checks() -> tuple[Check, ...]:
    return tuple(
        Check(
            f"{metric} change minus the printed one, {name} {printed_set}",
            from_printed(model, dataset, metric),
            None if limit is None else Band(-limit, limit),
            unit="points",
        )
        for (model, dataset), (name, printed_set, tolerance) in PRINTED_CELLS.items()
        for metric, limit in (("accuracy", tolerance), ("ece", 3.0))
    )


def each(make: Callable[[str], tuple[Check, ...]], sets: tuple[str, ...] = SETS) -> tuple[Check, ...]:
    return tuple(check for dataset in sets for check in make(dataset))


# --- Notes that depend on the outcome -------------------------------------------------------------


def mean(one: Estimator, tables: Tables) -> float:
    return float(one(tables).mean())


def source_note(start: str) -> Callable[[Tables], str]:
    """Where a change of greedy ECE comes from: accuracy, selection, or the probabilities on fixed traces."""

    def note(tables: Tables) -> str:
        arm = f"rlsf_{start}"
        ece, right, sure, gap, fixed = (
            mean(change(arm, start, m), tables)
            for m in ("greedy_ece", "greedy_accuracy", "greedy_confidence", "greedy_gap", "fixed_ece")
        )
        predicted = mean(predicted_gap(start), tables)
        if ece >= 0:
            word = "greedy ECE did not fall"
        elif fixed <= -2:
            word = "the probabilities themselves changed (W6d)"
        elif right > abs(sure) and abs(predicted) < abs(gap) / 2:
            word = "its fall came from accuracy"
        else:
            word = "its fall came from selection"
        return (
            f"greedy ECE {ece:+.1f}: {word}; accuracy {right:+.1f}, confidence {sure:+.1f}, gap {gap:+.1f} (selection "
            f"predicts {predicted:+.1f}), ECE on fixed traces {fixed:+.1f}; {row_note(start, tables)}"
        )

    return note


def row_note(start: str, tables: Tables) -> str:
    """Greedy and sampled ECE of base, damaged and repaired in one row, percent."""
    arms = ("base", start, f"rlsf_{start}")
    greedy, sampled = (
        " -> ".join(f"{100 * mean(value(arm, f'{mode}_ece'), tables):.1f}" for arm in arms)
        for mode in ("greedy", "sampled")
    )
    return f"ECE of base -> damaged -> repaired: greedy {greedy}, sampled {sampled}"


def steps_note(tables: Tables, mode: str = "") -> str:
    """What the online reward did on each seed, whatever its confidence was."""
    found, seeds = collapse_step(tables, mode), course(tables, ONLINE, 160, mode).groupby("seed")
    steps = ", ".join("-" if np.isnan(step) else f"{step:.0f}" for step in found)
    falls = ", ".join(f"{points:.0f}" for points in seeds["below"].last())
    return (
        f"below its own peak at the end by {falls} points, with confidence at most "
        f"{', '.join(f'{top:.3f}' for top in seeds['confidence'].max())}; collapse at step {steps}"
    )


def needed_note(tables: Tables) -> str:
    found = nearest_checkpoint(tables)
    needed = len(found) >= SEEDS and (found <= -2).all()
    return (
        f'RLSF {"" if needed else "not "}"needed": SFT is at least 2 points worse in {(found <= -2).sum()}/{len(found)}'
    )


def trap_note(tables: Tables) -> str:
    right, gap = (
        mean(change("rlsf_fluency", "fluency", f"greedy_{m}", "half_trap"), tables) for m in ("accuracy", "gap")
    )
    return f"one seed; {'as' if right <= 0 and gap >= 10 else 'not as'} expected (accuracy <= 0, gap >= +10)"


def labels_note(tables: Tables) -> str:
    said = []
    for arm in tables["pairs"]["arm"].unique():
        number, share = (value(arm, name, table="pairs")(tables).mean() for name in ("number", "different_answers"))
        said.append(f"{arm} {number:,.0f} ({share:.0%})")
    return f"pairs (share with different answers): {', '.join(said)}"


def flips_note(tables: Tables) -> str:
    """Which verdicts of pretrained models turn with the measure."""
    found = tables["models_flips"]
    flipped = found[found["flips"].astype(bool)]
    if flipped.empty:
        return "no verdict of M2-M5 flips with disparity or with zeros dropped"
    return "flips: " + ", ".join(f"{row.criterion} on {row.dataset} with {row.variant}" for row in flipped.itertuples())


# --- Criteria -------------------------------------------------------------------------------------

_FEW = "three seeds: partly is the best they can give"


def _w0a() -> tuple[Check, ...]:
    return (
        Check("sampled accuracy, fluency minus base", change("fluency", "base", "sampled_accuracy"), Band(high=-3), 5),
        Check("sampled share full, fluency", points(value("fluency", "share_full")), Band(low=3)),
    )


def _w0b() -> tuple[Check, ...]:
    return (
        Check("greedy ECE, binary / base", ratio("binary", "base", "greedy_ece"), Band(low=1.5), 5, unit="ratio"),
        Check("greedy ECE, binary minus base", change("binary", "base", "greedy_ece"), Band(low=4), 5, unit="points"),
    )


def _w0c() -> tuple[Check, ...]:
    return (
        Check("sampled accuracy, assured minus base", change("assured", "base", "sampled_accuracy"), Band(high=-3), 5),
        *(
            Check(f"{mode} ECE, assured minus base", change("assured", "base", f"{mode}_ece"), Band(low=4), 5)
            for mode in ("greedy", "sampled")
        ),
        Check("sampled share full, assured", points(value("assured", "share_full")), Band(low=3), 5),
    )


def _w0d() -> tuple[Check, ...]:
    return (
        Check("sampled ECE, sharpened minus base", change("sharpened", "base", "sampled_ece"), Band(low=1.5), 4),
        Check("fitted temperature", value("sharpened", "temperature", table="temperature"), Band(1.5, 2.5), unit="T"),
    )


W0A, W0B, W0C, W0D = (
    held(name, *checks()) for name, checks in (("W0a", _w0a), ("W0b", _w0b), ("W0c", _w0c), ("W0d", _w0d))
)


def _fallen(start: str, *measures: tuple[str, str], count: int) -> tuple[Check, ...]:
    """Each measure at least 20 % lower after RLSF-RLOO than before, and all of them on the same seeds."""
    checks = tuple(
        Check(f"{words}, change", relative(f"rlsf_{start}", start, measure), Band(high=-20), count, unit="percent")
        for measure, words in measures
    )
    return *checks, together("both on the same seed, slack", count, *checks)


def _fixed(start: str, gates: tuple[Check, ...]) -> Criterion:
    return Criterion(
        f"W6d {start}",
        "world",
        f"probabilities themselves repaired, {start}",
        "fixed traces, ECE prob., RLSF minus start: fluency, assured, binary, each judged alone",
        "<= -2 points in 4/5",
        (Check("ECE on fixed traces", change(f"rlsf_{start}", start, "fixed_ece"), Band(high=-2), 4, unit="points"),),
        paper_value="not separated there",
        gates=gates,
    )


def _temperature(start: str, gates: tuple[Check, ...] = ()) -> Criterion:
    return Criterion(
        f"W6f {start}",
        "world",
        f"reference: one temperature, {start}",
        "assured and binary, T from 200 labels at the answer token, greedy ECE after / before",
        "<= .5 in 4/5 each",
        (Check("greedy ECE after / before", warmed(start), Band(high=0.5), 4, unit="ratio"),),
        paper_value="not tried there",
        note="a reference for what 200 labels buy, not a label-free rival",
        gates=gates,
    )


CRITERIA = (
    Criterion(
        "P1",
        "published",
        "accuracy above greedy",
        "cells up; intervals above 0",
        "print both",
        counts("accuracy above greedy", "accuracy above greedy, interval above 0"),
        paper_value="5 of 6 cells",
        note="intervals: two independent binomials on the public split; secondary cells",
    ),
    Criterion(
        "P2",
        "published",
        "ECE below the RLHF arm",
        "cells; intervals below 0",
        "print both",
        counts("ECE below the RLHF arm", "ECE below the RLHF arm, interval below 0"),
        paper_value="4 of 4 math cells",
        note="two arms from one base are compared: no damaged model was repaired",
    ),
    Criterion(
        "P3",
        "published",
        "ECE below the base",
        "cells; intervals; Gemma math",
        "print all",
        counts("ECE below the base", "ECE below the base, interval below 0", "ECE below the base, Gemma math"),
        paper_value="not counted there",
        note="the math table shows damage avoided rather than repaired",
    ),
    Criterion(
        "P4",
        "published",
        "direction of the error",
        "cells with accuracy + ECE > 100; Qwen CoT sums within .05 of 100",
        "print both",
        counts("accuracy + ECE above 100", "Qwen CoT-decoding: accuracy + ECE within .05 of 100"),
        paper_value="not computed there",
        note="a sum above 100 needs underconfidence; near 100 ECE is 1 - accuracy in disguise",
    ),
    Criterion(
        "P5",
        "published",
        "amortised CoT-decoding",
        "accuracy intervals RLSF-PPO minus CoT that contain 0; ECE worse",
        "print both",
        counts("accuracy interval to CoT-decoding contains 0", "ECE above CoT-decoding"),
        paper_value="not computed there",
        note="what it buys is a tenth of the cost of inference",
    ),
    Criterion(
        "P6",
        "published",
        "the artefact",
        "ten answers, T 1 -> .7: change of ECE, disparity and probability",
        "disparity <= -30 % relative, probability >= +5 points",
        (
            Check("ECE by disparity", cooled("ece_disparity", share=True), Band(high=-30), unit="percent"),
            Check("ECE by probability", cooled("ece_probability", share=False), Band(low=5), unit="points"),
        ),
        paper_value="the released evaluation defaults to disparity",
        note="a drop of the one can be pure overconfidence in the other",
    ),
    Criterion(
        "W0a",
        "world",
        "style damage (gate of W3-W5)",
        "fluency: sampled accuracy vs base; sampled share full",
        "<= -3 in 5/5; >= 3 %",
        (W0A, *_w0a()),
    ),
    Criterion(
        "W0b",
        "world",
        "calibration damage (gate of W6b, W6d)",
        "binary: greedy ECE prob.",
        ">= 1.5 x base and >= +4 in 5/5",
        (W0B, *_w0b()),
    ),
    Criterion(
        "W0c",
        "world",
        "both (gate of W6a)",
        "assured: sampled accuracy, greedy and sampled ECE prob., share full",
        "<= -3; both >= base + 4; >= 3 %; in 5/5",
        (W0C, *_w0c()),
    ),
    Criterion(
        "W0d",
        "world",
        "positive control (gate of W6c)",
        "sharpened: sampled ECE prob.; fitted temperature",
        ">= +1.5 in 4/5; T 1.5-2.5",
        (W0D, *_w0d()),
    ),
    Criterion(
        "W1",
        "world",
        "(i) confidence ranks traces of one prompt",
        "within-prompt AUROC, disparity, 600 prompts; base, fluency, assured, sharpened, binary",
        ">= .80 in 5/5 for each",
        tuple(
            Check(f"within-prompt AUROC, {arm}", value(arm, "within_auroc"), Band(low=0.8), 5, unit="AUROC")
            for arm in ("base", "fluency", "assured", "sharpened", "binary")
        ),
        paper_value="not measured there",
        note=labels_note,
    ),
    Criterion(
        "W2",
        "world",
        "branching finds better traces",
        "CoT-decoding max path minus greedy, base",
        ">= +10 points in 5/5",
        (
            Check("max path minus greedy", branching("max_path"), Band(low=10), 5, unit="points"),
            Check("aggregated minus greedy", branching("aggregated"), unit="points"),
            Check("majority minus greedy", branching("majority"), unit="points"),
        ),
        paper_value="-1.7 to +4.9",
    ),
    Criterion(
        "W3",
        "world",
        "(ii) training on it raises accuracy",
        "fluency + RLSF-RLOO minus fluency, sampled; greedy beside it",
        ">= +3 in 5/5",
        (
            Check(
                "sampled accuracy", change("rlsf_fluency", "fluency", "sampled_accuracy"), Band(low=3), 5, unit="points"
            ),
            Check("greedy accuracy", change("rlsf_fluency", "fluency", "greedy_accuracy"), unit="points"),
        ),
        paper_value="-1.4 to +6.7 (greedy, PPO)",
        gates=(W0A,),
    ),
    Criterion(
        "W4",
        "world",
        "... because of the ranking",
        "same minus shuffled (mean of the seed's shuffles), sampled",
        ">= +2 in 4/5",
        (
            Check("sampled accuracy", beyond_shuffled("sampled_accuracy"), Band(low=2), 4, unit="points"),
            Check("greedy accuracy", beyond_shuffled("greedy_accuracy"), unit="points"),
        ),
        paper_value="no such control there",
        gates=(W0A,),
    ),
    Criterion(
        "W5a",
        "world",
        "more step-by-step",
        "sampled share full: minus fluency; minus shuffled",
        ">= +10 in 5/5; > 0 in 4/5",
        (
            Check(
                "share full minus fluency",
                change("rlsf_fluency", "fluency", "share_full"),
                Band(low=10),
                5,
                unit="points",
            ),
            Check("share full minus shuffled", beyond_shuffled("share_full"), Band(low=0), 4, unit="points"),
        ),
        paper_value="not measured there",
        gates=(W0A,),
    ),
    Criterion(
        "W5b",
        "world",
        "better steps",
        "step validity in sampled full traces, minus base",
        ">= +1 point in 4/5",
        (Check("step validity", change("rlsf_fluency", "base", "step_validity"), Band(low=1), 4, unit="points"),),
        paper_value="not measured there",
        gates=(W0A,),
    ),
    Criterion(
        "W6a",
        "world",
        "(iii) repair of a less accurate, too certain model",
        "ECE prob., greedy and sampled, RLSF-RLOO vs assured",
        "both <= -20 % relative in 4/5",
        _fallen("assured", ("greedy_ece", "greedy ECE"), ("sampled_ece", "sampled ECE"), count=4),
        paper_value="compared with an RLHF arm, no repair",
        note=source_note("assured"),
        gates=(W0C,),
    ),
    Criterion(
        "W6b",
        "world",
        "repair after binary reward",
        "greedy ECE prob. and gap",
        "both <= -20 % relative in 4/5",
        _fallen("binary", ("greedy_ece", "greedy ECE"), ("greedy_gap", "greedy gap"), count=4),
        paper_value="not tried there",
        note=source_note("binary"),
        gates=(W0B,),
    ),
    Criterion(
        "W6c",
        "world",
        "repair of sharpened logits",
        "greedy and sampled ECE prob. (3 seeds)",
        "both <= -20 % in 3/3",
        _fallen("sharpened", ("greedy_ece", "greedy ECE"), ("sampled_ece", "sampled ECE"), count=5),
        paper_value="not tried there",
        note=lambda tables: f"{_FEW}; {source_note('sharpened')(tables)}",
        gates=(W0D,),
    ),
    _fixed("fluency", (W0B,)),
    _fixed("assured", (W0B, W0C)),
    _fixed("binary", (W0B,)),
    Criterion(
        "W6e",
        "world",
        "undamaged base stays calibrated",
        "sampled ECE prob., base + RLSF-RLOO minus base (3 seeds)",
        "<= +1.0",
        (Check("sampled ECE", change("rlsf_base", "base", "sampled_ece"), Band(high=1), unit="points"),),
        paper_value="-11.0 to +.4 (greedy, by disparity?)",
        note=_FEW,
    ),
    _temperature("assured", (W0C,)),
    _temperature("binary"),
    Criterion(
        "W7",
        "world",
        "the measure decides",
        "disparity: ECE(binary)/ECE(base); probability: same",
        "<= .7 and >= 1.5, both in 5/5",
        (
            Check("by disparity", ratio("binary", "base", "greedy_ece_disparity"), Band(high=0.7), 5, unit="ratio"),
            Check("by probability", ratio("binary", "base", "greedy_ece"), Band(low=1.5), 5, unit="ratio"),
        ),
        paper_value="which one was printed is not stated",
    ),
    Criterion(
        "W8",
        "world",
        "selection identity",
        "sign of gap change = sign of (1 - b) x confidence change, greedy",
        "report, no band",
        (
            Check("share of starts whose sign agrees", signs_agree, unit="share"),
            *(
                check
                for start in (*STARTS, "base", "sharpened")
                for check in (
                    Check(f"gap, {start}", change(f"rlsf_{start}", start, "greedy_gap"), unit="points"),
                    Check(f"predicted gap, {start}", predicted_gap(start), unit="points"),
                )
            ),
        ),
        paper_value="no theory there",
    ),
    Criterion(
        "W9",
        "world",
        "RL no worse than DPO in ECE",
        "greedy and sampled ECE prob., fluency start (3 seeds)",
        "sign 3/3; accuracy beside it",
        (
            *(
                Check(
                    f"{mode} ECE, RLSF-RLOO minus DPO",
                    change("rlsf_fluency", "fluency_dpo", f"{mode}_ece"),
                    Band(high=0),
                    5,
                    unit="points",
                )
                for mode in ("greedy", "sampled")
            ),
            *(
                Check(
                    f"{mode} accuracy, RLSF-RLOO minus DPO",
                    change("rlsf_fluency", "fluency_dpo", f"{mode}_accuracy"),
                    unit="points",
                )
                for mode in ("greedy", "sampled")
            ),
        ),
        paper_value="5 of 6 cells",
        note=_FEW,
    ),
    Criterion(
        "W10",
        "world",
        "label-free rival",
        "sampled accuracy of SFT checkpoint with KL nearest to RLSF's, minus RLSF",
        'report; RLSF "needed" if <= -2 in 3/3',
        (Check("sampled accuracy, SFT minus RLSF-RLOO", nearest_checkpoint, unit="points"),),
        paper_value="not tried there",
        note=needed_note,
    ),
    Criterion(
        "W11",
        "world",
        "shuffled null",
        "abs of mean over seeds and shuffles, sampled accuracy minus start; spread",
        "<= 2 points; spread printed",
        (
            Check("sampled accuracy, shuffled minus fluency", shuffled_change, Band(-2, 2), unit="points"),
            Check("standard deviation over runs", shuffled_spread, unit="points"),
        ),
        paper_value="no such control there",
    ),
    Criterion(
        "W12",
        "world",
        "(v) online confidence collapses",
        "confidence >= .97 and accuracy >= 10 below own peak within 160 steps",
        "3/3; report step",
        (
            Check("fall below own peak at confidence >= .97", certain_fall, Band(low=10), 5, unit="points"),
            Check("seeds with such a step", collapsed, unit="seeds"),
        ),
        paper_value="not tried there",
        note=lambda tables: f"{_FEW}; {steps_note(tables)}",
    ),
    Criterion(
        "W12-greedy",
        "world",
        "the same with greedy answers (added after the result of W12; no part rests on it)",
        "as W12, greedy: the plan's pilot had counted greedy answers",
        "as W12",
        (
            Check(
                "fall below own peak at confidence >= .97, greedy",
                partial(certain_fall, mode="greedy_"),
                Band(low=10),
                5,
                unit="points",
            ),
            Check("seeds with such a step, greedy", partial(collapsed, mode="greedy_"), unit="seeds"),
        ),
        paper_value="not tried there",
        note=lambda tables: f"{_FEW}; {steps_note(tables, 'greedy_')}",
    ),
    Criterion(
        "W13",
        "world",
        "(v) one-round RLSF does not",
        "fluency + RLSF-RLOO at 120 steps vs own peak, sampled accuracy",
        "within 3 points in 3/3",
        (Check("below own peak at 120 steps", final_fall, Band(high=3), 5, unit="points"),),
        paper_value="not prolonged there",
        note=_FEW,
    ),
    Criterion(
        "W14",
        "world",
        "precondition",
        "half trap (1 seed): accuracy and gap change",
        "report; expected <= 0 and >= +10",
        tuple(
            Check(f"{mode} {m}", change("rlsf_fluency", "fluency", f"{mode}_{m}", "half_trap"), unit="points")
            for mode in ("greedy", "sampled")
            for m in ("accuracy", "gap")
        ),
        paper_value="not tried there",
        note=trap_note,
    ),
    Criterion(
        "W15",
        "world",
        "(iv) no labels",
        "code path of labelling, reward model and RL receives prompts only (assert); constants fixed before any "
        "labelled evaluation",
        "holds",
        (
            Check("labelling runs not shown to receive prompts only", beyond_prompts, Band(0, 0), unit="runs"),
            Check("steps that rest on an evaluation", resting, Band(0, 0), unit="steps"),
        ),
        paper_value="by construction",
        note="RLSF steps of all starts; the start models themselves were made with labels",
    ),
    Criterion(
        "M1",
        "models",
        "ranking on real models",
        "GSM8K and CommonsenseQA, >= 200 prompts with both right and wrong traces: within-prompt AUROC; max path minus "
        "greedy",
        ">= .60, lower bound > .5; report",
        each(
            lambda dataset: (
                Check(f"within-prompt AUROC, {dataset}", ranking(dataset, "within_auroc"), Band(low=0.6), unit="AUROC"),
                Check(f"its lower bound, {dataset}", ranking(dataset, "within_auroc_low"), Band(low=0.5), unit="AUROC"),
                Check(f"max path minus greedy, {dataset}", ranking(dataset, "max_path_gain"), unit="share"),
            )
        ),
        paper_value="not measured there",
    ),
    Criterion(
        "M2",
        "models",
        "accuracy",
        "RLSF minus base greedy, 3 seeds, McNemar",
        "0 to +6 points, not below -1",
        each(
            lambda dataset: (
                Check(f"accuracy, {dataset}", moved(dataset, "rlsf", "base", "accuracy"), Band(0, 6), unit="points"),
                Check(
                    f"not below -1, {dataset}",
                    moved(dataset, "rlsf", "base", "accuracy"),
                    Band(low=-1),
                    5,
                    unit="points",
                ),
                Check(f"McNemar p, {dataset}", chance(dataset, "rlsf", "base"), unit="p"),
            )
        ),
        paper_value="+2.6, +5.0, +6.7",
        note=_FEW,
    ),
    Criterion(
        "M3",
        "models",
        "calibration",
        "ECE prob.: RLSF minus base; RLSF minus RLHF arm (public reward model, same KL)",
        "<= +2; <= -3",
        each(
            lambda dataset: (
                Check(
                    f"ECE, RLSF minus base, {dataset}",
                    moved(dataset, "rlsf", "base", "ece"),
                    Band(high=2),
                    unit="points",
                ),
                Check(
                    f"ECE, RLSF minus RLHF, {dataset}",
                    moved(dataset, "rlsf", "rlhf", "ece"),
                    Band(high=-3),
                    unit="points",
                ),
            )
        ),
        paper_value="(disparity?) -11 to +.4; -4.9 to -9.3",
        note=_FEW,
    ),
    Criterion(
        "M4",
        "models",
        "amortisation",
        "RLSF greedy minus CoT-decoding max path",
        ">= -3 and <= +1 at a tenth of the cost",
        each(
            lambda dataset: (
                Check(
                    f"accuracy, RLSF minus max path, {dataset}",
                    moved(dataset, "rlsf", "cot", "accuracy"),
                    Band(-3, 1),
                    unit="points",
                ),
            )
        ),
        paper_value="-1.0 to +2.2",
        note=_FEW,
    ),
    Criterion(
        "M5",
        "models",
        "DPO variant",
        "ECE and accuracy vs base",
        "report; paper: ECE up in 5/6",
        each(
            lambda dataset: (
                Check(f"ECE, {dataset}", moved(dataset, "dpo", "base", "ece"), unit="points"),
                Check(f"accuracy, {dataset}", moved(dataset, "dpo", "base", "accuracy"), unit="points"),
            )
        ),
        paper_value="ECE up in 5 of 6 cells",
    ),
    Criterion(
        "M6",
        "models",
        "measure",
        "does any verdict of M2-M5 flip with disparity or with zeros dropped?",
        "report",
        (
            Check(
                "verdicts that flip",
                shared.counted("models_flips", lambda found: found["flips"].astype(bool)),
                unit="verdicts",
            ),
        ),
        paper_value="disparity, zeros dropped, by default",
        note=flips_note,
    ),
    Criterion(
        "M7",
        "models",
        "paper scale",
        "differences to own base: accuracy +-2.5 (GSM8K, CommonsenseQA), +-5 (MultiArith Qwen), +-1 (ARC); ECE +-3",
        "per cell; levels not graded",
        printed_checks(),
        paper_value="the printed differences",
        note="which confidence entered the printed ECE is not stated",
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

Verdicts = Mapping[str, str]


def listed(verdict: Verdicts, *criteria: str) -> str:
    return ", ".join(f"{c} {verdict[c]}" for c in criteria)


def strengthens(verdict: Verdicts) -> tuple[str, str]:
    """W3 and W4; what to call it depends on W5a and W5b."""
    word = worst([verdict["W3"], verdict["W4"]])
    more, better = (verdict[c] == REPLICATED for c in ("W5a", "W5b"))
    if word == NOT_ATTEMPTED:
        wording = "open"
    elif better:
        wording = "better steps"
    elif more:
        wording = "more stepwise traces"
    else:
        wording = "neither more stepwise traces nor better steps shown"
    return word, f"{wording}; {listed(verdict, 'W3', 'W4', 'W5a', 'W5b')}"


FIXED = tuple(f"W6d {start}" for start in STARTS)
BESIDE = ("W6c", *FIXED, "W6e", "W6f assured", "W6f binary", "W7")


def probabilities_note(verdict: Verdicts) -> str:
    """Whether the probabilities on fixed traces were repaired (W6d)."""
    repaired = [c.removeprefix("W6d ") for c in FIXED if verdict[c] == REPLICATED]
    judged = [c for c in FIXED if verdict[c] != NOT_ATTEMPTED]
    if not judged:
        return "whether the probabilities changed was not tested (W6d)"
    if repaired:
        return f"the probabilities themselves were repaired from {', '.join(repaired)} (W6d)"
    return "no repair of the probabilities is shown (W6d), so that a fall of ECE came from accuracy or selection"


def reverses(verdict: Verdicts) -> tuple[str, str]:
    """Replicated if W6a and W6b hold, partly if one of them does, not replicated if neither.

    What was not attempted holds no more than what failed, but if neither was attempted the part was not. An interval
    that spans the limit leaves it inconclusive where the other does not hold.
    """
    both = [verdict[c] for c in ("W6a", "W6b")]
    if both == [NOT_ATTEMPTED, NOT_ATTEMPTED]:
        word = NOT_ATTEMPTED
    elif both == [REPLICATED, REPLICATED]:
        word = REPLICATED
    elif REPLICATED in both or PARTLY in both:
        word = PARTLY
    else:
        word = INCONCLUSIVE if INCONCLUSIVE in both else NOT_REPLICATED
    return word, f"{listed(verdict, 'W6a', 'W6b')}; {probabilities_note(verdict)}; beside: {listed(verdict, *BESIDE)}"


def collapses_not(verdict: Verdicts) -> tuple[str, str]:
    return worst([verdict["W12"], verdict["W13"]]), f"three seeds; {listed(verdict, 'W12', 'W13')}"


def overall(verdict: Verdicts) -> tuple[str, str]:
    """Replicated if (i)-(iii) are, partly if (i) and (ii) hold and (iii) does not; otherwise by parts: the worst."""
    ranks = verdict["W1"]
    strong, wording = strengthens(verdict)
    repair, why = reverses(verdict)
    parts = {"(i)": ranks, "(ii)": strong, "(iii)": repair}
    head = f"(i) {ranks}, (ii) {strong} ({wording.split(';')[0]}), (iii) {repair}: {why}"
    if missing := [part for part, word in parts.items() if word == NOT_ATTEMPTED]:
        return NOT_ATTEMPTED, f"still missing: {', '.join(missing)}; {head}"
    if ranks == strong == REPLICATED:
        return (REPLICATED if repair == REPLICATED else PARTLY), head
    return worst(list(parts.values())), f"by parts: {head}"


PARTS = (
    Part(
        "(i)",
        "world",
        "answer-span confidence ranks traces of one prompt by correctness",
        ("W1",),
    ),
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
