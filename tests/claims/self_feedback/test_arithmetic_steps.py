"""The steps of arithmetic: what is declared, what labels and measures hold, a small run that really trains.

What judges and policies are trained on, and which rewards reach a trainer, is in `test_wiring_arithmetic`.
"""

import doctest

import numpy as np
import pytest
import torch
from candor.claims.self_feedback import feedback, outputs, self_confidence, world
from candor.claims.self_feedback import run as arithmetic
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.run import steps as experiments
from candor.train import models, sft
from numerics import ROUNDING

ROOT = "arithmetic/standard"
STARTS = {"fluency": "seeds", "assured": "seeds", "binary": "seeds", "base": "few_seeds", "sharpened": "few_seeds"}
CONTROLS = {"fluency_shuffled_2", "fluency_gold", "fluency_dpo", "fluency_rlsf_long", "online"}
FED = ("labels_fluency", "judge_assured", "rlsf_binary", "fluency_shuffled", "fluency_dpo", "fluency_sft")


def needs_of(key):
    """The names of all steps that a step rests on."""
    step = arithmetic.STEPS[key]
    return {key.split("/")[-1]}.union(*(needs_of(need) for need in step.needs))


# --- What is declared -------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [self_confidence, world])
def test_examples_hold(module):
    found = doctest.testmod(module)
    assert found.failed == 0 < found.attempted


def test_every_arm_is_declared_with_its_evaluation_and_seeds():
    seeds = {key.removeprefix(f"{ROOT}/"): step.seeds for key, step in arithmetic.STEPS.items() if ROOT in key}
    for start, wanted in STARTS.items():
        assert {seeds[f"{kind}_{start}"] for kind in ("labels", "judge", "rlsf", "eval_rlsf")} == {wanted}
        assert seeds[start] == seeds[f"eval_{start}"] == "seeds"
    assert seeds["fluency_shuffled"] == seeds["eval_fluency_shuffled"] == "seeds"
    assert all(seeds[name] == seeds[f"eval_{name}"] == "few_seeds" for name in CONTROLS)
    assert {seeds[f"eval_fluency_sft_{i}"] for i in (1, 2, 3)} == {seeds["fluency_sft"]} == {"few_seeds"}
    trap, laptop = arithmetic.STEPS["arithmetic/half_trap/eval_rlsf_fluency"], config.load("laptop")
    assert experiments.seeds_of(trap, laptop) == (11,)
    assert not any(need.startswith("eval_") for name in FED for need in needs_of(f"{ROOT}/{name}"))


def test_the_laptop_scale_is_the_specification():
    settings = config.load("laptop")["world"]["arithmetic"]
    wanted = {
        **{"eval_questions": 4000, "curve_questions": 1000, "branch_prompts": 600, "fixed_prompts": 400},
        **{"hidden_size": 64, "layers": 3, "heads": 4, "mlp": 128, "initializer_range": 0.1},
        **{"base_steps": 800, "base_batch": 128, "base_lr": 4e-3, "base_weight_decay": 0.01},
        **{"prompts_per_step": 16, "num_generations": 8, "binary_steps": 110, "binary_lr": 5e-4},
        # The plan's cost of a token is .1: see data/tuning/fluency.csv and notebook 06.
        **{"fluency_steps": 20, "fluency_lr": 3e-4, "fluency_beta": 0.05, "length_cost": 0.3},
        **{"assured_steps": 60, "assured_batch": 128, "assured_lr": 3e-4, "temperature_labels": 200},
        **{"label_prompts": 1200, "branches": 10, "threshold": 0.9, "pairs": 8000},
        **{"judge_lr": 1e-3, "judge_batch": 64, "rlsf_steps": 30, "rlsf_lr": 2e-4, "rlsf_beta": 0.05},
        **{"long_steps": 120, "long_every": 30, "dpo_lr": 1e-4, "dpo_beta": 0.2, "dpo_batch": 64},
        **{"sft_epochs": 2, "sft_lr": 3e-4, "sft_batch": 64, "online_steps": 160, "online_lr": 5e-4},
    }
    assert {name: settings[name] for name in wanted} == wanted
    model = decoder(**{name: settings[name] for name in arithmetic._MODEL})
    assert sum(p.numel() for p in model.parameters()) == 126_464
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.1, rel=0.05)


def decoder(**shape):
    torch.manual_seed(0)
    return arithmetic.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **shape)


