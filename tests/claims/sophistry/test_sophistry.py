"""Claim 2: published numbers, theory, criteria on made-up results, figures."""

from functools import cache
from pathlib import Path

import guards
import numpy as np
import pandas as pd
import pytest
from candor.claims.shared import rows
from candor.claims.sophistry import run as steps
from candor.claims.sophistry import story_models
from candor.claims.sophistry import tables as t
from candor.claims.sophistry.approval import PASS_RATES, QUANTITIES
from candor.claims.sophistry.criteria import CLAIM, size_word
from candor.claims.sophistry.figures import FIGURES
from candor.declare import figures, ledger

PUBLISHED = Path(__file__).parents[3] / "data" / "published"
FEW = ("learned_rm", "r_train_kl000", "r_train_kl020", "r_hard", "reward_model")


@cache
def published():
    return t.published(PUBLISHED)


@cache
def theory():
    return t.theory()


# Changes in points that a small trial showed; the base's shares before them.
BASE = {"approval": 0.443, "correctness": 0.334, "error": 0.309, "fpr": 0.314, "fpr_both": 0.314, "tpr": 0.701}
FALLIBLE = {"fallible_approval": 0.42, "fallible_error": 0.32, "fallible_fpr": 0.3, "fallible_tpr": 0.65}
MOVES = {
    "r_train": {"approval": 8.6, "correctness": 2.0, "error": 7.9, "fpr": 12.2, "fpr_both": 12.2, "fpr_equal": 1.9},
    "r_star": {"approval": 1.7, "correctness": 5.4, "error": -0.3, "fpr": -0.8, "fpr_both": 1.1, "fpr_equal": 0.3},
    "shuffled": {"approval": -1.4, "correctness": -1.0, "error": -0.9, "fpr": -1.4, "fpr_both": -1.9},
    "learned_rm": {"approval": 7.1, "correctness": -0.6, "error": 7.4, "fpr": 11.0, "fpr_both": 10.8, "fpr_equal": 2.0},
    "r_hard": {"approval": 2.0, "correctness": 3.0, "error": 1.0, "fpr": 2.0, "fpr_both": 2.0, "fpr_equal": 0.5},
    "r_train_kl000": {"approval": 10.0, "correctness": 3.4, "error": 8.2, "fpr": 14.0, "fpr_both": 14.0},
    "r_train_kl020": {"approval": 5.0, "correctness": 1.2, "error": 4.0, "fpr": 6.0, "fpr_both": 6.0},
}
SLOPES = {
    "r_train": {"approval": 0.045, "correctness": 0.017, "error": 0.039, "fpr": 0.058},
    "r_star": {"approval": 0.012, "correctness": 0.05, "error": -0.004, "fpr": -0.006},
}
MULTIPLES = (0.25, 0.5, 1, 2, 4, 8, 16)
GAPS = {True: (0.096, 0.122, 0.120, 0.091, 0.055, 0.024, 0.006), False: (0.1, 0.13, 0.142, 0.13, 0.11, 0.09, 0.062)}
EDGES = (0, *PASS_RATES, 1)


