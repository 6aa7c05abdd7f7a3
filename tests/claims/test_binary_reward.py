"""Claim 1: published numbers, theory, criteria on made-up results, figures, exercises."""

from functools import cache
from pathlib import Path

import guards
import numpy as np
import pandas as pd
import pytest
from candor import ledger
from candor.claims.binary_reward import exercises as ex
from candor.claims.binary_reward import tables as t
from candor.claims.binary_reward.criteria import CLAIM
from candor.claims.binary_reward.plots import FIGURES
from candor.measures.calibration import ece

PUBLISHED = Path(__file__).parents[2] / "data" / "published"


@cache
def published():
    return t.published(PUBLISHED)


@cache
def theory():
    return t.theory(questions=40_000, tabular_questions=300, tabular_steps=100)


class FakeResults:
    """Made-up evaluations with the documented columns; `drift` moves rlvr's gap by seed."""

    BASE = {
        "accuracy_greedy": 0.713,
        "accuracy_sampled": 0.61,
        "bayes_accuracy": 0.716,
        "answer_prob_mean": 0.71,
        "answer_ece": 0.012,
        "answer_saturated": 0.0,
        "q_mean_mean": 0.76,
        "q_mean_gap": 0.047,
        "q_mean_ece": 0.06,
        "q_mean_brier": 0.145,
        "q_mean_abs_posterior": 0.065,
        "sampled_confidence": 0.66,
        "sampled_gap": 0.05,
        "temperature_answer": 1.0,
        "answer_ece_heldout_before": 0.012,
        "answer_ece_heldout_after": 0.012,
        "idk_rate": 0.22,
        "selective_accuracy": 0.70,
        "wrong_per_100": 22.9,
        "right_per_100": 55.0,
        "switch_point": 0.2,
        "free_well_formed": 0.99,
    }
    SHARP = {
        "accuracy_sampled": 0.70,
        "answer_prob_mean": 0.96,
        "answer_ece": 0.26,
        "temperature_answer": 4.0,
        "answer_ece_heldout_before": 0.26,
        "answer_ece_heldout_after": 0.05,
    }
    ARMS = {
        "rlvr": SHARP | {"q_mean_abs_posterior": 0.2, "q_mean_ece": 0.12, "q_mean_brier": 0.2},
        "shuffled_correct": {"answer_ece": 0.08, "answer_prob_mean": 0.78, "q_mean_abs_posterior": 0.1},
        "rlvr_conf_first": SHARP | {"sampled_confidence": 0.8, "sampled_gap": 0.1},
        "abstain_00": {
            "idk_rate": 0.0,
            "wrong_per_100": 28.5,
            "right_per_100": 71.5,
            "selective_accuracy": 0.715,
        },
        "abstain_50": {
            "idk_rate": 0.27,
            "wrong_per_100": 11.4,
            "switch_point": 0.5,
            "selective_accuracy": 0.845,
        },
        "abstain_75": {
            "idk_rate": 0.46,
            "wrong_per_100": 3.9,
            "switch_point": 0.74,
            "selective_accuracy": 0.927,
        },
        "abstain_90": {
            "idk_rate": 0.64,
            "wrong_per_100": 0.8,
            "switch_point": 0.89,
            "selective_accuracy": 0.977,
        },
    }

    def __init__(self, seeds=(11, 12, 13, 14, 15), drift=(0.05,) * 5, without=()):
        self.seeds, self.drift, self.without = seeds, drift, without

    def collect(self, setting, arms, table):
        frames = [
            getattr(self, table)(setting, arm, seed).assign(setting=setting, arm=arm, seed=seed)
            for arm in arms
            if arm not in self.without
            for seed in self.seeds
        ]
        return pd.concat(frames or [pd.DataFrame()], ignore_index=True)

    def log(self, setting, arms):
        steps = np.arange(10, 401, 10)
        frame = pd.DataFrame({"step": steps, "reward": 1.2 - 0.1 * np.exp(-steps / 80), "entropy": 0.5})
        frame = frame.assign(frac_reward_zero_std=0.9 - 0.3 * np.exp(-steps / 80), clipped_ratio=0.01, mean_length=6.0)
        parts = [frame.assign(setting=setting, arm=arm, seed=seed) for arm in arms for seed in self.seeds]
        return pd.concat(parts or [pd.DataFrame()], ignore_index=True)

    def summary(self, setting, arm, seed):
        row = self.BASE | self.ARMS.get(arm.removesuffix("_long"), self.SHARP if arm.startswith("rlvr") else {})
        if arm.startswith("rlvr") and setting != "expert_conf_first":
            row = row | {"q_mean_gap": row["q_mean_gap"] + self.drift[self.seeds.index(seed)]}
        noise = np.random.default_rng([seed, sum(map(ord, arm))]).normal(0, 1e-3, len(row))
        noisy = {k: v + e * (100 if "per_100" in k else 1) for (k, v), e in zip(row.items(), noise)}
        return pd.DataFrame([noisy | {"n": 20_000, "idk_rate": max(0, noisy["idk_rate"])}])

    def reliability(self, setting, arm, seed):
        low = np.arange(10) / 10
        sharp = 0.35 if arm.startswith("rlvr") else 0.02
        rows = [
            pd.DataFrame(
                {
                    "kind": kind,
                    "bin_low": low,
                    "bin_high": low + 0.1,
                    "n": np.where(low < 0.2, 0, 2500),
                    "mean_confidence": np.where(low < 0.2, np.nan, low + 0.05),
                    "accuracy": np.where(low < 0.2, np.nan, (low + 0.05) * (1 - sharp)),
                    "floor_low": low + 0.03,
                    "floor_high": low + 0.07,
                }
            )
            for kind in ("answer_prob", "q_mean", "q_draw")
        ]
        return pd.concat(rows)

    def density(self, setting, arm, seed):
        p = np.random.default_rng(seed).beta(3, 1.4, 5000)
        value = {"answer_prob": p ** (0.1 if arm.startswith("rlvr") else 1), "q_mean": 0.3 + 0.6 * p}
        frames = []
        for kind, v in value.items():
            counts, _, _ = np.histogram2d(p, v, bins=20, range=((0, 1), (0, 1)))
            i, j = np.nonzero(counts)
            frames.append(
                pd.DataFrame(
                    {
                        "kind": kind,
                        "posterior_bin": i / 20,
                        "value_bin": j / 20,
                        "n": counts[i, j].astype(int),
                    }
                )
            )
        return pd.concat(frames)

    def posterior_bins(self, setting, arm, seed):
        low = np.array([0, 0.35, 0.5, 0.65, 0.8])
        threshold = {"abstain_50": 0.5, "abstain_75": 0.75, "abstain_90": 0.9, "base": 0.4}.get(arm, 0)
        return pd.DataFrame(
            {
                "bin_low": low,
                "bin_high": [*low[1:], 1],
                "n": 4000,
                "accuracy": low + 0.1,
                "q_mean": low + 0.15,
                "answer_prob": 0.9,
                "idk_rate": 1 / (1 + np.exp(30 * (low + 0.08 - threshold))),
                "give_up_rate": 0.0,
            }
        )

    def trajectory(self, setting, arm, seed):
        steps = np.arange(0, 401, 40)
        rise = 1 - np.exp(-steps / 100)
        noise = np.random.default_rng(seed).normal(0, 0.005, (len(t.TRAJECTORY), len(steps)))
        size = 0.3 if arm.startswith("rlvr") else 0.08
        table = {name: 0.4 + size * rise + e for name, e in zip(t.TRAJECTORY, noise)}
        return pd.DataFrame({"step": steps, **table, "hist_00": 0})


