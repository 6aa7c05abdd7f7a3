"""What pretrained models are rewarded with and trained by on the papers' data, and what is evaluated: see `wired`."""

from math import log

import numpy as np
import pytest
import wired
from candor.core import settings as config
from candor.language_models import run as lm
from candor.language_models import sets
from wired import SEED, G, check_recipe, evaluations, name_of, total

# --- Tables -----------------------------------------------------------------------------------------

# Completions with R the right answer and W a wrong one: whether they are a whole answer (think, answer), a whole
# document (and analysis, confidence), right as either, and for documents 1 - (q - c)^2 (0 if malformed; Damani et al.),
# -(q - c)^2 (-1) and the logarithm of what is left to the outcome (ln 1/202, the clip; Tan et al.).
WORST = -log(202)
TEXTS, ANSWER, DOCUMENT, RIGHT_ANSWER, RIGHT_DOCUMENT, SHIFTED, BRIER, LOG = zip(
    (
        "</think> <answer> R </answer> <analysis> a </analysis> <confidence> 0.9 </confidence>",
        0,
        1,
        0,
        1,
        0.99,
        -0.01,
        log(0.9),
    ),
    (
        "</think> <answer> R </answer> <analysis> a </analysis> <confidence> 0.2 </confidence>",
        0,
        1,
        0,
        1,
        0.36,
        -0.64,
        log(0.2),
    ),
    (
        "</think> <answer> W </answer> <analysis> a </analysis> <confidence> 0.9 </confidence>",
        0,
        1,
        0,
        0,
        0.19,
        -0.81,
        log(0.1),
    ),
    (
        "</think> <answer> W </answer> <analysis> a </analysis> <confidence> 0.2 </confidence>",
        0,
        1,
        0,
        0,
        0.96,
        -0.04,
        log(0.8),
    ),
    ("</think> <answer> W </answer> <analysis> a </analysis> <confidence> 1 </confidence>", 0, 1, 0, 0, 0, -1, WORST),
    ("</think> <answer> R </answer> <analysis> a </analysis> <confidence> 90% </confidence>", 0, 0, 0, 0, 0, -1, WORST),
    ("<answer> R </answer> <analysis> a </analysis> <confidence> 0.9 </confidence>", 0, 0, 0, 0, 0, -1, WORST),
    ("I see. </think> <answer> R </answer>", 1, 0, 1, 0, 0, -1, WORST),
    ("</think> <answer> W </answer>", 1, 0, 0, 0, 0, -1, WORST),
    ("</think> <answer> R </answer> and so on", 0, 0, 0, 0, 0, -1, WORST),
    ("I do not know", 0, 0, 0, 0, 0, -1, WORST),
)
ANSWER, DOCUMENT, RIGHT_ANSWER, RIGHT_DOCUMENT, SHIFTED, BRIER, LOG = (
    np.array(part, float) for part in (ANSWER, DOCUMENT, RIGHT_ANSWER, RIGHT_DOCUMENT, SHIFTED, BRIER, LOG)
)
FORMAT, CORRECT, CONFIDENCE = 0.3, 0.5, 0.7  # weights, in the papers .5 each
BOTH = FORMAT * DOCUMENT + CORRECT * RIGHT_DOCUMENT
REWARDS = {
    "rlvr": FORMAT * ANSWER + CORRECT * RIGHT_ANSWER,
    "rlcr": BOTH + CONFIDENCE * SHIFTED,
    "brier2": BOTH + 2 * CONFIDENCE * BRIER,
    "log1": BOTH + CONFIDENCE * LOG,
    "log_k": BOTH + CONFIDENCE * LOG / log(202),
    "brier_only": FORMAT * DOCUMENT + CONFIDENCE * BRIER,
    "log_only": FORMAT * DOCUMENT + CONFIDENCE * LOG,
}
WEIGHTS = {"format_weight": FORMAT, "accuracy_weight": CORRECT, "brier_weight": CONFIDENCE}
RECIPES = {  # and what reaches the trainer of them
    "hotpot": (
        {"dataset": "hotpot_modified", "lora": {"rank": 2, "alpha": 3}, "steps": 4, "prompts_per_step": 2, "lr": 0.011}
        | {"num_generations": G, "micro_batch": 4, "schedule": "constant", "warmup": 0.5, "adam_beta2": 0.97}
        | {"max_grad_norm": 0.12, "beta": 0.0, "epsilon": 0.21, "loss_type": "dr_grpo", "scale_rewards": "none"}
        | {"temperature": 0.9, "max_prompt_tokens": 900, "max_completion_tokens": 7, "mask_truncated": False}
        | WEIGHTS,
        {"max_steps": 4, "learning_rate": 0.011, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2}
        | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 2}
        | {"adam_beta2": 0.97, "max_grad_norm": 0.12, "beta": 0.0, "epsilon": 0.21, "loss_type": "dr_grpo"}
        | {"scale_rewards": "none", "temperature": 0.9, "max_completion_length": 7}
        | {"mask_truncated_completions": False},
    ),
    "math": (
        {"dataset": "big_math_digits", "lora": {"rank": 4, "alpha": 5}, "steps": 3, "prompts_per_step": 3, "lr": 0.012}
        | {"num_generations": G, "micro_batch": 12, "schedule": "linear", "warmup": 1 / 3, "adam_beta2": 0.98}
        | {"max_grad_norm": 0.13, "beta": 0.03, "epsilon": 0.22, "loss_type": "bnpo", "scale_rewards": "batch"}
        | {"temperature": 0.8, "max_prompt_tokens": 800, "max_completion_tokens": 8, "mask_truncated": True}
        | WEIGHTS,
        {"max_steps": 3, "learning_rate": 0.012, "lr_scheduler_type": "linear", "warmup_steps": 1}
        | {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 1, "steps_per_generation": 1}
        | {"adam_beta2": 0.98, "max_grad_norm": 0.13, "beta": 0.03, "epsilon": 0.22, "loss_type": "bnpo"}
        | {"scale_rewards": "batch", "temperature": 0.8, "max_completion_length": 8}
        | {"mask_truncated_completions": True},
    ),
}
ALWAYS = {
    **{"num_iterations": 1, "top_k": 0, "top_p": 1.0, "weight_decay": 0.0, "adam_beta1": 0.9, "seed": SEED},
    **{"multi_objective_aggregation": "sum_then_normalize", "importance_sampling_level": "token"},
}
ROWS = [f"{corpus}/policy/{arm}" for corpus in RECIPES for arm in REWARDS]
RELEASED = {  # evaluation: the checkpoint that answers, and the classifier that judges it
    "hotpot/released/eval_base": ("base", None),
    "hotpot/released/eval_rlvr": ("rlvr", None),
    "hotpot/released/eval_rlcr": ("rlcr", None),
    "hotpot/released/eval_classifier": ("rlvr", "classifier"),
    "math/released/eval_rlvr": ("rlvr_math", None),
    "math/released/eval_rlcr": ("rlcr_math", None),
    "math/released/eval_sft_rlcr": ("sft_rlcr_math", None),
    "math/released/eval_classifier": ("rlvr_math", "classifier_math"),
}
IDS = sorted({name for pair in RELEASED.values() for name in pair if name})
QUESTIONS = {"hotpot": ("Which river is it?", "the Seine"), "math": ("How many are they?", "12")}

