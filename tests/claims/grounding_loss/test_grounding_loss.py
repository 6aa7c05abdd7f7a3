"""Claim 3: published numbers, theory, criteria, figures."""

from functools import cache
from pathlib import Path

import guards
import numpy as np
import pandas as pd
import pytest
from candor.claims.grounding_loss import run as steps
from candor.claims.grounding_loss import tables as t
from candor.claims.grounding_loss import world as game
from candor.claims.grounding_loss.criteria import CLAIM
from candor.claims.grounding_loss.figures import FIGURES
from candor.claims.shared import rows
from candor.declare import figures, ledger
from candor.measure.agreement import kappa
from candor.run import evidence
from candor.run import plan as graph

PUBLISHED = Path(__file__).parents[3] / "data" / "published"
ACTS = game.ACTS


@cache
def published():
    return t.published(PUBLISHED)


@cache
def theory():
    return t.theory()


@cache
def reference():
    """The committed tables; a caller must not change them."""
    return evidence.read_tables(graph.REFERENCE / "grounding_loss")


def judge(scale="laptop", **changed):
    found, checks, verdicts = ledger.judge(CLAIM, {**reference(), **changed}, scale)
    return found.set_index("criterion"), checks.set_index(["criterion", "check"]), verdicts.set_index("part")


def check(table, keys, columns, wanted, within):
    """Columns of the table, a list for each of the rows (the values of `keys`) in `wanted`."""
    found = published()[table].set_index(keys)[columns]
    for row, values in wanted.items():
        assert found.loc[row].tolist() == pytest.approx(values, abs=within), row


# --- Published numbers: every number that the text relies on ----------------------------------------


def test_the_headline_does_not_follow_from_the_table():
    means = {"printed": 77.5, "quoted_mean": 77.5, "cells_mean": 73.1, "cells_median": 79.7, "pooled": 63.5}
    means |= {"followup": 48.3, "acknowledgement": 76.1, "clarification": 95.0}
    means |= {"ESConv": 84.4, "TSCC": 51.5, "Persuasion for Good": 83.4}
    check("headline_means", "name", ["value"], {name: [value] for name, value in means.items()}, 0.051)
    check("headline_means", "name", ["low", "high"], {"cells_mean": [68.4, 76.8]}, 0.15)
    intervals = {("TSCC", "followup"): [4.0, -23, 25]}
    check("headline", ["dataset", "act"], ["reduction", "reduction_low", "reduction_high"], intervals, 0.7)
    cells = published()["headline"].set_index(["dataset", "act"])
    assert set(cells.index[~cells.beyond]) == {("TSCC", "followup"), ("Persuasion for Good", "clarification")}


def test_reanalysis_agrees_with_the_derived_rows_beside_the_numbers():
    printed = pd.read_csv(PUBLISHED / "grounding_rates.csv")
    derived = printed[printed.location.isin(["Table 3", "Appendix Table 3"])]
    ours = published()["rates"].set_index(["model", "arm", "act"])
    names = {"kappa_max": "kappa_max", "kappa_over_kappa_max": "share", "recall": "recall", "precision": "precision"}
    for metric, column in names.items():
        part = derived[derived.metric == metric]
        found = ours.loc[[*zip(part.model, part.arm, part.setting)], column].tolist()
        within = 1e-3 if metric.startswith("kappa") else 0.01
        assert len(found) > 5 and found == pytest.approx(part.value.tolist(), abs=within), metric


def test_agreement_falls_and_rates_do_not_consistently():
    changes = published()["changes"]
    assert (changes.kappa_change < 0).sum() == len(changes) == 9 and (changes.rate_change < 0).sum() == 6
    followups = {("Mistral-7B", "dpo"): [-0.20, 0.445], ("Llama-7B", "dpo"): [-0.26, 0.456]}
    followups |= {("Llama-7B", "ppo"): [-0.20, 0.460]}
    mine = rows(changes, act="followup").set_index(["model", "method"])
    for key, wanted in followups.items():
        assert [mine.rate_relative[key], mine.precision_after[key] / 100] == pytest.approx(wanted, abs=6e-3)
    z = {("Mistral-7B", "followup"): [-0.6, -1.9], ("Mistral-7B", "acknowledgement"): [-1.2, 2.6]}
    check("changes", ["model", "act"], ["kappa_z", "rate_z"], z, 0.06)
    assert mine.share_before["Mistral-7B", "dpo"] == pytest.approx(0.235, abs=1e-3)
    check(
        "rate_sums",
        ["model", "arm"],
        ["rate"],
        {("Mistral-7B", "sft"): [32.6], ("Mistral-7B", "sft_dpo"): [36.0]},
        0.05,
    )
    quoted = {("dpo", "kappa"): [-45.6], ("ppo", "rate"): [-7.1]}
    check("quoted_changes", ["method", "measure"], ["recomputed"], quoted, 0.06)
    check("prompting", "act", ["kappa_z"], {"followup": [3.0], "acknowledgement": [0.5]}, 0.05)


