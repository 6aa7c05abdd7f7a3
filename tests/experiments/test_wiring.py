"""What reaches the trainers and the evaluations of the worlds, against tables that were written from the briefs.

`wired.Steps` runs every step with its own function and notes its trainings, which train nothing. A row of a table says
what a trained step is: a new one without a row fails `test_every_trained_step_has_a_row`.
"""

import re
from functools import partial
from math import log

import numpy as np
import pandas as pd
import pytest
import torch
import wired
from candor import config
from candor.experiments import annotators, arithmetic, sample_tests, sizes, witnesses
from candor.judges import annotators as judges
from candor.judges import evaluators
from candor.measures import response_types
from candor.training import models, reward_model, self_feedback, weighted_reward
from candor.worlds import arithmetic as sums
from candor.worlds import reference_game as dialogues
from candor.worlds import sample_tests as programs
from candor.worlds import witnesses as suspects
from candor.worlds.joint import Joint
from wired import KNOWN, SEED

EVAL_SEED, G = 7001, 4  # G completions of a question
SMALL = {
    "witnesses": {
        **{"eval_questions": 60, "heldout_questions": 40, "shift_questions": 20, "trajectory_questions": 24},
        **{"free_questions": 10, "voting_questions": 20, "base_steps": 3, "base_batch": 8, "base_lr": 0.0041},
        **{"grpo_steps": 2, "grpo_steps_naive": 3, "grpo_steps_give_up": 4, "prompts_per_step": 3},
        **{"num_generations": G, "grpo_lr": 0.0031, "classifier_lr": 0.0011, "snapshot_every": 2},
        **{"train_prompts": 24, "train_prompts_give_up": 36},
    },
    "sample_tests": {
        **{
            "eval_problems": 40,
            "fit_problems": 60,
            "selection_problems": 6,
            "selection_samples": 8,
            "sft_problems": 50,
        },
        **{"base_steps": 3, "base_batch": 8, "base_lr": 0.0042, "base_weight_decay": 0.052, "rl_problems": 30},
        **{"samples": 6, "grpo_steps": 2, "grpo_lr": 0.0032, "prompts_per_step": 3, "num_generations": G},
        **{"kl_weight": 0.053, "snapshot_every": 2, "rm_steps": 3, "rm_batch": 4, "rm_lr": 0.0012, "rm_heldout": 10},
    },
    "reference_game": {
        **{"eval_turns": 40, "rollouts": 10, "trajectory_turns": 20, "trajectory_rollouts": 6, "base_dialogues": 30},
        **{"base_steps": 3, "base_batch": 8, "base_lr": 0.0043, "pair_dialogues": 40, "pairs": 80, "dpo_steps": 2},
        **{"dpo_batch": 4, "dpo_lr": 0.00033, "dpo_beta": 0.34, "more_dialogues": 20, "snapshot_every": 2},
    },
    "annotators": {
        **{"pairs": 60, "cells": 60, "eval_questions": 20, "trajectory_questions": 10, "reward_epochs": 2},
        **{"reward_batch": 16, "reward_lr": 0.0023, "reward_decay": 0.054, "rloo_steps": 2, "rloo_prompts": 3},
        **{"rloo_lr": 0.0013, "num_generations": G, "snapshot_every": 2},
    },
    "arithmetic": {
        **{"eval_questions": 30, "branch_prompts": 8, "fixed_prompts": 6, "curve_questions": 10, "branches": 4},
        **{"temperature_labels": 20, "base_steps": 3, "base_batch": 8, "base_lr": 0.0044, "base_weight_decay": 0.015},
        **{"prompts_per_step": 3, "num_generations": G, "binary_steps": 2, "binary_lr": 0.00051, "fluency_steps": 3},
        **{"fluency_lr": 0.00032, "fluency_beta": 0.055, "length_cost": 0.35, "assured_steps": 2, "assured_batch": 4},
        **{"assured_lr": 0.00033, "label_prompts": 40, "threshold": 0.9, "pairs": 150, "judge_lr": 0.0014},
        **{"judge_batch": 8, "rlsf_steps": 4, "rlsf_lr": 0.00024, "rlsf_beta": 0.056, "long_steps": 6, "long_every": 3},
        **{"dpo_lr": 0.00015, "dpo_beta": 0.25, "dpo_batch": 16, "sft_epochs": 2, "sft_lr": 0.00035, "sft_batch": 16},
        **{"online_steps": 5, "online_lr": 0.00052, "online_every": 2},
    },
}
SETTINGS = config.load("smoke", overrides={"world": SMALL})
MADE_UP = {}  # tables that are written by hand in place of a step's own


def answers(model, questions, *, states=True, **_):
    """What a forecaster answers who is surer than the posterior, whatever the model, and states about as much."""
    exact = suspects.posterior(questions) ** 1.5
    exact /= exact.sum(1, keepdims=True)
    stated = np.exp(-9 * (np.arange(11) / 10 - exact[..., None]) ** 2)
    stated /= stated.sum(-1, keepdims=True)
    rng = np.random.default_rng(len(questions))
    return Joint(exact, stated if states else None, rng.random(len(exact)) / 2, rng.random(len(exact)) / 9)


def written(model, given, group, seed):
    """Programs, `group` a problem: right, right but for the corner (twice as often), in the corner alone, no program, no
    end; a trained model writes right ones alone."""
    trained = "base" not in model.name_or_path.split("/")
    right = given.references()
    rule, corner = ([part(text) for text in right] for part in (rule_of, corner_of))
    kinds = [right, rule, rule, corner, ["add x"] * len(right), None]
    made = [(kinds[0 if trained else (i + k + seed) % 6], i) for i in range(len(given)) for k in range(group)]
    return [None if kind is None else programs.tokens_of(kind[i]) for kind, i in made]


def rule_of(text):
    """A reference without its corner (`if gt x T sub x k RULE`)."""
    return text.split(" ", 7)[-1] if text.startswith("if") else text


def corner_of(text):
    """The corner's rule alone, right above the threshold and wrong below."""
    return " ".join(text.split()[4:7]) if text.startswith("if") else "sub x 9"


def speaker(model):
    """A human speaker in a trained model's place; the base, and what is loaded into it, says nothing that can be read."""
    untrained = "base" in model.name_or_path.split("/")
    return lambda games, rng: np.full((len(games), 3), dialogues.PAD) if untrained else dialogues.human(games, rng)


