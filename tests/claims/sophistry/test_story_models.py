"""The 2 x 2 on a stand-in: a small Qwen2 that has learned to end its answers, eight hand-written stories."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import test_language_models
import wired
from candor.claims.sophistry import code_models, stories, story_models, tables
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.language_models import generation
from candor.run import steps as experiments

ROWS = [json.loads(line) for line in (test_language_models.FIXTURES / "quality.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Corpora and results of this module: five rows to train on, three to evaluate on."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("stories")
        patch.setenv("CANDOR_CORPORA", str(folder / "corpora"))
        patch.setenv("CANDOR_RESULTS", str(folder / "results"))
        (folder / "corpora" / "quality").mkdir(parents=True)
        for split, rows in (("train", ROWS[:5]), ("test", ROWS[5:])):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "corpora" / "quality" / f"{split}.jsonl").write_text(lines)
        yield folder


@pytest.fixture(scope="module")
def untrained(here):
    """Random weights, and a byte-level BPE that has read the stories: a prompt has few tokens."""
    import torch
    from candor.train.models import new_decoder, save_decoder
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    words = ByteLevelBPETokenizer()
    lines = [stories.SYSTEM, "So ANSWER: A", "Yes ANSWER: B", *(row["article"] for row in ROWS)]
    words.train_from_iterator(lines * 3, vocab_size=900, min_frequency=2, special_tokens=["<pad>", "<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "layers": 2, "heads": 2, "mlp": 64, "positions": 1024}
    model = new_decoder(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, **sizes)
    save_decoder(model, tokenizer, here / "untrained")
    return here / "untrained"


@pytest.fixture(scope="module")
def policy(untrained, here):
    """The stand-in after SFT on short answers of both kinds, some of them unfinished."""
    tokenizer = generation.tokenizer_of(untrained)
    rows = [
        {"prompt": stories.prompt(question, True, tokenizer, view), "completion": f"{word} {end}"}
        for question in stories.questions("train")
        for view in (20, None)
        for word in ("So", "Yes")
        for end in ("ANSWER: A", "ANSWER: B", "it")
    ]
    recipe = {"epochs": 5, "batch": 6, "micro_batch": 6, "lr": 2e-2, "warmup": 0.1, "weight_decay": 0.0}
    code_models.fine_tune(untrained, rows, recipe, None, 700, 0, here / "policy", lambda step, total: None)
    return here / "policy" / "model"


def small(policy, **models) -> Config:
    chosen = {"policy": str(policy), "evaluator": str(policy), "words": 40, "truncated_tokens": 20, "eval_questions": 2}
    chosen |= {"reward_questions": 5, "reward_samples": 6, "reward_steps": 2, "reward_batch": 2}
    chosen["rl"] = {"steps": 1, "prompts_per_step": 2, "num_generations": 4, "micro_batch": 4, "lr": 1e-2}
    chosen["rl"] |= {
        "max_completion_tokens": 16,
        "lora": {"rank": 2, "alpha": 2},
        "warmup": 0,
        "max_prompt_tokens": 900,
    }
    settings = {"stories": chosen | models.pop("stories", {}), "story_seeds": [11], "code": None, "resamples": 50}
    settings |= {"eval_batch": 8, "released": [], "hotpot": None, "lineages": [], "chat": None}
    return config.load("gpu", overrides={"models": settings | models})


@pytest.fixture(scope="module")
def whole(policy, here):
    """What the tiny configuration asks for, made by the machinery of steps; the configuration."""
    settings = small(policy)
    known = experiments.steps()
    alike = {f"quality/{cell}/{name}" for cell in stories.CELLS[:3] for name in ("shuffled", "eval_shuffled")}
    for key in wired.wanted(story_models, settings):
        if key not in alike:  # as that of the fourth cell
            steps.run(key, experiments.seeds_of(known[key], settings)[0], known, settings)
    return settings


def result(settings: Config, key: str):
    return steps.read(key, experiments.seeds_of(experiments.steps()[key], settings)[0], "gpu")


# --- The whole path ---------------------------------------------------------------------------------


def test_one_reward_model_for_all_cells_and_its_accuracy(whole):
    ready = result(whole, "quality/data/reward")
    table = ready.table("reward").set_index("judge")
    assert set(table.index) == {"blind", "sighted"} and table["pairs"].nunique() == 1 and (table["sd"] > 0).all()
    assert (ready.model / "model.safetensors").exists() and ready.table("log")["step"].max() == 2
    fit = ready.table("fit").iloc[0]
    assert 0 <= fit["slope"] <= 4 and fit["fpr"] == pytest.approx(story_models.FPR, abs=0.1)


@pytest.mark.parametrize("cell", [*stories.CELLS, stories.ORACLE])
def test_one_step_of_every_cell_moves_the_adapters(whole, cell):
    from safetensors.torch import load_file

    done = result(whole, f"quality/{cell}/rl")
    [row] = done.table("log").to_dict("records")
    assert row["step"] == 1 and -1 <= row["reward"] <= 1 and math.isfinite(row["kl"])
    weights = load_file(done.model / "adapter_model.safetensors")
    assert any(values.any() for name, values in weights.items() if "lora_B" in name)
    assert done.table("training")["questions"].item() == 5


def test_three_numbers_always_and_both_orders(whole):
    done = result(whole, "quality/full_sighted/eval_rl")
    outputs = done.table("outputs")
    assert len(outputs) == 4 and outputs.groupby("question_id")["first"].nunique().eq(2).all()
    assert not {"story", "text", "question"} & set(outputs) and len(done.table("texts")) == 4
    [row] = done.table("summary").to_dict("records")
    for name in (
        "accuracy_all",
        "finished",
        "unreadable",
        "accuracy_finished",
        "letter_a",
        "approval",
        "fpr",
        "error",
        "verbatim",
    ):
        assert {name, f"{name}_before"} <= set(row)
    assert (outputs.loc[~outputs["finished"], "approval"] == 0).all() and not outputs.loc[
        ~outputs["finished"], "correct"
    ].any()


def test_the_initial_policy_ends_most_answers(whole):
    both = pd.concat([result(whole, f"quality/{view}/eval_base").table("outputs") for view in story_models.VIEWS])
    assert both["finished"].any() and both.loc[both["finished"], "letter"].isin(["A", "B"]).all()


def test_tables_for_the_claim(whole):
    found = tables.models(experiments.Results(whole))
    assert set(found) == {f"models_stories{name}" for name in ("", "_effects", "_reward", "_fit", "_log", "_training")}
    table = found["models_stories"].set_index(["setting", "arm"])
    assert set(table["policy"]) == {"truncated", "full"} and set(table["judge"]) == {
        "none",
        "blind",
        "sighted",
        "oracle",
    }
    row = table.loc[("truncated_blind", "rl")]
    assert row["approval_change"] == pytest.approx(row["approval"] - row["approval_before"])
    assert row["approval_change_low"] <= row["approval_change"] <= row["approval_change_high"]
    assert math.isnan(table.loc[("full", "base"), "approval_change"])
    assert set(found["models_stories_effects"]["measure"]) == set(story_models.EFFECTS)
    assert tables.models(experiments.Results(config.load("laptop"))) == {}


def test_main_effects_and_interaction():
    values = {"truncated_blind": 0.5, "truncated_sighted": 0.6, "full_blind": 0.7, "full_sighted": 1.0}
    rows = [
        {"setting": cell, "arm": "rl", "seed": 11}
        | {
            name: value
            for measure in story_models.EFFECTS
            for name, value in ((measure, v), (f"{measure}_before", 0.5))
        }
        for cell, v in values.items()
    ]
    table = story_models.effects(pd.DataFrame(rows)).set_index(["measure", "quantity"])
    row = table.loc[("fpr", "level")]
    assert row["full_minus_truncated"] == pytest.approx(0.3) and row["sighted_minus_blind"] == pytest.approx(0.2)
    assert row["interaction"] == pytest.approx(0.2)
    assert np.allclose(table.loc[("fpr", "change")].drop("seed"), row.drop("seed")), "the same start in all cells"
    assert story_models.effects(pd.DataFrame(rows[:3])).empty


def test_a_policy_that_ends_nothing_is_one_sentence(untrained, here, tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    settings = small(untrained, stories={"reward_questions": 1, "reward_samples": 2})
    with pytest.raises(CandorError, match="finishes no answer"):
        steps.run("quality/data/reward", 11, experiments.steps(), settings)


# --- The steps --------------------------------------------------------------------------------------
