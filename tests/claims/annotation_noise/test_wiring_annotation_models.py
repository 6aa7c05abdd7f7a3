"""Which labels reward models of people's and simulated judges' choices learn, and what policies are optimised for."""

import numpy as np
import pandas as pd
import pytest
import wired
from candor.claims.annotation_noise import annotation_models as am
from candor.claims.annotation_noise import annotation_rewards, annotations, response_types
from candor.claims.annotation_noise import judges as annotators
from candor.language_models import generation
from wired import SEED, G, check_recipe, evaluations, name_of, total

# --- Tables -----------------------------------------------------------------------------------------

ARMS = ("naive", "weight", "frrand", "rdpo", "oracle")
VOTED = [f"{data}_{kind}" for data in ("multipref", "helpsteer3", "prism") for kind in ("soft", "hard")]
# Votes on pairs of replies: prompt, share of votes for a, majority (none of a tie).
VOTES = [(f"prompt {i % 14}", (0.0, 0.25, 0.5, 0.75, 1.0)[i % 5]) for i in range(20)]
MAJORITY = {0.0: 0.0, 0.25: 0.0, 0.5: np.nan, 0.75: 1.0, 1.0: 1.0}
RLOO = {"lora": {"rank": 2, "alpha": 3}, "steps": 2, "prompts_per_step": 2, "num_generations": G, "micro_batch": 4}
RLOO |= {"lr": 0.0031, "beta": 0.053, "kl": 0.4, "max_grad_norm": 0.7}
REWARD = {
    "epochs": 2,
    "batch": 4,
    "micro_batch": 2,
    "lr": 0.0021,
    "warmup": 0.5,
    "max_length": 60,
    "max_grad_norm": 0.8,
}
RECIPE = {  # what reaches the trainer of REWARD
    **{"num_train_epochs": 2, "learning_rate": 0.0021, "lr_scheduler_type": "cosine", "weight_decay": 0.0},
    **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 0.8, "seed": SEED},
    **{"center_rewards_coefficient": None},
}


def votes(name):
    rows = [(prompt, f"{name} a {i}", f"b {i}", soft, MAJORITY[soft]) for i, (prompt, soft) in enumerate(VOTES)]
    return pd.DataFrame(rows, columns=["prompt", "a", "b", "soft", "hard"])


def questions(settings, part, tokenizer):
    problems = [f"{part} river {i}?" for i in range(24)]
    return pd.DataFrame({"problem": problems, "answer": [["Seine"]] * 24, "prompt": problems})


def labels(context):
    """Pairs of answers with labels and weights of each arm that no other arm has; a weight of 0 leaves a pair out."""
    n = 8
    pairs = pd.DataFrame({"question": np.arange(n) % 6, "said_first": [f"x{i}" for i in range(n)], "said_second": "y"})
    pairs = pairs.assign(q_first=np.arange(n) % 4 / 10 + 0.5, q_second=0.2, correct_first=True, correct_second=False)
    for k, arm in enumerate(ARMS):
        weight = np.where(np.arange(n) == k, 0, np.arange(n) + 1.0)
        pairs = pairs.assign(**{f"label_{arm}": np.arange(n) / 10 + k, f"weight_{arm}": weight})
    held = {"question": [0, 1, 2], "said": "Po", "q": [0.1, 0.4, 0.9], "correct": [True, False, True]}
    return {"pairs": pairs, "held": pd.DataFrame(held).assign(well_formed=True)}


class Sampler:
    """Answers with a confidence that depends on question and seed; every tenth answer is malformed."""

    tokenizer = None

    def __init__(self, place):
        self.place, self.asked = place, []

    def __call__(self, prompts, tokens, temperature, seed):
        self.asked.append((prompts[0].split()[0], temperature, seed))
        k = [(7 * i + seed + len(str(self.place))) % 11 for i in range(len(prompts))]
        return [am.stated(("Seine", "Po")[c % 2], c) if c % 10 else "no idea" for c in k]


