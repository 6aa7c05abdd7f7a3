"""What arms of the witnesses are rewarded with, start from and read, and what their evaluations ask: see `wired`.

The tables were written from the briefs and the papers (Damani et al. 2025, Tan et al. 2026, Kalai et al. 2025).
"""

from math import log

import numpy as np
import pytest
import torch
import wired
from candor.claims.model_size import run as sizes
from candor.core import settings as config
from candor.witnesses import run as witnesses
from candor.witnesses import world as suspects
from candor.witnesses.joint import Joint
from wired import EVAL_SEED, GRPO, KNOWN, SEED, G, check_null, check_recipe, evaluations, name_of, narrower, total

SMALL = {
    **{"eval_questions": 60, "heldout_questions": 40, "shift_questions": 20, "trajectory_questions": 24},
    **{"free_questions": 10, "voting_questions": 20, "base_steps": 3, "base_batch": 8, "base_lr": 0.0041},
    **{"grpo_steps": 2, "grpo_steps_naive": 3, "grpo_steps_give_up": 4, "prompts_per_step": 3},
    **{"num_generations": G, "grpo_lr": 0.0031, "classifier_lr": 0.0011, "snapshot_every": 2},
    **{"train_prompts": 24, "train_prompts_give_up": 36, "hidden_size": 64, "layers": 2, "heads": 4, "mlp": 256},
}


# --- Tables -----------------------------------------------------------------------------------------

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


SIZES = [size for size in sizes.WIDTHS if size != sizes.HOUSE]
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
}
ARMS |= {size: {name: ARMS["expert"][name] for name in ("rlvr", "rlcr", "shuffled_correct")} for size in SIZES}
ROWS = {f"witnesses/{setting}/{name}": row for setting, arms in ARMS.items() for name, row in arms.items()}
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
    **dict.fromkeys(SIZES, (0.1, 0.2, None, None, 0, 0, False)),
}


# --- Steps ------------------------------------------------------------------------------------------


def answers(model, questions, *, states=True, **_):
    """What a forecaster answers who is surer than the posterior, whatever the model, and states about as much."""
    exact = suspects.posterior(questions) ** 1.5
    exact /= exact.sum(1, keepdims=True)
    stated = np.exp(-9 * (np.arange(11) / 10 - exact[..., None]) ** 2)
    stated /= stated.sum(-1, keepdims=True)
    rng = np.random.default_rng(len(questions))
    return Joint(exact, stated if states else None, rng.random(len(exact)) / 2, rng.random(len(exact)) / 9)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with wired.noted(tmp_path_factory, wired.of_world("witnesses", SMALL)) as run:
        from candor.train import sharing
        from candor.witnesses import joint

        for name in ("stream", "sample_questions"):
            run.spy(suspects, name)
        run.spy(joint, "ask", answers)
        run.spy(sharing, "sample_groups")
        yield run


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


@pytest.mark.parametrize("key", ROWS)
def test_witnesses_are_rewarded_as_the_briefs_say(made, key):
    [trainer], (wanted, _) = made(key).trainings, ROWS[key]
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


@pytest.mark.parametrize("key", ROWS)
def test_witnesses_are_trained_by_the_recipe_on_the_crowds_questions(made, key):
    run, (setting, _), differs = made(key), name_of(key), dict(ROWS[key][1])
    [trainer] = run.trainings
    n, testimonies = SMALL[differs.pop("prompts", "train_prompts")], differs.pop("testimonies", 5)
    wanted = {"max_steps": "grpo_steps", "learning_rate": SMALL["grpo_lr"] * narrower(key), "max_completion_length": 8}
    wanted |= GRPO | {"per_device_train_batch_size": SMALL["prompts_per_step"] * G} | differs
    check_recipe(trainer, wanted | {"max_steps": SMALL[wanted["max_steps"]]})
    assert trainer.started_from == f"witnesses/{setting}/base"
    prompts = trainer.train_dataset["prompt"][:]
    assert len(prompts) == n and all(text.startswith("Q w") for text in prompts)
    assert {text.split()[-1] for text in prompts} == {"<confidence>" if "conf_first" in key else "<answer>"}
    assert max(text.count(" w") for text in prompts) == testimonies
    assert run.streams() == {("train", SEED)}


