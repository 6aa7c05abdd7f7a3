"""Claim 3, declared before any run: preference optimisation and conversational grounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from candor.claims.grounding_loss.tables import CHARITIES, measured_shifts
from candor.claims.grounding_loss.world import ACTS
from candor.declare.expressions import Measure, Rows, criterion, each_seed, number, select, wide
from candor.declare.ledger import (
    NOT_ATTEMPTED,
    PARTLY,
    REPLICATED,
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

SHORT = {"followup": "F", "acknowledgement": "A", "clarification": "C"}


def arm(name: str) -> Rows:
    return Rows("summary", arm=name)


base, charity, shuffled, more_sft = arm("base"), arm("charity_6"), arm("shuffled"), arm("more_sft")
strict, reaction, lookahead, averaged = (
    arm(name) for name in ("charity_0", "reaction_6", "lookahead_6", "lookahead_average_6")
)
headline_cells, changes, ceiling = Rows("headline"), Rows("changes"), Rows("human_ceiling")
dpo_correlations, sft_correlations = (Rows("correlations", method=method, points=10) for method in ("dpo", "sft"))
# Pretrained models: the whole message, our labeller, ESConv unless another set is named.
rates = Rows("models_rates", labeller="prompt", corpus="esconv", number=True)
training = Rows("models_training")
ultrafeedback = Rows("models_questions", source="ultrafeedback", rule="anywhere", variant="whole", number=True)
cut_replies = ultrafeedback.where(variant="cut")

# (data set, act) of the human's rates in Table 2; TSCC is given out on request only.
HUMAN_RATES = {
    ("esconv", "followup"): 27.87,
    ("esconv", "acknowledgement"): 12.90,
    ("esconv", "clarification"): 3.05,
    ("persuasion", "followup"): 8.18,
    ("persuasion", "acknowledgement"): 6.11,
    ("persuasion", "clarification"): 0.28,
}


def relative(name: str, column: str) -> Measure:
    """Change of an arm as a share of its base's value."""
    return ((arm(name) / base).column(column) - 1).named(column.replace("_", " "), "share of base")


def kappas(one: Rows, other: Rows = base, against: str = "") -> Iterable[Measure]:
    """An act's change of kappa each."""
    return ((one - other).column(f"{act}_kappa").named(f"kappa, {act}{against}", "kappa") for act in ACTS)


def from_exact(measure: str, act: str | None = None) -> Measure:
    """The base's measure minus that of the human, which is exact; success is the same in each act's row."""
    mine = base.column(f"{act}_{measure}" if act else measure)
    return (mine - Rows("human", act=act or ACTS[0]).column(measure)).named(f"{measure}, {act}" if act else measure)


def slope(name: str, act: str) -> Measure:
    """Least-squares slope of kappa along training, per 100 steps: one number a seed."""

    def estimate(tables: Tables) -> pd.Series:
        course = wide(tables, "trajectory", f"{act}_kappa", "step", arm=name)
        return course.apply(lambda run: 100 * np.polyfit(run.dropna().index, run.dropna(), 1)[0], axis=1)

    return Measure(estimate, f"slope, {act}", "kappa per 100 steps")


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


def largest_correlation(tables: Tables) -> pd.Series:
    return checkpoint_correlations(tables).groupby("seed")["r"].agg(lambda r: r.abs().max())


def spearman_of_shifts(tables: Tables) -> Estimate:
    for name in ("base", *CHARITIES):
        select(tables, "cells", arm=name)
    cells = each_seed(tables, "cells", ["model"], ["arm", "cell"])
    both = measured_shifts(cells, tables["predicted_cells"])
    return Estimate(both["measured"].corr(both["shift"], method="spearman"), n=len(both))


def better_placed(act: str) -> Measure:
    """The smaller of the rise of precision and the fall of recall: above 0 where both hold on the same seed."""
    up, down = ((charity - base).column(f"{act}_{measure}") for measure in ("precision", "recall"))
    return up.with_(-down, np.minimum, f"both, {act}").named(f"both, {act}", "smaller change")