def everything(**kwargs):
    return {**published(), **theory(), **t.world(FakeResults(**kwargs))}


def judge(scale="laptop", **kwargs):
    rows, checks, verdicts = ledger.judge(CLAIM, everything(**kwargs), scale)
    return rows.set_index("criterion"), checks, verdicts.set_index("part")


# --- Published numbers: every number that the text relies on ------------------------------------


def test_confidence_is_degenerate():
    cells, conventions = published()["cells"], published()["conventions"]
    assert (cells.rlvr_confidence >= 0.95).sum() == len(cells) == 16
    hotpot = cells[cells.family == "HotpotQA"]
    assert (hotpot.ece_minus_error.abs() <= 0.003).sum() == 8
    assert cells.ece_minus_error.abs().max() == pytest.approx(0.050, abs=5e-4)
    assert cells.ece_minus_gap.abs().max() < 1e-4
    rlvr = conventions[conventions.arm == "rlvr"].set_index("dataset")
    assert rlvr.distinct_confidence_values.to_dict() == {"CommonsenseQA": 1, "GPQA": 1, "MATH-500": 3}
    sure = hotpot[hotpot.dataset.isin(["CommonsenseQA", "GPQA"])]
    assert (sure.rlvr_confidence == 1).all() and (sure.rlvr_auroc == 0.5).all()
    np.testing.assert_allclose(sure.rlvr_brier, 1 - sure.rlvr_accuracy, atol=1e-5)
    assert hotpot.set_index("dataset").rlvr_confidence["MATH-500"] == pytest.approx(0.9972)


