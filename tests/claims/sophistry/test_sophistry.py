"""Claim 2: published numbers, theory, criteria on the committed tables, figures."""

from functools import cache
from pathlib import Path

import guards
import numpy as np
import pandas as pd
import pytest
from candor.claims.shared import rows
from candor.claims.sophistry import run as steps
from candor.claims.sophistry import stories, story_models
from candor.claims.sophistry import tables as t
from candor.claims.sophistry.criteria import CLAIM, size_word
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


# --- Published numbers: every number that the text relies on ----------------------------------------


def at(table, **where):
    return rows(published()[table], **where).iloc[0]


def test_the_three_settings_as_printed():
    main = published()["main"].set_index(["setting", "metric"])
    changes = {(t.TASK, "fpr_both"): 24.1, (t.GENERAL, "fpr_both"): 23.5, (t.APPS, "fpr_both"): 18.3}
    changes |= {(t.TASK, "error"): 15.6, (t.GENERAL, "error"): 7.4, (t.APPS, "error"): 14.4}
    changes |= {(t.TASK, "approval"): 6.0, (t.GENERAL, "approval"): 9.4, (t.APPS, "approval"): 14.3}
    changes |= {(t.GENERAL, "correctness"): -1.8}
    for key, value in changes.items():
        assert main.change[key] == pytest.approx(value, abs=1e-6), key
    assert main.change[[(t.TASK, "correctness"), (t.APPS, "correctness")]].isna().all(), "only drawn in the paper"
    assert (main.before[(t.GENERAL, "approval")], main.after[(t.GENERAL, "correctness")]) == (55.3, 50.2)


def test_discrimination_is_lost_and_leniency_is_not_it():
    before, after = (at("decomposition", setting=t.GENERAL, arm=arm) for arm in ("init", "rlhf"))
    assert (before.tpr, after.tpr) == pytest.approx((63.9, 66.4), abs=0.05)
    assert (before.fpr, after.fpr) == pytest.approx((45.9, 62.95), abs=0.05)
    assert (before.discrimination, after.discrimination) == pytest.approx((18.0, 3.5), abs=0.05)
    before, after = (at("decomposition", setting=t.APPS, arm=arm) for arm in ("init", "rlhf"))
    assert (before.tpr, after.tpr, before.fpr, after.fpr) == pytest.approx((65.5, 65.4, 29.6, 51.7), abs=0.05)
    masses = published()["mass_changes"].set_index("setting")
    assert masses.false_share[t.GENERAL] == pytest.approx(99, abs=0.5)
    assert (masses.false_positives[t.TASK], masses.false_negatives[t.TASK]) == pytest.approx((10.8, 4.8))
    ranges = masses.loc[t.APPS, ["fpr", "fpr_low", "fpr_high"]].tolist()
    assert ranges == pytest.approx([22.1, 19.1, 25.6], abs=0.05)
    assert masses.loc[t.TASK, ["tpr", "tpr_low", "tpr_high"]].tolist() == pytest.approx([-9.6, -12.9, -6.9], abs=0.05)
    lenient = t.leniency()
    same = np.interp(0.647, lenient.approval, lenient.discrimination)
    assert same > 0.16 and np.interp(0.647, lenient.approval, lenient.error) < 0.412


def test_reanalysis_agrees_with_the_derived_rows_beside_the_numbers():
    printed = pd.read_csv(PUBLISHED / "sophistry_main.csv").query("location == 'identity on printed values'")
    names = {"true_positive_rate": "tpr", "false_positive_rate_all_wrong": "fpr", "precision_of_approval": "precision"}
    names |= {"discrimination_tpr_minus_fpr": "discrimination", "approval": "approval"}
    names |= {"false_positive_mass": "false_positive_mass", "true_positive_mass": "true_positive_mass"}
    compared = [row for row in printed.itertuples() if row.metric in names and row.arm in ("init", "rlhf")]
    assert len(compared) >= 16
    for row in compared:
        ours = at("decomposition", setting=row.setting, arm=row.arm)[names[row.metric]]
        assert ours == pytest.approx(row.value, abs=0.051), (row.setting, row.metric)


