"""Claim 4, declared before any run: what an annotation measures. What is read from several rows is in `estimates`."""

from __future__ import annotations

from functools import partial

import numpy as np

from candor.claims.annotation_noise import estimates as e
from candor.claims.annotation_noise.estimates import GATES, ece, less, naive, weight
from candor.claims.annotation_noise.judges import TYPES
from candor.declare.expressions import Measure, Rows, both, criterion
from candor.declare.ledger import (
    INCONCLUSIVE,
    NOT_ATTEMPTED,
    REPLICATED,
    Claim,
    Part,
    Verdicts,
    attempted,
    listed,
    named,
    not_shown,
    worst,
)

policies, shares = Rows("policies"), Rows("shares")
ranks = Rows("ranks", style_known=True)
matched, gaps = Rows("models_policies", run="matched"), Rows("models_gap")
shifts = Rows("models_shift", score="combined", number=True)
centred, raw = (shifts.where(share=0.2, centred=centred) for centred in (True, False))
hosking = Rows("models_hosking", number=True)
AGREE, SLOPE = "pairwise_sign_agreement_no_ties", "logit_slope_per_point_of_rated_assertiveness"
REPAIRS = ("weight", "frbal", "frrand")
ONE_EVENT = (
    naive.win_production.named("win of production judges, naive").at_least(0.515, 4),
    naive.win_genuine.named("win of genuine judges, naive").at_most(0.495, 4),
    less(naive, "ece", "ece_before", "ECE minus base, naive").at_least(0.06, 4),
)
published, pretrained = (partial(criterion, evidence=evidence) for evidence in ("published", "models"))
learned = partial(criterion, gates=GATES)  # rests on what the reward models have seen

# --- Criteria -------------------------------------------------------------------------------------

