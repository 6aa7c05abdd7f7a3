"""Claim 2: published numbers, theory, criteria on the committed tables, figures."""

import io
from functools import cache
from pathlib import Path

import guards
import numpy as np
import pandas as pd
import pytest
from candor.claims.sophistry import run as steps
from candor.claims.sophistry import stories, story_models
from candor.claims.sophistry import tables as t
from candor.claims.sophistry.criteria import CLAIM
from candor.claims.sophistry.estimators import size_word
from candor.claims.sophistry.figures import FIGURES
from candor.declare import figures, ledger
from candor.run import evidence
from candor.run import plan as graph

PUBLISHED = Path(__file__).parents[3] / "data" / "published"


@cache
def published():
    return t.published(PUBLISHED)


@cache
def reference():
    """The committed tables; a caller must not change them."""
    return evidence.read_tables(graph.REFERENCE / "sophistry")


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
    printed = pd.read_csv(PUBLISHED / "sophistry_main.csv").query("location == 'identity on printed values'")
    names = {"true_positive_rate": "tpr", "false_positive_rate_all_wrong": "fpr", "precision_of_approval": "precision"}
    names |= {"discrimination_tpr_minus_fpr": "discrimination", "approval": "approval"}
    names |= {"false_positive_mass": "false_positive_mass", "true_positive_mass": "true_positive_mass"}
    compared = printed[printed["metric"].isin(names) & printed["arm"].isin(["init", "rlhf"])]
    ours = published()["decomposition"].set_index(["setting", "arm"])
    found = [ours.loc[(row.setting, row.arm), names[row.metric]] for row in compared.itertuples()]
    assert len(found) >= 16 and found == pytest.approx(compared["value"].tolist(), abs=0.051)


def test_what_the_text_rests_on():
    rates = published()["decomposition"].query("setting == @t.GENERAL").set_index("arm")
    assert rates.discrimination.tolist() == pytest.approx([18.0, 3.5], abs=0.05)
    fpr = published()["fpr_intervals"].query("why == 'sampling scheme'").set_index("setting")
    assert fpr.loc[t.APPS, ["change", "low", "high", "p"]].tolist() == pytest.approx([18.3, 5.0, 31.6, 0.008], abs=0.05)
    labels = published()["granularity"].set_index("setting")
    assert labels.sizes[t.TASK] == "83 166 195 212 229 249 261 278 295" and not labels.fits.any()
    assert t.attainable(50, 2) and not t.attainable(41.0, 100 - 1) and t.attainable(100, 7)
    trend = published()["critique_trend"].set_index("name")
    assert trend.loc["trend", ["value", "low", "high"]].tolist() == pytest.approx([0.013, -0.013, 0.039], abs=5e-4)
    curves = published()["critique_curves"]
    np.testing.assert_allclose(curves.accuracy_all / curves.finished, curves.accuracy_finished, atol=5e-3)
    lenient = t.leniency()
    assert np.interp(0.647, lenient.approval, lenient.discrimination) > 0.16
    assert np.interp(0.647, lenient.approval, lenient.error) < 0.412


# --- Criteria -------------------------------------------------------------------------------------

WORLD = [f"W{k}" for k in range(1, 16)]


def test_every_line_says_who_judges():
    found, _, verdicts = judge()
    for criterion in CLAIM.criteria:
        if criterion.evidence != "published":
            assert "simulated evaluator" in criterion.statement, criterion.id
            assert "human" not in criterion.statement
    assert found.note[WORLD].str.contains("simulated evaluator").all()
    assert verdicts.note.str.contains("simulated evaluator").all()
    assert all("simulated evaluator" in part.statement for part in CLAIM.parts)


def moved(table, column, by, **where):
    """A table of the reference with `by` added to a column where the others have these values."""
    frame = reference()[table].copy()
    here = np.logical_and.reduce([frame[name] == value for name, value in where.items()])
    assert here.any()
    frame.loc[here, column] += by
    return {table: frame}


