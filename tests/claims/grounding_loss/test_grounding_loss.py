"""Claim 3: published numbers, theory, criteria on made-up results, figures."""

from functools import cache
from pathlib import Path

import guards
import numpy as np
import pandas as pd
import pytest
from candor.claims.grounding_loss import raters
from candor.claims.grounding_loss import run as steps
from candor.claims.grounding_loss import tables as t
from candor.claims.grounding_loss import world as game
from candor.claims.grounding_loss.criteria import CLAIM
from candor.claims.grounding_loss.figures import FIGURES
from candor.claims.shared import rows
from candor.declare import figures, ledger
from candor.measure.agreement import kappa, kappa_max

PUBLISHED = Path(__file__).parents[3] / "data" / "published"
ACTS = game.ACTS


@cache
def published():
    return t.published(PUBLISHED)


@cache
def theory():
    return t.theory()


class FakeResults:
    """Made-up evaluations with the documented columns, close to the closed form; `change` shifts values of an arm."""

    POLICIES = {
        "charity_6": raters.optimum(0.6),
        "lookahead_6": raters.optimum(0.6),
        "average_6": raters.optimum(0.9),
        "charity_3": raters.optimum(0.3),
        "charity_0": raters.optimum(0.0),
        "reaction_6": raters.optimum(0.0),
    }
    WIN_RATES = {"charity_6": 0.563, "lookahead_6": 0.56, "average_6": 0.57, "charity_3": 0.53}
    DIALOGUE = "often:desk U dark mug . A {} <eos> U blue . A blue-mug desk <eos>"

    def __init__(self, seeds=(11, 12, 13, 14, 15), without=(), change=None):
        self.seeds, self.without, self.change = seeds, without, change or {}

    def collect(self, setting, arms, table, world):
        assert (setting, world) == ("standard", "reference_game")
        few = {arm for arm in arms if steps.STEPS[f"{world}/{setting}/eval_{arm}"].seeds == "few_seeds"}
        made = [
            getattr(self, table)(arm, seed).assign(setting=setting, arm=arm, seed=seed)
            for arm in arms
            if arm not in self.without
            for seed in self.seeds[: 3 if arm in few else None]
        ]
        return pd.concat(made or [pd.DataFrame()], ignore_index=True)

    trained = collect

    def noise(self, arm, seed, n, sd=1e-3):
        return np.random.default_rng([seed, sum(map(ord, arm))]).normal(0, sd, n)

    def values(self, arm):
        policy = self.POLICIES.get(arm, game.HUMAN)
        found, human = game.exact(policy), game.exact(game.HUMAN)
        bounds = {f"{a}_kappa_max": kappa_max(human[f"{a}_rate"], found[f"{a}_rate"]) for a in ACTS}
        win = self.WIN_RATES.get(arm, 0.501)
        row = found | bounds | {"win_rate": win, "win_rate_untied": 4 * win - 1.5, "ties": 0.7, "malformed": 0.001}
        return {k: v + self.change.get(arm, {}).get(k, 0) for k, v in row.items()}

    def summary(self, arm, seed):
        row = self.values(arm)
        noisy = {k: abs(v + e) for (k, v), e in zip(row.items(), self.noise(arm, seed, len(row)))}
        return pd.DataFrame([noisy | {"n_turns": 20_000, "n_rollouts": 5_000}])

    def cells(self, arm, seed):
        table = game.by_cell(self.POLICIES.get(arm, game.HUMAN))
        table["model"] = (table["model"] + self.noise(arm, seed, len(table), 1e-4)).clip(1e-5, 1 - 1e-5)
        return table

    def trajectory(self, arm, seed):
        start, end = self.values("base"), self.values(arm)
        steps_ = np.arange(0, 151, 15)
        share = (1 - np.exp(-steps_ / 60)) / (1 - np.exp(-150 / 60))
        table = {k: start[k] + share * (end[k] - start[k]) for k in t.TRAJECTORY}
        drift = 0.004 if arm == "shuffled" else 0.0
        for act in ACTS:
            table[f"{act}_kappa"] = table[f"{act}_kappa"] - drift * share + self.noise(arm + act, seed, 11, 2e-4)
        if arm != "charity_6":
            table["success"] = np.full(11, np.nan)
        return pd.DataFrame({"step": steps_} | table)

    def pairs(self, arm, seed):
        wins = {f"{a}_win_rate": 0.2 for a in ACTS} | {"act_win_rate": 0.19 if "charity_6" in arm else 0.48}
        counts = {"contexts": 30_700, "differing": 4_000, "tied": 500, "kept": 3_000, "act_pairs": 2_000}
        return pd.DataFrame([counts | wins])

    def dialogues(self, arm, seed):
        direct = "often:desk U dark mug . A grey-mug desk <eos>"
        text = [direct if arm == "charity_6" else self.DIALOGUE.format("which ?")] * 6
        wanted = ["blue-mug desk"] * 6
        return pd.DataFrame({"dialogue": range(6), "wanted": wanted, "text": text, "success": arm != "charity_6"})


