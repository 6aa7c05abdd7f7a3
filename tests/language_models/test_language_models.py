"""The models path on a stand-in: a random Qwen2 of two layers, a byte-level BPE, eight questions, no network."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import wired
from candor.core import settings as config
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.core.step import Context, Result
from candor.language_models import generation, sets, text
from candor.language_models import run as lm

FIXTURES = Path(__file__).parents[1] / "fixtures"
FULL = "<think> because </think> <answer> {} </answer> <analysis> perhaps </analysis> <confidence> {} </confidence>"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A folder with the stand-in: random weights, a tokenizer that has read the fixtures."""
    import torch
    from candor.train.models import new_decoder, save_decoder
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    words = ByteLevelBPETokenizer()
    lines = [text.SYSTEM["document"], text.ANSWER_CUE, text.CONFIDENCE_CUE, FULL]
    lines += [json.loads(line)["problem"] for line in (FIXTURES / "rows.jsonl").read_text().splitlines()]
    words.train_from_iterator(lines * 3, vocab_size=600, min_frequency=2, special_tokens=["<pad>", "<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "layers": 2, "heads": 2, "mlp": 64, "positions": 1024}
    model = new_decoder(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, **sizes)
    folder = tmp_path_factory.mktemp("policy")
    save_decoder(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("corpora")
        patch.setenv("CANDOR_CORPORA", str(folder))
        for name, split in (("hotpot_modified", "train"), ("hotpot_modified", "test"), ("hotpot_vanilla", "test")):
            (folder / name).mkdir(exist_ok=True)
            shutil.copy(FIXTURES / "rows.jsonl", folder / name / f"{split}.jsonl")
        yield folder


def small(policy, **models) -> Config:
    recipe = {"steps": 1, "prompts_per_step": 2, "num_generations": 4, "micro_batch": 4, "lr": 1e-2}
    recipe |= {"max_completion_tokens": 6, "warmup": 0, "lora": {"rank": 2, "alpha": 2}}
    settings = {
        "policy": str(policy),
        "hotpot": recipe | models.pop("hotpot", {}),
        "eval_sets": ["hotpot_vanilla", "hotpot_modified"],
        "eval_questions": 6,
        "eval_tokens": 5,
        "eval_batch": 4,
        "voting_samples": 2,
        "voting_questions": 2,
        "seeds": [11],
        "swap_seeds": [11],
        "released": [],
    }
    return config.load("gpu", overrides={"models": settings | models})


def context(key: str, settings: Config, folder: Path, needs=()) -> Context:
    step = lm.STEPS[key]
    chosen = Config({name: settings["models"][name] for name in step.settings})
    return Context(step, lm.seeds_of(step, settings)[0], chosen, folder, dict(needs), lambda done, total: None)


# --- Sampling and forced cues -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampler(policy):
    return generation.Sampler(*generation.load(policy), batch=3)


def test_sampling_does_not_depend_on_the_batch(sampler):
    prompts = ["Which river?", "Who directed the film that the song was written for?", "Are both", "In which"]
    together = sampler(prompts, 8)
    assert together == [sampler([prompt], 8)[0] for prompt in prompts]
    assert sampler(prompts, 8, temperature=1.0, seed=1) == sampler(prompts, 8, temperature=1.0, seed=1)
    assert sampler(prompts, 8, temperature=1.0, seed=1) != sampler(prompts, 8, temperature=1.0, seed=2)


def test_answer_probability_is_the_mean_over_the_answers_tokens(sampler):
    import torch

    prompt, completion = "Which river?", "so <answer>the Seine</answer> <confidence> 1 </confidence>"
    ids, places = sampler._answer_tokens(prompt, completion)
    assert sampler.tokenizer.decode([ids[i] for i in places]).strip("<>") == "the Seine"
    with torch.no_grad():
        probabilities = sampler.model(torch.tensor([ids])).logits[0].softmax(-1)
    expected = np.mean([probabilities[i - 1, ids[i]].item() for i in places])
    assert sampler.answer_probabilities([prompt], [completion])[0] == pytest.approx(expected, rel=1e-4)


def test_answer_probability_without_an_answer_or_with_a_long_one_is_one_half(sampler):
    long = "<answer>" + "x y z " * 40 + "</answer>"
    assert sampler.answer_probabilities(["?"] * 3, ["nothing", "<answer></answer>", long]) == [0.5] * 3


class Scripted:
    """Replies by the end of the prompt; answers have probability .25."""

    def __init__(self, **replies):
        self.replies, self.asked = replies, []

    def __call__(self, prompts, tokens, temperature=0.0, seed=0):
        self.asked.append((len(prompts), tokens))
        ends = {text.ANSWER_CUE: "answer", text.CONFIDENCE_CUE: "confidence"}
        kind = next((kind for cue, kind in ends.items() if prompts[0].endswith(cue)), "free")
        replies = self.replies[kind]
        return list(replies) if isinstance(replies, list) else [replies] * len(prompts)

    def answer_probabilities(self, prompts, completions):
        return [0.25] * len(prompts)


def test_only_what_is_missing_is_forced():
    model = Scripted(answer="\n <answer> Lyon </answer>\nbecause", confidence=" 85%.\nIndeed")
    whole = [
        FULL.format("Rome", "0.3"),
        "thinking <answer> Paris </answer>",
        "never ended",
        "<confidence></confidence>",
    ]
    forced = lm.force_cues(model, ["?"] * 4, whole)
    graded = text.grade_leniently(forced, [["x"]] * 4, ["exact"] * 4)
    assert graded["answer"].tolist() == ["Rome", "Paris", "Lyon", "Lyon"]
    assert graded["confidence"].tolist() == [0.3, 0.85, 0.85, 0.85]
    assert model.asked == [(2, text.ANSWER_TOKENS), (3, text.CONFIDENCE_TOKENS)]


def questions_of(*rows):
    from datasets import Dataset

    columns = {"grader": "exact", "gold_removed": 0, "prompt": "?", "problem": "?"}
    return Dataset.from_list([columns | row for row in rows])


def test_a_scripted_evaluation_has_the_measures_it_should():
    free = [FULL.format("a1", "1"), FULL.format("a2", "0.5"), FULL.format("zz", "0.5"), "broken <answer> zz </answer>"]
    rows = [{"answer": [f"a{i}"], "gold_removed": i % 3} for i in range(1, 5)]
    items = lm.ask(Scripted(free=free, confidence="0"), questions_of(*rows), 9, "document")
    row = lm.summary(items)
    assert (row["n"], row["accuracy_greedy"], row["malformed"], row["forced_confidence"]) == (4, 0.5, 0.25, 0.25)
    assert row["unreadable"] == row["unreadable_confidence"] == 0
    silent = lm.ask(Scripted(free=["nothing"] * 4, answer=" ", confidence="high"), questions_of(*rows), 9, "document")
    row_of_none = lm.summary(silent)
    assert row_of_none["unreadable"] == row_of_none["unreadable_confidence"] == 1 and row_of_none["q_mode_mean"] == 0
    assert row["q_mode_mean"] == 0.5 and row["q_mode_brier"] == pytest.approx((0 + 0.25 + 0.25 + 0) / 4)
    assert row["q_mode_auroc"] == 0.875 and row["q_mode_values"] == 3
    assert (row["accuracy_easy"], row["accuracy_medium"], row["accuracy_hard"]) == (0.0, 0.5, 1.0)
    assert row["answer_prob_mean"] == 0.25
    assert not {name for name, value in row.items() if isinstance(value, float) and math.isinf(value)}


def test_votes_weigh_confidence():
    drawn = [
        FULL.format("right", "0.9"),
        FULL.format("wrong", "0.1"),
        FULL.format("Wrong", "0.2"),
        FULL.format("x", "0"),
    ]
    votes = lm.vote(Scripted(free=drawn), questions_of({"answer": ["right"]}), 4, 9, seed=1)
    accuracy = votes.set_index(["votes", "rule"])["accuracy"]
    assert accuracy[4, "majority"] == 0 and accuracy[4, "weighted"] == 1
    assert accuracy[1, "majority"] == 1
    assert votes.set_index("votes")["diversity"][4].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("said", "row", "accuracy", "different", "unread"),
    [
        (["1/2", "0.5", "7", r"\frac{1}{2}"], {"answer": ["1/2"], "grader": "math"}, 1, 2, 0),
        (["B", "A", "A) bank", "bank"], {"answer": ["A", "bank"], "grader": "choice"}, 1, 2, 0),
        (["B", "b) river", "river", "bank"], {"answer": ["A", "bank"], "grader": "choice"}, 0, 2, 0),
        (["?", "?", "?", "bank"], {"answer": ["A", "bank"], "grader": "choice"}, 1, 1, 0.75),
        (["?", "?", "?", "?"], {"answer": ["A", "bank"], "grader": "choice"}, 0, 0, 1),
    ],
)
def test_votes_are_grouped_as_they_are_graded(said, row, accuracy, different, unread):
    drawn = [FULL.format(answer, "0.5") for answer in said]
    problem = "Which?\nA) bank\nB) river\n" if row["grader"] == "choice" else "?"
    votes = lm.vote(Scripted(free=drawn), questions_of(row | {"problem": problem}), 4, 9, seed=1)
    last = votes[votes["votes"] == 4]
    assert last["accuracy"].tolist() == [accuracy] * 2 and last["diversity"].tolist() == [different] * 2
    assert last["unreadable"].tolist() == [unread] * 2


def test_votes_on_what_a_judge_grades_are_refused(policy):
    judged = {"judge": "owner/judge", "eval_sets": ["trivia_qa", "hotpot_vanilla"]}
    [line] = lm.votes_refused(small(policy, **judged).models)
    assert "trivia_qa" in line and "voting_questions" in line and line in wired.needed(lm, small(policy, **judged))
    assert not lm.votes_refused(small(policy, **judged, voting_questions=0).models)
    assert not lm.votes_refused(small(policy, judge="owner/judge").models)


def test_a_judge_says_yes_or_no():
    replies = ["YES", "No.", "yes, it does", "**No**, although yes was near", "It was yesterday, I know."]
    judge = Scripted(free=replies)
    judge.tokenizer = SimpleNamespace(chat_template=None)
    assert lm.judge_answers(judge, ["p"] * 5, [["a"]] * 5, ["a"] * 5) == [True, False, True, False, None]
    items = pd.DataFrame({"said": ["a"] * 5, "correct": False, "unreadable": [True, *[False] * 4]})
    found = lm.judged_items(judge, questions_of(*[{"answer": ["a"]}] * 5), items)
    assert found["correct"].tolist() == [True, False, True, False, False]
    assert found["unreadable"].tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_classifier_replaces_the_stated_confidence(policy, tmp_path, outputs):
    import torch
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    torch.manual_seed(0)
    Qwen2ForSequenceClassification(Qwen2Config.from_pretrained(policy, num_labels=outputs)).save_pretrained(tmp_path)
    generation.tokenizer_of(policy).save_pretrained(tmp_path)
    items = pd.DataFrame({"q_mode": [0.0, 0.0], "text": ["<answer> a </answer>", "something else entirely"]})
    lm.classify(str(tmp_path), {"gpqa": (questions_of({"answer": ["a"]}, {"answer": ["b"]}), items)})
    assert items["q_mode"].between(0.01, 0.99).all() and items["q_mode"].nunique() == 2


def test_a_job_for_several_gpus_trains_what_it_describes(policy, corpora, tmp_path):
    from candor.language_models import training as language_model

    recipe = small(policy).models.hotpot.to_dict()
    job = {
        "policy": str(policy),
        "arm": "log_k",
        "recipe": recipe,
        "seed": 11,
        "engine": "transformers",
        "processes": 1,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    sets.prompts("hotpot_modified", "train", seed=11).to_parquet(str(tmp_path / "questions.parquet"))
    language_model._main(tmp_path)
    assert "log_score" in pd.read_parquet(tmp_path / "log.parquet")
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["counts"]["training"][0] > cost["counts"]["generation"][0] > 0
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()


# --- The steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arm", "lora"), [("rlcr", True), ("rlvr", False)])
def test_one_grpo_step_and_its_evaluation(policy, corpora, tmp_path, arm, lora):
    from safetensors.torch import load_file

    settings = small(policy, hotpot={} if lora else {"lora": None})
    made = lm.train(context(f"hotpot/policy/{arm}", settings, tmp_path))
    [row] = made["log"].to_dict("records")
    assert row["step"] == 1 and math.isfinite(row["reward"]) and "format_reward" in row and "accuracy_reward" in row
    assert ("shifted_brier" in row) == (arm == "rlcr")
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".pth"))]
    assert ("adapter_model.safetensors" if lora else "model.safetensors") in files

    model, _ = generation.load(tmp_path / "model")
    before, after = load_file(policy / "model.safetensors"), dict(model.state_dict())
    # A random model earns no reward, so nothing needs to have moved; but everything must be there.
    assert {name for name in before if name not in after} == set()

    key = f"hotpot/policy/{arm}"
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    tables = lm.evaluate(context(f"hotpot/policy/eval_{arm}", settings, evaluation, {key: Result(tmp_path, {})}))
    summary = tables["summary"]
    assert summary["dataset"].tolist() == ["hotpot_vanilla", "hotpot_modified"]
    assert (summary["n"] == 6).all() and (summary["malformed"] == 1).all() and (summary["forced_confidence"] == 1).all()
    assert set(tables["reliability"]["kind"]) == {"answer_prob", "q_mode"}
    assert not {"said", "text", "problem", "answer"} & set(tables["items"]), "questions are not passed on"
    assert len(tables["items"]) == 12 and ("voting" in tables) == (arm == "rlcr")


