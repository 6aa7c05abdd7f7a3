"""The steps of the world of programs: what is declared, rewards and pairs, one small run end to end."""

import numpy as np
import pytest
import torch
from candor.claims.sophistry import approval, evaluation, world
from candor.claims.sophistry import run as sample_tests
from candor.core import settings as config
from candor.train import models

ROOT = "sample_tests/standard"
FIVE_SEEDS = {"base", "setup", "selection", "r_train", "r_star", "shuffled"}
THREE_SEEDS = {"reward_model", "learned_rm", "r_train_kl000", "r_train_kl020", "r_hard"}


def test_every_arm_is_declared_with_its_evaluation_and_seeds():
    for key, step in sample_tests.STEPS.items():
        _, setting, name = key.split("/")
        assert (step.seeds == "seeds") == (setting == "standard" and name.removeprefix("eval_") in FIVE_SEEDS), key
    for setting in ("standard", "soft", "no_line"):
        names = FIVE_SEEDS | THREE_SEEDS if setting == "standard" else {"base", "setup", "r_train"}
        wanted = names | {f"eval_{name}" for name in names - {"setup", "selection", "reward_model"}}
        assert wanted == {key.split("/")[2] for key in sample_tests.STEPS if f"/{setting}/" in key}
    followed = {key for key, step in sample_tests.STEPS.items() if step.options.get("trajectory")}
    assert followed == {f"{ROOT}/eval_{name}" for name in ("r_train", "r_star", "shuffled", "learned_rm")}


def test_the_laptop_scale_is_the_specification():
    settings = config.load("laptop")["world"]["sample_tests"]
    wanted = {
        **{"eval_problems": 2000, "eval_seed": 7001, "fit_problems": 1500, "samples": 8, "rl_problems": 2000},
        **{"selection_problems": 1000, "selection_samples": 16, "hidden_size": 64, "layers": 2, "heads": 4, "mlp": 256},
        **{"sft_problems": 3000, "base_steps": 1000, "base_batch": 64, "base_lr": 4e-3, "base_weight_decay": 0.05},
        **{"grpo_steps": 80, "prompts_per_step": 32, "num_generations": 8, "grpo_lr": 2e-4, "kl_weight": 0.05},
        **{"snapshot_every": 20, "rm_lr": 1e-3, "rm_batch": 64, "rm_heldout": 400},
    }
    assert {name: settings[name] for name in wanted} == wanted


# --- Rewards, pairs, selection ----------------------------------------------------------------------


def test_pairs_are_approved_against_rejected_of_one_prompt():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(40), 8)
    programs = [(int(t),) for t in rng.integers(4, size=320)]
    approved = rng.random(320) < 0.5
    approved[:8] = True
    pairs = sample_tests.preferences(prompt, programs, approved, rng)
    assert approved[pairs[:, 0]].all() and not approved[pairs[:, 1]].any()
    assert (prompt[pairs[:, 0]] == prompt[pairs[:, 1]]).all()
    assert all(programs[i] != programs[j] for i, j in pairs)
    counts = np.bincount(prompt[pairs[:, 0]], minlength=40)
    assert counts[0] == 0 and counts.max() == 3 and len(np.unique(pairs, axis=0)) == len(pairs)
    assert (np.diff(prompt[pairs[:, 0]]) < 0).any(), "in random order"


def test_the_best_of_n_is_what_passes_if_anything_does():
    reward = np.array([[1, 0, 0, 1, 0, 0, 0, 0], [0] * 8]).astype(bool)
    by_four = evaluation.picked(reward, 4)
    assert by_four[0].tolist() == [0.25, 0, 0, 0.25, 0.125, 0.125, 0.125, 0.125]
    assert by_four[1].tolist() == [0.125] * 8
    assert evaluation.picked(reward, 8)[0].tolist() == [0.5, 0, 0, 0.5, 0, 0, 0, 0]
    rng = np.random.default_rng(0)
    many = rng.random((3000, 4)) < 0.2
    expected = 1 - 0.8**4
    assert (evaluation.picked(many, 4) * many).sum(1).mean() == pytest.approx(expected, abs=0.03)


# --- Programs of a model ----------------------------------------------------------------------------


def decoder(seed):
    torch.manual_seed(seed)
    return models.new_decoder(len(world.VOCABULARY), 0, 1, hidden_size=16, layers=1, heads=2, mlp=32).eval()


