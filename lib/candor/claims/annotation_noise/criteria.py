"""Claim 4, declared before any run: what an annotation measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from candor.claims.annotation_noise.judges import TYPES
from candor.claims.annotation_noise.tables import FLIPPED
from candor.declare.expressions import Measure, Rows, both, criterion, select, wide
from candor.declare.ledger import (
    INCONCLUSIVE,
    NOT_ATTEMPTED,
    REPLICATED,
    Check,
    Claim,
    Estimate,
    Part,
    Tables,
    Verdicts,
    attempted,
    listed,
    named,
    not_shown,
    worst,
)

KL = "kl_0.15"
policies, shares, gate = Rows("policies"), Rows("shares"), Rows("gate", setting="main")
naive, weight = policies.where(arm="naive"), policies.where(arm="weight")
matched, gaps = Rows("models_policies", run="matched"), Rows("models_gap")
hosking = Rows("models_hosking", number=True)
EQUAL_LABELS = ("frrand_4x", "weight")  # one label on each of four times the pairs, four labels on each pair
REPAIRS = ("weight", "frbal", "frrand")


def tilted(arm: str, setting: str = "main") -> Rows:
    """The closed-form policy on an arm's reward model at KL .15; the base itself at KL 0."""
    at: dict[str, Any] = {} if arm == "base" else {"condition": KL}
    return Rows("tilt", setting=setting, arm=arm, **at)


def ece(arm: str, other: str, setting: str = "main") -> Measure:
    """ECE of an arm minus that of another, at KL .15."""
    return (tilted(arm, setting) - tilted(other, setting)).ece.named(f"ECE, {arm} minus {other}")


def less(rows: Rows, measure: str, other: str, name: str) -> Measure:
    """A column minus another of the same rows."""
    return (rows.column(measure) - rows.column(other)).named(name)


def spread(prefix: str, column: str) -> Callable[[Tables], pd.Series]:
    """Largest minus smallest over the three starts of a mixture, by seed."""

    def estimate(tables: Tables) -> pd.Series:
        starts = [shares.where(method=f"{prefix}_start{k}").column(column)(tables) for k in (1, 2, 3)]
        table = pd.concat(starts, axis=1)
        return table.max(axis=1) - table.min(axis=1)

    return estimate


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

# Published numbers


def ordered(column: str) -> Callable[[Tables], Estimate]:
    """How many steps of low > baseline > high assertiveness hold in a column of the Hosking table."""

    def estimate(tables: Tables) -> Estimate:
        gap = tables["hosking"].set_index("style")[column]
        return Estimate(int(gap["low"] > gap["baseline"]) + int(gap["baseline"] > gap["high"]), n=2)

    return estimate


def near(tables: Tables, agreement: float = 0.73, tolerance: float = 0.01) -> pd.DataFrame:
    """The mixes whose pairwise agreement is the usual one."""
    ridge = tables["ridge"]
    return ridge[(ridge["agreement"] - agreement).abs() <= tolerance]


def above_null(raters: int) -> Measure:
    """18.6 % minus what removing one rater in five at random does, at this number of raters a prompt."""
    return (FLIPPED - Rows("removal", raters=raters, share=0.2).flips).named(f"18.6 % minus the null, {raters} raters")


def rank(design: str, name: str) -> Measure:
    return Rows("ranks", design=design, style_known=True).rank.named(name, "of 5")


# Pretrained models and real raters

_AGREE, _SLOPE = "pairwise_sign_agreement_no_ties", "logit_slope_per_point_of_rated_assertiveness"


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


shifts = Rows("models_shift", score="combined", number=True)
shifts_at_fifth = {centred: shifts.where(share=0.2, centred=centred) for centred in (True, False)}


# --- Notes that depend on the outcome -------------------------------------------------------------


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
    kl, *moved = (
        naive.column(measure)(tables).mean()
        for measure in ("kl", "accuracy_before", "accuracy", "confidence_before", "confidence")
    )
    return "KL {:.2f}, accuracy {:.3f} -> {:.3f}, stated confidence {:.3f} -> {:.3f}; ".format(kl, *moved) + gate_note(
        tables
    )