def test_a_rewarded_step_moves_the_adapters(policy, corpora, tmp_path, monkeypatch):
    from candor.language_models import rewards
    from candor.language_models import training as language_model
    from safetensors.torch import load_file

    def length(completions, **_):
        return [float(len(completion)) for completion in completions]

    monkeypatch.setattr(rewards, "of_arm", lambda arm, weights: ([length], [1.0]))
    settings = small(policy, hotpot={"lr": 1e-1})
    questions = sets.prompts("hotpot_modified", "train", seed=11)
    recipe = settings.models.hotpot.to_dict()
    log = language_model.train(str(policy), questions, "rlcr", recipe, 11, tmp_path)
    assert log["frac_reward_zero_std"].item() < 1 and not (tmp_path / "trainer").exists()
    weights = load_file(tmp_path / "model" / "adapter_model.safetensors")
    assert any(value.abs().max() > 0 for name, value in weights.items() if "lora_B" in name)


def test_passes_that_do_not_fit_are_one_sentence(policy):
    from candor.language_models import training as language_model

    recipe = small(policy, hotpot={"micro_batch": 3}).models.hotpot
    with pytest.raises(CandorError, match=r"2 x 4 completions cannot be cut into passes of 3 on 1 GPU"):
        language_model.settings(recipe, 11, "transformers")


