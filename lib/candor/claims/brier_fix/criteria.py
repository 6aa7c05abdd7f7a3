"""Claim 5, declared before any run: the Brier score as second reward term."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping

import pandas as pd

from candor.claims import shared
from candor.claims.shared import Estimator, both, counted, exactly, number, paired, select, single, trained, wide
from candor.errors import CandorError
from candor.experiments import language_models as models
from candor.ledger import (
    NOT_ATTEMPTED,
    PARTLY,
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


def value(arm: str, measure: str, setting: str = "expert", table: str = "summary", **rows: object) -> Estimator:
    """A measure of an arm, by seed; `rows` are further values that select rows of the table."""
    return shared.value(table, measure, setting=setting, arm=arm, **rows)


def minus(arm: str, other: str, measure: str, setting: str = "expert", **rows: object) -> Estimator:
    """Difference of two arms on the same seed (the same base, the same questions)."""
    return paired(operator.sub, value(arm, measure, setting, **rows), value(other, measure, setting, **rows))


def ratio(arm: str, other: str, measure: str, setting: str = "expert") -> Estimator:
    """Ratio of two arms on the same seed."""
    return paired(operator.truediv, value(arm, measure, setting), value(other, measure, setting))


def gives_up(arm: str, low: float, high: float, worst_bin: str) -> Estimator:
    """Give-up rate in the worst of the bins of the max posterior between `low` and `high`, by seed."""

    def estimate(tables: Tables) -> pd.Series:
        bins, tops = (
            wide(tables, "posterior_bins", measure, "bin_low", setting="give_up", arm=arm)
            for measure in ("give_up_rate", "bin_high")
        )
        between = (bins.columns >= low) & (tops <= high).all()
        if not between.any():
            raise CandorError(f"The table posterior_bins has no bin from {low:g} to {high:g}: correct the limits.")
        return bins.loc[:, between].agg(worst_bin, axis=1)

    return estimate


def states_note(tables: Tables) -> str:
    """In how many seeds twice Brier learned to give up at all: a mean over seeds hides two end states."""
    rate = gives_up("swap_brier2", 0, 0.35, "min")(tables)
    return f"2 x Brier gives up on more than half of the hardest questions in {(rate > 0.5).sum()} of {len(rate)} seeds"


def first_vote_gain(tables: Tables) -> pd.Series:
    """Gain of the weighted vote at N = 2, minus its largest gain at N = 4, 8, 16, by seed."""
    gain = wide(tables, "voting", "difference", "votes", setting="expert", arm="base", rule="weighted")
    return gain[2] - gain[[4, 8, 16]].max(axis=1)


def cell(table: str, column: str, **row: object) -> Callable[[Tables], float]:
    """One number of a published or theoretical table, found by the values of other columns."""

    return lambda tables: number(tables, table, column, **row)


# --- Notes that depend on the outcome -------------------------------------------------------------


def exceptions_note(tables: Tables) -> str:
    lost = select(tables, "wins", against="rlvr", metric="brier")["lost"].item()
    return f"higher Brier than RLVR: {lost}"


def constant_note(tables: Tables) -> str:
    return "; ".join(
        f"{row.family}-trained: a constant explains {row.share_explained:.0%} of the gain over RLVR"
        for row in tables["constant"].itertuples()
    )


def transfer_note(tables: Tables) -> str:
    ideal = value("rlcr_short", "ideal_brier", **LONGER)(tables)
    return f"the ideal forecaster's Brier score there is {ideal.mean():.3f}"


# --- Criteria -------------------------------------------------------------------------------------

LONGER = {"table": "shift", "shift": "testimonies_4_5"}

CRITERIA = (
    Criterion(
        "T1",
        "world",
        "for a fixed answer the expected RLCR reward is largest at q = p, and is p^2 there",
        "argmax over q on a grid of .001, for every p on the same grid",
        "within one grid step; |V - p^2| <= 1e-6",
        (
            Check(
                "largest |argmax - p|",
                lambda tables: (tables["optimum"]["best_q"] - tables["optimum"]["p"]).abs().max(),
                Band(high=0.001),
            ),
            Check(
                "largest |V - p^2|",
                lambda tables: (tables["optimum"]["value"] - tables["optimum"]["p"] ** 2).abs().max(),
                Band(high=1e-6),
            ),
        ),
        paper_value="Theorem 1",
        computed=True,
    ),
    Criterion(
        "T2",
        "world",
        "below a threshold that the rule decides, giving up beats trying",
        "smallest p from which an honest attempt is worth at least a surely wrong answer at q = 0",
        "log .648, 2 x Brier .500, RLCR none, each +- .001",
        (
            Check(
                "log, weight 1",
                cell("thresholds", "threshold", rule="log1", grid="continuous", clip=0.0),
                Band(0.647, 0.649),
            ),
            Check(
                "2 x Brier",
                cell("thresholds", "threshold", rule="brier2", grid="continuous", clip=0.0),
                Band(0.499, 0.501),
            ),
            Check(
                "RLCR (0 = none)",
                cell("thresholds", "threshold", rule="rlcr", grid="continuous", clip=0.0),
                Band(0, 0.001),
            ),
        ),
        paper_value=".64842 and .5 (2607.04332, section 6.1)",
        computed=True,
    ),
    Criterion(
        "T3",
        "world",
        "the value of trying is the gap between right and wrong: V'(p) = f(p) - g(p); "
        "a bounded proper rule is not enough",
        "central differences of V on p = .01 ... .99, seven rules; a rule is hackable if its gap is negative somewhere",
        "<= 1e-3; 2 x Brier hackable, log with weight .2176 at clip .01 not",
        (
            Check(
                "largest |V' - (f - g)|",
                lambda tables: Estimate(
                    tables["rules"].query("proper")["identity_error"].max(),
                    n=int(tables["rules"]["proper"].sum()),
                ),
                Band(high=1e-3),
            ),
            Check("2 x Brier hackable (1 = yes)", cell("rules", "hackable", rule="swap_brier2"), exactly(1)),
            Check(
                "small log weight hackable (1 = yes)",
                cell("rules", "hackable", rule="swap_log_k"),
                exactly(0),
            ),
        ),
        paper_value="weight 1/ln 202 at integer confidences",
        computed=True,
    ),
    Criterion(
        "P1",
        "published",
        "RLCR is better calibrated than RLVR",
        "cells (model family x data set) with the lower value",
        "Brier and ECE lower in >= 13 of 16 each; the exceptions named",
        (
            Check(
                "lower Brier", counted("cells", lambda c: c["rlcr_brier"] < c["rlvr_brier"]), Band(low=13), unit="cells"
            ),
            Check("lower ECE", counted("cells", lambda c: c["rlcr_ece"] < c["rlvr_ece"]), Band(low=13), unit="cells"),
        ),
        paper_value="ECE .37 -> .03 on HotpotQA",
        note=exceptions_note,
    ),
    Criterion(
        "P2",
        "published",
        "RLCR's accuracy equals RLVR's",
        "difference of mean accuracy in the 4 blocks of Table 1; the math row by the paper's cell and by the "
        "released run",
        "within .03 in 4 of 4, both readings",
        tuple(
            Check(
                f"blocks within .03, {reading}",
                counted("parity", lambda p: p["difference"].abs() <= 0.03, reading=reading),
                exactly(4),
                unit="cells",
            )
            for reading in ("as printed", "as released")
        ),
        paper_value="HotpotQA -.009, math -.002",
    ),
    Criterion(
        "P3",
        "published",
        "the gain is more than a lower constant",
        "out-of-domain mean Brier: RLCR's answers with one constant confidence (its in-domain accuracy), minus RLCR",
        "> 0 in 2 of 2 model families",
        (
            Check(
                "families with a gain", counted("constant", lambda c: c["beats_constant"] > 0), exactly(2), unit="cells"
            ),
            *(
                Check(f"gain, {family}-trained", cell("constant", "beats_constant", family=family))
                for family in ("HotpotQA", "Big-Math")
            ),
            *(
                Check(f"share explained, {family}-trained", cell("constant", "share_explained", family=family))
                for family in ("HotpotQA", "Big-Math")
            ),
        ),
        paper_value="not discussed there",
        note=constant_note,
    ),
    Criterion(
        "P4",
        "published",
        "rules with a negative gap destroy accuracy, the others do not",
        "accuracy on the hard split of HotpotQA-Modified, relative to Correctness-only (2607.04332)",
        "Brier-1 >= .95; Log-1, Brier-2 <= .5; Brier only, log only <= .01",
        tuple(
            Check(arm, cell("swap", "relative", arm=arm, dataset="HotpotQA-Modified", split="hard"), band)
            for arm, band in {
                "Brier-1": Band(low=0.95),
                "Log-1": Band(high=0.5),
                "Brier-2": Band(high=0.5),
                "Brier Score": Band(high=0.01),
                "Log Loss": Band(high=0.01),
            }.items()
        ),
        paper_value=".210 -> .203 with Brier-1, .020 with Log-1, .096 with Brier-2",
    ),
    Criterion(
        "W1",
        "world",
        "no cost in accuracy",
        "greedy accuracy, rlcr minus rlvr on the same seed and questions",
        "|mean| <= .01 and every seed within .02, in both crowds",
        tuple(
            check
            for crowd in ("expert", "overconfident")
            for check in (
                Check(f"{crowd}: mean", minus("rlcr", "rlvr", "accuracy_greedy", crowd), Band(-0.01, 0.01)),
                Check(
                    f"{crowd}: every seed",
                    minus("rlcr", "rlvr", "accuracy_greedy", crowd),
                    Band(-0.02, 0.02),
                    count=5,
                ),
            )
        ),
        paper_value="-.009 on HotpotQA, no seeds",
    ),
    Criterion(
        "W2",
        "world",
        "the stated confidence tracks the truth",
        "rlcr, expert crowd: mean |q_mean - exact posterior of the greedy answer|; ECE of q_mean, 10 bins",
        "<= .08 and <= half of rlvr's in 5/5; ECE <= .035 in 4/5",
        (
            Check("distance to the posterior", value("rlcr", "q_mean_abs_posterior"), Band(high=0.08), 5),
            Check("distance, relative to rlvr", ratio("rlcr", "rlvr", "q_mean_abs_posterior"), Band(high=0.5), 5),
            Check("ECE", value("rlcr", "q_mean_ece"), Band(high=0.035), 4),
        ),
        paper_value="ECE .030 on HotpotQA",
    ),
    Criterion(
        "W3",
        "world",
        "calibration improves over the base model, not only over RLVR",
        "rlcr against its base on the same seed. Expert crowd: Brier of a drawn confidence. "
        "Overconfident crowd: ECE of q_mean",
        "Brier <= -.015 in 4/5; ECE <= .05 and <= half of base in the same 4/5",
        (
            Check(
                "expert: Brier, drawn, minus base",
                minus("rlcr", "base", "q_draw_brier"),
                Band(high=-0.015),
                4,
            ),
            *both(
                4,
                Check("overconfident: ECE", value("rlcr", "q_mean_ece", "overconfident"), Band(high=0.05), 4),
                Check(
                    "overconfident: ECE, relative to base",
                    ratio("rlcr", "base", "q_mean_ece", "overconfident"),
                    Band(high=0.5),
                    4,
                ),
            ),
        ),
        paper_value="ECE .535 -> .030 on HotpotQA",
    ),
    Criterion(
        "W4",
        "world",
        "accuracy and calibration improve jointly",
        "naive crowd, rlcr against its base on the same seed: greedy accuracy; ECE of q_mean",
        "accuracy >= +.03 and ECE <= half of base, both in the same 4/5",
        both(
            4,
            Check("accuracy minus base", minus("rlcr", "base", "accuracy_greedy", "naive"), Band(low=0.03), 4),
            Check("ECE, relative to base", ratio("rlcr", "base", "q_mean_ece", "naive"), Band(high=0.5), 4),
        ),
        paper_value="accuracy .397 -> .621, ECE .535 -> .030 on HotpotQA",
    ),
    Criterion(
        "W5",
        "world",
        "a limit: only the stated confidence is calibrated, not the answer's probability",
        "rlcr, expert crowd: ECE of the probability of the greedy answer",
        ">= .15 in 5/5",
        (Check("ECE of the answer probability", value("rlcr", "answer_ece"), Band(low=0.15), 5),),
        paper_value="answer probability of RLVR: ECE .360",
    ),
    Criterion(
        "W6",
        "world",
        "a limit: the guarantee fails where the gap is negative",
        "give-up crowd: rate of the surely wrong answer, in the worst bin of the max posterior p of the "
        "range (edges 0, .35, .5, .65, .8, 1)",
        "log: >= .9 for p <= .5, <= .1 for p >= .8; 2 x Brier: >= .9 for p <= .35, <= .1 for p >= .65; "
        "RLCR, log with small weight: <= .05 everywhere; Brier only, log only: >= .8 for p in .35-.8; "
        "each in 4/5",
        tuple(
            Check(
                f"{name}, p in {low:g}-{high:g}",
                gives_up(arm, low, high, "min" if math.isinf(band.high) else "max"),
                band,
                count=4,
                unit="give-up rate",
            )
            for arm, name, low, high, band in (
                ("swap_log1", "log", 0, 0.5, Band(low=0.9)),
                ("swap_log1", "log", 0.8, 1, Band(high=0.1)),
                ("swap_brier2", "2 x Brier", 0, 0.35, Band(low=0.9)),
                ("swap_brier2", "2 x Brier", 0.65, 1, Band(high=0.1)),
                ("swap_rlcr", "RLCR", 0, 1, Band(high=0.05)),
                ("swap_log_k", "log, small weight", 0, 1, Band(high=0.05)),
                ("swap_brier_only", "Brier only", 0.35, 0.8, Band(low=0.8)),
                ("swap_log_only", "log only", 0.35, 0.8, Band(low=0.8)),
            )
        ),
        paper_value="hard questions: accuracy .210 -> .020 with Log-1",
        note=states_note,
    ),
    Criterion(
        "W7",
        "world",
        "a limit: dividing by the group's spread breaks it, dividing by the batch's does not",
        "expert crowd, minus rlcr without division on the same seed: mean |q_mean - .5|; mean |q_mean - posterior|",
        "group >= +.05, both in 5/5; batch within .02",
        tuple(
            Check(f"{scaling} s.d.: {name}", minus(f"rlcr_{scaling}_std", "rlcr", measure), band, count)
            for scaling, band, count in (("group", Band(low=0.05), 5), ("batch", Band(-0.02, 0.02), None))
            for name, measure in (
                ("distance to .5", "q_mean_abs_half"),
                ("distance to the posterior", "q_mean_abs_posterior"),
            )
        ),
        paper_value="GRPO overconfident, without division calibrated (2508.11800)",
    ),
    Criterion(
        "W8",
        "world",
        "the controls behave: a Brier term about other questions teaches a constant, a linear term extremes",
        "expert crowd: s.d. of q_mean over questions, rolled outcomes relative to base; linear: share of "
        "q_mean outside [.1, .9]",
        "<= half of base in 4/5; >= .7 in 4/5",
        (
            Check(
                "rolled outcomes: spread relative to base",
                ratio("rlcr_rolled_outcomes", "base", "q_mean_sd"),
                Band(high=0.5),
                4,
            ),
            Check("linear: share of extremes", value("linear", "q_mean_extreme"), Band(low=0.7), 4),
        ),
        paper_value="no such controls there",
    ),
    Criterion(
        "W9",
        "world",
        "a vote weighted by stated confidence is no worse than a majority vote",
        "accuracy, weighted minus majority over the same documents, N = 2, 4, 8, 16; ties broken at random",
        "lower 95 % bound over seeds >= -.003 for base and rlcr at every N; gain largest at N = 2 for base",
        (
            *(
                Check(
                    f"{arm}, N = {n}",
                    value(arm, "difference", table="voting", rule="weighted", votes=n),
                    Band(low=-0.003),
                )
                for arm in ("base", "rlcr")
                for n in (2, 4, 8, 16)
            ),
            Check("base: gain at N = 2 minus the largest later gain", first_vote_gain, Band(low=0)),
        ),
        paper_value="+.015 at N = 2, +.0045 at N = 16",
    ),
    Criterion(
        "W10",
        "world",
        "the repair reaches questions longer than those of the RL run",
        "RL on 1-3 testimonies, judged on 4-5: Brier of q_mean, rlcr minus rlvr; rlcr minus classifier",
        "<= -.03 in 4/5; the second without a band",
        (
            Check(
                "minus rlvr",
                minus("rlcr_short", "rlvr_short", "q_mean_brier", **LONGER),
                Band(high=-0.03),
                4,
            ),
            Check(
                "minus classifier",
                minus("rlcr_short", "rlvr_short_classifier", "q_mean_brier", **LONGER),
            ),
        ),
        paper_value="out of domain, minus RLVR: -.25; minus classifier: -.056 (HotpotQA-trained)",
        note=transfer_note,
    ),
    Criterion(
        "M1",
        "models",
        "the released outputs recompute",
        "accuracy, Brier, ECE, AUROC from the released per-item outputs against the released metrics",
        "within .001 in 15 of 15",
        (Check("cells within .001", models.recomputing_cells, Band(15, 15), unit="cells", n=15),),
    ),
    Criterion(
        "M1b",
        "models",
        "multiple choices of the released outputs, by the option that an answer names (context: without a band)",
        "CommonsenseQA, GPQA: ECE and accuracy with answers graded by option, minus those with the labels of the "
        "authors' judge, a language model; an answer that names no option or several is wrong",
        "reported, no band: the paper grades these by its judge alone",
        tuple(
            Check(f"{measure} of {arm} on {dataset}", models.option_effect(dataset, arm, measure))
            for measure in ("ece", "accuracy")
            for arm in ("base", "rlvr", "rlcr")
            for dataset in models.JUDGED_OUTPUTS
        ),
        note=models.options_note,
    ),
    Criterion(
        "M2",
        "models",
        "the released 7B RLCR checkpoint behaves as printed",
        "HotpotQA, n = 1,000; ECE on CommonsenseQA against RLVR's",
        "accuracy .621 +- .03, ECE <= .06, Brier .21 +- .02, AUROC .69 +- .05; CommonsenseQA: ECE above RLVR's",
        (
            Check("accuracy", single("released", "rlcr", "accuracy_greedy"), Band(0.591, 0.651), n=1000),
            Check("ECE", single("released", "rlcr", "q_mode_ece"), Band(high=0.06)),
            Check("Brier", single("released", "rlcr", "q_mode_brier"), Band(0.19, 0.23)),
            Check("AUROC", single("released", "rlcr", "q_mode_auroc"), Band(0.64, 0.74)),
            Check(
                "ECE on CommonsenseQA, minus RLVR's",
                lambda tables: (
                    single("released", "rlcr", "q_mode_ece", "commonsense_qa")(tables)
                    - single("released", "rlvr", "q_mode_ece", "commonsense_qa")(tables)
                ),
                Band(low=0.0),
            ),
        ),
    ),
    Criterion(
        "M3",
        "models",
        "a small training run shows the same",
        "3 seeds, each item separately",
        "ECE <= half of RLVR's, AUROC >= .60, accuracy within .03, format >= .98, >= 5 values with >= 3 % of "
        "the mass, Brier below the own-accuracy constant",
        (
            Check(
                "ECE, ratio to RLVR's",
                paired(operator.truediv, trained("rlcr", "q_mode_ece"), trained("rlvr", "q_mode_ece")),
                Band(high=0.5),
                count=5,
                unit="ratio",
            ),
            Check("AUROC", trained("rlcr", "q_mode_auroc"), Band(low=0.60), count=5),
            Check(
                "accuracy, minus RLVR's",
                paired(operator.sub, trained("rlcr", "accuracy_greedy"), trained("rlvr", "accuracy_greedy")),
                Band(-0.03, 0.03),
                count=5,
            ),
            Check(
                "share of well-formed completions",
                lambda tables: 1 - trained("rlcr", "malformed")(tables),
                Band(low=0.98),
                count=5,
            ),
            Check("values with >= 3 %", trained("rlcr", "q_mode_values"), Band(low=5), count=5, unit="values"),
            Check("Brier skill against own accuracy", trained("rlcr", "skill_own"), Band(low=0.0), count=5),
        ),
    ),
    Criterion(
        "M4",
        "models",
        "the scoring-rule swap at that scale",
        "2 seeds",
        "log only, Brier only: accuracy <= .02; Log-1: hard split <= half of RLCR's",
        (
            *(
                Check(
                    f"accuracy of {arm}",
                    trained(arm, "accuracy_greedy", "hotpot_modified"),
                    Band(high=0.02),
                    count=5,
                )
                for arm in ("log_only", "brier_only")
            ),
            Check(
                "hard split, log1 as a ratio to rlcr",
                paired(
                    operator.truediv,
                    *(trained(arm, "accuracy_hard", "hotpot_modified") for arm in ("log1", "rlcr")),
                ),
                Band(high=0.5),
                count=5,
                unit="ratio",
            ),
        ),
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

PARTS = (
    Part(
        "theorem",
        "world",
        "the reward is largest for the best answer with its honest confidence, as long as being right never "
        "pays less than being wrong",
        ("T1", "T2", "T3"),
    ),
    Part(
        "published",
        "published",
        "the printed numbers show better calibration at equal accuracy, beyond a lower constant",
        ("P1", "P2", "P3", "P4"),
    ),
    Part(
        "calibration",
        "world",
        "calibration improves at unchanged accuracy, against RLVR and against the base",
        ("W1", "W2", "W3"),
    ),
    Part("joint", "world", "accuracy and calibration improve together", ("W4",)),
    Part(
        "limits",
        "world",
        "the fix has limits: answer probabilities stay miscalibrated, rules with a negative gap teach "
        "giving up, division by the group's spread breaks it",
        ("W5", "W6", "W7"),
    ),
    Part("controls", "world", "null and improper rewards do what they must", ("W8",)),
    Part("uses", "world", "confidence helps a vote and survives a shift", ("W9", "W10")),
    Part("models", "models", "pretrained models show the same", ("M1", "M2", "M3", "M4")),
)

_CERTAIN = ("T1", "T2", "T3", "P1", "P2", "W1", "W2")


def limits(verdict: Mapping[str, str]) -> str:
    """The sentence on W5-W7 that every verdict carries, whatever its label."""
    return (
        f"limits: answer probabilities stay miscalibrated (W5: {verdict['W5']}), giving up pays where the "
        f"gap is negative (W6: {verdict['W6']}), group scaling breaks it (W7: {verdict['W7']})"
    )


def overall(verdict: Mapping[str, str]) -> tuple[str, str]:
    """Replicated if theorem, published numbers, W1, W2 and W4 hold; partly if W4 fails but W1-W3 hold."""
    deciding = (*_CERTAIN, "W4")
    if missing := [c for c in deciding if verdict[c] == NOT_ATTEMPTED]:
        word, why = NOT_ATTEMPTED, f"still missing: {', '.join(missing)}"
    elif all(verdict[c] == REPLICATED for c in deciding):
        word, why = REPLICATED, "accuracy and calibration improve together"
    elif all(verdict[c] == REPLICATED for c in (*_CERTAIN, "W3")):
        word, why = PARTLY, f"calibration at unchanged accuracy, not joint improvement (W4: {verdict['W4']})"
    else:
        word = worst([verdict[c] for c in deciding])
        failed = ", ".join(f"{c} {verdict[c]}" for c in (*deciding, "W3") if verdict[c] != REPLICATED)
        why = f"what does not hold: {failed}"
    return word, f"{why}; {limits(verdict)}"


CLAIM = Claim(
    name="brier_fix",
    number=5,
    title="The Brier score as second reward term",
    statement=(
        "Adding the Brier score as second reward term lets accuracy and calibration improve jointly, with a guarantee."
    ),
    paper="damani2025rlcr",
    citation=(
        "Damani, Puri, Slocum, Shenfeld, Choshen, Kim, Andreas: Beyond Binary Rewards: Training LMs to "
        "Reason About Their Uncertainty. arXiv 2507.16806, ICLR 2026"
    ),
    criteria=CRITERIA,
    parts=PARTS,
    overall=overall,
    tables=(
        *("optimum", "thresholds", "rules", "cells", "wins", "parity", "constant", "swap"),
        *("summary", "posterior_bins", "voting", "shift", "models", "outputs", "outputs_by_option"),
    ),
)
