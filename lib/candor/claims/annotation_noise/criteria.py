"""Claim 4, declared before any run: what an annotation measures."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from candor.claims.annotation_noise.judges import TYPES
from candor.claims.annotation_noise.tables import FLIPPED
from candor.claims.shared import (
    Estimator,
    both,
    exactly,
    number,
    paired,
    select,
    value,
    wide,
    within,
)
from candor.declare.ledger import (
    INCONCLUSIVE,
    NOT_ATTEMPTED,
    REPLICATED,
    Band,
    Check,
    Claim,
    Criterion,
    Estimate,
    Part,
    Tables,
    worst,
)

# --- Estimators -----------------------------------------------------------------------------------

KL = "kl_0.15"


def tilted(arm: str, measure: str, setting: str = "main") -> Estimator:
    """A measure of the closed-form policy on an arm's reward model at KL .15; of the base itself at KL 0."""
    at = {} if arm == "base" else {"condition": KL}
    return value("tilt", measure, setting=setting, arm=arm, **at)


def less(one: Estimator, other: Estimator) -> Estimator:
    """Difference on the same seed."""
    return paired(operator.sub, one, other)


def over(one: Estimator, other: Estimator) -> Estimator:
    """Ratio on the same seed."""
    return paired(operator.truediv, one, other)


def ece(arm: str, other: str, setting: str = "main") -> Estimator:
    """ECE of an arm minus that of another, at KL .15."""
    return less(tilted(arm, "ece", setting), tilted(other, "ece", setting))


def trained(arm: str, measure: str) -> Estimator:
    """A measure of a policy trained by RLOO."""
    return value("policies", measure, arm=arm)


def risen(arm: str, measure: str = "ece") -> Estimator:
    """Its change since the base."""
    return less(trained(arm, measure), trained(arm, f"{measure}_before"))


def from_closed_form(arm: str, measure: str) -> Estimator:
    """Trained minus closed form at the KL that the training reached."""
    return less(trained(arm, measure), trained(arm, f"closed_{measure}"))


def flip(kind: str, condition: str) -> Estimator:
    """Flip rate of a true type minus the exact one."""
    where = {"type": kind, "condition": condition}
    return less(value("flips", "rate", **where), value("flips", "exact", **where))


def spread(prefix: str, column: str) -> Estimator:
    """Largest minus smallest over the three starts of a mixture, by seed."""

    def estimate(tables: Tables) -> pd.Series:
        starts = [value("shares", column, method=f"{prefix}_start{k}")(tables) for k in (1, 2, 3)]
        table = pd.concat(starts, axis=1)
        return table.max(axis=1) - table.min(axis=1)

    return estimate


def best_classes(tables: Tables) -> pd.Series:
    """The number of classes that BIC picks, by seed."""
    return wide(tables, "bic", "bic", "classes").idxmin(axis=1)


def picks_four(tables: Tables) -> Estimate:
    picked = best_classes(tables)
    return Estimate((picked == 4).mean(), n=len(picked))


def farthest(reference: str, setting: str, arms: tuple[str, ...] | None = None) -> Estimator:
    """Largest absolute difference of ECE at KL .15 between a reference arm and `arms` (all others), by seed."""

    def estimate(tables: Tables) -> pd.Series:
        table = wide(tables, "tilt", "ece", "arm", setting=setting, condition=KL)
        others = arms or [arm for arm in table if arm != reference]
        return pd.concat([ece(arm, reference, setting)(tables).abs() for arm in others], axis=1).max(axis=1)

    return estimate


# The gate of section 4.6: below it a reward model has not seen the evidence, and nothing said of it counts.


def seen(tables: Tables, **where: object) -> pd.Series:
    """Correlation of reward and posterior at fixed confidence, mean over seeds, by arm."""
    return wide(tables, "gate", "posterior_correlation", "arm", setting="main", **where).mean()


def others_seen(tables: Tables) -> pd.Series:
    return seen(tables).drop("oracle", errors="ignore")


