"""Claim 3, declared before any run: preference optimisation and conversational grounding."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from candor.claims import shared
from candor.claims.grounding_loss.tables import CHARITIES, measured_shifts
from candor.claims.shared import Estimator, counted, exactly, number, paired, select, wide, within
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
from candor.worlds.reference_game import ACTS

# --- Estimators -----------------------------------------------------------------------------------

SHORT = {"followup": "F", "acknowledgement": "A", "clarification": "C"}


def value(arm: str, measure: str) -> Estimator:
    """A measure of an arm, by seed."""
    return shared.value("summary", measure, arm=arm)


def minus(arm: str, measure: str, other: str = "base") -> Estimator:
    """Difference of two arms on the same seed (the same base, the same turns)."""
    return paired(operator.sub, value(arm, measure), value(other, measure))


def relative(arm: str, measure: str) -> Estimator:
    """Change of an arm as a share of its base's value."""
    return paired(lambda after, before: after / before - 1, value(arm, measure), value("base", measure))


def from_exact(measure: str, act: str | None = None, scale: float = 1.0) -> Estimator:
    """The base's measure minus that of the human, which is exact."""

    def estimate(tables: Tables) -> pd.Series:
        exact = number(tables, "human", measure, act=act or ACTS[0])  # success is the same in each act's row
        return scale * (value("base", f"{act}_{measure}" if act else measure)(tables) - exact)

    return estimate


def kappa_changes(arm: str, bands: Mapping[str, Band] | Band, other: str = "base") -> tuple[Check, ...]:
    """A check an act: the change of its kappa."""
    against = "" if other == "base" else f", minus {other}"
    return tuple(
        Check(
            f"kappa, {act}{against}",
            minus(arm, f"{act}_kappa", other),
            bands if isinstance(bands, Band) else bands[act],
            unit="kappa",
        )
        for act in ACTS
    )


def slope(arm: str, act: str) -> Estimator:
    """Least-squares slope of kappa along training, per 100 steps: one number a seed."""

    def estimate(tables: Tables) -> pd.Series:
        course = wide(tables, "trajectory", f"{act}_kappa", "step", arm=arm)
        return course.apply(lambda run: 100 * np.polyfit(run.dropna().index, run.dropna(), 1)[0], axis=1)

    return estimate


def checkpoint_correlations(tables: Tables) -> pd.DataFrame:
    """`shuffled`, a row a seed and act: r of kappa with the step over its checkpoints, and change since the base."""
    found = []
    for act in ACTS:
        for seed, run in wide(tables, "trajectory", f"{act}_kappa", "step", arm="shuffled").iterrows():
            kappa = run[run.index > 0]
            r = np.corrcoef(kappa.index, kappa)[0, 1] if kappa.nunique() > 1 else 0.0
            found.append((seed, act, r, kappa.iloc[-1] - run.iloc[0]))
    return pd.DataFrame(found, columns=["seed", "act", "r", "change"])


DETECTED = 0.632  # |R| at which ten independent points give p < .05


def misleading(tables: Tables) -> Estimate:
    table = checkpoint_correlations(tables)
    return Estimate(int(((table["r"].abs() >= DETECTED) & (table["change"].abs() <= 0.02)).sum()), n=len(table))


def spearman_of_shifts(tables: Tables) -> Estimate:
    for arm in ("base", *CHARITIES):
        select(tables, "cells", arm=arm)
    cells = shared.each_seed(tables, "cells", ["model"], ["arm", "cell"])
    both = measured_shifts(cells, tables["predicted_cells"])
    return Estimate(both["measured"].corr(both["shift"], method="spearman"), n=len(both))


def from_closed_form(arm: str, act: str) -> Estimator:
    def estimate(tables: Tables) -> pd.Series:
        return value(arm, f"{act}_kappa")(tables) - number(tables, "predicted", "kappa", arm=arm, act=act)

    return estimate


def better_placed(act: str) -> Estimator:
    """The smaller of the rise of precision and the fall of recall: above 0 where both hold on the same seed."""

    up, down = minus("charity_6", f"{act}_precision"), minus("charity_6", f"{act}_recall")
    return paired(lambda rise, change: np.minimum(rise, -change), up, down)


# Published numbers


def named(table: str, name: str) -> Callable[[Tables], float]:
    """One number of a table of names and values."""
    return lambda tables: number(tables, table, "value", name=name)