def test_checkpoints_of_one_run():
    table = published()["correlations"]
    r = table.set_index(["method", "act", "points"])
    np.testing.assert_allclose(r.r["dpo"].unstack()[10][list(ACTS)], (-0.70, -0.89, -0.78), atol=5e-3)
    assert (r.r[("dpo", "followup", 9)], r.p[("dpo", "followup", 9)]) == pytest.approx((-0.59, 0.098), abs=6e-3)
    assert (rows(table, method="sft", points=10).p > 0.05).all()
    np.testing.assert_allclose(published()["first_checkpoint"].share, (0.67, 0.33, 0.60), atol=6e-3)
    flat = {"random_walk": [0.24, 0.09], "lag_7": [0.12, 0.02]}
    check("flat_runs", "process", ["below_70", "below_89"], flat, 0.01)
    check("flat_runs", "process", ["mean_r", "detected"], {"independent": [0, 0.05]}, 0.01)
    start = published()["start"].set_index("step")
    assert start.acknowledgement.idxmax() == start.followup.idxmin() == 500 and start["mean"].idxmax() == 300
    envelope = rows(published()["flat_envelope"], process="best_of_ten", act="followup").set_index("step")
    points = rows(published()["dpo_curve"], method="dpo", act="followup").set_index("step").kappa
    assert points.between(envelope.low, envelope.high).all() and len(published()["dpo_curve"]) == 60


def test_small_counts():
    ceiling = published()["human_ceiling"].set_index("act").loc[list(ACTS)]
    assert ceiling[["both", "first", "second"]].to_numpy().tolist() == [[9, 7, 7], [2, 5, 2], [1, 2, 0]]
    assert (ceiling.tables == 1).all() and not ceiling.excluded.any()
    np.testing.assert_allclose(ceiling[["low", "high"]].T, [(7, -9, 0), (62, 66, 100)], atol=1.1)
    counts = published()["clarification_counts"]
    hits = {("Mistral-7B", "sft"): [2, 4], ("Mistral-7B", "sft_dpo"): [2, 8], ("GPT-4", "off_the_shelf"): [0, 3]}
    named = rows(counts, source="Table 3").set_index(["model", "arm"])[["coincident", "emitted"]]
    for key, wanted in (hits | {("GPT-3.5-turbo", "mitigation_prompt"): [0, 10]}).items():
        assert named.loc[key].tolist() == wanted
    dpo = rows(counts, source="Figure 2b")
    assert (dpo.coincident == 2).all() and dpo.emitted.iloc[-1] > dpo.emitted.iloc[0]
    assert t.kappa_of_counts(50, 9, 7, 7) == pytest.approx(0.3566, abs=1e-4)


def test_labels_preferences_and_power():
    noise = rows(published()["label_noise"], dataset="ESConv").set_index("act").kappa[list(ACTS)]
    np.testing.assert_allclose(noise, (0.82, 0.78, 0.55), atol=6e-3)
    humans = published()["noisy_humans"].set_index("act").loc[list(ACTS)]
    np.testing.assert_allclose(humans.noisy_kappa, (0.66, 0.67, 0.34), atol=0.012)
    asked = published()["questions"].set_index("name").value
    assert (asked.pairs_low, asked.pairs_high) == pytest.approx((61_949, 62_493), abs=1)
    assert (asked.chi2_current, asked.question_win_rate) == pytest.approx((475.6, 41.5), abs=0.06)
    assert asked.question_win_logit == pytest.approx(-0.34, abs=5e-3)
    check("odds_multipliers", "beta", ["multiplier"], {0.1: [0.033], 0.3: [0.32]}, 1e-3)
    assert published()["changes"].odds_multiplier[0] == pytest.approx(0.76, abs=1e-3)
    power = published()["power"].set_index("name").value
    assert (power.se_low, power.se_high) == pytest.approx((3.3, 4.1), abs=0.05)
    assert (power.turns_two_se, power.turns_80) == pytest.approx((11_000, 22_000), rel=0.06)


# --- Theory ---------------------------------------------------------------------------------------