def test_worse_out_of_domain_not_in_domain():
    counts = published()["cell_counts"].set_index(["metric", "domain"])
    found = {key: (row.worse, row.cells) for key, row in counts.iterrows()}
    assert found["ece", "out"] == (10, 11) and found["ece", "in"] == (0, 5)
    assert found["brier", "all"] == (8, 16) and found["auroc", "all"] == (13, 16)
    inside = published()["cells"].query("domain == 'in'")
    assert set(inside.dataset) == {"HotpotQA", "HotpotQA-Modified", "Big-Math-Digits", "GSM8K", "MATH-500"}


@pytest.mark.parametrize(
    ("family", "domain", "confidence", "accuracy", "gap"),
    [
        ("HotpotQA", "out", 0.069, 0.007, 0.062),
        ("HotpotQA", "in", 0.068, 0.233, -0.165),
        ("Big-Math", "in", 0.002, 0.136, -0.134),
    ],
)
def test_decomposition(family, domain, confidence, accuracy, gap):
    row = published()["blocks"].set_index(["family", "domain"]).loc[(family, domain)]
    found = row[["change_confidence", "change_accuracy", "change_gap"]].to_numpy(float)
    np.testing.assert_allclose(found, [confidence, accuracy, gap], atol=6e-4)
    assert 0.92 <= row.base_confidence <= 0.955


def test_headline_values():
    blocks = published()["blocks"].set_index(["family", "domain"])
    inside, outside = blocks.loc[("HotpotQA", "in")], blocks.loc[("HotpotQA", "out")]
    columns = ["base_accuracy", "rlvr_accuracy", "base_ece", "rlvr_ece"]
    np.testing.assert_allclose(inside[columns].to_numpy(float), [0.397, 0.630, 0.535, 0.370], atol=5e-4)
    np.testing.assert_allclose(outside[columns].to_numpy(float), [0.533, 0.539, 0.400, 0.460], atol=6e-4)
    np.testing.assert_allclose(outside[["base_brier", "rlvr_brier"]].to_numpy(float), [0.413, 0.460], atol=6e-4)
    assert outside.datasets == 6
    letters = published()["answer_letters"].set_index("arm").value
    assert letters["pretrained"] == 0.007 and letters["after PPO post-training"] == 0.074


def test_elicitation_control():
    table = published()["elicitation"].set_index(["dataset", "metric"])
    row = table.loc[("in-domain", "ece")]
    assert (row.rlvr, row.rlvr_with_analysis_prompt) == (0.37, 0.34)


def test_confidence_in_the_trained_text():
    swap = published()["swap_start"].set_index("dataset")
    printed = {
        "BigMath": (0.952, 0.991, 0.596, 0.528),
        "DeepMath-103K": (0.927, 0.992, 0.573, 0.503),
        "HotpotQA-Modified": (0.811, 0.967, 0.647, 0.529),
        "HotpotQA": (0.900, 0.992, 0.604, 0.510),
    }
    for dataset, values in printed.items():
        row = swap.loc[dataset, ["start_confidence", "correctness_confidence", "start_auroc", "correctness_auroc"]]
        np.testing.assert_allclose(row.to_numpy(float), values, atol=6e-4)
    assert (swap.correctness_ece < swap.start_ece).sum() == 3