def correlation(act: str, points: int, measure: str = "p") -> Callable[[Tables], float]:
    return lambda tables: number(tables, "correlations", measure, method="dpo", act=act, points=points)


def precision_change(model: str, act: str) -> Callable[[Tables], float]:
    return lambda tables: number(tables, "changes", "precision_change", model=model, method="dpo", act=act)


# Pretrained models


def rate(tables: Tables, column: str, **where: object) -> float:
    """A number of `models_rates`: the whole message, our labeller, ESConv unless `where` names another set."""
    return number(tables, "models_rates", column, **{"labeller": "prompt", "corpus": "esconv", **where})


def change_of(lineage: str, stage: str, measure: str) -> Callable[[Tables], Estimate]:
    """Relative change of a followup measure since SFT, with its interval over conversations."""

    def estimate(tables: Tables) -> Estimate:
        columns = (f"{measure}_relative", f"{measure}_relative_low", f"{measure}_relative_high", "turns")
        *found, turns = (rate(tables, column, lineage=lineage, stage=stage, act="followup") for column in columns)
        return Estimate(*found, n=int(turns))

    return estimate


def upper_change(lineage: str, stage: str, measure: str) -> Callable[[Tables], float]:
    """The upper end of the interval of a followup measure's plain change, which must lie below 0.

    Not of the relative one: that has no value in resamples in which SFT itself does not agree.
    """
    where = {"lineage": lineage, "stage": stage, "act": "followup"}
    return lambda tables: rate(tables, f"{measure}_change_high", **where)


def excludes_zero(estimate: Callable[[Tables], Estimate]) -> Callable[[Tables], float]:
    """The upper end of an interval, which must lie below 0."""
    return lambda tables: estimate(tables).ci_high


def trained(arm: str, measure: str) -> Estimator:
    """A measure of our own training, indexed by seed."""
    return shared.value("models_training", measure, arm=arm)


def of_dpo(arm: str) -> Estimator:
    """Change of the question share of an arm as a multiple of that of `dpo`, on the same seed."""
    return paired(operator.truediv, trained(arm, "change"), trained("dpo", "change"))


def asked(source: str, column: str, variant: str = "whole", scale: float = 1.0) -> Callable[[Tables], float]:
    """A number of `models_questions` (a question mark anywhere in the prose)."""

    where = {"source": source, "rule": "anywhere", "variant": variant}
    return lambda tables: scale * number(tables, "models_questions", column, **where)


def logit_of_asking(variant: str) -> Callable[[Tables], Estimate]:
    def estimate(tables: Tables) -> Estimate:
        columns = ("coefficient", "coefficient_low", "coefficient_high", "n")
        *found, n = (asked("ultrafeedback", column, variant)(tables) for column in columns)
        return Estimate(*found, n=int(n))

    return estimate


# (data set, act) of the human's rates in Table 2; TSCC is given out on request only.
HUMAN_RATES = {
    ("esconv", "followup"): 27.87,
    ("esconv", "acknowledgement"): 12.90,
    ("esconv", "clarification"): 3.05,
    ("persuasion", "followup"): 8.18,
    ("persuasion", "acknowledgement"): 6.11,
    ("persuasion", "clarification"): 0.28,
}


def human_rate(corpus: str, act: str) -> Callable[[Tables], float]:
    where = {"corpus": corpus, "lineage": "human", "stage": "human", "act": act}
    return lambda tables: 100 * rate(tables, "human_rate", **where)


# --- Notes that depend on the outcome -------------------------------------------------------------


def headline_note(tables: Tables) -> str:
    means = tables["headline_means"].set_index("name")["value"]
    return (
        f"quoted, not derivable from Table 2: its nine cells have the mean {means['cells_mean']:.1f}, the median "
        f"{means['cells_median']:.1f} and {means['pooled']:.1f} where rates are added up first"
    )


def not_established_note(tables: Tables) -> str:
    cells = tables["headline"]
    left = cells[~cells["beyond"].astype(bool)]
    return "not established: " + ", ".join(f"{row.dataset} {row.act}" for row in left.itertuples())


def rates_note(tables: Tables) -> str:
    before, after = (number(tables, "rate_sums", "rate", model="Mistral-7B", arm=arm) for arm in ("sft", "sft_dpo"))
    return f"all acts of Mistral-7B together: {before:.1f} -> {after:.1f} % of turns"