GATES = (
    Check(
        "the oracle's reward sees the posterior (correlation >= .8)",
        lambda t: seen(t, arm="oracle")["oracle"],
        Band(low=0.8),
    ),
    Check("every other arm's reward sees it (correlation >= .5)", lambda t: others_seen(t).min(), Band(low=0.5)),
)

# Published numbers


def named(table: str, name: str, column: str = "value") -> Callable[[Tables], float]:
    """One number of a table of names and values."""
    return lambda tables: number(tables, table, column, name=name)


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


def above_null(raters: int) -> Callable[[Tables], float]:
    """18.6 % minus what removing one rater in five at random does, at this number of raters a prompt."""
    return lambda tables: FLIPPED - number(tables, "removal", "flips", raters=raters, share=0.2)


def rank(design: str) -> Callable[[Tables], float]:
    return lambda tables: number(tables, "ranks", "rank", design=design, style_known=True)


# Pretrained models and real raters

_AGREE, _SLOPE = "pairwise_sign_agreement_no_ties", "logit_slope_per_point_of_rated_assertiveness"


def recomputed(metric: str, setting: str) -> Callable[[Tables], float]:
    """What the released rows give minus the value beside the published numbers."""
    return lambda tables: number(tables, "models_hosking", "difference", metric=metric, setting=setting)


def flag_means(tables: Tables) -> float:
    """Largest difference of the mean flags from those beside the published numbers, as a share of outputs."""
    flags = select(tables, "models_hosking", setting="crowd_mean of individual flags")
    return float(flags["difference"].abs().max() / 100)


def wrong_gap(arm: str) -> Estimator:
    """Reward for stating a wrong answer confidently minus hedged, by seed."""
    return value("models_gap", "gap_wrong", arm=arm)


def of_naive(arm: str) -> Estimator:
    return over(wrong_gap(arm), wrong_gap("naive"))


def matched(arm: str, measure: str) -> Estimator:
    """A measure of a policy that stopped at the given KL, by seed."""
    return value("models_policies", measure, arm=arm, run="matched")


def beyond(table: str, **where: object) -> Callable[[Tables], Estimate]:
    """At how many sizes of removal by all scores together the effect exceeds the 99th percentile of random ones."""

    def estimate(tables: Tables) -> Estimate:
        found = select(tables, table, score="combined", **where)
        return Estimate(int(found["beyond"].astype(bool).sum()), n=len(found))

    return estimate


def at_fifth(table: str, measure: str, **where: object) -> Callable[[Tables], float]:
    """A measure where a fifth of the raters was removed by all scores together."""
    return lambda tables: number(tables, table, measure, score="combined", share=0.2, **where)


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
    oracle, rest = seen(tables, arm="oracle")["oracle"], others_seen(tables)
    return f"gate: oracle {oracle:.2f}, lowest of the others {rest.min():.2f} ({rest.idxmin()})"


def labels_note(tables: Tables) -> str:
    labels = (f"{arm} {value('gate', 'labels', setting='main', arm=arm)(tables).mean():,.0f}" for arm in EQUAL_LABELS)
    return f"labels: {', '.join(labels)}"


def posture_note(tables: Tables) -> str:
    """At which KL, accuracy and confidence the event was measured."""
    kl, *moved = (
        trained("naive", measure)(tables).mean()
        for measure in ("kl", "accuracy_before", "accuracy", "confidence_before", "confidence")
    )
    return "KL {:.2f}, accuracy {:.3f} -> {:.3f}, stated confidence {:.3f} -> {:.3f}; ".format(kl, *moved) + gate_note(
        tables
    )


# --- Criteria -------------------------------------------------------------------------------------

EQUAL_LABELS = ("frrand_4x", "weight")  # one label on each of four times the pairs, four labels on each pair
ONE_EVENT = (
    Check("win of production judges, naive", trained("naive", "win_production"), Band(low=0.515), 4),
    Check("win of genuine judges, naive", trained("naive", "win_genuine"), Band(high=0.495), 4),
    Check("ECE minus base, naive", risen("naive"), Band(low=0.06), 4),
)
_REPAIRS = ("weight", "frbal", "frrand")


