"""Feedback from its own confidence on a stand-in: a Qwen2 of two layers, eight hand-written questions, no network."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wired
from candor.claims.self_feedback import reasoning, reasoning_judges, reasoning_tables
from candor.claims.self_feedback import reasoning_models as rm
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.language_models import generation, sets
from candor.measure import spans
from candor.run import steps as experiments
from candor.train.reward_model import scaled
from numerics import ROUNDING

FIXTURE = Path(__file__).parents[2] / "fixtures" / "reasoning.jsonl"
ROWS = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
ANSWERS = [next(sets._gsm8k([row], 0))["answer"] for row in ROWS]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' : ' + message['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


def traces(answer: str, rng) -> str:
    """What the stand-in learns to write: an answer at once, or a step and the cue."""
    said = answer if rng.random() < 0.6 else ANSWERS[rng.integers(8)]
    return rng.choice([f"{said} <eos>", f"It is 9 or {said} . So the answer is {said} <eos>"])


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A folder with a decoder that has read such traces for some steps, and its word-level tokenizer."""
    import torch
    from candor.train.models import new_decoder, save_decoder
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    texts = [reasoning.asked(row["question"], "number") for row in ROWS]
    cued = "assistant user : Question: Answer: It is 9 or . So the answer"
    words = sorted({word for text in (*texts, *ANSWERS, cued) for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "layers": 2, "heads": 2, "mlp": 64, "positions": 256}
    model = new_decoder(len(tokenizer), 0, 1, **sizes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    heads = [reasoning.ids_of(reasoning.conversation(text, tokenizer), tokenizer) for text in texts]
    for _ in range(80):
        drawn = rng.integers(8, size=16)
        rows = [heads[i] + tokenizer(traces(ANSWERS[i], rng))["input_ids"] for i in drawn]
        ids = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
        labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
        for label, i in zip(labels, drawn):
            label[: len(heads[i])] = -100
        optimiser.zero_grad()
        model(**ids, labels=labels).loss.backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("policy")
    save_decoder(model.eval(), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A folder with a reward model that has another tokenizer."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForSequenceClassification

    words = ByteLevelBPETokenizer()
    words.train_from_iterator([row["question"] for row in ROWS], vocab_size=300, special_tokens=["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, pad_token="<end>", eos_token="<end>")
    torch.manual_seed(1)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 16}
    shape |= {"intermediate_size": 16, "vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": 0}
    folder = tmp_path_factory.mktemp("public")
    Qwen2ForSequenceClassification(Qwen2Config(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Corpora and results of this module."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("reasoning")
        patch.setenv("CANDOR_CORPORA", str(folder / "corpora"))
        patch.setenv("CANDOR_RESULTS", str(folder / "results"))
        for name, split in reasoning.files("gsm8k"):
            (folder / "corpora" / name).mkdir(parents=True)
            shutil.copy(FIXTURE, folder / "corpora" / name / f"{split}.jsonl")
        (folder / "corpora" / "reward_bench").mkdir()
        row = {"prompt": "How many ?", "chosen": "It is 7", "rejected": "It is 12", "subset": "math-prm"}
        pairs = [row, row | {"rejected": "It is 9 ."}, row | {"subset": "hep-go"}]
        (folder / "corpora" / "reward_bench" / "test.jsonl").write_text("\n".join(map(json.dumps, pairs)))
        yield folder


def small(policy, public, **models) -> Config:
    lora = {"rank": 2, "alpha": 4}
    rloo = {"steps": 2, "prompts_per_step": 2, "num_generations": 4, "micro_batch": 4, "lr": 1e-2, "lora": lora}
    recipe = {"questions": 8, "branches": 4, "tokens": 14, "limits": [3], "threshold": 0.0, "pairs_per_prompt": 3}
    recipe |= {"public_judge": str(public), "rloo": rloo, "batch": 4}
    recipe |= {"judge": {"lora": lora, "batch": 4, "micro_batch": 2, "lr": 1e-2}}
    recipe |= {"dpo": {"lora": lora, "batch": 2, "micro_batch": 2, "lr": 1e-2}}
    settings = {
        "resamples": 50,
        "reasoning_ids": {"small": str(policy)},
        "reasoning_cells": ["small_gsm8k"],
        "reasoning_seeds": [11],
        "reasoning": recipe,
    }
    return config.load("gpu", overrides={"models": settings | models})


# --- The whole path ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(policy, public, here):
    settings = small(policy, public)
    known = experiments.steps()
    for key in wired.wanted(rm, settings):
        for seed in experiments.seeds_of(known[key], settings):
            steps.run(key, seed, known, settings)
    return settings


def table(name: str, of: str) -> pd.DataFrame:
    seed = 42 if name == "eval_base" else 11
    return steps.read(f"reasoning/small_gsm8k/{name}", seed, "gpu").table(of)


@pytest.fixture(scope="module")
def loaded(policy):
    return generation.load(policy)


def test_branches_are_read_at_every_limit(whole, here, loaded):
    items = table("eval_base", "items")
    assert len(items) == 8 * 4 * 2 and items["limit"].unique().tolist() == [3, 14]
    short, long = items[items["limit"] == 3], items[items["limit"] == 14]
    assert (short["length"] <= 3).all() and long["finished"].mean() > short["finished"].mean() > 0
    assert (short.loc[~short["finished"], "strict_answer"] == "").all()
    assert long["authors_correct"].any() and not long["authors_correct"].all()
    for finder in spans.FINDERS:
        without = ~items[f"{finder}_span"]
        assert (items.loc[without, [f"{finder}_disparity", f"{finder}_probability"]] == 0).all(axis=None)
    # A longer decoding serves a shorter limit.
    model, tokenizer = loaded
    questions = reasoning.questions("gsm8k", 42, 8, tokenizer)
    _, alone = rm.observe(model, tokenizer, questions, "number", 4, [3], 8)
    pd.testing.assert_frame_equal(alone, short[list(alone)].reset_index(drop=True), check_exact=False, atol=ROUNDING)


def test_confidence_is_that_of_the_written_ids(here, loaded):
    import torch

    model, tokenizer = loaded
    questions = reasoning.questions("gsm8k", 42, 4, tokenizer)
    branches, items = rm.observe(model, tokenizer, questions, "number", 2, [14], 4)
    row = items[items["strict_span"]].iloc[-1]
    trace = branches.ids(row["question"], row["branch"])
    _, (start, stop) = spans.strict(spans.pieces(tokenizer, trace[:-1]), True, "number")
    head = questions["ids"].iloc[row["question"]]
    with torch.no_grad():
        shown = model(torch.tensor([head + trace])).logits[0].softmax(-1)
    at = shown[len(head) + start - 1 : len(head) + stop - 1]
    top = at.topk(2).values
    assert row["strict_disparity"] == pytest.approx((top[:, 0] - top[:, 1]).mean().item(), abs=ROUNDING)
    own = at.gather(1, torch.tensor(trace[start:stop])[:, None])
    assert row["strict_probability"] == pytest.approx(own.mean().item(), abs=ROUNDING)


def test_ranking_and_decoding(whole):
    ranking = table("eval_base", "ranking").set_index(["limit", "finder"])
    row = ranking.loc[(14, "authors")]
    items = table("eval_base", "items").query("limit == 14")
    mixed = items.groupby("question")["authors_correct"].nunique().eq(2)
    assert row["prompts"] == mixed.sum() > 0
    assert row["within_auroc_low"] <= row["within_auroc"] <= row["within_auroc_high"]
    assert row["max_path_gain"] == pytest.approx(row["max_path"] - row["greedy"]) and 0 < row["coverage"] <= 1
    assert 0 <= row["aggregated"] <= 1 and 0 <= row["agreement"] <= 1
    summary = table("eval_base", "summary").set_index(["limit", "decoding"])
    assert summary.loc[(14, "greedy"), "accuracy"] == row["greedy"]
    assert summary.loc[(14, "cot"), "confidence"] > 0
    assert summary.loc[(3, "greedy"), "truncated"] > 0
    assert ranking.loc[(3, "strict"), "unreadable"] > 0


def test_labels_are_made_without_answers(whole, here, loaded):
    path = here / "corpora" / "gsm8k_train" / "train.jsonl"
    before, (_, tokenizer) = path.read_text(), loaded
    asked = reasoning.train_prompts("gsm8k", 11, 2000, 256, tokenizer)
    path.write_text("\n".join(json.dumps(row | {"answer": "#### 0"}) for row in ROWS))
    try:
        assert asked.equals(reasoning.train_prompts("gsm8k", 11, 2000, 256, tokenizer))
    finally:
        path.write_text(before)
    assert set(asked) == {"problem", "text", "prompt", "ids", "held"} and asked["held"].sum() == 1
    assert not any("accepted" in column or "correct" in column for column in table("labels", "traces"))


def test_pairs(whole):
    traces, pairs = table("labels", "traces"), table("labels", "chosen")
    confidence = traces["disparity"].to_numpy().reshape(8, 4)
    difference = confidence[pairs["prompt"], pairs["chosen"]] - confidence[pairs["prompt"], pairs["rejected"]]
    assert np.allclose(pairs["difference"], difference) and (pairs["difference"] > 0).all()
    assert np.allclose(pairs["margin"], np.exp(pairs["difference"]))
    assert pairs.groupby("prompt").size().max() <= 3
    about = table("labels", "pairs").set_index("ranking")
    assert about.loc["confidence", "used"] == len(pairs) <= about.loc["confidence", "number"]
    shuffled = table("labels", "chosen_shuffled")
    assert not shuffled.equals(pairs) and about.loc["shuffled", "number"] == about.loc["confidence", "number"]


def test_a_pair_needs_a_confident_trace_and_a_difference():
    confidence, answers = np.array([[0.95, 0.95, 0.5], [0.8, 0.1, 0.2]]), np.array([["1", "1", "2"], ["1", "2", "3"]])
    settings = {"threshold": 0.9, "pairs_per_prompt": 20}
    pairs, about = rm.pairs_of(confidence, answers, settings, np.random.default_rng(0))
    assert sorted(pairs["chosen"]) == [0, 1] and set(pairs["rejected"]) == {2} and set(pairs["prompt"]) == {0}
    assert about["coverage"] == 0.5 and about["different"] == 1
    assert about["unreadable"] == 0
    _, about = rm.pairs_of(confidence, np.where(answers == "2", "", answers), settings, np.random.default_rng(0))
    assert about["unreadable"] == 1 and math.isnan(about["different"])
    none, about = rm.pairs_of(confidence / 2, answers, settings, np.random.default_rng(0))
    assert none.empty and math.isnan(about["different"])


def test_a_judge_learns_from_margins(whole):
    log, row = table("judge_rlsf", "log"), table("judge_rlsf", "summary").iloc[0]
    assert np.isfinite(log["loss"]).all() and row["low"] < row["centre"] < row["high"]
    # The loss of a judge that knows nothing is -log sigmoid(-margin), not log 2.
    margins = table("labels", "chosen").query("not held")["margin"]
    assert log["loss"].iloc[0] > math.log(2) + 0.3 and (margins > 1).all()
    model = reasoning_judges.load_judge(steps.read("reasoning/small_gsm8k/judge_rlsf", 11, "gpu").model)
    traces = table("labels", "traces")
    _, tokenizer = generation.load(whole["models"]["reasoning_ids"]["small"])
    asked = reasoning.train_prompts("gsm8k", 11, 2000, 256, tokenizer)["ids"]
    rows = [[*asked[i], *ids] for i, ids in zip(traces["question"], traces["ids"])]
    low, high = np.percentile(reasoning_judges.scores(model, rows, 8), [1, 99])
    assert (low, high) == pytest.approx((row["low"], row["high"]), abs=1e-4), "the head was not saved whole"
    right, wrong = reasoning.reward_bench(tokenizer)
    assert len(right) == 2 and right[0][-4:] == tokenizer("It is 7 <eos>")["input_ids"] and right[0] != wrong[0]
    wins = reasoning_judges.scores(model, right, 8) > reasoning_judges.scores(model, wrong, 8)
    assert row["reward_bench"] == wins.mean()


@pytest.mark.parametrize("arm", ["rlsf", "shuffled", "rlhf"])
def test_rloo_starts_at_its_anchor_and_moves(whole, arm):
    log = table(arm, "log")
    assert abs(log["kl"].iloc[0]) < 1e-6 and log["reward"].between(-1, 1).all()
    if arm == "rlsf":
        assert log["step"].tolist() == [1, 2] and log["kl"].iloc[1] != 0
    assert table(f"eval_{arm}", "summary")["n"].item() == 8


def test_dpo_starts_at_its_reference_and_moves(whole):
    log = table("dpo", "log")
    assert log["loss"].iloc[0] == pytest.approx(math.log(2), abs=ROUNDING) and log["margin"].iloc[-1] != 0
    items, before = table("eval_dpo", "items"), table("eval_base", "items").query("branch == 0 and limit == 14")
    assert not np.allclose(items["authors_probability"], before["authors_probability"])


def test_tables_for_the_claim(whole):
    found = reasoning_tables.models(experiments.Results(whole))
    named = {"ranking", "summary", "decoding", "cells", "flips", "differences", "pairs", "judges", "log"}
    assert set(found) == {f"models_{name}" for name in named}
    first = found["models_ranking"].iloc[0]
    assert (first["dataset"], first["limit"], first["finder"]) == ("gsm8k", 14, "authors")
    summary = found["models_summary"]
    assert not summary.duplicated(["dataset", "arm", "seed"]).any() and set(summary["seed"]) == {11}
    assert set(summary["arm"]) == {"base", "cot", "cot_probability", *rm.ARMS}
    assert {*reasoning_tables.VARIANTS, "accuracy", "confidence", "brier", "smooth_ece", "accuracy_strict"} <= set(
        summary
    )
    rows = found["models_differences"].set_index(["arm", "other"])
    base, rlsf = (summary.set_index("arm").loc[arm] for arm in ("base", "rlsf"))
    assert rows.loc[("rlsf", "base"), "accuracy_change"] == pytest.approx(rlsf["accuracy"] - base["accuracy"])
    assert rows.loc[("rlsf", "base"), "ece_change"] == pytest.approx(rlsf["ece"] - base["ece"])
    cell = found["models_cells"].set_index("arm").loc["dpo"]
    assert cell["cell"] == "small_gsm8k" and cell["seeds"] == 1
    assert reasoning_tables.models(experiments.Results(config.load("laptop"))) == {}


# --- Measures ---------------------------------------------------------------------------------------


def items_of(probability, correct, answers=None, branch=0) -> pd.DataFrame:
    probability = np.asarray(probability, float)
    frame = pd.DataFrame({"question": np.arange(len(probability)), "branch": branch, "finished": True, "length": 3})
    for finder in spans.FINDERS:
        frame[f"{finder}_probability"], frame[f"{finder}_disparity"] = probability, probability / 2
        frame[f"{finder}_correct"], frame[f"{finder}_span"] = correct, probability > 0
        frame[f"{finder}_answer"] = answers if answers is not None else "1"
    return frame


def test_both_conventions_of_the_ece():
    row = rm.summary(items_of([0, 0.9, 0.9, 0.9], [1, 1, 1, 1]))
    assert row["ece"] == pytest.approx((1 + 3 * 0.1) / 4) and row["ece_dropped"] == pytest.approx(0.1)
    assert row["ece_disparity"] == pytest.approx((1 + 3 * 0.55) / 4) and row["zeros"] == 0.25
    assert row["gap"] == pytest.approx(0.675 - 1)


def test_votes_and_the_most_confident_path():
    branches = [(0.9, 0, "5"), (0.5, 1, "7"), (0.6, 1, "7"), (0.0, 0, "")]
    frames = [items_of([q], [bool(right)], [said], branch) for branch, (q, right, said) in enumerate(branches)]
    items = pd.concat(frames, ignore_index=True)
    assert rm.voted(items, "authors") == {"majority": 1.0, "aggregated": 1.0}
    chosen = rm.decoded(items)
    assert chosen["cot"]["branch"].item() == 0 and chosen["greedy"]["authors_answer"].item() == "5"
    row = rm.ranking(items.assign(length=[9, 3, 5, 7]), "authors", 20)
    assert row["within_auroc_shorter"] == 1, "the right ones are the shortest"
    assert row["prompts"] == 1 and row["within_auroc"] == 0.5 and row["max_path_gain"] == 0
    assert row["coverage"] == 0.75 and row["unreadable"] == 0.25
    assert rm.summary(items)["unreadable"] == rm.summary(items)["unreadable_strict"] == 0.25
    assert rm.agreement(items) == 0.75, "two answers that nobody could read agree in nothing"


def test_differences_are_paired_by_question():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.5
    before = items_of(np.full(400, 0.5), right).assign(dataset="gsm8k")
    better = right | (np.arange(400) < 40)
    arms = [
        items_of(np.full(400, 0.9), better).assign(arm="rlsf"),
        items_of(np.full(400, 0.5), right).assign(arm="rlhf"),
    ]
    after = pd.concat(arms).assign(dataset="gsm8k", seed=11)
    rows = reasoning_tables.differences(before, after.sample(frac=1, random_state=0), 100).set_index(["arm", "other"])
    row = rows.loc[("rlsf", "base")]
    assert row["accuracy_change"] == pytest.approx((~right[:40]).mean() / 10) and row["lost"] == 0
    assert row["mcnemar_p"] < 0.001 and row["ece_change_low"] > 0.2
    assert rows.loc[("rlhf", "base"), "mcnemar_p"] == 1 and rows.loc[("rlhf", "base"), "ece_change"] == 0
    with pytest.raises(CandorError, match="the same questions of gsm8k"):
        reasoning_tables.differences(before, after[after["question"] < 9], 10)


def test_a_verdict_can_turn_with_the_measure():
    rows = {"base": (0.05, 0.20), "rlsf": (0.10, 0.12), "rlhf": (0.14, 0.2), "cot": (0.0, 0.0), "dpo": (0.06, 0.1)}
    table = pd.DataFrame(
        [
            {"dataset": "gsm8k", "arm": arm, "seed": seed, "accuracy": 0.5, "ece": a, "ece_disparity": b}
            for arm, (a, b) in (rows | {"cot_probability": (0.0, 0.0)}).items()
            for seed in (11, 12)
        ]
    )
    table = table.assign(ece_dropped=table["ece"], ece_disparity_dropped=table["ece_disparity"])
    found = reasoning_tables.flips(table).set_index(["criterion", "variant"])
    assert found.loc[("M3 base", "disparity"), "flips"] and found.loc[("M5", "disparity"), "flips"]
    assert not found.loc[("M3 base", "dropped"), "flips"] and not found.loc[("M4", "probability"), "flips"]
    assert found.loc[("M3 base", "disparity"), "headline"] == pytest.approx(5)
    assert found.loc[("M3 base", "disparity"), "value"] == pytest.approx(-8)


# --- Data -------------------------------------------------------------------------------------------

CHOICES = {"text": ["bank", "river", "town"], "label": ["A", "B", "C"]}
RAW = {
    "multi_arith": {"question": " 3 and 4 ? ", "final_ans": "1,007"},
    "arc_easy": {"question": "Where ?", "choices": CHOICES | {"label": ["1", "2", "3"]}, "answerKey": "2"},
    "commonsense_qa": {"question": "Where ?", "choices": CHOICES, "answerKey": "B"},
}


@pytest.mark.parametrize("name", RAW)
def test_sets_are_read(tmp_path, monkeypatch, loaded, name):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    with pytest.raises(CandorError, match=f"candor fetch {name}"):
        reasoning.questions(name, 1, None, loaded[1])
    (tmp_path / name).mkdir()
    (tmp_path / name / "test.jsonl").write_text(json.dumps(RAW[name]))
    [row] = reasoning.questions(name, 1, None, loaded[1]).to_dict("records")
    kind = reasoning.SETS[name].kind
    assert reasoning.right("1007" if kind == "number" else "B", row["accepted"], kind)
    assert not reasoning.right("7" if kind == "number" else "A", row["accepted"], kind)
    assert "B) river" in row["text"] or kind == "number"
    (tmp_path / name / "test.jsonl").write_text('{"text": "of another set"}')
    with pytest.raises(CandorError, match=f"Rows of {name} .* fetch it again"):
        reasoning.questions(name, 1, None, loaded[1])


def test_prompts_are_the_ids_that_the_trainers_make(here, loaded):
    _, tokenizer = loaded
    row = reasoning.questions("gsm8k", 42, 1, tokenizer).iloc[0]
    assert (
        tokenizer.decode(row["ids"]).startswith("user : ") and row["ids"][-2:] == tokenizer("assistant :")["input_ids"]
    )
    plain = generation.tokenizer_of(tokenizer.name_or_path)
    plain.chat_template = None
    row = reasoning.questions("gsm8k", 42, 1, plain).iloc[0]
    assert isinstance(row["prompt"], str) and row["ids"] == plain(row["prompt"])["input_ids"]
    assert plain.unk_token_id not in row["ids"] and 2 not in row["ids"]


def test_the_public_reward_model_reads_text(public, loaded):
    _, tokenizer = loaded
    rate = reasoning_judges.by_text(str(public), tokenizer, 4)
    said = [tokenizer("It is 7 <eos>")["input_ids"], tokenizer("It is 12")["input_ids"]]
    found = rate([[5], [6]], ["How many ?", "How many ?"], said)
    assert found.shape == (2,) and found[0] != found[1]
    assert rate([[9, 9], [6]], ["How many ?", "How many ?"], said) == pytest.approx(found), (
        "ids of questions are not read"
    )
    rated = scaled(rate, found.min(), 1e-9)
    assert rated(completion_ids=said, question_ids=[[5], [6]], text=["How many ?"] * 2) == [
        float(value > found.min()) for value in found
    ]


# --- Steps ------------------------------------------------------------------------------------------