CRITERIA = (
    published(
        "P1",
        "style moves the crowd's error perception",
        "crowd minus expert factuality, low > base > high, with mode and with mean of flags",
        *(
            Measure(e.ordered(f"gap_{of}"), f"steps in order, {of} of flags", "comparisons").equals(2)
            for of in ("mode", "mean")
        ),
        paper="crowd minus expert -5.3, -16.2, -22.3 points",
        note=e.sign_note,
    ),
    published(
        "P2",
        "more errors with more assertiveness",
        "Fisher, experts, low vs high",
        Rows("hosking_tests", name="fisher_p").value.named("Fisher", "p").at_most(0.05, otherwise=INCONCLUSIVE),
        paper="12.5, 20.3, 24.6 %",
        note="6 of 48, 12 of 59 and 14 of 57 outputs: too few to establish what the rates suggest",
    ),
    published(
        "P3",
        "the frame moves preferences (people)",
        "cross minus within agreement, the derived interval in the CSVs (raw rows cannot be redistributed)",
        Rows("frames", name="difference").high.named("upper end of the interval").at_most(0),
        Rows("frames", name="difference").value.named("cross minus within").reported,
        paper="said of people in general",
        note="different people in each frame, and assertiveness goes together with quality: a frame effect may hide",
    ),
    published(
        "P4",
        "agreement does not give shares",
        "mixes with pairwise agreement .73 +- .01",
        Measure(lambda tables: float(len(e.near(tables))), "mixes").at_least(3),
        Measure(lambda tables: float(np.ptp(e.near(tables))), "largest minus smallest share of G").at_least(1),
        paper="57 % non-attitudes, 2 % genuine (secondary, source unnamed)",
    ),
    published(
        "P5",
        "18.6 % exceeds random removal",
        "needs raters per prompt; null table",
        *(e.above_null(n).at_least(0, otherwise=INCONCLUSIVE) for n in (5, 10, 30, 123)),
        paper="18.6 % of prompts",
        note=e.null_note,
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
        ranks.where(design="one frame x 2 orders x 2 waves").rank.named("rank, one frame", "of 5").equals(4),
        ranks.where(design="2 frames x 2 orders").rank.named("rank, two frames", "of 5").equals(5),
        e.spread("retest", "log_likelihood", "one frame: log-likelihoods apart", "nats").at_most(0.01),
        e.spread("retest", "genuine", "one frame: G shares apart").at_least(0.3),
        e.spread("em", "genuine", "two frames: G shares apart").at_most(0.01),
        paper="consistency is said to tell the types apart",
    ),
    criterion(
        "W4",
        "a package agrees",
        "StepMix 4 classes, 8 occasions; BIC over 3, 4, 5",
        shares.where(method="stepmix", occasions=8).largest_error.named("largest error").at_most(0.02),
        Measure(e.picks_four, "share of seeds in which BIC picks 4").at_least(0.8),
        Measure(e.best_classes, "classes that BIC picks").reported,
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
    learned(
        "W6",
        "C bends",
        "ECE(naive) - ECE(base), and partial slope of r on confidence at posterior < .3",
        ece("naive", "base").at_least(0.04, 5),
        e.gate.where(arm="naive").confidence_slope.named("slope of the reward on confidence", "reward").at_least(0, 5),
        paper="argued, not shown",
        note=e.gate_note,
    ),
    learned(
        "W7",
        "the usual repairs do nothing",
        "ECE of rdpo, retest, dropN, naive_4x minus naive, KL .15",
        *(ece(arm, "naive").at_least(-0.015) for arm in ("rdpo", "retest", "dropN", "naive_4x")),
        paper="not tried there",
        note=e.gate_note,
    ),
    learned(
        "W8",
        "decomposition repairs",
        "ECE of weight, frbal, frrand",
        *(check for arm in REPAIRS for check in e.repaired(arm)),
        paper="proposed, not tried",
        note=e.gate_note,
    ),
    learned(
        "W9",
        "one event",
        "naive policy trained by RLOO, KL .3-.45: production win, genuine win, ECE, in the same run",
        *both(4, *ONE_EVENT),
        naive.kl.named("KL, naive", "nats").within(0.3, 0.45),
        weight.kl.named("KL, weight", "nats").within(0.3, 0.45),
        (weight - naive).win_genuine.named("win of genuine judges, weight minus naive").at_least(0.01),
        (weight - naive).ece.named("ECE, weight minus naive").at_most(-0.05),
        paper="no policy was trained there",
        note=e.posture_note,
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
    learned(
        "W11",
        "one label with a random frame suffices",
        "ECE frrand minus weight, equal number of labels",
        ece(*e.EQUAL_LABELS).named("ECE, frrand minus weight, equal labels").at_most(0.01),
        ece("frrand", "weight").named("ECE, frrand minus weight, equal pairs").reported,
        paper="several waves are asked for there",
        note=e.labels_note,
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
        e.farthest("naive", "all_genuine", "all G: farthest arm from naive").at_most(0.02),
        e.farthest("naive", "dead_frame", "dead frame: farthest repair", REPAIRS).at_most(0.02),
        Rows("estimated_shares", setting="dead_frame")
        .constructed.named("dead frame: estimated share of C")
        .at_most(0.02),
        ece("oracle", "base", "style_lovers").named("style-lovers: ECE, oracle minus base").at_least(0.03),
        paper="no controls there",
        note="frames that move nobody, and genuine lovers of confidence, defeat the remedy",
    ),
    pretrained(
        "M1",
        "released rows recompute",
        "agreement .675 / .699 / .696, slopes .530 / .519, flag means",
        *(
            hosking.where(metric=metric, setting=setting).difference.named(name).within(0.001)
            for name, metric, setting in (
                ("agreement, quality frame", AGREE, "within quality-only frame"),
                ("agreement, checklist frame", AGREE, "within error-checklist frame"),
                ("agreement, across", AGREE, "across the two frames (different people)"),
                ("slope, quality frame", SLOPE, "quality-only frame"),
                ("slope, checklist frame", SLOPE, "error-checklist frame"),
            )
        ),
        Measure(e.flag_means, "flag means, farthest").at_most(0.001),
        paper="derived from the released rows",
    ),
    pretrained(
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
        paper="no reward model was trained there",
    ),
    pretrained(
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
        paper="no policy was trained there",
    ),
    pretrained(
        "M4",
        "filter vs random on real raters",
        "DICES-350 and -990, 1,000 random drops of equal size",
        *e.filtered("dices_350"),
        *e.filtered("dices_990"),
        paper="18.6 % of prompts, without a random baseline",
    ),
    pretrained(
        "M5",
        "ratings",
        "PRISM, mean shift after within-person centring, vs random",
        e.beyond(shifts.where(centred=True), "removals beyond random"),
        centred.shift.named("mean shift at 20 %, centred", "points").reported,
        centred.largest.named("largest shift at 20 %, centred", "points").reported,
        raw.shift.named("mean shift at 20 %, not centred", "points").reported,
        paper="over 13 points of 100",
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

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
    both_ = verdict["W5"] == verdict["W6"] == REPLICATED
    return 'wording narrowed to "C bends, N attenuates"' if both_ else ""


def fits_something_else(verdict: Verdicts, criteria: tuple[str, ...]) -> tuple[str, str]:
    word, why = together(verdict, criteria)
    return word, "; ".join(filter(None, (narrowed(verdict), why)))


def people(verdict: Verdicts) -> tuple[str, str]:
    """Never above "inconclusive" unless real raters were looked at (M4 or M5)."""
    judged = [c for c in HUMAN if verdict[c] != NOT_ATTEMPTED]
    word, note = attempted(*HUMAN)(verdict)[0], listed(verdict, *judged)
    if verdict["M4"] == verdict["M5"] == NOT_ATTEMPTED:
        word = worst([word, INCONCLUSIVE])
        note += "; print alone cannot lift it above inconclusive: M4 and M5 look at real raters and were not attempted"
    return word, note


def part(id: str, statement: str, criteria: tuple[str, ...], rule=together) -> Part:
    return Part(id, "world", statement, criteria, lambda verdict: rule(verdict, criteria))


PARTS = (
    part("(i)", "the types leave different signatures, and their shares can be estimated", SIGNATURES),
    part("(ii)", "pooled labels make the reward model fit something other than quality", FITS, fits_something_else),
    part(
        "(iii)",
        "optimising that reward raises approval and ruins calibration together; decomposing repairs it",
        EVENT,
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