class FakeResults:
    """Made-up evaluations with the documented columns; `change` shifts values of an arm (points, or as they are)."""

    def __init__(self, seeds=(11, 12, 13, 14, 15), without=(), change=None):
        self.seeds, self.without, self.change = seeds, without, change or {}

    def collect(self, setting, arms, table, world):
        assert world == "sample_tests"
        made = [
            self.made(setting, table, arm, seed)
            for arm in arms
            if arm not in self.without
            for seed in self.seeds[: 3 if arm in FEW or setting != "standard" else None]
        ]
        return pd.concat(made or [pd.DataFrame()], ignore_index=True)

    def trained(self, setting, arms, table, world):
        assert len(arms) == 1 and world == "sample_tests"
        step = {"setup": "fit", "reward_model": "accuracy"}.get(arms[0], table)
        found = [] if arms[0] in self.without else [getattr(self, f"of_{step}")(seed) for seed in self.seeds]
        made = [frame.assign(setting=setting, arm=arms[0], seed=seed) for frame, seed in zip(found, self.seeds)]
        return pd.concat(made or [pd.DataFrame()], ignore_index=True)

    def made(self, setting, table, arm, seed):
        return (self.anew if arm in self.change else unchanged)(setting, table, arm, seed)

    def anew(self, setting, table, arm, seed):
        return getattr(self, table)(arm, seed).assign(setting=setting, arm=arm, seed=seed)

    def noise(self, arm, seed, n, sd=0.3):
        return np.random.default_rng([seed, sum(map(ord, arm))]).normal(0, sd, n)

    def moves(self, arm, seed):
        """Changes of an arm in points."""
        moves = dict.fromkeys((*BASE, "fpr_equal"), 0.0) | MOVES.get(arm, {})
        moves |= {f"fallible_{m}": moves[m] for m in ("approval", "error", "fpr", "tpr")}
        moves |= {"fallible_tpr": -1.0} if arm in ("r_train", "learned_rm") else {}
        moves |= self.change.get(arm, {})
        known = {k: moves[k] for k in (*BASE, *FALLIBLE, "fpr_equal")}
        return {k: v + e for (k, v), e in zip(known.items(), self.noise(arm, seed, len(known)))}

    def summary(self, arm, seed):
        moves, before = self.moves(arm, seed), BASE | FALLIBLE
        row = {f"{k}_before": v for k, v in before.items()} | {k: v + moves[k] / 100 for k, v in before.items()}
        for prefix in ("", "fallible_"):
            for end in ("", "_before"):
                row[f"{prefix}discrimination{end}"] = row[f"{prefix}tpr{end}"] - row[f"{prefix}fpr{end}"]
        trained = arm in ("r_train", "learned_rm")
        row |= {"fpr_equal": moves["fpr_equal"] / 100, "pass_rate_both_before": 0.38, "pass_rate_both": 0.38}
        row |= {"pass_rate_both": 0.51, "worse_35": 0.97, "worse_10": 1.0} if trained else {"worse_35": 0.5}
        row |= {"kl": 0.72 if trained else 0.2, "r_train": 0.9, "pass_rate": 0.6, "line": 0.97, "n_both": 1_200}
        return pd.DataFrame([row | self.change.get(arm, {}).get("as_is", {})])

    def classes(self, arm, seed):
        table = pd.DataFrame({"class": [0, 1, 2], "n": [560, 680, 760], "approval": [0.9, 0.4, 0.2]})
        measures = {"correctness": 0.3, "error": 0.3, "fpr": 0.3, "pass_rate": 0.5, "main_right": 0.7, "line": 0.5}
        table = table.assign(**measures)
        return table.assign(**{f"{m}_before": table[m] * 0.9 for m in ("approval", *measures)})

    def bins(self, arm, seed):
        fpr = np.array([0.05, 0.2, 0.35, 0.5, 0.6, 0.65])
        before, after = (np.array(n) for n in ((300, 250, 250, 200, 130, 70), (150, 180, 250, 300, 220, 100)))
        after = after if arm in ("r_train", "learned_rm") else before
        risen = fpr + (0.019 if arm == "r_train" else 0.0) + self.noise(arm, seed, 6, 0.004)
        columns = {"pass_low": EDGES[:-1], "pass_high": EDGES[1:], "n_before": before, "n": after}
        return pd.DataFrame(columns | {"fpr_before": fpr, "fpr": risen})

    def minutes(self, arm, seed):
        frames = []
        for reading, gaps in GAPS.items():
            gap = np.array(gaps) * (1 if arm in ("r_train", "learned_rm") else 0.05)
            gap = gap * (1 + self.noise(arm, seed, 1, 0.03)) * self.change.get(arm, {}).get("gap", {}).get(reading, 1)
            before = np.array([0.5, 0.4, 0.31, 0.22, 0.13, 0.06, 0.02]) + (0 if reading else 0.05)
            columns = {"multiple": MULTIPLES, "reading": reading, "fpr_before": before, "fpr": before + gap}
            frames.append(pd.DataFrame(columns | {"gap": gap}))
        return pd.concat(frames)

    def evaluators(self, arm, seed):
        table = pd.DataFrame({"pool": [10] * 10 + [35] * 35, "evaluator": [*range(10), *range(35)]})
        before = 0.31 + 0.03 * np.random.default_rng(seed).normal(size=45)
        moved = (self.moves(arm, seed)["error"] + self.noise(arm, seed, 45, 1)) / 100
        rates = {"error_before": before, "error": before + moved, "fpr_before": 0.31, "fpr": 0.31 + moved}
        return table.assign(**rates, tpr_before=0.7, tpr=0.7)

    def trajectory(self, arm, seed):
        steps, moves = np.arange(0, 81, 20), self.moves(arm, seed)
        share = (1 - np.exp(-steps / 40)) / (1 - np.exp(-2))
        kl = share**2 * (0.72 if arm in ("r_train", "learned_rm") else 0.2)
        table = {k: BASE[k] + share * moves[k] / 100 for k in BASE}
        return pd.DataFrame({"step": steps, "kl": kl, "reward": 0.74 + 0.2 * share, "pass_rate_wrong": 0.4} | table)

    def of_summary(self, seed):
        found = {"base": (0, 0), "best_of_4": (10.8, 1.5), "best_of_16": (16.0, 2.5)}
        found |= {"best_of_4_r_star": (-2.0, 12.0), "best_of_16_r_star": (-4.5, 20.0)}
        table = []
        for rule, (fpr, right) in found.items():
            moved = dict.fromkeys(BASE, fpr) | {"correctness": right, "approval": 9.0, "tpr": 0.0, "error": fpr / 2}
            moved = {k: v + e for (k, v), e in zip(moved.items(), self.noise(rule, seed, len(moved)))}
            moved |= self.change.get(rule, {})
            row = {f"{k}_before": v for k, v in BASE.items()} | {k: v + moved[k] / 100 for k, v in BASE.items()}
            table.append({"rule": rule} | row)
        return pd.DataFrame(table)

    def of_slopes(self, seed):
        found = [
            (reward, quantity, slope, slope, 0.07)
            for reward, slopes in SLOPES.items()
            for quantity, slope in slopes.items()
        ]
        return pd.DataFrame(found, columns=["reward", "quantity", "slope", "covariance", "reward_variance"])

    def of_fit(self, seed):
        correlations = {"corr_r_train": 0.51 + self.noise("fit", seed, 1, 0.01)[0], "corr_r_star": 0.37}
        fit = {"lambda": 2.35, "kappa": 0.67, "skill": 0.15, "tests_run": 2.4, "fpr": 0.3, "error": 0.31}
        return pd.DataFrame([fit | correlations | {"overlap": 0} | self.change.get("fit", {})])

    def programs(self, arm, seed):
        """Two problems x + 1 with a corner at 20: the base is wrong everywhere, the arm beyond the corner only."""
        tests = {"reward": (1, 2), "evaluator": (3, 0, 7), "oracle": (*range(10), 12, 19, 21, 22, 40, 99, 200, -1, -5)}
        table = []
        for problem in (3, 8):
            about = {"problem": problem, "class": 2, "picked": problem == 8, "reference": "if gt x 20 sub x 4 add x 1"}
            about |= {"prompt": "P ? eg 2 -> 3 eg 4 -> 5 ; about 20 less 4 =>", "program": "line 2 3 4 5"}
            about |= {"pass_rate": 0.6, "approval": 0.7, "pass_rate_before": 0.1, "approval_before": 0.1}
            for audience, inputs in tests.items():
                for x in inputs:
                    row = {"audience": audience, "x": x, "expected": x + 1 if x <= 20 else x - 4}
                    row |= {"output": x + 1, "output_before": 2 * x, "passed": x <= 20, "passed_before": x == 1}
                    table.append(about | {"program_before": "mul 2 x"} | row)
        return pd.DataFrame(table)

    def of_accuracy(self, seed):
        return pd.DataFrame([{"pair_accuracy": 0.55, "pairs": 400, "score_line": 1.23}])


