"""Claim 4: published numbers, theory, criteria on made-up results, figures."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import guards
import numpy as np
import pandas as pd
import pytest
from candor.claims.annotation_noise import judges
from candor.claims.annotation_noise import run as steps
from candor.claims.annotation_noise import tables as t
from candor.claims.annotation_noise.criteria import CLAIM
from candor.claims.annotation_noise.figures import FIGURES
from candor.claims.shared import rows
from candor.core import settings as config
from candor.core.step import MissingError
from candor.declare import figures, ledger
from candor.run import steps as experiments

PUBLISHED = Path(__file__).parents[3] / "data" / "published"
SEEDS = (11, 12, 13, 14, 15)


@cache
def published():
    return t.published(PUBLISHED)


@cache
def theory():
    return t.theory()


MEASURES = ("ece", "brier", "confidence", "win_genuine", "win_production")


@cache
def curve(bends):
    """KL and the measures along the closed form: of naive labels, or of genuine ones."""
    table = rows(theory()["two_curves"], setting="main", arm="naive" if bends else "weight")
    return table["kl"].to_numpy(), {m: table[m].to_numpy() for m in MEASURES}


def along(bends, kl):
    at, measures = curve(bends)
    return {m: np.interp(kl, at, values) for m, values in measures.items()}


ARMS = {
    "main": (
        *("naive", "naive_4x", "rdpo", "retest", "dropN", "dropNC", "weight", "frbal", "frrand"),
        *("frrand_4x", "dawid_skene", "oracle"),
    ),
    "one_type": (
        *("naive", "filter_retest_20", "filter_retest_50", "filter_frame_20", "filter_frame_50"),
        *("filter_random_20", "filter_random_50", "weight", "dawid_skene", "oracle"),
    ),
    "all_genuine": ("naive", "rdpo", "weight", "frbal", "frrand", "oracle", "retest", "dropN"),
    "quarter_noise": ("naive",),
}
OTHERS = ("naive", "rdpo", "weight", "frbal", "frrand", "oracle")
REPAIRS = ("dropNC", "weight", "frbal", "frrand", "frrand_4x")


class Disk:
    """Made-up results with the documented columns, near the closed form, instead of what steps leave on a disk.

    `without` leaves out steps by the end of their key.
    """

    def __init__(self, without=()):
        self.without = without

    def read(self, key, seed, scale):
        _, setting, step = key.split("/")
        if key.endswith(self.without) or key not in experiments.steps():
            raise MissingError(key)
        kind = step.removeprefix("eval_").split("_")[0]

        def table(name):
            made = getattr(self, f"{kind}_{name}", None)
            elsewhere = setting != "main" and name in ("fan", "reliability")
            unwatched = name == "trajectory" and step.removeprefix("eval_") not in t.POLICIES
            if not made or elsewhere or unwatched:
                raise MissingError(f"{key}: {name}")
            return made(setting, step, np.random.default_rng(seed)).reset_index(drop=True)

        return SimpleNamespace(table=table)

    # The pairs and what repeated answers say of them

    def pairs_counts(self, setting, step, rng):
        row = {"pairs": 24_000, "discarded": 0.13, "same_answer": 0.5, "one_right": 0.27, "correlation": 0.78}
        return pd.DataFrame([row])

    def identification_flips(self, setting, step, rng):
        table = judges.flip_rates().rename(columns={"rate": "exact"})
        return table.assign(rate=table["exact"] + rng.normal(0, 0.004, len(table)), n=3_000)

    def identification_shares(self, setting, step, rng):
        truth = np.array([0.517, 0.283, 0.2])
        ends = {"retest_start1": (0.64, 0.08), "retest_start2": (0.08, 0.64), "retest_start3": (0.36, 0.36)}
        table = []
        methods = [("em", 4), ("em", 8), ("stepmix", 8), *((f"em_start{k}", 4) for k in (1, 2, 3))]
        noise = rng.normal(0, 0.004, 2)
        for method, occasions in (*methods, *((name, 4) for name in ends)):
            g, c = ends.get(method, (truth[0] + noise[0], truth[2] + noise[1]))
            found = np.array([g, 1 - g - c, c])
            likelihood = -14_430.5 if method in ends else -18_168.8
            table.append((method, occasions, *found, likelihood, np.abs(found - truth).max()))
        names = ["method", "occasions", *judges.TYPES, "log_likelihood", "largest_error"]
        return pd.DataFrame(table, columns=names)

    def identification_bic(self, setting, step, rng):
        return pd.DataFrame({"classes": (3, 4, 5), "bic": np.array((65_175, 62_134, 62_193)) + rng.normal(0, 5, 3)})

    def identification_assignment(self, setting, step, rng):
        return pd.DataFrame({"occasions": (4, 8), "accuracy": (0.82, 0.93)})

    # Reward models and the closed-form policies on their scores

    def arms(self, setting):
        return ARMS.get(setting, OTHERS)

    def bends(self, setting, arm):
        if setting == "style_lovers":
            return True
        if setting in ("all_genuine", "noise_only", "quarter_noise"):
            return False
        if setting == "dead_frame":
            return arm != "oracle"
        return arm not in (*REPAIRS, "oracle", "filter_frame_50")

    def rewards_gate(self, setting, step, rng):
        slopes = {"all_genuine": 1.56, "quarter_noise": 0.98}
        return pd.DataFrame(
            {
                "arm": arm,
                "posterior_correlation": 0.86 if arm == "oracle" else 0.68 + rng.normal(0, 0.02),
                "heldout_loss": 0.6,
                "epochs": 5,
                "confidence_slope": (0.8 if self.bends(setting, arm) else -0.9) + rng.normal(0, 0.05),
                "quality_slope": slopes.get(setting, 0.9) + rng.normal(0, 0.02),
                "pairs": 24_000,
                "labels": 24_000 * (4 if arm in ("weight", "frbal") or "4x" in arm else 1),
            }
            for arm in self.arms(setting)
        )

    def rewards_tilt(self, setting, step, rng):
        at = {"arm": "base", "condition": "base", "beta": np.inf, "kl": 0.0, "accuracy": 0.61}
        table = [at | along(True, 0.0)]
        for arm in self.arms(setting):
            for kl in (0.05, 0.15, 0.4):
                row = {m: v + e for (m, v), e in zip(along(self.bends(setting, arm), kl).items(), noise(rng))}
                table.append({"arm": arm, "condition": f"kl_{kl:.2f}", "beta": 0.2, "kl": kl, "accuracy": 0.61} | row)
        return pd.DataFrame(table)

    def rewards_shares(self, setting, step, rng):
        found = {"dead_frame": (0.75, 0.25, 0.0)}.get(setting, judges.SETTINGS[setting].shares)
        return pd.DataFrame([dict(zip(judges.TYPES, found))])

    def rewards_fan(self, setting, step, rng):
        bands = {"0.00-0.30": 0.2, "0.30-0.55": 0.45, "0.55-0.80": 0.68, "0.80-1.00": 0.93}
        q = np.arange(11) / 10
        table = []
        for arm in self.arms(setting):
            for band, p in bands.items():
                reward = 3 * (p - (q**2 - 2 * p * q + p)) + (1.5 * q if self.bends(setting, arm) else 0)
                table.append(pd.DataFrame({"arm": arm, "band": band, "confidence": q, "reward": reward}))
        return pd.concat(table)

    def rewards_reliability(self, setting, step, rng):
        q = np.arange(11) / 10
        frames = [
            pd.DataFrame(
                {
                    "arm": arm,
                    "stated": q,
                    "n": 500 + 2_500 * (q if arm == "base" else q**2),
                    "accuracy": 0.15 + (0.6 if arm != "base" and self.bends(setting, arm) else 0.75) * q,
                }
            )
            for arm in ("base", *self.arms(setting))
        ]
        return pd.concat(frames)

    # Policies

    def policy_summary(self, setting, step, rng):
        kl, bends = 0.36 + rng.normal(0, 0.004), "naive" in step
        closed, before = along(bends, kl), along(bends, 0.0)
        row = {m: v + e for (m, v), e in zip(closed.items(), noise(rng))}
        row |= {f"closed_{m}": v for m, v in closed.items()} | {f"{m}_before": v for m, v in before.items()}
        return pd.DataFrame([row | {"kl": kl, "accuracy": 0.61, "accuracy_before": 0.61}])

    def policy_trajectory(self, setting, step, rng):
        at = np.arange(0, 151, 15)
        kl = 0.36 * (1 - np.exp(-at / 50))
        return pd.DataFrame({"step": at, "kl": kl} | along("naive" in step, kl))

    def policy_reliability(self, setting, step, rng):
        return self.rewards_reliability("main", "rewards", rng).query("arm == 'naive'").drop(columns="arm")


def noise(rng):
    return rng.normal(0, 0.001, len(MEASURES))


@cache
def made_up(seeds=SEEDS, without=()):
    """The tables of the world, read from `Disk` by what reads them from a disk."""
    settings = config.load("laptop")
    settings = config.Config({**settings.to_dict(), "seeds": list(seeds), "few_seeds": list(seeds[:3])})
    with patch.object(t, "read", Disk(without).read), patch.object(experiments, "read", Disk(without).read):
        return t.world(experiments.Results(settings))


def everything(change=None, **kwargs):
    """All tables; `change` has keys (table, setting, arm), with the values by column that are added."""
    tables = {**published(), **theory(), **made_up(**kwargs)}
    for (name, setting, arm), shifts in (change or {}).items():
        tables[name] = tables[name].copy()
        mine = (tables[name]["setting"] == setting) & (tables[name]["arm"] == arm)
        assert mine.any()
        for column, shift in shifts.items():
            tables[name].loc[mine, column] += shift
    return tables


def judge(scale="laptop", tables=None, **kwargs):
    found, checks, verdicts = ledger.judge(CLAIM, tables or everything(**kwargs), scale)
    return found.set_index("criterion"), checks.set_index(["criterion", "check"]), verdicts.set_index("part")


@cache
def judged():
    """Verdicts of unchanged results; a caller must not change them."""
    return judge()


# --- Published numbers: every number that the text relies on ----------------------------------------


def test_random_removal_alone_flips_majorities():
    table = published()["removal"].set_index(["raters", "removed"])
    beside = table["published"].dropna()
    assert len(beside) == 10
    np.testing.assert_allclose(table["flips"][beside.index], beside, atol=2.5e-3)  # those were simulated
    assert (table["flips"][10, 2], table["strict"][10, 2]) == (pytest.approx(0.101, abs=5e-4), 0)
    flips, strict = t.flips(7, 3)  # against counting all removals by hand
    from itertools import combinations

    counted = [
        (np.sign(2 * yes - 7), np.sign(2 * (yes - sum(k < yes for k in gone)) - 4))
        for yes in range(8)
        for gone in combinations(range(7), 3)
    ]
    assert flips == pytest.approx(np.mean([a != b for a, b in counted]))
    assert strict == pytest.approx(np.mean([a * b < 0 for a, b in counted]))


def test_thirteen_points_need_the_spread_and_the_raters():
    table = published()["scale_shift"].set_index(["spread", "raters", "removed"])
    assert table.sd[30, 5, 1] == pytest.approx(6.7, abs=0.01)
    assert table.sds_of_13[30, 5, 1] < 2 < table.sds_of_13[30, 30, 6]
    rng, whole = np.random.default_rng(0), np.random.default_rng(1).normal(0, 30, (20_000, 5))
    kept = np.take_along_axis(whole, rng.random(whole.shape).argsort(1)[:, :4], 1)
    assert (kept.mean(1) - whole.mean(1)).std() == pytest.approx(table.sd[30, 5, 1], rel=0.03)


def test_shares_cannot_be_read_off_agreement():
    ridge = published()["ridge"]
    np.testing.assert_allclose(ridge.agreement, ridge.published, atol=6e-4)
    usual = ridge[(ridge.agreement - 0.73).abs() <= 0.01]
    assert usual.genuine.tolist() == [1.0, 0.68, 0.0]
    simplex = published()["simplex"]
    assert (simplex[["genuine", "non_attitude", "constructed"]].sum(axis=1) - 1).abs().max() < 1e-9
    people = published()["agreement"].set_index("who").value
    assert people["training labellers"] == 0.726


def test_the_crowds_rate_is_an_aggregation_rule():
    table = published()["hosking"].set_index("style").loc[["low", "baseline", "high"]]
    np.testing.assert_allclose(table["mode"], (7.2, 4.2, 2.2))
    np.testing.assert_allclose(table["mean"], (14.1, 11.8, 10.1))
    np.testing.assert_allclose(table.expert, (12.5, 20.3, 24.6), atol=0.05)
    np.testing.assert_allclose(table[["expert_low", "expert_high"]].loc["low"], (5.9, 24.7), atol=0.05)
    assert table.gap_mode["low"] < 0 < table.gap_mean["low"] and table.refusals["low"] == 24
    tests = published()["hosking_tests"].set_index("name")
    assert tests.value["fisher_p"] == pytest.approx(0.14, abs=5e-3)
    assert tests.value[["ratio_mode", "ratio_mean"]].to_numpy() == pytest.approx([3.2, 1.4], abs=0.08)
    assert (tests.low["difference_mean"], tests.high["difference_mean"]) == pytest.approx((0.9, 7.1), abs=0.05)
    frames = published()["frames"].set_index("name")
    agreement = frames.value[["within_quality", "within_checklist", "across", "difference"]]
    assert agreement.tolist() == [0.675, 0.699, 0.696, 0.009] and frames.low["difference"] == -0.022
    assert frames.value[["slope_quality", "slope_checklist"]].tolist() == [0.53, 0.519]


def test_protocol_order_and_lapses():
    assert t.agreement_with_ties(0.4, 0.2) == pytest.approx(0.32) and t.agreement_with_ties(0, 0) == 0.5
    ties = published()["ties"].set_index(["rating_ties", "ranking_ties"])
    assert ties.disagreement[0.0, 0.2] == pytest.approx(0.6), "independent answers, no tie in the ratings"
    order = published()["order"].set_index(["who", "measure"])
    people = order.xs("first_shown_wins", level="measure").filter(like="people", axis=0)
    assert people.value.tolist() == [0.498, 0.518] and (people.low < 0.5).all() and (people.high > 0.5).all()
    assert order.value["27 LLM judges"].to_list() == [0.633, 0.448]
    assert published()["lapses"].lapse[:2].tolist() == pytest.approx([0.0633, 0.05])
    indices = published()["indices"].set_index("question").loc["factuality"]
    assert (indices.gwet, indices.krippendorff) == pytest.approx((0.69, 0.06), abs=5e-3)


def test_what_stands_beside_the_claim():
    context = published()["context"].set_index("topic")
    assert context.value["calibration before and after RLHF"].tolist() == [0.007, 0.074]
    assert context.value["what people approve of after RLHF"].tolist() == [24.1, 18.3]
    assert context.value["time between two labels"].tolist() == [0.98, 0.65]
    assert context.value["latent classes of opinion"].tolist() == [0.19, 0.59]
    noise = published()["noise"].set_index("metric").value
    assert noise["win_rate_change_per_10_points_of_noise"] == -30
    assert 0.79 in published()["disagreement"].value.to_list()
    head = published()["headline"].set_index("name").value
    for n, k in ((350, 65), (990, 184)):
        assert round(head[f"candidate_fraction_{n}_items"], 3) == 0.186 == round(k / n, 3)


# --- Theory ---------------------------------------------------------------------------------------


def test_designs_and_their_errors():
    ranks = theory()["ranks"].set_index(["design", "style_known"])
    wanted = {
        "one label": (1, 1),
        "same frame twice, same order": (2, 2),
        "one frame x 2 orders x 2 waves": (4, 4),
        "2 frames, one order": (3, 2),
        "2 frames x 2 orders": (5, 5),
    }
    for design, (known, agnostic) in wanted.items():
        assert (ranks["rank"][design, True], ranks["rank"][design, False]) == (known, agnostic), design
    four = ranks.loc["2 frames x 2 orders"]
    np.testing.assert_allclose(four.loc[True, ["se", "se_non_attitude"]].astype(float), (0.014, 0.017), atol=6e-4)
    np.testing.assert_allclose(four.loc[False, ["se", "se_non_attitude"]].astype(float), (0.015, 0.021), atol=6e-4)
    flips = theory()["flip_rates"].set_index(["type", "condition"]).rate
    assert flips.tolist() == pytest.approx([0.095, 0.095, 0.52, 0.48, 0.095, 0.905])


def test_one_frame_leaves_a_ridge():
    table = theory()["likelihood"]
    assert table["deficit"].min() > -1e-6
    for design, apart in (("retest", 0.45), ("frames", 0.02)):
        good = rows(table, design=design).query("deficit < 0.5")
        assert np.ptp(good["genuine"]) >= apart if design == "retest" else np.ptp(good["genuine"]) <= apart
        assert len(good.query("genuine == 0.5 and constructed == 0.25")) == 1


def test_noise_rescales_and_constructed_answers_bend():
    table = theory()["two_curves"].set_index(["setting", "arm", "kl"]).sort_index()
    ece = table.ece
    base = ece["main", "naive", 0.0]
    assert base == pytest.approx(0.065, abs=2e-3)
    np.testing.assert_allclose(ece["main", "naive"][[0.05, 0.15, 0.4]], (0.105, 0.134, 0.179), atol=0.02)
    for kl in (0.05, 0.15, 0.4):
        bent = [ece["main", arm, kl] for arm in ("naive", "rdpo", "dropN")]
        assert np.ptp(bent) < 3e-3, "noise and its corrections stay on one curve"
        straight = [ece["main", "frrand", kl], ece["main", "weight", kl], ece["noise_only", "naive", kl]]
        assert np.ptp(straight) < 5e-3 and max(straight) < base < min(bent)
    wins = table.loc["main"].loc["naive"]
    assert (wins.win_genuine[0.0], wins.win_production[0.0]) == pytest.approx((0.5, 0.5), abs=1e-9)
    assert wins.win_genuine[0.4] < 0.495 and wins.win_production[0.4] > 0.515
    assert (wins.beta[[0.05, 0.4]].to_numpy() > table.loc["main"].loc["frrand"].beta[[0.05, 0.4]]).all()


# --- Criteria -------------------------------------------------------------------------------------

WORLD = [f"W{k}" for k in range(1, 14)]
MODELS = [f"M{k}" for k in range(1, 6)]


def test_every_id_of_the_brief_is_there_and_reads_as_it_must():
    found, checks, verdicts = judged()
    assert list(found.index) == [*(f"P{k}" for k in range(1, 6)), *WORLD, *MODELS]
    assert (found.verdict[WORLD] == "replicated").all(), found.verdict[WORLD]
    printed = ["replicated", "inconclusive", "not replicated", "replicated", "inconclusive"]
    assert found.verdict[:5].tolist() == printed
    assert (found.verdict[MODELS] == "not attempted").all()
    assert "-5.3 points with the mode, +1.6 with the mean" in found.note["P1"]
    assert "20.0% with 5" in found.note["P5"] and "oracle 0.86" in found.note["W6"]
    assert list(verdicts.index) == ["(i)", "(ii)", "(iii)", "(iv)", "overall"]
    assert (verdicts.verdict[["(i)", "(ii)", "(iii)", "overall"]] == "replicated").all()
    assert verdicts.verdict["(iv)"] == "not replicated" and "M4 and M5" in verdicts.note["(iv)"]
    assert "C bends, N attenuates" in verdicts.note["(ii)"] and "C bends, N attenuates" in verdicts.note["overall"]
    assert "W13 beside it (replicated): frames that move nobody" in verdicts.note["overall"]
    assert checks.value["W9", "all on the same seed"] > 0


MAIN = ("tilt", "main")


@pytest.mark.parametrize(
    ("criterion", "change"),
    [
        ("W5", {("gate", "quarter_noise", "naive"): {"quality_slope": 0.6}}),
        ("W5", {("tilt", "noise_only", "naive"): {"ece": 0.03}}),
        ("W6", {("gate", "main", "naive"): {"confidence_slope": -2.0}}),
        ("W7", {(*MAIN, "retest"): {"ece": -0.05}}),
        ("W8", {(*MAIN, "frbal"): {"ece": 0.06}}),
        ("W8", {(*MAIN, "weight"): {"brier": 0.04}}),
        ("W9", {("policies", "main", "naive"): {"win_production": -0.02}}),
        ("W9", {("policies", "main", "weight"): {"ece": 0.1, "closed_ece": 0.1}}),
        ("W9", {("policies", "main", "naive"): {"kl": 0.3}}),
        ("W10", {("policies", "main", "weight"): {"win_genuine": 0.02}}),
        ("W11", {(*MAIN, "frrand_4x"): {"ece": 0.02}}),
        ("W12", {("tilt", "one_type", "filter_random_50"): {"ece": -0.06}}),
        ("W13", {("tilt", "all_genuine", "dropN"): {"ece": 0.04}}),
        ("W13", {("tilt", "style_lovers", "oracle"): {"ece": -0.05}}),
    ],
)
def test_failures_are_seen(criterion, change):
    found, _, verdicts = judge(change=change)
    assert found.verdict[criterion] == "not replicated"
    decides = criterion not in ("W10", "W12", "W13")
    assert verdicts.verdict["overall"] == ("not replicated" if decides else "replicated")
    if criterion in ("W5", "W6"):
        assert "attenuates" not in verdicts.note["overall"] + verdicts.note["(ii)"]
    if criterion == "W13":
        assert "W13 beside it (not replicated)" in verdicts.note["overall"]


def test_failures_of_identification_are_seen():
    def broken(name, how):
        tables = everything()
        tables[name] = how(tables[name])
        return judge(tables=tables)[0].verdict

    assert broken("flips", lambda f: f.assign(rate=f.rate + 0.05))["W1"] == "not replicated"
    assert broken("shares", lambda s: s.assign(largest_error=s.largest_error + 0.04))["W2"] == "not replicated"
    one = broken("shares", lambda s: s.assign(genuine=s.genuine.where(~s.method.str.startswith("retest"), 0.5)))
    assert one["W3"] == "not replicated" and one["W2"] == "replicated"
    assert broken("bic", lambda b: b.assign(bic=-b.classes))["W4"] == "not replicated"
    four_of_five = broken("bic", lambda b: b.assign(bic=b.bic.where((b.seed > 11) | (b.classes != 5), 0)))
    assert four_of_five["W4"] == "replicated"


def test_a_spread_over_seeds_is_inconclusive():
    tables = everything()
    tilt = tables["tilt"] = tables["tilt"].copy()
    mine = (tilt.setting == "main") & (tilt.arm == "frrand_4x")
    tilt.loc[mine, "ece"] += tilt.loc[mine, "seed"].map(dict(zip(SEEDS, (-0.03, 0.01, 0.05, -0.02, 0.03))))
    assert judge(tables=tables)[0].verdict["W11"] == "inconclusive"


def test_a_blind_reward_model_is_not_judged():
    found, _, verdicts = judge(change={("gate", "main", "oracle"): {"posterior_correlation": -0.3}})
    assert (found.verdict[["W6", "W7", "W8", "W9", "W11"]] == "not attempted").all()
    assert "gate failed: the oracle" in found.note["W9"] and verdicts.verdict["overall"] == "not attempted"


def test_a_missing_step_and_smoke_and_nothing():
    found, _, verdicts = judge(without=("main/eval_policy_weight", "one_type/rewards"))
    assert found.verdict["W9"] == found.verdict["W12"] == "not attempted" and found.verdict["W8"] == "replicated"
    assert verdicts.verdict["overall"] == "not attempted" and "W9" in verdicts.note["overall"]
    found, _, verdicts = judge("smoke")
    assert set(found.verdict[WORLD]) == {"not attempted"} and set(found.note[WORLD]) == {"mechanics only"}
    assert found.verdict["P4"] == "replicated" and made_up(seeds=()) == {}
    found, _, _ = judge(seeds=(11, 12, 13))
    assert found.verdict["W6"] == "partly", "fewer than five seeds never give more"


def pretrained(good=True):
    """Made-up tables of real raters and pretrained models, with the columns of `annotation_models.tables`."""
    about = {"difference": 0.0004 if good else 0.02}
    names = [
        (setting, "pairwise_sign_agreement_no_ties")
        for setting in (
            *("within quality-only frame", "within error-checklist frame"),
            "across the two frames (different people)",
        )
    ]
    slope = "logit_slope_per_point_of_rated_assertiveness"
    names += [(setting, slope) for setting in ("quality-only frame", "error-checklist frame")]
    names.append(("crowd_mean of individual flags", "factuality_rate"))
    hosking = [{"setting": setting, "metric": metric} | about for setting, metric in names]
    removed = {"score": "combined", "flips": 0.12, "ratio": 3.0 if good else 0.9, "beyond": good}
    removal = [
        removed | {"dataset": d, "unsure": u, "share": s}
        for d in ("dices_350", "dices_990")
        for u in ("own", "yes")
        for s in (0.1, 0.2, 0.5)
    ]
    shift = [
        {"score": "combined", "share": s, "centred": c, "shift": 1.2, "largest": 3.0, "beyond": good}
        for s in (0.1, 0.2, 0.5)
        for c in (True, False)
    ]
    gaps = {"naive": 1.0 if good else -1.0, "weight": 0.1, "rdpo": 1.05, "frrand": 0.1, "oracle": -0.2}
    gap = [{"arm": a, "seed": s, "gap_wrong": g + 0.01 * (s - 12)} for a, g in gaps.items() for s in (11, 12, 13)]
    changes = {"naive": 0.08 if good else 0.0, "weight": -0.03}
    policies = [
        {"arm": a, "seed": s, "run": "matched", "win_production": 0.53, "ece_change": c + 0.001 * (s - 12)}
        for a, c in changes.items()
        for s in (11, 12, 13)
    ]
    frames = {
        "models_hosking": hosking,
        "models_removal": removal,
        "models_shift": shift,
        "models_gap": gap,
        "models_policies": [row | {"accuracy_change": 0.002} for row in policies],
    }
    return {name: pd.DataFrame(frame) for name, frame in frames.items()}


def test_real_raters_and_pretrained_models_pass_and_fail():
    found, checks, verdicts = judge(tables=everything() | pretrained())
    assert (found.verdict[["M1", "M4", "M5"]] == "replicated").all()
    assert (found.verdict[["M2", "M3"]] == "partly").all()  # three seeds
    assert "not attempted" not in verdicts.note["(iv)"]
    assert checks.verdict["M4", "dices_350, flips at 20 % over random"] == "reported"
    found, _, verdicts = judge(tables=everything() | pretrained(good=False))
    assert (found.verdict[MODELS] == "not replicated").all() and verdicts.verdict["(iv)"] == "not replicated"


def test_print_alone_never_lifts_people_above_inconclusive():
    fine = dict.fromkeys([c.id for c in CLAIM.criteria], "replicated")
    [rule] = [part.rule for part in CLAIM.parts if part.id == "(iv)"]
    assert rule(fine)[0] == "replicated"
    assert rule(fine | {"M4": "not attempted"})[0] == "replicated"
    assert rule(fine | {"M1": "not attempted", "M4": "not attempted", "M5": "not attempted"})[0] == "inconclusive"


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    tables = everything() | pretrained()
    guards.check(CLAIM, tables, of_what_ran=("W13",), made_with_others=set(tables["models_hosking"]["setting"]))


def test_tables_survive_csv_and_are_small(tmp_path):
    size = 0
    for name, table in everything().items():
        path = tmp_path / f"{name}.csv"
        table.to_csv(path, index=False, float_format="%.6g")
        size += path.stat().st_size
    assert size < 1_000_000
    back = {p.stem: pd.read_csv(p) for p in tmp_path.glob("*.csv")}
    first, again = judged()[0], judge(tables=back)[0]
    assert (first.verdict == again.verdict).all()
    for name, plot in FIGURES.items():
        assert plot(back).get_axes(), name


def test_table_names_are_unique_and_needs_are_declared():
    groups = [set(published()), set(theory()), set(made_up())]
    assert len(set.union(*groups)) == sum(map(len, groups))
    known = steps.STEPS | {"witnesses/expert/base": None}
    assert len(set(t.NEEDS)) == len(t.NEEDS) and set(t.NEEDS) == set(known)
    assert set(t.DECISIVE) < set(t.NEEDS)
    place = {key: k for k, key in enumerate(t.NEEDS)}
    for key in t.NEEDS[1:]:
        for need in steps.STEPS[key].needs:
            assert place[need] < place[key], (need, key)
            assert key not in t.DECISIVE or need in t.DECISIVE


# --- Figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_described(name):
    assert len(FIGURES[name].alt) > 60 and FIGURES[name].caption.endswith(".")


def test_figures_stand_one_seed_and_missing_arms():
    gone = ("half_frame/rewards", "style_lovers/rewards", "main/eval_policy_oracle", "main/eval_policy_weight")
    tables = everything(seeds=(11,), without=gone)
    for name in ("tilt", "fan", "reliability", "gate"):
        tables[name] = tables[name][~tables[name].arm.isin(["oracle", "frrand", "rdpo", "naive_4x"])]
    for name in ("two_curves", "one_event", "fan", "controls", "reliability"):  # the others read print and theory
        assert FIGURES[name](tables).get_axes(), name


def test_every_arm_has_its_own_look():
    arms = {arm.lower() for group in ARMS.values() for arm in group}
    assert arms <= set(figures.LOOKS) and len({figures.look(arm)[1:] for arm in arms}) == len(arms)