# --- Steps ------------------------------------------------------------------------------------------


class Sampler:
    """A model that says one of `TEXTS` after another, and is rather sure of each answer."""

    tokenizer = None

    def __call__(self, prompts, tokens, temperature=0.0, seed=0):
        return [TEXTS[i % len(TEXTS)] for i in range(len(prompts))]

    def answer_probabilities(self, prompts, completions):
        return [0.7] * len(prompts)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language_models")
    models = wired.stand_ins(folder, ["policy", *IDS], [*TEXTS, *(text for text, _ in QUESTIONS.values())])
    for name, corpus in (("hotpot_modified", "hotpot"), ("hotpot_vanilla", "hotpot"), ("big_math_digits", "math")):
        problem, answer = QUESTIONS[corpus]
        rows = [{"problem": f"{i}. {problem}", "answer": answer} for i in range(9)]
        rows[0]["problem"] *= 200  # longer than a prompt may be
        for split in ("train", "test"):
            wired.write_rows(folder / "corpora", name, split, rows)
    settings = {"policy": models["policy"], "ids": {name: models[name] for name in IDS}, "engine": "transformers"}
    settings |= {corpus: recipe for corpus, (recipe, _) in RECIPES.items()} | {"voting_questions": 0}
    settings |= {"eval_sets": ["hotpot_vanilla", "big_math_digits"], "eval_questions": 8}
    with wired.noted(tmp_path_factory, wired.of_models(**settings)) as run:
        run.patch.setenv("CANDOR_CORPORA", str(folder / "corpora"))
        run.spy(sets, "prompts")
        run.samplers(lambda place: Sampler())
        run.spy(lm, "ask")
        run.spy(lm, "classify", lambda place, asked: None)
        yield run


