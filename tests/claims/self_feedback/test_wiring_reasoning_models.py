"""Which of its own traces a pretrained model learns to prefer, and whose scores its policies follow: see `wired`."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import wired
from candor.claims.self_feedback import reasoning, reasoning_judges
from candor.claims.self_feedback import reasoning_models as rm
from candor.language_models import generation
from wired import KNOWN, SEED, G, check_recipe, name_of, total

# --- Tables -----------------------------------------------------------------------------------------

CELLS = [f"{model}_{name}" for model in ("small", "gemma", "qwen", "phi") for name in reasoning.SETS]
TRIED = ("small_gsm8k", "qwen_commonsense_qa")  # the others differ in model and set alone
JUDGES = {"judge_rlsf": "confidence", "judge_shuffled": "shuffled"}
POLICIES = {"rlsf": "judge_rlsf", "shuffled": "judge_shuffled", "rlhf": "public"}  # and whose scores they follow
LORA = {"rank": 2, "alpha": 3}
SETTINGS = {
    **{"questions": 5, "branches": 4, "tokens": 7, "limits": [3], "max_prompt_tokens": 60, "prompts": 20},
    **{"threshold": 0.9, "pairs_per_prompt": 3, "batch": 2},
    "judge": {"lora": LORA, "dropout": 0.1, "epochs": 2, "batch": 4, "micro_batch": 2, "lr": 0.0021},
    "rloo": {"lora": LORA, "steps": 2, "prompts_per_step": 2, "num_generations": G, "micro_batch": 4, "lr": 0.0031}
    | {"beta": 0.053, "temperature": 0.7, "max_grad_norm": 0.7},
    "dpo": {"lora": LORA, "epochs": 1, "batch": 4, "micro_batch": 2, "lr": 0.0041, "beta": 0.21},
}
DISPARITY = np.array([0.95, 0.92, 0.5, 0.1])  # of four branches, from which each prompt has them in another place
N, HELD, CUT = 20, 2, 3  # prompts, of which the last are held out, and that whose traces do not come to their end


def ids_of(prompt, branch):
    """The ids of a made-up trace: no two are the same."""
    return [10 + prompt, 40 + branch, 1]


def prompts(name, seed, n, most, tokenizer):
    texts = [f"{name} {i}?" for i in range(n)]
    frame = pd.DataFrame({"problem": texts, "text": texts, "prompt": texts, "ids": [[5, 60 + i] for i in range(n)]})
    return frame.assign(held=np.arange(n) >= n - HELD)


def questions(name, seed, n, tokenizer):
    return prompts(name, seed, n, 0, tokenizer).assign(accepted=[["7"]] * n)


def observe(model, tokenizer, asked, kind, k, limits, batch):
    n, limits = len(asked), sorted(set(limits))
    table = pd.DataFrame({"question": np.repeat(np.arange(n), k), "branch": np.tile(np.arange(k), n)})
    table = table.assign(length=3, finished=(table["question"] != CUT) | (k == 1))
    disparity = np.concatenate([np.roll(DISPARITY, i)[:k] for i in range(n)])
    for finder in ("authors", "strict"):
        columns = {"answer": "7", "span": True, "disparity": disparity, "probability": 1 - disparity}
        table = table.assign(**{f"{finder}_{name}": values for name, values in columns.items()})
    branches = SimpleNamespace(ids=ids_of)
    return branches, pd.concat([table.assign(limit=limit) for limit in limits], ignore_index=True)


# --- Steps ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    folder = tmp_path_factory.mktemp("reasoning")
    models = wired.stand_ins(folder, [*rm.MODELS, "public"], ["gsm8k 1? the answer is 7"])
    heads = Qwen2ForSequenceClassification(Qwen2Config.from_pretrained(models["public"], num_labels=1))
    heads.save_pretrained(models["public"])
    chosen = SETTINGS | {"public_judge": models.pop("public")}
    with wired.noted(tmp_path_factory, wired.of_models(reasoning=chosen, reasoning_ids=models)) as run:
        run.spy(reasoning, "train_prompts", prompts)
        run.spy(reasoning, "questions", questions)
        run.spy(reasoning, "reward_bench", lambda tokenizer: ([[5, 6, 1]], [[5, 7, 1]]))
        run.spy(rm, "observe", observe)
        run.spy(generation, "load")
        run.spy(reasoning_judges, "by_ids")
        run.spy(reasoning_judges, "by_text")
        yield run


def placed(rows):
    """Prompt and branch of ids of prompts and traces in a row."""
    return [(row[-3] - 10, row[-2] - 40) for row in rows]


def ranks_of(pairs, side):
    return np.array([np.roll(DISPARITY, p)[b] for p, b in pairs[["prompt", side]].to_numpy()])


@pytest.mark.parametrize("cell", CELLS)
def test_labels_are_pairs_of_the_cells_own_branches_by_confidence(made, cell):
    run, (model, name) = made(f"reasoning/{cell}/labels"), cell.split("_", 1)
    [observed], [asked] = run.called("observe"), run.called("train_prompts")
    assert observed.origins == [model] and asked.args[:4] == (name, SEED, N, 60)
    assert observed.args[3:6] == (reasoning.SETS[name].kind, 4, [7])
    pairs, shuffled = run.result.table("chosen"), run.result.table("chosen_shuffled")
    assert (ranks_of(pairs, "chosen") >= 0.9).all() and (pairs["prompt"] < N).all()
    assert pairs["difference"].to_numpy() == pytest.approx(ranks_of(pairs, "chosen") - ranks_of(pairs, "rejected"))
    for table in (pairs, shuffled):
        assert table["margin"].to_numpy() == pytest.approx(np.exp(table["difference"])) and (table["margin"] > 1).all()
        assert (table.groupby("prompt").size() == 3).all() and (table["held"] == (table["prompt"] >= N - HELD)).all()
    own = np.concatenate([ranks_of(shuffled, side) for side in ("chosen", "rejected")])
    kept = {tuple(sorted(row)) for row in shuffled.groupby("prompt")[["chosen", "rejected"]].sum().to_numpy()}
    assert ranks_of(shuffled, "chosen").mean() < 0.8 and len(set(own)) == 4 and len(kept) > 3, (
        "what is preferred is chance"
    )


@pytest.mark.parametrize("cell", TRIED)
@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_learns_the_pairs_of_its_ranking_but_the_held_out_ones(made, name, cell):
    run, labels = made(f"reasoning/{cell}/{name}"), made(f"reasoning/{cell}/labels").result
    [trainer], pairs = run.trainings, labels.table("chosen" if name == "judge_rlsf" else "chosen_shuffled")
    used = pairs[~pairs["held"]]
    recipe = {"max_steps": round(2 * len(used) / 4), "learning_rate": 0.0021, "gradient_accumulation_steps": 2}
    recipe |= {"per_device_train_batch_size": 2, "disable_dropout": False}
    check_recipe(trainer, wired.REWARD_MODEL | recipe)
    adapters = trainer.model.peft_config["default"]
    assert (adapters.r, adapters.lora_alpha, adapters.lora_dropout, adapters.use_rslora) == (2, 3, 0.1, True)
    assert trainer.started_from == cell.split("_")[0]
    for side in ("chosen", "rejected"):
        assert placed(trainer.train_dataset[f"{side}_ids"]) == list(map(tuple, used[["prompt", side]].to_numpy()))
    assert trainer.train_dataset["margin"][:] == pytest.approx(used["margin"].tolist())
    assert run.row()["pairs"] == len(used) and run.row()["held_pairs"] == len(pairs) - len(used)


@pytest.mark.parametrize("cell", TRIED)
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_follows_its_judge_on_the_scale_of_confidence(made, name, cell):
    run, at = made(f"reasoning/{cell}/{name}"), f"reasoning/{cell}"
    [trainer] = run.trainings
    recipe = {"max_steps": 2, "learning_rate": 0.0031, "beta": 0.053, "temperature": 0.7, "max_grad_norm": 0.7}
    recipe |= {"max_completion_length": 7, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    check_recipe(trainer, wired.RLOO | recipe | {"steps_per_generation": 2})
    assert trainer.started_from == cell.split("_")[0] and trainer.model.peft_config["default"].r == 2
    data = trainer.train_dataset
    assert data["question_ids"][:] == [[5, 60 + i] for i in range(N - HELD)], "no held-out question"
    assert not {"accepted", "answer", "problem"} & set(data.column_names), "no answer is at hand"
    ids = [ids_of(3, branch) for branch in range(4)]
    batch = {"completion_ids": ids, "question_ids": [[5, 63]] * 4, "text": ["gsm8k 3?"] * 4}
    if POLICIES[name] == "public":
        [rate] = [call.found for call in run.called("by_text")]
        assert made.key_of(run.called("by_text")[0].args[0]) == "public" and not run.called("by_ids")
        traces = made(f"{at}/labels").result.table("traces")
        questions_of, own_ids = [[5, 60 + q] for q in traces["question"]], traces["ids"].map(list).tolist()
        texts = [f"{cell.split('_', 1)[1]} {q}?" for q in traces["question"]]
        low, high = np.percentile(rate(questions_of, texts, own_ids), [1, 99])
        centre, divisor, scores = (low + high) / 2, (high - low) / 2, rate(batch["question_ids"], batch["text"], ids)
        reached = made(f"{at}/rlsf").result.table("log")["kl"].iloc[-1]
        assert wired.stops(trainer, reached - 0.1, reached + 1) == [False, True], "at the KL that rlsf reached"
    else:
        scale = made(f"{at}/judge_rlsf").row()
        judge = reasoning_judges.load_judge(made(f"{at}/{POLICIES[name]}").result.model)
        scores = reasoning_judges.scores(judge, [[5, 63, *own] for own in ids], 2)
        centre, divisor = scale["centre"], scale["divisor"]
        assert wired.stops(trainer, 0.1, 99.0) == [False, False]
    assert total(trainer, **batch) == pytest.approx(np.clip((scores - centre) / divisor, -1, 1), abs=1e-3)


@pytest.mark.parametrize("cell", TRIED)
def test_dpo_learns_the_same_pairs(made, cell):
    run, pairs = made(f"reasoning/{cell}/dpo"), made(f"reasoning/{cell}/labels").result.table("chosen")
    [trainer], used = run.trainings, pairs[~pairs["held"] & (pairs["prompt"] != CUT)]
    assert CUT in set(pairs["prompt"]) and run.row("training")["pairs"] == len(used), "no unfinished trace is taught"
    recipe = {
        "max_steps": round(len(used) / 4),
        "learning_rate": 0.0041,
        "beta": 0.21,
        "gradient_accumulation_steps": 2,
    }
    check_recipe(trainer, wired.DPO | recipe | {"per_device_train_batch_size": 2})
    assert trainer.started_from == cell.split("_")[0] and trainer.ref_model is None
    for side in ("chosen", "rejected"):
        wanted = [ids_of(p, b) for p, b in used[["prompt", side]].to_numpy()]
        assert trainer.train_dataset[f"{side}_ids"][:] == wanted
    assert trainer.train_dataset["prompt_ids"][:] == [[5, 60 + p] for p in used["prompt"]]


@pytest.mark.parametrize("cell", TRIED)
@pytest.mark.parametrize("name", ["base", *rm.ARMS])
def test_an_evaluation_is_of_its_arm_on_test_questions(made, name, cell):
    run = made(f"reasoning/{cell}/eval_{name}")
    [observed], [asked] = run.called("observe"), run.called("questions")
    assert asked.args[:3] == (cell.split("_", 1)[1], 42, 5)
    k, limits = (4, [3, 7]) if name == "base" else (1, [7])
    assert observed.args[4:6] == (k, limits) and observed.args[0] is not None
    [loaded] = run.called("load")
    assert made.key_of(loaded.args[0]) == (cell.split("_")[0] if name == "base" else f"reasoning/{cell}/{name}")


def test_all_cells_have_the_same_steps():
    def steps_of(cell):
        own = [step for key, step in KNOWN.items() if key.startswith(f"reasoning/{cell}/")]
        return repr(own).replace(f"/{cell}/", "/cell/")

    assert {steps_of(cell) for cell in CELLS} == {steps_of(CELLS[0])}
    assert {name_of(key)[0] for key in KNOWN if key.startswith("reasoning/")} == set(CELLS)


def test_every_trained_step_has_a_row():
    names = [*JUDGES, *POLICIES, "dpo"]
    wired.check_rows({f"reasoning/{cell}/{name}" for cell in CELLS for name in names}, "reasoning")