@cache
def unchanged(setting, table, arm, seed):
    return FakeResults().anew(setting, table, arm, seed)


def everything(**kwargs):
    return {**published(), **theory(), **t.world(FakeResults(**kwargs))}


def judge(scale="laptop", tables=None, **kwargs):
    found, checks, verdicts = ledger.judge(CLAIM, tables or everything(**kwargs), scale)
    return found.set_index("criterion"), checks.set_index(["criterion", "check"]), verdicts.set_index("part")


@cache
def judged():
    """Verdicts of unchanged results; a caller must not change them."""
    return judge()


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
    lenient = theory()["leniency"]
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


def test_every_id_of_the_brief_is_there_and_reads_as_it_must():
    found, checks, verdicts = judged()
    assert list(found.index) == [*(f"P{k}" for k in range(1, 6)), *WORLD, *(f"M{k}" for k in range(1, 6))]
    assert (found.verdict[["M1", "M2", "M3", "M4", "M5"]] == "not attempted").all()
    full = [w for w in WORLD if w not in ("W8", "W14")]
    assert (found.verdict[full] == "replicated").all(), found.verdict[full]
    assert found.verdict["W8"] == "not replicated", "the rise is one of near misses in these tables"
    assert found.verdict["W14"] == "partly"  # three seeds are never better
    assert (found.verdict[["P1", "P2", "P3", "P5"]] == "replicated").all() and found.verdict["P4"] == "reported"
    assert "2 of 3 exclude 10" in found.note["P3"] and "76 % of 35" in found.note["P4"]
    assert "KL weight 0 " in found.note["W2"] and "KL weight .2 " in found.note["W2"]
    assert "same scale" in found.note["W3"] and "no independent evidence" in found.note["W4"]
    parts = [f"({k})" for k in ("i", "ii", "iii", "iv", "v", "vi", "vii")]
    assert list(verdicts.index) == [*parts, "strict sense", "overall"]
    assert verdicts.verdict["overall"] == "replicated" and verdicts.verdict["strict sense"] == "not replicated"
    assert "W2 (correctness flat) replicated" in verdicts.note["overall"]
    assert "W8 (at equal oracle pass rate) not replicated" in verdicts.note["overall"]
    assert verdicts.verdict["(vii)"] == "not attempted"
    assert checks.value[("W12", "seeds without a contradiction")] == 5