def test_prompts_alone_pass():
    given = world.questions(30, np.random.default_rng(0))
    ids = given.prompt_ids()
    assert (feedback.prompts_only(ids) == ids).all()
    answered = np.concatenate([ids, world.ZERO + given.truth[:, None]], 1)
    for other in (answered, answered[:, 1:], given.truth, ids.astype(float)):
        with pytest.raises(CandorError, match="prompts alone"):
            feedback.prompts_only(other)


# --- Models -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a small decoder that has learned the grammar."""
    folder, rng = tmp_path_factory.mktemp("start"), np.random.default_rng(0)
    model = decoder(hidden_size=32, layers=2, heads=4, mlp=64, initializer_range=0.1)
    tokens, spoken = world.documents(world.questions(3200, rng), "standard", rng)
    how = {"steps": 100, "batch_size": 32, "lr": 0.01, "seed": 0, "one_cycle": True, "log_every": 10}
    sft.supervised(model, tokens, np.where(spoken, tokens, sft.IGNORED), **how)
    models.save_decoder(model, world.tokenizer(), folder)
    return folder


@pytest.fixture
def model(start):
    return arithmetic._load(start)[0]


@pytest.fixture(scope="module")
def given():
    return world.questions(40, np.random.default_rng(1))


def test_confidences_are_those_of_the_branches(model, given):
    """The teacher-forced pass finds what was found while decoding."""
    from candor.claims.self_feedback.branching import branch, span_confidence

    labels = feedback.labelled(model, given.prompt_ids(), 6)
    found = branch(model, given.prompt_ids().tolist(), 6, world.NEW_TOKENS)
    at = world.read(found.tokens.reshape(-1, world.NEW_TOKENS)).answer_at.reshape(40, 6)
    for kind in ("disparity", "probability"):
        wanted = np.nan_to_num(span_confidence(found, np.where(at > 0, at, 1), np.where(at > 0, at + 1, 0), kind))
        assert feedback.matrix(labels, kind) == pytest.approx(wanted, abs=ROUNDING)
    assert (labels["answer"] >= 0).mean() > 0.5 and not {"truth", "right", "correct", "posterior"} & set(labels)


def test_sharpening_is_a_temperature_of_one_half(model, given):
    ids = outputs.branched(model, given.prompt_ids(), 1)[:, 0]
    before = outputs.logits_of(model, given.prompt_ids(), ids)
    with torch.no_grad():
        model.model.norm.weight.mul_(arithmetic.SHARPENING)
    assert outputs.logits_of(model, given.prompt_ids(), ids) == pytest.approx(2 * before, rel=1e-3, abs=1e-3)


def test_fixed_traces_measure_the_mind_not_the_traces(start, model, given):
    ids = outputs.branched(model, given.prompt_ids(), 3)
    row = outputs.on_fixed(model, given, ids)
    with torch.no_grad():
        model.model.norm.weight.mul_(4)
    sharper = outputs.on_fixed(model, given, ids)
    assert sharper["fixed_accuracy"] == row["fixed_accuracy"] and sharper["fixed_gap"] > row["fixed_gap"] + 0.1
    prompts, (other, _) = given.prompt_ids(), arithmetic._load(start)
    written = outputs.sampled(model, prompts, 0)
    assert (
        outputs.divergence(model, other, prompts, written) > 0.001 > outputs.divergence(model, model, prompts, written)
    )
    assert outputs.divergence(model, other, prompts, np.full_like(written, world.PAD)) == 0, "of written tokens"


def test_a_judge_that_scores_all_alike_is_refused():
    scale = feedback.scale_of(np.linspace(3, 5, 1001))
    assert (scale["centre"], scale["divisor"]) == (pytest.approx(4), pytest.approx(0.98))
    with pytest.raises(CandorError, match="alike"):
        feedback.scale_of(np.ones(10))


# --- Measures ---------------------------------------------------------------------------------------


def test_ranking_is_graded_over_all_truths():
    """A smudged question whose two answers are ranked by their probability is worth .6 in expectation."""
    given = world.Questions(np.array([7]), np.array([[0, 4, 2, 0]]), np.array([1]), np.array([True]))
    clean, shifted = 5, 0
    found = outputs.ranked(np.array([[0.9, 0.5]]), given, np.array([[clean, shifted]]))
    assert found["within_auroc"] == pytest.approx(0.6) and found["within_auroc_truth"] == 0
    assert found["within_prompts"] == 1


def written(texts, confidence):
    """An output of these completions whose answers have these probabilities; all else is on <pad>."""
    traces = world.read([world.tokens_of(text) for text in texts])
    probability = np.full((len(texts), 40), 1e-12)
    probability[:, world.PAD] = 1 - np.array(confidence)
    probability[np.arange(len(texts)), world.ZERO + np.maximum(traces.answer, 0)] = confidence
    return outputs.Output(world.matrix([world.tokens_of(text) for text in texts]), traces, np.log(probability))


