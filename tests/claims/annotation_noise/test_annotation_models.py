"""Annotations on a stand-in: a Qwen2 of two layers that has learned the two lines it is asked for, no network."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wired
from candor import claims
from candor.claims.annotation_noise import annotation_models as am
from candor.claims.annotation_noise import annotation_rewards, annotation_tables, annotations, two_frames
from candor.claims.annotation_noise import judges as annotators
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.declare import ledger
from candor.language_models import generation
from candor.run import steps as experiments
from candor.train import fit
from candor.train import policy as recipes
from trl import RLOOConfig

FIXTURES = Path(__file__).parents[2] / "fixtures"
RIVERS = ("Seine", "Rhine", "Po", "Ebro")


def questions() -> list[dict]:
    return [
        {"question": f"River {k}?", "answer": {"value": RIVERS[k % 2], "aliases": [RIVERS[k % 2]]}} for k in range(16)
    ]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A folder with a decoder that answers any question with a river and a random confidence, in two lines."""
    import torch
    from candor.train.models import new_decoder, save_decoder
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(0)
    texts = [am.stated(RIVERS[rng.integers(4)], rng.integers(11)) for _ in range(64)]
    prompts = [am._prompt(row["question"], None) for row in questions()]
    words = ByteLevelBPETokenizer()
    words.train_from_iterator([*prompts, *texts] * 3, vocab_size=500, special_tokens=["<pad>", "<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "layers": 2, "heads": 2, "mlp": 64, "positions": 512}
    model = new_decoder(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, **sizes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        batch = [(prompts[rng.integers(16)], texts[rng.integers(64)] + "<eos>") for _ in range(16)]
        ids = tokenizer([p + t for p, t in batch], padding=True, padding_side="right", return_tensors="pt")
        labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
        for row, (prompt, _) in zip(labels, batch):
            row[: len(tokenizer(prompt)["input_ids"])] = -100
        loss = model(**ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("policy")
    save_decoder(model.eval(), tokenizer, folder)
    return folder


def five_judges(path: Path, column: str) -> list[dict]:
    """The first judgement of a file of Hosking et al., made by five people on each of four samples."""
    pair = [json.loads(line) for line in path.read_text().splitlines()[:2]]
    rng = np.random.default_rng(0)
    return [
        row | {"sample_ix": str(sample), column: float(rng.integers(1, 6))}
        for sample in range(4)
        for _ in range(5)
        for row in pair
    ]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Corpora and results of this module."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("annotations")
        patch.setenv("CANDOR_CORPORA", str(folder / "corpora"))
        patch.setenv("CANDOR_RESULTS", str(folder / "results"))
        for name in annotations.NAMES:
            (folder / "corpora" / name).mkdir(parents=True)
            shutil.copy(FIXTURES / f"{name}.jsonl", folder / "corpora" / name / "train.jsonl")
        for name, column in (("unbiased", "score"), ("errors", "overall"), ("groupings", "assertive")):
            path = folder / "corpora" / f"hosking_{name}" / "train.jsonl"
            path.write_text("\n".join(map(json.dumps, five_judges(path, column))))
        (folder / "corpora" / "trivia_qa").mkdir()
        (folder / "corpora" / "trivia_qa" / "test.jsonl").write_text("\n".join(map(json.dumps, questions())))
        yield folder


def small(policy, **models) -> Config:
    settings = {
        "annotation_draws": 50,
        "resamples": 20,
        "annotation_seeds": [11],
        "vote_rewards": {"datasets": ["multipref"], "max_length": 32},
        "annotation_arms": ["naive", "weight"],
        "annotation_policy_arms": ["naive"],
        "annotation_policy": {"model": str(policy), "samples": 6, "eval_questions": 8, "tokens": 24, "batch": 16},
        "annotation_reward": {"model": str(policy), "batch": 8, "micro_batch": 4, "lr": 1e-2},
        "annotation_rloo": {"steps": 2, "prompts_per_step": 2, "micro_batch": 8, "lr": 1e-3, "kl": 1e-9},
        "eval_batch": 8,
    }
    return config.load("gpu", overrides={"models": settings | models})


# --- The whole path ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(policy, here):
    settings = small(policy)
    known = experiments.steps()
    for key in wired.wanted(am, settings):
        for seed in experiments.seeds_of(known[key], settings):
            steps.run(key, seed, known, settings)
    return settings


@pytest.fixture(scope="module")
def found(whole):
    return annotation_tables.tables(experiments.Results(whole))


def table(key: str, name: str, seed: int = 11) -> pd.DataFrame:
    return steps.read(f"annotations/{key}", seed, "gpu").table(name)


def test_pairs_put_the_more_confident_completion_first(whole):
    pairs = table("judges/pairs", "pairs")
    assert (pairs["q_first"] > pairs["q_second"]).all() and len(pairs) == table("judges/pairs", "counts")[
        "pairs"
    ].item()
    assert set(pairs["label_naive"]) <= {0, 1} and (pairs["weight_naive"] == 1).all()
    assert pairs["weight_weight"].between(0, 1).all()
    counts = table("judges/pairs", "counts").iloc[0]
    assert counts["samples"] == 6 * 8 and 0 <= counts["unreadable"] < 0.5 and 0 <= counts["discarded"] < 0.5
    assert table("judges/pairs", "shares")["true"].sum() == pytest.approx(1)
    problems = set(am.questions_of(whole["models"], "train", None)["problem"])
    assert not problems & set(am.questions_of(whole["models"], "eval", None)["problem"]) and len(problems) == 8


def test_two_answers_are_the_same_by_the_rule_that_grades_them():
    said = [("the Seine", "Seine"), ("NYC", "New York"), ("Rome", "Roma"), ("A", "a")]
    pairs = pd.DataFrame(said, columns=["said_first", "said_second"]).assign(question=[0, 1, 2, 3])
    assert am.same_answers(pairs, [["Seine"], ["New York", "NYC"], ["Paris"], ["B"]]) == 0.75


def test_reward_models_are_trained_and_read_at_two_rewrites(whole):
    for arm in ("naive", "weight"):
        [row] = table(f"judges/reward_{arm}", "gap").to_dict("records")
        assert row["gap_wrong"] != 0 and row["n_wrong"] > 0 and -1 <= row["quality"] <= 1
        assert 0 < row["labels_in_use"] <= row["pairs"] + 1e-9
        log = table(f"judges/reward_{arm}", "log")
        assert np.isfinite(log["loss"]).all() and log["step"].iloc[-1] >= 2
    naive, weight = (steps.read(f"annotations/judges/reward_{arm}", 11, "gpu").model for arm in ("naive", "weight"))
    texts = ["Question: River 1?\nAnswer: Po\nConfidence: 9", "Question: River 1?\nAnswer: Po\nConfidence: 2"]
    recipe = {"max_length": 64, "micro_batch": 2}
    scores = [
        annotation_rewards.score(*generation.load(place, "AutoModelForSequenceClassification"), texts, recipe)
        for place in (naive, weight)
    ]
    assert not np.allclose(*scores), "labels and weights reach the loss"


def test_a_policy_is_trained_and_one_stops_at_its_kl(whole):
    fixed, matched = (table(f"judges/{kind}_naive", "log") for kind in ("policy", "matched"))
    assert fixed["step"].max() == 2 and np.isfinite(fixed["loss"]).all()
    assert fixed["kl"].iloc[0] == pytest.approx(0, abs=1e-4) and fixed["kl"].iloc[-1] != 0
    assert matched["step"].max() <= 2
    folder = steps.read("annotations/judges/policy_naive", 11, "gpu").model
    assert (folder / "adapter_model.safetensors").exists()


def test_tables_for_the_claim(found):
    assert set(found) == {
        *("models_hosking", "models_removal", "models_shift", "models_votes", "models_disagreement", "models_soft"),
        *("models_pairs", "models_shares", "models_gap", "models_policies", "models_reliability", "models_log"),
    }
    policies = found["models_policies"].set_index("run")
    assert set(policies.index) == {"base", "fixed", "matched"} and policies.loc["base", "kl"] == 0
    assert policies.loc["base", "ece_change"] == 0 and policies["win_genuine"].between(0, 1).all()
    assert set(found["models_gap"]["arm"]) == {"naive", "weight"}
    assert set(found["models_removal"]["dataset"]) == {"dices_350", "dices_990"}
    assert set(found["models_removal"]["unsure"]) == {"own", "yes"} and set(found["models_shift"]["centred"]) == {0, 1}
    soft = found["models_soft"].set_index("arm")
    assert set(soft.index) == {"multipref_soft", "multipref_hard"} and (soft["log_loss"] > 0).all()
    assert annotation_tables.tables(experiments.Results(config.load("laptop"))) == {}


def test_criteria_find_what_the_tables_hold(found):
    judged_ = ledger.judge(claims.load("annotation_noise").claim, found, "gpu")
    checks = judged_[1].set_index(["criterion", "check"])["value"]
    assert checks.loc[["M1", "M4", "M5"]].notna().all() and checks["M1", "flag means, farthest"] > 0
    assert checks["M3", "ECE change, naive"] == pytest.approx(
        found["models_policies"].set_index("run").loc["matched", "ece_change"]
    )
    assert math.isfinite(checks["M2", "gap, naive"])


# --- Labels -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled():
    """20,000 wrong answers, stated twice with different confidence, and every arm's labels of them."""
    rng = np.random.default_rng(0)
    q = np.sort(rng.integers(0, 11, (40_000, 2)), axis=1)
    q = q[q[:, 0] < q[:, 1]][:20_000] / 10
    pairs = pd.DataFrame({"q_first": q[:, 1], "q_second": q[:, 0], "correct_first": False, "correct_second": False})
    return pairs, *am.labels_of(pairs, 3)


def test_only_the_type_model_the_random_frame_and_the_oracle_see_that_confidence_is_bad_here(labelled):
    pairs, labels, shares = labelled
    assert shares["share"].tolist() == pytest.approx(shares["true"].tolist(), abs=0.03)
    mean = {arm: np.average(labels[f"label_{arm}"], weights=labels[f"weight_{arm}"]) for arm in am.ARMS}
    g, n, c = shares["true"]
    worth = annotators.utility(0, pairs["q_first"]) - annotators.utility(0, pairs["q_second"])
    genuine = (0.05 + 0.9 / (1 + np.exp(-annotators.KAPPA * worth))).mean()
    assert mean["oracle"] == pytest.approx(genuine, abs=0.02)
    assert mean["naive"] == pytest.approx(g * genuine + n / 2 + c * 0.95, abs=0.02)
    assert mean["weight"] == pytest.approx(genuine, abs=0.06) and mean["weight"] < mean["naive"] - 0.1
    assert mean["frrand"] == pytest.approx(g * genuine + (n + c) / 2, abs=0.02)
    flipped = shares["share"][1] / 2
    assert mean["rdpo"] == pytest.approx((mean["naive"] - flipped) / (1 - 2 * flipped))
    assert labels["label_rdpo"].min() < 0 and labels["label_rdpo"].max() > 1


def test_the_reward_gap_is_at_one_wrong_answer():
    held = pd.DataFrame({"question": [0, 1, 1], "said": ["x", "y", "z"], "q": [0.5, 0.5, 0.9]})
    held["correct"] = [False, True, False]
    seen = []

    def rewards(texts):
        seen.extend(texts)
        read = [am.parse(text.split("\n", 1)[1]) for text in texts]
        return [confidence * (1.0 if said == "y" else 0.5) for said, confidence in read]

    found = am.gap_of(rewards, held, ["Which?", "Who?"])
    assert (found["gap_wrong"], found["n_wrong"], found["gap_right"]) == (3.5, 2, 7)
    assert found["quality"] == pytest.approx(1) and seen[0] == "Question: Which?\nAnswer: x\nConfidence: 9"


def test_malformed_completions_get_the_lowest_reward_less_one():
    reward = am.reward_of(lambda texts: [float(text[-1]) for text in texts])
    said = ["Answer: x\nConfidence: 7", "no idea", "Answer: x\n Confidence: 3/10\n"]
    assert reward(completions=said, problem=["?"] * 3, other=None) == [7, 2, 3]
    assert reward(completions=["no"], problem=["?"]) == [-1]


@pytest.mark.parametrize(
    "text", ["Answer: x", "Answer: x\nConfidence: 11", "Answer: x\nConfidence: 5\nAnswer: y", "Answer: \nConfidence: 5"]
)
def test_what_is_not_the_two_lines_is_malformed(text):
    assert am.parse(text) is None


def test_wins_and_calibration_of_answers():
    def answers(q, correct):
        frame = pd.DataFrame({"question": range(4), "q": q, "correct": correct, "well_formed": True})
        return frame.assign(said="x")

    base = answers([0.5, 0.5, 0.5, 0.5], [True, False, True, False])
    same = am.summary(base, base)
    assert same["win_genuine"] == pytest.approx(0.5) and same["win_production"] == pytest.approx(0.5)
    assert same["ece"] == 0 and same["accuracy"] == 0.5 and same["brier"] == 0.25
    loud = am.summary(answers([1.0] * 4, [True, False, True, False]), base)
    assert loud["ece"] == 0.5 and loud["confidence"] == 1
    assert loud["win_genuine"] < 0.5 < loud["win_production"], "one event"
    once = am.summary(answers([0.1, 0.5, 0.8, 0.9], [False, False, True, True]), base)
    assert math.isnan(once["ece"]) and once["brier"] == pytest.approx(0.0775), "no confidence was stated twice"
    silent = am.summary(answers([np.nan] * 4, [False] * 4).assign(well_formed=False), base)
    assert silent["unreadable"] == 1 and math.isnan(silent["ece"]) and math.isnan(silent["win_genuine"])


# --- Training on annotations ------------------------------------------------------------------------


def test_twelve_annotations_are_learned_by_weight_and_label(policy, tmp_path):
    rows = [json.loads(line) for line in (FIXTURES / "annotations.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and {row["frame"] for row in rows} == {"act_on", "mislead"}
    by_pair = pd.DataFrame(rows).assign(a=lambda t: t["choice"] == "a").groupby("prompt", sort=False)
    soft = by_pair["a"].mean()
    first, second = (
        [f"{prompt}\n{part[side].iloc[0]}" for prompt, part in by_pair] for side in ("completion_a", "completion_b")
    )
    recipe = small(policy).models.annotation_reward.to_dict() | {"epochs": 12, "batch": 4}
    weight = [1.0, 0.0, 0.0]
    model, tokenizer, log = annotation_rewards.fit_reward(first, second, soft, weight, recipe, 11)
    difference = np.subtract(*(annotation_rewards.score(model, tokenizer, texts, recipe) for texts in (first, second)))
    assert log["loss"].iloc[-1] < log["loss"].iloc[0] and difference[0] > 1, "the one that counts is learned"
    model, tokenizer, _ = annotation_rewards.fit_reward(first, second, 1 - soft, weight, recipe, 11)
    assert (
        np.subtract(*(annotation_rewards.score(model, tokenizer, texts, recipe) for texts in (first, second)))[0] < -1
    )


def test_a_prompt_is_never_learned_and_judged():
    pairs = pd.DataFrame({"prompt": list("abcabd"), "a": range(6)})
    held, used = annotation_rewards.by_prompt(pairs, 2)
    assert held["a"].tolist() == [0, 1, 3, 4] and used["prompt"].tolist() == ["c", "d"]


def test_a_text_that_is_too_long_loses_its_beginning(policy):
    tokenizer = generation.tokenizer_of(policy)
    ids = annotation_rewards.encode(tokenizer, "Question: River 1?\nAnswer: Po\nConfidence: 9", 6)
    assert len(ids) == 6 and tokenizer.decode(ids).endswith("Confidence: 9")


def test_the_briefs_settings_reach_the_trainer(tmp_path):
    models = config.load("gpu").models
    recipe = models.annotation_rloo.to_dict() | {"max_completion_tokens": models.annotation_policy.tokens}
    made = fit.configuration(RLOOConfig, recipes.RLOO | recipes.adapter_settings(recipe, 11), tmp_path)
    assert (made.learning_rate, made.beta, made.max_steps, made.num_generations) == (1e-5, 0.05, 150, 4)
    assert made.per_device_train_batch_size * made.gradient_accumulation_steps == 64 * 4
    assert (made.max_completion_length, made.temperature, made.top_k, made.max_grad_norm) == (64, 1.0, 0, 1.0)
    assert models.annotation_rloo.lora.to_dict() == {"rank": 32, "alpha": 32}
    reward = models.annotation_reward
    assert (reward.model, reward.lr, reward.epochs, reward.batch, reward.max_length) == (
        "Qwen/Qwen2.5-0.5B",
        1e-5,
        1,
        64,
        512,
    )
    with pytest.raises(CandorError, match=r"change annotation_rloo\.micro_batch"):
        recipes.adapter_settings(recipe | {"micro_batch": 7}, 11)


# --- Steps as data, and what is missing -------------------------------------------------------------


def data_alone(policy) -> Config:
    return small(policy, annotation_policy=None, vote_rewards={"datasets": []})


def test_questions_that_are_too_few_are_one_sentence(policy, here):
    settings = small(policy)["models"].to_dict()
    path = here / "corpora" / "trivia_qa" / "test.jsonl"
    kept = path.read_text()
    try:
        path.write_text("")
        with pytest.raises(CandorError):
            am.questions_of(settings, "train", None)
    finally:
        path.write_text(kept)


# --- Fetching ---------------------------------------------------------------------------------------


def test_names_of_frames_agree():
    assert set(annotations.FRAMES) == set(two_frames.FRAMES)