def test_every_line_says_who_judges():
    found, _, verdicts = judged()
    for criterion in CLAIM.criteria:
        if criterion.evidence != "published":
            assert "simulated evaluator" in criterion.statement, criterion.id
            assert "human" not in criterion.statement
    assert found.note[WORLD].str.contains("simulated evaluator").all()
    assert verdicts.note.str.contains("simulated evaluator").all()
    assert all("simulated evaluator" in part.statement for part in CLAIM.parts)


def test_the_strict_sense_needs_w8():
    found, _, verdicts = judge(change={"r_train": {"fpr_equal": 8}})
    assert found.verdict["W8"] == verdicts.verdict["strict sense"] == verdicts.verdict["overall"] == "replicated"


@pytest.mark.parametrize(
    ("criterion", "change", "overall"),
    [
        ("W1", {"r_train": {"approval": -2}}, "not replicated"),
        ("W2", {"r_train": {"correctness": 5.0}}, "partly"),
        ("W3", {"r_train": {"fpr_both": -1}}, "not replicated"),
        ("W4", {"r_train": {"error": -1}}, "not replicated"),
        ("W5", {"r_train": {"fallible_tpr": 4.0}}, "replicated"),
        ("W6", {"fit": {"corr_r_train": 0.3}}, "not replicated"),
        ("W6", {"fit": {"overlap": 0.1}}, "not replicated"),
        ("W7", {"r_star": {"correctness": 1.0}}, "partly"),
        ("W7", {"r_star": {"fpr_both": 9.0}}, "partly"),
        ("W9", {"r_train": {"as_is": {"worse_35": 0.5}}}, "replicated"),
        ("W10", {"r_train": {"gap": {True: np.array([1, 1, 1, 1, 1, 1, 10])}}}, "replicated"),
        ("W10", {"r_train": {"gap": {False: np.array([1, 1, 1, 1, 1, 1, 0.1])}}}, "replicated"),
        ("W11", {"best_of_16": {"fpr_both": 2.0}}, "replicated"),
        ("W12", {"r_star": {"error": 4.0}}, "replicated"),
        ("W13", {"shuffled": {"error": -6.0}}, "not replicated"),
        ("W14", {"learned_rm": {"correctness": 7.0}}, "replicated"),
    ],
)
def test_failures_are_seen(criterion, change, overall):
    found, _, verdicts = judge(change=change)
    assert found.verdict[criterion] == "not replicated"
    assert verdicts.verdict["overall"] == overall


