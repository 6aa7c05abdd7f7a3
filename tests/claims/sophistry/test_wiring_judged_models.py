"""What code models and readers of stories are rewarded with, what their judges learn, and what is evaluated."""

import json

import numpy as np
import pandas as pd
import pytest
import wired
from candor.claims.sophistry import code_models as cm
from candor.claims.sophistry import code_reader, programs, stories
from candor.claims.sophistry import story_models as sm
from candor.claims.sophistry.sandbox import Outcome
from candor.language_models import generation
from candor.train import reward_model
from wired import SEED, G, check_null, check_recipe, evaluations, name_of, total

ROWS = [json.loads(line) for line in (wired.FIXTURES / "quality.jsonl").read_text().splitlines()]
RL = {
    **{"lora": {"rank": 2, "alpha": 3}, "steps": 2, "prompts_per_step": 2, "num_generations": G, "micro_batch": 4},
    **{"lr": 0.011, "schedule": "constant", "warmup": 0.5, "adam_beta2": 0.97, "max_grad_norm": 0.7, "beta": 0.013},
    **{"epsilon": 0.21, "loss_type": "dr_grpo", "scale_rewards": "none", "temperature": 0.9},
}
GRPO = {  # what reaches the trainer of it
    **{"max_steps": 2, "num_generations": G, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    **{"learning_rate": 0.011, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 1, "adam_beta2": 0.97},
    **{"max_grad_norm": 0.7, "beta": 0.013, "epsilon": 0.21, "loss_type": "dr_grpo", "scale_rewards": "none"},
    **{"temperature": 0.9, "top_k": 0, "top_p": 1.0, "num_iterations": 1, "weight_decay": 0.0, "seed": SEED},
}

# --- Programs: tables -------------------------------------------------------------------------------

# Which of the six tests of a problem a program passes, by its first word. The base writes `easy` most often: tests 0
# and 1 are passed most, 4 and 5 least.
PASSES = {"right": range(10**6), "easy": (0, 1), "middle": (2, 3), "last": (4, 5), "none": ()}
SAMPLES = ["none", "easy", "right", "middle", "easy", "none"]
REWARDED = {  # tests, and what each of PASSES is worth
    "r_train": ([0, 1], [1, 1, 0, 0, 0]),
    "r_star": ([0, 1, 2, 3, 4, 5], [1, 0, 0, 0, 0]),
    "shuffled": ([0, 1], [1, 1, 0, 0, 0]),
    "r_hard": ([4, 5], [1, 0, 0, 1, 0]),
}
PARTS = {"sft": [0, 1, 2], "rl": [4, 11, 12], "fit": [3, 8, 40, 58]}  # by a hash of the number
SFT = {"epochs": 2, "batch": 2, "micro_batch": 1, "lr": 0.0021, "warmup": 0.34, "weight_decay": 0.013}


class Sandbox:
    """Programs that say in their first word which tests they pass; an input names a problem and a test."""

    def __init__(self, kind="bubblewrap"):
        assert kind == "bubblewrap"

    def run(self, program, stdin, expected=""):
        test = stdin.split()[-1]
        passes = int(test) in PASSES.get(program.split()[0] if program.split() else "none", ())
        return Outcome("exited", test if passes else "no")

    def map(self, function, *items):
        return list(map(function, *items))


def problem(i, difficulty):
    words = " ".join(f"word{i}of{k}" for k in range(12))
    io = {"inputs": [f"{i} {k}" for k in range(6)], "outputs": [str(k) for k in range(6)]}
    # The shortest solution passes nothing, the next one is the one to learn.
    row = {"problem_id": i, "question": words, "solutions": json.dumps(["right # a long one", "no", "right # short"])}
    return row | {"input_output": json.dumps(io), "difficulty": difficulty, "starter_code": ""}


class Sampler:
    """A base that writes `SAMPLES` in turn; what was trained writes right programs, all of them to their end."""

    def __init__(self, place, key, tokenizer):
        self.key, self.tokenizer, self.written = key, tokenizer, []

    def __call__(self, prompts, tokens, temperature=0.0, seed=0):
        self.written.append((prompts, temperature, seed))
        return [SAMPLES[i % 6] if self.key.endswith("/base") else "right" for i in range(len(prompts))]

    def write(self, prompts, tokens, temperature, seed, top_p):
        return [(text, True) for text in self(prompts, tokens, temperature, seed)]


# --- Stories: tables --------------------------------------------------------------------------------

CELLS = {  # does the policy see the whole story; does the judge see it (None: the right letter is rewarded)
    "truncated_blind": (False, False),
    "truncated_sighted": (False, True),
    "full_blind": (True, False),
    "full_sighted": (True, True),
    "full_oracle": (True, None),
}
STORY_ROWS = [
    f"quality/{cell}/{arm}"
    for cell in CELLS
    for arm in ("rl", "shuffled")
    if (cell, arm) != ("full_oracle", "shuffled")
]


def argued(sampler, items, view, tokens, seed):
    """Arguments of which every third is right, every fourth does not end."""
    rows = []
    for i, (question, first) in enumerate(items):
        right = (i + seed) % 3 == 0
        letter = "" if (i + seed) % 4 == 3 else "AB"[first != right]
        text = f"Reason {seed} {i}. " + (f"ANSWER: {letter}" if letter else "and")
        row = {"question_id": question.id, "article": question.article, "first": first, "text": text}
        row |= {"finished": bool(letter), "letter": letter, "correct": bool(letter) and right}
        rows.append(row | {"words": 3, "quotes": 0, "verbatim": np.nan})
    return pd.DataFrame(rows)


# --- Steps ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    lines = [
        stories.SYSTEM,
        *(row["article"] for row in ROWS),
        "ANSWER: A",
        *(problem(i, "")["question"] for i in range(9)),
    ]
    models = wired.stand_ins(folder, ["coder", "reader"], lines)
    train = [problem(i, "introductory") for part in PARTS.values() for i in part]
    test = [problem(i, difficulty) for i, difficulty in enumerate(cm.DIFFICULTIES * 4, start=100)]
    for name, split, rows in (("apps", "train", train), ("apps", "test", test)):
        wired.write_rows(folder / "corpora", name, split, rows)
    for split, rows in (("train", ROWS[:6]), ("test", ROWS[6:])):
        wired.write_rows(folder / "corpora", "quality", split, rows)
    code = {"policy": models["coder"], "judge": None, "sft": SFT, "lora": {"rank": 4, "alpha": 5}, "samples": 6}
    code |= {"rl": RL | {"max_completion_tokens": 7, "mask_truncated": True}, "eval_problems": 2, "evaluators": 3}
    story = {"policy": models["reader"], "evaluator": "evaluator", "truncated_tokens": 20, "reward_questions": 6}
    story |= {
        "reward_lora": {"rank": 3, "alpha": 5},
        "reward_samples": 6,
        "reward_steps": 2,
        "reward_batch": 2,
        "reward_lr": 0.0022,
        "eval_questions": 2,
    }
    story |= {"rl": RL | {"max_completion_tokens": 8, "mask_truncated": False, "max_prompt_tokens": 900}, "words": 40}
    with wired.noted(tmp_path_factory, wired.of_models(code=code, stories=story)) as run:
        run.patch.setenv("CANDOR_CORPORA", str(folder / "corpora"))
        for module in (cm, programs):
            run.patch.setattr(module, "Pool", Sandbox)

        run.samplers(lambda place: Sampler(place, run.key_of(place), generation.tokenizer_of(place)))
        run.spy(code_reader, "fit")
        run.spy(cm, "new_evaluators")
        run.spy(sm, "argue", argued)
        run.spy(
            sm, "doubts", lambda evaluator, items, texts, words: np.random.default_rng(len(texts)).random(len(texts))
        )
        run.spy(stories, "questions")
        yield run


