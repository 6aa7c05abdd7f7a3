"""Claim 1, declared before any run: binary correctness rewards, guessing and calibration."""

from __future__ import annotations

from functools import partial

import pandas as pd

from candor.claims import shared
from candor.declare import ledger
from candor.declare.expressions import Measure, Rows, criterion, select
from candor.declare.ledger import Band, Check, Claim, Estimate, NotRun, Part, Tables, Verdicts

base, rlvr, null = (Rows("summary", setting="expert", arm=arm) for arm in ("base", "rlvr", "shuffled_correct"))
first_base = Rows("summary", setting="expert_conf_first", arm="base")
first, first_null = (first_base.where(arm=arm) for arm in ("rlvr_conf_first", "shuffled_conf_first"))
abstaining = Rows("summary", setting="abstaining", arm="base")
cells, swap = Rows("cells"), Rows("swap_start")
released = Rows("models", trained_on="hotpot", setting="released", arm="rlvr", dataset="hotpot_vanilla", number=True)
trained = released.where(setting="policy").by_seed()
untrained = released.where(setting="policy", arm="base")

SELECTIVE = {0.5: 0.845, 0.75: 0.927, 0.9: 0.977}  # accuracy of Bayes where its posterior exceeds t


def together(name: str, count: int, *checks: Check) -> tuple[Check, ...]:
    """`checks`, and whether each of them holds on the same `count` of five seeds: their share, without an interval.

    `both` and `together` of `declare/expressions.py` say the same sentence of other claims and judge it with the
    interval as well; the criteria of the first run stay judged by the rule that they were declared with.
    """

    def share(tables: Tables) -> float:
        columns = pd.concat([check.estimate(tables).map(check.band.holds) for check in checks], axis=1, join="inner")
        if columns.empty:
            raise NotRun("No seed was run for all of what must hold together.")
        return columns.all(axis=1).mean()

    return *checks, Check(name, share, Band(low=count / 5), unit="share of seeds")


def abstention(length: str = "") -> list[Check]:
    """The bands of W5 for the arms of the usual or of another length."""
    never = abstaining.where(arm=f"abstain_00{length}")
    checks = [
        never.idk_rate.named("IDK at t = 0").at_most(0.02, 5),
        (never - abstaining).wrong_per_100.named("wrong per 100 at t = 0, minus base", "per 100").at_least(3.0),
    ]
    for t, accuracy in SELECTIVE.items():
        arm = abstaining.where(arm=f"abstain_{round(100 * t)}{length}")
        switch = arm.switch_point.named(f"switch point at t = {t:g}", "posterior")
        checks.append(switch.within(round(t - 0.05, 3), round(t + 0.05, 3)))
        selective = arm.selective_accuracy.named(f"selective accuracy at t = {t:g}")
        checks.append(selective.within(round(accuracy - 0.03, 3), round(accuracy + 0.03, 3)))
    return checks


def payoff_errors(tables: Tables) -> Estimate:
    payoff = tables["payoff"]
    return Estimate(int((payoff["answers"] != (payoff["p"] > payoff["t"])).sum()), n=len(payoff))


def largest_distance(tables: Tables) -> Estimate:
    return Estimate(select(tables, "cells", family="HotpotQA")["ece_minus_error"].abs().max(), n=8)


def worse(domain: str) -> Measure:
    return cells.where(domain=domain).how_many(lambda c: c["rlvr_ece"] > c["base_ece"], f"{domain} of domain")


# --- Notes that depend on the outcome -------------------------------------------------------------


def domain_note(tables: Tables) -> str:
    counts = tables["cell_counts"].query("metric == 'ece' and domain != 'all'")[::-1]
    names = {"in": "in domain", "out": "out of domain"}
    return "; ".join(f"{names[row.domain]}: worse in {row.worse} of {row.cells} cells" for row in counts.itertuples())


def drift_note(tables: Tables) -> str:
    drift = (rlvr - base).q_mean_gap(tables).dropna()
    up, n = int((drift > 0).sum()), len(drift)
    if 0 < up < n:
        return f"direction not determined by the reward: the gap rises in {up} of {n} seeds and falls in the others"
    return f"the gap {'rises' if up else 'falls'} in every seed ({n} of {n})"


def noise_note(tables: Tables) -> str:
    """What noise alone did to the stated confidence, and how much of it each arm was exposed to."""
    moved, noise = ((arm - base).q_mean_abs_posterior(tables).mean() for arm in (rlvr, null))
    logs = (select(tables, "training", setting="expert", arm=arm) for arm in ("rlvr", "shuffled_correct"))
    signal, there = (1 - log["frac_reward_zero_std"].mean() for log in logs)
    return (
        f"{'noise alone suffices: ' if noise >= moved else ''}RLVR moves it by {moved:+.3f}, shuffled correctness by "
        f"{noise:+.3f} ({signal:.0%} of RLVR's groups carry a signal, {there:.0%} there)"
    )


def saturation_note(tables: Tables) -> str:
    failed = rlvr.answer_saturated(tables) > 0.5
    return f"saturated (probability > .999 on half of the questions) in {failed.sum()} of {len(failed)} seeds"