def test_what_spans_the_limit_is_inconclusive():
    tables = everything()
    summary = tables["summary"]
    mine = (summary.arm == "r_train") & (summary.setting == "standard")
    summary.loc[mine, "error"] = summary.loc[mine, "error_before"] + np.array([0.08, 0.08, 0.08, -0.09, 0.08])
    summary.loc[mine, "fpr_equal"] = np.array([0.02, 0.08, 0.09, 0.07, 0.06])
    found, checks, verdicts = judge(tables=tables)
    assert found.verdict["W4"] == found.verdict["W8"] == "inconclusive"
    assert checks.passes[("W8", "FPR at equal pass rate, r_train minus shuffled")] == "4/5"
    assert verdicts.verdict["overall"] == verdicts.verdict["(iv)"] == "inconclusive"


def test_a_missing_arm_and_smoke_and_nothing():
    found, _, verdicts = judge(without=("learned_rm", "r_train_kl000", "selection"))
    assert (found.verdict[["W11", "W12", "W14"]] == "not attempted").all() and found.verdict["W2"] == "replicated"
    assert verdicts.verdict["overall"] == "replicated"
    found, _, verdicts = judge(without=("shuffled",))
    assert (found.verdict[["W1", "W3", "W8", "W13"]] == "not attempted").all()
    assert verdicts.verdict["overall"] == "not attempted" and "W13" in verdicts.note["overall"]
    found, _, verdicts = judge("smoke")
    assert set(found.verdict[WORLD[:-1]]) == {"not attempted"} and (found.note[WORLD[:-1]] == "mechanics only").all()
    assert found.verdict["W15"] == "replicated", "exact at every scale"
    assert verdicts.verdict["overall"] == "not attempted" and t.world(FakeResults(seeds=())) == {}
    assert judge(seeds=(11, 12, 13))[0].verdict[["W1", "W12"]].tolist() == ["partly", "not attempted"]


def test_size_words_and_a_slip_in_the_exact_table():
    assert [size_word(p).split()[0] for p in (12, 7, 35, 3, 50)] == ["same", "compatible", "compatible", "not", "not"]
    tables = everything()
    tables["story_lookup"] = tables["story_lookup"].assign(error=tables["story_lookup"]["error"].abs())
    assert judge(tables=tables)[0].verdict["W15"] == "not replicated"


def pretrained(arms=("base", "r_train", "r_star", "shuffled"), seeds=(11, 12, 13), **changed):
    """Made-up tables of pretrained models with the columns that `code_models.models` documents; changes in points."""
    moves = {"r_train": MOVES["r_train"] | {"fpr_equal": 8.0}, "r_star": MOVES["r_star"], "shuffled": MOVES["shuffled"]}
    table = []
    for arm in arms:
        for seed in seeds:
            row = {"dataset": "apps", "arm": arm, "seed": seed, "correctness": 0.2, "released": 0.22 + seed / 10_000}
            for measure, points in (moves.get(arm, {}) | (changed if arm == "r_train" else {})).items():
                value = (points + 0.05 * (seed - 12)) / 100
                row |= {measure: value} if measure == "fpr_equal" else {f"{measure}_change": value}
                row |= {f"{measure}_change_low": value - 0.04, f"{measure}_change_high": value + 0.04}
            table += [row, row | {"dataset": "code_contests", "released": 0.2, "fpr_equal": 0.0}]
    return {"models_code": pd.DataFrame(table).fillna({"fpr_equal": 0.0})}


def test_pretrained_code_models_pass_and_fail():
    known = {**published(), **theory()}
    found, checks, verdicts = judge(tables=known | pretrained())
    assert found.verdict["M2"] == "replicated"
    assert (found.verdict[["M1", "M3", "M4"]] == "partly").all(), "three seeds are never better"
    assert "M2 replicated; not attempted: W1" in verdicts.note["(i)"] and "M3 partly" in verdicts.note["(vi)"]
    assert checks.value[("M1", "released minus strict checker")] == pytest.approx(2.12, abs=1e-6)
    for measure, points in (("approval", 3.0), ("error", -1.0), ("fpr_both", 2.0), ("correctness", 3.5)):
        assert judge(tables=known | pretrained(**{measure: points}))[0].verdict["M2"] == "not replicated", measure
    found, *_ = judge(tables=known | pretrained(fpr_equal=3.0, fpr_both=1.0))
    assert (found.verdict[["M3", "M4"]] == "not replicated").all()
    found, _, verdicts = judge(tables=known | pretrained(seeds=(11, 12)))
    assert (found.verdict[["M1", "M2", "M3", "M4"]] == "not attempted").all()
    assert verdicts.verdict["(i)"] == "not attempted"