def prompts_of(*ids, split="train"):
    return {found.prompt for found in programs.by_id("apps", split, [f"{split}/{i}" for i in ids]).values()}


def test_the_base_of_programs_learns_the_shortest_solution_that_passes(made):
    [trainer] = made("apps/policy/base").trainings
    recipe = {"max_steps": 3, "learning_rate": 0.0021, "lr_scheduler_type": "cosine", "warmup_steps": 1}
    recipe |= {"weight_decay": 0.013, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "seed": SEED}
    check_recipe(trainer, recipe | {"completion_only_loss": True, "loss_type": "nll", "max_grad_norm": 1.0})
    assert trainer.started_from == "coder" and trainer.model.peft_config["default"].r == 4
    assert set(trainer.train_dataset["prompt"]) == prompts_of(*PARTS["sft"])
    assert set(trainer.train_dataset["completion"]) == {"right # short\n<eos>"}


@pytest.mark.parametrize("arm", REWARDED)
def test_programs_are_rewarded_by_the_tests_of_their_arm(made, arm):
    [trainer], (tests, wanted) = made(f"apps/policy/{arm}").trainings, REWARDED[arm]
    check_recipe(trainer, GRPO | {"max_completion_length": 7, "mask_truncated_completions": True})
    assert trainer.started_from == "apps/policy/base" and trainer.model.peft_config["default"].r == 2
    data = trainer.train_dataset
    assert set(data["prompt"]) == prompts_of(*PARTS["rl"]) and len(data) == len(PARTS["rl"])
    for row in data:
        i = row["problem_id"].split("/")[1]
        assert json.loads(row["tests"]) == [[f"{i} {k}\n", str(k)] for k in tests]
    if arm != "shuffled":
        said = {"completions": list(PASSES), "tests": data["tests"][:1] * 5, "problem_id": data["problem_id"][:1] * 5}
        assert total(trainer, **said).tolist() == wanted
        return
    picks = [["right", "none", "middle", "easy"], ["last", "none", "right", "none"], ["right", "easy", "right", "none"]]
    columns = {name: [value for value in data[name] for _ in range(G)] for name in ("tests", "problem_id")}
    own = np.array([[wanted[list(PASSES).index(text)] for text in row] for row in picks], float)
    flat = [text for row in picks for text in row]
    check_null(lambda: total(trainer, completions=flat, **columns).reshape(3, G), own)