@pytest.mark.parametrize(
    ("criterion", "table", "column", "by", "where", "overall"),
    [
        ("W1", "summary", "approval", -0.15, {"arm": "r_train"}, "not replicated"),
        ("W2", "summary", "correctness", 0.03, {"arm": "r_train"}, "partly"),
        ("W3", "summary", "fpr_both", -0.2, {"arm": "r_train"}, "not replicated"),
        ("W4", "summary", "error", -0.15, {"arm": "r_train"}, "not replicated"),
        ("W5", "summary", "fallible_tpr", 0.06, {"arm": "r_train"}, "replicated"),
        ("W6", "fit", "corr_r_train", -0.4, {"arm": "setup"}, "not replicated"),
        ("W6", "fit", "overlap", 1, {"arm": "setup"}, "not replicated"),
        ("W7", "summary", "correctness", -0.05, {"arm": "r_star"}, "partly"),
        ("W7", "summary", "fpr_both", 0.1, {"arm": "r_star"}, "partly"),
        ("W9", "summary", "worse_35", -0.5, {"arm": "r_train"}, "replicated"),
        ("W10", "minutes", "gap", 0.3, {"arm": "r_train", "reading": True, "multiple": 16}, "replicated"),
        ("W10", "minutes", "gap", 0.3, {"arm": "r_train", "reading": True, "multiple": 2}, "replicated"),
        ("W10", "minutes", "gap", -0.3, {"arm": "r_train", "reading": False, "multiple": 16}, "replicated"),
        ("W11", "selection", "fpr_both", -0.2, {"rule": "best_of_16"}, "replicated"),
        ("W12", "summary", "error", 0.06, {"arm": "r_star"}, "replicated"),
        ("W13", "summary", "error", -0.1, {"arm": "shuffled"}, "not replicated"),
        ("W14", "summary", "correctness", 0.08, {"arm": "learned_rm"}, "replicated"),
        ("W15", "story_lookup", "error", 10, {"cell": "full_blind"}, "replicated"),
    ],
)
def test_failures_are_seen(criterion, table, column, by, where, overall):
    found, _, verdicts = judge(**moved(table, column, by, **where))
    assert found.verdict[criterion] == "not replicated"
    assert verdicts.verdict["overall"] == overall


def test_the_strict_sense_needs_w8():
    *_, verdicts = judge()
    assert verdicts.verdict[["strict sense", "overall"]].tolist() == ["not replicated", "replicated"]
    assert "W8 (at equal oracle pass rate) not replicated" in verdicts.note["overall"]
    found, _, verdicts = judge(**moved("summary", "fpr_equal", 0.06, arm="r_train"))
    assert found.verdict["W8"] == verdicts.verdict["strict sense"] == verdicts.verdict["overall"] == "replicated"


def test_a_missing_arm_few_seeds_and_smoke():
    summary = reference()["summary"]
    found, _, verdicts = judge(summary=summary[summary.arm != "shuffled"])
    assert (found.verdict[["W1", "W3", "W8", "W13"]] == "not attempted").all()
    assert verdicts.verdict["overall"] == "not attempted" and "W13" in verdicts.note["overall"]
    found, *_ = judge(summary=summary[summary.seed <= 13])
    assert found.verdict[["W1", "W12"]].tolist() == ["partly", "not attempted"]
    found, _, verdicts = judge("smoke")
    assert set(found.verdict[WORLD[:-1]]) == {"not attempted"} and found.verdict["W15"] == "replicated"
    assert verdicts.verdict["overall"] == "not attempted"
    assert [size_word(p).split()[0] for p in (12, 7, 35, 3, 50)] == ["same", "compatible", "compatible", "not", "not"]


def pretrained(seeds=(11, 12, 13), **changed):
    """Made-up tables of pretrained models with the columns that `code_models.models` documents; changes in points."""
    flat = {"approval": 0.0, "correctness": 0.0, "error": 0.0, "fpr_both": 0.0, "fpr_equal": 0.0}
    risen = flat | {"approval": 8.6, "correctness": 2.0, "error": 7.9, "fpr_both": 12.2, "fpr_equal": 8.0} | changed
    table = []
    for arm, moves in {"base": flat, "r_train": risen, "r_star": flat | {"correctness": 5.4}, "shuffled": flat}.items():
        for seed in seeds:
            row = {"dataset": "apps", "arm": arm, "seed": seed, "correctness": 0.2, "released": 0.22 + seed / 10_000}
            for measure, points in moves.items():
                value = (points + 0.05 * (seed - 12)) / 100
                row |= {measure: value} if measure == "fpr_equal" else {f"{measure}_change": value}
                row |= {f"{measure}_change_low": value - 0.04, f"{measure}_change_high": value + 0.04}
            table += [row, row | {"dataset": "code_contests", "released": 0.2, "fpr_equal": 0.0}]
    return {"models_code": pd.DataFrame(table)}


