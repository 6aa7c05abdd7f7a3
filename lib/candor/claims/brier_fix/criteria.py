"""Claim 5, declared before any run: the Brier score as second reward term."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd

from candor.claims import shared
from candor.core.errors import CandorError
from candor.declare import ledger
from candor.declare.expressions import Measure, Rows, both, criterion, select, wide
from candor.declare.ledger import Band, Claim, Estimate, Part, Tables, Verdicts


def arm(name: str, setting: str = "expert") -> Rows:
    return Rows("summary", setting=setting, arm=name)


base, rlvr, rlcr = arm("base"), arm("rlvr"), arm("rlcr")
(over, over_base), (naive, naive_base) = (
    (arm("rlcr", crowd), arm("base", crowd)) for crowd in ("overconfident", "naive")
)
cells, constant, swap = Rows("cells"), Rows("constant"), Rows("swap", dataset="HotpotQA-Modified", split="hard")
longer = Rows("shift", setting="expert", shift="testimonies_4_5")
rlvr_longer, rlcr_longer, classifier_longer = (
    longer.where(arm=name) for name in ("rlvr_short", "rlcr_short", "rlvr_short_classifier")
)
released = Rows("models", trained_on="hotpot", setting="released", arm="rlcr", dataset="hotpot_vanilla", number=True)
released_commonsense = released.where(dataset="commonsense_qa")
trained = released.where(setting="policy").by_seed()
trained_rlvr, trained_modified = trained.where(arm="rlvr"), trained.where(dataset="hotpot_modified")


def threshold(rule: str, name: str) -> Measure:
    return Rows("thresholds", rule=rule, grid="continuous", clip=0.0).threshold.named(name)


def distance(column: str, exact: str, power: int, name: str) -> Measure:
    """The largest distance of a column of `optimum` from a power of another."""
    return Measure(lambda tables: (tables["optimum"][column] - tables["optimum"][exact] ** power).abs().max(), name)


def largest_identity_error(tables: Tables) -> Estimate:
    proper = tables["rules"].query("proper")
    return Estimate(proper["identity_error"].max(), n=len(proper))


def gives_up(name: str, low: float, high: float, worst_bin: str) -> Measure:
    """Give-up rate in the worst of the bins of the max posterior between `low` and `high`, by seed."""

    def estimate(tables: Tables) -> pd.Series:
        bins, tops = (
            wide(tables, "posterior_bins", measure, "bin_low", setting="give_up", arm=name)
            for measure in ("give_up_rate", "bin_high")
        )
        between = (bins.columns >= low) & (tops <= high).all()
        if not between.any():
            raise CandorError(f"The table posterior_bins has no bin from {low:g} to {high:g}: correct the limits.")
        return bins.loc[:, between].agg(worst_bin, axis=1)

    return Measure(estimate, name, "give-up rate")


GIVE_UP = (
    ("swap_log1", "log", 0, 0.5, Band(low=0.9)),
    ("swap_log1", "log", 0.8, 1, Band(high=0.1)),
    ("swap_brier2", "2 x Brier", 0, 0.35, Band(low=0.9)),
    ("swap_brier2", "2 x Brier", 0.65, 1, Band(high=0.1)),
    ("swap_rlcr", "RLCR", 0, 1, Band(high=0.05)),
    ("swap_log_k", "log, small weight", 0, 1, Band(high=0.05)),
    ("swap_brier_only", "Brier only", 0.35, 0.8, Band(low=0.8)),
    ("swap_log_only", "log only", 0.35, 0.8, Band(low=0.8)),
)


def first_vote_gain(tables: Tables) -> pd.Series:
    """Gain of the weighted vote at N = 2, minus its largest gain at N = 4, 8, 16, by seed."""
    gain = wide(tables, "voting", "difference", "votes", setting="expert", arm="base", rule="weighted")
    return gain[2] - gain[[4, 8, 16]].max(axis=1)


# --- Notes that depend on the outcome -------------------------------------------------------------


def exceptions_note(tables: Tables) -> str:
    return f"higher Brier than RLVR: {select(tables, 'wins', against='rlvr', metric='brier')['lost'].item()}"


def constant_note(tables: Tables) -> str:
    return "; ".join(
        f"{row.family}-trained: a constant explains {row.share_explained:.0%} of the gain over RLVR"
        for row in tables["constant"].itertuples()
    )


def states_note(tables: Tables) -> str:
    """In how many seeds twice Brier learned to give up at all: a mean over seeds hides two end states."""
    rate = gives_up("swap_brier2", 0, 0.35, "min")(tables)
    return f"2 x Brier gives up on more than half of the hardest questions in {(rate > 0.5).sum()} of {len(rate)} seeds"


def transfer_note(tables: Tables) -> str:
    return f"the ideal forecaster's Brier score there is {rlcr_longer.ideal_brier(tables).mean():.3f}"


published, pretrained = (partial(criterion, evidence=kind) for kind in ("published", "models"))
exact = partial(criterion, computed=True)

# --- Criteria -------------------------------------------------------------------------------------

CRITERIA = (
    exact(
        "T1",
        "for a fixed answer the expected RLCR reward is largest at q = p, and is p^2 there",
        "argmax over q on a grid of .001, for every p on the same grid",
        distance("best_q", "p", 1, "largest |argmax - p|").at_most(0.001),
        distance("value", "p", 2, "largest |V - p^2|").at_most(1e-6),
        paper="Theorem 1",
    ),
    exact(
        "T2",
        "below a threshold that the rule decides, giving up beats trying",
        "smallest p from which an honest attempt is worth at least a surely wrong answer at q = 0",
        threshold("log1", "log, weight 1").within(0.647, 0.649),
        threshold("brier2", "2 x Brier").within(0.499, 0.501),
        threshold("rlcr", "RLCR (0 = none)").within(0, 0.001),
        paper=".64842 and .5 (2607.04332, section 6.1)",
    ),
    exact(
        "T3",
        "the value of trying is the gap between right and wrong: V'(p) = f(p) - g(p); "
        "a bounded proper rule is not enough",
        "central differences of V on p = .01 ... .99, seven rules; a rule is hackable if its gap is negative somewhere",
        Measure(largest_identity_error, "largest |V' - (f - g)|").at_most(1e-3),
        Rows("rules", rule="swap_brier2").hackable.named("2 x Brier hackable (1 = yes)").equals(1),
        Rows("rules", rule="swap_log_k").hackable.named("small log weight hackable (1 = yes)").equals(0),
        paper="weight 1/ln 202 at integer confidences",
    ),
    published(
        "P1",
        "RLCR is better calibrated than RLVR",
        "cells (model family x data set) with the lower value",
        cells.how_many(lambda c: c["rlcr_brier"] < c["rlvr_brier"], "lower Brier").at_least(13),
        cells.how_many(lambda c: c["rlcr_ece"] < c["rlvr_ece"], "lower ECE").at_least(13),
        paper="ECE .37 -> .03 on HotpotQA",
        note=exceptions_note,
    ),
    published(
        "P2",
        "RLCR's accuracy equals RLVR's",
        "difference of mean accuracy in the 4 blocks of Table 1; the math row by the paper's cell and by the "
        "released run",
        *(
            Rows("parity", reading=reading)
            .how_many(lambda p: p["difference"].abs() <= 0.03, f"blocks within .03, {reading}")
            .equals(4)
            for reading in ("as printed", "as released")
        ),
        paper="HotpotQA -.009, math -.002",
    ),
    published(
        "P3",
        "the gain is more than a lower constant",
        "out-of-domain mean Brier: RLCR's answers with one constant confidence (its in-domain accuracy), minus RLCR",
        constant.how_many(lambda c: c["beats_constant"] > 0, "families with a gain").equals(2),
        *(
            constant.where(family=family).column(column).named(f"{name}, {family}-trained").reported
            for column, name in {"beats_constant": "gain", "share_explained": "share explained"}.items()
            for family in ("HotpotQA", "Big-Math")
        ),
        paper="not discussed there",
        note=constant_note,
    ),
    published(
        "P4",
        "rules with a negative gap destroy accuracy, the others do not",
        "accuracy on the hard split of HotpotQA-Modified, relative to Correctness-only (2607.04332)",
        swap.where(arm="Brier-1").relative.named("Brier-1").at_least(0.95),
        *(swap.where(arm=name).relative.named(name).at_most(0.5) for name in ("Log-1", "Brier-2")),
        *(swap.where(arm=name).relative.named(name).at_most(0.01) for name in ("Brier Score", "Log Loss")),
        paper=".210 -> .203 with Brier-1, .020 with Log-1, .096 with Brier-2",
    ),
    criterion(
        "W1",
        "no cost in accuracy",
        "greedy accuracy, rlcr minus rlvr on the same seed and questions",
        *(
            (arm("rlcr", crowd) - arm("rlvr", crowd)).accuracy_greedy.named(f"{crowd}: {name}").within(limit, count=n)
            for crowd in ("expert", "overconfident")
            for name, limit, n in (("mean", 0.01, None), ("every seed", 0.02, 5))
        ),
        paper="-.009 on HotpotQA, no seeds",
    ),
    criterion(
        "W2",
        "the stated confidence tracks the truth",
        "rlcr, expert crowd: mean |q_mean - exact posterior of the greedy answer|; ECE of q_mean, 10 bins",
        rlcr.q_mean_abs_posterior.named("distance to the posterior").at_most(0.08, 5),
        (rlcr / rlvr).q_mean_abs_posterior.named("distance, relative to rlvr").at_most(0.5, 5),
        rlcr.q_mean_ece.named("ECE").at_most(0.035, 4),
        paper="ECE .030 on HotpotQA",
    ),
    criterion(
        "W3",
        "calibration improves over the base model, not only over RLVR",
        "rlcr against its base on the same seed. Expert crowd: Brier of a drawn confidence. "
        "Overconfident crowd: ECE of q_mean",
        (rlcr - base).q_draw_brier.named("expert: Brier, drawn, minus base").at_most(-0.015, 4),
        *both(
            4,
            over.q_mean_ece.named("overconfident: ECE").at_most(0.05, 4),
            (over / over_base).q_mean_ece.named("overconfident: ECE, relative to base").at_most(0.5, 4),
        ),
        paper="ECE .535 -> .030 on HotpotQA",
    ),
    criterion(
        "W4",
        "accuracy and calibration improve jointly",
        "naive crowd, rlcr against its base on the same seed: greedy accuracy; ECE of q_mean",
        *both(
            4,
            (naive - naive_base).accuracy_greedy.named("accuracy minus base").at_least(0.03, 4),
            (naive / naive_base).q_mean_ece.named("ECE, relative to base").at_most(0.5, 4),
        ),
        paper="accuracy .397 -> .621, ECE .535 -> .030 on HotpotQA",
    ),
    criterion(
        "W5",
        "a limit: only the stated confidence is calibrated, not the answer's probability",
        "rlcr, expert crowd: ECE of the probability of the greedy answer",
        rlcr.answer_ece.named("ECE of the answer probability").at_least(0.15, 5),
        paper="answer probability of RLVR: ECE .360",
    ),
    criterion(
        "W6",
        "a limit: the guarantee fails where the gap is negative",
        "give-up crowd: rate of the surely wrong answer, in the worst bin of the max posterior p of the "
        "range (edges 0, .35, .5, .65, .8, 1)",
        *(
            gives_up(name, low, high, "min" if math.isinf(band.high) else "max")
            .named(f"{label}, p in {low:g}-{high:g}")
            .within(band.low, band.high, count=4)
            for name, label, low, high, band in GIVE_UP
        ),
        paper="hard questions: accuracy .210 -> .020 with Log-1",
        note=states_note,
    ),
    criterion(
        "W7",
        "a limit: dividing by the group's spread breaks it, dividing by the batch's does not",
        "expert crowd, minus rlcr without division on the same seed: mean |q_mean - .5|; mean |q_mean - posterior|",
        *(
            (arm(f"rlcr_{scaling}_std") - rlcr)
            .column(column)
            .named(f"{scaling} s.d.: {name}")
            .within(band.low, band.high, count=count)
            for scaling, band, count in (("group", Band(low=0.05), 5), ("batch", Band(-0.02, 0.02), None))
            for column, name in (
                ("q_mean_abs_half", "distance to .5"),
                ("q_mean_abs_posterior", "distance to the posterior"),
            )
        ),
        paper="GRPO overconfident, without division calibrated (2508.11800)",
    ),
    criterion(
        "W8",
        "the controls behave: a Brier term about other questions teaches a constant, a linear term extremes",
        "expert crowd: s.d. of q_mean over questions, rolled outcomes relative to base; linear: share of "
        "q_mean outside [.1, .9]",
        (arm("rlcr_rolled_outcomes") / base)
        .q_mean_sd.named("rolled outcomes: spread relative to base")
        .at_most(0.5, 4),
        arm("linear").q_mean_extreme.named("linear: share of extremes").at_least(0.7, 4),
        paper="no such controls there",
    ),
    criterion(
        "W9",
        "a vote weighted by stated confidence is no worse than a majority vote",
        "accuracy, weighted minus majority over the same documents, N = 2, 4, 8, 16; ties broken at random",
        *(
            Rows("voting", setting="expert", arm=name, rule="weighted", votes=n)
            .difference.named(f"{name}, N = {n}")
            .at_least(-0.003)
            for name in ("base", "rlcr")
            for n in (2, 4, 8, 16)
        ),
        Measure(first_vote_gain, "base: gain at N = 2 minus the largest later gain").at_least(0),
        paper="+.015 at N = 2, +.0045 at N = 16",
    ),
    criterion(
        "W10",
        "the repair reaches questions longer than those of the RL run",
        "RL on 1-3 testimonies, judged on 4-5: Brier of q_mean, rlcr minus rlvr; rlcr minus classifier",
        (rlcr_longer - rlvr_longer).q_mean_brier.named("minus rlvr").at_most(-0.03, 4),
        (rlcr_longer - classifier_longer).q_mean_brier.named("minus classifier").reported,
        paper="out of domain, minus RLVR: -.25; minus classifier: -.056 (HotpotQA-trained)",
        note=transfer_note,
    ),
    *shared.released_outputs("base", "rlvr", "rlcr"),
    pretrained(
        "M2",
        "the released 7B RLCR checkpoint behaves as printed",
        "HotpotQA, n = 1,000; ECE on CommonsenseQA against RLVR's",
        released.accuracy_greedy.named("accuracy").within(0.591, 0.651, n=1000),
        released.q_mode_ece.named("ECE").at_most(0.06),
        released.q_mode_brier.named("Brier").within(0.19, 0.23),
        released.q_mode_auroc.named("AUROC").within(0.64, 0.74),
        (released_commonsense - released_commonsense.where(arm="rlvr"))
        .q_mode_ece.named("ECE on CommonsenseQA, minus RLVR's")
        .at_least(0.0),
    ),
    pretrained(
        "M3",
        "a small training run shows the same",
        "3 seeds, each item separately",
        (trained / trained_rlvr).q_mode_ece.named("ECE, ratio to RLVR's", "ratio").at_most(0.5, 5),
        trained.q_mode_auroc.named("AUROC").at_least(0.60, 5),
        (trained - trained_rlvr).accuracy_greedy.named("accuracy, minus RLVR's").within(0.03, count=5),
        (1 - trained.malformed).named("share of well-formed completions").at_least(0.98, 5),
        trained.q_mode_values.named("values with >= 3 %", "values").at_least(5, 5),
        trained.skill_own.named("Brier skill against own accuracy").at_least(0.0, 5),
    ),
    pretrained(
        "M4",
        "the scoring-rule swap at that scale",
        "2 seeds",
        *(
            trained_modified.where(arm=name).accuracy_greedy.named(f"accuracy of {name}").at_most(0.02, 5)
            for name in ("log_only", "brier_only")
        ),
        (trained_modified.where(arm="log1") / trained_modified)
        .accuracy_hard.named("hard split, log1 as a ratio to rlcr", "ratio")
        .at_most(0.5, 5),
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

PROMISED = (
    "the reward is largest for the best answer with its honest confidence, as long as being right never "
    "pays less than being wrong"
)
PRINTED = "the printed numbers show better calibration at equal accuracy, beyond a lower constant"
IMPROVED = "calibration improves at unchanged accuracy, against RLVR and against the base"
LIMITED = (
    "the fix has limits: answer probabilities stay miscalibrated, rules with a negative gap teach giving up, "
    "division by the group's spread breaks it"
)
PARTS = (
    Part("theorem", "world", PROMISED, ("T1", "T2", "T3")),
    Part("published", "published", PRINTED, ("P1", "P2", "P3", "P4")),
    Part("calibration", "world", IMPROVED, ("W1", "W2", "W3")),
    Part("joint", "world", "accuracy and calibration improve together", ("W4",)),
    Part("limits", "world", LIMITED, ("W5", "W6", "W7")),
    Part("controls", "world", "null and improper rewards do what they must", ("W8",)),
    Part("uses", "world", "confidence helps a vote and survives a shift", ("W9", "W10")),
    Part("models", "models", "pretrained models show the same", ("M1", "M2", "M3", "M4")),
)

_CERTAIN = ("T1", "T2", "T3", "P1", "P2", "W1", "W2")


def limits(verdict: Verdicts) -> str:
    """The sentence on W5-W7 that every verdict carries, whatever its label."""
    return (
        f"limits: answer probabilities stay miscalibrated (W5: {verdict['W5']}), giving up pays where the "
        f"gap is negative (W6: {verdict['W6']}), group scaling breaks it (W7: {verdict['W7']})"
    )


def overall(verdict: Verdicts) -> tuple[str, str]:
    """Replicated if theorem, published numbers, W1, W2 and W4 hold; partly if W4 fails but W1-W3 hold."""
    deciding = (*_CERTAIN, "W4")
    if missing := ledger.named(verdict, ledger.NOT_ATTEMPTED, *deciding):
        word, why = ledger.NOT_ATTEMPTED, f"still missing: {missing}"
    elif not ledger.not_shown(verdict, *deciding):
        word, why = ledger.REPLICATED, "accuracy and calibration improve together"
    elif not ledger.not_shown(verdict, *_CERTAIN, "W3"):
        word, why = ledger.PARTLY, f"calibration at unchanged accuracy, not joint improvement (W4: {verdict['W4']})"
    else:
        failed = ledger.listed(verdict, *ledger.not_shown(verdict, *deciding, "W3"))
        word, why = ledger.worst([verdict[c] for c in deciding]), f"what does not hold: {failed}"
    return word, f"{why}; {limits(verdict)}"


CLAIM = Claim(
    name="brier_fix",
    number=5,
    title="The Brier score as second reward term",
    statement=(
        "Adding the Brier score as second reward term lets accuracy and calibration improve jointly, with a guarantee."
    ),
    **shared.DAMANI,
    criteria=CRITERIA,
    parts=PARTS,
    overall=overall,
    tables=(
        *("optimum", "thresholds", "rules", "cells", "wins", "parity", "constant", "swap"),
        *("summary", "posterior_bins", "voting", "shift", "models", "outputs", "outputs_by_option"),
    ),
)
