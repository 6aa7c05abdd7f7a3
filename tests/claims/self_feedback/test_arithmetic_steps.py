"""The steps of arithmetic: what is declared, what pairs, judges and rewards hold, small runs of the trainers."""

import doctest
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from candor.claims.self_feedback import run as arithmetic
from candor.claims.self_feedback import self_confidence, world
from candor.claims.self_feedback.self_confidence import preference_pairs
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.run import steps as experiments
from candor.train import models, reward_model, sft
from candor.train.policy import check_anchor, rloo
from datasets import Dataset
from numerics import ROUNDING

ROOT = "arithmetic/standard"
STARTS = {"fluency": "seeds", "assured": "seeds", "binary": "seeds", "base": "few_seeds", "sharpened": "few_seeds"}
CONTROLS = {"fluency_shuffled_2", "fluency_gold", "fluency_dpo", "fluency_rlsf_long", "online"}


def needs_of(key):
    """The names of all steps that a step rests on."""
    step = arithmetic.STEPS[key]
    return {key.split("/")[-1]}.union(*(needs_of(need) for need in step.needs))


# --- What is declared -------------------------------------------------------------------------------


def test_examples_hold():
    assert doctest.testmod(self_confidence).failed == 0


def test_every_arm_is_declared_with_its_evaluation_and_seeds():
    seeds = {key.removeprefix(f"{ROOT}/"): step.seeds for key, step in arithmetic.STEPS.items() if ROOT in key}
    for start, wanted in STARTS.items():
        assert {seeds[f"{kind}_{start}"] for kind in ("labels", "judge", "rlsf", "eval_rlsf")} == {wanted}
        assert seeds[start] == seeds[f"eval_{start}"] == "seeds"
    assert seeds["fluency_shuffled"] == seeds["eval_fluency_shuffled"] == "seeds"
    for name in CONTROLS:
        assert seeds[name] == seeds[f"eval_{name}"] == "few_seeds"
    assert {seeds[f"eval_fluency_sft_{i}"] for i in (1, 2, 3)} == {seeds["fluency_sft"]} == {"few_seeds"}
    trap = {key.split("/")[2] for key in arithmetic.STEPS if "/half_trap/" in key}
    assert {"base", "fluency", "rlsf_fluency"} <= trap and {f"eval_{n}" for n in ("base", "rlsf_fluency")} <= trap
    laptop = config.load("laptop")
    assert experiments.seeds_of(arithmetic.STEPS["arithmetic/half_trap/base"], laptop) == (11,)
    assert set(arithmetic.STEPS) <= set(experiments.steps())


def test_the_laptop_scale_is_the_specification():
    settings = config.load("laptop")["world"]["arithmetic"]
    wanted = {
        **{"eval_questions": 4000, "curve_questions": 1000, "branch_prompts": 600, "fixed_prompts": 400},
        **{"hidden_size": 64, "layers": 3, "heads": 4, "mlp": 128, "initializer_range": 0.1},
        **{"base_steps": 800, "base_batch": 128, "base_lr": 4e-3, "base_weight_decay": 0.01},
        **{"prompts_per_step": 16, "num_generations": 8, "binary_steps": 110, "binary_lr": 5e-4},
        # The plan's cost of a token is .1: see data/tuning/fluency.csv and notebook 06.
        **{"fluency_steps": 20, "fluency_lr": 3e-4, "fluency_beta": 0.05, "length_cost": 0.3},
        **{"assured_steps": 60, "assured_batch": 128, "assured_lr": 3e-4, "temperature_labels": 200},
        **{"label_prompts": 1200, "branches": 10, "threshold": 0.9, "pairs": 8000},
        **{"judge_lr": 1e-3, "judge_batch": 64, "rlsf_steps": 30, "rlsf_lr": 2e-4, "rlsf_beta": 0.05},
        **{"long_steps": 120, "long_every": 30, "dpo_lr": 1e-4, "dpo_beta": 0.2, "dpo_batch": 64},
        **{"sft_epochs": 2, "sft_lr": 3e-4, "sft_batch": 64, "online_steps": 160, "online_lr": 5e-4},
    }
    assert {name: settings[name] for name in wanted} == wanted
    torch.manual_seed(0)
    shape = {name: settings[name] for name in arithmetic._MODEL}
    model = arithmetic.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **shape)
    assert sum(p.numel() for p in model.parameters()) == 126_464
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.1, rel=0.05)