def walk_note(tables: Tables) -> str:
    flat = tables["flat_runs"].set_index("process")
    return (
        f"weak: one run. A random walk of ten points has R <= -.70 with probability "
        f"{flat['below_70']['random_walk']:.2f}"
    )


def dose_note(tables: Tables) -> str:
    """What the charitable rater did to all three acts, beside the rate."""
    changes = [f"{SHORT[act]} {minus('charity_6', f'{act}_rate')(tables).mean():+.3f}" for act in ACTS]
    return "rates: " + ", ".join(changes)


def untied_note(tables: Tables) -> str:
    untied = value("charity_6", "win_rate_untied")(tables)
    return f"without ties the win rate is {untied.mean():.3f}"


def strict_note(tables: Tables) -> str:
    """What an aggregate share would have suggested."""
    share = shared.value("pairs", "act_win_rate", arm="charity_0")(tables)
    return f"acts win only {share.mean():.1%} of the pairs of an act and a delivery, and nothing useful is lost"


def clarification_note(tables: Tables) -> str:
    change = relative("reaction_6", "clarification_rate")(tables).mean()
    return f"the clarification rate changes by {change:+.0%}: one step ahead cannot credit two acts in a row"


def correlation_note(tables: Tables) -> str:
    table = checkpoint_correlations(tables)
    return f"largest |R| {table['r'].abs().max():.2f}; of independent points .75 of 15 would pass"


# --- Criteria -------------------------------------------------------------------------------------

_FEW = "the closed form of charity .3 is held against three seeds: partly is the best it can be"