def test_neighbours():
    preference, elicited = published()["preference_training"], published()["elicited"]
    assert (preference.higher.sum(), len(preference)) == (8, 24)
    assert ((~elicited.higher).sum(), len(elicited)) == (12, 15)


def test_row_mix():
    mix = published()["row_mix"].set_index(["metric", "dataset"])
    accuracy = mix.loc["accuracy"]
    np.testing.assert_allclose(accuracy.quoted_rlvr, accuracy.released_classifier, atol=6e-4)
    np.testing.assert_allclose(accuracy.released_rlvr, [0.697, 0.495], atol=5e-4)
    calibration = mix.sort_index().drop("accuracy")
    np.testing.assert_allclose(calibration.quoted_rlvr, calibration.released_rlvr, atol=6e-3)


def test_noise():
    errors = published()["sampling_error"]
    accuracy = errors[errors.quantity.str.startswith("accuracy")].se
    assert accuracy.min() == pytest.approx(0.008, abs=5e-4) and accuracy.max() == pytest.approx(0.023, abs=5e-4)
    floor = published()["floor"].set_index("n").loc[1000]
    assert (floor.ece_floor_mean, floor.ece_floor_p95) == (0.028, 0.044)
    base = published()["conventions"].query("arm == 'base' and dataset == 'CommonsenseQA'").iloc[0]
    found = base[["ece_as_released", "ece_10_bins_closed_right", "ece_15_bins_closed_left", "ece_one_bin_per_value"]]
    np.testing.assert_allclose(found.to_numpy(float), [0.0037, 0.0252, 0.0252, 0.0255], atol=6e-5)


# --- Theory ---------------------------------------------------------------------------------------


def test_answering_pays_above_the_threshold():
    payoff = theory()["payoff"]
    assert (payoff.answers == (payoff.p > payoff.t)).all() and len(payoff) == 4 * 1001


def test_optimum_is_a_vertex():
    vertex = theory()["vertex"].set_index("distribution")
    best = vertex.expected_reward.max()
    assert vertex.expected_reward["found by linear programming"] == pytest.approx(best)
    assert vertex.expected_reward["all on the best"] == pytest.approx(best)
    assert vertex.expected_reward["matches the posterior"] < best
    sharp = theory()["sharpening"]
    assert sharp.ece.is_monotonic_increasing and sharp.expected_reward.is_monotonic_increasing
    assert sharp.ece.iloc[-1] == pytest.approx(sharp.error.iloc[-1])


def test_gradient_on_the_confidence():
    gradient = theory()["confidence_gradient"].set_index("order")
    first, second = gradient.loc["answer first"], gradient.loc["confidence first"]
    assert first.largest.max() < 1e-15 and first.noise.min() > 0
    assert (second.gradient.to_numpy()[-5:] > 0).all() and (second.gradient.to_numpy()[:5] < 0).all()
    mean = (second.probability * second.accuracy).sum()
    np.testing.assert_allclose(second.gradient, second.probability * (second.accuracy - mean), atol=1e-12)


def test_tabular_prediction_and_frontier():
    tabular = theory()["tabular"].set_index(["reward", "step"])
    pilot = {0: (0.658, 0.603, 0.054, 0.067), 100: (0.741, 0.660, 0.081, 0.089)}
    for step, values in pilot.items():
        np.testing.assert_allclose(tabular.loc[("binary", step)], values, atol=0.03)
    frontier = theory()["frontier"].set_index("t")
    for threshold, accuracy, wrong in ((0.5, 0.845, 11.4), (0.75, 0.927, 3.9), (0.9, 0.977, 0.8)):
        assert frontier.selective_accuracy[threshold] == pytest.approx(accuracy, abs=0.006)
        assert frontier.wrong_per_100[threshold] == pytest.approx(wrong, abs=0.5)


# --- Criteria -------------------------------------------------------------------------------------


def test_everything_replicates_when_it_should():
    rows, _, verdicts = judge()
    judged = rows[rows.evidence != "models"]
    assert (judged.verdict == "replicated").all(), judged.verdict
    assert (rows[rows.evidence == "models"].verdict == "not attempted").all()
    assert verdicts.verdict["overall"] == "replicated"
    assert "10 of 11" in rows.note["P3"] and "0 of 5" in rows.note["P3"]