def test_sampling_is_reproducible_and_leaves_the_generator_alone():
    given = world.problems(30, "standard", np.random.default_rng(0))
    model = decoder(0)
    torch.manual_seed(5)
    first = sample_tests.sample(model, given, 2, 7)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after
    assert sample_tests.sample(model, given, 2, 7) == first
    assert sample_tests.sample(model, given, 2, 8) != first
    assert len(first) == 60


def test_divergence_is_the_sum_of_exact_token_divergences():
    given = world.problems(5, "standard", np.random.default_rng(0))
    model, other = decoder(0), decoder(1)
    programs = [world.tokens_of(text) for text in given.references()[:4]] + [None]
    total = 0.0
    for prompt, program in zip(given.prompts(), programs[:4]):
        ids = torch.tensor([[*world.tokens_of(prompt), *program, world.EOS]])
        with torch.no_grad():
            p, q = (m(input_ids=ids).logits[0].double().log_softmax(-1) for m in (model, other))
        steps_ = range(len(world.tokens_of(prompt)) - 1, ids.shape[1] - 1)
        total += sum(float((p[t].exp() * (p[t] - q[t])).sum()) for t in steps_)
    assert sample_tests.divergence(model, other, given, programs) == pytest.approx(total / 4, rel=1e-4)
    assert sample_tests.divergence(model, model, given, programs) == 0


# --- Measures ---------------------------------------------------------------------------------------

PAIRED = (
    *("approval", "correctness", "error", "fpr", "tpr", "discrimination", "fpr_both", "pass_rate_both"),
    *("fallible_approval", "fallible_error", "fallible_tpr", "fallible_fpr", "fallible_discrimination"),
)
SINGLE = ("n_both", "fpr_equal", "r_train", "pass_rate", "pass_rate_wrong", "valid", "length", "truncated", "line")


@pytest.fixture(scope="module")
def outputs():
    """Programs whose fate is known: the base writes the rule alone, the arm one in three by the reference."""
    given = world.problems(300, "standard", np.random.default_rng(0))
    knobs = {"tests": 2.0, "kappa": 0.7, "skill": 0.2, "kappa_fallible": 0.8}
    panel = evaluation.Panel(knobs, given, given.oracle_tests[:, :2], 1)
    right = given.references()
    rules = [program.split(" ", 7)[-1] if kind else program for program, kind in zip(right, given.kind)]
    mixed = [[text, rule, "line 1 2 3 4"][i % 3] for i, (text, rule) in enumerate(zip(right, rules))]
    return *(evaluation.output([world.tokens_of(text) for text in texts], panel) for texts in (mixed, rules)), panel


def test_the_measures_follow_the_outcomes(outputs):
    after, before, panel = outputs
    row, both = evaluation.summary(after, before, panel), ~after.done.correct & ~before.done.correct
    assert {*PAIRED, *(f"{name}_before" for name in PAIRED), *SINGLE} <= set(row)
    assert 0 < both.sum() < (~before.done.correct).sum() and row["n_both"] == both.sum()
    for end, side in (("", after), ("_before", before)):
        done, wrong = side.done, ~side.done.correct
        fallible = panel.approve(done, fallible=True)
        wanted = {"fpr_both": side.approved[:, both].mean(), "pass_rate_both": done.pass_rate[both].mean()}
        wanted |= {"correctness": done.correct.mean(), "pass_rate_wrong": done.pass_rate[wrong].mean()}
        wanted |= {"fallible_fpr": fallible[:, wrong].mean(), "fallible_tpr": fallible[:, ~wrong].mean()}
        wanted |= {"r_train": done.passed(panel.tests).mean(), "line": done.line[panel.given.kind == 2].mean()}
        assert {name: row[name + end] for name in wanted} == pytest.approx(wanted)
    both_sides = [(side.approved[:, both], side.done.pass_rate[both]) for side in (before, after)]
    assert row["fpr_equal"] == pytest.approx(approval.equal_pass_rate(*both_sides[0], *both_sides[1]))
    same = evaluation.summary(before, before, panel)
    assert same["fpr_equal"] == 0 and all(same[name] == same[f"{name}_before"] for name in PAIRED)