def interval_of(rows: Rows, column: str, items: str) -> Callable[[Tables], Estimate]:
    """The number in `column` with its interval (_low, _high) and its number of items."""

    def estimate(tables: Tables) -> Estimate:
        *ends, n = (rows.column(c)(tables) for c in (column, f"{column}_low", f"{column}_high", items))
        return Estimate(*ends, n=int(n))

    return estimate


def of_lineage(lineage: str, stage: str) -> Rows:
    """Followups of a stage."""
    return rates.where(lineage=lineage, stage=stage, act="followup")


def change_of(lineage: str, stage: str, measure: str, name: str) -> Measure:
    """Relative change of a followup measure since SFT, with its interval over conversations."""
    return Measure(interval_of(of_lineage(lineage, stage), f"{measure}_relative", "turns"), name, "share of SFT")


def human_rate(corpus: str, act: str) -> Measure:
    return 100 * rates.where(corpus=corpus, lineage="human", stage="human", act=act).human_rate


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
    before, after = (number(tables, "rate_sums", "rate", model="Mistral-7B", arm=name) for name in ("sft", "sft_dpo"))
    return f"all acts of Mistral-7B together: {before:.1f} -> {after:.1f} % of turns"


def walk_note(tables: Tables) -> str:
    flat = tables["flat_runs"].set_index("process")
    return (
        f"weak: one run. A random walk of ten points has R <= -.70 with probability "
        f"{flat['below_70']['random_walk']:.2f}"
    )


def dose_note(tables: Tables) -> str:
    """What the charitable rater did to all three acts, beside the rate."""
    changes = [f"{SHORT[act]} {(charity - base).column(f'{act}_rate')(tables).mean():+.3f}" for act in ACTS]
    return "rates: " + ", ".join(changes)


def untied_note(tables: Tables) -> str:
    return f"without ties the win rate is {charity.win_rate_untied(tables).mean():.3f}"


def strict_note(tables: Tables) -> str:
    """What an aggregate share would have suggested."""
    share = Rows("pairs", arm="charity_0").act_win_rate(tables)
    return f"acts win only {share.mean():.1%} of the pairs of an act and a delivery, and nothing useful is lost"


def clarification_note(tables: Tables) -> str:
    change = relative("reaction_6", "clarification_rate")(tables).mean()
    return f"the clarification rate changes by {change:+.0%}: one step ahead cannot credit two acts in a row"


def correlation_note(tables: Tables) -> str:
    table = checkpoint_correlations(tables)
    return f"largest |R| {table['r'].abs().max():.2f}; of independent points .75 of 15 would pass"


# --- Criteria -------------------------------------------------------------------------------------

