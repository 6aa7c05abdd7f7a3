"""The annotators' steps: what is declared, how arms make labels, measures against simulation, one small run."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from candor.claims.annotation_noise import judges, response_types
from candor.claims.annotation_noise import run as ex
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.run import steps as experiments

ROOT = "annotators/main"
MAIN = judges.SETTINGS["main"]


# --- Declared -----------------------------------------------------------------------------------------


def test_every_setting_has_reward_models_on_its_seeds():
    assert set(ex.ARMS) == set(judges.SETTINGS)
    for setting, arms in ex.ARMS.items():
        step = ex.STEPS[f"annotators/{setting}/rewards"]
        assert step.seeds == ("few_seeds" if setting in ("strong", "half_frame", "no_penalty") else "seeds")
        assert step.options["arms"] == arms
        assert step.needs == ("witnesses/expert/base", f"{ROOT}/pairs")
    assert {"naive", "naive_4x", "rdpo", "retest", "dropN", "dropNC", "weight", "frbal", "frrand"} < set(
        ex.ARMS["main"]
    )


def test_every_policy_is_evaluated_on_its_seeds():
    policies = {key for key in ex.STEPS if "/policy_" in key}
    assert {key.split("policy_")[1] for key in policies if ex.STEPS[key].seeds == "seeds"} == {"naive", "weight"}
    for key in policies:
        evaluation = ex.STEPS[key.replace("/policy_", "/eval_policy_")]
        assert key in evaluation.needs
        assert evaluation.seeds == ex.STEPS[key].seeds
        assert evaluation.options["arm"] == ex.STEPS[key].options["arm"]
    fixed = [ex.STEPS[f"{ROOT}/policy_{arm}_beta"].options["beta"] for arm in ("naive", "weight")]
    assert fixed == [0.3, 0.3]


def test_the_laptop_scale_is_the_specification():
    settings = config.load("laptop")["world"]["annotators"]
    wanted = {
        **{"pairs": 24_000, "cells": 8000, "eval_questions": 20_000, "eval_seed": 7001},
        **{"reward_epochs": 12, "reward_batch": 512, "reward_lr": 2e-3, "reward_decay": 0.05},
        **{"rloo_steps": 150, "rloo_prompts": 32, "num_generations": 8, "rloo_lr": 1e-3},
    }
    assert {name: settings[name] for name in wanted} == wanted
    assert ex.KLS == (0.05, 0.15, 0.40)


# --- Arms ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared():
    """Made-up pairs and what a panel says of them."""
    rng, n = np.random.default_rng(0), 4000
    answer = rng.integers(8, size=(n, 2))
    tenths = np.stack([rng.integers(11, size=n), rng.integers(10, size=n)], 1)
    tenths[:, 1] += tenths[:, 1] >= tenths[:, 0]
    right = rng.random((n, 2)) < 0.5
    pairs = ex.Pairs(answer, tenths, right, np.full((n, 2), 0.5), rng.normal(size=(n, 2, 4)).astype(np.float32))
    panel = ex.ask_panel(pairs.utility_gap(1.0), MAIN, rng)
    return pairs, panel, response_types.em(panel.four, start=response_types.STARTS[0])


def arm(name, compared, setting=MAIN):
    return ex.make_arm(name, *compared, setting, seed=0)


def test_a_random_frame_makes_coins_of_constructed_answers(compared):
    pairs, panel, _ = compared
    label = arm("frrand", compared).label
    follows = (label == pairs.more)[panel.types == judges.CONSTRUCTED].mean()
    naive = (arm("naive", compared).label == pairs.more)[panel.types == judges.CONSTRUCTED].mean()
    assert follows == pytest.approx(0.5, abs=0.05)
    assert naive == pytest.approx(0.95, abs=0.02)


def test_types_decide_what_is_dropped_and_weighted(compared):
    pairs, panel, fit = compared
    n, both = arm("dropN", compared), arm("dropNC", compared)
    assert (fit.types[n.index] != judges.NON_ATTITUDE).all() and len(n.index) < len(pairs)
    assert (fit.types[both.index] == judges.GENUINE).all() and len(both.index) < len(n.index)
    weight = arm("weight", compared).weight
    assert weight[panel.types == judges.GENUINE].mean() > weight[panel.types != judges.GENUINE].mean() + 0.3
    oracle = arm("oracle", compared)
    assert (panel.types[oracle.index] == judges.GENUINE).all()
    assert len(oracle.index) == (panel.types == judges.GENUINE).sum()


def test_filters_drop_whole_annotators_by_what_they_are_named_for():
    rng, setting = np.random.default_rng(1), judges.SETTINGS["one_type"]
    n = 8000
    tenths = np.tile([3, 7], (n, 1))
    pairs = ex.Pairs(np.zeros((n, 2), int), tenths, rng.random((n, 2)) < 0.5, np.full((n, 2), 0.5), np.zeros((n, 2, 4)))
    panel = ex.ask_panel(pairs.utility_gap(1.0), setting, rng)
    compared = pairs, panel, response_types.em(panel.four, start=response_types.STARTS[0])
    kept = {name: arm(name, compared, setting).index for name in ex.ARMS["one_type"] if name.startswith("filter")}
    for name, index in kept.items():
        left = 40 - 40 * int(name.split("_")[2]) // 100
        assert len(set(panel.annotator[index])) == left
        assert np.isin(panel.annotator, panel.annotator[index]).sum() == len(index)
    assert (panel.types[kept["filter_frame_50"]] == judges.GENUINE).all()
    stable = panel.types[kept["filter_retest_20"]]
    assert np.bincount(stable, minlength=3)[1] < np.bincount(panel.types)[1]
    assert (stable == judges.CONSTRUCTED).any()
    weights = arm("weight", compared, setting).weight
    assert weights[panel.types == judges.GENUINE].min() > 0.99 > 0.01 > weights[panel.types != judges.GENUINE].max()


def test_agreement_trusts_constructed_answers():
    """Five annotators of one type each; genuine ones have little to choose between two answers that are both right."""
    rng, setting, n = np.random.default_rng(2), judges.SETTINGS["one_type"], 3000
    tenths = np.where(rng.random((n, 1)) < 0.5, [4, 6], [6, 4])
    right = np.repeat(rng.random((n, 1)) < 0.5, 2, axis=1)
    pairs = ex.Pairs(np.zeros((n, 2), int), tenths, right, np.full((n, 2), 0.5), np.zeros((n, 2, 4)))
    follows = ((ex.inferred_truth(pairs, setting, rng) > 0.5) == pairs.more).mean()
    panel = ex.ask_panel(pairs.utility_gap(1.0), setting, rng)
    assert follows > panel.production.mean() + 0.1 > 0.7


# --- Measures -----------------------------------------------------------------------------------------


def random_policies(n=50, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.dirichlet(np.ones(11), (n, 2))
    return base, rng.normal(size=(n, 2, 11))


@pytest.mark.parametrize("kl", ex.KLS)
def test_beta_tilts_the_base_as_far_as_asked(kl):
    base, reward = random_policies()
    policy = ex.tilted(base, reward, ex.beta_for(base, reward, kl))
    assert policy.sum(-1) == pytest.approx(np.ones((50, 2)))
    assert ex.kl_of(policy, base) == pytest.approx(kl, abs=1e-4)
    assert ex.kl_of(base, base) == 0


def test_rescaled_rewards_lie_on_the_same_curve():
    base, reward = random_policies()
    one, other = (ex.tilted(base, r, ex.beta_for(base, r, 0.15)) for r in (reward, 3 * reward + 5))
    assert one == pytest.approx(other, abs=1e-3)


def test_a_constant_reward_goes_nowhere():
    base, _ = random_policies()
    with pytest.raises(CandorError, match="nearly constant"):
        ex.beta_for(base, np.zeros_like(base), 0.1)


def test_ece_has_one_bin_a_token():
    policy = np.zeros((4, 11))
    policy[[0, 1], 5], policy[[2, 3], 9] = 1, 1
    exact = np.array([0.5, 0.7, 0.2, 0.6])
    assert ex.ece_of(policy, exact) == pytest.approx((abs(1.2 - 1.0) + abs(0.8 - 1.8)) / 4)


class MadeUp(ex.Evaluation):
    """An evaluation of made-up questions, answers and base."""

    def __init__(self, n=400, seed=0):
        rng = np.random.default_rng(seed)
        self.posterior = rng.dirichlet(np.ones(8), n)
        self.answer = rng.integers(8, size=(n, 2))
        self.answer[: n // 2, 1] = self.answer[: n // 2, 0]
        self.exact = np.take_along_axis(self.posterior, self.answer, 1)
        self.base = rng.dirichlet(np.ones(11), (n, 2))


@pytest.mark.parametrize("setting", ["main", "style_lovers", "no_penalty"])
def test_the_base_wins_half_against_itself(setting):
    made = MadeUp()
    row = made.measures(made.base, made.worth(judges.SETTINGS[setting]))
    assert row["kl"] == 0
    assert (row["win_genuine"], row["win_production"]) == pytest.approx((0.5, 0.5))


def test_wins_are_those_of_simulated_contests():
    made, rng = MadeUp(), np.random.default_rng(3)
    policy = rng.dirichlet(np.ones(11) * 0.5, (400, 2))
    row = made.measures(policy, made.worth(MAIN))
    wins = []
    for _ in range(200):
        guilty = (made.posterior.cumsum(1) < rng.random((400, 1))).sum(1)
        right = made.answer == guilty[:, None]
        ours, theirs = (
            (p.cumsum(2) < rng.random((400, 2, 1))).sum(2).clip(max=10) / 10 for p in (policy, made.base[:, ::-1])
        )
        du = judges.utility(right, ours) - judges.utility(right[:, ::-1], theirs)
        wins.append([p.mean() for p in judges.preferences(du, ours - theirs, MAIN)])
    assert np.mean(wins, 0) == pytest.approx([row["win_genuine"], row["win_production"]], abs=0.004)


def test_a_policy_that_knows_the_posterior_is_calibrated():
    made = MadeUp()
    known = np.zeros((400, 2, 11))
    np.put_along_axis(known, np.rint(made.exact * 10).astype(int)[..., None], 1, 2)
    row = made.measures(known, made.worth(MAIN))
    assert row["ece"] < 0.03
    assert row["brier"] == pytest.approx((made.exact * (1 - made.exact)).mean(), abs=0.002)
    table = made.reliability(known)
    assert table["n"].sum() == pytest.approx(400)


def test_the_gate_tells_what_a_reward_follows():
    made = MadeUp()
    q = np.broadcast_to(np.arange(11) / 10, made.base.shape)
    p = np.broadcast_to(made.exact[..., None], made.base.shape)
    evidence, style = made.gate(2 * p + 0 * q, 1.0), made.gate(3 * q + 0 * p, 1.0)
    assert evidence["posterior_correlation"] == pytest.approx(1)
    assert evidence["confidence_slope"] == pytest.approx(0, abs=1e-9)
    assert (style["posterior_correlation"], style["confidence_slope"]) == pytest.approx((0, 3), abs=1e-9)
    truth = p - (p * (1 - q) ** 2 + (1 - p) * q**2)
    assert made.gate(1.7 * truth, 1.0)["quality_slope"] == pytest.approx(1.7)


def test_the_fan_is_centred_on_what_the_base_states():
    made = MadeUp()
    table = made.fan(np.broadcast_to(np.arange(11) / 10 + 7, made.base.shape))
    assert table["band"].nunique() == 4 and len(table) == 44
    each = table.groupby("confidence")["reward"].mean()
    assert each.iloc[-1] - each.iloc[0] == pytest.approx(1)
    assert each.abs().max() < 1


def test_policies_are_compared_at_the_last_snapshot_within_the_band():
    course = pd.DataFrame({"step": [0, 15, 30, 45, 60], "kl": [0.35, 0.31, 0.44, 0.5, 0.29]})
    assert ex.last_within(course) == 30
    assert ex.last_within(course.assign(kl=[0.0, 0.1, 0.9, 0.29, 0.6])) == 45


def test_answer_and_confidence_together_agree_with_simulation():
    rng, n = np.random.default_rng(4), 300
    exact = rng.dirichlet(np.ones(8), n)
    base, policy = (rng.dirichlet(np.ones(88) * a, n).reshape(n, 8, 11) for a in (1, 0.3))
    assert ex.full_measures(base, base, exact, MAIN)["win_genuine"] == pytest.approx(0.5)
    row = ex.full_measures(policy, base, exact, MAIN)
    assert row["accuracy"] == pytest.approx((policy.sum(2) * exact).sum(1).mean())
    wins = []
    for _ in range(200):
        guilty = (exact.cumsum(1) < rng.random((n, 1))).sum(1)
        drawn = [(p.reshape(n, -1).cumsum(1) < rng.random((n, 1))).sum(1).clip(max=87) for p in (policy, base)]
        u = [judges.utility(d // 11 == guilty, d % 11 / 10) for d in drawn]
        both = judges.preferences(u[0] - u[1], drawn[0] % 11 - drawn[1] % 11, MAIN)
        wins.append([p.mean() for p in both])
    assert np.mean(wins, 0) == pytest.approx([row["win_genuine"], row["win_production"]], abs=0.005)


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
        names = ("pairs", "identification", "rewards", "eval_policy_naive", "eval_policy_weight_full")
        yield {name: steps.run(f"{ROOT}/{name}", 11, known, scale)[0] for name in names}, scale


def test_pairs_differ_in_confidence_and_are_counted(results):
    made, scale = results
    pairs = ex.load_pairs(made["pairs"])
    assert len(pairs) == scale["world"]["annotators"]["pairs"]
    assert (pairs.tenths[:, 0] != pairs.tenths[:, 1]).all()
    assert pairs.features.shape == (len(pairs), 2, 64)
    row = made["pairs"].table("counts").iloc[0]
    assert 0 <= row["discarded"] < 1
    assert row["same_answer"] == (pairs.answer[:, 0] == pairs.answer[:, 1]).mean()


def test_identification_has_every_method(results):
    made, _ = results
    shares = made["identification"].table("shares")
    methods = {"em", "stepmix", *(f"{kind}_start{i}" for kind in ("retest", "em") for i in (1, 2, 3))}
    assert set(shares["method"]) == methods
    assert shares[list(judges.TYPES)].sum(axis=1).to_numpy() == pytest.approx(np.ones(len(shares)), abs=1e-6)
    assert len(made["identification"].table("flips")) == 6
    assert made["identification"].table("bic")["classes"].tolist() == [3, 4, 5]
    assert made["identification"].table("assignment")["occasions"].tolist() == [4, 8]


def test_reward_models_leave_a_gate_and_matched_policies(results):
    made, _ = results
    gate, tilt = made["rewards"].table("gate"), made["rewards"].table("tilt")
    assert gate["arm"].tolist() == ["naive", "naive_4x", "weight"]
    assert gate["pairs"].tolist() == [300, 1200, 300] and gate["labels"].tolist() == [300, 1200, 1200]
    matched = tilt[tilt["condition"] == "kl_0.15"]
    assert matched["kl"].to_numpy() == pytest.approx([0.15] * 3, abs=1e-3)
    base = tilt[tilt["arm"] == "base"].iloc[0]
    assert (base["kl"], base["win_genuine"], base["win_production"]) == pytest.approx((0, 0.5, 0.5))
    assert set(made["rewards"].table("reliability")["arm"]) == {"base", "naive", "naive_4x", "weight"}
    assert made["rewards"].table("fan").groupby("arm").size().eq(44).all()


def test_policies_are_measured_beside_base_and_closed_form(results):
    made, scale = results
    row = made["eval_policy_naive"].table("summary").iloc[0]
    for name in ("kl", "ece", "brier", "confidence", "accuracy", "win_genuine", "win_production"):
        assert np.isfinite([row[name], row[f"{name}_before"], row[f"closed_{name}"]]).all()
    assert row["accuracy"] == row["accuracy_before"]  # the answer is the base's
    assert row["closed_kl"] == pytest.approx(row["kl"], abs=1e-3)
    course = made["eval_policy_naive"].table("trajectory")
    assert course["step"].tolist() == [0, 2] and row["step"] == 2
    assert course["kl"].iloc[0] == 0 < course["kl"].iloc[1]
    full = made["eval_policy_weight_full"].table("summary").iloc[0]
    assert full["accuracy"] != full["accuracy_before"]
    trained = steps.read(f"{ROOT}/policy_naive", 11, scale["scale"])
    tilt = made["rewards"].table("tilt").set_index(["arm", "condition"])
    assert trained.table("log")["beta"].iloc[0] == tilt.loc[("naive", "kl_0.40"), "beta"]


def test_a_reward_model_read_back_scores_the_same(results):
    from candor.train import models

    made, scale = results
    base = steps.read("witnesses/expert/base", 11, scale["scale"])
    decoder = models.load_decoder(base.model)[0].eval()
    settings = scale["world"]["annotators"]
    evaluation = ex.Evaluation(decoder, settings["eval_questions"], settings["eval_seed"])
    gate = made["rewards"].table("gate").set_index("arm")
    for arm_name in ("naive", "weight"):
        reward = evaluation.rewards(ex.load_reward(decoder, made["rewards"], arm_name))
        found = evaluation.gate(reward, 1.0)
        assert found["quality_slope"] == pytest.approx(gate.loc[arm_name, "quality_slope"], rel=1e-3)


# --- What a completion earns --------------------------------------------------------------------------


def test_completions_are_read_where_an_answer_and_a_confidence_stand():
    question = "Q w1 A3 ? <answer>"
    assert ex.stated(question, "A3 </answer> <confidence> c7") == f"{question} A3 </answer> <confidence> c7"
    assert ex.stated(question, " A3 </answer> <confidence> c10 </confidence>").endswith("c10")
    assert ex.stated(f"{question} A3 </answer> <confidence>", "c0").endswith("<confidence> c0")
    for bad in ("c7", "A3 c7", "A3 </answer> <confidence>", "A9 </answer> <confidence> c7", ""):
        assert ex.stated(question, bad) is None


def test_the_reward_is_the_models_over_beta_and_malformed_texts_come_last():
    import torch
    from candor.train import models
    from candor.train.reward_model import TwoPositionReward
    from candor.witnesses import world
    from numerics import ROUNDING

    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "layers": 2, "heads": 2, "mlp": 32}
    model = TwoPositionReward(models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **sizes)).eval()
    asked = ["Q w1 A3 ? <answer> A3 </answer> <confidence>", "Q w1 A3 w0 A5 ? <answer> A5 </answer> <confidence>"]
    said = ["c7", "c2"]
    reward = ex.reward_of(model, world.tokenizer(), beta=0.5)
    scores = reward(prompts=[*asked, asked[0]], completions=[*said, "w1"])
    for prompt, completion, score in zip(asked, said, scores):
        ids = torch.tensor([[world.TOKEN[word] for word in f"{prompt} {completion}".split()]])
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item()
        assert score == pytest.approx(alone / 0.5, rel=1e-4, abs=ROUNDING)
    assert scores[2] == pytest.approx(min(scores[:2]) - 1)
