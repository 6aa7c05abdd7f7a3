"""Which steps of pretrained models a scale asks for, and what it is told that they lack."""

import importlib
from functools import cache

import pytest
import wired
from candor.claims.annotation_noise import annotation_models, annotations
from candor.claims.grounding_loss import dialogue_models, dialogues
from candor.claims.self_feedback import reasoning_models
from candor.claims.sophistry import code_models, sandbox, story_models
from candor.core import settings as config
from candor.core.fingerprint import used as code_used
from candor.language_models import needs
from candor.language_models import run as lm
from candor.run import plan as graph
from candor.run import steps as experiments

KNOWN = experiments.steps()
# Of a module, at scale gpu: its data sets, its models, how many steps, one of them, one that is not among them.
GPU = [
    (
        lm,
        "hotpot_vanilla hotpot_modified commonsense_qa",
        "Qwen/Qwen2.5-7B Qwen/Qwen2.5-1.5B-Instruct mehuldamani/hotpot-v2-correctness-7b "
        "mehuldamani/hotpot-v2-brier-7b-no-split",
        *(14, "hotpot/policy/eval_log1", "math/policy/rlvr"),
    ),
    (
        dialogue_models,
        "ultrafeedback ultrachat esconv persuasion",
        "ContextualAI/archangel_sft_llama7b ContextualAI/archangel_sft-dpo_llama7b "
        "ContextualAI/archangel_sft-ppo_llama7b allenai/OLMo-2-0425-1B-SFT allenai/OLMo-2-0425-1B-DPO "
        "allenai/OLMo-2-0425-1B-Instruct HuggingFaceH4/mistral-7b-sft-beta HuggingFaceH4/zephyr-7b-beta "
        "Qwen/Qwen2.5-0.5B Qwen/Qwen2.5-7B-Instruct",
        *(24, "dialogues/own/eval_more_sft", "dialogues/olmo_7b/eval_base"),
    ),
    (
        code_models,
        "apps",
        "Qwen/Qwen2.5-Coder-1.5B Qwen/Qwen2.5-7B-Instruct",
        *(None, "apps/policy/eval_best_of_4", "apps/policy/best_of_4"),
    ),
    (
        story_models,
        "quality",
        "Qwen/Qwen2.5-1.5B-Instruct Qwen/Qwen2.5-7B-Instruct",
        *(None, "quality/full_oracle/eval_rl", "quality/full_oracle/shuffled"),
    ),
    (
        annotation_models,
        "hosking_unbiased hosking_errors hosking_groupings dices_350 dices_990 prism multipref helpsteer3 trivia_qa",
        "Qwen/Qwen2.5-0.5B Qwen/Qwen2.5-1.5B-Instruct",
        *(None, "annotations/judges/matched_weight", "annotations/judges/matched_oracle"),
    ),
    (
        reasoning_models,
        "gsm8k gsm8k_train reward_bench commonsense_qa commonsense_qa_train",
        "Qwen/Qwen2.5-0.5B-Instruct Skywork/Skywork-Reward-V2-Qwen3-0.6B",
        *(24, "reasoning/small_gsm8k/judge_shuffled", "reasoning/gemma_gsm8k/eval_base"),
    ),
]


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with neither data, weights, a GPU nor bubblewrap."""
    import torch

    for name in ("CANDOR_CORPORA", "PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(code_models, "check", cache(sandbox.check.__wrapped__))


@pytest.mark.parametrize(("module", "data", "models", "number", "asked", "other"), GPU, ids=lambda v: "")
def test_a_scale_says_what_it_asks_for_and_what_that_lacks(bare, module, data, models, number, asked, other):
    gpu = config.load("gpu")
    keys = wired.wanted(module, gpu)
    assert number in (None, len(keys)) and asked in keys and other not in keys
    assert set(keys) <= set(module.STEPS)
    assert all(keys.index(need) < keys.index(key) for key in keys for need in KNOWN[key].needs)
    assert len(keys) == len(set(keys)) and wired.wanted(module, config.load("laptop")) == []
    assert {name for name, _ in wired.needed(module, gpu, needs.data)} == set(data.split())
    assert set(wired.needed(module, gpu, needs.weights)) == set(models.split())
    lacks = wired.needed(module, gpu)
    assert all("\n" not in line and line.endswith(".") for line in lacks) and len(lacks) == 3 + (module is code_models)
    said = "\n".join(lacks)
    assert "needs a GPU" in lacks[0] and "candor fetch models --scale gpu" in lacks[-1]
    assert all(name in said for name in (*data.split(), *models.split()))
    assert ("bubblewrap is not installed" in said and "sandbox: container" in said) == (module is code_models)
    assert wired.needed(module, config.load("laptop")) == []


def test_data_alone_need_neither_a_gpu_nor_a_model(bare):
    absent = {"chat": None, "annotation_policy": None, "vote_rewards": {"datasets": []}, "lineages": []}
    alone = config.load("gpu", overrides={"models": absent | {"labeller": {"model": None}, "released": []}})
    for module in (dialogue_models, annotation_models):
        assert len(wired.needed(module, alone)) == 1 and wired.needed(module, alone, needs.weights) == []
    plan = graph.Plan(alone, ("grounding_loss", "annotation_noise"))
    assert not any(batch.gpu for batch in plan.batches().values() if batch.name[:4] in ("dial", "anno"))
    gpu = {key: batch.gpu for batch in graph.plan("gpu").batches().values() for key in batch.keys}
    assert gpu["annotations/judges/pairs"] and gpu["hotpot/policy/rlcr"] and not gpu["apps/data/problems"]


def test_inference_alone_reads_no_training_questions():
    alone = config.load("gpu", overrides={"models": {"reasoning_arms": [], "reasoning_cells": ["small_gsm8k"]}})
    assert wired.wanted(reasoning_models, alone) == ["reasoning/small_gsm8k/eval_base"]
    assert wired.needed(reasoning_models, alone, needs.data) == [("gsm8k", "test")]
    assert wired.needed(reasoning_models, alone, needs.weights) == [alone["models"]["reasoning_ids"]["small"]]


def test_an_engine_and_the_released_outputs_are_asked_for(bare):
    engine = {"engine": "vllm", "computation": {"attention": "flash_attention_2"}}
    plan = graph.Plan(config.load("gpu", overrides={"models": engine}), ("brier_fix", "binary_reward"))
    lacks = plan.requirements()
    assert len(lacks) == len(set(lacks)) == 6 and sum("needs a GPU" in line for line in lacks) == 1
    said = "\n".join(lacks)
    assert "set models.engine to transformers" in said and "flash-attn into .venv, or set it to sdpa" in said
    assert "candor fetch outputs" in said and len(plan.requirements(here=False)) == 5
    outputs = graph.Plan(config.load("gpu", overrides={"models": {"hotpot": None, "released": []}}), ("brier_fix",))
    assert ["fetch outputs" in line for line in outputs.requirements()] == [True]
    assert graph.plan("laptop").requirements() == []


def test_arms_of_a_claim_and_seeds_of_a_step():
    gpu = config.load("gpu")
    mine = [key for key in graph.Plan(gpu, ("binary_reward",)).keys("binary_reward") if key.startswith("hotpot")]
    assert set(mine) == {f"hotpot/{part}" for part in ("released/eval_base", "released/eval_rlvr")} | {
        f"hotpot/policy/{name}" for name in ("eval_base", "rlvr", "eval_rlvr")
    }
    for key, seeds in {
        "dialogues/own/dpo": (11, 12, 13),
        "dialogues/zephyr/eval_dpo": (42,),
        "annotations/judges/pairs": (11, 12, 13),
        "annotations/data/eval_dices": (42,),
    }.items():
        assert experiments.seeds_of(KNOWN[key], gpu) == seeds


def test_names_of_the_schema_are_those_of_the_code():
    models = config.load("laptop")["models"]
    assert set(models["annotation_data"]) == set(annotations.NAMES)
    assert models["annotation_arms"] == annotation_models.ARMS
    assert models["annotation_analyses"] == tuple(annotation_models.ANALYSES)
    lineages = {f"{name}_{stage}" for name, stages in dialogue_models.LINEAGES.items() for stage in stages}
    assert set(models["lineage_ids"]) == lineages and set(models["dialogue_data"]) == set(dialogues.HUB)
    assert set(models["chat_arms"]) == set(dialogue_models.ARMS)


def test_steps_are_whole():
    for key, step in KNOWN.items():
        if step.work:
            module, function = step.make.split(":")
            assert step.key == key and callable(getattr(importlib.import_module(module), function))
            assert set(step.needs) <= set(KNOWN)
            assert {name.split("=")[-1] for name in step.settings} <= set(config.load("gpu")["models"])


# Of a step, what its code reaches; what another table or analysis is made of it does not.
REACHED = {
    "hotpot/policy/rlcr": (
        "language_models.rewards:shifted_brier language_models.text:parse language_models.hotpot:modified "
        "train.policy:grpo"
    ),
    "dialogues/own/dpo": (
        "train.preference:dpo claims.grounding_loss.dialogue_models:TEMPLATE claims.grounding_loss.dialogues:RULES"
    ),
    "dialogues/zephyr/eval_dpo": "claims.grounding_loss.labeller:INSTRUCTION",
    "apps/policy/r_train": (
        "claims.sophistry.programs:passes_all claims.sophistry.programs:same language_models.training:_fit"
    ),
    "apps/policy/eval_r_train": "claims.sophistry.code_reader:approve claims.sophistry.sandbox:_LAUNCH",
    "quality/full_blind/rl": (
        "claims.sophistry.stories:Scorer claims.sophistry.stories:answer language_models.training:_fit"
    ),
    "quality/full_blind/eval_rl": "claims.sophistry.code_reader:calibrated",
    "annotations/judges/reward_naive": (
        "train.reward_model:weighted_loss claims.annotation_noise.annotation_rewards:fit_reward"
    ),
    "annotations/judges/pairs": "claims.annotation_noise.judges:respond claims.annotation_noise.response_types:em",
    "annotations/data/eval_dices": "claims.annotation_noise.raters_removed:flips",
    "reasoning/small_gsm8k/judge_rlsf": "train.reward_model:bradley_terry train.models:adapted",
    "reasoning/small_gsm8k/rlhf": (
        "train.policy:rloo_adapters claims.self_feedback.reasoning_judges:by_text "
        "claims.self_feedback.feedback:scale_of"
    ),
    "reasoning/small_gsm8k/eval_base": "claims.self_feedback.branching:branch measure.spans:authors",
}


@pytest.mark.parametrize("key", REACHED)
def test_the_code_of_a_step_is_what_it_reaches(key):
    step = KNOWN[key]
    used = set(code_used(step.make, *step.uses))
    assert {f"candor.{name}" for name in REACHED[key].split()} <= used
    assert not [name for name in used if name.endswith((":tables", ":models", ":policies", ":differences"))]
    alone = key.startswith("annotations/data")
    assert not (alone and [name for name in used if "language_models.generation" in name or "fit_reward" in name])


def test_what_one_cell_needs_is_no_other():
    assert "quality/data/reward" not in KNOWN["quality/full_oracle/rl"].needs
    shuffled = {"reasoning_arms": ["shuffled"], "reasoning_cells": ["small_gsm8k"]}
    keys = wired.wanted(reasoning_models, config.load("gpu", overrides={"models": shuffled}))
    names = ("eval_base", "labels", "judge_rlsf", "judge_shuffled", "shuffled", "eval_shuffled")
    assert [key.split("/")[2] for key in keys] == [*names]