CRITERIA = (
    criterion(
        "P1",
        "the headline",
        "mean of the three quoted reductions; mean of nine cells of Table 2",
        Rows("headline_means", name="quoted_mean")
        .value.named("mean of the three quoted reductions", "%")
        .within(77.4, 77.6),
        Rows("headline_means", name="cells_mean").value.named("mean of the nine cells", "%").within(73.0, 73.2),
        evidence="published",
        paper="77.5 %",
        note=headline_note,
    ),
    criterion(
        "P2",
        "models use fewer acts",
        "cells of Table 2 with model < human; with the difference beyond 1.96 SE",
        headline_cells.how_many(lambda c: c["model"] < c["human"], "model < human").equals(9),
        headline_cells.how_many(lambda c: c["beyond"].astype(bool), "beyond 1.96 SE").equals(7),
        evidence="published",
        paper="fewer in all three sets",
        note=not_established_note,
    ),
    criterion(
        "P3",
        "agreement below human",
        "GPT-3.5-turbo kappa < human-human kappa; interval of the human kappa (reconstructed counts) excludes the "
        "model's",
        ceiling.how_many(lambda c: c["model"] < c["kappa"], "below human", "acts").equals(3),
        ceiling.how_many(lambda c: c["excluded"].astype(bool), "excluded", "acts").equals(0),
        evidence="published",
        paper="human 35.7 / 29.2 / 48.5",
        note="sign only: the interval of the human agreement contains the model's for every act",
    ),
    criterion(
        "P4",
        "preference optimisation lowers agreement",
        "sign of kappa change, Mistral DPO, Llama DPO, Llama PPO x 3 acts",
        changes.how_many(lambda c: c["kappa_change"] < 0, "kappa falls", "comparisons").equals(9),
        evidence="published",
        paper="9 of 9",
        note="the nine share the same human turns; Mistral's lie inside their intervals, Llama's have none",
    ),
    criterion(
        "P5",
        "... and the rate of acts",
        "sign of rate change, same nine; followups alone",
        changes.how_many(lambda c: c["rate_change"] < 0, "rate falls", "comparisons").at_least(8),
        changes.where(act="followup").how_many(lambda c: c["rate_change"] < 0, "followups", "comparisons").equals(3),
        evidence="published",
        paper="said to decrease regardless of model and algorithm",
        note=rates_note,
    ),
    criterion(
        "P6",
        "falling agreement along DPO",
        "Pearson from digitised points; without step 0",
        dpo_correlations.how_many(
            lambda c: (c["r"] - c["printed"]).abs() <= 0.01, "printed R returned within .01", "acts"
        ).equals(3),
        dpo_correlations.where(act="followup", points=9).p.named("followup without step 0", "p").at_least(0.05),
        sft_correlations.how_many(lambda c: c["p"] > 0.05, "SFT without a trend", "acts").equals(3),
        evidence="published",
        paper="R = -.70, -.89, -.78",
        note=walk_note,
    ),
    criterion(
        "P7",
        "followups rarer, not misplaced; acknowledgements misplaced",
        "precision change (points), Mistral and Llama DPO",
        *(
            changes.where(model=model, method="dpo", act=act)
            .precision_change.named(f"{act}, {model}", "points")
            .within(low, 5 if act == "followup" else -5)
            for act, low in (("followup", -5), ("acknowledgement", -np.inf))
            for model in ("Mistral-7B", "Llama-7B")
        ),
        evidence="published",
        paper="not discussed there",
    ),
    criterion(
        "W1",
        "the base is the human",
        "abs rate difference; abs kappa difference from the two-human value; abs success difference; malformed",
        *(
            (100 * from_exact("rate", act)).named(f"rate, {act}", "pp").within(limit, count=5)
            for act, limit in zip(ACTS, (1.0, 1.0, 0.5))
        ),
        *(from_exact("kappa", act).named(f"kappa, {act}", "kappa").within(0.03, count=5) for act in ACTS),
        from_exact("success").within(0.02, count=5),
        base.malformed.named("malformed").at_most(0.005, 5),
        paper="SFT models are not the human there",
    ),
    criterion(
        "W2",
        "single-turn charitable preferences erode agreement",
        "kappa change, `charity_6`",
        *(kappa.at_most(limit) for kappa, limit in zip(kappas(charity), (-0.15, -0.08, -0.05))),
        paper="Mistral DPO -.03 / -.08 / -.03, Llama DPO -.07 / -.10 / -.09",
        note=dose_note,
    ),
    criterion(
        "W3",
        "... and the rate",
        "relative change of the sum of rates, `charity_6`",
        relative("charity_6", "rate").named("sum of rates").at_most(-0.30),
        paper="Llama DPO -14 %, Mistral DPO +11 %",
    ),
    criterion(
        "W4",
        "... at the cost of success, to the rater's pleasure",
        "success change; win rate (ties 1/2)",
        (charity - base).success.named("success").at_most(-0.10),
        charity.win_rate.named("win rate").at_least(0.54),
        paper="success was not measured there",
        note=untied_note,
    ),
    criterion(
        "W5",
        "not the optimiser",
        "`shuffled`: abs kappa change each act; abs success change",
        *(kappa.within(0.02) for kappa in kappas(shuffled)),
        (shuffled - base).success.named("success").within(0.015),
        paper="no such control there",
    ),
    criterion(
        "W6",
        "not more training",
        "`more_sft`: the same; slope per 100 steps",
        *(kappa.within(0.02) for kappa in kappas(more_sft)),
        (more_sft - base).success.named("success").within(0.015),
        *(slope("more_sft", act).within(0.01) for act in ACTS),
        paper="SFT: R = -.24, +.40, -.18, n.s.",
    ),
    criterion(
        "W7",
        "not preference data as such",
        "`charity_0`: kappa change each act; sum of rates; success",
        *(kappa.at_least(-0.01) for kappa in kappas(strict)),
        relative("charity_0", "rate").named("sum of rates").at_least(-0.05),
        (strict - base).success.named("success").at_least(-0.005),
        paper="one kind of preference data there",
        note=strict_note,
    ),
    criterion(
        "W8",
        "seeing the reaction cures",
        "`reaction_6`: kappa change each act; success (clarification rate reported)",
        *(kappa.at_least(-0.02) for kappa in kappas(reaction)),
        (reaction - base).success.named("success").at_least(-0.005),
        relative("reaction_6", "clarification_rate").reported,
        paper="proposed by later work (2410.13788, 2502.00640)",
        note=clarification_note,
    ),
    criterion(
        "W9",
        "closed form",
        "abs(measured - predicted kappa), charity 0, .3, .6 x 3 acts, seed means; Spearman of logit shifts over 33 "
        "cells",
        *(
            (arm(name).column(f"{act}_kappa") - Rows("predicted", arm=name, act=act).kappa)
            .named(f"kappa, {act}, charity {alpha:g}", "kappa")
            .within(0.08)
            for name, alpha in CHARITIES.items()
            for act in ACTS
        ),
        Measure(spearman_of_shifts, "Spearman of logit shifts", "correlation").at_least(0.9),
        paper="no prediction there",
        note="the closed form of charity .3 is held against three seeds: partly is the best it can be",
    ),
    criterion(
        "W10",
        "what is left is better placed",
        "`charity_6` precision up and recall down, each act",
        *(better_placed(act).at_least(0, 4) for act in ACTS),
        *(
            (charity - base).column(f"{act}_{measure}").named(f"{measure}, {act}").reported
            for act in ACTS
            for measure in ("precision", "recall")
        ),
        paper="true of followups, not of acknowledgements (P7)",
    ),
    criterion(
        "W11",
        "horizon alone does not cure (hypothesis)",
        "`lookahead_6` minus `charity_6`, kappa each act",
        *(kappa.within(0.05) for kappa in kappas(lookahead, charity, ", minus charity_6")),
        paper="horizon is said to cure (2410.13788, 2502.00640)",
    ),
    criterion(
        "W12",
        "horizon with averaging does (hypothesis)",
        "`lookahead_average_6`: F kappa change; sum of rates",
        next(iter(kappas(averaged))).at_least(-0.02),
        relative("lookahead_average_6", "rate").named("sum of rates").at_least(-0.10),
        paper="not tried there",
    ),
    criterion(
        "W13",
        "checkpoint correlations mislead",
        "`shuffled`, ten checkpoints, per seed and act: abs(R) >= .632 although abs(change) <= .02",
        Measure(misleading, "runs (a seed and an act) that mislead", "runs").at_least(3),
        Measure(largest_correlation, "largest |R|", "correlation").reported,
        paper="three correlations of one run",
        note=correlation_note,
    ),
    criterion(
        "M1",
        "questions are dispreferred",
        "UltraFeedback chosen minus rejected question share; McNemar; conditional-logit coefficient after length "
        "control and run-on cut",
        (100 * ultrafeedback.difference).named("chosen minus rejected", "pp").within(-6, -3),
        ultrafeedback.mcnemar_p.named("McNemar", "p").at_most(1e-5),
        Measure(interval_of(cut_replies, "coefficient", "n"), "coefficient, cut replies", "logit").at_most(0),
        cut_replies.coefficient_high.named("its upper limit", "logit").at_most(0),
        evidence="models",
        paper="13.77 against 18.35 %",
    ),
    criterion(
        "M2",
        "questions are rare in SFT data",
        "UltraChat share",
        (100 * ultrafeedback.where(source="ultrachat").share)
        .named("share of assistant messages", "%")
        .within(10.8, 12.8),
        evidence="models",
        paper="11.83 %",
    ),
    criterion(
        "M3",
        "the paper's own Llama models",
        "followup rate and kappa, SFT -> DPO, SFT -> PPO, bootstrap by conversation",
        *(
            check
            for measure, stage, paper, unit in (
                ("rate", "dpo", -0.263, "share of turns"),
                ("rate", "ppo", -0.203, "share of turns"),
                ("kappa", "dpo", -0.366, "kappa"),
                ("kappa", "ppo", -0.308, "kappa"),
            )
            for check in (
                change_of("archangel", stage, measure, f"followup {measure}, {stage}").at_most(paper / 2),
                # Not of the relative change: that has no value in resamples in which SFT itself does not agree.
                of_lineage("archangel", stage)
                .column(f"{measure}_change_high")
                .named(f"upper limit of the change, {measure}, {stage}", unit)
                .at_most(0),
            )
        ),
        evidence="models",
        paper="rate -26 / -20 %, kappa -37 / -31 %",
    ),
    criterion(
        "M4",
        "other lineages",
        "the same for OLMo-2 and Zephyr SFT -> DPO",
        *(
            change_of(lineage, "dpo", measure, f"followup {measure}, {lineage}").at_most(0)
            for lineage in ("olmo_1b", "zephyr")
            for measure in ("rate", "kappa")
        ),
        evidence="models",
        paper="not measured there",
        note="the checks hold one verdict a lineage",
    ),
    criterion(
        "M5",
        "own training",
        "question share `dpo` minus `more_sft`; `swapped`; `balanced`",
        training.where(arm="dpo").relative.named("dpo", "share of more_sft").at_most(-0.10, 5),
        training.where(arm="swapped").relative.named("swapped", "share of more_sft").at_least(0),
        (training.where(arm="balanced") / training.where(arm="dpo"))
        .change.named("balanced, of dpo", "multiple of dpo")
        .at_most(0.5),
        evidence="models",
        paper="question share not measured there",
        note="three seeds: partly is the best they can give",
    ),
    criterion(
        "M6",
        "human rates under an open labeller",
        "F, A, C rates, three sets",
        *(
            human_rate(corpus, act).named(f"{act}, {corpus}", "%").within(max(0, printed - 5), printed + 5)
            for (corpus, act), printed in HUMAN_RATES.items()
        ),
        *(
            (human_rate("esconv", more) - human_rate("esconv", less))
            .named(f"ESConv: {more} minus {less}", "pp")
            .at_least(0)
            for more, less in itertools.pairwise(ACTS)
        ),
        evidence="models",
        paper="ESConv 27.9 / 12.9 / 3.05 %",
        note="TSCC is given out on request only and is left out",
    ),
)