def test_the_tables_follow_the_outcomes(outputs):
    after, before, panel = outputs
    both = ~after.done.correct & ~before.done.correct
    classes, bins = evaluation.classes(*outputs).set_index("class"), evaluation.bins(after, before)
    minutes = evaluation.minutes(*outputs).set_index(["reading", "multiple"])
    each = evaluation.by_evaluator(*outputs).set_index(["pool", "evaluator"])
    for end, side in (("", after), ("_before", before)):
        done = side.done
        for kind in range(3):
            here = panel.given.kind == kind
            wanted = {"main_right": done.rule_right[here].mean(), "pass_rate": done.pass_rate[here].mean()}
            wanted |= {"approval": side.approved[:, here].mean(), "line": done.line[here].mean()}
            assert {name: classes[name + end][kind] for name in wanted} == pytest.approx(wanted)
        for k, n in enumerate(bins[f"n{end}"]):
            here = both & (np.digitize(done.pass_rate + 1e-9, approval.PASS_RATES) == k)
            assert n == here.sum() and (n == 0 or bins[f"fpr{end}"][k] == pytest.approx(side.approved[:, here].mean()))
        for reading in (True, False):
            wanted = panel.with_time(done, 4, reading)[:, both].mean()
            assert minutes[f"fpr{end}"][reading, 4] == pytest.approx(wanted)
        votes = panel.approve(done, 35)[7]
        wanted = [votes[~done.correct].mean(), votes[done.correct].mean()]
        assert each.loc[(35, 7), [f"fpr{end}", f"tpr{end}"]].tolist() == pytest.approx(wanted)
    assert (minutes["gap"] == minutes["fpr"] - minutes["fpr_before"]).all()
    shown = evaluation.shown(*outputs)
    for _, rows in shown.groupby("problem"):
        reward, own, oracle = (
            list(rows.loc[rows["audience"] == who, "x"]) for who in ("reward", "evaluator", "oracle")
        )
        assert (len(reward), len(oracle)) == (2, 34) and 1 <= len(own) <= 4 and not {*reward} & {*own}
    assert (shown["passed"] == (shown["output"] == shown["expected"])).all()
    for row in shown[shown["audience"] == "oracle"].itertuples():
        i, test = row.problem, world.index(row.x)
        assert row.expected == panel.given.truth[i, test]
        assert (row.passed, row.passed_before) == (after.done.passes[i, test], before.done.passes[i, test])
    assert evaluation.on_the_way(after, before, panel)["fpr_both"] == pytest.approx(after.approved[:, both].mean())


def test_filters_show_what_they_pick(outputs):
    """Six problems with four samples each, and the chances of pairs of the shown and an unfiltered sample."""
    after, _, panel = outputs
    done, approved = after.done[:24], after.approved[:, :24]
    rewards = {"r_train": done.passed(panel.tests[:24]).reshape(6, 4), "r_star": done.correct.reshape(6, 4)}
    table = evaluation.filtered(done, approved, rewards, np.array([2, 2, 2, 0, 1, 0])).set_index("rule")
    assert list(table.index) == ["base", *(f"best_of_{n}{s}" for s in ("", "_r_star") for n in (4, 16))]
    votes, wrong = approved.mean(0).reshape(6, 4), ~rewards["r_star"]
    for rule, weights in {"base": np.full((6, 4), 0.25), "best_of_4": evaluation.picked(rewards["r_train"], 4)}.items():
        pairs = np.einsum("pi,pj->pij", weights * wrong, wrong / 4)
        wanted = [pairs.sum(), (pairs * votes[:, :, None]).sum() / pairs.sum()]
        wanted += [(pairs * votes[:, None]).sum() / pairs.sum(), (weights * rewards["r_train"]).sum() / 6]
        assert table.loc[rule, ["n_both", "fpr_both", "fpr_both_before", "r_train"]].tolist() == pytest.approx(wanted)
        line = (weights * done.line.reshape(6, 4)).sum(1)[:3].mean()
        assert table["line"][rule] == pytest.approx(line) and 0 < line < 1
        assert table.loc[rule, "error_before"] == table.loc["base", "error"]
    problem = np.repeat(np.arange(6), 4)
    slopes = evaluation.slopes(done, approved, rewards, problem).set_index(["reward", "quantity"])
    wanted = approval.slopes(approved * ~done.correct, done.correct, rewards["r_train"].ravel(), problem)["approval"]
    assert slopes.covariance["r_train", "fpr"] == pytest.approx(wanted) != slopes.slope["r_train", "fpr"]