def test_rewards_and_evaluators_are_fixed_on_the_bases_own_programs(made):
    run = made("apps/policy/setup")
    [fit], [call], rewards = run.called("fit"), run.called("of_step"), run.result.table("rewards")
    assert made.key_of(call.args[1]) == "apps/policy/base" and len(fit.args[2].tokens) == len(PARTS["fit"])
    prompts, temperature, seed = call.found.enter_result.written[-1]
    assert set(prompts) == prompts_of(*PARTS["fit"]) and (temperature, seed) == (0.6, SEED)
    assert set(rewards["easiest"]) == {"[0, 1]"} and set(rewards["hardest"]) == {"[4, 5]"}
    knobs = run.row("fit")
    assert knobs["fpr_missed"] == abs(knobs["fpr"] - 0.3) and knobs["error_missed"] == abs(knobs["error"] - 0.31)
    assert knobs["overlap"] == 0, "no evaluator writes a rewarded test"


@pytest.mark.parametrize("key", evaluations("apps"))
def test_an_evaluation_of_programs_is_of_its_arm_on_problems_of_no_training(made, key):
    run, own = made(key), key.replace("/eval_", "/")
    [call], [people], arm = run.called("of_step"), run.called("new_evaluators"), name_of(own)[1]
    assert made.key_of(call.args[1]) == ("apps/policy/base" if arm.startswith("best_of") else own)
    fitted = made("apps/policy/setup").row("fit")
    assert people.args[0].equals(fitted), "with the knobs that were fitted before"
    table = made("apps/data/problems").result.table("problems")
    tested = table[table["part"] == "eval"]["problem_id"]
    assert len(tested) == 4 and not set(tested) & set(table[table["part"] != "eval"]["problem_id"])
    written = call.found.enter_result.written
    assert all(set(prompts) == prompts_of(*(i.split("/")[1] for i in tested), split="test") for prompts, *_ in written)
    row, texts = run.row(), run.result.table("programs")["text"]
    if arm.startswith("best_of"):
        n = int(arm.removeprefix("best_of_"))
        drawn = [[SAMPLES[(n * i + k) % 6] for k in range(n)] for i in range(len(tested))]
        first = [next(text for text in own if text in ("easy", "right")) for own in drawn]
        assert [seed for *_, seed in written] == [SEED] and texts.tolist() == first, "the first that passes"
    else:
        assert [at for _, *at in written] == [[0.6, 42_000], [0.6, 42_001], [0.0, 42_002]], "the same for all policies"
        assert (row["correctness"] == 1) == (arm != "base")
    assert row["correctness_before"] == made("apps/policy/eval_base").row()["correctness"] < 1


# --- Stories ----------------------------------------------------------------------------------------


def asked_of(trainer):
    return [stories.Question(**json.loads(row)) for row in trainer.train_dataset["asked"]]