# --- Parts and the overall verdict ----------------------------------------------------------------


def headline(verdict: Verdicts) -> tuple[str, str]:
    """Partly at best: the direction holds, the figure is not from the table, and it is about one model."""
    word = worst([verdict["P1"], verdict["P2"]]) if not_shown(verdict, "P1", "P2") else PARTLY
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

DECIDING = ("P4", "W2", "W4", "W5", "W6")


def beside(verdict: Verdicts) -> str:
    """The sentence on W7 that every verdict carries, whatever its label."""
    why = "because raters let guesses pass, not because it optimises preferences"
    if verdict["W7"] == REPLICATED:
        return f"W7 beside it (replicated): in the world it does so {why}"
    return f"W7 beside it ({verdict['W7']}): that in the world it does so {why} is not established"


def overall(verdict: Verdicts) -> tuple[str, str]:
    """ "Preference optimisation erodes grounding" is replicated if P4, W2, W4, W5 and W6 hold; W7 stands beside it."""
    if missing := named(verdict, NOT_ATTEMPTED, *DECIDING):
        word, why = NOT_ATTEMPTED, f"still missing: {missing}"
    else:
        word, failed = worst([verdict[c] for c in DECIDING]), listed(verdict, *not_shown(verdict, *DECIDING))
        why = f"what does not hold: {failed}" if failed else "preference optimisation erodes grounding"
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