def test_what_the_raters_rule_predicts():
    found = theory()["predicted"].set_index(["arm", "act"])
    for arm, kappas, success in (
        ("charity_6", (0.455, 0.634, 0.483), 0.706),
        ("charity_3", (0.678, 0.853, 0.640), 0.843),
        ("charity_0", (0.828, 0.885, 0.677), 0.937),
    ):
        np.testing.assert_allclose(found.kappa[arm][list(ACTS)], kappas, atol=6e-3)
        assert found.success[arm].iloc[0] == pytest.approx(success, abs=6e-3)
    np.testing.assert_allclose(found.kappa_max["charity_6"][list(ACTS)], (0.49, 0.67, 0.63), atol=0.012)
    assert len(theory()["predicted_cells"]) == 33
    crossing = theory()["crossing"].set_index("alpha")
    assert crossing.p[0.3] == pytest.approx(0.2857, abs=1e-4)
    assert (crossing.act_win_rate[0], crossing.act_win_rate[0.6]) == pytest.approx((0.476, 0.19), abs=2e-3)
    assert crossing.index[-1] == pytest.approx(0.13, abs=5e-3)
    won = published()["questions"].set_index("name").value["question_win_rate"]
    assert crossing.act_win_rate.iloc[-1] == pytest.approx(won / 100, abs=1e-5)
    asks = theory()["ask_anyway"].set_index(["d", "act"])
    assert asks.kappa[(0.1, "clarification")] == pytest.approx(0.32, abs=0.01)
    assert asks.kappa[(0.1, "followup")] == pytest.approx(0.77, abs=0.01)
    human = theory()["human"].set_index("act").loc[list(ACTS)]
    np.testing.assert_allclose(human.kappa, [kappa(h, h, game.VISITS) for h in game.HUMAN.T])
    np.testing.assert_allclose(human.rate, (0.279, 0.130, 0.0355), atol=1e-3)


# --- Criteria -------------------------------------------------------------------------------------

WORLD = [f"W{k}" for k in range(1, 14)]


@pytest.mark.parametrize(
    ("criterion", "arm", "column", "shift"),
    [
        ("W1", "base", "followup_rate", 0.02),
        ("W2", "charity_6", "clarification_kappa", 0.3),
        ("W3", "charity_6", "rate", 0.15),
        ("W4", "charity_6", "win_rate", -0.2),
        ("W5", "shuffled", "acknowledgement_kappa", -0.2),
        ("W7", "charity_0", "success", -0.1),
        ("W8", "reaction_6", "clarification_kappa", -0.3),
        ("W9", "charity_6", "followup_kappa", 0.3),
        ("W10", "charity_6", "followup_precision", -0.5),
        ("W11", "lookahead_6", "followup_kappa", 0.3),
        ("W12", "lookahead_average_6", "rate", -0.2),
    ],
)
def test_failures_are_seen(criterion, arm, column, shift):
    summary = reference()["summary"].copy()
    summary.loc[summary["arm"] == arm, column] += shift
    found, _, verdicts = judge(summary=summary)
    assert found.verdict[criterion] == "not replicated"
    if criterion in ("W2", "W4", "W5"):
        assert verdicts.verdict["overall"] == "not replicated"
    if criterion == "W7":
        assert "W7 beside it (not replicated)" in verdicts.note["overall"]


def course(kappa):
    """The trajectories with another course of kappa, by step and what it was, for `shuffled` and `more_sft`."""
    table = reference()["trajectory"].copy()
    for act in ACTS:
        mine = table["arm"].isin(["shuffled", "more_sft"])
        table.loc[mine, f"{act}_kappa"] = kappa(table.loc[mine, "step"])
    return judge(trajectory=table)[:2]