def test_direction_not_determined():
    rows, _, verdicts = judge(drift=(0.1, -0.1, 0.08, -0.09, 0.02), without=("rlvr_conf_first",))
    assert "direction not determined by the reward" in rows.note["W3b"]
    assert rows.verdict["W3b"] == "inconclusive" and rows.verdict["W4"] == "not attempted"
    assert verdicts.verdict["overall"] == "not attempted" and "W4" in verdicts.note["overall"]


def test_overall_rule():
    rule = CLAIM.overall
    verdicts = dict.fromkeys([c.id for c in CLAIM.criteria], "replicated")
    assert rule(verdicts)[0] == "replicated"
    assert rule(verdicts | {"W3b": "not replicated"})[0] == "replicated"
    assert rule(verdicts | {"W3b": "not replicated", "W4": "inconclusive"})[0] == "partly"
    word, note = rule(verdicts | {"W2": "not replicated"})
    assert word == "partly" and note.startswith("by parts") and "(ii) not replicated" in note
    assert rule(dict.fromkeys(verdicts, "not replicated"))[0] == "not replicated"
    assert rule(verdicts | {"W5": "not attempted"})[0] == "not attempted"


def test_saturation_is_a_failure():
    tables = everything()
    summary = tables["summary"]
    summary.loc[summary.arm == "rlvr", "answer_saturated"] = 0.8
    rows = ledger.judge(CLAIM, tables, "laptop")[0].set_index("criterion")
    assert rows.verdict["W6"] == "not replicated" and "5 of 5" in rows.note["W6"]


def test_smoke_and_nothing():
    rows, _, verdicts = judge("smoke")
    assert verdicts.verdict["overall"] == "not attempted"
    assert set(rows.verdict[["W2", "W3a", "W4", "W5", "W6", "W7"]]) == {"not attempted"}
    assert rows.verdict["P1"] == rows.verdict["W1"] == "replicated"
    rows = ledger.judge(CLAIM, published(), "laptop")[0].set_index("criterion")
    assert (rows.verdict[["W1", "W2", "W3b", "W4", "W6"]] == "not attempted").all()
    assert t.world(FakeResults(seeds=())) == {}


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    tables = everything() | guards.pretrained()
    guards.check(CLAIM, tables)


def test_tables_survive_csv_and_are_small(tmp_path):
    size = 0
    for name, table in everything().items():
        path = tmp_path / f"{name}.csv"
        table.to_csv(path, index=False, float_format="%.6g")
        size += path.stat().st_size
        assert list(pd.read_csv(path).columns) == list(table.columns)
    assert size < 2_000_000
    back = {p.stem: pd.read_csv(p) for p in tmp_path.glob("*.csv")}
    assert ledger.judge(CLAIM, back, "laptop")[2].verdict.iloc[-1] == "replicated"


def test_needs_are_unique_and_trained_before_evaluated():
    assert len(set(t.NEEDS)) == len(t.NEEDS)
    assert t.NEEDS.index("witnesses/expert/rlvr") < t.NEEDS.index("witnesses/expert/eval_rlvr")


# --- Figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_and_are_described(name):
    plot = FIGURES[name]
    assert plot(everything(seeds=(11,))).get_axes() and len(plot.alt) > 60 and plot.caption.endswith(".")


def test_figures_stand_missing_arms():
    tables = everything(without=("rlvr_conf_first", "shuffled_correct", "rlvr_kl", "abstain_75"))
    for plot in FIGURES.values():
        plot(tables)


# --- Exercises ------------------------------------------------------------------------------------


def says(feedback, *words, ok=False):
    assert feedback.ok is ok, feedback
    assert all(word in feedback.message for word in words), feedback


