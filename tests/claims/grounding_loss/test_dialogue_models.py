"""Grounding acts on a stand-in: a random Qwen2 of two layers, hand-written dialogues and preferences, no network."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import test_language_models
import wired
from candor import claims
from candor.claims.grounding_loss import dialogue_models as dm
from candor.claims.grounding_loss import dialogue_tables, dialogues, labeller
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.declare import ledger
from candor.language_models import generation
from candor.run import steps as experiments
from numerics import ROUNDING

policy = test_language_models.policy  # the same stand-in: random weights, a byte-level BPE
FIXTURES = test_language_models.FIXTURES


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Corpora and results of this module."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("dialogues")
        patch.setenv("CANDOR_CORPORA", str(folder / "corpora"))
        patch.setenv("CANDOR_RESULTS", str(folder / "results"))
        for name in dialogues.HUB:
            (folder / "corpora" / name).mkdir(parents=True)
            shutil.copy(FIXTURES / f"{name}.jsonl", folder / "corpora" / name / "train.jsonl")
        yield folder


def small(policy, **models) -> Config:
    recipe = {"conversations": 4, "steps": 2, "batch": 2, "lr": 1e-2}
    trained = {"policy": str(policy), "sft": recipe, "checkpoints": 2, "checkpoint_turns": 3, "micro_batch": 1}
    trained["dpo"] = {"pairs": 8, "steps": 1, "batch": 2, "lr": 1e-2, "beta": 0.1}
    settings = {
        "dialogues": {"conversations": 2, "held_out": 1, "samples": 2, "tokens": 6},
        "resamples": 50,
        "lineages": ["zephyr"],
        "lineage_ids": {f"zephyr_{stage}": str(policy) for stage in dm.LINEAGES["zephyr"]},
        "labeller": {"model": str(policy)},
        "chat_seeds": [11],
        "chat": trained | models.pop("chat", {}),
        "eval_batch": 8,
        "released": [],
        "hotpot": None,
    }
    return config.load("gpu", overrides={"models": settings | models})


# --- The whole path ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(policy, here):
    """What the tiny configuration asks for, made by the machinery of steps; the configuration."""
    hand = here / "hand.csv"
    rows = [("human", "Seeker: Hi.", "Since when?", "followup"), ("model", "", "I see.", "acknowledgement")]
    pd.DataFrame(rows, columns=labeller.HAND_COLUMNS).to_csv(hand, index=False)
    settings = small(policy, labeller={"model": str(policy), "hand_labels": str(hand)})
    known = experiments.steps()
    alike = {f"dialogues/own/eval_{arm}" for arm in set(dm.ARMS) - {"dpo", "more_sft"}}  # as the two that are evaluated
    for key in wired.wanted(dm, settings):
        if key in alike:
            continue
        for seed in experiments.seeds_of(known[key], settings):
            steps.run(key, seed, known, settings)
    return settings


def table(settings: Config, key: str, name: str) -> pd.DataFrame:
    seed = experiments.seeds_of(experiments.steps()[key], settings)[0]
    return steps.read(key, seed, "gpu").table(name)


def test_every_model_writes_at_the_same_turns(whole):
    human = table(whole, "dialogues/data/eval_human", "turns")
    places = set(human[dm.AT].itertuples(index=False, name=None))
    assert {corpus for corpus, _, _ in places} == {"esconv", "persuasion"} and len(human) == len(places)
    for key in ("dialogues/zephyr/eval_dpo", "dialogues/own/eval_dpo"):
        turns = table(whole, key, "turns")
        assert set(turns[dm.AT].itertuples(index=False, name=None)) == places
        assert turns.groupby(dm.AT).size().eq(2).all() and turns["sample"].tolist()[:4] == [0, 1, 0, 1]
        assert set(dialogue_tables.LABELLERS) <= set(turns) and not {"text", "history", "message"} & set(turns)
    messages = table(whole, "dialogues/zephyr/eval_sft", "messages")
    assert messages["text"].nunique() > len(places), "two samples of a turn differ"
    assert not messages["text"].str.contains("\n").any(), "a transcript stops at the end of its line"


def test_labels_of_a_random_model_are_malformed_and_counted(whole):
    turns = table(whole, "dialogues/zephyr/eval_dpo", "turns")
    said = turns["words"] > 0
    assert said.any() and turns.loc[said, "malformed"].mean() > 2.9
    assert (turns.loc[~said, "malformed"] == 0).all()
    assert (turns.loc[turns["malformed"] == 3, ["prompt", "prompt_first", "stock"]] == "none").all(axis=None)


@pytest.mark.parametrize("arm", dm.ARMS)
def test_one_step_of_every_arm_moves_a_whole_model(whole, arm):
    from safetensors.torch import load_file

    result = steps.read(f"dialogues/own/{arm}", 11, "gpu")
    [row] = result.table("log").to_dict("records")
    assert row["step"] == 1 and math.isfinite(row["loss"])
    if arm != "more_sft":
        assert row["loss"] == pytest.approx(math.log(2), abs=ROUNDING), "the policy is its own reference at the start"
    before = load_file(steps.read("dialogues/own/sft", 11, "gpu").model / "model.safetensors")
    after = load_file(result.model / "model.safetensors")
    assert set(before) == set(after) and any((before[name] != after[name]).any() for name in before)
    tokenizer = generation.tokenizer_of(result.model)
    assert tokenizer.chat_template == dm.TEMPLATE
    [about] = result.table("training").to_dict("records")
    assert about["steps"] == 1 and about["examples"] == {"balanced": 2, "length_matched": 1, "more_sft": 2}.get(arm, 8)
    if arm in ("dpo", "swapped"):
        assert (about["chosen_asks"], about["rejected_asks"]) == ((0.25, 0.5) if arm == "dpo" else (0.5, 0.25))
    if arm == "balanced":
        assert about["chosen_asks"] == about["rejected_asks"]


def test_checkpoints_are_measured_along_the_way(whole):
    course = table(whole, "dialogues/own/sft", "trajectory")
    assert course["step"].tolist() == [0, 1, 2] and (course["n"] >= 3).all()
    assert course["question_rate"].between(0, 1).all() and course["words"].nunique() > 1
    assert "trajectory" not in steps.read("dialogues/own/swapped", 11, "gpu").run["tables"]


def test_tables_for_the_claim(whole):
    found = dialogue_tables.tables(experiments.Results(whole))
    assert set(found) == {
        *("models_questions", "models_rates", "models_training", "models_trajectory"),
        *("models_agreement", "models_strategies"),
    }
    rates = found["models_rates"]
    assert (
        set(rates["lineage"]) == {"human", "zephyr", "own"}
        and not rates.duplicated(["corpus", "lineage", "stage", "seed", "labeller", "act"]).any()
    )
    asked = rates[(rates["labeller"] == "regex") & (rates["act"] == "question") & (rates["corpus"] == "esconv")]
    human = asked[asked["stage"] == "human"].iloc[0]
    turns = table(whole, "dialogues/data/eval_human", "turns")
    assert human["rate"] == turns.loc[turns["corpus"] == "esconv", "regex"].eq("question").mean() > 0
    assert human["rate_low"] <= human["rate"] <= human["rate_high"] and math.isnan(human["kappa"])
    changed = rates[rates["lineage"].eq("zephyr") & rates["stage"].eq("dpo")]
    assert changed["rate_change"].notna().all() and changed["rate_change_low"].le(changed["rate_change_high"]).all()
    assert rates.loc[rates["stage"] == "sft", "rate_change"].isna().all()
    # The stand-ins of one lineage are one model, sampled by one seed.
    assert (changed["rate_change"] == 0).all()
    training = found["models_training"].set_index("arm")
    assert training.loc["more_sft", "change"] == 0 and training["question_share"].between(0, 1).all()
    assert training.loc["dpo", "steps"] == 1 and set(training.index) == {"sft", "dpo", "more_sft"}
    assert set(found["models_trajectory"]["arm"]) == set(dm.WATCHED)
    assert set(found["models_questions"]["variant"]) == {"whole", "cut"}
    assert found["models_strategies"]["share"].item() > 0.3
    assert set(found["models_agreement"]["origin"]) == {"human", "model"}
    assert dialogue_tables.tables(experiments.Results(config.load("laptop"))) == {}


def test_a_sheet_to_label_by_hand(whole):
    results = experiments.Results(whole)
    sheet = dm.sheet(results, n=8)
    assert list(sheet) == list(labeller.HAND_COLUMNS) and set(sheet["label"]) == {""}
    assert sheet["origin"].value_counts().to_dict() == {"human": 4, "model": 4}
    assert sheet.equals(dm.sheet(results, n=8)) and not sheet.equals(dm.sheet(results, n=8, seed=1))


# --- Changes and their intervals --------------------------------------------------------------------


def turns_where(acts: np.ndarray, stage: str, seed: int = 42) -> pd.DataFrame:
    """A table of 30 conversations of 20 turns with one sample, labelled as given."""
    places = [("esconv", place, turn) for place in range(30) for turn in range(20)]
    frame = pd.DataFrame(places, columns=dm.AT).assign(words=5, malformed=0, sample=0)
    for name in dialogue_tables.LABELLERS:
        frame[name] = np.where(acts, "question" if name.startswith("regex") else "followup", "none")
    return frame.assign(setting="archangel", arm=stage, seed=seed)


def test_a_planted_loss_of_acts_is_found_with_its_interval():
    rng = np.random.default_rng(0)
    human = rng.random(600) < 0.3
    sft = np.where(rng.random(600) < 0.6, human, rng.random(600) < 0.3)
    dpo = sft & (rng.random(600) < 0.6)  # acts are dropped at random: recall falls, precision does not
    people = turns_where(human, "human").assign(setting="data")
    table = dialogue_tables.rates(people, pd.concat([turns_where(sft, "sft"), turns_where(dpo, "dpo")]), 500)
    row = table.set_index(["stage", "labeller", "act"]).loc[("dpo", "prompt", "followup")]
    assert row["rate_relative"] == pytest.approx(-0.4, abs=0.08) and row["rate_relative_high"] < -0.25
    assert row["rate_change_high"] < 0 and row["kappa_change_high"] < 0 and row["recall_change_high"] < 0
    assert abs(row["precision_change"]) < 0.08 and row["kappa_max_change"] < 0
    assert row["rate_change"] == pytest.approx(dpo.mean() - sft.mean())
    silent = table.set_index(["stage", "labeller", "act"]).loc[("dpo", "prompt", "clarification")]
    assert math.isnan(silent["kappa"]) and math.isnan(silent["rate_relative"]) and silent["rate"] == 0


def test_turns_that_are_missing_are_one_sentence():
    people = turns_where(np.ones(600, bool), "human").assign(setting="data")
    with pytest.raises(CandorError, match="archangel/sft did not write at every turn of esconv"):
        dialogue_tables.rates(people, turns_where(np.ones(600, bool), "sft").iloc[:-1], 10)


def test_question_shares_are_held_against_further_sft_of_the_same_seed():
    frames = []
    for seed, share in ((11, 0.5), (12, 0.2)):
        for arm, factor in (("more_sft", 1), ("dpo", 0.5)):
            asks = np.arange(600) < 600 * share * factor
            frames.append(turns_where(asks, arm, seed).assign(setting="own"))
    table = dialogue_tables.training(pd.concat(frames), pd.DataFrame()).set_index(["arm", "seed"])
    assert table.loc[("dpo", 11), "change"] == pytest.approx(-0.25)
    assert table.loc[("dpo", 12), "relative"] == pytest.approx(-0.5)


# --- From what steps leave to verdicts ---------------------------------------------------------------

HUMAN_RATES = {"esconv": (0.28, 0.13, 0.03), "persuasion": (0.08, 0.06, 0.003)}


def labelled_turns(keeps: float, seed: int) -> pd.DataFrame:
    """Turns of both sets; a share of the human's followups is kept, by a draw of the seed, the others become none."""
    frames, drawn = [], np.random.default_rng(seed).random(1200)
    for corpus, rates in HUMAN_RATES.items():
        draw = np.random.default_rng(7).choice(4, 1200, p=[*rates, 1 - sum(rates)])
        label = np.array(["followup", "acknowledgement", "clarification", "none"])[draw]
        label = np.where((label == "followup") & (drawn > keeps), "none", label)
        asks = np.isin(label, ["followup", "clarification"])
        frame = pd.DataFrame({"corpus": corpus, "conversation": np.arange(1200) // 20, "turn": np.arange(1200) % 20})
        frame = frame.assign(words=9, malformed=0, **dict.fromkeys(("prompt", "prompt_first", "stock"), label))
        frames.append(frame.assign(**{name: np.where(asks, "question", "none") for name in ("regex", "regex_first")}))
    return pd.concat(frames, ignore_index=True)


def preference_rows() -> list[dict]:
    """4,000 pairs of which 560 chosen and 741 rejected replies ask; length says nothing."""
    counts = {(True, False): 456, (False, True): 637, (True, True): 104, (False, False): 2803}
    rng, found = np.random.default_rng(0), []
    for asks in (pair for pair, n in counts.items() for _ in range(n)):
        texts = [
            f"{side} {'word ' * int(rng.integers(5, 60))}{'Why?' if ask else 'So.'}" for side, ask in zip("cr", asks)
        ]
        found.append({"prompt": "p", **{s: [{"content": t}] for s, t in zip(("chosen", "rejected"), texts)}})
    return found


@pytest.mark.parametrize("erodes", [True, False])
def test_criteria_find_the_rows_that_tables_write(tmp_path, monkeypatch, erodes):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    pairs = (
        preference_rows()
        if erodes
        else [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in preference_rows()]
    )
    asks = [{"role": "assistant", "content": "Why?" if i < 118 else "So."} for i in range(1000)]
    for name, lines in (("ultrafeedback", pairs), ("ultrachat", [{"messages": asks}])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    before, after = (0.9, 0.5) if erodes else (0.5, 0.9)
    stages = [(name, stage) for name, stages in dm.LINEAGES.items() for stage in stages]
    kept = {f"dialogues/{name}/eval_{stage}": before if stage == "sft" else after for name, stage in stages}
    own = {"sft": 0.7, "more_sft": 0.7, "dpo": after, "swapped": before, "balanced": 0.7 - (0.7 - after) / 4}
    kept |= {f"dialogues/own/eval_{arm}": share for arm, share in own.items()} | {"dialogues/data/eval_human": 1.0}

    class Found:
        def __init__(self, key, seed):
            self.key, self.seed = key, seed

        def table(self, name):
            if name == "questions" and self.key.endswith("eval_questions"):
                return dialogues.question_table()
            if name == "training" and "own" in self.key:
                return pd.DataFrame([{"steps": 625, "examples": 20_000}])
            if name == "turns" and self.key in kept:
                return labelled_turns(kept[self.key], self.seed)
            raise steps.MissingError(f"{self.key} has no table {name}.")

    monkeypatch.setattr(experiments, "read", lambda key, seed, scale: Found(key, seed))
    settings = config.load("gpu", overrides={"models": {"resamples": 200}})
    found, checks, _ = ledger.judge(
        claims.load("grounding_loss").claim, dialogue_tables.tables(experiments.Results(settings)), "gpu"
    )
    verdict = found.set_index("criterion")["verdict"]
    assert verdict["M2"] == verdict["M6"] == "replicated"
    assert set(verdict[["M1", "M3", "M4"]]) == {"replicated" if erodes else "not replicated"}
    assert verdict["M5"] == ("partly" if erodes else "not replicated"), "three seeds"
    value = checks.set_index(["criterion", "check"])["value"]
    sign = 1 if erodes else -1
    assert value["M1", "chosen minus rejected"] == pytest.approx(-4.525 * sign)
    assert value["M3", "followup rate, ppo"] == pytest.approx(after / before - 1, rel=0.3)
    assert value["M5", "balanced, of dpo"] == pytest.approx(0.25, abs=0.1)
    assert value["M6", "acknowledgement, esconv"] == pytest.approx(13, abs=2)


# --- Training ---------------------------------------------------------------------------------------


def test_the_loss_is_on_what_the_assistant_writes_and_how_it_ends(policy):
    tokenizer = generation.tokenizer_of(policy)
    tokenizer.chat_template = dm.TEMPLATE
    said = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Good day."}] * 2
    made = tokenizer.apply_chat_template(said, return_dict=True, return_assistant_tokens_mask=True)
    kept = [i for i, keep in zip(made["input_ids"], made["assistant_masks"]) if keep]
    assert tokenizer.decode(kept) == "Good day.<eos>" * 2
    asked = tokenizer.apply_chat_template(said[:1], tokenize=False, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(said[:2], tokenize=False) == asked + "Good day.<eos>"


def test_adapters_are_trained_and_merged(policy, here, tmp_path):
    from candor.train import models, preference
    from safetensors.torch import load_file

    settings = small(policy, chat={"lora": {"rank": 2, "alpha": 4}}).models.chat
    model, tokenizer = models.pretrained(policy, settings["lora"], 11)
    tokenizer.chat_template = dm.TEMPLATE
    pairs = dm.preference_pairs(dialogues.training_pairs("dpo", 11, 4), tokenizer, 1024)
    preference.dpo(model, tokenizer, pairs, dm.settings_of(settings, 1, 11) | {"beta": 0.1})
    models.save_merged(model, tokenizer, tmp_path / "model")
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, tmp_path / "model"))
    assert set(before) == set(after)
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and all("proj" in name for name in moved), "all linear layers, not the embedding or the head"


def test_the_briefs_settings_reach_the_trainers():
    gpu, paper = config.load("gpu").models.chat, config.load("paper").models.chat
    sft = dm.settings_of(gpu, 312, 11, first=True)
    wanted = {"learning_rate": 2e-5, "lr_scheduler_type": "cosine", "warmup_steps": 31, "max_length": 1024}
    assert wanted.items() <= sft.items()
    assert sft["per_device_train_batch_size"] * sft["gradient_accumulation_steps"] == 64
    made = dm.settings_of(gpu, 625, 11)
    wanted = {"learning_rate": 5e-7, "lr_scheduler_type": "linear", "warmup_steps": 62, "max_length": 1024}
    assert wanted.items() <= made.items()
    assert made["per_device_train_batch_size"] * made["gradient_accumulation_steps"] == 32
    assert dm.steps_of(gpu["dpo"], 20000) == 625 and dm.steps_of(gpu["sft"], 20000) == 312
    assert dm.steps_of(paper["sft"], 128000) == 1000 and dm.steps_of(paper["dpo"], 61135) == 2700
    assert (paper["lora"]["rank"], paper["dpo"]["lr"], paper["sft"]["lr"]) == (64, 5e-6, 3e-4)


@pytest.mark.parametrize("steps_in_all", [1, 7, 312, 625, 2700])
def test_checkpoints_fall_on_rows_of_the_log(steps_in_all):
    between, logged = dm.every(steps_in_all, 10)
    assert between % logged == 0 and between * min(10, steps_in_all) <= steps_in_all
    assert steps_in_all // between in range(1, 13)


def test_a_look_during_training_leaves_no_trace(policy):
    import torch

    model, _ = generation.load(policy)
    model.train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seen = []
    look = dm.measured(model, 2, lambda step: seen.append((step, model.training, torch.rand(1).item())))
    for step in range(5):
        look(step)
    assert [(step, training) for step, training, _ in seen] == [(0, False), (2, False), (4, False)]
    assert model.training and torch.equal(torch.rand(3), expected)


def test_what_does_not_fit_is_one_sentence(policy):
    settings = small(policy, chat={"micro_batch": 3}).models.chat.to_dict()
    settings["dpo"]["batch"] = 4
    with pytest.raises(CandorError, match="A step of 4 cannot be cut into passes of 3"):
        dm.settings_of(settings, 1, 11)
    tokenizer = generation.tokenizer_of(policy)
    tokenizer.chat_template = dm.TEMPLATE
    with pytest.raises(CandorError, match=r"raise chat\.max_length"):
        dm.preference_pairs([{"prompt": "x " * 40, "chosen": "a", "rejected": "b"}], tokenizer, 16)


# --- Steps as data, and what is missing -------------------------------------------------------------


def test_another_arm_or_another_interval_makes_nothing_stale(policy):
    known = experiments.steps()
    one, other = small(policy), small(policy, chat_arms=["dpo"], resamples=60)
    assert set(wired.wanted(dm, other)) < set(wired.wanted(dm, one))
    for key in wired.wanted(dm, other):
        assert steps.fingerprint(known[key], 11, known, one) == steps.fingerprint(known[key], 11, known, other)
    longer = small(policy, chat={"max_length": 512})
    key = "dialogues/own/eval_dpo"
    assert steps.fingerprint(known[key], 11, known, one) != steps.fingerprint(known[key], 11, known, longer)


def test_nothing_is_missing_where_everything_is(policy, here, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert wired.needed(dm, small(policy)) == []
    absent = small(policy, labeller={"model": str(policy), "hand_labels": str(here / "absent.csv")})
    assert ["check labeller.hand_labels" in line for line in wired.needed(dm, absent)] == [True]