def test_the_course_decides_slopes_and_misleading_checkpoints():
    flat, checks = course(lambda step: 0.8 + 0.001 * (step // 15 % 2))  # up and down: no correlation with the step
    assert flat.verdict["W13"] == "not replicated"
    assert checks.value["W13", "runs (a seed and an act) that mislead"] == 0
    assert checks.verdict["W6", "slope, followup"] == "replicated"
    falling, checks = course(lambda step: 0.8 - 0.0002 * step)
    assert falling.verdict["W6"] == checks.verdict["W6", "slope, followup"] == "not replicated"


def test_the_parts_and_their_rules():
    words = dict.fromkeys([criterion.id for criterion in CLAIM.criteria], "replicated")
    parts = {part.id: part for part in CLAIM.parts}
    assert CLAIM.overall(words)[0] == "replicated"
    assert "because raters let guesses pass, not because it optimises preferences" in CLAIM.overall(words)[1]
    assert parts["77.5 %"].judge(words)[0] == parts["(ii)"].judge(words)[0] == "partly"
    word, note = parts["(v)"].judge(words | {"P5": "not replicated", "M3": "not attempted"})
    assert word == "not replicated" and "not attempted: M3" in note
    assert CLAIM.overall(words | {"W6": "not attempted"})[1].startswith("still missing: W6")


def test_a_missing_arm_and_smoke():
    gone = ("charity_3", "more_sft")
    less = {n: frame[~frame["arm"].isin(gone)] for n, frame in reference().items() if {"seed", "arm"} <= set(frame)}
    found, _, verdicts = judge(**less)
    assert found.verdict["W9"] == found.verdict["W6"] == "not attempted" != found.verdict["W2"]
    assert verdicts.verdict["overall"] == "not attempted" and "W6" in verdicts.note["overall"]
    found, _, verdicts = judge("smoke")
    assert set(found.verdict[WORLD]) == {"not attempted"} and verdicts.verdict["overall"] == "not attempted"
    assert found.verdict["P4"] == "replicated"


def pretrained(sign=-1):
    """Made-up tables of pretrained models, with the columns that `dialogue_models.tables` documents."""
    asked = {"rule": "anywhere", "n": 61_135, "mcnemar_p": 1e-80, "difference": 0.045 * sign}
    asked |= {"coefficient": 0.3 * sign, "coefficient_low": 0.3 * sign - 0.05, "coefficient_high": 0.3 * sign + 0.05}
    questions = [asked | {"source": "ultrafeedback", "variant": variant} for variant in ("whole", "cut")]
    questions.append({"source": "ultrachat", "rule": "anywhere", "variant": "whole", "share": 0.118, "n": 10**6})
    human = {"esconv": (0.28, 0.13, 0.03), "persuasion": (0.08, 0.06, 0.003)}
    about = {"labeller": "prompt", "turns": 3_300}
    rates = [
        about | {"corpus": c, "lineage": "human", "stage": "human", "act": act, "human_rate": h, "rate": h}
        for c, shares in human.items()
        for act, h in zip(ACTS, shares)
    ]
    changed = {f"{m}_relative{end}": sign * 0.3 + d for m in ("rate", "kappa") for end, d in EDGES.items()}
    changed |= {f"{m}_change_high": sign * 0.05 for m in ("rate", "kappa")}
    rates += [
        about | {"corpus": "esconv", "lineage": lineage, "stage": stage, "act": "followup"} | changed
        for lineage in ("archangel", "olmo_1b", "zephyr")
        for stage in ("dpo", "ppo")
    ]
    trained = [
        {"arm": arm, "seed": seed, "relative": sign * r + 0.001 * seed, "change": sign * r / 10}
        for arm, r in {"dpo": 0.3, "swapped": -0.3, "balanced": 0.1}.items()
        for seed in (11, 12, 13)
    ]
    frames = {"models_questions": questions, "models_rates": rates, "models_training": trained}
    return {name: pd.DataFrame(frame) for name, frame in frames.items()}


EDGES = {"": 0.0, "_low": -0.1, "_high": 0.1}


def test_pretrained_models_pass_and_fail():
    found, _, verdicts = judge(**pretrained())
    assert (found.verdict[["M1", "M2", "M3", "M4", "M6"]] == "replicated").all()
    assert found.verdict["M5"] == "partly"  # three seeds
    assert "not attempted" not in verdicts.note["(iv)"]
    unsure = pretrained()
    unsure["models_rates"]["kappa_change_high"] = 0.01
    assert judge(**unsure)[0].verdict["M3"] == "not replicated", "an interval contains 0"
    found, _, _ = judge(**pretrained(sign=1))
    assert (found.verdict[["M1", "M3", "M4", "M5"]] == "not replicated").all()


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    guards.check(CLAIM, reference() | pretrained())


def test_every_step_is_needed_and_the_decisive_ones_stand_alone():
    assert sorted(t.NEEDS) == sorted(steps.STEPS)
    for keys in (t.NEEDS, t.DECISIVE):
        assert all(set(steps.STEPS[key].needs) <= set(keys[:k]) for k, key in enumerate(keys))


def test_figures_stand_missing_arms():
    gone = ("charity_3", "lookahead_6", "average_6", "lookahead_average_6", "reaction_6")
    tables = {n: frame[~frame["arm"].isin(gone)] if "seed" in frame else frame for n, frame in reference().items()}
    for plot in FIGURES.values():
        plot(tables)


def test_every_arm_has_its_own_look():
    arms = {*t.ARMS, *t.VARIANTS}
    assert arms <= set(figures.LOOKS) and len({figures.look(arm)[1:] for arm in arms}) == len(arms)