@pytest.mark.parametrize("key", ROWS)
def test_an_arm_is_rewarded_and_trained_as_its_papers_say(made, key):
    run, corpus, arm = made(key), key.split("/")[0], name_of(key)[1]
    [trainer], [questions], (recipe, wanted) = run.trainings, run.called("prompts"), RECIPES[corpus]
    assert questions.args == (recipe["dataset"], "train", SEED)
    assert questions.given["form"] == ("answer" if arm == "rlvr" else "document")
    data = trainer.train_dataset
    assert len(data) == 8 and data["grader"][0] == {"hotpot": "exact", "math": "math"}[corpus], "no long prompt is left"
    assert ("<confidence>" in data["prompt"][0]) == (arm != "rlvr")
    check_recipe(trainer, ALWAYS | wanted | {"num_generations": G})
    adapters = trainer.model.peft_config["default"]
    assert (adapters.r, adapters.lora_alpha) == tuple(recipe["lora"].values()) and trainer.started_from == "policy"
    right = data["answer"][0]
    said = [text.replace("R", right[0]).replace("W", "7 boats") for text in TEXTS]
    found = total(trainer, completions=said, answer=[right] * len(said), grader=data["grader"][:1] * len(said))
    assert found == pytest.approx(REWARDS[arm])


@pytest.mark.parametrize("key", [*evaluations("hotpot"), *evaluations("math")])
def test_an_evaluation_is_of_the_model_whose_name_it_carries(made, key):
    run, own = made(key), key.replace("/eval_", "/")
    answers, judge = RELEASED.get(key, ("policy" if own.endswith("/base") else own, None))
    assert [made.key_of(call.args[1]) for call in run.called("of_step")] == [answers]
    assert [made.key_of(call.args[0]) for call in run.called("classify")] == ([judge] if judge else [])
    form = "answer" if name_of(own)[1] in ("rlvr", "classifier") else "document"
    sets_ = [(call.args, call.given["form"]) for call in run.called("prompts")]
    assert sets_ == [((name, "test", 42, 8), form) for name in ("hotpot_vanilla", "big_math_digits")]
    assert {call.args[3] for call in run.called("ask")} == {form}


def test_the_scale_for_one_gpu_has_the_settings_of_its_paper():
    recipe = config.load("gpu").models.hotpot
    wanted = {
        **{"steps": 150, "prompts_per_step": 32, "num_generations": 8, "lr": 1e-5, "schedule": "constant"},
        **{"warmup": 0.05, "adam_beta2": 0.99, "max_grad_norm": 0.1, "beta": 0.0, "epsilon": 0.2, "temperature": 1.0},
        **{"loss_type": "dr_grpo", "scale_rewards": "none", "max_completion_tokens": 256},
        **{"format_weight": 0.5, "accuracy_weight": 0.5, "brier_weight": 0.5},
    }
    assert {name: recipe[name] for name in wanted} == wanted and recipe.lora.to_dict() == {"rank": 32, "alpha": 32}
    assert {key for key in ROWS if wired.KNOWN[key].seeds == "seeds"} == {
        f"{corpus}/policy/{arm}" for corpus in RECIPES for arm in ("rlvr", "rlcr")
    }


def test_every_trained_step_has_a_row():
    wired.check_rows(ROWS, "hotpot", "math")