# --- Steps ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotations")
    lines = [am.stated("Seine", 7), am.INSTRUCTION, "Question: train river 1?", "prompt 1 a b"]
    models = wired.stand_ins(folder, ["answerer", "scorer"], lines)
    settings = {"annotation_policy": {"model": models["answerer"], "samples": 4, "tokens": 9, "pairs": 7}}
    settings |= {"annotation_reward": REWARD | {"model": models["scorer"]}, "annotation_rloo": RLOO}
    settings |= {"vote_rewards": {"datasets": ["multipref"], "pairs": 11, "held_out": 3, "max_length": 50}}
    by_hand = {"annotations/judges/pairs": labels}
    with wired.noted(tmp_path_factory, wired.of_models(**settings), by_hand) as run:
        run.spy(annotations, "preference_pairs", votes)
        run.spy(am, "questions_of", questions)
        run.samplers(Sampler)
        run.spy(annotation_rewards, "encode")
        for name in ("respond", "draw_types"):
            run.spy(annotators, name)
        run.spy(response_types, "em")
        yield run


def texts_of(trainer, column):
    return trainer.processing_class.batch_decode(list(trainer.train_dataset[column]))


@pytest.mark.parametrize("name", VOTED)
def test_votes_are_learned_as_shares_or_as_majorities_on_the_same_pairs(made, name):
    run, (data, kind) = made(f"annotations/votes/{name}"), name.split("_")
    [trainer], [call] = run.trainings, run.called("preference_pairs")
    assert call.args == (data,) and trainer.started_from == "scorer"
    check_recipe(trainer, RECIPE | {"warmup_steps": 3})
    first, second = texts_of(trainer, "chosen_ids"), texts_of(trainer, "rejected_ids")
    rows = [int(text.rsplit(" ", 1)[1]) for text in first]
    assert len(set(rows)) == 11 and trainer.train_dataset["weight"][:] == [1.0] * 11
    for i, a, b, label in zip(rows, first, second, trainer.train_dataset["label"]):
        prompt, soft = VOTES[i]
        assert (a, b) == (f"{prompt}\n\n{data} a {i}", f"{prompt}\n\nb {i}")
        assert label == (soft if kind == "soft" else MAJORITY[soft]) and soft != 0.5, "ties are in neither"
    drawn = call.found.sample(frac=1, random_state=SEED)["prompt"]
    assert not set(drawn[:3]) & {VOTES[i][0] for i in rows}, "no prompt is both learned and judged"
    assert {call.args[2] for call in run.called("encode")} == {50}


def test_pairs_are_the_policys_own_with_every_arms_labels(made):
    run = made("annotations/judges/pairs", real=True)
    [call], table = run.called("of_step"), run.result.table("pairs")
    assert made.key_of(call.args[1]) == "answerer"
    wanted = [("train", 1.0, 1000 * SEED + k) for k in range(4)] + [("eval", 1.0, 1000 * SEED + 999)]
    assert call.found.enter_result.asked == wanted and (table["q_first"] > table["q_second"]).all() and len(table) == 7
    said, types, fit = (run.called(name)[-1].found for name in ("respond", "draw_types", "em"))
    said = said[:, 0].astype(float)  # [n, frames, orders]
    both = said[:, 0, 0] == said[:, 0, 1]
    assert (table["label_naive"][both] == said[both, 0, 0]).all(), "one label in frame +"
    every = both & (said[:, 0] == said[:, 1]).all(1)
    assert (table["label_frrand"][every] == said[every, 0, 0]).all(), "one label in any frame"
    noise = fit.shares[1]
    assert table["label_rdpo"].tolist() == pytest.approx(((table["label_naive"] - noise / 2) / (1 - noise)).tolist())
    assert table["weight_weight"].tolist() == pytest.approx(fit.responsibilities[:, 0].tolist())
    assert table["weight_oracle"].tolist() == (types == annotators.GENUINE).astype(float).tolist()
    assert all(table[f"label_{arm}"].equals(table["label_naive"]) for arm in ("weight", "oracle"))
    assert (table[[f"weight_{arm}" for arm in ("naive", "frrand", "rdpo")]] == 1).all(axis=None)