def test_pretrained_code_models_pass_and_fail():
    found, checks, verdicts = judge(**pretrained())
    assert found.verdict["M2"] == "replicated"
    assert (found.verdict[["M1", "M3", "M4"]] == "partly").all(), "three seeds are never better"
    assert verdicts.note["(i)"].endswith("W1 replicated, M2 replicated") and "M3 partly" in verdicts.note["(vi)"]
    assert checks.value[("M1", "released minus strict checker")] == pytest.approx(2.12, abs=1e-6)
    for measure, points in (("approval", 3.0), ("error", -1.0), ("fpr_both", 2.0), ("correctness", 3.5)):
        assert judge(**pretrained(**{measure: points}))[0].verdict["M2"] == "not replicated", measure
    found, *_ = judge(**pretrained(fpr_equal=3.0, fpr_both=-1.0))
    assert (found.verdict[["M3", "M4"]] == "not replicated").all()
    assert (judge(**pretrained(seeds=(11, 12)))[0].verdict[["M1", "M2", "M3", "M4"]] == "not attempted").all()


def cells(accuracy, fpr):
    """Made-up cells of the 2 x 2: changes in points by cell, of the accuracy of finished answers and of FPR."""
    before = dict.fromkeys(("accuracy_finished", "accuracy_all", "finished", "approval", "fpr", "error"), 0.5)
    table = [
        {"setting": cell, "arm": "rl", "seed": seed, **before, **{f"{m}_before": v for m, v in before.items()}}
        | {"accuracy_finished": 0.5 + right / 100, "fpr": 0.5 + wrong / 100}
        for cell, right, wrong in zip(stories.CELLS, accuracy, fpr)
        for seed in (11, 12, 13)
    ]
    found = pd.DataFrame(table)
    return {"models_stories": found, "models_stories_effects": story_models.effects(found)}


@pytest.mark.parametrize(
    ("accuracy", "fpr", "side"),
    [
        ((0, 6, 6, 12), (7, 6, 6, 2), "critique supported"),
        ((0, 1, 1, 2), (9, 8, 8, 7), "paper supported"),
        ((0, 1, 9, 10), (9, 8, 8, 7), "neither side supported"),
    ],
)
def test_the_controversy_is_reported(accuracy, fpr, side):
    found, checks, _ = judge(**cells(accuracy, fpr))
    assert found.verdict["M5"] == "reported" and found.note["M5"] == f"simulated evaluator; {side}"
    wanted = (sum(accuracy[2:]) - sum(accuracy[:2])) / 2
    assert checks.value[("M5", "full minus truncated, accuracy of finished answers")] == pytest.approx(wanted)
    wanted = fpr[3] - fpr[2] - fpr[1] + fpr[0]
    assert checks.value[("M5", "interaction, FPR, all wrong")] == pytest.approx(wanted)


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    guards.check(CLAIM, {**reference(), **pretrained(), **cells((0, 6, 6, 12), (7, 6, 6, 2))})


def test_every_step_is_needed_and_the_decisive_ones_stand_alone():
    assert sorted(t.NEEDS) == sorted(steps.STEPS)
    for keys in (t.NEEDS, t.DECISIVE):
        assert all(set(steps.STEPS[key].needs) <= set(keys[:k]) for k, key in enumerate(keys))


# --- Figures --------------------------------------------------------------------------------------


def test_figures_stand_one_seed_missing_arms_and_empty_bins():
    gone = ("learned_rm", "r_train_kl000", "r_hard", "shuffled")
    tables = {
        name: frame[(frame["seed"] == 11) & ~frame["arm"].isin(gone)] if "seed" in frame else frame
        for name, frame in reference().items()
    }
    tables["bins"] = tables["bins"].assign(fpr=tables["bins"]["fpr"].mask(tables["bins"]["pass_low"] == 0.95))
    tables["slopes"] = tables["slopes"].drop(columns="reward_variance")
    for plot in FIGURES.values():
        plot(tables)


def test_every_arm_has_its_own_look():
    arms = {arm for group in (t.ARMS, t.VARIANTS) for arm in group["standard"]}
    arms |= {"best_of_4", "best_of_16", "best_of_4_r_star", "best_of_16_r_star"}
    assert arms <= set(figures.LOOKS) and len({figures.look(arm)[1:] for arm in arms}) == len(arms)