CRITERIA = (
    Criterion(
        "P1",
        "published",
        "the headline",
        "mean of the three quoted reductions; mean of nine cells of Table 2",
        "77.5 and 73.1, both +-.1",
        (
            Check(
                "mean of the three quoted reductions",
                named("headline_means", "quoted_mean"),
                Band(77.4, 77.6),
                unit="%",
            ),
            Check("mean of the nine cells", named("headline_means", "cells_mean"), Band(73.0, 73.2), unit="%"),
        ),
        paper_value="77.5 %",
        note=headline_note,
    ),
    Criterion(
        "P2",
        "published",
        "models use fewer acts",
        "cells of Table 2 with model < human; with the difference beyond 1.96 SE",
        "9/9; 7/9 (not TSCC followup, Persuasion clarification)",
        (
            Check("model < human", counted("headline", lambda c: c["model"] < c["human"]), exactly(9), unit="cells"),
            Check("beyond 1.96 SE", counted("headline", lambda c: c["beyond"].astype(bool)), exactly(7), unit="cells"),
        ),
        paper_value="fewer in all three sets",
        note=not_established_note,
    ),
    Criterion(
        "P3",
        "published",
        "agreement below human",
        "GPT-3.5-turbo kappa < human-human kappa; interval of the human kappa (reconstructed counts) excludes the "
        "model's",
        "3/3; 0/3",
        (
            Check("below human", counted("human_ceiling", lambda c: c["model"] < c["kappa"]), exactly(3), unit="acts"),
            Check("excluded", counted("human_ceiling", lambda c: c["excluded"].astype(bool)), exactly(0), unit="acts"),
        ),
        paper_value="human 35.7 / 29.2 / 48.5",
        note="sign only: the interval of the human agreement contains the model's for every act",
    ),
    Criterion(
        "P4",
        "published",
        "preference optimisation lowers agreement",
        "sign of kappa change, Mistral DPO, Llama DPO, Llama PPO x 3 acts",
        "9/9",
        (Check("kappa falls", counted("changes", lambda c: c["kappa_change"] < 0), exactly(9), unit="comparisons"),),
        paper_value="9 of 9",
        note="the nine share the same human turns; Mistral's lie inside their intervals, Llama's have none",
    ),
    Criterion(
        "P5",
        "published",
        "... and the rate of acts",
        "sign of rate change, same nine; followups alone",
        "pass >= 8/9 (observed 6/9: not replicated); followups 3/3",
        (
            Check("rate falls", counted("changes", lambda c: c["rate_change"] < 0), Band(low=8), unit="comparisons"),
            Check(
                "followups",
                counted("changes", lambda c: c["rate_change"] < 0, act="followup"),
                exactly(3),
                unit="comparisons",
            ),
        ),
        paper_value="said to decrease regardless of model and algorithm",
        note=rates_note,
    ),
    Criterion(
        "P6",
        "published",
        "falling agreement along DPO",
        "Pearson from digitised points; without step 0",
        "printed R +-.01; followup p > .05 without step 0; SFT p > .05 in 3/3",
        (
            Check(
                "printed R returned within .01",
                counted("correlations", lambda c: (c["r"] - c["printed"]).abs() <= 0.01, method="dpo", points=10),
                exactly(3),
                unit="acts",
            ),
            Check("followup without step 0", correlation("followup", 9), Band(low=0.05), unit="p"),
            Check(
                "SFT without a trend",
                counted("correlations", lambda c: c["p"] > 0.05, method="sft", points=10),
                exactly(3),
                unit="acts",
            ),
        ),
        paper_value="R = -.70, -.89, -.78",
        note=walk_note,
    ),
    Criterion(
        "P7",
        "published",
        "followups rarer, not misplaced; acknowledgements misplaced",
        "precision change (points), Mistral and Llama DPO",
        "followup abs <= 5; acknowledgement <= -5",
        tuple(
            Check(f"{act}, {model}", precision_change(model, act), band, unit="points")
            for act, band in (("followup", within(5)), ("acknowledgement", Band(high=-5)))
            for model in ("Mistral-7B", "Llama-7B")
        ),
        paper_value="not discussed there",
    ),
    Criterion(
        "W1",
        "world",
        "the base is the human",
        "abs rate difference; abs kappa difference from the two-human value; abs success difference; malformed",
        "<= 1.0 pp (F, A), .5 (C); <= .03; <= .02; <= .005; all 5/5",
        (
            *(
                Check(f"rate, {act}", from_exact("rate", act, 100), within(limit), 5, unit="pp")
                for act, limit in zip(ACTS, (1.0, 1.0, 0.5))
            ),
            *(Check(f"kappa, {act}", from_exact("kappa", act), within(0.03), 5, unit="kappa") for act in ACTS),
            Check("success", from_exact("success"), within(0.02), 5),
            Check("malformed", value("base", "malformed"), Band(high=0.005), 5),
        ),
        paper_value="SFT models are not the human there",
    ),
    Criterion(
        "W2",
        "world",
        "single-turn charitable preferences erode agreement",
        "kappa change, `charity_6`",
        "F <= -.15, A <= -.08, C <= -.05",
        kappa_changes("charity_6", dict(zip(ACTS, (Band(high=-0.15), Band(high=-0.08), Band(high=-0.05))))),
        paper_value="Mistral DPO -.03 / -.08 / -.03, Llama DPO -.07 / -.10 / -.09",
        note=dose_note,
    ),
    Criterion(
        "W3",
        "world",
        "... and the rate",
        "relative change of the sum of rates, `charity_6`",
        "<= -30 %",
        (Check("sum of rates", relative("charity_6", "rate"), Band(high=-0.30), unit="share of base"),),
        paper_value="Llama DPO -14 %, Mistral DPO +11 %",
    ),
    Criterion(
        "W4",
        "world",
        "... at the cost of success, to the rater's pleasure",
        "success change; win rate (ties 1/2)",
        "<= -.10; >= .54",
        (
            Check("success", minus("charity_6", "success"), Band(high=-0.10)),
            Check("win rate", value("charity_6", "win_rate"), Band(low=0.54)),
        ),
        paper_value="success was not measured there",
        note=untied_note,
    ),
    Criterion(
        "W5",
        "world",
        "not the optimiser",
        "`shuffled`: abs kappa change each act; abs success change",
        "<= .02; <= .015",
        (
            *kappa_changes("shuffled", within(0.02)),
            Check("success", minus("shuffled", "success"), within(0.015)),
        ),
        paper_value="no such control there",
    ),
    Criterion(
        "W6",
        "world",
        "not more training",
        "`more_sft`: the same; slope per 100 steps",
        "as W5; abs <= .01",
        (
            *kappa_changes("more_sft", within(0.02)),
            Check("success", minus("more_sft", "success"), within(0.015)),
            *(Check(f"slope, {act}", slope("more_sft", act), within(0.01), unit="kappa per 100 steps") for act in ACTS),
        ),
        paper_value="SFT: R = -.24, +.40, -.18, n.s.",
    ),
    Criterion(
        "W7",
        "world",
        "not preference data as such",
        "`charity_0`: kappa change each act; sum of rates; success",
        ">= -.01; >= -5 %; >= -.005",
        (
            *kappa_changes("charity_0", Band(low=-0.01)),
            Check("sum of rates", relative("charity_0", "rate"), Band(low=-0.05), unit="share of base"),
            Check("success", minus("charity_0", "success"), Band(low=-0.005)),
        ),
        paper_value="one kind of preference data there",
        note=strict_note,
    ),
    Criterion(
        "W8",
        "world",
        "seeing the reaction cures",
        "`reaction_6`: kappa change each act; success (clarification rate reported)",
        ">= -.02; >= -.005",
        (
            *kappa_changes("reaction_6", Band(low=-0.02)),
            Check("success", minus("reaction_6", "success"), Band(low=-0.005)),
            Check("clarification rate", relative("reaction_6", "clarification_rate"), unit="share of base"),
        ),
        paper_value="proposed by later work (2410.13788, 2502.00640)",
        note=clarification_note,
    ),
    Criterion(
        "W9",
        "world",
        "closed form",
        "abs(measured - predicted kappa), charity 0, .3, .6 x 3 acts, seed means; Spearman of logit shifts over 33 "
        "cells",
        "all <= .08; >= .9",
        (
            *(
                Check(f"kappa, {act}, charity {alpha:g}", from_closed_form(arm, act), within(0.08), unit="kappa")
                for arm, alpha in CHARITIES.items()
                for act in ACTS
            ),
            Check("Spearman of logit shifts", spearman_of_shifts, Band(low=0.9), unit="correlation"),
        ),
        paper_value="no prediction there",
        note=_FEW,
    ),
    Criterion(
        "W10",
        "world",
        "what is left is better placed",
        "`charity_6` precision up and recall down, each act",
        "3 acts, >= 4/5 seeds",
        (
            *(Check(f"both, {act}", better_placed(act), Band(low=0), 4, unit="smaller change") for act in ACTS),
            *(
                Check(f"{measure}, {act}", minus("charity_6", f"{act}_{measure}"))
                for act in ACTS
                for measure in ("precision", "recall")
            ),
        ),
        paper_value="true of followups, not of acknowledgements (P7)",
    ),
    Criterion(
        "W11",
        "world",
        "horizon alone does not cure (hypothesis)",
        "`lookahead_6` minus `charity_6`, kappa each act",
        "abs <= .05",
        kappa_changes("lookahead_6", within(0.05), other="charity_6"),
        paper_value="horizon is said to cure (2410.13788, 2502.00640)",
    ),
    Criterion(
        "W12",
        "world",
        "horizon with averaging does (hypothesis)",
        "`lookahead_average_6`: F kappa change; sum of rates",
        ">= -.02; >= -10 %",
        (
            Check("kappa, followup", minus("lookahead_average_6", "followup_kappa"), Band(low=-0.02), unit="kappa"),
            Check("sum of rates", relative("lookahead_average_6", "rate"), Band(low=-0.10), unit="share of base"),
        ),
        paper_value="not tried there",
    ),
    Criterion(
        "W13",
        "world",
        "checkpoint correlations mislead",
        "`shuffled`, ten checkpoints, per seed and act: abs(R) >= .632 although abs(change) <= .02",
        ">= 3 of 15 (.75 expected of independent points)",
        (
            Check("runs (a seed and an act) that mislead", misleading, Band(low=3), unit="runs"),
            Check(
                "largest |R|",
                lambda tables: checkpoint_correlations(tables).groupby("seed")["r"].agg(lambda r: r.abs().max()),
                unit="correlation",
            ),
        ),
        paper_value="three correlations of one run",
        note=correlation_note,
    ),
    Criterion(
        "M1",
        "models",
        "questions are dispreferred",
        "UltraFeedback chosen minus rejected question share; McNemar; conditional-logit coefficient after length "
        "control and run-on cut",
        "-3 to -6 pp, p < 1e-5; coefficient < 0, interval excludes 0",
        (
            Check("chosen minus rejected", asked("ultrafeedback", "difference", scale=100), Band(-6, -3), unit="pp"),
            Check("McNemar", asked("ultrafeedback", "mcnemar_p"), Band(high=1e-5), unit="p"),
            Check("coefficient, cut replies", logit_of_asking("cut"), Band(high=0), unit="logit"),
            Check("its upper limit", excludes_zero(logit_of_asking("cut")), Band(high=0), unit="logit"),
        ),
        paper_value="13.77 against 18.35 %",
    ),
    Criterion(
        "M2",
        "models",
        "questions are rare in SFT data",
        "UltraChat share",
        "11.8 +- 1 pp",
        (Check("share of assistant messages", asked("ultrachat", "share", scale=100), Band(10.8, 12.8), unit="%"),),
        paper_value="11.83 %",
    ),
    Criterion(
        "M3",
        "models",
        "the paper's own Llama models",
        "followup rate and kappa, SFT -> DPO, SFT -> PPO, bootstrap by conversation",
        "both below 0, intervals exclude 0; size >= half of the paper's (-26 / -20 %; -37 / -31 %)",
        tuple(
            check
            for measure, stage, paper in (
                ("rate", "dpo", -0.263),
                ("rate", "ppo", -0.203),
                ("kappa", "dpo", -0.366),
                ("kappa", "ppo", -0.308),
            )
            for check in (
                Check(
                    f"followup {measure}, {stage}",
                    change_of("archangel", stage, measure),
                    Band(high=paper / 2),
                    unit="share of SFT",
                ),
                Check(
                    f"upper limit of the change, {measure}, {stage}",
                    upper_change("archangel", stage, measure),
                    Band(high=0),
                    unit="share of turns" if measure == "rate" else "kappa",
                ),
            )
        ),
        paper_value="rate -26 / -20 %, kappa -37 / -31 %",
    ),
    Criterion(
        "M4",
        "models",
        "other lineages",
        "the same for OLMo-2 and Zephyr SFT -> DPO",
        "sign, one verdict a lineage",
        tuple(
            Check(
                f"followup {measure}, {lineage}", change_of(lineage, "dpo", measure), Band(high=0), unit="share of SFT"
            )
            for lineage in ("olmo_1b", "zephyr")
            for measure in ("rate", "kappa")
        ),
        paper_value="not measured there",
        note="the checks hold one verdict a lineage",
    ),
    Criterion(
        "M5",
        "models",
        "own training",
        "question share `dpo` minus `more_sft`; `swapped`; `balanced`",
        "<= -10 % relative in 3/3; opposite sign; at most half of `dpo`",
        (
            Check("dpo", trained("dpo", "relative"), Band(high=-0.10), 5, unit="share of more_sft"),
            Check("swapped", trained("swapped", "relative"), Band(low=0), unit="share of more_sft"),
            Check("balanced, of dpo", of_dpo("balanced"), Band(high=0.5), unit="multiple of dpo"),
        ),
        paper_value="question share not measured there",
        note="three seeds: partly is the best they can give",
    ),
    Criterion(
        "M6",
        "models",
        "human rates under an open labeller",
        "F, A, C rates, three sets",
        "within 5 pp; F > A > C in ESConv",
        (
            *(
                Check(f"{act}, {corpus}", human_rate(corpus, act), Band(max(0, paper - 5), paper + 5), unit="%")
                for (corpus, act), paper in HUMAN_RATES.items()
            ),
            *(
                Check(
                    f"ESConv: {more} minus {less}",
                    lambda tables, more=more, less=less: (
                        human_rate("esconv", more)(tables) - human_rate("esconv", less)(tables)
                    ),
                    Band(low=0),
                    unit="pp",
                )
                for more, less in itertools.pairwise(ACTS)
            ),
        ),
        paper_value="ESConv 27.9 / 12.9 / 3.05 %",
        note="TSCC is given out on request only and is left out",
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------

Verdicts = Mapping[str, str]


def attempted(*criteria: str, at_best: str = REPLICATED, because: str = "") -> Callable[[Verdicts], tuple[str, str]]:
    """The worst of the criteria that were attempted, named in the note: a part spans several kinds of evidence.

    `at_best` is the best word that they allow together, `because` the reason.
    """

    def rule(verdict: Verdicts) -> tuple[str, str]:
        missing = [c for c in criteria if verdict[c] == NOT_ATTEMPTED]
        judged = [c for c in criteria if c not in missing]
        if not judged:
            return NOT_ATTEMPTED, ""
        note = ", ".join(f"{c} {verdict[c]}" for c in judged)
        note += f"; not attempted: {', '.join(missing)}" if missing else ""
        return worst([at_best, *(verdict[c] for c in judged)]), f"{because}; {note}" if because else note

    return rule


def headline(verdict: Verdicts) -> tuple[str, str]:
    """Partly at best: the direction holds, the figure is not from the table, and it is about one model."""
    known = all(verdict[c] == REPLICATED for c in ("P1", "P2"))
    word = PARTLY if known else worst([verdict["P1"], verdict["P2"]])
    return word, "direction in nine of nine cells, the figure not from the table, one model"


PARTS = (
    Part(
        "77.5 %",
        "published",
        "LLMs generate 77.5 % fewer grounding acts than humans",
        ("P1", "P2"),
        headline,
    ),
    Part(
        "(i)",
        "published and models",
        "models use fewer acts than humans at the same turns",
        ("P1", "P2", "M6"),
        attempted("P1", "P2", "M6"),
    ),
    Part(
        "(ii)",
        "published",
        "the acts they use fall elsewhere",
        ("P3",),
        attempted("P3", at_best=PARTLY, because="sign only: a contrast with 1, not an established one with humans"),
    ),
    Part(
        "(iii)",
        "published and world",
        "steps of supervised fine-tuning do not change agreement",
        ("P6", "W6"),
        attempted("P6", "W6"),
    ),
    Part(
        "(iv)",
        "published, world and models",
        "preference optimisation lowers agreement",
        ("P4", "P6", "W2", "W4", "W5", "M3", "M4"),
        attempted("P4", "P6", "W2", "W4", "W5", "M3", "M4"),
    ),
    Part(
        "(v)",
        "published, world and models",
        "preference optimisation lowers the rate of acts",
        ("P5", "W3", "M3", "M4", "M5"),
        attempted("P5", "W3", "M3", "M4", "M5"),
    ),
    Part(
        "(vi)",
        "world and models",
        "the cause: single-turn preference data disprefer asking",
        ("M1", "W7", "W8", "W11"),
        attempted(
            *("M1", "W7", "W8", "W11"),
            because="where W7 and W11 hold, neither the aggregate nor the single turn is the cause by itself",
        ),
    ),
)

_DECIDING = ("P4", "W2", "W4", "W5", "W6")


def beside(verdict: Verdicts) -> str:
    """The sentence on W7 that every verdict carries, whatever its label."""
    why = "because raters let guesses pass, not because it optimises preferences"
    if verdict["W7"] == REPLICATED:
        return f"W7 beside it (replicated): in the world it does so {why}"
    return f"W7 beside it ({verdict['W7']}): that in the world it does so {why} is not established"


def overall(verdict: Verdicts) -> tuple[str, str]:
    """ "Preference optimisation erodes grounding" is replicated if P4, W2, W4, W5 and W6 hold; W7 stands beside it."""
    if missing := [c for c in _DECIDING if verdict[c] == NOT_ATTEMPTED]:
        word, why = NOT_ATTEMPTED, f"still missing: {', '.join(missing)}"
    else:
        word = worst([verdict[c] for c in _DECIDING])
        failed = [f"{c} {verdict[c]}" for c in _DECIDING if verdict[c] != REPLICATED]
        why = f"what does not hold: {', '.join(failed)}" if failed else "preference optimisation erodes grounding"
    return word, f"{why}; {beside(verdict)}; the 77.5 % has its own verdict: {headline(verdict)[0]}"


CLAIM = Claim(
    name="grounding_loss",
    number=3,
    title="Preference optimisation and conversational grounding",
    statement=(
        "Preference optimisation erodes conversational grounding; LLMs generate 77.5 % fewer grounding acts than "
        "humans."
    ),
    paper="shaikh2024grounding",
    citation=(
        "Shaikh, Gligorić, Khetan, Gerstgrasser, Yang, Jurafsky: Grounding Gaps in Language Model Generations. "
        "arXiv 2311.09144, NAACL 2024"
    ),
    criteria=CRITERIA,
    parts=PARTS,
    overall=overall,
    tables=(
        *("headline", "headline_means", "human_ceiling", "changes", "rate_sums", "correlations", "flat_runs"),
        *("human", "predicted", "predicted_cells", "summary", "cells", "trajectory", "pairs"),
        *("models_rates", "models_training", "models_questions"),
    ),
)