@pytest.mark.parametrize("setting", CROWDS)
def test_bases_of_witnesses_read_their_own_crowd(made, setting):
    key, now, crowd = f"witnesses/{setting}/base", SMALL, suspects.Crowd(*CROWDS[setting])
    [loop], n = made(key).trainings, now["base_steps"] * now["base_batch"]
    wanted = suspects.documents(n, crowd, np.random.default_rng([0, SEED]))
    assert (loop.data[0] == wanted).all()
    given = {name: loop.given[name] for name in ("batch_size", "lr", "pad")}
    assert given == {"batch_size": now["base_batch"], "lr": now["base_lr"] * narrower(key), "pad": suspects.PAD}
    [shape], width = made(key).called("new_decoder"), sizes.WIDTHS.get(setting, 64)
    wanted = {"hidden_size": width, "layers": 2, "heads": max(4, width // 64), "mlp": 4 * width}
    assert shape.given == wanted, "a size differs from the house in width"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_judges_answers_of_its_policy_by_the_truth(made, name):
    policy, most = CLASSIFIERS[name]
    run = made(f"witnesses/expert/{name}")
    [loop], [asked], [questions] = run.trainings, run.called("ask"), run.called("sample_questions")
    assert loop.started_from == "witnesses/expert/base" and asked.origins == [f"witnesses/expert/{policy}"]
    documents = loop.data[0]
    assert len(documents) == SMALL["grpo_steps"] * SMALL["prompts_per_step"] * G, "as many as the policy's run had"
    assert loop.given["batch_size"] == SMALL["prompts_per_step"] * G and loop.given["lr"] == SMALL["classifier_lr"]
    assert run.streams() == {("train", SEED), ("classifier", SEED)}
    truth = {tuple(row): guilty for row, guilty in zip(suspects.prompt_tokens(questions.found), questions.found.guilty)}
    assert max(len(row) for row in truth) == 3 + 2 * most
    for i, row in enumerate(documents.tolist()):
        *prompt, answer, _ = row[: len(row) - row.count(suspects.PAD)]
        logit = witnesses._judge(loop.model, torch.tensor([row]))
        y = torch.tensor([float(suspects.ANSWER_IDS[truth[tuple(prompt)]] == answer)])
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(logit, y)
        found = loop.given["loss"](loop.model, torch.tensor([row]), slice(i, i + 1))
        assert found.item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("key", evaluations("witnesses"))
def test_an_evaluation_of_witnesses_asks_its_arm_the_declared_questions(made, key):
    run, step, own = made(key), KNOWN[key], key.replace("/eval_", "/")
    asked = run.asked("ask", "sample_groups")
    if "classifier" in key:
        assert asked == {f"witnesses/expert/{CLASSIFIERS[name_of(own)[1]][0]}"}, "the policy whose answers it judges"
        assert run.streams() == {("eval", EVAL_SEED)}
    else:
        course = {own.rsplit("/", 1)[0] + "/base", f"{own}/snapshots"} if step.options.get("trajectory") else set()
        assert asked == {own, *course}
        assert run.streams() == {("eval", EVAL_SEED), ("eval", EVAL_SEED + 1), ("free", EVAL_SEED)}
    first = run.called("sample_questions")[0].found
    same = made("witnesses/expert/eval_rlvr").called("sample_questions")[0].found
    assert len(first) == SMALL["eval_questions"], "the same for every arm"
    assert (first.guilty == same.guilty).all() and (first.named == same.named).all()


def test_temperatures_are_fitted_on_held_out_questions_alone(made):
    def fitted(**changes):
        run = made("witnesses/expert/eval_rlvr", settings=wired.of_world("witnesses", SMALL, **changes))
        return run.row()[["temperature_answer", "temperature_confidence"]].tolist()

    start = fitted()
    assert all(0.05 < t < 20 for t in start) and fitted(eval_questions=61) == start
    assert all(a != b for a, b in zip(fitted(heldout_questions=41), start))
    splits = [("eval", EVAL_SEED), ("eval", EVAL_SEED + 1), *((s, SEED) for s in ("train", "documents", "classifier"))]
    draws = {tuple(suspects.stream(*split).integers(2**60, size=2)) for split in splits}
    assert len(draws) == len(splits), "no split shares a draw with another"


def test_the_chances_of_an_evaluation_are_the_same_for_every_arm_and_seed(made):
    """Answers are made up here, whatever the model, so nothing may differ but what is drawn from the model itself."""
    runs = [made("witnesses/expert/eval_rlvr"), made("witnesses/expert/eval_rlcr", 12)]
    rows = [run.row().drop("malformed") for run in runs]
    assert rows[0].equals(rows[1]) and runs[0].result.table("voting").equals(runs[1].result.table("voting"))


def test_the_laptop_scale_is_the_specification():
    settings = config.load("laptop")["world"]["witnesses"]
    wanted = {
        **{"eval_questions": 20_000, "eval_seed": 7001, "heldout_questions": 4000, "base_steps": 1500},
        **{"base_batch": 128, "base_lr": 4e-3, "grpo_steps": 400, "grpo_steps_naive": 400, "grpo_steps_give_up": 800},
        **{"prompts_per_step": 32, "num_generations": 8, "grpo_lr": 3e-4, "train_prompts": 20_000},
        **{"hidden_size": 64, "layers": 2, "heads": 4, "mlp": 256},
    }
    assert {name: settings[name] for name in wanted} == wanted


def test_arms_on_which_no_verdict_rests_have_few_seeds():
    few = {
        "expert/" + name for name in ("shuffled_reward", "rlvr_answer_only", "rlvr_no_format", "rlvr_oracle", "rlvr_kl")
    }
    few |= {
        "expert_conf_first/rlcr_conf_first",
        "give_up/swap_rlvr",
        *(f"twelve/{n}" for n in ("base", "rlvr", "rlcr")),
    }
    for key, step in KNOWN.items():
        setting, name = name_of(key.replace("/eval_", "/"))
        if step.world == "witnesses" and setting not in SIZES:
            assert step.seeds == ("few_seeds" if f"{setting}/{name}" in few else "seeds"), key


def test_every_trained_step_has_a_row():
    """A new arm fails here, until a table says what it is rewarded with, starts from and reads."""
    classifiers = {f"witnesses/expert/{name}" for name in CLASSIFIERS}
    wired.check_rows({*ROWS, *classifiers, *(f"witnesses/{setting}/base" for setting in CROWDS)}, "witnesses")
