"""Which labels the reward models of the annotators learn, and what their policies follow: see `wired`."""

import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
import wired
from candor.claims.annotation_noise import judges, panels, response_types
from candor.claims.annotation_noise import run as annotators
from candor.train import models, reward_model
from candor.witnesses import world as suspects
from wired import EVAL_SEED, KNOWN, RLOO, SEED, G, check_recipe, evaluations, total

SMALL = {
    **{"pairs": 60, "cells": 60, "eval_questions": 20, "trajectory_questions": 10, "reward_epochs": 2},
    **{"reward_batch": 16, "reward_lr": 0.0023, "reward_decay": 0.054, "rloo_steps": 2, "rloo_prompts": 3},
    **{"rloo_lr": 0.0013, "num_generations": G, "snapshot_every": 2},
}

# --- Tables -----------------------------------------------------------------------------------------

# Shares of genuine answers, non-attitudes, constructed ones; how strongly the second frame turns them; share of those
# who like confidence itself; weight of calibration; one type an annotator.
POPULATIONS = {
    "main": (0.5, 0.25, 0.25, 1, 0, 1, False),
    "noise_only": (0.6, 0.4, 0, 1, 0, 1, False),
    "quarter_noise": (0.75, 0.25, 0, 1, 0, 1, False),
    "all_genuine": (1, 0, 0, 1, 0, 1, False),
    "dead_frame": (0.5, 0.25, 0.25, -1, 0, 1, False),
    "style_lovers": (0.5, 0.25, 0.25, 1, 0.3, 1, False),
    "one_type": (0.5, 0.25, 0.25, 1, 0, 1, True),
    "strong": (0.4, 0.2, 0.4, 1, 0, 1, False),
    "half_frame": (0.5, 0.25, 0.25, 0.5, 0, 1, False),
    "no_penalty": (0.5, 0.25, 0.25, 1, 0, 0, False),
}
REPAIRS = ("naive", "rdpo", "weight", "frbal", "frrand", "oracle")
FILTERS = tuple(f"filter_{kind}_{share}" for kind in ("retest", "frame", "random") for share in (20, 50))
ARMS = dict.fromkeys(POPULATIONS, REPAIRS) | {
    "main": (*REPAIRS, "naive_4x", "retest", "dropN", "dropNC", "frrand_4x", "dawid_skene"),
    "quarter_noise": ("naive",),
    "all_genuine": (*REPAIRS, "retest", "dropN"),
    "one_type": ("naive", "weight", *FILTERS, "dawid_skene", "oracle"),
}
POLICIES = {  # arm, beta (None: where the closed form is .40 nats away), tokens
    "naive": ("naive", None, 1),
    "weight": ("weight", None, 1),
    "oracle": ("oracle", None, 1),
    "naive_full": ("naive", None, 4),
    "weight_full": ("weight", None, 4),
    "naive_beta": ("naive", 0.3, 1),
    "weight_beta": ("weight", 0.3, 1),
}