def everything(**kwargs):
    return {**published(), **theory(), **t.world(FakeResults(**kwargs))}


def judge(scale="laptop", tables=None, **kwargs):
    found, checks, verdicts = ledger.judge(CLAIM, tables or everything(**kwargs), scale)
    return found.set_index("criterion"), checks.set_index(["criterion", "check"]), verdicts.set_index("part")


# --- Published numbers: every number that the text relies on ----------------------------------------


def test_the_headline_does_not_follow_from_the_table():
    means = published()["headline_means"].set_index("name")
    wanted = {
        "printed": 77.5,
        "quoted_mean": 77.5,
        "cells_mean": 73.1,
        "cells_median": 79.7,
        "pooled": 63.5,
        "followup": 48.3,
        "acknowledgement": 76.1,
        "clarification": 95.0,
        "ESConv": 84.4,
        "TSCC": 51.5,
        "Persuasion for Good": 83.4,
    }
    for name, value in wanted.items():
        assert means.value[name] == pytest.approx(value, abs=0.051), name
    assert (means.low["cells_mean"], means.high["cells_mean"]) == pytest.approx((68.4, 76.8), abs=0.15)
    cells = published()["headline"].set_index(["dataset", "act"])
    assert set(cells.index[~cells.beyond]) == {("TSCC", "followup"), ("Persuasion for Good", "clarification")}
    row = cells.loc[("TSCC", "followup")]
    assert (row.reduction, row.reduction_low, row.reduction_high) == pytest.approx((4.0, -23, 25), abs=0.7)


def test_reanalysis_agrees_with_the_derived_rows_beside_the_numbers():
    printed = pd.read_csv(PUBLISHED / "grounding_rates.csv")
    derived = printed[printed.location.isin(["Table 3", "Appendix Table 3"])]
    ours = published()["rates"].set_index(["model", "arm", "act"])
    for metric, column in {"kappa_max": "kappa_max", "kappa_over_kappa_max": "share"}.items():
        for row in derived[derived.metric == metric].itertuples():
            assert ours[column][(row.model, row.arm, row.setting)] == pytest.approx(row.value, abs=1e-3)
    for metric in ("recall", "precision"):
        for row in derived[derived.metric == metric].itertuples():
            assert ours[metric][(row.model, row.arm, row.setting)] == pytest.approx(row.value, abs=0.01)


def test_agreement_falls_and_rates_do_not_consistently():
    changes = published()["changes"]
    assert (changes.kappa_change < 0).sum() == len(changes) == 9 and (changes.rate_change < 0).sum() == 6
    followups = rows(changes, act="followup")
    np.testing.assert_allclose(followups.rate_relative, (-0.20, -0.26, -0.20), atol=6e-3)
    mistral = rows(changes, model="Mistral-7B").set_index("act").loc[list(ACTS)]
    np.testing.assert_allclose(mistral.kappa_z, (-0.6, -1.2, -0.2), atol=0.06)
    np.testing.assert_allclose(mistral.rate_z[:2], (-1.9, 2.6), atol=0.06)
    np.testing.assert_allclose(mistral.share_before["followup"], 0.235, atol=1e-3)
    np.testing.assert_allclose(followups.precision_after, (44.5, 45.6, 46.0), atol=0.06)
    sums = published()["rate_sums"].set_index(["model", "arm"])
    assert sums.rate["Mistral-7B"][["sft", "sft_dpo"]].to_numpy() == pytest.approx([32.6, 36.0], abs=0.05)
    quoted = published()["quoted_changes"].set_index(["method", "measure"]).recomputed
    assert quoted[("dpo", "kappa")] == pytest.approx(-45.6, abs=0.05)
    assert quoted[("ppo", "rate")] == pytest.approx(-7.1, abs=0.06)
    prompt = published()["prompting"].set_index("act")
    assert prompt.kappa_z[["followup", "acknowledgement"]].to_numpy() == pytest.approx([3.0, 0.5], abs=0.05)