def test_exercise_1():
    def pays(k):
        return k / (1 + k)

    says(ex.check_1(pays, lambda t: t / (1 - t)), ok=True)
    says(ex.check_1(pays, lambda t: t), "larger than t")
    says(ex.check_1(pays, lambda t: (1 - t) / t if t else 0), "Upside down")
    says(ex.check_1(lambda k: 1.0, lambda t: t), "worth p")
    says(ex.check_1(lambda k: k, lambda t: t), "not k itself")
    says(ex.check_1(lambda k: 1 / (1 + k), lambda t: t), "wrong")
    says(ex.check_1(..., ...), "blank")
    says(ex.check_1(0.5, 0.5), "two functions")
    says(ex.check_1(lambda: 1, lambda: 1), "could not be checked")


def test_exercise_2():
    def binned(closed="left", edges=None):
        gap, n = ex._bin_gaps(closed, edges)
        return gap, n / n.sum()

    def by(formula, edges=None):
        return lambda confidence, correct, closed: formula(*binned(closed, edges))

    says(ex.check_2(by(lambda gap, w: (abs(gap) * w).sum())), "-fold", ok=True)
    says(
        ex.check_2(lambda q, c, closed: ece(q, c, closed={"left": "right", "right": "left"}[closed])),
        "swapped",
    )
    says(ex.check_2(by(lambda gap, w: abs(gap[w > 0]).mean())), "without weights")
    says(ex.check_2(by(lambda gap, w: abs(gap).mean())), "empty bins")
    says(ex.check_2(by(lambda gap, w: abs((gap * w).sum()))), "absolute value")
    says(ex.check_2(by(lambda gap, w: (gap**2 * w).sum())), "squared")
    says(ex.check_2(by(lambda gap, w: (abs(gap) * w).sum(), np.linspace(0, 1, 11))), "Float edges")
    says(ex.check_2(lambda q, c, closed: ece(q[q < 1], c[q < 1]) * (q < 1).mean()), "includes 1")
    says(ex.check_2(lambda q, c, closed: ece(q, c)), '"right" is not')
    says(ex.check_2(lambda *a: "nonsense"), "ten bins")
    says(ex.check_2(None), "blank")
    q, c = ex.forecasts()
    assert ece(q, c, closed="right") > 4 * ece(q, c, closed="left") > 0.02


def test_exercise_3():
    def enumerate_all(a, q, r):
        score = np.eye(11)[None] - q[:, None]
        return np.einsum("a,aq,aq,aql->al", a, q, r, score)

    says(ex.check_3(enumerate_all), ok=True)
    says(ex.check_3(lambda a, q, r: enumerate_all(np.ones(8), q, r)), "conditioned on the answer")
    says(ex.check_3(lambda a, q, r: enumerate_all(np.eye(8)[0], q, r)), "one sampled answer")
    says(ex.check_3(lambda a, q, r: np.zeros((8, 11))), "not used")
    says(ex.check_3(lambda a, q, r: a[:, None] * q * r), "1[q = l]")
    noise = np.random.default_rng()
    says(ex.check_3(lambda a, q, r: noise.normal(0, 1e-6, (8, 11))), "sample")
    says(ex.check_3(lambda a, q, r: 0.0), "shape")
    says(ex.check_3(lambda a: a), "could not be checked")


def test_exercise_4():
    blocks = published()["blocks"]
    says(ex.check_4(0.068, 0.233, "accuracy", blocks), "-0.165", ok=True)
    says(ex.check_4(0.068, 0.233, "calibration improved", blocks), "did not improve calibration")
    says(ex.check_4(-0.068, -0.233, "accuracy", blocks), "reversed")
    says(ex.check_4(0.233, 0.068, "accuracy", blocks), "swapped")
    says(ex.check_4(0.069, 0.007, "accuracy", blocks), "out of domain")
    says(ex.check_4(-0.165, 0.233, "accuracy", blocks), "change of ECE")
    says(ex.check_4(0.068, 0.233, 7, blocks), "third question")
    says(ex.check_4(..., ..., ..., blocks), "blank")
    says(ex.check_4("x", None, "", blocks), "blank")


def test_exercise_5():
    says(ex.check_5("undetermined", "up"), ok=True)
    says(ex.check_5("up", "up"), "claim says so")
    says(ex.check_5("down", "up"), "fixed once")
    says(ex.check_5("0", "down"), "Confidence first")
    says(ex.check_5(["?"], 3.5), "Answer each")
    says(ex.check_5(), "blank")