def test_no_evaluation_is_upstream_of_feedback():
    for name in ("labels_fluency", "judge_assured", "rlsf_binary", "fluency_shuffled", "fluency_dpo", "fluency_sft"):
        assert not any(need.startswith("eval_") for need in needs_of(f"{ROOT}/{name}"))


# --- Prompts alone ----------------------------------------------------------------------------------


def test_prompts_alone_pass():
    given = world.questions(30, np.random.default_rng(0))
    ids = given.prompt_ids()
    assert (arithmetic.prompts_only(ids) == ids).all()
    answered = np.concatenate([ids, world.ZERO + given.truth[:, None]], 1)
    for other in (answered, answered[:, 1:], given.truth, ids.astype(float)):
        with pytest.raises(CandorError, match="prompts alone"):
            arithmetic.prompts_only(other)


# --- Pairs ------------------------------------------------------------------------------------------


def test_pairs_are_all_ordered_ones_above_the_threshold():
    rng = np.random.default_rng(0)
    confidence = rng.random((40, 6)).round(1)  # with ties
    found = preference_pairs(confidence, 0.9)
    wanted = {
        (p, i, j)
        for p in range(40)
        for i in range(6)
        for j in range(6)
        if confidence[p, i] >= 0.9 and confidence[p, i] > confidence[p, j]
    }
    assert set(map(tuple, found[["prompt", "chosen", "rejected"]].to_numpy())) == wanted and len(found) == len(wanted)
    difference = confidence[found["prompt"], found["chosen"]] - confidence[found["prompt"], found["rejected"]]
    assert found["margin"].to_numpy() == pytest.approx(np.exp(difference)) and found["margin"].min() > 1


@pytest.mark.parametrize("confidence", [[0.95, 0.95, 0.95], [0.5, 0.1, 0.2]])
def test_ties_and_doubt_make_no_pair(confidence):
    assert preference_pairs(np.array([confidence])).empty