@pytest.mark.parametrize("arm", ARMS)
def test_a_reward_model_learns_the_labels_and_weights_of_its_arm(made, arm):
    run, pairs = made(f"annotations/judges/reward_{arm}"), labels(None)["pairs"]
    [trainer], k = run.trainings, ARMS.index(arm)
    pairs = pairs[pairs[f"weight_{arm}"] > 0]
    check_recipe(trainer, RECIPE | {"warmup_steps": 2})
    assert trainer.started_from == "scorer" and len(trainer.train_dataset) == 7
    assert trainer.train_dataset["label"][:] == pytest.approx((pairs["question"].index / 10 + k).tolist())
    assert trainer.train_dataset["weight"][:] == pytest.approx(
        (pairs[f"weight_{arm}"] / pairs[f"weight_{arm}"].mean()).tolist()
    )
    for side, column in (("first", "chosen_ids"), ("second", "rejected_ids")):
        wanted = [
            f"Question: train river {q}?\nAnswer: {said}\nConfidence: {round(10 * stated)}"
            for q, said, stated in pairs[["question", f"said_{side}", f"q_{side}"]].itertuples(index=False)
        ]
        assert texts_of(trainer, column) == wanted
    assert {call.args[1].split("river")[0] for call in run.called("encode")} == {"Question: train ", "Question: eval "}


@pytest.mark.parametrize("kind", ["policy", "matched"])
@pytest.mark.parametrize("arm", ARMS)
def test_a_policy_is_optimised_for_the_reward_model_of_its_arm(made, kind, arm):
    run = made(f"annotations/judges/{kind}_{arm}")
    [trainer] = run.trainings
    recipe = {"max_steps": 2, "learning_rate": 0.0031, "beta": 0.053, "max_grad_norm": 0.7, "max_completion_length": 9}
    recipe |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 2}
    check_recipe(trainer, wired.RLOO | recipe)
    assert trainer.started_from == "answerer" and trainer.model.peft_config["default"].r == 2
    assert trainer.train_dataset["prompt"][:] == questions(None, "train", None)["prompt"].tolist()
    place = made(f"annotations/judges/reward_{arm}").result.model
    judge = generation.load(place, "AutoModelForSequenceClassification")
    texts = [f"Question: train river 2?\nAnswer: Po\nConfidence: {c}" for c in (9, 2)]
    scores = annotation_rewards.score(*judge, texts, {"max_length": 60, "micro_batch": 2})
    said = ["Answer: Po\nConfidence: 9", "Answer: Po\nConfidence: 2", "who knows"]
    found = total(trainer, completions=said, problem=["train river 2?"] * 3)
    assert found == pytest.approx([*scores, min(scores) - 1], abs=1e-5)
    assert wired.stops(trainer, 0.1, 9.0) == [False, kind == "matched"], "at the KL of the scale"


@pytest.mark.parametrize("key", [key for key in evaluations("annotations") if "/judges/" in key])
def test_an_evaluation_is_of_its_policy_against_the_one_before_training(made, key):
    run, arm = made(key), name_of(key)[1].removeprefix("eval_")
    [call] = run.called("of_step")
    assert made.key_of(call.args[1]) == ("answerer" if arm == "base" else f"annotations/judges/{arm}")
    seeds = [1000 * SEED + 997, *([1000 * SEED + 998] if arm == "base" else [])]
    assert call.found.enter_result.asked == [("eval", 1.0, seed) for seed in seeds], "the same questions and chances"
    rival = made("annotations/judges/eval_base").result.table("rival")
    wanted = am.summary(run.result.table("items"), rival)
    assert run.row()[list(wanted)].tolist() == pytest.approx(list(wanted.values()), nan_ok=True)


def test_every_trained_step_has_a_row():
    rows = {f"annotations/judges/{kind}_{arm}" for kind in ("reward", "policy", "matched") for arm in ARMS}
    wired.check_rows(rows | {f"annotations/votes/{name}" for name in VOTED}, "annotations")
