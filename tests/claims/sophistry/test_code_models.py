"""Programs of a stand-in: a random Qwen2 of two layers, eight hand-written problems, no network, a real sandbox."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import test_language_models
import wired
from candor.claims.sophistry import (
    approval,
    code_measures,
    code_reader,
    code_tables,
    crossed,
    evaluators,
    programs,
    sandbox,
)
from candor.claims.sophistry import code_models as cm
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.run import steps as experiments

policy = test_language_models.policy  # the same stand-in: random weights, a byte-level BPE
ROWS = [json.loads(line) for line in (test_language_models.FIXTURES / "apps.jsonl").read_text().splitlines()]
FEW = ROWS[:4]
held = pytest.mark.sandbox
WRITTEN = 5  # tests that evaluators may write of a problem here: each takes several runs


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Corpora and results of this module: five rows to train on, three to evaluate on."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("code")
        patch.setenv("CANDOR_CORPORA", str(folder / "corpora"))
        patch.setenv("CANDOR_RESULTS", str(folder / "results"))
        (folder / "corpora" / "apps").mkdir(parents=True)
        for split, rows in (("train", ROWS[:5]), ("test", ROWS[5:])):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "corpora" / "apps" / f"{split}.jsonl").write_text(lines)
        yield folder


def small(policy, **models) -> Config:
    code = {"policy": str(policy), "judge": str(policy), "max_prompt_tokens": 700, "samples": 2, "eval_problems": 1}
    code |= {"evaluators": 3, "sft": {"batch": 2, "micro_batch": 2}, "lora": {"rank": 2, "alpha": 2}}
    code["rl"] = {"steps": 1, "prompts_per_step": 2, "num_generations": 2, "micro_batch": 4, "lr": 1e-2}
    code["rl"] |= {"max_completion_tokens": 6, "lora": {"rank": 2, "alpha": 2}, "warmup": 0}
    settings = {"code": code | models.pop("code", {}), "code_seeds": [11], "code_arms": ["r_train", "best_of_4"]}
    settings |= {"resamples": 50, "eval_batch": 8, "released": [], "hotpot": None, "lineages": [], "chat": None}
    return config.load("gpu", overrides={"models": settings | models})


# --- The whole path ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(policy, here):
    """What the tiny configuration asks for, made by the machinery of steps; the configuration."""
    settings = small(policy)
    known = experiments.steps()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_reader, "BANK", WRITTEN)
        for key in wired.wanted(cm, settings):
            steps.run(key, experiments.seeds_of(known[key], settings)[0], known, settings)
    return settings


def result(settings: Config, key: str):
    return steps.read(key, experiments.seeds_of(experiments.steps()[key], settings)[0], "gpu")


@held
def test_what_each_problem_is_for(whole):
    data = result(whole, "apps/data/problems")
    table = data.table("problems").set_index("problem_id")
    assert table["part"].to_dict() == {
        **{f"train/{i}": part for i, part in ((0, "sft"), (1, "sft"), (4, "rl"), (11, "rl"), (40, "fit"))},
        **{"test/4": "eval", "test/4003": "eval"},
    }
    assert table["solutions"].map(json.loads).map(len).eq(3).all() and table["tests"].eq(6).all()
    left = data.table("filters").pivot(index="split", columns="filter", values="left")
    assert left.loc["train", "rows"] == left.loc["train", "new"] == 5 and left.loc["test", "new"] == 3


@held
def test_sft_and_one_grpo_step_move_the_weights(whole, policy):
    from safetensors.torch import load_file

    first = result(whole, "apps/policy/base")
    assert first.table("training")["examples"].item() == 2
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, first.model))
    assert set(before) == set(after) and any((before[name] != after[name]).any() for name in before)
    arm = result(whole, "apps/policy/r_train")
    [row] = arm.table("log").to_dict("records")
    assert row["step"] == 1 and row["reward"] == 0 and math.isfinite(row["loss"]) and "kl" in row
    assert (arm.model / "adapter_model.safetensors").exists() and arm.table("training")["problems"].item() == 2


@held
def test_the_setup_excludes_what_is_rewarded(whole):
    ready = result(whole, "apps/policy/setup")
    rewards, bank, fit = (ready.table(name) for name in ("rewards", "bank", "fit"))
    assert rewards["part"].tolist() == ["rl", "rl", "fit", "eval", "eval"]
    assert (rewards["easiest"] == "[0, 1]").all() and (rewards["hardest"] == "[]").all(), "it never passes a test"
    assert fit["overlap"].item() == 0 and fit["tests_run"].item() == 1, "the first test rejects all that it writes"
    for row in bank.itertuples():
        tests = json.loads(row.tests)
        assert 2 <= len(tests) <= WRITTEN and len({given for given, _ in tests}) == len(tests)


@held
def test_an_evaluation_counts_and_judges(whole):
    done = result(whole, "apps/policy/eval_r_train")
    outputs, votes, texts = (done.table(name) for name in ("outputs", "approvals", "programs"))
    assert outputs["draw"].value_counts().to_dict() == dict.fromkeys(cm.DRAWS, 2)
    assert not outputs["correct"].any() and outputs[["wrong", "error", "timeout"]].sum(axis=1).eq(1).all()
    assert {"e00", "e01", "e02"} <= set(votes) and not {"question", "tests", "prompt"} & (set(outputs) | set(texts))
    assert outputs.loc[outputs["draw"] == "sampled", "model_approval"].isin([0, 1]).all()
    [row] = done.table("summary").to_dict("records")
    assert row["n_problems"] == row["n_both"] == 2 and row["correctness"] == row["correctness_before"] == 0
    assert {"fpr_equal", "second_fpr", "model_fpr", "greedy_correctness", "released", "functions_before"} <= set(row)
    minutes = done.table("minutes")
    assert set(minutes["multiple"]) == set(evaluators.MULTIPLES) and minutes["reading"].nunique() == 2
    chosen = result(whole, "apps/policy/eval_best_of_4")
    assert set(chosen.table("outputs")["draw"]) == {"sampled"} and "second_fpr" not in chosen.table("summary")


@held
def test_tables_for_the_claim(whole):
    found = code_tables.models(experiments.Results(whole))
    assert set(found) == {
        *("models_code", "models_code_minutes", "models_code_fit", "models_code_filters", "models_code_log"),
        *("models_code_training", "models_code_difficulty"),
    }
    table = found["models_code"].set_index("arm")
    assert set(table.index) == {"base", "r_train", "best_of_4"} and math.isnan(table.loc["base", "fpr_change"])
    row = table.loc["r_train"]
    assert row["fpr_change"] == pytest.approx(row["fpr"] - row["fpr_before"])
    assert row["fpr_change_low"] <= row["fpr_change"] <= row["fpr_change_high"]
    assert found["models_code_difficulty"].groupby("arm")["n"].sum().eq(2).all()
    assert code_tables.models(experiments.Results(config.load("laptop"))) == {}


# --- Programs that do something -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(here):
    """The problems with the easiest two tests rewarded, and what two policies write: easy and right programs."""
    pool = sandbox.Pool(workers=2)
    ids = [f"train/{row['problem_id']}" for row in FEW]
    found = programs.by_id("apps", "train", ids)
    rows = pd.DataFrame({"dataset": "apps", "problem_id": ids, "difficulty": [row["difficulty"] for row in FEW]})
    easy = [[i for i, v in enumerate(row["programs"]["easy_only"]["strict"]) if v == "pass"][:2] for row in FEW]
    rewards = rows.assign(easiest=[json.dumps(places) for places in easy])
    rng = np.random.default_rng(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_reader, "BANK", WRITTEN)
        banks = [code_reader.bank(pool, found[i], [0, 1, 2], places, rng) for i, places in zip(ids, easy)]
    own = cm.Setup(rows, [found[i] for i in ids], rewards, rows.assign(tests=[json.dumps(b) for b in banks]))
    written = {kind: [(row["programs"][kind]["program"], True) for row in FEW] for kind in ("easy_only", "right")}
    return own, {kind: own.run(pool, texts, words) for kind, texts in written.items()}


def words(text: str) -> dict:
    """A tokenizer that counts words."""
    return {"input_ids": text.split()}


@held
def test_what_a_policy_writes_is_counted(judged):
    own, outputs = judged
    right, easy = outputs["right"], outputs["easy_only"]
    assert right["correct"].all() and right["released"].all() and right["pass_rate"].eq(1).all()
    assert not easy["correct"].any() and easy["r_train"].all() and easy["pass_rate"].between(0.3, 0.9).all()
    shares = easy[["pass_rate", *programs.VERDICTS[1:]]].sum(axis=1)
    assert shares.tolist() == pytest.approx([1] * len(easy)), "every test has one of the verdicts"
    assert own.overlap() == 0, "no evaluator writes a rewarded test"
    assert all(len(tests) == WRITTEN for tests in own.bank), "inputs of the examples can be changed"
    assert all(set(json.loads(said)) == {"pass"} for said in right["bank"])
    assert any("wrong" in json.loads(said) for said in easy["bank"]), "some of the evaluators' tests find them out"
    assert right["parses"].all() and not right["truncated"].any() and (right["tokens"] > 5).all()


@held
def test_a_summary_holds_two_policies_against_each_other(judged):
    _, outputs = judged
    people, drawn = cm.new_evaluators({"tests": 2.0, "kappa": 0.9, "skill": 0.2}, 5, len(FEW), 11)

    def both(kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        table = outputs[kind].assign(draw="sampled", model_approval=0.0)
        votes = code_reader.approve(people, drawn, code_measures.done(table))[0]
        named = pd.DataFrame(votes.T, columns=[f"e{i:02d}" for i in range(5)])
        return table, pd.concat([table[["dataset", "problem_id", "draw"]], named], axis=1)

    row = code_measures.summary(*both("easy_only"), *both("right"))
    assert row["correctness"] == row["tpr"] / row["approval"] == 1 and row["correctness_before"] == 0
    assert row["approval"] > row["approval_before"] == row["fpr_before"] > 0 and row["n_both"] == 0
    assert math.isnan(row["fpr_equal"]) and row["model_approval"] == 0 and row["pass_rate_wrong_before"] < 1
    same = code_measures.summary(*both("easy_only"), *both("easy_only"))
    assert same["n_both"] == len(FEW) and same["fpr_equal"] == 0 and same["fpr_both"] == same["fpr_both_before"]
    minutes = pd.DataFrame(code_measures.over_time(people, drawn, outputs["easy_only"], outputs["easy_only"]))
    reading = minutes[minutes["reading"]].set_index("multiple")["fpr"]
    assert (minutes["gap"] == 0).all() and reading[16] < reading[0.25]
    only_tests = minutes[~minutes["reading"]].set_index("multiple")["fpr"]
    assert (only_tests >= reading - 1e-12).all() and only_tests[16] > reading[16]


def done_of(n: int, seed: int) -> code_reader.Done:
    rng = np.random.default_rng(seed)
    correct = rng.random(n) < 0.4
    failed = (rng.random((n, code_reader.BANK)) < 0.25) & ~correct[:, None]
    written = np.arange(code_reader.BANK) < rng.integers(2, code_reader.BANK + 1, n)[:, None]
    return code_reader.Done(failed & written, written, rng.integers(20, 300, n).astype(float), correct)


def test_knobs_are_fitted_on_the_base_and_hold_for_new_evaluators():
    rng = np.random.default_rng(1)
    people = evaluators.pool(10, rng)
    fitting = done_of(1500, 1)
    knobs = code_reader.fit(people, code_reader.draws(1500, 10, rng), fitting)
    assert knobs["tests_run"] == pytest.approx(evaluators.TESTS_RUN, abs=0.02)
    assert knobs["fpr"] == pytest.approx(0.30, abs=0.005) and knobs["error"] == pytest.approx(0.31, abs=0.02)
    others, drawn = cm.new_evaluators(knobs, 10, 1500, 5)
    assert not np.allclose(others.speeds, people.speeds)
    fresh = done_of(1500, 2)
    found = approval.rates(code_reader.approve(others, drawn, fresh)[0], fresh.correct)
    assert found["fpr"] == pytest.approx(0.30, abs=0.06) and found["error"] == pytest.approx(0.31, abs=0.06)


def test_a_failed_test_rejects_and_reading_needs_time():
    people = evaluators.pool(4, np.random.default_rng(0), tests=8.0, kappa=1.0, skill=1.0)
    drawn = code_reader.draws(3, 4, np.random.default_rng(1))
    written = np.ones((3, code_reader.BANK), bool)
    failed = np.zeros_like(written)
    failed[0] = True
    tokens, correct = np.array([50.0, 10.0, 100_000.0]), np.zeros(3, bool)
    probability, run = code_reader.approve(people, drawn, code_reader.Done(failed, written, tokens, correct))
    assert (probability[:, 0] == 0).all() and (run[:, 0] == 1).all()
    assert probability[:, 1].max() < probability[:, 2].min(), "the short program's bug is seen, the long one's is not"
    right = code_reader.Done(~written, written, tokens, ~correct)
    assert (code_reader.approve(people, drawn, right)[0] > 0.7).all()


def test_changed_inputs_keep_their_types():
    rng = np.random.default_rng(1)
    for given, kind in (
        ("3\n2 5 1\n", r"\d+\n\d+ \d+ \d+\n"),
        ("stone\n", r"[stone]{5}\n"),
        ("-4 0.50", r"-?\d+ \d\.\d\d"),
    ):
        made = {code_reader.changed(given, rng) for _ in range(40)}
        assert len(made) > 3 and all(pd.Series([text]).str.fullmatch(kind).item() for text in made), made


@held
def test_with_few_solutions_the_files_shortest_tests_stand_in(here):
    [problem] = programs.by_id("apps", "train", ["train/4"]).values()
    pool = sandbox.Pool(workers=2)
    tests = code_reader.bank(pool, problem, [0, 1], [0, 1], np.random.default_rng(0))
    rest = sorted((len(given), given) for given, _ in problem.tests[2:])
    assert [given for given, _ in tests] == [given for _, given in rest[:2]]


def test_an_instruct_model_can_be_brought_to_what_people_did():
    rng = np.random.default_rng(1)
    correct = rng.random(2000) < 0.52
    logit = rng.normal(np.where(correct, 0.6, -0.6), 1.0) + 1.5
    knobs = code_reader.fit_model(1 / (1 + np.exp(-logit)), correct, 0.41, 0.46)
    assert knobs["fpr"] == pytest.approx(0.46, abs=0.01) and knobs["error"] == pytest.approx(0.41, abs=0.01)
    blind = code_reader.fit_model(np.full(2000, 0.9), correct, 0.41, 0.46)
    assert blind["error"] > 0.45, "who tells nothing apart misses the error"


# --- Intervals over evaluators and items --------------------------------------------------------------


def test_a_planted_change_is_found_with_its_interval():
    rng = np.random.default_rng(1)
    correct = rng.random(800) < 0.4
    before = np.where(correct, 0.7, 0.3) + rng.normal(0, 0.05, (10, 1))
    after = np.where(correct, 0.7, 0.45) + rng.normal(0, 0.05, (10, 1))
    found = crossed.changes(before.clip(0, 1), correct, after.clip(0, 1), correct, 300)
    assert found["fpr_change"] == pytest.approx(0.15, abs=0.05) and found["fpr_change_low"] > 0
    assert found["correctness_change"] == 0 == found["correctness_change_high"]
    assert found["error_change_low"] > 0 > found["discrimination_change_high"]
    once = crossed.changes(before[:1].clip(0, 1), correct, after[:1].clip(0, 1), correct, 300)
    wide = found["fpr_change_high"] - found["fpr_change_low"]
    assert wide > once["fpr_change_high"] - once["fpr_change_low"], "evaluators differ, and are drawn too"


def test_items_that_belong_together_are_drawn_together():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(50), 8)
    right = np.repeat(rng.random(50) < 0.5, 8)
    zero = np.zeros(400)
    alone = crossed.changes(zero, zero, zero, right, 400)
    together = crossed.changes(zero, zero, zero, right, 400, groups=group)
    width = {
        name: t["correctness_change_high"] - t["correctness_change_low"] for name, t in (("a", alone), ("t", together))
    }
    assert width["t"] > 2 * width["a"] and together["correctness_change"] == alone["correctness_change"]


def test_where_the_reward_stops_rising():
    rising = pd.Series(np.linspace(0, 1, 200))
    assert math.isnan(cm.plateau(rising)) and cm.plateau(rising.clip(upper=0.3)) == pytest.approx(85, abs=8)
    assert math.isnan(cm.plateau(pd.Series([0.1, 0.2])))


# --- The steps ----------------------------------------------------------------------------------------


def test_the_briefs_settings_reach_the_trainers(tmp_path):
    from candor.language_models import training as language_model
    from candor.train import fit, policy
    from trl import GRPOConfig

    code = config.load("gpu").models.code
    grpo = language_model.settings(code["rl"].to_dict(), 11, "transformers")
    grpo = fit.configuration(GRPOConfig, policy.GRPO | grpo, tmp_path)
    assert (grpo.max_steps, grpo.num_generations, grpo.beta, grpo.epsilon) == (200, 8, 0.01, 0.2)
    assert (grpo.loss_type, grpo.scale_rewards, grpo.learning_rate, grpo.warmup_steps) == ("dr_grpo", "none", 1e-5, 10)
    assert (grpo.max_completion_length, grpo.mask_truncated_completions, grpo.max_grad_norm) == (512, True, 1.0)
    assert grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps == 64 * 8
    assert (grpo.temperature, grpo.top_p, grpo.lr_scheduler_type.value) == (1.0, 1.0, "constant_with_warmup")
    sft = cm.settings_of(code["sft"], 2148, 1153, 11)
    assert sft["max_steps"] == 67 and sft["per_device_train_batch_size"] * sft["gradient_accumulation_steps"] == 64
    wanted = {"learning_rate": 1e-4, "lr_scheduler_type": "cosine", "weight_decay": 0.01, "completion_only_loss": True}
    assert wanted.items() <= sft.items()
    with pytest.raises(CandorError, match=r"code\.sft\.micro_batch"):
        cm.settings_of(code["sft"].to_dict() | {"micro_batch": 7}, 10, 10, 11)