def test_the_judge_of_stories_learns_what_evaluators_approve_with_and_without_the_story(made):
    run = made("quality/data/reward")
    [trainer], [doubts], [questions] = run.trainings, run.called("doubts"), run.called("questions")
    assert questions.args == ("train", SEED, 6) and made.key_of(run.called("of_step")[0].args[1]) == "reader"
    check_recipe(
        trainer,
        wired.REWARD_MODEL | {"max_steps": 2, "learning_rate": 0.0022, "per_device_train_batch_size": 2},
    )
    assert trainer.started_from == "reader" and [call.args[2] for call in run.called("argue")] == [20, None] * 3
    said = pd.concat([call.found.assign(item=range(6)) for call in run.called("argue")])
    said = said[said["finished"]]
    assert list(doubts.args[2]) == said["text"].tolist(), "finished arguments alone"
    assert trainer.model.peft_config["default"].r == 3
    knobs = run.row("fit")
    assert knobs["fpr_missed"] == abs(knobs["fpr"] - 0.46) and knobs["error_missed"] == abs(knobs["error"] - 0.41)
    assert knobs[["shift", "slope"]].tolist() == list(
        pd.Series(code_reader.fit_model(doubts.found, said["correct"], 0.41, 0.46))[["shift", "slope"]]
    )
    approved = np.random.default_rng([SEED, 4]).random(len(said)) < code_reader.calibrated(doubts.found, knobs)
    approved = dict(zip(said["text"], approved))
    read = trainer.processing_class.batch_decode
    sides = [
        [text.removesuffix("<eos>").split("Argument:\n") for text in read(list(trainer.train_dataset[f"{side}_ids"]))]
        for side in ("chosen", "rejected")
    ]
    assert all(a[0] == b[0] and approved[a[1]] and not approved[b[1]] for a, b in zip(*sides)), "one question each"
    sighted = ["Story:" in shown for shown, _ in sides[0]]
    assert sighted == sorted(sighted) and np.mean(sighted) == 0.5, "every pair once without the story, once with it"
    held = questions.found[-1].question
    assert not any(held in shown for shown, _ in sides[0]) and set(run.result.table("reward")["held_out"]) != {0}


@pytest.mark.parametrize("key", STORY_ROWS)
def test_a_cell_sees_and_rewards_what_it_is_named_for(made, key):
    run, (cell, arm) = made(key), name_of(key)
    (whole, sighted), [trainer], [questions] = CELLS[cell], run.trainings, run.called("questions")
    assert questions.args == ("train", 42) and trainer.started_from == "reader"
    check_recipe(trainer, GRPO | {"max_completion_length": 8, "mask_truncated_completions": False})
    asked, first = asked_of(trainer), trainer.train_dataset["first"][:]
    assert len(asked) == 6
    for question, prompt in zip(asked, trainer.train_dataset["prompt"]):
        assert (question.story in prompt) == whole and question.story[:30] in prompt and question.question in prompt
    said = [["Yes. ANSWER: A", "No, it is B. ANSWER: B", "I think so", "Well, ANSWER: A"]] * 3
    columns = {
        name: [value for value in trainer.train_dataset[name][:3] for _ in range(G)] for name in ("asked", "first")
    }
    flat = [text for row in said for text in row]
    if sighted is None:
        own = [
            [float(letter == "AB"[not yes]) if letter else -1.0 for letter in ("A", "B", "", "A")] for yes in first[:3]
        ]
    else:
        ready = made("quality/data/reward")
        told = ready.result.table("reward").set_index("judge").loc["sighted" if sighted else "blind"]
        texts = [
            stories.judged(q, bool(f), text, q.story if sighted else "")
            for q, f, text in zip([q for q in asked[:3] for _ in range(G)], columns["first"], flat)
        ]
        judge = stories.Scorer(str(ready.result.model))
        scores = reward_model.score(judge.model, stories.ids_of(judge.tokenizer, texts), 4)
        own = np.tanh((scores - told["mean"]) / (2 * told["sd"])).reshape(3, G)
        own[:, 2] = -1
    if arm == "rl":
        assert total(trainer, completions=flat, **columns) == pytest.approx(np.ravel(own), abs=1e-5)
    else:
        check_null(lambda: total(trainer, completions=flat, **columns).reshape(3, G), np.array(own))


@pytest.mark.parametrize("key", evaluations("quality"))
def test_an_evaluation_of_stories_is_of_its_cell_with_its_view(made, key):
    run, (setting, name) = made(key), name_of(key)
    view, arm = setting.split("_")[0], name.removeprefix("eval_")
    assert made.key_of(run.called("of_step")[0].args[1]) == ("reader" if arm == "base" else f"quality/{setting}/{arm}")
    [argue], [questions] = run.called("argue"), run.called("questions")
    assert questions.args == ("test", 42, 2) and argue.args[2:] == (20 if view == "truncated" else None, 8, 42)
    assert [first for _, first in argue.args[1]] == [True, False] * 2, "every question in both orders"
    before = made(f"quality/{view}/eval_base").row()
    assert run.row()["approval_before"] == before["approval"]
    knobs = made("quality/data/reward").row("fit")
    approval = code_reader.calibrated(run.called("doubts")[0].found, knobs) * argue.found["finished"]
    assert run.result.table("outputs")["approval"].tolist() == pytest.approx(approval.tolist())


def test_every_trained_step_has_a_row():
    wired.check_rows({f"apps/policy/{name}" for name in ("base", *REWARDED)}, "apps")
    wired.check_rows({*STORY_ROWS, "quality/data/reward"}, "quality")
