"""Claim 1, declared before any run: binary correctness rewards, guessing and calibration."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import pandas as pd

from candor.claims import shared
from candor.claims.shared import Estimator, counted, exactly, paired, select, single, trained
from candor.experiments import language_models as models
from candor.ledger import (
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
    NotRun,
    Part,
    Tables,
    worst,
)

# --- Estimators -----------------------------------------------------------------------------------


def value(arm: str, measure: str, setting: str = "expert") -> Estimator:
    """A measure of an arm, by seed."""
    return shared.value("summary", measure, setting=setting, arm=arm)


def minus(arm: str, other: str, measure: str, setting: str = "expert") -> Estimator:
    """Difference of two arms on the same seed (and the same base, the same questions)."""
    return paired(operator.sub, value(arm, measure, setting), value(other, measure, setting))


def together(name: str, count: int, *checks: Check) -> Check:
    """Whether every one of `checks` holds on the same `count` of five seeds: their share, judged without an interval.

    `shared.both` and `shared.together` say the same sentence of other claims and judge it with the interval as well;
    the criteria of the first run stay judged by the rule that they were declared with.
    """

    def share(tables: Tables) -> float:
        columns = pd.concat([check.estimate(tables).map(check.band.holds) for check in checks], axis=1, join="inner")
        if columns.empty:
            raise NotRun("No seed was run for all of what must hold together.")
        return columns.all(axis=1).mean()

    return Check(name, share, Band(low=count / 5), unit="share of seeds")


# --- Notes that depend on the outcome -------------------------------------------------------------


def drift_note(tables: Tables) -> str:
    drift = minus("rlvr", "base", "q_mean_gap")(tables).dropna()
    up = int((drift > 0).sum())
    if 0 < up < len(drift):
        seeds_up = f"the gap rises in {up} of {len(drift)} seeds"
        return f"direction not determined by the reward: {seeds_up} and falls in the others"
    return f"the gap {'rises' if up else 'falls'} in every seed ({len(drift)} of {len(drift)})"


def noise_note(tables: Tables) -> str:
    """What noise alone did to the stated confidence, and how much of it each arm was exposed to."""
    moved, null = (minus(arm, "base", "q_mean_abs_posterior")(tables).mean() for arm in ("rlvr", "shuffled_correct"))
    signal, there = (
        1 - select(tables, "training", setting="expert", arm=arm)["frac_reward_zero_std"].mean()
        for arm in ("rlvr", "shuffled_correct")
    )
    suffices = "noise alone suffices: " if null >= moved else ""
    return (
        f"{suffices}RLVR moves it by {moved:+.3f}, shuffled correctness by {null:+.3f} ({signal:.0%} of RLVR's groups "
        f"carry a signal, {there:.0%} there)"
    )


def saturation_note(tables: Tables) -> str:
    saturated = value("rlvr", "answer_saturated")(tables)
    failed = int((saturated > 0.5).sum())
    return f"saturated (probability > .999 on half of the questions) in {failed} of {len(saturated)} seeds"


def null_note(tables: Tables) -> str:
    """What the shuffled reward did to the same quantities, beside W4."""
    try:
        moved, gap = (
            minus("shuffled_conf_first", "base", measure, "expert_conf_first")(tables).mean()
            for measure in ("sampled_confidence", "sampled_gap")
        )
    except NotRun:
        return "tabular prediction +.157 and +.055"
    return (
        "tabular prediction +.157 and +.055; "
        f"with shuffled correctness the confidence moves by {moved:+.3f} and the gap by {gap:+.3f}"
    )


# --- Criteria -------------------------------------------------------------------------------------


def _worse(domain: str) -> Callable[[Tables], Estimate]:
    return counted("cells", lambda cells: cells["rlvr_ece"] > cells["base_ece"], domain=domain)


_CONF_FIRST = (
    Check(
        "mean stated confidence of drawn documents, minus base",
        minus("rlvr_conf_first", "base", "sampled_confidence", "expert_conf_first"),
        Band(low=0.05),
        count=4,
    ),
    Check(
        "gap of drawn documents, minus base gap",
        minus("rlvr_conf_first", "base", "sampled_gap", "expert_conf_first"),
        Band(low=0.03),
        count=4,
    ),
)

_REPAIR = (
    Check(
        "ECE of the answer probability, after / before one temperature, held out",
        paired(operator.truediv, value("rlvr", "answer_ece_heldout_after"), value("rlvr", "answer_ece_heldout_before")),
        Band(high=0.5),
        count=4,
        unit="ratio",
    ),
    Check("fitted temperature", value("rlvr", "temperature_answer"), Band(low=1.0), count=4, unit="temperature"),
    Check(
        "share of questions with answer probability > .999",
        value("rlvr", "answer_saturated"),
        Band(high=0.5),
        count=4,
    ),
)

_SELECTIVE = {0.5: 0.845, 0.75: 0.927, 0.9: 0.977}  # accuracy of Bayes where its posterior exceeds t


def _abstention_checks(length: str = "") -> tuple[Check, ...]:
    """The bands of W5 for the arms of the usual or of another length."""
    never = f"abstain_00{length}"
    return (
        Check("IDK at t = 0", value(never, "idk_rate", "abstaining"), Band(high=0.02), count=5),
        Check(
            "wrong per 100 at t = 0, minus base",
            minus(never, "base", "wrong_per_100", "abstaining"),
            Band(low=3.0),
            unit="per 100",
        ),
        *(check for t in _SELECTIVE for check in _threshold_checks(t, length)),
    )


def _threshold_checks(t: float, length: str) -> tuple[Check, Check]:
    arm = f"abstain_{round(100 * t)}{length}"
    return (
        Check(
            f"switch point at t = {t:g}",
            value(arm, "switch_point", "abstaining"),
            Band(round(t - 0.05, 3), round(t + 0.05, 3)),
            unit="posterior",
        ),
        Check(
            f"selective accuracy at t = {t:g}",
            value(arm, "selective_accuracy", "abstaining"),
            Band(round(_SELECTIVE[t] - 0.03, 3), round(_SELECTIVE[t] + 0.03, 3)),
        ),
    )


def _payoff_errors(tables: Tables) -> Estimate:
    payoff = tables["payoff"]
    return Estimate(int((payoff["answers"] != (payoff["p"] > payoff["t"])).sum()), n=len(payoff))


CRITERIA = (
    Criterion(
        "P1",
        "published",
        "RLVR's stated confidence is pinned high",
        "cells of the released metrics with mean stated confidence >= .95",
        "16 of 16",
        (
            Check(
                "cells pinned high",
                counted("cells", lambda c: c["rlvr_confidence"] >= 0.95),
                exactly(16),
                unit="cells",
            ),
        ),
        paper_value="1.000 on HotpotQA",
    ),
    Criterion(
        "P2",
        "published",
        "RLVR's calibration error is its error rate",
        "largest |ECE - (1 - accuracy)| over the 8 cells of the HotpotQA-trained model",
        "<= .003",
        (
            Check(
                "largest distance",
                lambda tables: Estimate(select(tables, "cells", family="HotpotQA")["ece_minus_error"].abs().max(), n=8),
                Band(high=0.003),
            ),
        ),
        paper_value="ECE .370 at accuracy .630 on HotpotQA",
    ),
    Criterion(
        "P3",
        "published",
        "calibration worsens out of domain and does not in domain",
        "cells in which RLVR's ECE exceeds the base model's",
        "10 of 11 out of domain, 0 of 5 in domain",
        (
            Check("out of domain", _worse("out"), exactly(10), unit="cells"),
            Check("in domain", _worse("in"), exactly(0), unit="cells"),
        ),
        paper_value="HotpotQA-trained: ECE .40 -> .46 out of domain, .53 -> .37 in domain",
        note=lambda tables: "; ".join(
            f"{row.domain} of domain".replace("in of", "in") + f": worse in {row.worse} of {row.cells} cells"
            for row in tables["cell_counts"].query("metric == 'ece' and domain != 'all'")[::-1].itertuples()
        ),
    ),
    Criterion(
        "P4",
        "published",
        "the information in the ranking is lost",
        "cells in which AUROC falls below the start",
        ">= 12 of 16 (2507.16806), 4 of 4 (2607.04332)",
        (
            Check(
                "released cells",
                counted("cells", lambda c: c["rlvr_auroc"] < c["base_auroc"]),
                Band(low=12),
                unit="cells",
            ),
            Check(
                "confidence in the trained text",
                counted("swap_start", lambda c: c["correctness_auroc"] < c["start_auroc"]),
                exactly(4),
                unit="cells",
            ),
        ),
        paper_value="AUROC .540 -> .500 on HotpotQA",
    ),
    Criterion(
        "P5",
        "published",
        "stated confidence rises when it is part of the trained text",
        "data sets with a higher mean confidence after Correctness-only than at the start, SFT (XML)",
        "4 of 4",
        (
            Check(
                "data sets",
                counted("swap_start", lambda c: c["correctness_confidence"] > c["start_confidence"]),
                exactly(4),
                unit="cells",
            ),
        ),
        paper_value=".811 to .952 -> .967 to .992",
        note="one discarded run sat near .1 for hundreds of steps: the reward does not set the direction",
    ),
    Criterion(
        "W1",
        "world",
        "guessing dominates abstaining when a wrong answer costs nothing",
        "expected reward in exact fractions, p on a grid of .001, t in {0, .5, .75, .9}: grid points where "
        "'answering pays' differs from 'p > t'",
        "0",
        (Check("grid points that disagree", _payoff_errors, exactly(0), unit="grid points"),),
        paper_value="exact",
        computed=True,
    ),
    Criterion(
        "W2",
        "world",
        "answer probabilities sharpen",
        "ECE of the probability of the greedy answer, 10 bins",
        "rlvr >= .20 in 5/5; base <= .03; rlvr minus shuffled_correct >= .10",
        (
            Check("rlvr", value("rlvr", "answer_ece"), Band(low=0.20), count=5),
            Check("base", value("base", "answer_ece"), Band(high=0.03)),
            Check("rlvr minus shuffled_correct", minus("rlvr", "shuffled_correct", "answer_ece"), Band(low=0.10)),
        ),
        paper_value="GPT-4, answer letters: ECE .007 -> .074",
    ),
    Criterion(
        "W3a",
        "world",
        "stated confidence loses its calibration",
        "mean |q_mean - exact posterior of the greedy answer|, differences of arms on the same seed",
        "rlvr minus base >= +.05 in 4/5; more than shuffled_correct minus base in 4/5",
        (
            Check("rlvr minus base", minus("rlvr", "base", "q_mean_abs_posterior"), Band(low=0.05), count=4),
            Check(
                "rlvr minus shuffled_correct",
                minus("rlvr", "shuffled_correct", "q_mean_abs_posterior"),
                Band(low=0.0),
                count=4,
            ),
        ),
        paper_value="no exact posterior there",
        note=noise_note,
    ),
    Criterion(
        "W3b",
        "world",
        "... and becomes overconfident (answer written first)",
        "gap = mean q_mean minus greedy accuracy, rlvr minus base on the same seed",
        ">= +.03 in 4/5",
        (Check("rlvr minus base", minus("rlvr", "base", "q_mean_gap"), Band(low=0.03), count=4),),
        paper_value="gap +.062 out of domain, -.165 in domain (HotpotQA-trained)",
        note=drift_note,
    ),
    Criterion(
        "W4",
        "world",
        "confidence first: the reward selects the confident style",
        "documents drawn whole, rlvr_conf_first minus its base: mean stated confidence; gap",
        ">= +.05 and >= +.03, both in the same 4/5",
        (*_CONF_FIRST, together("both on the same seed", 4, *_CONF_FIRST)),
        paper_value="not measured there",
        note=null_note,
    ),
    Criterion(
        "W5",
        "world",
        "the binary reward drives abstention out, threshold rewards bring it back",
        "share of IDK; wrong answers per 100 questions; selective accuracy; switch point (posterior at which "
        "a logistic fit of answering crosses .5)",
        "t = 0: IDK <= .02 in 5/5, wrong per 100 >= base + 3; t = .5, .75, .9: switch point within .05 of t, "
        "selective accuracy within .03 of .845, .927, .977",
        _abstention_checks(),
        paper_value="9 of 10 benchmarks grade binarily (2509.04664)",
        note="after 400 steps, before the plateau of the arm with t = .75: see W5-800",
    ),
    Criterion(
        "W5-800",
        "world",
        "the same after 800 steps (added after the result of W5; no part rests on it)",
        "as W5; on the tuning seed the training reward at t = .75 lies .05 below its end after 400 steps, so that the "
        "rule for step counts asks for 800",
        "as W5",
        _abstention_checks("_long"),
        paper_value="9 of 10 benchmarks grade binarily (2509.04664)",
    ),
    Criterion(
        "W6",
        "world",
        "one temperature repairs the answer probability",
        "rlvr; one T fitted by log loss on held-out questions, ECE judged on the others",
        "after / before <= .5 with T > 1, both in the same 4/5; saturation counts as failure",
        (*_REPAIR, together("all three on the same seed", 4, *_REPAIR)),
        paper_value="T = 2.5 largely repairs a policy after RLHF (2207.05221)",
        note=saturation_note,
    ),
    Criterion(
        "W7",
        "world",
        "no cost and no gain in greedy accuracy, but a gain in sampled accuracy",
        "rlvr minus base on the same seed, expert crowd",
        "greedy within .01; sampled >= +.06",
        (
            Check("greedy accuracy", minus("rlvr", "base", "accuracy_greedy"), Band(-0.01, 0.01)),
            Check("sampled accuracy", minus("rlvr", "base", "accuracy_sampled"), Band(low=0.06)),
        ),
        paper_value="HotpotQA +.233 (the base had headroom there)",
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
            for arm in ("base", "rlvr")
            for dataset in models.JUDGED_OUTPUTS
        ),
        note=models.options_note,
    ),
    Criterion(
        "M2",
        "models",
        "the released 7B checkpoints behave as printed",
        "HotpotQA, n = 1,000: accuracy, ECE, mean confidence of the RLVR checkpoint",
        "accuracy .630 +- .03, ECE within .01 of 1 - accuracy, mean confidence >= .98",
        (
            Check("accuracy", single("released", "rlvr", "accuracy_greedy"), Band(0.60, 0.66), n=1000),
            Check(
                "|ECE - (1 - accuracy)|",
                lambda tables: abs(
                    single("released", "rlvr", "q_mode_ece")(tables)
                    - (1 - single("released", "rlvr", "accuracy_greedy")(tables))
                ),
                Band(high=0.01),
            ),
            Check("mean confidence", single("released", "rlvr", "q_mode_mean"), Band(low=0.98)),
        ),
    ),
    Criterion(
        "M3",
        "models",
        "a small RLVR run shows the same",
        "stated confidence asked for after the answer; ECE; AUROC; 3 seeds",
        "confidence >= .95, ECE within .03 of 1 - accuracy, AUROC <= base + .02",
        (
            Check("stated confidence", trained("rlvr", "q_mode_mean"), Band(low=0.95), count=5),
            Check(
                "|ECE - (1 - accuracy)|",
                paired(
                    lambda ece, accuracy: (ece - (1 - accuracy)).abs(),
                    trained("rlvr", "q_mode_ece"),
                    trained("rlvr", "accuracy_greedy"),
                ),
                Band(high=0.03),
                count=5,
            ),
            Check(
                "AUROC minus base",
                lambda tables: (
                    trained("rlvr", "q_mode_auroc")(tables) - single("policy", "base", "q_mode_auroc")(tables)
                ),
                Band(high=0.02),
                count=5,
            ),
        ),
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

Verdicts = Mapping[str, str]


def _direction(verdict: Verdicts) -> tuple[str, str]:
    """Part (iv) holds if either order of answer and confidence shows it: the better of the two."""
    order = (NOT_ATTEMPTED, NOT_REPLICATED, INCONCLUSIVE, PARTLY, REPLICATED)
    best = max(verdict["W3b"], verdict["W4"], key=order.index)
    return best, f"answer first (W3b): {verdict['W3b']}; confidence first (W4): {verdict['W4']}"


PARTS = (
    Part("(i)", "world", "with abstaining worth 0, guessing is a dominant strategy", ("W1", "W5")),
    Part("(ii)", "world", "answer probabilities end near 1 while accuracy does not", ("W2",)),
    Part(
        "(iii)",
        "published and world",
        "the stated confidence loses its calibration",
        ("P1", "P3", "W3a"),
    ),
    Part("(iv)", "world", "the stated confidence becomes overconfident", ("W3b", "W4"), _direction),
)

_DECISIVE = ("P1", "P3", "W1", "W2", "W3a", "W5")


def overall(verdict: Verdicts) -> tuple[str, str]:
    """Replicated, partly, otherwise by parts: the rule declared with the criteria."""
    missing = [c for c in (*_DECISIVE, "W3b", "W4") if verdict[c] == NOT_ATTEMPTED]
    first_three = all(verdict[c] == REPLICATED for c in _DECISIVE)
    direction, orders = _direction(verdict)
    if first_three and direction == REPLICATED:
        return REPLICATED, f"(i) to (iii) hold, and so does (iv): {orders}"
    if missing:
        return NOT_ATTEMPTED, f"still missing: {', '.join(missing)}"
    if first_three:
        return PARTLY, f"(i) to (iii) hold, (iv) does not: {orders}"
    parts = {p.id: p.rule(verdict)[0] if p.rule else worst([verdict[c] for c in p.criteria]) for p in PARTS}
    words = set(parts.values())
    middling = INCONCLUSIVE if INCONCLUSIVE in words else NOT_REPLICATED
    word = PARTLY if words & {REPLICATED, PARTLY} else middling
    return word, "by parts: " + ", ".join(f"{part} {v}" for part, v in parts.items())


CLAIM = Claim(
    name="binary_reward",
    number=1,
    title="Binary correctness rewards, guessing and calibration",
    statement=("Binary correctness rewards make overconfident guessing the dominant strategy and hurt calibration."),
    paper="damani2025rlcr",
    citation=(
        "Damani, Puri, Slocum, Shenfeld, Choshen, Kim, Andreas: Beyond Binary Rewards: Training LMs to "
        "Reason About Their Uncertainty. arXiv 2507.16806, ICLR 2026"
    ),
    criteria=CRITERIA,
    parts=PARTS,
    overall=overall,
    tables=(
        "cells",
        "cell_counts",
        "swap_start",
        "payoff",
        "summary",
        "training",
        "models",
        "outputs",
        "outputs_by_option",
    ),
)