def stories(accuracy, fpr):
    """Made-up cells of the 2 x 2: changes in points by cell, of the accuracy of finished answers and of FPR."""
    before = {"accuracy_finished": 0.7, "accuracy_all": 0.6, "finished": 0.8, "approval": 0.55, "fpr": 0.46}
    before |= {"error": 0.41}
    moved = {cell: {"accuracy_finished": a, "fpr": f} for cell, a, f in zip(story_models.stories.CELLS, accuracy, fpr)}
    table = [
        {"setting": cell, "arm": "rl", "seed": seed}
        | {f"{m}_before": v for m, v in before.items()}
        | {m: v + moves.get(m, 0) / 100 for m, v in before.items()}
        for cell, moves in moved.items()
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
    found, checks, _ = judge(tables={**published(), **theory(), **stories(accuracy, fpr)})
    assert found.verdict["M5"] == "reported" and found.note["M5"] == f"simulated evaluator; {side}"
    wanted = (sum(accuracy[2:]) - sum(accuracy[:2])) / 2
    assert checks.value[("M5", "full minus truncated, accuracy of finished answers")] == pytest.approx(wanted)
    wanted = fpr[3] - fpr[2] - fpr[1] + fpr[0]
    assert checks.value[("M5", "interaction, FPR, all wrong")] == pytest.approx(wanted)


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    tables = everything() | pretrained() | stories((0, 6, 6, 12), (7, 6, 6, 2))
    guards.check(CLAIM, tables)


def test_tables_survive_csv_and_are_small(tmp_path):
    size = 0
    for name, table in everything().items():
        path = tmp_path / f"{name}.csv"
        table.to_csv(path, index=False, float_format="%.6g")
        size += path.stat().st_size
        assert list(pd.read_csv(path).columns) == list(table.columns)
    assert size < 1_000_000
    back = {p.stem: pd.read_csv(p) for p in tmp_path.glob("*.csv")}
    first, again = judged()[0], judge(tables=back)[0]
    assert (first.verdict == again.verdict).all()
    for name, plot in FIGURES.items():
        assert plot(back).get_axes(), name


def test_table_names_are_unique_and_needs_are_declared():
    groups = [set(published()), set(theory()), set(t.world(FakeResults()))]
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert len(set(t.NEEDS)) == len(t.NEEDS) and set(t.NEEDS) == set(steps.STEPS)
    assert set(t.DECISIVE) < set(t.NEEDS)
    place = {key: k for k, key in enumerate(t.NEEDS)}
    for key in t.NEEDS:
        for need in steps.STEPS[key].needs:
            assert place[need] < place[key], (need, key)
            assert key not in t.DECISIVE or need in t.DECISIVE
    assert set(QUANTITIES) == set(rows(everything()["slopes"], reward="r_train", seed=11).quantity)


# --- Figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_described(name):
    assert len(FIGURES[name].alt) > 60 and FIGURES[name].caption.endswith(".")


def test_figures_stand_one_seed_missing_arms_and_empty_bins():
    tables = everything(seeds=(11,), without=("learned_rm", "r_train_kl000", "r_hard", "shuffled"))
    tables["bins"].loc[tables["bins"]["pass_low"] == 0.95, ["fpr", "fpr_before"]] = np.nan
    tables["slopes"] = tables["slopes"].drop(columns="reward_variance")
    for name in ("forest", "training", "minutes", "near_misses", "classes", "arms"):  # the others read no arms
        assert FIGURES[name](tables).get_axes(), name


def test_every_arm_has_its_own_look():
    arms = {arm for group in (t.ARMS, t.VARIANTS) for arm in group["standard"]}
    arms |= {"best_of_4", "best_of_16", "best_of_4_r_star", "best_of_16_r_star"}
    assert arms <= set(figures.LOOKS) and len({figures.look(arm)[1:] for arm in arms}) == len(arms)