# --- Criteria -------------------------------------------------------------------------------------

ONE_EVENT = (
    naive.win_production.named("win of production judges, naive").at_least(0.515, 4),
    naive.win_genuine.named("win of genuine judges, naive").at_most(0.495, 4),
    less(naive, "ece", "ece_before", "ECE minus base, naive").at_least(0.06, 4),
)


def repaired(arm: str) -> tuple[Check, ...]:
    """W8 for one arm: both limits of ECE on the same seeds, and Brier."""
    brier = (tilted(arm) - tilted("base")).brier.named(f"Brier, {arm} minus base")
    same = f"both on the same seed, {arm}"
    return *both(4, ece(arm, "base").at_most(0.02, 4), ece(arm, "naive").at_most(-0.04, 4), name=same), brier.at_most(
        0, 4
    )


CRITERIA = (
    criterion(
        "P1",
        "style moves the crowd's error perception",
        "crowd minus expert factuality, low > base > high, with mode and with mean of flags",
        *(
            Measure(ordered(f"gap_{of}"), f"steps in order, {of} of flags", "comparisons").equals(2)
            for of in ("mode", "mean")
        ),
        evidence="published",
        paper="crowd minus expert -5.3, -16.2, -22.3 points",
        note=sign_note,
    ),
    criterion(
        "P2",
        "more errors with more assertiveness",
        "Fisher, experts, low vs high",
        Rows("hosking_tests", name="fisher_p").value.named("Fisher", "p").at_most(0.05, otherwise=INCONCLUSIVE),
        evidence="published",
        paper="12.5, 20.3, 24.6 %",
        note="6 of 48, 12 of 59 and 14 of 57 outputs: too few to establish what the rates suggest",
    ),
    criterion(
        "P3",
        "the frame moves preferences (people)",
        "cross minus within agreement, the derived interval in the CSVs (raw rows cannot be redistributed)",
        Rows("frames", name="difference").high.named("upper end of the interval").at_most(0),
        Rows("frames", name="difference").value.named("cross minus within").reported,
        evidence="published",
        paper="said of people in general",
        note="different people in each frame, and assertiveness goes together with quality: a frame effect may hide",
    ),
    criterion(
        "P4",
        "agreement does not give shares",
        "mixes with pairwise agreement .73 +- .01",
        Measure(lambda tables: float(len(near(tables))), "mixes").at_least(3),
        Measure(lambda tables: float(np.ptp(near(tables)["genuine"])), "largest minus smallest share of G").at_least(1),
        evidence="published",
        paper="57 % non-attitudes, 2 % genuine (secondary, source unnamed)",
    ),
    criterion(
        "P5",
        "18.6 % exceeds random removal",
        "needs raters per prompt; null table",
        *(above_null(n).at_least(0, otherwise=INCONCLUSIVE) for n in (5, 10, 30, 123)),
        evidence="published",
        paper="18.6 % of prompts",
        note=null_note,
    ),
    criterion(
        "W1",
        "signatures",
        "flip rates by true type: same frame with orders swapped / other frame, same order",
        *(
            less(
                Rows("flips", type=kind, condition=condition),
                "rate",
                "exact",
                f"{kind.replace('_', '-')}, {name}, minus exact",
            ).within(0.03)
            for kind in TYPES
            for condition, name in (("order", "orders swapped"), ("frame", "other frame"))
        ),
        paper="stable, flips, moves with the frame: no rates",
    ),
    criterion(
        "W2",
        "shares are estimable",
        "max abs error, EM, 8,000 cells, 4 occasions",
        shares.where(method="em", occasions=4).largest_error.named("largest error").at_most(0.03, 5),
        Rows("assignment", occasions=4).accuracy.named("hard types right").reported,
        paper="no shares estimated",
    ),
    criterion(
        "W3",
        "retest alone is not enough",
        "rank; EM from three starts",
        rank("one frame x 2 orders x 2 waves", "rank, one frame").equals(4),
        rank("2 frames x 2 orders", "rank, two frames").equals(5),
        Measure(spread("retest", "log_likelihood"), "one frame: log-likelihoods apart", "nats").at_most(0.01),
        Measure(spread("retest", "genuine"), "one frame: G shares apart").at_least(0.3),
        Measure(spread("em", "genuine"), "two frames: G shares apart").at_most(0.01),
        paper="consistency is said to tell the types apart",
    ),
    criterion(
        "W4",
        "a package agrees",
        "StepMix 4 classes, 8 occasions; BIC over 3, 4, 5",
        shares.where(method="stepmix", occasions=8).largest_error.named("largest error").at_most(0.02),
        Measure(picks_four, "share of seeds in which BIC picks 4").at_least(0.8),
        Measure(best_classes, "classes that BIC picks").reported,
        paper="no such fit there",
    ),
    criterion(
        "W5",
        "N attenuates, does not bend",
        "quality slope at shares .75/.25/0 over all-G's; shares .6/.4/0: ECE(naive) minus ECE(oracle) at KL .15",
        (Rows("gate", setting="quarter_noise", arm="naive") / Rows("gate", setting="all_genuine", arm="naive"))
        .quality_slope.named("quality slope, .75/.25/0 over all G", "ratio")
        .within(0.5, 0.8),
        ece("naive", "oracle", "noise_only").within(0.015),
        ece("naive", "base", "noise_only").at_most(0),
        paper="noise and bias are not told apart there",
    ),
    criterion(
        "W6",
        "C bends",
        "ECE(naive) - ECE(base), and partial slope of r on confidence at posterior < .3",
        ece("naive", "base").at_least(0.04, 5),
        gate.where(arm="naive").confidence_slope.named("slope of the reward on confidence", "reward").at_least(0, 5),
        paper="argued, not shown",
        note=gate_note,
        gates=GATES,
    ),
    criterion(
        "W7",
        "the usual repairs do nothing",
        "ECE of rdpo, retest, dropN, naive_4x minus naive, KL .15",
        *(ece(arm, "naive").at_least(-0.015) for arm in ("rdpo", "retest", "dropN", "naive_4x")),
        paper="not tried there",
        note=gate_note,
        gates=GATES,
    ),
    criterion(
        "W8",
        "decomposition repairs",
        "ECE of weight, frbal, frrand",
        *(check for arm in REPAIRS for check in repaired(arm)),
        paper="proposed, not tried",
        note=gate_note,
        gates=GATES,
    ),
    criterion(
        "W9",
        "one event",
        "naive policy trained by RLOO, KL .3-.45: production win, genuine win, ECE, in the same run",
        *both(4, *ONE_EVENT),
        naive.kl.named("KL, naive", "nats").within(0.3, 0.45),
        weight.kl.named("KL, weight", "nats").within(0.3, 0.45),
        (weight - naive).win_genuine.named("win of genuine judges, weight minus naive").at_least(0.01),
        (weight - naive).ece.named("ECE, weight minus naive").at_most(-0.05),
        paper="no policy was trained there",
        note=posture_note,
        gates=GATES,
    ),
    criterion(
        "W10",
        "RLOO reaches the companion",
        "ECE, wins: trained vs closed form at the realised KL",
        *(
            less(policies.where(arm=arm), measure, f"closed_{measure}", f"{name}, {arm}").within(limit)
            for arm in ("naive", "weight")
            for measure, name, limit in (
                ("ece", "ECE", 0.02),
                ("win_genuine", "win of genuine judges", 0.01),
                ("win_production", "win of production judges", 0.01),
            )
        ),
        paper="no prediction there",
        note="the same runs as W9",
    ),
    criterion(
        "W11",
        "one label with a random frame suffices",
        "ECE frrand minus weight, equal number of labels",
        ece(*EQUAL_LABELS).named("ECE, frrand minus weight, equal labels").at_most(0.01),
        ece("frrand", "weight").named("ECE, frrand minus weight, equal pairs").reported,
        paper="several waves are asked for there",
        note=labels_note,
        gates=GATES,
    ),
    criterion(
        "W12",
        "filtering annotators",
        "one type each: filter_frame 50 %, filter_retest 50 %, filter_random 50 % minus naive",
        ece("filter_frame_50", "naive", "one_type").at_most(-0.05),
        *(ece(f"filter_{by}_50", "naive", "one_type").within(0.02) for by in ("retest", "random")),
        paper="removal of inconsistent annotators flips 18.6 % of labels",
    ),
    criterion(
        "W13",
        "nulls",
        "KL .15: all G: every arm within .02 of naive; dead frame: repairs within .02 of naive, C share <= .02; "
        "style-lovers: oracle ECE >= base + .03",
        farthest("naive", "all_genuine", "all G: farthest arm from naive").at_most(0.02),
        farthest("naive", "dead_frame", "dead frame: farthest repair", REPAIRS).at_most(0.02),
        Rows("estimated_shares", setting="dead_frame")
        .constructed.named("dead frame: estimated share of C")
        .at_most(0.02),
        ece("oracle", "base", "style_lovers").named("style-lovers: ECE, oracle minus base").at_least(0.03),
        paper="no controls there",
        note="frames that move nobody, and genuine lovers of confidence, defeat the remedy",
    ),
    criterion(
        "M1",
        "released rows recompute",
        "agreement .675 / .699 / .696, slopes .530 / .519, flag means",
        *(
            hosking.where(metric=metric, setting=setting).difference.named(name).within(0.001)
            for name, metric, setting in (
                ("agreement, quality frame", _AGREE, "within quality-only frame"),
                ("agreement, checklist frame", _AGREE, "within error-checklist frame"),
                ("agreement, across", _AGREE, "across the two frames (different people)"),
                ("slope, quality frame", _SLOPE, "quality-only frame"),
                ("slope, checklist frame", _SLOPE, "error-checklist frame"),
            )
        ),
        Measure(flag_means, "flag means, farthest").at_most(0.001),
        evidence="models",
        paper="derived from the released rows",
    ),
    criterion(
        "M2",
        "reward gap on wrong answers",
        "pretrained LM, simulated judges: r(confident) - r(hedged), same wrong answer",
        gaps.where(arm="naive").gap_wrong.named("gap, naive", "reward").at_least(0, 5),
        (1 - (gaps.where(arm="weight") / gaps.where(arm="naive")).gap_wrong)
        .named("cut by weight", "share of naive")
        .at_least(0.7),
        ((gaps.where(arm="rdpo") / gaps.where(arm="naive")).gap_wrong - 1)
        .named("change by rdpo", "share of naive")
        .within(0.15),
        evidence="models",
        paper="no reward model was trained there",
    ),
    criterion(
        "M3",
        "one event at LM scale",
        "RLOO policy, stated confidence",
        matched.where(arm="naive").win_production.named("win of production judges, naive").at_least(0.5),
        matched.where(arm="naive").ece_change.named("ECE change, naive").at_least(0.03),
        matched.where(arm="weight").ece_change.named("ECE change, weight").at_most(0),
        *(
            matched.where(arm=arm).accuracy_change.named(f"accuracy change, {arm}").within(0.02)
            for arm in ("naive", "weight")
        ),
        evidence="models",
        paper="no policy was trained there",
    ),
    criterion(
        "M4",
        "filter vs random on real raters",
        "DICES-350 and -990, 1,000 random drops of equal size",
        *filtered("dices_350"),
        *filtered("dices_990"),
        evidence="models",
        paper="18.6 % of prompts, without a random baseline",
    ),
    criterion(
        "M5",
        "ratings",
        "PRISM, mean shift after within-person centring, vs random",
        beyond(shifts.where(centred=True), "removals beyond random"),
        shifts_at_fifth[True].shift.named("mean shift at 20 %, centred", "points").reported,
        shifts_at_fifth[True].largest.named("largest shift at 20 %, centred", "points").reported,
        shifts_at_fifth[False].shift.named("mean shift at 20 %, not centred", "points").reported,
        evidence="models",
        paper="over 13 points of 100",
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

NARROWED = "C bends, N attenuates"
SIGNATURES = ("W1", "W2", "W3", "W4")
FITS = ("W5", "W6", "W7")
EVENT = ("W8", "W9", "W11")
HUMAN = ("P1", "P2", "P3", "P4", "P5", "M1", "M4", "M5")


def together(verdict: Verdicts, criteria: tuple[str, ...]) -> tuple[str, str]:
    """The worst of the criteria, and those that do not hold."""
    failed, word = not_shown(verdict, *criteria), worst([verdict[c] for c in criteria])
    if not failed or set(map(verdict.get, criteria)) == {NOT_ATTEMPTED}:
        return word, ""
    return word, f"what does not hold: {listed(verdict, *failed)}"


def narrowed(verdict: Verdicts) -> str:
    """The wording that W5 and W6 allow."""
    if verdict["W5"] == verdict["W6"] == REPLICATED:
        return f'wording narrowed to "{NARROWED}"'
    return ""


def fits_something_else(verdict: Verdicts) -> tuple[str, str]:
    word, why = together(verdict, FITS)
    return word, "; ".join(filter(None, (narrowed(verdict), why)))


def people(verdict: Verdicts) -> tuple[str, str]:
    """Never above "inconclusive" unless real raters were looked at (M4 or M5)."""
    judged = [c for c in HUMAN if verdict[c] != NOT_ATTEMPTED]
    word, note = attempted(*HUMAN)(verdict)[0], listed(verdict, *judged)
    if verdict["M4"] == verdict["M5"] == NOT_ATTEMPTED:
        word = worst([word, INCONCLUSIVE])
        note += "; print alone cannot lift it above inconclusive: M4 and M5 look at real raters and were not attempted"
    return word, note


PARTS = (
    Part(
        "(i)",
        "world",
        "the types leave different signatures, and their shares can be estimated",
        SIGNATURES,
        lambda verdict: together(verdict, SIGNATURES),
    ),
    Part(
        "(ii)",
        "world",
        "pooled labels make the reward model fit something other than quality",
        FITS,
        fits_something_else,
    ),
    Part(
        "(iii)",
        "world",
        "optimising that reward raises approval and ruins calibration together; decomposing repairs it",
        EVENT,
        lambda verdict: together(verdict, EVENT),
    ),
    Part("(iv)", "published and models", "human RLHF labels are such a mixture", HUMAN, people),
)


def limits(verdict: Verdicts) -> str:
    """The sentence on W13 that every verdict carries, whatever its label."""
    what = "frames that move nobody, and genuine lovers of confidence, defeat the remedy"
    if verdict["W13"] == REPLICATED:
        return f"W13 beside it (replicated): {what}"
    return f"W13 beside it ({verdict['W13']}): that {what} is not established"


def overall(verdict: Verdicts) -> tuple[str, str]:
    """Replicated in the world if (i), (ii) and (iii) are; W13 stands beside it, people (iv) have their own verdict."""
    deciding = (*SIGNATURES, *FITS, *EVENT)
    if missing := named(verdict, NOT_ATTEMPTED, *deciding):
        word, why = NOT_ATTEMPTED, f"still missing: {missing}"
    else:
        word, why = together(verdict, deciding)
        why = "; ".join(filter(None, (f"{word} in the world", narrowed(verdict), why)))
    return word, f"{why}; {limits(verdict)}; of people: {people(verdict)[0]}"


CLAIM = Claim(
    name="annotation_noise",
    number=4,
    title="What an annotation measures",
    statement=(
        "Annotations decompose into genuine preferences, non-attitudes and constructed preferences, distinguishable by "
        "consistency across measurement conditions. Treating them uniformly makes the reward model fit noise and "
        'contaminates alignment: "improved alignment" and "degraded calibration" can be one event.'
    ),
    paper="ghafouri2026rlhf",
    citation=(
        "Ghafouri, Choi, Dey, Ferrara: Measuring Human Preferences in RLHF is a Social Science Problem. "
        "arXiv 2604.03238, 2026 (second version: RLHF May Not Reflect Genuine Preferences)"
    ),
    criteria=CRITERIA,
    parts=PARTS,
    overall=overall,
    tables=(
        *("hosking", "hosking_tests", "frames", "ridge", "removal", "ranks"),
        *("flips", "shares", "assignment", "bic", "gate", "tilt", "policies", "estimated_shares"),
        *("models_hosking", "models_gap", "models_policies", "models_removal", "models_shift"),
    ),
)
