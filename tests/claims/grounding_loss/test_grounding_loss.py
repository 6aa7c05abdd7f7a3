"""Claim 3: published numbers, theory, criteria, figures."""

import io
from functools import cache
from pathlib import Path

import guards
import pandas as pd
import pytest
from candor.claims.grounding_loss import run as steps
from candor.claims.grounding_loss import tables as t
from candor.claims.grounding_loss import world as game
from candor.claims.grounding_loss.criteria import CLAIM
from candor.claims.grounding_loss.figures import FIGURES
from candor.claims.shared import rows
from candor.declare import figures, ledger
from candor.run import evidence
from candor.run import plan as graph

PUBLISHED = Path(__file__).parents[3] / "data" / "published"
ACTS = game.ACTS


@cache
def published():
    return t.published(PUBLISHED)


@cache
def reference():
    """The committed tables; a caller must not change them."""
    return evidence.read_tables(graph.REFERENCE / "grounding_loss")


def judge(scale="laptop", **changed):
    found, checks, verdicts = ledger.judge(CLAIM, {**reference(), **changed}, scale)
    return found.set_index("criterion"), checks.set_index(["criterion", "check"]), verdicts.set_index("part")


# --- Published numbers and closed forms -------------------------------------------------------------


def test_every_number_is_the_committed_one():
    """Every table and column that needs no run, as it was promoted: a slip in any of them is seen here."""
    for name, table in {**published(), **t.theory()}.items():
        kept = pd.read_csv(graph.REFERENCE / CLAIM.name / f"{name}.csv")
        made = pd.read_csv(io.StringIO(table.to_csv(index=False)))
        pd.testing.assert_frame_equal(made, kept, check_dtype=False, rtol=1e-6, atol=1e-9, obj=name)


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


def test_what_the_text_rests_on():
    means = published()["headline_means"].set_index("name").value
    assert means[["printed", "quoted_mean", "cells_mean", "pooled"]].tolist() == pytest.approx(
        [77.5, 77.5, 73.1, 63.5], abs=0.051
    )
    changes = published()["changes"]
    assert (changes.kappa_change < 0).sum() == len(changes) == 9 and (changes.rate_change < 0).sum() == 6
    r = published()["correlations"].set_index(["method", "act", "points"]).r
    assert [r["dpo", act, 10] for act in ACTS] == pytest.approx([-0.70, -0.89, -0.78], abs=5e-3)
    flat = published()["flat_runs"].set_index("process")
    assert (flat.below_70["random_walk"], flat.detected["independent"]) == pytest.approx((0.24, 0.05), abs=0.01)
    ceiling = published()["human_ceiling"]
    assert ceiling[["both", "first", "second"]].to_numpy().tolist() == [[9, 7, 7], [2, 5, 2], [1, 2, 0]]
    assert t.kappa_of_counts(50, 9, 7, 7) == pytest.approx(0.3566, abs=1e-4)
    named = rows(published()["clarification_counts"], source="Table 3", model="Mistral-7B").set_index("arm")
    assert named[["coincident", "emitted"]].loc[["sft", "sft_dpo"]].to_numpy().tolist() == [[2, 4], [2, 8]]
    power = published()["power"].set_index("name").value
    assert (power.turns_two_se, power.turns_80) == pytest.approx((11_000, 22_000), rel=0.06)


def test_what_the_raters_rule_predicts():
    """As it was computed before any arm was trained."""
    found = t.theory()["predicted"].set_index(["arm", "act"])
    for arm, *kappas, success in (
        ("charity_6", 0.455, 0.634, 0.483, 0.706),
        ("charity_3", 0.678, 0.853, 0.640, 0.843),
        ("charity_0", 0.828, 0.885, 0.677, 0.937),
    ):
        assert found.kappa[arm][list(ACTS)].tolist() == pytest.approx(kappas, abs=6e-3)
        assert found.success[arm].iloc[0] == pytest.approx(success, abs=6e-3)
    crossing = t.theory()["crossing"]
    won = published()["questions"].set_index("name").value["question_win_rate"]
    assert crossing.act_win_rate.iloc[-1] == pytest.approx(won / 100, abs=1e-5)
    assert published()["human_ceiling"].tables.eq(1).all()


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
    assert checks.value["W13", "runs (a seed and an act) that mislead"] == 0, "kappa itself falls by .03"
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
