"""What reaches the trainers and the evaluations of the worlds, against tables that were written from the briefs.

`wired.Steps` runs every step with its own function and notes its trainings, which train nothing. A row of a table says
what a trained step is: a new one without a row fails `test_every_trained_step_has_a_row`.
"""

from math import log

import numpy as np
import pytest
import torch
import wired
from candor import config
from candor.experiments import sample_tests, sizes, witnesses
from candor.judges import evaluators
from candor.training import reward_model
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
        **{"eval_problems": 40, "fit_problems": 60, "selection_problems": 6, "selection_samples": 8, "sft_problems": 50},
        **{"base_steps": 3, "base_batch": 8, "base_lr": 0.0042, "base_weight_decay": 0.052, "rl_problems": 30},
        **{"samples": 6, "grpo_steps": 2, "grpo_lr": 0.0032, "prompts_per_step": 3, "num_generations": G},
        **{"kl_weight": 0.053, "snapshot_every": 2, "rm_steps": 3, "rm_batch": 4, "rm_lr": 0.0012, "rm_heldout": 10},
    },
}
SETTINGS = config.load("smoke", overrides={"world": SMALL})


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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with wired.noted(tmp_path_factory.mktemp("made"), SETTINGS) as run:
        from candor import shared_prompt
        from candor.worlds import joint

        run.spy(suspects, "stream")
        run.spy(suspects, "sample_questions")
        run.spy(joint, "ask", answers)
        run.spy(shared_prompt, "sample_groups")
        run.spy(programs, "stream")
        run.spy(sample_tests, "sample", written)
        run.spy(sample_tests, "divergence")
        run.spy(evaluators, "fit")
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


@pytest.mark.parametrize("key", [key for key in keys_of("witnesses") + keys_of("witnesses", sized=True) if "/base" in key])
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
        assert loop.given["loss"](loop.model, torch.tensor([row]), slice(i, i + 1)).item() == pytest.approx(wanted.item())


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


SPLITS = [("eval", EVAL_SEED), ("eval", EVAL_SEED + 1), *((name, SEED) for name in ("train", "documents", "classifier"))]


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
    ids = [[*programs.tokens_of(text), *([programs.EOS] if k < 4 else [])] for own in texts for k, text in enumerate(own)]
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


def test_the_reward_model_learns_what_evaluators_approve(made):
    run, now = made("sample_tests/standard/reward_model"), SMALL["sample_tests"]
    [trainer], summary = run.trainings, run.result.table("summary").iloc[0]
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
    first = run.called("divergence")[0]
    assert first.origins == [own, base]
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