def test_rubber_stamps():
    stamps = published()["rubber_stamp"].set_index(["setting", "arm"])
    assert stamps.over_rejecting[t.GENERAL].tolist() == pytest.approx([11.2, 2.0])
    assert stamps.advantage[t.APPS].tolist() == pytest.approx([3.7, -10.7])
    assert stamps.advantage[(t.TASK, "rlhf")] == pytest.approx(-8.5)


def test_intervals_that_the_paper_does_not_print():
    fpr = published()["fpr_intervals"].set_index(["setting", "n"])
    wanted = {(t.TASK, 100): (10.7, 37.5), (t.GENERAL, 100): (10.2, 36.8), (t.APPS, 100): (5.0, 31.6)}
    wanted |= {(t.APPS, 71): (2.6, 34.0), (t.TASK, 83): (9.4, 38.8), (t.GENERAL, 225): (14.7, 32.3)}
    for key, interval in wanted.items():
        assert fpr.loc[key, ["low", "high"]].tolist() == pytest.approx(interval, abs=0.05), key
    assert fpr.p[(t.APPS, 100)] == pytest.approx(7.9e-3, abs=1e-4)
    error = published()["error_intervals"].set_index(["setting", "metric", "how"])
    assert error.loc[(t.GENERAL, "error", "labels"), ["low", "high"]].tolist() == pytest.approx([-1.3, 16.1], abs=0.05)
    for setting, interval in {t.TASK: (5.7, 25.5), t.GENERAL: (2.7, 12.1), t.APPS: (0.1, 28.7)}.items():
        found = error.loc[(setting, "error", "evaluators"), ["low", "high"]].tolist()
        assert found == pytest.approx(interval, abs=0.05), setting
    signs = published()["sign_tests"].set_index("setting").p
    assert signs[[t.TASK, t.GENERAL, t.APPS]].tolist() == pytest.approx([0.0167, 0.0029, 0.0215], abs=5e-5)


def test_which_percentages_can_be_printed():
    labels = published()["granularity"].set_index("setting")
    assert labels.smallest[[t.TASK, t.GENERAL, t.APPS]].tolist() == [83, 225, 71] and not labels.fits.any()
    assert labels.sizes[t.TASK] == "83 166 195 212 229 249 261 278 295"
    assert labels.sizes[t.APPS] == "71 142 169 213 240 257 267 280 284"
    people = published()["granularity_people"].set_index("percent")
    assert people.fits[[71, 90]].all() and not people.fits[76] and people.sizes[76].endswith("33 34")
    assert t.attainable(50, 2) and not t.attainable(41.0, 100 - 1) and t.attainable(100, 7)


def test_the_critiques_gain_is_finishing():
    v = published()["critique_trend"].set_index("name")
    assert v.value[["points", "first_all", "last_all"]].tolist() == pytest.approx([27, 0.36, 0.70], abs=0.003)
    assert v.value[["first", "last", "mean"]].tolist() == pytest.approx([0.72, 0.71, 0.70], abs=0.0055)
    assert v.loc["trend", ["value", "low", "high"]].tolist() == pytest.approx([0.013, -0.013, 0.039], abs=5e-4)
    assert v.value["misread"] <= 0.0051
    curves = published()["critique_curves"]
    computed = curves.accuracy_all / curves.finished
    np.testing.assert_allclose(computed, curves.accuracy_finished, atol=5e-3)
    bars = published()["critique_bars"]
    assert bars.after.tolist() == [50.0, 72.0, 54.6] and bars.before.tolist() == [52.0, 49.3, 49.3]


def test_near_misses_and_a_leaky_oracle():
    cases = published()["near_misses"]
    assert (cases.change < 0).sum() == (cases.change > 0).sum() == 2
    apps = at("leaky_oracle", dataset="APPS")
    assert (apps.wrong, apps.low, apps.high) == (60, 46.2, 72.4)


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


def test_needs_are_declared_unique_and_trained_before_evaluated():
    assert len(set(t.NEEDS)) == len(t.NEEDS) and set(t.NEEDS) == set(steps.STEPS)
    assert set(t.DECISIVE) < set(t.NEEDS)
    place = {key: k for k, key in enumerate(t.NEEDS)}
    for key in t.NEEDS:
        for need in steps.STEPS[key].needs:
            assert place[need] < place[key], (need, key)
            assert key not in t.DECISIVE or need in t.DECISIVE


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