def null_note(tables: Tables) -> str:
    """What the shuffled reward did to the same quantities, beside W4."""
    note, moved = "tabular prediction +.157 and +.055", first_null - first_base
    try:
        confidence, gap = (measure(tables).mean() for measure in (moved.sampled_confidence, moved.sampled_gap))
    except NotRun:
        return note
    return f"{note}; with shuffled correctness the confidence moves by {confidence:+.3f} and the gap by {gap:+.3f}"


published, pretrained = (partial(criterion, evidence=kind) for kind in ("published", "models"))
exact = partial(criterion, computed=True)

# --- Criteria -------------------------------------------------------------------------------------

CRITERIA = (
    published(
        "P1",
        "RLVR's stated confidence is pinned high",
        "cells of the released metrics with mean stated confidence >= .95",
        cells.how_many(lambda c: c["rlvr_confidence"] >= 0.95, "cells pinned high").equals(16),
        paper="1.000 on HotpotQA",
    ),
    published(
        "P2",
        "RLVR's calibration error is its error rate",
        "largest |ECE - (1 - accuracy)| over the 8 cells of the HotpotQA-trained model",
        Measure(largest_distance, "largest distance").at_most(0.003),
        paper="ECE .370 at accuracy .630 on HotpotQA",
    ),
    published(
        "P3",
        "calibration worsens out of domain and does not in domain",
        "cells in which RLVR's ECE exceeds the base model's",
        worse("out").equals(10),
        worse("in").named("in domain").equals(0),
        paper="HotpotQA-trained: ECE .40 -> .46 out of domain, .53 -> .37 in domain",
        note=domain_note,
    ),
    published(
        "P4",
        "the information in the ranking is lost",
        "cells in which AUROC falls below the start",
        cells.how_many(lambda c: c["rlvr_auroc"] < c["base_auroc"], "released cells").at_least(12),
        swap.how_many(lambda c: c["correctness_auroc"] < c["start_auroc"], "confidence in the trained text").equals(4),
        paper="AUROC .540 -> .500 on HotpotQA",
    ),
    published(
        "P5",
        "stated confidence rises when it is part of the trained text",
        "data sets with a higher mean confidence after Correctness-only than at the start, SFT (XML)",
        swap.how_many(lambda c: c["correctness_confidence"] > c["start_confidence"], "data sets").equals(4),
        paper=".811 to .952 -> .967 to .992",
        note="one discarded run sat near .1 for hundreds of steps: the reward does not set the direction",
    ),
    exact(
        "W1",
        "guessing dominates abstaining when a wrong answer costs nothing",
        "expected reward in exact fractions, p on a grid of .001, t in {0, .5, .75, .9}: grid points where "
        "'answering pays' differs from 'p > t'",
        Measure(payoff_errors, "grid points that disagree", "grid points").equals(0),
        paper="exact",
    ),
    criterion(
        "W2",
        "answer probabilities sharpen",
        "ECE of the probability of the greedy answer, 10 bins",
        rlvr.answer_ece.named("rlvr").at_least(0.20, 5),
        base.answer_ece.named("base").at_most(0.03),
        (rlvr - null).answer_ece.named("rlvr minus shuffled_correct").at_least(0.10),
        paper="GPT-4, answer letters: ECE .007 -> .074",
    ),
    criterion(
        "W3a",
        "stated confidence loses its calibration",
        "mean |q_mean - exact posterior of the greedy answer|, differences of arms on the same seed",
        (rlvr - base).q_mean_abs_posterior.named("rlvr minus base").at_least(0.05, 4),
        (rlvr - null).q_mean_abs_posterior.named("rlvr minus shuffled_correct").at_least(0.0, 4),
        paper="no exact posterior there",
        note=noise_note,
    ),
    criterion(
        "W3b",
        "... and becomes overconfident (answer written first)",
        "gap = mean q_mean minus greedy accuracy, rlvr minus base on the same seed",
        (rlvr - base).q_mean_gap.named("rlvr minus base").at_least(0.03, 4),
        paper="gap +.062 out of domain, -.165 in domain (HotpotQA-trained)",
        note=drift_note,
    ),
    criterion(
        "W4",
        "confidence first: the reward selects the confident style",
        "documents drawn whole, rlvr_conf_first minus its base: mean stated confidence; gap",
        *together(
            "both on the same seed",
            4,
            (first - first_base)
            .sampled_confidence.named("mean stated confidence of drawn documents, minus base")
            .at_least(0.05, 4),
            (first - first_base).sampled_gap.named("gap of drawn documents, minus base gap").at_least(0.03, 4),
        ),
        paper="not measured there",
        note=null_note,
    ),
    criterion(
        "W5",
        "the binary reward drives abstention out, threshold rewards bring it back",
        "share of IDK; wrong answers per 100 questions; selective accuracy; switch point (posterior at which "
        "a logistic fit of answering crosses .5)",
        *abstention(),
        paper="9 of 10 benchmarks grade binarily (2509.04664)",
        note="after 400 steps, before the plateau of the arm with t = .75: see W5-800",
    ),
    criterion(
        "W5-800",
        "the same after 800 steps (added after the result of W5; no part rests on it)",
        "as W5; on the tuning seed the training reward at t = .75 lies .05 below its end after 400 steps, so that the "
        "rule for step counts asks for 800",
        *abstention("_long"),
        paper="9 of 10 benchmarks grade binarily (2509.04664)",
    ),
    criterion(
        "W6",
        "one temperature repairs the answer probability",
        "rlvr; one T fitted by log loss on held-out questions, ECE judged on the others",
        *together(
            "all three on the same seed",
            4,
            (rlvr.answer_ece_heldout_after / rlvr.answer_ece_heldout_before)
            .named("ECE of the answer probability, after / before one temperature, held out", "ratio")
            .at_most(0.5, 4),
            rlvr.temperature_answer.named("fitted temperature", "temperature").at_least(1.0, 4),
            rlvr.answer_saturated.named("share of questions with answer probability > .999").at_most(0.5, 4),
        ),
        paper="T = 2.5 largely repairs a policy after RLHF (2207.05221)",
        note=saturation_note,
    ),
    criterion(
        "W7",
        "no cost and no gain in greedy accuracy, but a gain in sampled accuracy",
        "rlvr minus base on the same seed, expert crowd",
        (rlvr - base).accuracy_greedy.named("greedy accuracy").within(0.01),
        (rlvr - base).accuracy_sampled.named("sampled accuracy").at_least(0.06),
        paper="HotpotQA +.233 (the base had headroom there)",
    ),
    *shared.released_outputs("base", "rlvr"),
    pretrained(
        "M2",
        "the released 7B checkpoints behave as printed",
        "HotpotQA, n = 1,000: accuracy, ECE, mean confidence of the RLVR checkpoint",
        released.accuracy_greedy.named("accuracy").within(0.60, 0.66, n=1000),
        abs(released.q_mode_ece - (1 - released.accuracy_greedy)).named("|ECE - (1 - accuracy)|").at_most(0.01),
        released.q_mode_mean.named("mean confidence").at_least(0.98),
    ),
    pretrained(
        "M3",
        "a small RLVR run shows the same",
        "stated confidence asked for after the answer; ECE; AUROC; 3 seeds",
        trained.q_mode_mean.named("stated confidence").at_least(0.95, 5),
        abs(trained.q_mode_ece - (1 - trained.accuracy_greedy)).named("|ECE - (1 - accuracy)|").at_most(0.03, 5),
        (trained.q_mode_auroc - untrained.q_mode_auroc).named("AUROC minus base").at_most(0.02, 5),
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------


def direction(verdict: Verdicts) -> tuple[str, str]:
    """Part (iv) holds if either order of answer and confidence shows it: the better of the two."""
    words = verdict["W3b"], verdict["W4"]
    return ledger.better(*words), f"answer first (W3b): {words[0]}; confidence first (W4): {words[1]}"


PARTS = (
    Part("(i)", "world", "with abstaining worth 0, guessing is a dominant strategy", ("W1", "W5")),
    Part("(ii)", "world", "answer probabilities end near 1 while accuracy does not", ("W2",)),
    Part("(iii)", "published and world", "the stated confidence loses its calibration", ("P1", "P3", "W3a")),
    Part("(iv)", "world", "the stated confidence becomes overconfident", ("W3b", "W4"), direction),
)
DECISIVE = ("P1", "P3", "W1", "W2", "W3a", "W5")


def overall(verdict: Verdicts) -> tuple[str, str]:
    """Replicated, partly, otherwise by parts: the rule declared with the criteria."""
    holds, (word, orders) = not ledger.not_shown(verdict, *DECISIVE), direction(verdict)
    if holds and word == ledger.REPLICATED:
        return ledger.REPLICATED, f"(i) to (iii) hold, and so does (iv): {orders}"
    if missing := ledger.named(verdict, ledger.NOT_ATTEMPTED, *DECISIVE, "W3b", "W4"):
        return ledger.NOT_ATTEMPTED, f"still missing: {missing}"
    if holds:
        return ledger.PARTLY, f"(i) to (iii) hold, (iv) does not: {orders}"
    parts = {part.id: part.judge(verdict)[0] for part in PARTS}
    words = set(parts.values())
    middling = ledger.INCONCLUSIVE if ledger.INCONCLUSIVE in words else ledger.NOT_REPLICATED
    word = ledger.PARTLY if words & {ledger.REPLICATED, ledger.PARTLY} else middling
    return word, "by parts: " + ", ".join(f"{part} {v}" for part, v in parts.items())


CLAIM = Claim(
    name="binary_reward",
    number=1,
    title="Binary correctness rewards, guessing and calibration",
    statement="Binary correctness rewards make overconfident guessing the dominant strategy and hurt calibration.",
    **shared.DAMANI,
    criteria=CRITERIA,
    parts=PARTS,
    overall=overall,
    tables=(
        *("cells", "cell_counts", "swap_start", "payoff", "summary", "training"),
        *("models", "outputs", "outputs_by_option"),
    ),
)
