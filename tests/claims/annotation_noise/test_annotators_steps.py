"""The annotators' steps: what is declared, measures against simulation, one small run that really trains.

Which labels and weights an arm learns from, and what a policy is rewarded with, is in `test_wiring_annotators`.
"""

import doctest
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from candor.claims.annotation_noise import judges, panels, policies, response_types, tables
from candor.claims.annotation_noise import run as ex
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.run import steps as experiments

ROOT = "annotators/main"
MAIN = judges.SETTINGS["main"]
MEASURES = ("kl", "ece", "brier", "confidence", "accuracy", "win_genuine", "win_production")


@pytest.mark.parametrize("module", [ex, judges, response_types, tables])
def test_examples_hold(module):
    found = doctest.testmod(module)
    assert found.failed == 0 < found.attempted


def test_settings_and_policies_run_on_their_seeds():
    assert set(ex.ARMS) == set(judges.SETTINGS)
    few = {setting for setting in ex.ARMS if ex.STEPS[f"annotators/{setting}/rewards"].seeds == "few_seeds"}
    assert few == {"strong", "half_frame", "no_penalty"}
    trained = {key.split("policy_")[1]: step for key, step in ex.STEPS.items() if "/policy_" in key}
    assert {name for name, step in trained.items() if step.seeds == "seeds"} == {"naive", "weight"}
    assert all(ex.STEPS[f"{ROOT}/eval_policy_{name}"].seeds == step.seeds for name, step in trained.items())


def test_the_laptop_scale_is_the_specification():
    settings = config.load("laptop")["world"]["annotators"]
    wanted = {
        **{"pairs": 24_000, "cells": 8000, "eval_questions": 20_000, "eval_seed": 7001},
        **{"reward_epochs": 12, "reward_batch": 512, "reward_lr": 2e-3, "reward_decay": 0.05},
        **{"rloo_steps": 150, "rloo_prompts": 32, "num_generations": 8, "rloo_lr": 1e-3},
    }
    assert {name: settings[name] for name in wanted} == wanted
    assert ex.KLS == (0.05, 0.15, 0.40)


def test_agreement_trusts_constructed_answers():
    """Five annotators of one type each; genuine ones have little to choose between two answers that are both right."""
    rng, setting, n = np.random.default_rng(2), judges.SETTINGS["one_type"], 3000
    tenths = np.where(rng.random((n, 1)) < 0.5, [4, 6], [6, 4])
    right = np.repeat(rng.random((n, 1)) < 0.5, 2, axis=1)
    pairs = panels.Pairs(np.zeros((n, 2), int), tenths, right, np.full((n, 2), 0.5), np.zeros((n, 2, 4)))
    follows = ((panels.inferred_truth(pairs, setting, rng) > 0.5) == pairs.more).mean()
    assert follows > panels.ask_panel(pairs.utility_gap(1.0), setting, rng).label().mean() + 0.1 > 0.7


# --- Measures -----------------------------------------------------------------------------------------


def test_beta_tilts_the_base_as_far_as_asked_and_rescaled_rewards_lie_on_one_curve():
    rng = np.random.default_rng(0)
    base, reward = rng.dirichlet(np.ones(11), (50, 2)), rng.normal(size=(50, 2, 11))
    for kl in ex.KLS:
        one, other = (policies.tilted(base, r, policies.beta_for(base, r, kl)) for r in (reward, 3 * reward + 5))
        assert one.sum(-1) == pytest.approx(np.ones((50, 2))) and one == pytest.approx(other, abs=1e-3)
        assert policies.kl_of(one, base) == pytest.approx(kl, abs=1e-4)
    with pytest.raises(CandorError, match="nearly constant"):
        policies.beta_for(base, np.zeros_like(base), 0.1)


def test_ece_has_one_bin_a_token():
    policy = np.zeros((4, 11))
    policy[[0, 1], 5], policy[[2, 3], 9] = 1, 1
    exact = np.array([0.5, 0.7, 0.2, 0.6])
    assert policies.ece_of(policy, exact) == pytest.approx((abs(1.2 - 1.0) + abs(0.8 - 1.8)) / 4)