def labels_of(name, more, panel, fit, one_type):
    """Kept cells, P(first preferred) and weights of an arm, by the brief's table, from what a panel said.

    `more` [n]: is the first completion the more confident one? What a panel says is whether it chose that one.
    """
    said, rows = panel.responses[:, 0].astype(float), np.arange(len(more))  # [n, frames, orders]
    production, noise = said[rows, 0, panel.order], fit.shares[1]
    chose_more = {
        "rdpo": (production - noise / 2) / (1 - noise),
        "retest": said[:, 0].mean(1),
        "frbal": said.mean((1, 2)),
        "frrand": said[rows, panel.frame, panel.order],
    }.get(name.removesuffix("_4x"), production)
    kept = {"dropN": fit.types != 1, "dropNC": fit.types == 0, "oracle": panel.types == 0}.get(name, rows >= 0)
    weight = np.ones(len(more))
    if name == "weight":
        belief = response_types.by_annotator(fit, panel.four, panel.annotator) if one_type else fit.responsibilities
        weight = belief[:, 0]
    if name.startswith("filter"):
        _, kind, share = name.split("_")
        one, other = (said[:, 0], said[:, 1]) if kind == "frame" else (said[:, :, 0], said[:, :, 1])
        flips = pd.Series((one != other).mean(1)).groupby(panel.annotator).mean().reindex(range(40), fill_value=0)
        kept = ~np.isin(panel.annotator, np.argsort(-flips.to_numpy(), kind="stable")[: 40 * int(share) // 100])
    return kept, np.where(more, chose_more, 1 - chose_more), weight


# --- Steps ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with wired.noted(tmp_path_factory, wired.of_world("annotators", SMALL)) as run:
        from candor.witnesses import joint

        for name in ("stream", "ask_panel"):
            run.spy(panels, name)
        run.spy(annotators, "_many")
        for name in ("stream", "sample_questions"):
            run.spy(suspects, name)
        run.spy(response_types, "em", partial(response_types.em, iterations=50))
        run.spy(reward_model, "states")
        run.spy(joint, "ask")
        yield run


def test_pairs_are_the_bases_own(made):
    run = made("annotators/main/pairs")
    assert run.asked("ask", "states") == {"witnesses/expert/base"} and run.streams() == {("pairs", SEED)}


@pytest.mark.parametrize("setting", POPULATIONS)
def test_reward_models_learn_the_labels_of_their_arms_and_population(made, setting):
    run, few = made(f"annotators/{setting}/rewards"), annotators.load_pairs(made("annotators/main/pairs").result)
    names, (*shares, frame, lovers, b, one_type) = KNOWN[run.key].options["arms"], POPULATIONS[setting]
    assert sorted(names) == sorted(ARMS[setting]) and len(run.trainings) == len(names)
    panels, fit = run.called("ask_panel"), run.called("em")[-1].found
    assert {call.args[1] for call in panels} == {judges.Setting(tuple(shares), frame, lovers, b, one_type)}
    u = few.right - b * (few.tenths / 10 - few.right) ** 2
    assert panels[0].args[0] == pytest.approx(np.where(few.more, u[:, 0] - u[:, 1], u[:, 1] - u[:, 0]))
    for name, trainer in zip(names, run.trainings):
        many = name.endswith("_4x")
        pairs, panel = run.called("_many")[0].found if many else (few, panels[0].found)
        assert len(pairs) == SMALL["pairs"] * (4 if many else 1)
        recipe = {"num_train_epochs": "reward_epochs", "learning_rate": "reward_lr", "weight_decay": "reward_decay"}
        recipe |= {"per_device_train_batch_size": "reward_batch"}
        own = {"lr_scheduler_type": "constant", "center_rewards_coefficient": None, "seed": SEED}
        check_recipe(trainer, own | {field: SMALL[key] for field, key in recipe.items()})
        kept, label, weight = labels_of(name, pairs.more, panel, fit, one_type)
        data, features = trainer.train_dataset, trainer.data_collator.features.numpy()
        [held] = [c.held for c in trainer.callback_handler.callbacks if hasattr(c, "held")]
        if "random" in name:
            kept = (pairs.features[:, None, 0] == features[None, ::2]).all(2).any(1)
            assert not set(panel.annotator[kept]) & set(panel.annotator[~kept]), "whole annotators are left out"
            assert 0 < len(set(panel.annotator[~kept])) <= 40 * int(name[-2:]) // 100
        assert features == pytest.approx(pairs.features[kept].reshape(len(features), -1))
        label, weight, cut = label[kept], weight[kept], round(0.9 * kept.sum())
        assert np.ravel(data["chosen_ids"][:]).tolist() == list(range(0, 2 * cut, 2)), "the first of each pair"
        assert np.ravel(data["rejected_ids"][:]).tolist() == list(range(1, 2 * cut, 2))
        assert data["weight"][:] == pytest.approx(weight[:cut] / weight[:cut].mean())
        assert held[0].numpy() == pytest.approx(pairs.features[kept][cut:]), "what chooses the epoch is not trained on"
        if name == "dawid_skene":  # five annotators of frame + a pair
            assert ((label >= 0) & (label <= 1)).all() and data["label"][:] != label[:cut].tolist()
        else:
            assert [*data["label"][:], *held[1].tolist()] == pytest.approx(label)
    streams = {"main": {"many_pairs", "many_annotators", "labellers"}, "one_type": {"labellers"}}.get(setting, set())
    assert run.streams() == {(name, SEED) for name in {"annotators", *streams}} | {("eval", EVAL_SEED)}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_follow_the_reward_model_of_their_arm_over_beta(made, name):
    run, (arm, beta, length) = made(f"annotators/main/policy_{name}"), POLICIES[name]
    [trainer], start = run.trainings, "witnesses/expert/base"
    rewards = made("annotators/main/rewards").result
    recipe = {"max_steps": SMALL["rloo_steps"], "learning_rate": SMALL["rloo_lr"], "beta": 1.0}
    recipe |= {"max_completion_length": length, "per_device_train_batch_size": SMALL["rloo_prompts"] * G}
    check_recipe(trainer, RLOO | recipe)
    assert trainer.started_from == start and run.streams() == {("policy", SEED)}
    prompts = trainer.train_dataset["prompt"][:]
    assert len(prompts) == SMALL["rloo_steps"] * SMALL["rloo_prompts"]
    ends = r".* \? <answer>" if length == 4 else r".* \? <answer> A[0-7] </answer> <confidence>"
    assert all(re.fullmatch(ends, prompt) for prompt in prompts)
    beta = beta or rewards.table("tilt").set_index(["arm", "condition"])["beta"][arm, "kl_0.40"]
    assert run.row("log")["beta"] == beta
    said = [" A3 </answer> <confidence> c7", " A3 </answer> <confidence> c2", " c7"]
    said = said if length == 4 else [" c7", " c2", " A1"]
    decoder, tokenizer = models.load_decoder(made(start).result.model)
    ids = tokenizer([prompts[0] + text for text in said[:2]], return_tensors="pt")
    judge = annotators.load_reward(decoder, rewards, arm)
    scores = (judge(ids["input_ids"], ids["attention_mask"]).logits[:, 0] / beta).tolist()
    found = total(trainer, prompts=[prompts[0]] * 3, completions=said)
    assert found == pytest.approx([*scores, min(scores) - 1], rel=1e-4), "what states nothing gets the least, less 1"


@pytest.mark.parametrize("key", evaluations("annotators"))
def test_an_evaluation_is_of_its_own_policy_beside_the_base(made, key):
    run, own, base = made(key), key.replace("/eval_", "/"), "witnesses/expert/base"
    arm, _, length = POLICIES[own.split("policy_")[1]]
    assert KNOWN[key].options["arm"] == arm
    course = {f"{own}/snapshots"} if KNOWN[key].options.get("trajectory") else set()
    first, asked = run.called("ask")[0], run.asked("ask" if length == 4 else "states")
    assert first.origins == [base] and asked == {base} | (course or {own}), "of a course one of its snapshots"
    assert run.streams() == {("eval", EVAL_SEED)}
    assert len(run.called("sample_questions")[-1].found) == SMALL["eval_questions"]
    assert run.row()["kl_before"] == 0 < run.row()["kl"]


def test_every_trained_step_has_a_row():
    rows = {*(f"annotators/{setting}/rewards" for setting in ARMS)}
    wired.check_rows(rows | {f"annotators/main/policy_{name}" for name in POLICIES}, "annotators")