# --- Models -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A small decoder that has learned the grammar, in its folder."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "layers": 2, "heads": 4, "mlp": 64, "initializer_range": 0.1}
    model = arithmetic.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **shape)
    rng = np.random.default_rng(0)
    tokens, spoken = world.documents(world.questions(3200, rng), "standard", rng)
    targets = np.where(spoken, tokens, sft.IGNORED)
    how = {"steps": 100, "batch_size": 32, "lr": 0.01, "seed": 0, "one_cycle": True, "log_every": 10}
    log = sft.supervised(model, tokens, targets, **how)
    assert log["loss"].iloc[-1] < 0.7 * log["loss"].iloc[0]
    models.save_decoder(model, world.tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def given():
    return world.questions(40, np.random.default_rng(1))


@pytest.fixture(scope="module")
def branches(start, given):
    return arithmetic.labelled(arithmetic._load(start), given.prompt_ids(), 6)


def test_labels_know_prompts_only(start, given, branches):
    """The same prompts with other truths give the same labels, and a wrong trace may be preferred to a right one."""
    other = replace(given, shifted=(given.smudge >= 0) & ~given.shifted)
    again = arithmetic.labelled(arithmetic._load(start), other.prompt_ids(), 6)
    assert (np.stack(branches["ids"]) == np.stack(again["ids"])).all()
    assert (branches["disparity"] == again["disparity"]).all()
    assert not {"truth", "right", "correct", "posterior"} & set(branches)


def test_confidences_are_those_of_the_branches(start, given, branches):
    """The teacher-forced pass finds what was found while decoding."""
    from candor.claims.self_feedback.branching import branch, span_confidence

    model = arithmetic._load(start)
    found = branch(model, given.prompt_ids().tolist(), 6, world.NEW_TOKENS)
    at = world.read(found.tokens.reshape(-1, world.NEW_TOKENS)).answer_at.reshape(40, 6)
    for kind in ("disparity", "probability"):
        wanted = np.nan_to_num(span_confidence(found, np.where(at > 0, at, 1), np.where(at > 0, at + 1, 0), kind))
        assert branches[kind].to_numpy().reshape(40, 6) == pytest.approx(wanted, abs=ROUNDING)
    assert (branches["answer"] >= 0).mean() > 0.5


def test_the_answers_mind_is_that_of_its_token(start):
    output = arithmetic.Output(
        np.zeros((2, 8), int),
        world.read([world.tokens_of("d1 = 1 <eos>"), world.tokens_of("d1 7")]),
        np.log(np.where(np.arange(40) == world.ZERO + 1, 0.3, np.where(np.arange(40) == world.ZERO, 0.5, 0.2 / 38)))[
            None
        ].repeat(2, 0),
    )
    assert output.confidence() == pytest.approx([0.3, 0.0])  # no answer, no confidence
    assert output.confidence("disparity") == pytest.approx([0.2, 0.0])  # of the distribution, not of what is written
    assert output.confidence(temperature=0.5)[0] < 0.3


def test_sharpening_is_a_temperature_of_one_half(start, given):
    model = arithmetic._load(start)
    ids = arithmetic.branched(model, given.prompt_ids(), 1)[:, 0]
    before = arithmetic.logits_of(model, given.prompt_ids(), ids)
    with torch.no_grad():
        model.model.norm.weight.mul_(arithmetic.SHARPENING)
    assert arithmetic.logits_of(model, given.prompt_ids(), ids) == pytest.approx(2 * before, rel=1e-3, abs=1e-3)


# --- Judge and policy -------------------------------------------------------------------------------


def judged_pairs(n=200):
    """Full traces are preferred to direct ones."""
    given = world.questions(n, np.random.default_rng(2))
    asked = given.prompt_ids().tolist()
    chosen = [[*a, *world.tokens_of("f1 1 2 3 4 = 5 <eos>")] for a in asked]
    return chosen, [[*a, *world.tokens_of("d1 = 5 <eos>")] for a in asked]


@pytest.fixture(scope="module")
def judge(start):
    model = reward_model.load(start, seed=0)
    chosen, rejected = judged_pairs()
    _, tokenizer = models.load_decoder(start)
    settings = {"seed": 0, "max_steps": 20, "learning_rate": 3e-3, "per_device_train_batch_size": 16}
    margin = np.full(len(chosen), 2.0)
    log = reward_model.bradley_terry(model, tokenizer, chosen, rejected, settings, margin=margin)
    return model, tokenizer, log


def test_a_judge_learns_its_pairs(judge):
    model, _, log = judge
    good, bad = (reward_model.score(model, rows) for rows in judged_pairs(20))
    assert (good > bad).all() and log["accuracy"].iloc[-1] == 1


def test_margins_reach_the_loss(start):
    """Before the first update the loss is -log sigma(difference - margin)."""
    chosen, rejected = judged_pairs(16)
    _, tokenizer = models.load_decoder(start)
    first = {}
    for margin in (0.0, 2.0):
        model = reward_model.load(start, seed=0)
        scores = [torch.tensor(reward_model.score(model, rows)) for rows in (chosen, rejected)]
        settings = {"seed": 0, "max_steps": 1, "learning_rate": 1e-3, "per_device_train_batch_size": 16}
        settings |= {"logging_steps": 1}
        log = reward_model.bradley_terry(model, tokenizer, chosen, rejected, settings, margin=[margin] * 16)
        wanted = -torch.nn.functional.logsigmoid(scores[0] - scores[1] - margin).mean()
        assert log["loss"].iloc[0] == pytest.approx(wanted.item(), abs=2e-3)
        first[margin] = log["loss"].iloc[0]
    assert first[2.0] > first[0.0] + 1


def test_no_pair_is_a_sentence(judge):
    model, tokenizer, _ = judge
    with pytest.raises(CandorError, match="lower the threshold"):
        reward_model.bradley_terry(model, tokenizer, [], [], {}, margin=[])


def test_a_reward_is_centred_divided_and_clipped():
    scale = arithmetic.scale_of(np.linspace(3, 5, 1001))
    assert (scale["centre"], scale["divisor"]) == (pytest.approx(4), pytest.approx(0.98))
    with pytest.raises(CandorError, match="alike"):
        arithmetic.scale_of(np.ones(10))
    reward = reward_model.scaled(lambda completions, **_: [4.0, 4.49, 9.0], 4.0, 0.98)
    assert reward(completions=["d1 = 5"] * 3, prompts=["Q :"] * 3) == pytest.approx([0, 0.5, 1])


def test_the_policy_follows_the_judge_from_an_anchor_that_is_its_start(start, judge, tmp_path):
    model, tokenizer, _ = judge
    given = world.questions(60, np.random.default_rng(4))
    reward = reward_model.scaled(reward_model.as_reward(model, tokenizer), 0.0, 2.0)
    settings = {
        "seed": 0,
        "max_steps": 12,
        "per_device_train_batch_size": 32,
        "num_generations": 4,
        "max_completion_length": world.NEW_TOKENS,
        "learning_rate": 3e-3,
        "beta": 0.05,
        "logging_steps": 1,
    }
    trained, _ = models.load_decoder(start)
    log = rloo(trained, tokenizer, Dataset.from_dict({"prompt": given.prompts()}), reward, settings)
    check_anchor(log)  # KL 0 at first
    assert log["kl"].iloc[-1] > 0.001 and log["reward"].iloc[-3:].mean() > log["reward"].iloc[:3].mean()
    with pytest.raises(CandorError, match="anchor"):
        check_anchor(pd.DataFrame({"kl": [0.1]}))
    saved = tmp_path / "trained"
    models.save_decoder(trained, tokenizer, saved)
    asked = given.prompt_ids()
    ids = arithmetic.sampled(arithmetic._load(saved), asked, 0)
    assert arithmetic.divergence(arithmetic._load(saved), arithmetic._load(start), asked, ids) > 0.001
    assert arithmetic.divergence(arithmetic._load(start), arithmetic._load(start), asked, ids) == 0


# --- Evaluation -------------------------------------------------------------------------------------


def test_ranking_is_graded_over_all_truths():
    """A smudged question whose two answers are ranked by their probability is worth .6 in expectation."""
    given = world.Questions(np.array([7]), np.array([[0, 4, 2, 0]]), np.array([1]), np.array([True]))
    clean, shifted = 5, 0
    found = arithmetic.ranked(np.array([[0.9, 0.5]]), given, np.array([[clean, shifted]]))
    assert found["within_auroc"] == pytest.approx(0.6) and found["within_auroc_truth"] == 0
    assert found["within_prompts"] == 1


def written(texts, confidence):
    """An output of these completions whose answers have these probabilities."""
    traces = world.read([world.tokens_of(text) for text in texts])
    probability = np.full((len(texts), 40), 1e-12)
    probability[:, world.PAD] = 1 - np.array(confidence)
    probability[np.arange(len(texts)), world.ZERO + np.maximum(traces.answer, 0)] = confidence
    return arithmetic.Output(world.matrix([world.tokens_of(text) for text in texts]), traces, np.log(probability))


def test_four_ways_to_an_answer():
    given = world.Questions(np.array([1]), np.array([[1, 0, 0, 0]]), np.array([-1]), np.array([False]))
    assert given.truth[0] == 2
    greedy = written(["d1 = 7 <eos>"], [0.4])
    branches = written(
        ["d1 = 7 <eos>", "d2 = 7 <eos>", "d3 = 7 <eos>", "f1 2 2 2 2 = 2 <eos>"], [0.55, 0.55, 0.55, 0.95]
    )
    table = arithmetic.decoding(given, greedy, branches, 4).set_index("method")
    assert table["accuracy"].to_dict() == {"greedy": 0, "max_path": 1, "aggregated": 1, "majority": 0}
    assert table["confidence"].to_dict() == pytest.approx(
        {"greedy": 0.4, "max_path": 0.95, "aggregated": 0.9 / 1.2, "majority": 0.75}, abs=ROUNDING
    )


def test_missing_answers_count_as_wrong_with_no_confidence():
    given = world.questions(2, np.random.default_rng(5))
    output = written([f"d1 = {given.truth[0]} <eos>", "d1 7"], [0.9, 0.9])
    row = arithmetic.measures(output, given, "") | arithmetic.styles(output, given)
    assert row["accuracy_truth"] == 0.5 and row["zeros"] == 1 and row["malformed"] == 0.5
    assert row["confidence"] == pytest.approx(0.45) and row["share_direct"] == 0.5


def test_fixed_traces_measure_the_mind_not_the_traces(start, given):
    model = arithmetic._load(start)
    ids = arithmetic.branched(model, given.prompt_ids(), 3)
    row = arithmetic.on_fixed(model, given, ids)
    with torch.no_grad():
        model.model.norm.weight.mul_(4)
    sharper = arithmetic.on_fixed(model, given, ids)
    assert sharper["fixed_accuracy"] == row["fixed_accuracy"] and sharper["fixed_gap"] > row["fixed_gap"] + 0.1


# --- End to end -------------------------------------------------------------------------------------

SMALL = {
    **{"base_steps": 60, "eval_questions": 60, "branch_prompts": 20, "fixed_prompts": 10, "temperature_labels": 20},
    **{"label_prompts": 20, "threshold": 0.05, "pairs": 32, "curve_questions": 20, "branches": 5},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tables of one chain of steps, made as the graph makes them."""
    settings = config.load("smoke", overrides={"world": {"arithmetic": SMALL}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDOR_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield lambda name: steps.run(f"{ROOT}/{name}", 0, experiments.steps(), settings)[0]


def test_a_chain_of_steps_leaves_its_tables(finished):
    row = finished("eval_rlsf_base").table("summary").iloc[0]
    start = finished("eval_base")
    assert start.table("summary")["kl"].item() == 0 and row["kl"] == row["kl_start"] > 0
    for share in ("share_direct", "share_half", "share_full", "malformed"):
        assert 0 <= row[share] <= 1
    assert row[["share_direct", "share_half", "share_full", "malformed"]].sum() == pytest.approx(1)
    assert row["greedy_gap"] == pytest.approx(row["greedy_confidence"] - row["greedy_accuracy"])
    bins = start.table("reliability")
    assert (bins.groupby(["mode", "measure"])["n"].sum() == 60).all() and len(bins) == 40
    assert set(start.table("decoding")["method"]) == {"greedy", "max_path", "aggregated", "majority"}
    sweep = start.table("temperatures").set_index("temperature")
    summary = start.table("summary").iloc[0]
    assert sweep.loc[1.0, "ece"] == pytest.approx(summary["greedy_ece"]) and sweep["accuracy"].nunique() == 1
    assert start.table("decoding").set_index("method").loc["greedy", "ece"] == pytest.approx(summary["greedy_ece"])


def test_labels_are_pairs_of_the_starts_own_branches(finished):
    made = finished("labels_base")
    branches, chosen, pairs = (made.table(name) for name in ("branches", "chosen", "pairs"))
    assert len(branches) == 20 * 5 and len(chosen) <= 32 and pairs["number"].item() >= len(chosen)
    disparity = branches["disparity"].to_numpy().reshape(20, 5)
    rows = chosen["prompt"]
    difference = disparity[rows, chosen["chosen"]] - disparity[rows, chosen["rejected"]]
    assert (difference > 0).all() and chosen["margin"].to_numpy() == pytest.approx(np.exp(difference))
    assert pairs["prompts_only"].item()
    tree = made.table("traces")
    assert len(tree) == 5 and tree["first"].nunique() == 5 and tree["prompt"].nunique() == 1
    assert set(tree["right"]) <= {0, 0.4, 0.6, 1}


def test_a_judge_reports_the_scale_of_its_scores(finished):
    row = finished("judge_base").table("summary").iloc[0]
    assert row["divisor"] == pytest.approx((row["high"] - row["low"]) / 2) and 0 <= row["pair_accuracy"] <= 1
    assert len(finished("judge_base").table("log")) > 0