def test_checkpoints_of_one_run():
    table = published()["correlations"]
    r = table.set_index(["method", "act", "points"])
    np.testing.assert_allclose(r.r["dpo"].unstack()[10][list(ACTS)], (-0.70, -0.89, -0.78), atol=5e-3)
    assert (r.r[("dpo", "followup", 9)], r.p[("dpo", "followup", 9)]) == pytest.approx((-0.59, 0.098), abs=6e-3)
    assert (rows(table, method="sft", points=10).p > 0.05).all()
    np.testing.assert_allclose(published()["first_checkpoint"].share, (0.67, 0.33, 0.60), atol=6e-3)
    flat = published()["flat_runs"].set_index("process")
    assert (flat.below_70["random_walk"], flat.below_89["random_walk"]) == pytest.approx((0.24, 0.09), abs=0.01)
    assert (flat.below_70["lag_7"], flat.below_89["lag_7"]) == pytest.approx((0.12, 0.02), abs=6e-3)
    assert flat.mean_r["best_of_ten"] == pytest.approx(-0.24, abs=0.01)
    assert flat.detected["independent"] == pytest.approx(0.05, abs=5e-3)
    start = published()["start"].set_index("step")
    assert start.acknowledgement.idxmax() == start.followup.idxmin() == 500 and start["mean"].idxmax() == 300
    envelope = rows(published()["flat_envelope"], process="best_of_ten", act="followup").set_index("step")
    points = rows(published()["dpo_curve"], method="dpo", act="followup").set_index("step").kappa
    assert points.between(envelope.low, envelope.high).all() and len(published()["dpo_curve"]) == 60


def test_small_counts():
    ceiling = published()["human_ceiling"].set_index("act").loc[list(ACTS)]
    assert ceiling[["both", "first", "second"]].to_numpy().tolist() == [[9, 7, 7], [2, 5, 2], [1, 2, 0]]
    assert (ceiling.tables == 1).all() and not ceiling.excluded.any()
    np.testing.assert_allclose(ceiling.low, (7, -9, 0), atol=0.6)
    np.testing.assert_allclose(ceiling.high, (62, 66, 100), atol=1.1)
    counts = published()["clarification_counts"]
    named = rows(counts, source="Table 3").set_index(["model", "arm"])
    hits = {("Mistral-7B", "sft"): (2, 4), ("Mistral-7B", "sft_dpo"): (2, 8), ("GPT-4", "off_the_shelf"): (0, 3)}
    hits |= {("GPT-3.5-turbo", "mitigation_prompt"): (0, 10)}
    for key, wanted in hits.items():
        assert tuple(named.loc[key, ["coincident", "emitted"]]) == wanted
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
    odds = published()["odds_multipliers"].set_index("beta").multiplier
    assert (odds[0.1], odds[0.3]) == pytest.approx((0.033, 0.32), abs=1e-3)
    assert published()["changes"].odds_multiplier[0] == pytest.approx(0.76, abs=1e-3)
    power = published()["power"].set_index("name").value
    assert (power.se_low, power.se_high) == pytest.approx((3.3, 4.1), abs=0.05)
    assert power.turns_two_se == pytest.approx(11_000, rel=0.05) and power.turns_80 == pytest.approx(22_000, rel=0.06)


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
MODELS = [f"M{k}" for k in range(1, 7)]


def test_every_id_of_the_brief_is_there_and_reads_as_it_must():
    found, checks, verdicts = judge()
    assert list(found.index) == [*(f"P{k}" for k in range(1, 8)), *WORLD, *MODELS]
    full = [w for w in WORLD if w not in ("W9", "W11", "W12")]
    assert (found.verdict[full] == "replicated").all(), found.verdict[full]
    assert (found.verdict[["W9", "W11", "W12"]] == "partly").all()  # three seeds are never better
    assert found.verdict["P5"] == "not replicated"
    assert (found.verdict[["P1", "P2", "P3", "P4", "P6", "P7"]] == "replicated").all()
    assert (found.verdict[MODELS] == "not attempted").all()
    assert "not derivable from Table 2" in found.note["P1"] and "weak: one run" in found.note["P6"]
    assert "TSCC followup, Persuasion for Good clarification" in found.note["P2"]
    assert list(verdicts.index) == ["77.5 %", "(i)", "(ii)", "(iii)", "(iv)", "(v)", "(vi)", "overall"]
    assert verdicts.verdict["77.5 %"] == verdicts.verdict["(ii)"] == verdicts.verdict["(vi)"] == "partly"
    assert verdicts.verdict["(v)"] == "not replicated" and verdicts.verdict["overall"] == "replicated"
    assert "because raters let guesses pass, not because it optimises preferences" in verdicts.note["overall"]
    assert checks.verdict[("W8", "clarification rate")] == "reported"