def repaired(arm: str) -> tuple[Check, ...]:
    """W8 for one arm: both limits of ECE on the same seeds, and Brier."""
    limits_of_ece = both(
        4,
        Check(f"ECE, {arm} minus base", ece(arm, "base"), Band(high=0.02), 4),
        Check(f"ECE, {arm} minus naive", ece(arm, "naive"), Band(high=-0.04), 4),
        name=f"both on the same seed, {arm}",
    )
    brier = less(tilted(arm, "brier"), tilted("base", "brier"))
    return *limits_of_ece, Check(f"Brier, {arm} minus base", brier, Band(high=0), 4)


_SAME = "the same runs as W9"
_3 = (exactly(3), None, "comparisons")  # 10, 20 and 50 % of the raters

CRITERIA = (
    Criterion(
        "P1",
        "published",
        "style moves the crowd's error perception",
        "crowd minus expert factuality, low > base > high, with mode and with mean of flags",
        "ordering in both; printed: sign at low differs",
        (
            Check("steps in order, mode of flags", ordered("gap_mode"), exactly(2), unit="comparisons"),
            Check("steps in order, mean of flags", ordered("gap_mean"), exactly(2), unit="comparisons"),
        ),
        paper_value="crowd minus expert -5.3, -16.2, -22.3 points",
        note=sign_note,
    ),
    Criterion(
        "P2",
        "published",
        "more errors with more assertiveness",
        "Fisher, experts, low vs high",
        "p < .05 needed; expected inconclusive (.14)",
        (Check("Fisher", named("hosking_tests", "fisher_p"), Band(high=0.05), unit="p", otherwise=INCONCLUSIVE),),
        paper_value="12.5, 20.3, 24.6 %",
        note="6 of 48, 12 of 59 and 14 of 57 outputs: too few to establish what the rates suggest",
    ),
    Criterion(
        "P3",
        "published",
        "the frame moves preferences (people)",
        "cross minus within agreement, the derived interval in the CSVs (raw rows cannot be redistributed)",
        "interval below 0 needed; expected not replicated on this data",
        (
            Check("upper end of the interval", named("frames", "difference", "high"), Band(high=0)),
            Check("cross minus within", named("frames", "difference")),
        ),
        paper_value="said of people in general",
        note="different people in each frame, and assertiveness goes together with quality: a frame effect may hide",
    ),
    Criterion(
        "P4",
        "published",
        "agreement does not give shares",
        "mixes with pairwise agreement .73 +- .01",
        ">= 3 mixes with G from 0 to 1",
        (
            Check("mixes", lambda t: float(len(near(t))), Band(low=3)),
            Check("largest minus smallest share of G", lambda t: float(np.ptp(near(t)["genuine"])), Band(low=1)),
        ),
        paper_value="57 % non-attitudes, 2 % genuine (secondary, source unnamed)",
    ),
    Criterion(
        "P5",
        "published",
        "18.6 % exceeds random removal",
        "needs raters per prompt; null table",
        "inconclusive from print; see M4",
        tuple(
            Check(f"18.6 % minus the null, {n} raters", above_null(n), Band(low=0), otherwise=INCONCLUSIVE)
            for n in (5, 10, 30, 123)
        ),
        paper_value="18.6 % of prompts",
        note=null_note,
    ),
    Criterion(
        "W1",
        "world",
        "signatures",
        "flip rates by true type: same frame with orders swapped / other frame, same order",
        "within .03 of: G .095/.095, N .52/.48, C .095/.905",
        tuple(
            Check(f"{kind.replace('_', '-')}, {name}, minus exact", flip(kind, condition), within(0.03))
            for kind in TYPES
            for condition, name in (("order", "orders swapped"), ("frame", "other frame"))
        ),
        paper_value="stable, flips, moves with the frame: no rates",
    ),
    Criterion(
        "W2",
        "world",
        "shares are estimable",
        "max abs error, EM, 8,000 cells, 4 occasions",
        "<= .03 in 5/5",
        (
            Check("largest error", value("shares", "largest_error", method="em", occasions=4), Band(high=0.03), 5),
            Check("hard types right", value("assignment", "accuracy", occasions=4)),
        ),
        paper_value="no shares estimated",
    ),
    Criterion(
        "W3",
        "world",
        "retest alone is not enough",
        "rank; EM from three starts",
        "rank 4 of 5 vs 5 of 5; log-likelihoods within .01 with G shares apart >= .3, and within .01 once frames vary",
        (
            Check("rank, one frame", rank("one frame x 2 orders x 2 waves"), exactly(4), unit="of 5"),
            Check("rank, two frames", rank("2 frames x 2 orders"), exactly(5), unit="of 5"),
            Check("one frame: log-likelihoods apart", spread("retest", "log_likelihood"), Band(high=0.01), unit="nats"),
            Check("one frame: G shares apart", spread("retest", "genuine"), Band(low=0.3)),
            Check("two frames: G shares apart", spread("em", "genuine"), Band(high=0.01)),
        ),
        paper_value="consistency is said to tell the types apart",
    ),
    Criterion(
        "W4",
        "world",
        "a package agrees",
        "StepMix 4 classes, 8 occasions; BIC over 3, 4, 5",
        "shares within .02; BIC picks 4 in 4/5",
        (
            Check("largest error", value("shares", "largest_error", method="stepmix", occasions=8), Band(high=0.02)),
            Check("share of seeds in which BIC picks 4", picks_four, Band(low=0.8)),
            Check("classes that BIC picks", best_classes),
        ),
        paper_value="no such fit there",
    ),
    Criterion(
        "W5",
        "world",
        "N attenuates, does not bend",
        "quality slope at shares .75/.25/0 over all-G's; shares .6/.4/0: ECE(naive) minus ECE(oracle) at KL .15",
        "ratio .5-.8 (scalar pilot .63); abs difference <= .015, and ECE(naive) <= base",
        (
            Check(
                "quality slope, .75/.25/0 over all G",
                over(
                    value("gate", "quality_slope", setting="quarter_noise", arm="naive"),
                    value("gate", "quality_slope", setting="all_genuine", arm="naive"),
                ),
                Band(0.5, 0.8),
                unit="ratio",
            ),
            Check("ECE, naive minus oracle", ece("naive", "oracle", "noise_only"), within(0.015)),
            Check("ECE, naive minus base", ece("naive", "base", "noise_only"), Band(high=0)),
        ),
        paper_value="noise and bias are not told apart there",
    ),
    Criterion(
        "W6",
        "world",
        "C bends",
        "ECE(naive) - ECE(base), and partial slope of r on confidence at posterior < .3",
        ">= +.04 at KL .15; slope > 0; both in 5/5",
        (
            Check("ECE, naive minus base", ece("naive", "base"), Band(low=0.04), 5),
            Check(
                "slope of the reward on confidence",
                value("gate", "confidence_slope", setting="main", arm="naive"),
                Band(low=0),
                5,
                unit="reward",
            ),
        ),
        paper_value="argued, not shown",
        note=gate_note,
        gates=GATES,
    ),
    Criterion(
        "W7",
        "world",
        "the usual repairs do nothing",
        "ECE of rdpo, retest, dropN, naive_4x minus naive, KL .15",
        "each >= -.015",
        tuple(
            Check(f"ECE, {arm} minus naive", ece(arm, "naive"), Band(low=-0.015))
            for arm in ("rdpo", "retest", "dropN", "naive_4x")
        ),
        paper_value="not tried there",
        note=gate_note,
        gates=GATES,
    ),
    Criterion(
        "W8",
        "world",
        "decomposition repairs",
        "ECE of weight, frbal, frrand",
        "<= base + .02 and <= naive - .04 at KL .15 in 4/5; Brier <= base",
        tuple(check for arm in _REPAIRS for check in repaired(arm)),
        paper_value="proposed, not tried",
        note=gate_note,
        gates=GATES,
    ),
    Criterion(
        "W9",
        "world",
        "one event",
        "naive policy trained by RLOO, KL .3-.45: production win, genuine win, ECE, in the same run",
        ">= .515, <= .495, >= base + .06: all three in 4/5; weight, same KL: genuine win higher by >= .01, ECE lower "
        "by >= .05",
        (
            *both(4, *ONE_EVENT),
            Check("KL, naive", trained("naive", "kl"), Band(0.3, 0.45), unit="nats"),
            Check("KL, weight", trained("weight", "kl"), Band(0.3, 0.45), unit="nats"),
            Check(
                "win of genuine judges, weight minus naive",
                less(trained("weight", "win_genuine"), trained("naive", "win_genuine")),
                Band(low=0.01),
            ),
            Check("ECE, weight minus naive", less(trained("weight", "ece"), trained("naive", "ece")), Band(high=-0.05)),
        ),
        paper_value="no policy was trained there",
        note=posture_note,
        gates=GATES,
    ),
    Criterion(
        "W10",
        "world",
        "RLOO reaches the companion",
        "ECE, wins: trained vs closed form at the realised KL",
        "within .02 and .01",
        tuple(
            Check(f"{name}, {arm}", from_closed_form(arm, measure), within(limit))
            for arm in ("naive", "weight")
            for measure, name, limit in (
                ("ece", "ECE", 0.02),
                ("win_genuine", "win of genuine judges", 0.01),
                ("win_production", "win of production judges", 0.01),
            )
        ),
        paper_value="no prediction there",
        note=_SAME,
    ),
    Criterion(
        "W11",
        "world",
        "one label with a random frame suffices",
        "ECE frrand minus weight, equal number of labels",
        "<= +.01 at KL .15",
        (
            Check("ECE, frrand minus weight, equal labels", ece(*EQUAL_LABELS), Band(high=0.01)),
            Check("ECE, frrand minus weight, equal pairs", ece("frrand", "weight")),
        ),
        paper_value="several waves are asked for there",
        note=labels_note,
        gates=GATES,
    ),
    Criterion(
        "W12",
        "world",
        "filtering annotators",
        "one type each: filter_frame 50 %, filter_retest 50 %, filter_random 50 % minus naive",
        "<= -.05; abs <= .02; abs <= .02",
        tuple(
            Check(f"ECE, {arm} minus naive", ece(arm, "naive", "one_type"), band)
            for arm, band in (
                ("filter_frame_50", Band(high=-0.05)),
                ("filter_retest_50", within(0.02)),
                ("filter_random_50", within(0.02)),
            )
        ),
        paper_value="removal of inconsistent annotators flips 18.6 % of labels",
    ),
    Criterion(
        "W13",
        "world",
        "nulls",
        "KL .15: all G: every arm within .02 of naive; dead frame: repairs within .02 of naive, C share <= .02; "
        "style-lovers: oracle ECE >= base + .03",
        "all",
        (
            Check("all G: farthest arm from naive", farthest("naive", "all_genuine"), Band(high=0.02)),
            Check("dead frame: farthest repair", farthest("naive", "dead_frame", _REPAIRS), Band(high=0.02)),
            Check(
                "dead frame: estimated share of C",
                value("estimated_shares", "constructed", setting="dead_frame"),
                Band(high=0.02),
            ),
            Check("style-lovers: ECE, oracle minus base", ece("oracle", "base", "style_lovers"), Band(low=0.03)),
        ),
        paper_value="no controls there",
        note="frames that move nobody, and genuine lovers of confidence, defeat the remedy",
    ),
    Criterion(
        "M1",
        "models",
        "released rows recompute",
        "agreement .675 / .699 / .696, slopes .530 / .519, flag means",
        "+- .001",
        (
            *(
                Check(name, recomputed(metric, setting), within(0.001))
                for name, metric, setting in (
                    ("agreement, quality frame", _AGREE, "within quality-only frame"),
                    ("agreement, checklist frame", _AGREE, "within error-checklist frame"),
                    ("agreement, across", _AGREE, "across the two frames (different people)"),
                    ("slope, quality frame", _SLOPE, "quality-only frame"),
                    ("slope, checklist frame", _SLOPE, "error-checklist frame"),
                )
            ),
            Check("flag means, farthest", flag_means, Band(high=0.001)),
        ),
        paper_value="derived from the released rows",
    ),
    Criterion(
        "M2",
        "models",
        "reward gap on wrong answers",
        "pretrained LM, simulated judges: r(confident) - r(hedged), same wrong answer",
        "naive > 0; weight cuts it by >= 70 %; rdpo changes it by <= 15 %",
        (
            Check("gap, naive", wrong_gap("naive"), Band(low=0), 5, unit="reward"),
            Check("cut by weight", lambda t: 1 - of_naive("weight")(t), Band(low=0.7), unit="share of naive"),
            Check("change by rdpo", lambda t: of_naive("rdpo")(t) - 1, within(0.15), unit="share of naive"),
        ),
        paper_value="no reward model was trained there",
    ),
    Criterion(
        "M3",
        "models",
        "one event at LM scale",
        "RLOO policy, stated confidence",
        "production win > .5, ECE >= +.03 (naive), <= 0 (weight), accuracy within 2 points",
        (
            Check("win of production judges, naive", matched("naive", "win_production"), Band(low=0.5)),
            Check("ECE change, naive", matched("naive", "ece_change"), Band(low=0.03)),
            Check("ECE change, weight", matched("weight", "ece_change"), Band(high=0)),
            *(
                Check(f"accuracy change, {arm}", matched(arm, "accuracy_change"), within(0.02))
                for arm in ("naive", "weight")
            ),
        ),
        paper_value="no policy was trained there",
    ),
    Criterion(
        "M4",
        "models",
        "filter vs random on real raters",
        "DICES-350 and -990, 1,000 random drops of equal size",
        "flips above the 99th percentile of random; print the ratio",
        tuple(
            check
            for dataset in ("dices_350", "dices_990")
            for check in (
                Check(
                    f"{dataset}, removals beyond random", beyond("models_removal", dataset=dataset, unsure="own"), *_3
                ),
                Check(
                    f"{dataset}, flips at 20 % over random",
                    at_fifth("models_removal", "ratio", dataset=dataset, unsure="own"),
                    unit="ratio",
                ),
                Check(
                    f"{dataset}, flips at 20 %",
                    at_fifth("models_removal", "flips", dataset=dataset, unsure="own"),
                    unit="share of items",
                ),
            )
        ),
        paper_value="18.6 % of prompts, without a random baseline",
    ),
    Criterion(
        "M5",
        "models",
        "ratings",
        "PRISM, mean shift after within-person centring, vs random",
        "above the 99th percentile; >= 13 points reported, not required",
        (
            Check("removals beyond random", beyond("models_shift", centred=True), *_3),
            Check("mean shift at 20 %, centred", at_fifth("models_shift", "shift", centred=True), unit="points"),
            Check("largest shift at 20 %, centred", at_fifth("models_shift", "largest", centred=True), unit="points"),
            Check("mean shift at 20 %, not centred", at_fifth("models_shift", "shift", centred=False), unit="points"),
        ),
        paper_value="over 13 points of 100",
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

Verdicts = Mapping[str, str]
NARROWED = "C bends, N attenuates"
SIGNATURES = ("W1", "W2", "W3", "W4")
FITS = ("W5", "W6", "W7")
EVENT = ("W8", "W9", "W11")
HUMAN = ("P1", "P2", "P3", "P4", "P5", "M1", "M4", "M5")


def together(verdict: Verdicts, criteria: tuple[str, ...]) -> tuple[str, str]:
    """The worst of the criteria, and those that do not hold."""
    failed = [f"{c} {verdict[c]}" for c in criteria if verdict[c] != REPLICATED]
    if not failed or set(map(verdict.get, criteria)) == {NOT_ATTEMPTED}:
        return worst([verdict[c] for c in criteria]), ""
    return worst([verdict[c] for c in criteria]), f"what does not hold: {', '.join(failed)}"


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
    word = worst([verdict[c] for c in judged]) if judged else NOT_ATTEMPTED
    note = ", ".join(f"{c} {verdict[c]}" for c in judged)
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
    if missing := [c for c in deciding if verdict[c] == NOT_ATTEMPTED]:
        word, why = NOT_ATTEMPTED, f"still missing: {', '.join(missing)}"
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