class MadeUp(policies.Evaluation):
    """An evaluation of made-up questions, answers and base."""

    def __init__(self, n=400, seed=0):
        rng = np.random.default_rng(seed)
        self.posterior = rng.dirichlet(np.ones(8), n)
        self.answer = rng.integers(8, size=(n, 2))
        self.answer[: n // 2, 1] = self.answer[: n // 2, 0]
        self.exact = np.take_along_axis(self.posterior, self.answer, 1)
        self.base = rng.dirichlet(np.ones(11), (n, 2))


@pytest.fixture(scope="module")
def made_up():
    return MadeUp()


@pytest.mark.parametrize("setting", ["main", "style_lovers", "no_penalty"])
def test_the_base_wins_half_against_itself(made_up, setting):
    row = made_up.measures(made_up.base, made_up.worth(judges.SETTINGS[setting]))
    assert row["kl"] == 0 and (row["win_genuine"], row["win_production"]) == pytest.approx((0.5, 0.5))


def drawn(p, rng):
    """A token of each distribution over the last axis."""
    return (p.cumsum(-1) < rng.random((*p.shape[:-1], 1))).sum(-1).clip(max=p.shape[-1] - 1)


def test_wins_are_those_of_simulated_contests(made_up):
    rng = np.random.default_rng(3)
    policy = rng.dirichlet(np.linspace(0.01, 2, 11), (400, 2))  # surer than the base, also of what is wrong
    row, wins = made_up.measures(policy, made_up.worth(MAIN)), []
    for _ in range(200):
        right = made_up.answer == drawn(made_up.posterior, rng)[:, None]
        ours, theirs = drawn(policy, rng) / 10, drawn(made_up.base[:, ::-1], rng) / 10
        du = judges.utility(right, ours) - judges.utility(right[:, ::-1], theirs)
        wins.append([p.mean() for p in judges.preferences(du, ours - theirs, MAIN)])
    assert np.mean(wins, 0) == pytest.approx([row["win_genuine"], row["win_production"]], abs=0.004)


def test_answer_and_confidence_together_agree_with_simulation():
    rng, n = np.random.default_rng(4), 300
    exact = rng.dirichlet(np.ones(8), n)
    base, policy = (rng.dirichlet(np.ones(88) * a, n).reshape(n, 8, 11) for a in (1, 0.3))
    assert policies.full_measures(base, base, exact, MAIN)["win_genuine"] == pytest.approx(0.5)
    row, wins = policies.full_measures(policy, base, exact, MAIN), []
    assert row["accuracy"] == pytest.approx((policy.sum(2) * exact).sum(1).mean())
    for _ in range(200):
        guilty, said = drawn(exact, rng), [drawn(p.reshape(n, -1), rng) for p in (policy, base)]
        u = [judges.utility(d // 11 == guilty, d % 11 / 10) for d in said]
        wins.append([p.mean() for p in judges.preferences(u[0] - u[1], said[0] % 11 - said[1] % 11, MAIN)])
    assert np.mean(wins, 0) == pytest.approx([row["win_genuine"], row["win_production"]], abs=0.005)


def test_a_policy_that_knows_the_posterior_is_calibrated(made_up):
    known = np.zeros((400, 2, 11))
    np.put_along_axis(known, np.rint(made_up.exact * 10).astype(int)[..., None], 1, 2)
    row = made_up.measures(known, made_up.worth(MAIN))
    assert row["ece"] < 0.03
    assert row["brier"] == pytest.approx((made_up.exact * (1 - made_up.exact)).mean(), abs=0.002)
    assert made_up.reliability(known)["n"].sum() == pytest.approx(400)


def test_the_gate_and_the_fan_tell_what_a_reward_follows(made_up):
    q = np.broadcast_to(np.arange(11) / 10, made_up.base.shape)
    p = np.broadcast_to(made_up.exact[..., None], made_up.base.shape)
    evidence, style = made_up.gate(2 * p + 0 * q, 1.0), made_up.gate(3 * q + 0 * p, 1.0)
    assert (evidence["posterior_correlation"], evidence["confidence_slope"]) == pytest.approx((1, 0), abs=1e-9)
    assert (style["posterior_correlation"], style["confidence_slope"]) == pytest.approx((0, 3), abs=1e-9)
    assert made_up.gate(np.where(p < 0.3, 2 * q, -q), 1.0)["confidence_slope"] == pytest.approx(2)
    truth = p - (p * (1 - q) ** 2 + (1 - p) * q**2)
    assert made_up.gate(1.7 * truth, 1.0)["quality_slope"] == pytest.approx(1.7)
    table = made_up.fan(q + 7)
    assert table["band"].nunique() == 4 and len(table) == 44
    each = table.groupby("confidence")["reward"].mean()
    assert each.iloc[-1] - each.iloc[0] == pytest.approx(1) and each.abs().max() < 1


def test_policies_are_compared_at_the_last_snapshot_within_the_band():
    course = pd.DataFrame({"step": [0, 15, 30, 45, 60], "kl": [0.35, 0.31, 0.44, 0.5, 0.29]})
    assert policies.last_within(course) == 30
    assert policies.last_within(course.assign(kl=[0.0, 0.1, 0.9, 0.29, 0.6])) == 45


@pytest.mark.parametrize("bad", ["c7", "A3 c7", "A3 </answer> <confidence>", "A9 </answer> <confidence> c7", ""])
def test_a_completion_without_an_answer_or_a_confidence_is_none(bad):
    question = "Q w1 A3 ? <answer>"
    assert ex.stated(question, " A3 </answer> <confidence> c10 </confidence>").endswith("c10")
    assert ex.stated(question, bad) is None


# --- A small run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Pairs, identification, two arms' reward models, a policy of each task and their evaluation at smoke scale."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDOR_RESULTS", str(tmp_path_factory.mktemp("results")))
        # What is read here does not depend on where the fits end.
        patch.setattr(response_types, "em", partial(response_types.em, iterations=100))
        patch.setattr(response_types, "stepmix", partial(response_types.stepmix, starts=1))
        known, scale = dict(experiments.steps()), config.load("smoke")
        whole = known[f"{ROOT}/rewards"]
        known[whole.key] = replace(whole, options={**whole.options, "arms": ("naive", "naive_4x", "weight")})
        yield lambda name: steps.run(f"{ROOT}/{name}", 11, known, scale)[0]


def test_pairs_and_what_their_judges_tell(results):
    pairs, row = ex.load_pairs(results("pairs")), results("pairs").table("counts").iloc[0]
    assert len(pairs) == config.load("smoke")["world"]["annotators"]["pairs"]
    assert (pairs.tenths[:, 0] != pairs.tenths[:, 1]).all() and pairs.features.shape == (len(pairs), 2, 64)
    assert 0 <= row["discarded"] < 1 and row["same_answer"] == (pairs.answer[:, 0] == pairs.answer[:, 1]).mean()
    tables = {name: results("identification").table(name) for name in ("shares", "flips", "bic", "assignment")}
    methods = {"em", "stepmix", *(f"{kind}_start{i}" for kind in ("retest", "em") for i in (1, 2, 3))}
    assert set(tables["shares"]["method"]) == methods and len(tables["flips"]) == 6
    assert tables["shares"][list(judges.TYPES)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-6)
    assert tables["bic"]["classes"].tolist() == [3, 4, 5] and tables["assignment"]["occasions"].tolist() == [4, 8]


def test_reward_models_leave_a_gate_and_matched_policies_and_are_read_back(results):
    from candor.train import models

    made = results("rewards")
    gate, tilt = made.table("gate").set_index("arm"), made.table("tilt").set_index(["condition", "arm"])
    assert gate.index.tolist() == ["naive", "naive_4x", "weight"]
    assert gate["pairs"].tolist() == [300, 1200, 300] and gate["labels"].tolist() == [300, 1200, 1200]
    assert tilt["kl"]["kl_0.15"].to_numpy() == pytest.approx([0.15] * 3, abs=1e-3)
    base = tilt.loc["base", "base"]
    assert (base["kl"], base["win_genuine"], base["win_production"]) == pytest.approx((0, 0.5, 0.5))
    assert set(made.table("reliability")["arm"]) == {"base", *gate.index}
    assert made.table("fan").groupby("arm").size().eq(44).all()
    settings = config.load("smoke")["world"]["annotators"]
    decoder = models.load_decoder(steps.read("witnesses/expert/base", 11, "smoke").model)[0].eval()
    evaluation = policies.Evaluation(decoder, settings["eval_questions"], settings["eval_seed"])
    for arm in ("naive", "weight"):
        found = evaluation.gate(evaluation.rewards(ex.load_reward(decoder, made, arm)), 1.0)
        assert found["quality_slope"] == pytest.approx(gate.loc[arm, "quality_slope"], rel=1e-3)


def test_policies_are_measured_beside_base_and_closed_form(results):
    row, full = (results(f"eval_policy_{name}").table("summary").iloc[0] for name in ("naive", "weight_full"))
    assert np.isfinite(row[[f"{at}{name}" for name in MEASURES for at in ("", "closed_")]].astype(float)).all()
    assert row["accuracy"] == row["accuracy_before"] and full["accuracy"] != full["accuracy_before"]
    assert row["closed_kl"] == pytest.approx(row["kl"], abs=1e-3)
    course = results("eval_policy_naive").table("trajectory")
    assert course["step"].tolist() == [0, 2] and row["step"] == 2 and course["kl"].iloc[0] == 0 < course["kl"].iloc[1]