def test_the_papers_settings_reach_the_trainer(tmp_path):
    from candor.language_models import training as language_model
    from candor.train import fit
    from candor.train.policy import GRPO
    from trl import GRPOConfig

    told = language_model.settings(config.load("paper").models.math, 43, "transformers", processes=6)
    made = fit.configuration(GRPOConfig, GRPO | told, tmp_path)
    recipe = made.learning_rate, made.beta, made.loss_type, made.temperature, made.epsilon
    assert recipe == (5e-6, 0, "bnpo", 0.7, 0.2)
    assert (made.scale_rewards, made.mask_truncated_completions, made.max_completion_length) == ("none", True, 4096)
    assert (made.lr_scheduler_type.value, made.warmup_steps) == ("linear", 42)
    assert made.per_device_train_batch_size * made.gradient_accumulation_steps * 6 == 72 * 32
    hotpot = language_model.settings(config.load("paper").models.hotpot, 43, "transformers", 4)
    wanted = {"lr_scheduler_type": "constant_with_warmup", "num_generations": 32, "max_steps": 313}
    assert wanted.items() <= hotpot.items()


def test_a_broken_model_folder_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CandorError, match="candor fetch models"):
        generation.load(tmp_path)


def test_vllm_gets_one_beginning_of_text(policy, monkeypatch):
    from types import SimpleNamespace

    from tokenizers.processors import TemplateProcessing

    asked, seeds = [], []

    class Engine:
        def generate(self, prompts, settings, use_tqdm):
            asked.extend(prompts)
            seeds.extend(each["seed"] for each in settings)
            return [
                SimpleNamespace(outputs=[SimpleNamespace(text="said", finish_reason="stop", token_ids=[1])])
                for _ in prompts
            ]

    vllm = SimpleNamespace(LLM=lambda **_: Engine(), SamplingParams=dict)
    monkeypatch.setattr(generation, "vllm_module", lambda: vllm)
    tokenizer = generation.tokenizer_of(policy)
    first = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", first)]
    )
    assert tokenizer("Hi")["input_ids"][0] == first, "this tokenizer begins texts by itself"
    assert generation.VllmSampler(policy, tokenizer)(["<eos>Hi"] * 2, 4) == ["said"] * 2
    assert [row["prompt_token_ids"].count(first) for row in asked] == [1, 1]
    assert len(set(seeds)) == 2, "the same prompt twice is two draws"


