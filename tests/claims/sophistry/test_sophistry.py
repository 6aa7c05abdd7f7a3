"""Claim 2: published numbers, theory, criteria on the committed tables, figures."""

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


# --- Published numbers: every number that the text relies on ----------------------------------------


SETTINGS = [t.TASK, t.GENERAL, t.APPS]


def check(table, keys, columns, wanted, within=0.051):
    """Columns of the table, a list for each of the rows (the values of `keys`) in `wanted`."""
    found = published()[table].set_index(keys)[columns]
    for row, values in wanted.items():
        assert found.loc[row].tolist() == pytest.approx(values, abs=within, nan_ok=True), row


def test_the_three_settings_as_printed():
    main = published()["main"]
    changes = main.pivot(index="metric", columns="setting", values="change")[SETTINGS]
    rows = {"fpr_both": [24.1, 23.5, 18.3], "error": [15.6, 7.4, 14.4], "approval": [6.0, 9.4, 14.3]}
    rows["correctness"] = [np.nan, -1.8, np.nan]  # only drawn in the paper
    for metric, wanted in rows.items():
        assert changes.loc[metric].tolist() == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    general = main[main["setting"] == t.GENERAL].set_index("metric")
    assert (general.before["approval"], general.after["correctness"]) == (55.3, 50.2)


def test_discrimination_is_lost_and_leniency_is_not_it():
    rates = {(t.GENERAL, "init"): [63.9, 45.9, 18.0], (t.GENERAL, "rlhf"): [66.4, 62.95, 3.5]}
    rates |= {(t.APPS, "init"): [65.5, 29.6, 35.9], (t.APPS, "rlhf"): [65.4, 51.7, 13.7]}
    check("decomposition", ["setting", "arm"], ["tpr", "fpr", "discrimination"], rates)
    masses = ["false_positives", "false_negatives", "false_share"]
    check("mass_changes", "setting", masses, {t.TASK: [10.8, 4.8, 180], t.GENERAL: [9.3, -1.9, 99]}, 0.1)
    ranges = {t.APPS: [22.1, 19.1, 25.6], t.TASK: [21.6, 17.8, 26.2]}
    check("mass_changes", "setting", ["fpr", "fpr_low", "fpr_high"], ranges)
    check("mass_changes", "setting", ["tpr", "tpr_low", "tpr_high"], {t.TASK: [-9.6, -12.9, -6.9]})
    stamps = {(t.GENERAL, "init"): [11.2], (t.GENERAL, "rlhf"): [2.0]}
    check("rubber_stamp", ["setting", "arm"], ["over_rejecting"], stamps)
    stamps = {(t.APPS, "init"): [3.7], (t.APPS, "rlhf"): [-10.7], (t.TASK, "rlhf"): [-8.5]}
    check("rubber_stamp", ["setting", "arm"], ["advantage"], stamps)
    lenient = t.leniency()
    assert np.interp(0.647, lenient.approval, lenient.discrimination) > 0.16
    assert np.interp(0.647, lenient.approval, lenient.error) < 0.412


def test_intervals_that_the_paper_does_not_print():
    limits = {(t.TASK, 100): [10.7, 37.5], (t.GENERAL, 100): [10.2, 36.8], (t.APPS, 100): [5.0, 31.6]}
    limits |= {(t.APPS, 71): [2.6, 34.0], (t.TASK, 83): [9.4, 38.8], (t.GENERAL, 225): [14.7, 32.3]}
    check("fpr_intervals", ["setting", "n"], ["low", "high"], limits)
    check("fpr_intervals", ["setting", "n"], ["p"], {(t.APPS, 100): [7.9e-3]}, 1e-4)
    limits = {(t.GENERAL, "labels"): [-1.3, 16.1], (t.TASK, "evaluators"): [5.7, 25.5]}
    limits |= {(t.GENERAL, "evaluators"): [2.7, 12.1], (t.APPS, "evaluators"): [0.1, 28.7]}
    wanted = {(setting, how, "error"): ends for (setting, how), ends in limits.items()}
    check("error_intervals", ["setting", "how", "metric"], ["low", "high"], wanted)
    check("sign_tests", "setting", ["p"], {t.TASK: [0.0167], t.GENERAL: [0.0029], t.APPS: [0.0215]}, 5e-5)
    check("leaky_oracle", "dataset", ["wrong", "low", "high"], {"APPS": [60, 46.2, 72.4]})


def test_reanalysis_agrees_with_the_derived_rows_beside_the_numbers():
    printed = pd.read_csv(PUBLISHED / "sophistry_main.csv").query("location == 'identity on printed values'")
    names = {"true_positive_rate": "tpr", "false_positive_rate_all_wrong": "fpr", "precision_of_approval": "precision"}
    names |= {"discrimination_tpr_minus_fpr": "discrimination", "approval": "approval"}
    names |= {"false_positive_mass": "false_positive_mass", "true_positive_mass": "true_positive_mass"}
    compared = printed[printed["metric"].isin(names) & printed["arm"].isin(["init", "rlhf"])]
    ours = published()["decomposition"].set_index(["setting", "arm"])
    found = [ours.loc[(row.setting, row.arm), names[row.metric]] for row in compared.itertuples()]
    assert len(found) >= 16 and found == pytest.approx(compared["value"].tolist(), abs=0.051)


def test_which_percentages_can_be_printed():
    labels = published()["granularity"].set_index("setting")
    assert labels.smallest[[t.TASK, t.GENERAL, t.APPS]].tolist() == [83, 225, 71] and not labels.fits.any()
    assert labels.sizes[t.TASK] == "83 166 195 212 229 249 261 278 295"
    people = published()["granularity_people"].set_index("percent")
    assert people.fits[[71, 90]].all() and not people.fits[76] and people.sizes[76].endswith("33 34")
    assert t.attainable(50, 2) and not t.attainable(41.0, 100 - 1) and t.attainable(100, 7)
    changes = published()["near_misses"].change
    assert (changes < 0).sum() == (changes > 0).sum() == 2


def test_the_critiques_gain_is_finishing():
    v = published()["critique_trend"].set_index("name")
    assert v.value[["points", "first_all", "last_all"]].tolist() == pytest.approx([27, 0.36, 0.70], abs=0.003)
    assert v.value[["first", "last", "mean"]].tolist() == pytest.approx([0.72, 0.71, 0.70], abs=0.0055)
    assert v.loc["trend", ["value", "low", "high"]].tolist() == pytest.approx([0.013, -0.013, 0.039], abs=5e-4)
    curves = published()["critique_curves"]
    assert v.value["misread"] <= 0.0051
    np.testing.assert_allclose(curves.accuracy_all / curves.finished, curves.accuracy_finished, atol=5e-3)
    bars = published()["critique_bars"]
    assert bars.after.tolist() == [50.0, 72.0, 54.6] and bars.before.tolist() == [52.0, 49.3, 49.3]


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