@pytest.mark.parametrize(
    ("criterion", "change"),
    [
        ("W1", {"base": {"followup_rate": 0.02}}),
        ("W2", {"charity_6": {"clarification_kappa": 0.12}}),
        ("W3", {"charity_6": {"rate": 0.15}}),
        ("W4", {"charity_6": {"win_rate": -0.04}}),
        ("W5", {"shuffled": {"acknowledgement_kappa": -0.04}}),
        ("W6", {"more_sft": {"followup_kappa": -0.018}}),  # the slope: .012 per 100 steps
        ("W7", {"charity_0": {"success": -0.04}}),
        ("W8", {"reaction_6": {"clarification_kappa": -0.1}}),
        ("W9", {"charity_6": {"followup_kappa": 0.1}}),
        ("W10", {"charity_6": {"followup_precision": -0.2}}),
        ("W11", {"lookahead_6": {"followup_kappa": 0.1}}),
        ("W12", {"lookahead_average_6": {"rate": -0.1}}),
    ],
)
def test_failures_are_seen(criterion, change):
    found, _, verdicts = judge(change=change)
    assert found.verdict[criterion] == "not replicated"
    decides = criterion in ("W2", "W4", "W5", "W6")
    assert verdicts.verdict["overall"] == ("not replicated" if decides else "replicated")
    if criterion == "W7":
        assert "W7 beside it (not replicated)" in verdicts.note["overall"]


def test_flat_checkpoints_fail_w13():
    tables = everything()
    course = tables["trajectory"]
    mine = course.arm == "shuffled"
    for act in ACTS:  # up and down: no correlation with the step
        course.loc[mine, f"{act}_kappa"] = 0.8 + 0.001 * (course.loc[mine, "step"] // 15 % 2)
    found, checks, _ = judge(tables=tables)
    assert (
        found.verdict["W13"] == "not replicated" and checks.value[("W13", "runs (a seed and an act) that mislead")] == 0
    )


def test_a_missing_arm_and_smoke_and_nothing():
    found, _, verdicts = judge(without=("charity_3", "more_sft"))
    assert found.verdict["W9"] == found.verdict["W6"] == "not attempted" and found.verdict["W2"] == "replicated"
    assert verdicts.verdict["overall"] == "not attempted" and "W6" in verdicts.note["overall"]
    found, _, verdicts = judge("smoke")
    assert set(found.verdict[WORLD]) == {"not attempted"} and verdicts.verdict["overall"] == "not attempted"
    assert found.verdict["P4"] == "replicated" and t.world(FakeResults(seeds=())) == {}


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
    found, _, verdicts = judge(tables=everything() | pretrained())
    assert (found.verdict[["M1", "M2", "M3", "M4", "M6"]] == "replicated").all()
    assert found.verdict["M5"] == "partly"  # three seeds
    assert "not attempted" not in verdicts.note["(iv)"]
    unsure = pretrained()
    unsure["models_rates"]["kappa_change_high"] = 0.01
    assert judge(tables=everything() | unsure)[0].verdict["M3"] == "not replicated", "an interval contains 0"
    found, _, _ = judge(tables=everything() | pretrained(sign=1))
    assert (found.verdict[["M1", "M3", "M4", "M5"]] == "not replicated").all()


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    tables = everything() | pretrained()
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
    first, again = judge()[0], judge(tables=back)[0]
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


# --- Figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_and_are_described(name):
    plot = FIGURES[name]
    assert plot(everything(seeds=(11,))).get_axes() and len(plot.alt) > 60 and plot.caption.endswith(".")


def test_figures_stand_missing_arms():
    tables = everything(without=("charity_3", "lookahead_6", "average_6", "lookahead_average_6", "reaction_6"))
    for plot in FIGURES.values():
        plot(tables)


def test_every_arm_has_its_own_look():
    arms = {arm for group in (t.ARMS, t.VARIANTS) for arm in group["standard"]}
    assert arms <= set(figures.LOOKS) and len({figures.look(arm)[1:] for arm in arms}) == len(arms)