def test_vllm_is_optional():
    with pytest.raises(CandorError, match="install vllm"):
        generation.vllm_module()


# --- Steps as data ----------------------------------------------------------------------------------


# --- What is missing --------------------------------------------------------------------------------


def test_nothing_is_missing_where_everything_is(policy, corpora, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings = small(policy)
    assert wired.needed(lm, settings) == []


# --- The tables of the claims -----------------------------------------------------------------------


class FakeResults:
    """Evaluations of every arm that is asked for, with numbers that tell them apart."""

    def __init__(self, settings, value):
        self.config, self.value = settings, value

    def collect(self, setting, arms, table, world="witnesses"):
        if table != "summary":
            return pd.DataFrame()
        rows = []
        for arm in arms:
            for seed in lm.seeds_of(lm.STEPS[f"{world}/{setting}/eval_{arm}"], self.config):
                for dataset in self.config["models"]["eval_sets"]:
                    row = {"setting": setting, "arm": arm, "seed": seed, "dataset": dataset}
                    rows.append(row | self.value(setting, arm, dataset))
        return pd.DataFrame(rows)


def as_claimed(setting, arm, dataset):
    """What the papers report, in the columns that the criteria read."""
    overconfident = {"q_mode_mean": 1.0, "q_mode_auroc": 0.5, "malformed": 0.0, "q_mode_values": 1, "skill_own": -0.5}
    calibrated = {"q_mode_mean": 0.6, "q_mode_auroc": 0.69, "malformed": 0.01, "q_mode_values": 9, "skill_own": 0.1}
    accuracy = {"rlcr": 0.621, "log_only": 0.0, "brier_only": 0.0, "log1": 0.2}.get(arm, 0.63)
    if arm == "rlcr":
        ece = 0.302 if dataset == "commonsense_qa" else 0.03
        row = calibrated | {"q_mode_ece": ece, "q_mode_brier": 0.21}
    else:
        ece = 0.092 if dataset == "commonsense_qa" else 1 - accuracy
        row = overconfident | {"q_mode_ece": ece, "q_mode_brier": 1 - accuracy}
    return row | {"accuracy_greedy": accuracy, "accuracy_hard": 0.02 if arm == "log1" else 0.2, "n": 1000}


@pytest.mark.parametrize("name", ["binary_reward", "brier_fix"])
def test_criteria_read_these_tables(tmp_path, monkeypatch, name):
    from importlib import import_module

    from candor.declare.ledger import judge

    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    claim = import_module(f"candor.claims.{name}.criteria").CLAIM
    claim_tables = import_module(f"candor.claims.{name}.tables")
    settings = config.load("gpu")

    def verdicts(value):
        ledger, _, _ = judge(claim, claim_tables.models(FakeResults(settings, value)), "gpu")
        return ledger[ledger["evidence"] == "models"].set_index("criterion")["verdict"].to_dict()

    good = verdicts(as_claimed)
    assert good.pop("M1") == good.pop("M1b") == "not attempted"
    # Seeds that agree, but fewer than five of them: never better than partly.
    assert good.pop("M2") == "replicated" and set(good.values()) == {"partly"}

    def opposite(setting, arm, dataset):
        flipped = "rlvr" if arm == "rlcr" else "rlcr"
        return as_claimed(setting, flipped, dataset) | {"accuracy_hard": 0.2}

    assert set(verdicts(opposite).values()) <= {"not replicated", "not attempted"}
    assert claim_tables.models(FakeResults(config.load("laptop"), as_claimed)) == {}