def test_four_ways_to_an_answer():
    given = world.Questions(np.array([1]), np.array([[1, 0, 0, 0]]), np.array([-1]), np.array([False]))
    assert given.truth[0] == 2
    texts = ["d1 = 7 <eos>", "d2 = 7 <eos>", "d3 = 7 <eos>", "f1 2 2 2 2 = 2 <eos>"]
    branches = written(texts, [0.55, 0.55, 0.55, 0.95])
    table = outputs.decoding(given, written(texts[:1], [0.4]), branches, 4).set_index("method")
    assert table["accuracy"].to_dict() == {"greedy": 0, "max_path": 1, "aggregated": 1, "majority": 0}
    sure = {"greedy": 0.4, "max_path": 0.95, "aggregated": 0.9 / 1.2, "majority": 0.75}
    assert table["confidence"].to_dict() == pytest.approx(sure, abs=ROUNDING)


def test_missing_answers_count_as_wrong_with_no_confidence():
    given = world.questions(2, np.random.default_rng(5))
    output = written([f"d1 = {given.truth[0]} <eos>", "d1 7"], [0.9, 0.9])
    assert output.confidence("disparity") == pytest.approx([0.8, 0])  # of the distribution, not of what is written
    assert written(["d1 = 1 <eos>"], [0.3]).confidence(temperature=0.5)[0] < 0.3
    row = outputs.measures(output, given, "") | outputs.styles(output, given)
    assert row["accuracy_truth"] == 0.5 and row["zeros"] == 1 and row["malformed"] == 0.5
    assert row["confidence"] == pytest.approx(0.45) and row["share_direct"] == 0.5


# --- End to end -------------------------------------------------------------------------------------

SMALL = {
    **{"base_steps": 60, "eval_questions": 60, "branch_prompts": 20, "fixed_prompts": 10, "temperature_labels": 20},
    **{"label_prompts": 20, "threshold": 0.05, "pairs": 32, "curve_questions": 20, "branches": 5},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tables of one chain of steps, made as the graph makes them."""
    settings = config.load("smoke", overrides={"world": {"arithmetic": SMALL}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDOR_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield lambda name: steps.run(f"{ROOT}/{name}", 0, experiments.steps(), settings)[0]


def test_a_chain_of_steps_leaves_its_tables(finished):
    row, start = finished("eval_rlsf_base").table("summary").iloc[0], finished("eval_base")
    summary = start.table("summary").iloc[0]
    assert summary["kl"] == 0 and row["kl"] == row["kl_start"] > 0
    shares = row[["share_direct", "share_half", "share_full", "malformed"]]
    assert shares.between(0, 1).all() and shares.sum() == pytest.approx(1)
    assert row["greedy_gap"] == pytest.approx(row["greedy_confidence"] - row["greedy_accuracy"])
    bins = start.table("reliability")
    assert (bins.groupby(["mode", "measure"])["n"].sum() == 60).all() and len(bins) == 40
    sweep, ways = start.table("temperatures").set_index("temperature"), start.table("decoding").set_index("method")
    assert set(ways.index) == {"greedy", "max_path", "aggregated", "majority"} and sweep["accuracy"].nunique() == 1
    assert sweep.loc[1.0, "ece"] == pytest.approx(summary["greedy_ece"])
    assert ways.loc["greedy", "ece"] == pytest.approx(summary["greedy_ece"])
    judge = finished("judge_base").table("summary").iloc[0]
    assert judge["divisor"] == pytest.approx((judge["high"] - judge["low"]) / 2) and 0 <= judge["pair_accuracy"] <= 1


def test_labels_are_pairs_of_the_starts_own_branches(finished):
    made = finished("labels_base")
    branches, chosen, pairs = (made.table(name) for name in ("branches", "chosen", "pairs"))
    assert len(branches) == 20 * 5 and len(chosen) <= 32 and pairs["number"].item() >= len(chosen)
    better, worse = feedback.sides(chosen, branches["disparity"], 5).values()
    difference = np.subtract(better, worse)
    assert (difference > 0).all() and chosen["margin"].to_numpy() == pytest.approx(np.exp(difference))
    assert pairs["prompts_only"].item()
    tree = made.table("traces")
    assert len(tree) == 5 and tree["first"].nunique() == 5 and tree["prompt"].nunique() == 1
    assert set(tree["right"]) <= {0, 0.4, 0.6, 1}