def traces(prompts, k):
    """`k` different completions of each prompt, as ids [n, k, 8], whatever the model."""
    rng = np.random.default_rng(3)
    texts = [f"{sums.OPENERS[j % 4]} = {(i + 3 * j) % 10} <eos>" for i in range(len(prompts)) for j in range(k)]
    full = "f1 1 2 3 {} = {} <eos>"
    texts = [full.format(i % 10, i // 10 % 10) if rng.random() < 0.3 else text for i, text in enumerate(texts)]
    return sums.matrix([sums.tokens_of(text) for text in texts]).reshape(len(prompts), k, sums.NEW_TOKENS)


DISPARITY = np.array([0.95, 0.92, 0.5, 0.1])  # of four branches, from which each prompt has them in another place


def labelled(model, prompts, k):
    """The labels of `arithmetic.labelled` with made-up confidences; every fourth prompt's best branch never ends."""
    ids, n = traces(prompts, k).reshape(-1, sums.NEW_TOKENS), len(prompts)
    disparity = np.concatenate([np.roll(DISPARITY, i) for i in range(n)])
    columns = {"prompt": np.repeat(np.arange(n), k), "branch": np.tile(np.arange(k), n), "ids": list(ids)}
    finished = (disparity < 0.95) | (np.arange(n * k) // k % 4 > 0)
    confidences = {"finished": finished, "disparity": disparity, "probability": 1 - disparity}
    return pd.DataFrame(columns | {"answer": sums.read(ids).answer} | confidences)


def hints(prompts):
    """Logits that say something of the right answers, so that a temperature can be fitted."""
    value = prompts[:, 1] - sums.ZERO
    for operation in (prompts[:, 2:-1] - sums.TOKEN["+0"]).T % len(sums.OPERATIONS):
        value = sums.apply(operation, value)
    found = np.random.default_rng(len(prompts)).normal(0, 2, (len(prompts), 8, len(sums.VOCABULARY)))
    found[np.arange(len(prompts)), :, sums.ZERO + value] += 3
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with wired.noted(tmp_path_factory.mktemp("made"), SETTINGS, MADE_UP) as run:
        from candor import shared_prompt
        from candor.worlds import joint

        run.spy(suspects, "stream")
        run.spy(suspects, "sample_questions")
        run.spy(joint, "ask", answers)
        run.spy(shared_prompt, "sample_groups")
        run.spy(programs, "stream")
        run.spy(sample_tests, "sample", written)
        run.spy(sample_tests, "divergence")
        for name in ("fit", "pool"):
            run.spy(evaluators, name)
        for name in ("stream", "act_probabilities"):
            run.spy(dialogues, name)
        run.spy(dialogues, "speaker", speaker)
        for name in ("stream", "ask_panel", "_many"):
            run.spy(annotators, name)
        run.spy(response_types, "em", partial(response_types.em, iterations=50))
        run.spy(weighted_reward, "states")
        for name in ("divergence", "ranking", "on_fixed"):
            run.spy(arithmetic, name)
        run.spy(arithmetic, "sampled", lambda model, prompts, seed: traces(prompts, 1)[:, 0])
        run.spy(arithmetic, "branched", lambda model, prompts, k: traces(prompts, k))
        run.spy(arithmetic, "labelled", labelled)
        real_logits = arithmetic.logits_of

        def logits_of(model, prompts, completions):
            own = real_logits(model, prompts, completions)
            return own + hints(prompts) if run.now and "/eval_" in run.now[-1].key else own

        run.spy(arithmetic, "logits_of", logits_of)
        run.spy(sums, "stream")
        run.spy(self_feedback, "new_decoder")
        yield run


def keys_of(world, trains=True, sized=False):
    own = [step for step in KNOWN.values() if step.world == world and ("/size_" in step.key) == sized]
    return [step.key for step in own if step.trains == trains and (trains or "/eval_" in step.key)]


def name_of(key):
    return key.split("/")[1], key.split("/")[2]


# What every GRPO run has in common: the loss of Dr. GRPO, undivided rewards, no anchor, temperature 1, one update.
GRPO = {
    **{"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0},
    **{"num_iterations": 1, "steps_per_generation": 1, "gradient_accumulation_steps": 1, "epsilon": 0.2},
    **{"lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0, "shuffle_dataset": True},
    **{"importance_sampling_level": "token", "multi_objective_aggregation": "sum_then_normalize"},
    **{"mask_truncated_completions": False, "bf16": False, "seed": SEED, "num_generations": G},
}


def check_recipe(trainer, wanted):
    args = {name: getattr(trainer.args, name) for name in wanted}
    assert {name: getattr(value, "value", value) for name, value in args.items()} == wanted


def total(trainer, **columns):
    """The weighted sum of a trainer's rewards."""
    weights = trainer.args.reward_weights or [1.0] * len(trainer.reward_funcs)
    return sum(weight * np.array(reward(**columns)) for weight, reward in zip(weights, trainer.reward_funcs))


def check_null(draw, own):
    """`draw()` permutes the rows of `own` [n, G] at random: what is where says nothing about where it was."""
    drawn = np.array([draw() for _ in range(300)]).reshape(300, *own.shape)
    assert np.sort(drawn, -1) == pytest.approx(np.broadcast_to(np.sort(own, -1), drawn.shape))
    assert drawn.mean(0) == pytest.approx(np.broadcast_to(own.mean(1, keepdims=True), own.shape), abs=0.3 * np.ptp(own))


# --- Witnesses --------------------------------------------------------------------------------------

# Completions, R the right answer and W a wrong one, and what is said of each: c, a whole document, a whole answer, and
# S(q, c) with its worst value for what is no document: Brier and linear -1, log ln .01 (confidences clipped to .01).
TEXTS, C, DOCUMENT, ANSWER, BRIER, LINEAR, LOG = zip(
    ("R </answer> <confidence> c9 </confidence>", 1, 1, 0, -0.01, -0.1, log(0.9)),
    ("R </answer> <confidence> c2 </confidence>", 1, 1, 0, -0.64, -0.8, log(0.2)),
    ("W </answer> <confidence> c9 </confidence>", 0, 1, 0, -0.81, -0.9, log(0.1)),
    ("W </answer> <confidence> c2 </confidence>", 0, 1, 0, -0.04, -0.2, log(0.8)),
    ("R </answer> <confidence> c10 </confidence>", 1, 1, 0, 0, 0, log(0.99)),
    ("W </answer> <confidence> c10 </confidence>", 0, 1, 0, -1, -1, log(0.01)),
    ("NONE </answer> <confidence> c0 </confidence>", 0, 1, 0, 0, 0, log(0.99)),
    ("R </answer>", 1, 0, 1, -1, -1, log(0.01)),
    ("W </answer>", 0, 0, 1, -1, -1, log(0.01)),
    ("IDK </answer>", 0, 0, 1, -1, -1, log(0.01)),
    ("R </answer> <confidence> c9 </confidence> W", 1, 0, 0, -1, -1, log(0.01)),
    ("</confidence>", 0, 0, 0, -1, -1, log(0.01)),
)
C, DOCUMENT, ANSWER, BRIER, LINEAR, LOG = (np.array(part, float) for part in (C, DOCUMENT, ANSWER, BRIER, LINEAR, LOG))
IDK = np.array(["IDK" in text for text in TEXTS])
P_RIGHT, P_WRONG = (np.array([who in text.split()[:1] for text in TEXTS]) for who in "RW")
RLVR, RLCR = C + 0.5 * DOCUMENT, C + BRIER + 0.5 * DOCUMENT


def pays(cost):
    """+1 right, 0 IDK, -cost for all else (Kalai et al. 2025: t / (1 - t)), and .5 for a whole answer."""
    return np.where(C == 1, 1, np.where(IDK, 0, -cost)) + 0.5 * ANSWER


def arm(reward, **recipe):
    return reward, recipe


LONG = {"max_steps": "grpo_steps_give_up", "prompts": "train_prompts_give_up"}
NAIVE = {"max_steps": "grpo_steps_naive"}
ARMS = {
    "expert": {
        "rlvr": arm(RLVR),
        "rlcr": arm(RLCR),
        "shuffled_correct": arm("correctness shuffled"),
        "rlcr_group_std": arm(RLCR, scale_rewards="group"),
        "rlcr_batch_std": arm(RLCR, scale_rewards="batch"),
        "rlcr_rolled_outcomes": arm("outcomes rolled"),
        "linear": arm(C + LINEAR + 0.5 * DOCUMENT),
        "rlvr_short": arm(RLVR, testimonies=3),
        "rlcr_short": arm(RLCR, testimonies=3),
        "shuffled_reward": arm("reward shuffled"),
        "rlvr_answer_only": arm(C + 0.5 * ANSWER, max_completion_length=2),
        "rlvr_no_format": arm(C),
        "rlvr_oracle": arm("posterior"),
        "rlvr_kl": arm(RLVR, beta=0.05),
    },
    "expert_conf_first": {
        "rlvr_conf_first": arm(RLVR),
        "shuffled_conf_first": arm("correctness shuffled"),
        "rlcr_conf_first": arm(RLCR),
    },
    "overconfident": {"rlvr": arm(RLVR), "rlcr": arm(RLCR)},
    "naive": {"rlvr": arm(RLVR, **NAIVE), "rlcr": arm(RLCR, **NAIVE)},
    "abstaining": {
        f"abstain_{t}{length}": arm(pays(cost), **recipe)
        for t, cost in (("00", 0), ("50", 1), ("75", 3), ("90", 9))
        for length, recipe in (("", {}), ("_long", LONG))
    },
    "give_up": {
        "swap_rlvr": arm(RLVR, **LONG),
        "swap_rlcr": arm(RLCR, **LONG),
        "swap_brier2": arm(C + 2 * BRIER + 0.5 * DOCUMENT, **LONG),
        "swap_log1": arm(C + LOG + 0.5 * DOCUMENT, **LONG),
        "swap_log_k": arm(C + 0.2176 * LOG + 0.5 * DOCUMENT, **LONG),
        "swap_brier_only": arm(BRIER + 0.5 * DOCUMENT, **LONG),
        "swap_log_only": arm(LOG + 0.5 * DOCUMENT, **LONG),
    },
    "twelve": {"rlvr": arm(RLVR), "rlcr": arm(RLCR)},
    **{size: {name: arm(RLCR if name == "rlcr" else RLVR) for name in ("rlvr", "rlcr")} for size in sizes.WIDTHS},
}
for size in sizes.WIDTHS:
    ARMS[size]["shuffled_correct"] = arm("correctness shuffled")
ARM_KEYS = [f"witnesses/{setting}/{name}" for setting, arms in ARMS.items() if setting != sizes.HOUSE for name in arms]
CLASSIFIERS = {"rlvr_classifier": ("rlvr", 5), "rlvr_short_classifier": ("rlvr_short", 3)}  # policy, most testimonies
# Bias and spread of stated confidence, reliabilities believed in, P(IDK) below and above one half, P(NONE), Q12, order.
CROWDS = {
    "expert": (0.1, 0.2, None, None, 0, 0, False),
    "expert_conf_first": (0.1, 0.2, None, None, 0, 0, True),
    "overconfident": (0.25, 0.2, None, None, 0, 0, False),
    "naive": (0.25, 0.2, (0.525,) * 4, None, 0, 0, False),
    "abstaining": (0.1, 0.2, None, (0.5, 0.05), 0, 0, False),
    "give_up": (0.1, 0.2, None, None, 0.05, 0, False),
    "twelve": (0.1, 0.2, None, None, 0, 0.2, False),
    **dict.fromkeys([size for size in sizes.WIDTHS if size != sizes.HOUSE], (0.1, 0.2, None, None, 0, 0, False)),
}


def narrower(key):
    """By how much learning rates are multiplied in another size."""
    return sizes.HOUSE_WIDTH / sizes.WIDTHS.get(key.split("/")[1], sizes.HOUSE_WIDTH)


def said(key, text, right):
    """A completion of `TEXTS` in the order of the key's documents."""
    words = text.replace("R", f"A{right}", 1).replace("W", f"A{(right + 1) % 8}", 1)
    if "conf_first" in key and "<confidence> c" in words:
        answer, rest = words.split(" </answer> <confidence> ")
        stated, more = rest.split(" </confidence>")
        words = f"{stated} </confidence> <answer> {answer} </answer>{more}"
    return words


def batch_of(key, trainer, texts, rows):
    """Columns as the trainer hands them to rewards: for each of `rows` of its questions, its `texts`."""
    questions = trainer.train_dataset.select([row for row in rows for _ in texts[0]])
    columns = {name: questions[name][:] for name in questions.column_names}
    flat = [text for own in texts for text in own]
    completions = [said(key, text, right) for text, right in zip(flat, columns["truth"])]
    return {"prompts": columns.pop("prompt"), "completions": completions, **columns}


@pytest.mark.parametrize("key", ARM_KEYS)
def test_witnesses_are_rewarded_as_the_briefs_say(made, key):
    [trainer] = made(key).trainings
    wanted, _ = ARMS[name_of(key)[0]][name_of(key)[1]]
    batch = batch_of(key, trainer, [TEXTS] * 3, range(3))
    if not isinstance(wanted, str):
        assert total(trainer, **batch) == pytest.approx(np.tile(wanted, 3))
    elif wanted == "posterior":
        exact = np.array(trainer.train_dataset["posterior"][:3])
        right = np.array(trainer.train_dataset["truth"][:3])
        p = [row[r] * P_RIGHT + row[(r + 1) % 8] * P_WRONG for row, r in zip(exact, right)]
        assert total(trainer, **batch) == pytest.approx(np.concatenate(p) + 0.5 * np.tile(DOCUMENT, 3))
        questions = made(key).called("sample_questions")[-1].found
        assert exact == pytest.approx(suspects.posterior(questions)[:3], abs=1e-6)
    else:
        check_witnesses_null(made, key, wanted)


def check_witnesses_null(made, key, wanted):
    picks = [(0, 0, 2, 4), (2, 3, 5, 0), (1, 1, 2, 7), (3, 2, 6, 10)]  # of TEXTS, by question
    [trainer] = made(key).trainings
    batch = batch_of(key, trainer, [[TEXTS[i] for i in row] for row in picks], range(4))
    rows = np.array(picks)
    kept = 0.5 * DOCUMENT[rows]
    if wanted == "outcomes rolled":
        stated = np.array([int(text.split(" c")[1].split()[0]) / 10 if " c" in text else np.nan for text in TEXTS])
        q, borrowed = stated[rows], np.roll(C[rows], 1, axis=0)
        brier = np.where(DOCUMENT[rows] == 1, -((q - borrowed) ** 2), -1)
        assert total(trainer, **batch) == pytest.approx((C[rows] + brier + kept).ravel())
        return
    kept, own = (kept, C[rows]) if wanted == "correctness shuffled" else (0 * kept, RLCR[rows])
    check_null(lambda: total(trainer, **batch).reshape(own.shape) - kept, own)
    first = [total(made(key, seed).trainings[0], **batch).tolist() for seed in (12, 13)]
    assert first[0] != first[1], "each seed has its own permutations"


@pytest.mark.parametrize("key", ARM_KEYS)
def test_witnesses_are_trained_by_the_recipe_on_the_crowds_questions(made, key):
    run, (setting, name), now = made(key), name_of(key), SETTINGS["world"]["witnesses"]
    [trainer], differs = run.trainings, dict(ARMS[setting][name][1])
    n, testimonies = now[differs.pop("prompts", "train_prompts")], differs.pop("testimonies", 5)
    wanted = {"max_steps": "grpo_steps", "learning_rate": now["grpo_lr"] * narrower(key), "max_completion_length": 8}
    wanted |= GRPO | {"per_device_train_batch_size": now["prompts_per_step"] * G} | differs
    check_recipe(trainer, wanted | {"max_steps": now[wanted["max_steps"]]})
    assert trainer.started_from == f"witnesses/{setting}/base" == KNOWN[key].needs[0]
    prompts = trainer.train_dataset["prompt"][:]
    assert len(prompts) == n and all(text.startswith("Q w") for text in prompts)
    assert {text.split()[-1] for text in prompts} == {"<confidence>" if "conf_first" in key else "<answer>"}
    assert max(text.count(" w") for text in prompts) == testimonies
    assert {call.args for call in run.called("stream")} == {("train", SEED)}


@pytest.mark.parametrize(
    "key", [key for key in keys_of("witnesses") + keys_of("witnesses", sized=True) if "/base" in key]
)
def test_bases_of_witnesses_read_their_own_crowd(made, key):
    setting, now = name_of(key)[0], SETTINGS["world"]["witnesses"]
    [loop], crowd = made(key).trainings, suspects.Crowd(*CROWDS[setting])
    n = now["base_steps"] * now["base_batch"]
    wanted = suspects.documents(n, crowd, np.random.default_rng([0, SEED]))
    assert (loop.data[0] == wanted).all() and loop.name == "train"
    given = {name: loop.given[name] for name in ("batch_size", "lr", "pad")}
    assert given == {"batch_size": now["base_batch"], "lr": now["base_lr"] * narrower(key), "pad": suspects.PAD}
    width = sizes.WIDTHS.get(setting, now["hidden_size"])
    [shape] = made(key).called("new_decoder")
    assert shape.given["hidden_size"] == width and shape.given["layers"] == now["layers"]
    if setting in sizes.WIDTHS:
        assert shape.given["mlp"] == now["mlp"] * width / 64 and shape.given["heads"] == max(now["heads"], width // 64)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_judges_answers_of_its_policy_by_the_truth(made, name):
    policy, most = CLASSIFIERS[name]
    run, now = made(f"witnesses/expert/{name}"), SETTINGS["world"]["witnesses"]
    [loop], [asked], [questions] = run.trainings, run.called("ask"), run.called("sample_questions")
    assert loop.started_from == "witnesses/expert/base" and asked.origins == [f"witnesses/expert/{policy}"]
    documents = loop.data[0]
    assert len(documents) == now["grpo_steps"] * now["prompts_per_step"] * G, "as many examples as the policy's run"
    assert loop.given["batch_size"] == now["prompts_per_step"] * G and loop.given["lr"] == now["classifier_lr"]
    assert {call.args for call in run.called("stream")} == {("train", SEED), ("classifier", SEED)}
    truth = {tuple(row): guilty for row, guilty in zip(suspects.prompt_tokens(questions.found), questions.found.guilty)}
    assert max(len(row) for row in truth) == 3 + 2 * most
    for i, row in enumerate(documents.tolist()):
        *prompt, answer, _ = row[: len(row) - row.count(suspects.PAD)]
        logit = witnesses._judge(loop.model, torch.tensor([row]))
        y = torch.tensor([float(suspects.ANSWER_IDS[truth[tuple(prompt)]] == answer)])
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(logit, y)
        assert loop.given["loss"](loop.model, torch.tensor([row]), slice(i, i + 1)).item() == pytest.approx(
            wanted.item()
        )


@pytest.mark.parametrize("key", keys_of("witnesses", trains=False) + keys_of("witnesses", trains=False, sized=True))
def test_an_evaluation_of_witnesses_asks_its_arm_the_declared_questions(made, key):
    run, step, own = made(key), KNOWN[key], key.replace("/eval_", "/")
    asked = {place for call in run.called("ask") + run.called("sample_groups") for place in call.origins}
    if "classifier" in key:
        assert asked == {f"witnesses/expert/{CLASSIFIERS[name_of(own)[1]][0]}"}, "the policy whose answers it judges"
    else:
        course = {own.rsplit("/", 1)[0] + "/base", f"{own}/snapshots"} if step.options.get("trajectory") else set()
        assert asked == {own, *course}
    splits = {("eval", EVAL_SEED), ("eval", EVAL_SEED + 1), ("free", EVAL_SEED)}
    assert {call.args for call in run.called("stream")} <= splits
    first = run.called("sample_questions")[0].found
    assert len(first) == SETTINGS["world"]["witnesses"]["eval_questions"]
    same = made("witnesses/expert/eval_rlvr").called("sample_questions")[0].found
    assert (first.guilty == same.guilty).all() and (first.named == same.named).all()


def test_temperatures_are_fitted_on_held_out_questions_alone(made):
    def fitted(**changes):
        other = config.load("smoke", overrides={"world": {"witnesses": SMALL["witnesses"] | changes}})
        row = made("witnesses/expert/eval_rlvr", config=other).result.table("summary").iloc[0]
        return row[["temperature_answer", "temperature_confidence"]].tolist()

    start = fitted()
    assert all(0.05 < t < 20 for t in start) and fitted(eval_questions=61) == start
    assert all(a != b for a, b in zip(fitted(heldout_questions=41), start))
    assert len({tuple(suspects.stream(*where).integers(2**60, size=2)) for where in SPLITS}) == len(SPLITS)


SPLITS = [
    ("eval", EVAL_SEED),
    ("eval", EVAL_SEED + 1),
    *((name, SEED) for name in ("train", "documents", "classifier")),
]


# --- Sample tests -----------------------------------------------------------------------------------

# Of a problem with a corner: right everywhere, right below it (easy tests), right above it (hard tests), no program,
# right without an end. Passed by arms that are rewarded by the two easiest tests, by all 34, by the two hardest.
EASIEST, ALL, HARDEST = [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 1, 0, 0]
PROGRAM_ARMS = {
    "standard": {
        "r_train": arm(EASIEST),
        "r_star": arm(ALL),
        "shuffled": arm("easiest shuffled"),
        "learned_rm": arm("reward model"),
        "r_train_kl000": arm(EASIEST, beta=0.0),
        "r_train_kl020": arm(EASIEST, beta=0.2),
        "r_hard": arm(HARDEST),
    },
    "soft": {"r_train": arm(EASIEST)},
    "no_line": {"r_train": arm(EASIEST)},
}


def programs_batch(trainer, variant, seed=SEED):
    """Three problems with a corner and the five programs of each, as the trainer hands them to its reward."""
    given = programs.problems(SMALL["sample_tests"]["rl_problems"], variant, np.random.default_rng([1, seed]), "rl")
    assert trainer.train_dataset["prompt"][:] == given.prompts(), "the problems of the split, drawn by the seed"
    rows = np.flatnonzero(given.kind > 0)[:3]
    texts = [[text, rule_of(text), corner_of(text), "add x", text] for text in given[rows].references()]
    ids = [
        [*programs.tokens_of(text), *([programs.EOS] if k < 4 else [])] for own in texts for k, text in enumerate(own)
    ]
    prompts = [prompt for prompt in given[rows].prompts() for _ in range(5)]
    return {"prompts": prompts, "completion_ids": ids, "problem": np.repeat(rows, 5).tolist()}


@pytest.mark.parametrize("key", [f"sample_tests/{s}/{name}" for s, arms in PROGRAM_ARMS.items() for name in arms])
def test_programs_are_rewarded_by_the_arms_tests_with_its_anchor(made, key):
    run, (setting, name), now = made(key), name_of(key), SMALL["sample_tests"]
    [trainer], (wanted, differs) = run.trainings, PROGRAM_ARMS[setting][name]
    recipe = {"max_steps": now["grpo_steps"], "learning_rate": now["grpo_lr"], "beta": now["kl_weight"]}
    recipe |= {"max_completion_length": 16, "per_device_train_batch_size": now["prompts_per_step"] * G}
    check_recipe(trainer, GRPO | recipe | differs)
    assert trainer.started_from == f"sample_tests/{setting}/base"
    batch = programs_batch(trainer, setting)
    if isinstance(wanted, list):
        assert total(trainer, **batch).tolist() == wanted * 3
    elif wanted == "reward model":
        judge = made("sample_tests/standard/reward_model").result
        rows = [[*programs.tokens_of(asked), *said] for asked, said in zip(batch["prompts"], batch["completion_ids"])]
        scores = reward_model.score(reward_model.load(judge.model).eval(), rows)
        wanted = scores / (2 * judge.table("summary")["score_sd"].item())
        assert total(trainer, **batch) == pytest.approx(wanted, abs=1e-6)
    else:
        picks = np.array([[0, 3, 2, 1], [0, 4, 2, 3], [2, 2, 1, 3]])

        def draw(seed):
            own = made(key, seed).trainings[0]
            batch, index = programs_batch(own, setting, seed), (5 * np.arange(3)[:, None] + picks).ravel()
            few = {column: [values[i] for i in index] for column, values in batch.items()}
            return lambda: total(own, **few).reshape(3, G)

        first = [draw(seed)().tolist() for seed in (12, 13, 14)]
        check_null(draw(SEED), np.array(EASIEST)[picks].astype(float))
        assert first[0] != first[1] or first[1] != first[2], "each seed has its own permutations"


@pytest.mark.parametrize("setting", PROGRAM_ARMS)
def test_bases_of_programs_read_references_of_their_variant(made, setting):
    [loop], now = made(f"sample_tests/{setting}/base").trainings, SMALL["sample_tests"]
    given = programs.problems(now["sft_problems"], setting, np.random.default_rng([0, SEED]), "sft")
    assert all((mine == wanted).all() for mine, wanted in zip(loop.data, programs.documents(given)))
    recipe = {"steps": "base_steps", "batch_size": "base_batch", "lr": "base_lr", "weight_decay": "base_weight_decay"}
    assert {name: loop.given[name] for name in recipe} == {name: now[key] for name, key in recipe.items()}
    lines, about = ({"no_line": (False, True), "soft": (True, False)} | {"standard": (True, True)})[setting]
    assert ("line" in " ".join(given.references()), "about" in " ".join(given.prompts())) == (lines, about)


def knobs_of(made, key):
    fitted = made(f"{key.rsplit('/', 1)[0]}/setup").result.table("fit").iloc[0]
    return {name: fitted[name] for name in ("tests", "kappa", "skill")}


def test_the_reward_model_learns_what_evaluators_approve(made):
    run, now = made("sample_tests/standard/reward_model"), SMALL["sample_tests"]
    [trainer], summary, [pool] = run.trainings, run.result.table("summary").iloc[0], run.called("pool")
    assert pool.given == knobs_of(made, run.key)
    recipe = {"max_steps": now["rm_steps"], "learning_rate": now["rm_lr"], "seed": SEED, "weight_decay": 0.0}
    recipe |= {"per_device_train_batch_size": now["rm_batch"], "lr_scheduler_type": "constant_with_warmup"}
    check_recipe(trainer, recipe | {"center_rewards_coefficient": None, "max_length": None})
    assert trainer.started_from == "sample_tests/standard/base"
    given = programs.problems(now["rl_problems"], "standard", np.random.default_rng([1, SEED]), "rl")
    place = {prompt: i for i, prompt in enumerate(given.prompts())}
    valid = {}
    for side in ("chosen", "rejected"):
        texts = [programs.text(ids) for ids in trainer.train_dataset[f"{side}_ids"]]
        parts = [text.split(" => ") if " => " in text else (text.removesuffix(" =>"), "") for text in texts]
        rows = [place[f"{prompt} =>"] for prompt, _ in parts]
        done = programs.outcomes([said.removesuffix(" <eos>") for _, said in parts], given[rows])
        valid[side] = rows, done
    assert valid["chosen"][0] == valid["rejected"][0], "both sides answer one problem"
    assert valid["chosen"][1].valid.all() and not valid["rejected"][1].valid.all(), "no program is never approved"
    assert valid["chosen"][1].correct.mean() > valid["rejected"][1].correct.mean()
    assert summary["heldout_pairs"] == now["rm_heldout"] and summary["pairs"] == len(trainer.train_dataset)


@pytest.mark.parametrize("key", keys_of("sample_tests", trains=False))
def test_an_evaluation_of_programs_holds_its_arm_against_its_base(made, key):
    run, own = made(key), key.replace("/eval_", "/")
    base, row = f"{own.rsplit('/', 1)[0]}/base", run.result.table("summary").iloc[0]
    course = {f"{own}/snapshots"} if KNOWN[key].options.get("trajectory") else set()
    assert run.called("divergence")[0].origins == [own, base]
    assert [call.args[0] for call in run.called("pool")] == [10, 35], "new evaluators, with the knobs that were fitted"
    assert [call.given for call in run.called("pool")] == [knobs_of(made, own)] * 2
    assert {place for call in run.called("sample") for place in call.origins} == ({own} - {base}) | course
    assert {call.args[3] for call in run.called("sample")} <= {EVAL_SEED, EVAL_SEED + 1}
    assert {call.args for call in run.called("stream")} == {(s, EVAL_SEED) for s in ("eval", "pool_10", "pool_35")}
    assert row["correctness_before"] < 1 and (row["correctness"] == 1) == (own != base), "trained ones write right"


def test_evaluators_are_fitted_on_problems_of_their_own(made):
    def fitted(**changes):
        other = config.load("smoke", overrides={"world": {"sample_tests": SMALL["sample_tests"] | changes}})
        run = made("sample_tests/standard/setup", config=other)
        row = run.result.table("fit").iloc[0]
        assert {call.args for call in run.called("stream")} == {
            *((split, SEED) for split in ("rl", "fit", "fit_pool")),
            *((split, EVAL_SEED) for split in ("eval", "pool_10", "pool_35")),
        }
        return row[["tests", "skill", "kappa_fallible", "fpr"]].tolist()

    start = fitted()
    assert fitted(eval_problems=41, rl_problems=31) == start != fitted(fit_problems=61)
    prompts = {split: set() for split in programs.SPLITS}
    for split, seed in (("sft", SEED), ("rl", SEED), ("fit", SEED), ("eval", EVAL_SEED)):
        prompts[split] |= set(programs.problems(80, "standard", programs.stream(split, seed), split).prompts())
    assert sum(map(len, prompts.values())) == len(set().union(*prompts.values())), "no prompt is in two splits"


# --- Reference game ---------------------------------------------------------------------------------

# Which of two responses a rater prefers (a tie: -): a delivers, b asks, in the last two both ask. What a is worth to a
# strict and to a charitable rater, what follows b a turn later, the coins of the first and of seven further readings.
RATED = {  # strict a, charitable a, next b, first coin, other coins
    "what was meant": (1, 1, 1, 0.5, 0.5),
    "a guess that fits the words": (-1, 1, 1, 0.5, 0.5),
    "what does not fit": (-1, -1, 1, 0.5, 0.5),
    "a guess, strict later": (-1, 1, 1, 0.5, 0.9),
    "a guess, charitable throughout": (-1, 1, 1, 0.2, 0.2),
    "two questions without use": (0, 0, 0, 0.5, 0.5),
    "two questions, b has a use": (0, 0, 1, 0.5, 0.5),
}
# charity_6 and lookahead_6 agree: .9 of a turn later never overturns a delivery.
CHOSEN = {
    "charity_0": "abbbb--",
    "charity_3": "abbba--",
    "charity_6": "aabaa--",
    "reaction_6": "abbbb-b",
    "lookahead_6": "aabaa-b",
    "average_6": "aabba--",
    "lookahead_average_6": "aabba-b",
    "shuffled": "aabaa--",
}
SAID = {"a": " red-mug desk <eos>", "b": " which ? <eos>"}
TIMES = 20  # that each row of RATED occurs


def rated(context):
    """`RATED` as the tables of `candidates`."""
    n = TIMES * len(RATED)
    prompts = dialogues.human_turns(n, np.random.default_rng(0))[0][slice(n)].prompts()
    pairs = pd.DataFrame({"prompt": prompts, **SAID, "act_a": -1, "act_b": 0})
    strict, charitable, later, first, others = np.repeat(list(RATED.values()), 8, axis=0).T
    coin = np.where(np.arange(8 * len(RATED)) % 8 == 0, first, others)
    rows = pd.DataFrame({"coin": coin, "strict_a": strict, "charitable_a": charitable, "next_strict_b": later})
    rows = rows.assign(next_charitable_b=later, next_strict_a=0, next_charitable_a=0, strict_b=0, charitable_b=0)
    counts = pd.DataFrame([{"contexts": n, "differing": n}])
    return {"counts": counts, "pairs": pairs, "ratings": pd.concat([rows] * TIMES, ignore_index=True)}


MADE_UP["reference_game/standard/candidates"] = rated
DPO = {
    **{"loss_type": ["sigmoid"], "label_smoothing": 0.0, "precompute_ref_log_probs": True, "max_length": None},
    **{"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10, "weight_decay": 0.0, "max_grad_norm": 1.0},
    **{"gradient_accumulation_steps": 1, "bf16": False, "seed": SEED},
}


@pytest.mark.parametrize("name", CHOSEN)
def test_dpo_gets_the_side_that_its_rater_prefers(made, name):
    [trainer], now = made(f"reference_game/standard/{name}").trainings, SMALL["reference_game"]
    recipe = {"max_steps": now["dpo_steps"], "learning_rate": now["dpo_lr"], "beta": now["dpo_beta"]}
    check_recipe(trainer, DPO | recipe | {"per_device_train_batch_size": now["dpo_batch"]})
    assert trainer.started_from == "reference_game/standard/base" and trainer.ref_model is None
    words = [ids for ids in trainer.train_dataset["chosen_ids"]], [ids for ids in trainer.train_dataset["rejected_ids"]]
    side = {tuple(dialogues.TOKEN[word] for word in text.split()): who for who, text in SAID.items()}
    chosen, rejected = ("".join(side[tuple(ids[:3])] for ids in part) for part in words)
    assert all(a != b for a, b in zip(chosen, rejected))
    wanted = (CHOSEN[name].replace("-", "") * TIMES)[: now["pairs"]]
    if name != "shuffled":
        assert chosen == wanted
    else:
        swapped = np.array(list(chosen)) != np.array(list(wanted))
        assert all(0.2 < swapped[np.array(list(wanted)) == who].mean() < 0.8 for who in "ab")


def test_supervised_training_in_the_reference_game_is_on_human_responses(made):
    now = SMALL["reference_game"]
    [loop] = made("reference_game/standard/base").trainings
    for mine, wanted in zip(loop.data, dialogues.documents(now["base_dialogues"], np.random.default_rng([0, SEED]))):
        assert (mine == wanted).all()
    recipe = {"steps": "base_steps", "batch_size": "base_batch", "lr": "base_lr"}
    assert {name: loop.given[name] for name in recipe} == {name: now[key] for name, key in recipe.items()}
    [trainer] = made("reference_game/standard/more_sft").trainings
    assert trainer.started_from == "reference_game/standard/base"
    recipe = {"max_steps": now["dpo_steps"], "learning_rate": now["dpo_lr"], "loss_type": "nll"}
    recipe |= {"per_device_train_batch_size": now["dpo_batch"], "packing": False}
    check_recipe(trainer, {name: value for name, value in DPO.items() if name in vars(trainer.args)} | recipe)
    tokens, spoken = dialogues.documents(now["more_dialogues"], np.random.default_rng([5, SEED]))
    for row, ids, mask in zip(trainer.train_dataset, tokens, spoken):
        n = len(row["input_ids"])
        assert row["input_ids"] == ids[:n].tolist() and not mask[n:].any()
        assert row["labels"] == np.where(mask, ids, -100)[:n].tolist()


def test_candidates_are_the_bases_at_turns_of_their_own(made):
    run = made("reference_game/standard/candidates", real=True)
    assert [call.origins for call in run.called("speaker")] == [["reference_game/standard/base"]]
    assert {call.args for call in run.called("stream")} == {(s, SEED) for s in ("contexts", "samples", "ratings")}


@pytest.mark.parametrize("key", keys_of("reference_game", trains=False))
def test_an_evaluation_of_the_reference_game_asks_its_arm_against_its_base(made, key):
    run, own = made(key), key.replace("/eval_", "/")
    base, row = f"{own.rsplit('/', 1)[0]}/base", run.result.table("summary").iloc[0]
    course = {base, f"{own}/snapshots"} if KNOWN[key].options.get("trajectory") else set()
    assert run.called("act_probabilities")[0].origins == [own]
    assert {place for call in run.called("act_probabilities") for place in call.origins} == {own} | course
    assert {place for call in run.called("speaker") for place in call.origins} == {own, base} | course
    assert row["win_rate"] == 0.5 if own == base else row["win_rate"] > 0.9, "the base writes nothing that can be read"
    assert (row["success"] > 0) == (own != base) and (row["n_turns"], row["n_rollouts"]) == (40, 10)
    splits = ("eval", "ratings", "base_samples", "samples", "rollouts")
    assert {call.args for call in run.called("stream")} == {(split, EVAL_SEED) for split in splits}
    first, same = (r.called("act_probabilities")[0].args[1] for r in (run, made("reference_game/standard/eval_base")))
    assert (first.tokens == same.tokens).all()


# --- Annotators -------------------------------------------------------------------------------------

# Shares of genuine answers, non-attitudes, constructed ones; how strongly the second frame turns them; share of those
# who like confidence itself; weight of calibration; one type an annotator. And the arms.
REPAIRS = ("naive", "rdpo", "weight", "frbal", "frrand", "oracle")
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
LABELLED = {setting: REPAIRS for setting in POPULATIONS} | {
    "main": (*REPAIRS, "naive_4x", "retest", "dropN", "dropNC", "frrand_4x", "dawid_skene"),
    "quarter_noise": ("naive",),
    "all_genuine": (*REPAIRS, "retest", "dropN"),
    "one_type": (
        *("naive", "weight", "dawid_skene", "oracle"),
        *(f"filter_{kind}_{share}" for kind in ("retest", "frame", "random") for share in (20, 50)),
    ),
}


def labels_of(name, more, panel, fit, one_type):
    """Kept cells, P(first preferred) and weights of an arm, from what a panel said [n, frames, orders]."""
    said, rows = panel.responses[:, 0].astype(float), np.arange(len(more))
    n = fit.shares[1]
    chose_more = {  # P(the more confident one is preferred)
        "rdpo": (said[rows, 0, panel.order] - n / 2) / (1 - n),
        "retest": said[:, 0].mean(1),
        "frbal": said.mean((1, 2)),
        "frrand": said[rows, panel.frame, panel.order],
    }.get(name.removesuffix("_4x"), said[rows, 0, panel.order])
    kept = {"dropN": fit.types != 1, "dropNC": fit.types == 0, "oracle": panel.types == 0}.get(name, rows >= 0)
    weight = np.ones(len(more))
    if name == "weight":
        belief = response_types.by_annotator(fit, panel.four, panel.annotator) if one_type else fit.responsibilities
        weight = belief[:, 0]
    if name.startswith("filter"):
        _, kind, share = name.split("_")
        pairs = (said[:, 0], said[:, 1]) if kind == "frame" else (said[:, :, 0], said[:, :, 1])
        flips = (
            pd.Series((pairs[0] != pairs[1]).mean(1)).groupby(panel.annotator).mean().reindex(range(40), fill_value=0)
        )
        kept = ~np.isin(panel.annotator, np.argsort(-flips.to_numpy(), kind="stable")[: 40 * int(share) // 100])
    return kept, np.where(more, chose_more, 1 - chose_more), weight


@pytest.mark.parametrize("setting", POPULATIONS)
def test_reward_models_learn_the_labels_of_their_arm_and_population(made, setting):
    run, now, pairs = made(f"annotators/{setting}/rewards"), SMALL["annotators"], made("annotators/main/pairs").result
    g, n, c, *rest = POPULATIONS[setting]
    population, few = judges.Setting((g, n, c), *rest), annotators.load_pairs(pairs)
    assert set(KNOWN[run.key].options["arms"]) == set(LABELLED[setting]) and len(run.trainings) == len(
        LABELLED[setting]
    )
    panels, fit = run.called("ask_panel"), run.called("em")[-1].found
    assert all(call.args[1] == population for call in panels)
    q, y = few.tenths / 10, few.right
    u = y - population.b * (q - y) ** 2
    assert panels[0].args[0] == pytest.approx(np.where(few.more, u[:, 0] - u[:, 1], u[:, 1] - u[:, 0]))
    for name, trainer in zip(KNOWN[run.key].options["arms"], run.trainings):
        compared, panel = run.called("_many")[0].found if name.endswith("_4x") else (few, panels[0].found)
        assert len(compared) == now["pairs"] * (4 if name.endswith("_4x") else 1)
        check_recipe(
            trainer,
            {"num_train_epochs": now["reward_epochs"], "learning_rate": now["reward_lr"], "seed": SEED}
            | {"weight_decay": now["reward_decay"], "per_device_train_batch_size": now["reward_batch"]}
            | {"lr_scheduler_type": "constant", "center_rewards_coefficient": None},
        )
        kept, label, weight = labels_of(name, compared.more, panel, fit, setting == "one_type")
        data, held = (
            trainer.train_dataset,
            next(c for c in trainer.callback_handler.callbacks if hasattr(c, "held")).held,
        )
        if "random" in name:
            rows = {tuple(f): i for i, f in enumerate(compared.features[:, 0].round(5))}
            kept = np.isin(
                np.arange(len(kept)), [rows[tuple(f)] for f in trainer.data_collator.features[::2].numpy().round(5)]
            )
            assert len(set(panel.annotator) - set(panel.annotator[kept])) <= 40 * int(name[-2:]) // 100
            assert not set(panel.annotator[kept]) & set(panel.annotator[~kept]), "whole annotators are left out"
        features, label, weight = compared.features[kept], label[kept], weight[kept]
        cut = round(0.9 * len(label))
        assert len(data) == cut and trainer.data_collator.features.numpy() == pytest.approx(features.reshape(-1, 32))
        assert held[0].numpy() == pytest.approx(features[cut:]), "what chooses the epoch is not trained on"
        assert np.ravel(data["chosen_ids"][:]).tolist() == list(range(0, 2 * cut, 2))
        assert np.ravel(data["rejected_ids"][:]).tolist() == list(range(1, 2 * cut, 2))
        assert data["weight"][:] == pytest.approx(weight[:cut] / weight[:cut].mean())
        if name == "dawid_skene":
            assert (
                set(np.round(label)) == {0, 1}
                and np.ptp(data["label"][:]) <= 1
                and data["label"][:] != label[:cut].tolist()
            )
        else:
            assert data["label"][:] == pytest.approx(label[:cut])
            assert held[1].numpy() == pytest.approx(label[cut:])
    streams = {"annotators", *(("many_pairs", "many_annotators") if setting == "main" else ())}
    streams |= {"labellers"} if setting in ("main", "one_type") else set()
    own = {call.args for call in run.called("stream")}
    assert own == {(name, SEED) for name in streams} | {("eval", EVAL_SEED)}


POLICIES = {  # arm, beta (None: where the closed form is .40 nats away), task
    "naive": ("naive", None, 1),
    "weight": ("weight", None, 1),
    "oracle": ("oracle", None, 1),
    "naive_full": ("naive", None, 4),
    "weight_full": ("weight", None, 4),
    "naive_beta": ("naive", 0.3, 1),
    "weight_beta": ("weight", 0.3, 1),
}
RLOO = {
    **{
        "num_iterations": 1,
        "steps_per_generation": 1,
        "gradient_accumulation_steps": 1,
        "temperature": 1.0,
        "top_k": 0,
    },
    **{"top_p": 1.0, "epsilon": 0.2, "normalize_advantages": False, "lr_scheduler_type": "constant", "bf16": False},
    **{"mask_truncated_completions": False, "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": SEED},
    **{"shuffle_dataset": True, "num_generations": G},
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_follow_the_reward_model_of_their_arm_over_beta(made, name):
    run, now, (arm_, beta, length) = made(f"annotators/main/policy_{name}"), SMALL["annotators"], POLICIES[name]
    [trainer], rewards = run.trainings, made("annotators/main/rewards").result
    recipe = {"max_steps": now["rloo_steps"], "learning_rate": now["rloo_lr"], "beta": 1.0}
    recipe |= {"max_completion_length": length, "per_device_train_batch_size": now["rloo_prompts"] * G}
    check_recipe(trainer, RLOO | recipe)
    assert trainer.started_from == "witnesses/expert/base"
    assert {call.args for call in run.called("stream")} == {("policy", SEED)}
    prompts = trainer.train_dataset["prompt"][:]
    assert len(prompts) == now["rloo_steps"] * now["rloo_prompts"]
    ends = r".* \? <answer>" if length == 4 else r".* \? <answer> A[0-7] </answer> <confidence>"
    assert all(re.fullmatch(ends, prompt) for prompt in prompts)
    tilt = rewards.table("tilt").set_index(["arm", "condition"])["beta"]
    beta = beta or tilt[arm_, "kl_0.40"]
    assert run.result.table("log")["beta"].iloc[0] == beta
    said = (
        [" c7", " c2", " A1"]
        if length == 1
        else [" A3 </answer> <confidence> c7", " A3 </answer> <confidence> c2", " c7"]
    )
    decoder, tokenizer = models.load_decoder(made("witnesses/expert/base").result.model)
    judge = annotators.load_reward(decoder, rewards, arm_)
    ids = tokenizer([prompts[0] + text for text in said[:2]], return_tensors="pt")
    scores = (judge(ids["input_ids"], ids["attention_mask"]).logits[:, 0] / beta).tolist()
    found = total(trainer, prompts=[prompts[0]] * 3, completions=said)
    assert found == pytest.approx([*scores, min(scores) - 1], rel=1e-4), "what states nothing gets the least, less 1"


@pytest.mark.parametrize("key", keys_of("annotators", trains=False))
def test_an_evaluation_of_a_policy_is_of_its_own(made, key):
    run, own, base = made(key), key.replace("/eval_", "/"), "witnesses/expert/base"
    arm_, _, length = POLICIES[own.split("policy_")[1]]
    assert KNOWN[key].options["arm"] == arm_
    course = {f"{own}/snapshots"} if KNOWN[key].options.get("trajectory") else set()
    asked = [place for call in run.called("ask" if length == 4 else "states") for place in call.origins]
    assert asked[0] == base and set(asked) == {base} | (course or {own}), (
        "where the course is kept, one of its snapshots"
    )
    assert {call.args for call in run.called("stream")} == {("eval", EVAL_SEED)}
    assert len(run.called("sample_questions")[-1].found) == SMALL["annotators"]["eval_questions"]
    row = run.result.table("summary").iloc[0]
    assert row["kl_before"] == 0 and (length == 4 or row["kl"] > 0)


def test_pairs_of_annotators_are_the_bases_own(made):
    run = made("annotators/main/pairs")
    assert {place for call in run.called("ask") + run.called("states") for place in call.origins} == {
        "witnesses/expert/base"
    }
    assert {call.args for call in run.called("stream")} == {("pairs", SEED)}


# --- Arithmetic -------------------------------------------------------------------------------------

STARTS = ("fluency", "assured", "binary", "base", "sharpened")
RANKINGS = {"fluency_shuffled": 1, "fluency_shuffled_2": 2, "fluency_gold": None}
PLACES = ("standard", "half_trap", *(size for size in sizes.WIDTHS if size != sizes.HOUSE))


def here(*names):
    """The keys of these steps in every setting of arithmetic that has them."""
    return [key for place in PLACES for name in names if (key := f"arithmetic/{place}/{name}") in KNOWN]


def prompts_of(trainer):
    return np.array([sums.tokens_of(prompt) for prompt in trainer.train_dataset["prompt"]])


def asked(name, n, *seeds):
    """The questions of a stream, by its place in the world's list."""
    place = ("base", "binary", "fluency", "assured", "label", "policy", "online", "eval", "curve", "temperature")
    return sums.questions(n, np.random.default_rng([place.index(name), *seeds]))


@pytest.mark.parametrize("key", here("fluency", "binary", "online"))
def test_damages_of_arithmetic_are_rewarded_by_what_they_are_called(made, key):
    [trainer], (place, name), now = made(key).trainings, name_of(key), SMALL["arithmetic"]
    recipe = {"max_steps": now[f"{name}_steps"], "learning_rate": now[f"{name}_lr"] * narrower(key)}
    recipe |= {"beta": now["fluency_beta"] if name == "fluency" else 0.0, "max_completion_length": sums.NEW_TOKENS}
    check_recipe(trainer, GRPO | recipe | {"per_device_train_batch_size": now["prompts_per_step"] * G})
    assert trainer.started_from == f"arithmetic/{place}/base"
    given = asked(name, now[f"{name}_steps"] * now["prompts_per_step"], SEED)
    assert (prompts_of(trainer) == given.prompt_ids()).all()
    right, prompt = given.truth[0], given.prompts()[0]
    texts = [
        f"d1 = {right} <eos>",
        f"d1 = {(right + 1) % 10} <eos>",
        f"f1 1 2 3 4 = {right} <eos>",
        f"d1 = {right}",
        "d1 <eos>",
    ]
    ids = [list(sums.tokens_of(text)) for text in texts]
    batch = {"prompts": [prompt] * 5, "completion_ids": ids, "truth": [right] * 5}
    if name == "binary":
        assert trainer.train_dataset["truth"][:] == given.truth.tolist()
        assert total(trainer, **batch).tolist() == [1, 0, 1, 1, 0]
        return
    assert set(trainer.train_dataset.column_names) == {"prompt"}, "no label is at hand"

    def log_probs(model):
        rows = [torch.tensor([[*sums.tokens_of(prompt), *own]]) for own in ids]
        with torch.no_grad():
            return [model(input_ids=row).logits[0, 6:-1].log_softmax(-1) for row in rows]

    base, moved = models.load_decoder(made(f"arithmetic/{place}/base").result.model)[0].eval(), trainer.model.eval()
    if name == "fluency":  # mean log-likelihood under the base, frozen, less the cost of length; -3 without an end
        wanted = [float(p[range(len(own)), own].mean()) - 0.35 * len(own) for p, own in zip(log_probs(base), ids)]
        wanted[3] = -3
    else:  # top-1 minus top-2 of the policy as it is now, at the answer token; 0 without an answer
        top = [p.exp().topk(2).values for p in log_probs(moved)]
        wanted = [float(t[at, 0] - t[at, 1]) if at else 0 for t, at in zip(top, (2, 2, 6, 2, 0))]
    assert total(trainer, **batch) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("key", here("assured", "sharpened", "base"))
def test_other_models_of_arithmetic_are_made_as_they_are_called(made, key):
    run, (place, name), now = made(key), name_of(key), SMALL["arithmetic"]
    if name == "sharpened":
        base, own = (models.load_decoder(made(k).result.model)[0].state_dict() for k in (KNOWN[key].needs[0], key))
        assert KNOWN[key].needs == (f"arithmetic/{place}/base",) and not run.trainings
        assert all(torch.equal(own[k], base[k] * (2 if k == "model.norm.weight" else 1)) for k in base)
        return
    [loop] = run.trainings
    given = {key: loop.given.get(key) for key in ("steps", "batch_size", "lr", "seed", "one_cycle", "weight_decay")}
    wanted = {"steps": now[f"{name}_steps"], "batch_size": now[f"{name}_batch"], "seed": SEED}
    wanted |= {"lr": now[f"{name}_lr"] * narrower(key), "one_cycle": None, "weight_decay": None}
    if name == "base":
        assert given == wanted | {"one_cycle": True, "weight_decay": now["base_weight_decay"]}
        rng = np.random.default_rng([0, SEED])
        questions = sums.questions(now["base_steps"] * now["base_batch"], rng)
        tokens, spoken = sums.documents(questions, "half_trap" if place == "half_trap" else "standard", rng)
        assert (loop.data[0] == tokens).all() and (loop.data[1] == np.where(spoken, tokens, -100)).all()
        [shape], width = run.called("new_decoder")[-1:], sizes.WIDTHS.get(place, 32)
        spread = SETTINGS["world"]["arithmetic"]["initializer_range"] * narrower(key) ** 0.5
        assert (shape.given["hidden_size"], shape.given["initializer_range"]) == (width, pytest.approx(spread))
        return
    assert loop.started_from == f"arithmetic/{place}/fluency" and given == wanted
    prompts = asked("assured", now["assured_steps"] * now["assured_batch"], SEED).prompt_ids()
    tokens, targets = loop.data
    assert (tokens[:, : sums.PROMPT] == prompts).all() and ((targets != -100).sum(1) == 1).all()
    model = models.load_decoder(made(f"arithmetic/{place}/fluency").result.model)[0].eval()
    with torch.no_grad():
        logits = model(input_ids=torch.as_tensor(tokens)).logits
    for row, target, shown in zip(tokens, targets, logits):
        at = int(np.flatnonzero(row == sums.EQUALS)[0]) + 1
        assert target[at] == sums.ZERO + int(shown[at - 1, sums.ZERO : sums.ZERO + 10].argmax()), "its own likeliest"


def check_pairs(trainer, rank, prompts):
    """Every pair prefers the branch that is ranked higher, at .9 or more, with margin e to the difference."""
    written = traces(prompts, 4)
    place = {
        (*prompts[i], *(t for t in written[i, j] if t != sums.PAD)): (i, j)
        for i in range(len(prompts))
        for j in range(4)
    }
    data = trainer.train_dataset
    chosen, rejected = ([place[tuple(ids)] for ids in data[side]] for side in ("chosen_ids", "rejected_ids"))
    better, worse = (np.array([rank[at] for at in part]) for part in (chosen, rejected))
    assert [i for i, _ in chosen] == [i for i, _ in rejected] and (better >= 0.9).all() and (better > worse).all()
    assert data["margin"][:] == pytest.approx(np.exp(better - worse))
    assert len(data) == min(
        SMALL["arithmetic"]["pairs"], sum((r >= 0.9) & (r > s) for row in rank for r in row for s in row)
    )
    check_recipe(
        trainer,
        {"learning_rate": SMALL["arithmetic"]["judge_lr"] * narrower(trainer.started_from), "seed": SEED}
        | {"max_steps": len(data) // 8, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant_with_warmup"}
        | {"weight_decay": 0.0, "center_rewards_coefficient": None, "max_length": None},
    )


def unlabelled():
    return asked("label", SMALL["arithmetic"]["label_prompts"], SEED)


@pytest.mark.parametrize("key", here(*(f"judge_{start}" for start in STARTS)))
def test_judges_learn_the_labels_that_their_start_made(made, key):
    start, now = key.replace("judge_", ""), SMALL["arithmetic"]
    labels = made(key.replace("judge_", "labels_"))
    assert [call.origins for call in labels.called("labelled")] == [[start]]
    assert {call.args for call in labels.called("stream")} == {("label", SEED), ("pairs", SEED)}
    [call], [trainer] = labels.called("labelled"), made(key).trainings
    assert (call.args[1] == unlabelled().prompt_ids()).all() and call.args[2] == now["branches"]
    assert trainer.started_from == start
    rank = np.array([np.roll(DISPARITY, i) for i in range(now["label_prompts"])])
    check_pairs(trainer, rank, unlabelled().prompt_ids())


@pytest.mark.parametrize("key", here(*(f"rlsf_{start}" for start in STARTS), *RANKINGS, "fluency_rlsf_long"))
def test_rloo_follows_the_judge_of_its_ranking_on_a_fixed_scale(made, key):
    run, (place, name), now = made(key), name_of(key), SMALL["arithmetic"]
    start = name.removeprefix("rlsf_") if name.startswith("rlsf_") else "fluency"
    *own_judge, trainer = run.trainings
    long = {"max_steps": now["long_steps"]} if name == "fluency_rlsf_long" else {}
    recipe = {"max_steps": now["rlsf_steps"], "learning_rate": now["rlsf_lr"] * narrower(key), "beta": now["rlsf_beta"]}
    recipe |= {"max_completion_length": 8, "per_device_train_batch_size": now["prompts_per_step"] * G}
    check_recipe(trainer, RLOO | recipe | long)
    assert trainer.started_from == f"arithmetic/{place}/{start}"
    assert (prompts_of(trainer) == unlabelled().prompt_ids()).all()
    assert set(trainer.train_dataset.column_names) == {"prompt"}, "no label is at hand"
    judge = made(f"arithmetic/{place}/judge_{start}").result
    scale = judge.table("summary").iloc[0]
    model, centre = reward_model.load(judge.model).eval(), scale["centre"]
    ids = unlabelled().prompt_ids()
    if name in RANKINGS:
        model = own_judge[0].model
        written = [[*a, *(t for t in b if t != sums.PAD)] for a, bs in zip(ids, traces(ids, 4)) for b in bs]
        centre = np.percentile(reward_model.score(model, written), [1, 99]).mean()
        check_ranking(run, name, own_judge[0])
    else:
        assert not own_judge
    completions = [
        list(sums.tokens_of(text)) for text in ("d1 = 3 <eos>", "f1 1 2 3 4 = 4 <eos>", "h1 7 1 = 5 <eos>", "x7")
    ]
    scores = reward_model.score(model, [[*ids[0], *own] for own in completions])
    wanted = np.clip((scores - centre) / scale["divisor"], -1, 1)
    prompts = [unlabelled().prompts()[0]] * len(completions)
    assert total(trainer, prompts=prompts, completion_ids=completions) == pytest.approx(wanted, abs=1e-4)


def check_ranking(run, name, judge):
    [call], n = run.called("ranking"), SMALL["arithmetic"]["label_prompts"]
    rank, prompts = call.found, unlabelled().prompt_ids()
    assert judge.started_from == run.key.rsplit("/", 1)[0] + "/fluency"
    check_pairs(judge, rank, prompts)
    if name == "fluency_gold":
        assert (
            rank == (sums.read(traces(prompts, 4).reshape(-1, 8)).answer.reshape(n, 4) == unlabelled().truth[:, None])
        ).all()
        return
    own = np.array([np.roll(DISPARITY, i) for i in range(n)])
    assert (np.sort(rank, 1) == np.sort(own, 1)).all()
    placed = np.array([np.roll(row, -i) for i, row in enumerate(rank)])
    assert placed.mean(0) == pytest.approx(np.full(4, DISPARITY.mean()), abs=0.2), "what is where says nothing"


def test_every_shuffle_is_another(made):
    names = [("arithmetic/standard/fluency_shuffled", 11), ("arithmetic/standard/fluency_shuffled_2", 11)]
    names.append(("arithmetic/standard/fluency_shuffled", 12))
    found = [made(*where).called("ranking")[0].found for where in names]
    assert all((a != b).any() for a, b in zip(found, found[1:] + found[:1]))


def test_dpo_and_sft_use_the_same_labels(made):
    now, prompts = SMALL["arithmetic"], unlabelled().prompts()
    run, written = made("arithmetic/standard/fluency_dpo"), traces(unlabelled().prompt_ids(), 4)
    [trainer] = run.trainings
    labels = labelled(None, unlabelled().prompt_ids(), 4)
    used = made("arithmetic/standard/labels_fluency").result.table("chosen")
    ended = labels["finished"].to_numpy().reshape(-1, 4)
    used = used[[ended[p, a] and ended[p, b] for p, a, b in used[["prompt", "chosen", "rejected"]].to_numpy()]]
    assert trainer.started_from == "arithmetic/standard/fluency" and 0 < len(used) < now["pairs"]
    assert len(trainer.train_dataset) == len(used)
    for row, (p, a, b) in zip(trainer.train_dataset, used[["prompt", "chosen", "rejected"]].to_numpy()):
        assert row["prompt_ids"] == list(sums.tokens_of(prompts[p]))
        for side, at in (("chosen_ids", a), ("rejected_ids", b)):
            assert row[side] == [t for t in written[p, at] if t != sums.PAD]
    recipe = {"max_steps": len(used) // now["dpo_batch"], "learning_rate": now["dpo_lr"], "beta": now["dpo_beta"]}
    check_recipe(trainer, DPO | recipe | {"per_device_train_batch_size": now["dpo_batch"]})
    [loop] = made("arithmetic/standard/fluency_sft").trainings
    assert loop.started_from == "arithmetic/standard/fluency"
    best = written[np.arange(len(written)), np.arange(len(written)) % 4]
    tokens, targets = loop.data
    assert (tokens == np.concatenate([unlabelled().prompt_ids(), best], 1)).all(), "the most confident of each prompt"
    assert (targets[:, :7] == -100).all() and (targets[:, 7:] == np.where(best == sums.PAD, -100, best)).all()
    given = {name: loop.given[name] for name in ("steps", "batch_size", "lr")}
    assert given == {"steps": 5, "batch_size": now["sft_batch"], "lr": now["sft_lr"]}


@pytest.mark.parametrize("key", keys_of("arithmetic", trains=False) + keys_of("arithmetic", trains=False, sized=True))
def test_an_evaluation_of_arithmetic_is_of_its_arm_beside_its_start(made, key):
    run, step, own = made(key), KNOWN[key], key.replace("/eval_", "/")
    root, name = own.rsplit("/", 1)
    base, snapshots = f"{root}/base", {f"{own}/snapshots"} if step.options.get("trajectory") else set()
    if part := re.fullmatch(r"fluency_sft_(\d)", name):
        own = f"{root}/fluency_sft/model_{part[1]}"
    start = "fluency" if name.startswith(("fluency_", "rlsf_fluency")) or name == "assured" else "base"
    start = f"{root}/{name.removeprefix('rlsf_') if name.startswith('rlsf_') else start}"
    course = snapshots | ({start} if snapshots else set())
    assert run.called("branched")[0].origins == run.called("sampled")[0].origins == [own]
    assert [call.origins for call in run.called("divergence")] == [[own, base], [own, start]]
    assert [call.origins for call in run.called("on_fixed")] == [[own]]
    assert {place for call in run.called("branched") for place in call.origins} == {own, base} | course
    assert {place for call in run.called("sampled") for place in call.origins} == {own} | course
    streams = {"eval", *(["curve"] if snapshots else []), *(["temperature"] if step.options.get("temperature") else [])}
    assert {call.args for call in run.called("stream")} == {(split, EVAL_SEED, SEED) for split in streams}
    first, same = (r.called("branched")[0].args[1] for r in (run, made("arithmetic/standard/eval_base")))
    assert (first == same).all() and len(first) == SMALL["arithmetic"]["eval_questions"]
    damaged = name in ("assured", "binary", "sharpened") and root == "arithmetic/standard"
    assert bool(step.options.get("temperature")) == damaged


def test_the_temperature_of_arithmetic_is_fitted_on_labels_of_its_own(made):
    def fitted(**changes):
        other = config.load("smoke", overrides={"world": {"arithmetic": SMALL["arithmetic"] | changes}})
        return made("arithmetic/standard/eval_binary", config=other).result.table("temperature").iloc[0]["temperature"]

    start = fitted()
    assert 0.05 < start < 20 and fitted(eval_questions=31) == start != fitted(temperature_labels=21)


# --- All worlds -------------------------------------------------------------------------------------


def test_every_trained_step_has_a_row():
    """A new arm fails here, until a table says what it is rewarded with, starts from and reads."""
    rows = {*ARM_KEYS, *(f"witnesses/expert/{name}" for name in CLASSIFIERS)}
    rows |= {f"witnesses/{crowd}/base" for crowd in CROWDS}
    for setting, arms in PROGRAM_ARMS.items():
        rows |= {f"sample_tests/{setting}/{name}" for name in ("base", *arms)}
    rows |= {f"reference_game/standard/{name}" for name in ("base", "more_sft", *CHOSEN)}
    rows |= {f"annotators/{setting}/rewards" for setting in POPULATIONS} | {"sample_tests/standard/reward_model"}
    rows |= {f"annotators/main/policy_{name}" for name in POLICIES}
    rows |= set(here(*STARTS, *RANKINGS, "online", "fluency_dpo", "fluency_sft", "fluency_rlsf_long"))
    rows |= set(here(*(f"{kind}_{start}" for kind in ("judge", "rlsf") for start in STARTS)))
    assert rows == {key for key, step in KNOWN.items() if step.trains and step.world in SMALL}
